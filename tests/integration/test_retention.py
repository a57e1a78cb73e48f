"""How long the sound of calls is kept, what a legal hold does, and how it is listened to: files, records and command line."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from engines import NUMBER, PLAN, START, Clock, ordered
from histories import consented, ended, happen, started

from gateway.consent import events as ev
from gateway.consent.order import OrderRequest, Policy
from gateway.consent.record import Record
from gateway.demo.orders import sample_order
from gateway.engine import Engine
from gateway.ledger.sealing import recording_key
from gateway.retention import Archive, NotHere, OnHold, Recorded, retention_of
from gateway.secret_files import code_secret, keyring
from gateway.settings import Settings, load_settings
from gateway.store.database import Database
from gateway.telephony.errors import BadRecording
from gateway.telephony.recording_format import path_of
from gateway.telephony.vault import Writer, read_recording

RATE = 8000
DAYS = {"agreement": 1000, "refusal": 100, "other": 10}
OUTCOMES = {
    "confirmed": "agreement", "refused": "refusal", "withdrawn": "refusal", "frozen": "refusal", "unclear": "other",
    "ordered": "open", "challenged": "open",
}  # fmt: skip


def sound(seconds: float) -> bytes:
    return np.random.default_rng(5).integers(-9000, 9000, int(seconds * RATE) * 2).astype("<i2").tobytes()


@dataclass
class Place:
    """A gateway's ledger and its recordings."""

    settings: Settings
    config: Path
    engine: Engine
    archive: Archive
    clock: Clock

    @property
    def folder(self) -> Path:
        return self.settings.data_dir / "recordings"

    def file(self, call_id: str) -> Path:
        return path_of(self.folder, call_id)

    async def kept(self, record: Record, call_id: str, seconds: float) -> ev.RecordingKept:
        """Record *call_id*, sealed as the gateway seals it; the event that tells of it."""
        key = recording_key(await self.engine.record_key(record.order.order_id), call_id)
        path, samples = self.file(call_id), sound(seconds)
        path.touch(mode=0o600)
        writer = Writer(path, key, call_id, RATE)
        marks = writer.put(samples)
        sha256, last = writer.finish()
        trace = self.settings.data_dir / "traces" / f"{call_id}.jsonl"
        trace.write_text("{}")
        return ev.RecordingKept(
            call_id=call_id, sha256=sha256, duration_ms=len(samples) // 4 * 1000 // RATE, rate=RATE,
            blocks=tuple(mark.sha256.hex() for mark in (*marks, *last)),
        )  # fmt: skip

    async def call(self, outcome: str, call_id: str = "call-1", *, seconds: float = 2.5, gateway: str = "g1") -> Record:
        """An order whose only call is recorded, with what came of it."""
        engine, request = self.engine, sample_order(NUMBER, self.clock().date(), call="inbound")
        record = await engine.create(OrderRequest.model_validate(request), "billing", PLAN)
        order_id = record.order.order_id

        def events() -> Iterator[ev.Event]:
            if outcome in ("confirmed", "challenged"):
                yield from consented(record, call_id)
                return
            yield started(call_id, gateway)
            if outcome in ("refused", "unclear"):
                yield ev.ConsentDenied(call_id=call_id, denial=outcome, step="consent")  # type: ignore[arg-type]

        await happen(engine, record, events())
        long_enough = 65 if outcome in ("confirmed", "challenged") else seconds
        await engine.append(order_id, await self.kept(record, call_id, long_enough))
        record = await engine.append(order_id, ended(call_id, "hung_up" if outcome == "ordered" else "completed"))
        if outcome == "confirmed":
            await engine.take_message("http", f"reply-{order_id}", NUMBER, engine.code(record))
        elif outcome == "withdrawn":
            await engine.append(order_id, ev.OrderWithdrawn(source="api", reason="changed his mind"))
        elif outcome == "frozen":
            await engine.append(order_id, ev.OrderFrozen(source="quality", reason="doubted"))
        record = await engine.record(order_id)
        assert outcome == record.state
        return record

    async def told(self, record: Record, kind: str) -> list[ev.Event]:
        return [e.event for e in await self.engine.entries(record.order.order_id) if e.event.type == kind]

    async def cli(self, *arguments: str) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.cli", *arguments, "--config", str(self.config),
            env={**os.environ, "COLUMNS": "240"}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        async with asyncio.timeout(120):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def place(tmp_path: Path, dsn: str, database: Database, clock: Clock) -> Place:
    config = tmp_path / "gateway.toml"
    config.write_text(
        f"""
        data_dir = "{tmp_path}/data"
        gateway = "g1"
        [database]
        dsn = "{dsn}"
        [ledger]
        secret = "of the ledger, of thirty-two octets"
        [sms]
        code_secret = "of the codes, of thirty-two octets"
        [recordings]
        agreement_days = {DAYS["agreement"]}
        refusal_days = {DAYS["refusal"]}
        other_days = {DAYS["other"]}
        """
    )
    settings = load_settings(config)
    for name in ("recordings", "traces"):
        (settings.data_dir / name).mkdir(parents=True)
    engine = Engine(
        database, policy=Policy(), secret=code_secret(settings), keyring=keyring(settings), gateway="g1", now=clock
    )
    return Place(settings, config, engine, Archive(engine, settings, clock), clock)


async def one_of(place: Place, record: Record) -> Recorded:
    [one] = await place.archive.of_order(record.order.order_id)
    return one


class TestHowLong:
    @pytest.mark.parametrize(("outcome", "retention"), OUTCOMES.items())
    async def test_it_depends_on_what_came_of_the_order(self, place: Place, outcome: str, retention: str) -> None:
        record = await place.call(outcome)
        one = await one_of(place, record)
        until = START + timedelta(days=DAYS[retention]) if retention in DAYS else None
        assert (retention, until, retention_of(record)) == (
            one.retention, one.until and one.until.replace(microsecond=0), retention,
        )  # fmt: skip

    async def test_one_that_was_confirmed_and_then_frozen_is_still_of_an_agreement(self, place: Place) -> None:
        record = await place.call("confirmed")
        record = await place.engine.append(record.order.order_id, ev.OrderFrozen(source="quality", reason="doubted"))
        assert ("frozen", "agreement") == (record.state, retention_of(record))

    @pytest.mark.parametrize("outcome", ["confirmed", "refused", "unclear"])
    async def test_it_is_deleted_when_its_time_is_over_and_not_before(self, place: Place, outcome: str) -> None:
        record = await place.call(outcome)
        days = DAYS[OUTCOMES[outcome]]
        place.clock.forward(days=days, seconds=-1)
        assert ([], True) == (await place.archive.purge(), place.file("call-1").exists())
        place.clock.forward(seconds=2)
        [gone] = await place.archive.purge()
        assert ("call-1", False) == (gone.call_id, place.file("call-1").exists())
        assert [
            ev.RecordingDeleted(call_id="call-1", retention=OUTCOMES[outcome], reason="its time of keeping is over")
        ] == await place.told(record, "recording.deleted")

    async def test_its_trace_goes_with_it(self, place: Place) -> None:
        await place.call("refused")
        place.clock.forward(days=101)
        await place.archive.purge()
        assert [] == list(place.settings.data_dir.rglob("call-1*"))

    async def test_what_is_gone_is_not_deleted_again(self, place: Place) -> None:
        record = await place.call("refused")
        place.clock.forward(days=101)
        await place.archive.purge()
        assert [] == await place.archive.purge()
        assert 1 == len(await place.told(record, "recording.deleted"))

    @pytest.mark.parametrize("outcome", ["ordered", "challenged"])
    async def test_while_the_order_is_open_nothing_is_deleted(self, place: Place, outcome: str) -> None:
        await place.call(outcome)
        place.clock.forward(days=10_000)
        assert [] == await place.archive.purge()

    async def test_0_days_are_for_ever(self, place: Place) -> None:
        for number, outcome in enumerate(("confirmed", "refused", "unclear")):
            await place.call(outcome, f"call-{number}")
        never = place.settings.recordings.model_copy(update={"agreement_days": 0, "refusal_days": 0, "other_days": 0})
        place.clock.forward(days=100_000)
        archive = Archive(place.engine, place.settings.model_copy(update={"recordings": never}), place.clock)
        assert [] == await archive.purge()
        assert {None} == {one.until for one in await archive.newest(10)}

    async def test_many_are_looked_at_in_batches(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.retention.BATCH", 2)
        for number in range(5):
            await place.call("unclear", f"call-{number}")
        place.clock.forward(days=11)
        assert {f"call-{number}" for number in range(5)} == {one.call_id for one in await place.archive.purge()}

    async def test_that_of_another_gateway_is_left_to_it(self, place: Place) -> None:
        record = await place.call("refused", gateway="g2")
        place.file("call-1").unlink()
        place.clock.forward(days=101)
        assert ([], []) == (await place.archive.purge(), await place.told(record, "recording.deleted"))

    async def test_a_file_that_was_not_there_any_more_is_told_so(self, place: Place) -> None:
        record = await place.call("refused")
        place.file("call-1").unlink()
        place.clock.forward(days=101)
        await place.archive.purge()
        [deleted] = await place.told(record, "recording.deleted")
        assert "its time of keeping is over; its file was not there" == deleted.reason  # type: ignore[union-attr]

    async def test_what_a_recording_that_failed_left_goes_too(self, place: Place) -> None:
        record = await ordered(place.engine)
        failed = ev.RecordingFailed(call_id="call-1", reason="No space left on device")
        denied = ev.ConsentDenied(call_id="call-1", denial="unclear", step="consent")
        await happen(place.engine, record, iter([started(), denied, failed, ended()]))
        place.file("call-1").write_bytes(b"what there was room for")
        place.clock.forward(days=11)
        [gone] = await place.archive.purge()
        assert ("", False) == (gone.sha256, place.file("call-1").exists())

    async def test_one_that_cannot_be_deleted_holds_up_no_other(self, place: Place) -> None:
        stuck, other = await place.call("unclear"), await place.call("unclear", "call-2")
        place.file("call-1").unlink()
        place.file("call-1").mkdir()
        place.clock.forward(days=11)
        assert ["call-2"] == [one.call_id for one in await place.archive.purge()]
        assert (0, 1) == (
            len(await place.told(stuck, "recording.deleted")), len(await place.told(other, "recording.deleted")),
        )  # fmt: skip
        place.file("call-1").rmdir()
        assert ["call-1"] == [one.call_id for one in await place.archive.purge()]

    async def test_the_gateway_does_it_by_itself(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.retention.FIRST_S", 0.0)
        await place.call("refused")
        place.clock.forward(days=101)
        cleaning = asyncio.create_task(place.archive.keep_clean())
        async with asyncio.timeout(60):
            while place.file("call-1").exists():  # noqa: ASYNC110 - what is waited for is a file
                await asyncio.sleep(0.01)
        cleaning.cancel()

    async def test_it_goes_on_after_a_failure(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.retention.FIRST_S", 0.0)
        monkeypatch.setattr("gateway.retention.AGAIN_S", 0.0)
        await place.call("refused")
        place.clock.forward(days=101)
        due, failures = place.archive.due, iter([OSError("the database is away")])

        async def unsteady() -> list[Recorded]:
            for failure in failures:
                raise failure
            return await due()

        monkeypatch.setattr(place.archive, "due", unsteady)
        cleaning = asyncio.create_task(place.archive.keep_clean())
        async with asyncio.timeout(60):
            while place.file("call-1").exists():  # noqa: ASYNC110 - the same
                await asyncio.sleep(0.01)
        cleaning.cancel()


class TestLegalHold:
    async def test_it_overrides_time(self, place: Place) -> None:
        record = await place.call("refused")
        await place.archive.hold(record.order.order_id, "counsel", "case 17")
        place.clock.forward(days=10_000)
        assert ([], True) == (await place.archive.purge(), place.file("call-1").exists())

    async def test_when_it_is_released_time_counts_again(self, place: Place) -> None:
        record = await place.call("refused")
        await place.archive.hold(record.order.order_id, "counsel", "case 17")
        place.clock.forward(days=101)
        await place.archive.release(record.order.order_id, "counsel", "case 17 is closed")
        assert ["call-1"] == [one.call_id for one in await place.archive.purge()]

    async def test_it_overrides_erasure(self, place: Place) -> None:
        record = await place.call("refused")
        await place.archive.hold(record.order.order_id, "counsel", "case 17")
        with pytest.raises(OnHold, match="is on hold: release it first"):
            await place.archive.delete_order(record.order.order_id, "the person asked")
        assert (True, []) == (place.file("call-1").exists(), await place.told(record, "recording.deleted"))

    async def test_one_that_comes_between_looking_and_deleting_still_saves_it(self, place: Place) -> None:
        record = await place.call("refused")
        place.clock.forward(days=101)
        [due] = await place.archive.due()
        await place.archive.hold(record.order.order_id, "counsel", "case 17")
        with pytest.raises(OnHold):
            await place.archive._delete(due, due.retention, "its time of keeping is over", due=True)
        assert (True, []) == (place.file("call-1").exists(), await place.told(record, "recording.deleted"))

    async def test_an_order_that_went_on_meanwhile_is_not_deleted_by_what_it_was(self, place: Place) -> None:
        record = await place.call("refused")
        place.clock.forward(days=101)
        [due] = await place.archive.due()
        with pytest.raises(OnHold):
            await place.archive._delete(replace(due, retention="other"), "other", "its time is over", due=True)
        assert (True, []) == (place.file("call-1").exists(), await place.told(record, "recording.deleted"))

    async def test_a_second_one_is_refused_for_the_first_release_would_end_both(self, place: Place) -> None:
        record = await place.call("refused")
        await place.archive.hold(record.order.order_id, "counsel", "case 17")
        with pytest.raises(OnHold, match="is on hold already, by counsel: case 17"):
            await place.archive.hold(record.order.order_id, "another", "case 18")

    async def test_what_is_not_held_is_not_released(self, place: Place) -> None:
        record = await place.call("refused")
        with pytest.raises(OnHold, match="is not on hold"):
            await place.archive.release(record.order.order_id, "counsel", "case 17")


class TestErasing:
    async def test_everything_that_was_recorded_goes(self, place: Place) -> None:
        record = await place.call("confirmed")
        await place.archive.delete_order(record.order.order_id, "the person asked")
        assert [
            ev.RecordingDeleted(call_id="call-1", retention="erased", reason="the person asked")
        ] == await place.told(record, "recording.deleted")
        assert [] == list(place.settings.data_dir.rglob("call-1*"))

    async def test_what_was_erased_is_looked_at_no_more(self, place: Place) -> None:
        record = await place.call("refused")
        await place.engine.erase(record.order.order_id, by="dpo", reason="the person asked")
        place.clock.forward(days=101)
        assert ([], []) == (await place.archive.due(), await place.archive.newest(10))


class TestListening:
    async def listen(self, place: Place, record: Record, file: Path, **options: bool) -> int:
        one = await place.archive.find(record.order.order_id)
        return await place.archive.export(one, file, by="reviewer", purpose="complaint 9", **options)

    async def key(self, place: Place, record: Record) -> bytes:
        return recording_key(await place.engine.record_key(record.order.order_id), "call-1")

    async def test_the_wav_is_that_whose_hash_is_in_the_record(self, place: Place, tmp_path: Path) -> None:
        record = await place.call("refused", seconds=12.5)
        assert 12_500 == await self.listen(place, record, tmp_path / "a.wav")
        [kept] = await place.told(record, "recording.kept")
        data = (tmp_path / "a.wav").read_bytes()
        assert kept.sha256 == hashlib.sha256(data).hexdigest()  # type: ignore[union-attr]
        assert 0o600 == stat.S_IMODE((tmp_path / "a.wav").stat().st_mode)

    async def test_it_is_in_the_record(self, place: Place, tmp_path: Path) -> None:
        record = await place.call("refused")
        await self.listen(place, record, tmp_path / "a.wav")
        assert [ev.RecordingListened(call_id="call-1", by="reviewer", purpose="complaint 9")] == await place.told(
            record, "recording.listened"
        )

    async def test_it_is_there_before_a_single_sample_is_written(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = await place.call("refused")
        append, before = place.engine.append, []

        async def watched(order_id: str, event: ev.Event) -> Record:
            before.append((event.type, (tmp_path / "a.wav").stat().st_size))
            return await append(order_id, event)

        monkeypatch.setattr(place.engine, "append", watched)
        await self.listen(place, record, tmp_path / "a.wav")
        assert [("recording.listened", 0)] == before

    async def test_where_that_cannot_be_written_nobody_listens(
        self, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record = await place.call("refused")

        async def away(*_: object) -> Record:
            raise OSError("the database is away")

        monkeypatch.setattr(place.engine, "append", away)
        with pytest.raises(OSError, match="away"):
            await self.listen(place, record, tmp_path / "a.wav")
        assert not (tmp_path / "a.wav").exists()

    async def test_a_file_that_is_there_is_not_written_over(self, place: Place, tmp_path: Path) -> None:
        record = await place.call("refused")
        (tmp_path / "a.wav").write_bytes(b"mine")
        with pytest.raises(FileExistsError):
            await self.listen(place, record, tmp_path / "a.wav")
        assert (b"mine", []) == ((tmp_path / "a.wav").read_bytes(), await place.told(record, "recording.listened"))

    @pytest.mark.parametrize(
        ("octets", "words"),
        [
            (22 + 32_028 * 22, "is not what it was after 20 s"),
            (22 + 32_028 * 20, "ends after 20.0 s, before its end"),
            (22 + 32_028 * 21 + 77, "second 22 of the recording of call-1 is torn"),
        ],
    )
    async def test_a_cut_one_is_refused_and_its_prefix_is_proven_by_its_blocks(
        self, place: Place, tmp_path: Path, octets: int, words: str
    ) -> None:
        record = await place.call("refused", seconds=25)
        whole = read_recording(place.file("call-1"), await self.key(place, record))
        os.truncate(place.file("call-1"), octets)
        with pytest.raises(BadRecording, match=re.escape(words)):
            await self.listen(place, record, tmp_path / "a.wav")
        assert not (tmp_path / "a.wav").exists()
        assert 20_000 == await self.listen(place, record, tmp_path / "a.wav", prefix=True)
        data = (tmp_path / "a.wav").read_bytes()
        assert (len(data) - 8, whole[44 : 44 + 20 * 32_000]) == (int.from_bytes(data[4:8], "little"), data[44:])

    async def test_of_a_damaged_one_what_lies_before_is_proven(self, place: Place, tmp_path: Path) -> None:
        record = await place.call("refused", seconds=25)
        with place.file("call-1").open("r+b") as file:
            file.seek(22 + 32_028 * 13)
            file.write(bytes(12))
        assert 10_000 == await self.listen(place, record, tmp_path / "a.wav", prefix=True)

    async def test_another_recording_in_its_place_is_not_it(self, place: Place, tmp_path: Path) -> None:
        """Even when whoever put it there had the key."""
        record = await place.call("refused", seconds=25)
        place.file("call-1").unlink()
        await place.kept(record, "call-1", 24)
        with pytest.raises(BadRecording, match="is not what it was after 20 s"):
            await self.listen(place, record, tmp_path / "a.wav")
        place.file("call-1").unlink()
        await place.kept(record, "call-1", 20)
        with pytest.raises(BadRecording, match=r"ends after 20\.0 s"):
            await self.listen(place, record, tmp_path / "a.wav")

    async def test_the_call_is_chosen_by_its_number_else_it_is_the_last_that_was_kept(self, place: Place) -> None:
        record = await place.call("ordered")
        order_id = record.order.order_id
        failed = ev.RecordingFailed(call_id="call-3", reason="No space left on device")
        events = [started("call-2"), await place.kept(record, "call-2", 1.0), ended("call-2", "hung_up")]
        await happen(place.engine, record, iter([*events, started("call-3"), failed, ended("call-3", "hung_up")]))
        found = [(await place.archive.find(order_id, number)).call_id for number in (None, 1, 2)]
        assert ["call-2", "call-1", "call-2"] == found
        with pytest.raises(NotHere, match="the recording of call call-3 failed"):
            await place.archive.find(order_id, 3)
        with pytest.raises(NotHere, match="has no recorded call 4; it has 3 recorded calls"):
            await place.archive.find(order_id, 4)

    async def test_one_that_is_not_here_is_said_where_it_is(self, place: Place) -> None:
        record = await place.call("refused", gateway="g2")
        place.file("call-1").unlink()
        with pytest.raises(NotHere, match=r"call-1\.rec is not there; gateway g2 ran the call: ask on its machine"):
            await place.archive.find(record.order.order_id)

    async def test_one_that_was_deleted_is_said_so(self, place: Place) -> None:
        record = await place.call("refused")
        await place.archive.delete_order(record.order.order_id, "the person asked")
        with pytest.raises(NotHere, match="was deleted; record show says when and why"):
            await place.archive.find(record.order.order_id)

    async def test_an_order_without_a_recording_has_none(self, place: Place) -> None:
        record = await ordered(place.engine)
        with pytest.raises(NotHere, match="no call whose recording was kept; it has 0 recorded calls"):
            await place.archive.find(record.order.order_id)


class TestTheCommandLine:
    async def test_it_lists_exports_holds_and_purges(self, place: Place, tmp_path: Path) -> None:
        """The clock of a command is the real one: what was recorded lies long ago, or has just been."""
        place.clock.time = datetime.now(UTC)
        agreed = await place.call("confirmed")
        place.clock.time = datetime.now(UTC) - timedelta(days=200)
        refused, other = await place.call("refused", "call-2"), await place.call("unclear", "call-3")
        order, wav = refused.order.order_id[:8], tmp_path / "a.wav"

        code, listed, err = await place.cli("recording", "list", "--json")
        rows = {row["order_id"]: (row["class"], row["file"], row["hold"]) for row in json.loads(listed)}
        assert (0, "") == (code, err)
        assert {
            agreed.order.order_id: ("agreement", "here", ""), refused.order.order_id: ("refusal", "here", ""),
            other.order.order_id: ("other", "here", ""),
        } == rows  # fmt: skip

        code, told, err = await place.cli(
            "recording", "export", order, "-o", str(wav), "--by", "reviewer", "--purpose", "complaint 9"
        )
        assert (0, f"{wav}: 2.5 s\n", "") == (code, told, err)
        [kept] = await place.told(refused, "recording.kept")
        assert kept.sha256 == hashlib.sha256(wav.read_bytes()).hexdigest()  # type: ignore[union-attr]
        again = await place.cli("recording", "export", order, "-o", str(wav), "--by", "x", "--purpose", "y")
        assert (1, "", f"✗ {wav}: is there already; name another file\n") == again

        code, told, _ = await place.cli("recording", "hold", order, "--reason", "case 17", "--by", "counsel")
        assert (0, f"order {refused.order.order_id} is on hold\n") == (code, told)
        code, told, _ = await place.cli("recording", "purge", "--dry-run", "--json")
        assert (0, ["call-3"]) == (code, [row["call_id"] for row in json.loads(told)])
        assert place.file("call-3").exists()
        code, told, _ = await place.cli("recording", "purge")
        assert (0, "1 were deleted") == (code, told.splitlines()[-1])
        assert (True, True, False) == tuple(place.file(f"call-{number}").exists() for number in (1, 2, 3))

        code, _, _ = await place.cli("recording", "release", order, "--reason", "closed", "--by", "counsel")
        code, told, _ = await place.cli("recording", "purge")
        assert (0, "1 were deleted", False) == (code, told.splitlines()[-1], place.file("call-2").exists())
        code, told, err = await place.cli(
            "recording", "export", order, "-o", str(tmp_path / "b.wav"), "--by", "x", "--purpose", "y"
        )
        assert (1, "") == (code, told)
        assert err.endswith("was deleted; record show says when and why\n")

    async def test_a_record_that_is_shown_says_how_to_listen_and_no_path(self, place: Place) -> None:
        record = await place.call("refused")
        order = record.order.order_id[:8]
        code, told, _ = await place.cli("record", "show", order)
        assert 0 == code
        assert f"recording: consent-gateway recording export {order} -o call.wav --by NAME --purpose TEXT" in told
        assert str(place.folder) not in told

    @pytest.mark.parametrize("missing", ["--by", "--purpose"])
    async def test_nobody_listens_without_saying_who_and_what_for(
        self, place: Place, tmp_path: Path, missing: str
    ) -> None:
        record = await place.call("refused")
        said = {"--by": "reviewer", "--purpose": "complaint 9"}
        wav = tmp_path / "a.wav"
        base = ("recording", "export", record.order.order_id, "-o", str(wav))
        without = [part for name, value in said.items() if name != missing for part in (name, value)]
        empty = [part for name, value in said.items() for part in (name, " " if name == missing else value)]
        for arguments in (without, empty):
            code, _, err = await place.cli(*base, *arguments)
            assert (True, True, False) == (code != 0, missing in err, wav.exists())
        assert [] == await place.told(record, "recording.listened")

"""Forgetting a person: afterwards nobody can read anything of them, everywhere, and the ledger holds as before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest
from api_server import KEYS, serving
from billing_bench import far_end
from bundles import library, members_of
from commands import Done, command, process
from engines import KEYRING, NUMBER, OTHER, SECRET, Clock, engine_on, ordered, wrong
from histories import ended, good_call, happen, kept, started

from gateway.consent import events as ev
from gateway.consent.record import Record
from gateway.deliveries import JOB, Deliveries
from gateway.engine import LONGEST_CALL, Engine, Inbound
from gateway.evidence import verify_evidence
from gateway.evidence.bundle import Exporter
from gateway.ledger import merkle, note
from gateway.ledger_audit import audit
from gateway.notary import Notary
from gateway.provisioning.delivery import Endpoint, Poster
from gateway.provisioning.guard import Guard
from gateway.provisioning.signature import Signer
from gateway.retention import Archive
from gateway.settings import Settings, load_settings
from gateway.settings_sections import Ledger
from gateway.store import tree
from gateway.store.database import Database
from gateway.store.errors import ErasedRecord, NotErasable
from gateway.store.jobs import Job
from gateway.telephony.recording_format import path_of

ORIGIN = "consent-gateway/ledger"
VERIFIER = note.verifier_of(KEYRING.signer, ORIGIN)
WHY = {"by": "dpo", "reason": "asked for it"}


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Place:
    """A gateway's ledger, its disk, and its billing system."""

    engine: Engine
    owner: asyncpg.Connection
    settings: Settings
    config: Path
    sender: Deliveries

    async def called(self, number: str = NUMBER) -> Record:
        """An order whose call has left a recording and a trace on the disk: it is challenged."""
        record = await ordered(self.engine, number)
        call_id = f"call-{record.order.order_id[:8]}"
        record = await happen(self.engine, record, good_call(record, call_id))
        for file in self.files(record):
            file.write_text(f"INVITE sip:{number}@192.0.2.1")
        return record

    async def confirmed(self, number: str = NUMBER) -> Record:
        """After a wrong code and the right one."""
        record = await self.called(number)
        for code in (wrong(self.engine.code(record)), self.engine.code(record)):
            await self.engine.take_message("http", str(uuid4()), number, code)
        return await self.engine.record(record.order.order_id)

    async def provisioned(self, number: str = NUMBER) -> Record:
        """And billing was told."""
        record = await self.confirmed(number)
        while pending := await self.owner.fetch("SELECT webhook_id FROM consent.deliveries WHERE state = 'pending'"):
            for row in pending:
                job = Job(1, JOB, {"webhook_id": str(row["webhook_id"]), "schedule": 0}, 1, uuid4())
                await self.sender.attempt(job)
        record = await self.engine.record(record.order.order_id)
        assert "provisioned" == record.state
        return record

    async def erased(self, number: str = NUMBER) -> Record:
        record = await self.provisioned(number)
        await self.erase(record)
        return record

    async def erase(self, record: Record) -> None:
        await self.engine.erase(record.order.order_id, **WHY)

    def files(self, record: Record) -> list[Path]:
        call_id, folder = f"call-{record.order.order_id[:8]}", self.settings.data_dir
        return [path_of(folder / "recordings", call_id), folder / "traces" / f"{call_id}.jsonl"]

    async def sign(self) -> tree.Signed:
        signed = await Notary(self.engine.database, KEYRING, Ledger(), utc_now).bring_up_to_date()
        assert signed is not None
        return signed

    async def tables_with(self, text: str) -> list[str]:
        """The tables of our schema in which *text* stands anywhere, as it is or as octets."""
        tables = await self.owner.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'consent' ORDER BY tablename"
        )
        assert len(tables) > 20
        return [
            row["tablename"]
            for row in tables
            if await self.owner.fetchval(
                f"SELECT EXISTS (SELECT FROM consent.{row['tablename']} AS t WHERE t::text LIKE $1 OR t::text LIKE $2)",
                f"%{text}%", f"%{text.encode().hex()}%",
            )
        ]  # fmt: skip

    async def cli(self, *arguments: str, answer: str = "") -> Done:
        return await command(self.config, *arguments, answer=answer)

    async def cli_erase(self, record: Record, *more: str) -> Done:
        return await self.cli(
            "record", "erase", record.order.order_id, "--by", "dpo", "--reason", "asked", "--yes", *more
        )


@pytest.fixture
def config(dsn: str, tmp_path: Path) -> Path:
    file = tmp_path / "gateway.toml"
    file.write_text(
        f"""\
data_dir = "{tmp_path}/data"
gateway = "g1"
[database]
dsn = "{dsn}"
[ledger]
secret = "{"k" * 32}"
[sms]
code_secret = "{SECRET.decode()}"
"""
    )
    for name in ("recordings", "traces"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return file


@pytest.fixture
async def place(engine: Engine, owner: asyncpg.Connection, config: Path) -> AsyncIterator[Place]:
    async with far_end() as billing, Poster(Guard(["127.0.0.0/8"])) as poster:
        endpoints = {("billing", "main"): Endpoint(billing.url, Signer(b"w" * 32))}
        sender = Deliveries(engine, endpoints, poster, now=utc_now, random=lambda: 0.0)
        yield Place(engine, owner, load_settings(config), config, sender)


class TestNothingIsLeft:
    async def test_in_no_table_stands_the_number_any_more(self, place: Place) -> None:
        """Neither in a message that came before there was an order, nor in what a job had to complain about."""
        digits = NUMBER[1:]
        assert "unknown_number" == (await place.engine.take_message("http", "early", NUMBER, "hello")).result
        record = await place.provisioned()
        await place.engine.take_message("http", "late", NUMBER, "123456")
        await place.owner.execute(
            "UPDATE consent.jobs SET error = $1 WHERE kind = 'send_sms'", f"480 from sip:{NUMBER}@pbx"
        )
        assert ["inbound_messages", "jobs", "orders"] == await place.tables_with(digits)
        await place.erase(record)
        assert [] == await place.tables_with(digits)

    async def test_but_who_is_not_to_be_called_is_not_called(self, place: Place) -> None:
        record = await place.called()
        await place.engine.append(
            record.order.order_id, ev.ConsentDenied(call_id="another", denial="stop", step="consent")
        )
        assert "refused" == (await place.engine.record(record.order.order_id)).state
        await place.erase(record)
        assert ["do_not_call"] == await place.tables_with(NUMBER[1:])

    async def test_other_people_keep_theirs(self, place: Place) -> None:
        other = await place.provisioned(OTHER)
        await place.engine.take_message("http", "strange", OTHER, "hello")
        await place.erased()
        assert ["inbound_messages", "orders"] == await place.tables_with(OTHER[1:])
        assert "provisioned" == (await place.engine.record(other.order.order_id)).state

    async def test_another_order_of_the_same_person_stays_until_it_is_erased_too(self, place: Place) -> None:
        first, second = await place.provisioned(), await place.provisioned()
        await place.erase(first)
        assert "provisioned" == (await place.engine.record(second.order.order_id)).state
        assert ["inbound_messages", "orders"] == await place.tables_with(NUMBER[1:])
        await place.erase(second)
        assert [] == await place.tables_with(NUMBER[1:])

    async def test_the_gateway_that_ran_the_order_has_forgotten_it(self, place: Place) -> None:
        """It had the end of the record in its memory."""
        record = await place.erased()
        assert record.order.order_id not in place.engine._tails
        await self.nobody_reads(place.engine, record)

    async def test_so_has_another_gateway(self, place: Place, clock: Clock) -> None:
        second = engine_on(place.engine.database, clock, gateway="g2")
        record = await place.provisioned()
        await second.append(record.order.order_id, ev.RecordingListened(call_id="call-1", by="b", purpose="p"))
        assert record.order.order_id in second._tails
        await place.erase(record)
        await self.nobody_reads(second, record)
        assert record.order.order_id not in second._tails

    async def test_one_that_has_nothing_to_do_with_it_any_more_forgets_it_with_its_daily_purge(
        self, place: Place, clock: Clock
    ) -> None:
        second = engine_on(place.engine.database, clock, gateway="g2")
        record, other = await place.provisioned(), await place.provisioned(OTHER)
        for one in (record, other):
            await second.append(one.order.order_id, ev.RecordingListened(call_id="call-1", by="b", purpose="p"))
        await place.erase(record)
        await Archive(second, place.settings, clock).purge()
        assert [other.order.order_id] == list(second._tails)

    async def nobody_reads(self, engine: Engine, record: Record) -> None:
        order_id = record.order.order_id
        noted = ev.RecordingListened(call_id="call-1", by="b", purpose="p")
        for reading in (
            engine.record(order_id), engine.entries(order_id), engine.record_key(order_id), engine.append(order_id, noted),
            engine.check_erasable(order_id), engine.erase(order_id, **WHY),
        ):  # fmt: skip
            with pytest.raises(ErasedRecord, match=f"order {order_id} was erased: its key is destroyed"):
                await reading
        assert await engine.open_order_of(NUMBER) is None
        assert Inbound("unknown_number") == await engine.take_message("http", str(uuid4()), NUMBER, "stop")

    async def test_its_jobs_are_over(self, place: Place) -> None:
        """An hour later the code would have expired, and a message waited to be sent."""
        record = await place.called()
        await place.engine.append(record.order.order_id, ev.OrderWithdrawn(source="api", reason="r"))
        open_jobs = "SELECT count(*) FROM consent.jobs WHERE state <> 'done' AND payload->>'order_id' = $1"
        assert 3 == await place.owner.fetchval(open_jobs, record.order.order_id)
        other = await ordered(place.engine, OTHER)
        await place.erase(record)
        assert 0 == await place.owner.fetchval(open_jobs, record.order.order_id)
        assert 1 == await place.owner.fetchval(open_jobs, other.order.order_id)

    async def test_what_was_posted_cannot_be_read_nor_posted_again(self, place: Place) -> None:
        record = await place.erased()
        [row] = await place.owner.fetch("SELECT * FROM consent.deliveries WHERE kind = 'consent.confirmed'")
        code, out, _ = await place.cli("deliveries", "show", str(row["webhook_id"]), "--json")
        shown = json.loads(out)
        assert (0, None, None) == (code, shown["body"], shown["all_attempts"][0]["answer"])
        code, _, err = await place.cli("deliveries", "replay", str(row["webhook_id"]))
        assert (1, True) == (code, "its person was erased" in err)
        assert record.order.order_id == shown["order_id"]


class TestTheLedgerHolds:
    async def test_it_verifies_as_before(self, place: Place) -> None:
        await place.called(OTHER)
        before = await place.sign()
        record = await place.erased()
        after = await place.sign()
        assert after.size > before.size
        found = await audit(
            place.engine.database, KEYRING, VERIFIER, lambda _done, _total: None, published=[before.note, after.note]
        )
        assert ([], 1, 2) == (found.faults, found.erased, found.checkpoints)
        assert record.order.order_id not in str(found)

    async def test_every_event_of_it_is_still_proven_to_be_in_the_tree(self, place: Place) -> None:
        record = await place.erased()
        signed = await place.sign()
        root = note.parse_checkpoint(note.verify(signed.note, VERIFIER)).root
        rows = await place.owner.fetch(
            "SELECT leaf, hash, type FROM consent.leaves JOIN consent.events USING (order_id, seq) WHERE order_id = $1 ORDER BY seq",
            UUID(record.order.order_id),
        )
        assert ("order.created", "record.erased") == (rows[0]["type"], rows[-1]["type"])
        async with place.engine.database.pool.acquire() as connection:
            for row in rows:
                proof = await tree.inclusion_proof(connection, row["leaf"], signed.size)
                leaf = merkle.leaf_hash(bytes.fromhex(row["hash"]))
                merkle.verify_inclusion(row["leaf"], signed.size, leaf, proof, root)

    async def test_evidence_of_it_is_what_happened_when_and_nothing_more(self, place: Place, tmp_path: Path) -> None:
        record = await place.erased()
        target = tmp_path / "bundle.zip"
        exporter = Exporter(place.engine, library(place.settings.data_dir), utc_now)
        await exporter.export(record.order.order_id, target, by="auditor", purpose="complaint 12")
        bundle = await asyncio.to_thread(target.read_bytes)
        report = verify_evidence.verify(bundle, None)
        assert ("erased", None) == (report.outcome, report.promise)
        for content in members_of(bundle).values():
            assert NUMBER[1:].encode() not in content

    async def test_the_command_line_agrees(self, place: Place) -> None:
        await place.erased()
        code, out, err = await place.cli("ledger", "verify")
        assert (0, "", True) == (code, err, out.rstrip().endswith("1 erased"))


class TestWhatIsRefused:
    async def refused(self, place: Place, record: Record, words: str) -> None:
        events = await place.owner.fetchval("SELECT count(*) FROM consent.events")
        for attempt in (place.erase(record), place.engine.check_erasable(record.order.order_id)):
            with pytest.raises(NotErasable, match=words):
                await attempt
        code, out, err = await place.cli_erase(record)
        assert (1, "", 1) == (code, out, len(err.splitlines()))
        assert events == await place.owner.fetchval("SELECT count(*) FROM consent.events")
        assert [True, True] == [file.exists() for file in place.files(record)]
        assert await place.engine.record(record.order.order_id)

    async def test_under_a_legal_hold(self, place: Place) -> None:
        record = await place.provisioned()
        await place.engine.append(record.order.order_id, ev.HoldPlaced(by="counsel", reason="case 17"))
        await self.refused(place, record, "is under a legal hold; release it first")

    async def test_while_the_order_is_open(self, place: Place) -> None:
        await self.refused(place, await place.called(), "is challenged: withdraw it \\(record withdraw\\) first")

    async def test_between_the_consent_and_its_bill(self, place: Place) -> None:
        await self.refused(
            place, await place.confirmed(), "is confirmed: let billing answer, or freeze it \\(record freeze\\), first"
        )

    async def test_while_a_webhook_of_it_is_under_way(self, place: Place) -> None:
        record = await place.confirmed()
        await place.engine.append(record.order.order_id, ev.OrderFrozen(source="cli", reason="doubted"))
        await self.refused(place, record, "has a webhook under way: let it arrive or die first")

    async def test_while_a_call_is_under_way(self, place: Place, clock: Clock) -> None:
        record = await ordered(place.engine)
        order_id = record.order.order_id
        await place.engine.append(order_id, started("call-9"), ev.OrderWithdrawn(source="api", reason="r"))
        with pytest.raises(NotErasable, match="has a call under way at g1: let it end first"):
            await place.erase(record)
        await place.engine.append(order_id, kept("call-9"), ended("call-9"))
        await place.erase(record)
        with pytest.raises(ErasedRecord):
            await place.engine.record(order_id)

    async def test_a_call_whose_gateway_never_came_back_is_waited_for_no_longer(
        self, place: Place, clock: Clock
    ) -> None:
        record = await ordered(place.engine)
        await place.engine.append(record.order.order_id, started("call-9"), ev.OrderWithdrawn(source="api", reason="r"))
        clock.forward(seconds=(LONGEST_CALL + timedelta(seconds=1)).total_seconds())
        await place.erase(record)
        assert [("call-9", "g1")] == [
            tuple(row) for row in await place.owner.fetch("SELECT call_id, gateway FROM consent.erased_calls")
        ]

    async def test_of_two_at_once_the_second_is_told(self, place: Place) -> None:
        record = await place.provisioned()
        outcomes = await asyncio.gather(*(place.erase(record) for _ in range(3)), return_exceptions=True)
        assert [ErasedRecord, ErasedRecord, type(None)] == sorted(map(type, outcomes), key=lambda kind: kind.__name__)

    async def test_a_hold_and_an_erasure_at_once_never_both_win(self, place: Place) -> None:
        for number in range(6):
            record = await place.provisioned(f"+8210000000{number:02d}")
            order_id = record.order.order_id
            hold = place.engine.append(order_id, ev.HoldPlaced(by="counsel", reason="case 17"))
            both: list[Awaitable[object]] = [hold, place.erase(record)]
            outcomes = await asyncio.gather(*(both if number % 2 else both[::-1]), return_exceptions=True)
            assert 1 == sum(isinstance(one, ErasedRecord | NotErasable) for one in outcomes), outcomes


class TestThePostgresItself:
    """The same, said by the database to whoever comes with raw SQL in the application's role."""

    async def refused(self, place: Place, record: Record, words: str) -> None:
        async with place.engine.database.pool.acquire() as connection:
            with pytest.raises(asyncpg.CheckViolationError, match=words):
                await connection.execute("SELECT consent.erase_record($1)", UUID(record.order.order_id))
        assert await place.engine.record_key(record.order.order_id)

    async def say_erased(self, place: Place, record: Record) -> None:
        await place.engine.append(record.order.order_id, ev.RecordErased(**WHY))

    async def test_a_record_that_does_not_say_so(self, place: Place) -> None:
        await self.refused(place, await place.provisioned(), "does not say that it is erased")

    async def test_a_record_that_said_so_and_went_on(self, place: Place) -> None:
        record = await place.provisioned()
        await self.say_erased(place, record)
        await place.engine.append(record.order.order_id, ev.HoldReleased(by="b", reason="r"))
        await self.refused(place, record, "does not say that it is erased")

    async def test_a_legal_hold(self, place: Place) -> None:
        record = await place.provisioned()
        await place.engine.append(record.order.order_id, ev.HoldPlaced(by="counsel", reason="case 17"))
        await self.say_erased(place, record)
        await self.refused(place, record, "is under a legal hold")

    async def test_a_confirmed_order(self, place: Place) -> None:
        record = await place.confirmed()
        await self.say_erased(place, record)
        await self.refused(place, record, "is confirmed, and has not ended")

    async def test_a_webhook_under_way(self, place: Place) -> None:
        record = await place.confirmed()
        await place.engine.append(record.order.order_id, ev.OrderFrozen(source="cli", reason="doubted"))
        await self.say_erased(place, record)
        await self.refused(place, record, "has a webhook under way")

    async def test_an_order_that_is_not_there(self, place: Place) -> None:
        async with place.engine.database.pool.acquire() as connection:
            with pytest.raises(asyncpg.CheckViolationError, match="does not say that it is erased"):
                await connection.execute("SELECT consent.erase_record($1)", uuid4())


class TestTheDisk:
    async def test_recordings_and_traces_go(self, place: Place) -> None:
        record, other = await place.provisioned(), await place.provisioned(OTHER)
        code, out, err = await place.cli_erase(record)
        assert (0, f"order {record.order.order_id} is erased\n", "") == (code, out, err)
        assert [False, False, True, True] == [file.exists() for one in (record, other) for file in place.files(one)]
        assert 0 == await place.owner.fetchval("SELECT count(*) FROM consent.erased_calls")
        kinds = await place.owner.fetch(
            "SELECT type FROM consent.events WHERE order_id = $1 ORDER BY seq DESC LIMIT 2", UUID(record.order.order_id)
        )
        assert ["record.erased", "recording.deleted"] == [row["type"] for row in kinds]

    async def test_what_lies_with_another_gateway_is_named_and_goes_with_its_next_purge(
        self, place: Place, clock: Clock, tmp_path: Path
    ) -> None:
        record = await place.provisioned()
        file = tmp_path / "elsewhere.toml"
        file.write_text(place.config.read_text().replace('gateway = "g1"', 'gateway = "g2"').replace("/data", "/data2"))
        there = Place(place.engine, place.owner, load_settings(file), file, place.sender)
        code, out, _ = await there.cli_erase(record)
        assert (0, True) == (code, "its files lie with gateway g1, unreadable, and go with its next daily purge" in out)
        assert [True, True] == [one.exists() for one in place.files(record)]
        assert [] == await Archive(place.engine, there.settings, clock).purge()
        assert [True, True] == [one.exists() for one in place.files(record)]
        assert [] == await Archive(place.engine, place.settings, clock).purge()
        assert [False, False] == [one.exists() for one in place.files(record)]
        assert 0 == await place.owner.fetchval("SELECT count(*) FROM consent.erased_calls")

    async def test_the_trace_of_a_call_that_nobody_answered_goes_too(self, place: Place, clock: Clock) -> None:
        record = await ordered(place.engine)
        order_id = record.order.order_id
        await place.engine.append(order_id, started("call-9"), ended("call-9", "no_answer"))
        await place.engine.append(order_id, ev.OrderWithdrawn(source="api", reason="r"))
        trace = place.settings.data_dir / "traces" / "call-9.jsonl"
        await asyncio.to_thread(trace.write_text, f"INVITE sip:{NUMBER}@192.0.2.1")
        code, _, _ = await place.cli_erase(record)
        assert (0, []) == (code, list(place.settings.data_dir.rglob("call-9*")))

    async def test_a_file_that_cannot_be_deleted_stops_it(self, place: Place) -> None:
        record = await place.provisioned()
        [sound, _] = place.files(record)
        await asyncio.to_thread(sound.unlink)
        await asyncio.to_thread(sound.mkdir)
        code, out, err = await place.cli_erase(record)
        assert (1, "", True) == (code, out, str(sound) in err)
        assert "provisioned" == (await place.engine.record(record.order.order_id)).state
        await asyncio.to_thread(sound.rmdir)
        assert 0 == (await place.cli_erase(record))[0]

    async def test_one_that_cannot_be_swept_is_tried_again(self, place: Place, clock: Clock) -> None:
        record = await place.provisioned()
        [sound, _] = place.files(record)
        await asyncio.to_thread(sound.unlink)
        await asyncio.to_thread(sound.mkdir)
        await place.erase(record)
        archive = Archive(place.engine, place.settings, clock)
        assert 0 == await archive.sweep()
        await asyncio.to_thread(sound.rmdir)
        assert (1, 0) == (await archive.sweep(), await archive.sweep())
        assert [] == list(place.settings.data_dir.rglob("call-*"))


class TestTheCommand:
    async def test_the_beginning_of_an_id_will_do(self, place: Place) -> None:
        record = await place.provisioned()
        code, out, _ = await place.cli(
            "record", "erase", record.order.order_id[:8], "--by", "dpo", "--reason", "asked", "--yes"
        )
        assert (0, f"order {record.order.order_id} is erased\n") == (code, out)

    async def test_a_second_time_it_says_so(self, place: Place) -> None:
        record = await place.erased()
        done = await process(
            place.config, "record", "erase", record.order.order_id, "--by", "dpo", "--reason", "asked", "--yes"
        )
        assert (1, "", f"✗ order {record.order.order_id} was erased: its key is destroyed\n") == done

    async def test_it_asks_before(self, place: Place) -> None:
        record = await place.provisioned()
        arguments = ("record", "erase", record.order.order_id, "--by", "dpo", "--reason", "asked")
        code, out, _ = await place.cli(*arguments, answer="n\n")
        assert (1, True) == (code, "Nothing brings it back" in out)
        assert "provisioned" == (await place.engine.record(record.order.order_id)).state
        assert 0 == (await place.cli(*arguments, answer="y\n"))[0]
        with pytest.raises(ErasedRecord):
            await place.engine.record(record.order.order_id)

    @pytest.mark.parametrize("missing", ["--by", "--reason"])
    async def test_who_and_why_must_be_said(self, place: Place, missing: str) -> None:
        record = await place.provisioned()
        said = {"--by": "dpo", "--reason": "asked", missing: " "}
        code, _, err = await place.cli(
            "record", "erase", record.order.order_id, "--yes", *(word for pair in said.items() for word in pair)
        )
        assert (1, True) == (code, "must be said" in err)
        assert "provisioned" == (await place.engine.record(record.order.order_id)).state

    async def test_an_order_that_is_not_there(self, place: Place) -> None:
        code, _, err = await place.cli("record", "erase", "abcdef", "--by", "dpo", "--reason", "asked", "--yes")
        assert (1, "✗ no order begins with abcdef\n") == (code, err)

    async def test_a_hold_is_released_and_then_it_goes(self, place: Place) -> None:
        record = await place.provisioned()
        order_id = record.order.order_id
        assert 0 == (await place.cli("recording", "hold", order_id, "--reason", "case 17"))[0]
        code, _, err = await place.cli_erase(record)
        assert (1, True) == (code, "is under a legal hold; release it first" in err)
        assert 0 == (await place.cli("recording", "release", order_id, "--reason", "settled"))[0]
        assert 0 == (await place.cli_erase(record))[0]


class TestWhatGoesOnBesideIt:
    async def test_the_list_of_orders(self, place: Place) -> None:
        record, other = await place.erased(), await place.provisioned(OTHER)
        code, out, _ = await place.cli("record", "list", "--json")
        rows = {row["order_id"]: (row["number"], row["state"]) for row in json.loads(out)}
        assert (0, (None, "provisioned"), (OTHER, "provisioned")) == (
            code, rows[record.order.order_id], rows[other.order.order_id],
        )  # fmt: skip
        code, out, _ = await place.cli("record", "list")
        assert (0, True) == (code, record.order.order_id[:8] in out)

    async def test_its_record_is_not_shown(self, place: Place) -> None:
        record = await place.erased()
        code, out, err = await place.cli("record", "show", record.order.order_id)
        assert (1, "", f"✗ order {record.order.order_id} was erased: its key is destroyed\n") == (code, out, err)

    async def test_the_api(self, place: Place) -> None:
        record = await place.erased()
        where = f"/v1/orders/{record.order.order_id}"
        async with serving(place.engine.database, data_dir=place.settings.data_dir) as server:
            status, page = await server.send("GET", "/v1/orders")
            assert (200, [(record.order.order_id, None)]) == (
                status, [(row["order_id"], row.get("number")) for row in page["orders"]],
            )  # fmt: skip
            assert (200, []) == (status, (await server.send("GET", f"/v1/orders?number=%2B{NUMBER[1:]}"))[1]["orders"])
            for method, path, body in (
                ("GET", where, None), ("GET", f"{where}/events", None), ("POST", f"{where}/calls", None),
                ("POST", f"{where}/withdraw", {"reason": "asked by letter"}), ("POST", f"{where}/freeze", {"reason": "asked by letter"}),
                ("POST", f"{where}/ack", {"reference": "B-1"}),
            ):  # fmt: skip
                status, problem = await server.send(method, path, body)
                assert (410, True) == (status, "was erased" in problem["title"]), (method, path)
            status, page = await server.send("GET", f"/v1/deliveries?order_id={record.order.order_id}")
            [row] = [row for row in page["deliveries"] if "consent.confirmed" == row["kind"]]
            status, shown = await server.send("GET", f"/v1/deliveries/{row['webhook_id']}")
            assert (200, None, None) == (status, shown["body"], shown["all_attempts"][0]["answer"])
            headers = {"Authorization": f"Bearer {KEYS['billing']}"}
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.get(server.url + where + "/evidence") as got,
            ):
                bundle = await got.read()
            assert (200, "erased") == (got.status, verify_evidence.verify(bundle, None).outcome)

    async def test_reconciliation(self, place: Place, tmp_path: Path) -> None:
        """It was consented to, and billed: that stays true."""
        record = await place.erased()
        bills = tmp_path / "bills.csv"
        bills.write_text(f"order_id\n{record.order.order_id}\n")
        code, out, _ = await place.cli("reconcile", str(bills), "--json")
        assert (0, True) == (code, json.loads(out)["agrees"])
        bills.write_text("order_id\n")
        code, out, _ = await place.cli("reconcile", str(bills), "--json")
        assert (1, [record.order.order_id]) == (
            code, [one["order_id"] for one in json.loads(out)["consent_without_billing"]],
        )  # fmt: skip

    async def test_the_purge_and_the_list_of_recordings(self, place: Place) -> None:
        await place.erased()
        other = await place.provisioned(OTHER)
        code, out, _ = await place.cli("recording", "list", "--json")
        assert (0, [other.order.order_id]) == (code, [row["order_id"] for row in json.loads(out)])
        assert 0 == (await place.cli("recording", "purge"))[0]

    async def test_its_recording_is_not_given(self, place: Place, tmp_path: Path) -> None:
        record = await place.erased()
        code, _, err = await place.cli(
            "recording", "export", record.order.order_id, "-o", str(tmp_path / "a.wav"), "--by", "me", "--purpose", "p"
        )
        assert (1, True, False) == (code, "was erased" in err, (tmp_path / "a.wav").exists())

    async def test_the_doctor(self, place: Place) -> None:
        record = await place.erased()
        code, out, err = await place.cli("doctor", record.order.order_id)
        assert (True, "") == (code != 0, out)
        assert "no call" in err

    async def test_a_gateway_that_starts_anew(self, place: Place) -> None:
        """It closes the calls that it was running when it died, of whoever is left."""
        await place.erased()
        assert [] == await place.engine.lost_calls()

    async def test_a_new_order_of_the_same_number(self, place: Place) -> None:
        await place.erased()
        assert "provisioned" == (await place.provisioned()).state


async def test_a_database_that_goes_away_in_between_erases_nothing(database: Database, clock: Clock) -> None:
    """All of it is one transaction."""
    engine = engine_on(database, clock)
    record = await ordered(engine)
    await engine.append(record.order.order_id, ev.OrderWithdrawn(source="api", reason="r"))

    def die(where: str) -> None:
        if where == "before commit":
            raise ConnectionError("the database went away")

    database.boundary = die
    with pytest.raises(ConnectionError):
        await engine.erase(record.order.order_id, **WHY)
    database.boundary = lambda _where: None
    assert ("withdrawn", False) == (
        (await engine.record(record.order.order_id)).state, (await engine.record(record.order.order_id)).erased,
    )  # fmt: skip
    await engine.erase(record.order.order_id, **WHY)

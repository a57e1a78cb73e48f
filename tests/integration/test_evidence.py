"""Evidence of real orders: through the engine and PostgreSQL, exported and verified by command line and stand-alone file."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from bundles import (
    KEYRING,
    NUMBER,
    OPERATOR,
    ORIGIN,
    Scene,
    fault,
    library,
    members_of,
    vkey,
)
from typer.testing import CliRunner

from gateway import cli_common, cli_evidence
from gateway.consent import events as ev
from gateway.consent.order import OrderRequest, Policy
from gateway.consent.record import Record
from gateway.demo.orders import sample_order
from gateway.engine import Engine
from gateway.evidence import verify_evidence as evidence
from gateway.evidence.bundle import Exporter
from gateway.evidence.errors import NotExported
from gateway.house import wording
from gateway.provisioning.delivery import Answer, Endpoint
from gateway.speech.prompts import PromptStore
from gateway.store import tree
from gateway.store.database import Database, sql
from gateway.store.errors import UnknownOrder
from gateway.telephony.vault import path_of

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
SECRET = b"a secret of thirty-two octets...."


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        self.time += timedelta(milliseconds=20)
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(database: Database, clock: Clock) -> Engine:
    return Engine(database, policy=Policy(), secret=SECRET, keyring=KEYRING, gateway="g1", now=clock)


@pytest.fixture
def exporter(engine: Engine, clock: Clock, tmp_path: Path) -> Exporter:
    return Exporter(engine, library(tmp_path), clock)


async def ordered(engine: Engine, folder: Path) -> tuple[Record, Scene]:
    """An order, and the stage for the call about it."""
    plan = library(folder).dialplans["plan-upgrade"]
    request = OrderRequest.model_validate(sample_order(NUMBER, START.date()))
    record = await engine.create(request, "billing", plan.ref)
    key = await engine.record_key(record.order.order_id)
    return record, Scene(folder, record.order, record_key=key)


async def called(engine: Engine, folder: Path) -> tuple[Record, Scene]:
    record, stage = await ordered(engine, folder)
    for event in stage.call():
        record = await engine.append(record.order.order_id, event)
    assert "challenged" == record.state
    return record, stage


async def confirmed(engine: Engine, folder: Path) -> tuple[Record, Scene]:
    record, stage = await called(engine, folder)
    await engine.take_message("http", "m-1", NUMBER, engine.code(record))
    return await engine.record(record.order.order_id), stage


class Billing:
    """A billing system that answers as told; the way there is not the affair of these tests."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)

    async def post(self, endpoint: Endpoint, webhook_id: str, body: bytes, now: Any) -> Answer:
        return self.answers.pop(0)


async def export(exporter: Exporter, record: Record, folder: Path) -> bytes:
    target = folder / "bundle.zip"
    exported = await exporter.export(record.order.order_id, target, by="auditor", purpose="complaint 12")
    assert target.stat().st_size == exported.octets
    assert 0o600 == target.stat().st_mode & 0o777
    return target.read_bytes()


async def test_a_confirmed_order_is_proven(engine: Engine, exporter: Exporter, tmp_path: Path) -> None:
    record, stage = await confirmed(engine, tmp_path)
    bundle = await export(exporter, record, tmp_path)
    report = evidence.verify(bundle, vkey())
    assert ("confirmed", {}) == (report.outcome, report.missing)
    [recording] = report.recordings
    assert (True, stage.seconds, 4, 4) == (recording.whole, recording.kept_s, recording.same, recording.judged)
    confirmation = record.confirmation
    assert confirmation is not None
    told = report.as_json()
    assert confirmation.spoken.at == datetime.fromisoformat(told["spoken_at"])
    assert confirmation.reply.at == datetime.fromisoformat(told["replied_at"])
    assert record.order_hash == told["order_hash"]


async def test_the_export_is_itself_in_the_bundle(engine: Engine, exporter: Exporter, tmp_path: Path) -> None:
    record, _ = await confirmed(engine, tmp_path)
    said = json.loads(members_of(await export(exporter, record, tmp_path))["record.json"])
    assert {"type": "evidence.exported", "by": "auditor", "purpose": "complaint 12"} == said["events"][-1]["event"]
    again = json.loads(members_of(await export(exporter, record, tmp_path))["record.json"])
    assert ["evidence.exported"] * 2 == [row["event"]["type"] for row in again["events"][-2:]]


async def test_what_billing_was_told_and_answered_is_in_it(engine: Engine, exporter: Exporter, tmp_path: Path) -> None:
    from gateway.deliveries import Deliveries
    from gateway.provisioning.signature import Signer
    from gateway.store.jobs import Job, Retry

    record, _ = await confirmed(engine, tmp_path)
    webhook_id = await engine.database.pool.fetchval("SELECT webhook_id FROM consent.deliveries")
    billing: Any = Billing(Answer(503, error="HTTP 503"), Answer(200, reference="B-77", body=b'{"reference":"B-77"}'))
    endpoint = Endpoint("http://127.0.0.1:1/hook", Signer(b"x" * 32))
    deliveries = Deliveries(
        engine, {("billing", "main"): endpoint}, billing, now=lambda: datetime.now(UTC), random=lambda: 0.0
    )
    for attempt in (1, 2):
        try:
            await deliveries.attempt(
                Job(1, "deliver_webhook", {"webhook_id": str(webhook_id), "schedule": 0}, attempt, None)
            )
        except Retry:
            await engine.database.pool.execute("UPDATE consent.deliveries SET next_at = now()")
    bundle = await export(exporter, record, tmp_path)
    report = evidence.verify(bundle, vkey())
    assert ("provisioned", 2) == (report.outcome, report.deliveries)
    [delivery, *_] = json.loads(members_of(bundle)["deliveries.json"])["deliveries"]
    assert [503, 200] == [attempt["status"] for attempt in delivery["attempts"]]
    assert record.order.order_id == json.loads(delivery["body"])["data"]["order_id"]
    assert delivery["attempts"][1]["response"] is not None


@pytest.mark.parametrize("answered", [True, False])
async def test_an_order_that_is_not_confirmed_says_so(
    engine: Engine, exporter: Exporter, tmp_path: Path, answered: bool
) -> None:
    record, _ = await called(engine, tmp_path)
    if answered:
        await engine.take_message("http", "m-1", NUMBER, "취소")
    report = evidence.verify(await export(exporter, record, tmp_path), vkey())
    expected = (
        ("withdrawn", "a stop word was replied by SMS") if answered else ("challenged", "the code was not replied")
    )
    assert ("not confirmed", *expected) == (report.outcome, report.state, report.as_json()["why_not"])


async def test_an_order_that_nobody_was_called_about_yet(engine: Engine, exporter: Exporter, tmp_path: Path) -> None:
    record, _ = await ordered(engine, tmp_path)
    report = evidence.verify(await export(exporter, record, tmp_path), vkey())
    assert ("not confirmed", "ordered", 2) == (report.outcome, report.state, report.events)


async def test_the_checkpoint_grew_from_the_one_that_first_covered_the_reply(
    engine: Engine, exporter: Exporter, clock: Clock, tmp_path: Path
) -> None:
    record, _ = await confirmed(engine, tmp_path)
    async with engine.database.transaction() as connection:
        await tree.sequence(connection)
        first = await tree.checkpoint(connection, KEYRING.signer, ORIGIN, clock())
    assert first is not None
    for _ in range(3):
        await ordered(engine, tmp_path)
    report = evidence.verify(await export(exporter, record, tmp_path), vkey())
    assert (first.size, first.size + 4) == (report.first.size, report.checkpoint.size)


async def test_the_first_dated_checkpoint_that_covers_the_reply_is_in_it(
    engine: Engine, exporter: Exporter, clock: Clock, tmp_path: Path
) -> None:
    record, _ = await confirmed(engine, tmp_path)
    sizes: list[int] = []
    for number in range(2):
        async with engine.database.transaction() as connection:
            await tree.sequence(connection)
            signed = await tree.checkpoint(connection, KEYRING.signer, ORIGIN, clock())
            assert signed is not None
            token = b"token %d " % number + hashlib.sha256(signed.note.encode()).digest()
            await connection.execute(sql("insert_timestamp"), signed.size, token, clock())
        sizes.append(signed.size)
        await ordered(engine, tmp_path)
    bundle = await export(exporter, record, tmp_path)
    assert evidence.verify(bundle, vkey()).timestamped
    assert str(sizes[0]) == members_of(bundle)["ledger/dated-checkpoint"].decode().splitlines()[1]


async def test_others_that_write_meanwhile_do_not_spoil_it(engine: Engine, exporter: Exporter, tmp_path: Path) -> None:
    """Events that come after the export, also of this very record, are not in the bundle: it ends with its own export."""
    record, _ = await confirmed(engine, tmp_path)
    order_id = record.order.order_id
    done = asyncio.Event()

    async def noise() -> None:
        while not done.is_set():
            await engine.append(order_id, ev.ReplyRepeated(message_id="m-1"))
            await ordered(engine, tmp_path)

    busy = asyncio.create_task(noise())
    try:
        bundles = [await export(exporter, record, tmp_path) for _ in range(2)]
    finally:
        done.set()
        await busy
    assert [("", "valid")] * 2 == [fault(bundle, vkey()) for bundle in bundles]


async def test_several_at_once(engine: Engine, exporter: Exporter, tmp_path: Path) -> None:
    record, _ = await confirmed(engine, tmp_path)
    targets = [tmp_path / f"{number}.zip" for number in range(4)]
    await asyncio.gather(*(exporter.export(record.order.order_id, target, by="x", purpose="") for target in targets))
    assert [("", "valid")] * 4 == [fault(target.read_bytes(), vkey()) for target in targets]


async def test_a_recording_that_is_gone_is_said_to_be(engine: Engine, exporter: Exporter, tmp_path: Path) -> None:
    record, stage = await confirmed(engine, tmp_path)
    order_id = record.order.order_id
    path_of(stage.library.recordings, stage.call_id).unlink()
    report = evidence.verify(await export(exporter, record, tmp_path), vkey())
    [(member, reason)] = report.missing.items()
    assert evidence.recording_member(stage.call_id) == member
    assert "it is not on the gateway that exported this; the call ran on g1" == reason
    gone = ev.RecordingDeleted(call_id=stage.call_id, retention="refusal", reason="180 days are over")
    await engine.append(order_id, gone)
    report = evidence.verify(await export(exporter, record, tmp_path), vkey())
    assert report.missing[member].startswith("it was deleted at 2026-03-01T")
    assert any(line.endswith("NOT in this bundle: the consent cannot be listened to") for line in report.lines())


async def test_a_damaged_recording_proves_what_is_left_of_it(
    engine: Engine, exporter: Exporter, tmp_path: Path
) -> None:
    record, stage = await confirmed(engine, tmp_path)
    path = path_of(stage.library.recordings, stage.call_id)
    octets = bytearray(path.read_bytes())
    octets[int(len(octets) * 25.5 / stage.seconds)] ^= 1
    path.write_bytes(octets)
    report = evidence.verify(await export(exporter, record, tmp_path), vkey())
    [recording] = report.recordings
    assert (False, 20.0) == (recording.whole, recording.proven_s)


async def test_a_prompt_that_the_cache_has_lost_is_said_to_be_missing(
    engine: Engine, exporter: Exporter, tmp_path: Path
) -> None:
    """Spoken again it must hash alike; these prompts are no voice's."""
    record, stage = await confirmed(engine, tmp_path)
    lost = [path.unlink() for path in stage.library.prompts_cache.glob("*.wav")]
    report = evidence.verify(await export(exporter, record, tmp_path), vkey())
    assert len(lost) == len(report.missing)
    assert all("the voice of today speaks it otherwise" in reason for reason in report.missing.values())


async def test_a_prompt_that_the_cache_has_lost_is_spoken_again(
    engine: Engine, exporter: Exporter, tmp_path: Path
) -> None:
    record, stage = await ordered(engine, tmp_path)
    words = wording(stage.pack, "opening", stage.order, OPERATOR)
    store = PromptStore(stage.library.prompts_cache, tmp_path / "none")
    await store.prepare([words])
    prompt = store.get(words)
    await store.stop()
    size = prompt.samples.size // 2
    spoken = stage.played(
        "opening", "opening", audio_sha256=prompt.sha256, samples_planned=size, samples_sent=size, voice=prompt.voice
    )
    for event in (ev.CallStarted(call_id=stage.call_id, gateway="g1", direction="inbound"), spoken):
        await engine.append(record.order.order_id, event)
    for path in stage.library.prompts_cache.glob("*.wav"):
        path.unlink()
    bundle = await export(exporter, record, tmp_path)
    assert {} == evidence.verify(bundle, vkey()).missing
    assert prompt.samples.astype("<i2").tobytes() == members_of(bundle)[evidence.prompt_member(prompt.sha256)][44:]


async def test_an_older_script_is_still_known_by_its_hash(
    engine: Engine, clock: Clock, exporter: Exporter, tmp_path: Path
) -> None:
    record, stage = await confirmed(engine, tmp_path)
    stage.library.keep_dialplans()
    today = library(tmp_path)
    newer = today.dialplans["plan-upgrade"].model_copy(update={"version": 99})
    changed = replace(today, dialplans={"plan-upgrade": newer})
    bundle = await export(Exporter(engine, changed, clock), record, tmp_path)
    assert record.order.dialplan.sha256 == evidence.sha256(members_of(bundle)["dialplan.json"])
    assert 99 != json.loads(members_of(bundle)["dialplan.json"])["version"]


async def test_an_erased_person_is_proven_to_have_been_asked_and_no_more(
    engine: Engine, exporter: Exporter, dsn: str, tmp_path: Path
) -> None:
    record, _ = await confirmed(engine, tmp_path)
    order_id = record.order.order_id
    await engine.append(order_id, ev.RecordErased(by="clerk", reason="asked to be forgotten"))
    owner = await asyncpg.connect(dsn)
    await owner.execute("DELETE FROM consent.record_keys")
    await owner.close()
    bundle = await export(exporter, record, tmp_path)
    report = evidence.verify(bundle, vkey())
    assert ("erased", "erased", None) == (report.outcome, report.state, report.promise)
    assert NUMBER.encode() not in bundle


async def test_a_ledger_that_was_tampered_with_gives_no_bundle(
    engine: Engine, exporter: Exporter, dsn: str, tmp_path: Path
) -> None:
    """By the owner of the database, who can do anything: the tree does not fit."""
    record, _ = await confirmed(engine, tmp_path)
    await export(exporter, record, tmp_path)
    owner = await asyncpg.connect(dsn)
    await owner.execute("ALTER TABLE consent.nodes DISABLE TRIGGER ALL")
    await owner.execute("UPDATE consent.nodes SET hash = sha256(hash) WHERE level = 2 AND place = 1")
    await owner.close()
    target = tmp_path / "never.zip"
    with pytest.raises(NotExported, match=r"no bundle was made: ledger/proofs\.json"):
        await exporter.export(record.order.order_id, target, by="x", purpose="")
    assert not target.exists()
    assert not target.with_name(".never.zip.part").exists()


async def test_an_unknown_order_is_named(exporter: Exporter, tmp_path: Path) -> None:
    with pytest.raises(UnknownOrder, match="there is no order"):
        await exporter.export("00000000-0000-4000-8000-000000000000", tmp_path / "x.zip", by="x", purpose="")


async def test_a_bundle_to_be_sent_is_gone_afterwards(engine: Engine, exporter: Exporter, tmp_path: Path) -> None:
    record, _ = await confirmed(engine, tmp_path)
    async with exporter.exported(record.order.order_id, by="api:billing", purpose="download") as exported:
        assert ("", "valid") == fault(exported.path.read_bytes(), vkey())
        path = exported.path
    assert not path.exists()
    assert not path.parent.exists()


def test_what_a_killed_gateway_did_not_send_is_removed_at_the_next_start(tmp_path: Path) -> None:
    left = tmp_path / ".evidence-abc"
    left.mkdir()
    (left / "evidence-x.zip").write_bytes(b"personal")
    (tmp_path / "recordings").mkdir()
    library(tmp_path).tidy()
    assert ["recordings"] == [path.name for path in tmp_path.iterdir()]


@pytest.fixture
async def settings_file(dsn: str, tmp_path: Path) -> Path:
    """The settings of a gateway on the test's database, with the ledger secret of its engine."""
    file = tmp_path / "gateway.toml"
    file.write_text(
        f'operator = "{OPERATOR}"\ndata_dir = "{tmp_path}"\n[database]\ndsn = "{dsn}"\n'
        f'[ledger]\norigin = "{ORIGIN}"\nsecret = "{"k" * 32}"\n[sms]\ncode_secret = "{SECRET.decode()}"\n'
    )
    return file


async def test_the_command_line_exports_and_verifies(engine: Engine, settings_file: Path, tmp_path: Path) -> None:
    record, _ = await confirmed(engine, tmp_path)
    target = tmp_path / "cli.zip"
    runner = CliRunner()
    asked = ["export", record.order.order_id[:8], "-o", str(target), "--by", "auditor", "-c", str(settings_file)]
    done = await asyncio.to_thread(runner.invoke, cli_evidence.app, asked, catch_exceptions=False)
    assert 0 == done.exit_code, done.output
    key = evidence.verify(target.read_bytes()).key
    assert f"consent-gateway evidence verify {target} --key {key}" in done.output
    verified = runner.invoke(cli_evidence.app, ["verify", str(target), "--key", str(key)])
    assert (0, True) == (verified.exit_code, f"valid: order {record.order.order_id}" in verified.output)
    other = runner.invoke(cli_evidence.app, ["verify", str(target), "--key", vkey() if str(key) != vkey() else "x"])
    assert other.exit_code in (1, 2)
    target.write_bytes(target.read_bytes()[:-1])
    cut = runner.invoke(cli_evidence.app, ["verify", str(target), "--json"])
    assert (1, "the ZIP container") == (cut.exit_code, json.loads(cut.output)["member"])
    assert 2 == runner.invoke(cli_evidence.app, ["verify", str(tmp_path / "nothing.zip")]).exit_code


async def test_the_single_file_verifies_it_alone(engine: Engine, exporter: Exporter, tmp_path: Path) -> None:
    record, _ = await confirmed(engine, tmp_path)
    bundle = await export(exporter, record, tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "verify_evidence.py").write_bytes(members_of(bundle)["verify_evidence.py"])
    run = "import sys, runpy; sys.modules['gateway'] = None; runpy.run_path('verify_evidence.py', run_name='__main__')"
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-I", "-c", run, "../bundle.zip", "--key", vkey(), "--json"],
        cwd=alone, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (0, "") == (done.returncode, done.stderr)
    assert ("confirmed", True) == (json.loads(done.stdout)["outcome"], json.loads(done.stdout)["key_pinned"])


def test_an_order_is_named_by_the_command_line(settings_file: Path, tmp_path: Path) -> None:
    asked = ["export", "0000", "-o", str(tmp_path / "x.zip"), "-c", str(settings_file)]
    with pytest.raises(UnknownOrder, match="no order begins with 0000"):
        CliRunner().invoke(cli_evidence.app, asked, catch_exceptions=False)
    assert cli_common.FAULT == CliRunner().invoke(cli_evidence.app, ["export", "0", "-o", "/nowhere/x.zip"]).exit_code

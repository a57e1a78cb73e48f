"""What the engine writes down: one chain a record, all of an event or nothing of it, and what a crash leaves of calls."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from engines import (
    NUMBER,
    OTHER,
    START,
    Clock,
    calling,
    challenged,
    confirmed,
    count,
    engine_on,
    jobs,
    ordered,
    sms,
    spoken,
    types,
    wrong,
)
from histories import CALL_MS, CONSENT_AT_MS, affirmed, disclosed, good_call, happen, kept, started

from gateway.consent import events as ev
from gateway.consent.canonical import canonical
from gateway.consent.disclosure import MANDATORY
from gateway.consent.errors import BrokenChain
from gateway.consent.record import Record
from gateway.engine import Engine, Inbound
from gateway.ledger.envelope import close
from gateway.ledger.errors import Unsealable
from gateway.ledger.sealing import events_key, recording_key
from gateway.lost_calls import close_lost_calls
from gateway.store.database import Database
from gateway.store.errors import ErasedRecord
from gateway.telephony.vault import Writer, path_of


def noted() -> ev.RecordingListened:
    """Something that changes nothing."""
    return ev.RecordingListened(call_id="call-1", by="an auditor", purpose="a complaint")


async def rows_of(engine: Engine, record: Record) -> list[asyncpg.Record]:
    return await engine.database.pool.fetch(
        "SELECT envelope, hash FROM consent.events WHERE order_id = $1 ORDER BY seq", UUID(record.order.order_id)
    )


class TestTheLedger:
    async def test_it_is_a_hash_chain_over_canonical_envelopes(self, engine: Engine) -> None:
        record = await confirmed(engine)
        previous = ""
        rows = await rows_of(engine, record)
        assert 18 == len(rows)
        for seq, row in enumerate(rows, 1):
            said = json.loads(row["envelope"])
            assert canonical(said).decode() == row["envelope"]
            assert sha256(row["envelope"].encode()).hexdigest() == row["hash"]
            assert (previous, seq, record.order.order_id) == (said["previous"], said["seq"], said["order_id"])
            assert {"at", "event_id", "order_id", "payload", "previous", "seq", "type"} == set(said)
            previous = row["hash"]

    async def test_nothing_of_the_person_can_be_read_in_it(self, engine: Engine) -> None:
        record = await confirmed(engine)
        told = "".join(
            json.dumps(entry.event.model_dump(mode="json"), ensure_ascii=False)
            for entry in await engine.entries(record.order.order_id)
        )
        for row in await rows_of(engine, record):
            said = json.loads(row["envelope"])
            sealed = base64.b64decode(said["payload"], validate=True)
            for known in (NUMBER, NUMBER[1:], record.order.offer.name, "the price", "call-1"):
                assert known in told
                assert known not in row["envelope"]
                assert known.encode() not in sealed

    async def test_who_was_erased_is_gone_and_the_chain_stands(
        self, engine: Engine, owner: asyncpg.Connection, clock: Clock
    ) -> None:
        record, other = await confirmed(engine), await confirmed(engine, OTHER)
        await owner.execute("DELETE FROM consent.record_keys WHERE order_id = $1", UUID(record.order.order_id))
        stranger = engine_on(engine.database, clock, gateway="g2")
        for attempt in (
            stranger.record(record.order.order_id),
            stranger.record_key(record.order.order_id),
            stranger.append(record.order.order_id, noted()),
        ):
            with pytest.raises(ErasedRecord, match="its key is destroyed"):
                await attempt
        previous = ""
        for row in await rows_of(engine, record):
            assert (previous, row["hash"]) == (
                json.loads(row["envelope"])["previous"], sha256(row["envelope"].encode()).hexdigest(),
            )  # fmt: skip
            previous = row["hash"]
        assert "confirmed" == (await stranger.record(other.order.order_id)).state

    async def test_a_clock_that_goes_back_never_reorders_a_record(self, engine: Engine, clock: Clock) -> None:
        record = await ordered(engine)
        clock.forward(hours=-5)
        record = await happen(engine, record, good_call(record))
        assert "confirmed" == (await engine.take_message("http", "1", NUMBER, engine.code(record))).state
        times = [entry.at for entry in await engine.entries(record.order.order_id)]
        assert sorted(set(times)) == times
        assert START == times[0]

    async def test_appends_at_the_same_time_keep_the_chain(self, engine: Engine) -> None:
        record = await calling(engine)
        await asyncio.gather(*(engine.append(record.order.order_id, noted()) for _ in range(20)))
        assert list(range(1, 23)) == [entry.seq for entry in await engine.entries(record.order.order_id)]

    async def test_two_gateways_append_to_one_record_in_turn(
        self, engine: Engine, database: Database, clock: Clock
    ) -> None:
        """Each remembers where it left the record; the other has moved it on."""
        record = await calling(engine)
        order_id, second = record.order.order_id, engine_on(database, clock, gateway="g2")
        for one in (second, engine, engine, second, engine):
            await one.append(order_id, noted())
        assert 7 == len(await second.entries(order_id))

    async def test_a_consent_that_two_gateways_hear_at_once_is_one(
        self, engine: Engine, database: Database, clock: Clock
    ) -> None:
        record = await calling(engine)
        order_id, second = record.order.order_id, engine_on(database, clock, gateway="g2")
        await happen(engine, record, iter([*map(disclosed, MANDATORY), affirmed()]))
        said = ev.ConsentSpoken(call_id="call-1", order_hash=record.order_hash)
        for event in (said, kept()):
            await asyncio.gather(*(one.append(order_id, event) for one in (engine, second, engine)))
        assert Counter({"consent.spoken": 3, "recording.kept": 3, "challenge.issued": 1}) == Counter(
            (await types(engine, record))[13:]
        )
        assert [1, [("challenge", 0)]] == [await count(engine, "spoken_consents"), await sms(engine)]

    async def test_two_calls_at_once_claim_the_record_once(self, engine: Engine) -> None:
        record = await ordered(engine)
        found = await asyncio.gather(*(engine.append(record.order.order_id, started(f"call-{n}")) for n in range(5)))
        assert 1 == len({after.call_id for after in found})
        assert {1} == {after.calls for after in found}

    async def test_different_messages_at_once_are_all_taken(self, engine: Engine) -> None:
        record = await challenged(engine)
        texts = [wrong(engine.code(record))] * 2 + [engine.code(record)] * 4
        found = await asyncio.gather(
            *(engine.take_message("http", str(n), NUMBER, text) for n, text in enumerate(texts))
        )
        assert {"taken"} == {inbound.result for inbound in found}
        assert 6 == (await types(engine, record)).count("reply.received")
        assert 1 == await count(engine, "deliveries")

    async def test_one_message_delivered_many_times_at_once_is_taken_once(self, engine: Engine) -> None:
        record = await challenged(engine)
        text = wrong(engine.code(record))
        found = await asyncio.gather(*(engine.take_message("http", "1", NUMBER, text) for _ in range(6)))
        assert Counter({"taken": 1, "repeated": 5}) == Counter(inbound.result for inbound in found)
        assert 1 == (await types(engine, record)).count("reply.received")

    async def test_a_stored_event_cannot_be_changed_without_its_hash(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        await calling(engine)
        await owner.execute("ALTER TABLE consent.events DISABLE TRIGGER USER")
        with pytest.raises(asyncpg.CheckViolationError):
            await owner.execute("UPDATE consent.events SET envelope = replace(envelope, '2026', '2025') WHERE seq = 1")

    @pytest.mark.parametrize("seq", [1, 7])
    async def test_a_stored_event_that_was_changed_together_with_its_hash_is_found(
        self, engine: Engine, owner: asyncpg.Connection, seq: int
    ) -> None:
        record = await challenged(engine)
        await owner.execute("ALTER TABLE consent.events DISABLE TRIGGER USER")
        await owner.execute(
            """UPDATE consent.events SET envelope = changed, hash = encode(sha256(convert_to(changed, 'UTF8')), 'hex')
            FROM (SELECT replace(envelope, '2026', '2025') AS changed FROM consent.events WHERE seq = $1) AS forged
            WHERE seq = $1""",
            seq,
        )
        with pytest.raises(BrokenChain, match=f"event {seq + 1} does not follow"):
            await engine.record(record.order.order_id)

    @pytest.mark.parametrize("change", ["reverse(payload)", "left(payload, 20)", "other"])
    async def test_a_payload_that_was_changed_or_exchanged_cannot_be_opened(
        self, engine: Engine, owner: asyncpg.Connection, change: str
    ) -> None:
        record = await challenged(engine)
        await owner.execute("ALTER TABLE consent.events DISABLE TRIGGER USER")
        await owner.execute(
            f"""WITH was AS (
                SELECT envelope::jsonb->>'payload' AS payload, (
                    SELECT envelope::jsonb->>'payload' FROM consent.events WHERE seq = 4
                ) AS other, envelope FROM consent.events WHERE seq = 3
            ), forged AS (SELECT replace(envelope, payload, {change}) AS changed FROM was)
            UPDATE consent.events SET envelope = changed, hash = encode(sha256(convert_to(changed, 'UTF8')), 'hex')
            FROM forged WHERE seq = 3"""
        )
        with pytest.raises(Unsealable):
            await engine.record(record.order.order_id)

    async def test_a_stored_event_that_was_taken_out_is_found(self, engine: Engine, owner: asyncpg.Connection) -> None:
        record = await challenged(engine)
        await owner.execute("ALTER TABLE consent.events DISABLE TRIGGER USER")
        await owner.execute("SET session_replication_role = replica")
        await owner.execute("DELETE FROM consent.events WHERE seq = 2")
        with pytest.raises(BrokenChain, match="event 2 does not follow"):
            await engine.record(record.order.order_id)

    async def test_an_event_of_another_record_is_found_though_all_else_of_it_is_right(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        """Sealed with this record's key, and following its last event: the database refuses it, and so does whoever reads it."""
        record, other = await ordered(engine), await ordered(engine, OTHER)
        order_id = record.order.order_id
        (first,) = await engine.entries(order_id)
        entry = ev.Entry(
            order_id=other.order.order_id, seq=2, event_id=str(uuid4()), at=START + timedelta(1), event=started()
        )
        envelope, entry = close(entry, first.hash, events_key(await engine.record_key(order_id)))
        values = UUID(order_id), UUID(entry.event_id), entry.at, envelope, entry.hash
        insert = "INSERT INTO consent.events VALUES ($1, 2, $2, $3, 'call.started', $4, $5)"
        with pytest.raises(asyncpg.CheckViolationError, match="is not what its envelope says"):
            await owner.execute(insert, *values)
        await owner.execute("ALTER TABLE consent.events DISABLE TRIGGER USER")
        await owner.execute(insert, *values)
        with pytest.raises(BrokenChain, match="event 2 says that it is"):
            await engine.record(order_id)


class TestOneTransaction:
    async def test_where_the_job_cannot_be_written_the_event_is_not(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        record = await spoken(engine)
        before = await types(engine, record)
        await owner.execute("ALTER TABLE consent.jobs ADD CONSTRAINT broken CHECK (kind <> 'send_sms') NOT VALID")
        with pytest.raises(asyncpg.CheckViolationError):
            await engine.append(record.order.order_id, kept())
        assert (before, "consent.spoken") == (await types(engine, record), before[-1])
        assert "spoken" == await engine.database.pool.fetchval("SELECT state FROM consent.orders")
        await owner.execute("ALTER TABLE consent.jobs DROP CONSTRAINT broken")
        assert "challenged" == (await engine.append(record.order.order_id, kept())).state
        assert [*before, "recording.kept", "challenge.issued"] == await types(engine, record)

    async def test_where_the_proof_cannot_be_written_the_consent_is_not(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        record = await calling(engine)
        await happen(engine, record, iter([*map(disclosed, MANDATORY), affirmed()]))
        await owner.execute("ALTER TABLE consent.spoken_consents ADD CONSTRAINT broken CHECK (false)")
        said = ev.ConsentSpoken(call_id="call-1", order_hash=record.order_hash)
        with pytest.raises(asyncpg.CheckViolationError):
            await engine.append(record.order.order_id, said)
        assert ("utterance.heard", 0) == ((await types(engine, record))[-1], await count(engine, "spoken_consents"))
        await owner.execute("ALTER TABLE consent.spoken_consents DROP CONSTRAINT broken")
        assert "spoken" == (await engine.append(record.order.order_id, said)).state

    async def test_where_the_refusal_cannot_be_written_the_event_is_not(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        record = await challenged(engine)
        await owner.execute("ALTER TABLE consent.refusals ADD CONSTRAINT broken CHECK (false)")
        with pytest.raises(asyncpg.CheckViolationError):
            await engine.take_message("http", "1", NUMBER, "stop")
        assert [0, "challenged"] == [
            await count(engine, "inbound_messages"),
            (await engine.record(record.order.order_id)).state,
        ]
        await owner.execute("ALTER TABLE consent.refusals DROP CONSTRAINT broken")
        assert "withdrawn" == (await engine.take_message("http", "1", NUMBER, "stop")).state

    async def test_where_the_delivery_cannot_be_written_there_is_no_confirmation(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        record = await challenged(engine)
        await owner.execute("ALTER TABLE consent.deliveries ADD CONSTRAINT broken CHECK (false)")
        with pytest.raises(asyncpg.CheckViolationError):
            await engine.take_message("http", "1", NUMBER, engine.code(record))
        tables = ("confirmations", "code_replies", "provisioning_events", "deliveries", "inbound_messages")
        assert [0] * 5 == [await count(engine, table) for table in tables]
        assert "reply.received" not in await types(engine, record)
        assert "deliver_webhook" not in dict(await jobs(engine))
        await owner.execute("ALTER TABLE consent.deliveries DROP CONSTRAINT broken")
        assert Inbound("taken", record.order.order_id, "confirmed") == await engine.take_message(
            "http", "1", NUMBER, engine.code(record)
        )

    async def test_where_the_event_cannot_be_written_no_job_is(self, engine: Engine, owner: asyncpg.Connection) -> None:
        await owner.execute("ALTER TABLE consent.events ADD CONSTRAINT broken CHECK (false)")
        with pytest.raises(asyncpg.CheckViolationError):
            await ordered(engine, call="now")
        assert [0, 0] == [await count(engine, table) for table in ("orders", "jobs")]


class TestLostCalls:
    async def test_calls_of_a_gateway_that_died_are_over(self, engine: Engine, tmp_path: Path) -> None:
        record = await calling(engine)
        assert 1 == await close_lost_calls(engine, tmp_path)
        after = await engine.record(record.order.order_id)
        assert ("ordered", "lost: the gateway restarted", True) == (after.state, after.reason, after.may_be_called)
        assert ["recording.failed", "call.ended"] == (await types(engine, record))[-2:]

    async def test_calls_of_another_gateway_go_on(
        self, engine: Engine, database: Database, clock: Clock, tmp_path: Path
    ) -> None:
        record = await calling(engine)
        assert 0 == await close_lost_calls(engine_on(database, clock, gateway="g2"), tmp_path)
        assert "calling" == (await engine.record(record.order.order_id)).state

    async def test_a_challenge_that_was_issued_survives(self, engine: Engine, tmp_path: Path) -> None:
        record = await challenged(engine)
        assert 0 == await close_lost_calls(engine, tmp_path)
        assert "challenged" == (await engine.record(record.order.order_id)).state

    async def test_a_consent_that_was_not_recorded_is_void(self, engine: Engine, tmp_path: Path) -> None:
        record = await spoken(engine)
        assert 1 == await close_lost_calls(engine, tmp_path)
        after = await engine.record(record.order.order_id)
        assert ("failed", None, []) == (after.state, after.recording, await sms(engine))
        assert "the gateway died, and nothing was written" in after.reason

    @pytest.mark.parametrize(
        ("state", "written_ms"), [("challenged", CONSENT_AT_MS), ("challenged", CALL_MS), ("failed", CONSENT_AT_MS - 1)]
    )
    async def test_a_consent_stands_when_the_recording_that_is_left_reaches_to_its_end(
        self, engine: Engine, tmp_path: Path, state: str, written_ms: int
    ) -> None:
        record = await spoken(engine)
        key = recording_key(await engine.record_key(record.order.order_id), "call-1")
        path = path_of(tmp_path, "call-1")
        path.touch()
        writer = Writer(path, key, "call-1", 8000)
        writer.put(bytes(8 * written_ms * 4))
        writer.close()
        assert 1 == await close_lost_calls(engine, tmp_path)
        after = await engine.record(record.order.order_id)
        (left,) = [
            e.event for e in await engine.entries(record.order.order_id) if isinstance(e.event, ev.RecordingKept)
        ]
        assert (state, written_ms, True) == (after.state, left.duration_ms, left.salvaged)
        assert [("challenge", 0)][: state == "challenged"] == await sms(engine)

    async def test_a_lost_outbound_call_is_made_again(self, engine: Engine, tmp_path: Path) -> None:
        record = await ordered(engine, call="now")
        await engine.append(record.order.order_id, started())
        await close_lost_calls(engine, tmp_path)
        assert ("place_call", {"order_id": record.order.order_id, "attempt": 2}) == (await jobs(engine))[-1]
        run_at = await engine.database.pool.fetchval("SELECT max(run_at) FROM consent.jobs WHERE kind = 'place_call'")
        assert timedelta(seconds=1800) <= run_at - START < timedelta(seconds=1801)

"""The engine on a real database: the whole path, and everything that must not happen on it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from gateway.consent import events as ev
from gateway.consent.canonical import canonical, chain
from gateway.consent.errors import BrokenChain, OrderRefused
from gateway.consent.order import DialplanRef, OrderRequest, Policy
from gateway.consent.record import Record
from gateway.demo.orders import sample_order
from gateway.engine import Engine, Inbound
from gateway.provisioning.delivery import Answer
from gateway.store.database import Database
from gateway.store.errors import UnknownOrder

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
NUMBER = "+821012345678"
OTHER = "+821087654321"
PLAN = DialplanRef(name="plan-upgrade", version=1, sha256="0" * 64)
SECRET = b"a secret of thirty-two octets...."


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def forward(self, **delta: float) -> None:
        self.time += timedelta(**delta)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def engine_on(database: Database, clock: Clock, *, gateway: str = "g1", policy: Policy | None = None) -> Engine:
    return Engine(database, policy=policy or Policy(), secret=SECRET, gateway=gateway, now=clock)


@pytest.fixture
def engine(database: Database, clock: Clock) -> Engine:
    return engine_on(database, clock)


@pytest.fixture
async def owner(dsn: str, database: Database) -> AsyncIterator[asyncpg.Connection]:
    """The owner of the schema, who may change it. Depends on *database*: the schema must be there."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def ordered(engine: Engine, number: str = NUMBER, *, call: str = "inbound", tenant: str = "billing") -> Record:
    request = OrderRequest.model_validate(sample_order(number, START.date(), call=call))
    return await engine.create(request, tenant, PLAN)


async def calling(engine: Engine, number: str = NUMBER, call_id: str = "call-1") -> Record:
    record = await ordered(engine, number)
    return await engine.append(record.order.order_id, started(call_id))


async def challenged(engine: Engine, number: str = NUMBER) -> Record:
    record = await calling(engine, number)
    order_id = record.order.order_id
    await engine.append(order_id, ev.ConsentSpoken(call_id="call-1", order_hash=record.order_hash))
    return await engine.append(order_id, ended())


async def confirmed(engine: Engine, number: str = NUMBER) -> Record:
    record = await challenged(engine, number)
    await engine.take_message("http", f"right-{record.order.order_id}", number, engine.code(record))
    return await engine.record(record.order.order_id)


def started(call_id: str = "call-1", gateway: str = "g1") -> ev.CallStarted:
    return ev.CallStarted(call_id=call_id, gateway=gateway, direction="inbound")


def ended(outcome: ev.CallOutcome = "completed", call_id: str = "call-1") -> ev.CallEnded:
    return ev.CallEnded(call_id=call_id, outcome=outcome, reason="", duration_ms=60_000)


def heard(call_id: str = "call-1") -> ev.RecordingKept:
    return ev.RecordingKept(call_id=call_id, sha256="0" * 64, duration_ms=1)


async def jobs(engine: Engine) -> list[tuple[str, dict[str, Any]]]:
    rows = await engine.database.pool.fetch("SELECT kind, payload::text FROM consent.jobs ORDER BY job_id")
    return [(row["kind"], json.loads(row["payload"])) for row in rows]


async def sms(engine: Engine) -> list[tuple[str, int]]:
    """The messages that wait to be sent: (kind, tries left)."""
    return [(payload["kind"], payload["tries_left"]) for kind, payload in await jobs(engine) if kind == "send_sms"]


async def count(engine: Engine, table: str) -> int:
    return int(await engine.database.pool.fetchval(f"SELECT count(*) FROM consent.{table}"))


async def types(engine: Engine, record: Record) -> list[str]:
    return [entry.event.type for entry in await engine.entries(record.order.order_id)]


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 10**6:06d}"


class TestTheWholePath:
    async def test_an_order_becomes_a_delivery(self, engine: Engine, clock: Clock) -> None:
        record = await ordered(engine, call="now")
        order_id = record.order.order_id
        await engine.append(order_id, started())
        clock.forward(minutes=2)
        record = await engine.append(order_id, ev.ConsentSpoken(call_id="call-1", order_hash=record.order_hash))
        assert "challenged" == record.state
        await engine.append(order_id, ended())
        clock.forward(minutes=5)
        assert Inbound("taken", order_id, "confirmed") == await engine.take_message(
            "http", "m-1", NUMBER, engine.code(record)
        )
        assert [
            "order.created", "call.started", "consent.spoken", "challenge.issued", "call.ended", "reply.received",
        ] == await types(engine, record)  # fmt: skip
        kinds = [kind for kind, _ in await jobs(engine)]
        assert ["render_prompts", "place_call", "send_sms", "expire_challenge", "deliver_webhook"] == kinds

    async def test_the_delivery_tells_the_terms_and_both_proofs(self, engine: Engine) -> None:
        record = await confirmed(engine)
        row = await engine.database.pool.fetchrow("SELECT * FROM consent.deliveries")
        body = json.loads(row["body"])
        spoken, replied = record.confirmation.spoken, record.confirmation.reply  # type: ignore[union-attr]
        assert ("pending", "billing", 0) == (row["state"], row["tenant"], row["attempts"])
        assert ("consent.confirmed", record.order_hash) == (body["type"], body["data"]["order_hash"])
        assert record.order.offer.model_dump(mode="json") == body["data"]["offer"]
        assert [spoken.event_id, replied.event_id] == [
            body["data"]["spoken_consent"]["event_id"], body["data"]["code_reply"]["event_id"],
        ]  # fmt: skip
        assert row["body"].encode() == canonical(body)

    async def test_the_code_is_nowhere_in_the_database(self, engine: Engine, owner: asyncpg.Connection) -> None:
        record = await challenged(engine)
        tables = await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'consent'")
        for table in tables:
            dump = await owner.fetch(f"SELECT t::text AS row FROM consent.{table['tablename']} AS t")
            assert not any(engine.code(record) in row["row"] for row in dump)

    async def test_every_new_order_has_another_code(self, engine: Engine) -> None:
        first = await challenged(engine)
        await engine.append(first.order.order_id, ev.OrderWithdrawn(source="api", reason="again"))
        assert engine.code(first) != engine.code(await challenged(engine))

    async def test_without_a_challenge_there_is_no_code(self, engine: Engine) -> None:
        assert "" == engine.code(await ordered(engine))

    async def test_the_state_can_be_searched(self, engine: Engine) -> None:
        await confirmed(engine)
        assert "confirmed" == await engine.database.pool.fetchval("SELECT state FROM consent.orders")

    async def test_a_billing_system_that_takes_it_ends_the_order_well(self, engine: Engine) -> None:
        record = await confirmed(engine)
        webhook_id = str(await engine.database.pool.fetchval("SELECT webhook_id FROM consent.deliveries"))
        await engine.note_delivery(webhook_id, Answer(200, reference="B-7"), last=False)
        record = await engine.record(record.order.order_id)
        assert ("provisioned", ("provisioned", 0)) == (record.state, (await sms(engine))[-1])
        assert "delivered" == await engine.database.pool.fetchval("SELECT state FROM consent.deliveries")

    async def test_an_answer_that_comes_after_the_success_changes_nothing(self, engine: Engine) -> None:
        await confirmed(engine)
        webhook_id = str(await engine.database.pool.fetchval("SELECT webhook_id FROM consent.deliveries"))
        await engine.note_delivery(webhook_id, Answer(200), last=False)
        await engine.note_delivery(webhook_id, Answer(500, "late"), last=True)
        assert "delivered" == await engine.database.pool.fetchval("SELECT state FROM consent.deliveries")


class TestTheDoor:
    async def test_a_refused_order_leaves_nothing(self, engine: Engine, clock: Clock) -> None:
        clock.forward(days=30)
        with pytest.raises(OrderRefused, match=r"offer\.starts_on: 2026-03-11 is past"):
            await ordered(engine)
        assert [0, 0, 0] == [await count(engine, table) for table in ("orders", "events", "jobs")]

    async def test_the_start_is_judged_by_the_date_at_the_subscriber(self, engine: Engine, clock: Clock) -> None:
        """16:00 UTC on the 11th is the 12th in Seoul."""
        clock.time = datetime(2026, 3, 11, 14, 59, tzinfo=UTC)
        await ordered(engine)
        clock.time = datetime(2026, 3, 11, 15, 0, tzinfo=UTC)
        with pytest.raises(OrderRefused):
            await ordered(engine)

    async def test_a_number_that_asked_not_to_be_called_is_refused(self, engine: Engine) -> None:
        record = await calling(engine)
        await engine.append(record.order.order_id, ev.ConsentDenied(call_id="call-1", denial="stop", step="consent"))
        with pytest.raises(OrderRefused, match=r"subscriber\.number: is on the do-not-call list") as refused:
            await ordered(engine)
        assert ["subscriber.number"] == [fault.path for fault in refused.value.faults]

    async def test_another_number_is_still_taken(self, engine: Engine) -> None:
        record = await calling(engine)
        await engine.append(record.order.order_id, ev.ConsentDenied(call_id="call-1", denial="stop", step="consent"))
        assert "ordered" == (await ordered(engine, OTHER)).state

    @pytest.mark.parametrize("order_id", [str(UUID(int=7)), "no-uuid", ""])
    async def test_an_unknown_order_is_named(self, engine: Engine, order_id: str) -> None:
        for attempt in (engine.record(order_id), engine.entries(order_id), engine.append(order_id, started())):
            with pytest.raises(UnknownOrder, match="no order"):
                await attempt

    async def test_a_call_finds_the_newest_open_order(self, engine: Engine, clock: Clock) -> None:
        await ordered(engine)
        clock.forward(seconds=1)
        newest = await ordered(engine)
        clock.forward(seconds=1)
        await calling(engine)
        await ordered(engine, OTHER)
        found = await engine.open_order_of(NUMBER)
        assert found is not None
        assert newest.order.order_id == found.order.order_id

    async def test_a_number_without_an_order_finds_none(self, engine: Engine) -> None:
        await ordered(engine, OTHER)
        assert None is await engine.open_order_of(NUMBER)


class TestReplies:
    async def test_a_wrong_code_tells_how_many_tries_are_left(self, engine: Engine) -> None:
        record = await challenged(engine)
        states = [
            (await engine.take_message("http", str(n), NUMBER, wrong(engine.code(record)))).state for n in range(3)
        ]
        assert ["challenged", "challenged", "failed"] == states
        assert [("challenge", 0), ("wrong_code", 2), ("wrong_code", 1), ("too_many_tries", 0)] == await sms(engine)

    async def test_after_too_many_tries_the_right_code_is_worth_nothing(self, engine: Engine) -> None:
        record = await challenged(engine)
        for n in range(3):
            await engine.take_message("http", str(n), NUMBER, wrong(engine.code(record)))
        await engine.take_message("http", "right", NUMBER, engine.code(record))
        assert [0, 0] == [await count(engine, table) for table in ("confirmations", "deliveries")]

    async def test_a_right_code_after_a_wrong_one_confirms(self, engine: Engine) -> None:
        record = await challenged(engine)
        await engine.take_message("http", "1", NUMBER, wrong(engine.code(record)))
        assert "confirmed" == (await engine.take_message("http", "2", NUMBER, engine.code(record))).state

    async def test_a_late_code_is_told_so_and_provisions_nothing(self, engine: Engine, clock: Clock) -> None:
        record = await challenged(engine)
        assert record.challenge is not None
        clock.time = record.challenge.expires_at
        assert Inbound("taken", record.order.order_id, "expired") == await engine.take_message(
            "http", "1", NUMBER, engine.code(record)
        )
        assert (0, ("late_reply", 0)) == (await count(engine, "deliveries"), (await sms(engine))[-1])

    async def test_a_code_in_the_last_second_is_in_time(self, engine: Engine, clock: Clock) -> None:
        record = await challenged(engine)
        assert record.challenge is not None
        clock.time = record.challenge.expires_at - timedelta(seconds=1)
        assert "confirmed" == (await engine.take_message("http", "1", NUMBER, engine.code(record))).state

    async def test_a_code_after_the_timer_is_late_even_if_the_clock_went_back(
        self, engine: Engine, clock: Clock
    ) -> None:
        record = await challenged(engine)
        assert record.challenge is not None
        await engine.append(record.order.order_id, ev.ChallengeExpired(challenge_id=record.challenge.challenge_id))
        clock.forward(hours=-1)
        assert "expired" == (await engine.take_message("http", "1", NUMBER, engine.code(record))).state

    async def test_the_same_message_again_has_no_effect(self, engine: Engine) -> None:
        record = await challenged(engine)
        text = wrong(engine.code(record))
        await engine.take_message("http", "1", NUMBER, text)
        assert Inbound("repeated", record.order.order_id, "challenged") == await engine.take_message(
            "http", "1", NUMBER, text
        )
        assert [("challenge", 0), ("wrong_code", 2)] == await sms(engine)
        assert ["reply.received", "reply.repeated"] == (await types(engine, record))[-2:]

    async def test_the_same_number_of_a_message_on_another_channel_is_another_message(self, engine: Engine) -> None:
        record = await challenged(engine)
        for channel in ("http", "sip"):
            await engine.take_message(channel, "1", NUMBER, wrong(engine.code(record)))
        assert ("wrong_code", 1) == (await sms(engine))[-1]

    async def test_another_number_cannot_confirm(self, engine: Engine) -> None:
        record = await challenged(engine)
        assert Inbound("unknown_number") == await engine.take_message("http", "1", OTHER, engine.code(record))
        assert "challenged" == (await engine.record(record.order.order_id)).state
        assert 1 == await count(engine, "inbound_messages")

    async def test_another_number_that_repeats_itself_is_told_apart(self, engine: Engine) -> None:
        await engine.take_message("http", "1", OTHER, "hello")
        assert Inbound("repeated") == await engine.take_message("http", "1", OTHER, "hello")

    async def test_the_code_of_one_order_does_not_confirm_another(self, engine: Engine) -> None:
        first, second = await challenged(engine), await challenged(engine, OTHER)
        assert "challenged" == (await engine.take_message("http", "1", OTHER, engine.code(first))).state
        assert engine.code(first) != engine.code(second)

    async def test_with_two_challenges_a_code_confirms_the_order_whose_it_is(
        self, engine: Engine, clock: Clock
    ) -> None:
        older = await challenged(engine)
        clock.forward(minutes=1)
        newer = await challenged(engine)
        await engine.take_message("http", "m1", NUMBER, engine.code(older))
        assert "confirmed" == (await engine.record(older.order.order_id)).state
        after = await engine.record(newer.order.order_id)
        assert after.challenge is not None
        assert ("challenged", 3) == (after.state, after.challenge.tries_left)

    async def test_too_late_is_told_once(self, engine: Engine, clock: Clock) -> None:
        record = await challenged(engine)
        code = engine.code(record)
        clock.forward(days=2)
        for number in range(3):
            await engine.take_message("http", f"late-{number}", NUMBER, code)
        assert 1 == [kind for kind, _ in await sms(engine)].count("late_reply")

    async def test_a_gateway_with_another_secret_does_not_take_the_code(self, engine: Engine, clock: Clock) -> None:
        record = await challenged(engine)
        stranger = Engine(engine.database, policy=Policy(), secret=b"another", gateway="g2", now=clock)
        assert "challenged" == (await stranger.take_message("http", "1", NUMBER, engine.code(record))).state

    async def test_a_code_confirms_once(self, engine: Engine) -> None:
        record = await challenged(engine)
        for n in range(3):
            await engine.take_message("http", str(n), NUMBER, engine.code(record))
        assert [1, 1, 1] == [await count(engine, t) for t in ("confirmations", "provisioning_events", "deliveries")]


class TestStopWords:
    @pytest.mark.parametrize("text", ["STOP", "취소", "我不同意"])
    async def test_a_stop_word_ends_the_order(self, engine: Engine, text: str) -> None:
        record = await challenged(engine)
        assert Inbound("taken", record.order.order_id, "withdrawn") == await engine.take_message(
            "http", "1", NUMBER, text
        )
        await engine.take_message("http", "2", NUMBER, engine.code(record))
        assert (0, ("stopped", 0)) == (await count(engine, "deliveries"), (await sms(engine))[-1])

    async def test_a_stop_word_before_or_during_the_call_counts_too(self, engine: Engine) -> None:
        await ordered(engine)
        assert "withdrawn" == (await engine.take_message("http", "1", NUMBER, "stop")).state
        record = await calling(engine)
        assert "withdrawn" == (await engine.take_message("http", "2", NUMBER, "stop")).state
        after = await engine.append(
            record.order.order_id, ev.ConsentSpoken(call_id="call-1", order_hash=record.order_hash)
        )
        assert ("withdrawn", None) == (after.state, after.spoken)

    async def test_a_stop_word_ends_every_open_order_of_the_number(self, engine: Engine, clock: Clock) -> None:
        """Whoever answers the code's message with STOP must not be billed because a newer order took the word."""
        older = await challenged(engine)
        clock.forward(minutes=1)
        await ordered(engine)
        await ordered(engine, OTHER)
        await engine.take_message("http", "1", NUMBER, "stop")
        await engine.take_message("http", "2", NUMBER, engine.code(older))
        states = await engine.database.pool.fetch(
            "SELECT number, state FROM consent.orders ORDER BY created_at, number"
        )
        assert Counter({(NUMBER, "withdrawn"): 2, (OTHER, "ordered"): 1}) == Counter(map(tuple, states))

    async def test_a_stop_word_on_a_call_counts_when_it_is_heard_and_for_every_order(
        self, engine: Engine, clock: Clock
    ) -> None:
        """Whatever happens to the call afterwards: no other event follows here."""
        other = await challenged(engine)
        clock.forward(minutes=1)
        record = await calling(engine, call_id="call-2")
        said = ev.UtteranceHeard(call_id="call-2", step="owner", grants_consent=False, verdict="stop", reason="said it")
        after = await engine.append(record.order.order_id, said)
        assert ("refused", "asked not to be called again") == (after.state, after.reason)
        await engine.take_message("http", "1", NUMBER, engine.code(other))
        assert "withdrawn" == (await engine.record(other.order.order_id)).state
        with pytest.raises(OrderRefused):
            await ordered(engine)

    async def test_a_no_to_the_consent_question_counts_when_it_is_heard(self, engine: Engine) -> None:
        record = await calling(engine)
        said = ev.UtteranceHeard(
            call_id="call-1", step="consent", grants_consent=True, verdict="deny", reason="said it"
        )
        assert "refused" == (await engine.append(record.order.order_id, said)).state

    async def test_a_stop_word_after_the_confirmation_is_only_recorded(self, engine: Engine) -> None:
        record = await confirmed(engine)
        assert Inbound("taken", record.order.order_id, "confirmed") == await engine.take_message(
            "http", "s", NUMBER, "stop"
        )
        assert "reply.received" == (await types(engine, record))[-1]


class TestTheLedger:
    async def test_it_is_a_hash_chain(self, engine: Engine) -> None:
        record = await confirmed(engine)
        previous = ""
        for entry in await engine.entries(record.order.order_id):
            assert chain(previous, canonical(entry.body())) == entry.hash
            previous = entry.hash

    async def test_a_clock_that_goes_back_never_reorders_a_record(self, engine: Engine, clock: Clock) -> None:
        record = await calling(engine)
        clock.forward(hours=-5)
        record = await engine.append(
            record.order.order_id, ev.ConsentSpoken(call_id="call-1", order_hash=record.order_hash)
        )
        assert "confirmed" == (await engine.take_message("http", "1", NUMBER, engine.code(record))).state
        times = [entry.at for entry in await engine.entries(record.order.order_id)]
        assert sorted(set(times)) == times
        assert START == times[0]

    async def test_appends_at_the_same_time_keep_the_chain(self, engine: Engine) -> None:
        record = await calling(engine)
        await asyncio.gather(*(engine.append(record.order.order_id, heard()) for _ in range(20)))
        assert list(range(1, 23)) == [entry.seq for entry in await engine.entries(record.order.order_id)]

    async def test_two_gateways_append_to_one_record_in_turn(
        self, engine: Engine, database: Database, clock: Clock
    ) -> None:
        """Each remembers where it left the record; the other has moved it on."""
        record = await calling(engine)
        order_id, second = record.order.order_id, engine_on(database, clock, gateway="g2")
        for one in (second, engine, engine, second, engine):
            await one.append(order_id, heard())
        assert 7 == len(await second.entries(order_id))

    async def test_a_consent_that_two_gateways_hear_at_once_is_one(
        self, engine: Engine, database: Database, clock: Clock
    ) -> None:
        record = await calling(engine)
        spoken = ev.ConsentSpoken(call_id="call-1", order_hash=record.order_hash)
        second = engine_on(database, clock, gateway="g2")
        await asyncio.gather(*(one.append(record.order.order_id, spoken) for one in (engine, second, engine)))
        assert 1 == (await types(engine, record)).count("challenge.issued")

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

    async def test_a_stored_event_that_was_changed_is_found(self, engine: Engine, owner: asyncpg.Connection) -> None:
        record = await calling(engine)
        await owner.execute("ALTER TABLE consent.events DISABLE TRIGGER USER")
        await owner.execute("UPDATE consent.events SET body = replace(body, '39000', '93000') WHERE seq = 1")
        with pytest.raises(BrokenChain, match="event 1 does not follow"):
            await engine.record(record.order.order_id)

    async def test_a_stored_event_that_was_taken_out_is_found(self, engine: Engine, owner: asyncpg.Connection) -> None:
        record = await challenged(engine)
        await owner.execute("ALTER TABLE consent.events DISABLE TRIGGER USER")
        await owner.execute("SET session_replication_role = replica")
        await owner.execute("DELETE FROM consent.events WHERE seq = 2")
        with pytest.raises(BrokenChain, match="event 2 does not follow"):
            await engine.record(record.order.order_id)

    async def test_an_event_of_another_record_is_found_though_its_hash_is_right(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        record, other = await ordered(engine), await ordered(engine, OTHER)
        order_id = record.order.order_id
        (first,) = await engine.entries(order_id)
        entry = ev.Entry(order_id=other.order.order_id, seq=2, event_id=str(uuid4()), at=START, event=started())
        body = canonical(entry.body())
        await owner.execute(
            "INSERT INTO consent.events VALUES ($1, 2, $2, $3, 'call.started', $4, $5)",
            UUID(order_id), UUID(entry.event_id), START, body.decode(), chain(first.hash, body),
        )  # fmt: skip
        with pytest.raises(BrokenChain, match="event 2 says that it is"):
            await engine.record(order_id)


class TestOneTransaction:
    async def test_where_the_job_cannot_be_written_the_event_is_not(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        record = await calling(engine)
        await owner.execute("ALTER TABLE consent.jobs ADD CONSTRAINT broken CHECK (kind <> 'send_sms') NOT VALID")
        spoken = ev.ConsentSpoken(call_id="call-1", order_hash=record.order_hash)
        with pytest.raises(asyncpg.CheckViolationError):
            await engine.append(record.order.order_id, spoken)
        assert ["order.created", "call.started"] == await types(engine, record)
        assert [0, "calling"] == [
            await count(engine, "spoken_consents"), await engine.database.pool.fetchval("SELECT state FROM consent.orders"),
        ]  # fmt: skip
        await owner.execute("ALTER TABLE consent.jobs DROP CONSTRAINT broken")
        assert "challenged" == (await engine.append(record.order.order_id, spoken)).state

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
    async def test_calls_of_a_gateway_that_died_are_over(self, engine: Engine) -> None:
        record = await calling(engine)
        assert 1 == await engine.end_lost_calls()
        after = await engine.record(record.order.order_id)
        assert ("ordered", "lost: the gateway restarted", True) == (after.state, after.reason, after.may_be_called)

    async def test_calls_of_another_gateway_go_on(self, engine: Engine, database: Database, clock: Clock) -> None:
        record = await calling(engine)
        assert 0 == await engine_on(database, clock, gateway="g2").end_lost_calls()
        assert "calling" == (await engine.record(record.order.order_id)).state

    async def test_a_consent_that_was_given_survives(self, engine: Engine) -> None:
        record = await challenged(engine)
        assert 0 == await engine.end_lost_calls()
        assert "challenged" == (await engine.record(record.order.order_id)).state

    async def test_a_lost_outbound_call_is_made_again(self, engine: Engine, clock: Clock) -> None:
        record = await ordered(engine, call="now")
        await engine.append(record.order.order_id, started())
        await engine.end_lost_calls()
        assert ("place_call", {"order_id": record.order.order_id, "attempt": 2}) == (await jobs(engine))[-1]
        run_at = await engine.database.pool.fetchval("SELECT max(run_at) FROM consent.jobs WHERE kind = 'place_call'")
        assert timedelta(seconds=1800) <= run_at - START < timedelta(seconds=1801)


async def test_a_dead_delivery_can_be_tried_again_once(engine: Engine) -> None:
    await confirmed(engine)
    webhook_id = str(await engine.database.pool.fetchval("SELECT webhook_id FROM consent.deliveries"))
    assert not await engine.replay_delivery(webhook_id)
    await engine.note_delivery(webhook_id, Answer(500, "HTTP 500"), last=True)
    assert [True, False] == [await engine.replay_delivery(webhook_id) for _ in range(2)]
    assert 2 == [kind for kind, _ in await jobs(engine)].count("deliver_webhook")

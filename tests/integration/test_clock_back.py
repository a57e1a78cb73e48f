"""The gateway's clock jumps back by an hour, wherever it hurts most: within a record, between the SMS and the reply, over a restart.

Times in a record rise all the same (by a microsecond, until the clock has caught up); nothing is confirmed that should not be; challenges
expire, for their timers run by the database's clock; checkpoints follow one another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from engines import KEYRING, NUMBER, PLAN, SECRET, Clock, challenged, count, engine_on, ordered, wrong
from histories import good_call, happen

from gateway.consent import events as ev
from gateway.consent.order import OrderRequest, Policy
from gateway.consent.record import Record
from gateway.demo.orders import sample_order
from gateway.engine import Engine
from gateway.ledger import merkle, note
from gateway.lost_calls import close_lost_calls
from gateway.notary import Notary
from gateway.settings_sections import Ledger
from gateway.store import tree
from gateway.store.database import Database
from gateway.store.jobs import Job, JobRunner, Kind

HOUR = timedelta(hours=1)
CALL_EVENTS = 15
"""Of a good call, the issue of the challenge not counted."""

PATIENCE_S = 30.0


async def times(engine: Engine, record: Record) -> list[datetime]:
    """Of a record whose chain is verified in passing."""
    return [entry.at for entry in await engine.entries(record.order.order_id)]


def rise(moments: list[datetime]) -> bool:
    return all(before < after for before, after in pairwise(moments))


async def reply(engine: Engine, record: Record, text: str, message_id: str = "reply") -> str:
    return (await engine.take_message("http", message_id, record.order.subscriber.number, text)).state


async def checkpointed(engine: Engine, clock: Clock) -> tree.Signed:
    signed = await Notary(engine.database, KEYRING, Ledger(), clock).bring_up_to_date()
    assert signed is not None
    return signed


class TestWithinARecord:
    @pytest.mark.parametrize("place", range(CALL_EVENTS + 1))
    async def test_times_rise_and_the_promise_is_kept_wherever_it_happens(
        self, engine: Engine, clock: Clock, place: int
    ) -> None:
        record = await ordered(engine)
        events = list(good_call(record))
        assert CALL_EVENTS == len(events)
        for number, event in enumerate(events):
            clock.forward(**({"hours": -1} if number == place else {"seconds": 2}))
            record = await engine.append(record.order.order_id, event)
        if place == CALL_EVENTS:
            clock.forward(hours=-1)
        assert "challenged" == record.state
        assert "confirmed" == await reply(engine, record, engine.code(record))
        moments = await times(engine, record)
        assert (True, 1) == (rise(moments), await count(engine, "provisioning_events"))

    async def test_it_goes_on_by_the_clock_when_that_has_caught_up(self, engine: Engine, clock: Clock) -> None:
        record = await ordered(engine)
        first, *others = good_call(record)
        await engine.append(record.order.order_id, first)
        reached = clock.time
        clock.time -= HOUR
        for event in others[:3]:
            await engine.append(record.order.order_id, event)
        clock.time = reached + timedelta(seconds=5)
        await engine.append(record.order.order_id, others[3])
        *slow, last = await times(engine, record)
        assert (True, reached + timedelta(seconds=5)) == (slow[-1] - reached < timedelta(milliseconds=1), last)

    async def test_a_jump_in_every_event_is_stood_too(self, engine: Engine, clock: Clock) -> None:
        record = await ordered(engine)
        for event in good_call(record):
            clock.time -= HOUR
            record = await engine.append(record.order.order_id, event)
        assert ("challenged", True) == (record.state, rise(await times(engine, record)))


class TestBetweenTheSmsAndTheReply:
    async def test_a_wrong_code_is_wrong_and_the_right_one_counts_once(self, engine: Engine, clock: Clock) -> None:
        record = await challenged(engine)
        code = engine.code(record)
        clock.time -= HOUR
        assert "challenged" == await reply(engine, record, wrong(code), "1")
        assert "confirmed" == await reply(engine, record, code, "2")
        clock.time -= HOUR
        assert "confirmed" == await reply(engine, record, code, "3")
        assert (1, True) == (await count(engine, "provisioning_events"), rise(await times(engine, record)))

    async def test_a_stop_stays_one_whatever_the_clock_says_of_the_code_behind_it(
        self, engine: Engine, clock: Clock
    ) -> None:
        record = await challenged(engine)
        code = engine.code(record)
        assert "withdrawn" == await reply(engine, record, "취소", "1")
        clock.time -= HOUR
        await reply(engine, record, code, "2")
        assert "withdrawn" == (await engine.record(record.order.order_id)).state
        assert (0, True) == (await count(engine, "provisioning_events"), rise(await times(engine, record)))

    async def test_what_had_expired_is_not_alive_again(self, engine: Engine, clock: Clock) -> None:
        record = await challenged(engine)
        assert record.challenge is not None
        code = engine.code(record)
        clock.time = record.challenge.expires_at
        await engine.append(record.order.order_id, ev.ChallengeExpired(challenge_id=record.challenge.challenge_id))
        clock.time -= HOUR
        assert "expired" == await reply(engine, record, code)
        assert 0 == await count(engine, "provisioning_events")

    async def test_a_code_that_came_too_late_stays_too_late(self, engine: Engine, clock: Clock) -> None:
        record = await challenged(engine)
        assert record.challenge is not None
        code = engine.code(record)
        clock.time = record.challenge.expires_at + timedelta(minutes=30)
        assert "expired" == await reply(engine, record, code, "1")
        clock.time -= HOUR
        assert "expired" == await reply(engine, record, code, "2")
        assert 0 == await count(engine, "confirmations")


class TestOverARestart:
    async def test_the_next_gateway_goes_on_behind_what_was_written(
        self, engine: Engine, database: Database, clock: Clock
    ) -> None:
        record = await challenged(engine)
        clock.time -= HOUR
        second = engine_on(database, clock, gateway="g2")
        assert "confirmed" == await reply(second, record, second.code(record))
        assert rise(await times(second, record))

    async def test_a_call_that_was_lost_ends_behind_its_beginning(
        self, engine: Engine, database: Database, clock: Clock, tmp_path: Path
    ) -> None:
        record = await ordered(engine)
        record = await happen(engine, record, iter(list(good_call(record))[:5]))
        clock.time -= HOUR
        second = engine_on(database, clock)
        assert 1 == await close_lost_calls(second, tmp_path)
        after = await second.record(record.order.order_id)
        assert ("ordered", True) == (after.state, rise(await times(second, record)))
        assert "challenged" == (await happen(second, after, good_call(after, "call-2"))).state

    async def test_a_call_is_about_an_order_that_can_be_called(
        self, engine: Engine, database: Database, clock: Clock
    ) -> None:
        """Which of two orders is the newer one cannot be told then; that neither is one that has ended, can."""
        first = await ordered(engine)
        clock.time -= HOUR
        second = engine_on(database, clock, gateway="g2")
        later = await ordered(second)
        await second.append(later.order.order_id, ev.OrderWithdrawn(source="api", reason="a mistake"))
        found = await second.open_order_of(NUMBER)
        assert found is not None
        assert first.order.order_id == found.order.order_id


class TestExpiry:
    """Timers run by the database's clock, which here is the real one."""

    async def test_a_challenge_expires_though_the_clock_has_gone_back(self, database: Database) -> None:
        real = Clock()
        real.time = datetime.now(UTC)
        engine = Engine(
            database, policy=Policy(code_ttl_s=0.5), secret=SECRET, keyring=KEYRING, gateway="g1", now=real
        )  # fmt: skip
        request = OrderRequest.model_validate(sample_order(NUMBER, real.time.date()))
        record = await engine.create(request, "billing", PLAN)
        record = await happen(engine, record, good_call(record))
        code = engine.code(record)
        real.time -= HOUR
        async with timers(engine), asyncio.timeout(PATIENCE_S):
            while (await engine.record(record.order.order_id)).state == "challenged":  # noqa: ASYNC110 - the timer is a job
                await asyncio.sleep(0.02)
        assert "expired" == await reply(engine, record, code)
        assert (0, True) == (await count(engine, "provisioning_events"), rise(await times(engine, record)))


@asynccontextmanager
async def timers(engine: Engine) -> AsyncIterator[None]:
    async def expire(job: Job) -> None:
        expired = ev.ChallengeExpired(challenge_id=job.payload["challenge_id"])
        await engine.append(job.payload["order_id"], expired)

    runner = JobRunner(engine.database, {"expire_challenge": Kind(expire)}, "g1")
    await runner.start()
    try:
        yield
    finally:
        await runner.stop()


class TestCheckpoints:
    async def test_they_follow_one_another(self, engine: Engine, clock: Clock) -> None:
        """Each covers what the one before it covered, and more; the clock has no say in their order."""
        signed = []
        for number in range(4):
            await challenged(engine, f"+8210123456{number:02d}")
            signed.append(await checkpointed(engine, clock))
            clock.time -= HOUR
        verifier = note.verifier_of(KEYRING.signer, Ledger().origin)
        points = [note.parse_checkpoint(note.verify(one.note, verifier)) for one in signed]
        assert sorted({point.size for point in points}) == [point.size for point in points]
        async with engine.database.pool.acquire() as connection:
            for before, after in pairwise(points):
                proof = await tree.consistency_proof(connection, before.size, after.size)
                merkle.verify_consistency(before.size, after.size, before.root, after.root, proof)
            last = await tree.last_checkpoint(connection)
        assert last is not None
        assert points[-1].size == last.size

    async def test_nothing_new_is_nothing_to_sign(self, engine: Engine, clock: Clock) -> None:
        await challenged(engine)
        first = await checkpointed(engine, clock)
        clock.time -= HOUR
        assert first == await checkpointed(engine, clock)

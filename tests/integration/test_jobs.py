"""Jobs: run at least once, held when they cannot be, and never by two at a time.

A crash is a claim whose outcome was never stored: the lease is let run out by SQL, never by waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from gateway.store.database import Database
from gateway.store.jobs import CRASHES, LEASE_S, Job, JobRunner, Kind, Retry, enqueue

PATIENCE_S = 10.0
"""How long a test waits for what must come. Nothing is proven by its passing."""

Handler = Callable[[Job], Awaitable[None]]
LEASES_RUN_OUT = "UPDATE consent.jobs SET run_at = now() WHERE state = 'ready'"


@asynccontextmanager
async def running(database: Database, **kinds: Kind) -> AsyncIterator[JobRunner]:
    runner = JobRunner(database, kinds, "g1")
    await runner.start()
    try:
        yield runner
    finally:
        await runner.stop(grace_s=0.0)


class Handled:
    """A handler that remembers its jobs, and does *act* with each."""

    def __init__(self, act: Callable[[Job], Any] = lambda _: None) -> None:
        self.jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._act = act

    async def __call__(self, job: Job) -> None:
        self.jobs.put_nowait(job)
        result = self._act(job)
        if asyncio.iscoroutine(result):
            await result

    async def next(self) -> Job:
        return await asyncio.wait_for(self.jobs.get(), PATIENCE_S)


async def write(database: Database, key: str = "key", *, kind: str = "work", payload: Any = None, **when: Any) -> None:
    async with database.transaction() as connection:
        await enqueue(connection, kind, key, payload or {}, **when)


async def job(database: Database, key: str = "key") -> asyncpg.Record:
    row = await database.pool.fetchrow("SELECT * FROM consent.jobs WHERE key = $1", key)
    assert row is not None
    return row


async def becomes(database: Database, state: str, key: str = "key") -> asyncpg.Record:
    """The job, once it is in *state*."""
    return await once(database, lambda row: row["state"] == state, key)


async def once(database: Database, condition: Callable[[asyncpg.Record], Any], key: str = "key") -> asyncpg.Record:
    async with asyncio.timeout(PATIENCE_S):
        while not condition(row := await job(database, key)):  # noqa: ASYNC110 - the database has no event for it
            await asyncio.sleep(0.005)
    return row


async def claimed(database: Database, *kinds: str, gateway: str = "another") -> list[Job]:
    """What a gateway would claim that then dies: leased, and no outcome ever stored."""
    taken: list[Job] = []

    async def die(job: Job) -> None:
        taken.append(job)
        await asyncio.Event().wait()

    runner = JobRunner(database, {kind: Kind(die) for kind in kinds or ("work",)}, gateway)
    await runner._claim()
    await asyncio.sleep(0)
    for task in runner._running:
        task.cancel()
    await asyncio.gather(*runner._running, return_exceptions=True)
    return taken


class TestRunning:
    async def test_a_job_is_run_with_its_payload_and_done(self, database: Database) -> None:
        await write(database, payload={"order_id": "o", "number": 1, "text": "네"})
        handled = Handled()
        async with running(database, work=Kind(handled)):
            ran = await handled.next()
            row = await becomes(database, "done")
        assert ("work", {"order_id": "o", "number": 1, "text": "네"}, 1) == (ran.kind, ran.payload, ran.attempt)
        assert row["finished_at"] is not None

    async def test_a_job_that_is_written_later_wakes_the_runner(self, database: Database) -> None:
        handled = Handled()
        async with running(database, work=Kind(handled)):
            await write(database, "first")
            await handled.next()
            await write(database, "second")
            await handled.next()

    async def test_a_job_of_a_transaction_that_fails_is_never_run(self, database: Database) -> None:
        async def fail() -> None:
            async with database.transaction() as connection:
                await enqueue(connection, "work", "key", {})
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert 0 == await database.pool.fetchval("SELECT count(*) FROM consent.jobs")

    async def test_the_same_key_does_nothing_the_second_time(self, database: Database) -> None:
        await write(database, payload={"n": 1})
        await write(database, payload={"n": 2})
        assert [('{"n": 1}',)] == [
            tuple(row) for row in await database.pool.fetch("SELECT payload::text FROM consent.jobs")
        ]

    async def test_the_same_key_does_nothing_even_when_the_job_is_done(self, database: Database) -> None:
        handled = Handled()
        async with running(database, work=Kind(handled)):
            await write(database)
            await becomes(database, "done")
            await write(database)
            await write(database, "other")
            await becomes(database, "done", "other")
        assert 2 == handled.jobs.qsize()

    async def test_a_job_of_the_future_waits(self, database: Database) -> None:
        await write(database, "later", run_at=datetime.now(UTC) + timedelta(hours=1))
        await write(database, "now")
        handled = Handled()
        async with running(database, work=Kind(handled)):
            await becomes(database, "done", "now")
            assert "ready" == (await job(database, "later"))["state"]
            await database.pool.execute("UPDATE consent.jobs SET run_at = now() WHERE key = 'later'")
            await write(database, "wakes")
            await becomes(database, "done", "later")

    async def test_a_job_of_a_kind_that_nobody_runs_here_is_left_alone(self, database: Database) -> None:
        await write(database, "foreign", kind="foreign")
        await write(database)
        async with running(database, work=Kind(Handled())):
            await becomes(database, "done")
        assert ("ready", 0) == ((await job(database, "foreign"))["state"], (await job(database, "foreign"))["attempts"])

    async def test_no_more_of_one_kind_run_at_once_than_allowed(self, database: Database) -> None:
        at_once, most, gate = 0, 0, asyncio.Event()

        async def work(_: Job) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await gate.wait()
            at_once -= 1

        for n in range(6):
            await write(database, str(n))
        handled = Handled(work)
        async with running(database, work=Kind(handled, most=2)):
            for _ in range(2):
                await handled.next()
            gate.set()
            for n in range(6):
                await becomes(database, "done", str(n))
        assert 2 == most

    async def test_a_kind_that_is_full_does_not_hold_up_another(self, database: Database) -> None:
        for n in range(3):
            await write(database, str(n), kind="slow")
        slow, quick = Handled(lambda _: asyncio.Event().wait()), Handled()
        async with running(database, slow=Kind(slow, most=1), quick=Kind(quick)):
            await slow.next()
            await write(database, "quick", kind="quick")
            await becomes(database, "done", "quick")


class TestFailing:
    async def test_a_job_that_fails_is_tried_again_after_its_backoff(self, database: Database) -> None:
        def fail(job: Job) -> None:
            if job.attempt < 3:
                raise OSError("down")

        handled = Handled(fail)
        await write(database)
        async with running(database, work=Kind(handled, backoff_s=(0.0, 0.0))):
            await becomes(database, "done")
        assert [1, 2, 3] == [handled.jobs.get_nowait().attempt for _ in range(3)]

    async def test_the_backoff_is_kept(self, database: Database) -> None:
        def fail(_: Job) -> None:
            raise OSError("down")

        handled = Handled(fail)
        await write(database)
        async with running(database, work=Kind(handled, backoff_s=(600.0,))):
            await handled.next()
            await once(database, lambda row: row["error"])
        wait = await database.pool.fetchval("SELECT run_at - now() FROM consent.jobs")
        assert timedelta(seconds=580) < wait <= timedelta(seconds=600)

    async def test_after_the_last_try_it_is_held_with_its_error(self, database: Database) -> None:
        def fail(_: Job) -> None:
            raise OSError("the line is down")

        handled = Handled(fail)
        await write(database)
        async with running(database, work=Kind(handled, backoff_s=(0.0,))):
            row = await becomes(database, "held")
        assert (2, "OSError('the line is down')") == (row["attempts"], row["error"])
        assert 2 == handled.jobs.qsize()

    async def test_a_held_job_is_not_run_again(self, database: Database) -> None:
        await write(database)
        await database.pool.execute("UPDATE consent.jobs SET state = 'held'")
        handled = Handled()
        async with running(database, work=Kind(handled)):
            await write(database, "other")
            await becomes(database, "done", "other")
        assert "held" == (await job(database))["state"]

    async def test_one_that_fails_does_not_stop_the_others(self, database: Database) -> None:
        def fail(job: Job) -> None:
            if job.payload.get("bad"):
                raise RuntimeError("bad")

        await write(database, "bad", payload={"bad": True})
        await write(database, "good")
        async with running(database, work=Kind(Handled(fail))):
            await becomes(database, "held", "bad")
            await becomes(database, "done", "good")

    async def test_a_job_that_takes_too_long_is_ended_and_counts_as_failed(self, database: Database) -> None:
        handled = Handled(lambda _: asyncio.Event().wait())
        await write(database)
        async with running(database, work=Kind(handled, timeout_s=0.01)):
            row = await becomes(database, "held")
        assert "TimeoutError()" == row["error"]


class TestRetry:
    async def test_a_handler_says_itself_when_to_run_again(self, database: Database) -> None:
        def retry(job: Job) -> None:
            if job.attempt < 3:
                raise Retry(0.0, "not yet")

        handled = Handled(retry)
        await write(database)
        async with running(database, work=Kind(handled)):
            await becomes(database, "done")
        assert [1, 2, 3] == [handled.jobs.get_nowait().attempt for _ in range(3)]

    async def test_the_reason_is_kept(self, database: Database) -> None:
        def retry(_: Job) -> None:
            raise Retry(3600, "every line is busy")

        await write(database)
        async with running(database, work=Kind(Handled(retry))):
            row = await once(database, lambda row: row["error"])
        assert ("ready", "every line is busy", None) == (row["state"], row["error"], row["token"])
        assert row["run_at"] > datetime.now(UTC) + timedelta(minutes=59)

    async def test_where_it_was_only_not_yet_time_it_may_be_said_for_ever(self, database: Database) -> None:
        """Every line may be busy for longer than any number of tries; the order must still be called in the end."""
        runs = 0

        def busy(_: Job) -> None:
            nonlocal runs
            runs += 1
            if runs <= 30:
                raise Retry(0.0, "every line is busy", counted=False)

        handled = Handled(busy)
        await write(database)
        async with running(database, work=Kind(handled)):
            row = await becomes(database, "done")
        assert (31, 1) == (handled.jobs.qsize(), row["attempts"])


class TestCrashing:
    async def test_a_claimed_job_is_leased(self, database: Database) -> None:
        await write(database)
        (taken,) = await claimed(database)
        row = await job(database)
        assert ("ready", 1, taken.token) == (row["state"], row["attempts"], row["token"])
        lease = await database.pool.fetchval("SELECT run_at - now() FROM consent.jobs")
        assert timedelta(seconds=LEASE_S - 20) < lease <= timedelta(seconds=LEASE_S)

    async def test_a_gateway_that_starts_anew_takes_over_what_it_had_claimed(self, database: Database) -> None:
        await write(database)
        [job] = await claimed(database, gateway="g1")
        handled = Handled()
        async with running(database, work=Kind(handled)):
            again = await handled.next()
        assert (job.job_id, 2) == (again.job_id, again.attempt)

    async def test_while_it_is_leased_nobody_else_gets_it(self, database: Database) -> None:
        await write(database)
        await claimed(database)
        assert [] == await claimed(database)

    async def test_when_its_gateway_died_it_is_run_again(self, database: Database) -> None:
        await write(database)
        await claimed(database)
        await database.pool.execute(LEASES_RUN_OUT)
        handled = Handled()
        async with running(database, work=Kind(handled)):
            again = await handled.next()
            await becomes(database, "done")
        assert 2 == again.attempt

    async def test_a_runner_that_stops_loses_no_job(self, database: Database) -> None:
        await write(database)
        handled = Handled(lambda _: asyncio.Event().wait())
        async with running(database, work=Kind(handled)):
            await handled.next()
        assert "ready" == (await job(database))["state"]
        await database.pool.execute(LEASES_RUN_OUT)
        assert 1 == len(await claimed(database))

    async def test_a_job_that_keeps_ending_its_process_is_held(self, database: Database) -> None:
        await write(database)
        for _ in range(1 + CRASHES):
            assert 1 == len(await claimed(database))
            await database.pool.execute(LEASES_RUN_OUT)
        handled = Handled()
        async with running(database, work=Kind(handled)):
            row = await becomes(database, "held")
        assert "ended its process too often" in row["error"]
        assert handled.jobs.empty()

    async def test_the_outcome_of_a_run_whose_lease_is_over_changes_nothing(self, database: Database) -> None:
        """The first runner hangs, the second takes over; then the first comes to its end after all."""
        await write(database)
        gate = asyncio.Event()
        first, second = Handled(lambda _: gate.wait()), Handled(lambda _: asyncio.Event().wait())
        async with running(database, work=Kind(first, most=1)) as slow:
            await first.next()
            await database.pool.execute(LEASES_RUN_OUT)
            async with running(database, work=Kind(second)):
                taken = await second.next()
                gate.set()
                await asyncio.wait(slow._running, timeout=PATIENCE_S)
                assert not slow._running
                row = await job(database)
        assert ("ready", taken.token, 2) == (row["state"], row["token"], row["attempts"])


class TestSharing:
    async def test_two_runners_share_the_work_and_double_none(self, database: Database) -> None:
        for n in range(40):
            await write(database, str(n))
        one, other = Handled(lambda _: asyncio.sleep(0)), Handled(lambda _: asyncio.sleep(0))
        async with running(database, work=Kind(one, most=3)), running(database, work=Kind(other, most=3)):
            for n in range(40):
                await becomes(database, "done", str(n))
        ran = [handled.jobs.get_nowait().job_id for handled in (one, other) for _ in range(handled.jobs.qsize())]
        assert list(range(1, 41)) == sorted(ran)

    async def test_a_runner_goes_on_after_its_connections_were_cut(self, database: Database, dsn: str) -> None:
        handled = Handled()
        async with running(database, work=Kind(handled)):
            await write(database, "before")
            await handled.next()
            owner = await asyncpg.connect(dsn)
            await owner.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await enqueue(owner, "work", "after", {})
            await owner.close()
            await handled.next()

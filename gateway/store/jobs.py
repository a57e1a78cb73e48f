"""Jobs: effects that were written in the transaction of the event that caused them, run at least once.

A claim leases a job (``run_at`` moves forward) under a fresh token; a crash lets the lease run out and the job is claimed
again, its attempts counted. Every outcome is stored under the token, so a late one changes nothing. pgqueuer was measured
first: it loses jobs on task cancellation and neither fences nor counts crashes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import structlog

from gateway.store.database import UNREACHABLE, Connection, Database, sql

log = structlog.get_logger(__name__)
CHANNEL = "consent_jobs"
LEASE_S = 90.0
POLL_S = 15.0
RECONNECT_S = 1.0
CRASHES = 3
"""A job that ended its process this often, beyond its own tries, is held: it is poison."""


@dataclass(frozen=True, slots=True)
class Job:
    """*attempt* counts from 1."""

    job_id: int
    kind: str
    payload: dict[str, Any]
    attempt: int
    token: UUID


class Retry(Exception):
    """Raised by a handler: run this job again in *delay_s* seconds, however often it has run.

    Where it was only not yet time (*counted* is false) this run is not counted among the job's attempts.
    """

    def __init__(self, delay_s: float, why: str, *, counted: bool = True) -> None:
        super().__init__(why)
        self.delay_s = delay_s
        self.counted = counted


@dataclass(frozen=True, slots=True)
class Kind:
    """How jobs of one kind are run: tried once and after each of *backoff_s*, then held; *most* at a time."""

    run: Callable[[Job], Awaitable[None]]
    backoff_s: tuple[float, ...] = ()
    most: int = 8
    timeout_s: float = 60.0


async def enqueue(
    connection: Connection, kind: str, key: str, payload: dict[str, Any], *, run_at: datetime | None = None
) -> None:
    """Write a job in the caller's transaction. *key* is its identity for ever: the same key again does nothing."""
    await connection.execute(sql("enqueue"), kind, key, json.dumps(payload), run_at)


class JobRunner:
    """Runs due jobs until it is stopped; wakes at once when one is enqueued anywhere. *gateway* is its name: what it had claimed when
    it last died is due at once.
    """

    def __init__(self, database: Database, kinds: dict[str, Kind], gateway: str) -> None:
        self._pool = database.pool
        self._database = database
        self._kinds = kinds
        self._gateway = gateway
        self._wake = asyncio.Event()
        self._stopping = False
        self._running: dict[asyncio.Task[None], str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self._pool.execute(sql("take_over"), self._gateway)
        self._tasks = [asyncio.create_task(self._loop()), asyncio.create_task(self._listen())]

    async def stop(self, grace_s: float = 10.0) -> None:
        """Claim no more and let what runs end; what does not end in time stays leased and runs again later."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _loop(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                delay = await self._claim()
            except Exception as error:  # noqa: BLE001 - the loop outlives whatever a lost database makes of a query
                log.error("jobs.claim_failed", error=repr(error))
                delay = RECONNECT_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), delay)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._pool.acquire() as connection:
                    gone = asyncio.Event()
                    connection.add_termination_listener(lambda *_: gone.set())  # noqa: B023 - one event a connection
                    await connection.add_listener(CHANNEL, self._on_notify)
                    try:
                        self._wake.set()
                        await gone.wait()
                    finally:
                        if not connection.is_closed():
                            await connection.remove_listener(CHANNEL, self._on_notify)
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("jobs.listener_lost", error=repr(error))
            await asyncio.sleep(RECONNECT_S)

    def _on_notify(self, *_: object) -> None:
        self._wake.set()

    async def _claim(self) -> float:
        """Start what is due; how long until there may be more, in seconds."""
        busy = list(self._running.values())
        free = {name: kind.most - busy.count(name) for name, kind in self._kinds.items()}
        free = {name: places for name, places in free.items() if places > 0}
        if not free:
            return POLL_S
        lease = timedelta(seconds=LEASE_S)
        rows = await self._pool.fetch(sql("claim"), list(free), list(free.values()), lease, self._gateway)
        for row in rows:
            job = Job(row["job_id"], row["kind"], json.loads(row["payload"]), row["attempts"], row["token"])
            task = asyncio.create_task(self._run(job))
            self._running[task] = job.kind
            task.add_done_callback(self._done)
        if rows:
            return 0.0
        due = await self._pool.fetchval(sql("next_due"), list(free))
        return POLL_S if due is None else min(max(due, 0.005), POLL_S)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        self._wake.set()

    async def _run(self, job: Job) -> None:
        kind = self._kinds[job.kind]
        delay_s: float | None = None
        counted = True
        try:
            if job.attempt > len(kind.backoff_s) + 1 + CRASHES:
                raise RuntimeError("this job has ended its process too often")
            self._database.boundary(f"before {job.kind}")
            async with asyncio.timeout(min(kind.timeout_s, 0.8 * LEASE_S)):
                await kind.run(job)
            self._database.boundary(f"after {job.kind}")
        except Retry as retry:
            delay_s, error, counted = retry.delay_s, str(retry), retry.counted
        except Exception as failure:
            if job.attempt <= len(kind.backoff_s):
                delay_s = kind.backoff_s[job.attempt - 1]
            error = repr(failure)
            log.error("jobs.failed", kind=job.kind, job=job.job_id, attempt=job.attempt, error=error, held=delay_s is None,
                      exc_info=failure)  # fmt: skip
        else:
            await self._store(sql("complete"), job.job_id, job.token)
            return
        delay = None if delay_s is None else timedelta(seconds=delay_s)
        await self._store(sql("retry_or_hold"), job.job_id, job.token, delay, error[:2000], not counted)

    async def _store(self, query: str, *arguments: object) -> None:
        try:
            await self._pool.execute(query, *arguments)
        except (*UNREACHABLE, asyncpg.PostgresError) as error:
            log.error("jobs.outcome_not_stored", error=str(error), mend="the lease will run out and the job run again")

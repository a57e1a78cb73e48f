"""A gateway without its telephone, in a process that ends itself by SIGKILL at the boundary that it is told.

All of it is the gateway's own, on a real database, with real HTTP to the SMS aggregator and to billing: API, engine, effects, deliveries,
jobs, notary, what is done about lost calls. Only the telephone call is not: a real one takes the better part of a minute, and here there are
hundreds; so the events of a call come to pass one by one, each in its own transaction as on a real call. Gateways that are
killed in the middle of a real call: tests/acceptance.

The program is a breeder: started once, it reads one run a line (JSON, :class:`Run`) from stdin, forks a driver for each and says what
became of it. So a start costs what a gateway's start costs, and no imports.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args
from uuid import uuid4

import aiohttp
import asyncpg
import histories
import structlog
import uvloop
from aiohttp import web
from crash_scenarios import SCENARIOS, Scenario

from gateway.consent import events as ev
from gateway.consent.order import Policy
from gateway.consent.record import ENDS, Record
from gateway.deliveries import Deliveries
from gateway.dialplan.model import load_dialplans
from gateway.effects import Effects
from gateway.engine import Engine
from gateway.house import House
from gateway.language.pack import load_pack
from gateway.ledger.sealing import Keyring
from gateway.lost_calls import close_lost_calls
from gateway.notary import Notary
from gateway.provisioning.delivery import Endpoint, Poster
from gateway.provisioning.guard import Guard
from gateway.provisioning.signature import Signer, read_secret, verify
from gateway.resources import data_folder
from gateway.settings_sections import MAIN_ENDPOINT, Ledger
from gateway.sms.http import HttpSms
from gateway.store import ledger
from gateway.store.database import Connection, Database, _as_application
from gateway.store.jobs import JobRunner
from gateway.tasks import Tasks
from gateway.telephony.errors import CallFailed
from gateway.web.api import Api, Offered
from gateway.web.routes import Route
from gateway.web.service import Service
from gateway.webhooks import Subscriptions

NOTARY = "the notary"
ORIGIN = "consent-gateway/crash"
LEDGER = Ledger(origin=ORIGIN, checkpoint_s=0.2)
KEYRING = Keyring(b"the ledger secret of crash tests")
CODE_SECRET = b"the secret of the codes, of tests"
TENANT = "billing"
API_KEY = "the key of billing"
POLICY = Policy(call_attempts=3, call_retry_s=1.0)
LONGEST_S = 180
"""Then a driver that hangs is ended by SIGALRM."""

IDLE_S = 0.01
PACK = load_pack(data_folder("prompts"), "ko")
DIALPLANS = load_dialplans(data_folder("dialplans"))
LEFT_TO_DO = """
SELECT EXISTS (SELECT FROM consent.jobs WHERE state = 'ready' AND kind = ANY ($1) AND kind <> 'expire_challenge')
    OR EXISTS (SELECT FROM consent.orders WHERE NOT state = ANY ($2)) OR EXISTS (SELECT FROM consent.pending_leaves)
    OR (SELECT max(leaf) + 1 FROM consent.leaves) > coalesce((SELECT max(size) FROM consent.checkpoints), 0)
"""
_PR_SET_PDEATHSIG = 1
_insert_entries = ledger.insert_entries
_written: ContextVar[tuple[str, ...]] = ContextVar("written", default=())


@dataclass(frozen=True)
class Run:
    """One life of a gateway. *door*: the path of its socket. *kill*: the boundary to die at, by its name or as ``#n``, the nth; empty: none.
    *trail*: the file that every boundary is written to as it is passed, the last one being that of the death.
    """

    dsn: str
    gateway: str
    scenario: str
    door: str
    trail: str
    log: str
    outside: str
    recordings: str
    secret: str
    kill: str = ""


class Boundaries:
    """Names every boundary, and dies at one."""

    def __init__(self, run: Run) -> None:
        self._kill = run.kill
        self._trail = os.open(run.trail, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._passed: Counter[str] = Counter()

    def __call__(self, where: str) -> None:
        if where.endswith("commit"):
            task = asyncio.current_task()
            nothing = NOTARY if task is not None and task.get_name() == NOTARY else "no event"
            where = f"{where} of {'+'.join(_written.get()) or nothing}"
            if where.startswith("after"):
                _written.set(())
        self._passed[where] += 1
        name = f"{where} ({self._passed[where]})"
        os.write(self._trail, f"{name}\n".encode())
        if self._kill in (name, f"#{self._passed.total()}"):
            os.kill(os.getpid(), signal.SIGKILL)


async def _insert_and_note(connection: Connection, entries: Sequence[tuple[ev.Entry, str]]) -> None:
    """Tells the boundaries which events the transaction holds that is about to be committed."""
    _written.set((*_written.get(), *(entry.event.type for entry, _ in entries)))
    await _insert_entries(connection, entries)


class ScriptedCalls:
    """In the place of gateway.calls.Calls."""

    draining = False

    def __init__(self, engine: Engine, scenario: Scenario) -> None:
        self._engine = engine
        self._scenario = scenario
        self._tasks = Tasks("call")

    def __len__(self) -> int:
        return len(self._tasks)

    async def prepare(self, record: Record) -> None:
        """There is nothing to be spoken."""

    async def dial(self, record: Record) -> str:
        call_id = str(uuid4())
        started = histories.started(call_id, self._engine.gateway)
        after = await self._engine.append(record.order.order_id, started)
        if after.call_id != call_id:
            raise CallFailed(486, f"the order is {after.state}")
        self._tasks.spawn(self._talk(record, call_id))
        return call_id

    async def note_failed(self, record: Record, reason: str) -> None:
        raise AssertionError(f"the call about {record.order.order_id} was given up: {reason}")

    async def _talk(self, record: Record, call_id: str) -> None:
        for events in self._scenario.call(record, call_id):
            await self._engine.append(record.order.order_id, *events)


class Driver:
    """Puts the parts together as :class:`gateway.app.Gateway` does."""

    def __init__(self, run: Run, database: Database, session: aiohttp.ClientSession, poster: Poster) -> None:
        self._run = run
        self._database = database
        self._done = asyncio.Event()
        self._engine = engine = Engine(
            database, policy=POLICY, secret=CODE_SECRET, keyring=KEYRING, gateway=run.gateway, now=_now,
            subscriptions=Subscriptions({(TENANT, kind): (MAIN_ENDPOINT,) for kind in get_args(ev.NoticeKind)}),
        )  # fmt: skip
        self._calls = ScriptedCalls(engine, SCENARIOS[run.scenario])
        sms = HttpSms(
            session, f"{run.outside}/sms", encoding="json", headers={}, message_id="id",
            body={"to": "{number}", "text": "{text}", "reference": "{reference}"},
        )  # fmt: skip
        key = read_secret(run.secret)
        deliveries = Deliveries(
            engine, {(TENANT, MAIN_ENDPOINT): Endpoint(f"{run.outside}/billing", Signer(key))}, poster, now=_now,
            random=random.random,
        )  # fmt: skip
        house = House("한빛통신", DIALPLANS, {"ko": PACK}, data_folder("prompts"))
        self._effects = Effects(engine, house, self._calls, sms, deliveries, most_calls=10)  # type: ignore[arg-type]
        self._api = Api(
            engine, Offered(DIALPLANS, frozenset({"ko"})), _no_dialling, {hashlib.sha256(API_KEY.encode()).digest(): TENANT},
            lambda headers, body: verify(key, headers, body, time.time()), now=_now,
        )  # fmt: skip

    async def work(self) -> None:
        """As the gateway does, until the outside has no more to say and all is done."""
        await close_lost_calls(self._engine, Path(self._run.recordings))
        kinds = self._effects.kinds()
        runner = JobRunner(self._database, kinds, self._run.gateway)
        await runner.start()
        notary = Notary(self._database, KEYRING, LEDGER, _now)
        keeping = asyncio.create_task(notary.keep_current(), name=NOTARY)
        door = await self._open_door()
        await self._done.wait()
        while not await self._idle(list(kinds)):  # noqa: ASYNC110 - what others still do is no event here
            await asyncio.sleep(IDLE_S)
        await door.cleanup()
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await runner.stop()

    async def _idle(self, kinds: list[str]) -> bool:
        """Whether nothing is left to do; a challenge that was answered still has its timer."""
        left = await self._database.pool.fetchval(LEFT_TO_DO, kinds, sorted(ENDS))
        return not left and not len(self._calls)

    async def _open_door(self) -> web.AppRunner:
        app = self._api.application()
        app.add_routes([web.post("/finish", self._finish)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.UnixSite(runner, self._run.door).start()
        return runner

    async def _finish(self, _request: web.Request) -> web.Response:
        """The outside has nothing more to say."""
        self._done.set()
        return web.json_response({})


def _describe_nothing(_service: Service, _routes: Sequence[Route]) -> None:
    """The OpenAPI document is not asked for, and takes longer to write than everything else at the start."""


async def _no_dialling(_record: Record, _target: str | None) -> str:
    raise AssertionError("no call is asked for by hand")


def _now() -> datetime:
    return datetime.now(UTC)


async def drive(run: Run) -> None:
    # as Database.open does, but for the migrations: to find that there are none takes longer than the rest of the start
    database = Database(await asyncpg.create_pool(run.dsn, min_size=1, max_size=3, init=_as_application))
    database.boundary = Boundaries(run)
    ledger.insert_entries = _insert_and_note
    Service.describe = _describe_nothing  # type: ignore[method-assign]
    try:
        async with aiohttp.ClientSession() as session, Poster(Guard(["127.0.0.0/8"])) as poster:
            await Driver(run, database, session, poster).work()
    finally:
        await database.close()


def live(run: Run) -> int:
    """The life of one driver, in the process forked for it; its exit code."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    signal.alarm(LONGEST_S)
    with open(run.log, "a", encoding="utf-8") as log:  # noqa: PTH123
        os.dup2(log.fileno(), 2)
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(log))
        try:
            uvloop.run(drive(run))
        except BaseException:  # noqa: BLE001 - told, and told by the exit code
            traceback.print_exc(file=log)
            return 1
    return 0


def main() -> None:
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        told: dict[str, Any] = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(live(Run(**told)))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - stdout is the interface


if __name__ == "__main__":
    main()

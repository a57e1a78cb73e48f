"""Everybody whom a gateway deals with, and who outlives it: SMS aggregator, billing, subscribers; and the init system that starts it again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
from aiohttp import web
from crash_driver import API_KEY, Run
from crash_scenarios import SCENARIOS, Scenario
from standardwebhooks.webhooks import Webhook

from gateway.demo.orders import sample_order
from gateway.demo.parties import CODE
from gateway.provisioning.signature import headers, read_secret

TESTS = Path(__file__).parents[1]
PATIENCE_S = 200.0
AGAIN_S = 0.01
HURRY_S = 0.05
FINISH_S = 0.2
MOST_REFUSALS = 20
HURRY = """
WITH posts AS (
    UPDATE consent.deliveries SET next_at = now() WHERE state = 'pending' AND next_at > now()
), due AS (
    UPDATE consent.jobs SET run_at = now() WHERE state = 'ready' AND token IS NULL AND run_at > now()
    AND (kind <> 'expire_challenge' OR payload->>'order_id' = $1) RETURNING 1
)
SELECT pg_notify('consent_jobs', '') FROM due
"""
"""Time passes quickly: what waits for its next attempt, or for the end of the challenge of order $1, waits no longer."""


@dataclass
class Posted:
    """A webhook as it arrived, and the status that it was answered with."""

    webhook_id: str
    body: dict[str, Any]
    status: int


@dataclass
class Sms:
    text: str
    reference: str


@dataclass
class Outside:
    """Takes webhooks and messages over HTTP. Billing answers the first attempt at each of some kinds with 500."""

    secret: str
    url: str = ""
    posted: list[Posted] = field(default_factory=list)
    sms: dict[str, list[Sms]] = field(default_factory=lambda: defaultdict(list))
    answered: Counter[str] = field(default_factory=Counter)

    async def take_webhook(self, request: web.Request) -> web.Response:
        body = await request.read()
        event: Any = Webhook(self.secret).verify(
            body, dict(request.headers)
        )  # raises, which the test sees as 500 for ever
        webhook_id = request.headers["webhook-id"]
        self.answered[webhook_id] += 1
        moody = event["type"] in ("consent.confirmed", "consent.refused") and self.answered[webhook_id] == 1
        self.posted.append(Posted(webhook_id, event, 500 if moody else 200))
        return web.json_response({"reference": f"BILL-{webhook_id[:8]}"}, status=500 if moody else 200)

    async def take_sms(self, request: web.Request) -> web.Response:
        message = await request.json()
        self.sms[message["to"]].append(Sms(message["text"], message["reference"]))
        return web.json_response({"id": token_hex(6)})

    def code(self, number: str) -> str:
        """The code that *number* was sent; empty when none came yet."""
        found = [CODE.search(sms.text) for sms in self.sms[number]]
        return next((match[0] for match in found if match), "")

    async def open(self) -> web.AppRunner:
        app = web.Application()
        app.add_routes([web.post("/billing", self.take_webhook), web.post("/sms", self.take_sms)])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner


@dataclass
class Life:
    """What became of one order. *trail*: every boundary that its gateways came past; *died_at*: those at which they died."""

    scenario: Scenario
    number: str
    trail: Path
    log: Path
    order_id: str = ""
    died_at: list[str] = field(default_factory=list)
    replied_right: bool = False
    refused: list[str] = field(default_factory=list)

    @property
    def passed(self) -> list[str]:
        return self.trail.read_text(encoding="utf-8").splitlines() if self.trail.exists() else []

    def __str__(self) -> str:
        tail = self.log.read_text(encoding="utf-8")[-6000:] if self.log.exists() else ""
        return f"order {self.order_id}, died {self.died_at}, came past {self.passed}, refused {self.refused}\n{tail}"


class Nursery:
    """One database, and one order at a time on it: its gateway is killed as told, and started again until the order is at its end."""

    def __init__(self, dsn: str, folder: Path, outside: Outside, name: int) -> None:
        self._dsn = dsn
        self._folder = folder
        self._outside = outside
        self._name = name
        self._born = 0
        self._expiring = ""
        self._breeder: asyncio.subprocess.Process
        self.owner: asyncpg.Pool

    async def open(self) -> None:
        self.owner = await asyncpg.create_pool(self._dsn, min_size=1, max_size=3)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path]), "OPENBLAS_NUM_THREADS": "1"}
        self._breeder = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("crash_driver.py")), env=environment,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def close(self) -> None:
        """The drivers die with their breeder."""
        if self._breeder.returncode is None:
            self._breeder.kill()
        await self._breeder.wait()
        await self.owner.close()

    async def bring_up(self, scenario: str, *kills: str) -> Life:
        """One order of *scenario*, whose gateways die at *kills*, one after the other, and the last one lives on."""
        self._born += 1
        self._expiring = ""
        name = f"{self._name}-{self._born}"
        files = {kind: str(self._folder / f"{name}.{kind}") for kind in ("door", "trail", "log")}
        run = Run(
            dsn=f"{self._dsn}&application_name=gateway-{name}", gateway=f"gateway-{name}", scenario=scenario,
            outside=self._outside.url, recordings=str(self._folder / "recordings"), secret=self._outside.secret, **files,
        )  # fmt: skip
        life = Life(SCENARIOS[scenario], f"+82109{self._name:02}{self._born:05}", Path(run.trail), Path(run.log))
        beside = [asyncio.create_task(self._be_outside(life, run.door)), asyncio.create_task(self._hurry())]
        try:
            async with asyncio.timeout(PATIENCE_S):
                for kill in (*kills, ""):
                    code = await self._live(replace(run, kill=kill))
                    if code == 0:
                        break
                    assert code == -signal.SIGKILL, f"the gateway ended with {code}\n{life}"
                    life.died_at.append(life.passed[-1])
                    await self._is_gone(run.gateway)
        except TimeoutError:
            raise AssertionError(f"{scenario}, killed {kills}, came to no end\n{life}") from None
        finally:
            for task in beside:
                task.cancel()
            ended = await asyncio.gather(*beside, return_exceptions=True)
        assert [] == [error for error in ended if not isinstance(error, asyncio.CancelledError)]
        return life

    async def _live(self, run: Run) -> int:
        """One life of a gateway; the exit code."""
        assert self._breeder.stdin is not None
        assert self._breeder.stdout is not None
        self._breeder.stdin.write(json.dumps(asdict(run)).encode() + b"\n")
        return int(await self._breeder.stdout.readline())

    async def _is_gone(self, gateway: str) -> None:
        """When the server, too, knows that the gateway is dead, and nothing of it is still under way."""
        while await self.owner.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", gateway):  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.001)

    async def _hurry(self) -> None:
        while True:
            await self.owner.execute(HURRY, self._expiring)
            await asyncio.sleep(HURRY_S)

    async def _be_outside(self, life: Life, door: str) -> None:
        """Billing, which orders, and the subscriber, who answers. Everything is sent until it is taken."""
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(door)) as session:

            async def send(path: str, message: dict[str, Any], **more: str) -> Any:
                body = json.dumps(message, ensure_ascii=False).encode()
                bearer = {"Authorization": f"Bearer {API_KEY}", "Content-Type": "application/json"}
                while True:
                    try:
                        async with session.post(f"http://gateway{path}", data=body, headers=bearer | more) as answer:
                            if answer.status in (200, 201, 409):  # 409: it was done, and the answer was lost
                                return await answer.json()
                            life.refused.append(f"{path}: {answer.status} {await answer.text()}")
                            assert len(life.refused) < MOST_REFUSALS, life
                    except aiohttp.ClientError:  # it is dead, and will be started again
                        pass
                    await asyncio.sleep(AGAIN_S)

            order = sample_order(life.number, datetime.now(UTC).date(), call="now")
            made = await send("/v1/orders", order, **{"Idempotency-Key": f"order of {life.number}"})
            life.order_id = made["order_id"]
            await self._answer(life, send)
            while True:
                await send("/finish", {})
                await asyncio.sleep(FINISH_S)

    async def _answer(self, life: Life, send: Callable[..., Awaitable[Any]]) -> None:
        """What is said to the challenge. Where a crash took the consent with it there is none."""
        scenario = life.scenario
        if not (scenario.replies or scenario.withdrawn or scenario.late):
            return
        while not (code := self._outside.code(life.number)):
            if await self._state(life) == "failed":
                return
            await asyncio.sleep(AGAIN_S)
        if scenario.withdrawn:
            await send(f"/v1/orders/{life.order_id}/withdraw", {"reason": "the subscriber wrote a letter"})
        if scenario.late:
            self._expiring = life.order_id
            while await self._state(life) != "expired":  # noqa: ASYNC110 - as above
                await asyncio.sleep(AGAIN_S)
        texts = {"right": code, "wrong": f"{(int(code) + 1) % 10**6:06}", "stop": "취소"}
        for place, reply in enumerate(scenario.replies):
            message = {"from": life.number, "text": texts[reply], "message_id": f"{life.number}-{place}"}
            signed = headers(
                read_secret(self._outside.secret),
                token_hex(8),
                int(time.time()),
                json.dumps(message, ensure_ascii=False).encode(),
            )
            await send("/v1/sms/inbound", message, **signed)
            life.replied_right |= reply == "right" and not scenario.late

    async def _state(self, life: Life) -> str:
        query = "SELECT state FROM consent.orders WHERE order_id = $1"
        return str(await self.owner.fetchval(query, UUID(life.order_id)))

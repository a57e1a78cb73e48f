"""The other parties of the demo, real ones: a billing system that verifies signatures, and a handset that gets the SMS."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from secrets import token_hex
from typing import Any, Literal

import aiohttp
from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from gateway.provisioning.signature import headers, read_secret

Habit = Literal["replies", "silent", "wrong"]
CODE = re.compile(r"(?<!\d)\d{6}(?!\d)")
WRONG_REPLIES = 3


@dataclass
class Billing:
    """Takes webhooks; every signature is checked by the reference implementation of Standard Webhooks."""

    secret: str
    received: dict[str, float] = field(default_factory=dict)
    """Order id → time of its first verified webhook."""
    forged: int = 0

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            event: Any = Webhook(self.secret).verify(body, dict(request.headers))
        except WebhookVerificationError:
            self.forged += 1
            return web.Response(status=401)
        self.received.setdefault(event["data"]["order_id"], time.monotonic())
        return web.json_response({"reference": f"BILL-{event['data']['order_id'][:8]}"})


@dataclass
class Handset:
    """Takes SMS from the gateway's HTTP channel, and answers by its owner's habit over the signed inbound API."""

    inbound_url: str
    secret: str
    on_sms: Callable[[str, str], None]
    habits: dict[str, Habit] = field(default_factory=dict)
    replied: dict[str, float] = field(default_factory=dict)
    """Number → time of its last reply."""
    _wrong: dict[str, int] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def take(self, request: web.Request) -> web.Response:
        message = await request.json()
        number, text = message["to"], message["text"]
        self.on_sms(number, text)
        code = CODE.search(text)
        habit = self.habits.get(number, "silent")
        wrong = self._wrong.get(number, 0)
        if habit == "replies" and code:
            self._later(number, f"인증번호 {code[0]}")
        elif habit == "wrong" and (code or 0 < wrong < WRONG_REPLIES):
            self._wrong[number] = wrong + 1
            self._later(number, f"{(int(code[0]) + 1) % 10**6:06d}" if code else "000000")
        return web.json_response({"id": token_hex(6)})

    async def reply(self, number: str, text: str) -> int:
        """Send *text* from *number*; the HTTP status of the gateway."""
        body = json.dumps({"from": number, "text": text, "message_id": token_hex(8)}, ensure_ascii=False).encode()
        signed = headers(read_secret(self.secret), token_hex(8), int(time.time()), body)
        self.replied[number] = time.monotonic()
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.inbound_url, data=body, headers=signed) as answer,
        ):
            return answer.status

    def _later(self, number: str, text: str) -> None:
        async def send() -> None:
            await self.reply(number, text)

        task = asyncio.get_running_loop().create_task(send())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def start_parties(billing: Billing, handset: Handset, port: int) -> web.AppRunner:
    """Serve both on loopback."""
    app = web.Application()
    app.add_routes([web.post("/billing", billing.take), web.post("/sms", handset.take)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner

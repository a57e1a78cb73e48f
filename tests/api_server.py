"""The HTTP API on a real socket, engine and database, and a client of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from histories import good_call, happen

from gateway.consent.order import Policy
from gateway.consent.record import Record
from gateway.demo.orders import sample_order
from gateway.dialplan.model import load_dialplans
from gateway.engine import Engine
from gateway.evidence.bundle import Exporter, Library
from gateway.ledger.sealing import Keyring
from gateway.provisioning.signature import headers as signed_headers
from gateway.provisioning.signature import verify
from gateway.resources import data_folder
from gateway.store.database import Database
from gateway.web.api import Api, Offered
from gateway.webhooks import Subscriptions

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
NUMBER, OTHER = "+821012345678", "+821087654321"
KEYS = {"billing": "billing-key-of-24-octets-x", "other": "another-key-of-24-octets-x"}
SMS_KEY = b"k" * 32
PLANS = load_dialplans(data_folder("dialplans"))
KOREAN_ONLY = PLANS["plan-upgrade"].model_copy(update={"name": "korean-only", "languages": ("ko",)})
NOBODY = Subscriptions()
Reply = tuple[int, Any]


@dataclass
class Server:
    """The API at *url*, and what stands behind it."""

    engine: Engine
    session: aiohttp.ClientSession
    url: str = ""
    time: datetime = START
    dialled: list[tuple[str, str | None]] = field(default_factory=list)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Those of the last answer."""

    def now(self) -> datetime:
        return self.time

    async def dial(self, record: Record, target: str | None) -> str:
        self.dialled.append((record.order.order_id, target))
        return "call-1"

    async def send(
        self, method: str, path: str, body: Any = None, *, key: str | None = KEYS["billing"], **rest: Any
    ) -> Reply:
        """The status and the JSON of the answer. *body*: octets as they are, else as JSON."""
        kind = {"Content-Type": "application/json"} if body is not None else {}
        headers = kind | rest.pop("headers", {}) | ({"Authorization": f"Bearer {key}"} if key else {})
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        async with self.session.request(method, self.url + path, data=data, headers=headers, **rest) as answer:
            self.headers = answer.headers
            text = await answer.text()
            if answer.status >= 400:
                assert "application/problem+json" == answer.content_type
            return answer.status, json.loads(text) if text else None

    async def order(self, number: str = NUMBER, *, key: str = KEYS["billing"], **changes: Any) -> str:
        status, answer = await self.send("POST", "/v1/orders", sample_order(number, START.date(), **changes), key=key)
        assert 201 == status
        return str(answer["order_id"])

    async def confirmed(self, number: str = NUMBER) -> str:
        """An order with both proofs."""
        order_id = await self.order(number)
        code = await self.challenge(order_id)
        await self.engine.take_message("test", f"reply-{order_id}", number, code)
        return order_id

    async def challenge(self, order_id: str) -> str:
        """Let the consent be spoken; the code that was sent."""
        record = await self.engine.record(order_id)
        return self.engine.code(await happen(self.engine, record, good_call(record)))

    async def sms(self, message: Any, *, key: bytes = SMS_KEY, age_s: int = 0, **rest: Any) -> Reply:
        """Forward a message as the aggregator would; a signature that is *age_s* seconds old."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        stamp = int(self.time.timestamp()) - age_s
        headers = signed_headers(key, "msg-1", stamp, body) | rest
        return await self.send("POST", "/v1/sms/inbound", body, key=None, headers=headers)


@asynccontextmanager
async def serving(
    database: Database, *, data_dir: Path | None = None, subscriptions: Subscriptions = NOBODY, **changes: Any
) -> AsyncIterator[Server]:
    """The API as the gateway makes it, but for *changes* to what it is made with. With *data_dir* it makes evidence."""
    async with aiohttp.ClientSession() as session:
        made = Server(None, session)  # type: ignore[arg-type]  # it needs the server's clock
        made.engine = Engine(
            database, policy=Policy(), secret=b"s" * 32, keyring=Keyring(b"k" * 32), gateway="g1", now=made.now,
            subscriptions=subscriptions,
        )  # fmt: skip
        if data_dir is not None:
            library = Library("An operator", "test/ledger", data_dir, data_folder("prompts"), PLANS)
            changes["exporter"] = Exporter(made.engine, library, made.now)
        keys = {hashlib.sha256(key.encode()).digest(): tenant for tenant, key in KEYS.items()}
        api = Api(
            made.engine, Offered(PLANS | {"korean-only": KOREAN_ONLY}, frozenset({"ko", "en"})), made.dial, keys,
            lambda headers, body: verify(SMS_KEY, headers, body, made.time.timestamp()),
            **{"now": made.now, "rates": (1000.0, 1000)} | changes,
        )  # fmt: skip
        runner = web.AppRunner(api.application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield made
        finally:
            await runner.cleanup()

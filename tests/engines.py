"""Engines on a test's database, the orders that they are asked about, and what they have written."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from histories import consented, good_call, happen, started

from gateway.consent.order import DialplanRef, OrderRequest, Policy
from gateway.consent.record import Record
from gateway.demo.orders import sample_order
from gateway.engine import Engine
from gateway.ledger.sealing import Keyring
from gateway.store.database import Database

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
NUMBER = "+821012345678"
OTHER = "+821087654321"
PLAN = DialplanRef(name="plan-upgrade", version=1, sha256="0" * 64)
SECRET = b"a secret of thirty-two octets...."
KEYRING = Keyring(b"k" * 32)


class Clock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def forward(self, **delta: float) -> None:
        self.time += timedelta(**delta)


def engine_on(
    database: Database, clock: Clock, *, gateway: str = "g1", secret: bytes = SECRET, keyring: Keyring = KEYRING
) -> Engine:
    return Engine(database, policy=Policy(), secret=secret, keyring=keyring, gateway=gateway, now=clock)


async def ordered(engine: Engine, number: str = NUMBER, *, call: str = "inbound", tenant: str = "billing") -> Record:
    request = OrderRequest.model_validate(sample_order(number, START.date(), call=call))
    return await engine.create(request, tenant, PLAN)


async def calling(engine: Engine, number: str = NUMBER, call_id: str = "call-1") -> Record:
    record = await ordered(engine, number)
    return await engine.append(record.order.order_id, started(call_id))


async def spoken(engine: Engine, number: str = NUMBER, **order: str) -> Record:
    """The consent is given; the call still runs, and its recording is not kept yet."""
    record = await ordered(engine, number, **order)
    return await happen(engine, record, consented(record))


async def challenged(engine: Engine, number: str = NUMBER, **order: str) -> Record:
    record = await ordered(engine, number, **order)
    return await happen(engine, record, good_call(record))


async def confirmed(engine: Engine, number: str = NUMBER, **order: str) -> Record:
    record = await challenged(engine, number, **order)
    await engine.take_message("http", f"right-{record.order.order_id}", number, engine.code(record))
    return await engine.record(record.order.order_id)


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

"""Orders as raw SQL sees them, and rows forged for them: what the promise in the database is tried with."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from gateway.consent.canonical import canonical


@dataclass(frozen=True)
class Known:
    """One order. *events*: the id and the time of the last event of each type, as SQL literals without their quotes."""

    order_id: str
    order_hash: str
    seq: int
    hash: str
    at: datetime
    events: dict[str, tuple[str, str]]

    def event(self, kind: str) -> str:
        return self.events[kind][0]

    def time(self, kind: str) -> str:
        return self.events[kind][1]


@dataclass(frozen=True)
class Standing:
    """A ledger with four orders, made by the engine itself.

    *confirmed* has its webhook; *waiting* is challenged, and a wrong code came; *placed* was called, and everything came in but the
    consent counts not, as a disclosure was missing; *stopped*: the subscriber sent a stop word. All events but the last three are in
    the tree, under one checkpoint; *stranger* is a login that is a member of consent_app and nothing else.
    """

    dsn: str
    stranger: str
    confirmed: Known
    waiting: Known
    placed: Known
    stopped: Known
    size: int


async def known(connection: asyncpg.Connection, order_id: str) -> Known:
    order_hash = await connection.fetchval("SELECT order_hash FROM consent.orders WHERE order_id = $1", UUID(order_id))
    rows = await connection.fetch("SELECT * FROM consent.events WHERE order_id = $1 ORDER BY seq", UUID(order_id))
    last = rows[-1]
    events = {row["type"]: (str(row["event_id"]), row["at"].isoformat()) for row in rows}
    return Known(order_id, order_hash, last["seq"], last["hash"], last["at"], events)


def event(
    order: Known,
    kind: str = "hold.placed",
    *,
    text: str | None = None,
    columns: dict[str, Any] | None = None,
    **said: Any,
) -> str:
    """An INSERT of the event that comes next in the record of *order*: its envelope says *said*, or is *text*, and its columns are
    those of a true one but for *columns*.
    """
    at = order.at + timedelta(seconds=1)
    facts = {"order_id": order.order_id, "seq": order.seq + 1, "event_id": str(uuid4()), "at": at, "type": kind}
    payload = base64.b64encode(bytes(40)).decode()
    body = facts | {"at": at.isoformat().replace("+00:00", "Z"), "previous": order.hash, "payload": payload} | said
    envelope = canonical(body).decode() if text is None else text
    row = facts | {"envelope": envelope, "hash": sha256(envelope.encode()).hexdigest()} | (columns or {})
    values = ", ".join(literal(row[name]) for name in ("order_id", "seq", "event_id", "at", "type", "envelope", "hash"))
    return f"INSERT INTO consent.events VALUES ({values});"


def envelope(order: Known, **said: Any) -> dict[str, Any]:
    """What the envelope of a true next event says, but for *said*."""
    at = (order.at + timedelta(seconds=1)).isoformat().replace("+00:00", "Z")
    body = {"order_id": order.order_id, "seq": order.seq + 1, "event_id": str(uuid4()), "at": at, "type": "hold.placed"}
    return body | {"previous": order.hash, "payload": base64.b64encode(bytes(40)).decode()} | said


def literal(value: Any) -> str:
    return "'" + str(value).replace("'", "''") + "'"


def spoken(order: Known, **changes: str) -> str:
    """The first proof, of the consent.spoken and the utterance.heard in the record."""
    row = {
        "order_id": order.order_id, "order_hash": order.order_hash,
        "event_id": order.event("consent.spoken"), "at": order.time("consent.spoken"),
        "affirmation_id": order.event("utterance.heard"), "affirmed_at": order.time("utterance.heard"),
    }  # fmt: skip
    return insert("spoken_consents", row | changes)


def reply(order: Known, **changes: str) -> str:
    """The second proof, of the reply.received in the record."""
    row = {
        "order_id": order.order_id, "order_hash": order.order_hash, "event_id": order.event("reply.received"),
        "at": order.time("reply.received"), "expires_at": "2027-01-01+00",
    }  # fmt: skip
    return insert("code_replies", row | changes)


def confirm(order: Known, **changes: str) -> str:
    row = {
        "order_id": order.order_id, "order_hash": order.order_hash, "spoken_at": order.time("consent.spoken"),
        "recording_id": order.event("recording.kept"), "recorded_at": order.time("recording.kept"),
        "replied_at": order.time("reply.received"),
    }  # fmt: skip
    return insert("confirmations", row | changes)


def provision(order: Known, **changes: str) -> str:
    row = {"webhook_id": str(uuid4()), "order_id": order.order_id, "order_hash": order.order_hash, "at": "now"}
    return insert("provisioning_events", row | changes)


def refuse(order: Known, kind: str, state: str) -> str:
    """A refusal that the last event of *kind* is."""
    row = {
        "order_id": order.order_id,
        "event_id": order.event(kind),
        "type": kind,
        "at": order.time(kind),
        "state": state,
    }
    return insert("refusals", row)


def put(order: Known, state: str) -> str:
    return f"UPDATE consent.orders SET state = {literal(state)} WHERE order_id = {literal(order.order_id)};"


def insert(table: str, row: dict[str, Any]) -> str:
    return f"INSERT INTO consent.{table} ({', '.join(row)}) VALUES ({', '.join(map(literal, row.values()))});"

"""The append-only ledger and its neighbours: rows in, rows out, nothing decided."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from gateway.consent.canonical import canonical, chain
from gateway.consent.errors import BrokenChain
from gateway.consent.events import Entry
from gateway.consent.proofs import Confirmation, SpokenConsent
from gateway.consent.record import Record
from gateway.store.database import Connection, sql
from gateway.store.errors import UnknownOrder


async def lock_order(connection: Connection, order_id: str) -> None:
    """Nobody else appends to this record until the transaction ends. Raises UnknownOrder."""
    if await connection.fetchval(sql("lock_order"), _uuid(order_id)) is None:
        raise UnknownOrder(f"there is no order {order_id}")


async def load_entries(connection: Connection, order_id: str) -> list[Entry]:
    """The events of a record, their chain verified. Raises UnknownOrder or BrokenChain."""
    rows = await connection.fetch(sql("select_events"), _uuid(order_id))
    if not rows:
        raise UnknownOrder(f"there is no order {order_id}")
    entries: list[Entry] = []
    previous = ""
    for row in rows:
        if chain(previous, row["body"].encode()) != row["hash"]:
            raise BrokenChain(f"order {order_id}: event {len(entries) + 1} does not follow its predecessor")
        previous = row["hash"]
        entry = Entry.model_validate(json.loads(row["body"]) | {"hash": row["hash"]})
        if (entry.order_id, entry.seq) != (str(_uuid(order_id)), len(entries) + 1):
            raise BrokenChain(
                f"order {order_id}: event {len(entries) + 1} says that it is {entry.order_id}/{entry.seq}"
            )
        entries.append(entry)
    return entries


async def last_hash(connection: Connection, order_id: str) -> str | None:
    """The hash of the record's last event."""
    found: str | None = await connection.fetchval(sql("select_last_hash"), _uuid(order_id))
    return found


async def insert_order(connection: Connection, record: Record, at: datetime) -> None:
    order = record.order
    await connection.execute(
        sql("insert_order"),
        _uuid(order.order_id), record.order_hash, order.tenant, order.subscriber.number, record.state, at,
    )  # fmt: skip


async def insert_entry(connection: Connection, entry: Entry, previous_hash: str) -> Entry:
    """Append *entry*; returns it with its place in the chain."""
    body = canonical(entry.body())
    hashed = entry.model_copy(update={"hash": chain(previous_hash, body)})
    await connection.execute(
        sql("insert_event"),
        _uuid(entry.order_id), entry.seq, UUID(entry.event_id), entry.at, entry.event.type, body.decode(), hashed.hash,
    )  # fmt: skip
    return hashed


async def project(connection: Connection, record: Record, at: datetime) -> None:
    gateway = record.gateway if record.state == "calling" else None
    await connection.execute(sql("project_order"), _uuid(record.order.order_id), record.state, gateway, at)


async def insert_spoken(connection: Connection, spoken: SpokenConsent) -> None:
    await connection.execute(
        sql("insert_spoken_consent"), _uuid(spoken.order_id), spoken.order_hash, UUID(spoken.event_id), spoken.at
    )


async def insert_confirmation(connection: Connection, confirmation: Confirmation) -> None:
    """The code reply and the confirmation that joins both proofs."""
    reply, order_id = confirmation.reply, _uuid(confirmation.order_id)
    await connection.execute(
        sql("insert_code_reply"), order_id, reply.order_hash, UUID(reply.event_id), reply.at, reply.expires_at
    )
    await connection.execute(sql("insert_confirmation"), order_id, reply.order_hash, confirmation.spoken.at, reply.at)


async def insert_provisioning(
    connection: Connection, confirmation: Confirmation, webhook_id: str, tenant: str, body: bytes, at: datetime
) -> None:
    order_id = _uuid(confirmation.order_id)
    await connection.execute(sql("insert_provisioning_event"), UUID(webhook_id), order_id, confirmation.order_hash, at)
    await connection.execute(sql("insert_delivery"), UUID(webhook_id), tenant, order_id, body.decode(), at)


async def orders_of(connection: Connection, number: str, states: Sequence[str]) -> list[str]:
    """The orders of *number* (E.164) in one of *states*, the newest first."""
    return [str(row["order_id"]) for row in await connection.fetch(sql("orders_of"), number, list(states))]


async def list_orders(
    connection: Connection, *, tenant: str | None = None, state: str | None = None, most: int = 100
) -> list[dict[str, Any]]:
    return [dict(row) for row in await connection.fetch(sql("list_orders"), tenant, state, most)]


async def resolve_order(connection: Connection, prefix: str) -> str:
    """The one order whose id begins with *prefix*. Raises UnknownOrder for none or several."""
    if not prefix or set(prefix) - set("0123456789abcdef-"):
        raise UnknownOrder(f"{prefix!r} is no order id")
    found = await connection.fetch(sql("find_orders_by_prefix"), prefix)
    if len(found) != 1:
        raise UnknownOrder(f"{'several orders begin' if found else 'no order begins'} with {prefix}")
    return str(found[0]["order_id"])


def _uuid(order_id: str) -> UUID:
    try:
        return UUID(order_id)
    except ValueError as error:
        raise UnknownOrder(f"{order_id!r} is no order id") from error

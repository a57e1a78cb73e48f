"""The append-only ledger and its neighbours: rows in, rows out, nothing decided."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from gateway.consent.errors import BrokenChain
from gateway.consent.events import Entry
from gateway.consent.proofs import Confirmation, SpokenConsent
from gateway.consent.record import Record
from gateway.ledger.envelope import open_envelope
from gateway.ledger.errors import Unsealable
from gateway.ledger.sealing import Keyring
from gateway.store.database import Connection, sql
from gateway.store.errors import ErasedRecord, UnknownOrder, WrongSecret


async def lock_order(connection: Connection, order_id: str) -> None:
    """Nobody else appends to this record until the transaction ends. Raises UnknownOrder."""
    if await connection.fetchval(sql("lock_order"), _uuid(order_id)) is None:
        raise UnknownOrder(f"there is no order {order_id}")


async def insert_record_key(connection: Connection, keyring: Keyring, order_id: str, key: bytes) -> None:
    await connection.execute(sql("insert_record_key"), _uuid(order_id), keyring.wrap(key, order_id))


async def record_key(connection: Connection, keyring: Keyring, order_id: str) -> bytes:
    """What the record is sealed with. Raises UnknownOrder, ErasedRecord, Unsealable."""
    row = await connection.fetchrow(sql("select_record_key"), _uuid(order_id))
    if row is None:
        if await connection.fetchrow(sql("select_order"), _uuid(order_id)) is None:
            raise UnknownOrder(f"there is no order {order_id}")
        raise ErasedRecord(f"order {order_id} was erased: its key is destroyed")
    return keyring.unwrap(row["wrapped"], str(_uuid(order_id)))


async def check_keyring(connection: Connection, keyring: Keyring) -> None:
    """Whether *keyring* is the one that the records here are sealed with. Raises WrongSecret."""
    row = await connection.fetchrow(sql("any_record_key"))
    if row is None:
        return
    try:
        keyring.unwrap(row["wrapped"], str(row["order_id"]))
    except Unsealable as error:
        raise WrongSecret(
            "ledger.secret: is not the one that this database's records are sealed with; put back its ledger-secret in data_dir"
        ) from error


async def load_envelopes(connection: Connection, order_id: str) -> list[tuple[str, str]]:
    """The events of a record as they were hashed, each with its hash; nothing is verified. Raises UnknownOrder."""
    rows = await connection.fetch(sql("select_events"), _uuid(order_id))
    if not rows:
        raise UnknownOrder(f"there is no order {order_id}")
    return [(row["envelope"], row["hash"]) for row in rows]


async def load_entries(connection: Connection, order_id: str, key: bytes) -> list[Entry]:
    """The events of a record, opened with the *key* of its events, their chain verified. Raises UnknownOrder, BrokenChain,
    Unsealable.
    """
    entries: list[Entry] = []
    previous = ""
    for envelope, hashed in await load_envelopes(connection, order_id):
        entry, follows = open_envelope(envelope, key)
        if (entry.hash, follows) != (hashed, previous):
            raise BrokenChain(f"order {order_id}: event {len(entries) + 1} does not follow its predecessor")
        if (entry.order_id, entry.seq) != (str(_uuid(order_id)), len(entries) + 1):
            raise BrokenChain(
                f"order {order_id}: event {len(entries) + 1} says that it is {entry.order_id}/{entry.seq}"
            )
        previous = hashed
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


async def insert_entries(connection: Connection, entries: Sequence[tuple[Entry, str]]) -> None:
    """Append *entries* of one record, each with its envelope, in their order."""
    rows = [
        (_uuid(entry.order_id), entry.seq, UUID(entry.event_id), entry.at, entry.event.type, envelope, entry.hash)
        for entry, envelope in entries
    ]
    if len(rows) == 1:
        await connection.execute(sql("insert_event"), *rows[0])
    else:
        await connection.executemany(sql("insert_event"), rows)


async def project(connection: Connection, record: Record, at: datetime) -> None:
    gateway = record.gateway if record.on_call else None
    await connection.execute(sql("project_order"), _uuid(record.order.order_id), record.state, gateway, at)


async def insert_spoken(connection: Connection, spoken: SpokenConsent) -> None:
    await connection.execute(
        sql("insert_spoken_consent"),
        _uuid(spoken.order_id), spoken.order_hash, UUID(spoken.event_id), spoken.at,
        UUID(spoken.affirmation.event_id), spoken.affirmation.at,
    )  # fmt: skip


async def insert_confirmation(connection: Connection, confirmation: Confirmation) -> None:
    """The code reply and the confirmation that joins both proofs."""
    reply, order_id = confirmation.reply, _uuid(confirmation.order_id)
    await connection.execute(
        sql("insert_code_reply"), order_id, reply.order_hash, UUID(reply.event_id), reply.at, reply.expires_at
    )
    recording = confirmation.recording
    await connection.execute(
        sql("insert_confirmation"),
        order_id, reply.order_hash, confirmation.spoken.at, UUID(recording.event_id), recording.at, reply.at,
    )  # fmt: skip


async def insert_refusal(connection: Connection, entry: Entry, state: str) -> None:
    """The event that ended the order without a confirmation, or took one back."""
    await connection.execute(
        sql("insert_refusal"), _uuid(entry.order_id), UUID(entry.event_id), entry.event.type, entry.at, state
    )


async def insert_provisioning(
    connection: Connection, confirmation: Confirmation, webhook_id: str, at: datetime
) -> None:
    order_id = _uuid(confirmation.order_id)
    await connection.execute(sql("insert_provisioning_event"), UUID(webhook_id), order_id, confirmation.order_hash, at)


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

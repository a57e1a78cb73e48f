"""Rows of the API: keys, idempotency keys, the audit, offers, and the do-not-call journal. Nothing is decided here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from gateway.store.database import Connection, Database, sql

FORGOTTEN_AT_ONCE = 20
"""Outdated idempotency keys that go with each new one: more than come, so that they never pile up."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key. *rate* and *burst* are None where those of the settings hold."""

    key_id: str
    tenant: str
    name: str
    secret_hash: str
    scopes: tuple[str, ...]
    rate: float | None
    burst: int | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One request. *route* is the template of its path; *order_id* is None where it is about no order."""

    at: datetime
    tenant: str | None
    key_id: str | None
    method: str
    route: str
    order_id: UUID | None
    status: int
    remote: str


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """What a request with an idempotency key asked, and the order that it made."""

    fingerprint: bytes
    order_id: str


async def insert_key(database: Database, row: KeyRow) -> None:
    await database.pool.execute(
        sql("insert_api_key"),
        row.key_id, row.tenant, row.name, row.secret_hash, list(row.scopes), row.rate, row.burst, row.created_at,
        row.expires_at,
    )  # fmt: skip


async def find_key(database: Database, key_id: str) -> KeyRow | None:
    row = await database.pool.fetchrow(sql("select_api_key"), key_id)
    if row is None:
        return None
    return KeyRow(**{field.name: row[field.name] for field in fields(KeyRow)})


async def list_keys(database: Database, tenant: str | None) -> list[dict[str, Any]]:
    """All keys of *tenant*, or of all tenants, the newest first; without what could be used."""
    return [dict(row) for row in await database.pool.fetch(sql("list_api_keys"), tenant)]


async def revoke_key(database: Database, key_id: str, reason: str, at: datetime) -> bool:
    """Whether it is revoked by this, rather than unknown or revoked before."""
    done: str = await database.pool.execute(sql("revoke_api_key"), key_id, reason, at)
    return done == "INSERT 0 1"


async def touch_key(database: Database, key_id: str, at: datetime) -> None:
    await database.pool.execute(sql("touch_api_key"), key_id, at)


async def insert_audit(database: Database, row: AuditRow) -> None:
    await database.pool.execute(
        sql("insert_audit"), row.at, row.tenant, row.key_id, row.method, row.route, row.order_id, row.status, row.remote
    )


async def lock_request(connection: Connection, tenant: str, key_hash: bytes) -> bool:
    """Whether nobody else works on this request; nobody will until the transaction ends."""
    locked: bool = await connection.fetchval(sql("lock_idempotency_key"), tenant, key_hash)
    return locked


async def find_request(connection: Connection, tenant: str, key_hash: bytes) -> KeptRequest | None:
    row = await connection.fetchrow(sql("select_idempotency_key"), tenant, key_hash)
    return KeptRequest(row["fingerprint"], str(row["order_id"])) if row else None


async def keep_request(
    connection: Connection, tenant: str, key_hash: bytes, kept: KeptRequest, at: datetime, forget_before: datetime
) -> None:
    await connection.execute(sql("insert_idempotency_key"), tenant, key_hash, kept.fingerprint, UUID(kept.order_id), at)
    await connection.execute(sql("forget_idempotency_keys"), forget_before, FORGOTTEN_AT_ONCE)

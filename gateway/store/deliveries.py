"""Rows of webhooks: deliveries, their attempts, the endpoints that were disabled. What is sealed stays sealed here."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from gateway.store.database import Connection, sql
from gateway.store.errors import UnknownDelivery


async def list_deliveries(
    connection: Connection,
    *,
    tenant: str | None = None,
    state: str | None = None,
    kind: str | None = None,
    order_id: str | None = None,
    endpoint: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    before: tuple[datetime, str] | None = None,
    most: int = 100,
) -> list[dict[str, Any]]:
    """The newest first; *before* is the ``(created_at, webhook_id)`` of the last one of the page before."""
    at, webhook_id = before or (None, None)
    rows = await connection.fetch(
        sql("list_deliveries"),
        tenant, state, kind, UUID(order_id) if order_id else None, endpoint, since, until, at,
        UUID(webhook_id) if webhook_id else None, most,
    )  # fmt: skip
    return [dict(row) for row in rows]


async def find_delivery(connection: Connection, webhook_id: str, tenant: str | None = None) -> dict[str, Any]:
    """One delivery, its body sealed. Raises UnknownDelivery, also for one of another tenant than *tenant*."""
    try:
        row = await connection.fetchrow(sql("select_delivery"), UUID(webhook_id))
    except ValueError:
        row = None
    if row is None or (tenant is not None and row["tenant"] != tenant):
        raise UnknownDelivery(f"there is no webhook {webhook_id}")
    return dict(row)


async def attempts_of(connection: Connection, webhook_id: str) -> list[dict[str, Any]]:
    """Its attempts in their order, the answers sealed."""
    return [dict(row) for row in await connection.fetch(sql("select_attempts"), UUID(webhook_id))]


async def deliveries_of_order(connection: Connection, order_id: str) -> list[str]:
    """The webhook ids of an order, the oldest first."""
    return [str(row["webhook_id"]) for row in await connection.fetch(sql("deliveries_of_order"), UUID(order_id))]


async def resolve_delivery(connection: Connection, prefix: str) -> str:
    """The one webhook whose id begins with *prefix*. Raises UnknownDelivery for none or several."""
    if not prefix or set(prefix) - set("0123456789abcdef-"):
        raise UnknownDelivery(f"{prefix!r} is no webhook id")
    found = await connection.fetch(sql("find_deliveries_by_prefix"), prefix)
    if len(found) != 1:
        raise UnknownDelivery(f"{'several webhooks begin' if found else 'no webhook begins'} with {prefix}")
    return str(found[0]["webhook_id"])


async def endpoint_states(connection: Connection) -> dict[tuple[str, str], dict[str, Any]]:
    """What was last changed at each endpoint, by tenant and name; one that nobody ever changed is not in it."""
    return {(row["tenant"], row["endpoint"]): dict(row) for row in await connection.fetch(sql("endpoint_states"))}


async def waiting_by_endpoint(connection: Connection) -> dict[tuple[str, str], dict[str, Any]]:
    """How many deliveries are pending and dead, by tenant and endpoint."""
    return {(row["tenant"], row["endpoint"]): dict(row) for row in await connection.fetch(sql("pending_by_endpoint"))}

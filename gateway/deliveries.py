"""Webhooks from the event that causes them to their end: written with it, posted, noted, given up, posted again.

What is posted and what was answered is sealed with the key of the order's events: when the person is erased, both are gone.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import structlog

from gateway.consent import events as ev
from gateway.consent.canonical import canonical
from gateway.consent.proofs import Confirmation
from gateway.consent.record import CONFIRMED, Record
from gateway.ledger.sealing import events_key, seal, unseal
from gateway.provisioning.delivery import Answer, Endpoint, Poster
from gateway.provisioning.schedule import next_delay_s
from gateway.settings_sections import MAIN_ENDPOINT
from gateway.store import deliveries as rows
from gateway.store import ledger
from gateway.store.database import Connection, sql
from gateway.store.errors import ErasedRecord
from gateway.store.jobs import Job, Retry, enqueue
from gateway.webhooks import Subscriptions, confirmed_body, notice_body

if TYPE_CHECKING:
    from gateway.engine import Engine

log = structlog.get_logger(__name__)
JOB = "deliver_webhook"
MOST_AT_ONCE = 64
MOST_PER_ENDPOINT = 16
"""One billing system that hangs must not hold up the others."""

BUSY_S = 5.0
EARLY_S = 1.0
"""A job that runs this much sooner than its schedule is only a clock's rounding."""


async def confirm(
    connection: Connection, record: Record, confirmation: Confirmation, entry: ev.Entry, key: bytes
) -> None:
    """The one ``consent.confirmed`` of an order, and its provisioning event. *key* is that of the record's events."""
    webhook_id = str(uuid4())
    await ledger.insert_provisioning(connection, confirmation, webhook_id, entry.at)
    body = confirmed_body(record, confirmation)
    await _insert(connection, record, "consent.confirmed", MAIN_ENDPOINT, entry, key, body, webhook_id)


async def notify(
    connection: Connection,
    record: Record,
    kind: ev.NoticeKind,
    entry: ev.Entry,
    key: bytes,
    subscriptions: Subscriptions,
) -> None:
    """One delivery for each endpoint of the tenant that wants to know of *kind*."""
    for endpoint in subscriptions.of(record.order.tenant, kind):
        body = notice_body(record, kind, entry.at)
        await _insert(connection, record, kind, endpoint, entry, key, body, str(uuid4()))


async def _insert(
    connection: Connection,
    record: Record,
    kind: ev.WebhookKind,
    endpoint: str,
    entry: ev.Entry,
    key: bytes,
    body: dict[str, Any],
    webhook_id: str,
) -> None:
    order_id = record.order.order_id
    provisioning_id = UUID(webhook_id) if kind == "consent.confirmed" else None
    sealed = seal(key, canonical(body), _body_of(order_id, webhook_id))
    await connection.execute(
        sql("insert_delivery"),
        UUID(webhook_id), kind, record.order.tenant, endpoint, UUID(order_id), UUID(entry.event_id), provisioning_id,
        sealed, entry.at,
    )  # fmt: skip
    await enqueue(connection, JOB, f"{webhook_id}:0", {"webhook_id": webhook_id, "schedule": 0})


def _body_of(order_id: str, webhook_id: str) -> bytes:
    """What the sealed body is bound to."""
    return f"{order_id}/delivery/{webhook_id}".encode()


def _answer_of(order_id: str, webhook_id: str, attempt: int) -> bytes:
    return f"{order_id}/delivery/{webhook_id}/{attempt}".encode()


@dataclass(frozen=True, slots=True)
class Window:
    """Which deliveries are meant; None is any. *since* and *until* are of the event that they tell of."""

    since: datetime | None = None
    until: datetime | None = None
    state: str | None = None
    tenant: str | None = None
    endpoint: str | None = None
    kind: str | None = None


async def replay_window(connection: Connection, window: Window, now: datetime, webhook_id: str | None = None) -> int:
    """Post all deliveries in *window* again, each under its old webhook-id and with its whole schedule. How many they are.

    Left out: what is under way, and confirmations of orders that were frozen since.
    """
    found = await connection.fetchval(
        sql("revive_deliveries"),
        UUID(webhook_id) if webhook_id else None, window.tenant, window.endpoint, window.kind, window.state,
        window.since, window.until, sorted(CONFIRMED), now,
    )  # fmt: skip
    return int(found)


async def replay(connection: Connection, webhook_id: str, now: datetime, tenant: str | None = None) -> str:
    """The same for one. Returns why not; empty when it is done. Raises UnknownDelivery."""
    row = await rows.find_delivery(connection, webhook_id, tenant)
    if await replay_window(connection, Window(tenant=tenant), now, str(row["webhook_id"])):
        return ""
    if row["kind"] == "consent.confirmed" and row["order_state"] not in CONFIRMED:
        return f"webhook {webhook_id} is not posted again: its order is {row['order_state']}"
    if row["state"] == "pending":
        return f"webhook {webhook_id} is under way"
    return f"webhook {webhook_id} is not posted again: its person was erased"


async def change_endpoint(
    connection: Connection, tenant: str, endpoint: str, now: datetime, *, disabled: bool, reason: str
) -> None:
    """Disable or enable an endpoint, for all gateways. What waits for a disabled one dies at once."""
    await connection.execute(sql("insert_endpoint_change"), tenant, endpoint, disabled, reason, now)
    if disabled:
        await connection.execute(sql("hurry_deliveries"), tenant, endpoint)


async def keep_reference(connection: Connection, order_id: str, tenant: str, reference: str, now: datetime) -> bool:
    """How the billing system names the order. Whether that is news."""
    inserted = await connection.fetchval(sql("insert_billing_reference"), UUID(order_id), tenant, reference, now)
    return inserted is not None


async def shown(engine: Engine, webhook_id: str, tenant: str | None = None) -> dict[str, Any]:
    """A delivery with its body (text) and the kept answers, opened; both None where the person was erased.

    Raises UnknownDelivery.
    """
    async with engine.database.pool.acquire() as connection:
        row = await rows.find_delivery(connection, webhook_id, tenant)
        attempts = await rows.attempts_of(connection, webhook_id)
    webhook_id, order_id = str(row["webhook_id"]), str(row["order_id"])
    try:
        key: bytes | None = events_key(await engine.record_key(order_id))
    except ErasedRecord:
        key = None
    for attempt in attempts:
        sealed = attempt.pop("answer")
        opened = unseal(key, sealed, _answer_of(order_id, webhook_id, attempt["attempt"])) if key else None
        attempt["answer"] = json.loads(opened) if opened else None
    body = unseal(key, row["body"], _body_of(order_id, webhook_id)).decode() if key else None
    return row | {"webhook_id": webhook_id, "order_id": order_id, "body": body, "all_attempts": attempts}


async def of_order(engine: Engine, order_id: str) -> list[dict[str, Any]]:
    """Every delivery of an order as :func:`shown` shows it, the oldest first."""
    async with engine.database.pool.acquire() as connection:
        webhook_ids = await rows.deliveries_of_order(connection, order_id)
    return [await shown(engine, webhook_id) for webhook_id in webhook_ids]


class Deliveries:
    """Makes the attempts. *random* (0 to 1) and *jitter* spread what failed together."""

    def __init__(
        self,
        engine: Engine,
        endpoints: Mapping[tuple[str, str], Endpoint],
        poster: Poster,
        *,
        now: Callable[[], datetime],
        random: Callable[[], float],
        jitter: float = 0.0,
    ) -> None:
        self._engine = engine
        self._endpoints = endpoints
        self._poster = poster
        self._now = now
        self._random = random
        self._jitter = jitter
        self._busy: Counter[tuple[str, str]] = Counter()
        self.counts: Counter[tuple[str, str]] = Counter()
        """By kind and outcome: delivered, retry, dead, cancelled."""
        self.posts = 0
        self.seconds = 0.0

    async def attempt(self, job: Job) -> None:
        """One attempt, and what comes of it. Raises Retry while the schedule lasts."""
        webhook_id: str = job.payload["webhook_id"]
        schedule: int = job.payload["schedule"]
        found = await self._engine.database.pool.fetchrow(sql("select_attemptable"), UUID(webhook_id))
        if found is None or found["state"] != "pending" or found["schedule"] != schedule:
            return
        row = dict(found)
        end = _end_of(row)
        if end is not None:
            await self._end(row, *end)
            return
        where = (row["tenant"], row["endpoint"])
        if row["wait_s"] is not None and row["wait_s"] > EARLY_S:
            raise Retry(row["wait_s"], "the gateway ended between the attempt before and its delay", counted=False)
        if self._busy[where] >= MOST_PER_ENDPOINT:
            raise Retry(BUSY_S * (1 + self._random()), f"{where[0]}/{where[1]} is busy", counted=False)
        self._busy[where] += 1
        try:
            answer = await self._post(row)
        finally:
            self._busy[where] -= 1
        delay_s = None if answer.gone else next_delay_s(job.attempt, answer.retry_after_s, self._jitter, self._random)
        await self._note(row, answer, delay_s)
        if not answer.accepted and delay_s is not None:
            raise Retry(delay_s, answer.error)

    async def _post(self, row: Mapping[str, Any]) -> Answer:
        webhook_id, order_id = str(row["webhook_id"]), str(row["order_id"])
        endpoint = self._endpoints.get((row["tenant"], row["endpoint"]))
        if endpoint is None:
            return Answer(None, error=f"this gateway's settings have no endpoint {row['tenant']}/{row['endpoint']}")
        key = events_key(self._engine.keyring.unwrap(row["wrapped"], order_id))
        body = unseal(key, row["body"], _body_of(order_id, webhook_id))
        answer = await self._poster.post(endpoint, webhook_id, body, self._now)
        self.posts += 1
        self.seconds += answer.duration_ms / 1000
        return answer

    async def _note(self, row: Mapping[str, Any], answer: Answer, delay_s: float | None) -> None:
        """What came of one POST, in the delivery and in the record, together."""
        webhook_id, order_id, tenant = str(row["webhook_id"]), str(row["order_id"]), row["tenant"]
        kind, endpoint = row["kind"], row["endpoint"]
        state = "delivered" if answer.accepted else "dead" if delay_s is None else "pending"
        key = events_key(self._engine.keyring.unwrap(row["wrapped"], order_id))
        kept = {"headers": dict(answer.headers), "body": base64.b64encode(answer.body).decode()}
        async with self._engine.database.transaction() as connection:
            await ledger.lock_order(connection, order_id)
            now = self._now()
            delay = None if delay_s is None or answer.accepted else timedelta(seconds=delay_s)
            attempt = await connection.fetchval(
                sql("note_attempt"), row["webhook_id"], row["schedule"], state, answer.status, answer.error, delay, now
            )
            sealed = seal(key, json.dumps(kept).encode(), _answer_of(order_id, webhook_id, attempt))
            await connection.execute(
                sql("insert_attempt"), row["webhook_id"], attempt, now, self._engine.gateway, answer.status,
                answer.error, answer.duration_ms, sealed,
            )  # fmt: skip
            record = await self._engine.append_within(connection, order_id, ev.DeliveryAttempted(
                webhook_id=webhook_id, attempt=attempt, status=answer.status, error=answer.error, kind=kind, endpoint=endpoint,
            ))  # fmt: skip
            if answer.accepted and kind == "consent.confirmed":
                await self._accepted(connection, record, webhook_id, answer.reference, now)
            if state == "dead":
                await self._engine.append_within(connection, order_id, ev.DeliveryDead(
                    webhook_id=webhook_id, attempts=attempt, kind=kind, endpoint=endpoint
                ))  # fmt: skip
        self._told(row, "retry" if state == "pending" else state, answer.error)
        if answer.gone:  # by itself: several may be told so at once, each holding its own delivery
            reason = f"it answered 410 at {now.isoformat(timespec='seconds')}"
            async with self._engine.database.transaction() as connection:
                await change_endpoint(connection, tenant, endpoint, now, disabled=True, reason=reason)
            log.error("endpoint.disabled", tenant=tenant, endpoint=endpoint, mend="consent-gateway deliveries enable")

    async def _accepted(
        self, connection: Connection, record: Record, webhook_id: str, reference: str, now: datetime
    ) -> None:
        """Billing has taken it. A replay that is taken once more changes nothing but a new reference."""
        order_id = record.order.order_id
        news = bool(reference) and await keep_reference(connection, order_id, record.order.tenant, reference, now)
        if record.state != "provisioned":
            provisioned = ev.OrderProvisioned(webhook_id=webhook_id, reference=reference)
            await self._engine.append_within(connection, order_id, provisioned)
        elif news:
            acknowledged = ev.BillingAcknowledged(reference=reference, source="webhook")
            await self._engine.append_within(connection, order_id, acknowledged)

    async def _end(self, row: Mapping[str, Any], state: str, why: str) -> None:
        """It is posted no more, and no attempt was made."""
        order_id = str(row["order_id"])
        async with self._engine.database.transaction() as connection:
            await ledger.lock_order(connection, order_id)
            attempts = await connection.fetchval(
                sql("end_delivery"), row["webhook_id"], row["schedule"], state, why, self._now()
            )
            if attempts is not None and state == "dead":
                await self._engine.append_within(connection, order_id, ev.DeliveryDead(
                    webhook_id=str(row["webhook_id"]), attempts=attempts, kind=row["kind"], endpoint=row["endpoint"]
                ))  # fmt: skip
        self._told(row, state, why)

    def _told(self, row: Mapping[str, Any], outcome: str, why: str) -> None:
        self.counts[row["kind"], outcome] += 1
        level = {"delivered": log.info, "dead": log.error}.get(outcome, log.warning)
        level(f"delivery.{outcome}", order=str(row["order_id"]), webhook_id=str(row["webhook_id"]), kind=row["kind"],
              tenant=row["tenant"], endpoint=row["endpoint"], error=why)  # fmt: skip


def _end_of(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """The state that a delivery ends in without another attempt, and why; None when it may be posted."""
    if row["wrapped"] is None:
        return "cancelled", "the person was erased"
    if row["kind"] == "consent.confirmed" and row["order_state"] not in CONFIRMED:
        return "cancelled", f"the order is {row['order_state']}"
    if row["disabled"]:
        return "dead", f"endpoint {row['tenant']}/{row['endpoint']} is disabled: {row['disabled']}"
    return None

"""Webhooks from the event to their end, over real HTTP and a real database: written, posted, noted, given up, posted again."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from billing_bench import FarEnd, Raw, Reader, Writer, far_end, raw
from engines import KEYRING, NUMBER, PLAN, SECRET
from histories import ended, good_call, happen, started
from prometheus_client import CollectorRegistry, generate_latest
from standardwebhooks import Webhook, WebhookVerificationError

from gateway import deliveries
from gateway.consent import events as ev
from gateway.consent.order import OrderRequest, Policy
from gateway.consent.record import Record
from gateway.deliveries import MOST_PER_ENDPOINT, Deliveries, Window
from gateway.demo.orders import sample_order
from gateway.engine import Engine
from gateway.metrics import DeliveryMetrics
from gateway.provisioning.delivery import Endpoint, Poster
from gateway.provisioning.guard import Guard
from gateway.provisioning.schedule import RETRY_DELAYS_S
from gateway.provisioning.signature import Signer, read_secret
from gateway.store import deliveries as rows
from gateway.store.database import Database
from gateway.store.errors import UnknownDelivery
from gateway.store.jobs import Job, JobRunner, Kind, Retry
from gateway.webhooks import Subscriptions

HOOK_SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
CRM_SECRET = "whsec_" + base64.b64encode(b"fedcba9876543210fedcba9876543210").decode()
LAST = len(RETRY_DELAYS_S) + 1
PATIENCE_S = 60.0
NOW = datetime.now(UTC)
TELL = Subscriptions(
    {
        ("billing", "order.provisioned"): ("main", "crm"),
        **{("billing", kind): ("crm",) for kind in ("consent.refused", "consent.expired", "consent.withdrawn", "consent.frozen")},
    }
)  # fmt: skip


def utc_now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
async def billing() -> AsyncIterator[FarEnd]:
    async with far_end() as made:
        yield made


@pytest.fixture
async def crm() -> AsyncIterator[FarEnd]:
    async with far_end() as made:
        yield made


@pytest.fixture
def engine(database: Database) -> Engine:
    return Engine(
        database, policy=Policy(), secret=SECRET, keyring=KEYRING, gateway="g1", now=utc_now, subscriptions=TELL
    )


@pytest.fixture
async def poster() -> AsyncIterator[Poster]:
    async with Poster(Guard(["127.0.0.0/8"])) as made:
        yield made


@pytest.fixture
def sender(engine: Engine, poster: Poster, billing: FarEnd, crm: FarEnd) -> Deliveries:
    endpoints = {
        ("billing", "main"): Endpoint(billing.url, Signer(read_secret(HOOK_SECRET))),
        ("billing", "crm"): Endpoint(crm.url, Signer(read_secret(CRM_SECRET))),
    }
    return Deliveries(engine, endpoints, poster, now=utc_now, random=lambda: 0.5, jitter=0.0)


@pytest.fixture
async def owner(dsn: str, database: Database) -> AsyncIterator[asyncpg.Connection]:
    """The owner of the schema. Depends on *database*: the schema must be there."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


async def ordered(engine: Engine, number: str = NUMBER, tenant: str = "billing") -> Record:
    request = OrderRequest.model_validate(sample_order(number, NOW.date(), call="inbound"))
    return await engine.create(request, tenant, PLAN)


async def confirmed(engine: Engine, number: str = NUMBER, tenant: str = "billing") -> Record:
    record = await ordered(engine, number, tenant)
    record = await happen(engine, record, good_call(record))
    await engine.take_message("http", f"m-{record.order.order_id}", number, engine.code(record))
    return await engine.record(record.order.order_id)


@dataclass(frozen=True)
class Sent:
    """A row of deliveries."""

    webhook_id: str
    kind: str
    endpoint: str
    state: str
    attempts: int
    schedule: int
    error: str


async def sent(engine: Engine, kind: str | None = None) -> list[Sent]:
    found = await engine.database.pool.fetch(
        "SELECT * FROM consent.deliveries WHERE $1::text IS NULL OR kind = $1 ORDER BY created_at, endpoint", kind
    )
    return [
        Sent(str(row["webhook_id"]), row["kind"], row["endpoint"], row["state"], row["attempts"], row["schedule"],
             row["last_error"])
        for row in found
    ]  # fmt: skip


async def the(engine: Engine, kind: str = "consent.confirmed") -> Sent:
    (only,) = await sent(engine, kind)
    return only


async def attempt(sender: Deliveries, row: Sent, number: int = 1) -> float | None:
    """One attempt, its delay over; the wait until the next, None when there is none."""
    await sender._engine.database.pool.execute(
        "UPDATE consent.deliveries SET next_at = now() WHERE webhook_id = $1 AND next_at IS NOT NULL",
        UUID(row.webhook_id),
    )
    payload = {"webhook_id": row.webhook_id, "schedule": row.schedule}
    try:
        await sender.attempt(Job(1, deliveries.JOB, payload, number, uuid4()))
    except Retry as retry:
        return retry.delay_s
    return None


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.01)


async def last_events(engine: Engine, record: Record, most: int) -> list[ev.Event]:
    return [entry.event for entry in (await engine.entries(record.order.order_id))[-most:]]


async def state(engine: Engine, record: Record) -> str:
    return (await engine.record(record.order.order_id)).state


class TestTheConfirmation:
    async def test_a_2xx_provisions_and_the_subscriber_is_told(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        record = await confirmed(engine)
        billing.answer(202, b'{"reference": "B-7"}')
        row = await the(engine)
        assert None is await attempt(sender, row)
        assert "delivered" == (await the(engine)).state
        assert [
            ev.DeliveryAttempted(webhook_id=row.webhook_id, attempt=1, status=202),
            ev.OrderProvisioned(webhook_id=row.webhook_id, reference="B-7"),
        ] == await last_events(engine, record, 2)
        assert ("provisioned", "B-7") == (
            (after := await engine.record(record.order.order_id)).state, after.reference,
        )  # fmt: skip
        assert 1 == await engine.database.pool.fetchval(
            "SELECT count(*) FROM consent.jobs WHERE kind = 'send_sms' AND payload->>'kind' = 'provisioned'"
        )

    async def test_it_goes_to_one_endpoint_only(
        self, engine: Engine, sender: Deliveries, billing: FarEnd, crm: FarEnd
    ) -> None:
        await confirmed(engine)
        await attempt(sender, await the(engine))
        assert (1, 0) == (len(billing.received), len(crm.received))
        told = Webhook(HOOK_SECRET).verify(billing.received[0].body, billing.received[0].headers)
        assert "consent.confirmed" == told["type"]
        with pytest.raises(WebhookVerificationError):
            Webhook(CRM_SECRET).verify(billing.received[0].body, billing.received[0].headers)

    async def test_what_is_posted_is_what_was_sealed_with_the_confirmation(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        record = await confirmed(engine)
        row = await the(engine)
        await attempt(sender, row)
        sealed = await engine.database.pool.fetchval("SELECT body FROM consent.deliveries")
        assert NUMBER.encode() not in sealed
        shown = await deliveries.shown(engine, row.webhook_id)
        assert billing.received[0].body == shown["body"].encode()
        assert (record.order.order_id, record.order_hash, NUMBER) == (
            (data := billing.received[0].json["data"])["order_id"], data["order_hash"], data["subscriber"]["number"],
        )  # fmt: skip

    async def test_a_failure_is_tried_again_under_the_same_id(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        record = await confirmed(engine)
        row = await the(engine)
        billing.answer(500)
        assert RETRY_DELAYS_S[0] == await attempt(sender, row, 1)
        assert ("provisioning", "pending") == (await state(engine, record), (await the(engine)).state)
        assert None is await attempt(sender, row, 2)
        assert ("provisioned", "delivered") == (await state(engine, record), (await the(engine)).state)
        first, second = billing.received
        assert (first.body, row.webhook_id, row.webhook_id) == (
            second.body, first.headers["webhook-id"], second.headers["webhook-id"],
        )  # fmt: skip

    @pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 429, 500, 503])
    async def test_anything_but_a_2xx_is_a_failure(
        self, engine: Engine, sender: Deliveries, billing: FarEnd, status: int
    ) -> None:
        record = await confirmed(engine)
        billing.answer(status)
        row = await the(engine)
        assert RETRY_DELAYS_S[0] == await attempt(sender, row)
        assert 1 == len(billing.received)
        assert [
            ev.DeliveryAttempted(webhook_id=row.webhook_id, attempt=1, status=status, error=f"HTTP {status}")
        ] == await last_events(engine, record, 1)

    async def test_after_ten_attempts_it_is_dead(self, engine: Engine, sender: Deliveries, billing: FarEnd) -> None:
        record = await confirmed(engine)
        for _ in range(LAST):
            billing.answer(500)
        row = await the(engine)
        assert [*RETRY_DELAYS_S, None] == [await attempt(sender, row, number) for number in range(1, LAST + 1)]
        after = await engine.record(record.order.order_id)
        assert ("provisioning", "webhook undelivered after 10 attempts") == (after.state, after.reason)
        assert "dead" == (await the(engine)).state
        assert [ev.DeliveryDead(webhook_id=row.webhook_id, attempts=LAST)] == await last_events(engine, record, 1)
        assert LAST == len(billing.received)
        assert None is await attempt(sender, row), "a dead one is not posted"
        assert LAST == len(billing.received)

    async def test_what_was_delivered_is_not_posted_again(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        await confirmed(engine)
        row = await the(engine)
        for _ in range(2):
            await attempt(sender, row)
        assert 1 == len(billing.received)

    async def test_retry_after_puts_the_next_attempt_off(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        await confirmed(engine)
        row = await the(engine)
        billing.answer(503, Retry_After="3600")
        assert 3600.0 == await attempt(sender, row)
        wait = await engine.database.pool.fetchval("SELECT next_at - updated_at FROM consent.deliveries")
        assert abs(wait - timedelta(hours=1)) < timedelta(seconds=PATIENCE_S)
        billing.answer(503, Retry_After="1")
        assert RETRY_DELAYS_S[1] == await attempt(sender, row, 2)

    async def test_after_a_crash_between_attempt_and_delay_the_delay_is_kept(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        """The job's lease runs out and it is claimed again at once: the database knows when the next attempt is due."""
        await confirmed(engine)
        row = await the(engine)
        billing.answer(503, Retry_After="3600")
        await attempt(sender, row)
        with pytest.raises(Retry) as retry:
            await sender.attempt(Job(1, deliveries.JOB, {"webhook_id": row.webhook_id, "schedule": 0}, 2, uuid4()))
        assert not retry.value.counted
        assert 3600 - PATIENCE_S < retry.value.delay_s <= 3600
        assert 1 == len(billing.received)

    async def test_an_endpoint_that_is_not_configured_here_is_a_failure(
        self, engine: Engine, sender: Deliveries
    ) -> None:
        record = await confirmed(engine, tenant="stranger")
        assert RETRY_DELAYS_S[0] == await attempt(sender, await the(engine))
        (attempted,) = await last_events(engine, record, 1)
        assert isinstance(attempted, ev.DeliveryAttempted)
        assert "stranger/main" in attempted.error

    async def test_where_nothing_may_be_posted_nothing_is(self, engine: Engine, billing: FarEnd) -> None:
        record = await confirmed(engine)
        async with Poster(Guard()) as poster:
            endpoints = {("billing", "main"): Endpoint(billing.url, Signer(read_secret(HOOK_SECRET)))}
            guarded = Deliveries(engine, endpoints, poster, now=utc_now, random=lambda: 0.0)
            await attempt(guarded, await the(engine))
        (attempted,) = await last_events(engine, record, 1)
        assert isinstance(attempted, ev.DeliveryAttempted)
        assert (None, True, []) == (attempted.status, "loopback" in attempted.error, billing.received)

    @pytest.mark.parametrize(
        ("expected", "body"),
        [
            ("B-7", b'{"reference": "B-7"}'),
            ("B-7", [b'{"refer', b'ence": ', b'"B-7"}']),
            ("7", b'{"reference": 7}'),
            ("", b""),
            ("", b"OK"),
            ("", b"[]"),
            ("", b'{"reference": null}'),
            ("", b"\xff\xfe"),
            ("", b"[" * 50_000),
            ("?", b'{"reference": "\\ud800"}'),
            ("AB", b'{"reference": "A\\u0000\\u001bB"}'),
            ("x" * 200, b'{"reference": "' + b"x" * 5000 + b'"}'),
            ("", b'{"reference": "' + b"x" * 70_000 + b'"}'),
        ],
    )
    async def test_a_2xx_counts_whatever_its_body_holds(
        self, engine: Engine, sender: Deliveries, billing: FarEnd, expected: str, body: bytes | list[bytes]
    ) -> None:
        record = await confirmed(engine)
        billing.answer(200, body)
        row = await the(engine)
        await attempt(sender, row)
        (provisioned,) = await last_events(engine, record, 1)
        assert ev.OrderProvisioned(webhook_id=row.webhook_id, reference=expected) == provisioned
        kept = [
            one["reference"] for one in await engine.database.pool.fetch("SELECT * FROM consent.billing_references")
        ]
        assert [expected] * bool(expected) == kept

    async def test_from_the_code_to_the_webhook_by_the_job_runner(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        billing.answer(500)
        runner = JobRunner(engine.database, {deliveries.JOB: Kind(sender.attempt, backoff_s=RETRY_DELAYS_S)}, "g1")
        await runner.start()
        try:
            await confirmed(engine)
            async with asyncio.timeout(PATIENCE_S):
                while (await the(engine)).state != "delivered":
                    await engine.database.pool.execute(
                        "WITH due AS (UPDATE consent.deliveries SET next_at = now() WHERE next_at > now()) "
                        "UPDATE consent.jobs SET run_at = now() WHERE kind = 'deliver_webhook' AND token IS NULL AND run_at > now()"
                    )
                    runner._wake.set()
                    await asyncio.sleep(0.01)
        finally:
            await runner.stop()
        assert 2 == [one.json["type"] for one in billing.received].count("consent.confirmed")


class TestNotices:
    async def test_the_opening_is_told_to_all_who_want_to_know(
        self, engine: Engine, sender: Deliveries, billing: FarEnd, crm: FarEnd
    ) -> None:
        record = await confirmed(engine)
        billing.answer(200, b'{"reference": "B-7"}')
        await attempt(sender, await the(engine))
        told = await sent(engine, "order.provisioned")
        assert ["crm", "main"] == [row.endpoint for row in told]
        for row in told:
            assert None is await attempt(sender, row)
        notice = Webhook(CRM_SECRET).verify(crm.received[0].body, crm.received[0].headers)
        assert ("order.provisioned", "provisioned", "B-7", record.order.offer.id) == (
            notice["type"], notice["data"]["state"], notice["data"]["reference"], notice["data"]["offer"]["id"],
        )  # fmt: skip
        Webhook(HOOK_SECRET).verify(billing.received[1].body, billing.received[1].headers)
        assert "provisioned" == await state(engine, record)

    @pytest.mark.parametrize(
        ("kind", "expected", "events"),
        [
            ("consent.refused", "refused", [started(), ev.ConsentDenied(call_id="call-1", denial="refused", step="consent")]),
            ("consent.refused", "unclear", [started(), ev.ConsentDenied(call_id="call-1", denial="unclear", step="consent")]),
            ("consent.refused", "ineligible", [started(), ev.ConsentDenied(call_id="call-1", denial="ineligible", step="age")]),
            ("consent.refused", "failed", [started(), ended(outcome="transferred")]),
            ("consent.withdrawn", "withdrawn", [ev.OrderWithdrawn(source="api", reason="changed her mind")]),
            ("consent.frozen", "frozen", [ev.OrderFrozen(source="quality", reason="the recording is not clear")]),
        ],
    )  # fmt: skip
    async def test_an_end_without_a_bill_is_told(
        self, engine: Engine, sender: Deliveries, crm: FarEnd, kind: str, expected: str, events: list[ev.Event]
    ) -> None:
        record = await happen(engine, await ordered(engine), iter(events))
        row = await the(engine, kind)
        assert None is await attempt(sender, row)
        told = Webhook(CRM_SECRET).verify(crm.received[0].body, crm.received[0].headers)
        assert (kind, expected, record.order.order_id, record.order_hash, NUMBER) == (
            told["type"], told["data"]["state"], told["data"]["order_id"], told["data"]["order_hash"],
            told["data"]["subscriber"]["number"],
        )  # fmt: skip
        assert record.reason == told["data"]["reason"]
        assert row.webhook_id == crm.received[0].headers["webhook-id"]
        assert (expected, []) == (await state(engine, record), await sent(engine, "consent.confirmed"))

    async def test_the_challenge_that_runs_out_is_told(self, engine: Engine, sender: Deliveries, crm: FarEnd) -> None:
        record = await ordered(engine)
        record = await happen(engine, record, good_call(record))
        assert record.challenge is not None
        await engine.append(record.order.order_id, ev.ChallengeExpired(challenge_id=record.challenge.challenge_id))
        await attempt(sender, await the(engine, "consent.expired"))
        assert ["expired"] == [one.json["data"]["state"] for one in crm.received]

    async def test_who_asked_for_nothing_is_told_nothing(self, engine: Engine) -> None:
        record = await ordered(engine, tenant="another")
        await engine.append(record.order.order_id, ev.OrderWithdrawn(source="api", reason="changed"))
        assert [] == await sent(engine)

    async def test_a_notice_that_dies_changes_nothing_of_the_order(
        self, engine: Engine, sender: Deliveries, crm: FarEnd
    ) -> None:
        record = await ordered(engine)
        await engine.append(record.order.order_id, ev.OrderWithdrawn(source="api", reason="changed"))
        crm.answer(500)
        row = await the(engine, "consent.withdrawn")
        await attempt(sender, row, LAST)
        after = await engine.record(record.order.order_id)
        assert ("withdrawn", "changed", "dead") == (after.state, after.reason, (await the(engine, row.kind)).state)
        assert [
            ev.DeliveryDead(webhook_id=row.webhook_id, attempts=1, kind="consent.withdrawn", endpoint="crm")
        ] == await last_events(engine, record, 1)


class TestFrozen:
    async def test_a_confirmation_that_was_not_accepted_yet_is_delivered_no_more(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        record = await confirmed(engine)
        row = await the(engine)
        billing.answer(500)
        await attempt(sender, row)
        await engine.append(record.order.order_id, ev.OrderFrozen(source="quality", reason="a child's voice"))
        assert None is await attempt(sender, row, 2)
        after = await the(engine)
        assert ("cancelled", "the order is frozen", 1) == (after.state, after.error, len(billing.received))
        async with engine.database.transaction() as connection:
            why = await deliveries.replay(connection, row.webhook_id, utc_now())
            assert 0 == await deliveries.replay_window(connection, Window(), utc_now())
        assert "its order is frozen" in why

    async def test_what_is_accepted_in_the_moment_of_freezing_is_written_down(
        self, engine: Engine, poster: Poster
    ) -> None:
        record = await confirmed(engine)
        row = await the(engine)

        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            await engine.append(record.order.order_id, ev.OrderFrozen(source="cli", reason="doubts"))
            await server.give(writer, b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"reference": "B-7"}')

        async with raw(habit) as server:
            endpoints = {("billing", "main"): Endpoint(server.url, Signer(read_secret(HOOK_SECRET)))}
            await attempt(Deliveries(engine, endpoints, poster, now=utc_now, random=lambda: 0.0), row)
        assert ("frozen", "delivered") == (await state(engine, record), (await the(engine)).state)
        assert "order.provisioned" == (await last_events(engine, record, 1))[0].type


class TestGone:
    async def test_a_410_disables_the_endpoint_and_what_waits_for_it_dies(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        first, second = await confirmed(engine), await confirmed(engine, "+821087654321")
        one, two = await sent(engine, "consent.confirmed")
        billing.answer(500)
        await attempt(sender, two)
        billing.answer(410)
        assert None is await attempt(sender, one)
        assert None is await attempt(sender, two, 2)
        one, two = await sent(engine, "consent.confirmed")
        assert ("dead", "HTTP 410") == (one.state, one.error)
        assert "dead" == two.state
        assert two.error.startswith("endpoint billing/main is disabled: it answered 410 at 20")
        assert 2 == len(billing.received)
        for record in (first, second):
            assert "delivery.dead" == (await last_events(engine, record, 1))[0].type

    async def test_what_waits_is_due_at_once(self, engine: Engine, sender: Deliveries, billing: FarEnd) -> None:
        """By the job runner, which would otherwise come back in five minutes."""
        await confirmed(engine)
        await confirmed(engine, "+821087654321")
        runner = JobRunner(
            engine.database, {deliveries.JOB: Kind(sender.attempt, backoff_s=RETRY_DELAYS_S, most=1)}, "g1"
        )
        _, two = await sent(engine, "consent.confirmed")
        await engine.database.pool.execute(
            "UPDATE consent.jobs SET run_at = now() + interval '1 hour' WHERE key = $1", f"{two.webhook_id}:0"
        )
        billing.answer(410)
        await runner.start()
        try:
            async with asyncio.timeout(PATIENCE_S):
                while {"dead"} != {row.state for row in await sent(engine, "consent.confirmed")}:
                    runner._wake.set()
                    await asyncio.sleep(0.01)
        finally:
            await runner.stop()
        assert 1 == len(billing.received)

    async def test_other_endpoints_go_on(
        self, engine: Engine, sender: Deliveries, billing: FarEnd, crm: FarEnd
    ) -> None:
        record = await confirmed(engine)
        await attempt(sender, await the(engine))
        main = next(row for row in await sent(engine, "order.provisioned") if row.endpoint == "main")
        other = next(row for row in await sent(engine, "order.provisioned") if row.endpoint == "crm")
        billing.answer(410)
        await attempt(sender, main)
        await attempt(sender, other)
        assert ["delivered", "dead"] == [row.state for row in await sent(engine, "order.provisioned")]
        assert "provisioned" == await state(engine, record)

    async def test_enabled_again_it_takes_what_had_died(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        record = await confirmed(engine)
        billing.answer(410)
        await attempt(sender, await the(engine))
        async with engine.database.transaction() as connection:
            await deliveries.change_endpoint(connection, "billing", "main", utc_now(), disabled=False, reason="mended")
            assert 1 == await deliveries.replay_window(
                connection, Window(state="dead", tenant="billing", endpoint="main"), utc_now()
            )
        assert None is await attempt(sender, await the(engine))
        assert ("provisioned", "delivered") == (await state(engine, record), (await the(engine)).state)

    async def test_every_change_is_kept(self, engine: Engine) -> None:
        async with engine.database.transaction() as connection:
            for disabled in (True, False, True):
                await deliveries.change_endpoint(
                    connection, "billing", "crm", utc_now(), disabled=disabled, reason=f"so: {disabled}"
                )
            states = await rows.endpoint_states(connection)
        assert (True, "so: True") == (
            (found := states["billing", "crm"])["disabled"], found["reason"],
        )  # fmt: skip
        assert 3 == await engine.database.pool.fetchval("SELECT count(*) FROM consent.endpoint_changes")


class TestReplay:
    async def replayed(self, engine: Engine, webhook_id: str) -> str:
        async with engine.database.transaction() as connection:
            return await deliveries.replay(connection, webhook_id, utc_now())

    async def test_a_dead_one_gets_its_whole_schedule_again(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        record = await confirmed(engine)
        row = await the(engine)
        billing.answer(500)
        await attempt(sender, row, LAST)
        assert "" == await self.replayed(engine, row.webhook_id)
        again = await the(engine)
        assert ("pending", 1) == (again.state, again.schedule)
        billing.answer(500)
        assert RETRY_DELAYS_S[0] == await attempt(sender, again, 1)
        assert None is await attempt(sender, again, 2)
        assert ("provisioned", "delivered", 3) == (
            await state(engine, record), (done := await the(engine)).state, done.attempts,
        )  # fmt: skip
        assert {row.webhook_id} == {one.headers["webhook-id"] for one in billing.received}

    async def test_a_delivered_one_is_posted_again_and_nothing_is_opened_twice(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        record = await confirmed(engine)
        row = await the(engine)
        billing.answer(200, b'{"reference": "B-7"}')
        await attempt(sender, row)
        assert "" == await self.replayed(engine, row.webhook_id)
        billing.answer(200, b'{"reference": "B-8"}')
        await attempt(sender, await the(engine))
        types = [entry.event.type for entry in await engine.entries(record.order.order_id)]
        assert (1, 2, 1) == tuple(
            types.count(name) for name in ("order.provisioned", "delivery.attempted", "billing.acknowledged")
        )
        assert 2 == len(await sent(engine, "order.provisioned")), "one for each endpoint, told once"

    async def test_the_job_of_the_schedule_before_does_nothing_more(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        await confirmed(engine)
        row = await the(engine)
        billing.answer(500)
        await attempt(sender, row, LAST)
        await self.replayed(engine, row.webhook_id)
        assert None is await attempt(sender, row)
        assert 1 == len(billing.received)

    async def test_a_failure_of_the_schedule_before_does_not_end_the_new_one(
        self, engine: Engine, poster: Poster
    ) -> None:
        await confirmed(engine)
        row = await the(engine)

        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            await engine.database.pool.execute("UPDATE consent.deliveries SET schedule = 1")
            await server.give(writer, b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n")

        async with raw(habit) as server:
            endpoints = {("billing", "main"): Endpoint(server.url, Signer(read_secret(HOOK_SECRET)))}
            await attempt(Deliveries(engine, endpoints, poster, now=utc_now, random=lambda: 0.0), row, LAST)
        after = await the(engine)
        assert ("pending", 1) == (after.state, after.attempts)

    async def test_what_is_under_way_is_not_begun_again(self, engine: Engine) -> None:
        await confirmed(engine)
        row = await the(engine)
        assert "is under way" in await self.replayed(engine, row.webhook_id)

    async def test_what_was_held_is_begun_again(self, engine: Engine, sender: Deliveries) -> None:
        """Its job ended its process too often, or the code had a fault."""
        record = await confirmed(engine)
        await engine.database.pool.execute("UPDATE consent.jobs SET state = 'held' WHERE kind = 'deliver_webhook'")
        assert "" == await self.replayed(engine, (await the(engine)).webhook_id)
        assert None is await attempt(sender, await the(engine))
        assert "provisioned" == await state(engine, record)

    async def test_a_window_is_of_the_time_of_the_event(self, engine: Engine, sender: Deliveries) -> None:
        numbers = [f"+8210{n:08d}" for n in range(4)]
        for number in numbers:
            await confirmed(engine, number)
        found = await sent(engine, "consent.confirmed")
        for row in found:
            await attempt(sender, row)
        times = [
            one["created_at"] for one in await engine.database.pool.fetch(
                "SELECT created_at FROM consent.deliveries WHERE kind = 'consent.confirmed' ORDER BY created_at"
            )
        ]  # fmt: skip
        async with engine.database.transaction() as connection:
            window = Window(times[1], times[3], kind="consent.confirmed")
            assert 2 == await deliveries.replay_window(connection, window, utc_now())
        assert ["delivered", "pending", "pending", "delivered"] == [
            row.state for row in await sent(engine, "consent.confirmed")
        ]

    async def test_a_window_may_be_of_the_dead_of_one_endpoint(
        self, engine: Engine, sender: Deliveries, billing: FarEnd, crm: FarEnd
    ) -> None:
        record = await confirmed(engine)
        await attempt(sender, await the(engine))
        billing.answer(500)
        crm.answer(500)
        for row in await sent(engine, "order.provisioned"):
            await attempt(sender, row, LAST)
        async with engine.database.transaction() as connection:
            window = Window(state="dead", endpoint="crm")
            assert 1 == await deliveries.replay_window(connection, window, utc_now())
        assert ["pending", "dead"] == [row.state for row in await sent(engine, "order.provisioned")]
        assert "provisioned" == await state(engine, record)

    async def test_its_jobs_are_run(self, engine: Engine, sender: Deliveries, billing: FarEnd) -> None:
        await confirmed(engine)
        row = await the(engine)
        await attempt(sender, row)
        await self.replayed(engine, row.webhook_id)
        runner = JobRunner(engine.database, {deliveries.JOB: Kind(sender.attempt, backoff_s=RETRY_DELAYS_S)}, "g1")
        await runner.start()
        try:
            await until(lambda: [one.json["type"] for one in billing.received].count("consent.confirmed") == 2)
        finally:
            await runner.stop()

    async def test_one_that_nobody_knows_or_of_another_tenant_is_unknown(self, engine: Engine) -> None:
        await confirmed(engine)
        webhook_id = (await the(engine)).webhook_id
        async with engine.database.transaction() as connection:
            for wrong_id, tenant in ((str(uuid4()), None), ("nonsense", None), (webhook_id, "another")):
                with pytest.raises(UnknownDelivery):
                    await deliveries.replay(connection, wrong_id, utc_now(), tenant)


class TestWhatIsKept:
    async def test_every_answer_is_kept_sealed_and_can_be_shown(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        await confirmed(engine)
        row = await the(engine)
        billing.answer(503, "죄송합니다".encode(), Retry_After="9", X_Request_Id="r-1")
        billing.answer(200, b'{"reference": "B-7"}')
        await attempt(sender, row)
        await attempt(sender, row, 2)
        shown = await deliveries.shown(engine, row.webhook_id)
        first, second = shown["all_attempts"]
        assert (1, 503, "HTTP 503", "g1") == (first["attempt"], first["status"], first["error"], first["gateway"])
        assert "죄송합니다" == base64.b64decode(first["answer"]["body"]).decode()
        assert {"retry-after": "9", "x-request-id": "r-1"}.items() <= first["answer"]["headers"].items()
        assert {"reference": "B-7"} == json.loads(base64.b64decode(second["answer"]["body"]))
        assert second["duration_ms"] >= 0
        sealed = await engine.database.pool.fetch("SELECT answer FROM consent.delivery_attempts")
        assert not [one for one in sealed if b"r-1" in one["answer"] or b"reference" in one["answer"]]
        assert [shown] == [
            one for one in await deliveries.of_order(engine, shown["order_id"]) if one["kind"] == "consent.confirmed"
        ]

    async def test_when_the_person_is_erased_what_was_said_is_gone(
        self, engine: Engine, sender: Deliveries, billing: FarEnd
    ) -> None:
        record = await confirmed(engine)
        row = await the(engine)
        await attempt(sender, row)
        for notice in await sent(engine, "order.provisioned"):
            await attempt(sender, notice)
        await engine.erase(record.order.order_id, by="operator", reason="asked for it")
        shown = await deliveries.shown(engine, row.webhook_id)
        assert (None, None, "delivered") == (shown["body"], shown["all_attempts"][0]["answer"], shown["state"])
        async with engine.database.transaction() as connection:
            assert "its person was erased" in await deliveries.replay(connection, row.webhook_id, utc_now())

    async def test_without_the_key_nothing_is_posted(
        self, engine: Engine, sender: Deliveries, billing: FarEnd, owner: asyncpg.Connection
    ) -> None:
        await confirmed(engine)
        await owner.execute("SET session_replication_role = replica; DELETE FROM consent.record_keys")
        assert None is await attempt(sender, await the(engine))
        assert ("cancelled", []) == ((await the(engine)).state, billing.received)

    async def test_the_list_is_filtered_and_paged(self, engine: Engine) -> None:
        for number in range(5):
            await confirmed(engine, f"+8210{number:08d}")
        async with engine.database.pool.acquire() as connection:
            newest = await rows.list_deliveries(connection, most=2)
            last = newest[-1]
            rest = await rows.list_deliveries(connection, before=(last["created_at"], str(last["webhook_id"])))
            assert (2, 3) == (len(newest), len(rest))
            assert 5 == len({row["webhook_id"] for row in newest + rest})
            assert sorted((row["created_at"] for row in newest + rest), reverse=True) == [
                row["created_at"] for row in newest + rest
            ]
            for nothing in (
                {"tenant": "another"}, {"state": "dead"}, {"kind": "consent.refused"}, {"endpoint": "crm"},
                {"until": NOW - timedelta(days=1)}, {"since": NOW + timedelta(days=1)}, {"order_id": str(uuid4())},
            ):  # fmt: skip
                assert [] == await rows.list_deliveries(connection, **nothing)
            assert 1 == len(await rows.list_deliveries(connection, order_id=str(last["order_id"]), tenant="billing"))

    async def test_an_id_is_found_by_its_beginning(self, engine: Engine) -> None:
        await confirmed(engine)
        webhook_id = (await the(engine)).webhook_id
        async with engine.database.pool.acquire() as connection:
            assert webhook_id == await rows.resolve_delivery(connection, webhook_id[:8])
            for wrong in ("", "zz", "%", "00000000-0000-0000-0000-000000000000"):
                with pytest.raises(UnknownDelivery):
                    await rows.resolve_delivery(connection, wrong)

    async def test_metrics_count_what_became_of_them(self, engine: Engine, sender: Deliveries, billing: FarEnd) -> None:
        await confirmed(engine)
        row = await the(engine)
        for number, status in ((1, 500), (2, 503), (LAST, 500)):
            billing.answer(status)
            await attempt(sender, row, number)
        registry = CollectorRegistry()
        registry.register(DeliveryMetrics(sender))
        text = generate_latest(registry).decode()
        assert 'gateway_webhook_attempts_total{kind="consent.confirmed",outcome="retry"} 2.0' in text
        assert 'gateway_webhook_attempts_total{kind="consent.confirmed",outcome="dead"} 1.0' in text
        assert "gateway_webhook_seconds_count 3.0" in text


class TestManyAtOnce:
    async def test_a_billing_system_that_hangs_does_not_take_every_place(self, engine: Engine, poster: Poster) -> None:
        """More attempts than it may have at once: the others come back soon, uncounted, and nobody has waited for them."""
        going = asyncio.Event()

        async def habit(server: Raw, reader: Reader, writer: Writer) -> None:
            await server.request(reader)
            await going.wait()
            await server.give(writer, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        for number in range(MOST_PER_ENDPOINT + 1):
            await confirmed(engine, f"+8210{number:08d}")
        found = await sent(engine, "consent.confirmed")
        async with raw(habit) as server:
            endpoints = {("billing", "main"): Endpoint(server.url, Signer(read_secret(HOOK_SECRET)))}
            sender = Deliveries(engine, endpoints, poster, now=utc_now, random=lambda: 0.0)
            under_way = [asyncio.create_task(attempt(sender, row)) for row in found[:-1]]
            await until(lambda: len(server.requests) == MOST_PER_ENDPOINT)
            job = Job(1, deliveries.JOB, {"webhook_id": found[-1].webhook_id, "schedule": 0}, 1, uuid4())
            with pytest.raises(Retry, match="billing/main is busy") as retry:
                await sender.attempt(job)
            assert not retry.value.counted
            going.set()
            assert [None] * MOST_PER_ENDPOINT == await asyncio.gather(*under_way)
            assert None is await attempt(sender, found[-1])


FORGERIES = {
    "a confirmation's webhook without a provisioning event":
        "INSERT INTO consent.deliveries (webhook_id, kind, tenant, endpoint, order_id, event_id, body, created_at, updated_at) "
        "VALUES ('{new}', 'consent.confirmed', 'billing', 'main', '{ordered}', '{event}', '', now(), now())",
    "one with a provisioning event that there is not":
        "INSERT INTO consent.deliveries (webhook_id, kind, tenant, endpoint, order_id, event_id, provisioning_id, body, created_at, "
        "updated_at) VALUES ('{new}', 'consent.confirmed', 'billing', 'main', '{ordered}', '{event}', '{new}', '', now(), now())",
    "one with another order's provisioning event":
        "INSERT INTO consent.deliveries (webhook_id, kind, tenant, endpoint, order_id, event_id, provisioning_id, body, created_at, "
        "updated_at) VALUES ('{new}', 'consent.confirmed', 'billing', 'main', '{ordered}', '{event}', '{webhook}', '', now(), now())",
    "a second webhook of one provisioning event":
        "INSERT INTO consent.deliveries (webhook_id, kind, tenant, endpoint, order_id, event_id, provisioning_id, body, created_at, "
        "updated_at) VALUES ('{new}', 'consent.confirmed', 'billing', 'two', '{confirmed}', '{event}', '{webhook}', '', now(), now())",
    "a notice that carries a provisioning event":
        "INSERT INTO consent.deliveries (webhook_id, kind, tenant, endpoint, order_id, event_id, provisioning_id, body, created_at, "
        "updated_at) VALUES ('{new}', 'consent.refused', 'billing', 'crm', '{confirmed}', '{event}', '{new}', '', now(), now())",
    "a notice of another tenant's order":
        "INSERT INTO consent.deliveries (webhook_id, kind, tenant, endpoint, order_id, event_id, body, created_at, updated_at) "
        "VALUES ('{new}', 'consent.refused', 'another', 'main', '{ordered}', '{event}', '', now(), now())",
    "an event that nobody knows of":
        "INSERT INTO consent.deliveries (webhook_id, kind, tenant, endpoint, order_id, event_id, body, created_at, updated_at) "
        "VALUES ('{new}', 'consent.approved', 'billing', 'main', '{ordered}', '{event}', '', now(), now())",
    "a notice of no event":
        "INSERT INTO consent.deliveries (webhook_id, kind, tenant, endpoint, order_id, event_id, body, created_at, updated_at) "
        "VALUES ('{new}', 'consent.refused', 'billing', 'main', '{ordered}', '{new}', '', now(), now())",
    "another body": "UPDATE consent.deliveries SET body = ''",
    "another order": "UPDATE consent.deliveries SET order_id = '{ordered}'",
    "another kind": "UPDATE consent.deliveries SET kind = 'consent.refused'",
    "another endpoint": "UPDATE consent.deliveries SET endpoint = 'crm'",
    "fewer attempts": "UPDATE consent.deliveries SET attempts = -1",
    "delivered without a time": "UPDATE consent.deliveries SET state = 'delivered', delivered_at = NULL",
    "a delivery away": "DELETE FROM consent.deliveries",
    "an attempt rewritten": "UPDATE consent.delivery_attempts SET status = 200",
    "an attempt away": "DELETE FROM consent.delivery_attempts",
    "an attempt at nothing":
        "INSERT INTO consent.delivery_attempts VALUES ('{new}', 1, now(), 'g', 200, '', 1, '')",
    "an endpoint's past rewritten": "UPDATE consent.endpoint_changes SET disabled = false",
    "a reference taken back": "DELETE FROM consent.billing_references",
    "a reference for another tenant's order": "INSERT INTO consent.billing_references VALUES ('{ordered}', 'another', 'B', now())",
}  # fmt: skip


class TestTheDatabaseKeepsItToo:
    @pytest.fixture
    async def facts(self, engine: Engine, sender: Deliveries, billing: FarEnd) -> dict[str, Any]:
        record, other = await confirmed(engine), await ordered(engine, "+821087654321")
        row = await the(engine)
        billing.answer(500)
        await attempt(sender, row)
        async with engine.database.transaction() as connection:
            await deliveries.change_endpoint(connection, "billing", "crm", utc_now(), disabled=True, reason="x")
            assert await deliveries.keep_reference(connection, record.order.order_id, "billing", "B-1", utc_now())
            assert not await deliveries.keep_reference(connection, record.order.order_id, "billing", "B-1", utc_now())
        (event, *_) = await engine.entries(other.order.order_id)
        return {
            "confirmed": record.order.order_id, "ordered": other.order.order_id, "webhook": row.webhook_id,
            "event": event.event_id, "new": str(uuid4()),
        }  # fmt: skip

    @pytest.mark.parametrize("forgery", FORGERIES)
    async def test_as_the_application(self, engine: Engine, facts: dict[str, Any], forgery: str) -> None:
        with pytest.raises(asyncpg.PostgresError):
            await engine.database.pool.execute(FORGERIES[forgery].format(**facts))

    @pytest.mark.parametrize("forgery", FORGERIES)
    async def test_even_as_the_owner(self, owner: asyncpg.Connection, facts: dict[str, Any], forgery: str) -> None:
        with pytest.raises(asyncpg.PostgresError):
            await owner.execute(FORGERIES[forgery].format(**facts))

    async def test_the_right_one_is_let_in(self, engine: Engine, facts: dict[str, Any]) -> None:
        """The forgeries above fail for what is false in them, not for their form."""
        right = FORGERIES["a notice of another tenant's order"].replace("'another'", "'billing'")
        await engine.database.pool.execute(right.format(**facts))

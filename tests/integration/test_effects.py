"""Effects over real HTTP: webhooks to a billing system, messages to an SMS aggregator; and what comes of each in the record."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.calls import Calls
from gateway.consent import events as ev
from gateway.consent.order import DialplanRef, OrderRequest, Policy
from gateway.consent.record import Record
from gateway.demo.orders import sample_order
from gateway.effects import MASKED_CODE, PLACE_CALL_DELAYS_S, SMS_DELAYS_S, Effects
from gateway.engine import Engine
from gateway.house import House
from gateway.language.pack import load_pack
from gateway.provisioning.delivery import RETRY_AT_S, RETRY_DELAYS_S, Endpoint
from gateway.provisioning.errors import BadSecret
from gateway.provisioning.signature import read_secret, sign, verify
from gateway.resources import data_folder
from gateway.sms.channel import SmsChannel
from gateway.sms.errors import SmsRejected, SmsUndelivered
from gateway.sms.http import HttpSms, dig, fill
from gateway.sms.sip_message import SipMessageSms
from gateway.store.database import Database
from gateway.store.jobs import Job, JobRunner, Kind, Retry
from gateway.telephony.admission import Destinations
from gateway.telephony.errors import CallFailed

NOW = datetime.now(UTC)
NUMBER = "+821012345678"
SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
KEY = read_secret(SECRET)
PACK = load_pack(data_folder("prompts"), "ko")
LAST = len(RETRY_DELAYS_S) + 1
PATIENCE_S = 10.0


@dataclass
class Received:
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FarEnd:
    """An HTTP server that answers as told, 200 and nothing when it was told nothing more."""

    url: str = ""
    answers: deque[tuple[int, bytes | list[bytes]]] = field(default_factory=deque)
    received: list[Received] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.received.append(Received(headers, await request.read()))
        status, body = self.answers.popleft() if self.answers else (200, b"")
        response = web.StreamResponse(status=status, headers={"Location": "/elsewhere"} if 300 <= status < 400 else {})
        await response.prepare(request)
        for piece in [body] if isinstance(body, bytes) else body:
            await response.write(piece)
            await asyncio.sleep(0)
        await response.write_eof()
        return response

    def answer(self, status: int, body: bytes | list[bytes] = b"") -> None:
        self.answers.append((status, body))


@pytest.fixture
async def far_end() -> AsyncIterator[FarEnd]:
    made = FarEnd()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield made
    await runner.cleanup()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def engine(database: Database) -> Engine:
    return Engine(database, policy=Policy(), secret=b"s" * 32, gateway="g1", now=lambda: NOW)


class Line:
    """The seam to telephony: calls that are dialled, and how many are under way."""

    def __init__(self) -> None:
        self.dialled: list[str] = []
        self.under_way = 0
        self.draining = False
        self.error: Exception | None = None
        self.given_up: list[tuple[str, str]] = []

    def __len__(self) -> int:
        return self.under_way

    async def note_failed(self, record: Record, reason: str) -> None:
        self.given_up.append((record.order.order_id, reason))

    async def dial(self, record: Record) -> str:
        if self.error is not None:
            raise self.error
        self.dialled.append(record.order.order_id)
        return "call-1"


@pytest.fixture
def line() -> Line:
    return Line()


def effects_of(
    engine: Engine, session: aiohttp.ClientSession, far_end: FarEnd, line: Line, sms: SmsChannel | None
) -> Effects:
    house = House("Acme", {}, {"ko": PACK}, data_folder("prompts"))
    return Effects(
        engine, house, line, sms, {"billing": Endpoint(far_end.url, KEY)}, session,  # type: ignore[arg-type]
        most_calls=2, now=lambda: datetime.now(UTC),
    )  # fmt: skip


def http_sms(session: aiohttp.ClientSession, far_end: FarEnd, **changes: Any) -> HttpSms:
    given: dict[str, Any] = {
        "encoding": "json", "headers": {}, "message_id": "id",
        "body": {"to": "{number}", "text": "{text}", "reference": "{reference}"},
    }  # fmt: skip
    return HttpSms(session, far_end.url, **(given | changes))


@pytest.fixture
def effects(engine: Engine, session: aiohttp.ClientSession, far_end: FarEnd, line: Line) -> Effects:
    return effects_of(engine, session, far_end, line, http_sms(session, far_end))


async def ordered(engine: Engine, *, tenant: str = "billing", call: str = "inbound") -> Record:
    request = OrderRequest.model_validate(sample_order(NUMBER, NOW.date(), call=call))
    return await engine.create(request, tenant, DialplanRef(name="plan-upgrade", version=1, sha256="0" * 64))


async def challenged(engine: Engine, *, tenant: str = "billing") -> Record:
    record = await ordered(engine, tenant=tenant)
    order_id = record.order.order_id
    await engine.append(order_id, ev.CallStarted(call_id="c", gateway="g1", direction="inbound"))
    return await engine.append(order_id, ev.ConsentSpoken(call_id="c", order_hash=record.order_hash))


async def delivery(engine: Engine, *, tenant: str = "billing") -> tuple[Record, str]:
    """A confirmed order, and the id of its webhook."""
    record = await challenged(engine, tenant=tenant)
    await engine.take_message("http", "1", NUMBER, engine.code(record))
    return await engine.record(record.order.order_id), str(
        await engine.database.pool.fetchval("SELECT webhook_id FROM consent.deliveries")
    )


def job(kind: str, payload: dict[str, Any], attempt: int = 1) -> Job:
    return Job(1, kind, payload, attempt, uuid4())


async def deliver(effects: Effects, webhook_id: str, attempt: int = 1) -> float | None:
    """One attempt; the wait until the next, None when there is none."""
    try:
        await effects.deliver_webhook(job("deliver_webhook", {"webhook_id": webhook_id}, attempt))
    except Retry as retry:
        return retry.delay_s
    return None


async def state(engine: Engine, record: Record) -> tuple[str, str]:
    """Of the order and of its delivery."""
    return (
        (await engine.record(record.order.order_id)).state,
        await engine.database.pool.fetchval("SELECT state FROM consent.deliveries"),
    )


async def last_events(engine: Engine, record: Record, most: int) -> list[ev.Event]:
    return [entry.event for entry in (await engine.entries(record.order.order_id))[-most:]]


async def waiting_sms(engine: Engine) -> list[str]:
    rows = await engine.database.pool.fetch(
        "SELECT payload->>'kind' AS kind FROM consent.jobs WHERE kind = 'send_sms' ORDER BY job_id"
    )
    return [row["kind"] for row in rows]


class TestTheWebhook:
    async def test_a_2xx_provisions_and_the_subscriber_is_told(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        record, webhook_id = await delivery(engine)
        far_end.answer(202, b'{"reference": "B-7"}')
        assert None is await deliver(effects, webhook_id)
        assert ("provisioned", "delivered") == await state(engine, record)
        assert [
            ev.DeliveryAttempted(webhook_id=webhook_id, attempt=1, status=202),
            ev.OrderProvisioned(webhook_id=webhook_id, reference="B-7"),
        ] == await last_events(engine, record, 2)
        assert ["challenge", "provisioned"] == await waiting_sms(engine)

    async def test_the_signature_is_a_standard_one(self, effects: Effects, engine: Engine, far_end: FarEnd) -> None:
        record, webhook_id = await delivery(engine)
        await deliver(effects, webhook_id)
        (received,) = far_end.received
        told = Webhook(SECRET).verify(received.body, received.headers)
        assert ("consent.confirmed", record.order.order_id) == (told["type"], told["data"]["order_id"])
        assert webhook_id == received.headers["webhook-id"]
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(received.body.replace(b"39000", b"93000"), received.headers)

    async def test_what_is_posted_is_what_was_stored_with_the_confirmation(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        _, webhook_id = await delivery(engine)
        await deliver(effects, webhook_id)
        stored = await engine.database.pool.fetchval("SELECT body FROM consent.deliveries")
        assert (stored.encode(), "application/json") == (
            far_end.received[0].body,
            far_end.received[0].headers["content-type"],
        )

    async def test_a_failure_is_tried_again_under_the_same_id(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        record, webhook_id = await delivery(engine)
        far_end.answer(500)
        assert RETRY_DELAYS_S[0] == await deliver(effects, webhook_id, 1)
        assert ("provisioning", "pending") == await state(engine, record)
        assert None is await deliver(effects, webhook_id, 2)
        assert ("provisioned", "delivered") == await state(engine, record)
        first, second = far_end.received
        assert (first.body, webhook_id, webhook_id) == (
            second.body,
            first.headers["webhook-id"],
            second.headers["webhook-id"],
        )

    @pytest.mark.parametrize("status", [301, 302, 307, 308, 400, 401, 404, 410, 429, 500, 503])
    async def test_anything_but_a_2xx_is_a_failure(
        self, effects: Effects, engine: Engine, far_end: FarEnd, status: int
    ) -> None:
        record, webhook_id = await delivery(engine)
        far_end.answer(status)
        assert RETRY_DELAYS_S[0] == await deliver(effects, webhook_id)
        assert 1 == len(far_end.received), "a redirect is not followed: its target never proved that it may know"
        assert [
            ev.DeliveryAttempted(webhook_id=webhook_id, attempt=1, status=status, error=f"HTTP {status}")
        ] == await last_events(engine, record, 1)

    async def test_a_billing_system_that_is_away_is_a_failure(
        self, engine: Engine, session: aiohttp.ClientSession, line: Line, unused_tcp_port: int
    ) -> None:
        record, webhook_id = await delivery(engine)
        away = effects_of(engine, session, FarEnd(f"http://127.0.0.1:{unused_tcp_port}/"), line, None)
        assert RETRY_DELAYS_S[0] == await deliver(away, webhook_id)
        (attempted,) = await last_events(engine, record, 1)
        assert isinstance(attempted, ev.DeliveryAttempted)
        assert (None, True) == (attempted.status, "Cannot connect" in attempted.error)

    async def test_an_address_that_is_none_is_a_failure(
        self, engine: Engine, session: aiohttp.ClientSession, line: Line
    ) -> None:
        _, webhook_id = await delivery(engine)
        assert RETRY_DELAYS_S[0] == await deliver(
            effects_of(engine, session, FarEnd("nowhere"), line, None), webhook_id
        )

    async def test_a_tenant_that_is_not_configured_here_is_a_failure(self, effects: Effects, engine: Engine) -> None:
        record, webhook_id = await delivery(engine, tenant="stranger")
        assert RETRY_DELAYS_S[0] == await deliver(effects, webhook_id)
        (attempted,) = await last_events(engine, record, 1)
        assert "tenant stranger is not configured" in attempted.error  # type: ignore[union-attr]

    async def test_the_schedule_lasts_a_day_and_then_the_delivery_is_dead(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        record, webhook_id = await delivery(engine)
        for _ in range(LAST):
            far_end.answer(500)
        assert [*RETRY_DELAYS_S, None] == [
            await deliver(effects, webhook_id, attempt) for attempt in range(1, LAST + 1)
        ]
        assert (86_400, sum(RETRY_DELAYS_S)) == (RETRY_AT_S[-1], RETRY_AT_S[-1])
        assert ("provisioning", "dead") == await state(engine, record)
        assert [ev.DeliveryDead(webhook_id=webhook_id, attempts=LAST)] == await last_events(engine, record, 1)
        assert ["challenge"] == await waiting_sms(engine)

    async def test_a_dead_delivery_can_be_replayed(self, effects: Effects, engine: Engine, far_end: FarEnd) -> None:
        record, webhook_id = await delivery(engine)
        far_end.answer(500)
        await deliver(effects, webhook_id, LAST)
        assert await engine.replay_delivery(webhook_id)
        assert ("provisioning", "pending") == await state(engine, record)
        assert None is await deliver(effects, webhook_id)
        assert ("provisioned", "delivered") == await state(engine, record)
        assert webhook_id == far_end.received[-1].headers["webhook-id"]

    async def test_what_was_delivered_is_not_posted_again(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        _, webhook_id = await delivery(engine)
        for _ in range(2):
            await deliver(effects, webhook_id)
        assert 1 == len(far_end.received)

    @pytest.mark.parametrize(
        ("expected", "body"),
        [
            ("B-7", b'{"reference": "B-7"}'),
            ("B-7", [b'{"refer', b'ence": ', b'"B-7"}']),
            ("7", b'{"reference": 7}'),
            ("", b""),
            ("", b"OK"),
            ("", b"[]"),
            ("", b"\xff\xfe"),
            ("", b"[" * 50_000),
            ("?", b'{"reference": "\\ud800"}'),
            ("x" * 200, b'{"reference": "' + b"x" * 5000 + b'"}'),
            ("", b'{"reference": "' + b"x" * 70_000 + b'"}'),
        ],
    )
    async def test_a_2xx_counts_whatever_its_body_holds(
        self, effects: Effects, engine: Engine, far_end: FarEnd, expected: str, body: bytes | list[bytes]
    ) -> None:
        record, webhook_id = await delivery(engine)
        far_end.answer(200, body)
        await deliver(effects, webhook_id)
        (provisioned,) = await last_events(engine, record, 1)
        assert ev.OrderProvisioned(webhook_id=webhook_id, reference=expected) == provisioned

    async def test_from_the_code_to_the_webhook_by_the_job_runner(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        far_end.answer(500)
        runner = JobRunner(
            engine.database, {"deliver_webhook": Kind(effects.deliver_webhook, backoff_s=RETRY_DELAYS_S)}
        )
        runner.start()
        try:
            record, _ = await delivery(engine)
            async with asyncio.timeout(PATIENCE_S):
                while (await state(engine, record))[1] != "delivered":
                    await engine.database.pool.execute(
                        "UPDATE consent.jobs SET run_at = now() WHERE kind = 'deliver_webhook' AND token IS NULL AND run_at > now()"
                    )
                    runner._wake.set()
                    await asyncio.sleep(0.01)
        finally:
            await runner.stop()
        assert 2 == len(far_end.received)
        assert "done" == await engine.database.pool.fetchval(
            "SELECT state FROM consent.jobs WHERE kind = 'deliver_webhook'"
        )


class TestSecrets:
    def test_a_secret_is_read_with_and_without_its_prefix(self) -> None:
        assert read_secret(SECRET) == read_secret(SECRET.removeprefix("whsec_")) == KEY

    @pytest.mark.parametrize("text", ["", "whsec_", "whsec_????", "whsec_비밀", "whsec_c2hvcnQ=", "whsec_" + "a" * 31])
    def test_a_bad_secret_is_told_its_mend(self, text: str) -> None:
        with pytest.raises(BadSecret, match="consent-gateway secret"):
            read_secret(text)

    def test_any_of_several_signatures_may_be_right(self) -> None:
        good = sign(KEY, "m", 1000, b"body")
        headers = {"webhook-id": "m", "webhook-timestamp": "1000", "webhook-signature": f"v1,AAAA v1a,BBBB {good}"}
        assert verify(KEY, headers, b"body", 1000.0)


def sms_job(kind: ev.SmsKind, record: Record, attempt: int = 1, tries_left: int = 0) -> Job:
    payload = {"order_id": record.order.order_id, "kind": kind, "tries_left": tries_left, "event_id": "event-1"}
    return job("send_sms", payload, attempt)


class TestMessages:
    async def test_the_challenge_carries_the_code_and_the_record_does_not(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        record = await challenged(engine)
        far_end.answer(200, b'{"id": "sms-1"}')
        await effects.send_sms(sms_job("challenge", record))
        sent = far_end.received[0].json
        assert (NUMBER, "event-1", True) == (sent["to"], sent["reference"], engine.code(record) in sent["text"])
        (noted,) = await last_events(engine, record, 1)
        assert isinstance(noted, ev.SmsSent)
        assert ("challenge", "http", "sms-1") == (noted.kind, noted.channel, noted.message_id)
        assert sent["text"].replace(engine.code(record), MASKED_CODE) == noted.text

    async def test_the_tries_left_are_written(self, effects: Effects, engine: Engine, far_end: FarEnd) -> None:
        await effects.send_sms(sms_job("wrong_code", await challenged(engine), tries_left=2))
        assert re.search(r"\b2번", far_end.received[0].json["text"])

    async def test_a_challenge_that_is_over_is_not_sent(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        record = await challenged(engine)
        await engine.append(record.order.order_id, ev.OrderWithdrawn(source="api", reason="changed"))
        await effects.send_sms(sms_job("challenge", record))
        assert [] == far_end.received

    async def test_a_final_refusal_is_recorded_and_not_tried_again(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        record = await challenged(engine)
        far_end.answer(400)
        await effects.send_sms(sms_job("challenge", record))
        assert [ev.SmsFailed(kind="challenge", channel="http", error="HTTP 400")] == await last_events(
            engine, record, 1
        )

    async def test_a_passing_failure_is_tried_again(self, effects: Effects, engine: Engine, far_end: FarEnd) -> None:
        record = await challenged(engine)
        for attempt, delay_s in enumerate(SMS_DELAYS_S, 1):
            far_end.answer(503)
            with pytest.raises(Retry, match="HTTP 503") as retry:
                await effects.send_sms(sms_job("challenge", record, attempt))
            assert delay_s == retry.value.delay_s
        assert {"event-1"} == {received.json["reference"] for received in far_end.received}
        assert "challenge.issued" == (await last_events(engine, record, 1))[0].type

    async def test_after_the_last_try_the_failure_is_recorded(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        record = await challenged(engine)
        far_end.answer(503)
        await effects.send_sms(sms_job("challenge", record, attempt=len(SMS_DELAYS_S) + 1))
        assert [ev.SmsFailed(kind="challenge", channel="http", error="HTTP 503")] == await last_events(
            engine, record, 1
        )

    async def test_without_a_channel_the_failure_is_recorded(
        self, engine: Engine, session: aiohttp.ClientSession, far_end: FarEnd, line: Line
    ) -> None:
        record = await challenged(engine)
        await effects_of(engine, session, far_end, line, None).send_sms(sms_job("challenge", record))
        assert "sms.failed" == (await last_events(engine, record, 1))[0].type

    async def test_a_channel_that_answers_with_nonsense_has_still_sent(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        """Else the message would be sent again and again."""
        record = await challenged(engine)
        far_end.answer(200, b'{"id": "\\ud800"}')
        await effects.send_sms(sms_job("challenge", record))
        assert "sms.sent" == (await last_events(engine, record, 1))[0].type


class TestHttpSms:
    async def test_json_is_filled_in_however_deep(self, session: aiohttp.ClientSession, far_end: FarEnd) -> None:
        body = {"messages": [{"to": ["{digits}"], "body": "{text}", "raw": "{other} {", "n": 1, "on": True}]}
        headers = {"X-Key": "k", "X-Reference": "{reference}"}
        await http_sms(session, far_end, body=body, headers=headers).send(NUMBER, 'say "{number}"\n네', "ref-1")
        (received,) = far_end.received
        assert {
            "messages": [{"to": ["821012345678"], "body": 'say "{number}"\n네', "raw": "{other} {", "n": 1, "on": True}]
        } == received.json
        assert ("k", "ref-1", "application/json") == (
            received.headers["x-key"], received.headers["x-reference"], received.headers["content-type"],
        )  # fmt: skip

    async def test_a_form_is_encoded(self, session: aiohttp.ClientSession, far_end: FarEnd) -> None:
        body = {"to": "{digits}", "msg": "{text}", "type": 4}
        await http_sms(session, far_end, encoding="form", body=body).send(NUMBER, "a&b=네", "ref-1")
        (received,) = far_end.received
        assert (b"to=821012345678&msg=a%26b%3D%EB%84%A4&type=4", "application/x-www-form-urlencoded") == (
            received.body, received.headers["content-type"],
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("expected", "path", "answer"),
        [
            ("7", "id", b'{"id": 7}'),
            ("a", "data.0.id", b'{"data": [{"id": "a"}]}'),
            ("a", "data.id", [b'{"data": ', b'{"id": "a"}}']),
            ("ref-1", "", b'{"id": 7}'),
            ("ref-1", "id", b"OK"),
            ("ref-1", "id", b""),
            ("ref-1", "id", b'{"id": null}'),
            ("ref-1", "id", b'{"id": {}}'),
            ("ref-1", "data.1.id", b'{"data": [{"id": "a"}]}'),
            ("ref-1", "data.x", b'{"data": [{"id": "a"}]}'),
            ("ref-1", "id.x", b'{"id": 7}'),
        ],
    )
    async def test_the_message_id_is_dug_out_else_it_is_our_reference(
        self, session: aiohttp.ClientSession, far_end: FarEnd, expected: str, path: str, answer: bytes | list[bytes]
    ) -> None:
        far_end.answer(200, answer)
        assert expected == await http_sms(session, far_end, message_id=path).send(NUMBER, "text", "ref-1")

    @pytest.mark.parametrize(
        ("expected", "status"),
        [(SmsUndelivered, 429), (SmsUndelivered, 500), (SmsUndelivered, 503), (SmsRejected, 400), (SmsRejected, 401),
         (SmsRejected, 404), (SmsRejected, 302)],
    )  # fmt: skip
    async def test_it_tells_a_passing_failure_from_a_final_one(
        self, session: aiohttp.ClientSession, far_end: FarEnd, expected: type[Exception], status: int
    ) -> None:
        far_end.answer(status)
        with pytest.raises(expected, match=f"HTTP {status}"):
            await http_sms(session, far_end).send(NUMBER, "text", "ref-1")
        assert 1 == len(far_end.received)

    async def test_no_answer_is_a_passing_failure(self, session: aiohttp.ClientSession, unused_tcp_port: int) -> None:
        with pytest.raises(SmsUndelivered):
            await http_sms(session, FarEnd(f"http://127.0.0.1:{unused_tcp_port}/")).send(NUMBER, "text", "ref-1")

    def test_a_slot_that_is_none_stays_as_it_is(self) -> None:
        assert {"a": "{x} {}", "b": [1, None]} == fill({"a": "{x} {}", "b": (1, None)}, {"text": "t"})

    def test_nothing_is_dug_out_of_a_well_without_a_bottom(self) -> None:
        assert "" == dig(b"[" * 60_000, "id")


class TestSipMessageSms:
    @pytest.mark.parametrize("status", [200, 202])
    async def test_a_2xx_is_sent_under_our_reference(self, status: int) -> None:
        sent: list[tuple[str, str]] = []

        async def send(number: str, text: str) -> int:
            sent.append((number, text))
            return status

        assert ("ref-1", [(NUMBER, "text")]) == (await SipMessageSms(send).send(NUMBER, "text", "ref-1"), sent)

    @pytest.mark.parametrize(
        ("expected", "status"),
        [(SmsRejected, 404), (SmsRejected, 603), (SmsUndelivered, 408), (SmsUndelivered, 480), (SmsUndelivered, 503)],
    )
    async def test_it_tells_a_passing_failure_from_a_final_one(self, expected: type[Exception], status: int) -> None:
        async def send(_number: str, _text: str) -> int:
            return status

        with pytest.raises(expected, match=f"SIP {status}"):
            await SipMessageSms(send).send(NUMBER, "text", "ref-1")


def call_job(record: Record, attempt: int = 1) -> Job:
    return job("place_call", {"order_id": record.order.order_id, "attempt": attempt})


class TestCalls:
    async def test_an_order_is_dialled(self, effects: Effects, engine: Engine, line: Line) -> None:
        record = await ordered(engine, call="now")
        await effects.place_call(call_job(record))
        assert [record.order.order_id] == line.dialled

    async def test_a_job_that_runs_twice_dials_once(self, effects: Effects, engine: Engine, line: Line) -> None:
        record = await ordered(engine, call="now")
        await engine.append(record.order.order_id, ev.CallStarted(call_id="c", gateway="g1", direction="outbound"))
        await engine.append(record.order.order_id, ev.CallEnded(call_id="c", outcome="busy", reason="", duration_ms=0))
        await effects.place_call(call_job(record, attempt=1))
        assert [] == line.dialled
        await effects.place_call(call_job(record, attempt=2))
        assert [record.order.order_id] == line.dialled

    async def test_an_order_that_is_over_is_not_dialled(self, effects: Effects, engine: Engine, line: Line) -> None:
        record = await ordered(engine, call="now")
        await engine.append(record.order.order_id, ev.OrderWithdrawn(source="api", reason="changed"))
        await effects.place_call(call_job(record))
        assert [] == line.dialled

    @pytest.mark.parametrize(("under_way", "draining"), [(2, False), (0, True)])
    async def test_while_no_line_is_free_the_job_waits_and_is_not_spent(
        self, effects: Effects, engine: Engine, line: Line, under_way: int, draining: bool
    ) -> None:
        line.under_way, line.draining = under_way, draining
        with pytest.raises(Retry) as retry:
            await effects.place_call(call_job(await ordered(engine, call="now")))
        assert not retry.value.counted
        assert [] == line.dialled

    async def test_somebody_quicker_is_no_failure(self, effects: Effects, engine: Engine, line: Line) -> None:
        line.error = CallFailed(486, "it is being called")
        await effects.place_call(call_job(await ordered(engine, call="now")))

    async def test_a_call_that_cannot_begin_is_tried_again(self, effects: Effects, engine: Engine, line: Line) -> None:
        line.error = CallFailed(503, "no line is configured")
        with pytest.raises(CallFailed, match="no line"):
            await effects.place_call(call_job(await ordered(engine, call="now")))

    async def test_after_the_last_try_the_attempt_is_written_down(
        self, effects: Effects, engine: Engine, line: Line
    ) -> None:
        line.error = CallFailed(503, "no line is configured")
        record = await ordered(engine, call="now")
        await effects.place_call(replace(call_job(record), attempt=len(PLACE_CALL_DELAYS_S) + 1))
        assert [(record.order.order_id, "503 no line is configured")] == line.given_up

    async def test_an_attempt_that_could_not_begin_counts(self, engine: Engine) -> None:
        calls = Calls(None, engine, None, None, (), Destinations(("+",)), region="KR", transfer_targets={})  # type: ignore[arg-type]
        record = await ordered(engine, call="now")
        for _ in range(record.limits.call_attempts):
            await calls.note_failed(record, "no line is configured")
        after = await engine.record(record.order.order_id)
        assert ("unreachable", "failed: no line is configured") == (after.state, after.reason)


async def test_the_timer_ends_the_challenge(effects: Effects, engine: Engine) -> None:
    record = await challenged(engine)
    assert record.challenge is not None
    payload = {"order_id": record.order.order_id, "challenge_id": record.challenge.challenge_id}
    for _ in range(2):
        await effects.expire_challenge(job("expire_challenge", payload))
    assert "expired" == (await engine.record(record.order.order_id)).state


def test_every_kind_of_job_that_is_written_can_be_run(effects: Effects) -> None:
    assert {"render_prompts", "place_call", "expire_challenge", "send_sms", "deliver_webhook"} == set(effects.kinds())

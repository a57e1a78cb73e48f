"""Effects over real HTTP: messages to an SMS aggregator, calls, timers; and what comes of each in the record."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from billing_bench import FarEnd, far_end
from engines import KEYRING, NUMBER, SECRET
from histories import good_call, happen

from gateway.calls import Calls
from gateway.consent import events as ev
from gateway.consent.order import DialplanRef, OrderRequest, Policy
from gateway.consent.record import Record
from gateway.deliveries import Deliveries
from gateway.demo.orders import sample_order
from gateway.effects import MASKED_CODE, PLACE_CALL_DELAYS_S, SMS_DELAYS_S, Effects
from gateway.engine import Engine
from gateway.house import House
from gateway.language.pack import load_pack
from gateway.provisioning.delivery import Poster
from gateway.provisioning.guard import Guard
from gateway.resources import data_folder
from gateway.sms.channel import SmsChannel
from gateway.sms.errors import SmsRejected, SmsUndelivered
from gateway.sms.http import HttpSms, dig, fill
from gateway.sms.sip_message import SipMessageSms
from gateway.store.database import Database
from gateway.store.jobs import Job, Retry
from gateway.telephony.admission import Destinations
from gateway.telephony.errors import CallFailed

NOW = datetime.now(UTC)
PACK = load_pack(data_folder("prompts"), "ko")


@pytest.fixture(name="far_end")
async def _far_end() -> AsyncIterator[FarEnd]:
    async with far_end() as made:
        yield made


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def engine(database: Database) -> Engine:
    return Engine(database, policy=Policy(), secret=SECRET, keyring=KEYRING, gateway="g1", now=lambda: NOW)


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


def effects_of(engine: Engine, line: Line, sms: SmsChannel | None) -> Effects:
    house = House("Acme", {}, {"ko": PACK}, data_folder("prompts"))
    deliveries = Deliveries(engine, {}, Poster(Guard()), now=lambda: NOW, random=lambda: 0.0)
    return Effects(engine, house, line, sms, deliveries, most_calls=2)  # type: ignore[arg-type]


def http_sms(session: aiohttp.ClientSession, far_end: FarEnd, **changes: Any) -> HttpSms:
    given: dict[str, Any] = {
        "encoding": "json", "headers": {}, "message_id": "id",
        "body": {"to": "{number}", "text": "{text}", "reference": "{reference}"},
    }  # fmt: skip
    return HttpSms(session, far_end.url, **(given | changes))


@pytest.fixture
def effects(engine: Engine, session: aiohttp.ClientSession, far_end: FarEnd, line: Line) -> Effects:
    return effects_of(engine, line, http_sms(session, far_end))


async def ordered(engine: Engine, *, call: str = "inbound") -> Record:
    request = OrderRequest.model_validate(sample_order(NUMBER, NOW.date(), call=call))
    return await engine.create(request, "billing", DialplanRef(name="plan-upgrade", version=1, sha256="0" * 64))


async def challenged(engine: Engine) -> Record:
    record = await ordered(engine)
    return await happen(engine, record, good_call(record))


def job(kind: str, payload: dict[str, Any], attempt: int = 1) -> Job:
    return Job(1, kind, payload, attempt, uuid4())


async def last_events(engine: Engine, record: Record, most: int) -> list[ev.Event]:
    return [entry.event for entry in (await engine.entries(record.order.order_id))[-most:]]


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
        assert ("challenge", "http", "sms-1", "event-1") == (
            noted.kind,
            noted.channel,
            noted.message_id,
            noted.reference,
        )
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
        assert [
            ev.SmsFailed(kind="challenge", channel="http", error="HTTP 400", reference="event-1")
        ] == await last_events(engine, record, 1)

    @pytest.mark.parametrize("status", [200, 400])
    async def test_what_came_of_a_message_is_known_when_its_job_runs_again(
        self, effects: Effects, engine: Engine, far_end: FarEnd, status: int
    ) -> None:
        """The gateway died after it had written that down, before the job was done."""
        record = await challenged(engine)
        far_end.answer(status)
        for attempt in (1, 2):
            await effects.send_sms(sms_job("challenge", record, attempt))
        assert 1 == len(far_end.received)
        assert 1 == [e.event.type.partition(".")[0] for e in await engine.entries(record.order.order_id)].count("sms")

    async def test_a_challenge_that_may_have_arrived_before_the_gateway_died_is_not_passed_over_in_silence(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        record = await challenged(engine)
        await engine.take_message("http", "1", NUMBER, engine.code(record))
        await effects.send_sms(sms_job("challenge", record, attempt=2))
        (noted,) = await last_events(engine, record, 1)
        assert isinstance(noted, ev.SmsFailed)
        assert ("event-1", []) == (noted.reference, far_end.received)
        assert "an earlier attempt may have arrived" in noted.error

    async def test_a_passing_failure_is_tried_again(self, effects: Effects, engine: Engine, far_end: FarEnd) -> None:
        record = await challenged(engine)
        for attempt, delay_s in enumerate(SMS_DELAYS_S, 1):
            far_end.answer(503)
            with pytest.raises(Retry, match="HTTP 503") as retry:
                await effects.send_sms(sms_job("challenge", record, attempt))
            assert delay_s == retry.value.delay_s
        assert {"event-1"} == {received.json["reference"] for received in far_end.received}
        assert "call.ended" == (await last_events(engine, record, 1))[0].type

    async def test_after_the_last_try_the_failure_is_recorded(
        self, effects: Effects, engine: Engine, far_end: FarEnd
    ) -> None:
        record = await challenged(engine)
        far_end.answer(503)
        await effects.send_sms(sms_job("challenge", record, attempt=len(SMS_DELAYS_S) + 1))
        assert [
            ev.SmsFailed(kind="challenge", channel="http", error="HTTP 503", reference="event-1")
        ] == await last_events(engine, record, 1)

    async def test_without_a_channel_the_failure_is_recorded(
        self, engine: Engine, session: aiohttp.ClientSession, far_end: FarEnd, line: Line
    ) -> None:
        record = await challenged(engine)
        await effects_of(engine, line, None).send_sms(sms_job("challenge", record))
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
        agent = SimpleNamespace(engine=SimpleNamespace(office=None))
        calls = Calls(agent, engine, None, None, (), Destinations(("+",)), region="KR", transfer_targets={})  # type: ignore[arg-type]
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

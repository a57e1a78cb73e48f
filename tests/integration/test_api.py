"""The HTTP API over a real socket, on a real engine and database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from api_server import KEYS, NUMBER, OTHER, PLANS, SMS_KEY, START, Server, serving
from yarl import URL

from gateway.consent import events as ev
from gateway.demo.orders import sample_order
from gateway.provisioning.signature import headers as signed_headers
from gateway.store.database import Database
from gateway.web.api import LARGEST_BODY, Api, Offered


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    async with serving(database) as made:
        yield made


def changed(path: str, value: Any) -> dict[str, Any]:
    data = sample_order(NUMBER, START.date())
    *parents, last = path.split(".")
    place: Any = data
    for name in parents:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return data


def message(text: str, message_id: str = "1", number: str = NUMBER) -> dict[str, Any]:
    return {"from": number, "text": text, "message_id": message_id}


class TestOrders:
    async def test_a_good_order_is_taken(self, server: Server) -> None:
        body = sample_order(NUMBER, START.date())
        async with server.session.post(
            f"{server.url}/v1/orders", json=body, headers={"Authorization": f"Bearer {KEYS['billing']}"}
        ) as answer:
            told = await answer.json()
            assert (201, f"/v1/orders/{told['order_id']}") == (answer.status, answer.headers["Location"])
        assert ("ordered", None, None, 0) == (told["state"], told["spoken_at"], told["confirmed_at"], told["calls"])

    async def test_the_order_is_bound_to_the_script_as_it_stands(self, server: Server) -> None:
        record = await server.engine.record(await server.order())
        assert PLANS["plan-upgrade"].ref == record.order.dialplan

    async def test_an_order_can_be_looked_up(self, server: Server) -> None:
        order_id = await server.order()
        status, answer = await server.send("GET", f"/v1/orders/{order_id}")
        assert (200, order_id) == (status, answer["order_id"])

    async def test_its_events_can_be_read(self, server: Server) -> None:
        order_id = await server.order()
        status, answer = await server.send("GET", f"/v1/orders/{order_id}/events")
        assert (200, ["order.created"]) == (status, [entry["event"]["type"] for entry in answer["events"]])

    async def test_orders_are_listed_the_newest_first_and_by_state(self, server: Server) -> None:
        first = await server.order()
        server.time += timedelta(seconds=1)
        second = await server.order(OTHER)
        await server.send("POST", f"/v1/orders/{first}/withdraw", {"reason": "changed"})
        assert [second, first] == [row["order_id"] for row in (await server.send("GET", "/v1/orders"))[1]["orders"]]
        _, withdrawn = await server.send("GET", "/v1/orders?state=withdrawn")
        assert [first] == [row["order_id"] for row in withdrawn["orders"]]

    @pytest.mark.parametrize("state", ["nonsense", "", "%00", "%ff"])
    async def test_a_state_that_is_none_is_named(self, server: Server, state: str) -> None:
        url = f"{server.url}/v1/orders?state={state}"
        async with server.session.get(
            URL(url, encoded=True), headers={"Authorization": f"Bearer {KEYS['billing']}"}
        ) as answer:
            assert (422, "state") == (answer.status, (await answer.json(content_type=None))["errors"][0]["path"])


class TestBadOrders:
    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("offer.starts_on", "2026-02-28"),
            ("offer.starts_on", "soon"),
            ("offer.promotion", ...),
            ("offer.trial", ...),
            ("offer.price.amount", -1),
            ("offer.price.currency", "ABC"),
            ("offer.how_to_cancel", ...),
            ("offer.colour", "red"),
            ("subscriber.number", "010-1234-5678"),
            ("subscriber.number", "+4912"),
            ("subscriber.age", 15),
            ("subscriber.age", None),
            ("subscriber.time_zone", "Seoul"),
            ("fit", ...),
            ("fit.reason", "why not"),
            ("fit.phone_has_data", False),
            ("dialplan", "no-such-plan"),
            ("subscriber.language", "zh-CN"),
            ("subscriber.language", "fr"),
            ("call", "tomorrow"),
        ],
    )
    async def test_the_path_of_the_fault_is_told(self, server: Server, path: str, value: Any) -> None:
        status, answer = await server.send("POST", "/v1/orders", changed(path, value))
        assert (422, [path]) == (status, [fault["path"] for fault in answer["errors"]])
        assert 0 == await server.engine.database.pool.fetchval("SELECT count(*) FROM consent.orders")

    async def test_a_language_without_a_model_is_told_what_can_be_heard(self, server: Server) -> None:
        _, answer = await server.send("POST", "/v1/orders", changed("subscriber.language", "zh-CN"))
        assert "no model listens in 'zh-CN' here; en, ko can be heard" == answer["errors"][0]["message"]

    async def test_an_unknown_dialplan_is_told_which_there_are(self, server: Server) -> None:
        _, answer = await server.send("POST", "/v1/orders", changed("dialplan", "no-such-plan"))
        expected = "there is no dialplan 'no-such-plan'; there are plan-upgrade-twice, plan-upgrade, korean-only"
        assert expected == answer["errors"][0]["message"]

    async def test_a_dialplan_that_is_not_for_the_language_is_refused(self, server: Server) -> None:
        body = changed("subscriber.language", "en") | {"dialplan": "korean-only"}
        status, answer = await server.send("POST", "/v1/orders", body)
        assert (422, ["dialplan"]) == (status, [fault["path"] for fault in answer["errors"]])

    async def test_every_fault_is_told_at_once(self, server: Server) -> None:
        body = changed("offer.starts_on", "2026-02-28")
        body["subscriber"]["age"] = 12
        _, answer = await server.send("POST", "/v1/orders", body)
        assert {"offer.starts_on", "subscriber.age"} == {fault["path"] for fault in answer["errors"]}

    async def test_what_is_no_json_object_is_refused(self, server: Server) -> None:
        for body in (
            b"",
            b"{",
            b"null",
            b"[]",
            b'"order"',
            b"\xff\xfe",
            b"\x00",
            b"[" * 10_000,
            b'{"offer": "\\ud800"}',
            b"NaN",
        ):
            status, answer = await server.send("POST", "/v1/orders", body)
            assert (422, "the order does not fit the schema") == (status, answer["title"]), body

    async def test_a_body_that_is_too_large_is_refused(self, server: Server) -> None:
        assert 413 == (await server.send("POST", "/v1/orders", b" " * (LARGEST_BODY + 1)))[0]

    async def test_a_number_on_the_do_not_call_list_is_refused(self, server: Server) -> None:
        order_id = await server.order()
        await server.engine.append(order_id, ev.ConsentDenied(call_id="c", denial="stop", step="consent"))
        status, answer = await server.send("POST", "/v1/orders", sample_order(NUMBER, START.date()))
        assert (422, ["subscriber.number"]) == (status, [fault["path"] for fault in answer["errors"]])


class TestWhoMay:
    @pytest.mark.parametrize(
        "authorization",
        ["", "Bearer", "Bearer wrong", f"Basic {KEYS['billing']}", f"Bearer  {KEYS['billing']}", KEYS["billing"],
         f"Bearer {KEYS['billing']}\udcff"],
    )  # fmt: skip
    async def test_nobody_without_a_key(self, server: Server, authorization: str) -> None:
        """Over a bare socket: an HTTP client would put some of these right."""
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(server.url).port)
        head = f"GET /v1/orders HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: {authorization}\r\n\r\n"
        writer.write(head.encode(errors="surrogateescape"))
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 401")

    async def test_every_way_to_an_order_wants_the_key(self, server: Server) -> None:
        order_id = await server.order()
        for method, path in (
            ("POST", ""), ("GET", ""), ("GET", f"/{order_id}"), ("GET", f"/{order_id}/events"),
            ("POST", f"/{order_id}/calls"), ("POST", f"/{order_id}/withdraw"),
        ):  # fmt: skip
            assert 401 == (await server.send(method, f"/v1/orders{path}", {}, key="wrong"))[0], (method, path)

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("GET", "", None),
            ("GET", "/events", None),
            ("POST", "/calls", {}),
            ("POST", "/withdraw", {"reason": "mine"}),
        ],
    )
    async def test_the_order_of_another_tenant_is_as_unknown_as_none(
        self, server: Server, method: str, path: str, body: Any
    ) -> None:
        theirs = await server.order(key=KEYS["other"])
        nobodys = str(uuid4())
        found = [await server.send(method, f"/v1/orders/{order_id}{path}", body) for order_id in (theirs, nobodys)]
        assert [404, 404] == [status for status, _ in found]
        assert found[0][1]["title"].replace(theirs, nobodys) == found[1][1]["title"]

    async def test_another_tenants_orders_are_not_listed(self, server: Server) -> None:
        await server.order(key=KEYS["other"])
        assert [] == (await server.send("GET", "/v1/orders"))[1]["orders"]

    @pytest.mark.parametrize("order_id", ["x", "1", "%00", "..%2f", "0" * 300])
    async def test_what_is_no_order_id_is_unknown(self, server: Server, order_id: str) -> None:
        url = URL(f"{server.url}/v1/orders/{order_id}", encoded=True)
        async with server.session.get(url, headers={"Authorization": f"Bearer {KEYS['billing']}"}) as answer:
            assert 404 == answer.status


class TestCallsAndWithdrawals:
    async def test_an_order_is_called(self, server: Server) -> None:
        order_id = await server.order()
        assert (202, {"call_id": "call-1"}) == await server.send("POST", f"/v1/orders/{order_id}/calls")
        assert [(order_id, None)] == server.dialled

    async def test_an_order_that_is_being_called_is_not_called_again(self, server: Server) -> None:
        order_id = await server.order()
        await server.challenge(order_id)
        status, answer = await server.send("POST", f"/v1/orders/{order_id}/calls", {})
        assert (409, "the order is challenged and cannot be called now") == (status, answer["title"])
        assert [] == server.dialled

    async def test_a_call_with_an_unknown_key_is_refused(self, server: Server) -> None:
        order_id = await server.order()
        status, answer = await server.send("POST", f"/v1/orders/{order_id}/calls", {"number": OTHER})
        assert (422, "number") == (status, answer["errors"][0]["path"])

    async def test_an_open_order_is_withdrawn(self, server: Server) -> None:
        order_id = await server.order()
        code = await server.challenge(order_id)
        status, answer = await server.send("POST", f"/v1/orders/{order_id}/withdraw", {"reason": "changed their mind"})
        assert (200, "withdrawn", "changed their mind") == (status, answer["state"], answer["reason"])
        await server.sms(message(code))
        assert 0 == await server.engine.database.pool.fetchval("SELECT count(*) FROM consent.deliveries")

    async def test_a_confirmed_order_is_not_withdrawn_here(self, server: Server) -> None:
        order_id = await server.order()
        await server.sms(message(await server.challenge(order_id)))
        status, answer = await server.send("POST", f"/v1/orders/{order_id}/withdraw", {"reason": "too late"})
        assert (409, "the order is confirmed and cannot be withdrawn") == (status, answer["title"])

    @pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "x" * 201}, {"reason": "ok", "by": "me"}])
    async def test_a_withdrawal_needs_its_reason(self, server: Server, body: dict[str, Any]) -> None:
        order_id = await server.order()
        assert 422 == (await server.send("POST", f"/v1/orders/{order_id}/withdraw", body))[0]


class TestInboundSms:
    async def test_the_right_code_confirms(self, server: Server) -> None:
        order_id = await server.order()
        code = await server.challenge(order_id)
        assert (200, {"result": "taken"}) == await server.sms(message(f"code {code}"))
        _, answer = await server.send("GET", f"/v1/orders/{order_id}")
        assert "confirmed" == answer["state"]
        assert answer["confirmed_at"] > answer["spoken_at"]

    async def test_the_number_may_be_written_with_spaces(self, server: Server) -> None:
        code = await server.challenge(await server.order())
        assert "taken" == (await server.sms(message(code, number="+82 10-1234-5678")))[1]["result"]

    async def test_what_else_the_aggregator_sends_is_ignored(self, server: Server) -> None:
        assert 200 == (await server.sms(message("hello") | {"carrier": "x", "to": "1588"}))[0]

    async def test_the_same_message_again_is_told_apart(self, server: Server) -> None:
        await server.challenge(await server.order())
        assert ["taken", "repeated"] == [(await server.sms(message("000000")))[1]["result"] for _ in range(2)]

    async def test_a_number_that_nobody_asked_is_told_apart(self, server: Server) -> None:
        assert (200, {"result": "unknown_number"}) == await server.sms(message("123456"))

    async def test_a_signature_with_another_key_is_refused(self, server: Server) -> None:
        assert 401 == (await server.sms(message("123456"), key=b"x" * 32))[0]

    @pytest.mark.parametrize(("expected", "age_s"), [(200, 300), (401, 301), (200, -300), (401, -301), (401, 86_400)])
    async def test_a_signature_is_good_for_five_minutes(self, server: Server, expected: int, age_s: int) -> None:
        assert expected == (await server.sms(message("123456"), age_s=age_s))[0]

    async def test_a_message_that_was_changed_is_refused(self, server: Server) -> None:
        body = json.dumps(message("123456")).encode()
        signed = signed_headers(SMS_KEY, "m", int(START.timestamp()), body)
        changed_body = body.replace(b"123456", b"654321")
        assert 401 == (await server.send("POST", "/v1/sms/inbound", changed_body, key=None, headers=signed))[0]

    async def test_without_a_whole_signature_it_is_refused(self, server: Server) -> None:
        stamp = str(int(START.timestamp()))
        for message_id, timestamp, signature in (
            ("", stamp, "v1,x"), ("m", "", "v1,x"), ("m", stamp, ""), ("m", "now", "v1,x"), ("m", "9" * 5000, "v1,x"),
            ("m", stamp, "v1,네"), ("네", stamp, "v1,x"), ("m", "１７７２３５５６００", "v1,x"),
        ):  # fmt: skip
            given = {"webhook-id": message_id, "webhook-timestamp": timestamp, "webhook-signature": signature}
            answer = await server.send("POST", "/v1/sms/inbound", message("1"), key=None, headers=given)
            assert 401 == answer[0], given
        assert 401 == (await server.send("POST", "/v1/sms/inbound", message("1"), key=None))[0]

    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("from", {"text": "123456", "message_id": "1"}),
            ("from", message("123456", number="01012345678")),
            ("from", message("123456", number="Acme")),
            ("text", {"from": NUMBER, "message_id": "1"}),
            ("text", message("x" * 2001)),
            ("message_id", {"from": NUMBER, "text": "123456"}),
            ("message_id", message("123456", "")),
            ("message_id", message("123456", "x" * 129)),
            ("message_id", message("123456", "a\x00b")),
        ],
    )
    async def test_a_message_that_does_not_fit_is_told_the_path(
        self, server: Server, path: str, body: dict[str, Any]
    ) -> None:
        status, answer = await server.sms(body)
        assert (422, [path]) == (status, [fault["path"] for fault in answer["errors"]])

    async def test_what_is_no_json_is_refused_only_with_a_good_signature(self, server: Server) -> None:
        assert [422, 401] == [(await server.sms(b"hello", key=key))[0] for key in (SMS_KEY, b"x" * 32)]

    @pytest.mark.parametrize("text", ["", "\x00", "😀", "stop\x00", "١٢٣٤٥٦"])
    async def test_any_text_is_taken(self, server: Server, text: str) -> None:
        await server.challenge(await server.order())
        assert (200, {"result": "taken"}) == await server.sms(message(text))


class TestTheRest:
    async def test_health_needs_no_key(self, server: Server) -> None:
        assert (200, {"status": "ok", "gateway": "g1"}) == await server.send("GET", "/healthz", key=None)

    async def test_metrics_are_those_of_prometheus(self, server: Server) -> None:
        async with server.session.get(f"{server.url}/metrics") as answer:
            assert (200, True) == (answer.status, "python_info" in await answer.text())

    async def test_an_unknown_path_is_a_problem_too(self, server: Server) -> None:
        assert (404, {"type": "about:blank", "title": "Not Found", "status": 404}) == await server.send("GET", "/v2")

    async def test_a_wrong_method_is_told_the_right_ones(self, server: Server) -> None:
        async with server.session.delete(f"{server.url}/v1/orders") as answer:
            assert (405, {"GET", "HEAD", "POST"}) == (answer.status, set(answer.headers["Allow"].split(",")))

    async def test_a_failure_of_ours_tells_nothing_of_the_inside(self, server: Server) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("gateway.web.orders.sql", None)
            status, answer = await server.send("GET", "/v1/orders")
        assert (500, "the gateway failed; its log says why") == (status, answer["title"])

    async def test_while_the_database_is_away_one_is_asked_to_come_again(self, server: Server) -> None:
        await server.engine.database.pool.close()
        status, answer = await server.send("GET", "/v1/orders")
        assert (503, "the database is away; try again", "5") == (status, answer["title"], server.headers["Retry-After"])

    async def test_without_a_secret_inbound_messages_are_off(self, server: Server) -> None:
        api = Api(server.engine, Offered({}, frozenset()), server.dial, {}, None)
        runner = web.AppRunner(api.application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with server.session.post(f"http://127.0.0.1:{runner.addresses[0][1]}/v1/sms/inbound") as answer:
            assert 404 == answer.status
        await runner.cleanup()

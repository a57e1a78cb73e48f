"""What comes over the wire and is no good request: refused in the API's own form, and never a failure of ours."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from api_server import KEYS, NUMBER, START, Server, serving
from yarl import URL

from gateway.demo.orders import sample_order
from gateway.store.database import Database
from gateway.web import gate
from gateway.web.api import LARGEST_BODY

ORDER = sample_order(NUMBER, START.date())
WISH = {"number": NUMBER, "reason": "asked by letter"}


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    async with serving(database) as made:
        yield made


async def raw(server: Server, text: bytes) -> bytes:
    """The answer to *text* as it stands, over a bare socket."""
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(server.url).port)
    writer.write(text)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def head(line: str, *more: str) -> bytes:
    fields = (line, "Host: x", "Connection: close", f"Authorization: Bearer {KEYS['billing']}", *more)
    return "\r\n".join((*fields, "", "")).encode()


class TestBodies:
    @pytest.mark.parametrize(
        "kind",
        ["text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""],
    )
    async def test_what_is_not_json_is_415(self, server: Server, kind: str) -> None:
        status, _ = await server.send("POST", "/v1/orders", ORDER, headers={"Content-Type": kind})
        assert (415, "application/json") == (status, server.headers["Accept"])

    async def test_a_charset_beside_it_does_no_harm(self, server: Server) -> None:
        kind = {"Content-Type": "application/json; charset=utf-8"}
        assert 201 == (await server.send("POST", "/v1/orders", ORDER, headers=kind))[0]

    @pytest.mark.parametrize("path", ["/v1/orders", "/v1/do-not-call", "/v1/do-not-call/check"])
    async def test_one_octet_too_many_is_413(self, server: Server, path: str) -> None:
        assert [422, 413] == [
            (await server.send("POST", path, b" " * size))[0] for size in (LARGEST_BODY, LARGEST_BODY + 1)
        ]

    async def test_a_bomb_is_not_unpacked(self, server: Server) -> None:
        bomb = gzip.compress(b" " * 50_000_000)
        assert len(bomb) < LARGEST_BODY
        status, _ = await server.send("POST", "/v1/orders", bomb, headers={"Content-Encoding": "gzip"})
        assert status in (400, 413)

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    async def test_what_cannot_be_unpacked_is_400(self, server: Server, coding: str) -> None:
        headers = {"Content-Encoding": coding}
        assert 400 == (await server.send("POST", "/v1/orders", b"\xff" * 100, headers=headers))[0]

    async def test_what_was_packed_well_is_read(self, server: Server) -> None:
        headers = {"Content-Encoding": "deflate"}
        packed = zlib.compress(json.dumps(ORDER).encode())
        assert 201 == (await server.send("POST", "/v1/orders", packed, headers=headers))[0]

    async def test_a_body_that_does_not_come_is_408(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gate, "BODY_S", 0.1)
        text = head("POST /v1/orders HTTP/1.1", "Content-Type: application/json", "Content-Length: 100") + b"{"
        answer = await raw(server, text)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"application/problem+json" in answer

    async def test_a_body_that_breaks_off_hurts_nobody(self, server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", URL(server.url).port)
        writer.write(head("POST /v1/orders HTTP/1.1", "Content-Type: application/json", "Content-Length: 100") + b"{")
        writer.close()
        await writer.wait_closed()
        await reader.read()
        assert 200 == (await server.send("GET", "/v1/orders"))[0]


class TestJson:
    @pytest.mark.parametrize(
        ("path", "body", "fault"),
        [
            ("/v1/orders", ORDER | {"fit": {"reason": "ten letters\0 and more", "phone_has_data": True}}, "fit.reason"),
            ("/v1/orders", ORDER | {"offer": ORDER["offer"] | {"function": "a\0b"}}, "offer.function"),
            ("/v1/do-not-call", WISH | {"reason": "a\0b"}, "reason"),
            ("/v1/do-not-call/check", {"numbers": [NUMBER, f"{NUMBER}\0"]}, "numbers.1"),
        ],
    )
    async def test_nul_is_refused_wherever_it_stands(self, server: Server, path: str, body: Any, fault: str) -> None:
        status, answer = await server.send("POST", path, body)
        assert (422, [fault]) == (status, [found["path"] for found in answer["errors"]])

    @pytest.mark.parametrize("text", ['{"number": "+821012345678", "reason": "\\ud800 asked"}', '{"\\udfff": 1}'])
    async def test_half_a_surrogate_pair_is_refused(self, server: Server, text: str) -> None:
        assert 422 == (await server.send("POST", "/v1/do-not-call", text.encode()))[0]

    @pytest.mark.parametrize(
        "text",
        [b'{"number": NaN}', b"{'number': 1}", b"\xef\xbb\xbf{}", b"{}{}", b'{"a": ' * 5000, b"1e999", b"\xed\xa0\x80"],
    )
    async def test_what_is_no_json_is_refused(self, server: Server, text: bytes) -> None:
        assert 422 == (await server.send("POST", "/v1/do-not-call", text))[0]

    @pytest.mark.parametrize(
        "change",
        [{"call": True}, {"dialplan": 1}, {"subscriber": ORDER["subscriber"] | {"age": "34"}},
         {"subscriber": ORDER["subscriber"] | {"age": 34.5}}, {"fit": ORDER["fit"] | {"phone_has_data": 1}},
         {"fit": ORDER["fit"] | {"phone_has_data": "true"}}, {"offer": ORDER["offer"] | {"term_months": 10**30}}],
    )  # fmt: skip
    async def test_nothing_is_taken_for_what_it_is_not(self, server: Server, change: dict[str, Any]) -> None:
        assert 422 == (await server.send("POST", "/v1/orders", ORDER | change))[0]

    async def test_every_language_is_taken_as_it_comes(self, server: Server) -> None:
        reason = "한국어 中文 العربية 👩‍👩‍👧"
        status, entry = await server.send("POST", "/v1/do-not-call", WISH | {"reason": reason})
        assert (201, reason) == (status, entry["reason"])


class TestQueries:
    async def test_the_parameter_that_does_not_fit_is_named(self, server: Server) -> None:
        for path, fault in (
            ("orders?colour=red", "colour"), ("orders?state=ordered&state=failed", "state"), ("orders?limit=0", "limit"),
            ("orders?limit=501", "limit"), ("orders?limit=ten", "limit"), ("orders?limit=1.0", "limit"), ("orders?limit=", "limit"),
            ("orders?number=12", "number"), ("orders?since=today", "since"), ("orders?until=2026-03-01", "until"),
            ("orders?cursor=x", "cursor"), ("orders?cursor=", "cursor"), ("orders?cursor=%2B%2B", "cursor"),
            ("audit?key_id=me", "key_id"), ("do-not-call?history=1", "history"), ("orders?state=%00", "state"),
            ("offers?cursor=WyJhXHUwMDAwIl0", "cursor"), ("audit?cursor=WyJhIl0", "cursor"),
            ("orders?since=9999-12-31T23:59:59-10:00", "since"), (f"orders/{uuid4()}?a=b", "a"),
        ):  # fmt: skip
            async with server.session.get(
                URL(f"{server.url}/v1/{path}", encoded=True), headers={"Authorization": f"Bearer {KEYS['billing']}"}
            ) as answer:
                told = await answer.json(content_type=None)
                assert (422, [fault]) == (answer.status, [found["path"] for found in told["errors"]]), path

    async def test_a_cursor_of_another_list_reaches_no_other_tenants_rows(self, server: Server) -> None:
        for _ in range(2):
            await server.order(key=KEYS["other"])
        _, page = await server.send("GET", "/v1/orders?limit=1", key=KEYS["other"])
        assert [] == (await server.send("GET", f"/v1/orders?cursor={page['next']}"))[1]["orders"]


class TestMethods:
    @pytest.mark.parametrize(
        ("expected", "path"),
        [
            ({"GET", "HEAD", "POST"}, "/v1/orders"), ({"GET", "HEAD"}, f"/v1/orders/{uuid4()}"), ({"POST"}, "/v1/do-not-call/lift"),
            ({"GET", "HEAD", "PUT"}, "/v1/offers/a"), ({"POST"}, "/v1/sms/inbound"),
        ],
    )  # fmt: skip
    async def test_a_wrong_one_is_told_the_right_ones(self, server: Server, expected: set[str], path: str) -> None:
        for method in ("DELETE", "PATCH", "OPTIONS", "TRACE"):
            assert 405 == (await server.send(method, path))[0]
            assert expected == set(server.headers["Allow"].split(","))

    async def test_head_tells_what_get_would_without_the_body(self, server: Server) -> None:
        async with server.session.head(
            f"{server.url}/v1/orders", headers={"Authorization": f"Bearer {KEYS['billing']}"}
        ) as answer:
            assert (200, b"") == (answer.status, await answer.read())


class TestEveryAnswer:
    @pytest.mark.parametrize("path", ["/v1/orders", "/v1/nothing", "/healthz", "/v1/docs", f"/v1/orders/{uuid4()}"])
    async def test_is_stored_nowhere_and_is_what_it_says(self, server: Server, path: str) -> None:
        async with server.session.get(server.url + path) as answer:
            assert ("no-store", "nosniff") == (
                answer.headers["Cache-Control"],
                answer.headers["X-Content-Type-Options"],
            )


class TestLists:
    async def test_orders_come_in_pages_and_none_twice(self, server: Server) -> None:
        made = []
        for number in range(7):
            made.append(await server.order(f"+82101234567{number}"))  # all at the same moment
        found: list[str] = []
        query = "?limit=3"
        while query:
            _, page = await server.send("GET", f"/v1/orders{query}")
            found += [row["order_id"] for row in page["orders"]]
            query = f"?limit=3&cursor={page['next']}" if page["next"] else ""
        assert (sorted(made), 7) == (sorted(found), len(set(found)))

    async def test_orders_are_found_by_number_and_by_time(self, server: Server) -> None:
        first = await server.order()
        server.time = server.time.replace(hour=10)
        second = await server.order("+821087654321")
        for query, expected in (
            ("number=%2B821012345678", [first]), ("number=+821087654321", [second]), ("number=%2B82%2010-8765-4321", [second]),
            ("since=2026-03-01T10:00:00Z", [second]), ("until=2026-03-01T10:00:00Z", [first]),
            ("until=2026-03-01T18:30:00%2B09:00&since=2026-03-01T18:00:00%2B09:00", [first]), ("number=%2B821099999999", []),
        ):  # fmt: skip
            async with server.session.get(
                URL(f"{server.url}/v1/orders?{query}", encoded=True),
                headers={"Authorization": f"Bearer {KEYS['billing']}"},
            ) as answer:
                told = await answer.json(content_type=None)
                assert (200, expected) == (answer.status, [row["order_id"] for row in told.get("orders", [])]), (
                    query,
                    told,
                )

"""The audit: every request with a key, and every refused one, and nothing in it that it should not hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from api_server import KEYS, NUMBER, OTHER, SMS_KEY, START, Server, serving

from gateway.access import SCOPES, create_key
from gateway.demo.orders import sample_order
from gateway.store.database import Database


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    async with serving(database) as made:
        yield made


async def audit(server: Server, query: str = "") -> list[dict[str, Any]]:
    status, answer = await server.send("GET", f"/v1/audit{query}")
    assert 200 == status
    return list(answer["entries"])


class TestWhatIsWrittenDown:
    async def test_who_asked_for_what_from_where(self, server: Server) -> None:
        key = await create_key(server.engine.database, "billing", "a", frozenset(SCOPES), now=START)
        order_id = await server.order(key=key.token)
        await server.send("GET", f"/v1/orders/{order_id}", key=key.token)
        looked, made = await audit(server)
        assert {
            "at": START.isoformat(), "key_id": key.key_id, "method": "GET", "route": "/v1/orders/{order_id}",
            "order_id": order_id, "status": 200, "remote": "127.0.0.1",
        } == looked  # fmt: skip
        assert ("POST", "/v1/orders", 201, None) == (made["method"], made["route"], made["status"], made["order_id"])

    async def test_what_was_refused_too(self, server: Server) -> None:
        key = await create_key(server.engine.database, "billing", "a", frozenset({"orders:read"}), now=START)
        for method, path, body in (
            ("POST", "/v1/orders", {}), ("GET", "/v1/orders/1", None), ("GET", "/v1/orders?state=x", None),
        ):  # fmt: skip
            await server.send(method, path, body, key=key.token)
        await server.send("GET", "/v1/orders", key=f"cg_{key.key_id}_{'0' * 64}")
        found = [(entry["status"], entry["key_id"]) for entry in await audit(server)]
        assert [(401, key.key_id), (422, key.key_id), (404, key.key_id), (403, key.key_id)] == found

    async def test_who_was_nobody_is_kept_for_the_operator(self, server: Server) -> None:
        await server.send("GET", "/v1/orders", key="wrong")
        assert [] == await audit(server)
        row = await server.engine.database.pool.fetchrow("SELECT * FROM consent.audit ORDER BY audit_id LIMIT 1")
        assert row is not None
        assert (None, None, 401, "127.0.0.1") == (row["tenant"], row["key_id"], row["status"], row["remote"])

    async def test_a_message_whose_signature_is_not_right_is_written_down(self, server: Server) -> None:
        message = {"from": NUMBER, "text": "123456", "message_id": "1"}
        assert [200, 401] == [(await server.sms(message, key=key))[0] for key in (SMS_KEY, b"x" * 32)]
        rows = await server.engine.database.pool.fetch("SELECT tenant, route, status FROM consent.audit")
        assert [(None, "/v1/sms/inbound", 401)] == [tuple(row) for row in rows]

    async def test_a_looking_at_the_audit_is_in_it(self, server: Server) -> None:
        await audit(server)
        assert ["/v1/audit"] == [entry["route"] for entry in await audit(server)]

    async def test_refusals_without_end_do_not_fill_it(self, server: Server) -> None:
        for _ in range(70):
            await server.send("GET", "/v1/orders", key="wrong")
        assert await server.engine.database.pool.fetchval("SELECT count(*) FROM consent.audit") < 65

    async def test_no_number_no_secret_and_no_body_is_in_it(self, server: Server) -> None:
        key = await create_key(server.engine.database, "billing", "a", frozenset(SCOPES), now=START)
        await server.send("POST", "/v1/orders", sample_order(NUMBER, START.date()), key=key.token)
        await server.send("GET", f"/v1/orders?number=%2B{NUMBER[1:]}", key=key.token)
        await server.send("GET", f"/v1/orders/{NUMBER}", key=key.token)
        await server.send("POST", "/v1/do-not-call", {"number": OTHER, "reason": "a secret reason"}, key=key.token)
        rows = await server.engine.database.pool.fetch("SELECT a::text AS row FROM consent.audit a")
        assert 4 == len(rows)
        for held in (NUMBER[1:], OTHER[1:], "secret", key.token.rpartition("_")[2], KEYS["billing"]):
            assert [] == [row["row"] for row in rows if held in row["row"]]


class TestBehindAProxy:
    async def test_the_address_is_that_of_whom_it_names(self, database: Database) -> None:
        async with serving(database, proxies=("127.0.0.0/8",)) as server:
            await server.send("GET", "/v1/orders", headers={"X-Forwarded-For": "203.0.113.9, 198.51.100.7"})
            (entry,) = await audit(server)
            assert "198.51.100.7" == entry["remote"]

    async def test_nobody_else_is_believed(self, server: Server) -> None:
        await server.send("GET", "/v1/orders", headers={"X-Forwarded-For": "198.51.100.7"})
        (entry,) = await audit(server)
        assert "127.0.0.1" == entry["remote"]

    @pytest.mark.parametrize(
        "header", [{"X-Forwarded-For": "127.0.0.1"}, {"Via": "1.1 proxy"}, {"Forwarded": "for=127.0.0.1"}]
    )
    @pytest.mark.parametrize("proxies", [(), ("127.0.0.0/8",)])
    async def test_what_a_proxy_passes_on_is_not_from_this_machine(
        self, database: Database, header: dict[str, str], proxies: tuple[str, ...]
    ) -> None:
        async with serving(database, proxies=proxies) as server:
            order_id = await server.order()
            body = {"to": "sip:anybody@192.0.2.1"}
            found = [
                (await server.send("POST", f"/v1/orders/{order_id}/calls", body, headers=more))[0]
                for more in (header, {})
            ]
            assert ([403, 202], 1) == (found, len(server.dialled))


class TestReading:
    async def test_each_tenant_reads_its_own(self, server: Server) -> None:
        await server.send("GET", "/v1/orders", key=KEYS["other"])
        assert [] == await audit(server)

    async def test_by_key_and_by_time(self, server: Server) -> None:
        key = await create_key(server.engine.database, "billing", "a", frozenset(SCOPES), now=START)
        for token in (key.token, KEYS["billing"], key.token):
            await server.send("GET", "/v1/orders", key=token)
            server.time += timedelta(minutes=1)
        assert 2 == len(await audit(server, f"?key_id={key.key_id}"))
        at = [entry["at"] for entry in await audit(server, "?since=2026-03-01T09:01:00Z&until=2026-03-01T09:02:00Z")]
        assert [(START + timedelta(minutes=1)).isoformat()] == at

    async def test_in_pages(self, server: Server) -> None:
        for name in ("orders", "offers", "do-not-call"):
            await server.send("GET", f"/v1/{name}")
        query, found = "?until=2026-03-01T09:00:01Z&limit=2", []
        server.time += timedelta(seconds=5)
        while query:
            _, page = await server.send("GET", f"/v1/audit{query}")
            found += [entry["route"] for entry in page["entries"]]
            query = f"?until=2026-03-01T09:00:01Z&limit=2&cursor={page['next']}" if page["next"] else ""
        assert ["/v1/do-not-call", "/v1/offers", "/v1/orders"] == found

"""Deliveries, evidence, freezing and billing's reference by API."""

from __future__ import annotations

import asyncio
import io
import json
import zipfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from api_server import KEYS, NUMBER, OTHER, Server, serving

from gateway.evidence import verify_evidence
from gateway.store.database import Database
from gateway.webhooks import Subscriptions

GONE_S = 20.0

WANTED = Subscriptions({("billing", kind): ("main",) for kind in ("consent.withdrawn", "consent.frozen")})


@pytest.fixture
async def server(database: Database, tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(database, data_dir=tmp_path, subscriptions=WANTED) as made:
        yield made


async def deliveries(server: Server, query: str = "", **rest: Any) -> list[dict[str, Any]]:
    status, answer = await server.send("GET", f"/v1/deliveries{query}", **rest)
    assert 200 == status
    return list(answer["deliveries"])


async def dies(server: Server) -> None:
    """Every delivery there is was given up, its jobs done."""
    await server.engine.database.pool.execute("UPDATE consent.deliveries SET state = 'dead'")
    await server.engine.database.pool.execute("UPDATE consent.jobs SET state = 'done'")


class TestDeliveries:
    async def test_a_confirmation_is_listed_and_shown_as_it_is_posted(self, server: Server) -> None:
        order_id = await server.confirmed()
        (row,) = await deliveries(server)
        assert ("consent.confirmed", "main", order_id, "pending", 0) == (
            row["kind"], row["endpoint"], row["order_id"], row["state"], row["attempts"],
        )  # fmt: skip
        status, whole = await server.send("GET", f"/v1/deliveries/{row['webhook_id']}")
        assert (200, row) == (status, {name: whole[name] for name in row})
        body = json.loads(whole["body"])
        assert ("consent.confirmed", order_id, []) == (body["type"], body["data"]["order_id"], whole["all_attempts"])

    async def test_they_are_found_by_what_they_are(self, server: Server) -> None:
        confirmed, withdrawn = await server.confirmed(), await server.order(OTHER)
        await server.send("POST", f"/v1/orders/{withdrawn}/withdraw", {"reason": "changed"})
        for query, expected in (
            ("?kind=consent.withdrawn", [withdrawn]), (f"?order_id={confirmed}", [confirmed]), ("?state=dead", []),
            ("?endpoint=other", []), ("?state=pending&endpoint=main&kind=consent.confirmed", [confirmed]),
            ("?since=2026-03-01T08:00:00Z&until=2026-03-01T09:00:00Z", []),
        ):  # fmt: skip
            assert expected == [row["order_id"] for row in await deliveries(server, query)], query

    async def test_they_come_in_pages(self, server: Server) -> None:
        made = [await server.confirmed(f"+82101234567{number}") for number in range(3)]
        _, first = await server.send("GET", "/v1/deliveries?limit=2")
        _, second = await server.send("GET", f"/v1/deliveries?limit=2&cursor={first['next']}")
        found = [row["order_id"] for row in first["deliveries"] + second["deliveries"]]
        assert (sorted(made), None) == (sorted(found), second["next"])

    async def test_another_tenants_are_as_unknown_as_none(self, server: Server) -> None:
        await server.confirmed()
        (row,) = await deliveries(server)
        assert [] == await deliveries(server, key=KEYS["other"])
        for webhook_id in (row["webhook_id"], str(uuid4()), "x"):
            for method, path in (("GET", ""), ("POST", "/replay")):
                found = await server.send(method, f"/v1/deliveries/{webhook_id}{path}", key=KEYS["other"])
                assert 404 == found[0], (method, webhook_id)


class TestReplays:
    async def test_a_dead_one_is_posted_again(self, server: Server) -> None:
        await server.confirmed()
        await dies(server)
        (row,) = await deliveries(server)
        assert (202, {"replayed": 1}) == await server.send("POST", f"/v1/deliveries/{row['webhook_id']}/replay")
        (again,) = await deliveries(server)
        assert ("pending", row["webhook_id"]) == (again["state"], again["webhook_id"])

    async def test_one_that_is_under_way_is_not(self, server: Server) -> None:
        await server.confirmed()
        (row,) = await deliveries(server)
        status, answer = await server.send("POST", f"/v1/deliveries/{row['webhook_id']}/replay")
        assert (409, f"webhook {row['webhook_id']} is under way") == (status, answer["title"])

    async def test_a_confirmation_of_an_order_that_was_frozen_since_is_not(self, server: Server) -> None:
        order_id = await server.confirmed()
        await dies(server)
        await server.send("POST", f"/v1/orders/{order_id}/freeze", {"reason": "in doubt"})
        (row,) = await deliveries(server, "?kind=consent.confirmed")
        assert 409 == (await server.send("POST", f"/v1/deliveries/{row['webhook_id']}/replay"))[0]

    async def test_all_of_a_time_are(self, server: Server) -> None:
        for number in range(3):
            await server.confirmed(f"+82101234567{number}")
            server.time += timedelta(hours=1)
        await dies(server)
        body = {"state": "dead", "since": "2026-03-01T10:00:00Z", "until": "2026-03-01T11:00:00Z"}
        assert (202, {"replayed": 1}) == await server.send("POST", "/v1/delivery-replays", body)
        assert (202, {"replayed": 0}) == await server.send("POST", "/v1/delivery-replays", body, key=KEYS["other"])

    @pytest.mark.parametrize("body", [{}, {"until": "2026-03-01T10:00:00Z"}, {"state": "pending"}, {"since": "today"}])
    async def test_everything_is_never_meant(self, server: Server, body: dict[str, str]) -> None:
        assert 422 == (await server.send("POST", "/v1/delivery-replays", body))[0]


class TestReferences:
    async def test_a_confirmed_order_is_given_billings_own_name(self, server: Server) -> None:
        order_id = await server.confirmed()
        for _ in range(2):
            status, told = await server.send("POST", f"/v1/orders/{order_id}/ack", {"reference": "INV-1"})
            assert (200, "INV-1") == (status, told["reference"])
        types = [entry.event.type for entry in await server.engine.entries(order_id)]
        assert 1 == types.count("billing.acknowledged")
        kept = await server.engine.database.pool.fetch("SELECT reference FROM consent.billing_references")
        assert ["INV-1"] == [row["reference"] for row in kept]

    async def test_it_has_one_name(self, server: Server) -> None:
        order_id = await server.confirmed()
        await server.send("POST", f"/v1/orders/{order_id}/ack", {"reference": "INV-1"})
        status, answer = await server.send("POST", f"/v1/orders/{order_id}/ack", {"reference": "INV-2"})
        assert (409, "the order already has the reference 'INV-1'") == (status, answer["title"])

    async def test_one_that_is_not_confirmed_has_none(self, server: Server) -> None:
        order_id = await server.order()
        status, answer = await server.send("POST", f"/v1/orders/{order_id}/ack", {"reference": "INV-1"})
        assert (409, "the order is ordered: only a confirmed one has a reference") == (status, answer["title"])

    @pytest.mark.parametrize("reference", ["", " ", "a\nb", "x" * 201, 1, None])
    async def test_what_is_no_name_is_refused(self, server: Server, reference: Any) -> None:
        order_id = await server.order()
        assert 422 == (await server.send("POST", f"/v1/orders/{order_id}/ack", {"reference": reference}))[0]


class TestFreezing:
    async def test_a_confirmed_order_is_frozen_and_billing_is_told(self, server: Server) -> None:
        order_id = await server.confirmed()
        status, told = await server.send("POST", f"/v1/orders/{order_id}/freeze", {"reason": "nobody called"})
        assert (200, "frozen", "nobody called") == (status, told["state"], told["reason"])
        assert 1 == len(await deliveries(server, "?kind=consent.frozen"))

    async def test_an_open_one_too(self, server: Server) -> None:
        order_id = await server.order()
        assert 200 == (await server.send("POST", f"/v1/orders/{order_id}/freeze", {"reason": "in doubt"}))[0]
        assert 409 == (await server.send("POST", f"/v1/orders/{order_id}/calls"))[0]

    async def test_one_that_has_ended_without_a_bill_is_not(self, server: Server) -> None:
        order_id = await server.order()
        await server.send("POST", f"/v1/orders/{order_id}/withdraw", {"reason": "changed"})
        status, answer = await server.send("POST", f"/v1/orders/{order_id}/freeze", {"reason": "in doubt"})
        assert (409, "the order is withdrawn and cannot be frozen") == (status, answer["title"])


class TestEvidence:
    async def download(self, server: Server, order_id: str, query: str = "") -> tuple[int, bytes]:
        async with server.session.get(
            f"{server.url}/v1/orders/{order_id}/evidence{query}", headers={"Authorization": f"Bearer {KEYS['billing']}"}
        ) as answer:
            server.headers = answer.headers
            return answer.status, await answer.read()

    async def test_the_bundle_of_an_order_is_valid(self, server: Server, tmp_path: Path) -> None:
        order_id = await server.order()
        status, octets = await self.download(server, order_id)
        assert (200, "application/zip") == (status, server.headers["Content-Type"])
        assert f'attachment; filename="evidence-{order_id}.zip"' == server.headers["Content-Disposition"]
        path = tmp_path / "evidence.zip"
        path.write_bytes(octets)
        assert "verify_evidence.py" in zipfile.ZipFile(io.BytesIO(octets)).namelist()
        assert 0 == verify_evidence.main([str(path)])
        async with asyncio.timeout(GONE_S):  # the last octets arrive before the file is deleted
            while any(path.name.startswith(".evidence-") for path in tmp_path.iterdir()):  # noqa: ASYNC110, ASYNC240
                await asyncio.sleep(0.01)

    async def test_who_asked_for_it_and_why_is_in_the_record(self, server: Server) -> None:
        order_id = await server.order()
        await self.download(server, order_id, "?purpose=complaint%2012")
        event = (await server.engine.entries(order_id))[-1].event
        assert ("evidence.exported", "billing/settings by API", "complaint 12") == (event.type, event.by, event.purpose)  # type: ignore[union-attr]

    async def test_that_of_another_tenants_order_is_unknown(self, server: Server) -> None:
        order_id = await server.order(NUMBER, key=KEYS["other"])
        assert 404 == (await self.download(server, order_id))[0]
        assert ["order.created"] == [entry.event.type for entry in await server.engine.entries(order_id)]

    async def test_nobody_asks_for_the_headers_alone(self, server: Server) -> None:
        order_id = await server.order()
        async with server.session.head(
            f"{server.url}/v1/orders/{order_id}/evidence", headers={"Authorization": f"Bearer {KEYS['billing']}"}
        ) as answer:
            assert 405 == answer.status

"""What the API says of an order whose subscriber was erased: that it was, and nothing more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from api_server import KEYS, NUMBER, START, Server, serving

from gateway.demo.orders import sample_order
from gateway.store.database import Database

KEY = {"Idempotency-Key": "once"}


@pytest.fixture
async def server(database: Database, tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(database, data_dir=tmp_path) as made:
        yield made


@pytest.fixture
async def order_id(server: Server) -> str:
    _, told = await server.send("POST", "/v1/orders", sample_order(NUMBER, START.date()), headers=KEY)
    found: str = told["order_id"]
    await server.send("POST", f"/v1/orders/{found}/withdraw", {"reason": "changed"})
    await server.engine.erase(found, by="a test", reason="asked to be forgotten")
    return found


async def test_it_is_gone(server: Server, order_id: str) -> None:
    for method, path, body in (
        ("GET", "", None), ("GET", "/events", None), ("POST", "/calls", None), ("POST", "/withdraw", {"reason": "again"}),
        ("POST", "/freeze", {"reason": "in doubt"}), ("POST", "/ack", {"reference": "INV-1"}),
    ):  # fmt: skip
        status, answer = await server.send(method, f"/v1/orders/{order_id}{path}", body)
        assert (410, f"order {order_id} was erased: its key is destroyed") == (status, answer["title"]), path


async def test_for_another_tenant_it_never_was(server: Server, order_id: str) -> None:
    assert 404 == (await server.send("GET", f"/v1/orders/{order_id}", key=KEYS["other"]))[0]


async def test_it_is_listed_without_its_number(server: Server, order_id: str) -> None:
    _, page = await server.send("GET", "/v1/orders")
    assert [(order_id, None, "withdrawn")] == [(row["order_id"], row["number"], row["state"]) for row in page["orders"]]
    assert [] == (await server.send("GET", f"/v1/orders?number=%2B{NUMBER[1:]}"))[1]["orders"]


async def test_the_request_that_made_it_makes_no_other(server: Server, order_id: str) -> None:
    status, answer = await server.send("POST", "/v1/orders", sample_order(NUMBER, START.date()), headers=KEY)
    assert (410, f"order {order_id} was erased: its key is destroyed") == (status, answer["title"])


async def test_its_evidence_can_still_be_had(server: Server, order_id: str) -> None:
    async with server.session.get(
        f"{server.url}/v1/orders/{order_id}/evidence", headers={"Authorization": f"Bearer {KEYS['billing']}"}
    ) as answer:
        assert (200, b"PK") == (answer.status, (await answer.read())[:2])

"""The do-not-call list (rule R11): honoured by everybody, lifted only by who asked for it, and nothing of it is ever lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from api_server import KEYS, NUMBER, OTHER, START, Server, serving

from gateway.consent import events as ev
from gateway.demo.orders import sample_order
from gateway.store.database import Database

WISH = {"number": NUMBER, "reason": "asked by letter"}


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    async with serving(database) as made:
        yield made


async def listed(server: Server, query: str = "", **rest: Any) -> list[tuple[str, str]]:
    _, page = await server.send("GET", f"/v1/do-not-call{query}", **rest)
    return [(entry["number"], entry["action"]) for entry in page["entries"]]


async def blocked(server: Server, *numbers: str, **rest: Any) -> list[str]:
    _, answer = await server.send("POST", "/v1/do-not-call/check", {"numbers": numbers}, **rest)
    return list(answer["blocked"])


async def stop(server: Server, number: str, **rest: Any) -> None:
    """The subscriber asks for it on a call."""
    order_id = await server.order(number, **rest)
    await server.engine.append(order_id, ev.CallStarted(call_id="c", gateway="g1", direction="outbound"))
    await server.engine.append(order_id, ev.ConsentDenied(call_id="c", denial="stop", step="consent"))


class TestBlocking:
    async def test_a_number_is_put_on_the_list(self, server: Server) -> None:
        status, entry = await server.send("POST", "/v1/do-not-call", WISH)
        expected = WISH | {"action": "block", "source": "api", "order_id": None, "at": START.isoformat()}
        assert (201, expected) == (status, entry)
        assert [(NUMBER, "block")] == await listed(server)

    async def test_once_is_enough(self, server: Server) -> None:
        first = (await server.send("POST", "/v1/do-not-call", WISH))[1]
        assert (200, first) == await server.send("POST", "/v1/do-not-call", WISH | {"reason": "asked again"})

    async def test_no_tenant_may_order_for_it(self, server: Server) -> None:
        await server.send("POST", "/v1/do-not-call", WISH)
        for key in KEYS.values():
            status, answer = await server.send("POST", "/v1/orders", sample_order(NUMBER, START.date()), key=key)
            assert (422, ["subscriber.number"]) == (status, [fault["path"] for fault in answer["errors"]])

    async def test_its_open_orders_end_whosever_they_are(self, server: Server) -> None:
        mine, theirs, another = await server.order(), await server.order(key=KEYS["other"]), await server.order(OTHER)
        await server.send("POST", "/v1/do-not-call", WISH)
        states = [(await server.engine.record(order_id)).state for order_id in (mine, theirs, another)]
        assert ["withdrawn", "withdrawn", "ordered"] == states

    async def test_a_stop_word_on_a_call_is_an_entry_of_its_tenant(self, server: Server) -> None:
        await stop(server, NUMBER)
        (entry,) = (await server.send("GET", "/v1/do-not-call"))[1]["entries"]
        assert ("subscriber", NUMBER, "block") == (entry["source"], entry["number"], entry["action"])
        assert [] == await listed(server, key=KEYS["other"])

    @pytest.mark.parametrize(
        "change", [{"number": "0101234"}, {"number": "+82"}, {"reason": ""}, {"reason": "x" * 201}, {"tenant": "other"}]
    )
    async def test_what_is_no_entry_is_refused(self, server: Server, change: dict[str, str]) -> None:
        status, answer = await server.send("POST", "/v1/do-not-call", WISH | change)
        assert (422, list(change)) == (status, [fault["path"] for fault in answer["errors"]])


class TestChecking:
    async def test_those_on_the_list_are_named(self, server: Server) -> None:
        await server.send("POST", "/v1/do-not-call", WISH)
        assert [NUMBER] == await blocked(server, OTHER, NUMBER, "+82 10-1234-5678")

    async def test_another_tenants_entries_count(self, server: Server) -> None:
        await server.send("POST", "/v1/do-not-call", WISH, key=KEYS["other"])
        assert [NUMBER] == await blocked(server, NUMBER)

    @pytest.mark.parametrize("numbers", [[], [NUMBER] * 1001, ["x"], [1], NUMBER, None])
    async def test_what_is_no_list_of_numbers_is_refused(self, server: Server, numbers: Any) -> None:
        assert 422 == (await server.send("POST", "/v1/do-not-call/check", {"numbers": numbers}))[0]


class TestLifting:
    async def test_an_own_entry_is_lifted_and_may_be_made_again(self, server: Server) -> None:
        await server.send("POST", "/v1/do-not-call", WISH)
        lift = {"number": NUMBER, "reason": "asked for it in the shop"}
        status, entry = await server.send("POST", "/v1/do-not-call/lift", lift)
        assert (200, "lift", lift["reason"]) == (status, entry["action"], entry["reason"])
        assert ([], []) == (await blocked(server, NUMBER), await listed(server))
        await server.order()
        assert 201 == (await server.send("POST", "/v1/do-not-call", WISH))[0]
        assert [NUMBER] == await blocked(server, NUMBER)
        history = [(NUMBER, "block"), (NUMBER, "lift"), (NUMBER, "block")]
        assert history == await listed(server, "?history=true")

    async def test_another_tenants_entry_stands(self, server: Server) -> None:
        await stop(server, NUMBER, key=KEYS["other"])
        lift = {"number": NUMBER, "reason": "we want to call"}
        assert 404 == (await server.send("POST", "/v1/do-not-call/lift", lift))[0]
        await server.send("POST", "/v1/do-not-call", WISH)
        assert 200 == (await server.send("POST", "/v1/do-not-call/lift", lift))[0]
        assert [NUMBER] == await blocked(server, NUMBER)

    async def test_what_is_lifted_or_was_never_there_cannot_be_lifted(self, server: Server) -> None:
        await server.send("POST", "/v1/do-not-call", WISH)
        found = [(await server.send("POST", "/v1/do-not-call/lift", WISH))[0] for _ in range(2)]
        assert [200, 404] == found

    async def test_a_lift_needs_its_reason(self, server: Server) -> None:
        await server.send("POST", "/v1/do-not-call", WISH)
        assert 422 == (await server.send("POST", "/v1/do-not-call/lift", {"number": NUMBER}))[0]

    async def test_a_subscriber_who_asks_twice_is_lifted_once(self, server: Server) -> None:
        first, second = await server.order(), await server.order()
        for order_id in (first, second):
            await server.engine.append(order_id, ev.ConsentDenied(call_id="c", denial="stop", step="consent"))
        await server.send("POST", "/v1/do-not-call/lift", WISH)
        assert ([], []) == (await blocked(server, NUMBER), await listed(server))


async def test_the_list_comes_in_pages(server: Server) -> None:
    numbers = [f"+82101234567{digit}" for digit in range(5)]
    for number in numbers:
        await server.send("POST", "/v1/do-not-call", WISH | {"number": number})
    await server.send("POST", "/v1/do-not-call/lift", WISH | {"number": numbers[2]})
    found: list[str] = []
    query = "?limit=2"
    while query:
        _, page = await server.send("GET", f"/v1/do-not-call{query}")
        assert len(page["entries"]) <= 2
        found += [entry["number"] for entry in page["entries"]]
        query = f"?limit=2&cursor={page['next']}" if page["next"] else ""
    assert [numbers[4], numbers[3], numbers[1], numbers[0]] == found

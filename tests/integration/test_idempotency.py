"""Idempotency-Key: a request that is sent twice makes one order, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from api_server import KEYS, NUMBER, OTHER, START, Server, serving

from gateway.demo.orders import sample_order
from gateway.store.database import Database
from gateway.web.idempotency import KEPT_FOR, LONGEST_KEY

ORDER = sample_order(NUMBER, START.date())
UUID = "8e03978e-40d5-43dd-bc93-6894a57f9324"


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    async with serving(database) as made:
        yield made


async def post(server: Server, key: str | None = UUID, body: Any = ORDER, **rest: Any) -> tuple[int, Any]:
    headers = {"Idempotency-Key": key} if key is not None else {}
    return await server.send("POST", "/v1/orders", body, headers=headers, **rest)


async def orders(server: Server) -> int:
    found: int = await server.engine.database.pool.fetchval("SELECT count(*) FROM consent.orders")
    return found


class TestTheSameRequestAgain:
    async def test_the_first_answer_comes_again(self, server: Server) -> None:
        first = await post(server)
        where, replayed = server.headers["Location"], server.headers.get("Idempotency-Replayed")
        assert (201, None) == (first[0], replayed)
        assert first == await post(server)
        assert (where, "true", 1) == (
            server.headers["Location"], server.headers["Idempotency-Replayed"], await orders(server),
        )  # fmt: skip

    async def test_it_tells_the_order_as_it_first_stood(self, server: Server) -> None:
        first = await post(server)
        await server.send("POST", f"/v1/orders/{first[1]['order_id']}/withdraw", {"reason": "changed"})
        assert first == await post(server)

    async def test_another_spelling_of_the_same_json_is_the_same(self, server: Server) -> None:
        first = await post(server)
        assert first == await post(server, body=dict(reversed(ORDER.items())))

    async def test_what_would_be_refused_by_now_still_has_its_answer(self, server: Server) -> None:
        first = await post(server)
        server.time += timedelta(hours=47)
        await server.send("POST", "/v1/do-not-call", {"number": NUMBER, "reason": "asked"})
        assert first == await post(server)

    async def test_without_a_key_each_is_an_order(self, server: Server) -> None:
        await post(server, None)
        await post(server, None)
        assert 2 == await orders(server)

    async def test_another_key_is_another_order(self, server: Server) -> None:
        await post(server, "a")
        await post(server, "b")
        assert 2 == await orders(server)

    async def test_each_tenant_has_its_own_keys(self, server: Server) -> None:
        await post(server)
        await post(server, key=UUID, body=ORDER)
        headers = {"Idempotency-Key": UUID}
        assert 201 == (await server.send("POST", "/v1/orders", ORDER, key=KEYS["other"], headers=headers))[0]
        assert (None, 2) == (server.headers.get("Idempotency-Replayed"), await orders(server))


class TestWhatIsRefused:
    @pytest.mark.parametrize("change", [{"call": "now"}, {"subscriber": ORDER["subscriber"] | {"number": OTHER}}])
    async def test_the_same_key_for_another_order(self, server: Server, change: dict[str, Any]) -> None:
        await post(server)
        status, answer = await post(server, body=ORDER | change)
        assert (422, "this Idempotency-Key was used for another request") == (status, answer["title"])
        assert 1 == await orders(server)

    async def test_a_refused_request_leaves_its_key_free(self, server: Server) -> None:
        old = ORDER["offer"] | {"starts_on": "2020-01-01"}
        assert [422, 201] == [(await post(server, body=body))[0] for body in (ORDER | {"offer": old}, ORDER)]

    async def test_a_second_one_while_the_first_is_under_way(self, server: Server) -> None:
        async with server.engine.database.transaction() as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('billing ' || encode(sha256($1), 'hex'), 0))",
                UUID.encode(),
            )
            status, answer = await post(server)
            assert (409, "a request with this Idempotency-Key is under way") == (status, answer["title"])
            assert "1" == server.headers["Retry-After"]
        assert (201, 1) == ((await post(server))[0], await orders(server))

    @pytest.mark.parametrize("key", ["", " ", "x" * (LONGEST_KEY + 1), "네", "a\tb"])
    async def test_a_key_that_is_none(self, server: Server, key: str) -> None:
        assert 400 == (await post(server, key))[0]
        assert 0 == await orders(server)

    async def test_two_keys_at_once(self, server: Server) -> None:
        headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b"), ("Authorization", f"Bearer {KEYS['billing']}")]
        async with server.session.post(f"{server.url}/v1/orders", json=ORDER, headers=headers) as answer:
            assert 400 == answer.status

    async def test_the_longest_key_is_taken(self, server: Server) -> None:
        assert 201 == (await post(server, "x" * LONGEST_KEY))[0]


class TestNothingIsLostAndNothingDoubled:
    async def test_many_at_once_make_one_order(self, server: Server) -> None:
        found = await asyncio.gather(*(post(server) for _ in range(12)))
        assert {201, 409} >= {status for status, _ in found}
        assert 1 == len({answer["order_id"] for status, answer in found if status == 201})
        assert 1 == await orders(server)

    async def test_an_order_whose_key_cannot_be_kept_is_not_made(self, server: Server, dsn: str) -> None:
        """As a crash between the two would leave it."""
        owner = await asyncpg.connect(dsn)
        await owner.execute(
            "CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'crash'; END $$;"
            "CREATE TRIGGER crash AFTER INSERT ON consent.idempotency_keys FOR EACH ROW EXECUTE FUNCTION crash()"
        )
        assert (500, 0) == ((await post(server))[0], await orders(server))
        assert 0 == await owner.fetchval("SELECT count(*) FROM consent.jobs")
        await owner.execute("DROP TRIGGER crash ON consent.idempotency_keys")
        await owner.close()
        assert (201, 1) == ((await post(server))[0], await orders(server))

    async def test_keys_are_forgotten_after_their_time_and_not_before(self, server: Server) -> None:
        await post(server, "old")
        server.time += KEPT_FOR
        await post(server, "next")
        assert (await post(server, "old"))[0] == 201
        assert "true" == server.headers["Idempotency-Replayed"]
        server.time += timedelta(seconds=1)
        await post(server, "one more")
        kept = await server.engine.database.pool.fetchval("SELECT count(*) FROM consent.idempotency_keys")
        assert (2, 3) == (kept, await orders(server))

    async def test_neither_the_key_nor_the_number_can_be_read_from_what_is_kept(self, server: Server) -> None:
        await post(server)
        row = await server.engine.database.pool.fetchval("SELECT k::text FROM consent.idempotency_keys k")
        assert UUID not in row
        assert NUMBER not in row

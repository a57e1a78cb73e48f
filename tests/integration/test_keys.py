"""API keys: who is let in, to do what, how often, and how a key that should not be used any more is kept out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from api_server import KEYS, OTHER, START, Server, serving

from gateway import access as door
from gateway.access import REMEMBERED_S, SCOPES, Keys, NewKey, Scope, create_key
from gateway.rates import Rates
from gateway.store import access
from gateway.store.database import Database


@dataclass
class Door:
    """The API, and the clock that its keys are remembered by."""

    server: Server
    database: Database
    seconds: float = 0.0
    checks: int = 0

    async def key(self, *scopes: Scope, tenant: str = "billing", **rest: Any) -> NewKey:
        return await create_key(
            self.database, tenant, "a test", frozenset(scopes or SCOPES), now=self.server.now(), **rest
        )

    async def status(self, token: str, path: str = "/v1/orders") -> int:
        return (await self.server.send("GET", path, key=token))[0]

    async def told(self, token: str) -> tuple[int, str]:
        status, answer = await self.server.send("GET", "/v1/orders", key=token)
        return status, answer["title"]


@pytest.fixture
async def gate(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    made = Door(None, database)  # type: ignore[arg-type]  # the server needs its clock
    fits = door.fits

    def counted(secret_hash: str, token: str) -> bool:
        made.checks += 1
        return fits(secret_hash, token)

    monkeypatch.setattr(door, "fits", counted)

    def clock() -> float:
        return made.seconds

    def now() -> datetime:
        return made.server.time

    operators = {door.hashlib.sha256(key.encode()).digest(): tenant for tenant, key in KEYS.items()}
    keys = Keys(database, operators, now=now, clock=clock, failures=Rates(rate=0.1, burst=5, clock=clock))
    async with serving(database, keys=keys) as server:
        made.server = server
        yield made


class TestWho:
    async def test_a_key_lets_its_tenant_in(self, gate: Door) -> None:
        key = await gate.key()
        order_id = await gate.server.order(key=key.token)
        theirs = await gate.server.order(OTHER, key=KEYS["other"])
        assert [200, 404] == [await gate.status(key.token, f"/v1/orders/{one}") for one in (order_id, theirs)]

    async def test_the_key_of_the_settings_may_do_everything(self, gate: Door) -> None:
        assert [200] * 4 == [
            await gate.status(KEYS["billing"], path) for path in ("/v1/orders", "/v1/offers", "/v1/audit", "/v1/do-not-call")
        ]  # fmt: skip

    async def test_a_wrong_secret_and_an_unknown_id_are_told_the_same(self, gate: Door) -> None:
        key = await gate.key()
        wrong = key.token[:-1] + ("0" if key.token[-1] != "0" else "1")
        assert (401, "this key is not known here") == await gate.told(wrong)
        assert (401, "this key is not known here") == await gate.told(f"cg_{'0' * 12}_{'0' * 64}")
        assert 'Bearer realm="consent-gateway"' == gate.server.headers["WWW-Authenticate"]

    async def test_an_unknown_id_costs_what_a_wrong_secret_costs(self, gate: Door) -> None:
        await gate.status(f"cg_{'0' * 12}_{'0' * 64}")
        assert 1 == gate.checks

    @pytest.mark.parametrize(
        "change",
        [str.upper, lambda key: key + "0", lambda key: key[:-1], lambda key: key.replace("_", "-"), lambda key: " " + key,
         lambda key: key.replace("cg_", ""), lambda key: key.removeprefix("cg_").partition("_")[2]],
    )  # fmt: skip
    async def test_a_mangled_key_is_none(self, gate: Door, change: Any) -> None:
        key = await gate.key()
        assert (401, "send a key as Authorization: Bearer KEY") == await gate.told(change(key.token))
        assert 0 == gate.checks

    async def test_two_keys_are_never_alike_and_none_is_stored(self, gate: Door) -> None:
        made = [await gate.key() for _ in range(3)]
        assert 3 == len({key.token for key in made})
        await gate.status(made[0].token)
        for table in ("api_keys", "audit"):
            rows = await gate.database.pool.fetch(f"SELECT t::text AS row FROM consent.{table} t")
            assert [] == [row for row in rows for key in made if key.token.rpartition("_")[2] in row["row"]]


class TestScopes:
    @pytest.mark.parametrize(
        ("scope", "method", "path", "body"),
        [
            ("orders:read", "GET", "/v1/orders", None),
            ("orders:write", "POST", "/v1/orders", {}),
            ("dnc:read", "GET", "/v1/do-not-call", None),
            ("dnc:read", "POST", "/v1/do-not-call/check", {}),
            ("dnc:write", "POST", "/v1/do-not-call", {}),
            ("dnc:lift", "POST", "/v1/do-not-call/lift", {}),
            ("offers:read", "GET", "/v1/offers", None),
            ("offers:write", "PUT", "/v1/offers/a", {}),
            ("audit:read", "GET", "/v1/audit", None),
        ],
    )
    async def test_a_key_does_what_its_scope_says_and_nothing_else(
        self, gate: Door, scope: Scope, method: str, path: str, body: Any
    ) -> None:
        fitting, lacking = await gate.key(scope), await gate.key(*(set(SCOPES) - {scope}))
        assert 403 != (await gate.server.send(method, path, body, key=fitting.token))[0]
        status, answer = await gate.server.send(method, path, body, key=lacking.token)
        assert (403, f"this key lacks the scope {scope}") == (status, answer["title"])

    async def test_what_the_key_may_not_do_is_not_even_read(self, gate: Door) -> None:
        key = await gate.key("orders:read")
        assert 403 == (await gate.server.send("POST", "/v1/orders", b"{", key=key.token))[0]


class TestTheEndOfAKey:
    async def test_a_revoked_key_is_out_at_the_next_request(self, gate: Door) -> None:
        key = await gate.key()
        assert 200 == await gate.status(key.token)
        assert await access.revoke_key(gate.database, key.key_id, "lost", START)
        assert (401, "this key has been revoked") == await gate.told(key.token)

    async def test_it_is_revoked_once(self, gate: Door) -> None:
        key = await gate.key()
        done = [
            await access.revoke_key(gate.database, key_id, "lost", START)
            for key_id in (key.key_id, key.key_id, "0" * 12)
        ]
        assert [True, False, False] == done

    async def test_only_its_holder_is_told_that_it_was_revoked(self, gate: Door) -> None:
        key = await gate.key()
        await access.revoke_key(gate.database, key.key_id, "lost", START)
        wrong = f"cg_{key.key_id}_{'0' * 64}"
        assert (401, "this key is not known here") == await gate.told(wrong)

    async def test_an_expired_key_is_out(self, gate: Door) -> None:
        key = await gate.key(valid=timedelta(days=1))
        gate.server.time += timedelta(days=1, microseconds=-1)
        assert 200 == await gate.status(key.token)
        gate.server.time += timedelta(microseconds=1)
        assert (401, "this key has expired") == await gate.told(key.token)

    async def test_when_it_was_last_used_is_kept(self, gate: Door) -> None:
        key = await gate.key()
        (row,) = await access.list_keys(gate.database, "billing")
        assert row["last_used_at"] is None
        await gate.status(key.token)
        (row,) = await access.list_keys(gate.database, "billing")
        assert START == row["last_used_at"]


class TestTheCost:
    async def test_a_proven_key_is_believed_for_a_minute(self, gate: Door) -> None:
        key = await gate.key()
        for at, checks in ((0.0, 1), (REMEMBERED_S - 1, 1), (REMEMBERED_S, 2), (2 * REMEMBERED_S - 1, 2)):
            gate.seconds = at
            assert (200, checks) == (await gate.status(key.token), gate.checks)

    async def test_the_same_key_on_many_connections_is_checked_once(self, gate: Door) -> None:
        key = await gate.key()
        assert [200] * 20 == await asyncio.gather(*(gate.status(key.token) for _ in range(20)))
        assert 1 == gate.checks

    async def test_wrong_keys_of_one_address_are_held_up_before_they_cost_anything(self, gate: Door) -> None:
        wrong = [f"cg_{number:012x}_{'0' * 64}" for number in range(8)]
        assert [401] * 5 + [429] * 3 == [await gate.status(token) for token in wrong]
        assert (5, "10") == (gate.checks, gate.server.headers["Retry-After"])
        gate.seconds += 10
        assert [401, 429] == [await gate.status(token) for token in wrong[:2]]

    async def test_many_at_once_do_not_slip_through(self, gate: Door) -> None:
        wrong = [f"cg_{number:012x}_{'0' * 64}" for number in range(40)]
        found = await asyncio.gather(*(gate.status(token) for token in wrong))
        assert (5, 35) == (found.count(401), found.count(429))

    async def test_good_keys_use_nothing_of_it_up(self, gate: Door) -> None:
        keys = [await gate.key() for _ in range(7)]
        assert [200] * 7 == [await gate.status(key.token) for key in keys]

    async def test_a_key_that_once_proved_good_is_not_held_up_by_others(self, gate: Door) -> None:
        key = await gate.key()
        await gate.status(key.token)
        for number in range(6):
            await gate.status(f"cg_{number:012x}_{'0' * 64}")
        gate.seconds += REMEMBERED_S
        for number in range(6):
            await gate.status(f"cg_{number:012x}_{'0' * 64}")
        assert 200 == await gate.status(key.token)

    async def test_the_event_loop_runs_on_while_a_key_is_checked(
        self, gate: Door, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The check waits for the loop: were it run on the loop, it would wait for itself."""
        key, gone_on = await gate.key(), door.asyncio.Event()
        loop, fits = asyncio.get_running_loop(), door.fits

        def slow(secret_hash: str, token: str) -> bool:
            asyncio.run_coroutine_threadsafe(gone_on.wait(), loop).result(30)
            return fits(secret_hash, token)

        monkeypatch.setattr(door, "fits", slow)
        waiting = asyncio.create_task(gate.status(key.token))
        assert 200 == (await gate.server.send("GET", "/healthz", key=None))[0]
        gone_on.set()
        assert 200 == await waiting


class TestRates:
    async def test_more_than_the_burst_is_told_to_wait(self, database: Database) -> None:
        async with serving(database, rates=(0.5, 3)) as server:
            found = [(await server.send("GET", "/v1/orders"))[0] for _ in range(4)]
            assert [200, 200, 200, 429] == found
            assert ('"key";q=3;w=6', "2") == (server.headers["RateLimit-Policy"], server.headers["Retry-After"])
            assert server.headers["RateLimit"].startswith('"key";r=0;t=')

    async def test_what_is_left_is_told(self, database: Database) -> None:
        async with serving(database, rates=(0.001, 3)) as server:
            left = []
            for _ in range(3):
                await server.send("GET", "/v1/orders")
                left.append(server.headers["RateLimit"].partition(";t")[0])
            assert ['"key";r=2', '"key";r=1', '"key";r=0'] == left

    async def test_one_key_does_not_use_up_anothers(self, database: Database) -> None:
        async with serving(database, rates=(0.001, 1)) as server:
            key = await create_key(database, "billing", "its own", frozenset(SCOPES), now=START)
            for token in (KEYS["billing"], KEYS["other"], key.token):
                assert [200, 429] == [(await server.send("GET", "/v1/orders", key=token))[0] for _ in range(2)]

    async def test_a_key_may_have_a_rate_of_its_own(self, database: Database) -> None:
        async with serving(database, rates=(0.001, 1)) as server:
            key = await create_key(database, "billing", "fast", frozenset(SCOPES), now=START, rate=0.001, burst=4)
            found = [(await server.send("GET", "/v1/orders", key=key.token))[0] for _ in range(5)]
            assert [200, 200, 200, 200, 429] == found

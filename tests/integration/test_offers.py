"""The catalogue of offers: every version is kept, and an order names an offer as it stands then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from api_server import KEYS, NUMBER, START, Server, serving

from gateway.consent.canonical import content_hash
from gateway.consent.order import Offer
from gateway.demo.orders import sample_order
from gateway.store.database import Database

ORDER = sample_order(NUMBER, START.date())
TERMS: dict[str, Any] = ORDER["offer"]
WHERE = f"/v1/offers/{TERMS['id']}"
DEARER = TERMS | {"price": {"amount": 49000, "currency": "KRW"}}
BY_NAME = {key: value for key, value in ORDER.items() if key != "offer"} | {"offer_id": TERMS["id"]}


@pytest.fixture
async def server(database: Database) -> AsyncIterator[Server]:
    async with serving(database) as made:
        yield made


class TestPutting:
    async def test_an_offer_is_kept_under_the_hash_of_its_terms(self, server: Server) -> None:
        status, told = await server.send("PUT", WHERE, TERMS)
        full = Offer.model_validate(TERMS).model_dump(mode="json")
        assert (201, WHERE) == (status, server.headers["Location"])
        assert (1, content_hash(full), full, None) == (
            told["version"], told["sha256"], told["terms"], told["withdrawn_at"],
        )  # fmt: skip
        assert (200, told) == await server.send("GET", WHERE)

    async def test_the_same_terms_make_no_version(self, server: Server) -> None:
        _, told = await server.send("PUT", WHERE, TERMS)
        assert (200, told) == await server.send("PUT", WHERE, dict(reversed(TERMS.items())))

    async def test_other_terms_make_the_next(self, server: Server) -> None:
        for terms in (TERMS, DEARER, TERMS):
            assert 201 == (await server.send("PUT", WHERE, terms))[0]
        _, told = await server.send("GET", f"{WHERE}/versions")
        assert [(3, 39000), (2, 49000), (1, 39000)] == [
            (version["version"], version["terms"]["price"]["amount"]) for version in told["versions"]
        ]

    async def test_the_id_of_the_path_is_enough(self, server: Server) -> None:
        _, told = await server.send("PUT", WHERE, {key: value for key, value in TERMS.items() if key != "id"})
        assert (200, told) == await server.send("PUT", WHERE, TERMS)

    @pytest.mark.parametrize(
        ("path", "change"),
        [("id", {"id": "another"}), ("promotion", {"promotion": ...}), ("colour", {"colour": "red"}), ("price", {"price": "39000"}),
         ("term_months", {"term_months": "12"}), ("name", {"name": ""})],
    )  # fmt: skip
    async def test_what_is_no_offer_is_told_where(self, server: Server, path: str, change: dict[str, Any]) -> None:
        terms = {key: value for key, value in (TERMS | change).items() if value is not ...}
        status, answer = await server.send("PUT", WHERE, terms)
        assert (422, [path]) == (status, [fault["path"] for fault in answer["errors"]])


class TestOrdering:
    async def test_an_order_has_the_terms_of_the_offer_that_it_names(self, server: Server) -> None:
        await server.send("PUT", WHERE, TERMS)
        _, told = await server.send("POST", "/v1/orders", BY_NAME)
        await server.send("PUT", WHERE, DEARER)
        record = await server.engine.record(told["order_id"])
        assert Offer.model_validate(TERMS) == record.order.offer

    @pytest.mark.parametrize("withdrawn", [False, True])
    async def test_an_offer_that_is_not_there_cannot_be_named(self, server: Server, *, withdrawn: bool) -> None:
        if withdrawn:
            await server.send("PUT", WHERE, TERMS)
            await server.send("POST", f"{WHERE}/withdraw", {"reason": "no longer sold"})
        status, answer = await server.send("POST", "/v1/orders", BY_NAME)
        assert (422, ["offer_id"]) == (status, [fault["path"] for fault in answer["errors"]])

    async def test_another_tenants_offer_cannot_be_named(self, server: Server) -> None:
        await server.send("PUT", WHERE, TERMS, key=KEYS["other"])
        assert [422, 404] == [
            (await server.send("POST", "/v1/orders", BY_NAME))[0], (await server.send("GET", WHERE))[0],
        ]  # fmt: skip

    @pytest.mark.parametrize("body", [BY_NAME | {"offer": TERMS}, {k: v for k, v in ORDER.items() if k != "offer"},
                                      ORDER | {"offer": None}, BY_NAME | {"offer_id": None}])  # fmt: skip
    async def test_an_order_names_one_offer(self, server: Server, body: dict[str, Any]) -> None:
        await server.send("PUT", WHERE, TERMS)
        assert 422 == (await server.send("POST", "/v1/orders", body))[0]

    async def test_the_rules_hold_for_it_as_for_any_other(self, server: Server) -> None:
        await server.send("PUT", WHERE, TERMS | {"starts_on": "2020-01-01"})
        status, answer = await server.send("POST", "/v1/orders", BY_NAME)
        assert (422, "offer.starts_on") == (status, answer["errors"][0]["path"])


class TestWithdrawing:
    async def test_it_is_told_with_its_reason(self, server: Server) -> None:
        await server.send("PUT", WHERE, TERMS)
        status, told = await server.send("POST", f"{WHERE}/withdraw", {"reason": "no longer sold"})
        assert (200, START.isoformat(), "no longer sold") == (status, told["withdrawn_at"], told["withdrawn_because"])

    async def test_the_first_reason_stays(self, server: Server) -> None:
        await server.send("PUT", WHERE, TERMS)
        first = await server.send("POST", f"{WHERE}/withdraw", {"reason": "no longer sold"})
        assert first == await server.send("POST", f"{WHERE}/withdraw", {"reason": "another"})

    async def test_the_same_terms_put_again_are_a_new_version(self, server: Server) -> None:
        await server.send("PUT", WHERE, TERMS)
        await server.send("POST", f"{WHERE}/withdraw", {"reason": "no longer sold"})
        status, told = await server.send("PUT", WHERE, TERMS)
        assert (201, 2, None) == (status, told["version"], told["withdrawn_at"])
        assert 201 == (await server.send("POST", "/v1/orders", BY_NAME))[0]

    @pytest.mark.parametrize("path", ["", "/versions"])
    @pytest.mark.parametrize("offer_id", ["none", "%00", "..%2f", "x" * 65, "%ff"])
    async def test_one_that_was_never_put_is_unknown(self, server: Server, offer_id: str, path: str) -> None:
        assert 404 == (await server.send("GET", f"/v1/offers/{offer_id}{path}"))[0]


async def test_offers_are_listed_as_they_stand_in_pages(server: Server) -> None:
    for name in ("c", "a", "b"):
        for terms in (TERMS, DEARER):
            await server.send("PUT", f"/v1/offers/{name}", terms | {"id": name})
    _, first = await server.send("GET", "/v1/offers?limit=2")
    _, second = await server.send("GET", f"/v1/offers?limit=2&cursor={first['next']}")
    found = [(offer["offer_id"], offer["version"]) for offer in first["offers"] + second["offers"]]
    assert ([("a", 2), ("b", 2), ("c", 2)], None) == (found, second["next"])
    _, newest = await server.send("GET", "/v1/offers/a/versions?limit=1")
    _, oldest = await server.send("GET", f"/v1/offers/a/versions?limit=1&cursor={newest['next']}")
    assert ([2], [1], None) == (
        [offer["version"] for offer in newest["versions"]], [offer["version"] for offer in oldest["versions"]], oldest["next"],
    )  # fmt: skip

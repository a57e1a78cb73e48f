"""Offers: a tenant's catalogue. Every version is kept under the hash of its terms; orders name an offer as it stands then."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from aiohttp import web
from asyncpg import Record as Row
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from gateway.consent.canonical import canonical, digest
from gateway.consent.errors import Fault
from gateway.consent.order import Identifier, Offer
from gateway.engine import Engine
from gateway.store.database import Connection, sql
from gateway.web.fields import CURSOR, CursorText, after, cursor_of
from gateway.web.order_models import EXAMPLE_OFFER, Reason
from gateway.web.problems import Refused
from gateway.web.routes import Answer, Asked, Call, Page, Route, Stamp, Told, answer, example

_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)
UNKNOWN = {404: "there is no such offer of yours"}


class OfferTerms(Offer):
    """All terms of an offer. Amounts are in minor units (won, fen, cents); what it lacks is said to be absent, by null."""

    model_config = ConfigDict(
        json_schema_extra=example({name: value for name, value in EXAMPLE_OFFER.items() if name != "id"})
    )

    id: Identifier = Field(default="", description="may be left out; if not, that of the path")


class OfferWithdrawal(Asked):
    model_config = ConfigDict(json_schema_extra=example({"reason": "no longer sold"}))

    reason: Reason


class OfferPageQuery(Page):
    cursor: CursorText | None = Field(None, description=CURSOR.replace("newest", "first"))


class OfferVersion(Told):
    """*sha256* is over the canonical JSON (RFC 8785) of *terms*. A withdrawn version takes no new orders."""

    offer_id: str
    version: int
    sha256: str
    at: Stamp
    withdrawn_at: Stamp | None
    withdrawn_because: str
    terms: Offer


class OfferPage(Told):
    offers: list[OfferVersion]
    next: str | None


class OfferVersions(Told):
    versions: list[OfferVersion]
    next: str | None


class Offers:
    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now

    def routes(self) -> list[Route]:
        where = "/v1/offers/{offer_id}"
        version = Answer("the version that holds", OfferVersion)
        return [
            Route(
                "GET", "/v1/offers", self.page, "listOffers", "List your offers, each as it stands", "offers",
                {200: Answer("one page, by offer_id", OfferPage)}, scope="offers:read", query=OfferPageQuery,
            ),
            Route(
                "GET", where, self.get, "getOffer", "One offer as it stands", "offers", {200: version}, scope="offers:read", errors=UNKNOWN,
            ),
            Route(
                "GET", f"{where}/versions", self.versions, "listOfferVersions", "Every version of an offer, the newest first", "offers",
                {200: Answer("one page", OfferVersions)}, scope="offers:read", query=Page, errors=UNKNOWN,
            ),
            Route(
                "PUT", where, self.put, "putOffer", "Make an offer, or a new version of it", "offers",
                {200: Answer("these terms hold already", OfferVersion), 201: Answer("they hold from now on", OfferVersion)},
                description="Orders that were made keep the terms that they were made with.", scope="offers:write", body=OfferTerms,
                noun="offer", errors={404: "no offer can have such an id"},
            ),
            Route(
                "POST", f"{where}/withdraw", self.withdraw, "withdrawOffer", "Take no more orders for an offer", "offers",
                {200: version}, description="Until a new version of it is put.", scope="offers:write", body=OfferWithdrawal,
                noun="withdrawal", errors=UNKNOWN,
            ),
        ]  # fmt: skip

    async def page(self, call: Call) -> web.StreamResponse:
        wanted = call.wanted(OfferPageQuery)
        (last,) = after(wanted.cursor, str)
        rows = await self._engine.database.pool.fetch(sql("page_of_offers"), call.tenant, last, wanted.limit + 1)
        offers = [_version(row) for row in rows[: wanted.limit]]
        following = cursor_of(offers[-1].offer_id) if len(rows) > wanted.limit else None
        return answer(OfferPage(offers=offers, next=following))

    async def get(self, call: Call) -> web.StreamResponse:
        async with self._engine.database.pool.acquire() as connection:
            return answer(await _present(connection, call.tenant, _offer_id(call)))

    async def versions(self, call: Call) -> web.StreamResponse:
        wanted, offer_id = call.wanted(Page), _offer_id(call)
        (last,) = after(wanted.cursor, int)
        last = min(last, 2**31 - 1) if last is not None else None
        async with self._engine.database.pool.acquire() as connection:
            await _present(connection, call.tenant, offer_id)
            rows = await connection.fetch(sql("offer_versions"), call.tenant, offer_id, last, wanted.limit + 1)
        versions = [_version(row) for row in rows[: wanted.limit]]
        following = cursor_of(versions[-1].version) if len(rows) > wanted.limit else None
        return answer(OfferVersions(versions=versions, next=following))

    async def put(self, call: Call) -> web.StreamResponse:
        offer_id = _offer_id(call)
        asked = call.asked(OfferTerms)
        terms = Offer.model_construct(**{name: getattr(asked, name) for name in Offer.model_fields} | {"id": offer_id})
        if asked.id not in ("", offer_id):
            raise Refused(
                422, "the offer does not fit the schema", [Fault("id", f"must be {offer_id!r}, as in the path")]
            )
        text = canonical(terms.model_dump(mode="json"))
        async with self._engine.database.transaction() as connection:
            await connection.execute(sql("lock_offer"), call.tenant, offer_id)
            last = await connection.fetchrow(sql("offer_versions"), call.tenant, offer_id, None, 1)
            if last is not None and last["sha256"] == digest(text) and last["withdrawn_at"] is None:
                return answer(_version(last))
            version = last["version"] + 1 if last is not None else 1
            await connection.execute(
                sql("insert_offer"),
                call.tenant, offer_id, version, digest(text), text.decode(), call.by.key_id, self._now(),
            )  # fmt: skip
            return answer(
                await _present(connection, call.tenant, offer_id), 201, {"Location": f"/v1/offers/{offer_id}"}
            )

    async def withdraw(self, call: Call) -> web.StreamResponse:
        offer_id, asked = _offer_id(call), call.asked(OfferWithdrawal)
        async with self._engine.database.transaction() as connection:
            await connection.execute(sql("lock_offer"), call.tenant, offer_id)
            present = await _present(connection, call.tenant, offer_id)
            await connection.execute(
                sql("withdraw_offer"),
                call.tenant, offer_id, present.version, asked.reason, call.by.key_id, self._now(),
            )  # fmt: skip
            return answer(await _present(connection, call.tenant, offer_id))

    async def terms(self, connection: Connection, tenant: str, offer_id: str) -> Offer | None:
        """The terms that an order may name; None when there are none of that name, or they are withdrawn."""
        row = await connection.fetchrow(sql("offer_versions"), tenant, offer_id, None, 1)
        return _version(row).terms if row is not None and row["withdrawn_at"] is None else None


async def _present(connection: Connection, tenant: str, offer_id: str) -> OfferVersion:
    row = await connection.fetchrow(sql("offer_versions"), tenant, offer_id, None, 1)
    if row is None:
        raise Refused(404, f"there is no offer {offer_id}")
    return _version(row)


def _offer_id(call: Call) -> str:
    given = call.request.match_info["offer_id"]
    try:
        return _IDENTIFIER.validate_python(given)
    except ValidationError as error:
        raise Refused(404, f"{given[:80]!r} is no offer id") from error


def _version(row: Row) -> OfferVersion:
    return OfferVersion(
        offer_id=row["offer_id"], version=row["version"], sha256=row["sha256"], at=row["at"],
        withdrawn_at=row["withdrawn_at"], withdrawn_because=row["withdrawn_because"],
        terms=Offer.model_validate_json(row["terms"]),
    )  # fmt: skip

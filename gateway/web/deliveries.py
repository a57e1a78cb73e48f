"""Webhooks as their receiver sees them: what was posted, what came of each attempt, and once more, please."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from aiohttp import web
from pydantic import ConfigDict, Field, model_validator

from gateway import deliveries
from gateway.consent import events as ev
from gateway.consent.order import Identifier
from gateway.engine import Engine
from gateway.store.deliveries import list_deliveries
from gateway.web.fields import Moment, after, cursor_of
from gateway.web.problems import Refused
from gateway.web.routes import Answer, Asked, Call, Page, Route, Stamp, Told, answer, example

DeliveryState = Literal["pending", "delivered", "dead", "cancelled"]
OrderId = Annotated[
    str, Field(pattern=r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$", json_schema_extra={"format": "uuid"})
]
UNKNOWN = {404: "there is no such delivery of yours"}


class DeliveryQuery(Page):
    state: DeliveryState | None = Field(None, description="only those in this state")
    kind: ev.WebhookKind | None = Field(None, description="only those that tell of this")
    endpoint: Identifier | None = Field(None, description="only those to this endpoint; `main` is webhook_url")
    order_id: OrderId | None = Field(None, description="only those of this order")
    since: Moment | None = Field(None, description="of events at this time or later (RFC 3339)")
    until: Moment | None = Field(None, description="of events before this time (RFC 3339)")


class Delivery(Told):
    """*endpoint*: ``main`` is the ``webhook_url`` of the settings. *next_at*: when it is posted next, while it is pending."""

    webhook_id: UUID
    kind: ev.WebhookKind
    endpoint: str
    order_id: UUID
    state: DeliveryState
    attempts: int
    last_status: int | None
    last_error: str
    next_at: Stamp | None
    created_at: Stamp
    updated_at: Stamp
    delivered_at: Stamp | None


class DeliveryPage(Told):
    deliveries: list[Delivery]
    next: str | None


class KeptAnswer(Told):
    """What the endpoint answered: some headers, and the beginning of the body in base64."""

    headers: dict[str, str]
    body: str


class Attempt(Told):
    """One POST. *status* is null where no HTTP answer came; *answer* too where the subscriber was erased."""

    attempt: int
    at: Stamp
    gateway: str
    status: int | None
    error: str
    duration_ms: int
    answer: KeptAnswer | None


class WholeDelivery(Delivery):
    """*body*: exactly what was signed and posted; null where the subscriber was erased."""

    body: str | None
    all_attempts: list[Attempt]


class ReplayWindow(Asked):
    """Which deliveries are meant: those to which all of this applies. At least *since* or *state* is wanted."""

    model_config = ConfigDict(
        json_schema_extra=example({"state": "dead", "since": "2026-03-01T00:00:00Z", "until": "2026-03-02T00:00:00Z"})
        | {"anyOf": [{"required": ["since"]}, {"required": ["state"]}]}
    )

    since: Moment | None = None
    until: Moment | None = None
    state: Literal["delivered", "dead"] | None = None
    kind: ev.WebhookKind | None = None
    endpoint: Identifier | None = None

    @model_validator(mode="after")
    def _bounded(self) -> ReplayWindow:
        if self.since is None and self.state is None:
            raise ValueError("name since or state: else everything ever posted would be posted again")
        return self


class Replayed(Told):
    """How many deliveries begin their schedule again."""

    replayed: int


class WebhookDeliveries:
    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now

    def routes(self) -> list[Route]:
        where = "/v1/deliveries/{webhook_id}"
        again = "Under its old `webhook-id`, with the whole schedule of attempts: who has provisioned for that id does nothing twice."
        return [
            Route(
                "GET", "/v1/deliveries", self.page, "listDeliveries", "List webhooks, the newest first", "deliveries",
                {200: Answer("one page", DeliveryPage)}, scope="deliveries:read", query=DeliveryQuery,
            ),
            Route(
                "GET", where, self.get, "getDelivery", "One webhook: its body, and every attempt", "deliveries",
                {200: Answer("all of it", WholeDelivery)}, scope="deliveries:read", errors=UNKNOWN,
            ),
            Route(
                "POST", f"{where}/replay", self.replay, "replayDelivery", "Post one webhook again", "deliveries",
                {202: Answer("it is on its way", Replayed)}, description=again, scope="deliveries:write",
                errors=UNKNOWN | {409: "it is under way, or must not be posted again: the title says why"},
            ),
            Route(
                "POST", "/v1/delivery-replays", self.replay_window, "replayDeliveries", "Post many webhooks again", "deliveries",
                {202: Answer("they are on their way", Replayed)},
                description=f"{again} Left out: what is under way, and confirmations of orders that were frozen since.",
                scope="deliveries:write", body=ReplayWindow, noun="window",
            ),
        ]  # fmt: skip

    async def page(self, call: Call) -> web.StreamResponse:
        wanted = call.wanted(DeliveryQuery)
        at, last = after(wanted.cursor, datetime, UUID)
        async with self._engine.database.pool.acquire() as connection:
            rows = await list_deliveries(
                connection, tenant=call.tenant, state=wanted.state, kind=wanted.kind, order_id=wanted.order_id,
                endpoint=wanted.endpoint, since=wanted.since, until=wanted.until,
                before=None if at is None else (at, str(last)), most=wanted.limit + 1,
            )  # fmt: skip
        found = [Delivery.model_validate(_of(Delivery, row)) for row in rows[: wanted.limit]]
        more = found[-1] if len(rows) > wanted.limit else None
        following = cursor_of(more.created_at.isoformat(), str(more.webhook_id)) if more is not None else None
        return answer(DeliveryPage(deliveries=found, next=following))

    async def get(self, call: Call) -> web.StreamResponse:
        row = await deliveries.shown(self._engine, call.request.match_info["webhook_id"], call.tenant)
        attempts = [Attempt.model_validate(_of(Attempt, attempt)) for attempt in row["all_attempts"]]
        return answer(WholeDelivery.model_validate(_of(WholeDelivery, row) | {"all_attempts": attempts}))

    async def replay(self, call: Call) -> web.StreamResponse:
        async with self._engine.database.transaction() as connection:
            why_not = await deliveries.replay(
                connection, call.request.match_info["webhook_id"], self._now(), call.tenant
            )
        if why_not:
            raise Refused(409, why_not)
        return answer(Replayed(replayed=1), 202)

    async def replay_window(self, call: Call) -> web.StreamResponse:
        asked = call.asked(ReplayWindow)
        window = deliveries.Window(asked.since, asked.until, asked.state, call.tenant, asked.endpoint, asked.kind)
        async with self._engine.database.transaction() as connection:
            replayed = await deliveries.replay_window(connection, window, self._now())
        return answer(Replayed(replayed=replayed), 202)


def _of(model: type[Told], row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in model.model_fields}

"""What is asked and told about orders."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import ConfigDict, Field, model_validator

from gateway.consent import events as ev
from gateway.consent.order import Identifier, Language, Offer, OrderRequest
from gateway.consent.record import Record, State
from gateway.web.fields import Moment, QueryNumber
from gateway.web.routes import Asked, Page, Stamp, Told, example

EXAMPLE_OFFER: dict[str, Any] = {
    "id": "data-plus-10",
    "name": "데이터 플러스 요금제",
    "price": {"amount": 39000, "currency": "KRW"},
    "period": "month",
    "billing_method": "monthly_bill",
    "starts_on": "2026-12-01",
    "term_months": 12,
    "promotion": {"price": {"amount": 29000, "currency": "KRW"}, "ends_on": "2027-03-01"},
    "trial": None,
    "function": "매월 데이터 십 기가바이트를 더 드리는 서비스입니다.",
    "how_to_use": "개통되면 자동으로 적용됩니다.",
    "how_to_ask": "고객센터 1588-0000 으로 전화해 주세요.",
    "how_to_cancel": "고객센터 1588-0000 이나 문자로 언제든지 해지하실 수 있습니다.",
    "needs_data": True,
}
EXAMPLE_ORDER: dict[str, Any] = {
    "subscriber": {"number": "+821012345678", "language": "ko", "age": 34, "time_zone": "Asia/Seoul"},
    "offer": EXAMPLE_OFFER,
    "fit": {"reason": "지난 석 달 동안 매월 기본 데이터를 모두 썼습니다.", "phone_has_data": True},
    "dialplan": "plan-upgrade",
    "call": "now",
}
Reason = Annotated[
    str, Field(min_length=2, max_length=200, pattern=r"\S.*\S", description="why, in words; kept in the record")
]


class NewOrder(OrderRequest):
    """An order as it is posted: with its whole *offer*, or with the *offer_id* of one in the catalogue, as it stands then."""

    model_config = ConfigDict(
        json_schema_extra=example(EXAMPLE_ORDER)
        | {"oneOf": [{"required": ["offer"]}, {"required": ["offer_id"]}]}
    )  # fmt: skip

    offer: Offer = Field(default=None)  # type: ignore[assignment]  # it may stand in the catalogue instead
    offer_id: Identifier = Field(default=None, description="an offer of yours, instead of offer")  # type: ignore[assignment]

    @model_validator(mode="after")
    def _one_offer(self) -> NewOrder:
        if {"offer", "offer_id"} <= self.model_fields_set:
            raise ValueError("give offer or offer_id, not both")
        if not {"offer", "offer_id"} & self.model_fields_set:
            raise ValueError("give the terms as offer, or the offer_id of an offer in the catalogue")
        return self

    def with_offer(self, offer: Offer) -> OrderRequest:
        """The order, its terms complete."""
        kept = {name: getattr(self, name) for name in OrderRequest.model_fields}
        return OrderRequest.model_construct(**kept | {"offer": offer})


class CallRequest(Asked):
    to: str | None = Field(
        default=None, max_length=200, description="a SIP URI, from the gateway's own machine only; else the order's number is called"
    )  # fmt: skip


class Withdrawal(Asked):
    model_config = ConfigDict(json_schema_extra=example({"reason": "the subscriber called the shop"}))

    reason: Reason


class Freeze(Asked):
    model_config = ConfigDict(json_schema_extra=example({"reason": "the subscriber says that nobody called"}))

    reason: Reason


class Acknowledgement(Asked):
    model_config = ConfigDict(json_schema_extra=example({"reference": "INV-2026-000123"}))

    reference: str = Field(
        min_length=1, max_length=200, pattern=r"^[^\x00-\x20]([^\x00-\x1f]*[^\x00-\x20])?$", description="your own name for this order"
    )  # fmt: skip


class OrderQuery(Page):
    state: State | None = Field(None, description="only those in this state")
    number: QueryNumber | None = Field(None, description="only those of this subscriber, E.164")
    since: Moment | None = Field(None, description="made at this time or later (RFC 3339)")
    until: Moment | None = Field(None, description="made before this time (RFC 3339)")


class ToldSubscriber(Told):
    number: str
    language: Language


class ToldOffer(Told):
    id: str
    name: str


class OrderState(Told):
    """Where an order stands. *reason* says in words why; *reference* is your own name for it, once you gave one."""

    order_id: str
    order_hash: str = Field(description="SHA-256 over every term")
    state: State
    reason: str
    calls: int = Field(description="calls that were begun")
    reference: str
    held: bool = Field(description="a legal hold is on its record")
    subscriber: ToldSubscriber
    offer: ToldOffer
    spoken_at: Stamp | None = Field(description="when the consent was spoken")
    confirmed_at: Stamp | None = Field(description="when the code was replied: both proofs are there")

    @classmethod
    def of(cls, record: Record) -> OrderState:
        order = record.order
        return cls(
            order_id=order.order_id, order_hash=record.order_hash, state=record.state, reason=record.reason,
            calls=record.calls, reference=record.reference, held=record.held,
            subscriber=ToldSubscriber(number=order.subscriber.number, language=order.subscriber.language),
            offer=ToldOffer(id=order.offer.id, name=order.offer.name),
            spoken_at=record.spoken.at if record.spoken else None,
            confirmed_at=record.confirmation.reply.at if record.confirmation else None,
        )  # fmt: skip


class OrderRow(Told):
    order_id: UUID
    tenant: str
    number: str | None = Field(description="null once the subscriber was erased")
    state: State
    created_at: Stamp
    updated_at: Stamp


class OrderPage(Told):
    """*next*: the cursor of the next page; null on the last."""

    orders: list[OrderRow]
    next: str | None


class ToldEntry(Told):
    """An event in its place in the record; *hash* is over its sealed form (docs/operations.md)."""

    order_id: str
    seq: int
    event_id: str
    at: Stamp
    event: ev.Event
    hash: str


class Events(Told):
    events: list[ToldEntry]

    @classmethod
    def of(cls, entries: list[ev.Entry]) -> Events:
        return cls(
            events=[
                ToldEntry.model_construct(
                    order_id=e.order_id, seq=e.seq, event_id=e.event_id, at=e.at, event=e.event, hash=e.hash
                )
                for e in entries
            ]
        )


class StartedCall(Told):
    call_id: str


def utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)

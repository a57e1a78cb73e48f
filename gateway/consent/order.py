"""What is offered to whom: the offer, the order and its hash (rules R5, R6, R7, R13).

Every channel (voice, SMS, webhook, agreement) is rendered from the one :class:`Offer`, so the terms cannot differ.
Terms that an offer may lack (a promotion, a trial) must be *said* to be absent: the keys are required and take null.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, available_timezones

import phonenumbers
from babel.core import get_global
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gateway.consent.canonical import content_hash
from gateway.consent.errors import Fault, OrderRefused

Language = Literal["ko", "zh-CN", "en"]
Period = Literal["once", "day", "month", "year"]
BillingMethod = Literal["monthly_bill", "prepaid_balance"]

SENIOR_AGE = 60
ADULT_AGE = 18
MINIMUM_AGE = 16
SHORTEST_NUMBER = len("+12345")

LEGAL_TENDER: frozenset[str] = frozenset(
    code
    for history in get_global("territory_currencies").values()
    for code, _start, end, tender in history
    if tender and end is None
)
"""Codes that are legal tender somewhere with no end date in CLDR: leaves out old money, metals, funds and XXX."""


def normalise_number(number: str, region: str | None = None) -> str:
    """*number* in E.164 (``+821012345678``); *region* (ISO 3166) is the country of one that comes without ``+``.

    Raises ValueError for anything that is not a possible phone number.
    """
    try:
        parsed = phonenumbers.parse(number, region)
    except phonenumbers.NumberParseException as error:
        raise ValueError(f"{number!r} is not a phone number in international form (+821012345678)") from error
    full = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    possible = phonenumbers.is_possible_number_with_reason(parsed) == phonenumbers.ValidationResult.IS_POSSIBLE
    if not possible or len(full) < SHORTEST_NUMBER:
        raise ValueError(f"{number!r} is not a possible phone number: its length does not fit its country")
    return full


def _international(number: str) -> str:
    return normalise_number(number)


def mask(number: str) -> str:
    """*number* fit for logs (rule R14): country and last two digits stay, ``+82********78``."""
    return number[:3] + "*" * max(0, len(number) - 5) + number[-2:] if len(number) > 5 else "*" * len(number)


def _known_currency(code: str) -> str:
    if code not in LEGAL_TENDER:
        raise ValueError(f"{code!r} is not an ISO 4217 currency that is legal tender anywhere today")
    return code


@cache
def _time_zones() -> frozenset[str]:
    """All IANA names; looking them up walks the whole zone folder."""
    return frozenset(available_timezones())


def _known_time_zone(name: str) -> str:
    if name not in _time_zones():
        raise ValueError(f"{name!r} is not an IANA time zone such as Asia/Seoul")
    return str(ZoneInfo(name))


class Terms(BaseModel):
    """Base of all order data: immutable, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True)


Text = Annotated[str, Field(min_length=2, max_length=300, pattern=r"^[^\x00-\x1f]*$")]
Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[^\x00-\x1f]*$")]
Identifier = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Money(Terms):
    """An amount in minor units of an ISO 4217 currency (won, fen, cents)."""

    amount: int = Field(ge=0, le=10**12)
    currency: Annotated[str, AfterValidator(_known_currency)]


class Promotion(Terms):
    """A reduced price up to and including *ends_on*; afterwards the offer's own price holds (rule R5)."""

    price: Money
    ends_on: date


class Trial(Terms):
    """A free trial up to and including *ends_on* (rule R9)."""

    ends_on: date


class Offer(Terms):
    """All terms that rule R5 wants told. Texts are in the subscriber's language."""

    id: Identifier
    name: Name
    price: Money
    period: Period
    billing_method: BillingMethod
    starts_on: date
    term_months: int = Field(ge=0, le=120, description="minimum term; 0 is none")
    promotion: Promotion | None
    trial: Trial | None
    function: Text
    how_to_use: Text
    how_to_ask: Text
    how_to_cancel: Text
    needs_data: bool = False


class Subscriber(Terms):
    """Who is called. *age* in years; None is unknown."""

    number: Annotated[str, AfterValidator(_international)]
    language: Language
    age: int | None = Field(default=None, ge=0, le=130)
    time_zone: Annotated[str, AfterValidator(_known_time_zone)]

    @property
    def is_senior(self) -> bool:
        """Whether rule R6's slower speech applies."""
        return self.age is not None and self.age >= SENIOR_AGE


class Fit(Terms):
    """Why this offer suits this subscriber's real usage (rule R7)."""

    reason: Annotated[str, Field(min_length=10, max_length=500)]
    phone_has_data: bool


class OrderRequest(Terms):
    """What a billing system posts."""

    subscriber: Subscriber
    offer: Offer
    fit: Fit
    dialplan: Identifier = "plan-upgrade"
    call: Literal["now", "inbound"] = "inbound"


class DialplanRef(Terms):
    """The exact approved script an order is bound to (rule R5): its name, version and SHA-256."""

    name: Identifier
    version: int
    sha256: str


class Order(Terms):
    """One subscriber, one offer, one script, one hash. *salt* is drawn for each: who knows all other terms must not be able to guess
    the number from the hash, which outlives an erasure.
    """

    order_id: str
    tenant: Identifier
    subscriber: Subscriber
    offer: Offer
    fit: Fit
    dialplan: DialplanRef
    salt: str = ""

    @property
    def order_hash(self) -> str:
        """SHA-256 over the canonical JSON of every term, hexadecimal."""
        return content_hash(self.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator may decide; the defaults are the strict ones."""

    allow_unknown_age: bool = False
    allow_minors_from_16: bool = False
    call_attempts: int = 3
    call_retry_s: float = 1800.0
    code_ttl_s: float = 86400.0
    code_tries: int = 3
    disclosure_loss: float = 0.05


def check_order(request: OrderRequest, policy: Policy, today: date) -> None:
    """Refuse an order that the rules forbid (R5, R6, R7). *today* is the date at the subscriber.

    Raises OrderRefused with every fault found.
    """
    offer, age = request.offer, request.subscriber.age
    faults: list[Fault] = []
    if offer.starts_on < today:
        faults.append(Fault("offer.starts_on", f"{offer.starts_on} is past; today is {today} at the subscriber"))
    if offer.promotion is not None:
        if offer.promotion.ends_on < offer.starts_on:
            faults.append(Fault("offer.promotion.ends_on", "the promotion ends before the service starts"))
        if offer.promotion.price.currency != offer.price.currency:
            faults.append(Fault("offer.promotion.price.currency", f"must be {offer.price.currency} as the price is"))
        elif offer.promotion.price.amount >= offer.price.amount:
            faults.append(Fault("offer.promotion.price.amount", "a promotion costs less than the price after it"))
    if offer.trial is not None and offer.trial.ends_on < offer.starts_on:
        faults.append(Fault("offer.trial.ends_on", "the trial ends before the service starts"))
    if offer.needs_data and not request.fit.phone_has_data:
        faults.append(Fault("fit.phone_has_data", "the offer needs data and this phone has none (rule R7)"))
    if age is None:
        if not policy.allow_unknown_age:
            faults.append(Fault("subscriber.age", "unknown age is refused by policy.allow_unknown_age (rule R6)"))
    elif age < MINIMUM_AGE:
        faults.append(Fault("subscriber.age", f"no order is taken under {MINIMUM_AGE} (rule R6)"))
    elif age < ADULT_AGE and not policy.allow_minors_from_16:
        faults.append(Fault("subscriber.age", "16 and 17 are refused by policy.allow_minors_from_16 (rule R6)"))
    if faults:
        raise OrderRefused(faults)

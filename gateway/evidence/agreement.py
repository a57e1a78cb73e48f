"""The electronic agreement (rule R12): the terms, both proofs and where to check them, on one page in the order's language.

The terms are rendered by the forms and words that the SMS is rendered by (rule R13).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, ValidationError

from gateway.consent.order import Language, Offer, Order
from gateway.evidence import verify_evidence as evidence
from gateway.evidence.errors import BadTypesetting
from gateway.evidence.typesetting import Page, Section, set_page
from gateway.language import forms
from gateway.language.pack import LanguagePack
from gateway.strict_yaml import load_yaml

FOLDER = Path(__file__).parent / "wording"
Label = Literal[
    "subscriber", "operator", "offer", "price", "billing_method", "starts_on", "term", "promotion", "trial", "function",
    "how_to_use", "how_to_ask", "how_to_cancel", "outcome", "spoken", "recording", "replied", "order", "order_hash",
    "dialplan", "ledger", "verify",
]  # fmt: skip

Reason = Literal[
    "refused", "unclear", "unreachable", "ineligible", "expired", "withdrawn", "failed", "open",
]  # fmt: skip


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Phrases(_File):
    no_term: str
    promotion: str
    no_promotion: str
    trial: str
    no_trial: str
    spoken: str
    recording: str
    replied: str
    missing: str
    dialplan: str
    ledger: str
    verify: str


class Outcomes(_File):
    provisioned: str
    confirmed: str
    frozen: str
    none: str


class Wording(_File):
    """``wording/<language>.yaml``."""

    title: str
    title_without: str
    parties: str
    service: str
    proofs: str
    evidence: str
    labels: dict[Label, str]
    words: Phrases
    outcomes: Outcomes
    reasons: dict[Reason, str]
    readme: str


@cache
def wording(language: Language) -> Wording:
    """Raises BadTypesetting for a file that is not whole."""
    path = FOLDER / f"{language}.yaml"
    try:
        return Wording.model_validate(load_yaml(path.read_text(encoding="utf-8")))
    except (OSError, ValidationError) as error:
        raise BadTypesetting(f"{path}: {error}; install consent-gateway again") from error


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the page says of the ledger: events in the checkpoint, its root in base64, and the verifier key."""

    size: int
    root: str
    key: str


def agreement(promise: evidence.Promise, state: str, pack: LanguagePack, operator: str, ledger: Ledger) -> Page:
    """The page about what *promise* says of an order in *state*. Raises BadTypesetting, and pydantic.ValidationError for terms that are none."""
    order = Order.model_validate(promise.order)
    language = order.subscriber.language
    words = wording(language)
    title = words.title if promise.confirmed else words.title_without
    sections = (
        Section(words.parties, [
            (words.labels["operator"], operator),
            (words.labels["subscriber"], order.subscriber.number),
            (words.labels["outcome"], _outcome(promise, state, words, order)),
        ]),
        Section(words.service, terms(order.offer, pack, words)),
        Section(words.proofs, _proofs(promise, words, order)),
        Section(words.evidence, [
            (words.labels["order"], order.order_id),
            (words.labels["order_hash"], promise.order_hash),
            (words.labels["dialplan"], words.words.dialplan.format_map(order.dialplan.model_dump())),
            (words.labels["ledger"], words.words.ledger.format(size=ledger.size, root=ledger.root)),
            (words.labels["verify"], words.words.verify.format(key=ledger.key)),
        ]),
    )  # fmt: skip
    return set_page(title, f"{operator} · {order.offer.name}", sections, language)


def terms(offer: Offer, pack: LanguagePack, words: Wording) -> list[tuple[str, str]]:
    """Label and text of every term that rule R5 wants told."""
    language = pack.language
    slots = {
        "period": pack.sms_words.period[offer.period],
        "price": forms.written_money(offer.price.amount, offer.price.currency, language),
    }
    price_terms = pack.sms_words.price_terms
    price, promotion, trial = price_terms.without.format_map(slots), words.words.no_promotion, words.words.no_trial
    if offer.promotion is not None:
        reduced = forms.written_money(offer.promotion.price.amount, offer.promotion.price.currency, language)
        ends_on = forms.written_date(offer.promotion.ends_on, language)
        told = slots | {"promotion_price": reduced, "promotion_ends_on": ends_on}
        price = price_terms.with_.format_map(told)
        promotion = words.words.promotion.format(
            period=slots["period"], price=reduced, ends_on=ends_on, price_after=slots["price"]
        )
    if offer.trial is not None:
        trial = words.words.trial.format(ends_on=forms.written_date(offer.trial.ends_on, language))
    months = forms.written_months(offer.term_months, language) if offer.term_months else words.words.no_term
    texts = {
        "offer": offer.name,
        "price": price,
        "billing_method": pack.sms_words.billing_method[offer.billing_method],
        "starts_on": forms.written_date(offer.starts_on, language),
        "term": months,
        "promotion": promotion,
        "trial": trial,
        "function": offer.function,
        "how_to_use": offer.how_to_use,
        "how_to_ask": offer.how_to_ask,
        "how_to_cancel": offer.how_to_cancel,
    }
    return [(text, texts[name]) for name, text in words.labels.items() if name in texts]


def _outcome(promise: evidence.Promise, state: str, words: Wording, order: Order) -> str:
    if promise.frozen is not None:
        at = _at(promise.frozen, order)
        return words.outcomes.frozen.format(at=at, reason=promise.frozen.body["reason"])
    if not promise.confirmed:
        reasons = {str(name): text for name, text in words.reasons.items()}
        return words.outcomes.none.format(reason=reasons.get(state, reasons["open"]))
    if promise.provisioned is not None:
        return words.outcomes.provisioned.format(at=_at(promise.provisioned, order))
    return words.outcomes.confirmed


def _proofs(promise: evidence.Promise, words: Wording, order: Order) -> list[tuple[str, str]]:
    spoken = replied = recording = words.words.missing
    affirmed, kept = promise.affirmed, promise.recording
    if promise.spoken is not None and affirmed is not None:
        said = " ".join(word["word"] for word in affirmed.body["testimony"]["words"])
        start, end = (f"{affirmed.body[name] / 1000:.1f}" for name in ("start_ms", "end_ms"))
        spoken = words.words.spoken.format(
            at=_at(promise.spoken, order), said=said, start=start, end=end, call=promise.call_id
        )
    if kept is not None:
        seconds, sha256 = f"{kept.body['duration_ms'] / 1000:.1f}", kept.body["sha256"]
        recording = words.words.recording.format(seconds=seconds, sha256=sha256)
    if promise.reply is not None:
        replied = words.words.replied.format(at=_at(promise.reply, order))
    return [
        (words.labels["spoken"], spoken),
        (words.labels["recording"], recording),
        (words.labels["replied"], replied),
    ]


def _at(event: evidence.Event, order: Order) -> str:
    """When *event* was, at the subscriber's: ``2026-11-22 19:02:10 +0900 (Asia/Seoul)``."""
    zone = order.subscriber.time_zone
    return f"{event.when.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S %z} ({zone})"

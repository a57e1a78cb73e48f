"""A language pack: what is said, written and understood in one language, read from ``prompts/<language>/``.

The same order gives the spoken and the written slots, so voice and SMS can never tell different terms (rule R13).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from string import Formatter
from typing import Any, get_args

import yaml
from babel.dates import format_timedelta
from pydantic import BaseModel, ConfigDict, Field, model_validator

from gateway.consent.events import SmsKind
from gateway.consent.order import BillingMethod, Language, Offer, Order, Period
from gateway.consent.testimony import Grammar
from gateway.language import forms
from gateway.language.errors import BadPack
from gateway.strict_yaml import load_yaml

OPTIONAL_TERMS: dict[str, Callable[[Offer], bool]] = {
    "disclosure_term": lambda offer: offer.term_months > 0,
    "disclosure_promotion": lambda offer: offer.promotion is not None,
    "disclosure_trial": lambda offer: offer.trial is not None,
}
"""The prompts of terms that an offer may lack, and whether it has them."""

LANGUAGES: tuple[Language, ...] = ("ko", "zh-CN", "en")
_LOCALES: dict[Language, str] = {"ko": "ko", "zh-CN": "zh_Hans_CN", "en": "en_US"}
_DIGIT_RUN = re.compile(r"\+?[0-9][0-9-]{2,}[0-9]")
PROMPT_SLOTS = frozenset(
    [
        "operator",
        "offer",
        "period",
        "price",
        "billing_method",
        "starts_on",
        "term",
        "promotion_price",
        "promotion_ends_on",
        "trial_ends_on",
        "function",
        "how_to_use",
        "how_to_ask",
        "how_to_cancel",
    ]
)
OPTIONAL_SLOTS: dict[str, frozenset[str]] = {
    "disclosure_promotion": frozenset({"promotion_price", "promotion_ends_on"}),
    "disclosure_trial": frozenset({"trial_ends_on"}),
}
"""Slots that only some offers fill: they stand in the ``with`` wording of these prompts and nowhere else."""
ALWAYS = PROMPT_SLOTS - {slot for slots in OPTIONAL_SLOTS.values() for slot in slots}
SMS_SLOTS = ALWAYS | {"code", "expires_in", "tries_left", "price_terms"}
CHALLENGE_SLOTS = frozenset({"offer", "price_terms", "billing_method", "code"})
"""What rule R2 wants in the message that carries the code."""


WATCH = "watch"
"""The grammar of what is heard while nothing is asked."""

MERGED = ("deny", "stop", "repeat", "agent", "fillers", "hedges", "questions", "others", "forbidden")
"""The kinds of phrases that a question shares with all others."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class VoiceSpec(_File):
    """Which voice of espeak-ng speaks the language, and how fast (rule R6: slower for seniors)."""

    espeak: str
    words_per_minute: int
    senior_words_per_minute: int


class Words(_File):
    period: dict[str, str]
    billing_method: dict[str, str]

    @model_validator(mode="after")
    def _complete(self) -> Words:
        for name, words, known in (
            ("period", self.period, Period),
            ("billing_method", self.billing_method, BillingMethod),
        ):
            if set(words) != set(get_args(known)):
                raise ValueError(
                    f"{name}: words for exactly {', '.join(get_args(known))} are wanted; here: {list(words)}"
                )
        return self


class PriceTerms(_File):
    """How an SMS words the price: with a promotion and the price after it, and without one (rules R5, R13)."""

    with_: str = Field(alias="with")
    without: str


class SmsWords(Words):
    price_terms: PriceTerms


class Choice(_File):
    """A prompt that has one wording with the term and one that says the term is absent."""

    with_: str
    without: str


class _Intents(_File):
    affirm: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    repeat: tuple[str, ...] = ()
    agent: tuple[str, ...] = ()
    fillers: tuple[str, ...] = ()
    hedges: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    dtmf_affirm: str = ""
    dtmf_deny: str = ""


@dataclass(frozen=True, slots=True)
class LanguagePack:
    language: Language
    voice: VoiceSpec
    prompts: dict[str, str | Choice]
    words: Words
    sms: dict[str, str]
    sms_words: SmsWords
    grammars: dict[str, Grammar]

    def spoken(self, prompt: str, order: Order | None, operator: str) -> str:
        """The text of *prompt* as it is given to the voice. Without an order only {operator} is known."""
        slots = {"operator": operator} if order is None else self._spoken_slots(order, operator)
        wording = self.prompts[prompt]
        if isinstance(wording, Choice):
            has_term = order is not None and OPTIONAL_TERMS[prompt](order.offer)
            wording = wording.with_ if has_term else wording.without
        return wording.format_map(slots)

    def written(
        self, kind: SmsKind, order: Order, operator: str, *, code: str = "", tries_left: int = 0, ttl_s: float = 0
    ) -> str:
        """The text of the SMS *kind*; *ttl_s* is how long the code lives, in seconds."""
        offer, language = order.offer, order.subscriber.language
        expires_in = format_timedelta(timedelta(seconds=ttl_s), threshold=2, locale=_LOCALES[language])
        slots = self._texts(offer, operator, self.sms_words) | {
            "price": forms.written_money(offer.price.amount, offer.price.currency, language),
            "starts_on": forms.written_date(offer.starts_on, language),
            "term": forms.written_months(offer.term_months, language),
            "code": code,
            "tries_left": str(tries_left),
            "expires_in": expires_in,
        }
        if offer.promotion:
            price = offer.promotion.price
            slots["promotion_price"] = forms.written_money(price.amount, price.currency, language)
            slots["promotion_ends_on"] = forms.written_date(offer.promotion.ends_on, language)
        terms = self.sms_words.price_terms
        slots["price_terms"] = (terms.with_ if offer.promotion else terms.without).format_map(slots)
        return self.sms[kind].format_map(slots)

    def _texts(self, offer: Offer, operator: str, words: Words) -> dict[str, str]:
        return {
            "operator": operator,
            "offer": offer.name,
            "period": words.period[offer.period],
            "billing_method": words.billing_method[offer.billing_method],
            "function": offer.function,
            "how_to_use": offer.how_to_use,
            "how_to_ask": offer.how_to_ask,
            "how_to_cancel": offer.how_to_cancel,
        }

    def _spoken_slots(self, order: Order, operator: str) -> dict[str, str]:
        offer, language = order.offer, order.subscriber.language
        texts = {name: speakable(text, language) for name, text in self._texts(offer, operator, self.words).items()}
        slots = texts | {
            "price": forms.spoken_money(offer.price.amount, offer.price.currency, language),
            "starts_on": forms.spoken_date(offer.starts_on, language),
            "term": forms.spoken_months(offer.term_months, language),
        }
        if offer.promotion:
            price = offer.promotion.price
            slots["promotion_price"] = forms.spoken_money(price.amount, price.currency, language)
            slots["promotion_ends_on"] = forms.spoken_date(offer.promotion.ends_on, language)
        if offer.trial:
            slots["trial_ends_on"] = forms.spoken_date(offer.trial.ends_on, language)
        return slots


def speakable(text: str, language: Language) -> str:
    """*text* with its telephone numbers spelled digit by digit."""
    return _DIGIT_RUN.sub(lambda found: forms.spoken_digits(found.group(), language), text)


def load_pack(folder: Path, language: Language) -> LanguagePack:
    """The pack of *language* in *folder* (``prompts/``). Raises BadPack."""
    home = folder / language
    spoken, written, understood = (_read(home / name) for name in ("prompts.yaml", "sms.yaml", "intents.yaml"))
    try:
        prompts: dict[str, str | Choice] = {
            name: Choice(with_=text["with"], without=text["without"]) if isinstance(text, dict) else str(text)
            for name, text in spoken["prompts"].items()
        }
        sms_words = SmsWords.model_validate(written.pop("words"))
        pack = LanguagePack(
            language=language,
            voice=VoiceSpec.model_validate(spoken["voice"]),
            prompts=prompts,
            words=Words.model_validate(spoken["words"]),
            sms={str(kind): str(text) for kind, text in written.items()},
            sms_words=sms_words,
            grammars=_grammars(understood),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadPack(f"{home}: {error}") from error
    for name, wording in pack.prompts.items():
        if isinstance(wording, Choice) and name not in OPTIONAL_TERMS:
            raise BadPack(f"{home}/prompts.yaml: {name}: only {', '.join(OPTIONAL_TERMS)} take with and without")
        if isinstance(wording, Choice):
            _check_slots(f"{home}/prompts.yaml: {name}", wording.with_, ALWAYS | OPTIONAL_SLOTS.get(name, frozenset()))
        plain = wording.without if isinstance(wording, Choice) else wording
        _check_slots(f"{home}/prompts.yaml: {name}", plain, ALWAYS)
    for kind, text in pack.sms.items():
        _check_slots(f"{home}/sms.yaml: {kind}", text, SMS_SLOTS)
    terms = pack.sms_words.price_terms
    _check_slots(f"{home}/sms.yaml: price_terms", terms.with_, ALWAYS | OPTIONAL_SLOTS["disclosure_promotion"])
    _check_slots(f"{home}/sms.yaml: price_terms", terms.without, ALWAYS)
    for kind in get_args(SmsKind):
        if kind not in pack.sms:
            raise BadPack(f"{home}/sms.yaml: the message {kind!r} is missing")
    lacking = CHALLENGE_SLOTS - {slot for _, slot, _, _ in Formatter().parse(pack.sms["challenge"])}
    if lacking:
        raise BadPack(f"{home}/sms.yaml: challenge: rule R2 wants {', '.join(sorted(lacking))} in it")
    return pack


def _grammars(understood: dict[str, Any]) -> dict[str, Grammar]:
    """Each grammar takes the common phrases too; another question's yes is none to this one. ``watch`` has the common
    phrases alone: what is listened for while nothing is asked.
    """
    common = _Intents.model_validate(understood["common"])
    own = {name: _Intents.model_validate(intents) for name, intents in understood["grammars"].items()}
    if common.affirm or WATCH in own:
        raise ValueError(f"a yes belongs to a question, and the name {WATCH!r} to what is heard while none is put")
    grammars = {}
    for name, mine in {**own, WATCH: _Intents()}.items():
        merged = {
            field: (*getattr(mine, field), *getattr(common, field))
            for field in _Intents.model_fields
            if field in MERGED
        }
        merged["others"] += tuple(p for other in own.values() for p in other.affirm if p not in mine.affirm)
        grammars[name] = Grammar(name, mine.affirm, **merged, dtmf_affirm=mine.dtmf_affirm, dtmf_deny=mine.dtmf_deny)
    return grammars


def _read(path: Path) -> dict[str, Any]:
    try:
        data = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadPack(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadPack(f"{path}: not UTF-8: {error}") from error
    except yaml.YAMLError as error:
        raise BadPack(f"{path}: not YAML: {error}") from error
    if not isinstance(data, dict):
        raise BadPack(f"{path}: a mapping is wanted at the top")
    return data


def _check_slots(where: str, text: str, known: frozenset[str]) -> None:
    try:
        parts = list(Formatter().parse(text))
    except ValueError as error:
        raise BadPack(f"{where}: {error}") from error
    for _, slot, _, _ in parts:
        if slot is not None and slot not in known:
            raise BadPack(f"{where}: no order has a slot {{{slot}}}; known: {', '.join(sorted(known))}")

"""What may be ordered, of whom, and what the order's hash covers."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from datetime import date
from typing import Any

import pytest
from babel.numbers import list_currencies
from pydantic import ValidationError

from gateway.consent.canonical import canonical, content_hash
from gateway.consent.errors import OrderRefused
from gateway.consent.order import (
    LEGAL_TENDER,
    DialplanRef,
    Order,
    OrderRequest,
    Policy,
    check_order,
    mask,
    normalise_number,
)
from gateway.demo.orders import sample_order
from gateway.language.forms import spoken_money, written_money
from gateway.language.pack import LANGUAGES

TODAY = date(2026, 3, 1)
NUMBER = "+821012345678"
STRICT = Policy()


def asked() -> dict[str, Any]:
    """A good order as a billing system posts it; it starts on 11 March 2026."""
    return sample_order(NUMBER, TODAY)


def changed(path: str, value: Any) -> dict[str, Any]:
    data = asked()
    *parents, last = path.split(".")
    place = data
    for name in parents:
        place = place[name]
    place[last] = value
    return data


def without(path: str) -> dict[str, Any]:
    data = asked()
    *parents, last = path.split(".")
    place = data
    for name in parents:
        place = place[name]
    del place[last]
    return data


def refusals(data: dict[str, Any], policy: Policy = STRICT, today: date = TODAY) -> list[str]:
    """The paths of what the rules forbid."""
    try:
        check_order(OrderRequest.model_validate(data), policy, today)
    except OrderRefused as refused:
        return [fault.path for fault in refused.faults]
    return []


def schema_faults(data: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as refused:
        OrderRequest.model_validate(data)
    return [".".join(map(str, fault["loc"])) for fault in refused.value.errors()]


def order(**changes: Any) -> Order:
    request = OrderRequest.model_validate(asked())
    return Order(
        order_id="7f1b0c1e-0000-4000-8000-000000000001",
        tenant="billing",
        subscriber=request.subscriber,
        offer=request.offer,
        fit=request.fit,
        dialplan=DialplanRef(name="plan-upgrade", version=1, sha256="0" * 64),
    ).model_copy(update=changes)


class TestTheRules:
    def test_a_good_order_is_taken(self) -> None:
        assert [] == refusals(asked())

    def test_a_start_in_the_past_is_refused(self) -> None:
        assert ["offer.starts_on"] == refusals(changed("offer.starts_on", "2026-02-28"))

    def test_a_start_today_is_taken(self) -> None:
        assert [] == refusals(changed("offer.starts_on", "2026-03-01"))

    @pytest.mark.parametrize(
        ("expected", "age", "policy"),
        [
            (["subscriber.age"], 0, Policy(allow_minors_from_16=True, allow_unknown_age=True)),
            (["subscriber.age"], 15, Policy(allow_minors_from_16=True, allow_unknown_age=True)),
            (["subscriber.age"], 16, STRICT),
            (["subscriber.age"], 17, STRICT),
            ([], 16, Policy(allow_minors_from_16=True)),
            ([], 17, Policy(allow_minors_from_16=True)),
            ([], 18, STRICT),
            ([], 130, STRICT),
            (["subscriber.age"], None, STRICT),
            (["subscriber.age"], None, Policy(allow_minors_from_16=True)),
            ([], None, Policy(allow_unknown_age=True)),
        ],
    )
    def test_age_is_judged_as_rule_r6_says(self, expected: list[str], age: int | None, policy: Policy) -> None:
        assert expected == refusals(changed("subscriber.age", age), policy)

    def test_an_age_that_was_not_sent_is_unknown(self) -> None:
        assert ["subscriber.age"] == refusals(without("subscriber.age"))

    @pytest.mark.parametrize(("expected", "age"), [(False, 59), (True, 60), (False, None)])
    def test_slower_speech_begins_at_60(self, expected: bool, age: int | None) -> None:
        request = OrderRequest.model_validate(changed("subscriber.age", age))
        assert expected is request.subscriber.is_senior

    def test_a_data_plan_for_a_phone_without_data_is_refused(self) -> None:
        assert ["fit.phone_has_data"] == refusals(changed("fit.phone_has_data", False))

    def test_an_offer_without_data_suits_a_phone_without_data(self) -> None:
        data = changed("fit.phone_has_data", False)
        data["offer"]["needs_data"] = False
        assert [] == refusals(data)

    def test_a_promotion_that_ends_before_the_start_is_refused(self) -> None:
        assert ["offer.promotion.ends_on"] == refusals(changed("offer.promotion.ends_on", "2026-03-10"))

    @pytest.mark.parametrize("more", [0, 1])
    def test_a_promotion_that_saves_nothing_is_refused(self, more: int) -> None:
        amount = asked()["offer"]["price"]["amount"] + more
        assert ["offer.promotion.price.amount"] == refusals(changed("offer.promotion.price.amount", amount))

    def test_a_promotion_in_another_currency_is_refused(self) -> None:
        assert ["offer.promotion.price.currency"] == refusals(changed("offer.promotion.price.currency", "USD"))

    def test_a_trial_that_ends_before_the_start_is_refused(self) -> None:
        assert ["offer.trial.ends_on"] == refusals(changed("offer.trial", {"ends_on": "2026-03-10"}))

    def test_every_fault_is_told_at_once(self) -> None:
        data = changed("offer.starts_on", "2026-02-28")
        data["subscriber"]["age"] = 12
        data["fit"]["phone_has_data"] = False
        assert ["offer.starts_on", "fit.phone_has_data", "subscriber.age"] == refusals(data)

    def test_the_refusal_names_path_and_reason(self) -> None:
        data = OrderRequest.model_validate(changed("offer.starts_on", "2026-02-28"))
        with pytest.raises(OrderRefused, match=r"offer\.starts_on: 2026-02-28 is past; today is 2026-03-01"):
            check_order(data, STRICT, TODAY)


class TestTheSchema:
    @pytest.mark.parametrize(
        "path",
        [
            f"offer.{term}"
            for term in (
                "id", "name", "price", "price.amount", "price.currency", "period", "billing_method", "starts_on",
                "term_months", "promotion", "trial", "function", "how_to_use", "how_to_ask", "how_to_cancel",
            )
        ],
    )  # fmt: skip
    def test_a_mandatory_term_that_is_missing_is_named(self, path: str) -> None:
        """Rule R5. Promotion and trial may be null, and must be said to be."""
        assert [path] == schema_faults(without(path))

    @pytest.mark.parametrize("path", ["offer.promotion", "offer.trial"])
    def test_a_term_that_may_be_absent_is_taken_as_null(self, path: str) -> None:
        assert [] == refusals(changed(path, None))

    @pytest.mark.parametrize("path", ["fit", "fit.reason", "fit.phone_has_data", "subscriber", "subscriber.time_zone"])
    def test_an_order_without_fit_or_subscriber_is_refused(self, path: str) -> None:
        assert [path] == schema_faults(without(path))

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("offer.price.amount", -1),
            ("offer.price.amount", 39.5),
            ("offer.price.currency", "WON"),
            ("offer.price.currency", "krw"),
            ("offer.period", "week"),
            ("offer.billing_method", "cash"),
            ("offer.starts_on", "31.03.2026"),
            ("offer.starts_on", "2026-02-30"),
            ("offer.term_months", -1),
            ("offer.name", "  "),
            ("offer.name", "two\nlines"),
            ("offer.function", "x"),
            ("offer.how_to_ask", "call\x00us"),
            ("offer.id", "no spaces"),
            ("offer.colour", "red"),
            ("fit.reason", "likes it"),
            ("subscriber.language", "fr"),
            ("subscriber.time_zone", "Seoul"),
            ("subscriber.time_zone", "../../etc/passwd"),
            ("subscriber.age", -1),
            ("call", "tomorrow"),
            ("urgent", True),
        ],
    )
    def test_a_value_that_does_not_fit_is_named_by_its_path(self, path: str, value: Any) -> None:
        assert [path] == schema_faults(changed(path, value))

    @pytest.mark.parametrize("currency", sorted(LEGAL_TENDER))
    def test_every_currency_that_is_taken_can_be_said_and_written(self, currency: str) -> None:
        OrderRequest.model_validate(changed("offer.price.currency", currency))
        for language in LANGUAGES:
            assert spoken_money(123_456, currency, language)
            assert written_money(123_456, currency, language)

    def test_a_currency_that_is_no_more_is_refused(self) -> None:
        assert "DEM" in list_currencies()
        assert ["offer.price.currency"] == schema_faults(changed("offer.price.currency", "DEM"))


class TestNumbers:
    @pytest.mark.parametrize(
        "written",
        [
            "+821012345678",
            "+82 10 1234 5678",
            "+82-10-1234-5678",
            "＋８２ １０-１２３４-５６７８",
            "+82 (0)10-1234-5678",
        ],
    )
    def test_one_number_has_one_form(self, written: str) -> None:
        assert NUMBER == normalise_number(written)

    @pytest.mark.parametrize(
        "text",
        ["", "+", "01012345678", "+82", "+8210", "+999123456789", "hello", "+" + "1" * 40, "12345", "+4912", "\x00",
         "+1" + "0" * 300],
    )  # fmt: skip
    def test_what_is_no_number_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="phone number"):
            normalise_number(text)

    def test_a_number_that_is_only_dialled_within_a_town_is_refused(self) -> None:
        """+1 253 0000 has seven digits: an area code is missing."""
        with pytest.raises(ValueError, match="its length does not fit"):
            normalise_number("+12530000")

    def test_the_order_keeps_the_normal_form(self) -> None:
        request = OrderRequest.model_validate(changed("subscriber.number", "+82 10-1234-5678"))
        assert NUMBER == request.subscriber.number

    @pytest.mark.parametrize(
        ("expected", "number"),
        [("+82********78", NUMBER), ("123*56", "123456"), ("*****", "12345"), ("", "")],
    )
    def test_a_number_is_masked_for_logs(self, expected: str, number: str) -> None:
        assert expected == mask(number)


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, (*path, name))
    else:
        yield path


TERMS = order().model_dump(mode="json")


class TestTheHash:
    def test_it_is_sha256_over_the_canonical_json(self) -> None:
        one = order()
        assert content_hash(one.model_dump(mode="json")) == one.order_hash
        assert 64 == len(one.order_hash)

    def test_it_does_not_depend_on_the_order_of_keys(self) -> None:
        dumped = order().model_dump(mode="json")
        turned = Order.model_validate(dict(reversed(dumped.items())))
        assert order().order_hash == turned.order_hash

    @pytest.mark.parametrize("path", list(leaves(TERMS)), ids=lambda path: ".".join(map(str, path)))
    def test_it_changes_with_every_term(self, path: tuple[str, ...]) -> None:
        other = {
            "language": "en", "age": 35, "time_zone": "Asia/Tokyo", "number": "+821012345679", "amount": 1,
            "currency": "USD", "period": "year", "billing_method": "prepaid_balance", "starts_on": "2027-01-01",
            "ends_on": "2027-01-02", "term_months": 1, "trial": {"ends_on": "2027-01-01"}, "needs_data": False,
            "phone_has_data": False, "version": 2,
        }  # fmt: skip
        data = deepcopy(TERMS)
        place: Any = data
        for name in path[:-1]:
            place = place[name]
        before = place[path[-1]]
        place[path[-1]] = other.get(path[-1], f"{before}x")
        assert before != place[path[-1]]
        assert order().order_hash != Order.model_validate(data).order_hash

    @pytest.mark.parametrize("term", ["promotion", "trial"])
    def test_it_tells_null_from_a_term(self, term: str) -> None:
        with_term = deepcopy(TERMS)
        with_term["offer"]["trial"] = {"ends_on": "2026-04-01"}
        without_term = deepcopy(with_term)
        without_term["offer"][term] = None
        assert Order.model_validate(with_term).order_hash != Order.model_validate(without_term).order_hash

    def test_an_order_cannot_be_changed_once_made(self) -> None:
        with pytest.raises(ValidationError, match="frozen"):
            order().offer.price.amount = 1  # type: ignore[misc]


class TestCanonicalJson:
    def test_it_sorts_keys_and_keeps_utf8(self) -> None:
        assert '{"a":"네","b":1}'.encode() == canonical({"b": 1, "a": "네"})

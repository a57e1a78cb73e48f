"""Tests of how money, dates, counts and digit strings are spoken and written."""

import re
from collections.abc import Callable
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.language.forms import (
    LARGEST_NUMBER,
    Language,
    spoken_date,
    spoken_digits,
    spoken_money,
    spoken_months,
    spoken_number,
    written_date,
    written_money,
    written_months,
)

LANGUAGES: tuple[Language, ...] = ("ko", "zh-CN", "en")
KOREAN = ("영일이삼사오육칠팔구", {"십": 10, "백": 100, "천": 1000}, {"만": 10**4, "억": 10**8, "조": 10**12})
CHINESE = ("零一二三四五六七八九", {"十": 10, "百": 100, "千": 1000}, {"万": 10**4, "亿": 10**8})
languages = st.sampled_from(LANGUAGES)
# Random numbers of every length, and ones with few digits that are not zero.
numbers = st.one_of(
    st.integers(0, 12).flatmap(lambda power: st.integers(0, 10**power)),
    st.sets(st.integers(0, 11), max_size=4).map(lambda powers: sum(10**power for power in powers)),
)


def parse(text: str, script: tuple[str, dict[str, int], dict[str, int]]) -> int:
    """Read a numeral of the 10**4 system: digits, places below 10**4, and multipliers from 10**4."""
    digits, places, multipliers = script
    total = section = digit = 0
    for character in text.replace(" ", "").replace("两", "二"):
        if character in digits:
            assert digit == 0, f"two digits in a row in {text}"
            digit = digits.index(character)
        elif character in places:
            section += (digit or 1) * places[character]
            digit = 0
        else:
            multiplier = multipliers[character]
            section += digit
            # 一万亿 multiplies all that was said so far; 一亿二千万 only its own section.
            if section == 0 and total:
                total *= multiplier
            else:
                total += (section or 1) * multiplier
            section = digit = 0
    return total + section + digit


@pytest.mark.parametrize(
    ("expected", "n"),
    [
        ("영", 0),
        ("십이", 12),
        ("백십", 110),
        ("만", 10_000),
        ("만 천", 11_000),
        ("이만 구천구백", 29_900),
        ("십만", 100_000),
        ("백이십삼만 사천오백육십칠", 1_234_567),
        ("일억", 10**8),
        ("일억 일만", 100_010_000),
        ("십억 십만", 1_000_100_000),
        ("일조", 10**12),
    ],
)
def test_korean_numbers_are_sino_korean_and_spaced_at_each_ten_thousand(expected: str, n: int) -> None:
    assert expected == spoken_number(n, "ko")


@pytest.mark.parametrize(
    ("expected", "n"),
    [
        ("零", 0),
        ("十二", 12),
        ("一百一十", 110),
        ("一千零一", 1001),
        ("一千零一十", 1010),
        ("一万零一十", 10_010),
        ("十万一千", 101_000),
        ("十万零一十", 100_010),
        ("一亿零一千", 100_001_000),
        ("一亿零一十万", 100_100_000),
        ("一万亿", 10**12),
    ],
)
def test_chinese_numbers_say_zero_for_places_left_out(expected: str, n: int) -> None:
    assert expected == spoken_number(n, "zh-CN")


@pytest.mark.parametrize(
    ("expected", "n"),
    [("二", 2), ("二百二十二", 222), ("两千", 2000), ("三万二千", 32_000), ("两亿二千万", 220_000_000)],
)
def test_chinese_two_is_liang_at_the_beginning_before_thousands_and_above(expected: str, n: int) -> None:
    assert expected == spoken_number(n, "zh-CN")


def test_english_number() -> None:
    assert "twelve" == spoken_number(12, "en")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("n", [-1, LARGEST_NUMBER + 1])
def test_number_out_of_range_is_refused(n: int, language: Language) -> None:
    with pytest.raises(ValueError, match=str(n)):
        spoken_number(n, language)


@given(n=numbers)
def test_korean_number_parses_back(n: int) -> None:
    assert n == parse(spoken_number(n, "ko"), KOREAN)


@given(n=numbers)
def test_korean_number_has_a_space_after_each_multiplier_and_nowhere_else(n: int) -> None:
    said = spoken_number(n, "ko")
    assert re.sub("([만억조])(?=.)", r"\1 ", said.replace(" ", "")) == said


@given(n=numbers)
def test_chinese_number_parses_back(n: int) -> None:
    said = spoken_number(n, "zh-CN")
    assert n == parse(said if n == 0 else said.replace("零", ""), CHINESE)


@pytest.mark.parametrize(
    ("expected", "amount", "currency"),
    [
        ("삼만 구천 원", 39_000, "KRW"),
        ("영 원", 0, "KRW"),
        ("만 원", 10_000, "KRW"),
        ("삼십구 달러 오십 센트", 3950, "USD"),
        ("오십 센트", 50, "USD"),
        ("삼십구 위안", 3900, "CNY"),
        ("삼십구 점 오 위안", 3950, "CNY"),
        ("십이 홍콩 달러", 1200, "HKD"),
        ("오천 일본 엔화", 5000, "JPY"),
        ("삼십구 점 영 오 영국 파운드", 3905, "GBP"),
    ],
)
def test_korean_spoken_money(expected: str, amount: int, currency: str) -> None:
    assert expected == spoken_money(amount, currency, "ko")


@pytest.mark.parametrize(
    ("expected", "amount", "currency"),
    [
        ("三十九元", 3900, "CNY"),
        ("三十九元五角", 3950, "CNY"),
        ("三十九元零五分", 3905, "CNY"),
        ("三十九元五角五分", 3955, "CNY"),
        ("两元二角二分", 222, "CNY"),
        ("两角", 20, "CNY"),
        ("两分", 2, "CNY"),
        ("零元", 0, "CNY"),
        ("三万九千韩元", 39_000, "KRW"),
        ("三十九美元五十美分", 3950, "USD"),
        ("三十九点五港元", 3950, "HKD"),
        ("两欧元", 200, "EUR"),
        ("二点五英镑", 250, "GBP"),
    ],
)
def test_chinese_spoken_money(expected: str, amount: int, currency: str) -> None:
    assert expected == spoken_money(amount, currency, "zh-CN")


@pytest.mark.parametrize(
    ("expected", "amount", "currency"),
    [
        ("thirty-nine dollars and fifty cents", 3950, "USD"),
        ("one dollar and one cent", 101, "USD"),
        ("fifty cents", 50, "USD"),
        ("zero dollars", 0, "USD"),
        ("thirty-nine thousand won", 39_000, "KRW"),
        ("one yuan", 100, "CNY"),
        ("thirty-nine point five yuan", 3950, "CNY"),
        ("one Hong Kong dollar and ten cents", 110, "HKD"),
        ("two euros", 200, "EUR"),
        ("one British pound", 100, "GBP"),
        ("one point two five British pounds", 125, "GBP"),
        ("zero British pounds", 0, "GBP"),
        ("one point two three four Kuwaiti dinars", 1234, "KWD"),
    ],
)
def test_english_spoken_money(expected: str, amount: int, currency: str) -> None:
    assert expected == spoken_money(amount, currency, "en")


@pytest.mark.parametrize(
    ("expected", "amount", "currency", "language"),
    [
        ("39,000원", 39_000, "KRW", "ko"),
        ("0원", 0, "KRW", "ko"),
        ("39.50달러", 3950, "USD", "ko"),
        ("39 홍콩 달러", 3900, "HKD", "ko"),
        ("39元", 3900, "CNY", "zh-CN"),
        ("39.50元", 3950, "CNY", "zh-CN"),
        ("39,000韩元", 39_000, "KRW", "zh-CN"),
        ("$39.50", 3950, "USD", "en"),
        ("$39.00", 3900, "USD", "en"),
        ("KRW 39,000", 39_000, "KRW", "en"),
        ("CNY 39.05", 3905, "CNY", "en"),
        ("KWD 1.234", 1234, "KWD", "en"),
    ],
)
def test_written_money(expected: str, amount: int, currency: str, language: Language) -> None:
    assert expected == written_money(amount, currency, language)


def test_minor_units_are_those_of_iso_4217_where_cldr_differs() -> None:
    assert "RSD 39.50" == written_money(3950, "RSD", "en")


@given(amount=st.integers(0, LARGEST_NUMBER), language=languages)
def test_written_money_keeps_every_digit_of_the_amount(amount: int, language: Language) -> None:
    number = re.sub("[^0-9.]", "", written_money(amount, "USD", language))
    whole, _, hundredths = number.partition(".")
    assert amount == int(whole) * 100 + int(hundredths or 0)


@given(amount=st.integers(0, 10**8), language=languages, currency=st.sampled_from(["KRW", "CNY", "USD", "JPY", "KWD"]))
def test_spoken_money_has_no_numerals(amount: int, language: Language, currency: str) -> None:
    assert not re.search(r"\d", spoken_money(amount, currency, language))


@pytest.mark.parametrize("form", [spoken_money, written_money])
@pytest.mark.parametrize("code", ["ZZZ", "DEM", "XAU", "krw", ""])
def test_currency_that_is_no_legal_tender_code_is_named_in_the_error(form: Callable[..., str], code: str) -> None:
    with pytest.raises(ValueError, match=repr(code)):
        form(100, code, "en")


@pytest.mark.parametrize("form", [spoken_money, written_money])
@pytest.mark.parametrize("amount", [-1, LARGEST_NUMBER * 100 + 1])
def test_amount_out_of_range_is_refused(form: Callable[..., str], amount: int) -> None:
    with pytest.raises(ValueError, match=str(amount)):
        form(amount, "USD", "en")


@pytest.mark.parametrize(
    ("expected", "day", "language"),
    [
        ("이천이십육년 십이월 일일", date(2026, 12, 1), "ko"),
        ("이천이십칠년 유월 삼십일", date(2027, 6, 30), "ko"),
        ("이천이십칠년 시월 이십일", date(2027, 10, 20), "ko"),
        ("二零二六年十二月一日", date(2026, 12, 1), "zh-CN"),
        ("二零二七年二月二十二日", date(2027, 2, 22), "zh-CN"),
        ("December first, twenty twenty-six", date(2026, 12, 1), "en"),
        ("June thirtieth, two thousand and five", date(2005, 6, 30), "en"),
    ],
)
def test_spoken_date(expected: str, day: date, language: Language) -> None:
    assert expected == spoken_date(day, language)


@pytest.mark.parametrize(
    ("expected", "language"), [("2026년 12월 1일", "ko"), ("2026年12月1日", "zh-CN"), ("December 1, 2026", "en")]
)
def test_written_date(expected: str, language: Language) -> None:
    assert expected == written_date(date(2026, 12, 1), language)


@pytest.mark.parametrize(
    ("expected", "digits", "language"),
    [
        ("일 오 팔 팔, 공 공 공 공", "1588-0000", "ko"),
        ("幺五八八，零零零零", "1588-0000", "zh-CN"),
        ("one five eight eight, zero zero zero zero", "1588-0000", "en"),
        ("팔 이, 일 공, 일 이 삼 사, 오 육 칠 팔", "+82 10-1234 5678", "ko"),
    ],
)
def test_spoken_digits_pause_where_the_writing_divides_them(expected: str, digits: str, language: Language) -> None:
    assert expected == spoken_digits(digits, language)


@pytest.mark.parametrize(
    ("expected", "length"),
    [([4], 4), ([2, 3], 5), ([3, 3], 6), ([4, 4], 8), ([3, 3, 4], 10), ([3, 4, 4], 11), ([3, 3, 3, 4], 13)],
)
def test_undivided_digits_are_grouped_in_threes_and_fours(expected: list[int], length: int) -> None:
    assert expected == [len(group) for group in spoken_digits("1" * length, "zh-CN").split("，")]


@pytest.mark.parametrize("digits", ["", "-", "12a4", "12.4", "²", "١٢", "12\n"])
def test_digit_string_with_anything_else_is_refused(digits: str) -> None:
    with pytest.raises(ValueError, match="only digits"):
        spoken_digits(digits, "en")


@given(digits=st.text("0123456789+- ", min_size=1).filter(lambda text: re.search("[0-9]", text)), language=languages)
def test_every_spoken_digit_maps_back(digits: str, language: Language) -> None:
    names = {spoken_digits(str(digit), language): str(digit) for digit in range(10)}
    said = spoken_digits(digits, language)
    words = re.findall("[a-z]+", said) if language == "en" else re.findall(r"[^ ,，]", said)
    assert re.sub("[^0-9]", "", digits) == "".join(names[word] for word in words)


@pytest.mark.parametrize(
    ("expected", "n", "language"),
    [
        ("십이 개월", 12, "ko"),
        ("十二个月", 12, "zh-CN"),
        ("两个月", 2, "zh-CN"),
        ("twelve months", 12, "en"),
        ("one month", 1, "en"),
    ],
)
def test_spoken_months(expected: str, n: int, language: Language) -> None:
    assert expected == spoken_months(n, language)


@pytest.mark.parametrize(
    ("expected", "n", "language"),
    [("12개월", 12, "ko"), ("12个月", 12, "zh-CN"), ("12 months", 12, "en"), ("1 month", 1, "en")],
)
def test_written_months(expected: str, n: int, language: Language) -> None:
    assert expected == written_months(n, language)


@pytest.mark.parametrize("form", [spoken_months, written_months])
def test_negative_months_are_refused(form: Callable[..., str]) -> None:
    with pytest.raises(ValueError, match="-1"):
        form(-1, "en")

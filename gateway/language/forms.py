"""How money, dates, counts and digit strings are spoken and written in Korean, Mandarin and English.

The ``spoken_*`` forms are for a text-to-speech voice on the telephone, so they hold words and never numerals; the
``written_*`` forms are for SMS. Pure functions: no clock, no I/O.

Sources: English and Sino-Korean numerals are num2words'; currency names, symbols, legal tender and written dates are
CLDR's, through Babel; the decimals of currencies are ISO 4217's. Mandarin numerals are built here: num2words has none
for zh-CN, and cn2an leaves out the 零 of 一亿零一千, which makes it sound like 一亿一千万.
"""

import re
from datetime import date
from decimal import Decimal
from itertools import pairwise
from typing import Literal, NamedTuple

from babel.dates import format_date
from babel.numbers import format_currency, format_decimal, get_currency_name
from num2words import num2words

from gateway.consent.order import LEGAL_TENDER

Language = Literal["ko", "zh-CN", "en"]

LARGEST_NUMBER = 10**12
"""The largest count, or number of whole currency units, that these forms are made and tested for."""

_LOCALES: dict[Language, str] = {"ko": "ko_KR", "zh-CN": "zh_Hans_CN", "en": "en_US"}

_MINOR_UNIT_DIGITS: dict[str, int] = {
    code: decimals
    for decimals, codes in {
        0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
        3: "BHD IQD JOD KWD LYD OMR TND",
    }.items()
    for code in codes.split()
}
"""Decimals of the minor unit, ISO 4217 list one, where not 2. CLDR's digits differ (it gives RSD and IQD 0)."""

# In the plural; where that ends in "s" the singular is without it. Other currencies take Babel's name.
_UNITS: dict[Language, dict[str, str]] = {
    "ko": {"KRW": "원", "CNY": "위안", "USD": "달러", "HKD": "홍콩 달러", "EUR": "유로"},
    "zh-CN": {"KRW": "韩元", "CNY": "元", "USD": "美元", "HKD": "港元", "EUR": "欧元"},
    "en": {"KRW": "won", "CNY": "yuan", "USD": "dollars", "HKD": "Hong Kong dollars", "EUR": "euros"},
}

# The hundredth, where the language's speakers count it apart; elsewhere the price is read with a decimal point.
_HUNDREDTHS: dict[Language, dict[str, str]] = {
    "ko": dict.fromkeys(("USD", "HKD", "EUR"), "센트"),
    "zh-CN": {"USD": "美分", "EUR": "欧分"},
    "en": dict.fromkeys(("USD", "HKD", "EUR"), "cents"),
}
_MONTHS: dict[Language, str] = {"ko": "개월", "zh-CN": "个月", "en": "months"}
_POINT: dict[Language, str] = {"ko": " 점 ", "zh-CN": "点", "en": " point "}

# English symbols that name one currency and are in the GSM 7-bit alphabet (₩ is not, and would cost a UCS-2 SMS).
_PLAIN_SYMBOLS = frozenset({"USD", "EUR", "GBP"})

# How digits are named one by one on the telephone: Korean 공 for zero, Mandarin 幺 (yāo) for one.
_DIGITS: dict[Language, list[str]] = {
    "ko": list("공일이삼사오육칠팔구"),
    "zh-CN": list("零幺二三四五六七八九"),
    "en": ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
}
_WORD_GAP: dict[Language, str] = {"ko": " ", "zh-CN": "", "en": " "}
_GROUP_GAP: dict[Language, str] = {"ko": ", ", "zh-CN": "，", "en": ", "}

_CHINESE_DIGITS = "零一二三四五六七八九"
_CHINESE_PLACES = ((10**8, "亿"), (10**4, "万"), (10**3, "千"), (10**2, "百"), (10, "十"))


class _Money(NamedTuple):
    """An amount as whole units and the minor units left over, with the ISO 4217 decimals of its currency."""

    major: int
    minor: int
    decimals: int


def spoken_money(amount: int, currency: str, language: Language) -> str:
    """Say ``amount``, in minor units of the ISO 4217 ``currency``: 39000 KRW in ko is "삼만 구천 원".

    Zero is "영 원", "零元", "zero dollars". ValueError for a negative or oversized amount or an unknown currency.
    """
    money = _split(amount, currency)
    if language == "zh-CN" and currency == "CNY":
        return _spoken_renminbi(money)
    hundredths = _HUNDREDTHS[language].get(currency)
    if money.minor and hundredths is None:
        fraction = f"{money.minor:0{money.decimals}d}".rstrip("0")
        digits = _WORD_GAP[language].join(spoken_number(int(digit), language) for digit in fraction)
        number = spoken_number(money.major, language) + _POINT[language] + digits
        return number + _WORD_GAP[language] + _unit(2, currency, language)
    parts = []
    if money.major or not money.minor:
        parts.append(_counted(money.major, _unit(money.major, currency, language), language))
    if money.minor and hundredths:
        parts.append(_counted(money.minor, _inflected(hundredths, money.minor), language))
    return (" and " if language == "en" else _WORD_GAP[language]).join(parts)


def written_money(amount: int, currency: str, language: Language) -> str:
    """Write ``amount``, in minor units of the ISO 4217 ``currency``, for an SMS.

    ko "39,000원", zh-CN "39元" and "39.50元" (no decimals on whole amounts, as both are written), en "$39.50", and
    "KRW 39,000" where the symbol is ambiguous or not in the GSM alphabet. ValueError as in :func:`spoken_money`.
    """
    money = _split(amount, currency)
    value = Decimal(amount).scaleb(-money.decimals)
    decimals = "." + "0" * money.decimals if money.decimals else ""
    locale = _LOCALES[language]
    if language == "en":
        symbol = "¤" if currency in _PLAIN_SYMBOLS else "¤¤ "
        return format_currency(value, currency, f"{symbol}#,##0{decimals}", locale=locale, currency_digits=False)
    number = format_decimal(value, "#,##0" + (decimals if money.minor else ""), locale=locale)
    unit = _unit(2, currency, language)
    return f"{number} {unit}" if " " in unit else f"{number}{unit}"


def spoken_date(day: date, language: Language) -> str:
    """Say a date: "이천이십육년 십이월 일일", "二零二六年十二月一日", "December first, twenty twenty-six".

    In Korean June is 유월 and October 시월, not 육월 and 십월.
    """
    if language == "ko":
        month = {6: "유", 10: "시"}.get(day.month) or spoken_number(day.month, language)
        return f"{spoken_number(day.year, language)}년 {month}월 {spoken_number(day.day, language)}일"
    if language == "zh-CN":
        year = "".join(_CHINESE_DIGITS[int(digit)] for digit in str(day.year))
        return f"{year}年{spoken_number(day.month, language)}月{spoken_number(day.day, language)}日"
    month = format_date(day, "MMMM", locale=_LOCALES[language])
    return f"{month} {num2words(day.day, to='ordinal', lang='en')}, {num2words(day.year, to='year', lang='en')}"


def written_date(day: date, language: Language) -> str:
    """Write a date in CLDR's long form: "2026년 12월 1일", "2026年12月1日", "December 1, 2026"."""
    return format_date(day, "long", locale=_LOCALES[language])


def spoken_digits(digits: str, language: Language) -> str:
    """Say a telephone number or code digit by digit, with a comma (a pause) between groups.

    "+", "-" and spaces separate groups and are not said; a run of more than four digits is divided further, into
    threes and fours (a run of five into two and three). ValueError for any other character, or for no digit at all.
    """
    if not re.fullmatch(r"[-+ 0-9]*[0-9][-+ 0-9]*", digits):
        raise ValueError(f"only digits, '+', '-' and spaces can be spoken digit by digit: {digits!r}")
    groups = [group for run in re.findall(r"[0-9]+", digits) for group in _pause_groups(run)]
    names = _DIGITS[language]
    return _GROUP_GAP[language].join(_WORD_GAP[language].join(names[int(digit)] for digit in group) for group in groups)


def spoken_number(n: int, language: Language) -> str:
    """Say a plain cardinal from 0 to LARGEST_NUMBER: Sino-Korean "십이", "十二", "twelve"; otherwise ValueError."""
    if not 0 <= n <= LARGEST_NUMBER:
        raise ValueError(f"number not between 0 and {LARGEST_NUMBER}: {n}")
    if language == "zh-CN":
        return _chinese(n)
    said = str(num2words(n, lang=_LOCALES[language][:2]))
    return said.replace("억 만", "억 일만")  # num2words says "일억 만"; a bare 만 after 억 could be heard as 억만


def spoken_months(n: int, language: Language) -> str:
    """Say a duration of ``n`` months: "십이 개월", "十二个月", "twelve months"."""
    return _counted(n, _inflected(_MONTHS[language], n), language)


def written_months(n: int, language: Language) -> str:
    """Write a duration of ``n`` months: "12개월", "12个月", "12 months"; ValueError for a negative one."""
    if n < 0:
        raise ValueError(f"negative number of months: {n}")
    return f"{n}{' ' if language == 'en' else ''}{_inflected(_MONTHS[language], n)}"


def _split(amount: int, currency: str) -> _Money:
    """Check an amount in minor units of an ISO 4217 currency, and part it at the decimal point."""
    if currency not in LEGAL_TENDER:
        raise ValueError(f"unknown ISO 4217 currency: {currency!r}")
    decimals = _MINOR_UNIT_DIGITS.get(currency, 2)
    if not 0 <= amount <= LARGEST_NUMBER * 10**decimals:
        raise ValueError(f"amount negative or too large, in minor units of {currency}: {amount}")
    major, minor = divmod(amount, 10**decimals)
    return _Money(major, minor, decimals)


def _unit(n: int, currency: str, language: Language) -> str:
    """Return the name of ``n`` whole units of a currency."""
    if currency in _UNITS[language]:
        return _inflected(_UNITS[language][currency], n)
    return get_currency_name(currency, count=n, locale=_LOCALES[language])


def _inflected(plural: str, n: int) -> str:
    """Return the form of a unit that ``n`` takes; Korean and Mandarin units have one form."""
    return plural.removesuffix("s") if n == 1 else plural


def _counted(n: int, unit: str, language: Language) -> str:
    """Say ``n`` of a unit; in Mandarin two of anything is 两, not 二."""
    number = "两" if language == "zh-CN" and n == 2 else spoken_number(n, language)
    return number + _WORD_GAP[language] + unit


def _spoken_renminbi(money: _Money) -> str:
    """Say yuan, jiao (1/10) and fen (1/100): 三十九元零五分. A 2 is 两 in the first place, 二 after it."""
    jiao, fen = divmod(money.minor, 10)
    said = _counted(money.major, "元", "zh-CN") if money.major or not money.minor else ""
    if jiao:
        said += f"{_chinese(jiao)}角" if said else _counted(jiao, "角", "zh-CN")
    if fen:
        said += ("零" if said and not jiao else "") + (f"{_chinese(fen)}分" if said else _counted(fen, "分", "zh-CN"))
    return said


def _chinese(n: int) -> str:
    """Spell a Mandarin cardinal, with 十 (not 一十) and 两 (before 千, 万 and 亿) at its beginning only.

    So 《现代汉语八百词》 under 二/两: 二 in the hundreds, tens and units; 两千, 两万, 两亿; but 三万二千.
    """
    said = _chinese_places(n)
    return re.sub("^一十", "十", re.sub("^二(?=[千万亿])", "两", said))


def _chinese_places(n: int) -> str:
    """Spell ``n`` place by place, with 零 for a place (or places) left out above a lower one."""
    for place, word in _CHINESE_PLACES:
        if n >= place:
            high, low = divmod(n, place)
            gap = "零" if 0 < low < place // 10 else ""
            return _chinese_places(high) + word + gap + (_chinese_places(low) if low else "")
    return _CHINESE_DIGITS[n]


def _pause_groups(run: str) -> list[str]:
    """Divide a run of digits into the fewest groups of at most four, as even as can be, the shorter ones first."""
    count = -(-len(run) // 4)
    bounds = [len(run) * index // count for index in range(count + 1)]
    return [run[start:end] for start, end in pairwise(bounds)]

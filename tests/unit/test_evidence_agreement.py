"""The agreement: one page in the order's language, its fonts embedded, the terms those of the SMS."""

from __future__ import annotations

import io
import re
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from bundles import NUMBER, OPERATOR, Scene, members_of, pressed, rows_of, scene, vkey
from pypdf import PdfReader

from gateway.consent.order import Language, Offer, Order
from gateway.evidence import verify_evidence as evidence
from gateway.evidence.agreement import Label, Ledger, Reason, agreement, terms, wording
from gateway.evidence.typesetting import FIRST_CHOICE, FOLDER, Page, Section, set_page
from gateway.language.pack import LanguagePack, load_pack
from gateway.resources import data_folder

TEXTS: dict[str, dict[str, str]] = {
    "ko": {
        "name": "데이터 플러스 요금제", "function": "매월 데이터 십 기가바이트를 더 드립니다.", "how_to_use": "자동으로 적용됩니다.",
        "how_to_ask": "고객센터 1588-0000", "how_to_cancel": "문자로 언제든지 해지하실 수 있습니다.",
    },
    "zh-CN": {
        "name": "畅享流量包", "function": "每月增加十吉字节流量。", "how_to_use": "开通后自动生效，无需操作。",
        "how_to_ask": "请拨打客服热线10010咨询。", "how_to_cancel": "可随时发送短信退订。",
    },
    "en": {
        "name": "Data Plus", "function": "Ten more gigabytes every month.", "how_to_use": "It works by itself.",
        "how_to_ask": "Call 1588-0000.", "how_to_cancel": "By SMS, at any time.",
    },
}  # fmt: skip
LANGUAGES: tuple[Language, ...] = get_args(Language)
LEDGER = Ledger(4711, "r" * 43 + "=", vkey())


def in_language(stage: Scene, language: Language, **offer: Any) -> Scene:
    order = stage.order
    changed = {**order.offer.model_dump(), **TEXTS[language], **offer}
    subscriber = order.subscriber.model_copy(update={"language": language})
    told = order.model_copy(update={"subscriber": subscriber, "offer": Offer.model_validate(changed)})
    return replace(stage, order=told)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return scene(tmp_path_factory.mktemp("agreement"))


def pack_of(language: Language) -> LanguagePack:
    return load_pack(data_folder("prompts"), language)


def page_of(stage: Scene, state: str = "provisioned", *, agreed: bool = True) -> Page:
    events = [*stage.confirmed()] if agreed else [event for event in stage.call() if event.type != "consent.spoken"]
    promise = evidence.keep_promise(rows_of(stage.order, events))
    return agreement(promise, state, pack_of(stage.order.subscriber.language), OPERATOR, LEDGER)


def text_of(page: Page) -> str:
    """What a reader finds on the page, without the breaks of its lines."""
    reader = PdfReader(io.BytesIO(page.pdf))
    assert 1 == len(reader.pages)
    return squeezed(reader.pages[0].extract_text())


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def fonts_of(page: Page) -> dict[str, Any]:
    resources: Any = PdfReader(io.BytesIO(page.pdf)).pages[0]["/Resources"]
    return {str(font.get_object()["/BaseFont"]): font.get_object() for font in resources["/Font"].values()}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_term_can_be_read_from_the_page(stage: Scene, language: Language) -> None:
    told = in_language(stage, language)
    found = text_of(page_of(told))
    words = wording(language)
    for label, text in terms(told.order.offer, pack_of(language), words):
        assert squeezed(label) in found
        assert squeezed(text) in found, text
    for text in (OPERATOR, NUMBER, told.order.order_id, told.order.order_hash, LEDGER.root, LEDGER.key, words.title):
        assert squeezed(text) in found, text
    assert "2026-03-0118:00:44" in found, "the spoken consent, at the subscriber's"
    assert "2026-03-0118:00:56" in found, "the reply"
    assert "네동의합니다" in found


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_terms_are_those_of_the_sms(stage: Scene, language: Language) -> None:
    """Rule R13: what was written to the subscriber stands in the agreement, word for word."""
    order = in_language(stage, language).order
    pack = pack_of(language)
    message = pack.written("provisioned", order, OPERATOR)
    challenge = pack.written("challenge", order, OPERATOR, code="123456", ttl_s=600)
    told = dict(terms(order.offer, pack, wording(language)))
    labels = wording(language).labels
    in_both = {told[labels[name]] for name in ("offer", "price", "billing_method")}
    assert all(text in challenge and text in message for text in in_both)
    assert told[labels["starts_on"]] in challenge
    assert told[labels["how_to_ask"]] in message
    assert told[labels["how_to_cancel"]] in message


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("term_months", [0, 1, 24])
@pytest.mark.parametrize("promotion", [True, False])
@pytest.mark.parametrize("trial", [True, False])
def test_terms_that_an_offer_lacks_are_said_to_be_absent(
    stage: Scene, language: Language, term_months: int, promotion: bool, trial: bool
) -> None:
    reduced = stage.order.offer.model_dump()["promotion"] if promotion else None
    ends = {"ends_on": "2026-04-11"} if trial else None
    order = in_language(stage, language, term_months=term_months, promotion=reduced, trial=ends).order
    words = wording(language)
    told = dict(terms(order.offer, pack_of(language), words))
    assert (words.words.no_term == told[words.labels["term"]]) == (term_months == 0)
    assert (words.words.no_promotion == told[words.labels["promotion"]]) == (not promotion)
    assert (words.words.no_trial == told[words.labels["trial"]]) == (not trial)
    assert not any("{" in text for text in told.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_its_fonts_are_embedded_as_subsets(stage: Scene, language: Language) -> None:
    page = page_of(in_language(stage, language))
    fonts = fonts_of(page)
    noto = {name: font for name, font in fonts.items() if "Noto" in name}
    assert noto
    for name, font in noto.items():
        assert re.match(r"/[A-Z0-9]{6}\+NotoSans", name), "a subset"
        assert font["/FontDescriptor"]["/FontFile2"].get_data()[:4] == b"\0\1\0\0", "TrueType"
    assert any(FIRST_CHOICE[language][0] in name for name in noto)
    assert len(page.pdf) < 200_000


@pytest.mark.parametrize("language", LANGUAGES)
def test_nothing_on_it_is_set_in_a_font_that_is_not_embedded(stage: Scene, language: Language) -> None:
    reader = PdfReader(io.BytesIO(page_of(in_language(stage, language)).pdf))
    used: set[str] = set()

    def note(text: str, _cm: Any, _tm: Any, font: Any, _size: Any) -> None:
        if text.strip() and font is not None:
            used.add(str(font["/BaseFont"]))

    reader.pages[0].extract_text(visitor_text=note)
    assert used
    assert all("NotoSans" in name for name in used)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_longest_terms_fit_on_the_page(stage: Scene, language: Language) -> None:
    long = {
        "name": "가" * 80,
        **dict.fromkeys(("function", "how_to_use", "how_to_ask", "how_to_cancel"), "漢字와 한글 and words " * 12),
    }
    told = in_language(stage, language, **{name: text[:300] for name, text in long.items()})
    assert squeezed("가" * 80) in text_of(page_of(told))


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_without_any_break_fits_too(stage: Scene, language: Language) -> None:
    assert "w" * 300 in text_of(page_of(in_language(stage, language, function="w" * 300)))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("state", ["refused", "expired", "calling", "withdrawn"])
def test_without_an_agreement_it_says_so(stage: Scene, language: Language, state: str) -> None:
    found = text_of(page_of(in_language(stage, language), state, agreed=False))
    words = wording(language)
    reasons = {str(name): text for name, text in words.reasons.items()}
    assert squeezed(words.title_without) in found
    assert squeezed(words.outcomes.none.format(reason=reasons.get(state, reasons["open"]))) in found


def test_what_no_font_has_is_named_not_boxed(stage: Scene) -> None:
    page = page_of(in_language(stage, "ko", name="좋은 요금제 😀 ᠮᠣ"))
    assert ("U+1823", "U+182E", "U+1F600") == page.uncovered
    found = text_of(page)
    assert "좋은요금제[U+1F600][U+182E][U+1823]" in found


def test_chinese_in_a_korean_order_and_korean_in_a_chinese_one_are_shown(stage: Scene) -> None:
    for language, name in (("ko", "한글과 汉语拼音 함께"), ("zh-CN", "한글과汉语뷁"), ("en", "Data 데이터 流量")):
        page = page_of(in_language(stage, language, name=name))
        assert () == page.uncovered
        assert squeezed(name) in text_of(page)


def test_syllables_that_come_in_pieces_are_put_together(stage: Scene) -> None:
    page = page_of(in_language(stage, "ko", name=unicodedata.normalize("NFD", "데이터 플러스")))
    assert () == page.uncovered
    assert "데이터플러스" in text_of(page)


def test_markup_in_a_term_is_text(stage: Scene) -> None:
    name = "<b>Data</b> & <font color=red>more</font>"
    assert squeezed(name) in text_of(page_of(in_language(stage, "en", name=name)))


def test_the_same_record_gives_the_same_page(stage: Scene) -> None:
    assert page_of(stage).pdf == page_of(stage).pdf


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_wording_of_a_language_is_whole(language: Language) -> None:
    words = wording(language)
    assert set(get_args(Label)) == set(words.labels)
    assert set(get_args(Reason)) == set(words.reasons)


def test_the_fonts_cover_what_they_promise() -> None:
    """Every modern Korean syllable, KS X 1001 and GB 2312."""
    every = "".join(map(chr, range(0xAC00, 0xD7A4)))
    hanja = "".join(bytes((row, cell)).decode("euc_kr") for row in range(0xCA, 0xFE) for cell in range(0xA1, 0xFF))
    hanzi = "".join(
        bytes((row, cell)).decode("gb2312", "ignore") for row in range(0xB0, 0xF8) for cell in range(0xA1, 0xFF)
    )
    assert (11_172, 4888, 6763) == (len(every), len(hanja), len(hanzi))
    for text, language in ((every, "ko"), (hanja, "ko"), (hanzi, "zh-CN")):
        for start in range(0, len(text), 3000):
            assert () == set_page("", "", [Section("", [("", text[start : start + 3000])])], language).uncovered


def test_the_licence_of_the_fonts_lies_beside_them() -> None:
    assert "SIL OPEN FONT LICENSE" in (FOLDER / "OFL.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_bundle_has_the_agreement_and_a_readme_in_the_orders_language(tmp_path: Path, language: Language) -> None:
    told = in_language(scene(tmp_path), language)
    again = Scene(tmp_path, Order.model_validate(told.order.model_dump()))
    members = members_of(pressed(again, again.confirmed()))
    readme = members["README.txt"].decode()
    assert readme.startswith(wording(language).readme)
    assert wording("en").readme in readme
    assert squeezed(told.order.offer.name) in text_of(Page(members["agreement.pdf"], ()))

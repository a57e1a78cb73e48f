"""Language packs: what is said, written and understood, and that every channel tells the same terms."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from gateway.consent.events import SmsKind
from gateway.consent.order import BillingMethod, DialplanRef, Language, Order, OrderRequest, Period
from gateway.demo.orders import sample_order
from gateway.dialplan.model import load_dialplans
from gateway.language import forms
from gateway.language.errors import BadPack
from gateway.language.pack import LANGUAGES, MERGED, WATCH, LanguagePack, load_pack, speakable
from gateway.resources import data_folder

FOLDER = data_folder("prompts")
PACKS = {language: load_pack(FOLDER, language) for language in LANGUAGES}
PLANS = load_dialplans(data_folder("dialplans"))
OPERATOR = "Acme"
KINDS: tuple[SmsKind, ...] = get_args(SmsKind)
each_language = pytest.mark.parametrize("language", LANGUAGES)


def order(language: Language, **offer: Any) -> Order:
    """39,000 won a month from 11 March 2026, for twelve months, 29,000 won until 9 June, no trial."""
    data = sample_order("+821012345678", date(2026, 3, 1))
    data["subscriber"]["language"] = language
    data["offer"] |= offer
    request = OrderRequest.model_validate(data)
    return Order(
        order_id="7f1b0c1e-0000-4000-8000-000000000001",
        tenant="billing",
        subscriber=request.subscriber,
        offer=request.offer,
        fit=request.fit,
        dialplan=DialplanRef(name="plan-upgrade", version=1, sha256="0" * 64),
    )


def written(language: Language, kind: SmsKind, **offer: Any) -> str:
    return PACKS[language].written(kind, order(language, **offer), OPERATOR, code="123456", tries_left=2, ttl_s=86_400)


def said(language: Language, prompt: str, **offer: Any) -> str:
    return PACKS[language].spoken(prompt, order(language, **offer), OPERATOR)


@each_language
class TestEveryLanguage:
    def test_it_has_every_prompt_of_every_shipped_script(self, language: Language) -> None:
        pack = PACKS[language]
        for plan in PLANS.values():
            assert set() == set(plan.prompt_names()) - set(pack.prompts)
        assert pack.spoken("no_order", None, OPERATOR)

    @pytest.mark.parametrize(
        ("trial", "promotion", "term_months"),
        [
            (None, None, 0),
            ({"ends_on": "2026-04-01"}, None, 1),
            (None, {"price": {"amount": 1, "currency": "KRW"}, "ends_on": "2026-04-01"}, 24),
        ],
    )
    def test_every_prompt_can_be_said_for_every_kind_of_offer(
        self, language: Language, trial: Any, promotion: Any, term_months: int
    ) -> None:
        for prompt in PACKS[language].prompts:
            text = said(language, prompt, trial=trial, promotion=promotion, term_months=term_months)
            assert text
            assert "{" not in text

    def test_every_message_can_be_written(self, language: Language) -> None:
        for kind in KINDS:
            assert "{" not in written(language, kind)

    def test_it_has_every_grammar_of_every_shipped_script_and_each_has_a_yes(self, language: Language) -> None:
        for plan in PLANS.values():
            for name in plan.grammar_names():
                assert PACKS[language].grammars[name].affirm

    def test_no_key_grants_consent(self, language: Language) -> None:
        assert "" == PACKS[language].grammars["consent"].dtmf_affirm

    def test_no_answer_means_two_things(self, language: Language) -> None:
        for grammar in PACKS[language].grammars.values():
            assert len(grammar.answers) == len(set(grammar.answers))

    def test_nothing_that_must_never_pass_is_a_yes(self, language: Language) -> None:
        for grammar in PACKS[language].grammars.values():
            kinds = (grammar.fillers, grammar.hedges, grammar.questions, grammar.others)
            assert set() == set(grammar.affirm) & {phrase for kind in kinds for phrase in kind}

    def test_no_bare_yes_no_hedge_and_no_question_is_an_answer(self, language: Language) -> None:
        for grammar in PACKS[language].grammars.values():
            kinds = (grammar.fillers, grammar.hedges, grammar.questions)
            assert set() == set(grammar.answers) & {phrase for kind in kinds for phrase in kind}

    def test_no_yes_holds_a_forbidden_word(self, language: Language) -> None:
        for grammar in PACKS[language].grammars.values():
            for phrase in grammar.affirm:
                assert set() == set(phrase.split()) & set(grammar.forbidden)

    def test_the_yes_to_one_question_is_none_to_another(self, language: Language) -> None:
        grammars = PACKS[language].grammars
        for name, grammar in grammars.items():
            for other in grammars.values():
                assert name == other.name or set(other.affirm) <= set(grammar.others)

    def test_every_question_has_the_common_phrases(self, language: Language) -> None:
        grammars = PACKS[language].grammars
        for name in MERGED:
            for grammar in grammars.values():
                if name != "others":
                    assert set(getattr(grammars[WATCH], name)) <= set(getattr(grammar, name))

    def test_while_nothing_is_asked_refusals_are_listened_for_and_no_yes(self, language: Language) -> None:
        watch = PACKS[language].grammars[WATCH]
        assert ((), True, True) == (watch.affirm, bool(watch.deny), bool(watch.stop))

    def test_while_nothing_is_asked_the_yes_to_any_question_is_no_garbage(self, language: Language) -> None:
        grammars = PACKS[language].grammars
        assert {phrase for grammar in grammars.values() for phrase in grammar.affirm} <= set(grammars[WATCH].others)

    def test_phrases_are_tokens_with_single_spaces(self, language: Language) -> None:
        for grammar in PACKS[language].grammars.values():
            for phrase in (*grammar.phrases, *grammar.forbidden):
                assert " ".join(phrase.split()) == phrase != ""

    def test_the_consent_question_names_its_phrase(self, language: Language) -> None:
        """DESIGN §6: each question names its target phrase. The prompt is spelled, the grammar in tokens."""

        def letters(text: str) -> str:
            return "".join(filter(str.isalpha, text.casefold()))

        for prompt in ("consent", "consent_again"):
            assert any(
                letters(phrase) in letters(said(language, prompt))
                for phrase in PACKS[language].grammars["consent"].affirm
            )

    def test_seniors_are_spoken_to_more_slowly(self, language: Language) -> None:
        voice = PACKS[language].voice
        assert voice.senior_words_per_minute < voice.words_per_minute

    def test_what_is_said_holds_no_figures(self, language: Language) -> None:
        """A voice reads figures as it likes; everything of the order is spelled out in words."""
        for prompt in PACKS[language].prompts:
            text = said(language, prompt, trial={"ends_on": "2026-04-01"}, name="Data Plus", function="ten gigabytes")
            assert None is re.search(r"\d", text), text


@each_language
class TestOneOfferInEveryChannel:
    """Rule R13."""

    def test_voice_and_sms_name_the_same_price(self, language: Language) -> None:
        for amount, currency in ((39_000, "KRW"), (3_950, "CNY"), (1_999, "USD"), (0, "KRW")):
            price = {"amount": amount, "currency": currency}
            assert forms.spoken_money(amount, currency, language) in said(
                language, "disclosure_price", price=price, promotion=None
            )
            for kind in ("challenge", "provisioned"):
                assert forms.written_money(amount, currency, language) in written(
                    language, kind, price=price, promotion=None
                )  # type: ignore[arg-type]

    def test_voice_and_sms_name_the_same_start(self, language: Language) -> None:
        assert forms.spoken_date(date(2026, 3, 11), language) in said(language, "disclosure_start")
        assert forms.written_date(date(2026, 3, 11), language) in written(language, "challenge")

    @pytest.mark.parametrize("period", get_args(Period))
    def test_voice_and_sms_name_the_period(self, language: Language, period: Period) -> None:
        pack = PACKS[language]
        assert pack.words.period[period] in said(language, "disclosure_price", period=period)
        assert pack.sms_words.period[period] in written(language, "challenge", period=period)

    @pytest.mark.parametrize("method", get_args(BillingMethod))
    def test_voice_and_sms_name_the_billing_method(self, language: Language, method: BillingMethod) -> None:
        pack = PACKS[language]
        assert pack.words.billing_method[method] in said(language, "disclosure_billing", billing_method=method)
        assert pack.sms_words.billing_method[method] in written(language, "challenge", billing_method=method)

    def test_the_message_with_the_code_carries_what_rule_r2_wants(self, language: Language) -> None:
        text = written(language, "challenge", name="Data Plus")
        price, billing = (
            forms.written_money(39_000, "KRW", language),
            PACKS[language].sms_words.billing_method["monthly_bill"],
        )
        assert [True] * 5 == [part in text for part in (OPERATOR, "Data Plus", price, billing, "123456")]

    def test_the_code_stands_apart_and_is_the_only_run_of_six_digits(self, language: Language) -> None:
        assert ["123456"] == re.findall(r"(?<!\d)\d{6}(?!\d)", written(language, "challenge"))

    def test_the_message_for_a_wrong_code_tells_the_tries_left(self, language: Language) -> None:
        assert "2" in written(language, "wrong_code")

    def test_the_challenge_tells_the_reduced_price_its_end_and_the_price_after_it(self, language: Language) -> None:
        """The same terms as the voice (rules R5, R13)."""
        text = written(language, "challenge")
        assert forms.written_money(29_000, "KRW", language) in text
        assert forms.written_money(39_000, "KRW", language) in text

    def test_only_the_challenge_carries_the_code(self, language: Language) -> None:
        assert ["challenge"] == [kind for kind in KINDS if "123456" in written(language, kind)]

    def test_the_success_notice_tells_how_to_cancel(self, language: Language) -> None:
        assert order(language).offer.how_to_cancel in written(language, "provisioned")

    def test_the_price_after_the_promotion_is_told(self, language: Language) -> None:
        """Rule R5: the promotion's end and the price after it."""
        text = said(language, "disclosure_promotion")
        parts = (
            forms.spoken_money(29_000, "KRW", language),
            forms.spoken_date(date(2026, 6, 9), language),
            forms.spoken_money(39_000, "KRW", language),
        )
        assert [True] * 3 == [part in text for part in parts]

    @pytest.mark.parametrize(
        ("prompt", "absent"),
        [("promotion", {"promotion": None}), ("trial", {"trial": None}), ("term", {"term_months": 0})],
    )
    def test_a_term_that_the_offer_lacks_is_said_to_be_absent(
        self, language: Language, prompt: str, absent: dict[str, Any]
    ) -> None:
        present = {"trial": {"ends_on": "2026-04-01"}}
        name = f"disclosure_{prompt}"
        wording = PACKS[language].prompts[name]
        assert wording.without == said(language, name, **(present | absent))  # type: ignore[union-attr]
        assert wording.without != said(language, name, **present)  # type: ignore[union-attr]


class TestSpeaking:
    @pytest.mark.parametrize(
        ("expected", "language", "text"),
        [
            ("일 오 팔 팔, 공 공 공 공 으로", "ko", "1588-0000 으로"),
            ("拨打幺零零八六咨询", "zh-CN", "拨打10086咨询"),
            ("call one two three four", "en", "call 1234"),
            ("ten 10 GB", "en", "ten 10 GB"),
            ("고객센터 １５８８-００００", "ko", "고객센터 １５８８-００００"),
        ],
    )
    def test_telephone_numbers_are_spelled_digit_by_digit(self, expected: str, language: Language, text: str) -> None:
        assert expected.replace("，", "").replace("幺零，零八六", "幺零零八六") == speakable(text, language).replace(
            "，", ""
        )

    def test_without_an_order_only_the_operator_is_known(self) -> None:
        assert "Acme" in PACKS["en"].spoken("no_order", None, "Acme")

    def test_braces_in_the_texts_of_an_order_are_left_alone(self) -> None:
        assert "{price}" in said("en", "disclosure_function", function="it costs {price}")


Edit = Callable[[dict[str, Any]], Any]


def broken(folder: Path, file: str, edit: Edit) -> str:
    """What is said about the English pack with one file edited."""
    shutil.copytree(FOLDER / "en", folder / "en")
    path = folder / "en" / file
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    edit(data)
    path.write_text(yaml.safe_dump(data, allow_unicode=True), encoding="utf-8")
    with pytest.raises(BadPack) as refused:
        load_pack(folder, "en")
    return str(refused.value)


class TestBrokenPacks:
    def test_an_unedited_copy_loads(self, tmp_path: Path) -> None:
        shutil.copytree(FOLDER / "en", tmp_path / "en")
        assert isinstance(load_pack(tmp_path, "en"), LanguagePack)

    @pytest.mark.parametrize(
        ("where", "file", "edit"),
        [
            ("prompts.yaml: consent: ", "prompts.yaml", lambda d: d["prompts"].update(consent="pay {prize}")),
            ("prompts.yaml: consent: ", "prompts.yaml", lambda d: d["prompts"].update(consent="code {code}")),
            ("prompts.yaml: consent: ", "prompts.yaml", lambda d: d["prompts"].update(consent="{offer.id}")),
            ("prompts.yaml: consent: ", "prompts.yaml", lambda d: d["prompts"].update(consent="{}")),
            ("prompts.yaml: consent: ", "prompts.yaml", lambda d: d["prompts"].update(consent="open {price")),
            ("prompts.yaml: disclosure_term: ", "prompts.yaml",
             lambda d: d["prompts"]["disclosure_term"].update(without="{colour}")),
            ("prompts.yaml: consent: ", "prompts.yaml", lambda d: d["prompts"].update(consent={"with": "a", "without": "b"})),
            ("sms.yaml: stopped: ", "sms.yaml", lambda d: d.update(stopped="{reason}")),
            ("sms.yaml: the message 'late_reply' is missing", "sms.yaml", lambda d: d.pop("late_reply")),
            ("sms.yaml: challenge: rule R2 wants code", "sms.yaml",
             lambda d: d.update(challenge="{offer} {price} {billing_method}")),
            ("sms.yaml: challenge: rule R2 wants price", "sms.yaml",
             lambda d: d.update(challenge="{offer} {code} {billing_method}")),
            ("with", "prompts.yaml", lambda d: d["prompts"].update(disclosure_term={"without": "b"})),
            ("voice", "prompts.yaml", lambda d: d.pop("voice")),
            ("espeak", "prompts.yaml", lambda d: d["voice"].pop("espeak")),
            ("period", "prompts.yaml", lambda d: d["words"]["period"].pop("month")),
            ("billing_method", "sms.yaml", lambda d: d["words"]["billing_method"].update(cash="cash")),
            ("prompts", "prompts.yaml", lambda d: d.update(prompts=None)),
            ("grammars", "intents.yaml", lambda d: d.pop("grammars")),
            ("deny", "intents.yaml", lambda d: d["common"].update(deny=[False])),
            ("yes_please", "intents.yaml", lambda d: d["common"].update(yes_please=["sure"])),
            ("anti", "intents.yaml", lambda d: d["grammars"]["consent"].update(anti=["sure"])),
            ("a yes belongs to a question", "intents.yaml", lambda d: d["common"].update(affirm=["sure"])),
            ("'watch'", "intents.yaml", lambda d: d["grammars"].update(watch={"affirm": ["sure"]})),
        ],
    )  # fmt: skip
    def test_a_fault_is_named(self, tmp_path: Path, where: str, file: str, edit: Edit) -> None:
        message = broken(tmp_path, file, edit)
        assert message.startswith(str(tmp_path / "en"))
        assert where in message

    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(BadPack, match=r"ko/prompts\.yaml: No such file"):
            load_pack(tmp_path, "ko")

    @pytest.mark.parametrize("content", [b"[unclosed", b"- a list", b"\xff\xfe\x00", b""])
    def test_a_file_that_is_no_yaml_mapping_is_named(self, tmp_path: Path, content: bytes) -> None:
        shutil.copytree(FOLDER / "en", tmp_path / "en")
        (tmp_path / "en" / "sms.yaml").write_bytes(content)
        with pytest.raises(BadPack, match=r"sms\.yaml: "):
            load_pack(tmp_path, "en")

"""The strict verdict: what counts as a yes, and all that does not (rule R1)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.consent.verdict import STRICT, Floors, Grammar, Verdict, Word, is_candidate, judge
from gateway.consent.verdict import Testimony as Witnessed  # pytest would collect a class named Test...
from gateway.language.pack import LANGUAGES, load_pack
from gateway.resources import data_folder

PACKS = {language: load_pack(data_folder("prompts"), language) for language in LANGUAGES}
KOREAN = PACKS["ko"].grammars["consent"]
PHRASE = "네 동의 합니다"
LEAVE = Grammar("leave", ("네 계속 하세요",), dtmf_affirm="1", dtmf_deny="2")


def words(text: str, confidence: float = 1.0) -> tuple[Word, ...]:
    return tuple(Word(word, 0.3 * n, 0.3 * n + 0.3, confidence) for n, word in enumerate(text.split()))


def heard(text: str, *, speech_ms: int = 1200, confidence: float = 1.0, **rest: object) -> Witnessed:
    """An utterance that the grammar pass heard as *text*; the second pass agrees unless told otherwise."""
    testimony = Witnessed(words=words(text, confidence), open_text=text, speech_ms=speech_ms, snr_db=20.0)
    return replace(testimony, **rest)  # type: ignore[arg-type]


YES = heard(PHRASE)


def verdict(testimony: Witnessed, grammar: Grammar = KOREAN, *, binding: bool = True) -> Verdict:
    return judge(testimony, grammar, binding=binding).verdict


class TestAYes:
    def test_the_phrase_said_clearly_with_every_witness_agreeing_is_a_yes(self) -> None:
        judgement = judge(YES, KOREAN, binding=True)
        assert ("affirm", "said '네 동의 합니다', both passes agree") == (judgement.verdict, judgement.reason)

    def test_a_second_pass_that_misspells_the_same_sounds_agrees(self) -> None:
        assert "affirm" == verdict(replace(YES, open_text="내 동이 함니다"))

    def test_without_a_measured_noise_the_rest_decides(self) -> None:
        assert "affirm" == verdict(replace(YES, snr_db=None))

    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize("name", ["leave", "owner", "adult", "consent"])
    def test_every_target_phrase_of_every_language_can_be_a_yes(self, language: str, name: str) -> None:
        grammar = PACKS[language].grammars[name]
        assert {"affirm"} == {verdict(heard(phrase, speech_ms=1100), grammar) for phrase in grammar.affirm}


class TestWhatIsNoYes:
    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize("name", ["leave", "owner", "adult", "consent"])
    @pytest.mark.parametrize("binding", [True, False])
    def test_no_phrase_but_the_targets_is_a_yes(self, language: str, name: str, binding: bool) -> None:
        """Bare yes, fillers, hedges, questions, negations and the yes of another question are all in the packs."""
        grammar = PACKS[language].grammars[name]
        others = [phrase for phrase in grammar.phrases if phrase not in grammar.affirm]
        assert len(others) > 20
        assert "affirm" not in {verdict(heard(phrase), grammar, binding=binding) for phrase in others}

    @pytest.mark.parametrize(
        ("language", "said"),
        [
            ("ko", "네"), ("ko", "예"), ("ko", "네 네"), ("ko", "음"), ("ko", "글쎄요"), ("ko", "네 동의 할까요"),
            ("ko", "생각해 볼게요"), ("ko", "네 네 동의 합니다"), ("ko", "네 동의 합니다 네"),
            ("zh-CN", "嗯"), ("zh-CN", "哦"), ("zh-CN", "好"), ("zh-CN", "是的"), ("zh-CN", "同意"), ("zh-CN", "我 同意 吗"),
            ("en", "yes"), ("en", "okay"), ("en", "uh"), ("en", "oh"), ("en", "well"), ("en", "i agree"),
            ("en", "maybe"), ("en", "yes i agree to subscribe but"), ("en", "i guess"),
        ],
    )  # fmt: skip
    def test_it_is_asked_again(self, language: str, said: str) -> None:
        assert "unclear" == verdict(heard(said), PACKS[language].grammars["consent"])

    def test_half_of_the_phrase_is_asked_again(self) -> None:
        assert {"unclear"} == {verdict(heard(part)) for part in ("동의 합니다", "네 동의", "합니다")}

    def test_the_words_in_another_order_are_asked_again(self) -> None:
        assert "unclear" == verdict(heard("동의 합니다 네"))

    @pytest.mark.parametrize(("expected", "confidence"), [("unclear", 0.69), ("affirm", 0.7)])
    def test_one_word_heard_badly_spoils_the_phrase(self, expected: Verdict, confidence: float) -> None:
        first, second, third = words(PHRASE)
        doubtful = replace(YES, words=(first, replace(second, confidence=confidence), third))
        assert expected == verdict(doubtful)

    def test_a_yes_that_began_before_the_question_had_ended_is_asked_again(self) -> None:
        judgement = judge(replace(YES, overlapped=True), KOREAN, binding=True)
        assert ("unclear", "spoken before the question had ended") == (judgement.verdict, judgement.reason)

    @pytest.mark.parametrize(("expected", "snr_db"), [("unclear", 2.9), ("affirm", 3.0)])
    def test_a_yes_out_of_the_noise_is_asked_again(self, expected: Verdict, snr_db: float) -> None:
        assert expected == verdict(replace(YES, snr_db=snr_db))

    @pytest.mark.parametrize(
        ("expected", "speech_ms"),
        [("unclear", 0), ("unclear", 349), ("affirm", 350), ("affirm", 3640), ("unclear", 3641)],
    )
    def test_nobody_speaks_so_fast_or_so_slowly(self, expected: Verdict, speech_ms: int) -> None:
        assert expected == verdict(replace(YES, speech_ms=speech_ms))

    @pytest.mark.parametrize(("expected", "speech_ms"), [("unclear", 250), ("affirm", 1000), ("affirm", 2500)])
    def test_a_chinese_character_takes_as_long_as_a_syllable(self, expected: Verdict, speech_ms: int) -> None:
        assert expected == verdict(heard("我 同意 开通", speech_ms=speech_ms), PACKS["zh-CN"].grammars["consent"])

    def test_floors_can_be_raised(self) -> None:
        strict = Floors(word_confidence=1.01)
        assert "unclear" == judge(YES, KOREAN, binding=True, floors=strict).verdict


class TestTheSecondPass:
    def test_a_yes_without_it_does_not_bind(self) -> None:
        judgement = judge(replace(YES, open_text=None), KOREAN, binding=True)
        assert ("unclear", "the second pass is missing") == (judgement.verdict, judgement.reason)

    def test_where_nothing_is_granted_the_first_pass_may_stand_alone(self) -> None:
        assert "affirm" == verdict(replace(YES, open_text=None), binding=False)

    @pytest.mark.parametrize("open_text", ["", "음", "여보세요", "지금 바빠 요", "뭐 라 고요"])
    def test_it_must_sound_like_the_phrase(self, open_text: str) -> None:
        assert "unclear" == verdict(replace(YES, open_text=open_text))

    @pytest.mark.parametrize("word", KOREAN.forbidden)
    def test_a_word_of_no_doubt_or_asking_takes_the_yes_back(self, word: str) -> None:
        judgement = judge(replace(YES, open_text=f"네 동의 {word} 합니다"), KOREAN, binding=True)
        assert ("unclear", True) == (judgement.verdict, f"heard {word!r}" in judgement.reason)

    @pytest.mark.parametrize(
        ("language", "open_text"),
        [
            ("zh-CN", "我 不 同意 开通"),
            ("zh-CN", "我 不同意 开通"),
            ("zh-CN", "我不同意开通"),
            ("zh-CN", "我 同意 开通吗"),
            ("en", "yes i don't agree to subscribe"),
            ("en", "yes i agree not to subscribe"),
        ],
    )
    def test_a_negation_is_found_however_the_model_parts_the_words(self, language: str, open_text: str) -> None:
        grammar = PACKS[language].grammars["consent"]
        assert "unclear" == verdict(heard(grammar.affirm[0], open_text=open_text), grammar)

    def test_a_word_that_only_contains_a_forbidden_one_does_no_harm(self) -> None:
        """The word "know" holds "no": only Chinese, which has no spaces, is searched inside words."""
        grammar = PACKS["en"].grammars["consent"]
        assert "affirm" == verdict(heard(grammar.affirm[0], open_text="yes i know agree to subscribe"), grammar)

    def test_only_a_target_phrase_earns_it(self) -> None:
        assert [True, False, False] == [is_candidate(text, KOREAN) for text in (PHRASE, "네", "동의 안 합니다")]


class TestOtherAnswers:
    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize("kind", ["deny", "stop", "repeat", "agent"])
    def test_every_phrase_of_every_language_is_understood(self, language: str, kind: Verdict) -> None:
        grammar = PACKS[language].grammars["consent"]
        assert {kind} == {verdict(heard(phrase), grammar) for phrase in getattr(grammar, kind)}

    def test_a_stop_within_a_longer_utterance_is_heard(self) -> None:
        assert "stop" == verdict(heard("음 전화 하지 마세요 네"))

    def test_a_stop_within_a_no_is_a_stop(self) -> None:
        assert "stop" == verdict(heard("아니요 동의 안 합니다 전화 하지 마세요"))

    def test_a_no_of_several_words_within_a_longer_utterance_is_heard(self) -> None:
        assert "deny" == verdict(heard("음 동의 안 합니다 네"))

    def test_a_phrase_is_only_found_between_whole_words(self) -> None:
        assert "unclear" == verdict(
            heard("hello dont stop calling mean"), Grammar("g", ("yes",), stop=("stop calling me",))
        )

    def test_a_refusal_needs_neither_confidence_nor_silence_before_it(self) -> None:
        assert "deny" == verdict(heard("아니요", confidence=0.1, overlapped=True, snr_db=-5.0, speech_ms=10))

    def test_silence_is_no_input(self) -> None:
        assert "noinput" == verdict(Witnessed())

    def test_a_sound_without_words_is_unclear(self) -> None:
        assert "unclear" == verdict(Witnessed(speech_ms=400))


class TestKeys:
    def test_a_key_never_binds(self) -> None:
        for key in "0123456789*#":
            assert "unclear" == verdict(Witnessed(dtmf=key), LEAVE, binding=True)

    def test_a_key_takes_back_a_spoken_yes(self) -> None:
        assert "unclear" == verdict(replace(YES, dtmf="1"))

    @pytest.mark.parametrize(("expected", "key"), [("affirm", "1"), ("deny", "2"), ("unclear", "3"), ("unclear", "11")])
    def test_elsewhere_a_key_means_what_the_grammar_says(self, expected: Verdict, key: str) -> None:
        assert expected == verdict(Witnessed(dtmf=key), LEAVE, binding=False)

    def test_a_grammar_without_keys_understands_none(self) -> None:
        assert "unclear" == verdict(Witnessed(dtmf="1"), Grammar("g", ("yes",)), binding=False)


@given(
    st.one_of(
        st.just(PHRASE.split()), st.lists(st.sampled_from(["네", "동의", "합니다", "안", "음", "할까요"]), max_size=6)
    ),
    st.one_of(st.none(), st.lists(st.sampled_from(["네", "동의", "합니다", "안", "음"]), max_size=6)),
    st.floats(0, 1),
    st.integers(0, 6000),
    st.one_of(st.none(), st.floats(-20, 60)),
    st.booleans(),
)
def test_a_binding_yes_has_every_witness(
    said: list[str],
    second: list[str] | None,
    confidence: float,
    speech_ms: int,
    snr_db: float | None,
    overlapped: bool,
) -> None:
    open_text = None if second is None else " ".join(second)
    testimony = Witnessed(words(" ".join(said), confidence), open_text, speech_ms, snr_db, overlapped)
    if verdict(testimony) == "affirm":
        assert said == PHRASE.split()
        assert second is not None
        assert "안" not in second
        assert confidence >= STRICT.word_confidence
        assert not overlapped
        assert snr_db is None or snr_db >= STRICT.snr_db
        assert 350 <= speech_ms <= 3640

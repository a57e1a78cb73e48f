"""The strict verdict: what counts as a yes, and all that does not (rules R1, R4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.consent.phonetics import sounds
from gateway.consent.testimony import Grammar, Word
from gateway.consent.testimony import Testimony as Witnessed  # pytest would collect a class named Test...
from gateway.consent.verdict import ALIKE, STRICT, Floors, Judgement, Verdict, is_candidate, judge, objections
from gateway.language.pack import LANGUAGES, WATCH, load_pack
from gateway.resources import data_folder

PACKS = {language: load_pack(data_folder("prompts"), language) for language in LANGUAGES}
KOREAN = PACKS["ko"].grammars["consent"]
PHRASE = "네 동의 합니다"
SOUND_MS = 80
LEAVE = Grammar("leave", ("네 계속 하세요",), dtmf_affirm="1", dtmf_deny="2")
QUESTIONS = ("leave", "owner", "adult", "consent")
TARGETS = [(language, name) for language in LANGUAGES for name in QUESTIONS]


def spoken(text: str, confidence: float = 1.0, start: float = 0.3) -> tuple[Word, ...]:
    """The words of *text* on end at a natural pace; a Chinese character takes as long as two and a half sounds."""
    found = []
    for word in text.split():
        end = start + sum(2.5 if "\u4e00" <= sound <= "\u9fff" else 1 for sound in sounds(word)) * SOUND_MS / 1000
        found.append(Word(word, start, end, confidence))
        start = end
    return tuple(found)


def heard(text: str, *, confidence: float = 1.0, **rest: object) -> Witnessed:
    """An utterance that the grammar pass heard as *text*, on which every witness agrees unless told otherwise."""
    words = spoken(text, confidence)
    testimony = Witnessed(
        words=words, open_words=words, path_margin=12.0, share=1.0,
        speech_ms=round(1000 * (words[-1].end - words[0].start)) if words else 0,
        snr_db=25.0, pitch_jump=2.0, final_rise=-3.0,
    )  # fmt: skip
    return replace(testimony, **rest)  # type: ignore[arg-type]


YES = heard(PHRASE)
FLOORS = Floors(
    word_confidence=0.6, share=0.9, phonetic_distance=0.6, path_margin=7.5, margin_per_distance=20.0, snr_db=6.0,
    clipped=0.2, echo=0.45, pitch_jump=12.5, final_rise=(1.7, 9.0), sound_ms=(25.0, 260.0),
    word_sound_ms=(15.0, 320.0), pause_ms=700.0, unexplained_ms=400.0, denial_confidence=0.8,
)  # fmt: skip
"""Of these tests; the shipped ones are measured, and may move without a rule being changed."""


def verdict(
    testimony: Witnessed, grammar: Grammar = KOREAN, *, binding: bool = True, floors: Floors = FLOORS
) -> Verdict:
    return judge(testimony, grammar, binding=binding, floors=floors).verdict


def reason(testimony: Witnessed, grammar: Grammar = KOREAN) -> str:
    """Why *testimony* is no binding yes."""
    judgement = judge(testimony, grammar, binding=True, floors=FLOORS)
    assert "unclear" == judgement.verdict
    return judgement.reason


def openly(text: str, **rest: object) -> Witnessed:
    """The phrase, of which the second pass made *text*."""
    return replace(YES, open_words=spoken(text), **rest)  # type: ignore[arg-type]


def doubting(testimony: Witnessed, place: int, confidence: float) -> tuple[Word, ...]:
    """The words of *testimony*, the one at *place* heard at *confidence*."""
    words = list(testimony.words)
    words[place] = replace(words[place], confidence=confidence)
    return tuple(words)


class TestAYes:
    def test_the_phrase_said_clearly_with_every_witness_agreeing_is_a_yes(self) -> None:
        assert Judgement("affirm", "said '네 동의 합니다', every witness agrees") == judge(YES, KOREAN, binding=True)

    def test_where_nothing_is_granted_nobody_is_said_to_agree(self) -> None:
        assert Judgement("affirm", "said '네 동의 합니다'") == judge(YES, KOREAN, binding=False)

    def test_a_second_pass_that_misspells_the_same_sounds_agrees(self) -> None:
        assert "affirm" == verdict(openly("내 동이 함니다"))

    def test_without_a_measured_noise_the_rest_decides(self) -> None:
        assert "affirm" == verdict(replace(YES, snr_db=None))

    def test_a_voice_too_hoarse_for_a_pitch_can_agree(self) -> None:
        assert "affirm" == verdict(replace(YES, pitch_jump=None, final_rise=None))

    @pytest.mark.parametrize(("language", "name"), TARGETS)
    def test_every_target_phrase_of_every_language_can_be_a_yes(self, language: str, name: str) -> None:
        grammar = PACKS[language].grammars[name]
        assert {"affirm"} == {verdict(heard(phrase), grammar, floors=STRICT) for phrase in grammar.affirm}


class TestWhatIsNoYes:
    @pytest.mark.parametrize(("language", "name"), TARGETS)
    @pytest.mark.parametrize("binding", [True, False])
    def test_no_phrase_but_the_targets_is_a_yes(self, language: str, name: str, binding: bool) -> None:
        """Bare yes, fillers, hedges, questions, negations and the yes of another question are all in the packs."""
        grammar = PACKS[language].grammars[name]
        others = [phrase for phrase in grammar.phrases if phrase not in grammar.affirm]
        assert len(others) > 20
        assert "affirm" not in {verdict(heard(phrase), grammar, binding=binding) for phrase in others}

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_while_nothing_is_asked_nothing_is_a_yes(self, language: str) -> None:
        grammars = PACKS[language].grammars
        phrases = {phrase for grammar in grammars.values() for phrase in grammar.phrases}
        heard_as = {verdict(heard(phrase), grammars[WATCH], binding=False) for phrase in phrases}
        assert {"deny", "stop", "repeat", "agent", "unclear"} == heard_as

    @pytest.mark.parametrize(
        ("language", "said"),
        [
            ("ko", "네"), ("ko", "예"), ("ko", "네 네"), ("ko", "음"), ("ko", "글쎄요"), ("ko", "네 동의 할까요"),
            ("ko", "생각해 볼게요"), ("ko", "네 동의 합니다 네"), ("ko", "네 동의 합니다 만"), ("ko", "아 네 동의 합니다"),
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

    @pytest.mark.parametrize(
        ("expected", "said"),
        [
            ("'네' is a filler, not a target phrase", "네"),
            ("'생각해 볼게요' is a hedge, not a target phrase", "생각해 볼게요"),
            ("'네 동의 할까요' is a question, not a target phrase", "네 동의 할까요"),
            ("'네 논의 합니다' is not a target phrase", "네 논의 합니다"),
            ("not a target phrase", "합니다 동의"),
        ],
    )
    def test_what_resembles_the_phrase_is_named_by_its_kind(self, expected: str, said: str) -> None:
        assert expected == reason(heard(said))


class TestTheWitnesses:
    """Each can object, in its own words."""

    @pytest.mark.parametrize(
        ("expected", "testimony"),
        [
            ("'동의' heard at confidence 0.59, below 0.6", replace(YES, words=doubting(YES, 1, 0.59))),
            ("spoken before the question had ended", replace(YES, overlapped=True)),
            ("our own prompt came back: likeness 0.45, from 0.45 on it is an echo", replace(YES, echo=0.45)),
            ("two voices: 13 semitones between words, above 12.5", replace(YES, pitch_jump=12.6)),
            ("asked, not said: the voice rises by 1.8 semitones, above 1.7", replace(YES, final_rise=1.8)),
            ("6 dB over the noise, below 6", replace(YES, snr_db=5.9)),
            ("21 % of the speech is clipped, above 20 %", replace(YES, clipped=0.21)),
            ("349 ms of speech; '네 동의 합니다' takes 350 to 3640", replace(YES, speech_ms=349)),
            ("3641 ms of speech; '네 동의 합니다' takes 350 to 3640", replace(YES, speech_ms=3641)),
            ("401 ms of speech beside the words, above 400", replace(YES, speech_ms=1521)),
            ("the second pass is missing", replace(YES, open_words=None)),
            ("the second pass heard '안' in '네 동의 안 합니다'", openly("네 동의 안 합니다")),
            ("the second pass heard '네 여보세요', distance 0.75, above 0.6", openly("네 여보세요")),
            ("the target phrase has 0.89 of the probability, below 0.9", replace(YES, share=0.89)),
            ("the second pass found the phrase nowhere", replace(YES, path_margin=None)),
            (
                "the second pass heard '네 동의 합니다', distance 0.00; path margin -0.6, below -0.5",
                replace(YES, path_margin=-0.6),
            ),
        ],
    )
    def test_it_objects(self, expected: str, testimony: Witnessed) -> None:
        assert expected == reason(testimony)

    @pytest.mark.parametrize(
        "testimony",
        [
            replace(YES, words=doubting(YES, 1, 0.6)),
            replace(YES, echo=0.44),
            replace(YES, pitch_jump=12.5),
            replace(YES, final_rise=1.7),
            replace(YES, final_rise=9.0),
            replace(YES, snr_db=6.0),
            replace(YES, clipped=0.2),
            replace(YES, speech_ms=350),
            replace(YES, share=0.9),
            replace(YES, path_margin=-0.5),
        ],
    )
    def test_at_the_floor_itself_it_agrees(self, testimony: Witnessed) -> None:
        assert "affirm" == verdict(testimony)

    def test_a_word_said_faster_than_anybody_can_is_objected_to(self) -> None:
        first, second, third = YES.words
        hurried = replace(second, end=second.start + 0.05)
        assert "'동의' lasted 50 ms; it takes 75 to 1600" == reason(replace(YES, words=(first, hurried, third)))

    def test_a_word_drawn_out_longer_than_anybody_does_is_objected_to(self) -> None:
        drawn = (Word("네", 0.0, 0.7, 1.0), *spoken("동의 합니다", start=0.7))
        assert "'네' lasted 700 ms; it takes 30 to 640" == reason(replace(YES, words=drawn, speech_ms=1600))

    def test_a_long_pause_within_the_phrase_is_objected_to(self) -> None:
        parted = (*spoken("네", start=0.0), *spoken("동의 합니다", start=0.87))
        assert "710 ms between '네' and '동의', above 700" == reason(replace(YES, words=parted, speech_ms=1700))

    def test_a_slow_speaker_may_pause(self) -> None:
        parted = (*spoken("네", start=0.0), *spoken("동의 합니다", start=0.85))
        assert "affirm" == verdict(replace(YES, words=parted, speech_ms=1700))

    def test_a_leap_of_the_pitch_tracker_to_another_octave_is_no_question(self) -> None:
        assert "affirm" == verdict(replace(YES, final_rise=12.0))

    @pytest.mark.parametrize(("expected", "speech_ms"), [("unclear", 250), ("affirm", 1000), ("affirm", 1390)])
    def test_a_chinese_character_takes_as_long_as_a_syllable(self, expected: Verdict, speech_ms: int) -> None:
        assert expected == verdict(heard("我 同意 开通", speech_ms=speech_ms), PACKS["zh-CN"].grammars["consent"])

    def test_the_first_objection_is_the_reason_and_all_of_them_are_found(self) -> None:
        bad = replace(YES, overlapped=True, echo=0.9, clipped=0.5, share=0.1)
        found = list(objections(bad, KOREAN, binding=True, floors=FLOORS))
        assert (4, found[0]) == (len(found), reason(bad))

    def test_a_language_pack_may_have_floors_of_its_own(self) -> None:
        assert "unclear" == verdict(YES, floors=replace(FLOORS, word_confidence=1.01))

    def test_the_measured_floors_hold_where_none_are_given(self) -> None:
        doubtful = replace(YES, share=STRICT.share - 0.01)
        assert judge(doubtful, KOREAN, binding=True, floors=STRICT) == judge(doubtful, KOREAN, binding=True)

    @pytest.mark.parametrize(
        "testimony",
        [
            replace(YES, open_words=None, share=None, path_margin=None),
            replace(YES, final_rise=4.0),
            openly("네 여보세요"),
        ],
    )
    def test_where_nothing_is_granted_tone_and_second_pass_are_not_asked(self, testimony: Witnessed) -> None:
        assert "affirm" == verdict(testimony, binding=False)


class TestTheSecondPass:
    @pytest.mark.parametrize("text", ["", "음", "여보세요", "지금 바빠 요", "뭐 라 고요"])
    def test_it_must_sound_like_the_phrase(self, text: str) -> None:
        assert "unclear" == verdict(openly(text))

    @pytest.mark.parametrize("word", KOREAN.forbidden)
    def test_a_word_of_no_doubt_or_asking_takes_the_yes_back(self, word: str) -> None:
        assert f"the second pass heard {word!r} in '네 동의 {word} 합니다'" in list(
            objections(openly(f"네 동의 {word} 합니다"), KOREAN, binding=True, floors=FLOORS)
        )

    @pytest.mark.parametrize(
        ("language", "text"),
        [
            ("ko", "네 동의 안합니다"),
            ("ko", "네 동의하지않습니다"),
            ("ko", "네 동의합니까"),
            ("zh-CN", "我 不 同意 开通"),
            ("zh-CN", "我 不同意 开通"),
            ("zh-CN", "我不同意开通"),
            ("zh-CN", "我 同意 开通吗"),
            ("en", "yes i don't agree to subscribe"),
            ("en", "yes i agree not to subscribe"),
        ],
    )
    def test_a_negation_is_found_however_the_model_parts_the_words(self, language: str, text: str) -> None:
        grammar = PACKS[language].grammars["consent"]
        assert "in " + repr(text) in reason(heard(grammar.affirm[0], open_words=spoken(text)), grammar)

    def test_a_word_that_only_contains_a_forbidden_one_does_no_harm(self) -> None:
        """The word "know" holds "no": only Hangul and Chinese, whose words models join as they like, are searched inside."""
        grammar = PACKS["en"].grammars["consent"]
        second = spoken("yes i know agree to subscribe")
        assert "affirm" == verdict(heard(grammar.affirm[0], open_words=second), grammar)

    def test_a_syllable_of_negation_in_the_midst_of_a_name_does_no_harm(self) -> None:
        assert "affirm" == verdict(openly("네 동의 합니다 천안시"))

    def test_the_further_the_sound_the_larger_the_margin_must_be(self) -> None:
        alike, far = openly("네 동의 함니다", path_margin=8.0), openly("네 동이 옵다 요", path_margin=8.0)
        assert ("affirm", "unclear") == (verdict(alike), verdict(far))
        assert "path margin 8.0, below 10.2" in reason(far)

    def test_a_text_that_is_only_misheard_must_not_make_up_for_anything(self) -> None:
        assert ALIKE < STRICT.phonetic_distance

    def test_the_nearest_target_counts(self) -> None:
        assert "affirm" == verdict(openly("예 예 동의 합니다"))

    def test_only_a_target_phrase_earns_it(self) -> None:
        assert [True, False, False] == [is_candidate(text, KOREAN) for text in (PHRASE, "네", "동의 안 합니다")]


class TestOtherAnswers:
    @pytest.mark.parametrize("language", LANGUAGES)
    @pytest.mark.parametrize("name", [*QUESTIONS, WATCH])
    @pytest.mark.parametrize("kind", ["deny", "stop", "repeat", "agent"])
    def test_every_phrase_of_every_language_is_understood(self, language: str, name: str, kind: Verdict) -> None:
        grammar = PACKS[language].grammars[name]
        assert {kind} == {verdict(heard(phrase), grammar) for phrase in getattr(grammar, kind)}

    def test_a_stop_within_a_longer_utterance_is_heard(self) -> None:
        expected = Judgement("stop", "said '전화 하지 마세요' within '음 전화 하지 마세요 네'")
        assert expected == judge(heard("음 전화 하지 마세요 네"), KOREAN, binding=True)

    def test_a_stop_within_a_no_is_a_stop(self) -> None:
        assert "stop" == verdict(heard("아니요 동의 안 합니다 전화 하지 마세요"))

    @pytest.mark.parametrize(
        "said", ["음 동의 안 합니다 네", "네 동의 합니다 아니요", "아니요 동의 합니다", "어 아니요"]
    )
    def test_a_no_within_a_longer_utterance_is_heard(self, said: str) -> None:
        assert "deny" == verdict(heard(said))

    @pytest.mark.parametrize(("expected", "confidence"), [("unclear", 0.79), ("deny", 0.8)])
    def test_among_other_words_a_no_must_be_heard_surely(self, expected: Verdict, confidence: float) -> None:
        testimony = heard("음 아니요")
        assert expected == verdict(replace(testimony, words=doubting(testimony, 1, confidence)))

    @pytest.mark.parametrize("said", ["뭐라 고요 네", "음 상담원 연결 해 주세요"])
    def test_the_other_requests_are_heard_alone_only(self, said: str) -> None:
        assert "unclear" == verdict(heard(said))

    def test_a_phrase_is_only_found_between_whole_words(self) -> None:
        assert "unclear" == verdict(
            heard("hello dont stop calling mean"), Grammar("g", ("yes",), stop=("stop calling me",))
        )

    def test_a_refusal_after_the_question_needs_no_other_witness(self) -> None:
        """Nobody is billed for a no."""
        weak = heard(
            "아니요", confidence=0.1, snr_db=-5.0, speech_ms=10, clipped=1.0, pitch_jump=30.0, final_rise=5.0,
            open_words=None, share=None, path_margin=None,
        )  # fmt: skip
        assert "deny" == verdict(weak)

    @pytest.mark.parametrize(("expected", "confidence"), [("unclear", 0.79), ("deny", 0.8)])
    def test_a_refusal_before_the_question_had_ended_must_be_heard_surely(
        self, expected: Verdict, confidence: float
    ) -> None:
        assert expected == verdict(heard("아니요", confidence=confidence, overlapped=True))

    @pytest.mark.parametrize("said", ["아니요", "전화 하지 마세요", "음 전화 하지 마세요"])
    def test_a_refusal_in_our_own_voice_is_nobodys(self, said: str) -> None:
        phrase = said.removeprefix("음 ")
        assert f"our own prompt came back: {phrase!r}" == reason(heard(said, echo=0.45))

    def test_silence_is_no_input(self) -> None:
        assert Judgement("noinput", "nothing was said") == judge(Witnessed(), KOREAN, binding=True)

    def test_a_sound_without_words_is_unclear(self) -> None:
        assert "no word was recognised" == reason(Witnessed(speech_ms=400))


class TestKeys:
    def test_a_key_never_binds(self) -> None:
        assert {"keys pressed never bind"} == {reason(Witnessed(dtmf=key), LEAVE) for key in "0123456789*#"}

    def test_a_key_takes_back_a_spoken_yes(self) -> None:
        assert "unclear" == verdict(replace(YES, dtmf="1"))

    @pytest.mark.parametrize(("expected", "key"), [("affirm", "1"), ("deny", "2"), ("unclear", "3"), ("unclear", "11")])
    def test_elsewhere_a_key_means_what_the_grammar_says(self, expected: Verdict, key: str) -> None:
        assert expected == verdict(Witnessed(dtmf=key), LEAVE, binding=False)

    def test_a_grammar_without_keys_understands_none(self) -> None:
        assert "unclear" == verdict(Witnessed(dtmf="1"), Grammar("g", ("yes",)), binding=False)


LEAST_MARGIN = STRICT.path_margin + STRICT.margin_per_distance * (0.0 - ALIKE)
"""What the path margin must be where the open decode is the phrase itself."""

AGREEING = st.builds(
    lambda phrase, confidence, margin, share, snr_db, echo, jump, rise, clipped: heard(
        phrase, confidence=confidence, path_margin=margin, share=share, snr_db=snr_db, echo=echo, pitch_jump=jump,
        final_rise=rise, clipped=clipped,
    ),
    st.sampled_from(KOREAN.affirm),
    st.floats(STRICT.word_confidence, 1),
    st.floats(LEAST_MARGIN, 100),
    st.floats(STRICT.share, 1),
    st.none() | st.floats(STRICT.snr_db, 90),
    st.floats(0, STRICT.echo, exclude_max=True),
    st.none() | st.floats(0, STRICT.pitch_jump),
    st.none() | st.floats(-24, STRICT.final_rise[0]) | st.floats(STRICT.final_rise[1], 24),
    st.floats(0, STRICT.clipped),
)  # fmt: skip
"""Testimonies that no witness objects to."""


def below(floor: float) -> st.SearchStrategy[float]:
    return st.floats(floor - 100, floor, exclude_max=True)


def above(floor: float) -> st.SearchStrategy[float]:
    return st.floats(floor, floor + 100, exclude_min=True)


Spoil = Callable[[Witnessed], Witnessed]


def field(name: str, values: st.SearchStrategy[object]) -> st.SearchStrategy[Spoil]:
    return values.map(lambda value: lambda testimony: replace(testimony, **{name: value}))  # type: ignore[arg-type]


def stretched(factor: float) -> Spoil:
    """All said so many times as slowly."""

    def spoil(testimony: Witnessed) -> Witnessed:
        words = tuple(replace(w, start=factor * w.start, end=factor * w.end) for w in testimony.words)
        return replace(testimony, words=words, speech_ms=round(factor * testimony.speech_ms))

    return spoil


def said_openly(change: Callable[[str], str]) -> Spoil:
    return lambda testimony: replace(testimony, open_words=spoken(change(testimony.heard)))


SPOILS: dict[str, st.SearchStrategy[Spoil]] = {
    "a doubtful word": st.tuples(st.integers(0, 2), st.floats(0, STRICT.word_confidence, exclude_max=True)).map(
        lambda at: lambda testimony: replace(testimony, words=doubting(testimony, *at))
    ),
    "before the question's end": field("overlapped", st.just(True)),
    "an echo": field("echo", st.floats(STRICT.echo, 1)),
    "two voices": field("pitch_jump", above(STRICT.pitch_jump)),
    "a rising tone": field("final_rise", st.floats(*STRICT.final_rise, exclude_min=True, exclude_max=True)),
    "noise": field("snr_db", below(STRICT.snr_db)),
    "clipping": field("clipped", st.floats(STRICT.clipped, 1, exclude_min=True)),
    "too fast": st.floats(0.01, 0.95 * STRICT.word_sound_ms[0] / SOUND_MS).map(stretched),
    "too slow": st.floats(1.05 * STRICT.word_sound_ms[1] / SOUND_MS, 20).map(stretched),
    "too long for its words": field("speech_ms", st.integers(5000, 15_000)),
    "no second pass": field("open_words", st.none()),
    "no path": field("path_margin", st.none()),
    "a small margin": field("path_margin", below(LEAST_MARGIN)),
    "a small share": field("share", st.floats(0, STRICT.share, exclude_max=True)),
    "another sound": st.sampled_from(["", "음", "여보세요", "지금 바빠 요", "잘 모르겠네요"]).map(
        lambda text: said_openly(lambda _: text)
    ),
    "a forbidden word": st.sampled_from(KOREAN.forbidden).map(lambda word: said_openly(lambda text: f"{text} {word}")),
    "a key": field("dtmf", st.sampled_from("0123456789*#")),
}
"""By what is taken away: how."""


@given(AGREEING)
def test_where_every_witness_agrees_it_is_a_yes(testimony: Witnessed) -> None:
    assert [] == list(objections(testimony, KOREAN, binding=True, floors=STRICT))
    assert "affirm" == verdict(testimony, floors=STRICT)


@pytest.mark.parametrize("taken", SPOILS)
@given(st.data())
def test_no_single_witness_can_be_spared(taken: str, data: st.DataObject) -> None:
    testimony = data.draw(AGREEING)
    spoiled = data.draw(SPOILS[taken])(testimony)
    assert ("affirm", "unclear") == (verdict(testimony, floors=STRICT), verdict(spoiled, floors=STRICT))


@given(
    st.lists(st.sampled_from([*{token for phrase in KOREAN.phrases for token in phrase.split()}, "의"]), max_size=6),
    AGREEING,
    st.booleans(),
)
def test_what_is_not_exactly_a_target_is_never_a_yes(said: list[str], testimony: Witnessed, binding: bool) -> None:
    text = " ".join(said)
    other = replace(testimony, words=spoken(text), speech_ms=SOUND_MS * len(sounds(text)))
    assert (verdict(other, binding=binding, floors=STRICT) == "affirm") is (text in KOREAN.affirm)


@given(st.text(min_size=1), AGREEING)
def test_no_text_in_any_writing_is_a_yes_but_the_targets(text: str, testimony: Witnessed) -> None:
    other = replace(testimony, words=(Word(text, 0.0, SOUND_MS / 1000 * len(text), 1.0),))
    assert (verdict(other, floors=STRICT) == "affirm") is (text in KOREAN.affirm)

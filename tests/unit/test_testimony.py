"""What a question understands, and what the witnesses report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.consent.testimony import Grammar, Word, text_of
from gateway.consent.testimony import Testimony as Witnessed  # pytest would collect a class named Test...
from gateway.language.pack import LANGUAGES, load_pack
from gateway.resources import data_folder

GRAMMAR = Grammar(
    "consent",
    affirm=("네 동의 합니다",),
    deny=("아니요", "동의 안 합니다"),
    stop=("전화 하지 마세요",),
    repeat=("뭐라 고요",),
    agent=("상담원",),
    fillers=("네", "음", "아니요"),
    hedges=("동의 는 하는데요",),
    questions=("동의 합니까",),
    others=("네 동의", "여보세요"),
    forbidden=("안",),
)
ALL = [grammar for language in LANGUAGES for grammar in load_pack(data_folder("prompts"), language).grammars.values()]
each_grammar = pytest.mark.parametrize("grammar", ALL, ids=lambda grammar: f"{grammar.name}-{grammar.fillers[0]}")


def words(text: str) -> tuple[Word, ...]:
    return tuple(Word(word, float(n), n + 1.0, 1.0) for n, word in enumerate(text.split()))


class TestWhatAQuestionUnderstands:
    def test_the_answers_are_what_settles_it_or_asks_for_something_else(self) -> None:
        expected = ("네 동의 합니다", "아니요", "동의 안 합니다", "전화 하지 마세요", "뭐라 고요", "상담원")
        assert expected == GRAMMAR.answers

    def test_the_phrases_are_all_of_them_once(self) -> None:
        expected = ("네", "음", "동의 는 하는데요", "동의 합니까", "네 동의", "여보세요")
        assert (*GRAMMAR.answers, *expected) == GRAMMAR.phrases

    def test_a_forbidden_word_is_no_phrase(self) -> None:
        assert "안" not in GRAMMAR.phrases


class TestWhetherMoreMayCome:
    @pytest.mark.parametrize(
        "said",
        [
            pytest.param("", id="nothing understood yet"),
            pytest.param("네", id="a filler"),
            pytest.param("음", id="a filler that begins nothing"),
            pytest.param("전화", id="the first word of an answer"),
            pytest.param("동의 안", id="the first words of an answer"),
            pytest.param("네 동의", id="another phrase that an answer begins with"),
            pytest.param("동의 는", id="the first words of a hedge"),
        ],
    )
    def test_a_beginning_may_go_on(self, said: str) -> None:
        assert GRAMMAR.may_go_on(said)

    @pytest.mark.parametrize(
        "said",
        [
            pytest.param("네 동의 합니다", id="the target phrase"),
            pytest.param("전화 하지 마세요", id="another answer"),
            pytest.param("아니요", id="an answer that is a filler too"),
            pytest.param("동의 합니까", id="a whole question"),
            pytest.param("여보세요", id="what begins nothing"),
            pytest.param("네 동", id="half a word"),
            pytest.param("합니다", id="the end of an answer"),
            pytest.param("네 동의 합니다 만", id="more than the phrase"),
        ],
    )
    def test_what_is_complete_or_begins_nothing_may_not(self, said: str) -> None:
        assert not GRAMMAR.may_go_on(said)

    @each_grammar
    def test_no_answer_is_waited_upon(self, grammar: Grammar) -> None:
        assert [] == [phrase for phrase in grammar.answers if grammar.may_go_on(phrase)]

    @each_grammar
    def test_no_beginning_of_an_answer_is_cut_off(self, grammar: Grammar) -> None:
        beginnings = {
            " ".join(phrase.split()[:count]) for phrase in grammar.answers for count in range(1, len(phrase.split()))
        }
        assert set() == {said for said in beginnings - set(grammar.answers) if not grammar.may_go_on(said)}

    @given(st.text())
    def test_whatever_is_said_it_may_go_on_or_it_may_not(self, said: str) -> None:
        begins = any(phrase.startswith(said + " ") for phrase in GRAMMAR.phrases)
        assert (said == "" or said in ("네", "음") or begins) is GRAMMAR.may_go_on(said)


class TestTheTestimony:
    def test_what_was_heard_is_its_words(self) -> None:
        assert "네 동의 합니다" == Witnessed(words=words("네 동의 합니다")).heard

    def test_a_second_pass_that_was_not_run_heard_nothing_at_all(self) -> None:
        assert None is Witnessed(words=words("네")).heard_open

    def test_a_second_pass_that_understood_no_word_heard_the_empty_text(self) -> None:
        assert "" == Witnessed(words=words("네"), open_words=()).heard_open

    def test_the_second_pass_is_told_apart_from_the_first(self) -> None:
        testimony = Witnessed(words=words("네"), open_words=words("내 동"))
        assert ("네", "내 동") == (testimony.heard, testimony.heard_open)

    def test_no_words_make_no_text(self) -> None:
        assert "" == text_of(())

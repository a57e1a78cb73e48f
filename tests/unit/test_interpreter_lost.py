"""A disclosure that turns out lost after it was told: it is told once more, and nothing is granted without it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_bench import (
    SHIPPED,
    TWICE,
    Callee,
    asked,
    call,
    chance,
    denial,
    drive,
    granted,
    prompts,
    unsafe,
)

from gateway.consent.disclosure import MANDATORY, Disclosure
from gateway.consent.verdict import Verdict
from gateway.dialplan.interpreter import (
    Action,
    Deny,
    Done,
    End,
    Grant,
    Heard,
    Play,
    Played,
    Question,
    Result,
)
from gateway.dialplan.model import Dialplan


def losing(
    plan: Dialplan, losses: dict[int, tuple[Disclosure, ...]], **said: Any
) -> tuple[list[Action], list[tuple[Action, tuple[Disclosure, ...]]]]:
    """A call in which the far end reports late that *losses* never arrived, by the number of the result that says so. All
    actions, and those whose results said it.
    """
    callee, told = Callee(**said), count()
    reported: list[tuple[Action, tuple[Disclosure, ...]]] = []

    def answer(action: Action) -> Result:
        result, lost = callee(action), losses.get(next(told), ())
        if isinstance(result, Played | Heard) and lost:
            reported.append((action, lost))
            return replace(result, lost=lost)
        return result

    return drive(plan, answer), reported


WHOLE = call()
AT = {action.step: place for place, action in enumerate(WHOLE) if isinstance(action, Question)}
TOLD = {
    action.disclosure: place for place, action in enumerate(WHOLE) if isinstance(action, Play) and action.disclosure
}
"""The place of each question, and of each disclosure, in a call that goes well."""


class TestDisclosuresLostLate:
    """The far end reports only afterwards that a disclosure did not arrive."""

    @pytest.mark.parametrize("term", MANDATORY)
    def test_it_is_told_again_before_the_consent_question_is_put(self, term: Disclosure) -> None:
        actions, _ = losing(SHIPPED, {AT["consent"] - 1: (term,)})
        again = Play("terms", (f"disclosure_{term}",), disclosure=term)
        assert [*WHOLE[: AT["consent"]], again, *WHOLE[AT["consent"] :]] == actions

    def test_also_when_it_is_reported_beside_a_prompt_that_is_none(self) -> None:
        plan = unsafe(
            terms={"disclose": {"terms": list(MANDATORY)}, "then": "pause"},
            pause={"say": {"prompts": ["introduction"]}, "then": "consent"},
        )
        pause = next(place for place, action in enumerate(call(plan)) if action.step == "pause")
        actions, _ = losing(plan, {pause: ("price",)})
        assert Play("terms", ("disclosure_price",), disclosure="price") == actions[pause + 1]
        assert granted(actions)

    def test_and_several_of_them_in_the_order_of_the_reports(self) -> None:
        actions, _ = losing(SHIPPED, {AT["consent"] - 2: ("price", "term"), AT["consent"] - 1: ("price", "start")})
        again = [action.disclosure for action in actions[AT["consent"] :] if isinstance(action, Play)]
        assert ["price", "term", "start", None] == again
        assert granted(actions)

    def test_one_that_is_reported_while_it_is_played_is_told_again_at_once(self) -> None:
        actions, _ = losing(SHIPPED, {TOLD["price"]: ("price",)})
        told = [action.disclosure for action in actions if isinstance(action, Play) and action.disclosure]
        assert ["function", "price", "price", "billing"] == told[:4]
        assert (11, True) == (len(told), granted(actions))

    @pytest.mark.parametrize("term", MANDATORY)
    def test_after_a_yes_it_is_told_again_and_the_question_is_put_again(self, term: Disclosure) -> None:
        actions, _ = losing(SHIPPED, {AT["consent"]: (term,)})
        again = Play("terms", (f"disclosure_{term}",), disclosure=term)
        question = WHOLE[AT["consent"]]
        assert [*WHOLE[: AT["consent"]], question, again, *WHOLE[AT["consent"] :]] == actions

    def test_the_yes_that_was_given_without_it_is_worth_nothing(self) -> None:
        actions, _ = losing(SHIPPED, {AT["consent"]: ("price",)}, consent="affirm deny")
        assert (Deny("consent", "refused"), False) == (denial(actions), granted(actions))

    @pytest.mark.parametrize("verdict", ["deny", "stop", "agent"])
    def test_after_any_other_answer_nothing_is_told_again(self, verdict: Verdict) -> None:
        actions, _ = losing(SHIPPED, {AT["consent"]: ("price",)}, consent=verdict)
        assert call(consent=verdict) == actions

    def test_a_question_that_is_put_again_knows_of_it_too(self) -> None:
        actions, _ = losing(SHIPPED, {AT["consent"]: ("price",)}, consent="unclear affirm affirm")
        assert ["consent", "consent_again", "consent"] == asked(actions, "consent")
        assert (2, True) == (prompts(actions).count("disclosure_price"), granted(actions))

    @pytest.mark.parametrize("place", [AT["consent"] - 1, AT["consent"]], ids=["before the question", "after the yes"])
    @pytest.mark.parametrize("lost_again", [0, 1], ids=["at once", "a result later"])
    def test_lost_twice_it_ends_the_call(self, place: int, lost_again: int) -> None:
        actions, reported = losing(SHIPPED, {place: ("price",), place + 1 + lost_again: ("price",)})
        assert (2, False) == (len(reported), granted(actions))
        assert Play("consent", ("goodbye_trouble",), watch=False) == actions[-2]
        assert End("consent", "failed", "the disclosure 'price' did not arrive whole") == actions[-1]
        assert 2 == prompts(actions).count("disclosure_price")

    def test_cut_before_and_lost_late_it_is_not_told_a_third_time(self) -> None:
        actions, _ = losing(SHIPPED, {AT["consent"]: ("price",)}, cut=(1, "price"))
        assert ([], False) == (asked(actions, "consent"), granted(actions))
        assert End("consent", "failed", "the disclosure 'price' did not arrive whole") == actions[-1]

    def test_lost_late_and_then_cut_neither(self) -> None:
        """It is heard whole at first."""
        callee, told = Callee(), count()

        def answer(action: Action) -> Result:
            if isinstance(action, Play) and action.disclosure == "price" and next(told):
                return Played(whole=False)
            lost: tuple[Disclosure, ...] = ("price",) if isinstance(action, Play) and action.disclosure == "use" else ()
            result = callee(action)
            return replace(result, lost=lost) if isinstance(result, Played) else result

        actions = drive(SHIPPED, answer)
        assert ([], 2) == (asked(actions, "consent"), prompts(actions).count("disclosure_price"))
        assert End("consent", "failed", "the disclosure 'price' could not be played whole") == actions[-1]

    def test_a_no_that_is_said_beside_the_second_telling_is_a_no(self) -> None:
        callee, told = Callee(), count()

        def answer(action: Action) -> Result:
            if isinstance(action, Play) and action.disclosure == "price" and next(told):
                return Played(whole=False, objection="deny")
            result = callee(action)
            at_the_end = isinstance(action, Play) and action.disclosure == "cancel"
            return replace(result, lost=("price",)) if at_the_end and isinstance(result, Played) else result

        actions = drive(SHIPPED, answer)
        assert ([], False) == (asked(actions, "consent"), granted(actions))
        assert End("refused", "completed", "refused") == actions[-1]

    def test_a_step_that_tells_it_anew_begins_anew(self) -> None:
        """A script may go back to its terms; what was heard the first time does not count for the second."""
        ask = SHIPPED.steps["consent"].ask
        assert ask is not None
        question = ask.model_dump() | {"purpose": "question", "affirm": "consent", "deny": "terms", "prompt": "adult"}
        plan = unsafe(
            terms={"disclose": {"terms": list(MANDATORY)}, "then": "clear"},
            clear={"ask": question | {"noinput": {"prompts": ["adult"], "then": "refused"}}},
        )
        assert 2 == prompts(call(plan, clear="deny affirm")).count("disclosure_price")
        callee, told = Callee(clear="deny affirm"), count()

        def answer(action: Action) -> Result:
            if isinstance(action, Play) and action.disclosure == "price" and next(told) in (1, 2):
                return Played(whole=False)
            return callee(action)

        actions = drive(plan, answer)
        assert ([], False) == (asked(actions, "consent"), granted(actions))
        assert End("terms", "failed", "the disclosure 'price' could not be played whole") == actions[-1]


class TestThePromise:
    @settings(max_examples=400)
    @given(
        st.sampled_from([SHIPPED, TWICE]),
        st.lists(chance, max_size=60),
        st.lists(st.sampled_from([True] * 9 + [False]), max_size=60),
        st.lists(st.one_of(*[st.just(())] * 9, st.lists(st.sampled_from(MANDATORY), max_size=3)), max_size=60),
    )
    def test_nothing_is_granted_while_a_disclosure_is_lost_and_none_is_played_three_times(
        self, plan: Dialplan, verdicts: list[Verdict], wholes: list[bool], losses: list[list[Disclosure]]
    ) -> None:
        """Told by what was played and reported alone, in the order in which the record has it."""
        said, played, reported = iter(verdicts), iter(wholes), iter(losses)
        heard: set[str] = set()
        plays: Counter[str] = Counter()
        affirmed = False

        def answer(action: Action) -> Result:
            nonlocal affirmed
            lost = tuple(term for term in next(reported, ()) if term in heard)
            if isinstance(action, Question):
                verdict = next(said, "affirm")
                affirmed = action.grants_consent and verdict == "affirm" and heard.issuperset(MANDATORY) and not lost
                heard.difference_update(lost)
                return Heard(verdict, lost)
            if isinstance(action, Play):
                whole = next(played, True)
                if action.disclosure:
                    plays[action.disclosure] += 1
                    if whole:
                        heard.add(action.disclosure)
                heard.difference_update(lost)
                return Played(whole, lost=lost)
            if isinstance(action, Grant):
                assert affirmed
            return Done()

        actions = drive(plan, answer)
        assert max(plays.values(), default=0) <= 2
        assert granted(actions) == (End("thanks", "completed", "") == actions[-1])

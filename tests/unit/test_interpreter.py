"""Running a call script: which action follows from which answer, and when a consent is granted."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from script_bench import (
    SHIPPED,
    TWICE,
    VERDICTS,
    Callee,
    asked,
    call,
    chance,
    consent,
    denial,
    drive,
    edited,
    granted,
    prompts,
    questions,
    unsafe,
)

from gateway.consent.disclosure import MANDATORY
from gateway.consent.verdict import Verdict
from gateway.dialplan.interpreter import (
    Action,
    AwaitBeep,
    Deny,
    Detect,
    Done,
    End,
    Grant,
    Heard,
    MachineFound,
    Objection,
    Play,
    Played,
    Question,
    Result,
    TransferTo,
    run,
)
from gateway.dialplan.model import Dialplan


class TestTheHappyPath:
    def test_everything_is_said_in_the_approved_order(self) -> None:
        disclosures = ["function", "price", "billing", "start", "term", "promotion", "trial", "use", "ask", "cancel"]
        expected = [
            "opening", "owner", "adult", "introduction", *(f"disclosure_{term}" for term in disclosures), "consent", "thanks",
        ]  # fmt: skip
        assert expected == prompts(call())

    def test_the_consent_is_granted_after_the_consent_question_and_before_the_thanks(self) -> None:
        assert [Grant("consent"), Play("thanks", ("thanks",)), End("thanks", "completed", "")] == call()[-3:]

    def test_it_is_granted_once(self) -> None:
        assert 1 == sum(isinstance(action, Grant) for action in call())

    def test_only_the_consent_question_can_grant(self) -> None:
        assert {"opening": False, "owner": False, "adult": False, "consent": True} == {
            action.step: action.grants_consent for action in call() if isinstance(action, Question)
        }

    def test_only_the_consent_question_is_judged_by_every_witness(self) -> None:
        assert ["consent"] == [a.step for a in call() if isinstance(a, Question) and a.binding]

    def test_everything_that_is_played_is_watched(self) -> None:
        assert {True} == {action.watch for action in call() if isinstance(action, Play)}


class TestVerdicts:
    @pytest.mark.parametrize(
        ("question", "verdict", "expected_denial", "outcome"),
        [
            ("opening", "deny", "refused", "completed"),
            ("opening", "stop", "stop", "completed"),
            ("opening", "agent", None, "transferred"),
            ("owner", "deny", "ineligible", "completed"),
            ("owner", "stop", "stop", "completed"),
            ("owner", "agent", None, "transferred"),
            ("adult", "deny", "ineligible", "completed"),
            ("adult", "stop", "stop", "completed"),
            ("adult", "agent", None, "transferred"),
            ("consent", "deny", "refused", "completed"),
            ("consent", "stop", "stop", "completed"),
            ("consent", "agent", None, "transferred"),
        ],
    )
    def test_each_answer_to_each_question_leads_where_the_script_says(
        self, question: str, verdict: Verdict, expected_denial: str | None, outcome: str
    ) -> None:
        actions = call(**{question: verdict})
        found = denial(actions)
        assert (outcome, False) == (actions[-1].outcome, granted(actions))  # type: ignore[union-attr]
        assert (None if expected_denial is None else Deny(question, expected_denial)) == found  # type: ignore[arg-type]

    def test_the_denial_is_written_before_anything_is_said(self) -> None:
        """The subscriber may hang up during the goodbye; the no must stand by then."""
        goodbye = Play("refused", ("refused",), watch=False)
        assert [Deny("consent", "refused"), goodbye] == call(consent="deny")[-3:-1]

    @pytest.mark.parametrize("verdict", ["noinput", "unclear"])
    def test_prompts_escalate(self, verdict: str) -> None:
        again = {"noinput": ["owner", "owner_again"], "unclear": ["owner", "owner_again", "owner_last"]}
        actions = call(owner=" ".join([verdict] * 5))
        assert again[verdict] == asked(actions, "owner")
        assert End("released", "postponed", "") == actions[-1]

    def test_silence_and_unclear_answers_are_counted_apart(self) -> None:
        assert ["owner", "owner_again", "owner_again", "owner_last"] == asked(
            call(owner="noinput unclear unclear"), "owner"
        )

    def test_a_clear_answer_after_an_unclear_one_counts(self) -> None:
        assert granted(call(consent="unclear affirm"))

    @pytest.mark.parametrize("verdict", ["unclear", "noinput"])
    def test_twice_unclear_is_no(self, verdict: str) -> None:
        actions = call(consent=f"{verdict} {verdict} affirm")
        assert ["consent", "consent_again"] == asked(actions, "consent")
        assert (Deny("consent", "unclear"), False) == (denial(actions), granted(actions))

    @pytest.mark.parametrize("answers", ["noinput unclear affirm", "unclear noinput affirm"])
    def test_at_the_consent_question_silence_and_unclear_answers_count_together(self, answers: str) -> None:
        actions = call(consent=answers)
        assert ["consent", "consent_again"] == asked(actions, "consent")
        assert (Deny("consent", "unclear"), False) == (denial(actions), granted(actions))

    def test_a_question_is_put_again_when_asked_for(self) -> None:
        assert ["consent", "consent"] == asked(call(consent="repeat affirm"), "consent")

    def test_asking_for_it_again_and_again_is_no_answer(self) -> None:
        actions = call(consent="repeat repeat repeat repeat affirm")
        assert ["consent", "consent", "consent", "consent_again"] == asked(actions, "consent")
        assert (Deny("consent", "unclear"), False) == (denial(actions), granted(actions))

    def test_a_wrong_kind_of_result_is_no_yes(self) -> None:
        actions = drive(SHIPPED, lambda _: Done())
        assert not granted(actions)


class TestTransfer:
    def test_the_call_goes_to_a_person(self) -> None:
        assert [TransferTo("person", "agents"), End("person", "transferred", "agents")] == call(opening="agent")[-2:]

    def test_where_nobody_is_free_the_callee_is_told(self) -> None:
        assert [Play("no_person", ("no_person",)), End("no_person", "postponed", "")] == call(
            opening="agent", transferred=False
        )[-2:]


class TestDisclosures:
    @pytest.mark.parametrize("term", MANDATORY)
    def test_one_that_was_cut_is_played_once_more(self, term: str) -> None:
        actions = call(cut=(1, term))
        assert 2 == prompts(actions).count(f"disclosure_{term}")
        assert granted(actions)

    @pytest.mark.parametrize("term", MANDATORY)
    def test_one_that_was_cut_twice_ends_the_call_before_the_consent_question(self, term: str) -> None:
        actions = call(cut=(2, term))
        assert ([], False) == (asked(actions, "consent"), granted(actions))
        assert Play("terms", ("goodbye_trouble",), watch=False) == actions[-2]
        assert End("terms", "failed", f"the disclosure {term!r} could not be played whole") == actions[-1]


SPOKEN_INTO = ["introduction", *(f"disclosure_{term}" for term in MANDATORY), "thanks"]


class TestANoBesideThePrompts:
    @pytest.mark.parametrize("plan", [SHIPPED, TWICE], ids=lambda plan: plan.name)
    @pytest.mark.parametrize("prompt", SPOKEN_INTO)
    def test_it_ends_the_call_as_refused_and_nothing_more_is_asked(self, plan: Dialplan, prompt: str) -> None:
        actions = call(plan, objects=(prompt, "deny"))
        last = questions(actions)[-1]
        goodbye = Play("refused", ("refused",), watch=False)
        assert [prompt] == prompts(actions[-4:-3])
        assert [Deny(last, "refused"), goodbye, End("refused", "completed", "refused")] == actions[-3:]

    @pytest.mark.parametrize("prompt", SPOKEN_INTO)
    def test_a_stop_word_ends_it_as_stopped(self, prompt: str) -> None:
        actions = call(objects=(prompt, "stop"))
        last = questions(actions)[-1]
        goodbye = Play("stopped", ("stopped",), watch=False)
        assert [Deny(last, "stop"), goodbye, End("stopped", "completed", "stop")] == actions[-3:]

    def test_a_disclosure_that_was_cut_by_it_is_not_played_again(self) -> None:
        assert 1 == prompts(call(objects=("disclosure_price", "deny"))).count("disclosure_price")

    def test_after_the_consent_it_comes_after_the_grant(self) -> None:
        kinds = [type(action) for action in call(objects=("thanks", "deny"))[-5:]]
        assert [Grant, Play, Deny, Play, End] == kinds

    def test_it_counts_where_the_callee_is_let_go_too(self) -> None:
        actions = call(opening="unclear unclear", objects=("released", "stop"))
        assert (Deny("opening", "stop"), End("stopped", "completed", "stop")) == (denial(actions), actions[-1])

    @pytest.mark.parametrize("prompt", ["refused", "goodbye_trouble"])
    def test_nothing_is_watched_once_the_end_is_settled(self, prompt: str) -> None:
        said = {"consent": "deny"} if prompt == "refused" else {"cut": (2, "price")}
        assert [False] == [a.watch for a in call(**said) if isinstance(a, Play) and prompt in a.prompts]

    @pytest.mark.parametrize(
        ("said", "expected"),
        [({"objects": ("thanks", "deny")}, "refused"), ({"consent": "stop"}, "stop")],
        ids=["a no beside a prompt", "a stop word"],
    )
    def test_on_the_way_to_its_hangup_nothing_is_watched(self, said: dict[str, Any], expected: str) -> None:
        """A callee who says no all the time must get there."""
        ask = TWICE.steps["consent"].ask
        assert ask is not None
        plan = edited(
            "plan-upgrade-twice",
            consent={"ask": ask.model_dump() | {"stop": "sorry_stop"}},
            refused={"say": {"prompts": ["refused"]}, "then": "sorry"},
            sorry={"disclose": {"terms": ["cancel"]}, "then": "sorry_end"},
            sorry_end={"hangup": {"denial": "refused", "prompts": ["unclear"]}},
            sorry_stop={"say": {"prompts": ["stopped"]}, "then": "stopped"},
        )
        actions = call(plan, **said)
        first = next(n for n, a in enumerate(actions) if isinstance(a, Play) and a.step in ("refused", "sorry_stop"))
        assert {False} == {action.watch for action in actions[first:] if isinstance(action, Play)}
        assert expected == actions[-1].reason  # type: ignore[union-attr]


class TestTwoCaptures:
    def test_interest_comes_first_and_both_are_judged_by_every_witness(self) -> None:
        actions = call(TWICE)
        assert ["opening", "owner", "adult", "interest", "consent"] == questions(actions)
        assert ["interest", "consent"] == [a.step for a in actions if isinstance(a, Question) and a.binding]
        assert [Grant("consent")] == [action for action in actions if isinstance(action, Grant)]

    def test_interest_grants_nothing(self) -> None:
        assert ["consent"] == [a.step for a in call(TWICE) if isinstance(a, Question) and a.grants_consent]

    @pytest.mark.parametrize(
        ("said", "denied"),
        [("deny", "refused"), ("stop", "stop"), ("unclear unclear", "unclear"), ("noinput unclear", "unclear")],
    )
    def test_without_interest_the_consent_question_is_not_put(self, said: str, denied: str) -> None:
        actions = call(TWICE, interest=said)
        assert ([], False) == (asked(actions, "consent"), granted(actions))
        assert (Deny("interest", denied), "completed") == (denial(actions), actions[-1].outcome)  # type: ignore[union-attr,arg-type]

    def test_without_the_second_yes_nothing_is_granted(self) -> None:
        actions = call(TWICE, consent="deny")
        assert (Deny("consent", "refused"), False) == (denial(actions), granted(actions))


def leaving(plan: Dialplan) -> Dialplan:
    """*plan*, leaving a message on machines."""
    assert plan.machine is not None
    machine = plan.machine.model_copy(update={"then": "leave_message", "prompt": "message"})
    return plan.model_copy(update={"machine": machine})


FOUND = MachineFound("a beep")
HUNG_UP: list[Action] = [End("machine", "machine", "a beep")]


class TestMachines:
    """On outbound calls: who has answered is waited for, and a machine is asked nothing, whenever it is found."""

    def test_an_outbound_call_begins_with_the_hello_of_whoever_answers(self) -> None:
        script = run(SHIPPED, outbound=True)
        assert Detect("opening") == next(script)
        assert call()[0] == script.send(Done())

    def test_with_a_person_all_goes_as_on_an_inbound_call(self) -> None:
        assert [Detect("opening"), *call()] == list(acted(run(SHIPPED, outbound=True), Callee()))

    def test_on_an_inbound_call_nobody_is_waited_for(self) -> None:
        assert not any(isinstance(action, Detect) for action in call())

    def test_neither_where_the_script_does_not_look_for_machines(self) -> None:
        assert SHIPPED.machine is not None
        deaf = SHIPPED.machine.model_copy(update={"detect": False})
        for machine in (None, deaf):
            plan = SHIPPED.model_copy(update={"machine": machine})
            assert call()[0] == next(run(plan, outbound=True))

    def test_a_machine_is_hung_up_on(self) -> None:
        script = run(SHIPPED, outbound=True)
        next(script)
        assert HUNG_UP == list(acted(script, Callee(), FOUND))

    @pytest.mark.parametrize(
        ("ready", "whole", "expected"),
        [
            (True, True, "a beep; a message was left"),
            (True, False, "a beep; the message was cut"),
            (False, True, "a beep; it took no message"),
        ],
    )
    def test_or_left_a_message_when_it_takes_one(self, ready: bool, whole: bool, expected: str) -> None:
        script = run(leaving(SHIPPED), outbound=True)
        next(script)
        assert AwaitBeep("machine") == script.send(FOUND)
        action = script.send(Done(ready))
        if ready:
            assert Play("machine", ("message",), watch=False) == action
            action = script.send(Played(whole))
        assert End("machine", "machine", expected) == action

    @pytest.mark.parametrize("plan", [SHIPPED, TWICE, leaving(SHIPPED), leaving(TWICE)])
    def test_wherever_it_is_found_nothing_is_asked_told_or_granted_after_it(self, plan: Dialplan) -> None:
        """In place of the result of every action of a whole call, one after the other."""
        whole = list(acted(run(plan, outbound=True), Callee()))
        assert len(whole) > 15
        for place in range(len(whole) - 1):
            script, callee = run(plan, outbound=True), Callee()
            action = next(script)
            for _ in range(place):
                action = script.send(callee(action))
            assert whole[place] == action
            after = list(acted(script, callee, FOUND))
            left = [action for action in after if isinstance(action, Play)]
            assert {AwaitBeep, Play, End} >= {type(action) for action in after}
            assert [Play("machine", ("message",), watch=False)][: len(left)] == left
            assert ("machine", "machine") == (after[-1].step, after[-1].outcome)  # type: ignore[union-attr]

    @settings(max_examples=300)
    @given(st.sampled_from([SHIPPED, TWICE, leaving(TWICE)]), st.lists(st.sampled_from(VERDICTS)), st.integers(0, 40))
    def test_whatever_was_answered_before_it(self, plan: Dialplan, verdicts: list[Verdict], place: int) -> None:
        said, callee = iter(verdicts), Callee()
        script = run(plan, outbound=True)
        action = next(script)
        for _ in range(place):
            if isinstance(action, End):
                return
            result = Heard(next(said, "affirm")) if isinstance(action, Question) else callee(action)
            action = script.send(result)
        if not isinstance(action, End):
            after = list(acted(script, callee, FOUND))
            assert {AwaitBeep, Play, End} >= {type(action) for action in after}
            assert len(after) <= 3


def acted(
    script: Generator[Action, Result, None], answer: Callable[[Action], Result], first: Result | None = None
) -> Iterator[Action]:
    """The actions that follow: after the result *first*, or from the beginning."""
    action = next(script) if first is None else script.send(first)
    while True:
        yield action
        try:
            action = script.send(answer(action))
        except StopIteration:
            return


class TestTheRecordRefuses:
    def test_a_consent_that_the_record_does_not_take_is_not_thanked_for(self) -> None:
        actions = call(granted=False)
        assert "thanks" not in prompts(actions)
        assert Play("consent", ("goodbye_trouble",), watch=False) == actions[-2]
        assert "failed" == actions[-1].outcome  # type: ignore[union-attr]


class TestBelowTheLinter:
    """What the interpreter itself refuses, should an unsafe script ever get so far."""

    @pytest.mark.parametrize("term", MANDATORY)
    def test_the_consent_question_is_not_asked_without_every_disclosure(self, term: str) -> None:
        others = [other for other in MANDATORY if other != term]
        actions = drive(unsafe(terms={"disclose": {"terms": others}, "then": "consent"}), Callee())
        assert ([], False) == (asked(actions, "consent"), granted(actions))
        assert End("consent", "failed", "not every disclosure was heard before 'consent'") == actions[-1]

    @pytest.mark.parametrize(
        ("plan", "said"),
        [
            (unsafe(consent=consent(deny="consent")), "deny affirm"),
            (unsafe(consent=consent(stop="terms")), "stop affirm"),
            (
                unsafe(consent=consent(nomatch={"prompts": ["consent_again"], "then": "consent"})),
                "unclear unclear affirm",
            ),
            (
                unsafe(consent=consent(noinput={"prompts": ["consent_again"], "then": "terms"})),
                "noinput noinput affirm",
            ),
        ],
    )
    def test_the_consent_question_is_not_asked_again_after_a_no(self, plan: Dialplan, said: str) -> None:
        actions = drive(plan, Callee(consent=said))
        assert not granted(actions)
        assert End("consent", "failed", "a no is final, and one came before 'consent'") == actions[-1]

    @pytest.mark.parametrize(
        "plan",
        [
            edited("plan-upgrade-twice", interest={"goto": "consent"}),
            edited("plan-upgrade-twice", interest={"say": {"prompts": ["interest"]}, "then": "consent"}),
        ],
        ids=["left out", "only said"],
    )
    def test_the_consent_question_is_not_asked_without_interest(self, plan: Dialplan) -> None:
        actions = call(plan)
        assert ([], False) == (asked(actions, "consent"), granted(actions))
        assert End("consent", "failed", "no interest was declared before 'consent'") == actions[-1]

    @pytest.mark.parametrize("onward", ["consent", "interest"])
    @pytest.mark.parametrize("said", ["deny affirm", "unclear unclear affirm", "noinput noinput affirm"])
    def test_the_consent_question_is_not_asked_after_a_no_to_interest(self, said: str, onward: str) -> None:
        ask = TWICE.steps["interest"].ask
        assert ask is not None
        retry = {"prompts": ["interest_again"], "then": onward}
        changed = ask.model_dump() | {"deny": onward, "noinput": retry, "nomatch": retry}
        actions = call(edited("plan-upgrade-twice", interest={"ask": changed}), interest=said)
        assert ([], False) == (asked(actions, "consent"), granted(actions))

    def test_the_consent_question_is_not_asked_after_a_no_beside_a_prompt(self) -> None:
        plan = unsafe(refused={"goto": "consent"})
        actions = call(plan, objects=("disclosure_cancel", "deny"))
        assert ([], False) == (asked(actions, "consent"), granted(actions))

    def test_a_yes_that_leads_nowhere_near_consent_grants_nothing(self) -> None:
        assert not granted(drive(unsafe(terms={"hangup": {"outcome": "postponed"}}), Callee()))


class TestThePromise:
    @settings(max_examples=400)
    @given(
        st.lists(chance, min_size=40, max_size=40),
        st.lists(st.sampled_from([True] * 9 + [False]), min_size=60, max_size=60),
    )
    def test_nothing_is_granted_without_every_disclosure_heard_whole(
        self, verdicts: list[Verdict], wholes: list[bool]
    ) -> None:
        said, played = iter(verdicts), iter(wholes)
        whole: set[str] = set()
        last: list[tuple[Question, Verdict]] = []

        def answer(action: Action) -> Result:
            if isinstance(action, Question):
                last.append((action, next(said, "affirm")))
                return Heard(last[-1][1])
            if isinstance(action, Play):
                heard_whole = next(played, True)
                if heard_whole and action.disclosure:
                    whole.add(action.disclosure)
                return Played(heard_whole)
            if isinstance(action, Grant):
                assert set(MANDATORY) == whole
                question, verdict = last[-1]
                assert ("consent", "consent", "affirm") == (action.step, question.step, verdict)
                answered = {question.step: verdict for question, verdict in last}
                assert {"opening": "affirm", "owner": "affirm", "adult": "affirm", "consent": "affirm"} == answered
            return Done()

        actions = drive(SHIPPED, answer)
        assert not (granted(actions) and denial(actions))
        assert granted(actions) == (End("thanks", "completed", "") == actions[-1])

    @settings(max_examples=400)
    @given(
        st.sampled_from([SHIPPED, TWICE]),
        st.lists(chance, max_size=40),
        st.lists(st.sampled_from([*[None] * 12, "deny", "stop"]), max_size=60),
    )
    def test_after_a_no_beside_a_prompt_nothing_is_asked_or_granted_and_it_is_a_denial(
        self, plan: Dialplan, verdicts: list[Verdict], remarks: list[Objection | None]
    ) -> None:
        said, beside = iter(verdicts), iter(remarks)
        after: list[Action] = []
        objected: list[Objection] = []

        def answer(action: Action) -> Result:
            if objected:
                after.append(action)
            if isinstance(action, Question):
                return Heard(next(said, "affirm"))
            if isinstance(action, Play):
                objection = next(beside, None)
                if objection is not None and action.watch:
                    objected.append(objection)
                    return Played(whole=False, objection=objection)
                return Played(whole=True)
            return Done()

        last = drive(plan, answer)[-1]
        if objected:
            denials = {"deny": "refused", "stop": "stop"}
            assert 1 == len(objected)
            assert {Deny, Play} == {type(action) for action in after}
            assert (End, denials[objected[0]]) == (type(last), last.reason)  # type: ignore[union-attr]

    @given(st.lists(st.sampled_from([verdict for verdict in VERDICTS if verdict != "affirm"]), max_size=20))
    def test_without_a_yes_to_it_no_consent_is_granted(self, verdicts: list[Verdict]) -> None:
        said = iter(verdicts)

        def answer(action: Action) -> Result:
            if isinstance(action, Question):
                return Heard(next(said, "unclear") if action.grants_consent else "affirm")
            return Played(whole=True) if isinstance(action, Play) else Done()

        assert not granted(drive(SHIPPED, answer))

"""Call scripts: what is no script at all, and what is one that must not be used."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from pydantic import ValidationError

from gateway.consent.canonical import content_hash
from gateway.consent.disclosure import MANDATORY
from gateway.dialplan.errors import BadDialplan, UnsafeDialplan
from gateway.dialplan.lint import lint, message_findings, require_safe
from gateway.dialplan.model import Dialplan, load_dialplans, parse_dialplan
from gateway.resources import data_folder
from gateway.speech.machine import Thresholds

FOLDER = data_folder("dialplans")
SHIPPED, TWICE = (
    yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    for name in ("plan-upgrade", "plan-upgrade-twice")
)
QUESTIONS = ["opening", "owner", "adult", "consent"]


def edited(script: dict[str, Any] = SHIPPED, /, **steps: Any) -> dict[str, Any]:
    """A shipped script with some steps put in another's place; None takes one out."""
    data = deepcopy(script)
    data["steps"] |= steps
    data["steps"] = {name: step for name, step in data["steps"].items() if step is not None}
    return data


def question(name: str, **changes: Any) -> dict[str, Any]:
    return {"ask": TWICE["steps"][name]["ask"] | changes}


def findings(data: dict[str, Any]) -> tuple[str, ...]:
    return lint(Dialplan.model_validate(data))


def with_machine(**changes: Any) -> dict[str, Any]:
    """The shipped script with other words about machines."""
    return deepcopy(SHIPPED) | {"machine": SHIPPED["machine"] | changes}


def fault(data: dict[str, Any] | str) -> str:
    text = data if isinstance(data, str) else yaml.safe_dump(data, allow_unicode=True)
    with pytest.raises(BadDialplan) as refused:
        parse_dialplan(text, "my.yaml")
    return str(refused.value)


class TestParsing:
    def test_the_shipped_scripts_load(self) -> None:
        assert {"plan-upgrade", "plan-upgrade-twice"} == set(load_dialplans(FOLDER))

    @pytest.mark.parametrize("text", ["", "[]", "3", "steps: ["])
    def test_what_is_no_mapping_is_refused_by_name_of_the_file(self, text: str) -> None:
        assert fault(text).startswith("my.yaml: ")

    def test_a_step_that_stands_twice_is_refused(self) -> None:
        text = yaml.safe_dump(SHIPPED, allow_unicode=True)
        assert "the key 'name' stands twice" in fault(text + "\nname: other\n")

    def test_a_missing_key_is_named_by_its_path(self) -> None:
        consent = question("consent")
        del consent["ask"]["deny"]
        assert "my.yaml: steps.consent.ask.deny: Field required" == fault(edited(consent=consent))

    @pytest.mark.parametrize(
        ("path", "step"),
        [
            ("steps.thanks.hangup.mood", {"hangup": {"mood": "glad"}}),
            ("steps.thanks.hangup.outcome", {"hangup": {"outcome": "sold"}}),
            ("steps.thanks.hangup.denial", {"hangup": {"denial": "perhaps"}}),
            ("steps.thanks.say.prompts", {"say": {"prompts": []}, "then": "refused"}),
            ("steps.thanks.say.prompts.0", {"say": {"prompts": ["No Spaces"]}, "then": "refused"}),
            ("steps.thanks.disclose.terms.0", {"disclose": {"terms": ["weather"]}, "then": "refused"}),
            ("steps.thanks.transfer.failed", {"transfer": {"target": "agents"}}),
            ("steps.thanks.ask.purpose", question("consent", purpose="chat")),
            ("steps.thanks.ask.timeout_s", question("consent", timeout_s=0)),
            ("steps.thanks.ask.noinput.prompts", question("consent", noinput={"prompts": [], "then": "unclear"})),
        ],
    )
    def test_a_fault_is_named_by_its_path(self, path: str, step: dict[str, Any]) -> None:
        assert fault(edited(thanks=step)).startswith(f"my.yaml: {path}: ")

    @pytest.mark.parametrize("step", [{}, {"goto": "refused", "hangup": {}}, {"say": None}])
    def test_a_step_is_exactly_one_kind(self, step: dict[str, Any]) -> None:
        message = fault(edited(thanks=step))
        assert message.startswith("my.yaml: steps.thanks: ")
        assert "exactly one of say, disclose, ask, goto, transfer, hangup" in message

    @pytest.mark.parametrize(
        "step",
        [{"say": {"prompts": ["thanks"]}}, {"hangup": {}, "then": "refused"}, {"goto": "refused", "then": "refused"}],
    )
    def test_then_belongs_to_say_and_disclose_alone(self, step: dict[str, Any]) -> None:
        assert "'then' belongs to say and disclose" in fault(edited(thanks=step))

    @pytest.mark.parametrize(
        "step",
        [
            {"goto": "nowhere"},
            {"say": {"prompts": ["thanks"]}, "then": "nowhere"},
            {"transfer": {"target": "agents", "failed": "nowhere"}},
            question("consent", affirm="nowhere"),
            question("consent", deny="nowhere"),
            question("consent", agent="nowhere"),
            question("consent", stop="nowhere"),
            question("consent", noinput={"prompts": ["consent_again"], "then": "nowhere"}),
            question("consent", nomatch={"prompts": ["consent_again"], "then": "nowhere"}),
        ],
    )
    def test_every_way_leads_to_a_step(self, step: dict[str, Any]) -> None:
        assert "thanks leads to 'nowhere', which is no step" in fault(edited(thanks=step))

    @pytest.mark.parametrize("head", ["start", "deny", "stop"])
    def test_the_start_and_where_a_no_leads_are_steps(self, head: str) -> None:
        assert f"{head} leads to 'nowhere', which is no step" in fault(SHIPPED | {head: "nowhere"})

    @pytest.mark.parametrize("head", ["deny", "stop"])
    def test_a_script_says_where_a_no_leads(self, head: str) -> None:
        assert f"my.yaml: {head}: Field required" == fault({k: v for k, v in SHIPPED.items() if k != head})

    @pytest.mark.parametrize("captures", [0, 3])
    def test_a_script_takes_one_capture_or_two(self, captures: int) -> None:
        assert fault(SHIPPED | {"captures": captures}).startswith("my.yaml: captures: ")

    def test_two_files_of_one_name_are_refused(self, tmp_path: Path) -> None:
        for name in ("a.yaml", "b.yaml"):
            (tmp_path / name).write_text(yaml.safe_dump(SHIPPED), encoding="utf-8")
        with pytest.raises(BadDialplan, match=r"b\.yaml: the name 'plan-upgrade' is taken"):
            load_dialplans(tmp_path)


class TestTheReference:
    def test_it_binds_to_the_content(self) -> None:
        plan, other = (
            Dialplan.model_validate(SHIPPED),
            Dialplan.model_validate(edited(consent=question("consent", timeout_s=7))),
        )
        assert (plan.ref.name, plan.ref.version) == (other.ref.name, other.ref.version)
        assert plan.ref.sha256 != other.ref.sha256

    def test_it_does_not_depend_on_spelling(self) -> None:
        text = yaml.safe_dump(SHIPPED, sort_keys=True, default_flow_style=True)
        assert Dialplan.model_validate(SHIPPED).ref == parse_dialplan(text, "x").ref

    def test_every_prompt_that_may_be_played_is_named(self) -> None:
        names = Dialplan.model_validate(SHIPPED).prompt_names()
        assert {f"disclosure_{term}" for term in MANDATORY} < set(names)
        assert {"opening", "opening_again", "owner_last", "consent_again", "thanks", "goodbye_trouble"} < set(names)
        assert len(names) == len(set(names))


class TestTheShippedScript:
    @pytest.mark.parametrize("script", [SHIPPED, TWICE], ids=lambda script: script["name"])
    def test_it_is_safe(self, script: dict[str, Any]) -> None:
        assert () == findings(script)

    @pytest.mark.parametrize(
        ("missing", "bypassed"), [("leave", "opening"), ("identity", "owner"), ("eligibility", "adult")]
    )
    def test_without_a_question_it_is_not(self, missing: str, bypassed: str) -> None:
        steps = {bypassed: {"goto": SHIPPED["steps"][bypassed]["ask"]["affirm"]}}
        assert f"consent question 'consent' can be reached without {missing}" in findings(edited(**steps))

    @pytest.mark.parametrize(
        ("missing", "question_name"), [("leave", "opening"), ("identity", "owner"), ("eligibility", "adult")]
    )
    @pytest.mark.parametrize("answer", ["deny", "agent", "noinput", "nomatch"])
    def test_where_anything_but_yes_leads_on_it_is_not(self, missing: str, question_name: str, answer: str) -> None:
        ask = SHIPPED["steps"][question_name]["ask"]
        onward = ask["affirm"] if answer in ("deny", "agent") else ask[answer] | {"then": ask["affirm"]}
        data = edited(**{question_name: question(question_name, **{answer: onward})})
        assert f"consent question 'consent' can be reached without {missing}" in findings(data)

    @pytest.mark.parametrize("purpose", ["leave", "identity", "eligibility"])
    def test_where_a_question_has_another_purpose_it_is_not(self, purpose: str) -> None:
        name = {"leave": "opening", "identity": "owner", "eligibility": "adult"}[purpose]
        data = edited(**{name: question(name, purpose="question")})
        assert f"consent question 'consent' can be reached without {purpose}" in findings(data)

    @pytest.mark.parametrize("term", MANDATORY)
    def test_without_a_disclosure_it_is_not(self, term: str) -> None:
        others = [other for other in MANDATORY if other != term]
        data = edited(terms={"disclose": {"terms": others}, "then": "consent"})
        assert f"consent question 'consent' can be reached without disclosure_{term}" in findings(data)

    def test_a_way_round_the_disclosures_is_found(self) -> None:
        data = edited(adult=question("adult", nomatch={"prompts": ["adult_again"], "then": "consent"}))
        (finding,) = (f for f in findings(data) if "can be reached without" in f)
        assert all(f"disclosure_{term}" in finding for term in MANDATORY)
        assert "eligibility" in finding

    def test_disclosures_may_be_spread_over_several_steps(self) -> None:
        data = edited(
            terms={"disclose": {"terms": list(MANDATORY[:4])}, "then": "more_terms"},
            more_terms={"disclose": {"terms": list(MANDATORY[4:])}, "then": "consent"},
        )
        assert () == findings(data)

    def test_a_disclosure_that_is_merely_said_does_not_count(self) -> None:
        data = edited(
            terms={"disclose": {"terms": [t for t in MANDATORY if t != "price"]}, "then": "price"},
            price={"say": {"prompts": ["disclosure_price"]}, "then": "consent"},
        )
        assert "consent question 'consent' can be reached without disclosure_price" in findings(data)

    def test_without_the_consent_question_it_is_not(self) -> None:
        data = edited(consent=None, terms={"disclose": {"terms": list(MANDATORY)}, "then": "thanks"})
        assert "there is no consent question" in findings(data)

    @pytest.mark.parametrize(
        "step",
        [
            {"disclose": {"terms": list(MANDATORY), "bargein": True}, "then": "consent"},
            {"say": {"prompts": ["introduction"], "bargein": True}, "then": "terms"},
        ],
        ids=["disclose", "say"],
    )
    def test_what_is_told_cannot_be_cut_into(self, step: dict[str, object]) -> None:
        with pytest.raises(ValidationError, match="bargein\n  Extra inputs are not permitted"):
            Dialplan.model_validate(edited(introduction=step))

    def test_with_bargein_on_the_consent_question_it_is_not(self) -> None:
        data = edited(consent=question("consent", bargein=True))
        assert "consent question 'consent' allows bargein: it must be heard to its end" in findings(data)


class TestMachines:
    MESSAGE: ClassVar = {"then": "leave_message", "prompt": "message"}

    @pytest.mark.parametrize("script", [SHIPPED, TWICE], ids=lambda script: script["name"])
    def test_the_shipped_scripts_look_for_them_and_hang_up(self, script: dict[str, Any]) -> None:
        machine = Dialplan.model_validate(script).machine
        assert machine is not None
        assert (True, "hang_up", True) == (machine.detect, machine.then, machine.retry)

    def test_the_thresholds_are_those_of_the_detector(self) -> None:
        machine = Dialplan.model_validate(SHIPPED).machine
        assert asdict(Thresholds()) == {name: getattr(machine, name) for name in asdict(Thresholds())}

    def test_a_script_may_say_nothing_of_them(self) -> None:
        silent = {key: value for key, value in SHIPPED.items() if key != "machine"}
        assert (None, ()) == (Dialplan.model_validate(silent).machine, findings(silent))

    def test_a_script_that_says_nothing_of_them_keeps_its_reference(self) -> None:
        """Orders bound to it before there was a word for machines are still called about."""
        silent = Dialplan.model_validate({key: value for key, value in SHIPPED.items() if key != "machine"})
        content = silent.model_dump(mode="json", exclude={"machine"})
        assert (content_hash(content), False) == (silent.ref.sha256, "machine" in content)

    def test_what_is_said_of_them_is_part_of_the_script(self) -> None:
        other = with_machine(retry_after_s=60)
        assert Dialplan.model_validate(SHIPPED).ref.sha256 != Dialplan.model_validate(other).ref.sha256

    @pytest.mark.parametrize(
        ("path", "changes"),
        [
            ("machine.detect", {"detect": "perhaps"}),
            ("machine.then", {"then": "ask"}),
            ("machine.greeting_ms", {"greeting_ms": 500}),
            ("machine.words", {"words": 1}),
            ("machine.retry_after_s", {"retry_after_s": 0}),
            ("machine.mood", {"mood": "glad"}),
            ("machine", {"then": "leave_message"}),
            ("machine", {"prompt": "message"}),
            ("machine", {"greeting_ms": 7000}),
            ("machine", {"initial_silence_ms": 4000}),
        ],
    )
    def test_a_fault_is_named_by_its_path(self, path: str, changes: dict[str, Any]) -> None:
        assert fault(with_machine(**changes)).startswith(f"my.yaml: {path}: ")

    def test_a_script_cannot_say_that_a_machine_has_answered(self) -> None:
        refused = {"hangup": {"outcome": "machine"}}
        assert "my.yaml: steps.thanks.hangup.outcome: " in fault(edited(thanks=refused))

    def test_no_step_has_the_name_of_what_is_played_to_a_machine(self) -> None:
        assert "the step 'machine' must have another name" in fault(edited(machine={"goto": "refused"}))

    def test_the_message_is_among_the_prompts(self) -> None:
        plan = Dialplan.model_validate(with_machine(**self.MESSAGE))
        assert ("message" in plan.prompt_names(), ()) == (True, lint(plan))

    @pytest.mark.parametrize("prompt", ["consent", "opening", "thanks", "disclosure_price", "goodbye_trouble"])
    def test_what_people_are_asked_or_told_is_no_message(self, prompt: str) -> None:
        found = findings(with_machine(then="leave_message", prompt=prompt))
        assert (f"the message {prompt!r} for machines is a prompt for people, or tells a term of the offer",) == found

    def test_a_term_is_no_message_even_where_the_script_does_not_tell_it(self) -> None:
        data = with_machine(then="leave_message", prompt="disclosure_trial")
        data["steps"]["terms"]["disclose"]["terms"].remove("trial")
        assert any("'disclosure_trial' for machines" in found for found in findings(data))

    @pytest.mark.parametrize("wording", ["", "Good day.", "Good day, this is {operator}. We will call again."])
    def test_a_message_may_name_the_operator(self, wording: str) -> None:
        assert () == message_findings(Dialplan.model_validate(with_machine(**self.MESSAGE)), wording)

    @pytest.mark.parametrize("slot", ["offer", "price", "starts_on", "how_to_use"])
    def test_a_message_may_name_nothing_of_the_order(self, slot: str) -> None:
        """Rule R14: whoever lives there hears it."""
        plan = Dialplan.model_validate(with_machine(**self.MESSAGE))
        [found] = message_findings(plan, f"This is {{operator}} about {{{slot}}}.")
        assert f"the message 'message' for machines has {{{slot}}}; only {{operator}} may be in it" == found

    def test_terms_told_before_anybody_has_said_yes_may_be_told_to_a_machine(self) -> None:
        assert "step 'terms' can be reached before anybody has said yes to a question: it may be a machine" in findings(
            deepcopy(SHIPPED) | {"start": "introduction"}
        )

    @pytest.mark.parametrize("name", ["interest", "consent"])
    def test_so_may_a_binding_question_be_asked_of_one(self, name: str) -> None:
        found = findings(deepcopy(TWICE) | {"start": name})
        assert f"step {name!r} can be reached before anybody has said yes to a question: it may be a machine" in found

    @pytest.mark.parametrize("answer", ["noinput", "nomatch", "agent"])
    def test_an_answer_that_does_not_fit_tells_no_person(self, answer: str) -> None:
        """The first question goes by unanswered, and the others are none: what follows may be heard by a machine."""
        ask = SHIPPED["steps"]["opening"]["ask"]
        onward = "introduction" if answer == "agent" else ask[answer] | {"then": "introduction"}
        data = edited(opening=question("opening", **{answer: onward}))
        assert "step 'terms' can be reached before anybody has said yes to a question: it may be a machine" in findings(
            data
        )

    def test_where_none_is_looked_for_there_is_nothing_to_wait_for(self) -> None:
        data = with_machine(detect=False) | {"start": "introduction"}
        assert not any("may be a machine" in found for found in findings(data))


class TestTwoCaptures:
    @pytest.mark.parametrize("answer", ["deny", "agent", "noinput", "nomatch"])
    def test_where_anything_but_interest_leads_to_the_consent_question_it_is_not_safe(self, answer: str) -> None:
        ask = TWICE["steps"]["interest"]["ask"]
        onward = "consent" if answer in ("deny", "agent") else ask[answer] | {"then": "consent"}
        data = edited(TWICE, interest=question("interest", **{answer: onward}))
        assert "consent question 'consent' can be reached without interest" in findings(data)

    @pytest.mark.parametrize(
        "interest",
        [{"goto": "consent"}, question("interest", purpose="question")],
        ids=["left out", "of another purpose"],
    )
    def test_without_the_interest_question_it_is_not_safe(self, interest: dict[str, Any]) -> None:
        assert "consent question 'consent' can be reached without interest" in findings(
            edited(TWICE, interest=interest)
        )

    def test_a_script_of_one_capture_needs_no_interest_question(self) -> None:
        assert () == findings(edited(TWICE, interest={"goto": "consent"}) | {"captures": 1})

    @pytest.mark.parametrize("captures", [1, 2])
    def test_with_bargein_on_the_interest_question_it_is_not_safe(self, captures: int) -> None:
        data = edited(TWICE, interest=question("interest", bargein=True)) | {"captures": captures}
        assert ("interest question 'interest' allows bargein: it must be heard to its end",) == findings(data)

    @pytest.mark.parametrize("answer", ["deny", "noinput", "nomatch"])
    def test_a_no_to_interest_ends_in_a_denial(self, answer: str) -> None:
        ask = TWICE["steps"]["interest"]["ask"]
        onward = "released" if answer == "deny" else ask[answer] | {"then": "released"}
        expected = (
            "interest question 'interest': no, silence and unclear answers must end in a denial, with no further question; "
            "'released' may not"
        )
        assert (expected,) == findings(edited(TWICE, interest=question("interest", **{answer: onward})))


class TestANoBesideAPrompt:
    @pytest.mark.parametrize("target", ["opening", "terms", "consent", "thanks", "released", "person"])
    def test_it_must_end_in_a_denial(self, target: str) -> None:
        expected = f"a no that is said while a prompt plays must end in a denial; {target!r} may not"
        assert expected in findings(SHIPPED | {"deny": target})

    @pytest.mark.parametrize("target", ["opening", "terms", "consent", "thanks", "released", "person", "refused"])
    def test_a_stop_word_must_end_on_the_do_not_call_list(self, target: str) -> None:
        expected = f"a stop word that is said while a prompt plays must end in the denial stop; {target!r} may not"
        assert expected in findings(SHIPPED | {"stop": target})

    @pytest.mark.parametrize("target", ["refused", "unclear", "stranger", "stopped"])
    def test_any_denial_will_do_for_a_no(self, target: str) -> None:
        assert () == findings(SHIPPED | {"deny": target})

    def test_it_may_lead_there_by_a_detour(self) -> None:
        data = edited(
            sorry={"say": {"prompts": ["refused"]}, "then": "refused"},
            sorry_stop={"say": {"prompts": ["refused"]}, "then": "stopped"},
        )
        assert () == findings(data | {"deny": "sorry", "stop": "sorry_stop"})

    def test_where_it_never_ends_is_named(self) -> None:
        data = edited(round={"goto": "about"}, about={"goto": "round"}) | {"deny": "round"}
        assert {"from step 'round' the call can never end", "from step 'about' the call can never end"} <= set(
            findings(data)
        )

    def test_what_only_it_leads_to_has_done_nothing(self) -> None:
        data = edited(odd={"hangup": {"outcome": "completed"}}) | {"deny": "odd"}
        assert "step 'odd' ends the call as completed without a consent or a denial" in findings(data)


class TestANoIsFinal:
    @pytest.mark.parametrize("answer", ["deny", "noinput", "nomatch"])
    def test_a_no_never_leads_where_yes_leads(self, answer: str) -> None:
        ask = SHIPPED["steps"]["consent"]["ask"]
        data = edited(
            consent=question("consent", **{answer: "thanks" if answer == "deny" else ask[answer] | {"then": "thanks"}})
        )
        assert "consent question 'consent': no, silence or an unclear answer leads where yes leads" in findings(data)

    @pytest.mark.parametrize("answer", ["stop", "agent"])
    def test_stop_and_a_wish_for_a_person_never_lead_where_yes_leads(self, answer: str) -> None:
        data = edited(consent=question("consent", **{answer: "thanks"}))
        assert "step 'thanks' ends the call as completed without a consent or a denial" in findings(data)

    @pytest.mark.parametrize("again", ["consent", "terms", "opening"])
    @pytest.mark.parametrize("answer", ["deny", "noinput", "nomatch"])
    def test_a_no_to_the_consent_question_is_never_asked_again(self, answer: str, again: str) -> None:
        ask = SHIPPED["steps"]["consent"]["ask"]
        data = edited(
            consent=question("consent", **{answer: again if answer == "deny" else ask[answer] | {"then": again}})
        )
        assert any("must end in a denial" in finding for finding in findings(data))

    def test_a_no_to_the_consent_question_is_never_a_postponement(self) -> None:
        """A refusal ends further calls; a call that ends as postponed would be made again."""
        data = edited(consent=question("consent", deny="released"))
        assert any("must end in a denial" in finding and "'released'" in finding for finding in findings(data))

    @pytest.mark.parametrize("name", QUESTIONS)
    @pytest.mark.parametrize("target", ["released", "refused", "person", "opening"])
    def test_a_stop_word_always_ends_on_the_do_not_call_list(self, name: str, target: str) -> None:
        data = edited(**{name: question(name, stop=target)})
        expected = f"question {name!r}: a stop word must lead to a hangup with denial stop and nowhere else"
        assert expected in findings(data)

    def test_a_denial_may_be_reached_by_a_detour(self) -> None:
        data = edited(
            consent=question("consent", deny="sorry", stop="sorry_stop"),
            sorry={"say": {"prompts": ["refused"]}, "then": "refused"},
            sorry_stop={"goto": "stopped"},
        )
        assert () == findings(data)


class TestTheGraph:
    def test_a_step_that_cannot_be_reached_is_named(self) -> None:
        assert ("step 'attic' cannot be reached",) == findings(edited(attic={"hangup": {"outcome": "postponed"}}))

    def test_a_loop_without_an_end_is_named(self) -> None:
        data = edited(released={"goto": "round"}, round={"goto": "released"})
        assert {"from step 'released' the call can never end", "from step 'round' the call can never end"} <= set(
            findings(data)
        )

    def test_a_loop_over_a_question_is_followed_to_its_fixed_point(self) -> None:
        """Back from the terms to the owner question by way of silence: eligibility must still hold on every way."""
        data = edited(
            adult=question("adult", nomatch={"prompts": ["adult_again"], "then": "owner"}),
            owner=question("owner", nomatch={"prompts": ["owner_again"], "then": "adult"}),
        )
        assert "consent question 'consent' can be reached without identity" in findings(data)

    def test_a_loop_that_loses_nothing_is_safe(self) -> None:
        data = edited(adult=question("adult", nomatch={"prompts": ["adult_again"], "then": "owner"}))
        assert () == findings(data)

    def test_a_call_never_ends_as_completed_without_consent_or_denial(self) -> None:
        data = edited(released={"hangup": {"outcome": "completed"}})
        assert "step 'released' ends the call as completed without a consent or a denial" in findings(data)

    def test_an_unsafe_script_is_refused_with_its_findings(self) -> None:
        plan = Dialplan.model_validate(edited(consent=question("consent", bargein=True)))
        with pytest.raises(
            UnsafeDialplan, match="dialplan plan-upgrade: consent question 'consent' allows bargein"
        ) as refused:
            require_safe(plan)
        assert lint(plan) == refused.value.findings

    def test_a_safe_script_is_handed_on(self) -> None:
        plan = Dialplan.model_validate(SHIPPED)
        assert plan is require_safe(plan)

"""The proof over all paths of a dialplan (rules R3, R5, R6, R13, R18).

On **every** way from the start to a consent question, leave to go on, identity, eligibility and every mandatory disclosure
must have been passed first, by the answer that grants them; and the consent question itself must be heard whole. A path is
judged by what it must have done: the analysis keeps, for each step, the set of things done on *all* ways to it (a must-
analysis; the intersection over all incoming edges, iterated to its fixed point), so loops are covered too. A no to the consent or
the interest question, and a stop word to any question, is final: nothing more is asked after it. A no or a stop word may also be
said while a prompt plays: from every step the way leads to the dialplan's ``deny`` and ``stop`` too. Where the script takes two
captures, the interest question stands on every way as well.

A machine that answers is looked for until somebody has affirmed a question; so on every way to a disclosure and to a binding
question one must have been. Where a machine is found, no step follows: the message that may be left is nobody's question, no
term of the offer, and worded without anything of the order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from string import Formatter
from typing import get_args

from gateway.consent.disclosure import MANDATORY
from gateway.consent.events import Denial
from gateway.dialplan.errors import UnsafeDialplan
from gateway.dialplan.model import BINDING, Dialplan, Step, disclosure_prompt

Done = frozenset[str]
ANSWERED: Done = frozenset({"leave", "identity", "eligibility", "question"})
"""The questions that a person must have affirmed before a binding one: any of them tells that it is no machine."""

MESSAGE_SLOTS = frozenset({"operator"})
REQUIRED: tuple[str, ...] = ("leave", "identity", "eligibility", *(disclosure_prompt(term) for term in MANDATORY))


def lint(plan: Dialplan) -> tuple[str, ...]:
    """What is wrong with *plan*, one sentence each; empty when the consent question is safe on every path."""
    findings: list[str] = []
    required = (*REQUIRED, "interest") if plan.captures == 2 else REQUIRED
    if not _only_ends_with(plan, plan.deny, get_args(Denial)):
        findings.append(f"a no that is said while a prompt plays must end in a denial; {plan.deny!r} may not")
    if not _only_ends_with(plan, plan.stop, {"stop"}):
        findings.append(
            f"a stop word that is said while a prompt plays must end in the denial stop; {plan.stop!r} may not"
        )
    done = _must_have_done(plan)
    findings += _machine_findings(plan, done)
    for name, step in plan.steps.items():
        if name not in done:
            findings.append(f"step {name!r} cannot be reached")
            continue
        if step.ask and not _only_ends_with(plan, step.ask.stop, {"stop"}):
            findings.append(f"question {name!r}: a stop word must lead to a hangup with denial stop and nowhere else")
        if step.ask and step.ask.purpose == "consent":
            missing = [need for need in required if need not in done[name]]
            if missing:
                findings.append(f"consent question {name!r} can be reached without {', '.join(missing)}")
            if step.ask.affirm in (step.ask.deny, step.ask.noinput.then, step.ask.nomatch.then):
                findings.append(f"consent question {name!r}: no, silence or an unclear answer leads where yes leads")
        if step.ask and step.ask.purpose in BINDING:
            question = f"{step.ask.purpose} question {name!r}"
            if step.ask.bargein:
                findings.append(f"{question} allows bargein: it must be heard to its end")
            for answer in (step.ask.deny, step.ask.noinput.then, step.ask.nomatch.then):
                if not _only_ends_with(plan, answer, get_args(Denial)):
                    findings.append(f"{question}: no, silence and unclear answers must end in a denial, "
                                    f"with no further question; {answer!r} may not")  # fmt: skip
        if (
            step.hangup
            and step.hangup.denial is None
            and step.hangup.outcome == "completed"
            and "consent" not in done[name]
        ):
            findings.append(f"step {name!r} ends the call as completed without a consent or a denial")
    if not any(step.ask and step.ask.purpose == "consent" for step in plan.steps.values()):
        findings.append("there is no consent question")
    for name in done:
        if not _can_end(plan, name):
            findings.append(f"from step {name!r} the call can never end")
    return tuple(findings)


def message_findings(plan: Dialplan, wording: str) -> tuple[str, ...]:
    """What is wrong with the *wording* of the message that *plan* leaves on machines: whoever lives there hears it (rule R14),
    so of all slots it may have that of the operator alone.
    """
    slots = sorted({slot for _, slot, _, _ in Formatter().parse(wording) if slot is not None} - MESSAGE_SLOTS)
    if plan.machine is None or plan.machine.prompt is None or not slots:
        return ()
    return (
        f"the message {plan.machine.prompt!r} for machines has {{{'}, {'.join(slots)}}}; only {{operator}} may be in it",
    )


def _machine_findings(plan: Dialplan, done: dict[str, Done]) -> Iterator[str]:
    machine = plan.machine
    if machine is None:
        return
    spoken = [name for name in plan.model_copy(update={"machine": None}).prompt_names() if name == machine.prompt]
    if spoken or machine.prompt in {disclosure_prompt(term) for term in MANDATORY}:
        yield f"the message {machine.prompt!r} for machines is a prompt for people, or tells a term of the offer"
    for name, step in plan.steps.items():
        told = step.disclose or (step.ask and step.ask.purpose in BINDING)
        if machine.detect and told and not done.get(name, frozenset(ANSWERED)) & ANSWERED:
            yield f"step {name!r} can be reached before anybody has said yes to a question: it may be a machine"


def require_safe(plan: Dialplan) -> Dialplan:
    """*plan* itself. Raises UnsafeDialplan."""
    findings = lint(plan)
    if findings:
        raise UnsafeDialplan(plan.name, findings)
    return plan


def _edges(step: Step) -> Iterator[tuple[str, Done]]:
    """Where *step* leads, and what is done when it leads there."""
    if step.ask:
        ask = step.ask
        granted = frozenset({ask.purpose})
        yield ask.affirm, granted
        for target in (ask.deny, ask.agent, ask.stop, ask.noinput.then, ask.nomatch.then):
            yield target, frozenset()
    elif step.disclose:
        for target in step.exits():
            yield target, frozenset(disclosure_prompt(term) for term in step.disclose.terms)
    else:
        for target in step.exits():
            yield target, frozenset()


def _must_have_done(plan: Dialplan) -> dict[str, Done]:
    nothing: Done = frozenset()
    done = {plan.start: nothing, plan.deny: nothing, plan.stop: nothing}  # a no may come first of all
    work = list(done)
    while work:
        name = work.pop()
        for target, gained in _edges(plan.steps[name]):
            arriving = done[name] | gained
            settled = done[target] & arriving if target in done else arriving
            if done.get(target) != settled:
                done[target] = settled
                work.append(target)
    return done


def _can_end(plan: Dialplan, start: str) -> bool:
    return any(step.hangup or step.transfer for step in _reachable(plan, start))


def _only_ends_with(plan: Dialplan, start: str, denials: Collection[str]) -> bool:
    """Whether every way on from *start* ends in one of *denials*, and nothing more is asked on it."""
    return not any(
        step.ask or step.transfer or (step.hangup and step.hangup.denial not in denials)
        for step in _reachable(plan, start)
    )


def _reachable(plan: Dialplan, start: str) -> Iterator[Step]:
    """*start* and every step after it."""
    seen, work = {start}, [start]
    while work:
        step = plan.steps[work.pop()]
        yield step
        for target in step.exits():
            if target not in seen:
                seen.add(target)
                work.append(target)

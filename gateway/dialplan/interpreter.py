"""Runs a dialplan: a generator of actions that is sent what came of each. Pure: no clock, no I/O, no asyncio.

::

    script = run(plan)
    action = next(script)
    while True:
        action = script.send(result_of(action))   # StopIteration when the call is over

``Grant`` is yielded in one place only: after ``affirm`` to a question whose purpose is consent, with every mandatory
disclosure played whole in this very call, and never after a no. The linter proves the same before the call; this is the belt to those braces.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from gateway.consent.events import CallOutcome, Denial
from gateway.consent.verdict import Verdict
from gateway.dialplan.model import MANDATORY, Ask, Dialplan, Disclosure, disclosure_prompt

DISCLOSURE_PLAYS = 2
REPEATS = 2


@dataclass(frozen=True, slots=True)
class Play:
    """Play *prompts*, one after the other. Send back :class:`Played`."""

    step: str
    prompts: tuple[str, ...]
    bargein: bool = False
    disclosure: Disclosure | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """Play *prompt*, then listen. Send back :class:`Heard`."""

    step: str
    prompts: tuple[str, ...]
    ask: Ask

    @property
    def grants_consent(self) -> bool:
        return self.ask.purpose == "consent"


@dataclass(frozen=True, slots=True)
class Grant:
    """The subscriber has consented, clearly and in words. Send back :class:`Done`, ``ok`` when the record took it."""

    step: str


@dataclass(frozen=True, slots=True)
class Deny:
    """The order ends without consent; *step* is the question that was last put. Send back :class:`Done`."""

    step: str
    denial: Denial


@dataclass(frozen=True, slots=True)
class TransferTo:
    """Hand the call to a person. Send back :class:`Done`, ``ok`` when the person took it."""

    step: str
    target: str


@dataclass(frozen=True, slots=True)
class End:
    """Hang up. Nothing is sent back."""

    step: str
    outcome: CallOutcome
    reason: str


@dataclass(frozen=True, slots=True)
class Played:
    """*whole*: every sample was sent."""

    whole: bool


@dataclass(frozen=True, slots=True)
class Heard:
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Done:
    ok: bool = True


Action = Play | Question | Grant | Deny | TransferTo | End
Result = Played | Heard | Done


def run(plan: Dialplan) -> Generator[Action, Result, None]:
    """The actions of one call. The last one is always :class:`End`."""
    heard_whole: set[Disclosure] = set()
    refused = False
    name = asked = plan.start
    while True:
        step = plan.steps[name]
        if step.say:
            yield Play(name, step.say.prompts, step.say.bargein)
            name = _then(step.then)
        elif step.disclose:
            for term in step.disclose.terms:
                for _ in range(DISCLOSURE_PLAYS):
                    played = yield Play(name, (disclosure_prompt(term),), disclosure=term)
                    if isinstance(played, Played) and played.whole:
                        heard_whole.add(term)
                        break
                else:
                    yield Play(name, (plan.goodbye,))
                    yield End(name, "failed", f"the disclosure {term!r} could not be played whole")
                    return
            name = _then(step.then)
        elif step.ask:
            if step.ask.purpose == "consent" and not heard_whole.issuperset(MANDATORY):
                yield End(name, "failed", f"not every disclosure was heard before {name!r}")
                return
            if step.ask.purpose == "consent" and refused:
                yield End(name, "failed", f"a no came before {name!r}, and a no is final")
                return
            asked = name
            name, verdict = yield from _ask(asked, step.ask)
            refused |= verdict == "stop" or (step.ask.purpose == "consent" and verdict not in ("affirm", "agent"))
            if verdict == "affirm" and step.ask.purpose == "consent":
                granted = yield Grant(asked)
                if not (isinstance(granted, Done) and granted.ok):
                    yield Play(asked, (plan.goodbye,))
                    yield End(asked, "failed", "the order was no longer open when the consent was given")
                    return
        elif step.transfer:
            done = yield TransferTo(name, step.transfer.target)
            if isinstance(done, Done) and done.ok:
                yield End(name, "transferred", step.transfer.target)
                return
            name = step.transfer.failed
        elif step.hangup:
            if step.hangup.denial:
                yield Deny(asked, step.hangup.denial)
            if step.hangup.prompts:
                yield Play(name, step.hangup.prompts)
            yield End(name, step.hangup.outcome, step.hangup.denial or "")
            return
        else:
            name = _then(step.goto)


def _ask(name: str, ask: Ask) -> Generator[Action, Result, tuple[str, Verdict]]:
    """Put one question until it is answered or its patience is spent: the next step, and the verdict that chose it.

    Silence and answers that do not fit are counted apart, but together for the consent question: twice unclear is a no (rule R1).
    """
    binding = ask.purpose == "consent"
    noinputs = nomatches = repeats = 0
    prompts: tuple[str, ...] = (ask.prompt,)
    while True:
        result = yield Question(name, prompts, ask)
        verdict = result.verdict if isinstance(result, Heard) else "unclear"
        match verdict:
            case "affirm":
                return ask.affirm, verdict
            case "deny":
                return ask.deny, verdict
            case "stop":
                return ask.stop, verdict
            case "agent":
                return ask.agent, verdict
            case "repeat" if repeats < REPEATS:
                repeats += 1
                prompts = (ask.prompt,)
            case "noinput":
                tried = noinputs + nomatches if binding else noinputs
                if tried >= len(ask.noinput.prompts):
                    return ask.noinput.then, verdict
                prompts = (ask.noinput.prompts[tried],)
                noinputs += 1
            case _:
                tried = noinputs + nomatches if binding else nomatches
                if tried >= len(ask.nomatch.prompts):
                    return ask.nomatch.then, verdict
                prompts = (ask.nomatch.prompts[tried],)
                nomatches += 1


def _then(step: str | None) -> str:
    assert step is not None, "the model lets no step without its way on pass"
    return step

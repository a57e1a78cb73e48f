"""Runs a dialplan: a generator of actions that is sent what came of each. Pure: no clock, no I/O, no asyncio.

::

    script = run(plan)
    action = next(script)
    while True:
        action = script.send(result_of(action))   # StopIteration when the call is over

``Grant`` is yielded in one place only: after ``affirm`` to a question whose purpose is consent, with every mandatory
disclosure played whole in this very call, the interest question answered likewise where the script takes two captures, and never
after a no. The linter proves the same before the call; this is the belt to those braces.

A disclosure may turn out lost after its step was left, by a report of the far end that came late (``lost`` in a result). Then it is
told once more before the consent question is put, or put again where a yes was heard meanwhile: that yes is worth nothing. One that
was told twice and not heard ends the call.

A no or a stop word that is said while a prompt plays leads to the dialplan's ``deny`` or ``stop``, from wherever it is said; once,
for after it nothing is listened for.

On an outbound call the script may begin with :class:`Detect`. A machine, found then or later (:class:`MachineFound` in place of
any result), ends the script there: what follows can play one message and hang up, and ask nothing.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Literal

from gateway.consent.disclosure import MANDATORY, Disclosure
from gateway.consent.events import CallOutcome, Denial
from gateway.consent.verdict import Verdict
from gateway.dialplan.model import (
    BINDING,
    MACHINE,
    Ask,
    Dialplan,
    Disclose,
    Machine,
    Purpose,
    disclosure_prompt,
)

DISCLOSURE_PLAYS = 2
REPEATS = 2


@dataclass(frozen=True, slots=True)
class Play:
    """Play *prompts*, one after the other, listening for a no and for stop words beside them where *watch* says so. Send back
    :class:`Played`.
    """

    step: str
    prompts: tuple[str, ...]
    disclosure: Disclosure | None = None
    watch: bool = True


@dataclass(frozen=True, slots=True)
class Question:
    """Play *prompt*, then listen. Send back :class:`Heard`."""

    step: str
    prompts: tuple[str, ...]
    ask: Ask

    @property
    def grants_consent(self) -> bool:
        return self.ask.purpose == "consent"

    @property
    def binding(self) -> bool:
        """Whether a yes is judged by every witness."""
        return self.ask.purpose in BINDING


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
class Detect:
    """Listen to who has answered before anything is played. Send back :class:`Done` for a person, and for who cannot be told,
    or :class:`MachineFound`.
    """

    step: str


@dataclass(frozen=True, slots=True)
class AwaitBeep:
    """Wait until the machine takes messages. Send back :class:`Done`, ``ok`` when one can be left."""

    step: str


@dataclass(frozen=True, slots=True)
class End:
    """Hang up. Nothing is sent back."""

    step: str
    outcome: CallOutcome
    reason: str


@dataclass(frozen=True, slots=True)
class Played:
    """*whole*: every sample was sent; of a disclosure, that it was heard. *objection*: what the callee said meanwhile. *lost*: the
    disclosures, heard before, that turned out lost since the last result.
    """

    whole: bool
    objection: Objection | None = None
    lost: tuple[Disclosure, ...] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """*verdict* of the answer. *lost*: as in :class:`Played`."""

    verdict: Verdict
    lost: tuple[Disclosure, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    ok: bool = True


@dataclass(frozen=True, slots=True)
class MachineFound:
    """A machine has taken the call; *reason* says what told it."""

    reason: str


Objection = Literal["deny", "stop"]
Action = Detect | AwaitBeep | Play | Question | Grant | Deny | TransferTo | End
Result = Played | Heard | Done | MachineFound


def run(plan: Dialplan, *, outbound: bool = False) -> Generator[Action, Result, None]:
    """The actions of one call. The last one is always :class:`End`."""
    machine = plan.machine if outbound else None
    steps = _steps(plan)
    action: Action = Detect(plan.start) if machine is not None and machine.detect else next(steps)
    while True:
        result = yield action
        if isinstance(action, End):
            return
        if isinstance(result, MachineFound):
            steps.close()
            yield from _answered_by_machine(machine, result.reason)
            return
        action = next(steps) if isinstance(action, Detect) else steps.send(result)


def _answered_by_machine(machine: Machine | None, reason: str) -> Generator[Action, Result, None]:
    """What is done with a machine: at most a message is left, and nothing is asked."""
    if machine is not None and machine.prompt is not None:
        ready = yield AwaitBeep(MACHINE)
        if isinstance(ready, Done) and ready.ok:
            left = yield Play(MACHINE, (machine.prompt,), watch=False)
            reason += "; a message was left" if isinstance(left, Played) and left.whole else "; the message was cut"
        else:
            reason += "; it took no message"
    yield End(MACHINE, "machine", reason)


@dataclass(slots=True)
class _Told:
    """The disclosures of a call: those that count as *heard*, and those that were and turned out *lost*, in the order in which
    that was reported; how often each was played since its step began, and which step that was.
    """

    heard: set[Disclosure] = field(default_factory=set)
    lost: list[Disclosure] = field(default_factory=list)
    plays: dict[Disclosure, int] = field(default_factory=dict)
    steps: dict[Disclosure, str] = field(default_factory=dict)

    def take(self, result: Result) -> None:
        """Late news in *result*."""
        if isinstance(result, Played | Heard):
            for term in result.lost:
                self.heard.discard(term)
                if term not in self.lost:
                    self.lost.append(term)

    def begin(self, term: Disclosure, step: str) -> None:
        """*step* is going to tell *term*, whatever was told before."""
        self.plays[term], self.steps[term] = 0, step
        self.heard.discard(term)
        if term in self.lost:
            self.lost.remove(term)

    def has_heard(self, term: Disclosure) -> None:
        self.heard.add(term)
        if term in self.lost:
            self.lost.remove(term)


Telling = Generator[Action, Result, tuple[str, Objection | None]]
"""Gives why a disclosure could not be told, in words, and what the callee objected; neither when all is well."""


def _steps(plan: Dialplan) -> Generator[Action, Result, None]:
    """The script itself, with a person."""
    told = _Told()
    affirmed: set[Purpose] = set()
    refused = settled = False  # settled: nothing that is still said can change how the call ends
    name = asked = plan.start
    while True:
        step = plan.steps[name]
        objection: Objection | None = None
        failure = ""
        if step.say:
            result = yield Play(name, step.say.prompts, watch=not settled)
            told.take(result)
            objection = _objection(result)
            name = _then(step.then)
        elif step.disclose:
            failure, objection = yield from _disclose(name, step.disclose, told, watch=not settled)
            name = _then(step.then) if not failure else name
        elif step.ask:
            if step.ask.purpose == "consent":
                failure, objection = yield from _tell_again(told, watch=not settled)
            if not failure and objection is None:
                fault = _out_of_place(plan, step.ask, told.heard, affirmed, refused=refused)
                if fault:
                    yield End(name, "failed", f"{fault} {name!r}")
                    return
                asked = name
                name, verdict = yield from _ask(asked, step.ask, told)
                refused |= verdict == "stop" or (step.ask.purpose in BINDING and verdict not in ("affirm", "agent"))
                settled |= verdict == "stop"
                if verdict == "affirm" and step.ask.purpose == "consent" and told.lost:
                    name = asked  # the yes was given without them
                    continue
                if verdict == "affirm":
                    affirmed.add(step.ask.purpose)
                if verdict == "affirm" and step.ask.purpose == "consent":
                    granted = yield Grant(asked)
                    if not (isinstance(granted, Done) and granted.ok):
                        name, failure = asked, "the order was no longer open when the consent was given"
        elif step.transfer:
            done = yield TransferTo(name, step.transfer.target)
            if isinstance(done, Done) and done.ok:
                yield End(name, "transferred", step.transfer.target)
                return
            name = step.transfer.failed
        elif step.hangup:
            if step.hangup.denial:
                yield Deny(asked, step.hangup.denial)
                settled = True
            if step.hangup.prompts:
                objection = _objection((yield Play(name, step.hangup.prompts, watch=not settled)))
            if objection is None:
                yield End(name, step.hangup.outcome, step.hangup.denial or "")
                return
        else:
            name = _then(step.goto)
        if objection is not None:
            refused = settled = True
            name = plan.deny if objection == "deny" else plan.stop
        elif failure:
            yield Play(name, (plan.goodbye,), watch=False)
            yield End(name, "failed", failure)
            return


def _disclose(name: str, disclose: Disclose, told: _Told, *, watch: bool) -> Telling:
    """Tell every term, each once more where it was not heard."""
    for term in disclose.terms:
        told.begin(term, name)
        failure, objection = yield from _tell(term, told, watch=watch)
        if failure or objection is not None:
            return failure, objection
    return "", None


def _tell_again(told: _Told, *, watch: bool) -> Telling:
    """Tell what turned out lost since it was told."""
    while told.lost:
        failure, objection = yield from _tell(told.lost[0], told, watch=watch)
        if failure or objection is not None:
            return failure, objection
    return "", None


def _tell(term: Disclosure, told: _Told, *, watch: bool) -> Telling:
    """Play *term* until it is heard, or as often as it may be."""
    how = "did not arrive"
    while told.plays[term] < DISCLOSURE_PLAYS:
        told.plays[term] += 1
        played = yield Play(told.steps[term], (disclosure_prompt(term),), disclosure=term, watch=watch)
        objection = _objection(played)
        how = "could not be played"
        if isinstance(played, Played) and played.whole:
            how = "did not arrive"
            told.has_heard(term)
        told.take(played)
        if objection is not None:
            return "", objection
        if term in told.heard:
            return "", None
    return f"the disclosure {term!r} {how} whole", None


def _objection(result: Result) -> Objection | None:
    return result.objection if isinstance(result, Played) else None


def _out_of_place(
    plan: Dialplan, ask: Ask, heard_whole: set[Disclosure], affirmed: set[Purpose], *, refused: bool
) -> str:
    """Why the consent question must not be put here; empty where it may."""
    if ask.purpose != "consent":
        return ""
    if not heard_whole.issuperset(MANDATORY):
        return "not every disclosure was heard before"
    if plan.captures == 2 and "interest" not in affirmed:
        return "no interest was declared before"
    return "a no is final, and one came before" if refused else ""


def _ask(name: str, ask: Ask, told: _Told) -> Generator[Action, Result, tuple[str, Verdict]]:
    """Put one question until it is answered or its patience is spent: the next step, and the verdict that chose it.

    Silence and answers that do not fit are counted apart, but together for the binding questions: twice unclear is a no (rule R1).
    """
    binding = ask.purpose in BINDING
    noinputs = nomatches = repeats = 0
    prompts: tuple[str, ...] = (ask.prompt,)
    while True:
        result = yield Question(name, prompts, ask)
        told.take(result)
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

"""The call script as data (rule R5): steps of six kinds, named in the terms of VoiceXML.

``say`` and ``disclose`` play prompts, ``ask`` puts a field (one question with its grammar), ``goto``, ``transfer`` and
``hangup`` do what they say. Prompts and grammars are named here and worded in ``prompts/<language>/``. ``machine`` says what is
done where no person answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gateway.consent.canonical import content_hash
from gateway.consent.disclosure import Disclosure
from gateway.consent.events import CallOutcome, Denial
from gateway.consent.order import DialplanRef, Language
from gateway.dialplan.errors import BadDialplan
from gateway.strict_yaml import load_yaml

Purpose = Literal["leave", "identity", "eligibility", "question", "interest", "consent"]
BINDING: tuple[Purpose, ...] = ("interest", "consent")
"""The questions that a yes is judged strictest for: the one that grants, and the one that a script may put before it."""

StepName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]
MACHINE = "machine"
"""The step under which a record has what was played to a machine."""

PromptName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Retry(Part):
    """What is played when nothing fits: one prompt more each time, then on to *then*."""

    prompts: tuple[PromptName, ...] = Field(min_length=1, max_length=3)
    then: StepName


class Ask(Part):
    """A field: one question, its grammar, and where each verdict leads. *timeout_s* is the silence before ``noinput``."""

    prompt: PromptName
    grammar: str
    purpose: Purpose
    bargein: bool = False
    timeout_s: float = Field(default=5.0, ge=1, le=20)
    affirm: StepName
    deny: StepName
    agent: StepName
    stop: StepName
    noinput: Retry
    nomatch: Retry


class Say(Part):
    prompts: tuple[PromptName, ...] = Field(min_length=1)


class Disclose(Part):
    """Mandatory sentences of the offer, each played to its end and proven in the record."""

    terms: tuple[Disclosure, ...] = Field(min_length=1)


class Transfer(Part):
    """Hand the callee to a person (rule R4). *target* names an entry of ``transfer`` in the settings."""

    target: str
    failed: StepName


class Hangup(Part):
    outcome: CallOutcome = "completed"
    denial: Denial | None = None
    prompts: tuple[PromptName, ...] = ()

    @field_validator("outcome")
    @classmethod
    def _by_the_script(cls, outcome: CallOutcome) -> CallOutcome:
        if outcome == "machine":
            raise ValueError("whether a machine has answered is heard, not scripted; see 'machine' at the top level")
        return outcome


class Machine(Part):
    """Answering machines, on outbound calls: whether they are looked for, what tells them, and what is done then.

    The thresholds are those of ``gateway.speech.machine``, by the same names, all in ms but *words*. *retry*: whether an order
    is called about again, *retry_after_s* seconds later, as far as its attempts go.
    """

    detect: bool
    initial_silence_ms: int = Field(default=1200, ge=200, le=5000)
    greeting_ms: int = Field(default=4000, ge=1500, le=15_000)
    pause_ms: int = Field(default=500, ge=200, le=2000)
    words: int = Field(default=12, ge=4, le=60)
    word_ms: int = Field(default=100, ge=40, le=500)
    gap_ms: int = Field(default=60, ge=20, le=300)
    total_ms: int = Field(default=6000, ge=2000, le=20_000)
    talk_ms: int = Field(default=8000, ge=3000, le=30_000)
    beep_ms: int = Field(default=120, ge=80, le=1000)
    then: Literal["hang_up", "leave_message"] = "hang_up"
    prompt: PromptName | None = None
    retry: bool = True
    retry_after_s: float = Field(default=14_400, ge=1, le=604_800)

    @model_validator(mode="after")
    def _fits(self) -> Machine:
        if (self.then == "leave_message") != (self.prompt is not None):
            raise ValueError(f"'prompt' is the message of then: leave_message, and belongs to it; here: {self.then}")
        if not self.initial_silence_ms < self.greeting_ms < self.total_ms:
            raise ValueError("initial_silence_ms, greeting_ms and total_ms must rise in this order")
        return self


class Step(Part):
    """One step: exactly one of its kinds, and ``then`` where the kind does not choose its own way."""

    say: Say | None = None
    disclose: Disclose | None = None
    ask: Ask | None = None
    goto: StepName | None = None
    transfer: Transfer | None = None
    hangup: Hangup | None = None
    then: StepName | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Step:
        kinds = [k for k in ("say", "disclose", "ask", "goto", "transfer", "hangup") if getattr(self, k) is not None]
        if len(kinds) != 1:
            raise ValueError(f"a step is exactly one of say, disclose, ask, goto, transfer, hangup; here: {kinds}")
        if (kinds[0] in ("say", "disclose")) != (self.then is not None):
            raise ValueError(f"'then' belongs to say and disclose, and they need it; here: {kinds[0]}")
        return self

    def exits(self) -> Iterator[str]:
        """Every step that this one can lead to."""
        if self.then:
            yield self.then
        if self.goto:
            yield self.goto
        if self.transfer:
            yield self.transfer.failed
        if self.ask:
            ask = self.ask
            yield from (ask.affirm, ask.deny, ask.agent, ask.stop, ask.noinput.then, ask.nomatch.then)


class Dialplan(Part):
    """An approved script. ``ref`` binds an order to its exact content."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=64)
    version: int = Field(ge=1)
    description: str
    languages: tuple[Language, ...] = Field(min_length=1)
    start: StepName
    goodbye: PromptName = Field(description="played when the gateway must end the call")
    deny: StepName = Field(description="where a no leads that is said while a prompt plays")
    stop: StepName = Field(description="where a stop word leads that is said while a prompt plays")
    machine: Machine | None = None
    captures: Literal[1, 2] = Field(default=1, description="2: interest first, then consent; the phrase is given twice")
    steps: dict[StepName, Step]

    @model_validator(mode="after")
    def _known_steps(self) -> Dialplan:
        heads = [(self.start, "start"), (self.deny, "deny"), (self.stop, "stop")]
        for target, source in [*heads, *((t, n) for n, s in self.steps.items() for t in s.exits())]:
            if target not in self.steps:
                raise ValueError(f"{source} leads to {target!r}, which is no step")
        if self.machine is not None and MACHINE in self.steps:
            raise ValueError(
                f"the step {MACHINE!r} must have another name: records call so what is played to a machine"
            )
        return self

    @cached_property
    def ref(self) -> DialplanRef:
        content = self.model_dump(mode="json")
        if self.machine is None:
            del content["machine"]  # a script that says nothing of it is what it was before there was a word for it
        return DialplanRef(name=self.name, version=self.version, sha256=content_hash(content))

    def prompt_names(self) -> tuple[str, ...]:
        """Every prompt this script can play; disclosures as ``disclosure_<term>``."""
        names = [self.goodbye]
        if self.machine is not None and self.machine.prompt is not None:
            names.append(self.machine.prompt)
        for step in self.steps.values():
            if step.say:
                names += step.say.prompts
            if step.disclose:
                names += [disclosure_prompt(term) for term in step.disclose.terms]
            if step.ask:
                names += [step.ask.prompt, *step.ask.noinput.prompts, *step.ask.nomatch.prompts]
            if step.hangup:
                names += step.hangup.prompts
        return tuple(dict.fromkeys(names))

    def grammar_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(step.ask.grammar for step in self.steps.values() if step.ask))


def disclosure_prompt(term: Disclosure) -> str:
    """The prompt that words *term*."""
    return f"disclosure_{term}"


def parse_dialplan(text: str, source: str) -> Dialplan:
    """The dialplan in *text* (YAML). Raises BadDialplan naming *source* and the path of the fault."""
    try:
        data: Any = load_yaml(text)
        return Dialplan.model_validate(data)
    except yaml.YAMLError as error:
        raise BadDialplan(f"{source}: not YAML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise BadDialplan(f"{source}: {faults}") from error


def load_dialplans(folder: Path) -> dict[str, Dialplan]:
    """Every ``*.yaml`` directly in *folder*, by name. Raises BadDialplan."""
    found: dict[str, Dialplan] = {}
    for path in sorted(folder.glob("*.yaml")):
        plan = parse_dialplan(path.read_text(encoding="utf-8"), str(path))
        if plan.name in found:
            raise BadDialplan(f"{path}: the name {plan.name!r} is taken by another file")
        found[plan.name] = plan
    return found

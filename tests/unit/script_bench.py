"""Call scripts driven by hand: a callee answers every action, whatever the clock says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from gateway.consent.verdict import Verdict
from gateway.dialplan.interpreter import (
    Action,
    Deny,
    Done,
    End,
    Grant,
    Heard,
    Objection,
    Play,
    Played,
    Question,
    Result,
    TransferTo,
    run,
)
from gateway.dialplan.model import Dialplan, load_dialplans
from gateway.resources import data_folder

SCRIPT = data_folder("dialplans") / "plan-upgrade.yaml"
PLANS = load_dialplans(SCRIPT.parent)
SHIPPED, TWICE = PLANS["plan-upgrade"], PLANS["plan-upgrade-twice"]
VERDICTS: tuple[Verdict, ...] = ("affirm", "deny", "unclear", "noinput", "stop", "repeat", "agent")
MOST_ACTIONS = 500
chance = st.sampled_from([*("affirm",) * 8, *VERDICTS])
"""Mostly yes: else no call would ever get to the end."""


def drive(plan: Dialplan, answer: Callable[[Action], Result]) -> list[Action]:
    """All actions of one call, each answered by *answer*."""
    script = run(plan)
    actions = [next(script)]
    while not isinstance(actions[-1], End):
        assert len(actions) < MOST_ACTIONS, "the call never ends"
        actions.append(script.send(answer(actions[-1])))
    with pytest.raises(StopIteration):
        next(script)
    return actions


class Callee:
    """Answers each question by the next of its verdicts, yes when there is none; hears everything whole but *cut*; objects to
    one prompt, as often as it is played and watched.
    """

    def __init__(
        self,
        *,
        cut: tuple[int, str] = (0, ""),
        granted: bool = True,
        transferred: bool = True,
        objects: tuple[str, Objection] | None = None,
        **said: str,
    ) -> None:
        self.said: dict[str, Iterator[str]] = {name: iter(verdicts.split()) for name, verdicts in said.items()}
        self.cuts, self.cut = cut
        self.objects = objects
        self.granted = granted
        self.transferred = transferred

    def __call__(self, action: Action) -> Result:
        match action:
            case Question():
                return Heard(next(self.said.get(action.step, iter(())), "affirm"))  # type: ignore[arg-type]
            case Play() if self.objects and action.watch and self.objects[0] in action.prompts:
                return Played(whole=False, objection=self.objects[1])
            case Play() if action.disclosure == self.cut and self.cuts:
                self.cuts -= 1
                return Played(whole=False)
            case Play():
                return Played(whole=True)
            case Grant():
                return Done(self.granted)
            case TransferTo():
                return Done(self.transferred)
        return Done()


def call(plan: Dialplan = SHIPPED, **said: Any) -> list[Action]:
    return drive(plan, Callee(**said))


def prompts(actions: list[Action]) -> list[str]:
    return [prompt for action in actions if isinstance(action, Play | Question) for prompt in action.prompts]


def asked(actions: list[Action], step: str) -> list[str]:
    return [
        prompt
        for action in actions
        if isinstance(action, Question) and action.step == step
        for prompt in action.prompts
    ]


def granted(actions: list[Action]) -> bool:
    return any(isinstance(action, Grant) for action in actions)


def denial(actions: list[Action]) -> Deny | None:
    return next((action for action in actions if isinstance(action, Deny)), None)


def questions(actions: list[Action]) -> list[str]:
    return [action.step for action in actions if isinstance(action, Question)]


def edited(name: str, **steps: Any) -> Dialplan:
    """A shipped script with some steps put in another's place."""
    data = yaml.safe_load((SCRIPT.parent / f"{name}.yaml").read_text(encoding="utf-8"))
    data["steps"] |= steps
    return Dialplan.model_validate(data)


def unsafe(**changes: Any) -> Dialplan:
    """The shipped script, broken in a way that the linter would not let pass."""
    return edited("plan-upgrade", **changes)


def consent(**changes: Any) -> dict[str, Any]:
    return {"ask": yaml.safe_load(SCRIPT.read_text(encoding="utf-8"))["steps"]["consent"]["ask"] | changes}

"""What the demo shows: who says what, and where each order must end."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.demo.parties import Habit
from gateway.demo.world import clip

Yes = ("leave", "owner", "adult")


@dataclass(frozen=True, slots=True)
class Scenario:
    """*script* is the softphone's; *state* where the order must stand at the end; *webhook* whether billing hears of it."""

    name: str
    number: str
    script: str
    habit: Habit
    state: str
    webhook: bool
    outbound: bool = False


def _script(voice: str, *last: str) -> str:
    return ";".join([*(clip(voice, name) for name in Yes), *last])


SCENARIOS = (
    Scenario(
        "inbound call, clear yes, code replied", "+821020000001",
        _script("mix", clip("mix", "consent")), "replies", "provisioned", webhook=True,
    ),
    Scenario(
        "outbound call, clear yes, code replied", "+821020000002",
        _script("mix", clip("mix", "consent")), "replies", "provisioned", webhook=True, outbound=True,
    ),
    Scenario(
        "a filler: 음…", "+821020000003",
        _script("mix", clip("mix", "filler_um"), clip("mix", "filler_um")), "replies", "unclear", webhook=False,
    ),
    Scenario(
        "a refusal", "+821020000004",
        _script("mix", clip("mix", "refuse")), "replies", "refused", webhook=False,
    ),
    Scenario(
        "hangs up during the price", "+821020000005",
        _script("mix", "hangup:10.0"), "replies", "ordered", webhook=False,
    ),
    Scenario(
        "clear yes, no SMS code", "+821020000006",
        _script("mix", clip("mix", "consent")), "silent", "expired", webhook=False,
    ),
    Scenario(
        "clear yes, wrong codes", "+821020000007",
        _script("mix", clip("mix", "consent")), "wrong", "failed", webhook=False,
    ),
)  # fmt: skip

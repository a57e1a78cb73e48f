"""What the witnesses are worth: false accepts against false rejects, as one floor is moved and the clips are judged again.

Nothing is listened to: every clip keeps what its witnesses reported, and ``verdict.judge`` is asked how far the floor may be
raised until it no longer takes the clip for a yes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.consent.testimony import Grammar, Testimony
from gateway.consent.verdict import STRICT, Floors, judge
from gateway.measure.report import Report

FAR = 1e6
"""Beyond every value that a witness reports."""

OFF = Floors(
    word_confidence=0.0, share=0.0, phonetic_distance=FAR, path_margin=-FAR, margin_per_distance=0.0, snr_db=-FAR,
    clipped=FAR, echo=FAR, pitch_jump=FAR, final_rise=(FAR, FAR), sound_ms=(0.0, FAR), word_sound_ms=(0.0, FAR),
    pause_ms=FAR, unexplained_ms=FAR,
)  # fmt: skip
"""No witness objects, whatever it has heard."""

STEPS = 50
"""Of bisection: a limit is exact to a billionth of what the widest floor can span."""


@dataclass(frozen=True, slots=True)
class WitnessSet:
    """Which witnesses are asked, and the floor of theirs that is moved, from *laxest* to *strictest*.

    *binding*: the second pass is asked too. *objects*: words of negation in it count.
    """

    name: str
    laxest: float
    strictest: float
    floors: Callable[[float], Floors]
    binding: bool = True
    objects: bool = False


@dataclass(frozen=True, slots=True)
class Point:
    """With the floor at *threshold*: *accepted* clips that are no yes, *rejected* clips of the asked phrase."""

    threshold: float
    accepted: int
    rejected: int


@dataclass(frozen=True, slots=True)
class Curve:
    """The points of a set from the laxest floor to the strictest; no two alike."""

    name: str
    points: tuple[Point, ...]


SETS = (
    WitnessSet(
        "grammar pass alone (word confidence swept)", 0.0, 1.0, lambda t: replace(OFF, word_confidence=t), binding=False
    ),
    WitnessSet(
        "path margin swept, other witnesses off", -FAR, FAR, lambda t: replace(OFF, path_margin=t)
    ),
    WitnessSet(
        "phonetic distance swept, other witnesses off", FAR, 0.0, lambda t: replace(OFF, phonetic_distance=t)
    ),
    WitnessSet(
        "all witnesses (path margin swept, the others at their floors)", -FAR, FAR,
        lambda t: replace(STRICT, path_margin=t), objects=True,
    ),
)  # fmt: skip


def sweep(report: Report, grammar: Grammar, witnesses: WitnessSet) -> Curve:
    """The trade of *witnesses* over the clips of *report*: each step is where one more clip falls below the floor."""
    limits = [_limit(one.hearing.testimony, grammar, witnesses) for one in report.heard if one.clip.label != "affirm"]
    wrong = sorted(limit for limit in limits if limit is not None)
    limits = [_limit(one.hearing.testimony, grammar, witnesses) for one in report.chances]
    right = sorted(limit for limit in limits if limit is not None)
    points: list[Point] = []
    for strictness in sorted({0.0, *wrong, *right, 1.0}):
        accepted = len(wrong) - bisect_left(wrong, strictness)
        rejected = len(limits) - len(right) + bisect_left(right, strictness)
        point = Point(_threshold(witnesses, strictness), accepted, rejected)
        if points and (points[-1].accepted, points[-1].rejected) == (accepted, rejected):
            points.pop()
        points.append(point)
    return Curve(witnesses.name, tuple(points))


def in_force(report: Report, grammar: Grammar) -> Point:
    """What the floors in force make of the clips: the operating point. Its threshold is that of the path margin."""
    accepted = sum(_accepts(one.hearing.testimony, grammar) for one in report.heard if one.clip.label != "affirm")
    rejected = sum(not _accepts(one.hearing.testimony, grammar) for one in report.chances)
    return Point(STRICT.path_margin, accepted, rejected)


def judged_otherwise(report: Report, grammar: Grammar) -> int:
    """How many clips get another verdict today than when they were heard: the floors or the phrases have changed since."""
    return sum(
        judge(one.hearing.testimony, grammar, binding=True).verdict != one.judgement.verdict for one in report.heard
    )


def _limit(testimony: Testimony, grammar: Grammar, witnesses: WitnessSet) -> float | None:
    """The strictest floor that still takes *testimony* for a yes, 0 laxest to 1 strictest; None where none does."""

    def passes(strictness: float) -> bool:
        floors = witnesses.floors(_threshold(witnesses, strictness))
        asked = grammar if witnesses.objects else replace(grammar, forbidden=())
        return judge(testimony, asked, binding=witnesses.binding, floors=floors).verdict == "affirm"

    if testimony.heard not in grammar.affirm or not passes(0.0):
        return None
    if passes(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


def _threshold(witnesses: WitnessSet, strictness: float) -> float:
    return witnesses.laxest + strictness * (witnesses.strictest - witnesses.laxest)


def _accepts(testimony: Testimony, grammar: Grammar) -> bool:
    return judge(testimony, grammar, binding=True).verdict == "affirm"

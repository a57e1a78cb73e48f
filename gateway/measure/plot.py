"""Figures of a report: what the witnesses are worth (detection error tradeoff), and how long the verdict takes.

Needs matplotlib, the extra ``plot``. Each figure is written as PNG (150 dpi) and as SVG; the same report gives the same octets.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import NormalDist
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator
from matplotlib.transforms import Transform, offset_copy

from gateway.consent.testimony import Grammar
from gateway.measure.report import Report, upper_bound
from gateway.measure.sweep import FAR, SETS, Curve, Point, in_force, sweep

DPI = 150
INCHES = (8.0, 7.4)
LATENCY_INCHES = (8.0, 5.6)
STYLE: Any = {
    "svg.hashsalt": "consent-gateway",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "figure.constrained_layout.w_pad": 0.12,
    "figure.constrained_layout.h_pad": 0.12,
}
FEW = 10
"""Fewer clips of the asked phrase than this say little of how often it is rejected."""

BLUE, ORANGE, GREEN, PURPLE, BLACK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#595959"
"""Okabe and Ito's colours, which colour-blind readers tell apart."""


@dataclass(frozen=True, slots=True)
class Look:
    """*width* and *size* (of the marks) in points: where curves run together, the broader one shows under the finer."""

    colour: str
    marker: str
    line: str
    width: float
    size: float


LOOKS = (
    Look(ORANGE, "o", "-", 5.5, 12.0), Look(GREEN, "s", "-", 3.4, 8.0), Look(PURPLE, "^", "--", 2.0, 6.5),
    Look(BLUE, "D", "-", 1.6, 4.5),
)  # fmt: skip
"""Of each set of witnesses, in their order."""

STAR = Look(BLACK, "*", "none", 0.0, 15.0)
"""Of the floors in force."""

LATENCY_LOOKS = (Look(BLUE, "D", "-", 1.8, 9.0), Look(ORANGE, "o", "--", 1.8, 8.0))
DOTS = (0, (1, 2))
RATES = (
    1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8,
    0.9, 0.95, 0.98, 0.99, 0.995, 0.999,
)  # fmt: skip
"""Where the axes are marked."""

MARGIN, SPAN = 0.2, 0.9
"""Around the points, and of an axis at least, in normal deviates."""

ARROW = {"arrowstyle": "-|>", "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
ARROW_POINTS = 26
APART_POINTS = 10
"""Between marks that would cover each other."""

ANSWERS = ("affirm", "deny", "stop", "repeat", "agent")
SHARES = (50, 95)
STEP_MS = 200
LAST_CHARACTER = 0x24F
"""Of the Latin letters: the font of the figures has no Hangul and no Chinese."""

_normal = NormalDist()


class NothingToDraw(Exception):
    """The clips do not say what the figure shows; the message names what they need."""


def draw_detection(report: Report, grammar: Grammar, about: str, folder: Path) -> list[Path]:
    """Write ``detection.png`` and ``detection.svg``: false rejects of the asked phrase against false accepts, for each set of
    witnesses, on normal-deviate axes. *about* names the clips. Raises NothingToDraw and OSError.
    """
    chances, negatives = len(report.chances), report.negatives
    if not chances:
        raise NothingToDraw(
            "detection: no clip is of the asked phrase; add clips with the label affirm and the transcript "
            f"{report.target!r}"
        )
    if not negatives:
        raise NothingToDraw("detection: every clip is a yes; add clips with other labels, which must be refused")
    few = f". Only {_clips(chances)} of it: the false reject rate is hardly known" if chances < FEW else ""
    note = f"{_clips(chances)} of the asked phrase, {negatives} that must be refused{few}"
    with _style():
        figure, axes = _figure("Detection error tradeoff of the witnesses", about, note, INCHES)
        _detection(axes, report, [sweep(report, grammar, one) for one in SETS], in_force(report, grammar))
        return _write(figure, folder, "detection")


def draw_latency(report: Report, about: str, folder: Path) -> list[Path]:
    """Write ``latency.png`` and ``latency.svg``: the distribution of the time from the labelled end of speech to the verdict,
    ms, of answers and of what was unclear. *about* names the clips. Raises NothingToDraw and OSError.
    """
    groups = []
    for name, verdicts in (("answers", ANSWERS), ("unclear", ("unclear",))):
        heard = [one for one in report.heard if one.judgement.verdict in verdicts]
        groups.append((name, sorted(one.latency_ms for one in heard if one.latency_ms is not None)))
    timed = sum(len(values) for _, values in groups)
    if not timed:
        raise NothingToDraw(
            "latency: no clip has a labelled end of speech; add the column speech_end (seconds) to the manifest"
        )
    with _style():
        figure, axes = _figure(
            "Latency of the verdict", about, f"{_clips(timed)} with a labelled end of speech", LATENCY_INCHES
        )
        _latency(axes, groups)
        return _write(figure, folder, "latency")


def _detection(axes: Axes, report: Report, curves: Sequence[Curve], now: Point) -> None:
    chances, negatives = len(report.chances), report.negatives
    drawn, bounds = [], []
    for curve, look in zip(curves, LOOKS, strict=True):
        points = [point for point in curve.points if point.rejected < chances]
        path = [_place(point, chances, negatives) for point in points if point.accepted and point.rejected]
        axes.plot([x for x, _ in path], [y for _, y in path], color=look.colour, marker=look.marker, ls=look.line,
                  lw=look.width, ms=look.size, label=curve.name if points else f"{curve.name}: never a yes")  # fmt: skip
        bounds += [(point, look) for point in _bounds(points)]
        drawn += [*path, *(_place(point, chances, negatives) for point in _bounds(points))]
    drawn += _operating_point(axes, now, chances, negatives)
    if now.rejected < chances and not (now.accepted and now.rejected):
        bounds.append((now, STAR))
    bounds.sort(key=lambda bound: (bound[0].accepted, bound[0].rejected))
    for _, alike in groupby(bounds, key=lambda bound: (bound[0].accepted, bound[0].rejected)):
        group = list(alike)
        for number, (point, look) in enumerate(group):
            apart = ((len(group) - 1) / 2 - number) * APART_POINTS
            _bound(axes, point, _place(point, chances, negatives), look, apart)
    if bounds:
        axes.plot((), (), color=GREY, mfc="white", mew=1.6, marker="o", ms=7, ls="none",
                  label="hollow, or with an arrow: none at all, drawn at its 95 % bound; stacked where they coincide")  # fmt: skip
    drawn = drawn or [(_deviate(upper_bound(0, negatives)), 0.0)]
    for axis, values, limit in (
        (axes.xaxis, [x for x, _ in drawn], axes.set_xlim), (axes.yaxis, [y for _, y in drawn], axes.set_ylim),
    ):  # fmt: skip
        around = max(MARGIN, (SPAN - max(values) + min(values)) / 2)
        least, most = min(values) - around, max(values) + around
        limit(least, most)
        ticks = [rate for rate in RATES if least <= _deviate(rate) <= most]
        axis.set_major_locator(FixedLocator([_deviate(rate) for rate in ticks]))
        axis.set_major_formatter(FixedFormatter([_percent(rate) for rate in ticks]))
    axes.set_xlabel("false accept rate: clips that are no yes, taken for one (%, normal deviate)")
    axes.set_ylabel("false reject rate of the asked phrase (%, normal deviate)")


def _operating_point(axes: Axes, now: Point, chances: int, negatives: int) -> list[tuple[float, float]]:
    """Mark the floors in force, and shade up to the 95 % bounds of both rates; the corners of what was drawn."""
    label = f"floors in force: {now.accepted} of {negatives} accepted, {now.rejected} of {chances} rejected"
    if now.rejected == chances:
        axes.plot((), (), color=BLACK, marker="*", ms=13, ls="none", label=f"{label}, beyond the axis")
        return []
    x, y = _place(now, chances, negatives)
    right, top = _deviate(upper_bound(now.accepted, negatives)), _deviate(upper_bound(now.rejected, chances))
    if now.accepted and now.rejected:
        axes.plot((x,), (y,), color=BLACK, mec="white", mew=0.8, marker="*", ms=STAR.size, ls="none", zorder=6)
    axes.plot((), (), color=BLACK, marker="*", ms=13, ls="none", label=label)
    axes.add_patch(
        Rectangle((-FAR, -FAR), right + FAR, top + FAR, color=GREY, alpha=0.1, lw=0, zorder=0,
                  label="up to the 95 % bounds of both its rates")
    )  # fmt: skip
    return [(x, y), (right, top)]


def _bounds(points: Sequence[Point]) -> Iterator[Point]:
    """Where a curve leaves the axes: its best point without a false accept, and its best without a false reject."""
    spotless = next((point for point in points if not point.accepted), None)
    faithful = next((point for point in reversed(points) if not point.rejected), None)
    yield from dict.fromkeys(point for point in (spotless, faithful) if point is not None)


def _bound(axes: Axes, point: Point, place: tuple[float, float], look: Look, apart: float) -> None:
    """A hollow mark at the 95 % bound of what did not happen, and an arrow to where the truth may lie. *apart*: in points."""
    shift = (apart, 0.0) if point.accepted else (0.0, apart)
    _arrows(axes, point, place, look.colour, shift)
    axes.plot((place[0],), (place[1],), color=look.colour, mfc=BLACK if look is STAR else "white",
              mew=0.0 if look is STAR else 1.6, marker=look.marker, ms=STAR.size if look is STAR else 6, ls="none",
              zorder=5, transform=_moved(axes, shift))  # fmt: skip


def _arrows(axes: Axes, point: Point, place: tuple[float, float], colour: str, shift: tuple[float, float]) -> None:
    """To the left where nothing was accepted, down where nothing was rejected."""
    for count, across, up in ((point.accepted, -ARROW_POINTS, 0), (point.rejected, 0, -ARROW_POINTS)):
        if not count:
            axes.annotate(
                "", xy=place, xycoords=_moved(axes, (shift[0] + across, shift[1] + up)), xytext=place,
                textcoords=_moved(axes, shift), arrowprops={**ARROW, "color": colour}, annotation_clip=False, zorder=3,
            )  # fmt: skip


def _moved(axes: Axes, points: tuple[float, float]) -> Transform:
    """Where the data lies, so many points to the right and up."""
    return offset_copy(axes.transData, axes.get_figure(root=True), *points, units="points")


def _place(point: Point, chances: int, negatives: int) -> tuple[float, float]:
    """Where *point* is drawn, in normal deviates: what did not happen at all lies at its 95 % bound."""
    accepted = point.accepted / negatives if point.accepted else upper_bound(0, negatives)
    rejected = point.rejected / chances if point.rejected else upper_bound(0, chances)
    return _deviate(accepted), _deviate(rejected)


def _latency(axes: Axes, groups: Sequence[tuple[str, Sequence[float]]]) -> None:
    slowest = max(float(np.percentile(values, SHARES[-1])) for _, values in groups if values)
    every = np.concatenate([values for _, values in groups])
    most = np.ceil(max(1.25 * slowest, STEP_MS) / STEP_MS) * STEP_MS
    least = -most / 10 if every.min() < 0 else 0.0
    for share in SHARES:
        axes.axhline(share, color=GREY, lw=0.9, ls=DOTS, zorder=0)
    for (name, values), look in zip(groups, LATENCY_LOOKS, strict=True):
        marks = [float(np.percentile(values, share)) for share in SHARES if values]
        told = ", ".join(f"p{share} {mark:.0f} ms" for share, mark in zip(SHARES, marks, strict=False)) or "-"
        risen = 100 * np.arange(len(values) + 1) / max(1, len(values))
        axes.step([least, *values], risen, where="post", color=look.colour, lw=look.width, ls=look.line,
                  marker=look.marker, markevery=[], ms=look.size, mec="white", label=f"{name}, {_clips(len(values))}: {told}")  # fmt: skip
        axes.plot(marks, SHARES[: len(marks)], color=look.colour, mec="white", mew=0.8, marker=look.marker, ms=look.size,
                  ls="none", zorder=5)  # fmt: skip
        axes.vlines(marks, 0, SHARES[: len(marks)], color=look.colour, lw=0.9, ls=DOTS)
    if least < 0:
        axes.axvspan(least, 0, color=GREY, alpha=0.12, lw=0)
        axes.annotate(
            "before the labelled end", (0, 0.725), xycoords=("data", "axes fraction"), xytext=(-4, 0),
            textcoords="offset points", rotation=90, ha="right", va="center", fontsize=8, color=GREY,
        )  # fmt: skip
    outside = int(np.sum((every < least) | (every > most)))
    beyond = f"; {_clips(outside)} beyond the axis, {every.min():.0f} to {every.max():.0f}" if outside else ""
    axes.set_xlim(least, most)
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 20, 40, 50, 60, 80, 95, 100])
    axes.set_xlabel(f"from the labelled end of speech to the verdict (ms{beyond})")
    axes.set_ylabel("clips judged by then (%)")


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Ours alone, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def _figure(title: str, about: str, note: str, inches: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(inches, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    latin = "".join(character if ord(character) <= LAST_CHARACTER else "?" for character in f"{about}\n{note}")
    axes.set_title(title, loc="left", fontsize=14, fontweight="bold", pad=44)
    axes.annotate(latin, (0, 1), xycoords="axes fraction", xytext=(0, 10), textcoords="offset points", fontsize=9,
                  color=GREY, va="bottom", linespacing=1.4)  # fmt: skip
    axes.grid(color=GREY, alpha=0.18, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _write(figure: Figure, folder: Path, name: str) -> list[Path]:
    figure.legend(loc="outside lower left", frameon=False, handlelength=3.0)
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    figure.savefig(png, dpi=DPI)
    figure.savefig(svg, metadata={"Date": None})
    return [png, svg]


def _deviate(rate: float) -> float:
    """*rate* on the normal-deviate (probit) axis."""
    return _normal.inv_cdf(min(max(rate, RATES[0]), RATES[-1]))


def _percent(rate: float) -> str:
    return f"{100 * rate:.2g}" if rate < RATES[-1] else f"{100 * rate:g}"


def _clips(count: int) -> str:
    return f"{count} clip{'' if count == 1 else 's'}"

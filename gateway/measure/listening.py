"""``speech eval``: the whole listener over labelled clips, at its real chunking, as fast as it can; and what came of it."""

from __future__ import annotations

import asyncio
import csv
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gateway.consent.phonetics import sounds
from gateway.consent.verdict import Grammar, Judgement, judge
from gateway.measure.channel import Channel
from gateway.speech.endpointer import FRAME_SAMPLES
from gateway.speech.frontend import TELEPHONE_RATE
from gateway.speech.listener import Hearing, Listener
from gateway.speech.prompts import read_wav

COLUMNS = ("path", "transcript", "label")
TAIL_S = 3.0
TIMEOUT_S = 2.0
IN_FLIGHT = 3
"""Clips at once for each process: enough that none waits for its next clip."""


class BadManifest(Exception):
    """The list of clips cannot be read."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A row of the manifest. *speech_end_s* is the labelled end of speech, None where it is not labelled."""

    path: Path
    transcript: str
    label: str
    voice: str = ""
    band: str = ""
    condition: str = ""
    speech_end_s: float | None = None


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of one clip. *latency_ms*: from the labelled end of speech to the verdict."""

    clip: Clip
    hearing: Hearing
    judgement: Judgement
    latency_ms: float | None

    @property
    def false_accept(self) -> bool:
        return self.judgement.verdict == "affirm" and self.clip.label != "affirm"


@dataclass
class Report:
    """*target* is what the question asks for; a clip of exactly that is a *chance*, and no affirm is a false reject."""

    target: str
    heard: list[Heard] = field(default_factory=list)
    audio_s: float = 0.0
    cpu_s: float = 0.0

    def confusion(self) -> dict[str, Counter[str]]:
        table: dict[str, Counter[str]] = {}
        for one in self.heard:
            table.setdefault(one.clip.label, Counter())[one.judgement.verdict] += 1
        return table

    @property
    def false_accepts(self) -> list[Heard]:
        return [one for one in self.heard if one.false_accept]

    @property
    def negatives(self) -> int:
        return sum(one.clip.label != "affirm" for one in self.heard)

    def chances(self) -> list[Heard]:
        return [
            one
            for one in self.heard
            if one.clip.label == "affirm" and sounds(one.clip.transcript) == sounds(self.target)
        ]

    def false_rejects(self) -> dict[str, tuple[int, int]]:
        """By band and condition: rejected, asked."""
        table: dict[str, tuple[int, int]] = {}
        for one in self.chances():
            key = f"{one.clip.band or '-'} {one.clip.condition or '-'}"
            rejected, asked = table.get(key, (0, 0))
            table[key] = rejected + (one.judgement.verdict != "affirm"), asked + 1
        return table

    def latencies(self) -> tuple[float, float] | None:
        """p50 and p95, ms."""
        values = [one.latency_ms for one in self.heard if one.latency_ms is not None]
        return (float(np.percentile(values, 50)), float(np.percentile(values, 95))) if values else None

    def as_json(self) -> dict[str, Any]:
        chances = self.chances()
        latencies = self.latencies()
        return {
            "clips": len(self.heard),
            "target": self.target,
            "confusion": self.confusion(),
            "negatives": self.negatives,
            "false_accepts": [
                {"path": str(one.clip.path), "transcript": one.clip.transcript, "reason": one.judgement.reason}
                for one in self.false_accepts
            ],
            "false_accept_upper_95": upper_bound(len(self.false_accepts), self.negatives),
            "asked_phrase": {
                "clips": len(chances),
                "rejected": sum(one.judgement.verdict != "affirm" for one in chances),
                "by_band_and_condition": self.false_rejects(),
            },
            "latency_ms": {"p50": latencies[0], "p95": latencies[1]} if latencies else None,
            "cpu_s_per_audio_s": self.cpu_s / self.audio_s if self.audio_s else None,
        }


def read_manifest(path: Path) -> list[Clip]:
    """The clips of a TSV with the columns path, transcript, label, and any of voice, band, cond, speech_end.

    Raises BadManifest naming the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadManifest(f"{path}: {error}") from error
    clips = []
    for number, row in enumerate(rows, 2):
        lacking = [name for name in COLUMNS if not row.get(name)]
        if lacking:
            raise BadManifest(f"{path}, line {number}: {', '.join(lacking)} missing; tab-separated columns are wanted")
        end = row.get("speech_end") or ""
        clips.append(
            Clip(
                path.parent / row["path"], row["transcript"], row["label"], row.get("voice") or "",
                row.get("band") or "", row.get("cond") or "", float(end) if end else None,
            )
        )  # fmt: skip
    if not clips:
        raise BadManifest(f"{path}: no clips")
    return clips


async def evaluate(
    clips: Sequence[Clip], listener: Listener, grammar: Grammar, channel: Channel, progress: Callable[[], None]
) -> Report:
    """Run every clip through a started *listener*, as the answer to the binding question that *grammar* is for."""
    report = Report(grammar.affirm[0])
    before = _cpu_s(listener.pids)
    places = asyncio.Semaphore(IN_FLIGHT * len(listener.pids))

    async def one(clip: Clip) -> Heard:
        async with places:
            heard, seconds = await hear(clip, listener, grammar, channel)
            report.audio_s += seconds
            progress()
            return heard

    report.heard = list(await asyncio.gather(*(one(clip) for clip in clips)))
    report.cpu_s = _cpu_s(listener.pids) - before
    return report


async def hear(clip: Clip, listener: Listener, grammar: Grammar, channel: Channel) -> tuple[Heard, float]:
    """One clip, and its length in seconds. Raises SpeechError."""
    samples = channel.apply(read_wav(clip.path))
    seconds = samples.size / TELEPHONE_RATE
    padded = np.concatenate([samples, np.zeros(int(TAIL_S * TELEPHONE_RATE), np.int16)])
    session = listener.open(grammar.name, timeout_s=TIMEOUT_S, bargein=False, second_pass=True, on_started=lambda: None)
    session.question_ended()
    for start in range(0, padded.size - FRAME_SAMPLES + 1, FRAME_SAMPLES):
        session.feed(padded[start : start + FRAME_SAMPLES])
    hearing = await session.final
    latency = None
    if clip.speech_end_s is not None and hearing.testimony.words:
        latency = hearing.decided_ms - 1000 * clip.speech_end_s + hearing.compute_ms
    return Heard(clip, hearing, judge(hearing.testimony, grammar, binding=True), latency), seconds


def upper_bound(events: int, trials: int, confidence: float = 0.95) -> float:
    """The exact (Clopper-Pearson) one-sided upper bound of a rate; 1 without trials."""
    if trials == 0 or events >= trials:
        return 1.0
    low, high = events / trials, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        at_most = sum(
            math.exp(_log_choose(trials, k) + k * math.log(middle) + (trials - k) * math.log1p(-middle))
            for k in range(events + 1)
        )
        low, high = (middle, high) if at_most > 1 - confidence else (low, middle)
    return high


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _cpu_s(pids: Sequence[int]) -> float:
    """User and system seconds of *pids*, from /proc."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")

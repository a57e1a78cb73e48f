"""What an evaluation of the listener says: confusion, false accepts with their bound, false rejects, latency, cost.

``speech eval --json`` writes a report, and ``read_report`` reads it back: what was heard once can be judged again.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from gateway.consent.phonetics import sounds
from gateway.consent.testimony import Testimony
from gateway.consent.verdict import Judgement, Verdict
from gateway.measure.listening import Clip, Evaluation, Heard
from gateway.speech.listener import Hearing


class BadReport(Exception):
    """The file is no report of ``speech eval --json``; the message names the clip and the field."""


@dataclass(frozen=True, slots=True)
class Twice:
    """Pairs of clips under the policy of two captures: falsely accepted of *negatives*, *rejected* of *chances*."""

    accepted: int
    negatives: int
    rejected: int
    chances: int


@dataclass(frozen=True, slots=True)
class Report:
    """*target* is what the question asks for; a clip of exactly that is a *chance*, and no affirm is a false reject."""

    target: str
    evaluation: Evaluation

    @property
    def heard(self) -> tuple[Heard, ...]:
        return self.evaluation.heard

    @property
    def false_accepts(self) -> list[Heard]:
        return [one for one in self.heard if one.false_accept]

    @property
    def negatives(self) -> int:
        return sum(one.clip.label != "affirm" for one in self.heard)

    @property
    def chances(self) -> list[Heard]:
        return [
            one
            for one in self.heard
            if one.clip.label == "affirm" and sounds(one.clip.transcript) == sounds(self.target)
        ]

    @property
    def rejected(self) -> int:
        return sum(one.judgement.verdict != "affirm" for one in self.chances)

    @property
    def cost(self) -> float | None:
        """CPU seconds per second of audio."""
        return self.evaluation.cpu_s / self.evaluation.audio_s if self.evaluation.audio_s else None

    def confusion(self) -> dict[str, Counter[str]]:
        """How many clips of each label got which verdict."""
        table: dict[str, Counter[str]] = {}
        for one in self.heard:
            table.setdefault(one.clip.label, Counter())[one.judgement.verdict] += 1
        return table

    def false_rejects(self) -> dict[str, tuple[int, int]]:
        """By band and condition: rejected, asked."""
        table: dict[str, tuple[int, int]] = {}
        for one in self.chances:
            key = f"{one.clip.band or '-'} {one.clip.condition or '-'}"
            rejected, asked = table.get(key, (0, 0))
            table[key] = rejected + (one.judgement.verdict != "affirm"), asked + 1
        return table

    def second_capture(self) -> Twice:
        """What a second capture would do: every two clips of one voice that say the same, under whatever conditions, stand for
        the answers to the two questions, and count as a yes when both do.
        """
        groups: dict[tuple[str, str, str], list[bool]] = {}
        for one in self.heard:
            said = one.clip.voice, one.clip.transcript, one.clip.label
            groups.setdefault(said, []).append(one.judgement.verdict == "affirm")
        counts = Counter[str]()
        for (_, transcript, label), verdicts in groups.items():
            pairs, both = math.comb(len(verdicts), 2), math.comb(sum(verdicts), 2)
            if label != "affirm":
                counts += Counter(negatives=pairs, accepted=both)
            elif sounds(transcript) == sounds(self.target):
                counts += Counter(chances=pairs, rejected=pairs - both)
        return Twice(counts["accepted"], counts["negatives"], counts["rejected"], counts["chances"])

    def latencies(self) -> tuple[float, float] | None:
        """p50 and p95, ms."""
        values = [one.latency_ms for one in self.heard if one.latency_ms is not None]
        return (float(np.percentile(values, 50)), float(np.percentile(values, 95))) if values else None

    def as_json(self) -> dict[str, Any]:
        latencies = self.latencies()
        return {
            "clips": len(self.heard),
            "target": self.target,
            "confusion": self.confusion(),
            "negatives": self.negatives,
            "false_accepts": [explain(one) for one in self.false_accepts],
            "false_accept_upper_95": upper_bound(len(self.false_accepts), self.negatives),
            "asked_phrase": {
                "clips": len(self.chances),
                "rejected": self.rejected,
                "by_band_and_condition": self.false_rejects(),
            },
            "second_capture": asdict(self.second_capture()),
            "latency_ms": {"p50": latencies[0], "p95": latencies[1]} if latencies else None,
            "cpu_s_per_audio_s": self.cost,
            "heard": [explain(one) for one in self.heard],
        }


def explain(one: Heard) -> dict[str, Any]:
    """One clip with its verdict and what every witness reported."""
    return {
        "path": str(one.clip.path),
        "transcript": one.clip.transcript,
        "label": one.clip.label,
        "voice": one.clip.voice,
        "band": one.clip.band,
        "condition": one.clip.condition,
        "verdict": one.judgement.verdict,
        "reason": one.judgement.reason,
        "latency_ms": one.latency_ms,
        "witnesses": asdict(one.hearing.testimony),
    }


def _every_witness(told: Any) -> Any:
    """*told*, when no witness is missing: one that is not there objects to nothing."""
    lacking = [field.name for field in fields(Testimony) if isinstance(told, dict) and field.name not in told]
    if lacking:
        raise ValueError(f"the witness {', '.join(lacking)} is missing")
    return told


class _SavedClip(BaseModel):
    """What ``explain`` says of a clip."""

    model_config = ConfigDict(extra="forbid")

    path: Path
    transcript: str
    label: str
    voice: str
    band: str
    condition: str
    verdict: Verdict
    reason: str
    latency_ms: float | None
    witnesses: Annotated[Testimony, BeforeValidator(_every_witness)]


class _Saved(BaseModel):
    target: str
    heard: tuple[_SavedClip, ...]


def read_report(path: Path) -> Report:
    """The report in *path*, a file of ``speech eval --json``: every clip with its witnesses, without seconds of audio and CPU.

    Raises BadReport.
    """
    try:
        saved = _Saved.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BadReport(f"{path}: {error.strerror}; write one with: consent-gateway speech eval --json") from error
    except ValidationError as error:
        faults = error.errors(include_url=False)
        where = ".".join(str(part) for part in faults[0]["loc"])
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise BadReport(
            f"{path}: {f'{where}: ' if where else ''}{faults[0]['msg'].removeprefix('Value error, ')}{more}; "
            "it is not what this version's speech eval --json writes: run that again"
        ) from error
    heard = tuple(
        Heard(
            Clip(one.path, one.transcript, one.label, one.voice, one.band, one.condition),
            Hearing(one.witnesses),
            Judgement(one.verdict, one.reason),
            one.latency_ms,
        )
        for one in saved.heard
    )
    return Report(saved.target, Evaluation(heard, 0.0, 0.0))


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

"""The whole listener over labelled clips, at its real chunking, as fast as it can."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.consent.testimony import Grammar
from gateway.consent.verdict import Judgement, judge
from gateway.measure.channel import Channel
from gateway.measure.processes import cpu_s
from gateway.speech.endpointer import FRAME_MS
from gateway.speech.listener import Hearing, Listener
from gateway.speech.prompts import read_wav_at_its_rate

COLUMNS = ("path", "transcript", "label")
HEAD_S = 0.3
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


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every clip with what was heard, and what it took: seconds of audio, CPU seconds of the listening processes."""

    heard: tuple[Heard, ...] = ()
    audio_s: float = 0.0
    cpu_s: float = 0.0

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(self.heard + other.heard, self.audio_s + other.audio_s, self.cpu_s + other.cpu_s)


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
        try:
            end = float(row["speech_end"]) if row.get("speech_end") else None
        except ValueError as error:
            raise BadManifest(f"{path}, line {number}: speech_end: {row['speech_end']!r} is no number") from error
        clips.append(
            Clip(
                path.parent / row["path"], row["transcript"], row["label"], row.get("voice") or "",
                row.get("band") or "", row.get("cond") or "", end,
            )
        )  # fmt: skip
    if not clips:
        raise BadManifest(f"{path}: no clips")
    return clips


async def evaluate(
    clips: Sequence[Clip], listener: Listener, grammar: Grammar, channel: Channel, progress: Callable[[], None]
) -> Evaluation:
    """Run every clip through a started *listener*, as the answer to the binding question that *grammar* is for."""
    before = sum(map(cpu_s, listener.pids))
    places = asyncio.Semaphore(IN_FLIGHT * len(listener.pids))
    audio_s = 0.0

    async def one(clip: Clip) -> Heard:
        nonlocal audio_s
        async with places:
            heard, seconds = await hear(clip, listener, grammar, channel)
            audio_s += seconds
            progress()
            return heard

    heard = await asyncio.gather(*(one(clip) for clip in clips))
    return Evaluation(tuple(heard), audio_s, sum(map(cpu_s, listener.pids)) - before)


async def hear(clip: Clip, listener: Listener, grammar: Grammar, channel: Channel) -> tuple[Heard, float]:
    """One clip, and its length in seconds. Raises SpeechError.

    The line is heard 0.3 s before the clip and as long behind it as it takes.
    """
    samples, rate = await asyncio.to_thread(read_wav_at_its_rate, clip.path)
    quiet = np.zeros(int((HEAD_S + TAIL_S) * rate), np.int16)
    head = int(HEAD_S * rate)
    arrived, rate = await asyncio.to_thread(channel.apply, np.concatenate([quiet[:head], samples, quiet[head:]]), rate)
    session = listener.open(grammar.name, timeout_s=TIMEOUT_S, second_pass=True, rate=rate)
    session.question_ended()
    frame = rate * FRAME_MS // 1000
    for start in range(0, arrived.size - frame + 1, frame):
        session.feed(arrived[start : start + frame])
    hearing = await session.final
    latency = None
    if clip.speech_end_s is not None and hearing.testimony.words:
        latency = hearing.decided_ms - 1000 * (HEAD_S + clip.speech_end_s) + hearing.compute_ms
    judgement = judge(hearing.testimony, grammar, binding=True)
    return Heard(clip, hearing, judgement, latency), arrived.size / rate - HEAD_S - TAIL_S

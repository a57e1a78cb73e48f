"""How many streams can be listened to at once, in real time, before a verdict comes late.

Every stream is an endless series of questions: a pause, since callers wait; a clip over A-law; silence until the hearing is
final. One task feeds 20 ms to all streams at every tick, as the media process does. A verdict's latency counts from the moment
at which the frame with the end of speech was fed to the moment at which the hearing became final: the end-pointer's silence,
the decoding, and every queue in between. Where speech ended is what the end-pointer says; the latency from the clip's own end,
its last sample above 2 % of the peak, which may be a breath, is told beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from typing import Any

import numpy as np

from gateway.consent.testimony import Grammar
from gateway.measure.channel import Channel
from gateway.measure.listening import BadManifest, Clip, hear
from gateway.measure.processes import Memory, Usage
from gateway.speech.endpointer import FRAME_MS, FRAME_SAMPLES
from gateway.speech.errors import DecoderLost
from gateway.speech.frontend import Pcm
from gateway.speech.listener import Hearing, Listener, Session
from gateway.speech.prompts import read_wav_at_its_rate

WITHIN_MS = 700.0
STEP = 10
"""Streams more at each step of the search."""

PAUSE_S = (0.3, 4.0)
STAGGER_S = 2.0
"""The first questions of all streams begin within so long."""

TIMEOUT_S = 10.0
"""Of a question: longer than every pause, so that only a clip that nobody heard runs into it."""

DRAIN_S = 12.0
"""How long the questions that are under way at the end may take."""

WARM_UPS = 8
"""The first open decode of a phrase costs six times as much as a later one, for each of a process's open decoders."""

MOST_CLIPS = 200
SEED = 20260101
LINE = Channel(codec="alaw")
QUIET = LINE.apply(np.zeros(FRAME_SAMPLES, np.int16), 8000)[0]
_FRAME_S = FRAME_MS / 1000
_SAMPLE_TICKS = 50
_LOUD = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """A clip as it arrives: frames of 160 samples. The first with speech is *start*, the last is *end*."""

    frames: tuple[Pcm, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """ms from the end of speech to the verdict. *from_clip*: from the clip's own end of speech, None where the end-pointer
    decided before it; *from_heard*: from the end that the end-pointer found. *candidate*: it took the second pass.
    """

    from_clip: float | None
    from_heard: float
    candidate: bool = False


@dataclass
class Run:
    """What came of *streams* streams in *seconds*; a verdict after *within_ms* is late. *unheard*: clips in which no speech was found; *unanswered*: questions whose
    verdict was overdue when the run was given up; *lost*: questions whose decoder died. *fed* and *spoken* count frames,
    *lags* are the feeder's own delays in ms.
    """

    streams: int
    within_ms: float = WITHIN_MS
    seconds: float = 0.0
    verdicts: list[Verdict] = field(default_factory=list)
    unheard: int = 0
    unanswered: int = 0
    lost: int = 0
    fed: int = 0
    spoken: int = 0
    lags: list[float] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)

    @property
    def latencies(self) -> list[float]:
        return [verdict.from_heard for verdict in self.verdicts]

    @property
    def late(self) -> int:
        """Late verdicts, and those that never came."""
        return sum(latency > self.within_ms for latency in self.latencies) + self.unanswered

    @property
    def passed(self) -> bool:
        return bool(self.verdicts) and self.late == 0 and self.lost == 0

    def as_json(self, idle: Memory) -> dict[str, Any]:
        stream_s, speech_s = self.fed * _FRAME_S, self.spoken * _FRAME_S
        from_clip = [verdict.from_clip for verdict in self.verdicts if verdict.from_clip is not None]
        candidates = [verdict.from_heard for verdict in self.verdicts if verdict.candidate]
        return {
            "streams": self.streams,
            "seconds": self.seconds,
            "verdicts": len(self.verdicts),
            "latency_ms": percentiles(self.latencies),
            "latency_from_clip_ms": percentiles(from_clip),
            "before_clip_ended": len(self.verdicts) - len(from_clip),
            "candidates": len(candidates),
            "candidates_latency_ms": percentiles(candidates),
            "late": self.late,
            "unanswered": self.unanswered,
            "unheard": self.unheard,
            "lost": self.lost,
            "passed": self.passed,
            "cpu_s_per_stream_s": self.usage.cpu_s / stream_s if stream_s else None,
            "cpu_s_per_speech_s": self.usage.cpu_s / speech_s if speech_s else None,
            "cores_used": self.usage.cpu_s / self.seconds if self.seconds else None,
            "memory_per_stream_mb": max(0.0, self.usage.peak.pss_mb - idle.pss_mb) / self.streams,
            "audio_share": self.spoken / self.fed if self.fed else None,
            "feeder_lag_ms": percentiles(self.lags),
        }


def percentiles(values: Sequence[float]) -> dict[str, float | None]:
    """p50, p95, p99 and max; None of nothing."""
    if not values:
        return dict.fromkeys(("p50", "p95", "p99", "max"))
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "max": float(max(values))}


def speech_span(samples: Pcm) -> tuple[int, int] | None:
    """The first and the last sample above 2 % of the peak; None of digital silence."""
    levels = np.abs(samples.astype(np.int32))
    loud = np.flatnonzero(levels > _LOUD * levels.max(initial=0))
    return (int(loud[0]), int(loud[-1])) if loud.size else None


def take_of(clip: Clip) -> Take:
    """*clip* over the line; its speech ends where it is labelled to, else with its last sample above 2 % of the peak.

    Raises BadManifest for a silent one, VoiceFailed for a file that is no WAV.
    """
    samples, rate = read_wav_at_its_rate(clip.path)
    span = speech_span(samples)
    if span is None:
        raise BadManifest(f"{clip.path}: nothing but silence")
    start, last = span
    if clip.speech_end_s is not None:
        last = int(clip.speech_end_s * rate)
    arrived, _ = LINE.apply(samples, rate)
    arrived = np.concatenate([arrived, QUIET])  # so that the last frame is whole
    frames = tuple(arrived[at : at + FRAME_SAMPLES] for at in range(0, arrived.size - FRAME_SAMPLES + 1, FRAME_SAMPLES))
    per_frame = rate * FRAME_MS // 1000
    return Take(frames, start // per_frame, min(last // per_frame, len(frames) - 1))


def takes_of(clips: Sequence[Clip]) -> list[Take]:
    """Of all *clips*, or of 200 drawn from them. Raises as ``take_of``."""
    if len(clips) > MOST_CLIPS:
        drawn = np.random.default_rng(SEED).choice(len(clips), MOST_CLIPS, replace=False)
        clips = [clips[number] for number in sorted(drawn)]
    return [take_of(clip) for clip in clips]


async def warm_up(listener: Listener, clips: Sequence[Clip], grammar: Grammar) -> tuple[float, float]:
    """Have every process judge target phrases until its open decoders know them; what the first and the last took to compute
    after the end of the audio, ms. Raises SpeechError.
    """
    targets = [clip for clip in clips if clip.label == "affirm"] or clips
    took = []
    for clip in islice(cycle(targets), WARM_UPS):
        heard = await asyncio.gather(*(hear(clip, listener, grammar, LINE) for _ in listener.pids))
        took.append(max(one.hearing.compute_ms for one, _ in heard))
    return took[0], took[-1]


class _Stream:
    """One caller. All together say every clip of *takes* before one is said again. *outcome* collects what they got."""

    def __init__(self, number: int, listener: Listener, grammar: Grammar, takes: Sequence[Take], outcome: Run) -> None:
        self._listener, self._grammar, self._takes, self._run = listener, grammar, takes, outcome
        self._random = np.random.default_rng((SEED, number))
        self._wait = int(number * STAGGER_S / outcome.streams / _FRAME_S)
        self._session: Session | None = None
        self._next = number
        self._pause = 0
        self._take = takes[0]
        self._fed_at: list[float] = []
        self._final_at: float | None = None

    @property
    def busy(self) -> bool:
        return self._session is not None

    def tick(self, clock: Callable[[], float], *, asking: bool) -> None:
        """20 ms of the call; only while *asking* is a new question put, and does what is fed count."""
        if self._wait > 0:
            self._wait -= 1
            return
        self._settle()
        if self._session is None and not (asking and self._open(clock)):
            return
        assert self._session is not None
        place = len(self._fed_at) - self._pause
        self._session.feed(self._take.frames[place] if 0 <= place < len(self._take.frames) else QUIET)
        self._fed_at.append(clock())
        if asking:
            self._run.fed += 1
            self._run.spoken += self._take.start <= place <= self._take.end

    def hang_up(self, now: float, *, waiting_only: bool) -> None:
        """Give the question up: that of a caller who has not yet spoken, or any."""
        self._settle()
        if self._session is None or (waiting_only and len(self._fed_at) > self._pause):
            return
        ended = self._pause + self._take.end
        if len(self._fed_at) > ended and 1000 * (now - self._fed_at[ended]) > self._run.within_ms:
            self._run.unanswered += 1
        self._session.close()
        self._session = None

    def _open(self, clock: Callable[[], float]) -> bool:
        try:
            self._session = self._listener.open(self._grammar.name, timeout_s=TIMEOUT_S, second_pass=True)
        except DecoderLost:  # it is on its way back; the caller tries again at the next tick
            return False
        self._session.question_ended()
        self._pause = int(self._random.uniform(*PAUSE_S) / _FRAME_S)
        self._take = self._takes[self._next % len(self._takes)]
        self._next += self._run.streams
        self._fed_at = []

        def note(final: asyncio.Future[Hearing]) -> None:
            self._final_at = None if final.cancelled() else clock()

        self._session.final.add_done_callback(note)
        return True

    def _settle(self) -> None:
        """Write down what came of the question, if it is over."""
        moment = self._final_at
        if self._session is None or moment is None:
            return
        final, self._session, self._final_at = self._session.final, None, None
        if final.exception() is not None:
            self._run.lost += 1
        elif not final.result().testimony.speech_ms:
            self._run.unheard += 1
        else:
            ended = self._pause + self._take.end
            heard = final.result().end_ms // FRAME_MS - 1
            from_clip = 1000 * (moment - self._fed_at[ended]) if ended < len(self._fed_at) else None
            candidate = final.result().testimony.open_words is not None
            self._run.verdicts.append(Verdict(from_clip, 1000 * (moment - self._fed_at[heard]), candidate))


async def run(
    listener: Listener,
    grammar: Grammar,
    takes: Sequence[Take],
    streams: int,
    seconds: float,
    progress: Callable[[float], None],
    within_ms: float = WITHIN_MS,
) -> Run:
    """*streams* streams for *seconds*, and until the questions that are then under way are answered, at most 12 s.

    *progress* is told the seconds that have passed. CPU and memory count without that last part, verdicts with it.
    """
    outcome = Run(streams, within_ms)
    shuffled = [takes[number] for number in np.random.default_rng(SEED).permutation(len(takes))]
    callers = [_Stream(number, listener, grammar, shuffled, outcome) for number in range(streams)]
    clock = asyncio.get_running_loop().time
    last, given_up = round(seconds / _FRAME_S), round((seconds + DRAIN_S) / _FRAME_S)
    began = clock()
    async with asyncio.TaskGroup() as sampling:
        for number in range(given_up):
            due = began + number * _FRAME_S
            await asyncio.sleep(max(0.0, due - clock()))
            asking = number < last
            if number % _SAMPLE_TICKS == 0 if asking else number == last:
                sampling.create_task(asyncio.to_thread(outcome.usage.sample, listener.pids))
                progress(min(number * _FRAME_S, seconds))
            if number == last:
                outcome.seconds = clock() - began
                for caller in callers:
                    caller.hang_up(clock(), waiting_only=True)
            if asking:
                outcome.lags.append(1000 * (clock() - due))
            elif not any(caller.busy for caller in callers):
                break
            for caller in callers:
                caller.tick(clock, asking=asking)
        for caller in callers:
            caller.hang_up(clock(), waiting_only=False)
    return outcome


async def find(
    listener: Listener,
    grammar: Grammar,
    takes: Sequence[Take],
    most: int,
    seconds: float,
    progress: Callable[[int, float], None],
    within_ms: float = WITHIN_MS,
) -> list[Run]:
    """10 streams, 20, 30 ... until a verdict is late or *most* is reached. *progress*: streams, and seconds of this step."""
    runs: list[Run] = []
    for streams in range(min(STEP, most), most + 1, STEP):
        runs.append(await run(listener, grammar, takes, streams, seconds, partial(progress, streams), within_ms))
        if not runs[-1].passed:
            break
    return runs

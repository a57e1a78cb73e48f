"""Who has answered an outbound call, a person or a machine: told from voice activity and the beep, never from words.

A person says a short greeting and waits; a machine speaks on, in many words and without a noise behind it, and beeps. The
figures are those of Asterisk's AMD(): the silence before the greeting, its length, its words, the pause behind it. Whoever
cannot be told is ``unsure`` and goes on as a person: what the caller says is judged strictly all the same.

Pure: samples in, findings out. It runs where the call's media is decoded, in blocks of 100 ms, for the first seconds of an
outbound call only: what it costs stands in docs/dialplans.md.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import webrtcvad
from numpy.typing import NDArray

from gateway.speech.frontend import TELEPHONE_RATE, Pcm

FRAME_MS = 20
BLOCK_FRAMES = 5
"""Frames that are looked at together: one call of numpy for five frames costs what it costs for one."""

VAD_MODE = 2
OVER_FLOOR_DB, OVER_FLOOR = 6.0, 0.3
"""A frame is voice where it is so much louder than the noise of the line, and so far up from it to the loudest voice."""

FLOOR_DB, FLOOR_RISES, TOP_FALLS_DB = 12.0, 0.05, 0.05
"""The least noise floor in dB over one LSB; how far it rises towards a louder frame; what the top loses in a voiced one."""

CLEAN_DB = 14.0
"""A recording speaks out of silence: so much lies between its loud frames and its soft ones. On a noisy line it is less, and
no greeting counts as long: noise goes on and on too.
"""

SHORT_MS, LONG_PAUSES = 1500, 2
"""Behind a greeting of more than this length the pause must be so many times as long: a recording has several sentences."""

TONE_HZ = (380.0, 2250.0)
TONE_SHARE, TONE_DRIFT, TONE_DB = 0.9, 0.012, 40.0
"""A beep: so much of the power at one pitch, which drifts by no more than this share; and its least level, in dB over one LSB."""

TONE_STEADY_DB = 3.0
EDGE_FRAMES = 2
APART_FRAMES = 4
"""A beep stands alone, without a voice in so many frames before it and behind it but for its edges: a sung vowel does not."""

LONGEST_TONE_MS = 2000
RINGBACK_MS = 200
"""A tone that sounds already when the media begins is the end of the ringing."""

ECHO_FRAMES = 15
"""So long behind what was sent its echo may come: what is heard until then is nobody's talk."""

OWN_TONE_FRAMES = 3
MOST_MS = 30_000
"""How long after the answer a machine may still be found."""

MESSAGE_SILENCE_MS = 2500
"""A machine that has not spoken for so long takes messages, though no beep was heard."""

Verdict = Literal["human", "machine", "unsure"]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """All in ms, but *words*. What they mean: docs/dialplans.md."""

    initial_silence_ms: int = 1200
    greeting_ms: int = 4000
    pause_ms: int = 500
    words: int = 12
    word_ms: int = 100
    gap_ms: int = 60
    total_ms: int = 6000
    talk_ms: int = 8000
    beep_ms: int = 120


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict with its evidence. *at_ms* counts from the answer; *silence_ms* was before the first word, *greeting_ms* and
    *words* are of what is said without a pause; *contrast_db* lies between the loud and the soft frames of it.
    """

    verdict: Verdict
    reason: str
    at_ms: int
    silence_ms: int = 0
    greeting_ms: int = 0
    words: int = 0
    contrast_db: float = 0.0
    tone_hz: int = 0
    tone_ms: int = 0


@dataclass(frozen=True, slots=True)
class Tone:
    hertz: int
    length_ms: int


class BeepFinder:
    """Finds a single steady tone that stands alone. Fed one frame after the other."""

    def __init__(self, beep_ms: int) -> None:
        self._beep_ms = beep_ms
        self._seen = 0
        self._voices: deque[bool] = deque(maxlen=APART_FRAMES + EDGE_FRAMES)
        self._pitches: list[float] = []
        self._levels: list[float] = []
        self._apart = False
        self._ended: Tone | None = None
        self._since = 0

    def push(self, pitch: float, level: float, *, voice: bool) -> Tone | None:
        """One frame: its *pitch* in Hz where it is a tone, else 0, and its *level* in dB. The beep, once it has stood alone."""
        self._seen += 1
        goes_on = bool(pitch and self._pitches) and abs(pitch - self._pitches[0]) <= TONE_DRIFT * self._pitches[0]
        if not goes_on:
            self._end()
        if pitch:
            if not goes_on:
                self._apart = not any(list(self._voices)[:-EDGE_FRAMES]) and self._seen * FRAME_MS > RINGBACK_MS
            self._pitches.append(pitch)
            self._levels.append(level)
        self._voices.append(voice and not pitch)
        return self._alone(sounds=voice or bool(pitch))

    def _end(self) -> None:
        """The tone that sounded is over: it may have been a beep."""
        length_ms = len(self._pitches) * FRAME_MS
        body = self._levels[EDGE_FRAMES:-EDGE_FRAMES] or self._levels
        if self._apart and self._beep_ms <= length_ms <= LONGEST_TONE_MS and max(body) - min(body) <= TONE_STEADY_DB:
            self._ended, self._since = Tone(round(sum(self._pitches) / len(self._pitches)), length_ms), 0
        self._pitches, self._levels = [], []

    def _alone(self, *, sounds: bool) -> Tone | None:
        """The tone that has ended, when nothing has sounded behind it for long enough."""
        if self._ended is None:
            return None
        self._since += 1
        ended = self._ended
        if sounds and self._since > EDGE_FRAMES:
            self._ended = None
        elif self._since >= EDGE_FRAMES + APART_FRAMES:
            self._ended = None
            return ended
        return None


class Pitch:
    """Tells of each frame whether it is a single tone, by the spectrum of it and of the one before."""

    def __init__(self, rate: int) -> None:
        size = 2 * rate * FRAME_MS // 1000
        self._window = np.hanning(size)
        self._bin_hz = rate / size
        self._low, self._high = (round(hertz / self._bin_hz) for hertz in TONE_HZ)

    def of(self, frames: NDArray[np.float64]) -> list[float]:
        """The pitch of each row in Hz, 0 where it is no single tone; *frames* of two frames each, shape (n, 2 * frame)."""
        power = np.abs(np.fft.rfft(frames * self._window, axis=1)) ** 2
        power[:, :2] = 0.0
        peaks = power[:, self._low : self._high + 1].argmax(axis=1) + self._low
        near = peaks[:, None] + np.arange(-2, 3)
        around = np.take_along_axis(power, near, axis=1)
        weight = around.sum(axis=1) + 1e-9
        pitch = (around * near).sum(axis=1) / weight * self._bin_hz
        tonal = weight >= TONE_SHARE * (power.sum(axis=1) + 1e-6)
        pitches: list[float] = np.where(tonal, pitch, 0.0).tolist()
        return pitches


def has_tone(samples: Pcm, rate: int, hertz: int) -> bool:
    """Whether there is a tone of *hertz* in *samples*, 60 ms long at least."""
    frame = rate * FRAME_MS // 1000
    frames = samples[: samples.size // frame * frame].reshape(-1, frame).astype(np.float64)
    if len(frames) < OWN_TONE_FRAMES:
        return False
    pitches = Pitch(rate).of(np.hstack([frames[:-1], frames[1:]]))
    return sum(abs(pitch - hertz) <= 2 * TONE_DRIFT * hertz for pitch in pitches) >= OWN_TONE_FRAMES


class MachineDetector:
    """Fed what the callee says from the answer on, at *rate* (8 or 16 kHz).

    The first finding tells how the call begins. After it only a machine may still be found, by its beep or because it talks on
    when nothing is played to it any more. *is_own* is asked whether a beep was sent by ourselves, and is its echo.
    """

    def __init__(
        self,
        thresholds: Thresholds,
        rate: int = TELEPHONE_RATE,
        *,
        is_own: Callable[[Tone], bool] = lambda _: False,
    ) -> None:
        self.thresholds = thresholds
        self._is_own = is_own
        self._rate = rate
        self._frame = rate * FRAME_MS // 1000
        self._vad = webrtcvad.Vad(VAD_MODE)
        self._pitch = Pitch(rate)
        self._beep = BeepFinder(thresholds.beep_ms)
        self._waiting = np.zeros(0, np.int16)
        self._before: NDArray[np.float64] = np.zeros(self._frame)
        self._floor, self._top = math.inf, 0.0
        self._frames = 0
        self._levels: list[float] = []  # since the first word
        self._onset = self._last = 0  # of what is said without a pause: its first frame, and its last
        self._word = self._gap = self._words = 0
        self.answered: Finding | None = None
        self.machine: Finding | None = None
        self._beeped = False
        self._echo_until = 0

    @property
    def takes_message(self) -> bool:
        """Whether a machine was found, and has beeped or fallen silent."""
        return self.machine is not None and (self._beeped or self.silence_ms >= MESSAGE_SILENCE_MS)

    @property
    def at_ms(self) -> int:
        return self._frames * FRAME_MS

    @property
    def silence_ms(self) -> int:
        """How long nothing has been said."""
        return (self._frames - self._last) * FRAME_MS

    def push(self, samples: Pcm, *, sending: bool = False) -> Finding | None:
        """Take any number of samples; *sending* where something was played meanwhile. A finding when there is one: what has
        answered, and later a machine after all.
        """
        if self.at_ms >= MOST_MS and self.machine is None and self.answered is not None:
            return None
        self._waiting = np.concatenate([self._waiting, samples])
        if sending:
            self._echo_until = self._frames + self._waiting.size // self._frame + ECHO_FRAMES
        size = BLOCK_FRAMES * self._frame
        found: Finding | None = None
        while self._waiting.size >= size:
            block, self._waiting = self._waiting[:size], self._waiting[size:]
            found = self._block(block) or found
        return found

    def _block(self, block: Pcm) -> Finding | None:
        frames = block.reshape(BLOCK_FRAMES, self._frame).astype(np.float64)
        levels: list[float] = (10 * np.log10(np.mean(frames * frames, axis=1) + 1.0)).tolist()
        pitches = [0.0] * BLOCK_FRAMES
        if max(levels) >= TONE_DB:
            pitches = self._pitch.of(np.hstack([np.vstack([self._before, frames[:-1]]), frames]))
        self._before = frames[-1]
        octets, width = block.astype("<i2").tobytes(), 2 * self._frame
        beep: Tone | None = None
        for place, (level, pitch) in enumerate(zip(levels, pitches, strict=True)):
            self._frames += 1
            voice = self._is_voice(level, octets[place * width : (place + 1) * width])
            if self._frames <= self._echo_until:
                self._begin_anew()
            else:
                self._count(voice=voice)
            if self._onset:
                self._levels.append(level)
            beep = self._beep.push(pitch if level >= TONE_DB else 0.0, level, voice=voice) or beep
        finding = self._judge(beep)
        if finding is None:
            return None
        if finding.verdict == "machine":
            self.machine = finding
        self.answered = self.answered or finding
        return finding

    def _is_voice(self, level: float, frame: bytes) -> bool:
        """By loudness and webrtcvad. The noise floor follows what is no voice, quickly down and slowly up."""
        level = max(level, FLOOR_DB)
        self._floor = min(self._floor, level)
        over = max(OVER_FLOOR_DB, OVER_FLOOR * (self._top - self._floor))
        if level >= self._floor + over and self._vad.is_speech(frame, self._rate):
            self._top = max(self._top - TOP_FALLS_DB, level)
            return True
        self._floor += FLOOR_RISES * (level - self._floor)
        return False

    def _count(self, *, voice: bool) -> None:
        """What one frame more makes of word and pause."""
        least, gap = self.thresholds.word_ms // FRAME_MS, self.thresholds.gap_ms // FRAME_MS
        if voice:
            self._word, self._gap = self._word + 1, 0
            if self._word == least:
                self._words += 1
            if self._word >= least:
                self._onset = self._onset or self._frames - self._word + 1
                self._last = self._frames
            return
        self._gap += 1
        if self._gap >= gap:
            self._word = 0
        if self._onset and self.answered is not None and self.silence_ms >= self._pause_ms:
            self._begin_anew()

    def _begin_anew(self) -> None:
        """What was said is over; what comes next is measured anew."""
        self._onset = self._word = self._words = 0
        self._levels.clear()

    def _judge(self, beep: Tone | None) -> Finding | None:
        limits = self.thresholds
        if beep is not None and self._is_own(beep):
            beep = None
        self._beeped |= beep is not None
        if self.machine is not None:
            return None
        if beep is not None:
            return self._finding("machine", f"a beep of {beep.hertz} Hz", beep)
        if self.answered is not None:
            talks_on = self._greeting_ms >= limits.talk_ms and self._is_clean
            return self._finding("machine", "it talks on and on") if talks_on else None
        if not self._onset:
            silent = self.at_ms >= limits.initial_silence_ms and not self._word
            return self._finding("unsure", "nothing is said") if silent else None
        if self._greeting_ms >= limits.greeting_ms and self._is_clean:
            return self._finding("machine", "a long greeting")
        if self._words > limits.words and self._is_clean:
            return self._finding("machine", "a greeting of many words")
        if self.silence_ms >= self._pause_ms:
            return self._finding("human", "a short greeting")
        return self._finding("unsure", "the line is noisy") if self.at_ms >= limits.total_ms else None

    @property
    def _greeting_ms(self) -> int:
        return (self._last - self._onset + 1) * FRAME_MS if self._onset else 0

    @property
    def _pause_ms(self) -> int:
        """The pause that ends what is being said."""
        return self.thresholds.pause_ms * (LONG_PAUSES if self._greeting_ms > SHORT_MS else 1)

    @property
    def _is_clean(self) -> bool:
        return self._contrast >= CLEAN_DB

    @property
    def _contrast(self) -> float:
        if not self._levels:
            return 0.0
        soft, loud = np.percentile(self._levels, (10, 90))
        return float(loud - soft)

    def _finding(self, verdict: Verdict, reason: str, beep: Tone | None = None) -> Finding:
        return Finding(
            verdict, reason, self.at_ms, silence_ms=(self._onset - 1) * FRAME_MS if self._onset else self.at_ms,
            greeting_ms=self._greeting_ms, words=self._words, contrast_db=round(self._contrast, 1),
            tone_hz=beep.hertz if beep else 0, tone_ms=beep.length_ms if beep else 0,
        )  # fmt: skip

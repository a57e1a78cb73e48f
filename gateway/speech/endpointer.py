"""Finds where an utterance begins and ends: webrtcvad and energy over an adaptive noise floor, 20 ms at a time.

Vosk's own end-pointer waits 0.9 s and fails in noise. Two silences end an utterance: a long one while what was said may be
the beginning of an answer, so that a slow speaker is not cut in half, and a short one otherwise.
"""

from __future__ import annotations

import math
from collections import deque
from itertools import takewhile
from typing import Literal

import numpy as np
import webrtcvad

from gateway.speech.frontend import TELEPHONE_RATE, Pcm, rms

FRAME_MS = 20
FRAME_SAMPLES = TELEPHONE_RATE * FRAME_MS // 1000
"""At 8 kHz; twice as many at 16."""
PREROLL_FRAMES = 15
MARGIN_FRAMES = 2
ONSET_WINDOW, ONSET_VOICED = 6, 4
SHORT_SILENCE_MS = 280
LONG_SILENCE_MS = 560
LONGEST_UTTERANCE_MS = 15_000
OVER_FLOOR_DB = 6.0
QUIETER, LOUDER, LOUDER_IN_SPEECH = 0.2, 0.1, 0.02
"""How much of the way the noise floor goes in a frame."""

LOWEST_FLOOR = 4.0
FULL_SCALE = 31_000
"""Samples from here on count as clipped: G.711 decodes to 32,124 at most."""

VAD_MODE = 2

Phase = Literal["idle", "started", "speaking", "ended"]


class Endpointer:
    """Fed 20 ms frames in order. ``audio`` is the utterance so far, with 300 ms before its onset."""

    def __init__(self, rate: int = TELEPHONE_RATE) -> None:
        self.rate = rate
        self._vad = webrtcvad.Vad(VAD_MODE)
        self._recent: deque[tuple[Pcm, bool]] = deque(maxlen=PREROLL_FRAMES)
        self._floor = math.inf  # the first frame tells: a noisy line is noisy from the start
        self._silence = 0
        self._voiced = 0
        self.frames = 0
        self.onset_frame = 0
        self.audio: list[Pcm] = []
        self.voiced: list[Pcm] = []
        self.unvoiced: list[Pcm] = []
        self._lead_in: list[Pcm] = []

    @property
    def start_frame(self) -> int:
        """Where ``audio`` begins, in frames since the first."""
        return self.frames - len(self.audio)

    @property
    def speaking(self) -> bool:
        return bool(self.audio)

    @property
    def silence_ms(self) -> int:
        """How long it has been silent since the last voiced frame of the utterance."""
        return self._silence * FRAME_MS

    @property
    def speech_ms(self) -> int:
        """From the first to the last voiced frame of the utterance."""
        return self._voiced * FRAME_MS

    @property
    def snr_db(self) -> float | None:
        """The voiced frames over the louder half of the others and of the 300 ms before, in dB; None before anything was
        said. Where every frame is voiced, over the noise floor.
        """
        if not self.voiced:
            return None
        others = sorted(rms(frame) for frame in self.unvoiced)[len(self.unvoiced) // 2 :]
        noise = math.sqrt(sum(level * level for level in others) / len(others)) if others else self._floor
        return 20 * math.log10(max(1.0, rms(np.concatenate(self.voiced))) / max(LOWEST_FLOOR, noise))

    @property
    def lead_in(self) -> Pcm:
        """What the line sounded like before the utterance: the frames of the pre-roll until the first voiced one."""
        return np.concatenate([np.zeros(0, np.int16), *self._lead_in])

    @property
    def clipped(self) -> float:
        """The share of the voiced samples at full scale."""
        voiced = np.concatenate(self.voiced) if self.voiced else np.zeros(1, np.int16)
        return float(np.mean((voiced >= FULL_SCALE) | (voiced <= -FULL_SCALE)))

    def push(self, frame: Pcm, *, may_go_on: bool) -> Phase:
        """Take one frame. *may_go_on*: what was recognised so far may be the beginning of an answer."""
        self.frames += 1
        voiced = self._is_voiced(frame)
        if not self.speaking:
            self._recent.append((frame, voiced))
            onset = list(self._recent)[-ONSET_WINDOW:]
            if sum(v for _, v in onset) < ONSET_VOICED:
                return "idle"
            self.onset_frame = self.frames - next(
                i for i, (_, v) in enumerate(reversed(onset), 1) if v and i >= ONSET_VOICED
            )
            self.audio = [f for f, _ in self._recent]
            self.voiced = [f for f, v in self._recent if v]
            self.unvoiced = [f for f, v in self._recent if not v]
            self._lead_in = [f for f, _ in takewhile(lambda heard: not heard[1], self._recent)][:-MARGIN_FRAMES]
            self._voiced, self._silence = ONSET_VOICED, 0
            return "started"
        self.audio.append(frame)
        if voiced:
            self._voiced += self._silence + 1
            self._silence = 0
            self.voiced.append(frame)
        else:
            self._silence += 1
            self.unvoiced.append(frame)
        enough = LONG_SILENCE_MS if may_go_on else SHORT_SILENCE_MS
        too_long = len(self.audio) * FRAME_MS >= LONGEST_UTTERANCE_MS
        return "ended" if self.silence_ms >= enough or too_long else "speaking"

    def reset(self) -> None:
        """Forget the utterance; the noise floor stays."""
        self.audio, self.voiced, self.unvoiced, self._lead_in = [], [], [], []
        self._silence = self._voiced = 0
        self._recent.clear()

    def _is_voiced(self, frame: Pcm) -> bool:
        """By webrtcvad and by loudness. The noise floor follows what is no voice: fast to what is quieter, slowly to what is
        louder, and slower still while somebody speaks.
        """
        level = max(rms(frame), LOWEST_FLOOR)
        if self._floor == math.inf:
            self._floor = level
        over = 20 * math.log10(level / self._floor)
        voiced = over >= OVER_FLOOR_DB and self._vad.is_speech(frame.astype("<i2").tobytes(), self.rate)
        if not voiced:
            share = QUIETER if level < self._floor else LOUDER_IN_SPEECH if self.speaking else LOUDER
            self._floor += share * (level - self._floor)
        return voiced

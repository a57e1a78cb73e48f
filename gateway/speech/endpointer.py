"""Finds where an utterance begins and ends: webrtcvad and energy over an adaptive noise floor, 20 ms at a time.

Vosk's own end-pointer waits 0.9 s and fails in noise. Two silences end an utterance: a short one when the recogniser already
holds a complete phrase, a long one when it does not, so that a slow speaker is not cut in half.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

import numpy as np
import webrtcvad

from gateway.speech.frontend import TELEPHONE_RATE, Pcm, rms

FRAME_MS = 20
FRAME_SAMPLES = TELEPHONE_RATE * FRAME_MS // 1000
PREROLL_FRAMES = 15
ONSET_WINDOW, ONSET_VOICED = 6, 4
SHORT_SILENCE_MS = 300
LONG_SILENCE_MS = 800
LONGEST_UTTERANCE_MS = 15_000
FLOOR_RISE = 1.004
OVER_FLOOR_DB = 6.0
LOWEST_FLOOR = 4.0
VAD_MODE = 2

Phase = Literal["idle", "started", "speaking", "ended"]


class Endpointer:
    """Fed 20 ms frames in order. ``audio`` is the utterance so far, with 300 ms before its onset."""

    def __init__(self) -> None:
        self._vad = webrtcvad.Vad(VAD_MODE)
        self._recent: deque[tuple[Pcm, bool]] = deque(maxlen=PREROLL_FRAMES)
        self._floor = math.inf  # the first frame tells: a noisy line is noisy from the start
        self._silence = 0
        self._voiced = 0
        self.frames = 0
        self.onset_frame = 0
        self.audio: list[Pcm] = []
        self.voiced: list[Pcm] = []

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
        """Voiced frames over the noise floor, in dB; None before anything was said."""
        if not self.voiced:
            return None
        return 20 * math.log10(max(1.0, rms(np.concatenate(self.voiced))) / self._floor)

    def push(self, frame: Pcm, *, complete: bool) -> Phase:
        """Take one frame. *complete*: what was recognised so far is a whole phrase."""
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
            self._voiced, self._silence = ONSET_VOICED, 0
            return "started"
        self.audio.append(frame)
        if voiced:
            self._voiced += self._silence + 1
            self._silence = 0
            self.voiced.append(frame)
        else:
            self._silence += 1
        enough = SHORT_SILENCE_MS if complete else LONG_SILENCE_MS
        too_long = len(self.audio) * FRAME_MS >= LONGEST_UTTERANCE_MS
        return "ended" if self.silence_ms >= enough or too_long else "speaking"

    def reset(self) -> None:
        """Forget the utterance; the noise floor stays."""
        self.audio, self.voiced = [], []
        self._silence = self._voiced = 0
        self._recent.clear()

    def _is_voiced(self, frame: Pcm) -> bool:
        level = rms(frame)
        self._floor = max(LOWEST_FLOOR, min(level, self._floor * FLOOR_RISE))
        over = 20 * math.log10(max(level, 1.0) / self._floor)
        return over >= OVER_FLOOR_DB and self._vad.is_speech(frame.astype("<i2").tobytes(), TELEPHONE_RATE)

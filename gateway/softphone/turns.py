"""When has the far end finished speaking? Energy-based turn taking."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gateway.softphone.g711 import FRAME_SAMPLES, SAMPLE_RATE, Samples

ONSET_FRAMES = 3
"""Loud frames in a row that make an onset (60 ms): a single click is no speech."""


@dataclass(frozen=True)
class Turn:
    """One finished turn of the far end; ``speech`` is the loud time in seconds."""

    number: int
    speech: float


class TurnDetector:
    """Cuts the received audio into turns.

    Silence is counted in samples of the received stream, so network jitter does
    not lengthen a pause. Not thread-safe; the RTP receiver is its only feeder.

    Args:
        silence: seconds of silence that end a turn.
        min_speech: seconds of loud audio, in total, without which nothing was said.
        threshold: RMS of a 20 ms frame of 16-bit samples that counts as loud.

    """

    def __init__(self, silence: float, min_speech: float = 0.3, threshold: float = 150.0) -> None:
        self._silence = silence
        self._min_speech = min_speech
        self._threshold = threshold
        self._rest: Samples = np.zeros(0, dtype=np.int16)
        self._loud_run = 0
        self._loud = 0.0
        self._quiet = 0.0
        self.turns = 0
        self.onset: float | None = None
        """Monotonic time at which the speech after the last turn began, if it has."""

    def feed(self, samples: Samples, now: float) -> Turn | None:
        """Take the next samples of the stream, received at monotonic time ``now``."""
        data = np.concatenate([self._rest, samples]) if len(self._rest) else samples
        frames = len(data) // FRAME_SAMPLES
        self._rest = data[frames * FRAME_SAMPLES :]
        finished = None
        for index in range(frames):
            frame = data[index * FRAME_SAMPLES : (index + 1) * FRAME_SAMPLES].astype(np.float64)
            loud = float(np.sqrt(np.mean(frame * frame))) >= self._threshold
            finished = self._step(loud, FRAME_SAMPLES / SAMPLE_RATE, now) or finished
        return finished

    def idle(self, seconds: float, now: float) -> Turn | None:
        """Count ``seconds`` in which no packet came as silence (silence suppression)."""
        return self._step(False, seconds, now)

    def _step(self, loud: bool, seconds: float, now: float) -> Turn | None:
        if loud:
            self._loud += seconds
            self._quiet = 0.0
            self._loud_run += 1
            if self.onset is None and self._loud_run >= ONSET_FRAMES:
                self.onset = now - (ONSET_FRAMES - 1) * FRAME_SAMPLES / SAMPLE_RATE
            return None
        self._loud_run = 0
        self._quiet += seconds
        # Sums of 0.02 are inexact; half a millisecond is far below a frame.
        enough = self._loud >= self._min_speech - 0.0005
        if not enough or self._quiet < self._silence - 0.0005:
            return None
        self.turns += 1
        turn = Turn(self.turns, round(self._loud, 3))
        self._loud = 0.0
        self.onset = None
        return turn

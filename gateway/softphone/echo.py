"""The echo of a bad line: what is heard comes back, later and as loud."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from gateway.softphone.g711 import FRAME_SAMPLES, SAMPLE_RATE, Samples


class Echo:
    """A delay line of samples. The RTP receiver puts in, the RTP sender takes out; where nothing is due, silence.

    Args:
        delay: seconds from the moment a sample is heard to the moment it is sent back.

    """

    def __init__(self, delay: float) -> None:
        self._samples: deque[int] = deque([0] * round(delay * SAMPLE_RATE))
        self._lock = threading.Lock()

    def put(self, samples: Samples) -> None:
        """Take what was heard."""
        with self._lock:
            self._samples.extend(samples.tolist())

    def mixed(self, frame: Samples) -> Samples:
        """*frame*, 20 ms, with what is due of the echo added to it."""
        with self._lock:
            due = [self._samples.popleft() for _ in range(min(FRAME_SAMPLES, len(self._samples)))]
        both = frame.astype(np.int32)
        both[: len(due)] += np.array(due, np.int32)
        return both.clip(-32768, 32767).astype(np.int16)

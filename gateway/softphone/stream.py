"""Received RTP packets put back into one continuous stream of samples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gateway.softphone.g711 import SAMPLE_RATE, Samples

REORDER_PACKETS = 5
"""Later packets that must be here before a missing one is given up (100 ms)."""
MAX_JUMP = 500
"""A jump of more packets than this is a new stream, not loss."""
MAX_GAP = 60 * SAMPLE_RATE
"""Samples; a timestamp further ahead than this is a new stream, not a pause."""


@dataclass
class StreamCounts:
    """Packets of the received stream."""

    received: int = 0
    lost: int = 0
    late: int = 0
    restarts: int = 0


def _unwrap(value: int, near: int, bits: int) -> int:
    """The number congruent to ``value`` modulo 2**bits that is closest to ``near``."""
    size = 1 << bits
    return near + (value - near + size // 2) % size - size // 2


class ReceiveStream:
    """Orders packets by sequence number and lays them out by timestamp.

    Takes the place of pyVoIP's ``RTPPacketManager`` (RTP.py:154), which addresses
    bytes by timestamp, never bridges wrap-around or a gap, and rebuilds itself on
    every early packet. Gaps come out as zeros, so sample N is always N/8000 s
    after the first packet of the far end's clock. Not thread-safe.
    """

    def __init__(self) -> None:
        self.counts = StreamCounts()
        self._pending: dict[int, tuple[int, Samples | None]] = {}
        self._next: int | None = None
        self._source: int | None = None
        self._base: int | None = None
        self._end = 0

    def push(self, source: int, sequence: int, timestamp: int, audio: Samples | None) -> Samples:
        """Take one packet; return the samples that are now in order (maybe none).

        Args:
            source: SSRC.
            sequence: 16-bit sequence number.
            timestamp: 32-bit timestamp in units of 1/8000 s.
            audio: the decoded payload; ``None`` for a packet that only holds a
                place in the sequence (telephone-event, comfort noise).

        """
        self.counts.received += 1
        done: list[Samples] = []
        if self._next is not None:
            number = _unwrap(sequence, self._next, 16)
            if source != self._source or abs(number - self._next) > MAX_JUMP:
                done.append(self.flush())
                self.counts.restarts += 1
                self._next = self._base = None
        if self._next is None:
            self._next = number = sequence
        self._source = source
        if number < self._next or number in self._pending:
            self.counts.late += 1
            return self._join(done)
        self._pending[number] = timestamp, audio
        self._drain(done)
        while len(self._pending) > REORDER_PACKETS:
            self._skip_gap()
            self._drain(done)
        return self._join(done)

    def flush(self) -> Samples:
        """Whatever still waits for a missing packet."""
        done: list[Samples] = []
        while self._pending:
            self._skip_gap()
            self._drain(done)
        return self._join(done)

    def _skip_gap(self) -> None:
        first = min(self._pending)
        self.counts.lost += first - (self._next or 0)
        self._next = first

    def _drain(self, done: list[Samples]) -> None:
        while self._next is not None and self._next in self._pending:
            timestamp, audio = self._pending.pop(self._next)
            self._next += 1
            if audio is not None and len(audio):
                done.append(self._place(timestamp, audio))

    def _place(self, timestamp: int, audio: Samples) -> Samples:
        """The samples to append so that ``audio`` stands at its timestamp."""
        if self._base is None:
            self._base = timestamp - self._end
        position = _unwrap(timestamp - self._base, self._end, 32)
        gap = position - self._end
        if abs(gap) > MAX_GAP:
            self.counts.restarts += 1
            self._base, gap = timestamp - self._end, 0
        if gap < 0:
            # What was played already cannot be taken back.
            audio = audio[-gap:]
            gap = 0
        self._end += gap + len(audio)
        return np.concatenate([np.zeros(gap, dtype=np.int16), audio]) if gap else audio

    @staticmethod
    def _join(done: list[Samples]) -> Samples:
        return np.concatenate(done) if done else np.zeros(0, dtype=np.int16)

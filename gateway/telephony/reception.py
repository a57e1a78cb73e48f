"""What is known of the audio that comes in: losses, order, jitter (RFC 3550 appendices A.1, A.3, A.8). Pure."""

from __future__ import annotations

import math

from gateway.telephony.rtcp import ReportBlock

_MISORDERED = 100
_DROPOUT = 3000
_FARTHEST = 16_000.0
"""Two seconds."""


class Reception:
    """The statistics of one source. Arrival times are given in nanoseconds, of any clock that runs on."""

    __slots__ = (
        "_arrived_ns", "_base", "_cycles", "_expected_prior", "_jitter", "_longest_gap_ns", "_most_jitter",
        "_received_prior", "_transit", "duplicates", "last_sequence", "received", "reordered", "ssrc",
    )  # fmt: skip

    def __init__(self, ssrc: int, sequence: int) -> None:
        self.ssrc = ssrc
        self.last_sequence = (sequence - 1) & 0xFFFF
        self._base = sequence
        self._cycles = 0 if sequence else -0x10000  # the first packet is one that wraps around like any 0
        self.received = self.duplicates = self.reordered = 0
        self._jitter = self._most_jitter = 0.0
        self._transit = math.inf
        self._expected_prior = self._received_prior = 0
        self._arrived_ns: int | None = None
        self._longest_gap_ns = 0

    def take(self, sequence: int, timestamp: int | None, arrived_ns: int) -> None:
        """Count a packet; *timestamp* is RTP's, 8000 a second, None where it stands still (RFC 4733 §2.2.1).

        Every packet of every call comes through here: ``if`` costs a third of ``max``.
        """
        step = (sequence - self.last_sequence) & 0xFFFF
        self.received += 1
        if 0 < step < _DROPOUT:
            if sequence < self.last_sequence:
                self._cycles += 0x10000
            self.last_sequence = sequence
        elif step == 0:
            self.duplicates += 1
        elif step > 0x10000 - _MISORDERED:
            self.reordered += 1
        else:  # the far end began anew
            self._restart(sequence)
        if self._arrived_ns is not None:
            gap = arrived_ns - self._arrived_ns
            if gap > self._longest_gap_ns:  # noqa: PLR1730
                self._longest_gap_ns = gap
        self._arrived_ns = arrived_ns
        if timestamp is None:
            return
        transit = arrived_ns * 8e-6 - timestamp
        change = transit - self._transit
        self._transit = transit
        if -_FARTHEST < change < _FARTHEST:  # a timestamp that jumped or wrapped around is no jitter
            jitter = self._jitter = self._jitter + ((change if change > 0 else -change) - self._jitter) / 16
            if jitter > self._most_jitter:  # noqa: PLR1730
                self._most_jitter = jitter

    @property
    def expected(self) -> int:
        return self._cycles + self.last_sequence - self._base + 1

    @property
    def lost(self) -> int:
        """Packets that never came; negative where more came twice (RFC 3550 §6.4.1)."""
        return self.expected - self.received

    @property
    def jitter_ms(self) -> float:
        return self._jitter / 8

    @property
    def most_jitter_ms(self) -> float:
        return self._most_jitter / 8

    @property
    def longest_gap_ms(self) -> float:
        """Between two packets."""
        return self._longest_gap_ns / 1e6

    def block(self, last_sr: int, delay: int) -> ReportBlock:
        """What we report of this source, and begin the next interval."""
        expected, received = self.expected - self._expected_prior, self.received - self._received_prior
        self._expected_prior, self._received_prior = self.expected, self.received
        lost = expected - received
        fraction = min(255, (lost << 8) // expected) if expected > 0 and lost > 0 else 0
        highest = (self._cycles + self.last_sequence) & 0xFFFFFFFF
        return ReportBlock(self.ssrc, fraction, self.lost, highest, int(self._jitter), last_sr, delay)

    def _restart(self, sequence: int) -> None:
        received = self.received
        lost = max(0, self.lost + 1)  # without this packet, which is counted as received already
        self._cycles, self.last_sequence = 0, sequence
        self._base = sequence + 1 - received - lost
        self._transit = math.inf

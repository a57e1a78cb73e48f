"""What is known of the audio that comes in: losses, order, jitter (RFC 3550 appendices A.1, A.3, A.8). Pure."""

from __future__ import annotations

from gateway.telephony.rtcp import ReportBlock

_MISORDERED = 100
_DROPOUT = 3000


class Reception:
    """The statistics of one source. Arrival times are given in nanoseconds, of any clock that runs on."""

    __slots__ = (
        "_arrived_ns", "_base", "_cycles", "_expected_prior", "_jitter", "_received_prior", "_transit", "duplicates",
        "first_ns", "last_sequence", "longest_gap_ms", "most_jitter", "received", "reordered", "ssrc",
    )  # fmt: skip

    def __init__(self, ssrc: int, sequence: int) -> None:
        self.ssrc = ssrc
        self.last_sequence = (sequence - 1) & 0xFFFF
        self._base = sequence
        self._cycles = 0
        self.received = self.duplicates = self.reordered = 0
        self._jitter = self.most_jitter = 0.0
        self._transit: float | None = None
        self._expected_prior = self._received_prior = 0
        self._arrived_ns = self.first_ns = 0
        self.longest_gap_ms = 0.0

    def take(self, sequence: int, timestamp: int, arrived_ns: int) -> None:
        """Count a packet; *timestamp* is RTP's, 8000 a second."""
        step = (sequence - self.last_sequence) & 0xFFFF
        self.received += 1
        if step == 1:
            if sequence == 0:
                self._cycles += 0x10000
            self.last_sequence = sequence
        elif 0 < step < _DROPOUT:
            if sequence < self.last_sequence:
                self._cycles += 0x10000
            self.last_sequence = sequence
        elif step == 0:
            self.duplicates += 1
        elif step > 0x10000 - _MISORDERED:
            self.reordered += 1
        else:  # the far end began anew
            self._restart(sequence)
        if self._arrived_ns:
            gap = (arrived_ns - self._arrived_ns) / 1e6
            self.longest_gap_ms = max(self.longest_gap_ms, gap)
        else:
            self.first_ns = arrived_ns
        self._arrived_ns = arrived_ns
        transit = arrived_ns * 8e-6 - timestamp
        before, self._transit = self._transit, transit
        if before is not None:
            change = abs(transit - before)
            if change < 0x7FFFFFFF:  # a timestamp that wrapped around is no jitter
                self._jitter += (change - self._jitter) / 16
                self.most_jitter = max(self.most_jitter, self._jitter)

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
        return self.most_jitter / 8

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
        lost = max(0, self.lost)
        self._cycles, self.last_sequence = 0, sequence
        self._base = sequence + 1 - received - lost
        self._transit = None

"""What arrived at the load generator, call by call: gaps between packets, and what is missing (RFC 3550 A.3)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.measure.mmsg import Inbox

BIN_NS = 10_000
"""Gaps are counted in steps of 10 µs; 2 s and more share the last one."""

BINS = 200_000
_RTP_OCTETS = 12


class Gaps:
    """A histogram of the time between a packet and the one before it in the same stream."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.longest_ns = 0

    def add(self, gaps_ns: NDArray[np.int64]) -> None:
        if gaps_ns.size:
            self.longest_ns = max(self.longest_ns, int(gaps_ns.max()))
            np.add.at(self.counts, np.clip(gaps_ns // BIN_NS, 0, BINS - 1), 1)

    def figures(self) -> dict[str, float | None]:
        """p50, p99, p99.9 and max in ms, to 10 µs; None of nothing."""
        total = int(self.counts.sum())
        if not total:
            return dict.fromkeys(("p50", "p99", "p999", "max"))
        sums = np.cumsum(self.counts)
        found: dict[str, float | None] = {"max": round(self.longest_ns / 1e6, 3)}
        for name, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
            found[name] = round((int(np.searchsorted(sums, share * total)) + 0.5) * BIN_NS / 1e6, 3)
        return found


class Arrivals:
    """By row: what came of one stream. A stream begins with the first packet after :meth:`begin`."""

    def __init__(self, rows: int) -> None:
        self.gaps = Gaps()
        self.measuring = False
        self.stray = 0
        self.malformed = 0
        self.received = np.zeros(rows, np.int64)
        self.ssrc = np.zeros(rows, np.uint32)
        self.highest = np.zeros(rows, np.int64)
        self._base = np.zeros(rows, np.int64)
        self._again = np.zeros(rows, np.int64)
        self._last_ns = np.zeros(rows, np.int64)
        self._last_number = np.zeros(rows, np.int64)
        self._extended = np.zeros(rows, np.int64)
        self._gone = 0
        self._gone_received = 0
        self._gone_again = 0

    @property
    def lost(self) -> int:
        """Packets that are missing in the middle of a stream, of all streams so far; what came twice counts once."""
        return self._gone + int(self.lost_of(slice(None)).sum())

    @property
    def packets(self) -> int:
        return self._gone_received + int(self.received.sum())

    @property
    def duplicates(self) -> int:
        return self._gone_again + int(self._again.sum())

    def lost_of(self, row: Any) -> Any:
        """Packets missing of the streams in *row*, an index or a slice."""
        expected = np.where(self.received[row] > 0, self.highest[row] - self._base[row] + 1, 0)
        return expected - (self.received[row] - self._again[row])

    def begin(self, row: int) -> None:
        """A new stream in *row*; what was there before is added up."""
        self._gone += int(self.lost_of(row))
        self._gone_received += int(self.received[row])
        self._gone_again += int(self._again[row])
        for values in (self.received, self._again, self._last_ns, self._extended, self.highest, self._base):
            values[row] = 0

    def take(self, inbox: Inbox, rows: NDArray[np.int64]) -> None:
        """What *inbox* holds, of the stream in *rows*; -1 is of none."""
        number = inbox.count
        packets = inbox.packets[:number]
        whole = (inbox.octets[:number] >= _RTP_OCTETS) & (packets[:, 0] >> 6 == 2)
        self.malformed += int((~whole).sum())
        ours = whole & (rows >= 0)
        self.stray += int((whole & (rows < 0)).sum())
        kept = np.flatnonzero(ours)
        if not kept.size:
            return
        kept = kept[np.argsort(rows[kept], kind="stable")]
        row, at_ns = rows[kept], inbox.times()[kept]
        numbers = packets[kept, 2].astype(np.int64) << 8 | packets[kept, 3]
        first = np.r_[True, row[1:] != row[:-1]]
        last = np.r_[np.flatnonzero(first)[1:] - 1, row.size - 1]
        heads = row[first]
        begins = self.received[heads] == 0
        self.ssrc[heads] = np.ascontiguousarray(packets[kept[first], 8:12]).view(">u4").ravel()

        before_ns = np.r_[0, at_ns[:-1]]
        before_ns[first] = self._last_ns[heads]
        if self.measuring:
            self.gaps.add((at_ns - before_ns)[before_ns > 0])

        before = np.r_[0, numbers[:-1]]
        before[first] = np.where(begins, numbers[first], self._last_number[heads])
        steps = (numbers - before + 0x8000) % 0x10000 - 0x8000
        self._extended[heads[begins]] = self._base[heads[begins]] = self.highest[heads[begins]] = numbers[first][begins]
        sums = np.cumsum(steps)
        offset = self._extended[heads] - np.r_[0, sums[last[:-1]]]
        extended = sums + np.repeat(offset, np.diff(np.r_[np.flatnonzero(first), row.size]))

        new = first.copy()
        new[first] = begins
        np.add.at(self._again, row[(steps == 0) & ~new], 1)
        np.add.at(self.received, row, 1)
        np.maximum.at(self.highest, row, extended)
        self._last_ns[heads], self._last_number[heads], self._extended[heads] = (
            at_ns[last],
            numbers[last],
            extended[last],
        )

"""What of one prompt went out as RTP, and what the far end reported of just these packets (RFC 3550 §6.4.1). Pure.

Sequence numbers in here are our own, extended: they begin anywhere and never wrap around. A report says how far the far end has
got and how many packets it misses; so it speaks of the packets since the report before it, and what was lost of those counts
against every prompt that has one of them. A report only ever takes away: it is the worst one that counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

from gateway.audio.codec import CLOCK_RATE
from gateway.telephony.rtcp import ReportBlock

PACKETS_ON_THE_WAY = 100
"""Two seconds: what we sent before that has come to the far end, or never will."""

LEAST_PACKETS = 50
"""A report of fewer is judged together with the next: one packet lost of ten is not yet a tenth of the prompt."""

_NEVER_SENT = 0x8000
"""Half of all sequence numbers are ahead of us, not behind (RFC 1982)."""

_MOST_PASSAGES = 256
_MOST_REPORTS = 512
_MOST_HOLDS = 64
_TICK_MS = 20

At = tuple[int, int]
"""The sequence number and the RTP timestamp of a packet."""


@dataclass(frozen=True, slots=True)
class FarEnd:
    """What *reports* receiver reports said: the worst share lost, 0 to 1, and the worst jitter."""

    reports: int
    lost_fraction: float
    jitter_ms: float


@dataclass(slots=True)
class Passage:
    """One prompt on the wire. *planned* and *sent* are frames of 20 ms, *sent* being known when it has stopped; *first* and *last*
    are its packets. *far* is what was reported so far, and may yet grow worse.
    """

    ssrc: int
    planned: int
    sent: int = 0
    first: At | None = None
    last: At | None = None
    far: FarEnd | None = None
    _held_frames: int = 0
    _held_since: int | None = None

    @property
    def whole(self) -> bool:
        """Whether all of it was sent."""
        return self.sent == self.planned

    @property
    def held_ms(self) -> int:
        """How long the call was on hold while it played; a hold that ended at once counts 20 ms."""
        return self._held_frames * _TICK_MS

    def hold(self, frame: int, *, held: bool) -> None:
        """From *frame* on the call is on hold, or is not."""
        if held and self._held_since is None:
            self._held_since = frame
        elif not held and self._held_since is not None:
            self._held_frames += max(1, frame - self._held_since)
            self._held_since = None

    def has_any(self, after: int, to: int) -> bool:
        """Whether one of the packets behind *after* and up to *to* is of it."""
        return self.first is not None and self.first[0] <= to and (self.last is None or self.last[0] > after)

    def report(self, lost_fraction: float, jitter_ms: float) -> None:
        far = self.far or FarEnd(0, 0.0, 0.0)
        self.far = FarEnd(far.reports + 1, max(far.lost_fraction, lost_fraction), max(far.jitter_ms, jitter_ms))


class Passages:
    """The prompts of one stream, whose last packet before them all had the number *sequence*."""

    __slots__ = ("_heard_to", "_held", "_held_since", "_passages", "_reports", "_skipped")

    def __init__(self, sequence: int) -> None:
        self._passages: deque[Passage] = deque(maxlen=_MOST_PASSAGES)
        self._reports: list[tuple[int, int | None]] = [(sequence, 0)]
        """How far the far end had got, in our numbers, and how many packets it missed by then, where that is known; in rising
        order.
        """
        self._heard_to: int | None = None
        """How far it had got by its last report."""
        self._skipped = False
        """Whether reports were passed over since the last one in *_reports*."""
        self._held: deque[tuple[int, int]] = deque(maxlen=_MOST_HOLDS)
        """Our last packet before each hold, and the last one in it."""
        self._held_since: int | None = None

    def begin(self, ssrc: int, planned: int) -> Passage:
        passage = Passage(ssrc, planned)
        self._passages.append(passage)
        return passage

    def hold(self, sequence: int, *, held: bool) -> None:
        """Behind our packet *sequence* the far end does not listen, or does so again."""
        if held and self._held_since is None:
            self._held_since = sequence
        elif not held and self._held_since is not None:
            self._held.append((self._held_since, sequence))
            self._held_since = None

    def counts_anew(self, sequence: int) -> None:
        """Behind our packet *sequence* another far end may listen: how many packets that one misses is yet to be told."""
        self._reports = [report for report in self._reports if report[0] < sequence]
        self._reports.append((sequence, None))
        self._heard_to = None

    def take(self, block: ReportBlock | None, sequence: int) -> None:
        """A report about us, when *sequence* was our last packet; None: one that says that nothing came since the last.

        One that claims what we never sent is ignored; one of less than a second is told by the next.
        """
        last = self._heard_to
        if block is not None:
            highest = sequence - ((sequence - block.highest) & 0xFFFF)
            if sequence - highest >= _NEVER_SENT or highest <= self._reports[0][0]:
                return
            self._heard_to = highest
            self._judge(block, highest)
        if last is not None and last == self._heard_to:  # it stands still: what must have come by now did not
            self._blame(last, sequence - PACKETS_ON_THE_WAY, 1.0, block.jitter if block is not None else 0)

    def _judge(self, block: ReportBlock, highest: int) -> None:
        place = bisect_left(self._reports, highest, key=_highest)
        before, missed = self._reports[place - 1]
        packets, held = highest - before, self._held_between(before, highest)
        if packets < LEAST_PACKETS and missed is not None:
            self._skipped = True
            return
        lost = block.lost - missed if missed is not None else 0
        if held:  # nobody listened: these may be all that was lost, and the fraction says nothing
            share = max(0, lost - held) / max(1, packets - held)
        elif self._skipped and missed is not None:
            share = lost / packets
        else:
            share = max(lost / packets, block.fraction / 256)
        self._blame(before, highest, min(1.0, share), block.jitter)
        self._skipped = False
        if place == len(self._reports) or self._reports[place][0] != highest:
            self._reports.insert(place, (highest, block.lost))
            if len(self._reports) > _MOST_REPORTS:
                del self._reports[0]

    def _held_between(self, after: int, to: int) -> int:
        """How many of the packets behind *after* and up to *to* were sent on hold."""
        holds = [*self._held, (self._held_since, to)] if self._held_since is not None else self._held
        return sum(max(0, min(to, end) - max(after, before)) for before, end in holds)

    def _blame(self, after: int, to: int, lost_fraction: float, jitter: int) -> None:
        for passage in self._passages:
            if passage.has_any(after, to):
                passage.report(lost_fraction, jitter * 1000 / CLOCK_RATE)


def _highest(report: tuple[int, int | None]) -> int:
    return report[0]

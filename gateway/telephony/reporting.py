"""RTCP of one call (RFC 3550 §6): our reports, theirs, the round trip, and whether the far end hears us at all. Pure."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from gateway.telephony.reception import Reception
from gateway.telephony.rtcp import Goodbye, Report, ReportBlock, make_goodbye, make_report, middle, ntp_time, parse_rtcp

INTERVAL_S = 5.0
"""RFC 3550 §6.2, for two parties; each interval is drawn between half and one and a half of it."""

FIRST_S = 1.0
DEAF_S = 15.0
DEAF_REPORTS = 3
"""How long, and how often in a row, the far end has to report that nothing of ours arrives: one report may have been sent before
our first packet came.
"""

CNAME = "gateway@consent-gateway"


class Reporting:
    """What both sides report. Times are seconds since 1970, intervals are drawn from *random*."""

    __slots__ = (
        "_deaf_reports", "_deaf_since", "_due", "_heard_highest", "_last_sr", "_last_sr_at", "_random", "far", "goodbye", "malformed",
        "packets",
        "reports", "rtt_s",
    )  # fmt: skip

    def __init__(self, now: float, random: Random) -> None:
        self._random = random
        self._due = now + FIRST_S + random.random()
        self._last_sr, self._last_sr_at = 0, 0.0
        self._heard_highest = -1
        self._deaf_since: float | None = None
        self._deaf_reports = 0
        self.far: ReportBlock | None = None
        """What the far end said last of our stream."""
        self.rtt_s: float | None = None
        self.reports = self.malformed = self.packets = 0
        self.goodbye = False

    def due(self, now: float) -> bool:
        """Whether a report is to be sent; then the next one is planned."""
        if now < self._due:
            return False
        self._due = now + INTERVAL_S * (0.5 + self._random.random())
        return True

    def make(
        self, now: float, ssrc: int, timestamp: int, packets: int, octets: int, reception: Reception | None
    ) -> bytes:
        """Our sender report, with what we received."""
        blocks: tuple[ReportBlock, ...] = ()
        if reception is not None:
            delay = int((now - self._last_sr_at) * 65536) if self._last_sr else 0
            blocks = (reception.block(self._last_sr, max(0, delay) & 0xFFFFFFFF),)
        return make_report(Report(ssrc, blocks, ntp_time(now), timestamp, packets, octets), CNAME)

    def take(
        self, data: bytes, now: float, ssrc: int, on_block: Callable[[ReportBlock | None], None] = lambda _: None
    ) -> None:
        """The far end's reports; *ssrc* is ours. *on_block* is given what each says of us, None where that is nothing though
        others did. Raises BadMessage.
        """
        for packet in parse_rtcp(data):
            self.packets += 1
            if isinstance(packet, Goodbye):
                self.goodbye = True
                continue
            if packet.ntp is not None:
                self._last_sr, self._last_sr_at = middle(packet.ntp), now
            own = next((block for block in packet.blocks if block.ssrc == ssrc), None)
            if own is not None:
                self.far = own
                self.reports += 1
                if own.last_sr:
                    trip = (middle(ntp_time(now)) - own.last_sr - own.delay) & 0xFFFFFFFF
                    self.rtt_s = trip / 65536 if trip < 0x80000000 else 0.0
            if own is None and (packet.blocks or not self.reports):
                continue  # of another stream, perhaps one that a relay made of ours; or it never reports on anybody
            on_block(own)
            heard = own.highest if own is not None else self._heard_highest
            if heard != self._heard_highest:  # a lower one, too: it counts anew, so something came
                self._heard_highest = heard
                self.hears_again()
                continue
            self._deaf_reports += 1
            if self._deaf_since is None:
                self._deaf_since = now

    def deaf(self, now: float) -> bool:
        """Whether the far end has been saying for long that it gets nothing from us."""
        return self._deaf_since is not None and now - self._deaf_since > DEAF_S and self._deaf_reports >= DEAF_REPORTS

    def hears_again(self) -> None:
        """We fell silent ourselves, or the far end asked us to: what it did not hear so far does not count."""
        self._deaf_since, self._deaf_reports = None, 0

    @staticmethod
    def goodbye_packet(ssrc: int) -> bytes:
        return make_goodbye(ssrc, CNAME)

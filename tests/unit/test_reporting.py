"""RTCP of one call: what both sides report, the round trip, and a far end that hears nothing (RFC 3550 §6)."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest

from gateway.telephony.errors import BadMessage
from gateway.telephony.reception import Reception
from gateway.telephony.reporting import CNAME, DEAF_REPORTS, DEAF_S, FIRST_S, INTERVAL_S, Reporting
from gateway.telephony.rtcp import Goodbye, Report, ReportBlock, make_goodbye, make_report, middle, ntp_time, parse_rtcp

NOW = 1_800_000_000.0
OURS, THEIRS = 0x01020304, 0x0A0B0C0D


@pytest.fixture
def reporting() -> Reporting:
    return Reporting(NOW, Random(1))


def heard(highest: int, *, last_sr: int = 0, delay: int = 0, ssrc: int = OURS) -> ReportBlock:
    return ReportBlock(ssrc, 0, 0, highest, 0, last_sr, delay)


def take(reporting: Reporting, at: float, *blocks: ReportBlock, ntp: int | None = None) -> None:
    reporting.take(make_report(Report(THEIRS, blocks, ntp), "far"), NOW + at, OURS)


class TestWhen:
    """§6.2: intervals are drawn, so that reports of many calls do not come at once."""

    def test_the_first_one_comes_soon(self, reporting: Reporting) -> None:
        assert not reporting.due(NOW + FIRST_S - 0.01)
        assert reporting.due(NOW + FIRST_S + 1)

    def test_then_they_are_half_to_one_and_a_half_intervals_apart(self, reporting: Reporting) -> None:
        at, sent = NOW, []
        while len(sent) < 100:
            at += 0.1
            if reporting.due(at):
                sent.append(at)
        gaps = [b - a for a, b in pairwise(sent)]
        assert INTERVAL_S / 2 <= min(gaps) < max(gaps) <= 1.5 * INTERVAL_S + 0.11
        assert pytest.approx(sum(gaps) / len(gaps), rel=0.15) == INTERVAL_S


class TestOurs:
    """§6.4.1."""

    def report(self, reporting: Reporting, at: float, reception: Reception | None = None) -> Report:
        (report,) = parse_rtcp(reporting.make(NOW + at, OURS, 1600, 10, 1600, reception))
        assert isinstance(report, Report)
        return report

    def test_it_says_what_we_sent_and_when(self, reporting: Reporting) -> None:
        assert Report(OURS, (), ntp_time(NOW + 5), 1600, 10, 1600) == self.report(reporting, 5)

    def test_it_bears_our_name(self, reporting: Reporting) -> None:
        assert CNAME.encode() in reporting.make(NOW, OURS, 0, 0, 0, None)

    def test_it_says_what_we_received(self, reporting: Reporting) -> None:
        reception = Reception(THEIRS, 1)
        for number in (1, 2, 4):
            reception.take(number, 160 * number, number * 20_000_000)
        (block,) = self.report(reporting, 5, reception).blocks
        assert (THEIRS, 1, 4) == (block.ssrc, block.lost, block.highest)

    def test_it_gives_their_time_back_with_the_delay_since(self, reporting: Reporting) -> None:
        """So that they can measure the round trip too."""
        take(reporting, 3, ntp=0x1122_3344_5566_7788)
        (block,) = self.report(reporting, 5, Reception(THEIRS, 1)).blocks
        assert (0x3344_5566, 2 * 65_536) == (block.last_sr, block.delay)

    def test_before_their_first_report_there_is_no_time_to_give(self, reporting: Reporting) -> None:
        (block,) = self.report(reporting, 5, Reception(THEIRS, 1)).blocks
        assert (0, 0) == (block.last_sr, block.delay)

    def test_at_the_end_it_says_goodbye(self, reporting: Reporting) -> None:
        assert Goodbye((OURS,)) == list(parse_rtcp(reporting.goodbye_packet(OURS)))[-1]


class TestTheirs:
    def test_the_last_one_is_kept(self, reporting: Reporting) -> None:
        for highest in (1, 2):
            take(reporting, highest, heard(highest))
        assert (heard(2), 2) == (reporting.far, reporting.reports)

    def test_what_they_say_of_others_is_not_of_us(self, reporting: Reporting) -> None:
        take(reporting, 1, heard(1, ssrc=99))
        assert (None, 0) == (reporting.far, reporting.reports)

    def test_a_goodbye_is_noted(self, reporting: Reporting) -> None:
        reporting.take(make_goodbye(THEIRS, "far"), NOW, OURS)
        assert reporting.goodbye

    def test_garbage_is_refused_in_words(self, reporting: Reporting) -> None:
        with pytest.raises(BadMessage, match="RTCP packet"):
            reporting.take(b"\0\0\0\0", NOW, OURS)


class TestOnBlock:
    """What each report says of us is handed on, as it comes."""

    def told(self, reporting: Reporting, *packets: bytes) -> list[ReportBlock | None]:
        found: list[ReportBlock | None] = []
        for data in packets:
            reporting.take(data, NOW, OURS, found.append)
        return found

    def test_every_block_about_us_and_none_about_others(self, reporting: Reporting) -> None:
        first = make_report(Report(THEIRS, (heard(5, ssrc=99), heard(6))), "far")
        other = make_report(Report(THEIRS, (heard(7, ssrc=99),)), "far")
        assert [heard(6), heard(8)] == self.told(
            reporting, first, other, make_report(Report(THEIRS, (heard(8),), 1), "far")
        )

    def test_of_several_in_one_packet_each(self, reporting: Reporting) -> None:
        both = make_report(Report(THEIRS, (heard(5),)), "far") + make_report(Report(THEIRS, (heard(6),)), "far")
        assert [heard(5), heard(6)] == self.told(reporting, both)

    def test_that_we_are_named_no_more_is_told_too(self, reporting: Reporting) -> None:
        empty = make_report(Report(THEIRS, ()), "far")
        assert [heard(5), None] == self.told(reporting, make_report(Report(THEIRS, (heard(5),)), "far"), empty)

    def test_that_we_never_were_is_not(self, reporting: Reporting) -> None:
        assert [] == self.told(reporting, make_report(Report(THEIRS, ()), "far"), make_goodbye(THEIRS, "far"))

    def test_what_stands_before_garbage_is_read(self, reporting: Reporting) -> None:
        found: list[ReportBlock | None] = []
        with pytest.raises(BadMessage, match="RTCP packet"):
            reporting.take(make_report(Report(THEIRS, (heard(5),)), "far") + b"\0" * 4, NOW, OURS, found.append)
        assert [heard(5)] == found


class TestRoundTrip:
    """§6.4.1: now - LSR - DLSR."""

    def test_it_is_what_is_left_without_their_delay(self, reporting: Reporting) -> None:
        take(reporting, 2.25, heard(1, last_sr=middle(ntp_time(NOW)), delay=2 * 65_536))
        assert 0.25 == pytest.approx(reporting.rtt_s, abs=1e-4)

    def test_until_they_heard_our_time_it_is_not_known(self, reporting: Reporting) -> None:
        take(reporting, 1, heard(1))
        assert reporting.rtt_s is None

    def test_clocks_that_disagree_make_no_negative_one(self, reporting: Reporting) -> None:
        take(reporting, 1, heard(1, last_sr=middle(ntp_time(NOW)), delay=3 * 65_536))
        assert 0.0 == reporting.rtt_s


class TestDeafness:
    """One-way audio: the far end says again and again that nothing of ours arrives."""

    def test_a_far_end_whose_count_stands_still_is_deaf_in_the_end(self, reporting: Reporting) -> None:
        for at in (0, 5, 10, 15, 20):
            take(reporting, at, heard(100))
        assert not reporting.deaf(NOW + 5 + DEAF_S)
        assert reporting.deaf(NOW + 5 + DEAF_S + 1)

    def test_one_that_names_us_no_more_is_deaf_too(self, reporting: Reporting) -> None:
        """No block: nothing came since its last report (§6.4.2)."""
        take(reporting, 0, heard(100))
        for at in (1, 5, 10, 16):
            take(reporting, at)
        assert reporting.deaf(NOW + DEAF_S + 2)

    def test_one_that_never_reports_on_anybody_says_nothing(self, reporting: Reporting) -> None:
        for at in (0, 5, 10, 16):
            take(reporting, at)
        assert not reporting.deaf(NOW + 10 * DEAF_S)

    def test_one_that_speaks_of_another_stream_says_nothing(self, reporting: Reporting) -> None:
        """A relay may have given our stream another name."""
        take(reporting, 0, heard(100))
        for at in (1, 5, 10, 16):
            take(reporting, at, heard(100, ssrc=0xBAD))
        assert not reporting.deaf(NOW + 10 * DEAF_S)

    def test_one_that_hears_us_is_not(self, reporting: Reporting) -> None:
        for at in range(0, 60, 5):
            take(reporting, at, heard(at * 50))
        assert not reporting.deaf(NOW + 60)

    def test_one_report_before_our_first_packet_says_nothing(self, reporting: Reporting) -> None:
        """Some report every half minute only."""
        take(reporting, 0)
        assert not reporting.deaf(NOW + 10 * DEAF_S)

    def test_it_takes_more_than_one_or_two_reports(self, reporting: Reporting) -> None:
        take(reporting, 0, heard(100))
        for at in range(DEAF_REPORTS - 1):
            take(reporting, at)
        assert not reporting.deaf(NOW + 100)
        take(reporting, 50)
        assert reporting.deaf(NOW + 100)

    def test_a_far_end_that_counts_anew_hears_us(self, reporting: Reporting) -> None:
        take(reporting, 0, heard(70_000))
        for at, highest in ((5, 100), (10, 350), (15, 600), (20, 850)):
            take(reporting, at, heard(highest))
        assert not reporting.deaf(NOW + 40)

    def test_a_far_end_that_says_nothing_is_not_deaf(self, reporting: Reporting) -> None:
        assert not reporting.deaf(NOW + 1000)

    def test_what_was_not_heard_while_we_were_silent_does_not_count(self, reporting: Reporting) -> None:
        for at in (0, 5, 10, 15):
            take(reporting, at, heard(100))
        reporting.hears_again()
        assert not reporting.deaf(NOW + 100)

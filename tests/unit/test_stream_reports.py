"""One call's media as both sides watch over it: SRTP, reports, and silence that ends the call (RFC 3550 §6, RFC 3711)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from media_bench import EVENTS, Line, packet

from gateway.telephony.crypto import Protection, new_crypto
from gateway.telephony.rtcp import Goodbye, Report, ReportBlock, make_report, parse_rtcp
from gateway.telephony.rtp import event_payload

SILENCE = b"\xd5" * 160


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


class TestProtected:
    """SRTP: only what is proven is heard, latches, or says anything."""

    @pytest.fixture
    def keys(self) -> tuple[Protection, Protection]:
        ours, theirs = new_crypto(), new_crypto()
        return Protection(ours, theirs), Protection(theirs, ours)

    @pytest.fixture
    def line(self, keys: tuple[Protection, Protection]) -> Iterator[Line]:
        made = Line(protection=keys[0])
        yield made
        made.close()

    def test_both_ways_it_is_protected(self, line: Line, keys: tuple[Protection, Protection]) -> None:
        line.put(keys[1].protect(packet(b"a" * 160)))
        line.tick(4)
        assert b"a" * 160 == line.heard[-1]
        sent = line.far.rtp.recv(2048)
        assert SILENCE not in sent
        assert SILENCE == keys[1].unprotect(sent)[12:]

    def test_a_plain_packet_is_malformed_and_steers_nothing(self, line: Line) -> None:
        line.put(packet(b"b" * 160), by=line.stranger)
        line.tick()
        assert (1, 0) == (line.stream.counters.malformed, line.stream.received)
        assert 0 == len(line.stranger.heard())

    def test_a_packet_that_is_played_back_is_malformed(self, line: Line, keys: tuple[Protection, Protection]) -> None:
        data = keys[1].protect(packet(b"a" * 160))
        line.put(data)
        line.put(data)
        assert (1, 1) == (line.stream.counters.malformed, line.stream.received)

    def test_reports_are_protected_too(self, line: Line, keys: tuple[Protection, Protection]) -> None:
        line.report(make_report(Report(7, ()), "far"))
        assert 1 == line.stream.reporting.malformed
        line.report(
            keys[1].protect_rtcp(make_report(Report(7, (ReportBlock(line.stream._ssrc, 0, 0, 1, 0, 0, 0),)), "far"))
        )
        assert 1 == line.stream.reporting.reports
        line.stream.leave()
        assert Goodbye((line.stream._ssrc,)) == list(parse_rtcp(keys[1].unprotect_rtcp(line.far.rtcp.recv(2048))))[-1]

    def test_a_new_key_of_theirs_is_taken_at_once(self, line: Line) -> None:
        ours = line.stream.own_crypto
        assert ours is not None
        renewed = new_crypto()
        line.change(crypto=renewed)
        line.put(Protection(renewed, ours).protect(packet(b"a" * 160)))
        assert (1, ours) == (line.stream.received, line.stream.own_crypto)


class TestReports:
    """RFC 3550 §6."""

    def test_a_sender_report_leaves_within_the_first_seconds(self, line: Line) -> None:
        line.tick(150)
        (report,) = parse_rtcp(line.far.rtcp.recv(2048))
        assert isinstance(report, Report)
        assert line.stream._ssrc == report.ssrc
        assert 50 <= report.packets <= 150
        assert 160 * report.packets == report.octets

    def test_on_a_shared_port_they_go_with_the_audio(self, line: Line) -> None:
        """RFC 5761."""
        line.change(mux=True)
        line.stream.leave()
        assert Goodbye((line.stream._ssrc,)) == list(parse_rtcp(line.far.rtp.recv(2048)))[-1]
        line.put(make_report(Report(7, (ReportBlock(line.stream._ssrc, 5, 0, 1, 0, 0, 0),)), "far"))
        assert 1 == line.stream.reporting.reports

    def test_they_go_to_the_port_above_where_none_is_named(self, line: Line) -> None:
        line.change(rtcp=None)
        line.stream.leave()
        assert (0, [], []) == (line.stream.counters.unsent, line.far.heard(), line.stranger.heard())

    def test_a_strangers_report_is_not_read(self, line: Line) -> None:
        line.change(remote=("192.0.2.77", 4000), rtcp=("192.0.2.77", 4001))
        line.report(make_report(Report(7, ()), "x"), by=line.stranger)
        assert 1 == line.stream.counters.foreign

    def test_garbage_is_counted(self, line: Line) -> None:
        line.report(b"\0\0\0\0")
        assert 1 == line.stream.reporting.malformed


class TestSilence:
    """A call without audio is ended with its reason (the issue of one-way calls)."""

    @pytest.fixture
    def line(self) -> Iterator[Line]:
        made = Line(timeout_s=2.0)
        yield made
        made.close()

    def test_when_no_audio_ever_came(self, line: Line) -> None:
        line.tick(200)
        assert ["no audio ever came from the far end for 2 s"] == line.failures

    def test_when_no_more_audio_came(self, line: Line) -> None:
        line.speak(*[0x30] * 60)
        line.tick(200)
        assert ["no more audio came from the far end for 2 s"] == line.failures

    def test_keys_are_signs_of_life(self, line: Line) -> None:
        for number in range(20):
            line.put(packet(event_payload("5", end=True, duration=160), kind=EVENTS, timestamp=number))
            line.tick(20)
        assert [] == line.failures

    @pytest.mark.parametrize("direction", ["recvonly", "inactive", "sendonly"])
    def test_a_call_on_hold_is_not_ended(self, line: Line, direction: str) -> None:
        line.change(direction=direction)
        line.tick(1000)
        assert [] == line.failures

    def test_after_a_hold_the_far_end_has_its_time_again(self, line: Line) -> None:
        line.change(direction="inactive")
        line.tick(1000)
        line.change(direction="sendrecv")
        line.tick(90)
        assert [] == line.failures
        line.tick(200)
        assert 1 == len(line.failures)

    def test_without_a_limit_it_is_never_ended(self) -> None:
        line = Line()
        line.tick(2000)
        line.close()
        assert [] == line.failures

    def test_a_far_end_that_hears_nothing_of_us_ends_the_call(self, line: Line) -> None:
        for number in range(25):
            line.speak(*[0x30] * 50)
            line.report(make_report(Report(7, (ReportBlock(line.stream._ssrc, 255, 50, 1, 0, 0, 0),)), "far"))
            if line.failures:
                assert number > 15
        assert ["the far end reports that it hears nothing of us"] == line.failures

"""RTCP packets (RFC 3550 §6), octet for octet and against captured ones."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telephony.errors import BadMessage
from gateway.telephony.rtcp import (
    BYE,
    NTP_EPOCH,
    RR,
    SDES,
    SR,
    Goodbye,
    Report,
    ReportBlock,
    is_rtcp,
    make_goodbye,
    make_report,
    middle,
    ntp_time,
    parse_rtcp,
)

BLOCK = ReportBlock(0x11223344, 25, 300, 0x0001FFFE, 17, 0xAABBCCDD, 65_536)
SENDER = Report(0xDEADBEEF, (BLOCK,), (1 << 32) + 5, 160, 50, 8000)
RECEIVER = Report(0xDEADBEEF, (BLOCK,))

words = st.integers(0, 2**32 - 1)
blocks = st.builds(
    ReportBlock, words, st.integers(0, 255), st.integers(-0x800000, 0x7FFFFF), words, words, words, words
)
reports = st.builds(
    Report, words, st.lists(blocks, max_size=31).map(tuple), st.none() | st.integers(0, 2**64 - 1), words, words, words
).map(lambda r: r if r.ntp is not None else Report(r.ssrc, r.blocks))


def kinds(packet: bytes) -> list[int]:
    """The packet types in a compound packet, whose lengths have to meet its end."""
    found = []
    while packet:
        found.append(packet[1])
        packet = packet[4 * (int.from_bytes(packet[2:4], "big") + 1) :]
    return found


class TestReports:
    """RFC 3550 §6.4."""

    @given(reports)
    def test_what_is_made_is_read(self, report: Report) -> None:
        assert [report] == list(parse_rtcp(make_report(report, "x")))

    def test_a_sender_report_octet_by_octet(self) -> None:
        expected = struct.pack(
            "!BBHIIIIIIIIIIII", 0x81, SR, 12, 0xDEADBEEF, 1, 5, 160, 50, 8000,
            0x11223344, 25 << 24 | 300, 0x0001FFFE, 17, 0xAABBCCDD, 65_536,
        )  # fmt: skip
        assert expected == make_report(SENDER, "x")[: len(expected)]

    def test_without_a_time_it_is_a_receiver_report(self) -> None:
        assert [RR, SDES] == kinds(make_report(RECEIVER, "x"))

    @pytest.mark.parametrize("lost", [-1, -0x800000, 0, 0x7FFFFF])
    def test_the_loss_may_be_negative(self, lost: int) -> None:
        """Duplicates: more came than was expected."""
        report = Report(1, (ReportBlock(2, 0, lost, 0, 0, 0, 0),))
        (found,) = parse_rtcp(make_report(report, "x"))
        assert isinstance(found, Report)
        assert lost == found.blocks[0].lost

    @pytest.mark.parametrize(("lost", "told"), [(0x900000, 0x7FFFFF), (-0x900000, -0x800000)])
    def test_a_loss_beyond_24_bits_stays_at_the_end_of_the_scale(self, lost: int, told: int) -> None:
        (found,) = parse_rtcp(make_report(Report(1, (ReportBlock(2, 0, lost, 0, 0, 0, 0),)), "x"))
        assert isinstance(found, Report)
        assert told == found.blocks[0].lost

    def test_a_profile_extension_is_passed_over(self) -> None:
        body = struct.pack("!BBHI", 0x80, RR, 2, 7) + b"more"
        assert [Report(7, ())] == list(parse_rtcp(body))


class TestNames:
    """RFC 3550 §6.5: every compound packet names its source."""

    @pytest.mark.parametrize("name", ["", "a", "ab", "abc", "abcd", "gateway@consent-gateway", "é" * 200])
    def test_the_name_is_whole_and_the_packet_ends_on_a_word(self, name: str) -> None:
        packet = make_report(RECEIVER, name)
        assert 0 == len(packet) % 4
        assert [RR, SDES] == kinds(packet)
        assert name.encode()[:255] in packet

    def test_a_goodbye_is_a_report_a_name_and_bye(self) -> None:
        packet = make_goodbye(7, "x")
        assert [RR, SDES, BYE] == kinds(packet)
        assert [Report(7, ()), Goodbye((7,))] == list(parse_rtcp(packet))

    def test_the_reason_of_a_goodbye_is_passed_over(self) -> None:
        packet = struct.pack("!BBHI", 0x81, BYE, 2, 7) + b"\x03bye"
        assert [Goodbye((7,))] == list(parse_rtcp(packet))


class TestTimes:
    """RFC 3550 §4."""

    def test_ntp_counts_from_1900(self) -> None:
        assert NTP_EPOCH << 32 == ntp_time(0)
        assert (NTP_EPOCH + 1 << 32) + (1 << 31) == ntp_time(1.5)

    def test_the_middle_is_16_bits_of_seconds_and_16_of_their_fraction(self) -> None:
        assert 0x3344_5566 == middle(0x1122_3344_5566_7788)


class TestSharedPorts:
    """RFC 5761 §4."""

    @pytest.mark.parametrize("kind", [SR, RR, SDES, BYE, 204, 205, 206])
    def test_reports_are_told_from_audio_by_their_type(self, kind: int) -> None:
        assert is_rtcp(bytes([0x80, kind]))

    @pytest.mark.parametrize("second", [0, 8, 9, 13, 101, 0x80, 0x88, 0x89, 0x80 | 101])
    def test_audio_is_none_marked_or_not(self, second: int) -> None:
        assert not is_rtcp(bytes([0x80, second]))

    @pytest.mark.parametrize("data", [b"", b"\x80"])
    def test_what_is_too_short_is_none(self, data: bytes) -> None:
        assert not is_rtcp(data)


class TestGarbage:
    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "is empty"),
            (b"\x80\xc8\x00", "has 3 octets left"),
            (b"\x40\xc8\x00\x00", "has version 1, not 2"),
            (b"\x80\xc8\x00\x07\0\0\0\0", "says 32 octets, 8 are there"),
            (struct.pack("!BBHI", 0x81, RR, 1, 7), "has 4 octets for 1 blocks"),
            (struct.pack("!BBHI", 0x80, SR, 1, 7), "has 4 octets for 0 blocks"),
            (struct.pack("!BBHI", 0x82, BYE, 1, 7), "BYE has truncated sources"),
        ],
    )
    def test_what_is_wrong_is_said_in_words(self, data: bytes, words: str) -> None:
        with pytest.raises(BadMessage, match=words):
            list(parse_rtcp(data))

    def test_the_reports_before_the_fault_are_read(self) -> None:
        packets = parse_rtcp(make_report(RECEIVER, "x") + b"\0\0\0\0")
        assert RECEIVER == next(packets)
        with pytest.raises(BadMessage, match="version 0"):
            next(packets)

    @given(st.binary(max_size=120))
    def test_random_octets_only_ever_raise_bad_message(self, data: bytes) -> None:
        with suppress(BadMessage):
            list(parse_rtcp(data))

    @given(reports, st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
    def test_mangled_reports_only_ever_raise_bad_message(self, report: Report, at: int, octets: bytes) -> None:
        data = bytearray(make_report(report, "gateway"))
        at %= len(data)
        data[at : at + len(octets)] = octets
        with suppress(BadMessage):
            list(parse_rtcp(bytes(data)))

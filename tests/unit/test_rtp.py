"""RTP packets (RFC 3550 §5.1) and telephone events (RFC 4733 §2.3)."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.telephony.errors import BadMessage
from gateway.telephony.rtp import HEADER, RtpPacket, TelephoneEvent, event_payload, parse_event, parse_rtp

AUDIO = 8


def packet(payload: bytes = b"\xd5" * 160, *, first: int = 0x80, second: int = AUDIO, timestamp: int = 0) -> bytes:
    return HEADER.pack(first, second, 7, timestamp, 0xDEADBEEF) + payload


class TestPackets:
    """RFC 3550 §5.1, §5.3.1."""

    def test_every_field_is_read(self) -> None:
        assert RtpPacket(8, 7, 160, 0xDEADBEEF, marker=True, payload=b"abc") == parse_rtp(
            packet(b"abc", second=0x88, timestamp=160)
        )

    def test_contributing_sources_are_skipped(self) -> None:
        assert b"abc" == parse_rtp(packet(bytes(8) + b"abc", first=0x82)).payload

    def test_an_extension_is_skipped(self) -> None:
        extension = struct.pack("!HH", 0xBEDE, 2) + bytes(8)
        assert b"abc" == parse_rtp(packet(extension + b"abc", first=0x90)).payload

    def test_padding_is_cut_off(self) -> None:
        assert b"abc" == parse_rtp(packet(b"abc\0\0\x03", first=0xA0)).payload

    def test_padding_may_be_all_there_is(self) -> None:
        assert b"" == parse_rtp(packet(b"\0\0\x03", first=0xA0)).payload

    @pytest.mark.parametrize("size", [0, 1, 11])
    def test_a_truncated_header(self, size: int) -> None:
        with pytest.raises(BadMessage, match=f"RTP packet has {size} octets, its header takes 12"):
            parse_rtp(packet()[:size])

    @pytest.mark.parametrize("version", [0, 1, 3])
    def test_another_version(self, version: int) -> None:
        with pytest.raises(BadMessage, match=f"RTP packet has version {version}, not 2"):
            parse_rtp(packet(first=version << 6))

    def test_truncated_contributing_sources(self) -> None:
        with pytest.raises(BadMessage, match="RTP packet has truncated CSRC"):
            parse_rtp(packet(b"abc", first=0x81))

    def test_a_truncated_extension_header(self) -> None:
        with pytest.raises(BadMessage, match="RTP packet has truncated extension header"):
            parse_rtp(packet(b"abc", first=0x90))

    def test_a_truncated_extension(self) -> None:
        with pytest.raises(BadMessage, match=r"RTP packet has truncated extension$"):
            parse_rtp(packet(struct.pack("!HH", 0, 2) + bytes(7), first=0x90))

    @pytest.mark.parametrize(("padding", "size"), [(0, 3), (4, 3), (255, 3)])
    def test_padding_that_cannot_be(self, padding: int, size: int) -> None:
        with pytest.raises(BadMessage, match=f"RTP packet has {padding} octets of padding in {size} of payload"):
            parse_rtp(packet(b"ab" + bytes([padding]), first=0xA0))

    def test_padding_without_payload(self) -> None:
        with pytest.raises(BadMessage, match="octets of padding in 0 of payload"):
            parse_rtp(packet(b"", first=0xA0))

    @settings(deadline=None)
    @given(st.binary(max_size=64))
    def test_random_octets_only_ever_raise_bad_message(self, data: bytes) -> None:
        with suppress(BadMessage):
            assert len(parse_rtp(data).payload) <= len(data) - HEADER.size


class TestTelephoneEvents:
    """RFC 4733 §2.3, §3.2."""

    @pytest.mark.parametrize(("code", "key"), tuple(enumerate("0123456789*#ABCD")))
    def test_each_code_is_its_key_both_ways(self, code: int, key: str) -> None:
        payload = bytes([code, 0x8A, 0x03, 0x20])
        assert TelephoneEvent(key, end=True, duration=800) == parse_event(payload)
        assert payload == event_payload(key, end=True, duration=800)

    def test_the_end_bit_is_the_highest_of_the_second_octet(self) -> None:
        assert not parse_event(bytes([5, 0x7F, 0, 160])).end
        assert not event_payload("5", end=False, duration=160)[1] & 0x80

    def test_a_truncated_event(self) -> None:
        with pytest.raises(BadMessage, match="telephone-event has 3 octets, not 4"):
            parse_event(b"\x05\x80\x03")

    def test_an_event_that_is_no_key(self) -> None:
        with pytest.raises(BadMessage, match="telephone-event 16 is no DTMF key"):
            parse_event(bytes([16, 0x80, 0, 160]))

    def test_a_long_duration_stays_at_its_greatest(self) -> None:
        assert b"\xff\xff" == event_payload("1", end=True, duration=70_000)[2:]

    def test_what_is_no_key_cannot_be_made(self) -> None:
        with pytest.raises(ValueError, match="substring not found"):
            event_payload("x", end=False, duration=160)

"""SRTP keyed by SDES: the a=crypto attribute (RFC 4568), and packets that are proven or refused (RFC 3711)."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telephony.crypto import KEY_OCTETS, SUITES, Crypto, Protection, new_crypto, read_crypto
from gateway.telephony.errors import BadMessage
from gateway.telephony.rtcp import Report, make_report
from gateway.telephony.rtp import HEADER

STRONG, SHORT = "AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32"
KEY = bytes(range(KEY_OCTETS))
INLINE = base64.b64encode(KEY).decode()


def rtp(sequence: int = 1, payload: bytes = b"\xd5" * 160) -> bytes:
    return HEADER.pack(0x80, 8, sequence, 160 * sequence, 0xDEADBEEF) + payload


def rtcp() -> bytes:
    return make_report(Report(0xDEADBEEF, ()), "far")


@pytest.fixture(params=SUITES)
def sides(request: pytest.FixtureRequest) -> tuple[Protection, Protection]:
    """Both ends of a call."""
    ours, theirs = new_crypto(1, request.param), new_crypto(1, request.param)
    return Protection(ours, theirs), Protection(theirs, ours)


class TestReadingTheAttribute:
    """RFC 4568 §6.1, §9.1."""

    def test_tag_suite_and_key_are_read(self) -> None:
        assert Crypto(7, STRONG, KEY) == read_crypto([f"7 {STRONG} inline:{INLINE}"])

    def test_the_first_that_we_speak_is_taken(self) -> None:
        assert Crypto(2, SHORT, KEY) == read_crypto(
            [f"1 AES_256_CM_HMAC_SHA1_80 inline:{INLINE}", f"2 {SHORT} inline:{INLINE}", f"3 {STRONG} inline:{INLINE}"]
        )

    @pytest.mark.parametrize("lifetime", ["|2^20", "|1048576", "|2^20|1:4"])
    def test_a_lifetime_and_a_key_index_are_read_over(self, lifetime: str) -> None:
        assert Crypto(1, STRONG, KEY) == read_crypto([f"1 {STRONG} inline:{INLINE}{lifetime}"])

    def test_a_key_without_its_padding_is_understood(self) -> None:
        assert INLINE.rstrip("=") == INLINE, "30 octets need none"
        assert read_crypto([f"1 {STRONG} inline:{INLINE}"]) is not None

    @pytest.mark.parametrize(
        "parameter", ["KDR=1", "UNENCRYPTED_SRTP", "UNAUTHENTICATED_SRTP", "FEC_ORDER=FEC_SRTP", "WSH=64"]
    )
    def test_session_parameters_are_not_understood_and_so_refused(self, parameter: str) -> None:
        """§6.3: above all nobody talks us into sending in the clear."""
        assert read_crypto([f"1 {STRONG} inline:{INLINE} {parameter}"]) is None

    @pytest.mark.parametrize(
        "attribute",
        ["", "1", f"1 {STRONG}", f"1 {STRONG} inline:", f"1 {STRONG} inline:!!!!", f"x {STRONG} inline:{INLINE}",
         f"1 {STRONG} uri:{INLINE}", f"1 {STRONG} inline:{INLINE};inline:{INLINE}",
         f"1 {STRONG} inline:{base64.b64encode(KEY[:-1]).decode()}", f"1 {STRONG} inline:{base64.b64encode(KEY + b'x').decode()}",
         f"1 {STRONG} inline:===="],
    )  # fmt: skip
    def test_what_is_no_key_is_none(self, attribute: str) -> None:
        assert read_crypto([attribute]) is None

    @given(st.lists(st.text(max_size=100), max_size=4))
    def test_any_text_is_no_key(self, attributes: list[str]) -> None:
        assert read_crypto(attributes) is None

    @given(
        st.integers(0, 999_999_999), st.sampled_from(list(SUITES)), st.binary(min_size=KEY_OCTETS, max_size=KEY_OCTETS)
    )
    def test_what_we_write_we_read(self, tag: int, suite: str, key: bytes) -> None:
        crypto = Crypto(tag, suite, key)
        assert crypto == read_crypto([crypto.attribute])


class TestKeys:
    def test_each_call_has_its_own(self) -> None:
        assert 20 == len({new_crypto().key for _ in range(20)})

    def test_a_key_is_never_shown(self) -> None:
        crypto = Crypto(1, STRONG, KEY)
        assert f"Crypto(1, {STRONG})" == repr(crypto) == str(crypto)

    def test_the_stronger_suite_is_offered(self) -> None:
        assert STRONG == new_crypto().suite


Sides = tuple[Protection, Protection]


class TestProtection:
    """RFC 3711 §3.1, §3.3, §3.4."""

    def test_audio_arrives_as_it_was(self, sides: Sides) -> None:
        near, far = sides
        assert [rtp(n) for n in (1, 2, 3)] == [far.unprotect(near.protect(rtp(n))) for n in (1, 2, 3)]

    def test_the_header_stays_readable_and_the_payload_does_not(self, sides: Sides) -> None:
        packet = sides[0].protect(rtp())
        assert rtp()[:12] == packet[:12]
        assert b"\xd5" * 8 not in packet

    def test_reports_arrive_as_they_were(self, sides: Sides) -> None:
        near, far = sides
        assert rtcp() == far.unprotect_rtcp(near.protect_rtcp(rtcp()))

    def test_both_directions_have_keys_of_their_own(self, sides: Sides) -> None:
        near, far = sides
        assert near.protect(rtp()) != far.protect(rtp())
        with pytest.raises(BadMessage, match="SRTP packet"):
            near.unprotect(near.protect(rtp(2)))

    @pytest.mark.parametrize("at", [3, 5, 12, 100, -1])
    def test_a_packet_that_was_touched_is_refused(self, sides: Sides, at: int) -> None:
        near, far = sides
        touched = bytearray(near.protect(rtp()))
        touched[at] ^= 1
        with pytest.raises(BadMessage, match="SRTP packet"):
            far.unprotect(bytes(touched))

    def test_a_packet_that_comes_again_is_refused(self, sides: Sides) -> None:
        near, far = sides
        packet = near.protect(rtp())
        far.unprotect(packet)
        with pytest.raises(BadMessage, match="SRTP packet"):
            far.unprotect(packet)

    def test_a_plain_packet_is_refused(self, sides: Sides) -> None:
        with pytest.raises(BadMessage, match="SRTP packet"):
            sides[1].unprotect(rtp())

    @pytest.mark.parametrize("data", [b"", b"\x80", struct.pack("!BB", 0x80, 8), b"\x80\xc8\x00\x00"])
    def test_what_is_too_short_is_refused(self, sides: Sides, data: bytes) -> None:
        with pytest.raises(BadMessage, match="SRTP packet"):
            sides[1].unprotect(data)
        with pytest.raises(BadMessage, match="SRTCP packet"):
            sides[1].unprotect_rtcp(data)

    def test_a_report_that_was_touched_is_refused(self, sides: Sides) -> None:
        near, far = sides
        touched = bytearray(near.protect_rtcp(rtcp()))
        touched[9] ^= 1
        with pytest.raises(BadMessage, match="SRTCP packet"):
            far.unprotect_rtcp(bytes(touched))

    @given(st.binary(max_size=200))
    def test_random_octets_only_ever_raise_bad_message(self, data: bytes) -> None:
        side = Protection(new_crypto(), new_crypto())
        with pytest.raises(BadMessage):
            side.unprotect(data)
        with pytest.raises(BadMessage):
            side.unprotect_rtcp(data)

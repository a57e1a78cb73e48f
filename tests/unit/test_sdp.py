"""Offer and answer (RFC 3264, RFC 4566)."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.telephony.crypto import new_crypto
from gateway.telephony.errors import BadMessage, NoCommonCodec
from gateway.telephony.sdp import make_answer, make_offer, read_description

LOCAL = ("192.0.2.1", 20000)
KEY = base64.b64encode(bytes(30)).decode()


def sdp(*media: str, connection: str = "IN IP4 192.0.2.2", session: str = "") -> bytes:
    lines = ["v=0", "o=- 1 1 IN IP4 192.0.2.2", "s=-", f"c={connection}", "t=0 0", *session.split(), *media]
    return "\r\n".join(lines).encode() + b"\r\n"


def answer(*media: str) -> list[str]:
    """The lines of our answer to an offer of *media*."""
    return make_answer(LOCAL, 1, read_description(sdp(*media))).decode().splitlines()


class TestOffer:
    """RFC 3264 §5."""

    def test_it_offers_g722_first_both_laws_comfort_noise_and_telephone_events(self) -> None:
        lines = make_offer(LOCAL, 1).decode().splitlines()
        assert "m=audio 20000 RTP/AVP 9 8 0 13 101" in lines
        assert "c=IN IP4 192.0.2.1" in lines
        for attribute in ("9 G722", "8 PCMA", "0 PCMU", "13 CN", "101 telephone-event"):
            assert f"a=rtpmap:{attribute}/8000" in lines, "G.722 too has a clock of 8 kHz (RFC 3551 §4.5.2)"
        assert {"a=fmtp:101 0-15", "a=ptime:20", "a=sendrecv"} <= set(lines)

    def test_the_codecs_are_those_that_are_asked_for_in_their_order(self) -> None:
        assert "m=audio 20000 RTP/AVP 0 9 13 101" in make_offer(LOCAL, 1, codecs=("PCMU", "G722")).decode()

    def test_it_is_understood_by_its_own_reader(self) -> None:
        terms = read_description(make_offer(LOCAL, 1))
        assert ("G722", 9, 101, 13, LOCAL, "sendrecv", None) == (
            terms.codec, terms.payload_type, terms.event_type, terms.comfort_type, terms.remote, terms.direction,
            terms.crypto,
        )  # fmt: skip

    def test_an_ipv6_address_is_named_as_such(self) -> None:
        assert "c=IN IP6 2001:db8::1" in make_offer(("2001:db8::1", 20000), 1).decode().splitlines()


class TestCodecs:
    """RFC 3264 §6.1."""

    @pytest.mark.parametrize(
        ("formats", "codec", "payload_type"),
        [("8 0", "PCMA", 8), ("0 8", "PCMA", 8), ("0", "PCMU", 0), ("18 0", "PCMU", 0), ("0 8 9", "G722", 9)],
    )
    def test_our_preference_is_taken_from_what_is_offered(self, formats: str, codec: str, payload_type: int) -> None:
        terms = read_description(sdp(f"m=audio 4000 RTP/AVP {formats}"))
        assert (codec, payload_type) == (terms.codec, terms.payload_type)

    def test_the_codec_of_a_running_call_can_be_asked_for(self) -> None:
        assert "PCMU" == read_description(sdp("m=audio 4000 RTP/AVP 9 8 0"), ("PCMU",)).codec

    def test_comfort_noise_is_answered_where_it_is_offered(self) -> None:
        """RFC 3389 §4."""
        assert "m=audio 20000 RTP/AVP 8 13" in answer("m=audio 4000 RTP/AVP 8 13")
        assert "m=audio 20000 RTP/AVP 8" in answer("m=audio 4000 RTP/AVP 8")

    def test_comfort_noise_under_a_dynamic_number_keeps_it(self) -> None:
        assert "a=rtpmap:98 CN/8000" in answer("m=audio 4000 RTP/AVP 8 98", "a=rtpmap:98 CN/8000")

    def test_g722_with_its_true_rate_is_no_common_codec(self) -> None:
        """RFC 3551 §4.5.2: its clock is 8000 by an old error that all must keep."""
        with pytest.raises(NoCommonCodec):
            read_description(sdp("m=audio 4000 RTP/AVP 97", "a=rtpmap:97 G722/16000"))

    def test_a_law_under_a_dynamic_number_is_answered_with_that_number(self) -> None:
        lines = answer("m=audio 4000 RTP/AVP 97", "a=rtpmap:97 pcma/8000")
        assert "m=audio 20000 RTP/AVP 97" in lines
        assert "a=rtpmap:97 PCMA/8000" in lines

    def test_telephone_event_96_is_answered_as_96(self) -> None:
        lines = answer("m=audio 4000 RTP/AVP 8 96", "a=rtpmap:96 telephone-event/8000")
        assert "m=audio 20000 RTP/AVP 8 96" in lines
        assert "a=rtpmap:96 telephone-event/8000" in lines
        assert "a=fmtp:96 0-15" in lines

    def test_without_telephone_events_none_are_answered(self) -> None:
        assert "m=audio 20000 RTP/AVP 8" in answer("m=audio 4000 RTP/AVP 8")

    def test_wideband_telephone_events_are_not_taken_for_ours(self) -> None:
        terms = read_description(sdp("m=audio 4000 RTP/AVP 8 96", "a=rtpmap:96 telephone-event/48000"))
        assert terms.event_type is None

    def test_no_common_codec_is_said_in_words(self) -> None:
        with pytest.raises(NoCommonCodec, match="SDP offers no G722 or PCMA or PCMU"):
            read_description(sdp("m=audio 4000 RTP/AVP 18"))

    def test_g711_at_another_rate_is_no_common_codec(self) -> None:
        with pytest.raises(NoCommonCodec, match="SDP offers no G722 or PCMA or PCMU"):
            read_description(sdp("m=audio 4000 RTP/AVP 97", "a=rtpmap:97 PCMA/16000"))

    @pytest.mark.parametrize("number", ["128", "300", "-1", "99999"])
    def test_a_payload_number_that_rtp_cannot_carry_is_not_taken(self, number: str) -> None:
        """It would break the packing of every packet, and with it the clock of all calls."""
        with pytest.raises(NoCommonCodec):
            read_description(sdp(f"m=audio 4000 RTP/AVP {number}", f"a=rtpmap:{number} PCMA/8000"))

    def test_an_event_number_that_rtp_cannot_carry_is_not_taken(self) -> None:
        terms = read_description(sdp("m=audio 4000 RTP/AVP 8 300", "a=rtpmap:300 telephone-event/8000"))
        assert terms.event_type is None


class TestStreams:
    """RFC 3264 §5.1, §6."""

    def test_port_0_offers_no_audio(self) -> None:
        with pytest.raises(NoCommonCodec, match="SDP has no audio stream with an address"):
            read_description(sdp("m=audio 0 RTP/AVP 8"))

    def test_an_empty_body_offers_no_audio(self) -> None:
        with pytest.raises(NoCommonCodec, match="SDP has no audio stream with an address"):
            read_description(b"")

    def test_video_alone_offers_no_audio(self) -> None:
        with pytest.raises(NoCommonCodec, match="SDP has no audio stream with an address"):
            read_description(sdp("m=video 4002 RTP/AVP 31"))

    def test_plain_media_beside_encrypted_ones_are_taken(self) -> None:
        lines = answer("m=audio 4000 RTP/SAVP 8", "m=audio 4002 RTP/AVP 0")
        assert ["m=audio 0 RTP/SAVP 8", "m=audio 20000 RTP/AVP 0"] == [line for line in lines if line[0] == "m"]

    def test_every_stream_of_the_offer_is_answered_in_its_place(self) -> None:
        lines = answer("m=video 4002 RTP/AVP 31 34", "m=audio 4000 RTP/AVP 8", "m=application 4004 UDP/BFCP *")
        assert ["m=video 0 RTP/AVP 31", "m=audio 20000 RTP/AVP 8", "m=application 0 UDP/BFCP *"] == [
            line for line in lines if line[0] == "m"
        ]

    def test_the_streams_own_address_goes_before_the_sessions(self) -> None:
        assert ("192.0.2.99", 4000) == read_description(sdp("m=audio 4000 RTP/AVP 8", "c=IN IP4 192.0.2.99")).remote

    @pytest.mark.parametrize("text", ["2001:DB8::0:1", "2001:db8:0:0:0:0:0:1"])
    def test_an_address_is_read_in_its_one_form(self, text: str) -> None:
        """It is compared with where packets come from."""
        assert "2001:db8::1" == read_description(sdp("m=audio 4000 RTP/AVP 8", connection=f"IN IP6 {text}")).remote[0]

    def test_the_version_counts_on_while_the_session_stays(self) -> None:
        terms = read_description(sdp("m=audio 4000 RTP/AVP 8"))
        origins = [make_answer(LOCAL, version, terms).decode().splitlines()[1].split() for version in (1, 2)]
        assert [["o=-", "20000", "1"], ["o=-", "20000", "2"]] == [origin[:3] for origin in origins]


class TestReportsAddress:
    """RFC 3605, RFC 5761."""

    @pytest.mark.parametrize(
        ("attribute", "address"),
        [
            ("a=rtcp:5000", ("192.0.2.2", 5000)), ("a=rtcp:5000 IN IP4 192.0.2.9", ("192.0.2.9", 5000)),
            ("a=rtcp:5000 IN IP6 2001:DB8::1", ("2001:db8::1", 5000)), ("a=rtcp:5000 IN IP4 nowhere", None),
            ("a=rtcp:many", None), ("a=rtcp:²", None), ("a=rtcp:0", None), ("a=rtcp:70000", None), ("a=rtcp", None),
            ("a=x", None),
        ],
    )  # fmt: skip
    def test_reports_go_where_it_says(self, attribute: str, address: tuple[str, int] | None) -> None:
        assert address == read_description(sdp("m=audio 4000 RTP/AVP 8", attribute)).rtcp

    def test_a_shared_port_is_agreed_where_it_is_offered(self) -> None:
        assert "a=rtcp-mux" in answer("m=audio 4000 RTP/AVP 8", "a=rtcp-mux")
        assert "a=rtcp-mux" not in answer("m=audio 4000 RTP/AVP 8")


class TestEncryption:
    """RFC 4568: with a key of each side, or not at all."""

    OFFERED = ("m=audio 4000 RTP/SAVP 8", f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}")

    def test_an_offer_with_a_key_of_ours_is_encrypted_alone(self) -> None:
        crypto = new_crypto()
        lines = make_offer(LOCAL, 1, crypto=crypto).decode().splitlines()
        assert ["m=audio 20000 RTP/SAVP 9 8 0 13 101"] == [line for line in lines if line[0] == "m"]
        assert f"a=crypto:{crypto.attribute}" in lines

    def test_their_key_is_read(self) -> None:
        crypto = read_description(sdp(*self.OFFERED)).crypto
        assert crypto is not None
        assert ("AES_CM_128_HMAC_SHA1_80", bytes(30)) == (crypto.suite, crypto.key)

    @pytest.mark.parametrize("proto", ["RTP/SAVP", "RTP/SAVPF"])
    def test_the_answer_has_their_protocol_and_our_key_under_their_tag(self, proto: str) -> None:
        """§5.1.2."""
        terms = read_description(sdp(f"m=audio 4000 {proto} 8", f"a=crypto:7 AES_CM_128_HMAC_SHA1_32 inline:{KEY}"))
        assert terms.crypto is not None
        ours = new_crypto(terms.crypto.tag, terms.crypto.suite)
        lines = make_answer(LOCAL, 1, terms, crypto=ours).decode().splitlines()
        assert f"m=audio 20000 {proto} 8" in lines
        assert [f"a=crypto:{ours.attribute}"] == [line for line in lines if line.startswith("a=crypto")]
        assert ours.attribute.startswith("7 AES_CM_128_HMAC_SHA1_32 inline:")

    @pytest.mark.parametrize(
        "attributes", [[], ["a=crypto:1 AES_256_CM_HMAC_SHA1_80 inline:x"], ["a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x"],
                       ["a=fingerprint:sha-256 AA", "a=setup:actpass"]]
    )  # fmt: skip
    def test_without_a_usable_key_it_is_refused(self, attributes: list[str]) -> None:
        with pytest.raises(NoCommonCodec, match="RTP/SAVP without a key"):
            read_description(sdp("m=audio 4000 RTP/SAVP 8", *attributes))

    def test_dtls_is_refused_by_name(self) -> None:
        with pytest.raises(
            NoCommonCodec, match="SDP offers audio over UDP/TLS/RTP/SAVPF; RTP/AVP or RTP/SAVP is spoken"
        ):
            read_description(sdp("m=audio 4000 UDP/TLS/RTP/SAVPF 8"))

    def test_where_encryption_is_demanded_plain_media_are_refused(self) -> None:
        with pytest.raises(NoCommonCodec, match="SDP offers audio over RTP/AVP; RTP/SAVP is spoken here"):
            read_description(sdp("m=audio 4000 RTP/AVP 8"), secure=True)

    def test_where_none_was_offered_none_is_taken(self) -> None:
        with pytest.raises(NoCommonCodec, match="SDP offers audio over RTP/SAVP; RTP/AVP is spoken here"):
            read_description(sdp(*self.OFFERED), secure=False)

    def test_the_stream_that_is_wanted_is_found_among_several(self) -> None:
        both = sdp("m=audio 4002 RTP/AVP 8", *self.OFFERED)
        assert [4002, 4000, 4002] == [read_description(both, secure=s).remote[1] for s in (False, True, None)]


class TestHold:
    """RFC 3264 §6.1, §8.4."""

    @pytest.mark.parametrize(
        ("offered", "answered"),
        [("sendrecv", "sendrecv"), ("sendonly", "recvonly"), ("recvonly", "sendonly"), ("inactive", "inactive")],
    )
    def test_each_direction_is_answered_with_its_counterpart(self, offered: str, answered: str) -> None:
        assert f"a={answered}" in answer("m=audio 4000 RTP/AVP 8", f"a={offered}")

    @pytest.mark.parametrize(
        ("offered", "held"), [("sendrecv", False), ("sendonly", True), ("recvonly", False), ("inactive", True)]
    )
    def test_who_does_not_want_to_hear_us_holds_us(self, offered: str, held: bool) -> None:
        assert held == read_description(sdp("m=audio 4000 RTP/AVP 8", f"a={offered}")).on_hold

    @pytest.mark.parametrize(
        ("offered", "answered"),
        [("sendrecv", "sendonly"), ("sendonly", "inactive"), ("recvonly", "sendonly"), ("inactive", "inactive")],
    )
    def test_while_we_hold_the_answer_says_so(self, offered: str, answered: str) -> None:
        terms = read_description(sdp("m=audio 4000 RTP/AVP 8", f"a={offered}"))
        assert f"a={answered}" in make_answer(LOCAL, 1, terms, hold=True).decode().splitlines()

    @pytest.mark.parametrize(
        ("offered", "silent"), [("sendrecv", False), ("sendonly", False), ("recvonly", True), ("inactive", True)]
    )
    def test_who_does_not_mean_to_send_may_be_silent(self, offered: str, silent: bool) -> None:
        assert silent == read_description(sdp("m=audio 4000 RTP/AVP 8", f"a={offered}")).silent

    def test_the_direction_of_the_session_counts_where_the_stream_has_none(self) -> None:
        assert "sendonly" == read_description(sdp("m=audio 4000 RTP/AVP 8", session="a=sendonly")).direction
        assert (
            "sendrecv" == read_description(sdp("m=audio 4000 RTP/AVP 8", "a=sendrecv", session="a=sendonly")).direction
        )

    @pytest.mark.parametrize("connection", ["IN IP4 0.0.0.0", "IN IP6 ::"])
    def test_the_unspecified_address_is_the_old_way_to_hold(self, connection: str) -> None:
        assert read_description(sdp("m=audio 4000 RTP/AVP 8", connection=connection)).on_hold


class TestGarbage:
    """What is no description is a BadMessage or has no codec; nothing else is raised."""

    def test_a_port_out_of_range_is_refused(self) -> None:
        with pytest.raises(BadMessage, match="SDP audio port 70000 is no port"):
            read_description(sdp("m=audio 70000 RTP/AVP 8"))

    def test_a_port_that_is_no_number_is_refused(self) -> None:
        with pytest.raises(BadMessage, match="SDP does not parse"):
            read_description(sdp("m=audio many RTP/AVP 8"))

    @pytest.mark.parametrize("address", ["host.example.com", "999.1.1.1", "224.2.36.42/127"])
    def test_an_address_that_is_none_is_refused(self, address: str) -> None:
        with pytest.raises(BadMessage, match=r"is no (IP address|address of one host)"):
            read_description(sdp("m=audio 4000 RTP/AVP 8", connection=f"IN IP4 {address}"))

    @settings(deadline=None)
    @given(st.binary(max_size=200))
    def test_random_octets(self, body: bytes) -> None:
        with pytest.raises((BadMessage, NoCommonCodec)):
            read_description(body)

    @settings(deadline=None)
    @given(st.integers(0, 300), st.binary(min_size=1, max_size=8))
    def test_mangled_offers_are_read_or_refused(self, at: int, octets: bytes) -> None:
        body = bytearray(make_offer(LOCAL, 1))
        at %= len(body)
        body[at : at + len(octets)] = octets
        with suppress(BadMessage, NoCommonCodec):
            terms = read_description(bytes(body))
            assert terms.codec.encode() in make_answer(LOCAL, 1, terms)

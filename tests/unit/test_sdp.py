"""Offer and answer (RFC 3264, RFC 4566)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.telephony.errors import BadMessage, NoCommonCodec
from gateway.telephony.sdp import make_answer, make_offer, read_description

LOCAL = ("192.0.2.1", 20000)


def sdp(*media: str, connection: str = "IN IP4 192.0.2.2", session: str = "") -> bytes:
    lines = ["v=0", "o=- 1 1 IN IP4 192.0.2.2", "s=-", f"c={connection}", "t=0 0", *session.split(), *media]
    return "\r\n".join(lines).encode() + b"\r\n"


def answer(*media: str) -> list[str]:
    """The lines of our answer to an offer of *media*."""
    return make_answer(LOCAL, 1, read_description(sdp(*media))).decode().splitlines()


class TestOffer:
    """RFC 3264 §5."""

    def test_it_offers_a_law_mu_law_and_telephone_events(self) -> None:
        lines = make_offer(LOCAL, 1).decode().splitlines()
        assert "m=audio 20000 RTP/AVP 8 0 101" in lines
        assert "c=IN IP4 192.0.2.1" in lines
        for attribute in ("rtpmap:8 PCMA/8000", "rtpmap:0 PCMU/8000", "rtpmap:101 telephone-event/8000", "sendrecv"):
            assert f"a={attribute}" in lines

    def test_it_is_understood_by_its_own_reader(self) -> None:
        terms = read_description(make_offer(LOCAL, 1))
        assert ("PCMA", 8, 101, LOCAL, "sendrecv") == (
            terms.law, terms.payload_type, terms.event_type, terms.remote, terms.direction,
        )  # fmt: skip

    def test_an_ipv6_address_is_named_as_such(self) -> None:
        assert "c=IN IP6 2001:db8::1" in make_offer(("2001:db8::1", 20000), 1).decode().splitlines()


class TestCodecs:
    """RFC 3264 §6.1."""

    @pytest.mark.parametrize(
        ("formats", "law", "payload_type"),
        [("8 0", "PCMA", 8), ("0 8", "PCMA", 8), ("0", "PCMU", 0), ("18 0", "PCMU", 0)],
    )
    def test_our_preference_is_taken_from_what_is_offered(self, formats: str, law: str, payload_type: int) -> None:
        terms = read_description(sdp(f"m=audio 4000 RTP/AVP {formats}"))
        assert (law, payload_type) == (terms.law, terms.payload_type)

    def test_the_law_of_a_running_call_can_be_asked_for(self) -> None:
        assert "PCMU" == read_description(sdp("m=audio 4000 RTP/AVP 8 0"), ("PCMU",)).law

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
        with pytest.raises(NoCommonCodec, match="SDP offers no PCMA or PCMU"):
            read_description(sdp("m=audio 4000 RTP/AVP 9 18"))

    def test_g711_at_another_rate_is_no_common_codec(self) -> None:
        with pytest.raises(NoCommonCodec, match="SDP offers no PCMA or PCMU"):
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

    @pytest.mark.parametrize("proto", ["RTP/SAVP", "RTP/SAVPF", "UDP/TLS/RTP/SAVPF"])
    def test_encrypted_media_are_refused_by_name(self, proto: str) -> None:
        with pytest.raises(NoCommonCodec, match=f"SDP offers audio over {proto}; RTP/AVP is spoken here"):
            read_description(sdp(f"m=audio 4000 {proto} 8"))

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

    def test_the_version_counts_on_while_the_session_stays(self) -> None:
        terms = read_description(sdp("m=audio 4000 RTP/AVP 8"))
        origins = [make_answer(LOCAL, version, terms).decode().splitlines()[1].split() for version in (1, 2)]
        assert [["o=-", "20000", "1"], ["o=-", "20000", "2"]] == [origin[:3] for origin in origins]


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
        with pytest.raises(BadMessage, match="is no IP address"):
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
            assert terms.law.encode() in make_answer(LOCAL, 1, terms)

"""SIP messages (RFC 3261 §7, §8, §9.1, §17.1.1.3): what is refused and in which words, and what we make."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress

import pytest
from aiosipua.headers import Address, SipUri
from aiosipua.message import SipRequest, SipResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from sip_bench import OFFER, request, response

from gateway.telephony.errors import BadMessage
from gateway.telephony.message import (
    BRANCH_COOKIE,
    identity,
    make_ack,
    make_cancel,
    make_request,
    make_response,
    new_branch,
    parse_message,
    parse_sip_uri,
)

INVITE = bytes(request("INVITE", headers={"Content-Type": "application/sdp"}, body=OFFER))


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> Iterator[None]:
    """The codec warns of each bad Content-Length; thousands are sent here."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def without(name: bytes) -> bytes:
    return b"\r\n".join(line for line in INVITE.split(b"\r\n") if not line.startswith(name + b":"))


def with_length(value: str) -> bytes:
    return INVITE.replace(f"Content-Length: {len(OFFER)}".encode(), f"Content-Length: {value}".encode())


class TestParsing:
    """RFC 3261 §7, §8.1.1, §18.3."""

    def test_a_request_keeps_its_method_target_and_body(self) -> None:
        message = parse_message(INVITE)
        assert isinstance(message, SipRequest)
        assert ("INVITE", "sip:100@192.0.2.1", OFFER) == (message.method, message.uri, message.body)

    def test_what_identifies_a_message_is_found_once(self) -> None:
        ids = identity(parse_message(INVITE))
        assert ("z9hG4bK-1", "call@192.0.2.2", 1, "theirs", "") == (
            ids.branch, ids.call_id, ids.cseq.seq, ids.from_.tag, ids.to.tag or "",
        )  # fmt: skip

    def test_compact_header_names_are_understood(self) -> None:
        compact = INVITE.replace(b"Via:", b"v:").replace(b"Call-ID:", b"i:").replace(b"From:", b"f:")
        assert "call@192.0.2.2" == identity(parse_message(compact)).call_id

    def test_octets_beyond_the_content_length_are_cut_off(self) -> None:
        assert OFFER == parse_message(INVITE + b"more").body

    def test_without_a_content_length_the_datagram_ends_the_body(self) -> None:
        assert OFFER == parse_message(without(b"Content-Length")).body

    @pytest.mark.parametrize("name", [b"CSeq", b"Call-ID", b"From", b"To"])
    def test_a_missing_header_is_named(self, name: bytes) -> None:
        with pytest.raises(BadMessage, match="SIP message lacks one of CSeq, Call-ID, From, To"):
            parse_message(without(name))

    def test_a_missing_via_is_named(self) -> None:
        with pytest.raises(BadMessage, match="SIP message has no Via"):
            parse_message(without(b"Via"))

    def test_headers_without_their_empty_line_are_truncated(self) -> None:
        with pytest.raises(BadMessage, match="SIP message is truncated: no empty line ends its headers"):
            parse_message(INVITE[: INVITE.index(b"Contact") + 20])

    def test_a_start_line_of_two_words_does_not_parse(self) -> None:
        with pytest.raises(BadMessage, match="SIP message does not parse: Malformed request line"):
            parse_message(INVITE.replace(b" SIP/2.0\r\n", b"\r\n"))

    @pytest.mark.parametrize("end", range(1, len(INVITE), 7))
    def test_a_truncated_message_is_refused_wherever_it_is_cut(self, end: int) -> None:
        with pytest.raises(BadMessage, match="SIP"):
            parse_message(INVITE[:end])

    def test_the_cseq_must_name_the_method(self) -> None:
        with pytest.raises(BadMessage, match="SIP CSeq method 'BYE' is not the request's 'INVITE'"):
            parse_message(INVITE.replace(b"1 INVITE", b"1 BYE"))

    def test_the_cseq_must_be_a_number(self) -> None:
        with pytest.raises(BadMessage, match="SIP message does not parse: invalid literal"):
            parse_message(INVITE.replace(b"1 INVITE", b"one INVITE"))

    def test_a_negative_content_length_is_refused(self) -> None:
        with pytest.raises(BadMessage, match="Content-Length says -1"):
            parse_message(with_length("-1"))

    def test_a_content_length_that_is_no_number_is_refused(self) -> None:
        with pytest.raises(BadMessage, match="SIP message does not parse: invalid literal"):
            parse_message(with_length("many"))

    def test_a_body_shorter_than_its_content_length_is_refused(self) -> None:
        with pytest.raises(BadMessage, match=f"SIP body has {len(OFFER)} octets, Content-Length says 999"):
            parse_message(with_length("999"))

    @pytest.mark.parametrize("status", [0, 99, 700])
    def test_a_status_out_of_range_is_refused(self, status: int) -> None:
        data = bytes(response(request(), 200)).replace(b"200 OK", f"{status} Odd".encode())
        with pytest.raises(BadMessage, match=f"SIP status {status} is not between 100 and 699"):
            parse_message(data)

    def test_more_than_a_datagram_can_hold_is_refused_unread(self) -> None:
        with pytest.raises(BadMessage, match="SIP message has 65536 octets, at most 65535 are read"):
            parse_message(INVITE + b"x" * (65_536 - len(INVITE)))

    @pytest.mark.parametrize("port", ["0", "-1", "65536", "99999"])
    def test_a_via_port_that_is_none_is_refused(self, port: str) -> None:
        """To send to such a port closes the whole socket of asyncio."""
        with pytest.raises(BadMessage, match=f"SIP Via port {port} is no port"):
            parse_message(INVITE.replace(b"192.0.2.2:5070;branch", f"192.0.2.2:{port};branch".encode()))


class TestHostileOctets:
    """RFC 4475's spirit: whatever comes, it parses or it is a BadMessage."""

    @settings(deadline=None)
    @given(st.binary(max_size=400))
    def test_random_octets_only_ever_raise_bad_message(self, data: bytes) -> None:
        parses_or_is_refused(data)

    @settings(deadline=None)
    @given(
        st.lists(st.tuples(st.integers(0, len(INVITE) - 1), st.binary(min_size=1, max_size=6)), max_size=6),
        st.integers(0, len(INVITE)),
    )
    def test_mutated_messages_only_ever_raise_bad_message(self, edits: list[tuple[int, bytes]], end: int) -> None:
        data = bytearray(INVITE)
        for at, octets in edits:
            data[at : at + len(octets)] = octets
        parses_or_is_refused(bytes(data[:end]))
        parses_or_is_refused(bytes(data))

    @settings(deadline=None)
    @given(
        st.sampled_from([b"Via", b"From", b"To", b"Call-ID", b"CSeq", b"Content-Length", b"Contact", b"Require"]),
        st.text(max_size=60),
    )
    def test_any_text_as_a_header_value_only_ever_raises_bad_message(self, name: bytes, value: str) -> None:
        lines = [
            name + b": " + value.encode(errors="replace") if line.startswith(name + b":") else line
            for line in INVITE.split(b"\r\n")
        ]
        parses_or_is_refused(b"\r\n".join(lines))


def parses_or_is_refused(data: bytes) -> None:
    with suppress(BadMessage):
        message = parse_message(data)
        assert identity(message).call_id
        if isinstance(message, SipRequest):
            assert 400 == make_response(message, 400, to_tag="t").status_code


class TestResponses:
    """RFC 3261 §8.2.6."""

    def test_every_via_is_copied_in_order(self) -> None:
        vias = [f"SIP/2.0/UDP 192.0.2.{n};branch=z9hG4bK-{n}" for n in (3, 1, 2)]
        invite = request()
        invite.headers.remove("via")
        for via in vias:
            invite.add_header("Via", via)
        assert vias == make_response(invite, 200).get_header_values("Via")

    def test_from_call_id_and_cseq_are_the_requests_own(self) -> None:
        invite = request(seq=7)
        made = make_response(invite, 486)
        for name in ("From", "Call-ID", "CSeq"):
            assert invite.get_header(name) == made.get_header(name)

    def test_the_to_tag_is_added_to_all_but_100(self) -> None:
        tags = [
            to.tag
            for status in (100, 180, 200, 486)
            if (to := make_response(request(), status, to_tag="ours").to_addr) is not None
        ]
        assert [None, "ours", "ours", "ours"] == tags

    def test_a_to_tag_that_is_there_stays(self) -> None:
        to = make_response(request(to_tag="first"), 200, to_tag="second").to_addr
        assert "first" == (to.tag if to else None)

    def test_record_route_is_copied_into_what_makes_a_dialog(self) -> None:
        invite = request(headers={"Record-Route": "<sip:p2;lr>, <sip:p1;lr>"})
        assert ["<sip:p2;lr>", "<sip:p1;lr>"] == make_response(invite, 200).get_header_values("Record-Route")
        assert [] == make_response(invite, 486).get_header_values("Record-Route")

    def test_the_reason_phrase_is_the_standards_unless_told(self) -> None:
        assert "Busy Here" == make_response(request(), 486).reason_phrase
        assert "Not now" == make_response(request(), 486, reason="Not now").reason_phrase

    def test_a_response_survives_the_wire(self) -> None:
        made = parse_message(bytes(make_response(request(), 180, to_tag="ours")))
        assert isinstance(made, SipResponse)
        assert (180, "ours") == (made.status_code, identity(made).to.tag)


class TestRequests:
    """RFC 3261 §8.1.1."""

    def test_a_request_carries_what_the_standard_demands(self) -> None:
        address = Address(uri=SipUri(user="100", host="h"), params={"tag": "t"})
        made = make_request("OPTIONS", "sip:h", address, address, "id", 3)
        assert ("70", "id", "3 OPTIONS", "<sip:100@h>;tag=t") == (
            made.get_header("Max-Forwards"), made.call_id, made.get_header("CSeq"), made.get_header("From"),
        )  # fmt: skip

    def test_every_branch_is_new_and_has_the_magic_cookie(self) -> None:
        branches = {new_branch() for _ in range(100)}
        assert 100 == len(branches)
        assert all(branch.startswith(BRANCH_COOKIE) for branch in branches)


class TestAckToAnError:
    """RFC 3261 §17.1.1.3."""

    def test_it_has_the_single_top_via_of_its_invite(self) -> None:
        invite = request()
        invite.add_header("Via", "SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK-9")
        ack = make_ack(invite, response(invite, 486))
        assert [identity(invite).branch] == [via.branch for via in ack.via]

    def test_its_to_is_that_of_the_response_and_the_rest_that_of_the_invite(self) -> None:
        invite = request(seq=5, headers={"Route": "<sip:p1;lr>, <sip:p2;lr>"})
        error = response(invite, 486, to_tag="busy")
        ack = make_ack(invite, error)
        assert error.get_header("To") == ack.get_header("To")
        assert "5 ACK" == ack.get_header("CSeq")
        assert invite.uri == ack.uri
        for name in ("From", "Call-ID", "Route"):
            assert invite.get_header_values(name) == ack.get_header_values(name)


class TestCancel:
    """RFC 3261 §9.1."""

    def test_it_is_its_invite_but_for_the_method(self) -> None:
        invite = request(seq=5, headers={"Route": "<sip:p1;lr>"})
        cancel = make_cancel(invite)
        assert ("CANCEL", invite.uri, "5 CANCEL") == (cancel.method, cancel.uri, cancel.get_header("CSeq"))
        for name in ("Via", "From", "To", "Call-ID", "Route"):
            assert invite.get_header_values(name) == cancel.get_header_values(name)

    def test_it_has_only_the_top_via(self) -> None:
        invite = request()
        invite.add_header("Via", "SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK-9")
        assert 1 == len(make_cancel(invite).via)

    def test_it_has_no_body_and_no_require(self) -> None:
        invite = request(headers={"Require": "timer"}, body=OFFER)
        cancel = make_cancel(invite)
        assert (b"", None) == (cancel.body, cancel.get_header("Require"))


class TestUris:
    """RFC 3261 §19.1."""

    def test_a_sip_uri_has_user_host_and_port(self) -> None:
        uri = parse_sip_uri("sip:+4930123@pbx.example.com:5070;transport=udp")
        assert ("+4930123", "pbx.example.com", 5070) == (uri.user, uri.host, uri.port)

    @pytest.mark.parametrize("text", ["", "sip:", "sip:user@"])
    def test_what_has_no_host_is_refused(self, text: str) -> None:
        with pytest.raises(BadMessage, match="is not a SIP URI"):
            parse_sip_uri(text)

    @pytest.mark.parametrize("port", ["0", "65536", "-5"])
    def test_a_port_that_is_none_is_refused(self, port: str) -> None:
        with pytest.raises(BadMessage, match=f"{port} is no port"):
            parse_sip_uri(f"sip:100@192.0.2.1:{port}")

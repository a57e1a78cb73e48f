"""Bad input to SIP, SDP, RTP and RTCP: an error response or silence, a counter, and nothing else."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from aiosipua.message import SipMessage, SipRequest, SipResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from sip_bench import OFFER, Bench, ours, request, response

from gateway.telephony.dialog import server_dialog
from gateway.telephony.endpoint import Incoming
from gateway.telephony.errors import BadMessage, NoCommonCodec
from gateway.telephony.framing import Framer
from gateway.telephony.grammar import MOST_HEADERS, MOST_VIAS, read_params, split_values
from gateway.telephony.message import (
    answerable,
    identity,
    make_response,
    parse_message,
    parse_sip_uri,
)
from gateway.telephony.playout import FARTHEST, Playout
from gateway.telephony.rtcp import Report, ReportBlock, make_goodbye, make_report, parse_rtcp
from gateway.telephony.rtp import event_payload, parse_event, parse_rtp
from gateway.telephony.screening import screen
from gateway.telephony.sdp import make_answer, read_description
from gateway.telephony.session_timer import MIN_SE, min_se, session_expires

TORTURE = Path(__file__).parents[1] / "torture"
INVITE = bytes(request(headers={"Content-Type": "application/sdp", "Require": "path"}, body=OFFER))
SEEDS = [
    INVITE,
    *(bytes(request(method, to_tag="ours")) for method in ("ACK", "BYE", "OPTIONS", "INFO", "REGISTER", "CANCEL")),
    *(bytes(response(request(), status)) for status in (100, 180, 200, 401, 503)),
    *(path.read_bytes() for path in sorted(TORTURE.glob("rfc*/*.dat"))),
]
TROUBLE = [
    b"\0", b"\xff\xfe", b"\xc0\x80", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\r\n ", b'"', b"\\", b"<", b">", b",", b";", b":", b"@",
    b"?", b"%00", b"%", b"-1", b"0", b"4294967296", b"99999999999999999999", "²".encode(), "٣".encode(), b"[", b"]",
    b"[::1]", b"SIP/2.0", b"Via: SIP/2.0/UDP 192.0.2.1", b"\r\nContent-Length: 3", b"\r\nTo: <sip:x@y>;tag=z", b"\x85",
    "\u2028".encode(), b"a" * 300, b"z9hG4bK", b" " * 200,
]  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed with pieces overwritten, inserted, cut out or doubled, of chance or known to give trouble; perhaps cut off."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.one_of(st.sampled_from(TROUBLE), st.binary(min_size=1, max_size=8)))
        end = min(len(data), at + draw(st.integers(0, 40)))
        match draw(st.sampled_from(("overwrite", "insert", "cut", "double"))):
            case "overwrite":
                data[at : at + len(piece)] = piece
            case "insert":
                data[at:at] = piece
            case "cut":
                del data[at:end]
            case _:
                data[at:at] = data[at:end]
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


def bench() -> Bench:
    """With a user agent in little: it screens, and declines what is left."""

    def take(incoming: Incoming) -> None:
        found = screen(incoming.request)
        incoming.reply(found.status if found else 486, to_tag="ours", headers=found.headers if found else None)

    return Bench(take)


def replaced(old: bytes, new: bytes) -> bytes:
    assert old in INVITE
    return INVITE.replace(old, new)


def refused(data: bytes) -> BadMessage:
    with pytest.raises(BadMessage, match="SIP") as refusal:
        parse_message(data)
    return refusal.value


class TestMutations:
    """Of every valid message and of every torture message."""

    @settings(max_examples=400)
    @given(mutated(SEEDS))
    def test_it_parses_or_is_a_bad_message_with_a_status(self, data: bytes) -> None:
        refusal = None
        try:
            assert identity(parse_message(data)).call_id
        except BadMessage as error:
            refusal = error
        if refusal is not None:
            assert refusal.status in (400, 416, 505, 513)
            request = answerable(data)
            assert request is None or identity(make_response(request, refusal.status, to_tag="t")).to.tag

    @settings(max_examples=400)
    @given(mutated(SEEDS))
    def test_what_parses_survives_being_written_and_read_again(self, data: bytes) -> None:
        with suppress(BadMessage):
            message = parse_message(data)
            again = parse_message(bytes(message))
            assert type(message) is type(again)
            assert identity(message) == identity(again)
            assert message.body == again.body
            assert bytes(message) == bytes(again)

    @settings(max_examples=400)
    @given(mutated(SEEDS))
    def test_a_response_says_no_more_than_its_request(self, data: bytes) -> None:
        """Nothing in a request makes header lines of its own in what answers it."""
        with suppress(BadMessage):
            message = parse_message(data)
            if isinstance(message, SipRequest):
                made = make_response(message, 486, to_tag="ours")
                read = SipMessage.parse(bytes(made))
                assert isinstance(read, SipResponse)
                assert {n.lower() for n, _ in read.headers.items()} <= {
                    "via", "from", "to", "call-id", "cseq", "server", "content-length",
                }  # fmt: skip
                assert len(message.get_header_values("Via")) == len(read.get_header_values("Via"))
                assert message.call_id == read.call_id

    @settings(max_examples=300)
    @given(st.lists(mutated(SEEDS), min_size=1, max_size=5))
    def test_the_transaction_layer_never_raises_and_forgets_everything_in_time(self, datagrams: list[bytes]) -> None:
        played = bench()
        for data in datagrams:
            played.take(data)
            played.clock.advance(0.1)
        played.clock.advance(200)
        assert (0, 0) == (len(played.endpoint), played.clock.waiting)

    @settings(max_examples=200)
    @given(mutated([bytes(response(request(), status)) for status in (100, 180, 200, 302, 401, 407, 486, 503)]))
    def test_a_transaction_of_ours_survives_what_answers_it(self, data: bytes) -> None:
        played = bench()
        sent = played.send(ours("OPTIONS"))
        branch = identity(sent).branch.encode()
        played.take(data.replace(b"z9hG4bK-1", branch).replace(b"INVITE", b"OPTIONS"))
        played.clock.advance(200)
        assert (0, 0) == (len(played.endpoint), played.clock.waiting)

    @given(st.binary(max_size=600))
    def test_octets_of_chance_are_dropped_in_silence(self, data: bytes) -> None:
        played = bench()
        played.take(data)
        assert [] == played.wire.summary

    @pytest.mark.parametrize("end", range(0, INVITE.index(b"\r\n\r\n") + 3, 3))
    def test_a_datagram_cut_off_in_its_headers_is_dropped(self, end: int) -> None:
        played = bench()
        played.take(INVITE[:end])
        assert ([], 0) == (played.wire.summary, len(played.endpoint))

    @pytest.mark.parametrize("missing", [1, len(OFFER) // 2, len(OFFER)])
    def test_one_cut_off_in_its_body_is_answered_400(self, missing: int) -> None:
        played = bench()
        played.take(INVITE[:-missing])
        assert ([400], 0) == (played.wire.summary, len(played.endpoint))


class TestSize:
    def test_a_header_of_64_kb_is_dropped_unread(self) -> None:
        played = bench()
        data = replaced(b"Max-Forwards: 70", b"Subject: " + b"x" * 64_000)
        assert 513 == refused(data).status
        played.take(data)
        assert ([], 0) == (played.wire.summary, len(played.endpoint))

    def test_a_body_of_64_kb_is_taken(self) -> None:
        body = b"a=x\r\n" * 12_000
        message = parse_message(bytes(request(body=body)))
        assert body == message.body

    def test_more_header_lines_than_a_message_needs_are_refused(self) -> None:
        error = refused(replaced(b"Max-Forwards: 70", b"\r\n".join([b"X: y"] * (MOST_HEADERS + 1))))
        assert f"at most {MOST_HEADERS} are read" in str(error)

    @pytest.mark.parametrize(
        "piece", [b'"', b'"\\', b"\\\\", b"<", b"<>", b" ", b" \t", b";", b";a", b",", b"a,", b"=", b";a=", b"%", b"[", b":", b"@", b"?"]
    )  # fmt: skip
    @pytest.mark.parametrize(
        "name", [b"Via: SIP/2.0/UDP h", b"From: ", b"To: ", b"Contact: ", b"CSeq: ", b"X: ", b"Require: "]
    )
    def test_no_repetition_takes_the_reader_long(self, piece: bytes, name: bytes) -> None:
        """A reader that is quadratic in this would hang here."""
        line = name + piece * (12_000 // len(piece))
        with suppress(BadMessage):
            parse_message(replaced(b"Max-Forwards: 70", line))
        with suppress(BadMessage):
            parse_message(line + b"\r\n" + INVITE)
        answerable(replaced(b"Max-Forwards: 70", line))
        with suppress(BadMessage):
            parse_sip_uri("sip:" + (piece * (12_000 // len(piece))).decode())


class TestLengths:
    """RFC 3261 §18.3, §20.14."""

    @pytest.mark.parametrize(
        "value", [b"-1", b"-999", b"five", b"+5", b"0x5", b"5 5", b"1e3", "٣".encode(), "²".encode(), b"9" * 5000]
    )
    def test_what_is_no_length_is_answered_400(self, value: bytes) -> None:
        played = bench()
        played.take(replaced(b"Content-Length: %d" % len(OFFER), b"Content-Length: " + value))
        assert [400] == played.wire.summary

    def test_two_lengths_are_answered_400_even_where_they_agree(self) -> None:
        length = b"Content-Length: %d" % len(OFFER)
        played = bench()
        played.take(replaced(length, length + b"\r\n" + length))
        assert [400] == played.wire.summary

    @pytest.mark.parametrize("value", [b"-1", b"five", b"99999", b""])
    def test_a_stream_that_cannot_be_cut_is_given_up(self, value: bytes) -> None:
        data = replaced(b"Content-Length: %d" % len(OFFER), b"Content-Length: " + value)
        with pytest.raises(BadMessage, match="on a stream"):
            list(Framer().feed(data))

    def test_a_stream_that_says_two_lengths_is_given_up(self) -> None:
        """RFC 4475 §3.3.9: nobody knows where the next message begins."""
        length = b"Content-Length: %d" % len(OFFER)
        with pytest.raises(BadMessage, match="on a stream"):
            list(Framer().feed(replaced(length, length + b"\r\nl: 0")))

    @given(st.lists(st.one_of(mutated(SEEDS), st.binary(max_size=40)), max_size=4), st.integers(1, 97))
    def test_a_stream_yields_messages_or_is_given_up(self, pieces: list[bytes], step: int) -> None:
        data, framer = b"".join(pieces), Framer()
        with suppress(BadMessage):
            for at in range(0, len(data), step):
                for message in framer.feed(data[at : at + step]):
                    with suppress(BadMessage):
                        parse_message(message)


class TestVias:
    """Many, and such as would send our answers elsewhere."""

    @pytest.mark.parametrize("separator", [b", ", b"\r\nVia: "])
    def test_more_than_any_route_has_are_refused(self, separator: bytes) -> None:
        vias = separator.join(b"SIP/2.0/UDP 192.0.2.9;branch=z9hG4bK-%d" % n for n in range(MOST_VIAS))
        played = bench()
        played.take(replaced(b"Max-Forwards: 70", b"Via: " + vias))
        assert [400] == played.wire.summary

    def test_one_that_names_ourselves_sends_nothing_back_to_us(self) -> None:
        played = bench()
        played.take(replaced(b"192.0.2.2:5070;branch", b"192.0.2.1:5060;branch"))
        assert ["192.0.2.2"] == [hop[0] for _, _, hop in played.wire.sent]

    @pytest.mark.parametrize("param", [b"maddr=255.255.255.255", b"maddr=224.0.1.75;ttl=255", b"received=203.0.113.5"])
    def test_no_parameter_of_it_redirects_the_answer(self, param: bytes) -> None:
        played = bench()
        played.take(replaced(b";branch=z9hG4bK-1", b";branch=z9hG4bK-1;" + param))
        assert ["192.0.2.2"] == [hop[0] for _, _, hop in played.wire.sent]

    @pytest.mark.parametrize(
        "via",
        [b"", b"SIP/2.0/UDP", b"SIP/2.0 192.0.2.2", b"SIP/2.0/UDP a b", b"HTTP/1.1/UDP h", b"SIP/2.0/UDP 2001:db8::1"],
    )
    def test_one_that_says_nothing_of_its_sender_is_not_answered(self, via: bytes) -> None:
        played = bench()
        played.take(replaced(b"SIP/2.0/UDP 192.0.2.2:5070;branch=z9hG4bK-1", via))
        assert ([], 0) == (played.wire.summary, len(played.endpoint))


class TestValues:
    """What no header may say, one by one."""

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"1 INVITE", b"4294967296 INVITE"),
            (b"Call-ID: call@192.0.2.2", b"Call-ID: one\r\nCall-ID: two"),
            (b";tag=theirs", b";tag=a;tag=b"),
            (b";tag=theirs", b";tag="),
            (b"<sip:200@192.0.2.2>", b'"unended <sip:200@192.0.2.2>'),
            (b"<sip:200@192.0.2.2>", b"a, b <sip:200@192.0.2.2>"),
            (b"<sip:200@192.0.2.2:5070>", b"<sip:a@b@192.0.2.2>"),
            (b"<sip:200@192.0.2.2:5070>", b"<sip:200@[::g]>"),
            (b"<sip:200@192.0.2.2:5070>", b"<http://192.0.2.2/>"),
            (b"<sip:200@192.0.2.2:5070>", b"<sip:a@b>, <sip:c@d>"),
            (b"<sip:200@192.0.2.2:5070>", b"*"),
            (b"Max-Forwards: 70", b"Max-Forwards 70"),
            (b"Max-Forwards: 70", b"Max\0Forwards: 70"),
            (b"INVITE sip:100@192.0.2.1 SIP/2.0", b"INVITE sip:100@192.0.2.1 SIP/two"),
            (b"INVITE sip:100@192.0.2.1 SIP/2.0", b"INVITE 100 SIP/2.0"),
            (b"INVITE sip:100@192.0.2.1 SIP/2.0", b"INVITE sip:100@\xff SIP/2.0"),
        ],
    )
    def test_it_is_answered_400(self, old: bytes, new: bytes) -> None:
        played = bench()
        played.take(replaced(old, new))
        assert ([400], 0) == (played.wire.summary, len(played.endpoint))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"From: <sip:200@192.0.2.2>", b"From: <sip:200@192.0.2.2:0>"),
            (b"From: <sip:200@192.0.2.2>", b"From: <sip:@>"),
            (b"From: <sip:200@192.0.2.2>", b"From: <sip:\xff@192.0.2.2>"),
            (b";tag=theirs", b';tag="quoted"'),
            (b"Call-ID: call@192.0.2.2", b"Call-ID: a b"),
            (b"Call-ID: call@192.0.2.2", b"Call-ID: \xff"),
            (b"1 INVITE", b"one INVITE"),
        ],
    )
    def test_what_does_not_tell_who_sent_it_in_which_call_is_dropped(self, old: bytes, new: bytes) -> None:
        played = bench()
        played.take(replaced(old, new))
        assert ([], 0) == (played.wire.summary, len(played.endpoint))

    def test_a_star_is_a_contact_in_register_alone(self) -> None:
        message = parse_message(bytes(request("REGISTER")).replace(b"<sip:200@192.0.2.2:5070>", b"*"))
        assert ["*"] == message.get_header_values("Contact")

    def test_an_ack_that_does_not_parse_is_never_answered(self) -> None:
        played = bench()
        played.take(bytes(request("ACK")).replace(b"1 ACK", b"4294967296 ACK"))
        assert [] == played.wire.summary

    def test_a_request_that_is_wrong_and_comes_again_is_answered_again_and_never_kept(self) -> None:
        played = bench()
        for _ in range(3):
            played.take(replaced(b"1 INVITE", b"1 BYE"))
        assert ([400, 400, 400], 0) == (played.wire.summary, len(played.endpoint))

    @pytest.mark.parametrize("octets", [b"\0", b"\xff", b"\xc3\x28", b"\xed\xa0\x80"])
    def test_octets_that_are_no_text_are_passed_over_where_nobody_reads(self, octets: bytes) -> None:
        played = bench()
        played.take(replaced(b"Max-Forwards", b"Subject: hel" + octets + b"lo\r\nMax-Forwards"))
        assert [420] == played.wire.summary

    def test_a_less_than_sign_in_a_quoted_name_moves_no_bracket(self) -> None:
        message = parse_message(replaced(b"From: <sip:200", b'From: "x <sip:evil@h>;tag=evil, " <sip:200'))
        assert ("200", "theirs") == (identity(message).from_.uri.user, identity(message).from_.tag)
        assert message.from_addr is not None
        assert ("200", "theirs") == (message.from_addr.uri.user, message.from_addr.tag)

    @pytest.mark.parametrize("seconds", ["²", "90 90", "-90", "1e3", ""])
    def test_session_timers_that_are_no_numbers_are_none(self, seconds: str) -> None:
        timed = parse_message(
            replaced(b"Max-Forwards: 70", f"Session-Expires: {seconds}\r\nMin-SE: {seconds}".encode())
        )
        assert (None, "") == session_expires(timed)
        assert MIN_SE == min_se(timed)

    def test_a_contact_with_unusual_characters_is_called_as_it_is_written(self) -> None:
        invite = parse_message(replaced(b"<sip:200@192.0.2.2:5070>", b"<sip:a?b;c@192.0.2.2>"))
        assert isinstance(invite, SipRequest)
        assert "sip:a?b;c@192.0.2.2" == server_dialog(invite, "ours").remote_target

    @given(st.text(max_size=80))
    def test_lists_and_parameters_are_read_or_refused(self, text: str) -> None:
        assert text.count(",") >= len(list(split_values(text))) - 1
        with suppress(BadMessage):
            read_params(text)


class TestDescriptions:
    """RFC 4566, RFC 3264."""

    def test_an_offer_of_port_0_alone_has_no_audio(self) -> None:
        with pytest.raises(NoCommonCodec, match="no audio"):
            read_description(OFFER.replace(b"m=audio 4000", b"m=audio 0"))

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"m=audio 4000", b"m=audio -1"),
            (b"m=audio 4000", b"m=audio 65536"),
            (b"m=audio 4000", b"m=audio many"),
            (b"m=audio 4000", b"m=audio " + b"9" * 5000),
            (b"c=IN IP4 192.0.2.2", b"c=IN IP4 somewhere"),
            (b"c=IN IP4 192.0.2.2", b"c=IN IP4 999.1.1.1"),
            (b"a=rtpmap:8 PCMA/8000", b"a=rtpmap:8 PCMA/fast"),
            (b"t=0 0", b"t=never ever"),
            (b"v=0", b"v=zero"),
        ],
    )
    def test_what_is_no_description_is_a_bad_message(self, old: bytes, new: bytes) -> None:
        assert old in OFFER
        with pytest.raises(BadMessage, match="SDP"):
            read_description(OFFER.replace(old, new))

    @pytest.mark.parametrize("group", [b"224.0.0.1", b"239.1.2.3/127", b"255.255.255.255"])
    def test_media_is_sent_to_no_group_and_no_broadcast_address(self, group: bytes) -> None:
        with pytest.raises(BadMessage, match="is no address of one host"):
            read_description(OFFER.replace(b"c=IN IP4 192.0.2.2", b"c=IN IP4 " + group))

    def test_a_port_that_leaves_none_for_rtcp_is_refused(self) -> None:
        with pytest.raises(BadMessage, match="65535 is no port"):
            read_description(OFFER.replace(b"m=audio 4000", b"m=audio 65535"))

    @pytest.mark.parametrize("port", ["²", "x", "0", "65536", "4001 IN IP4 224.0.0.1"])
    def test_reports_go_to_the_next_port_where_another_is_none(self, port: str) -> None:
        assert read_description(OFFER + f"a=rtcp:{port}\r\n".encode()).rtcp is None

    def test_more_streams_than_a_call_could_have_are_refused(self) -> None:
        """Each would have to be refused in the answer: a long offer would get a longer answer."""
        with pytest.raises(BadMessage, match="SDP has 5001 streams"):
            read_description(OFFER + b"m=a 1 b\r\n" * 5000)

    @settings(max_examples=400)
    @given(
        mutated(
            [
                OFFER,
                OFFER
                + b"a=rtcp:4001 IN IP4 192.0.2.2\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:"
                + b"A" * 40
                + b"\r\n",
            ]
        )
    )
    def test_a_mutated_one_is_read_or_refused_and_never_answered_with_lines_of_its_own(self, body: bytes) -> None:
        with suppress(BadMessage, NoCommonCodec):
            terms = read_description(body)
            answer = make_answer(("192.0.2.1", 4000), 1, terms)
            assert len(terms.lines) == sum(line.startswith(b"m=") for line in answer.split(b"\r\n"))
            assert {b"v=", b"o=", b"s=", b"c=", b"t=", b"m=", b"a=", b""} >= {
                line[:2] for line in answer.split(b"\r\n")
            }


RTP = b"\x80\x08\x00\x01\x00\x00\x00\xa0\x00\x00\x00\x07" + b"\xd5" * 160
RTCP = make_report(Report(7, (ReportBlock(8, 1, 2, 3, 4, 5, 6),), 1 << 63, 2, 3, 4), "cname") + make_goodbye(7, "cname")


class TestPlayout:
    def test_a_flood_of_audio_in_order_does_not_pile_up(self) -> None:
        playout = Playout("PCMA")
        for number in range(500):
            playout.put(1000 * number, b"\xd5" * 1000)
            assert len(playout) <= FARTHEST + 1000


class TestPackets:
    """RFC 3550 §5.1, §6.4; RFC 4733 §2.3."""

    @pytest.mark.parametrize("version", [0, 1, 3])
    def test_another_version_is_refused(self, version: int) -> None:
        with pytest.raises(BadMessage, match=f"version {version}, not 2"):
            parse_rtp(bytes([version << 6 | RTP[0] & 0x3F]) + RTP[1:])
        with pytest.raises(BadMessage, match=f"version {version}, not 2"):
            list(parse_rtcp(bytes([version << 6 | RTCP[0] & 0x3F]) + RTCP[1:]))

    @pytest.mark.parametrize(
        ("packet", "words"),
        [
            (RTP[:11], "has 11 octets"),
            (b"\x8f" + RTP[1:40], "truncated CSRC"),
            (b"\x90" + RTP[1:12] + b"\xbe\xde", "truncated extension header"),
            (b"\x90" + RTP[1:12] + b"\xbe\xde\xff\xff" + RTP[16:], "truncated extension"),
            (b"\xa0" + RTP[1:-1] + b"\x00", "padding"),
            (b"\xa0" + RTP[1:-1] + b"\xff", "padding"),
        ],
    )
    def test_what_is_longer_than_its_packet_is_refused(self, packet: bytes, words: str) -> None:
        with pytest.raises(BadMessage, match=words):
            parse_rtp(packet)

    @settings(max_examples=300)
    @given(st.one_of(mutated([RTP]), st.binary(max_size=64)))
    def test_a_payload_lies_within_its_packet(self, data: bytes) -> None:
        with suppress(BadMessage):
            packet = parse_rtp(data)
            assert packet.payload in data
            assert len(packet.payload) <= len(data) - 12

    @settings(max_examples=300)
    @given(st.one_of(mutated([RTCP]), st.binary(max_size=64)))
    def test_reports_are_read_or_refused(self, data: bytes) -> None:
        with suppress(BadMessage):
            assert len(list(parse_rtcp(data))) <= len(data) // 4

    @given(st.one_of(mutated([event_payload("5", False, 160)]), st.binary(max_size=8)))
    def test_an_event_is_a_key_or_refused(self, data: bytes) -> None:
        with suppress(BadMessage):
            assert parse_event(data).key in "0123456789*#ABCD"

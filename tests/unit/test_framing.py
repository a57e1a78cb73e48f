"""SIP over a stream (RFC 3261 §18.3, RFC 5626 §3.5.1): octets in any pieces, whole messages out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sip_bench import OFFER, request

from gateway.telephony.errors import BadMessage
from gateway.telephony.framing import PING, PONG, Framer
from gateway.telephony.message import MAXIMUM_OCTETS

BARE = bytes(request("OPTIONS"))
INVITE = bytes(request("INVITE", body=OFFER))


def framed(*pieces: bytes) -> list[bytes]:
    framer = Framer()
    return [message for piece in pieces for message in framer.feed(piece)]


def with_length(line: bytes, body: bytes = b"") -> bytes:
    return BARE.replace(b"Content-Length: 0", line) + body


class TestMessages:
    """RFC 3261 §18.3: Content-Length says where a message ends."""

    @pytest.mark.parametrize("message", [BARE, INVITE])
    def test_a_message_comes_out_as_it_was(self, message: bytes) -> None:
        assert [message] == framed(message)

    def test_two_in_one_piece_are_two(self) -> None:
        assert [INVITE, BARE] == framed(INVITE + BARE)

    def test_octet_by_octet_it_is_the_same(self) -> None:
        assert [INVITE, BARE] == framed(*(bytes([octet]) for octet in INVITE + BARE))

    def test_what_is_not_whole_waits(self) -> None:
        framer = Framer()
        assert [] == list(framer.feed(INVITE[:-1]))
        assert len(INVITE) - 1 == framer.waiting
        assert [INVITE] == list(framer.feed(INVITE[-1:]))
        assert 0 == framer.waiting

    @pytest.mark.parametrize(
        "line",
        [b"Content-Length: 4", b"content-length:4", b"CONTENT-LENGTH : 4", b"l: 4", b"L:  4 ", b"Content-Length:\t4"],
    )
    def test_the_length_is_read_in_every_spelling(self, line: bytes) -> None:
        message = with_length(line, b"abcd")
        assert [message, BARE] == framed(message + BARE)

    def test_a_length_in_the_body_or_in_another_header_counts_nothing(self) -> None:
        message = with_length(b"X-Content-Length: 9\r\nContent-Length: 17", b"Content-Length: 5")
        assert [message, BARE] == framed(message + BARE)

    def test_line_ends_before_a_message_are_passed_over(self) -> None:
        """RFC 3261 §7.5."""
        assert [BARE, BARE] == framed(PONG + BARE + PONG + BARE)

    @given(st.lists(st.sampled_from([BARE, INVITE]), max_size=4), st.data())
    def test_it_does_not_matter_how_the_stream_is_cut(self, messages: list[bytes], data: st.DataObject) -> None:
        stream = b"".join(messages)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
        pieces = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
        assert messages == framed(*pieces)


class TestKeepAlive:
    """RFC 5626 §3.5.1: a double line end asks, a single one answers."""

    def test_a_ping_comes_out_as_such(self) -> None:
        (found,) = framed(PING)
        assert found is PING

    def test_a_ping_in_pieces_is_one(self) -> None:
        assert [PING] == framed(*(bytes([octet]) for octet in PING))

    def test_a_ping_between_messages_is_heard(self) -> None:
        assert [BARE, PING, INVITE] == framed(BARE + PING + INVITE)

    def test_the_answer_to_our_own_is_silence_and_keeps_nobody_waiting(self) -> None:
        framer = Framer()
        assert [] == list(framer.feed(PONG))
        assert 0 == framer.waiting

    def test_each_ping_is_told(self) -> None:
        assert [PING] * 3 == framed(PING * 3)


class TestHostility:
    """A stream that cannot be cut any more is closed: whatever followed would be read as somebody else's message."""

    def test_without_a_length_nobody_knows_where_the_next_message_begins(self) -> None:
        with pytest.raises(BadMessage, match="no Content-Length"):
            framed(with_length(b"X: y"))

    @pytest.mark.parametrize("length", [b"-1", b"x", b"", b"1 2", b"12345678901"])
    def test_a_length_that_is_none(self, length: bytes) -> None:
        with pytest.raises(BadMessage, match="no Content-Length"):
            framed(with_length(b"Content-Length: " + length))

    def test_a_length_beyond_all_measure(self) -> None:
        with pytest.raises(BadMessage, match=f"at most {MAXIMUM_OCTETS} are read"):
            framed(with_length(b"Content-Length: 9999999"))

    def test_headers_without_end(self) -> None:
        with pytest.raises(BadMessage, match="headers of over"):
            framed(b"A: b\r\n" * 20_000)

    @given(st.lists(st.binary(max_size=200), max_size=6))
    def test_any_octets_are_cut_or_refused_and_nothing_grows_without_bound(self, pieces: list[bytes]) -> None:
        framer = Framer()
        try:
            for piece in pieces:
                for message in framer.feed(piece):
                    assert message
        except BadMessage:
            return
        assert framer.waiting <= MAXIMUM_OCTETS + 200

"""The transaction layer end to end on a fake wire: matching, dropping, sources (RFC 3261 §17, §18, RFC 3581)."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from aiosipua.message import SipRequest, SipResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from sip_bench import OFFER, PEER, US, Bench, ours, request, response

from gateway.telephony import endpoint as endpoint_module
from gateway.telephony.endpoint import Incoming
from gateway.telephony.errors import BadMessage
from gateway.telephony.message import answerable, identity, make_cancel
from gateway.telephony.transport import Hop


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The codec warns of each bad Content-Length."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


class TestServing:
    """RFC 3261 §17.2, §17.2.3."""

    def test_a_retransmitted_invite_is_answered_by_the_transaction_and_not_delivered_twice(self, bench: Bench) -> None:
        invite = request()
        bench.take(invite)
        bench.requests[0].reply(180, to_tag="ours")
        bench.take(invite)
        bench.take(invite)
        assert 1 == len(bench.requests)
        assert [180, 180, 180] == bench.wire.summary

    def test_the_same_branch_from_another_sender_is_another_transaction(self, bench: Bench) -> None:
        bench.take(request("OPTIONS", via="192.0.2.2:5070", call_id="one"))
        bench.take(request("OPTIONS", via="192.0.2.2:5071", call_id="two"))
        assert 2 == len(bench.requests)

    def test_the_same_branch_with_another_method_is_another_transaction(self, bench: Bench) -> None:
        bench.take(request("INVITE"))
        bench.take(request("CANCEL"))
        assert ["INVITE", "CANCEL"] == [incoming.request.method for incoming in bench.requests]

    def test_the_ack_to_an_error_ends_in_its_transaction(self, bench: Bench) -> None:
        bench.take(request("INVITE"))
        bench.requests[0].reply(486, to_tag="ours")
        bench.take(request("ACK", to_tag="ours"))
        bench.clock.advance(100)
        assert [] == bench.acks
        assert [486] == bench.wire.summary
        assert 0 == len(bench.endpoint)

    def test_the_ack_to_a_2xx_is_delivered(self, bench: Bench) -> None:
        bench.take(request("INVITE"))
        bench.requests[0].reply(200, to_tag="ours")
        bench.take(request("ACK", branch="z9hG4bK-2", to_tag="ours"))
        assert ["ours"] == [identity(ack).to.tag for ack in bench.acks]

    def test_the_ack_to_a_2xx_is_delivered_even_with_the_branch_of_its_invite(self, bench: Bench) -> None:
        """RFC 6026 §7.1: in the Accepted state an ACK is passed to the user agent."""
        bench.take(request("INVITE"))
        bench.requests[0].reply(200, to_tag="ours")
        bench.take(request("ACK", to_tag="ours"))
        assert 1 == len(bench.acks)

    def test_an_invite_whose_error_is_never_acknowledged_tells_so(self, bench: Bench) -> None:
        lost: list[float] = []
        bench.take(request("INVITE"))
        bench.requests[0].on_timeout(lambda: lost.append(bench.clock.now))
        bench.requests[0].reply(486, to_tag="ours")
        bench.clock.advance(100)
        assert [32.0] == lost
        assert 0 == len(bench.endpoint)

    def test_a_second_final_response_is_ignored(self, bench: Bench) -> None:
        bench.take(request("OPTIONS"))
        bench.requests[0].reply(200)
        bench.requests[0].reply(500)
        assert [200] == bench.wire.summary

    def test_a_cancel_finds_its_invite_by_branch_and_sender(self, bench: Bench) -> None:
        bench.take(request("INVITE"))
        assert bench.endpoint.pending_invite(request("CANCEL"))
        assert not bench.endpoint.pending_invite(request("CANCEL", branch="z9hG4bK-other"))
        assert not bench.endpoint.pending_invite(request("CANCEL", via="192.0.2.9:5070"))

    def test_an_answered_request_is_forgotten_after_64_t1(self, bench: Bench) -> None:
        bench.take(request("OPTIONS"))
        bench.requests[0].reply(200)
        bench.clock.advance(32.1)
        assert (0, 0) == (len(bench.endpoint), bench.clock.waiting)

    @pytest.mark.parametrize(("error", "status"), [(RuntimeError("ours"), 500), (BadMessage("theirs"), 400)])
    def test_a_request_that_the_user_agent_fails_on_is_answered_and_not_kept_for_ever(
        self, error: Exception, status: int
    ) -> None:
        def fail(incoming: Incoming) -> None:
            raise error

        bench = Bench(fail)
        bench.take(request("OPTIONS"))
        bench.clock.advance(32.1)
        assert [status] == bench.wire.summary
        assert 0 == len(bench.endpoint)


class TestSources:
    """RFC 3261 §18.2.1, §18.2.2; RFC 3581 §4."""

    def replied(self, bench: Bench, incoming: SipRequest, source: Hop) -> tuple[SipResponse, Hop]:
        bench.take(incoming, source)
        bench.requests[-1].reply(200)
        _, message, peer = bench.wire.sent[-1]
        assert isinstance(message, SipResponse)
        return message, peer

    def test_with_rport_the_response_goes_where_the_request_came_from(self, bench: Bench) -> None:
        message, peer = self.replied(bench, request("OPTIONS", via_params=";rport"), Hop("198.51.100.7", 31337))
        assert Hop("198.51.100.7", 31337) == peer
        assert ("198.51.100.7", "31337") == (message.via[0].received, message.via[0].rport)

    def test_without_rport_the_response_goes_to_the_source_address_and_the_via_port(self, bench: Bench) -> None:
        message, peer = self.replied(bench, request("OPTIONS"), Hop("198.51.100.7", 31337))
        assert Hop("198.51.100.7", 5070) == peer
        assert "198.51.100.7" == message.via[0].received

    def test_without_a_via_port_it_goes_to_5060(self, bench: Bench) -> None:
        _, peer = self.replied(bench, request("OPTIONS", via="192.0.2.2"), Hop("192.0.2.2", 31337))
        assert Hop("192.0.2.2", 5060) == peer

    def test_received_is_not_added_where_the_via_tells_the_truth(self, bench: Bench) -> None:
        message, _ = self.replied(bench, request("OPTIONS"), Hop("192.0.2.2", 5070))
        assert message.via[0].received is None

    def test_a_forged_received_is_replaced(self, bench: Bench) -> None:
        forged = request("OPTIONS", via_params=";rport=1;received=203.0.113.1")
        message, peer = self.replied(bench, forged, PEER)
        assert PEER == peer
        assert (PEER.host, str(PEER.port)) == (message.via[0].received, message.via[0].rport)

    def test_retransmissions_are_matched_though_the_top_via_was_marked(self, bench: Bench) -> None:
        data = bytes(request("OPTIONS", via_params=";rport"))
        bench.take(data)
        bench.take(data)
        assert 1 == len(bench.requests)


class TestHostility:
    """What is dropped, and that it is counted."""

    def test_a_request_that_does_not_parse_is_refused_without_a_transaction(self, bench: Bench) -> None:
        """RFC 3261 §8.2.7: stateless, so that it costs nothing to remember."""
        bench.take(bytes(request("OPTIONS")).replace(b"CSeq: 1 OPTIONS", b"CSeq: 1 INVITE"))
        assert ([400], [], 0) == (bench.wire.summary, bench.requests, len(bench.endpoint))
        assert 1 == bench.endpoint.counters.malformed

    def test_a_stateless_refusal_goes_where_the_request_came_from(self, bench: Bench) -> None:
        malformed = bytes(request("OPTIONS", via_params=";rport")).replace(b"CSeq: 1 OPTIONS", b"CSeq: 1 INVITE")
        bench.take(malformed, Hop("198.51.100.7", 31337))
        assert Hop("198.51.100.7", 31337) == bench.wire.sent[0][2]

    def test_an_ack_or_a_response_that_does_not_parse_is_answered_by_silence(self, bench: Bench) -> None:
        bench.take(bytes(request("ACK")).replace(b"CSeq: 1 ACK", b"CSeq: 1 INVITE"))
        bench.take(bytes(response(request("INVITE"), 200)).replace(b"CSeq: 1 INVITE", b"CSeq: x"))
        assert ([], 2) == (bench.wire.sent, bench.endpoint.counters.malformed)

    def test_requests_beyond_the_limit_are_passed_over_in_silence(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(endpoint_module, "MOST_SERVERS", 2)
        for number in range(4):
            bench.take(request("OPTIONS", branch=f"z9hG4bK-{number}", call_id=f"{number}"))
        assert (2, 2, []) == (len(bench.requests), bench.endpoint.counters.flooded, bench.wire.sent)

    @pytest.mark.parametrize("keep_alive", [b"", b"\r\n\r\n", b"\0\0\0\0", b"\r\n"])
    def test_keep_alives_are_no_fault(self, bench: Bench, keep_alive: bytes) -> None:
        bench.take(keep_alive)
        assert (0, []) == (bench.endpoint.counters.malformed, bench.wire.sent)

    def test_a_stray_response_is_dropped(self, bench: Bench) -> None:
        bench.take(response(request("INVITE"), 200))
        assert (0, []) == (len(bench.endpoint), bench.wire.sent)

    def test_a_response_to_another_method_of_our_branch_is_dropped(self, bench: Bench) -> None:
        sent = bench.send(ours("BYE"))
        stray = response(sent, 200)
        stray.set_header("CSeq", "1 INVITE")
        bench.take(stray)
        assert [] == bench.responses

    def test_a_stray_ack_makes_no_transaction(self, bench: Bench) -> None:
        bench.take(request("ACK", to_tag="ours"))
        assert 0 == len(bench.endpoint)

    @settings(deadline=None)
    @given(st.binary(max_size=300))
    def test_random_datagrams_are_counted_and_raise_nothing(self, data: bytes) -> None:
        bench = Bench()
        bench.take(data)
        assert [] == bench.requests
        assert bool(data.strip(b"\r\n\0")) == bool(bench.endpoint.counters.malformed)

    @settings(deadline=None)
    @given(st.integers(0, 5000), st.binary(min_size=1, max_size=12))
    def test_mangled_requests_are_delivered_or_counted_and_raise_nothing(self, at: int, octets: bytes) -> None:
        data = bytearray(bytes(request(body=OFFER)))
        at %= len(data)
        data[at : at + len(octets)] = octets
        bench = Bench()
        bench.take(bytes(data))
        for incoming in bench.requests:
            incoming.reply(486, to_tag="ours")
        if bench.requests:
            assert [486] == bench.wire.summary
        else:
            assert bool(answerable(bytes(data))) == bool(bench.wire.sent)


class TestRequesting:
    """RFC 3261 §8.1.1.7, §17.1."""

    def test_our_via_has_our_address_a_new_branch_and_rport(self, bench: Bench) -> None:
        first, second = bench.send(ours()), bench.send(ours())
        via = first.via[0]
        assert (US, None, True) == ((via.host, via.port), via.rport, "rport" in via.params)
        assert via.branch != second.via[0].branch

    def test_each_response_is_handed_up(self, bench: Bench) -> None:
        sent = bench.send(ours("INVITE"))
        for status in (100, 180, 200):
            bench.take(response(sent, status))
        assert [100, 180, 200] == bench.responses

    @pytest.mark.parametrize("method", ["INVITE", "BYE", "MESSAGE"])
    def test_silence_is_none_after_64_t1_and_leaves_nothing_behind(self, bench: Bench, method: str) -> None:
        bench.send(ours(method))
        bench.clock.advance(31.9)
        assert [] == bench.responses
        bench.clock.advance(0.2)
        assert [None] == bench.responses
        assert (0, 0) == (len(bench.endpoint), bench.clock.waiting)

    def test_an_error_to_an_invite_is_acknowledged_on_the_wire(self, bench: Bench) -> None:
        sent = bench.send(ours("INVITE"))
        bench.take(response(sent, 486))
        assert ["INVITE", "ACK"] == bench.wire.summary
        assert identity(sent).branch == identity(bench.wire.last).branch

    def test_the_ack_to_a_2xx_has_a_branch_of_its_own_and_no_transaction(self, bench: Bench) -> None:
        ack = ours("ACK")
        bench.endpoint.send_ack(ack, PEER)
        assert ["ACK"] == bench.wire.summary
        assert 0 == len(bench.endpoint)

    def test_a_cancel_has_a_transaction_of_its_own(self, bench: Bench) -> None:
        invite = bench.send(ours("INVITE"))
        bench.take(response(invite, 180))
        cancel = make_cancel(invite)
        bench.endpoint.cancel(cancel, PEER)
        bench.take(response(cancel, 200))
        bench.take(response(invite, 487))
        assert [180, 487] == bench.responses
        assert ["INVITE", "CANCEL", "ACK"] == bench.wire.summary

    def test_an_invite_cancelled_in_vain_is_forgotten(self, bench: Bench) -> None:
        """RFC 3261 §9.1: no 487 within 64*T1 and it is gone."""
        invite = bench.send(ours("INVITE"))
        bench.take(response(invite, 180))
        bench.endpoint.cancel(make_cancel(invite), PEER)
        bench.clock.advance(40)
        assert (0, 0) == (len(bench.endpoint), bench.clock.waiting)

    def test_closing_leaves_no_timer_behind(self, bench: Bench) -> None:
        bench.send(ours("INVITE"))
        bench.take(request("OPTIONS"))
        bench.requests[0].reply(200)
        bench.endpoint.close()
        assert (0, 0) == (len(bench.endpoint), bench.clock.waiting)


class TestMergedRequests:
    """RFC 3261 §8.2.2.2: one request that came over two ways is served once."""

    def test_the_second_branch_of_a_request_is_a_loop(self, bench: Bench) -> None:
        bench.take(request("INVITE", branch="z9hG4bK-1"))
        bench.take(request("INVITE", branch="z9hG4bK-2"))
        assert (1, [482], 1) == (len(bench.requests), bench.wire.summary, bench.endpoint.counters.merged)

    def test_the_refusal_has_a_tag_and_ends_with_its_ack(self, bench: Bench) -> None:
        bench.take(request("INVITE", branch="z9hG4bK-1"))
        bench.take(request("INVITE", branch="z9hG4bK-2"))
        tag = identity(bench.wire.last).to.tag
        assert tag
        bench.take(request("ACK", branch="z9hG4bK-2", to_tag=tag))
        bench.clock.advance(10)
        assert [482] == bench.wire.summary
        assert 1 == len(bench.endpoint)

    @pytest.mark.parametrize(
        "other", [{"seq": 2}, {"call_id": "other"}, {"from_tag": "other"}, {"method": "OPTIONS"}, {"to_tag": "ours"}]
    )
    def test_another_request_is_none(self, bench: Bench, other: dict[str, str]) -> None:
        bench.take(request(branch="z9hG4bK-1"))
        bench.take(request(branch="z9hG4bK-2", **other))  # type: ignore[arg-type]
        assert (2, 0) == (len(bench.requests), bench.endpoint.counters.merged)

    def test_the_same_request_may_come_again_when_the_first_is_done_with(self, bench: Bench) -> None:
        bench.take(request("OPTIONS", branch="z9hG4bK-1"))
        bench.requests[0].reply(200)
        bench.clock.advance(33)
        bench.take(request("OPTIONS", branch="z9hG4bK-2"))
        assert 2 == len(bench.requests)

    def test_the_cancel_of_an_invite_is_no_second_branch(self, bench: Bench) -> None:
        bench.take(request("INVITE"))
        bench.take(request("CANCEL"))
        assert 2 == len(bench.requests)

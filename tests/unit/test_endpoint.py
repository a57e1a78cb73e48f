"""The transaction layer end to end on a fake wire: matching, dropping, sources (RFC 3261 §17, §18, RFC 3581)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiosipua.message import SipRequest, SipResponse
from hypothesis import given, settings
from hypothesis import strategies as st
from sip_bench import OFFER, PEER, US, Bench, ours, request, response

from gateway.telephony.call import Call, CallEnd
from gateway.telephony.dialog import server_dialog
from gateway.telephony.endpoint import Incoming
from gateway.telephony.errors import BadMessage, TransportFailed
from gateway.telephony.media import MediaEngine
from gateway.telephony.message import HostPort, identity, make_cancel
from gateway.telephony.sdp import read_description


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
        bench.take(request("OPTIONS", via="192.0.2.2:5070"))
        bench.take(request("OPTIONS", via="192.0.2.2:5071"))
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
        with suppress(RuntimeError):  # a defect of ours is not hidden, it goes to the loop's handler
            bench.take(request("OPTIONS"))
        bench.clock.advance(32.1)
        assert [status] == bench.wire.summary
        assert 0 == len(bench.endpoint)


class TestSources:
    """RFC 3261 §18.2.1, §18.2.2; RFC 3581 §4."""

    def replied(
        self, bench: Bench, incoming: SipRequest, source: tuple[str, int]
    ) -> tuple[SipResponse, tuple[str, int]]:
        bench.take(incoming, source)
        bench.requests[-1].reply(200)
        _, message, peer = bench.wire.sent[-1]
        assert isinstance(message, SipResponse)
        return message, peer

    def test_with_rport_the_response_goes_where_the_request_came_from(self, bench: Bench) -> None:
        message, peer = self.replied(bench, request("OPTIONS", via_params=";rport"), ("198.51.100.7", 31337))
        assert ("198.51.100.7", 31337) == peer
        assert ("198.51.100.7", "31337") == (message.via[0].received, message.via[0].rport)

    def test_without_rport_the_response_goes_to_the_source_address_and_the_via_port(self, bench: Bench) -> None:
        message, peer = self.replied(bench, request("OPTIONS"), ("198.51.100.7", 31337))
        assert ("198.51.100.7", 5070) == peer
        assert "198.51.100.7" == message.via[0].received

    def test_without_a_via_port_it_goes_to_5060(self, bench: Bench) -> None:
        _, peer = self.replied(bench, request("OPTIONS", via="192.0.2.2"), ("192.0.2.2", 31337))
        assert ("192.0.2.2", 5060) == peer

    def test_received_is_not_added_where_the_via_tells_the_truth(self, bench: Bench) -> None:
        message, _ = self.replied(bench, request("OPTIONS"), ("192.0.2.2", 5070))
        assert message.via[0].received is None

    def test_a_forged_received_is_replaced(self, bench: Bench) -> None:
        forged = request("OPTIONS", via_params=";rport=1;received=203.0.113.1")
        message, peer = self.replied(bench, forged, PEER)
        assert PEER == peer
        assert (PEER[0], str(PEER[1])) == (message.via[0].received, message.via[0].rport)

    def test_retransmissions_are_matched_though_the_top_via_was_marked(self, bench: Bench) -> None:
        data = bytes(request("OPTIONS", via_params=";rport"))
        bench.take(data)
        bench.take(data)
        assert 1 == len(bench.requests)


class TestHostility:
    """What is dropped, and that it is counted."""

    def test_a_branch_without_the_magic_cookie_is_malformed(self, bench: Bench) -> None:
        bench.take(request("OPTIONS", branch="1"))
        assert ([], 1) == (bench.requests, bench.endpoint.malformed)

    @pytest.mark.parametrize("keep_alive", [b"", b"\r\n\r\n", b"\0\0\0\0", b"\r\n"])
    def test_keep_alives_are_no_fault(self, bench: Bench, keep_alive: bytes) -> None:
        bench.take(keep_alive)
        assert (0, []) == (bench.endpoint.malformed, bench.wire.sent)

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
        assert [] == bench.wire.sent
        assert bool(data.strip(b"\r\n\0")) == bool(bench.endpoint.malformed)

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
        answered = bool(bench.requests) and [486] == bench.wire.summary
        dropped = not bench.requests and not bench.wire.sent
        assert answered or dropped


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
        cancelled: list[int | None] = []
        cancel = make_cancel(invite)
        bench.endpoint.cancel(cancel, PEER, lambda r: cancelled.append(r.status_code if r else None))
        bench.take(response(cancel, 200))
        bench.take(response(invite, 487))
        assert ([200], [180, 487]) == (cancelled, bench.responses)
        assert ["INVITE", "CANCEL", "ACK"] == bench.wire.summary

    def test_an_invite_cancelled_in_vain_is_forgotten(self, bench: Bench) -> None:
        """RFC 3261 §9.1: no 487 within 64*T1 and it is gone."""
        invite = bench.send(ours("INVITE"))
        bench.take(response(invite, 180))
        bench.endpoint.cancel(make_cancel(invite), PEER, lambda _: None)
        bench.clock.advance(40)
        assert (0, 0) == (len(bench.endpoint), bench.clock.waiting)

    def test_closing_leaves_no_timer_behind(self, bench: Bench) -> None:
        bench.send(ours("INVITE"))
        bench.take(request("OPTIONS"))
        bench.requests[0].reply(200)
        bench.endpoint.close()
        assert (0, 0) == (len(bench.endpoint), bench.clock.waiting)


class TestTheLostAck:
    """RFC 3261 §13.3.1.4: the user agent sends its own 2xx again until the ACK comes, and hangs up when none does."""

    @pytest.fixture
    async def call(self, bench: Bench, tmp_path: Path) -> AsyncIterator[Call]:
        """An inbound call whose 200 was just sent."""
        bench.take(request("INVITE", body=OFFER))
        incoming = bench.requests[0]
        engine = MediaEngine("127.0.0.1", range(21_100, 21_110), tmp_path)
        stream = engine.open(engine.reserve(), read_description(OFFER), "call")
        made = Call(
            call_id="call", direction="inbound", number="200", dialog=server_dialog(incoming.request, "ours"), peer=PEER,
            endpoint=bench.endpoint, engine=engine, stream=stream, contact="<sip:192.0.2.1>", forget=lambda _: None,
            media_host="192.0.2.1",
        )  # fmt: skip
        ok = made.describe(incoming.request, stream.terms)
        incoming.respond(ok)
        made.confirm_with(ok, incoming.peer)
        yield made
        await made.close()
        engine.stop()

    async def test_the_2xx_is_sent_again_up_to_t2_until_the_ack(self, bench: Bench, call: Call) -> None:
        bench.clock.advance(12)
        call.acknowledged()
        bench.clock.advance(100)
        assert [200] * 6 == bench.wire.summary
        assert [0.0, 0.5, 1.5, 3.5, 7.5, 11.5] == bench.wire.times
        assert not call.ended.done()

    async def test_without_an_ack_the_call_is_ended_after_64_t1(self, bench: Bench, call: Call) -> None:
        bench.clock.advance(31.9)
        assert not call.ended.done()
        bench.clock.advance(0.2)
        assert CallEnd("gateway", "the 200 OK was never acknowledged") == call.ended.result()
        assert (32.0, "BYE") == (bench.wire.times[-1], bench.wire.summary[-1])

    async def test_a_bye_before_the_ack_ends_the_retransmissions(self, bench: Bench, call: Call) -> None:
        bench.take(request("BYE", branch="z9hG4bK-2", seq=2, to_tag="ours"))
        call.take(bench.requests[-1])
        bench.clock.advance(100)
        assert [200, 200] == bench.wire.summary
        assert CallEnd("caller", "hung up") == call.ended.result()

    async def test_a_call_ends_though_the_network_is_gone(
        self, bench: Bench, call: Call, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A hangup may come from the media clock, where an exception would cost the other calls their tick."""

        def nowhere(peer: HostPort) -> HostPort:
            raise TransportFailed(f"no way to {peer[0]}: Network is unreachable")

        monkeypatch.setattr(bench.endpoint, "_sent_by", nowhere)
        call.hangup("done")
        assert CallEnd("gateway", "done") == call.ended.result()

    async def test_nothing_is_left_when_the_call_is_over(self, bench: Bench, call: Call) -> None:
        call.acknowledged()
        call.hangup("done")
        bench.clock.advance(100)
        assert (0, 0) == (len(bench.endpoint), bench.clock.waiting)

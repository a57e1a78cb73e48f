"""The transaction layer over connections: what is sent once, where responses go, what cannot be reached (RFC 3261 §8.1.3.1, §18)."""

from __future__ import annotations

import pytest
from aiosipua.message import SipResponse
from sip_bench import Bench, ours, request, response

from gateway.telephony.transport import Hop

TCP = Hop("192.0.2.2", 40_000, "tcp")


@pytest.fixture
def bench() -> Bench:
    return Bench()


class TestReliableTransports:
    """RFC 3261 §18.2.2, §18.4: what goes over a connection, and what becomes of it when the connection is gone."""

    def test_nothing_is_sent_twice(self, bench: Bench) -> None:
        bench.send(ours("INVITE"), TCP)
        bench.clock.advance(31)
        assert ["INVITE"] == bench.wire.summary

    def test_our_via_names_the_transport(self, bench: Bench) -> None:
        assert ["TCP", "TLS", "UDP"] == [
            bench.send(ours("OPTIONS", seq=seq), TCP._replace(transport=transport)).via[0].transport
            for seq, transport in enumerate(("tcp", "tls", "udp"), 1)
        ]

    def test_over_tls_we_ask_for_requests_on_the_same_connection(self, bench: Bench) -> None:
        """RFC 5923 §4."""
        assert "alias" in bench.send(ours("OPTIONS"), TCP._replace(transport="tls")).via[0].params
        assert "alias" not in bench.send(ours("OPTIONS", seq=2), TCP).via[0].params

    def test_a_response_goes_over_the_connection_of_its_request_whatever_the_via_says(self, bench: Bench) -> None:
        bench.take(request("OPTIONS", via="192.0.2.2:5070"), TCP)
        bench.requests[0].reply(200)
        assert TCP == bench.wire.sent[0][2]

    def test_an_answered_request_is_forgotten_at_once(self, bench: Bench) -> None:
        bench.take(request("OPTIONS"), TCP)
        bench.requests[0].reply(200)
        bench.clock.advance(0)
        assert 0 == len(bench.endpoint)

    @pytest.mark.parametrize("method", ["OPTIONS", "INVITE"])
    @pytest.mark.parametrize("status", [200, 486])
    def test_when_the_connection_is_gone_the_response_goes_to_the_port_in_the_via(
        self, bench: Bench, method: str, status: int
    ) -> None:
        bench.wire.broken.add(TCP)
        bench.take(request(method, via="192.0.2.2:5070"), TCP)
        bench.requests[0].reply(status, to_tag="ours")
        assert [(status, Hop("192.0.2.2", 5070, "tcp"))] == [
            (m.status_code, hop) for _, m, hop in bench.wire.sent if isinstance(m, SipResponse)
        ]

    @pytest.mark.parametrize(("transport", "port"), [("tcp", 5060), ("tls", 5061)])
    def test_or_to_the_transports_own_port(self, bench: Bench, transport: str, port: int) -> None:
        source = TCP._replace(transport=transport)  # type: ignore[arg-type]
        bench.wire.broken.add(source)
        bench.take(request("OPTIONS", via="192.0.2.2"), source)
        bench.requests[0].reply(200)
        assert source._replace(port=port) == bench.wire.sent[0][2]

    def test_a_2xx_that_is_sent_again_finds_the_new_way_too(self, bench: Bench) -> None:
        bench.take(request("INVITE", via="192.0.2.2:5070"), TCP)
        incoming = bench.requests[0]
        incoming.reply(200, to_tag="ours")
        final = bench.wire.last
        assert isinstance(final, SipResponse)
        bench.wire.broken.add(TCP)
        for _ in range(2):
            incoming.resend(final)
        assert [TCP, *[Hop("192.0.2.2", 5070, "tcp")] * 2] == [hop for _, _, hop in bench.wire.sent]

    def test_a_response_that_reaches_nobody_is_given_up(self, bench: Bench) -> None:
        bench.wire.broken |= {TCP, Hop("192.0.2.2", 5070, "tcp")}
        bench.take(request("OPTIONS", via="192.0.2.2:5070"), TCP)
        bench.requests[0].reply(200)
        bench.clock.advance(0)
        assert (0, []) == (len(bench.endpoint), bench.wire.sent)


class TestUnreachable:
    """RFC 3261 §8.1.3.1: a request that cannot be sent is as good as one without an answer, and told at once."""

    @pytest.mark.parametrize("method", ["INVITE", "BYE"])
    def test_a_hop_that_cannot_be_reached_is_told_at_once(self, bench: Bench, method: str) -> None:
        bench.wire.broken.add(TCP)
        bench.send(ours(method), TCP)
        assert [None] == bench.responses
        assert (0, 0) == (len(bench.endpoint), bench.clock.waiting)

    def test_a_connection_that_fails_later_is_told_then(self, bench: Bench) -> None:
        bench.send(ours("INVITE"), TCP)
        bench.wire.failures[0]()
        assert [None] == bench.responses
        assert (0, 0) == (len(bench.endpoint), bench.clock.waiting)

    def test_a_failure_is_told_once(self, bench: Bench) -> None:
        bench.send(ours("INVITE"), TCP)
        for _ in range(2):
            bench.wire.failures[0]()
        assert [None] == bench.responses

    def test_a_failure_after_the_answer_changes_nothing(self, bench: Bench) -> None:
        sent = bench.send(ours("INVITE"), TCP)
        bench.take(response(sent, 200), TCP)
        bench.wire.failures[0]()
        assert [200] == bench.responses

    def test_an_ack_that_cannot_be_sent_does_not_hide_the_refusal(self, bench: Bench) -> None:
        sent = bench.send(ours("INVITE"), TCP)
        bench.wire.broken.add(TCP)
        bench.take(response(sent, 486), TCP)
        assert [486] == bench.responses

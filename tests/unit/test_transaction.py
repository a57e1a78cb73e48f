"""The four transactions (RFC 3261 §17, RFC 6026), each ladder on a clock of its own."""

from __future__ import annotations

import pytest
from aiosipua.message import SipRequest
from sip_bench import Ladder, request, response

from gateway.telephony.transaction import InviteClient, InviteServer, NonInviteClient, NonInviteServer


class TestInviteClient:
    """RFC 3261 §17.1.1 with RFC 6026 §8.4."""

    @pytest.fixture
    def invite(self) -> SipRequest:
        return request("INVITE", headers={"Route": "<sip:proxy.example.com;lr>"})

    @pytest.fixture
    def ladder(self, invite: SipRequest) -> Ladder:
        transaction = InviteClient(invite)
        return Ladder(transaction).run(transaction.start())

    def test_timer_a_retransmits_the_invite_at_doubling_intervals(self, ladder: Ladder) -> None:
        ladder.clock.advance(31.9)
        assert [0.0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5] == ladder.send_times

    def test_timer_b_gives_up_after_64_t1(self, ladder: Ladder) -> None:
        ladder.clock.advance(100)
        assert 32.0 == ladder.timed_out_at == ladder.ended_at
        assert set() == ladder.armed

    def test_a_provisional_response_stops_both_timers_and_is_delivered(
        self, ladder: Ladder, invite: SipRequest
    ) -> None:
        ladder.run(ladder.transaction.receive(response(invite, 180)))
        ladder.clock.advance(100)
        assert [180] == ladder.delivered
        assert [0.0] == ladder.send_times
        assert ladder.timed_out_at is None

    def test_every_provisional_response_is_delivered(self, ladder: Ladder, invite: SipRequest) -> None:
        for status in (100, 180, 183):
            ladder.run(ladder.transaction.receive(response(invite, status)))
        assert [100, 180, 183] == ladder.delivered

    def test_a_final_error_is_acknowledged_by_the_transaction(self, ladder: Ladder, invite: SipRequest) -> None:
        ladder.run(ladder.transaction.receive(response(invite, 486)))
        ack = ladder.sent[-1][1]
        assert isinstance(ack, SipRequest)
        assert "ACK" == ack.method
        assert [486] == ladder.delivered

    def test_the_ack_to_an_error_has_the_branch_route_and_target_of_its_invite(
        self, ladder: Ladder, invite: SipRequest
    ) -> None:
        ladder.run(ladder.transaction.receive(response(invite, 486, to_tag="busy")))
        ack = ladder.sent[-1][1]
        assert isinstance(ack, SipRequest)
        assert invite.via[0].branch == ack.via[0].branch
        assert ["<sip:proxy.example.com;lr>"] == ack.get_header_values("Route")
        assert invite.uri == ack.uri
        assert "busy" == (ack.to_addr.tag if ack.to_addr else None)

    def test_a_retransmitted_error_is_acknowledged_again_and_not_delivered(
        self, ladder: Ladder, invite: SipRequest
    ) -> None:
        for _ in range(3):
            ladder.run(ladder.transaction.receive(response(invite, 486)))
        assert ["INVITE", "ACK", "ACK", "ACK"] == [m.method for _, m in ladder.sent if isinstance(m, SipRequest)]
        assert [486] == ladder.delivered

    def test_a_provisional_response_that_comes_after_the_error_is_neither_acknowledged_nor_delivered(
        self, ladder: Ladder, invite: SipRequest
    ) -> None:
        for status in (486, 180):
            ladder.run(ladder.transaction.receive(response(invite, status)))
        assert [486] == ladder.delivered
        assert ["INVITE", "ACK"] == [m.method for _, m in ladder.sent if isinstance(m, SipRequest)]

    def test_timer_d_keeps_the_error_for_32_seconds(self, ladder: Ladder, invite: SipRequest) -> None:
        ladder.run(ladder.transaction.receive(response(invite, 486)))
        ladder.clock.advance(31.9)
        assert ladder.ended_at is None
        ladder.clock.advance(0.2)
        assert 32.0 == ladder.ended_at

    def test_a_2xx_is_passed_through_without_an_ack(self, ladder: Ladder, invite: SipRequest) -> None:
        ladder.run(ladder.transaction.receive(response(invite, 200)))
        assert [200] == ladder.delivered
        assert 1 == len(ladder.sent)

    def test_every_2xx_is_passed_through_while_timer_m_runs(self, ladder: Ladder, invite: SipRequest) -> None:
        for _ in range(3):
            ladder.run(ladder.transaction.receive(response(invite, 200)))
        assert [200, 200, 200] == ladder.delivered

    def test_an_error_after_a_2xx_changes_nothing(self, ladder: Ladder, invite: SipRequest) -> None:
        ladder.run(ladder.transaction.receive(response(invite, 200)))
        ladder.run(ladder.transaction.receive(response(invite, 486)))
        assert [200] == ladder.delivered

    def test_timer_m_ends_the_accepted_state_after_64_t1(self, ladder: Ladder, invite: SipRequest) -> None:
        ladder.clock.advance(1)
        ladder.run(ladder.transaction.receive(response(invite, 200)))
        ladder.clock.advance(100)
        assert 33.0 == ladder.ended_at
        assert ladder.timed_out_at is None

    def test_a_cancelled_invite_is_forgotten_64_t1_later(self, ladder: Ladder, invite: SipRequest) -> None:
        """RFC 3261 §9.1: the callee may be gone, and no timer of its own runs in the Proceeding state."""
        ladder.run(ladder.transaction.receive(response(invite, 180)))
        ladder.clock.advance(45)
        assert isinstance(ladder.transaction, InviteClient)
        ladder.run(ladder.transaction.give_up())
        ladder.run(ladder.transaction.receive(response(invite, 180)))
        ladder.clock.advance(100)
        assert 77.0 == ladder.ended_at == ladder.timed_out_at

    def test_a_cancelled_invite_that_ended_with_487_waits_for_timer_d_alone(
        self, ladder: Ladder, invite: SipRequest
    ) -> None:
        ladder.run(ladder.transaction.receive(response(invite, 180)))
        assert isinstance(ladder.transaction, InviteClient)
        ladder.run(ladder.transaction.give_up())
        ladder.clock.advance(1)
        ladder.run(ladder.transaction.receive(response(invite, 487)))
        ladder.clock.advance(100)
        assert ladder.timed_out_at is None
        assert 33.0 == ladder.ended_at


class TestNonInviteClient:
    """RFC 3261 §17.1.2."""

    @pytest.fixture
    def bye(self) -> SipRequest:
        return request("BYE")

    @pytest.fixture
    def ladder(self, bye: SipRequest) -> Ladder:
        transaction = NonInviteClient(bye)
        return Ladder(transaction).run(transaction.start())

    def test_timer_e_doubles_up_to_t2(self, ladder: Ladder) -> None:
        ladder.clock.advance(16)
        assert [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5] == ladder.send_times

    def test_timer_e_is_t2_once_a_provisional_response_came(self, ladder: Ladder, bye: SipRequest) -> None:
        ladder.run(ladder.transaction.receive(response(bye, 100)))
        ladder.clock.advance(9)
        assert [0.0, 0.5, 4.5, 8.5] == ladder.send_times
        assert [100] == ladder.delivered

    @pytest.mark.parametrize("provisional", [False, True])
    def test_timer_f_gives_up_after_64_t1(self, ladder: Ladder, bye: SipRequest, provisional: bool) -> None:
        if provisional:
            ladder.run(ladder.transaction.receive(response(bye, 100)))
        ladder.clock.advance(100)
        assert 32.0 == ladder.timed_out_at == ladder.ended_at

    @pytest.mark.parametrize("status", [200, 401, 481, 503])
    def test_a_final_response_stops_retransmission_and_is_delivered_once(
        self, ladder: Ladder, bye: SipRequest, status: int
    ) -> None:
        for _ in range(2):
            ladder.run(ladder.transaction.receive(response(bye, status)))
        ladder.clock.advance(100)
        assert [status] == ladder.delivered
        assert [0.0] == ladder.send_times

    def test_timer_k_absorbs_retransmissions_for_t4(self, ladder: Ladder, bye: SipRequest) -> None:
        ladder.run(ladder.transaction.receive(response(bye, 200)))
        ladder.clock.advance(100)
        assert 5.0 == ladder.ended_at
        assert ladder.timed_out_at is None


class TestInviteServer:
    """RFC 3261 §17.2.1 with RFC 6026 §8.5."""

    @pytest.fixture
    def invite(self) -> SipRequest:
        return request("INVITE")

    @pytest.fixture
    def ladder(self, invite: SipRequest) -> Ladder:
        return Ladder(InviteServer(invite))

    def respond(self, ladder: Ladder, invite: SipRequest, status: int) -> None:
        assert isinstance(ladder.transaction, InviteServer)
        ladder.run(ladder.transaction.respond(response(invite, status)))

    def test_nothing_is_sent_before_the_user_agent_speaks(self, ladder: Ladder, invite: SipRequest) -> None:
        ladder.run(ladder.transaction.receive(invite))
        assert [] == ladder.sent

    def test_a_retransmitted_invite_gets_the_last_provisional_response(
        self, ladder: Ladder, invite: SipRequest
    ) -> None:
        self.respond(ladder, invite, 100)
        self.respond(ladder, invite, 180)
        ladder.run(ladder.transaction.receive(invite))
        assert [100, 180, 180] == [m.status_code for _, m in ladder.sent]

    def test_timer_g_retransmits_an_error_up_to_t2_until_its_ack(self, ladder: Ladder, invite: SipRequest) -> None:
        self.respond(ladder, invite, 486)
        ladder.clock.advance(12)
        assert [0.0, 0.5, 1.5, 3.5, 7.5, 11.5] == ladder.send_times

    def test_a_retransmitted_invite_gets_the_error_again(self, ladder: Ladder, invite: SipRequest) -> None:
        self.respond(ladder, invite, 486)
        ladder.run(ladder.transaction.receive(invite))
        assert [486, 486] == [m.status_code for _, m in ladder.sent]

    def test_timer_h_gives_up_waiting_for_the_ack_after_64_t1(self, ladder: Ladder, invite: SipRequest) -> None:
        self.respond(ladder, invite, 486)
        ladder.clock.advance(100)
        assert 32.0 == ladder.timed_out_at == ladder.ended_at

    def test_the_ack_ends_retransmission_and_timer_i_absorbs_more_of_them(
        self, ladder: Ladder, invite: SipRequest
    ) -> None:
        self.respond(ladder, invite, 486)
        for _ in range(2):
            ladder.run(ladder.transaction.receive(request("ACK")))
        ladder.clock.advance(100)
        assert [0.0] == ladder.send_times
        assert 5.0 == ladder.ended_at
        assert ladder.timed_out_at is None

    def test_a_retransmitted_invite_after_the_ack_is_not_answered(self, ladder: Ladder, invite: SipRequest) -> None:
        self.respond(ladder, invite, 486)
        ladder.run(ladder.transaction.receive(request("ACK")))
        ladder.run(ladder.transaction.receive(invite))
        assert 1 == len(ladder.sent)

    def test_a_2xx_is_sent_once_and_left_to_the_user_agent(self, ladder: Ladder, invite: SipRequest) -> None:
        self.respond(ladder, invite, 200)
        ladder.clock.advance(20)
        assert [0.0] == ladder.send_times

    def test_a_retransmitted_invite_after_a_2xx_is_absorbed(self, ladder: Ladder, invite: SipRequest) -> None:
        self.respond(ladder, invite, 200)
        ladder.run(ladder.transaction.receive(invite))
        assert 1 == len(ladder.sent)

    def test_timer_l_ends_the_accepted_state_after_64_t1(self, ladder: Ladder, invite: SipRequest) -> None:
        self.respond(ladder, invite, 200)
        ladder.clock.advance(100)
        assert 32.0 == ladder.ended_at
        assert ladder.timed_out_at is None

    @pytest.mark.parametrize("final", [200, 486])
    def test_nothing_follows_a_final_response(self, ladder: Ladder, invite: SipRequest, final: int) -> None:
        self.respond(ladder, invite, final)
        self.respond(ladder, invite, 487)
        assert [final] == [m.status_code for _, m in ladder.sent]


class TestNonInviteServer:
    """RFC 3261 §17.2.2."""

    @pytest.fixture
    def options(self) -> SipRequest:
        return request("OPTIONS")

    @pytest.fixture
    def ladder(self, options: SipRequest) -> Ladder:
        return Ladder(NonInviteServer(options))

    def respond(self, ladder: Ladder, options: SipRequest, status: int) -> None:
        assert isinstance(ladder.transaction, NonInviteServer)
        ladder.run(ladder.transaction.respond(response(options, status)))

    def test_a_retransmission_in_the_trying_state_is_dropped(self, ladder: Ladder, options: SipRequest) -> None:
        ladder.run(ladder.transaction.receive(options))
        assert [] == ladder.sent

    def test_a_retransmission_gets_the_last_response_again(self, ladder: Ladder, options: SipRequest) -> None:
        self.respond(ladder, options, 100)
        ladder.run(ladder.transaction.receive(options))
        self.respond(ladder, options, 200)
        ladder.run(ladder.transaction.receive(options))
        assert [100, 100, 200, 200] == [m.status_code for _, m in ladder.sent]

    def test_the_final_response_is_not_retransmitted_by_itself(self, ladder: Ladder, options: SipRequest) -> None:
        self.respond(ladder, options, 200)
        ladder.clock.advance(31)
        assert [0.0] == ladder.send_times

    def test_a_second_final_response_is_dropped(self, ladder: Ladder, options: SipRequest) -> None:
        self.respond(ladder, options, 200)
        self.respond(ladder, options, 500)
        assert [200] == [m.status_code for _, m in ladder.sent]

    def test_timer_j_ends_it_after_64_t1(self, ladder: Ladder, options: SipRequest) -> None:
        self.respond(ladder, options, 200)
        ladder.clock.advance(100)
        assert 32.0 == ladder.ended_at


class TestReliableTransports:
    """RFC 3261 §17: over a connection nothing is retransmitted, and nothing is awaited that could only be a retransmission."""

    @pytest.mark.parametrize(
        ("transaction", "timers"),
        [
            (InviteClient(request("INVITE"), reliable=True), {"B"}),
            (NonInviteClient(request("BYE"), reliable=True), {"F"}),
        ],
    )
    def test_a_client_only_waits_for_the_answer(
        self, transaction: InviteClient | NonInviteClient, timers: set[str]
    ) -> None:
        ladder = Ladder(transaction).run(transaction.start())
        assert timers == ladder.armed
        ladder.clock.advance(100)
        assert ([0.0], 32.0) == (ladder.send_times, ladder.timed_out_at)

    @pytest.mark.parametrize(
        "transaction", [InviteClient(request("INVITE"), reliable=True), NonInviteClient(request("BYE"), reliable=True)]
    )
    def test_a_client_that_was_refused_ends_at_once(self, transaction: InviteClient | NonInviteClient) -> None:
        """Timers D and K are zero."""
        ladder = Ladder(transaction).run(transaction.start())
        ladder.run(transaction.receive(response(transaction.request, 486)))
        ladder.clock.advance(0)
        assert ([486], 0.0) == (ladder.delivered, ladder.ended_at)

    def test_a_2xx_may_still_come_from_another_fork(self) -> None:
        """Timer M is 64*T1 over any transport (RFC 6026 §7.2)."""
        transaction = InviteClient(request("INVITE"), reliable=True)
        ladder = Ladder(transaction).run(transaction.start())
        ladder.run(transaction.receive(response(transaction.request, 200)))
        ladder.clock.advance(100)
        assert 32.0 == ladder.ended_at

    def test_an_invite_server_sends_its_refusal_once_and_still_gives_up_without_an_ack(self) -> None:
        """Timer G is not set, timer H is."""
        transaction = InviteServer(request("INVITE"), reliable=True)
        ladder = Ladder(transaction).run(transaction.respond(response(transaction.request, 486)))
        ladder.clock.advance(100)
        assert ([0.0], 32.0) == (ladder.send_times, ladder.timed_out_at)

    def test_an_acknowledged_invite_server_ends_at_once(self) -> None:
        """Timer I is zero."""
        transaction = InviteServer(request("INVITE"), reliable=True)
        ladder = Ladder(transaction).run(transaction.respond(response(transaction.request, 486)))
        ladder.run(transaction.receive(request("ACK")))
        ladder.clock.advance(0)
        assert (0.0, None) == (ladder.ended_at, ladder.timed_out_at)

    def test_an_answered_non_invite_server_ends_at_once(self) -> None:
        """Timer J is zero."""
        transaction = NonInviteServer(request("OPTIONS"), reliable=True)
        ladder = Ladder(transaction).run(transaction.respond(response(transaction.request, 200)))
        ladder.clock.advance(0)
        assert 0.0 == ladder.ended_at

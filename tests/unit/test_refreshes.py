"""Signs of life within a call (RFC 4028 §7.4, §10), on a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from call_bench import Party
from sip_bench import OFFER

from gateway.telephony.call import CallEnd

GONE = CallEnd("gateway", "the far end does not know the call any more")


@pytest.fixture
async def party() -> Iterator[Party]:
    """Takes UPDATE."""
    made = Party(allows="INVITE BYE UPDATE")
    yield made  # type: ignore[misc]
    made.close()


@pytest.fixture
async def plain() -> Iterator[Party]:
    """Does not."""
    made = Party(allows="INVITE BYE")
    yield made  # type: ignore[misc]
    made.close()


class TestWhenWeRefresh:
    async def test_it_is_at_half_time_and_then_again(self, party: Party) -> None:
        party.live_by(600, "us")
        for _ in range(3):
            party.bench.clock.advance(300)
            await party.reply(200, "UPDATE", Session_Expires="600;refresher=uac")
        assert ["UPDATE"] * 3 == party.wire.summary
        assert [300.0, 600.0, 900.0] == party.wire.times
        assert party.end is None

    async def test_the_refresh_says_how_long_and_who(self, party: Party) -> None:
        party.live_by(600, "us")
        party.bench.clock.advance(300)
        (update,) = party.sent("UPDATE")
        assert ("600;refresher=uac", b"") == (update.get_header("Session-Expires"), update.body)
        assert "timer" in update.get_header_values("Supported")
        assert "<sip:192.0.2.1>" == update.get_header("Contact")

    async def test_who_takes_no_update_gets_an_invite_that_changes_nothing(self, plain: Party) -> None:
        plain.live_by(600, "us")
        plain.bench.clock.advance(300)
        before = plain.call.stream.terms
        await plain.reply(200, body=OFFER, Session_Expires="600;refresher=uac")
        assert ["INVITE", "ACK"] == plain.wire.summary
        assert (["sendrecv"], before.codec) == (plain.directions, plain.call.stream.terms.codec)
        plain.bench.clock.advance(300)
        assert "INVITE" == plain.wire.summary[-1]

    async def test_the_far_end_may_take_the_work_over(self, party: Party) -> None:
        party.live_by(600, "us")
        party.bench.clock.advance(300)
        await party.reply(200, "UPDATE", Session_Expires="600;refresher=uas")
        party.bench.clock.advance(599)
        assert ["UPDATE", "BYE"] == party.methods

    @pytest.mark.parametrize("status", [408, 481])
    async def test_a_far_end_that_does_not_know_the_call_ends_it(self, party: Party, status: int) -> None:
        party.live_by(600, "us")
        party.bench.clock.advance(300)
        await party.reply(status, "UPDATE")
        assert GONE == party.end

    async def test_so_does_silence(self, party: Party) -> None:
        party.live_by(600, "us")
        party.bench.clock.advance(333)
        assert GONE == party.end

    async def test_one_that_refuses_once_is_asked_again(self, party: Party) -> None:
        party.live_by(600, "us")
        party.bench.clock.advance(300)
        await party.reply(500, "UPDATE")
        assert party.end is None
        party.bench.clock.advance(10)
        await party.reply(200, "UPDATE", Session_Expires="600;refresher=uac")
        party.bench.clock.advance(300)
        assert (["UPDATE"] * 3, None) == (party.methods, party.end)

    async def test_one_that_refuses_twice_ends_the_call(self, party: Party) -> None:
        party.live_by(600, "us")
        for passing in (300, 10):
            party.bench.clock.advance(passing)
            await party.reply(500, "UPDATE")
        assert CallEnd("gateway", "the far end refuses to go on: 500") == party.end

    async def test_a_refresh_that_collides_with_an_offer_is_made_in_a_moment(self, plain: Party) -> None:
        holding = asyncio.create_task(plain.call.hold())
        await plain.settle()
        plain.live_by(600, "us")
        plain.bench.clock.advance(3)
        plain.call.negotiation.refresh(plain.call.timer)  # type: ignore[arg-type]
        assert ["INVITE"] == plain.methods
        await plain.reply(200, body=OFFER)
        assert await holding
        plain.bench.clock.advance(10)
        assert ["INVITE", "ACK", "INVITE"] == plain.methods

    async def test_while_it_is_on_its_way_their_offer_has_to_wait(self, plain: Party) -> None:
        """RFC 3261 §14.2."""
        plain.live_by(600, "us")
        plain.bench.clock.advance(300)
        assert 491 == plain.send("INVITE", body=OFFER).status_code
        await plain.reply(200, body=OFFER)
        assert 200 == plain.send("INVITE", body=OFFER).status_code

    async def test_a_call_that_is_over_is_not_refreshed(self, party: Party) -> None:
        party.live_by(600, "us")
        party.send("BYE")
        party.bench.clock.advance(1000)
        assert [200] == party.wire.summary


class TestWhenTheyRefresh:
    async def test_without_a_sign_of_life_the_call_is_ended_before_the_session_is(self, party: Party) -> None:
        """§10: a third of it, or 32 s before."""
        party.live_by(600, "them")
        party.bench.clock.advance(567)
        assert party.end is None
        party.bench.clock.advance(2)
        assert CallEnd("gateway", "the far end gave no sign of life for 600 s (session timer)") == party.end
        assert ["BYE"] == party.methods

    @pytest.mark.parametrize(("method", "body"), [("UPDATE", b""), ("INVITE", OFFER)])
    async def test_each_sign_of_life_renews_it(self, party: Party, method: str, body: bytes) -> None:
        party.live_by(600, "them")
        for _ in range(4):
            party.bench.clock.advance(500)
            party.send(method, body=body, Session_Expires="600;refresher=uac", Supported="timer")
            if method == "INVITE":
                party.ack()
        assert party.end is None

    async def test_the_answer_says_the_same(self, party: Party) -> None:
        """§9: and Require, since they refresh."""
        answer = party.send("UPDATE", Session_Expires="600;refresher=uac", Supported="timer")
        assert ("600;refresher=uac", "timer") == (answer.get_header("Session-Expires"), answer.get_header("Require"))

    async def test_a_refresh_may_turn_the_roles(self, party: Party) -> None:
        party.live_by(600, "them")
        answer = party.send("UPDATE", Session_Expires="600;refresher=uas", Supported="timer")
        assert "600;refresher=uas" == answer.get_header("Session-Expires")
        party.bench.clock.advance(300)
        assert "UPDATE" == party.wire.summary[-1]

    async def test_one_that_is_too_short_is_refused_with_the_least(self, party: Party) -> None:
        """§9."""
        party.live_by(600, "them")
        answer = party.send("UPDATE", Session_Expires="60;refresher=uac", Supported="timer")
        assert (422, "90") == (answer.status_code, answer.get_header("Min-SE"))
        assert party.call.timer is not None
        assert 600 == party.call.timer.expires_s

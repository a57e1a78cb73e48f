"""Offers and answers within a call (RFC 3261 §13.3.1.4, §14; RFC 3264; RFC 3311)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from aiosipua.message import SipRequest
from call_bench import HELD, Party
from sip_bench import OFFER

from gateway.telephony.call import CallEnd
from gateway.telephony.errors import CallOver, TransportFailed
from gateway.telephony.message import identity
from gateway.telephony.transport import Hop

MOVED = OFFER.replace(b"c=IN IP4 192.0.2.2", b"c=IN IP4 192.0.2.99").replace(b"4000", b"4444")
OTHERS = OFFER.replace(b"RTP/AVP 8 0 101", b"RTP/AVP 18").replace(b"rtpmap:8 PCMA", b"rtpmap:18 G729")


@pytest.fixture
async def party() -> Iterator[Party]:
    made = Party()
    yield made  # type: ignore[misc]
    made.close()


@pytest.fixture
async def callee() -> Iterator[Party]:
    """The far end of a call of ours."""
    made = Party("outbound")
    yield made  # type: ignore[misc]
    made.close()


class TestTheLostAck:
    """RFC 3261 §13.3.1.4: the user agent sends its own 2xx again until the ACK comes, and hangs up when none does."""

    async def test_the_2xx_is_sent_again_up_to_t2_until_the_ack(self, party: Party) -> None:
        party.answered()
        party.bench.clock.advance(12)
        party.ack()
        party.bench.clock.advance(100)
        assert [200] * 6 == party.wire.summary
        assert [0.0, 0.5, 1.5, 3.5, 7.5, 11.5] == party.wire.times
        assert party.end is None

    async def test_without_an_ack_the_call_is_ended_after_64_t1(self, party: Party) -> None:
        party.answered()
        party.bench.clock.advance(31.9)
        assert party.end is None
        party.bench.clock.advance(0.2)
        assert CallEnd("gateway", "the 200 OK was never acknowledged") == party.end
        assert (32.0, "BYE") == (party.wire.times[-1], party.wire.summary[-1])

    async def test_a_bye_before_the_ack_ends_the_retransmissions(self, party: Party) -> None:
        party.answered()
        party.send("BYE")
        party.bench.clock.advance(100)
        assert [200, 200] == party.wire.summary
        assert CallEnd("caller", "hung up") == party.end

    async def test_the_ack_of_an_earlier_invite_is_not_that_of_this_one(self, party: Party) -> None:
        party.answered()
        party.ack(seq=1)
        party.send("INVITE", body=OFFER)
        party.ack(seq=1)
        party.bench.clock.advance(1)
        assert [200, 200, 200] == party.wire.summary

    async def test_a_call_ends_though_the_network_is_gone(self, party: Party, monkeypatch: pytest.MonkeyPatch) -> None:
        """A hangup may come from the media clock, where an exception would cost the other calls their tick."""

        def nowhere(hop: Hop) -> None:
            raise TransportFailed(f"no way to {hop.host}: Network is unreachable")

        monkeypatch.setattr(party.bench.endpoint, "_sent_by", nowhere)
        party.call.hangup("done")
        assert CallEnd("gateway", "done") == party.end

    async def test_nothing_is_left_when_the_call_is_over(self, party: Party) -> None:
        party.answered()
        party.ack()
        party.call.hangup("done")
        party.bench.clock.advance(100)
        assert (0, 0) == (len(party.bench.endpoint), party.bench.clock.waiting)


class TestTheirOffers:
    """RFC 3261 §14.2, RFC 3311 §5.2."""

    @pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
    async def test_an_offer_is_answered_and_lived_by(self, party: Party, method: str) -> None:
        assert 200 == party.send(method, body=MOVED).status_code
        assert ("192.0.2.99", 4444) == party.call.stream.terms.remote
        assert ["sendrecv"] == party.directions

    @pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
    async def test_who_is_put_on_hold_says_that_he_only_listens(self, party: Party, method: str) -> None:
        party.send(method, body=HELD)
        assert (["recvonly"], True) == (party.directions, party.call.stream.terms.on_hold)

    async def test_and_is_taken_off_hold_again(self, party: Party) -> None:
        party.send("INVITE", body=HELD)
        party.ack()
        party.send("INVITE", body=OFFER)
        assert (["recvonly", "sendrecv"], False) == (party.directions, party.call.stream.terms.on_hold)

    async def test_only_an_invite_waits_for_an_ack(self, party: Party) -> None:
        party.send("UPDATE", body=OFFER)
        party.bench.clock.advance(100)
        assert [200] == party.wire.summary
        party.send("INVITE", body=OFFER)
        party.bench.clock.advance(100)
        assert "BYE" == party.wire.summary[-1]

    async def test_one_that_cannot_be_taken_is_refused_and_changes_nothing(self, party: Party) -> None:
        """§14.2: the session stays as it was."""
        before = party.call.stream.terms
        assert [488, 488] == [party.send("INVITE", body=body).status_code for body in (OTHERS, b"nonsense")]
        assert before == party.call.stream.terms
        assert party.end is None

    async def test_the_codec_of_the_call_stays(self, party: Party) -> None:
        answer = party.send("INVITE", body=OFFER)
        assert b"m=audio 0 " not in answer.body
        assert b"RTP/AVP 8 101" in answer.body

    async def test_the_version_of_our_description_counts_on_and_its_session_stays(self, party: Party) -> None:
        """RFC 3264 §8."""
        origins = []
        for _ in range(3):
            origins.append(party.send("UPDATE", body=OFFER).body.splitlines()[1].split())
        assert [2, 3, 4] == [int(origin[2]) for origin in origins]
        assert 1 == len({origin[1] for origin in origins})

    async def test_a_new_contact_is_where_requests_go_from_then_on(self, party: Party) -> None:
        party.send("INVITE", body=OFFER, Contact="<sip:200@192.0.2.77:6000>")
        assert "sip:200@192.0.2.77:6000" == party.call.dialog.remote_target

    async def test_a_second_one_before_the_ack_to_the_first_has_to_wait(self, party: Party) -> None:
        party.send("INVITE", body=OFFER)
        assert 491 == party.send("INVITE", body=HELD).status_code
        assert not party.call.stream.terms.on_hold

    async def test_one_out_of_order_is_refused(self, party: Party) -> None:
        """RFC 3261 §12.2.2."""
        party.send("INVITE", body=OFFER, seq=50)
        party.ack(seq=50)
        assert 500 == party.send("INVITE", body=HELD, seq=49).status_code


class TestTheirWishForAnOffer:
    """RFC 3261 §14.2: a re-INVITE without one is answered with ours, and the ACK brings their answer."""

    async def test_the_2xx_has_our_offer(self, party: Party) -> None:
        answer = party.send("INVITE")
        assert (200, ["sendrecv"]) == (answer.status_code, party.directions)

    async def test_the_answer_in_the_ack_is_lived_by(self, party: Party) -> None:
        party.send("INVITE")
        party.ack(body=MOVED)
        assert ("192.0.2.99", 4444) == party.call.stream.terms.remote

    @pytest.mark.parametrize("body", [b"", OTHERS, b"nonsense"])
    async def test_an_ack_without_a_usable_answer_ends_the_call(self, party: Party, body: bytes) -> None:
        party.send("INVITE")
        party.ack(body=body)
        assert party.end is not None
        assert party.end.reason.startswith("the ACK answers no offer of ours")
        assert "BYE" == party.wire.summary[-1]

    async def test_an_update_without_one_is_a_mere_sign_of_life(self, party: Party) -> None:
        assert (200, b"") == ((answer := party.send("UPDATE")).status_code, answer.body)


class TestOurOffers:
    """RFC 3261 §14.1, RFC 3264 §8.4."""

    async def test_we_hold_and_resume(self, party: Party) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        await party.reply(200, body=OFFER + b"a=recvonly\r\n")
        assert await holding
        resuming = asyncio.create_task(party.call.resume())
        await party.settle()
        await party.reply(200, body=OFFER)
        assert await resuming
        assert ["sendonly", "sendrecv"] == party.directions
        assert ["INVITE", "ACK", "INVITE", "ACK"] == party.wire.summary

    async def test_the_ack_has_the_number_of_its_invite(self, party: Party) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        await party.reply(200, body=OFFER)
        await holding
        assert [1, 1] == [identity(m).cseq.seq for m in party.wire.messages if isinstance(m, SipRequest)]

    async def test_a_2xx_that_comes_again_is_acknowledged_again(self, party: Party) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        for _ in range(3):
            await party.reply(200, body=OFFER)
        assert await holding
        assert 3 == len(party.sent("ACK"))

    async def test_a_hold_that_is_refused_leaves_all_as_it_was(self, party: Party) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        await party.reply(488)
        assert not await holding
        party.send("UPDATE", body=OFFER)
        assert (["sendonly", "sendrecv"], None) == (party.directions, party.end)

    async def test_while_we_hold_their_offers_are_answered_as_held(self, party: Party) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        await party.reply(200, body=OFFER)
        await holding
        party.send("UPDATE", body=OFFER)
        assert ["sendonly", "sendonly"] == party.directions

    async def test_an_answer_that_cannot_be_used_ends_the_call(self, party: Party) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        await party.reply(200, body=OTHERS)
        await holding
        assert party.end is not None
        assert party.end.reason.startswith("the answer to our offer cannot be used")
        assert ["INVITE", "ACK", "BYE"] == party.wire.summary

    @pytest.mark.parametrize("status", [408, 481])
    async def test_a_far_end_that_does_not_know_the_call_any_more_ends_it(self, party: Party, status: int) -> None:
        """RFC 3261 §12.2.1.2."""
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        await party.reply(status)
        assert not await holding
        assert CallEnd("gateway", "the far end does not know the call any more") == party.end

    async def test_and_so_does_silence(self, party: Party) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        party.bench.clock.advance(33)
        assert not await holding
        assert party.end is not None

    async def test_a_call_that_ends_meanwhile_ends_the_wait(self, party: Party) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        party.send("BYE")
        assert not await holding

    async def test_a_call_that_is_over_cannot_be_held(self, party: Party) -> None:
        party.send("BYE")
        with pytest.raises(CallOver, match="hung up"):
            await party.call.hold()

    async def test_a_network_that_is_gone_leaves_nothing_pending(
        self, party: Party, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def nowhere(hop: Hop) -> None:
            raise TransportFailed(f"no way to {hop.host}")

        with monkeypatch.context() as patch:
            patch.setattr(party.bench.endpoint, "_sent_by", nowhere)
            with pytest.raises(TransportFailed):
                await party.call.hold()
        assert 200 == party.send("INVITE", body=OFFER).status_code


class TestCollisions:
    """RFC 3261 §14.1, §14.2: one offer at a time."""

    @pytest.mark.parametrize(("method", "body"), [("INVITE", OFFER), ("INVITE", b""), ("UPDATE", OFFER)])
    async def test_their_offer_has_to_wait_while_ours_is_on_its_way(
        self, party: Party, method: str, body: bytes
    ) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        assert 491 == party.send(method, body=body).status_code
        await party.reply(200, body=OFFER)
        assert await holding

    async def test_a_sign_of_life_does_not(self, party: Party) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        assert 200 == party.send("UPDATE").status_code
        await party.reply(200, body=OFFER)
        await holding

    async def test_afterwards_theirs_is_taken(self, party: Party) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        await party.reply(488)
        await holding
        assert 200 == party.send("INVITE", body=OFFER).status_code

    async def test_ours_is_tried_again_when_it_collided(self, party: Party) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        await party.reply(491)
        async with asyncio.timeout(20):
            while len(party.sent("INVITE")) < 2:  # noqa: ASYNC110 - what is waited for lies on the wire
                await asyncio.sleep(0.02)
        await party.reply(200, body=OFFER)
        assert await holding

    async def test_while_their_2xx_is_unacknowledged_we_offer_nothing(self, party: Party) -> None:
        party.answered()
        assert not await party.call.hold()
        assert [200] == party.wire.summary

    async def test_two_of_ours_at_a_time_are_one_too_many(self, party: Party) -> None:
        holding = asyncio.create_task(party.call.hold())
        await party.settle()
        assert not await party.call.resume()
        await party.reply(200, body=OFFER)
        assert await holding

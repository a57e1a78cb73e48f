"""Calls that we place, without a socket: hops tried in turn, redirections, forks, what the answer must bring (RFC 3261 §13.2,
RFC 3263 §4.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from agent_bench import Gateway, closed
from aiosipua.header_codec import parse_auth
from aiosipua.message import SipRequest
from sip_bench import OFFER, response
from test_location import Zone

from gateway.telephony.auth import Credentials
from gateway.telephony.call import Call
from gateway.telephony.crypto import new_crypto
from gateway.telephony.errors import CallFailed
from gateway.telephony.location import Srv
from gateway.telephony.message import identity
from gateway.telephony.sdp import make_offer, read_description
from gateway.telephony.transport import Hop

BOB = "sip:+821012345678@192.0.2.2:5070"
FIRST, SECOND = Hop("192.0.2.11", 5060), Hop("192.0.2.12", 5060)
TWO = Zone(
    srv={"_sip._udp.pbx.example.com": [Srv(0, 0, 5060, "a"), Srv(10, 0, 5060, "b")]},
    addresses={"a": [FIRST.host], "b": [SECOND.host]},
)


class Caller(Gateway):
    """The gateway that calls; :meth:`reply` is the far end's."""

    task: asyncio.Task[Call] | None = None

    async def dial(self, target: str = BOB, **options: Any) -> Caller:
        self.task = asyncio.create_task(self.agent.dial(target, "call-1", from_user="16005555", **options))
        await self.settle()
        return self

    @property
    def invites(self) -> list[SipRequest]:
        return self.sent("INVITE")

    def sent(self, method: str) -> list[SipRequest]:
        return [m for m in self.wires.sent if isinstance(m, SipRequest) and m.method == method]

    async def reply(
        self,
        status: int,
        *,
        to_tag: str = "theirs",
        contact: str = "sip:bob@192.0.2.8:5090",
        body: bytes = b"",
        **headers: str,
    ) -> list[int | str]:
        """They answer our last INVITE; what goes out then."""
        made = response(self.invites[-1], status, to_tag=to_tag)
        for value in contact.split():
            made.add_header("Contact", f"<{value}>" if "<" not in value else value)
        for name, value in headers.items():
            made.set_header(name.replace("_", "-"), value)
        made.body = body
        return await self.hear(made)

    async def call(self) -> Call:
        assert self.task is not None
        return await asyncio.wait_for(self.task, 10)

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await self.settle()
        await closed(self)

    async def failure(self) -> CallFailed:
        with pytest.raises(CallFailed) as failed:
            await self.call()
        return failed.value


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    made = Caller()
    yield made
    await made.close()


@pytest.fixture
async def resolving() -> AsyncIterator[Caller]:
    """Knows two addresses of pbx.example.com, the first one first."""
    made = Caller(resolver=TWO)
    yield made
    await made.close()


class TestTheInvite:
    async def test_it_says_who_calls_whom_from_where(self, caller: Caller) -> None:
        (invite,) = (await caller.dial()).invites
        ids = identity(invite)
        assert (BOB, "16005555", "+821012345678", None) == (
            invite.uri, ids.from_.uri.user, ids.to.uri.user, ids.to.tag,
        )  # fmt: skip
        assert "<sip:16005555@192.0.2.1:5060>" == invite.get_header("Contact")

    async def test_it_offers_wideband_first(self, caller: Caller) -> None:
        (invite,) = (await caller.dial()).invites
        assert ("application/sdp", "G722") == (invite.content_type, read_description(invite.body).codec)

    async def test_a_secure_call_offers_encrypted_media_alone(self, caller: Caller) -> None:
        (invite,) = (await caller.dial(secure=True)).invites
        assert read_description(invite.body, secure=True).crypto is not None

    async def test_over_ipv6_addresses_stand_in_brackets(self) -> None:
        caller = Caller(advertised="2001:db8::1")
        caller.agent._bind = ("::", 5060)
        (invite,) = (await caller.dial("sip:100@[2001:db8::2]")).invites
        assert "[2001:db8::1]" == identity(invite).from_.uri.host
        assert "[2001:db8::1]" in (invite.get_header("Contact") or "")
        assert b"c=IN IP6 2001:db8::1" in invite.body
        assert "[2001:db8::1]" == identity(invite).via.host
        await caller.close()

    async def test_a_session_timer_is_asked_for(self) -> None:
        """RFC 4028 §7.1."""
        caller = Caller(session_s=1800)
        (invite,) = (await caller.dial()).invites
        assert "1800;refresher=uac" == invite.get_header("Session-Expires")
        await caller.reply(486)
        await caller.close()


class TestTheAnswer:
    async def test_it_is_acknowledged_and_makes_the_call(self, caller: Caller) -> None:
        await caller.dial()
        assert ["ACK"] == await caller.reply(200, body=OFFER)
        call = await caller.call()
        (ack,) = caller.sent("ACK")
        assert ("sip:bob@192.0.2.8:5090", "outbound", "PCMA") == (ack.uri, call.direction, call.stream.terms.codec)
        assert Hop("192.0.2.8", 5090) == caller.wires.hops[-1]

    async def test_the_ack_follows_the_route(self, caller: Caller) -> None:
        """RFC 3261 §12.2.1.1, §16.12: loose routers in reverse of how they were recorded."""
        await caller.dial()
        await caller.reply(200, body=OFFER, Record_Route="<sip:192.0.2.70;lr>, <sip:192.0.2.71;lr>")
        await caller.call()
        (ack,) = caller.sent("ACK")
        assert ["<sip:192.0.2.71;lr>", "<sip:192.0.2.70;lr>"] == ack.get_header_values("Route")
        assert ("sip:bob@192.0.2.8:5090", Hop("192.0.2.71", 5060)) == (ack.uri, caller.wires.hops[-1])

    async def test_a_2xx_that_comes_again_is_acknowledged_again(self, caller: Caller) -> None:
        await caller.dial()
        await caller.reply(200, body=OFFER)
        await caller.call()
        assert ["ACK"] == await caller.reply(200, body=OFFER)

    async def test_the_ack_repeats_the_password(self, caller: Caller) -> None:
        """RFC 3261 §22.1."""
        await caller.dial(credentials=Credentials("alice", "wonderland"))
        await caller.reply(407, Proxy_Authenticate='Digest realm="proxy", nonce="n1"')
        await caller.reply(200, body=OFFER)
        await caller.call()
        ack = caller.sent("ACK")[-1]
        assert "n1" == parse_auth(ack.get_header("Proxy-Authorization") or "", credentials=True).params["nonce"]

    async def test_a_second_phone_of_a_fork_is_acknowledged_and_ended(self, caller: Caller) -> None:
        """§13.2.2.4."""
        await caller.dial()
        await caller.reply(200, to_tag="first", body=OFFER)
        call = await caller.call()
        assert ["ACK", "BYE"] == await caller.reply(200, to_tag="second", contact="sip:c@192.0.2.9", body=OFFER)
        bye = caller.sent("BYE")[0]
        assert ("second", "sip:c@192.0.2.9") == (identity(bye).to.tag, bye.uri)
        assert not call.ended.done()

    async def test_one_that_crossed_our_cancel_is_acknowledged_and_ended(self, caller: Caller) -> None:
        """§9.1."""
        await caller.dial(ring_s=0.02)
        await caller.reply(180)
        assert 487 == (await caller.failure()).status
        await caller.settle()
        assert 1 == len(caller.sent("CANCEL"))
        assert ["ACK", "BYE"] == await caller.reply(200, body=OFFER)

    @pytest.mark.parametrize("body", [b"", b"nonsense", OFFER.replace(b"8 0 101", b"18").replace(b"PCM", b"X")])
    async def test_one_without_a_usable_description_is_ended(self, caller: Caller, body: bytes) -> None:
        await caller.dial()
        assert ["ACK", "BYE"] == await caller.reply(200, body=body)
        assert 488 == (await caller.failure()).status

    async def test_a_secure_call_that_is_answered_in_the_clear_is_ended(self, caller: Caller) -> None:
        await caller.dial(secure=True)
        assert ["ACK", "BYE"] == await caller.reply(200, body=OFFER)
        assert 488 == (await caller.failure()).status

    async def test_a_secure_call_that_is_answered_with_a_key_is_encrypted(self, caller: Caller) -> None:
        await caller.dial(secure=True)
        theirs = new_crypto()
        await caller.reply(200, body=make_offer(("192.0.2.2", 4000), 1, codecs=("PCMA",), crypto=theirs))
        assert theirs == (await caller.call()).stream.terms.crypto

    async def test_what_cannot_be_recorded_is_ended(self, caller: Caller) -> None:
        caller.media.full = True
        await caller.dial()
        assert ["ACK", "BYE"] == await caller.reply(200, body=OFFER)
        assert 500 == (await caller.failure()).status

    @pytest.mark.parametrize(
        ("text", "seconds"), [("30", 30.0), ("120 (busy);duration=9", 120.0), ("²", None), ("soon", None)]
    )
    async def test_a_refusal_tells_how_long_to_wait(self, caller: Caller, text: str, seconds: float | None) -> None:
        await caller.dial()
        await caller.reply(503, Retry_After=text)
        failed = await caller.failure()
        assert (503, seconds) == (failed.status, failed.retry_after_s)


class TestHops:
    """RFC 3263 §4.3."""

    async def test_a_hop_that_cannot_be_reached_is_passed_over(self, resolving: Caller) -> None:
        resolving.wires.broken.add(FIRST)
        await resolving.dial("sip:100@pbx.example.com")
        assert [FIRST, SECOND] == resolving.wires.hops
        await resolving.reply(200, body=OFFER)
        await resolving.call()

    async def test_so_is_one_that_is_overloaded(self, resolving: Caller) -> None:
        await resolving.dial("sip:100@pbx.example.com")
        await resolving.reply(503)
        assert SECOND == resolving.wires.hops[-1]
        await resolving.reply(200, body=OFFER)
        await resolving.call()

    @pytest.mark.parametrize("status", [404, 486, 500, 603])
    async def test_any_other_refusal_is_the_answer(self, resolving: Caller, status: int) -> None:
        await resolving.dial("sip:100@pbx.example.com")
        await resolving.reply(status)
        assert status == (await resolving.failure()).status
        assert 1 == len(resolving.invites)

    async def test_so_is_a_503_after_a_phone_rang(self, resolving: Caller) -> None:
        await resolving.dial("sip:100@pbx.example.com")
        await resolving.reply(180)
        await resolving.reply(503)
        assert (503, True) == ((failed := await resolving.failure()).status, failed.rang)

    async def test_when_the_last_one_fails_too_so_does_the_call(self, resolving: Caller) -> None:
        resolving.wires.broken |= {FIRST, SECOND}
        await resolving.dial("sip:100@pbx.example.com")
        assert 408 == (await resolving.failure()).status

    async def test_each_attempt_is_a_call_of_its_own(self, resolving: Caller) -> None:
        """Another gateway behind the same proxy must not take it for a loop."""
        await resolving.dial("sip:100@pbx.example.com")
        await resolving.reply(503)
        one, two = (identity(invite) for invite in resolving.invites)
        assert one.call_id != two.call_id
        await resolving.reply(486)
        await resolving.failure()

    async def test_one_that_is_given_up_and_answers_after_all_is_ended(self, resolving: Caller) -> None:
        await resolving.dial("sip:100@pbx.example.com", first_s=0.02)
        (first,) = resolving.invites
        async with asyncio.timeout(10):
            while len(resolving.invites) < 2:  # noqa: ASYNC110 - what is waited for lies on the wire
                await asyncio.sleep(0.005)
        late = response(first, 200, to_tag="late", headers={"Contact": "<sip:b@192.0.2.9>"})
        assert ["ACK", "BYE"] == await resolving.hear(late)
        await resolving.reply(200, body=OFFER)
        assert not (await resolving.call()).ended.done()


class TestRedirections:
    """RFC 3261 §8.1.3.4."""

    async def test_the_likeliest_contact_is_called_first(self, caller: Caller) -> None:
        await caller.dial()
        await caller.reply(302, contact="<sip:b@192.0.2.30>;q=0.2 <sip:a@192.0.2.31>;q=0.9")
        assert "sip:a@192.0.2.31" == caller.invites[-1].uri
        await caller.reply(302, contact="")
        assert "sip:b@192.0.2.30" == caller.invites[-1].uri
        await caller.reply(200, body=OFFER)
        await caller.call()

    async def test_one_that_cannot_be_reached_leaves_the_others(self, caller: Caller) -> None:
        caller.wires.broken.add(Hop("192.0.2.31", 5060))
        await caller.dial()
        await caller.reply(302, contact="<sip:b@192.0.2.30>;q=0.2 <sip:a@192.0.2.31>;q=0.9")
        assert "sip:b@192.0.2.30" == caller.invites[-1].uri
        await caller.reply(486)
        assert 486 == (await caller.failure()).status

    async def test_a_circle_ends(self, caller: Caller) -> None:
        await caller.dial()
        await caller.reply(302, contact=BOB)
        assert 302 == (await caller.failure()).status
        assert 1 == len(caller.invites)

    async def test_so_does_an_endless_chain(self, caller: Caller) -> None:
        await caller.dial()
        for number in range(20):
            await caller.reply(302, contact=f"sip:b@192.0.2.{100 + number}")
        assert 302 == (await caller.failure()).status
        assert len(caller.invites) <= 6

    @pytest.mark.parametrize("contact", ["<tel:+8210>", "<mailto:a@b>", ""])
    async def test_what_is_no_sip_address_is_not_called(self, caller: Caller, contact: str) -> None:
        await caller.dial()
        await caller.reply(302, contact=contact)
        assert 302 == (await caller.failure()).status

    async def test_our_password_goes_to_nobody_else(self, caller: Caller) -> None:
        await caller.dial(credentials=Credentials("alice", "wonderland"))
        await caller.reply(302, contact="sip:evil@192.0.2.66")
        await caller.reply(401, WWW_Authenticate='Digest realm="pbx", nonce="n"')
        assert 401 == (await caller.failure()).status
        assert all(invite.get_header("Authorization") is None for invite in caller.invites)

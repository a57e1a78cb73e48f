"""An INVITE that waits for our answer: ringing, reliable or not, answered with or without an offer in it, or refused."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from secrets import randbelow
from typing import Protocol

from aiosipua.message import SipRequest, SipResponse

from gateway.telephony.call import Call
from gateway.telephony.endpoint import Endpoint, Incoming
from gateway.telephony.errors import CallFailed
from gateway.telephony.message import Identity, make_response
from gateway.telephony.repeater import Repeater
from gateway.telephony.sdp import MediaTerms
from gateway.telephony.session_timer import required

ACK_S = 32.0
"""How long the answer to an offer of ours may take: 64*T1."""


class Answering(Protocol):
    """What an invitation needs of the user agent."""

    @property
    def endpoint(self) -> Endpoint: ...
    async def answer(self, invitation: Invitation, call_id: str) -> Call: ...
    def drop(self, invitation: Invitation) -> None: ...


@dataclass(eq=False)
class Invitation:
    """*terms* is None for a late offer. *number* is who calls, as far as it is proven. ``cancelled`` is set when the caller
    gives up.
    """

    agent: Answering
    incoming: Incoming
    number: str
    terms: MediaTerms | None
    tag: str
    contact: str
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    late_answer: asyncio.Future[bytes] | None = field(default=None, init=False)
    _reliable: Repeater | None = field(default=None, init=False)
    _rseq: int = field(default=0, init=False)
    _acknowledged: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    @property
    def wants_reliable(self) -> bool:
        return "100rel" in required(self.incoming.request)

    def ring(self) -> None:
        """180; acknowledged where the caller demands it (RFC 3262 §3)."""
        if not self.wants_reliable:
            self.incoming.reply(180, to_tag=self.tag, headers={"Contact": self.contact})
            return
        if self._reliable is not None or self.incoming.answered:
            return
        self._rseq = 1 + randbelow(2**31 - 1)
        response = make_response(self.incoming.request, 180, to_tag=self.tag)
        response.set_header("Require", "100rel")
        response.set_header("RSeq", str(self._rseq))
        response.set_header("Contact", self.contact)
        self.incoming.respond(response)
        endpoint = self.agent.endpoint
        self._reliable = Repeater(
            endpoint.call_later,
            lambda: self.incoming.resend(response),
            self._unacknowledged,
            longest=32.0,
        )

    def reject(self, status: int) -> None:
        self.stop()
        self.agent.drop(self)
        self.incoming.reply(status, to_tag=self.tag)

    async def answer(self, call_id: str) -> Call:
        """Send the 200 and open the media. Raises CallFailed when the caller gave up or no media can be had."""
        if self._reliable is not None:  # the 200 waits for the PRACK (RFC 3262 §3)
            waits = {asyncio.ensure_future(self._acknowledged.wait()), asyncio.ensure_future(self.cancelled.wait())}
            _, left = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
        return await self.agent.answer(self, call_id)

    def stop(self) -> None:
        if self._reliable is not None:
            self._reliable.stop()
        self._acknowledged.set()
        if self.late_answer is not None and not self.late_answer.done():
            self.late_answer.set_exception(CallFailed(487, "the caller gave up"))

    def take(self, incoming: Incoming) -> None:
        """A request within the early dialog: the PRACK of our ringing; an UPDATE is too early (RFC 3311 §5.2)."""
        request = incoming.request
        if request.method == "PRACK":
            words = (request.get_header("RAck") or "").split()
            cseq = self.incoming.ids.cseq
            if self._rseq and words == [str(self._rseq), str(cseq.seq), cseq.method]:
                incoming.reply(200)
                assert self._reliable is not None
                self._reliable.stop()
                self._acknowledged.set()
            else:
                incoming.reply(481)
        elif request.method == "UPDATE":
            incoming.reply(500, headers={"Retry-After": "2"})
        elif request.method == "BYE":
            incoming.reply(200)
            self.cancelled.set()
            self.reject(487)
        else:
            incoming.reply(481)

    def acknowledged(self, ack: SipRequest) -> None:
        """The ACK that answers a late offer."""
        if self.late_answer is not None and not self.late_answer.done():
            self.late_answer.set_result(ack.body)

    async def answer_to(self, final: SipResponse) -> bytes:
        """Send *final*, the 200 with our offer, until its ACK brings the answer. Raises TimeoutError when none comes."""
        self.late_answer = asyncio.get_running_loop().create_future()
        endpoint = self.agent.endpoint
        self.incoming.respond(final)
        repeater = Repeater(endpoint.call_later, lambda: self.incoming.resend(final), lambda: None)
        try:
            async with asyncio.timeout(ACK_S):
                return await self.late_answer
        finally:
            repeater.stop()

    def belongs(self, ids: Identity) -> bool:
        """Whether the request of *ids* is of the early dialog of this INVITE."""
        ours = self.incoming.ids
        return (ids.call_id, ids.to.tag, ids.from_.tag) == (ours.call_id, self.tag, ours.from_.tag)

    def _unacknowledged(self) -> None:
        self._acknowledged.set()
        self.cancelled.set()
        self.reject(504)

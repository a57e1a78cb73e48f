"""Offers and answers within a call: hold and resume, a moved address, late offers, refreshes (RFC 3261 §14, RFC 3311, RFC 4028)."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import structlog
from aiosipua.message import SipRequest, SipResponse

from gateway.telephony.endpoint import Incoming
from gateway.telephony.errors import BadMessage, NoCommonCodec, TransportFailed
from gateway.telephony.message import ALLOW, SUPPORTED, identity, make_response
from gateway.telephony.repeater import Repeater
from gateway.telephony.sdp import Direction, MediaTerms, make_answer, make_offer, read_description
from gateway.telephony.session_timer import MIN_SE, SessionTimer, TooBrief, announce, as_client, as_server

if TYPE_CHECKING:
    from gateway.telephony.call import Call

log = structlog.get_logger(__name__)
GONE = (408, 481)
"""Answers to a refresh that say that the dialog is dead (RFC 4028 §10, RFC 3261 §12.2.1.2)."""


class Negotiation:
    """The session description of one call: what was agreed, and the exchange under way, of which there is one at a time."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._random = Random()  # noqa: S311 - spreads retries, guards nothing
        self._unconfirmed: Repeater | None = None
        self._unconfirmed_seq = 0
        self._offered = self._collided = self._refused = self._pending = False
        self._ours: asyncio.Future[bool] | None = None
        self._version = 1
        self.held = False
        """Whether we hold the far end."""

    def stop(self) -> None:
        self._confirmed()
        if self._ours is not None and not self._ours.done():
            self._ours.set_result(False)

    def confirm_with(self, final: SipResponse, incoming: Incoming, *, offered: bool = False) -> None:
        """Send our 2xx again until its ACK comes (RFC 3261 §13.3.1.4); end the call when none does. With *offered* the
        ACK brings the answer to the offer in it.
        """
        call = self._call
        self._offered, self._unconfirmed_seq = offered, incoming.ids.cseq.seq
        self._unconfirmed = Repeater(
            call.endpoint.call_later,
            lambda: incoming.resend(final),
            lambda: call.hangup("the 200 OK was never acknowledged"),
        )

    def acknowledged(self, ack: SipRequest) -> None:
        if self._unconfirmed is None or identity(ack).cseq.seq != self._unconfirmed_seq:
            return  # of an earlier INVITE (RFC 3261 §17.1.1.3)
        self._confirmed()
        if self._offered:
            self._offered = False
            try:
                self._call.stream.renegotiate(self._read(ack.body))
            except (BadMessage, NoCommonCodec) as error:
                self._call.hangup(f"the ACK answers no offer of ours: {error}")

    def take(self, incoming: Incoming) -> None:
        """A re-INVITE or an UPDATE: a new offer, the wish for one, or a sign of life."""
        call, request = self._call, incoming.request
        if self._unconfirmed is not None or (self._pending and (request.body or request.method == "INVITE")):
            incoming.reply(491)
            return
        try:
            timer = as_server(request, 0) or call.timer
            terms = self._read(request.body) if request.body else None
        except TooBrief:
            incoming.reply(422, headers={"Min-SE": str(MIN_SE)})
            return
        except (BadMessage, NoCommonCodec) as error:
            incoming.reply(488, reason=str(error)[:60])
            return
        call.dialog.retarget(request)
        response = make_response(request, 200, to_tag=call.dialog.local.tag or "")
        self._complete(response, timer)
        late = terms is None and request.method == "INVITE"
        if terms is not None:
            call.stream.renegotiate(terms)
            self.describe(response, self._answer(terms))
        elif late:
            self.describe(response, self._own_offer())
        incoming.respond(response)
        if request.method == "INVITE":
            self.confirm_with(response, incoming, offered=late)
        call.keep_alive(timer)

    async def offer(self, *, hold: bool) -> bool:
        """Send a re-INVITE with our side of the media; whether the far end agreed. A collision is tried again once
        (RFC 3261 §14.1).
        """
        for _ in range(2):
            if self._pending or self._unconfirmed is not None:
                return False
            self._ours = asyncio.get_running_loop().create_future()
            before, self.held = self.held, hold
            agreed = False
            try:
                self._invite(None)
                agreed = await self._ours
                collided = self._collided
            finally:
                self._ours = None
                if not agreed:
                    self.held = before
            if agreed or not collided:
                return agreed
            await asyncio.sleep(self._random.uniform(2.1, 4.0) if self._call.direction == "outbound" else 1.0)
        return False

    def refresh(self, timer: SessionTimer) -> None:
        """Give a sign of life: UPDATE where the far end takes it, else a re-INVITE that changes nothing."""
        call = self._call
        if self._pending or self._unconfirmed is not None:
            call.refresh_soon(timer)
            return
        try:
            if "UPDATE" in call.peer_allows:
                update = call.dialog.request("UPDATE")
                self._complete(update, timer)
                call.request(update, lambda response: self._refreshed(response, timer))
            else:
                self._invite(timer)
        except TransportFailed as error:
            log.warning("call.unrefreshed", call=call.call_id, error=str(error))
            call.refresh_soon(timer)

    def describe(self, message: SipRequest | SipResponse, body: bytes) -> None:
        message.set_header("Content-Type", "application/sdp")
        message.body = body

    def _invite(self, timer: SessionTimer | None) -> None:
        call = self._call
        invite = call.dialog.request("INVITE")
        self._complete(invite, timer)
        self.describe(invite, self._own_offer())
        self._collided, self._pending = False, True
        try:
            call.request(invite, lambda response: self._on_final(response, timer))
        except TransportFailed:
            self._pending = False
            raise

    def _on_final(self, response: SipResponse | None, timer: SessionTimer | None) -> None:
        call = self._call
        agreed = response is not None and response.status_code < 300
        self._pending = False
        if response is not None and agreed:
            call.dialog.retarget(response)
            call.acknowledge(call.dialog.request("ACK", identity(response).cseq.seq))
            try:
                call.stream.renegotiate(self._read(response.body))
            except (BadMessage, NoCommonCodec) as error:
                call.hangup(f"the answer to our offer cannot be used: {error}")
        self._collided = response is not None and response.status_code == 491
        if self._ours is not None and not self._ours.done():
            self._ours.set_result(agreed)
        if timer is not None or response is None or response.status_code in GONE:
            self._refreshed(response, timer)

    def _refreshed(self, response: SipResponse | None, timer: SessionTimer | None) -> None:
        call = self._call
        if call.ended.done():
            return
        if response is None or response.status_code in GONE:
            call.hangup("the far end does not know the call any more")
        elif timer is not None and response.status_code < 300:
            self._refused = False
            call.keep_alive(as_client(response, timer.expires_s))
        elif self._refused:
            call.hangup(f"the far end refuses to go on: {response.status_code}")
        elif timer is not None:  # it lives, though it refused: once more before the session ends
            self._refused = True
            call.refresh_soon(timer)

    def _complete(self, message: SipRequest | SipResponse, timer: SessionTimer | None) -> None:
        """The headers that every message of ours about the session has."""
        message.set_header("Contact", self._call.contact)
        message.set_header("Allow", ALLOW)
        message.set_header("Supported", SUPPORTED)
        if timer is not None:
            announce(message, timer, requesting=isinstance(message, SipRequest))

    def _own_offer(self) -> bytes:
        call = self._call
        self._version += 1
        direction: Direction = "sendonly" if self.held else "sendrecv"
        return make_offer(
            (call.media_host, call.stream.ports.number), self._version, codecs=(call.stream.terms.codec,),
            direction=direction, crypto=call.stream.own_crypto,
        )  # fmt: skip

    def _answer(self, terms: MediaTerms) -> bytes:
        call = self._call
        self._version += 1
        address = call.media_host, call.stream.ports.number
        return make_answer(address, self._version, terms, hold=self.held, crypto=call.stream.own_crypto)

    def _read(self, body: bytes) -> MediaTerms:
        """New terms for the stream: its codec and its protection stay."""
        stream = self._call.stream
        return read_description(body, (stream.terms.codec,), secure=stream.own_crypto is not None)

    def _confirmed(self) -> None:
        if self._unconfirmed is not None:
            self._unconfirmed.stop()
            self._unconfirmed = None

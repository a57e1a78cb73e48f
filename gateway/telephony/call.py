"""A call: a dialog with its media, as the rest of the house sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog
from aiosipua.message import SipRequest, SipResponse

from gateway.telephony.dialog import Dialog
from gateway.telephony.endpoint import Cancellable, Endpoint, Incoming
from gateway.telephony.errors import BadMessage, CallOver, NoCommonCodec, TransportFailed
from gateway.telephony.media import Frames, MediaEngine, MediaStream
from gateway.telephony.message import ALLOW, HostPort, make_response
from gateway.telephony.recorder import Recording
from gateway.telephony.rtp import DTMF_KEYS
from gateway.telephony.sdp import MediaTerms, make_answer, read_description
from gateway.telephony.transaction import GIVE_UP, T1, T2

log = structlog.get_logger(__name__)
REFER_S = 30.0

Side = Literal["caller", "gateway"]


@dataclass(slots=True)
class CallEnd:
    """Who ended the call, and why in words."""

    by: Side
    reason: str


@dataclass(eq=False)
class Call:
    """An answered call. ``ended`` is set once, by whichever side ends it first."""

    call_id: str
    direction: Literal["inbound", "outbound"]
    number: str
    dialog: Dialog
    peer: HostPort
    endpoint: Endpoint
    engine: MediaEngine
    stream: MediaStream
    contact: str
    forget: Callable[[Call], None]
    media_host: str
    session: int = 1
    ended: asyncio.Future[CallEnd] = field(init=False)
    _resend: Cancellable | None = field(default=None, init=False)
    _transfer: asyncio.Future[bool] | None = field(default=None, init=False)
    _ack: SipRequest | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self.stream.on_failure = self.hangup

    async def play(self, frames: Frames) -> int:
        """Play *frames* to their end, until :meth:`stop_playing`, the next *play* or the end of the call; returns the
        number of frames sent.

        Raises CallOver when the call has ended before.
        """
        if self.ended.done():
            raise CallOver(self.ended.result().reason)
        return await self.stream.play(frames)

    def stop_playing(self) -> None:
        self.stream.stop_playing()

    def hangup(self, reason: str) -> None:
        """Send BYE. The media goes on until :meth:`close`. The call is over even where no BYE can be sent."""
        if self.ended.done():
            return
        self._end(CallEnd("gateway", reason))
        try:
            self._send("BYE")
        except TransportFailed as error:
            log.warning("call.bye_not_sent", call=self.call_id, error=str(error))

    async def transfer(self, target: str) -> bool:
        """Ask the far end to call *target* instead (REFER, RFC 3515); True when it says that this worked."""
        if self.ended.done():
            raise CallOver(self.ended.result().reason)
        self._transfer = asyncio.get_running_loop().create_future()
        refer = self.dialog.request("REFER")
        refer.set_header("Refer-To", f"<{target}>")
        refer.set_header("Contact", self.contact)
        self.endpoint.request(refer, self.peer, self._on_refer_response)
        await asyncio.wait(_futures(self._transfer, self.ended), timeout=REFER_S, return_when=asyncio.FIRST_COMPLETED)
        return self._transfer.done() and self._transfer.result()

    async def close(self) -> Recording | None:
        """End what is left of the call and finish its recording. Raises OSError when that cannot be written."""
        self.hangup("the call is closed")
        self.forget(self)
        return await self.engine.close(self.stream)

    def confirm_with(self, final: SipResponse, peer: HostPort) -> None:
        """Retransmit our 2xx to *peer* until its ACK comes (RFC 3261 §13.3.1.4); end the call when none does."""
        waited, interval = 0.0, T1

        def again() -> None:
            nonlocal waited, interval
            waited += interval
            if waited >= GIVE_UP:
                self.hangup("the 200 OK was never acknowledged")
                return
            self.endpoint.resend(final, peer)
            interval = min(2 * interval, T2, GIVE_UP - waited)
            self._resend = self.endpoint.call_later(interval, again)

        self._resend = self.endpoint.call_later(interval, again)

    def acknowledged(self) -> None:
        if self._resend is not None:
            self._resend.cancel()
            self._resend = None

    def acknowledge(self, ack: SipRequest) -> None:
        """Send *ack* to the 2xx of our INVITE, and again whenever that 2xx is retransmitted."""
        self._ack = ack
        self.endpoint.send_ack(ack, self.peer)

    def on_2xx_again(self) -> None:
        if self._ack is not None:
            self._ack.remove_header("Via")
            self.endpoint.send_ack(self._ack, self.peer)

    def take(self, incoming: Incoming) -> None:
        """A request within this dialog."""
        request = incoming.request
        if not self.dialog.accepts(request):
            incoming.reply(500, reason="CSeq out of order")
            return
        if self.ended.done() and request.method != "BYE":
            incoming.reply(481)
            return
        match request.method:
            case "BYE":
                incoming.reply(200)
                self._end(CallEnd("caller", "hung up"))
            case "INVITE":
                self._take_reinvite(incoming)
            case "INFO":
                incoming.reply(200)
                self._take_info(request)
            case "NOTIFY":
                incoming.reply(200)
                self._take_notify(request)
            case "OPTIONS" | "MESSAGE":
                incoming.reply(200)
            case _:
                response = make_response(request, 405)
                response.set_header("Allow", ALLOW)
                incoming.respond(response)

    def _take_reinvite(self, incoming: Incoming) -> None:
        """A new offer within the call: hold, resume, a moved address. The codec stays (RFC 3261 §14.2)."""
        if self._resend is not None:
            incoming.reply(491)
            return
        try:
            terms = self.stream.terms
            if incoming.request.body:
                terms = read_description(incoming.request.body, (terms.law,))
        except (BadMessage, NoCommonCodec) as error:
            incoming.reply(488, reason=str(error)[:60])
            return
        self.dialog.retarget(incoming.request)
        self.stream.renegotiate(terms)
        self.session += 1
        response = self.describe(incoming.request, terms)
        incoming.respond(response)
        self.confirm_with(response, incoming.peer)

    def describe(self, invite: SipRequest, terms: MediaTerms) -> SipResponse:
        """The 200 that answers *invite* with our side of *terms*."""
        port = self.stream.socket.getsockname()[1]
        response = make_response(invite, 200, to_tag=self.dialog.local.tag or "")
        response.set_header("Contact", self.contact)
        response.set_header("Content-Type", "application/sdp")
        response.body = make_answer((self.media_host, port), self.session, terms)
        return response

    def _take_info(self, request: SipRequest) -> None:
        if (request.content_type or "").lower().startswith("application/dtmf-relay"):
            for line in request.text.splitlines():
                name, _, value = line.partition("=")
                key = value.strip().upper()
                if name.strip().lower() == "signal" and self.stream.on_key is not None and key in tuple(DTMF_KEYS):
                    self.stream.on_key(key)

    def _take_notify(self, request: SipRequest) -> None:
        if self._transfer is None or self._transfer.done():
            return
        status = request.text.split()
        if len(status) >= 2 and status[0].startswith("SIP/") and status[1][:1] != "1":
            self._transfer.set_result(status[1].startswith("2"))

    def _on_refer_response(self, response: SipResponse | None) -> None:
        refused = response is None or response.status_code >= 300
        if refused and self._transfer is not None and not self._transfer.done():
            self._transfer.set_result(False)

    def _send(self, method: str) -> None:
        self.endpoint.request(self.dialog.request(method), self.peer, _ignore)

    def _end(self, end: CallEnd) -> None:
        self.acknowledged()
        self.stream.stop_playing()
        if not self.ended.done():
            self.ended.set_result(end)
            log.info("call.ended", call=self.call_id, by=end.by, reason=end.reason)


def _futures(*futures: asyncio.Future[Any]) -> set[asyncio.Future[Any]]:
    return set(futures)


def _ignore(response: SipResponse | None) -> None:
    """A BYE's answer changes nothing: the call is over either way."""

"""A call: a dialog with its media, as the rest of the house sees it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import structlog
from aiosipua.message import SipRequest, SipResponse

from gateway.telephony.auth import ClientAuth
from gateway.telephony.dialog import Dialog
from gateway.telephony.endpoint import Cancellable, Endpoint, Incoming
from gateway.telephony.errors import CallOver, TransportFailed
from gateway.telephony.media import Frames, MediaEngine, MediaStream
from gateway.telephony.message import ALLOW, make_response
from gateway.telephony.negotiation import Negotiation
from gateway.telephony.outgoing import Outgoing
from gateway.telephony.passage import Passage
from gateway.telephony.recorder import Recording
from gateway.telephony.report import MediaReport
from gateway.telephony.rtp import DTMF_KEYS
from gateway.telephony.session_timer import SessionTimer
from gateway.telephony.transport import Hop

log = structlog.get_logger(__name__)
REFER_S = 30.0
REFRESH_AGAIN_S = 5.0

_STATUS = re.compile(r"[1-6][0-9]{2}")
Side = Literal["caller", "gateway"]


@dataclass(slots=True)
class CallEnd:
    """Who ended the call, and why in words."""

    by: Side
    reason: str


@dataclass(eq=False)
class Call:
    """An answered call. ``ended`` is set once, by whichever side ends it first. *auth* answers challenges within it."""

    call_id: str
    direction: Literal["inbound", "outbound"]
    number: str
    dialog: Dialog
    hop: Hop
    endpoint: Endpoint
    outgoing: Outgoing
    engine: MediaEngine
    stream: MediaStream
    contact: str
    forget: Callable[[Call, MediaReport], None]
    locate: Callable[[Dialog, Hop | None], Awaitable[Hop]]
    media_host: str
    auth: ClientAuth | None = None
    peer_allows: frozenset[str] = frozenset()
    """Methods that the far end says it takes."""

    ended: asyncio.Future[CallEnd] = field(init=False)
    negotiation: Negotiation = field(init=False)
    on_progress: Callable[[int], None] | None = field(default=None, init=False)
    """Is given each status that a transfer comes to: 100, 180, 200 ..."""

    timer: SessionTimer | None = field(default=None, init=False)
    _session: Cancellable | None = field(default=None, init=False)
    _transfer: asyncio.Future[bool] | None = field(default=None, init=False)
    _ack: SipRequest | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self.stream.on_failure = self.hangup
        self.negotiation = Negotiation(self)

    async def play(self, frames: Frames) -> Passage:
        """Play *frames* to their end, until :meth:`stop_playing`, the next *play* or the end of the call; returns what was
        sent of them.

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
        self.end(CallEnd("gateway", reason))
        try:
            self.request(self.dialog.request("BYE"), _ignore)
        except TransportFailed as error:
            log.warning("call.bye_not_sent", call=self.call_id, error=str(error))

    async def hold(self) -> bool:
        """Put the far end on hold (RFC 3264 §8.4); whether it agreed. Raises CallOver."""
        return await self._offer(hold=True)

    async def resume(self) -> bool:
        """Take the far end off hold; whether it agreed. Raises CallOver."""
        return await self._offer(hold=False)

    async def transfer(self, target: str) -> bool:
        """Ask the far end to call *target* instead (REFER, RFC 3515); True when it says that this worked."""
        if self.ended.done():
            raise CallOver(self.ended.result().reason)
        self._transfer = asyncio.get_running_loop().create_future()
        refer = self.dialog.request("REFER")
        refer.set_header("Refer-To", f"<{target}>")
        refer.set_header("Contact", self.contact)
        self.request(refer, self._on_refer_response)
        await asyncio.wait(_futures(self._transfer, self.ended), timeout=REFER_S, return_when=asyncio.FIRST_COMPLETED)
        return self._transfer.done() and self._transfer.result()

    async def close(self) -> Recording | None:
        """End what is left of the call and finish its recording. Raises OSError when that cannot be written."""
        self.hangup("the call is closed")
        recording: Recording | None = None
        try:
            recording = await self.engine.close(self.stream)
        finally:
            heard_ms, sent_ms = recording.sound_ms if recording is not None else (None, None)
            end = self.ended.result()
            report = self.stream.report((self.media_host, self.stream.ports.number))
            self.forget(
                self,
                replace(
                    report, ended_by=end.by, reason=end.reason, caller_speech_ms=heard_ms, gateway_speech_ms=sent_ms
                ),
            )
        return recording

    def request(self, request: SipRequest, on_final: Callable[[SipResponse | None], None]) -> None:
        """Send *request*, of our dialog, to the far end. Raises TransportFailed."""
        self.outgoing.send(request, self.hop, on_final, auth=self.auth, dialog=self.dialog)

    def end(self, end: CallEnd) -> None:
        """The call is over."""
        self.negotiation.stop()
        if self._session is not None:
            self._session.cancel()
        self.stream.stop_playing()
        if not self.ended.done():
            self.ended.set_result(end)
            log.info("call.ended", call=self.call_id, by=end.by, reason=end.reason)

    def keep_alive(self, timer: SessionTimer | None) -> None:
        """Live by *timer* (RFC 4028 §10): refresh in time, or end the call when the far end does not."""
        self.timer = timer
        if self._session is not None:
            self._session.cancel()
            self._session = None
        if timer is None or self.ended.done():
            return

        if timer.refresher == "us":
            self._session = self.endpoint.call_later(timer.due_s, lambda: self.negotiation.refresh(timer))
        else:
            reason = f"the far end gave no sign of life for {timer.expires_s} s (session timer)"
            self._session = self.endpoint.call_later(timer.due_s, lambda: self.hangup(reason))

    def refresh_soon(self, timer: SessionTimer) -> None:
        """The refresh could not be made just now: once more in a moment, while there is time."""
        if not self.ended.done():
            self._session = self.endpoint.call_later(REFRESH_AGAIN_S, lambda: self.negotiation.refresh(timer))

    def acknowledge(self, ack: SipRequest) -> None:
        """Send *ack* to the 2xx of our INVITE, and again whenever that 2xx is retransmitted."""
        self._ack = ack
        self.endpoint.send_ack(ack, self.hop)

    def on_2xx_again(self) -> None:
        if self._ack is not None:
            self._ack.remove_header("Via")
            self.endpoint.send_ack(self._ack, self.hop)

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
                self.end(CallEnd("caller", "hung up"))
            case "INVITE" | "UPDATE":
                self.negotiation.take(incoming)
            case "INFO":
                incoming.reply(200)
                self._take_info(request)
            case "NOTIFY":
                incoming.reply(200)
                self._take_notify(request)
            case "PRACK":
                incoming.reply(481)  # the response that it acknowledges is long done with
            case "OPTIONS" | "MESSAGE":
                incoming.reply(200)
            case _:  # REFER too: nobody transfers the gateway, the approved script alone decides
                response = make_response(request, 405)
                response.set_header("Allow", ALLOW)
                incoming.respond(response)

    async def _offer(self, *, hold: bool) -> bool:
        if self.ended.done():
            raise CallOver(self.ended.result().reason)
        if hold:
            self.stream.hold(holding=True)
        try:
            return await self.negotiation.offer(hold=hold)
        finally:
            self.stream.hold(holding=self.negotiation.held)

    def _take_info(self, request: SipRequest) -> None:
        """A key in INFO: application/dtmf-relay with Signal=, or application/dtmf with the key alone."""
        kind = (request.content_type or "").lower().split(";")[0].strip()
        if kind == "application/dtmf":
            self._press(request.text.strip())
        elif kind == "application/dtmf-relay":
            for line in request.text.splitlines():
                name, _, value = line.partition("=")
                if name.strip().lower() == "signal":
                    self._press(value.strip())

    def _press(self, key: str) -> None:
        key = {"10": "*", "11": "#"}.get(key, key.upper())
        if len(key) == 1 and key in DTMF_KEYS:
            self.stream.take_key(key)

    def _take_notify(self, request: SipRequest) -> None:
        if self._transfer is None or self._transfer.done():
            return
        status = request.text.split()
        if len(status) < 2 or not status[0].startswith("SIP/") or not _STATUS.fullmatch(status[1]):
            return
        log.info("call.transfer", call=self.call_id, status=int(status[1]))
        if self.on_progress is not None:
            self.on_progress(int(status[1]))
        if status[1][:1] != "1":
            self._transfer.set_result(status[1].startswith("2"))

    def _on_refer_response(self, response: SipResponse | None) -> None:
        refused = response is None or response.status_code >= 300
        if refused and self._transfer is not None and not self._transfer.done():
            self._transfer.set_result(False)


def _futures(*futures: asyncio.Future[Any]) -> set[asyncio.Future[Any]]:
    return set(futures)


def _ignore(response: SipResponse | None) -> None:
    """A BYE's answer changes nothing: the call is over either way."""

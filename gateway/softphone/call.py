"""One call: pyVoIP's ``VoIPCall`` with a real dialog, 16-bit audio and an ending."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pyVoIP.SIP import SIPMessage
from pyVoIP.VoIP import CallState, VoIPCall

from gateway.softphone.audio import save_wav
from gateway.softphone.dialog import Dialog, Request
from gateway.softphone.ending import CallOver, CallSettings, Heard
from gateway.softphone.g711 import SAMPLE_RATE, Samples
from gateway.softphone.message import Message, NameAddress
from gateway.softphone.rtp import RtpError, RtpSession
from gateway.softphone.sdp import LocalSession, Media, SdpError, choose_media
from gateway.softphone.transaction import LIFETIME, Address, ClientTransaction
from gateway.softphone.turns import Turn, TurnDetector
from gateway.softphone.wire import SipError, cancel_request

if TYPE_CHECKING:
    from gateway.softphone.phone import Softphone


class ScriptedCall(VoIPCall):
    """A call that is placed or answered, then handed to the script.

    pyVoIP's ``VoIPCall`` is replaced where it sets up media while parsing (VoIP.py:62),
    answers to the server instead of the caller, and ends without waiting for the
    answer to BYE. ``CallState`` and the method names are kept.

    Args:
        phone: the owner.
        number: which call of this run, from 1.
        invite: the INVITE to send, or the one received.
        address: where it goes or came from.
        settings: behaviour and script.
        media: what to answer to a received INVITE; ``None`` for a call of ours.

    Raises:
        RtpError: no port for the audio.

    """

    phone: Softphone

    def __init__(
        self,
        phone: Softphone,
        number: int,
        invite: Request | Message,
        address: Address,
        *,
        settings: CallSettings,
        media: Media | None = None,
    ) -> None:
        self.rtp = RtpSession(phone.myIP, self._on_audio, self._on_idle, self._on_digit)
        self.local = LocalSession.create(phone.myIP, self.rtp.bind())
        self._request: Request | None = None
        if isinstance(invite, Request):
            self._request = replace(invite, content=self.local.offer(settings.codecs))
            invite = phone.sip.render(self._request, 1, phone.sip.gen_branch())
        # DIALING with empty media keeps pyVoIP from parsing the SDP itself.
        super().__init__(phone, CallState.DIALING, invite, number, phone.myIP, ms={})
        self.number = number
        self.settings = settings
        self.changed = threading.Condition()
        self.detector = TurnDetector(settings.turn_silence, threshold=settings.threshold)
        self.turn_waiting = False
        self.script_left = len(settings.script)
        self.dialog: Dialog | None = None
        self.heard = Heard()
        self._versions = 1
        self._invite = invite
        self._address = address
        self._media = media
        self._over: CallOver | None = None
        self._answered_at: float | None = None
        self._tag = phone.sip.gen_tag()
        if media is not None:
            self.state = CallState.RINGING
            self.dialog = Dialog.of_callee(invite, self._tag)

    def emit(self, event: str, **fields: object) -> None:
        """Write an event of this call."""
        self.phone.events.emit(event, call=self.number, **fields)

    def wait(self, ready: Callable[[], bool], until: float | None = None) -> bool:
        """Wait until ``ready()`` (True) or the monotonic moment ``until`` (False).

        Raises:
            CallOver: the call ended, or must end now.

        """
        with self.changed:
            while True:
                if self._over is not None:
                    raise self._over
                limit = self.phone.limit()
                if limit is not None:
                    raise limit
                if ready():
                    return True
                now = time.monotonic()
                if until is not None and now >= until:
                    return False
                # Signals and playback do not notify; 20 ms is one frame.
                self.changed.wait(0.02 if until is None else min(0.02, until - now))

    def run(self, script: Callable[[ScriptedCall], None]) -> None:
        """The whole call; whatever ends it is reported to the phone, not raised."""
        try:
            if self.state == CallState.DIALING:
                self._place()
            else:
                self._take()
            script(self)
            over = CallOver("local", "script ended")
        except CallOver as end:
            over = end
        except SipError as error:
            over = CallOver("remote", error.reason, True, error.code)
        except (RtpError, OSError, ValueError) as error:
            over = CallOver("local", str(error), True)
        over = self._close(over)
        self.rtp.stop()
        self._report(over)
        self.phone.finished(self, over)

    def _close(self, over: CallOver) -> CallOver:
        """End towards the far end what is not ended yet; how the call ended after all."""
        try:
            if self.state == CallState.ANSWERED:
                self.hangup()
            elif self.state == CallState.RINGING:
                self.phone.sip.respond(self._invite, 480, self._tag)
                return CallOver(over.by, over.reason, True, 480)
        except SipError as error:
            # 481 means the far end has ended the call as well (RFC 3261 section 15.1.2).
            if error.code != 481 and not over.failed:
                return CallOver("local", f"BYE: {error.reason}", True, error.code)
        except ValueError as error:
            return CallOver("local", f"BYE: {error}", True, over.code)
        finally:
            self.state = CallState.ENDED
        return over

    def _save(self) -> Path | None:
        record = self.phone.record_path(self.number)
        if record is None or self._answered_at is None:
            return None
        parts = self.heard.parts or [np.zeros(0, dtype=np.int16)]
        try:
            save_wav(record, np.concatenate(parts))
        except OSError as error:
            self.emit("warning", text=f"recording lost: {error}")
            return None
        return record

    def _report(self, over: CallOver) -> None:
        record = self._save()
        since = self._answered_at
        self.emit(
            "failed" if over.failed else "rejected" if over.reason == "rejected" else "ended",
            by=over.by,
            reason=over.reason,
            code=over.code,
            duration=None if since is None else round(time.monotonic() - since, 3),
            heard=round(self.heard.samples / SAMPLE_RATE, 3),
            turns=self.detector.turns,
            script_left=self.script_left,
            record=str(record) if record is not None else None,
            rtp=self.rtp.statistics(),
        )

    def _place(self) -> None:
        if self._request is None:
            raise ValueError("an incoming call cannot be placed")
        sip, extra = self.phone.sip, tuple[tuple[str, str], ...]()
        while True:
            transaction = sip.send_request(self._invite, self._address)
            response = self._await_final(transaction, self._address)
            if response.code not in (401, 407) or extra:
                break
            extra = (sip.log_in(self._invite, response),)
            number = self._invite.cseq + 1
            self._invite = sip.render(self._request, number, sip.gen_branch(), extra)
        if response.code >= 300:
            raise CallOver("remote", response.phrase, True, response.code)
        self.answered(response)

    def _await_final(self, transaction: ClientTransaction, address: Address) -> Message:
        """The final response; cancels the call when it is time to."""
        after = self.settings.cancel_after
        cancel_at = None if after is None else time.monotonic() + after
        give_up: CallOver | None = None
        cancelled: float | None = None
        rung: set[int] = set()
        while True:
            now = time.monotonic()
            if give_up is None and cancel_at is not None and now >= cancel_at:
                give_up = CallOver("local", "cancelled", True, 487)
            limit = self.phone.limit()
            if limit is not None and not transaction.provisional:
                # Nothing ever came, so there is nothing that a CANCEL could reach.
                raise CallOver(limit.by, f"{limit.reason}, no answer", True, 408)
            give_up = give_up or limit
            if give_up is not None and cancelled is None and transaction.provisional:
                # Only after a provisional response (RFC 3261 section 9.1).
                cancel = cancel_request(transaction.request)
                self.phone.sip.send_request(cancel, address)
                cancelled = now
            if cancelled is not None and now > cancelled + LIFETIME:
                raise CallOver("limit", "no final response after CANCEL", True, 408)
            try:
                response = transaction.responses.get(timeout=0.05)
            except queue.Empty:
                continue
            if response is None:
                raise SipError(408, f"no answer from {address[0]}:{address[1]}")
            if response.code >= 200:
                break
            if response.code > 100 and response.code not in rung:
                rung.add(response.code)
                self.emit("ringing", code=response.code)
        if give_up is None:
            return response
        if response.code < 300:
            # Answered while the CANCEL was under way: the call exists and needs a BYE.
            self.dialog = Dialog.of_caller(transaction.request, response)
            self.state = CallState.ANSWERED
        elif response.code != 487:
            raise CallOver("remote", response.phrase, True, response.code)
        raise CallOver(give_up.by, give_up.reason, True, give_up.code or 487)

    def answered(self, request: SIPMessage) -> None:
        """The far end has answered (``request``, pyVoIP's name, is its 200)."""
        if not isinstance(request, Message):
            raise TypeError("this call needs its own messages")
        self.dialog = Dialog.of_caller(self._invite, request)
        self.state = CallState.ANSWERED
        try:
            media = choose_media(request.content, self.settings.codecs)
        except SdpError as error:
            raise CallOver("local", f"answer unusable: {error}", True, 488) from error
        self._start_media(media)

    def _start_media(self, media: Media) -> None:
        self.rtp.configure(media)
        self._answered_at = time.monotonic()
        far = f"{media.address}:{media.port}"
        self.emit("answered", codec=media.codec, rtp=far, sip_call_id=self.call_id)
        self.rtp.start()

    def _take(self) -> None:
        reject = self.settings.reject
        if reject is None or self.settings.ring_seconds > 0:
            self.phone.sip.respond(self._invite, 180, self._tag)
        caller = NameAddress.parse(self._invite.get("from")).uri
        self.emit("ringing", code=180, caller=caller)
        self.wait(lambda: False, time.monotonic() + self.settings.ring_seconds)
        if reject is not None:
            self.deny()
            raise CallOver("local", "rejected", False, reject)
        self.answer()

    def answer(self) -> None:
        """Send the 200 and start the audio.

        Raises:
            CallOver: the caller cancelled at this very moment.

        """
        if self._media is None:
            raise ValueError("no offer to answer")
        with self.changed:
            if self._over is not None:
                raise self._over
            self.state = CallState.ANSWERED
            self._start_media(self._media)
            self._send_answer(self._invite, self._media)

    def _send_answer(self, invite: Message, media: Media) -> None:
        text = self.local.answer(media, self._versions)
        content_type = (("Content-Type", "application/sdp"),)
        self.phone.sip.respond(invite, 200, self._tag, content_type, text)

    def deny(self) -> None:
        """Refuse the call with the code of the settings (486 if none)."""
        with self.changed:
            if self._over is not None:
                raise self._over
            self.state = CallState.ENDED
            self.phone.sip.respond(self._invite, self.settings.reject or 486, self._tag)

    def renegotiate(self, request: SIPMessage) -> None:
        """Follow a re-INVITE: new address, hold, other codec (RFC 3264 section 8).

        Without an offer (a session refresh) the present session is repeated.
        """
        if not isinstance(request, Message):
            raise TypeError("this call needs its own messages")
        media = self._media
        if request.content:
            try:
                media = choose_media(request.content, self.settings.codecs)
            except SdpError as error:
                self.emit("warning", text=f"re-INVITE refused: {error}")
                self.phone.sip.respond(request, 488)
                return
            self.rtp.configure(media)
        if media is None:
            self.phone.sip.respond(request, 488)
            return
        if self.dialog is not None and request.contact:
            self.dialog.target = request.contact
        self._media, self._versions = media, self._versions + 1
        self._send_answer(request, media)

    def cancelled(self, invite: Message) -> None:
        """The caller cancelled; 487 goes to its INVITE unless it was answered."""
        with self.changed:
            if self.state != CallState.RINGING:
                return
            self.state = CallState.ENDED
            self._over = CallOver("remote", "cancelled by the caller", True, 487)
            self.phone.sip.respond(invite, 487, self._tag)
            self.changed.notify_all()

    def bye(self) -> None:
        """The far end has hung up."""
        with self.changed:
            self.state = CallState.ENDED
            self._over = self._over or CallOver("remote", "BYE")
            self.changed.notify_all()

    def unacknowledged(self) -> None:
        """Our 200 got no ACK for 32 s: the call ends (RFC 3261 section 13.3.1.4)."""
        with self.changed:
            self._over = self._over or CallOver("remote", "no ACK", True, 408)
            self.changed.notify_all()

    def hangup(self) -> None:
        """Send BYE and wait for its answer.

        Raises:
            SipError: refused, or no answer for 32 s.

        """
        if self.dialog is None:
            raise SipError(481, "no dialog to end")
        request = self.dialog.request("BYE")
        self.phone.transact(request, self._next_cseq)

    def _next_cseq(self) -> int:
        if self.dialog is None:
            raise SipError(481, "no dialog")
        self.dialog.cseq += 1
        return self.dialog.cseq

    def _on_audio(self, samples: Samples, now: float) -> None:
        with self.changed:
            if self.heard.first is None and len(samples):
                self.heard.first = now - len(samples) / SAMPLE_RATE
                self.emit("media", first=self.phone.events.since_start(self.heard.first))
            self.heard.parts.append(samples)
            self.heard.samples += len(samples)
            self._on_turn(self.detector.feed(samples, now))

    def _on_idle(self, seconds: float, now: float) -> None:
        with self.changed:
            self._on_turn(self.detector.idle(seconds, now))

    def _on_turn(self, turn: Turn | None) -> None:
        if turn is not None:
            self.emit("turn", turn=turn.number, speech=turn.speech)
            self.turn_waiting = True
        self.changed.notify_all()

    def _on_digit(self, digit: str, duration: float) -> None:
        self.emit("dtmf", direction="received", digit=digit, duration=duration)

"""The softphone: pyVoIP's ``VoIPPhone`` without forced registration, for many calls."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pyVoIP.SIP import SIPMessage
from pyVoIP.VoIP import CallState, PhoneStatus, VoIPCall, VoIPPhone

from gateway.softphone.call import ScriptedCall
from gateway.softphone.conversation import converse
from gateway.softphone.dialog import Request
from gateway.softphone.ending import CallOver, CallSettings
from gateway.softphone.events import Events
from gateway.softphone.message import Message, NameAddress, Uri
from gateway.softphone.sdp import SdpError, choose_media
from gateway.softphone.sip import SipEndpoint
from gateway.softphone.transaction import Address
from gateway.softphone.wire import ALLOW, resolve

REGISTER_SECONDS = 3600
"""Asked for as Expires; refreshed at half of what the registrar grants."""

ACK_SECONDS = 2.0
"""How long the end of the run waits for the ACK of a refusal, repeating it."""


@dataclass(frozen=True)
class PhoneSettings:
    """Who and where the phone is, and until when it may run (monotonic seconds)."""

    listen: Address
    user: str
    deadline: float
    password: str = ""
    auth_user: str = ""
    server: Uri | None = None
    accept_calls: int = 0
    accept_messages: bool = False


class Softphone(VoIPPhone):
    """One phone on one SIP port.

    pyVoIP's ``VoIPPhone`` is replaced where ``start`` registers first (SIP.py:952),
    where an incoming call waits for a fixed 1 s timer and rings to the server (VoIP.py),
    and where any answer but 200, 404 and 503 is dropped.

    Raises:
        OSError: from ``start``, when the address cannot be bound.

    """

    sip: SipEndpoint

    def __init__(self, settings: PhoneSettings, call: CallSettings, events: Events) -> None:
        host, port = settings.listen
        server = settings.server
        super().__init__(
            server.host if server else host,
            (server.port or 5060) if server else port,
            settings.user,
            settings.password,
            myIP=host,
            sipPort=port,
        )
        self.settings = settings
        self.call_settings = call
        self.events = events
        self.stop_signal: str | None = None
        self.messages = 0
        self.outcomes: list[CallOver] = []
        self._room = settings.accept_calls
        self._numbers = itertools.count(1)
        self._call_threads: list[threading.Thread] = []
        self._state = threading.Condition()
        self._refresh_at: float | None = None
        self._register_cseq = itertools.count(1)
        login = (settings.auth_user or settings.user, settings.password)
        # The parent built a plain SIPClient; it has no socket yet and is dropped.
        self.sip = SipEndpoint(self, (host, port), settings.user, login, self._warn)
        self.sip.on_ack_timeout = self._ack_timeout
        self._register_call_id = self.sip.gen_call_id()

    def _warn(self, text: str) -> None:
        self.events.emit("warning", text=text)

    def limit(self) -> CallOver | None:
        """Why every call must end now, if it must."""
        if self.stop_signal is not None:
            return CallOver("local", self.stop_signal)
        if time.monotonic() >= self.settings.deadline:
            return CallOver("limit", "max-seconds reached", failed=True)
        return None

    @property
    def _identity(self) -> str:
        """Our address of record: at the server if there is one."""
        server = self.settings.server
        host = server.host if server else f"{self.myIP}:{self.sip.myPort}"
        return f"<sip:{self.username}@{host}>"

    def start(self) -> None:
        """Open the SIP port."""
        self.sip.start()
        self.NSD = True
        self.events.emit("listening", sip=f"{self.myIP}:{self.sip.myPort}")

    def stop(self, failed: bool = False) -> None:
        """Wait for the calls to end, and close everything.

        Calls end by themselves: ``limit`` has ended them, or they are over.
        """
        for thread in self._call_threads:
            thread.join()
        self.sip.drain(ACK_SECONDS)
        self.sip.stop()
        self.NSD = False
        self._status = PhoneStatus.FAILED if failed else PhoneStatus.INACTIVE

    def release_ports(self, call: VoIPCall | None = None) -> None:
        """Nothing: the system hands out the RTP ports.

        pyVoIP calls this from ``VoIPCall.__del__``, in whatever thread collects it.
        """

    def transact(self, request: Request, next_cseq: Callable[[], int]) -> Message:
        """Send a non-INVITE request to its next hop.

        Only a BYE may outlast the time limit: the far end must learn of the end.

        Raises:
            SipError: refused, unanswered, or the next hop has no address.

        """
        give_up = self._limit_reason if request.method != "BYE" else lambda: None
        return self.sip.transact(request, self._next_hop(request), next_cseq, give_up)

    def _limit_reason(self) -> str | None:
        limit = self.limit()
        return limit.reason if limit is not None else None

    def _next_hop(self, request: Request) -> Address:
        """The server for requests outside a dialog, if there is one (an outbound proxy)."""
        server = self.settings.server
        outside = not NameAddress.parse(request.to).tag
        if server is not None and outside and not request.routes:
            return resolve(server)
        return resolve(request.next_hop())

    def register(self, seconds: int = REGISTER_SECONDS) -> None:
        """Register at the server for ``seconds``; 0 removes the registration.

        Raises:
            SipError: refused or unanswered.

        """
        request = Request(
            method="REGISTER",
            uri=f"sip:{self.server}:{self.port}",
            sender=f"{self._identity};tag={self.sip.gen_tag()}",
            to=self._identity,
            call_id=self._register_call_id,
            extra=(("Contact", self.sip.contact), ("Expires", str(seconds)), ("Allow", ALLOW)),
        )
        response = self.transact(request, lambda: next(self._register_cseq))
        granted = _granted(response, self.sip.myPort, seconds)
        self._status = PhoneStatus.REGISTERED if seconds else PhoneStatus.INACTIVE
        self._refresh_at = time.monotonic() + granted / 2 if seconds else None
        event = "registered" if seconds else "unregistered"
        self.events.emit(event, server=f"{self.server}:{self.port}", expires=granted)

    @property
    def registered(self) -> bool:
        """Whether there is a registration to remove."""
        return self._refresh_at is not None

    def call(self, number: str) -> ScriptedCall:
        """Prepare a call to a URI (``number`` as pyVoIP names it); ``run`` places it.

        Raises:
            SipError: the target has no address.
            ValueError: ``number`` is no sip: URI.

        """
        target = Uri.parse(number)
        request = Request(
            method="INVITE",
            uri=target.text,
            sender=f"{self._identity};tag={self.sip.gen_tag()}",
            to=f"<{target.text}>",
            call_id=self.sip.gen_call_id(),
            extra=(("Allow", ALLOW), ("Content-Type", "application/sdp")),
        )
        call = ScriptedCall(self, next(self._numbers), request, self._next_hop(request), settings=self.call_settings)
        self.calls[call.call_id] = call
        return call

    def message(self, number: str, text: str) -> None:
        """Send one MESSAGE to a URI (RFC 3428).

        Raises:
            SipError: refused, unanswered, or the target has no address.
            ValueError: ``number`` is no sip: URI.

        """
        target = Uri.parse(number)
        request = Request(
            method="MESSAGE",
            uri=target.text,
            sender=f"{self._identity};tag={self.sip.gen_tag()}",
            to=f"<{target.text}>",
            call_id=self.sip.gen_call_id(),
            extra=(("Content-Type", "text/plain;charset=UTF-8"),),
            content=text.encode(),
        )
        numbers = itertools.count(1)
        response = self.transact(request, lambda: next(numbers))
        self.events.emit("message-sent", to=target.text, code=response.code)

    def run_until(self, calls: int, messages: int) -> CallOver | None:
        """Stay until so many calls are over and so many messages are here.

        Returns the limit that ended the waiting, ``None`` if it was fulfilled.
        """
        while True:
            with self._state:
                self._state.wait_for(lambda: self._done(calls, messages), 0.1)
                if self._done(calls, messages):
                    return None
                limit = self.limit()
                if limit is not None and not self.calls:
                    return limit
            if self._refresh_at is not None and time.monotonic() >= self._refresh_at:
                self.register()

    def _done(self, calls: int, messages: int) -> bool:
        return len(self.outcomes) >= calls and self.messages >= messages

    def finished(self, call: ScriptedCall, over: CallOver) -> None:
        """A call tells that it is over."""
        with self._state:
            self.calls.pop(call.call_id, None)
            self.outcomes.append(over)
            self._state.notify_all()

    def record_path(self, number: int) -> Path | None:
        """Where call ``number`` is recorded: FILE.wav, then FILE-2.wav and so on."""
        path = self.call_settings.record
        if path is None or number == 1:
            return path
        return path.with_name(f"{path.stem}-{number}{path.suffix}")

    def callback(self, request: SIPMessage) -> None:
        """A new request or an ACK, from the SIP thread (pyVoIP's name)."""
        if not isinstance(request, Message):
            raise TypeError("this phone needs its own messages")
        method = request.method
        if method == "INVITE":
            self._on_invite(request)
        elif method == "BYE":
            self._on_bye(request)
        elif method == "CANCEL":
            self._on_cancel(request)
        elif method == "MESSAGE" and self.settings.accept_messages:
            self._on_message(request)
        elif method == "OPTIONS":
            self.sip.respond(request, 200)
        elif method != "ACK":
            self.sip.respond(request, 405)

    def _find(self, call_id: str) -> ScriptedCall | None:
        call = self.calls.get(call_id)
        return call if isinstance(call, ScriptedCall) else None

    def _in_dialog(self, request: Message) -> ScriptedCall | None:
        """The call a request belongs to, if its tags and CSeq fit (RFC 3261 12.2.2)."""
        call = self._find(request.call_id)
        if call is None or call.dialog is None or not call.dialog.matches(request):
            return None
        if request.cseq <= call.dialog.remote_cseq:
            return None
        call.dialog.remote_cseq = request.cseq
        return call

    def _on_invite(self, invite: Message) -> None:
        if NameAddress.parse(invite.get("to")).tag:
            call = self._in_dialog(invite)
            if call is None or call.state != CallState.ANSWERED:
                self.sip.respond(invite, 481)
            else:
                call.renegotiate(invite)
            return
        if self._room <= 0 or self.limit() is not None:
            self.sip.respond(invite, 486)
            return
        try:
            media = choose_media(invite.content, self.call_settings.codecs)
        except SdpError as error:
            self._warn(f"INVITE refused: {error}")
            self.sip.respond(invite, 488)
            return
        self._room -= 1
        call = ScriptedCall(self, next(self._numbers), invite, invite.source, settings=self.call_settings, media=media)
        self.calls[call.call_id] = call
        name = f"call {call.number}"
        thread = threading.Thread(target=call.run, args=(converse,), name=name, daemon=True)
        self._call_threads.append(thread)
        thread.start()

    def _on_bye(self, request: Message) -> None:
        call = self._in_dialog(request)
        self.sip.respond(request, 481 if call is None else 200)
        if call is not None:
            call.bye()

    def _on_cancel(self, cancel: Message) -> None:
        pending = self.sip.invite_of(cancel)
        self.sip.respond(cancel, 481 if pending is None else 200)
        call = self._find(cancel.call_id)
        if pending is not None and call is not None:
            call.cancelled(pending.request)

    def _on_message(self, request: Message) -> None:
        self.sip.respond(request, 200)
        sender = NameAddress.parse(request.get("from")).uri
        with self._state:
            self.messages += 1
            text = request.content.decode("utf-8", "replace")
            self.events.emit("message", **{"from": sender}, text=text)
            self._state.notify_all()

    def _ack_timeout(self, invite: Message) -> None:
        call = self._find(invite.call_id)
        if call is not None:
            call.unacknowledged()


def _granted(response: Message, port: int, asked: int) -> int:
    """Seconds the registrar grants: of our Contact, else Expires (RFC 3261 10.2.4)."""
    text = response.get("expires")
    for value in response.get_all("contact"):
        contact = NameAddress.parse(value)
        if Uri.parse(contact.uri).port == port:
            text = contact.params.get("expires") or text
    return int(text) if text.isdigit() else asked

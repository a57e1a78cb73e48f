"""The transaction layer: matches what arrives to transactions, carries out their actions, drops what is hostile.

Time and sending are passed in, so a whole ladder runs in a test without socket or clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from aiosipua.headers import Via
from aiosipua.message import SipRequest, SipResponse

from gateway.telephony.errors import BadMessage
from gateway.telephony.message import (
    BRANCH_COOKIE,
    HostPort,
    identity,
    make_response,
    new_branch,
    new_tag,
    parse_message,
)
from gateway.telephony.transaction import (
    Action,
    Arm,
    ClientTransaction,
    Deliver,
    Disarm,
    Ended,
    InviteClient,
    InviteServer,
    Key,
    NonInviteClient,
    NonInviteServer,
    Send,
    ServerTransaction,
    TimedOut,
)

log = structlog.get_logger(__name__)


class Cancellable(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Cancellable]
OnResponse = Callable[[SipResponse | None], None]
"""Is given each response, and None when none came in time."""


@dataclass(slots=True)
class _Carrier:
    """A transaction with its peer and its timers."""

    key: Key
    transaction: ClientTransaction | ServerTransaction
    peer: HostPort
    on_response: OnResponse | None = None
    on_timeout: Callable[[], None] | None = None
    timers: dict[str, Cancellable] = field(default_factory=dict)


class Incoming:
    """A request that awaits its response."""

    def __init__(self, endpoint: Endpoint, carrier: _Carrier, request: SipRequest, source: HostPort) -> None:
        self._endpoint = endpoint
        self._carrier = carrier
        self.request = request
        self.source = source
        self.peer = carrier.peer
        self.ids = identity(request)
        self.answered = False

    def respond(self, response: SipResponse) -> None:
        """Send *response* through the transaction; a second final response is ignored."""
        if self.answered:
            return
        self.answered = response.status_code >= 200
        transaction = self._carrier.transaction
        assert isinstance(transaction, InviteServer | NonInviteServer)
        self._endpoint.carry_out(self._carrier, transaction.respond(response))

    def reply(self, status: int, *, to_tag: str = "", reason: str = "") -> None:
        self.respond(make_response(self.request, status, to_tag=to_tag, reason=reason))

    def on_timeout(self, callback: Callable[[], None]) -> None:
        self._carrier.on_timeout = callback


class Endpoint:
    """One UDP address that speaks SIP. *on_request* is given every new request, *on_ack* every ACK to a 2xx."""

    def __init__(
        self,
        send: Callable[[bytes, HostPort], None],
        call_later: CallLater,
        on_request: Callable[[Incoming], None],
        on_ack: Callable[[SipRequest], None],
        sent_by: Callable[[HostPort], HostPort],
    ) -> None:
        self._send = send
        self.call_later = call_later
        self._on_request = on_request
        self._on_ack = on_ack
        self._sent_by = sent_by
        self._clients: dict[Key, _Carrier] = {}
        self._servers: dict[Key, _Carrier] = {}
        self.malformed = 0

    def __len__(self) -> int:
        return len(self._clients) + len(self._servers)

    def datagram(self, data: bytes, source: HostPort) -> None:
        """Take what came from the network. Nothing in it can raise."""
        if not data.strip(b"\r\n\0"):
            return
        try:
            message = parse_message(data)
            if isinstance(message, SipRequest):
                self._take_request(message, source)
            else:
                self._take_response(message)
        except BadMessage as error:
            self.malformed += 1
            log.info("sip.malformed", source=source[0], error=str(error))

    def request(self, request: SipRequest, peer: HostPort, on_response: OnResponse) -> SipRequest:
        """Send *request* in a new client transaction; returns it with our Via."""
        self._add_via(request, peer)
        ids = identity(request)
        key = (ids.branch, "", request.method)
        transaction = InviteClient(request) if request.method == "INVITE" else NonInviteClient(request)
        carrier = self._clients[key] = _Carrier(key, transaction, peer, on_response)
        self.carry_out(carrier, transaction.start())
        return request

    def cancel(self, cancel: SipRequest, peer: HostPort, on_response: OnResponse) -> None:
        """Send a CANCEL, whose Via is its INVITE's own."""
        branch = identity(cancel).branch
        key = (branch, "", "CANCEL")
        transaction = NonInviteClient(cancel)
        carrier = self._clients[key] = _Carrier(key, transaction, peer, on_response)
        self.carry_out(carrier, transaction.start())
        invite = self._clients.get((branch, "", "INVITE"))
        if invite is not None and isinstance(invite.transaction, InviteClient):
            self.carry_out(invite, invite.transaction.give_up())

    def send_ack(self, ack: SipRequest, peer: HostPort) -> None:
        """Send the ACK to a 2xx, which has no transaction (RFC 3261 §13.2.2.4)."""
        self._add_via(ack, peer)
        self._send(bytes(ack), peer)

    def resend(self, response: SipResponse, peer: HostPort) -> None:
        """Retransmit a 2xx to an INVITE, which is the user agent's own task (RFC 3261 §13.3.1.4)."""
        self._send(bytes(response), peer)

    def pending_invite(self, cancel: SipRequest) -> bool:
        """Whether the INVITE that *cancel* means is known here."""
        ids = identity(cancel)
        return (ids.branch, _sent_by_text(ids.via), "INVITE") in self._servers

    def close(self) -> None:
        for carrier in (*self._clients.values(), *self._servers.values()):
            for timer in carrier.timers.values():
                timer.cancel()
        self._clients.clear()
        self._servers.clear()

    def carry_out(self, carrier: _Carrier, actions: Iterator[Action]) -> None:
        for action in actions:
            match action:
                case Send(message):
                    self._send(bytes(message), carrier.peer)
                case Arm(timer, seconds):
                    self._disarm(carrier, timer)
                    carrier.timers[timer] = self.call_later(seconds, lambda t=timer: self._fire(carrier, t))  # type: ignore[misc]
                case Disarm(timer):
                    self._disarm(carrier, timer)
                case Deliver(response):
                    if carrier.on_response is not None:
                        carrier.on_response(response)
                case TimedOut():
                    if carrier.on_response is not None:
                        carrier.on_response(None)
                    if carrier.on_timeout is not None:
                        carrier.on_timeout()
                case Ended():
                    for timer_handle in carrier.timers.values():
                        timer_handle.cancel()
                    self._clients.pop(carrier.key, None)
                    self._servers.pop(carrier.key, None)

    def _take_request(self, request: SipRequest, source: HostPort) -> None:
        ids = identity(request)
        if not ids.branch.startswith(BRANCH_COOKIE):
            raise BadMessage(f"SIP branch {ids.branch!r} lacks the magic cookie of RFC 3261")
        key = (ids.branch, _sent_by_text(ids.via), "INVITE" if request.method == "ACK" else request.method)
        carrier = self._servers.get(key)
        if carrier is not None:
            transaction = carrier.transaction
            assert isinstance(transaction, InviteServer | NonInviteServer)
            if request.method == "ACK" and transaction.state == "accepted":
                self._on_ack(request)  # with the branch of its INVITE, as some send it (RFC 6026 §7.1)
            else:
                self.carry_out(carrier, transaction.receive(request))
            return
        if request.method == "ACK":
            self._on_ack(request)
            return
        peer = _mark_source(request, ids.via, source)
        server = InviteServer(request) if request.method == "INVITE" else NonInviteServer(request)
        carrier = self._servers[key] = _Carrier(key, server, peer)
        incoming = Incoming(self, carrier, request, source)
        try:
            self._on_request(incoming)
        except Exception as error:
            incoming.reply(400 if isinstance(error, BadMessage) else 500, to_tag=new_tag())
            raise

    def _take_response(self, response: SipResponse) -> None:
        ids = identity(response)
        carrier = self._clients.get((ids.branch, "", ids.cseq.method))
        if carrier is None:
            log.debug("sip.stray_response", status=response.status_code)
            return
        transaction = carrier.transaction
        assert isinstance(transaction, InviteClient | NonInviteClient)
        self.carry_out(carrier, transaction.receive(response))

    def _add_via(self, request: SipRequest, peer: HostPort) -> None:
        host, port = self._sent_by(peer)
        via = Via(transport="UDP", host=host, port=port, params={"branch": new_branch(), "rport": None})
        request.via = [via, *request.via]

    def _fire(self, carrier: _Carrier, timer: str) -> None:
        carrier.timers.pop(timer, None)
        self.carry_out(carrier, carrier.transaction.fire(timer))

    @staticmethod
    def _disarm(carrier: _Carrier, timer: str) -> None:
        handle = carrier.timers.pop(timer, None)
        if handle is not None:
            handle.cancel()


def _sent_by_text(via: Via) -> str:
    return f"{via.host}:{via.port or 5060}"


def _mark_source(request: SipRequest, via: Via, source: HostPort) -> HostPort:
    """Note *source* in the top Via (RFC 3261 §18.2.1, RFC 3581 §4); returns where responses go."""
    vias = request.via
    port = via.port or 5060
    if "rport" in via.params:
        vias[0].rport, vias[0].received = str(source[1]), source[0]
        port = source[1]
    elif via.host != source[0]:
        vias[0].received = source[0]
    request.via = vias
    return source[0], port

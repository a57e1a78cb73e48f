"""The transaction layer: matches what arrives to transactions, carries out their actions, drops what is hostile.

Time and sending are passed in, so a whole ladder runs in a test without socket or clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from aiosipua.headers import Via
from aiosipua.message import SipMessage, SipRequest, SipResponse

from gateway.telephony.errors import BadMessage
from gateway.telephony.message import (
    HostPort,
    answerable,
    bracketed,
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
from gateway.telephony.transport import Hop

log = structlog.get_logger(__name__)
MOST_SERVERS = 20_000
"""Server transactions at once; beyond that new requests are passed over in silence, as on a congested network."""


class Cancellable(Protocol):
    def cancel(self) -> None: ...


CallLater = Callable[[float, Callable[[], None]], Cancellable]
SendTo = Callable[[bytes, Hop, Callable[[], None]], None]
"""Sends octets to a hop; calls back when that cannot be."""
OnResponse = Callable[[SipResponse | None], None]
"""Is given each response, and None when none came in time or the hop cannot be reached."""
RequestId = tuple[str, str, int, str]
"""What two branches of one request share (RFC 3261 §8.2.2.2): Call-ID, From tag, CSeq number and method."""


@dataclass(slots=True)
class Counters:
    """Plain counts since the start. *malformed* octets, *strays*: responses to nothing; *merged* requests; *flooded*: passed
    over because too much was under way.
    """

    malformed: int = 0
    strays: int = 0
    merged: int = 0
    flooded: int = 0


@dataclass(slots=True)
class _Carrier:
    """A transaction with its peer and its timers. *fallback* is where a response goes when its connection is gone."""

    key: Key
    transaction: ClientTransaction | ServerTransaction
    peer: Hop
    on_response: OnResponse | None = None
    on_timeout: Callable[[], None] | None = None
    fallback: Hop | None = None
    request_id: RequestId | None = None
    timers: dict[str, Cancellable] = field(default_factory=dict)


class Incoming:
    """A request that awaits its response."""

    def __init__(self, endpoint: Endpoint, carrier: _Carrier, request: SipRequest, source: Hop) -> None:
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

    def reply(self, status: int, *, to_tag: str = "", reason: str = "", headers: dict[str, str] | None = None) -> None:
        response = make_response(self.request, status, to_tag=to_tag, reason=reason)
        for name, value in (headers or {}).items():
            response.set_header(name, value)
        self.respond(response)

    def drop(self) -> None:
        """Leave the request in silence; nothing of it is kept."""
        self.answered = True
        self._endpoint.forget(self._carrier)

    def resend(self, response: SipResponse) -> None:
        """Send a response to an INVITE again, which is the user agent's own task (RFC 3261 §13.3.1.4, RFC 3262 §3)."""
        self._endpoint.send_response(self._carrier, response)

    def on_timeout(self, callback: Callable[[], None]) -> None:
        self._carrier.on_timeout = callback


class Endpoint:
    """Speaks SIP over whatever *send* reaches. *on_request* is given every new request, *on_ack* every ACK to a 2xx;
    *sent_by* tells host and port that a hop sees us at.
    """

    def __init__(
        self,
        send: SendTo,
        call_later: CallLater,
        on_request: Callable[[Incoming], None],
        on_ack: Callable[[SipRequest], None],
        sent_by: Callable[[Hop], HostPort],
    ) -> None:
        self._send = send
        self.call_later = call_later
        self._on_request = on_request
        self._on_ack = on_ack
        self._sent_by = sent_by
        self._clients: dict[Key, _Carrier] = {}
        self._servers: dict[Key, _Carrier] = {}
        self._requests: dict[RequestId, Key] = {}
        self.counters = Counters()

    def __len__(self) -> int:
        return len(self._clients) + len(self._servers)

    def receive(self, data: bytes, source: Hop) -> None:
        """Take one message as it came from the network. Nothing in it can raise."""
        if not data.strip(b"\r\n\0"):
            return
        try:
            message = parse_message(data)
            if isinstance(message, SipRequest):
                self._take_request(message, source)
            else:
                self._take_response(message)
        except BadMessage as error:
            self.counters.malformed += 1
            log.info("sip.malformed", source=source.host, error=str(error))
            self._refuse(data, source, error)
        except Exception:  # one message must not end the connection that brought it
            log.exception("sip.failed", source=source.host)

    def request(self, request: SipRequest, peer: Hop, on_response: OnResponse) -> SipRequest:
        """Send *request* in a new client transaction; returns it with our Via."""
        self._add_via(request, peer)
        ids = identity(request)
        key = (ids.branch, "", request.method)
        kind = InviteClient if request.method == "INVITE" else NonInviteClient
        transaction = kind(request, reliable=peer.reliable)
        carrier = self._clients[key] = _Carrier(key, transaction, peer, on_response)
        self.carry_out(carrier, transaction.start())
        return request

    def cancel(self, cancel: SipRequest, peer: Hop) -> None:
        """Send a CANCEL, whose Via is its INVITE's own."""
        branch = identity(cancel).branch
        key = (branch, "", "CANCEL")
        transaction = NonInviteClient(cancel, reliable=peer.reliable)
        carrier = self._clients[key] = _Carrier(key, transaction, peer)
        self.carry_out(carrier, transaction.start())
        invite = self._clients.get((branch, "", "INVITE"))
        if invite is not None and isinstance(invite.transaction, InviteClient):
            self.carry_out(invite, invite.transaction.give_up())

    def send_ack(self, ack: SipRequest, peer: Hop) -> None:
        """Send the ACK to a 2xx, which has no transaction (RFC 3261 §13.2.2.4)."""
        self._add_via(ack, peer)
        self._send(bytes(ack), peer, _nobody)

    def send_response(self, carrier: _Carrier, response: SipMessage) -> None:
        """Send *response* over the connection of its request; when that is gone, to where the request says that its sender
        listens (RFC 3261 §18.2.2).
        """

        def elsewhere() -> None:
            if carrier.fallback is not None:
                carrier.peer, carrier.fallback = carrier.fallback, None
                self._send(bytes(response), carrier.peer, _nobody)

        self._send(bytes(response), carrier.peer, elsewhere)

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
        self._requests.clear()

    def carry_out(self, carrier: _Carrier, actions: Iterator[Action]) -> None:
        for action in actions:
            match action:
                case Send(message) if isinstance(message, SipRequest):
                    self._send(bytes(message), carrier.peer, lambda: self._unsent(carrier))
                case Send(message):
                    self.send_response(carrier, message)
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
                    self.forget(carrier)

    def forget(self, carrier: _Carrier) -> None:
        """The transaction is over; nothing of it is kept."""
        for timer in carrier.timers.values():
            timer.cancel()
        self._clients.pop(carrier.key, None)
        self._servers.pop(carrier.key, None)
        if carrier.request_id is not None and self._requests.get(carrier.request_id) == carrier.key:
            del self._requests[carrier.request_id]

    def _unsent(self, carrier: _Carrier) -> None:
        """The hop cannot be reached: as good as no answer (RFC 3261 §8.1.3.1), unless the answer is there already."""
        if self._clients.get(carrier.key) is not carrier:
            return
        transaction = carrier.transaction
        assert isinstance(transaction, InviteClient | NonInviteClient)
        waiting = transaction.state in ("calling", "trying", "proceeding")
        self.carry_out(carrier, iter((TimedOut(), Ended()) if waiting else (Ended(),)))

    def _take_request(self, request: SipRequest, source: Hop) -> None:
        ids = identity(request)
        key = (ids.branch, _sent_by_text(ids.via), "INVITE" if request.method == "ACK" else request.method)
        carrier = self._servers.get(key)
        if carrier is not None:
            transaction = carrier.transaction
            assert isinstance(transaction, InviteServer | NonInviteServer)
            if request.method == "ACK" and transaction.state == "accepted":
                self._on_ack(request)  # with the branch of its INVITE, as some send it (RFC 6026 §7.1)
            else:
                self.carry_out(carrier, transaction.receive(request))
        elif request.method == "ACK":
            self._on_ack(request)
        elif len(self._servers) >= MOST_SERVERS:
            self.counters.flooded += 1
        else:
            self._begin(request, key, source)

    def _begin(self, request: SipRequest, key: Key, source: Hop) -> None:
        ids = identity(request)
        peer = _mark_source(request, ids.via, source)
        kind = InviteServer if request.method == "INVITE" else NonInviteServer
        carrier = _Carrier(key, kind(request, reliable=source.reliable), peer)
        if source.reliable:
            carrier.fallback = source._replace(port=ids.via.port or (5061 if source.transport == "tls" else 5060))
        self._servers[key] = carrier
        incoming = Incoming(self, carrier, request, source)
        if not ids.to.tag and request.method != "CANCEL":
            carrier.request_id = (ids.call_id, ids.from_.tag or "", ids.cseq.seq, request.method)
            if self._requests.setdefault(carrier.request_id, key) != key:
                self.counters.merged += 1
                incoming.reply(482, to_tag=new_tag(), reason="Merged Request")
                return
        try:
            self._on_request(incoming)
        except BadMessage as error:
            self.counters.malformed += 1
            log.info("sip.malformed", source=source.host, error=str(error))
            incoming.reply(error.status, to_tag=new_tag())
        except Exception:
            log.exception("sip.request_failed", method=request.method)
            incoming.reply(500, to_tag=new_tag())

    def _refuse(self, data: bytes, source: Hop, error: BadMessage) -> None:
        """Say what is wrong to whoever can be answered, statelessly (RFC 3261 §8.2.7, RFC 4475 §3.1.2)."""
        request = answerable(data)
        if request is None or request.method == "ACK":
            return
        ids = identity(request)
        tag = hashlib.sha256(f"{ids.call_id} {ids.branch}".encode()).hexdigest()[
            :16
        ]  # the same for each retransmission
        peer = _mark_source(request, ids.via, source)
        refusal = make_response(request, error.status, to_tag=tag, reason=error.phrase)
        self._send(bytes(refusal), peer, _nobody)

    def _take_response(self, response: SipResponse) -> None:
        ids = identity(response)
        carrier = self._clients.get((ids.branch, "", ids.cseq.method))
        if (
            carrier is None or len(response.via) != 1
        ):  # not ours, or another's on its way through us (RFC 3261 §8.1.3.3)
            self.counters.strays += 1
            return
        transaction = carrier.transaction
        assert isinstance(transaction, InviteClient | NonInviteClient)
        self.carry_out(carrier, transaction.receive(response))

    def _add_via(self, request: SipRequest, peer: Hop) -> None:
        host, port = self._sent_by(peer)
        params: dict[str, str | None] = {"branch": new_branch(), "rport": None}
        if peer.transport == "tls":
            params["alias"] = None
        via = Via(transport=peer.transport.upper(), host=bracketed(host), port=port, params=params)
        request.via = [via, *request.via]

    def _fire(self, carrier: _Carrier, timer: str) -> None:
        carrier.timers.pop(timer, None)
        self.carry_out(carrier, carrier.transaction.fire(timer))

    @staticmethod
    def _disarm(carrier: _Carrier, timer: str) -> None:
        handle = carrier.timers.pop(timer, None)
        if handle is not None:
            handle.cancel()


def _nobody() -> None:
    """Nobody waits for what could not be sent: its own timers notice."""


def _sent_by_text(via: Via) -> str:
    return f"{via.host.lower()}:{via.port or 5060}"


def _mark_source(request: SipRequest, via: Via, source: Hop) -> Hop:
    """Note *source* in the top Via (RFC 3261 §18.2.1, RFC 3581 §4); returns where responses go."""
    vias = request.via
    port = via.port or 5060
    if "rport" in via.params:
        vias[0].rport, vias[0].received = str(source.port), source.host
        port = source.port
    elif via.host.strip("[]") != source.host:
        vias[0].received = source.host
    request.via = vias
    return source if source.reliable else source._replace(port=port)

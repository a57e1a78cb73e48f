"""The user agent: takes and places calls, takes and sends messages, over one address."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable, Sequence
from random import SystemRandom

import structlog
from aiosipua.header_codec import parse_address
from aiosipua.headers import Address, SipUri
from aiosipua.message import SipResponse

from gateway.audio.codec import CODECS, Codec
from gateway.tasks import Tasks
from gateway.telephony.admission import Admission
from gateway.telephony.answering import Answerer, OnInvite, OnMessage
from gateway.telephony.auth import Credentials
from gateway.telephony.call import Call
from gateway.telephony.crypto import Crypto, Protection
from gateway.telephony.dialling import Wish, dial
from gateway.telephony.dialog import Dialog
from gateway.telephony.endpoint import Endpoint
from gateway.telephony.errors import CallFailed, TransportFailed
from gateway.telephony.location import Dns, Resolver, locate
from gateway.telephony.media import MediaEngine, MediaStream, PortPair
from gateway.telephony.message import (
    HostPort,
    bracketed,
    make_request,
    new_tag,
    parse_sip_uri,
    uri_text,
)
from gateway.telephony.outgoing import Outgoing
from gateway.telephony.registrar import Registrar
from gateway.telephony.report import AttemptReport, MediaReport
from gateway.telephony.sdp import MediaTerms
from gateway.telephony.trace import Tracer
from gateway.telephony.transport import Hop, TlsTerms, Transports
from gateway.telephony.transport import Protocol as Transport

log = structlog.get_logger(__name__)
SESSION_S = 1800
MOST_HOSTS = 1000
TRACE_S = 1.0
"""How long after its end the last messages of a call may take to come: they belong to its trace."""


class UserAgent:
    """SIP for the house. Start it on a running loop."""

    def __init__(
        self,
        engine: MediaEngine,
        bind: HostPort,
        *,
        advertised: str = "",
        tls: TlsTerms | None = None,
        registrar: Registrar | None = None,
        admission: Admission | None = None,
        trusted: Callable[[Hop], bool] = lambda _: False,
        resolver: Resolver | None = None,
        codecs: Sequence[Codec] = CODECS,
        session_s: int = SESSION_S,
        trace: Tracer | None = None,
    ) -> None:
        self.engine = engine
        self._bind = bind
        self._advertised = advertised
        self._tls = tls
        self._resolver = resolver or Dns()
        self._random = SystemRandom()
        self._trace = trace
        self.codecs = codecs
        self.session_s = session_s
        self.registrar = registrar
        self._hosts: dict[str, str] = {}
        self._calls: dict[str, Call] = {}
        self._dialogs: dict[tuple[str, str, str], Call] = {}
        self.tasks = Tasks("sip")
        self._transports = Transports(self._receive, bind, tls)
        self.answerer = Answerer(self, admission if admission is not None else _open_door(), trusted)
        self.endpoint = Endpoint(
            self._send, self._call_later, self.answerer.take, self.answerer.take_ack, self._address
        )
        self.outgoing = Outgoing(self.endpoint)

    @property
    def port(self) -> int:
        """Of UDP and TCP."""
        return self._transports.port

    @property
    def tls_port(self) -> int | None:
        return self._transports.tls_port

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(self._calls.values())

    @property
    def draining(self) -> bool:
        return self.answerer.draining

    @draining.setter
    def draining(self, draining: bool) -> None:
        self.answerer.draining = draining

    @property
    def on_invite(self) -> OnInvite | None:
        return self.answerer.on_invite

    @on_invite.setter
    def on_invite(self, handler: OnInvite | None) -> None:
        self.answerer.on_invite = handler

    @property
    def on_message(self) -> OnMessage | None:
        return self.answerer.on_message

    @on_message.setter
    def on_message(self, handler: OnMessage | None) -> None:
        self.answerer.on_message = handler

    async def start(self) -> None:
        """Bind. Raises TransportFailed naming the address."""
        await self._transports.start()

    def stop(self) -> None:
        self.endpoint.close()
        self._transports.close()

    def host(self, peer: str) -> str:
        """The address that *peer* sees us at. Raises TransportFailed when there is no way to it."""
        if self._advertised:
            return self._advertised
        if self._bind[0] not in ("0.0.0.0", "::"):
            return self._bind[0]
        known = self._hosts.get(peer)
        if known is None:
            if len(self._hosts) >= MOST_HOSTS:
                self._hosts.clear()
            known = self._hosts[peer] = self._probe(peer)
        return known

    @staticmethod
    def _probe(peer: str) -> str:
        """The address that the kernel sends from to *peer*."""
        family = socket.AF_INET6 if ":" in peer else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((peer, 9))
            except OSError as error:
                raise TransportFailed(f"no way to {peer}: {error.strerror or error}") from error
            return str(probe.getsockname()[0])

    def contact(self, user: str, hop: Hop) -> str:
        host, port = self._address(hop)
        return f"<{uri_text(user or None, host, port, hop.transport)}>"

    async def locate(self, uri: SipUri) -> list[Hop]:
        """Where requests to *uri* go, as far as our sockets reach. Raises CallFailed(503)."""
        own: tuple[Transport, ...] = ("udp", "tcp", "tls") if self._tls is not None else ("udp", "tcp")
        hops = await locate(uri, self._resolver, self._random, own=own)
        version = _version(self._bind[0])
        usable = [hop for hop in hops if self._bind[0] == "::" or _version(hop.host) == version]
        if not usable:
            raise CallFailed(503, f"{uri.host} has no address that sip.bind {self._bind[0]} reaches")
        return usable

    async def hop_of(self, dialog: Dialog, source: Hop | None = None) -> Hop:
        """Where requests of *dialog* go. A phone behind a router, which spoke to us directly from *source*, is reached there:
        its Contact is an address of its own network; so is one that keeps a connection open to us (RFC 5626's flows).
        """
        hop = (await self.locate(parse_sip_uri(dialog.next_hop)))[0]
        if source is not None and not dialog.route_set:
            private = ipaddress.ip_address(hop.host).is_private and not ipaddress.ip_address(source.host).is_private
            if private or (source.reliable and hop.transport == source.transport and hop.host == source.host):
                return source
        return hop

    async def dial(
        self,
        target: str,
        call_id: str,
        *,
        from_user: str,
        from_host: str = "",
        credentials: Credentials | None = None,
        ring_s: float = 45.0,
        first_s: float | None = None,
        secure: bool = False,
        may_redirect: Callable[[str], bool] = lambda _: True,
    ) -> Call:
        """Call the SIP URI *target*; see :class:`~gateway.telephony.dialling.Wish`.

        Raises CallFailed with the status that ended the attempt (487 after *ring_s*).
        """
        wish = Wish(call_id, from_user, from_host, credentials, ring_s, first_s, secure, may_redirect)
        return await dial(self, target, wish)

    def gave_up(self, call_id: str, failed: CallFailed, began: float) -> None:
        """Nothing came of a call that was begun at *began* (monotonic): that is the end of its trace."""
        waited = int((time.monotonic() - began) * 1000)
        self._keep(call_id, AttemptReport(status=failed.status, reason=failed.reason, duration_ms=waited))

    async def request(
        self,
        method: str,
        target: str,
        *,
        from_user: str,
        from_host: str = "",
        to: str = "",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        credentials: Credentials | None = None,
        hop: Hop | None = None,
    ) -> SipResponse:
        """Send a request outside any dialog, over *hop* if it is given, and return its final response.

        Raises CallFailed(408) when none comes.
        """
        hops = [hop] if hop is not None else await self.locate(parse_sip_uri(target))
        from_ = Address(
            uri=SipUri(user=from_user, host=from_host or bracketed(self.host(hops[0].host))), params={"tag": new_tag()}
        )
        to_address = parse_address(f"<{to or target}>")
        request = make_request(method, target, from_, to_address, new_tag(), 1)
        for name, value in (headers or {}).items():
            request.set_header(name, value)
        request.body = body
        return await self.outgoing.request(request, hops, credentials)

    def call_of(self, call_id: str, local_tag: str, remote_tag: str) -> Call | None:
        """The call whose dialog has these: Call-ID and both tags."""
        return self._dialogs.get((call_id, local_tag, remote_tag))

    def alias(self, source: Hop, port: int) -> None:
        """The far end of *source* takes requests to its *port* over this connection (RFC 5923)."""
        self._transports.alias(source, port)

    def add(self, call: Call) -> None:
        self._calls[call.call_id] = call
        self._dialogs[call.dialog.key] = call

    def open(self, ports: PortPair, terms: MediaTerms, call_id: str, crypto: Crypto | None) -> MediaStream:
        """The stream of a call. Raises CallFailed(500) when its recording cannot be written."""
        protection = Protection(crypto, terms.crypto) if crypto is not None and terms.crypto is not None else None
        try:
            return self.engine.open(ports, terms, call_id, protection)
        except OSError as error:
            raise CallFailed(500, f"the call cannot be recorded: {error.strerror or error}") from error

    def forget(self, call: Call, report: MediaReport) -> None:
        """*call* is closed; its *report* is the end of its trace."""
        self._calls.pop(call.call_id, None)
        self._dialogs.pop(call.dialog.key, None)
        self._keep(call.call_id, report)

    def _keep(self, call_id: str, report: MediaReport | AttemptReport) -> None:
        if self._trace is not None:
            self.tasks.spawn(self._write_trace(self._trace, call_id, report))

    @staticmethod
    async def _write_trace(tracer: Tracer, call_id: str, report: MediaReport | AttemptReport) -> None:
        await asyncio.sleep(TRACE_S)
        try:
            await asyncio.to_thread(tracer.write, tracer.finish(call_id, report.as_dict()))
        except OSError as error:
            log.warning("call.untraced", call=call_id, error=str(error))

    def note(self, sip_call_id: str, call_id: str) -> None:
        """Let the trace know whose messages these are."""
        if self._trace is not None:
            self._trace.bind(sip_call_id, call_id)

    def _address(self, hop: Hop) -> HostPort:
        """Our host and port as *hop* sees them."""
        port = self.tls_port if hop.transport == "tls" else self.port
        return self.host(hop.host), port or self.port

    def _receive(self, data: bytes, source: Hop) -> None:
        if not self.answerer.admits(source):
            return
        if self._trace is not None:
            try:
                local = self._address(source)
            except TransportFailed:  # a forged source that nothing can be answered to: no reason to end its connection
                local = self._bind
            self._trace.sip(data, local, source.address, source.transport, sent=False)
        self.endpoint.receive(data, source)

    def _send(self, data: bytes, hop: Hop, failed: Callable[[], None]) -> None:
        if self._trace is not None:
            self._trace.sip(data, self._address(hop), hop.address, hop.transport, sent=True)
        self._transports.send(data, hop, failed)

    @staticmethod
    def _call_later(seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, callback)


def _open_door() -> Admission:
    """For a network of friends: a hundred calls, from whoever is known."""
    return Admission(10_000, 10_000, 1000, 1000, 100, time.monotonic)


def _version(host: str) -> int:
    return ipaddress.ip_address(host).version

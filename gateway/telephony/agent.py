"""The user agent: takes and places calls, takes and sends messages, over one UDP address."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog
from aiosipua.header_codec import parse_address, stringify_uri
from aiosipua.headers import Address, SipUri
from aiosipua.message import SipRequest, SipResponse

from gateway.tasks import Tasks
from gateway.telephony.auth import Credentials
from gateway.telephony.call import Call
from gateway.telephony.dialog import client_dialog, server_dialog
from gateway.telephony.endpoint import Endpoint, Incoming
from gateway.telephony.errors import BadMessage, CallFailed, NoCommonCodec, TransportFailed
from gateway.telephony.media import MediaEngine, MediaStream
from gateway.telephony.message import (
    ALLOW,
    HostPort,
    Identity,
    identity,
    make_request,
    make_response,
    new_tag,
    parse_sip_uri,
    uri_text,
)
from gateway.telephony.outgoing import Outgoing, next_hop
from gateway.telephony.registrar import Registrar
from gateway.telephony.sdp import MediaTerms, make_offer, read_description

log = structlog.get_logger(__name__)
RETRY_AFTER_S = 30
MESSAGE_OCTETS = 1300


@dataclass(eq=False)
class Invitation:
    """An INVITE that waits for our answer. ``cancelled`` is set when the caller gives up."""

    agent: UserAgent
    incoming: Incoming
    number: str
    terms: MediaTerms
    tag: str
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    def ring(self) -> None:
        self.incoming.reply(180, to_tag=self.tag)

    def reject(self, status: int) -> None:
        self.agent.drop(self)
        self.incoming.reply(status, to_tag=self.tag)

    async def answer(self, call_id: str) -> Call:
        """Send the 200 and open the media. Raises CallFailed when the caller gave up or no media can be had."""
        return await self.agent.answer(self, call_id)


OnInvite = Callable[[Invitation], Awaitable[None]]
OnMessage = Callable[[str, str, str], Awaitable[None]]
"""Number, text, and Call-ID with CSeq, which name the message: a retransmission has the same."""


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[bytes, HostPort], None]) -> None:
        self._take = take

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        self._take(data, (addr[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        log.debug("sip.socket_error", error=str(exc))


class UserAgent:
    """SIP for the house. Start it on a running loop."""

    def __init__(
        self,
        engine: MediaEngine,
        bind: HostPort,
        *,
        advertised: str = "",
        registrar: Registrar | None = None,
        trusted: Callable[[HostPort], bool] = lambda _: False,
        most_calls: int = 100,
    ) -> None:
        self._engine = engine
        self._bind = bind
        self._family = socket.AF_INET6 if ":" in bind[0] else socket.AF_INET
        self._advertised = advertised
        self._registrar = registrar
        self._trusted = trusted
        self._most_calls = most_calls
        self._calls: dict[str, Call] = {}
        self._invitations: dict[tuple[str, str], Invitation] = {}
        self._tasks = Tasks("sip")
        self._transport: asyncio.DatagramTransport | None = None
        self.draining = False
        self.on_invite: OnInvite | None = None
        self.on_message: OnMessage | None = None
        self.endpoint = Endpoint(
            self._send, self._call_later, self._on_request, self._on_ack, lambda peer: (self.host(peer), self.port)
        )
        self._outgoing = Outgoing(self.endpoint, self.resolve, self._tasks.spawn)

    @property
    def port(self) -> int:
        assert self._transport is not None, "start() first"
        return int(self._transport.get_extra_info("sockname")[1])

    @property
    def calls(self) -> tuple[Call, ...]:
        return tuple(self._calls.values())

    async def start(self) -> None:
        """Bind. Raises TransportFailed naming the address."""
        loop = asyncio.get_running_loop()
        try:
            self._transport, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(self.endpoint.datagram), local_addr=self._bind
            )
        except OSError as error:
            raise TransportFailed(f"udp {self._bind[0]}:{self._bind[1]}: {error.strerror or error}") from error

    def stop(self) -> None:
        self.endpoint.close()
        if self._transport is not None:
            self._transport.close()

    def host(self, peer: HostPort) -> str:
        """The address that *peer* sees us at. Raises TransportFailed when there is no way to it."""
        if self._advertised:
            return self._advertised
        if self._bind[0] not in ("0.0.0.0", "::"):
            return self._bind[0]
        with socket.socket(self._family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(peer)
            except OSError as error:
                raise TransportFailed(f"no way to {peer[0]}: {error.strerror or error}") from error
            return str(probe.getsockname()[0])

    def contact(self, user: str, peer: HostPort) -> str:
        return f"<{uri_text(user or None, self.host(peer), self.port)}>"

    async def dial(
        self,
        target: str,
        call_id: str,
        *,
        from_user: str,
        from_host: str = "",
        credentials: Credentials | None = None,
        ring_s: float = 45.0,
    ) -> Call:
        """Call the SIP URI *target*. Raises CallFailed with the status that ended the attempt (487 after *ring_s*)."""
        uri = parse_sip_uri(target)
        peer = await self.resolve(uri)
        sock = self._engine.reserve()
        try:
            return await self._dial(uri, peer, sock, call_id, from_user, from_host, credentials, ring_s)
        except BaseException:
            if sock.fileno() >= 0:
                self._engine.release(sock)
            raise

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
    ) -> SipResponse:
        """Send a request outside any dialog and return its final response. Raises CallFailed(408) when none comes."""
        peer = await self.resolve(parse_sip_uri(target))
        from_ = Address(uri=SipUri(user=from_user, host=from_host or self.host(peer)), params={"tag": new_tag()})
        to_address = parse_address(f"<{to or target}>")
        request = make_request(method, target, from_, to_address, new_tag(), 1)
        for name, value in (headers or {}).items():
            request.set_header(name, value)
        request.body = body
        return await self._outgoing.request(request, peer, credentials)

    async def answer(self, invitation: Invitation, call_id: str) -> Call:
        invite, source = invitation.incoming.request, invitation.incoming.source
        dialog = server_dialog(invite, invitation.tag)
        peer = await self.resolve(parse_sip_uri(next_hop(dialog)))
        if invitation.cancelled.is_set():
            raise CallFailed(487, "the caller gave up")
        try:
            sock = self._engine.reserve()
        except TransportFailed:
            invitation.reject(503)
            raise
        try:
            stream = self._open(sock, invitation.terms, call_id)
        except CallFailed as failed:
            self._engine.release(sock)
            invitation.reject(failed.status)
            raise
        call = Call(
            call_id=call_id, direction="inbound", number=invitation.number, dialog=dialog, peer=peer,
            endpoint=self.endpoint, engine=self._engine, stream=stream, contact=self.contact("", source),
            forget=self._forget, media_host=self.host(source),
        )  # fmt: skip
        self._calls[call_id] = call
        self.drop(invitation)
        final = call.describe(invite, invitation.terms)
        invitation.incoming.respond(final)
        call.confirm_with(final, invitation.incoming.peer)
        return call

    def drop(self, invitation: Invitation) -> None:
        ids = invitation.incoming.ids
        self._invitations.pop((ids.call_id, ids.branch), None)

    async def resolve(self, uri: SipUri) -> HostPort:
        """Where requests to *uri* go. Raises CallFailed(503) when its host has no address that our socket can send to."""
        host, port = uri.host.strip("[]"), uri.port or 5060
        if _version(host) == (6 if self._family == socket.AF_INET6 else 4):
            return host, port
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, family=self._family, type=socket.SOCK_DGRAM
            )
        except (OSError, UnicodeError) as error:
            raise CallFailed(503, f"{uri.host} has no address: {error}") from error
        return str(found[0][4][0]), port

    async def _dial(
        self,
        uri: SipUri,
        peer: HostPort,
        sock: socket.socket,
        call_id: str,
        from_user: str,
        from_host: str,
        credentials: Credentials | None,
        ring_s: float,
    ) -> Call:
        host = self.host(peer)
        from_ = Address(uri=SipUri(user=from_user, host=from_host or host), params={"tag": new_tag()})
        invite = make_request("INVITE", stringify_uri(uri), from_, Address(uri=uri), new_tag(), 1)
        contact = self.contact(from_user, peer)
        invite.set_header("Contact", contact)
        invite.set_header("Allow", ALLOW)
        invite.set_header("Content-Type", "application/sdp")
        invite.body = make_offer((host, sock.getsockname()[1]), 1)
        made: list[Call] = []
        sent, response = await self._outgoing.invite(invite, peer, ring_s, credentials, made)
        if response.status_code >= 300:
            raise CallFailed(response.status_code, response.reason_phrase)
        try:
            dialog = client_dialog(sent, response)
            dialog_peer = await self.resolve(parse_sip_uri(next_hop(dialog)))
            stream = self._open(sock, read_description(response.body), call_id)
        except BaseException as error:
            self._outgoing.end_unwanted(sent, response)
            if isinstance(error, BadMessage | NoCommonCodec):
                raise CallFailed(488, str(error)) from error
            raise
        call = Call(
            call_id=call_id, direction="outbound", number=uri.user or "", dialog=dialog, peer=dialog_peer,
            endpoint=self.endpoint, engine=self._engine, stream=stream, contact=contact,
            forget=self._forget, media_host=host,
        )  # fmt: skip
        self._calls[call_id] = call
        made.append(call)
        call.acknowledge(dialog.request("ACK", identity(sent).cseq.seq))
        return call

    def _open(self, sock: socket.socket, terms: MediaTerms, call_id: str) -> MediaStream:
        """The stream of a call. Raises CallFailed(500) when its recording cannot be written."""
        try:
            return self._engine.open(sock, terms, call_id)
        except OSError as error:
            raise CallFailed(500, f"the call cannot be recorded: {error.strerror}") from error

    def _on_request(self, incoming: Incoming) -> None:
        request, ids = incoming.request, incoming.ids
        if request.method == "CANCEL":
            self._take_cancel(incoming)
        elif ids.to.tag:
            call = self._call_of(ids)
            if call is None:
                incoming.reply(481)
            else:
                call.take(incoming)
                if request.method == "INVITE":
                    self._tasks.spawn(self._follow(call))
        elif request.get_header("Require"):
            response = make_response(request, 420, to_tag=new_tag())
            response.set_header("Unsupported", ", ".join(request.get_header_values("Require")))
            incoming.respond(response)
        elif request.method == "INVITE":
            self._take_invite(incoming)
        elif request.method == "OPTIONS":
            response = make_response(request, 503 if self.draining else 200, to_tag=new_tag())
            response.set_header("Allow", ALLOW)
            response.set_header("Accept", "application/sdp")
            incoming.respond(response)
        elif request.method == "MESSAGE":
            self._take_message(incoming)
        elif request.method == "REGISTER" and self._registrar is not None:
            self._registrar.take(incoming)
        else:
            response = make_response(request, 405, to_tag=new_tag())
            response.set_header("Allow", ALLOW)
            incoming.respond(response)

    async def _follow(self, call: Call) -> None:
        """Send to where the far end is now: a re-INVITE may have moved it (RFC 3261 §12.2.1.2)."""
        call.peer = await self.resolve(parse_sip_uri(next_hop(call.dialog)))

    def _take_invite(self, incoming: Incoming) -> None:
        tag = new_tag()
        if self.draining or len(self._calls) + len(self._invitations) >= self._most_calls or self.on_invite is None:
            response = make_response(incoming.request, 503, to_tag=tag)
            response.set_header("Retry-After", str(RETRY_AFTER_S))
            incoming.respond(response)
            return
        try:
            if not incoming.request.contact:
                raise BadMessage("INVITE has no Contact")
            terms = read_description(incoming.request.body)
        except NoCommonCodec as error:
            response = make_response(incoming.request, 488, to_tag=tag)
            response.set_header("Warning", f'304 {self.host(incoming.source)} "{error}"')
            incoming.respond(response)
            return
        except BadMessage as error:
            incoming.reply(400, to_tag=tag, reason=str(error)[:80])
            return
        incoming.reply(100)
        invitation = Invitation(self, incoming, incoming.ids.from_.uri.user or "", terms, tag)
        self._invitations[(incoming.ids.call_id, incoming.ids.branch)] = invitation
        self._tasks.spawn(self._invite_task(invitation))

    async def _invite_task(self, invitation: Invitation) -> None:
        assert self.on_invite is not None
        try:
            await self.on_invite(invitation)
        finally:
            if not invitation.incoming.answered:
                invitation.reject(500)

    def _take_cancel(self, incoming: Incoming) -> None:
        ids = incoming.ids
        invitation = self._invitations.get((ids.call_id, ids.branch))
        if invitation is None:
            incoming.reply(200 if self.endpoint.pending_invite(incoming.request) else 481, to_tag=new_tag())
            return
        incoming.reply(200, to_tag=invitation.tag)
        invitation.cancelled.set()
        invitation.reject(487)

    def _take_message(self, incoming: Incoming) -> None:
        """A MESSAGE counts as the subscriber's own only from a registered phone, as that phone, or from a trusted line."""
        binding = self._registrar.at(incoming.source) if self._registrar is not None else None
        if binding is not None:
            number = binding.user
        elif self._trusted(incoming.source):
            number = incoming.ids.from_.uri.user or ""
        else:
            incoming.reply(403, to_tag=new_tag(), reason="register first, or send through a configured line")
            return
        if not (incoming.request.content_type or "text/plain").lower().startswith("text/plain"):
            incoming.reply(415, to_tag=new_tag())
            return
        self._tasks.spawn(self._message_task(incoming, number))

    async def _message_task(self, incoming: Incoming, number: str) -> None:
        """202 only when the message is kept: the sender's own retransmission makes good a failure in between."""
        try:
            if self.on_message is not None:
                name = f"{incoming.ids.call_id} {incoming.ids.cseq.seq}"
                await self.on_message(number, incoming.request.text[:MESSAGE_OCTETS], name)
        except Exception:
            incoming.reply(500, to_tag=new_tag())
            raise
        incoming.reply(202, to_tag=new_tag())

    def _on_ack(self, ack: SipRequest) -> None:
        call = self._call_of(identity(ack))
        if call is not None:
            call.acknowledged()

    def _call_of(self, ids: Identity) -> Call | None:
        """The call whose dialog a request belongs to: Call-ID and both tags."""
        key = (ids.call_id, ids.to.tag or "", ids.from_.tag or "")
        return next((call for call in self._calls.values() if call.dialog.key == key), None)

    def _forget(self, call: Call) -> None:
        self._calls.pop(call.call_id, None)

    def _send(self, data: bytes, peer: HostPort) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, peer)

    @staticmethod
    def _call_later(seconds: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(seconds, callback)


def _version(host: str) -> int | None:
    """4 or 6; None when *host* is a name."""
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None

"""SIP's transports (RFC 3261 §18): UDP and TCP on one address, TLS on another; connections are used again (RFC 5923).

Thin: octets come in with the hop that they came from and go out to a hop; what they mean is the endpoint's affair.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import structlog

from gateway.telephony.errors import BadMessage, TransportFailed
from gateway.telephony.framing import PING, PONG, Framer
from gateway.telephony.message import HostPort

log = structlog.get_logger(__name__)
Protocol = Literal["udp", "tcp", "tls"]
MOST_CONNECTIONS = 2_000
MOST_OF_ONE_HOST = 200
BACKLOG = 512
RECEIVE_OCTETS = 4 << 20
"""Room for the requests that come while the loop is busy; the kernel gives what it may (net.core.rmem_max)."""

FREE_PORT_TRIES = 5
SHUTDOWN_S = 1.0
"""How long a far end may take to agree that a TLS connection is over; some never do."""

MOST_UNSENT = 1_000_000
CONNECT_S = 5.0
PARTIAL_S = 30.0
"""How long a message may take to come whole."""


class Hop(NamedTuple):
    """Where SIP goes next, or came from. *name* is the domain that a TLS certificate has to prove (RFC 5922)."""

    host: str
    port: int
    transport: Protocol = "udp"
    name: str = ""

    @property
    def reliable(self) -> bool:
        return self.transport != "udp"

    @property
    def address(self) -> HostPort:
        return self.host, self.port


@dataclass(frozen=True, slots=True)
class TlsTerms:
    """PEM files. *ca* holds whom we believe, empty for the system's; with *verify_clients* it is asked of callers too."""

    bind: HostPort
    certificate: Path
    key: Path
    ca: Path | None = None
    verify_clients: bool = False


Take = Callable[[bytes, Hop], None]
Key = tuple[str, int, Protocol, str]
"""What a connection is found by: a hop. One that was proven for one domain is none of another's (RFC 5922 §4)."""


class Transports:
    """All sockets of one user agent. Whatever a peer sends reaches *take* with its hop; *take* never raises."""

    def __init__(self, take: Take, bind: HostPort, tls: TlsTerms | None = None) -> None:
        self._take = take
        self._bind = bind
        self._tls = tls
        self._udp: asyncio.DatagramTransport | None = None
        self._servers: list[asyncio.Server] = []
        self._connections: dict[Key, _Connection] = {}
        self._dialling: dict[Hop, list[tuple[bytes, Callable[[], None]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._client_tls: ssl.SSLContext | None = None
        self._mapped = bind[0] == "::"
        self.refused = 0

    def __len__(self) -> int:
        """Open connections."""
        return len(set(self._connections.values()))

    @property
    def port(self) -> int:
        """The port of UDP and TCP."""
        assert self._udp is not None, "start() first"
        return int(self._udp.get_extra_info("sockname")[1])

    @property
    def tls_port(self) -> int | None:
        return int(self._servers[1].sockets[0].getsockname()[1]) if len(self._servers) > 1 else None

    async def start(self) -> None:
        """Bind. Raises TransportFailed naming the address or the file."""
        for attempt in range(1, FREE_PORT_TRIES + 1):
            try:
                await self._start()
            except TransportFailed:
                self.close()
                if self._bind[1] or attempt == FREE_PORT_TRIES:  # a port that UDP was given may be another's for TCP
                    raise
            else:
                return

    async def _start(self) -> None:
        host, port = self._bind
        try:
            sock = _bound(self._bind)
        except OSError as error:
            raise TransportFailed(f"udp {host}:{port}: {error.strerror or error}") from error
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self._datagram), sock=sock)
        await self._listen("tcp", (host, self.port), None)
        if self._tls is not None:
            await self._listen("tls", self._tls.bind, self._server_context(self._tls))

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for server in self._servers:
            server.close()
        self._servers.clear()
        for connection in set(self._connections.values()):  # one may be known under several names
            connection.close()
        if self._udp is not None:
            self._udp.close()

    def send(self, data: bytes, hop: Hop, failed: Callable[[], None]) -> None:
        """Send *data* to *hop*, over the connection that there is or a new one; *failed* is called where that cannot be."""
        if hop.transport == "udp":
            if self._udp is not None and not self._udp.is_closing():
                self._udp.sendto(data, self._outward(hop))
            return
        connection = self._connections.get(_key(hop))
        if connection is not None:
            connection.send(data, failed)
        elif hop in self._dialling:
            self._dialling[hop].append((data, failed))
        else:
            self._dialling[hop] = [(data, failed)]
            task = asyncio.get_running_loop().create_task(self._dial(hop))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def alias(self, source: Hop, port: int) -> None:
        """Use the connection from *source* for requests to its *port* too (RFC 5923 §5), where its certificate was proven."""
        connection = self._connections.get(_key(source))
        if connection is not None:
            for name in connection.proven:
                self._connections.setdefault(_key(source._replace(port=port, name=name)), connection)

    def connected(self, hop: Hop) -> bool:
        """Whether a request to *hop* would go out at once."""
        return hop.transport == "udp" or _key(hop) in self._connections

    async def _listen(self, transport: Protocol, address: HostPort, context: ssl.SSLContext | None) -> None:
        def made() -> _Connection:
            return _Connection(self, transport, outbound=False)

        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        try:
            sock = socket.create_server(address, family=family, dualstack_ipv6=address[0] == "::", backlog=BACKLOG)
            server = await asyncio.get_running_loop().create_server(
                made, sock=sock, ssl=context, ssl_shutdown_timeout=SHUTDOWN_S if context else None
            )
        except OSError as error:
            raise TransportFailed(f"{transport} {address[0]}:{address[1]}: {error.strerror or error}") from error
        self._servers.append(server)

    def _local(self, hop: Hop) -> HostPort | None:
        """The address that a connection to *hop* comes from: the one we listen on, by which a peer may know us."""
        host = self._tls.bind[0] if hop.transport == "tls" and self._tls is not None else self._bind[0]
        return None if host in ("0.0.0.0", "::") else (host, 0)

    async def _dial(self, hop: Hop) -> None:
        connection = None
        try:
            context = self._client_context() if hop.transport == "tls" else None
            async with asyncio.timeout(CONNECT_S):
                _, connection = await asyncio.get_running_loop().create_connection(
                    lambda: _Connection(self, hop.transport, outbound=True, hop=hop), hop.host, hop.port,
                    ssl=context, server_hostname=(hop.name or hop.host) if context else None,
                    ssl_shutdown_timeout=SHUTDOWN_S if context else None, local_addr=self._local(hop),
                )  # fmt: skip
        except (OSError, TimeoutError, ssl.SSLError) as error:
            log.warning("sip.unconnected", transport=hop.transport, host=hop.host, port=hop.port, error=str(error))
        for data, failed in self._dialling.pop(hop, ()):
            if connection is None:
                failed()
            else:
                connection.send(data, failed)

    def _datagram(self, data: bytes, source: tuple[str | Any, int]) -> None:
        host = source[0]
        self._take(data, Hop(_unmapped(host) if ":" in host else host, source[1]))

    def _outward(self, hop: Hop) -> HostPort:
        return (f"::ffff:{hop.host}", hop.port) if self._mapped and ":" not in hop.host else hop.address

    def has_room(self, host: str) -> bool:
        """Whether one more connection from *host* is taken: no one host can have them all."""
        host = _unmapped(host)
        own = sum(connection.host == host for connection in set(self._connections.values()))
        return len(self) < MOST_CONNECTIONS and own < MOST_OF_ONE_HOST

    def opened(self, connection: _Connection, hop: Hop) -> None:
        self._connections[_key(hop)] = connection
        self._connections.setdefault(_key(hop._replace(name="")), connection)

    def closed(self, connection: _Connection) -> None:
        for key in [key for key, known in self._connections.items() if known is connection]:
            del self._connections[key]

    def received(self, data: bytes, hop: Hop) -> None:
        self._take(data, hop)

    def _client_context(self) -> ssl.SSLContext:
        if self._client_tls is None:
            ca = self._tls.ca if self._tls else None
            self._client_tls = ssl.create_default_context(cafile=str(ca) if ca else None)
            if self._tls is not None:
                self._client_tls.load_cert_chain(self._tls.certificate, self._tls.key)
        return self._client_tls

    @staticmethod
    def _server_context(tls: TlsTerms) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tls.ca) if tls.ca else None)
            context.load_cert_chain(tls.certificate, tls.key)
        except (OSError, ssl.SSLError) as error:
            raise TransportFailed(
                f"sip.tls_certificate {tls.certificate} with sip.tls_key {tls.key}: {error}"
            ) from error
        if tls.ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED if tls.verify_clients else ssl.CERT_OPTIONAL
        return context


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, take: Callable[[bytes, tuple[str | Any, int]], None]) -> None:
        self.datagram_received = take  # type: ignore[assignment]

    def error_received(self, exc: Exception) -> None:
        log.debug("sip.socket_error", error=str(exc))


class _Connection(asyncio.Protocol):
    """One stream, of either side's making."""

    def __init__(self, owner: Transports, transport: Protocol, *, outbound: bool, hop: Hop | None = None) -> None:
        self._owner = owner
        self._protocol = transport
        self._outbound = outbound
        self._hop = hop
        self._framer = Framer()
        self._transport: asyncio.Transport | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self.proven: tuple[str, ...] = ()
        """The names in the far end's certificate, where it showed one that we believe."""

    @property
    def host(self) -> str:
        return self._hop.host if self._hop is not None else ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = stream = cast(asyncio.Transport, transport)  # uvloop's is no subclass of it
        peer = stream.get_extra_info("peername")
        if peer is None or (not self._outbound and not self._owner.has_room(peer[0])):
            self._owner.refused += 1
            stream.abort()
            return
        self.proven = _names(stream.get_extra_info("peercert") or {})
        if self._hop is None:
            self._hop = Hop(_unmapped(peer[0]), peer[1], self._protocol)
        if sock := stream.get_extra_info("socket"):
            _keep_alive(sock)
        if not self._outbound:
            self._wait()
        self._owner.opened(self, self._hop)

    def data_received(self, data: bytes) -> None:
        assert self._hop is not None
        whole = False
        try:
            for message in self._framer.feed(data):
                whole = True
                if message is PING:
                    self.send(PONG, lambda: None)
                else:
                    self._owner.received(message, self._hop)
        except BadMessage as error:
            log.info("sip.stream_cut", source=self._hop.host, error=str(error))
            self.close()
        if self._deadline is not None and (whole or not self._framer.waiting):
            self._deadline.cancel()
            self._deadline = None
        if self._framer.waiting and self._deadline is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self._deadline is not None:
            self._deadline.cancel()
        self._owner.closed(self)

    def send(self, data: bytes, failed: Callable[[], None]) -> None:
        """A far end that does not read is given up."""
        if self._transport is None or self._transport.is_closing():
            failed()
        elif self._transport.get_write_buffer_size() > MOST_UNSENT:
            self._transport.abort()
            failed()
        else:
            self._transport.write(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _wait(self) -> None:
        """A message has to come whole in time, the first one of a connection that came in as well."""
        self._deadline = asyncio.get_running_loop().call_later(PARTIAL_S, self.close)


def _key(hop: Hop) -> Key:
    return hop.host, hop.port, hop.transport, hop.name


def _keep_alive(sock: socket.socket) -> None:
    """Let the kernel find out when the far end has vanished without a word, and say so soon."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_USER_TIMEOUT", 10_000)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)


def _bound(address: HostPort) -> socket.socket:
    """A UDP socket at *address*; at :: for IPv4 as well. Raises OSError, which uvloop would not tell the reason of."""
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
    try:
        if address[0] == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_OCTETS)
        sock.setblocking(False)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _names(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    """The domains and addresses that *certificate* speaks for (RFC 5922 §7.1)."""
    entries = certificate.get("subjectAltName", ())
    domains = [value for kind, value in entries if kind == "DNS"]
    return (*domains, *(_unmapped(value.strip()) for kind, value in entries if kind == "IP Address"))


def _unmapped(host: str) -> str:
    """*host* in its shortest form; an IPv4 address that came in over an IPv6 socket as what it is."""
    address = ipaddress.ip_address(host.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).compressed

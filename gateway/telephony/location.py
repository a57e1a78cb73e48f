"""Where a SIP URI leads (RFC 3263): NAPTR, SRV and addresses, as hops in the order to try them."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import aiodns
from aiosipua.headers import SipUri

from gateway.telephony.errors import CallFailed
from gateway.telephony.transport import Hop
from gateway.telephony.transport import Protocol as Transport

DEFAULT_PORT: dict[Transport, int] = {"udp": 5060, "tcp": 5060, "tls": 5061}
MOST_HOPS = 8
DNS_S = 5.0
SERVICES_S = 3.0
"""How long is waited for NAPTR and SRV."""

_NAPTR: dict[str, Transport] = {"SIPS+D2T": "tls", "SIP+D2U": "udp", "SIP+D2T": "tcp"}
_SRV: dict[Transport, str] = {"udp": "_sip._udp.", "tcp": "_sip._tcp.", "tls": "_sips._tcp."}


@dataclass(frozen=True, slots=True)
class Naptr:
    order: int
    preference: int
    service: str
    replacement: str


@dataclass(frozen=True, slots=True)
class Srv:
    priority: int
    weight: int
    port: int
    target: str


class Resolver(Protocol):
    """DNS. Each returns nothing where there is no such record; raises OSError when nobody answers."""

    async def naptr(self, name: str) -> Sequence[Naptr]: ...
    async def srv(self, name: str) -> Sequence[Srv]: ...
    async def addresses(self, name: str) -> Sequence[str]: ...


class Dns:
    """The machine's own resolver: aiodns for NAPTR and SRV, the hosts file and DNS for addresses."""

    def __init__(self) -> None:
        self._resolver: aiodns.DNSResolver | None = None

    async def naptr(self, name: str) -> Sequence[Naptr]:
        return [
            Naptr(r.data.order, r.data.preference, r.data.service.upper(), r.data.replacement)
            for r in await self._query(name, "NAPTR")
        ]

    async def srv(self, name: str) -> Sequence[Srv]:
        return [Srv(r.data.priority, r.data.weight, r.data.port, r.data.target) for r in await self._query(name, "SRV")]

    async def addresses(self, name: str) -> Sequence[str]:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_DGRAM)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def _query(self, name: str, kind: str) -> list[Any]:
        if self._resolver is None:
            self._resolver = aiodns.DNSResolver(timeout=DNS_S / 2, tries=2)
        try:
            return list((await self._resolver.query_dns(name, kind)).answer)
        except aiodns.error.DNSError:
            return []  # whether absent or unanswered: the addresses are asked next, and they fail loudly


async def locate(
    uri: SipUri, resolver: Resolver, random: Random, *, own: Sequence[Transport] = ("udp", "tcp")
) -> list[Hop]:
    """The hops that reach *uri*, the first to be tried first; *own* are the transports that we have.

    Raises CallFailed(503) when its host has no address.
    """
    host, asked = uri.host.strip("[]"), _transport(uri)
    name = host if asked == "tls" else ""
    if _is_address(host):
        transport = asked or "udp"
        return [Hop(_plain(host), uri.port or DEFAULT_PORT[transport], transport, name)]
    hops: list[Hop] = []
    try:
        if uri.port is not None:
            async with asyncio.timeout(DNS_S):
                hops = await _hosts(resolver, host, uri.port, asked or "udp", host)
            return _some(uri, hops)
        records = 0
        with suppress(TimeoutError):  # a name server that passes no such question on: the address itself may be known
            async with asyncio.timeout(SERVICES_S):
                for transport, service in await _services(resolver, host, asked, own):
                    for record in _ordered(await resolver.srv(service), random):
                        records += 1
                        with suppress(OSError):  # one target without an address leaves the others (RFC 2782)
                            hops += await _hosts(resolver, record.target.rstrip("."), record.port, transport, host)
        if not records:
            transport = asked or "udp"
            async with asyncio.timeout(DNS_S):
                hops = await _hosts(resolver, host, DEFAULT_PORT[transport], transport, host)
    except (OSError, TimeoutError, UnicodeError) as error:
        raise CallFailed(503, f"{uri.host} has no address: {str(error) or 'DNS does not answer'}") from error
    return _some(uri, hops)


def _some(uri: SipUri, hops: list[Hop]) -> list[Hop]:
    if not hops:
        raise CallFailed(503, f"{uri.host} has no address")
    return hops[:MOST_HOPS]


async def _services(
    resolver: Resolver, host: str, asked: Transport | None, own: Sequence[Transport]
) -> list[tuple[Transport, str]]:
    """Transports with the names of their SRV records (RFC 3263 §4.1)."""
    if asked is not None:
        return [(asked, _SRV[asked] + host)]
    records = sorted(await resolver.naptr(host), key=lambda r: (r.order, r.preference))
    named = [(_NAPTR[r.service], r.replacement.rstrip(".")) for r in records if _NAPTR.get(r.service) in own]
    return named or [(transport, _SRV[transport] + host) for transport in own]


async def _hosts(resolver: Resolver, target: str, port: int, transport: Transport, domain: str) -> list[Hop]:
    addresses = [target] if _is_address(target) else await resolver.addresses(target)
    name = domain if transport == "tls" else ""
    return [Hop(_plain(address), port, transport, name) for address in addresses]


def _ordered(records: Sequence[Srv], random: Random) -> list[Srv]:
    """RFC 2782: by priority, and by lot within one."""
    left = sorted((r for r in records if r.target not in ("", ".")), key=lambda r: (r.priority, -r.weight))
    chosen: list[Srv] = []
    while left:
        equal = [r for r in left if r.priority == left[0].priority]
        drawn = random.choices(equal, [r.weight + 0.01 for r in equal])[0]
        chosen.append(drawn)
        left.remove(drawn)
    return chosen


def _transport(uri: SipUri) -> Transport | None:
    """What the URI itself demands. Raises CallFailed for a transport that is not spoken here."""
    named = (uri.params.get("transport") or "").lower()
    if uri.scheme.lower() == "sips" or named == "tls":
        return "tls"
    if named in ("udp", "tcp"):
        return "udp" if named == "udp" else "tcp"
    if named:
        raise CallFailed(503, f"transport={named} is not spoken here: udp, tcp or tls")
    return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _plain(host: str) -> str:
    return ipaddress.ip_address(host).compressed

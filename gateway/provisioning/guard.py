"""Where webhooks may be posted to: the public Internet, and the private networks that the settings allow (SSRF).

A billing system's address comes from outside, and a name may point anywhere at any moment. So a name is resolved once, every
address of it is judged, and the connection goes to exactly those; the socket itself is judged again just before it
connects. IPv4 that hides in IPv6 (mapped, NAT64, 6to4) is judged as the IPv4 address it leads to.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from gateway.provisioning.errors import TargetRefused

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

SPECIAL_V4 = tuple(
    (IPv4Network(text), what)
    for text, what in (
        ("0.0.0.0/8", "unspecified"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "private (carrier-grade NAT)"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "reserved"),
        ("192.0.2.0/24", "reserved for documentation"),
        ("192.88.99.0/24", "reserved"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "reserved for benchmarks"),
        ("198.51.100.0/24", "reserved for documentation"),
        ("203.0.113.0/24", "reserved for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
    )
)
"""The IANA IPv4 special-purpose registry (RFC 6890), but for what is globally reachable."""

SPECIAL_V6 = tuple(
    (IPv6Network(text), what)
    for text, what in (
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "reserved for documentation"),
        ("3fff::/20", "reserved for documentation"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private (site-local)"),
        ("ff00::/8", "multicast"),
    )
)
GLOBAL_V6 = IPv6Network("2000::/3")
MAPPED, NAT64, SIX_TO_FOUR = IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"), IPv6Network("2002::/16")
_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?", re.IGNORECASE)
_NUMERIC = re.compile(r"(?:.*\.)?(?:\d+|0x[0-9a-f]*)\.?", re.IGNORECASE)
"""Ends in a number: no domain does, but all the ways in which C libraries read an IPv4 address (WHATWG URL §3.5)."""


class RefusedError(OSError):
    """What the resolver and the socket raise, so that aiohttp takes it for a connection that failed."""


def read_url(text: str) -> URL:
    """*text* as the address of a webhook. Raises TargetRefused: not http(s), credentials in it, or an odd spelling of an IP."""
    shown = text.partition("?")[0]  # a query may hold a key
    try:
        url = URL(text)
        host, _ = url.host, url.port
    except ValueError as error:
        raise TargetRefused(f"{shown!r} is no web address: {error}") from error
    if url.scheme not in ("http", "https") or not host:
        raise TargetRefused(f"{shown!r} is no web address: https://... is wanted")
    if url.user is not None or url.password is not None:
        raise TargetRefused("a name or password in the address of a webhook: the signature is what proves who calls")
    if ":" in host and "%" in host:
        raise TargetRefused(f"{host}: an address with a zone is of this machine only")
    if ":" not in host and not _NAME.fullmatch(url.raw_host or ""):
        raise TargetRefused(f"{host!r} is no name of a host")
    if ":" not in host and _NUMERIC.fullmatch(host) and _literal(host) is None:
        raise TargetRefused(f"{host}: an odd spelling of an IPv4 address; four decimal numbers are wanted")
    return url


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that *address* leads to: mapped (RFC 4291), NAT64 (RFC 6052) or 6to4 (RFC 3056)."""
    if address in MAPPED or address in NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in SIX_TO_FOUR:
        return IPv4Address((int(address) >> 80) & 0xFFFF_FFFF)
    return None


def special(address: Address) -> str:
    """What makes *address* none of the public Internet, in words; empty when it is one."""
    if isinstance(address, IPv4Address):
        return next((what for network, what in SPECIAL_V4 if address in network), "")
    inner = embedded(address)
    if inner is not None:
        return special(inner)
    named = next((what for network, what in SPECIAL_V6 if address in network), "")
    return named or ("" if address in GLOBAL_V6 else "reserved")


class Guard:
    """*allowed*: networks that are none of the public Internet and may be posted to all the same."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed: tuple[Network, ...] = tuple(ipaddress.ip_network(text) for text in allowed)

    def refusal(self, address: Address) -> str:
        """Why nothing is posted to *address*; empty when it may be."""
        what = special(address)
        if not what:
            return ""
        reached = (embedded(address) if isinstance(address, IPv6Address) else None) or address
        if any(one in network for network in self._allowed for one in (address, reached)):
            return ""
        return f"{address} is {what}; add its network to provisioning.allowed_networks if it is meant"

    def check(self, text: str) -> URL:
        """*text* as an address to post to; what a name points to is seen when it is resolved. Raises TargetRefused."""
        url = read_url(text)
        literal = _literal(url.host or "")
        if literal is not None and (why := self.refusal(literal)):
            raise TargetRefused(why)
        return url

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """The socket for one address (as getaddrinfo gives it), judged a last time. Raises RefusedError."""
        family, kind, protocol, _, where = info
        address = _literal(str(where[0]).partition("%")[0])
        why = f"{where[0]} is no IP address" if address is None else self.refusal(address)
        if why:
            raise RefusedError(why)
        return socket.socket(family=family, type=kind, proto=protocol)


class GuardedResolver(AbstractResolver):
    """Resolves by the system's means; refuses a name of which even one address may not be posted to."""

    def __init__(self, guard: Guard, inner: AbstractResolver | None = None) -> None:
        self._guard = guard
        self._inner = inner or aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises RefusedError, or OSError when there is no such name."""
        found = await self._inner.resolve(host, port, family)
        for result in found:
            address = _literal(result["host"].partition("%")[0])
            why = f"{result['host']} is no IP address" if address is None else self._guard.refusal(address)
            if why:
                raise RefusedError(f"{host}: {why}")
        return found

    async def close(self) -> None:
        await self._inner.close()

"""Where a request comes from: the other end of the connection, or whom a trusted reverse proxy names."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from aiohttp import web
from aiohttp.typedefs import Middleware

from gateway.web.problems import Handler

FORWARDED_FOR = "X-Forwarded-For"
PASSED_ON = (FORWARDED_FOR, "Forwarded", "Via")
UNKNOWN = "unknown"
_REMOTE: web.RequestKey[str] = web.RequestKey("remote", str)
Networks = Sequence[ipaddress.IPv4Network | ipaddress.IPv6Network]


def remote_of(request: web.Request) -> str:
    """The client's address, or ``unknown``."""
    return request[_REMOTE]


def is_local(request: web.Request) -> bool:
    """Whether the request was made on this machine (`consent-gateway call`), and not passed on by a proxy that runs here."""
    remote = remote_of(request)
    passed_on = any(name in request.headers for name in PASSED_ON)
    return remote != UNKNOWN and not passed_on and ipaddress.ip_address(remote).is_loopback


def behind(proxies: Networks) -> Middleware:
    """Middleware that finds out where each request comes from; addresses in *proxies* are believed when they name another."""

    @web.middleware
    async def find_remote(request: web.Request, handler: Handler) -> web.StreamResponse:
        named = [part for value in request.headers.getall(FORWARDED_FOR, []) for part in value.split(",")]
        request[_REMOTE] = client_of(request.remote or "", named, proxies)
        return await handler(request)

    return find_remote


def client_of(peer: str, named: Sequence[str], proxies: Networks) -> str:
    """The last address on the way here that is none of *proxies*: *peer*, or one of *named*, the nearest of which stands last."""
    address = _address(peer)
    left = list(named)
    while left and address is not None and any(address in network for network in proxies):
        address = _address(left.pop())
    return str(address) if address is not None else UNKNOWN


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address as it stands in a header: perhaps with a port, an IPv6 one perhaps in brackets or with a zone."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (ip.ipv4_mapped or ip) if isinstance(ip, ipaddress.IPv6Address) else ip

"""UDP ports for media: pairs from a range, RTP on the even one, RTCP on the odd one above (RFC 3550 §11)."""

from __future__ import annotations

import socket
import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

from gateway.telephony.errors import TransportFailed

SO_TIMESTAMPNS = 35
"""Linux: the kernel stamps each packet with the time it came, which no scheduling of ours can blur."""

_MOST_WAITING = 1000
_OCTETS = 2048


@dataclass(frozen=True, slots=True, eq=False)
class PortPair:
    """Two bound sockets; *number* is the even port."""

    number: int
    rtp: socket.socket
    rtcp: socket.socket

    def drain(self) -> None:
        """Throw away what has come so far."""
        for sock in (self.rtp, self.rtcp):
            with suppress(OSError):
                for _ in range(_MOST_WAITING):
                    sock.recv(_OCTETS)


class PortRange:
    """Lends pairs; those that were given back come last, so that late packets of a call find nobody."""

    def __init__(self, address: str, ports: range) -> None:
        self._address = address
        self._free = deque(range(ports.start + ports.start % 2, ports.stop - 1, 2))

    def __len__(self) -> int:
        """Pairs that are free."""
        return len(self._free)

    def reserve(self, host: str) -> PortPair:
        """A pair that *host*, an address of ours, can be reached at. Raises TransportFailed when all are in use."""
        address = self._address
        if ":" in host and ":" not in address:
            address = "::"
        elif ":" not in host and ":" in address:
            address = "0.0.0.0"
        for _ in range(len(self._free)):
            number = self._free.popleft()
            bound: list[socket.socket] = []
            try:
                for port in (number, number + 1):
                    bound.append(_bind(address, port))
            except OSError:
                for sock in bound:
                    sock.close()
                self._free.append(number)
                continue
            return PortPair(number, bound[0], bound[1])
        raise TransportFailed("no RTP port is free: widen media.ports or lower the number of calls")

    def release(self, pair: PortPair) -> None:
        """Give a pair back; once is enough."""
        if pair.rtp.fileno() < 0:
            return
        pair.rtp.close()
        pair.rtcp.close()
        self._free.append(pair.number)


def _bind(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if sys.platform == "linux":
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock

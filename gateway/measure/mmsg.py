"""Many datagrams in one system call: Linux sendmmsg(2) and recvmmsg(2), their tables kept in numpy.

A thousand calls are fifty thousand packets a second each way; a peer that measures must cost next to nothing for one.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SO_TIMESTAMPNS = 35
IP_PKTINFO = 8
_NO_WAIT = 0x40
_SO_MEMINFO = 55
_MEMINFO_DROPS = 8
_MEMINFO_OCTETS = 36

NAME = np.dtype([("family", "<u2"), ("port", ">u2"), ("address", ">u4"), ("zero", "V8")])
"""struct sockaddr_in."""

_VECTOR = np.dtype([("base", "<u8"), ("length", "<u8")])
HEADER = np.dtype(
    [
        ("name", "<u8"), ("name_length", "<u4"), ("_1", "<u4"), ("vector", "<u8"), ("vectors", "<u8"),
        ("control", "<u8"), ("control_length", "<u8"), ("flags", "<i4"), ("_2", "<u4"), ("octets", "<u4"),
        ("_3", "<u4"),
    ]
)  # fmt: skip
"""struct mmsghdr of a 64-bit Linux."""

PACKET_INFO = np.dtype(
    [
        ("size", "<u8"),
        ("level", "<i4"),
        ("kind", "<i4"),
        ("interface", "<i4"),
        ("source", ">u4"),
        ("to", ">u4"),
        ("_", "<u4"),
    ]
)
"""The cmsg that names the address to send from (ip(7), IP_PKTINFO)."""

STAMP = np.dtype([("size", "<u8"), ("level", "<i4"), ("kind", "<i4"), ("seconds", "<i8"), ("nanoseconds", "<i8")])
"""The cmsg that says when the kernel got the packet (socket(7), SO_TIMESTAMPNS)."""


@cache
def _linux(name: str) -> Any:
    """The system call *name*. Raises OSError where there is none."""
    found = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if found is None:
        raise OSError(errno.ENOSYS, f"{name} is Linux's; this machine is not measured with it")
    more = [ctypes.c_void_p] if name == "recvmmsg" else []
    found.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, *more]
    found.restype = ctypes.c_int
    return found


class Outbox:
    """A row a call: where its packet of *octets* lies, where it goes, and from which address.

    ``packets`` and ``names`` are written by the owner; :meth:`send` takes rows of ``headers``, copied together.
    """

    def __init__(self, rows: int, octets: int) -> None:
        self.packets = np.zeros((rows, octets), np.uint8)
        self.names = np.zeros(rows, NAME)
        self.names["family"] = socket.AF_INET
        self._info = np.zeros(rows, PACKET_INFO)
        self._info["size"], self._info["kind"] = 28, IP_PKTINFO
        self._vectors = np.zeros(rows, _VECTOR)
        self._vectors["base"] = _addresses(self.packets)
        self._vectors["length"] = octets
        self.headers = np.zeros(rows, HEADER)
        self.headers["name"], self.headers["name_length"] = _addresses(self.names), NAME.itemsize
        self.headers["vector"], self.headers["vectors"] = _addresses(self._vectors), 1
        self.headers["control"], self.headers["control_length"] = _addresses(self._info), PACKET_INFO.itemsize

    @property
    def lengths(self) -> NDArray[np.uint64]:
        """How many octets of each row's packet are sent; may be written."""
        lengths: NDArray[np.uint64] = self._vectors["length"]
        return lengths

    @property
    def sources(self) -> Any:
        """The address that each row is sent from, as a number; may be written."""
        return self._info["source"]

    @staticmethod
    def send(fd: int, headers: NDArray[Any], count: int) -> int:
        """Send the first *count* rows; how many left."""
        sent, sendmmsg = 0, _linux("sendmmsg")
        while sent < count:
            done = sendmmsg(fd, headers.ctypes.data + sent * HEADER.itemsize, count - sent, _NO_WAIT)
            if done <= 0:
                return sent
            sent += done
        return sent


class Inbox:
    """What arrived at any number of sockets since it was last emptied, with the kernel's time stamps."""

    def __init__(self, rows: int, octets: int) -> None:
        self.rows = rows
        self.count = 0
        self.packets = np.zeros((rows, octets), np.uint8)
        self.names = np.zeros(rows, NAME)
        self.stamps = np.zeros(rows, STAMP)
        self._vectors = np.zeros(rows, _VECTOR)
        self._vectors["base"], self._vectors["length"] = _addresses(self.packets), octets
        self._headers = np.zeros(rows, HEADER)
        self._headers["name"] = _addresses(self.names)
        self._headers["vector"], self._headers["vectors"] = _addresses(self._vectors), 1
        self._headers["control"] = _addresses(self.stamps)
        self._base = self._headers.ctypes.data
        self._recvmmsg = _linux("recvmmsg")
        self.clear()

    @property
    def octets(self) -> Any:
        """The length of each packet."""
        return self._headers["octets"]

    @property
    def full(self) -> bool:
        return self.count >= self.rows

    def times(self) -> NDArray[np.int64]:
        """When the kernel got each, ns of CLOCK_REALTIME."""
        stamps = self.stamps[: self.count]
        return np.asarray(stamps["seconds"] * 1_000_000_000 + stamps["nanoseconds"], np.int64)

    def receive(self, fd: int, most: int) -> int:
        """Take up to *most* waiting datagrams of *fd*; how many came. Raises OSError."""
        most = min(most, self.rows - self.count)
        if most <= 0:
            return 0
        came = int(self._recvmmsg(fd, self._base + self.count * HEADER.itemsize, most, _NO_WAIT, None))
        if came < 0:
            error = ctypes.get_errno()
            if error in (errno.EAGAIN, errno.EINTR, errno.ECONNREFUSED):
                return 0
            raise OSError(error, f"recvmmsg: {os.strerror(error)}")
        self.count += came
        return came

    def clear(self) -> None:
        used = self._headers[: self.count] if self.count else self._headers
        used["name_length"], used["control_length"] = NAME.itemsize, STAMP.itemsize
        self.count = 0


def _addresses(array: NDArray[Any]) -> NDArray[np.uint64]:
    """Where in memory each row of *array* begins."""
    return np.asarray(array.ctypes.data + np.arange(len(array)) * array.strides[0], np.uint64)


def open_socket(address: str, port: int) -> socket.socket:
    """A UDP socket that stamps what it gets. Raises OSError when the port is taken."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_000_000)
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock


def dropped(sock: socket.socket) -> int:
    """Datagrams that found the receive buffer of *sock* full (the kernel counts them)."""
    raw = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_OCTETS)
    return int.from_bytes(raw[4 * _MEMINFO_DROPS :][:4], "little")

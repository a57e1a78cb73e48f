"""The RTP side of the load generator: a packet each 20 ms for each call, telephone-events, and RTCP both ways.

Each call has a loopback address of its own (127.1.x.y), as a thousand phones would have; a few calls share a socket,
so that one system call sends or takes the packets of several.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from gateway.measure.load_arrivals import Arrivals
from gateway.measure.load_sip import EVENT_TYPE, HostPort
from gateway.measure.mmsg import HEADER, IP_PKTINFO, Inbox, Outbox, dropped, open_socket

SLOTS = 10
"""Parts of a frame: calls begin at different moments, so a tenth of them sends every 2 ms."""

FRAME = 160
TICKS_PER_FRAME = 160
PER_SOCKET = 8
PORTS = range(61_000, 65_400)
"""Above the ephemeral ports, and not where the gateway's are."""

EVENT_EVERY, EVENT_FRAMES = 350, 7
"""Frames from key to key of a call (7 s); a key lasts 100 ms and its end is said three times (RFC 4733 §2.5.1.4)."""

REPORT_EVERY = 250
"""Frames from one sender report of a call to the next (5 s)."""

_FIRST_ADDRESS = 0x7F010001
_TAKEN_TOGETHER = 64
_INBOX = 8192
_PACKET = np.dtype(
    [("first", "u1"), ("second", "u1"), ("number", ">u2"), ("time", ">u4"), ("ssrc", ">u4"), ("payload", "V160")]
)
_EVENT = np.dtype([("key", "u1"), ("end", "u1"), ("duration", ">u2")])
_SENDER_REPORT = struct.Struct("!BBHIIIIIIIIIIII")
_BLOCK = struct.Struct("!IIIIII")
_INFO = struct.Struct("@iII")
_NTP_EPOCH = 2_208_988_800


class RtpLoad:
    """Room for *rows* calls that say *frames*, rows of 160 octets, over and over. Call :meth:`frame` each 20 ms, then
    :meth:`send` for each slot, and :meth:`receive` as often as can be.

    *mirror* sends every packet to its own call: what is measured then is the generator itself.
    """

    def __init__(self, rows: int, payload_type: int, frames: NDArray[np.uint8], *, mirror: bool = False) -> None:
        self.rows, self.mirror = rows, mirror
        self.arrivals = Arrivals(rows)
        self.sent = np.zeros(rows, np.int64)
        self.keys_sent = 0
        self.unsent = 0
        self.reports_sent = 0
        self.reports_received = 0
        self.reported_lost = np.zeros(rows, np.int64)
        self.reported_jitter = np.zeros(rows, np.int64)
        self._payload_type, self._frames, self._frame = payload_type, frames, 0
        self._outbox = Outbox(rows, _PACKET.itemsize)
        self._packets = self._outbox.packets.reshape(-1).view(_PACKET)
        self._events = self._outbox.packets[:, 12:16]
        self._outbox.sources[:] = _FIRST_ADDRESS + np.arange(rows)
        random = np.random.default_rng()
        self._numbers = random.integers(0, 1 << 15, rows).astype(np.uint16)
        self._times = random.integers(0, 1 << 31, rows).astype(np.uint32)
        self._packets["first"], self._packets["ssrc"] = 0x80, random.integers(1, 1 << 32, rows, np.uint32)
        self._event_times = np.zeros(rows, np.uint32)
        self._steps = np.zeros(rows, np.int64)
        self._active = np.zeros(rows, bool)
        self._report_heard = np.zeros(rows, np.uint32)
        self._report_heard_at = np.zeros(rows)
        self._of_port = np.full(65536, -1, np.int64)
        self._inbox = Inbox(_INBOX, 256)
        self._sockets, self._reports = self._open((rows + PER_SOCKET - 1) // PER_SOCKET)
        self._fds = [sock.fileno() for sock in self._sockets]
        self._live = [np.zeros(PER_SOCKET, HEADER) for _ in self._sockets]
        self._counts = [0] * len(self._sockets)
        self._changed: set[int] = set()
        self._epoll = select.epoll()
        for fd in self._fds:
            self._epoll.register(fd, select.EPOLLIN)
        self._report_epoll = select.epoll()
        for number, sock in enumerate(self._reports):
            self._report_epoll.register(sock.fileno(), select.EPOLLIN)
            assert number < len(self._fds)
        self._report_sockets = {sock.fileno(): sock for sock in self._reports}

    @property
    def dropped(self) -> int:
        """Packets that came but found our own buffers full: the generator's fault, not the gateway's."""
        return sum(dropped(sock) for sock in self._sockets)

    def close(self) -> None:
        self._epoll.close()
        self._report_epoll.close()
        for sock in (*self._sockets, *self._reports):
            sock.close()

    def media_of(self, row: int) -> HostPort:
        """The address that the call in *row* is heard at."""
        port: int = self._sockets[row // PER_SOCKET].getsockname()[1]
        return _dotted(_FIRST_ADDRESS + row), port

    def begin(self, row: int, remote: HostPort) -> None:
        """Send to *remote* from the next frame on, and know its packets by where they come from."""
        self.arrivals.begin(row)
        if self.mirror:
            remote = self.media_of(row)
        name = self._outbox.names[row : row + 1]
        name["address"], name["port"] = int.from_bytes(socket.inet_aton(remote[0]), "big"), remote[1]
        self._of_port[remote[1]] = row
        self._steps[row], self._report_heard[row] = 0, 0
        self.reported_lost[row] = self.reported_jitter[row] = 0
        self._packets["second"][row] = 0x80
        self._active[row] = True
        self._changed.add(row // PER_SOCKET)

    def end(self, row: int) -> None:
        """Send no more in *row* from the next frame on, and count no more."""
        self._active[row] = False
        self._changed.add(row // PER_SOCKET)

    def frame(self) -> None:
        """Settle what came, and make the next packet of every call."""
        self._settle()
        for group in self._changed:
            rows = group * PER_SOCKET + np.flatnonzero(self._active[group * PER_SOCKET : (group + 1) * PER_SOCKET])
            self._counts[group] = len(rows)
            self._live[group][: len(rows)] = self._outbox.headers[rows]
        self._changed.clear()
        self._numbers += 1
        self._times += TICKS_PER_FRAME
        packets = self._packets
        packets["number"], packets["time"] = self._numbers, self._times
        packets["second"] = self._payload_type
        self._outbox.packets[:, 12:] = self._frames[self._frame % len(self._frames)]
        self._outbox.lengths[:] = _PACKET.itemsize
        self._press()
        self.sent[self._active] += 1
        self._report()
        self._frame += 1

    def send(self, slot: int) -> None:
        for group in range(slot, len(self._fds), SLOTS):
            count = self._counts[group]
            if count:
                self.unsent += count - self._outbox.send(self._fds[group], self._live[group], count)

    def receive(self) -> None:
        """Take what waits; what it says is settled with the next frame."""
        for fd, _ in self._epoll.poll(0):
            while not self._inbox.full and self._inbox.receive(fd, _TAKEN_TOGETHER) == _TAKEN_TOGETHER:
                pass
        if self._inbox.count > _INBOX // 2:
            self._settle()

    def receive_reports(self) -> None:
        """Take the gateway's RTCP."""
        for fd, _ in self._report_epoll.poll(0):
            with suppress(OSError):
                while True:
                    data, source = self._report_sockets[fd].recvfrom(1500)
                    self._hear(data, int(self._of_port[source[1] - 1]))

    def _settle(self) -> None:
        inbox = self._inbox
        if not inbox.count:
            return
        names = inbox.names[: inbox.count]
        addresses, ports = names["address"].astype(np.int64), names["port"]
        rows = addresses - _FIRST_ADDRESS if self.mirror else self._of_port[ports]
        rows[(rows >= 0) & ~self._active[rows]] = -1
        self.arrivals.take(inbox, rows)
        inbox.clear()

    def _press(self) -> None:
        """Keys: telephone-events stand in for audio while they last, and bear the time of their beginning."""
        rows = np.arange(self.rows)
        pressed = self._active & (self._steps == 0) & ((self._frame + 37 * rows) % EVENT_EVERY == 0)
        self._event_times[pressed] = self._times[pressed]
        self._steps[pressed] = 1
        self._steps[~self._active] = 0
        held = np.flatnonzero(self._steps > 0)
        if not held.size:
            return
        steps = self._steps[held]
        last = EVENT_FRAMES - 2
        self.keys_sent += int(np.sum((steps == last) & self._active[held]))
        event = np.zeros(held.size, _EVENT)
        event["key"] = held % 10
        event["end"] = np.where(steps >= last, 0x80, 0) | 10
        event["duration"] = np.minimum(steps, last) * TICKS_PER_FRAME
        self._events[held] = event.view(np.uint8).reshape(-1, 4)
        self._packets["second"][held] = EVENT_TYPE | np.where(steps == 1, 0x80, 0)
        self._packets["time"][held] = self._event_times[held]
        self._outbox.lengths[held] = 16
        self._steps[held] = np.where(steps == EVENT_FRAMES, 0, steps + 1)

    def _report(self) -> None:
        """SR with one report block, and CNAME, of the calls whose turn it is (RFC 3550 §6.4.1, §6.5)."""
        turn = np.flatnonzero((self._frame + np.arange(self.rows)) % REPORT_EVERY == 0)
        for row in turn[self._active[turn]].tolist():
            now = time.time()
            arrivals = self.arrivals
            seconds, fraction = int(now) + _NTP_EPOCH, int((now % 1) * (1 << 32))
            heard = int(self._report_heard[row])
            delay = int((now - self._report_heard_at[row]) * 65536) if heard else 0
            lost = max(0, int(arrivals.lost_of(row))) & 0xFFFFFF
            packet = _SENDER_REPORT.pack(
                0x81, 200, 12, int(self._packets["ssrc"][row]), seconds & 0xFFFFFFFF, fraction, int(self._times[row]),
                int(self.sent[row]), int(self.sent[row]) * FRAME, int(arrivals.ssrc[row]), lost,
                int(arrivals.highest[row]) & 0xFFFFFFFF, 0, heard, delay & 0xFFFFFFFF,
            )  # fmt: skip
            name = f"load{row}".encode()
            chunk = struct.pack("!IBB", int(self._packets["ssrc"][row]), 1, len(name)) + name + b"\0"
            chunk += b"\0" * (-len(chunk) % 4)
            packet += struct.pack("!BBH", 0x81, 202, len(chunk) // 4) + chunk
            self._send_report(row, packet)

    def _send_report(self, row: int, packet: bytes) -> None:
        source = socket.htonl(_FIRST_ADDRESS + row)
        name = self._outbox.names[row]
        target = _dotted(int(name["address"])), int(name["port"]) + 1
        info = [(socket.IPPROTO_IP, IP_PKTINFO, _INFO.pack(0, source, 0))]
        with suppress(OSError):
            self._reports[row // PER_SOCKET].sendmsg([packet], info, 0, target)
            self.reports_sent += 1

    def _hear(self, packet: bytes, row: int) -> None:
        """A compound of the far end's; only its SR and RR are read."""
        if row < 0 or not self._active[row]:
            return
        self.reports_received += 1
        while len(packet) >= 8:
            first, kind, words = struct.unpack_from("!BBH", packet)
            part, packet = packet[: 4 * words + 4], packet[4 * words + 4 :]
            at = {200: 28, 201: 8}.get(kind)
            if at is None:
                continue
            if kind == 200 and len(part) >= 28:
                self._report_heard[row] = int.from_bytes(part[10:14], "big")
                self._report_heard_at[row] = time.time()
            if first & 31 and len(part) >= at + _BLOCK.size:
                _, lost, _, jitter, _, _ = _BLOCK.unpack_from(part, at)
                self.reported_lost[row] = (lost & 0xFFFFFF) - ((lost & 0x800000) << 1)
                self.reported_jitter[row] = max(int(self.reported_jitter[row]), jitter)

    @staticmethod
    def _open(number: int) -> tuple[list[socket.socket], list[socket.socket]]:
        """*number* pairs of sockets on even ports and the next. Raises OSError when there are not as many."""
        pairs: list[tuple[socket.socket, socket.socket]] = []
        for port in range(PORTS.start, PORTS.stop, 2):
            if len(pairs) == number:
                break
            with suppress(OSError):
                first = open_socket("0.0.0.0", port)
                try:
                    pairs.append((first, open_socket("0.0.0.0", port + 1)))
                except OSError:
                    first.close()
        if len(pairs) < number:
            for pair in pairs:
                for sock in pair:
                    sock.close()
            raise OSError(f"only {len(pairs)} of {number} pairs of ports are free in {PORTS.start}-{PORTS.stop}")
        return [first for first, _ in pairs], [second for _, second in pairs]


def _dotted(address: int) -> str:
    return socket.inet_ntoa(address.to_bytes(4, "big"))


def audio(payload_type: int, seconds: int = 10) -> NDArray[np.uint8]:
    """Something like speech in frames of 160 octets: bursts of a wandering tone in noise, with pauses."""
    from gateway.audio.g711 import encode  # noqa: PLC0415 - only the codec tables

    rate = 16_000 if payload_type == 9 else 8_000
    at = np.arange(seconds * rate) / rate
    loud = 0.5 * (1 + np.sign(np.sin(2 * np.pi * 0.7 * at))) * (1 + np.sin(2 * np.pi * 4 * at))
    noise = np.random.default_rng(1).normal(0, 300, at.size)
    samples = np.asarray(4000 * loud * np.sin(2 * np.pi * (180 * at + 20 * np.sin(2 * np.pi * at))) + noise, np.int16)
    if payload_type == 9:
        import G722  # noqa: PLC0415

        octets = bytes(G722.G722(rate, 64_000).encode(samples))
    else:
        octets = encode(samples, "PCMA" if payload_type == 8 else "PCMU")
    whole = len(octets) // FRAME * FRAME
    return np.frombuffer(octets[:whole], np.uint8).reshape(-1, FRAME)

"""A bench for media without a clock: a real stream on loopback sockets, its far end and a stranger, ticked by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from socket import AF_INET, SOCK_DGRAM, SOCK_NONBLOCK, socket

from gateway.audio.codec import STATIC_TYPES, Codec
from gateway.telephony.crypto import Protection
from gateway.telephony.ports import PortPair
from gateway.telephony.recorder import Recorder
from gateway.telephony.rtp import HEADER, RtpPacket, parse_rtp
from gateway.telephony.sdp import MediaTerms
from gateway.telephony.stream import MediaStream

EVENTS, COMFORT = 101, 13
DELAY = 3
"""Frames that the play-out buffer holds back."""

SSRC = 0xDEADBEEF
NOW = 1_800_000_000.0


def udp() -> socket:
    made = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK)
    made.bind(("127.0.0.1", 0))
    return made


def packet(
    payload: bytes = b"\xd5" * 160, *, kind: int = 8, sequence: int = 7, timestamp: int = 0, first: int = 0x80,
    marker: bool = False, ssrc: int = SSRC,
) -> bytes:  # fmt: skip
    return HEADER.pack(first, kind | (0x80 if marker else 0), sequence, timestamp, ssrc) + payload


def drained(sock: socket) -> list[bytes]:
    """What *sock* has received."""
    found = []
    while True:
        try:
            found.append(sock.recv(4096))
        except BlockingIOError:
            return found


@dataclass
class Far:
    """One who sends and receives: audio on one socket, reports on the other."""

    rtp: socket
    rtcp: socket

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.rtp.getsockname()
        return host, port

    def heard(self) -> list[RtpPacket]:
        return [parse_rtp(data) for data in drained(self.rtp)]

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()


class Line:
    """A stream in A-law, or another codec. The kernel delivers loopback datagrams before sendto returns."""

    def __init__(
        self,
        codec: Codec = "PCMA",
        *,
        recorder: Recorder | None = None,
        protection: Protection | None = None,
        timeout_s: float = 0.0,
        change: Callable[[MediaTerms], MediaTerms] = lambda terms: terms,
    ) -> None:
        self.far, self.stranger = Far(udp(), udp()), Far(udp(), udp())
        rtp = udp()
        self.ports = PortPair(rtp.getsockname()[1], rtp, udp())
        self.kind = STATIC_TYPES[codec]
        terms = change(MediaTerms(codec, self.kind, EVENTS, self.far.address, comfort_type=COMFORT))
        terms = replace(terms, rtcp=terms.rtcp or self.far.rtcp.getsockname())
        self.now = NOW
        self.stream = MediaStream(
            self.ports, terms, recorder, wall=lambda: self.now, protection=protection, timeout_s=timeout_s
        )
        self.frames: list[tuple[bytes, bytes]] = []
        """What was heard and sent, as the tap was given it."""
        self.keys: list[str] = []
        self.failures: list[str] = []
        self.stream.tap = lambda heard, sent: self.frames.append((heard, sent))
        self.stream.on_key = self.keys.append
        self.stream.on_failure = self.failures.append
        self._spoken = 0

    @property
    def heard(self) -> list[bytes]:
        return [heard for heard, _ in self.frames]

    def put(self, data: bytes, *, by: Far | None = None) -> None:
        """*data* arrives on the port of the audio."""
        (by or self.far).rtp.sendto(data, self.ports.rtp.getsockname())
        self.stream.receive()

    def report(self, data: bytes, *, by: Far | None = None) -> None:
        """*data* arrives on the port of the reports."""
        (by or self.far).rtcp.sendto(data, self.ports.rtcp.getsockname())
        self.stream.receive_report()

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            self.stream.tick()
            self.now += 0.02

    def speak(self, *octets: int) -> None:
        """One frame of each octet, and a tick for each."""
        for octet in octets:
            number = self._spoken
            self.put(packet(bytes([octet]) * 160, kind=self.kind, sequence=number, timestamp=160 * number))
            self._spoken += 1
            self.tick()

    def change(self, **terms: object) -> None:
        """The far end renegotiates."""
        self.stream.renegotiate(replace(self.stream.terms, **terms))  # type: ignore[arg-type]

    def close(self) -> None:
        for each in (self.far, self.stranger):
            each.close()
        self.ports.rtp.close()
        self.ports.rtcp.close()

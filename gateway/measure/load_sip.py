"""The calling side of the load generator in SIP: as little text as a correct UAC (RFC 3261) can do with.

None of the gateway's own SIP code is used: a fault there must not cancel itself out here.
"""

from __future__ import annotations

import heapq
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import count
from secrets import token_hex
from typing import Literal

from gateway.measure.mmsg import SO_TIMESTAMPNS, open_socket

HostPort = tuple[str, int]
State = Literal["inviting", "up", "leaving", "over"]
Codec = Literal["PCMA", "PCMU", "G722"]

PAYLOAD_TYPES: dict[Codec, int] = {"PCMA": 8, "PCMU": 0, "G722": 9}
"""RFC 3551 table 4. G.722 has a clock of 8000 there, though it samples at 16 kHz."""

EVENT_TYPE = 101
T1_S, T2_S = 0.5, 4.0
GIVE_UP_S = 32.0
"""Timers B and F: 64 T1."""

_STAMP = struct.Struct("qq")
_ANSWER = re.compile(rb"^(?:call-id|i)[ \t]*:[ \t]*\d+-(\d+)@", re.IGNORECASE | re.MULTILINE)
_CSEQ = re.compile(rb"^cseq[ \t]*:[ \t]*(\d+)[ \t]+(\w+)", re.IGNORECASE | re.MULTILINE)
_TO = re.compile(rb"^(?:to|t)[ \t]*:[ \t]*([^\r]+)", re.IGNORECASE | re.MULTILINE)
_CONTACT = re.compile(rb"^(?:contact|m)[ \t]*:[ \t]*<?(sips?:[^>;\r]+)", re.IGNORECASE | re.MULTILINE)
_CONNECTION = re.compile(rb"^c=IN IP4 ([\d.]+)", re.MULTILINE)
_AUDIO = re.compile(rb"^m=audio (\d+)", re.MULTILINE)
_ECHOED = re.compile(rb"^(?:via|v|from|f|to|t|call-id|i|cseq)[ \t]*:[^\r]*\r\n", re.IGNORECASE | re.MULTILINE)


@dataclass(slots=True, eq=False)
class Leg:
    """One call as the caller sees it. *row* is its place in the RTP tables."""

    number: int
    row: int
    media: HostPort
    state: State = "inviting"
    to: str = ""
    target: str = ""
    invited_ns: int = 0
    remote: HostPort = ("", 0)
    up_s: float = 0.0
    failure: str = ""


@dataclass(slots=True)
class SipFigures:
    """*setup_ms*: INVITE to 200, by the kernel's stamp of the 200. *failures*: by status, or by name where there is
    none; *ended*: those that did not fail.
    """

    setup_ms: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    placed: int = 0
    answered: int = 0
    ended: int = 0
    resent: int = 0


@dataclass(slots=True)
class _Pending:
    """A request that no final response has come to."""

    leg: Leg
    method: str
    packet: bytes
    began: float
    wait: float = T1_S


class SipLoad:
    """Places and ends calls to *target* over one UDP socket. *on_up* and *on_over* are told of each leg."""

    def __init__(
        self,
        target: HostPort,
        codec: Codec,
        on_up: Callable[[Leg], None],
        on_over: Callable[[Leg], None],
        port: int = 0,
    ) -> None:
        host = "127.0.0.1"
        self.figures = SipFigures()
        self.socket = open_socket(host, port)
        self._here = f"{host}:{self.socket.getsockname()[1]}"
        self._host = host
        self._target, self._codec = target, codec
        self._on_up, self._on_over = on_up, on_over
        self._run = int(token_hex(4), 16)
        self._legs: dict[int, Leg] = {}
        self._pending: dict[tuple[int, str], _Pending] = {}
        self._timers: list[tuple[float, int, _Pending]] = []
        self._order = count()

    def __len__(self) -> int:
        """Legs that are not over."""
        return len(self._legs)

    def legs(self) -> Collection[Leg]:
        """Those that are not over."""
        return self._legs.values()

    def close(self) -> None:
        self.socket.close()

    def invite(self, leg: Leg, now: float) -> None:
        self._legs[leg.number] = leg
        leg.target, leg.to = f"sip:bench@{self._target[0]}:{self._target[1]}", f"<sip:bench@{self._target[0]}>"
        self.figures.placed += 1
        packet = self._request(leg, "INVITE", 1, self._offer(leg))
        leg.invited_ns = time.time_ns()
        self._ask(leg, "INVITE", packet, now)

    def bye(self, leg: Leg, now: float) -> None:
        leg.state = "leaving"
        self._ask(leg, "BYE", self._request(leg, "BYE", 2), now)

    def receive(self, now: float) -> None:
        """Take everything that waits."""
        while True:
            try:
                data, extra, _, source = self.socket.recvmsg(8192, 64)
            except OSError:
                return
            stamp = next(
                (value for level, kind, value in extra if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS)), b""
            )
            seconds, nanoseconds = _STAMP.unpack(stamp) if stamp else divmod(time.time_ns(), 1_000_000_000)
            self._take(data, source, seconds * 1_000_000_000 + nanoseconds, now)

    def timers(self, now: float) -> None:
        """Send again what is due, and give up what has waited 32 s."""
        while self._timers and self._timers[0][0] <= now:
            _, _, pending = heapq.heappop(self._timers)
            if self._pending.get((pending.leg.number, pending.method)) is not pending:
                continue
            if now - pending.began >= GIVE_UP_S:
                self._over(pending.leg, f"{pending.method} never answered")
                continue
            self.figures.resent += 1
            self._send(pending.packet)
            pending.wait = 2 * pending.wait if pending.method == "INVITE" else min(2 * pending.wait, T2_S)
            self._later(pending, now)

    def _ask(self, leg: Leg, method: str, packet: bytes, now: float) -> None:
        pending = self._pending[leg.number, method] = _Pending(leg, method, packet, now)
        self._send(packet)
        self._later(pending, now)

    def _later(self, pending: _Pending, now: float) -> None:
        due = min(now + pending.wait, pending.began + GIVE_UP_S)
        heapq.heappush(self._timers, (due, next(self._order), pending))

    def _send(self, packet: bytes) -> None:
        try:
            self.socket.sendto(packet, self._target)
        except OSError:
            self.figures.failures["unsent"] += 1

    def _take(self, data: bytes, source: HostPort, at_ns: int, now: float) -> None:
        found, cseq = _ANSWER.search(data), _CSEQ.search(data)
        leg = self._legs.get(int(found[1])) if found else None
        if cseq is None:
            self.figures.failures["malformed"] += 1
        elif not data.startswith(b"SIP/2.0 "):
            self._take_request(data, source, leg)
        elif leg is not None:
            status, method = int(data[8:11]), cseq[2].decode()
            if method == "INVITE" and status >= 200:
                self._take_invite_response(leg, status, data, at_ns, now)
            elif method == "BYE" and status >= 200:
                self._over(leg, "")

    def _take_invite_response(self, leg: Leg, status: int, data: bytes, at_ns: int, now: float) -> None:
        self._pending.pop((leg.number, "INVITE"), None)
        to = _TO.search(data)
        leg.to = to[1].decode() if to else leg.to
        if status >= 300:
            self._send(self._request(leg, "ACK", 1))
            if leg.state == "inviting":
                self._over(leg, str(status))
            return
        again, leg.state = leg.state != "inviting", "up" if leg.state == "inviting" else leg.state
        contact, connection, audio = _CONTACT.search(data), _CONNECTION.search(data), _AUDIO.search(data)
        leg.target = contact[1].decode() if contact else leg.target
        self._send(self._request(leg, "ACK", 1))
        if again:
            self.figures.resent += 1
            return
        leg.up_s = now
        self.figures.setup_ms.append((at_ns - leg.invited_ns) / 1e6)
        self.figures.answered += 1
        if connection is None or audio is None:
            leg.failure = "200 without media"
            self.bye(leg, now)
            return
        leg.remote = connection[1].decode(), int(audio[1])
        self._on_up(leg)

    def _take_request(self, data: bytes, source: HostPort, leg: Leg | None) -> None:
        method = data[: data.index(b" ")] if b" " in data[:12] else b""
        if method == b"ACK":
            return
        status = b"200 OK" if leg is not None else b"481 Call/Transaction Does Not Exist"
        echoed = b"".join(_ECHOED.findall(data))
        self.socket.sendto(b"SIP/2.0 " + status + b"\r\n" + echoed + b"Content-Length: 0\r\n\r\n", source)
        if method == b"BYE" and leg is not None:
            self._over(leg, "ended by the gateway" if leg.state == "up" else "")

    def _over(self, leg: Leg, failure: str) -> None:
        if leg.state == "over":
            return
        failure = failure or leg.failure
        if failure:
            self.figures.failures[failure] += 1
        else:
            self.figures.ended += 1
        leg.state = "over"
        self._pending.pop((leg.number, "INVITE"), None)
        self._pending.pop((leg.number, "BYE"), None)
        del self._legs[leg.number]
        self._on_over(leg)

    def _request(self, leg: Leg, method: str, cseq: int, body: bytes = b"") -> bytes:
        branch = "bye" if method == "BYE" else "invite" if method == "INVITE" or leg.state == "inviting" else "ack"
        head = [
            f"{method} {leg.target} SIP/2.0",
            f"Via: SIP/2.0/UDP {self._here};branch=z9hG4bK{self._run}{branch}{leg.number};rport",
            "Max-Forwards: 70",
            f"From: <sip:+8210{leg.number % 100_000_000:08}@{self._host}>;tag={self._run}{leg.number}",
            f"To: {leg.to}",
            f"Call-ID: {self._run}-{leg.number}@{self._host}",
            f"CSeq: {cseq} {method}",
        ]
        if body:
            head += [f"Contact: <sip:load@{self._here}>", "Content-Type: application/sdp"]
        return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body

    def _offer(self, leg: Leg) -> bytes:
        kind = PAYLOAD_TYPES[self._codec]
        host, port = leg.media
        return (
            f"v=0\r\no=- {leg.number} 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n"
            f"m=audio {port} RTP/AVP {kind} {EVENT_TYPE}\r\na=rtpmap:{kind} {self._codec}/8000\r\n"
            f"a=rtpmap:{EVENT_TYPE} telephone-event/8000\r\na=fmtp:{EVENT_TYPE} 0-15\r\na=ptime:20\r\na=sendrecv\r\n"
        ).encode()

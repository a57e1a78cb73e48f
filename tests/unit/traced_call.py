"""Calls as their traces hold them, made line by line, so that a test says only what is special about its call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.telephony.message import HostPort
from gateway.telephony.report import MediaReport
from gateway.telephony.trace import Trace, TracedMessage

US: HostPort = ("192.0.2.1", 5060)
PEER: HostPort = ("198.51.100.7", 5070)
OTHER: HostPort = ("198.51.100.8", 5070)
START = 1_700_000_000.0


def sdp(
    address: str = PEER[0],
    port: int = 4000,
    formats: str = "8 0 101",
    *lines: str,
    protocol: str = "RTP/AVP",
) -> str:
    body = [
        "v=0",
        "o=- 1 1 IN IP4 192.0.2.9",
        "s=-",
        f"c=IN IP4 {address}",
        "t=0 0",
        f"m=audio {port} {protocol} {formats}",
    ]
    return "\r\n".join([*body, "a=rtpmap:101 telephone-event/8000", *lines, ""])


def sip(start: str, cseq: str, *headers: str, branch: str = "z9hG4bK1", tag: str = "", body: str = "") -> bytes:
    lines = [
        start, f"Via: SIP/2.0/UDP 192.0.2.1;branch={branch}", "From: <sip:1@gw.example.com>;tag=a",
        f"To: <sip:2@pbx.example.com>{';tag=' + tag if tag else ''}", "Call-ID: dialog-1", f"CSeq: {cseq}", *headers,
        f"Content-Length: {len(body)}",
    ]  # fmt: skip
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@dataclass
class Call:
    """A trace that is being written: each step *after* seconds from the last."""

    remote: HostPort = PEER
    local: HostPort = US
    transport: str = "udp"
    messages: list[TracedMessage] = field(default_factory=list)
    now: float = START

    def out(self, data: bytes, after: float = 0.1) -> Call:
        return self._say(data, after, sent=True)

    def back(self, data: bytes, after: float = 0.1) -> Call:
        return self._say(data, after, sent=False)

    def _say(self, data: bytes, after: float, *, sent: bool) -> Call:
        self.now += after
        self.messages.append(TracedMessage(self.now, sent, self.transport, self.local, self.remote, data))
        return self

    def trace(self, report: MediaReport | dict[str, Any] | None = None, omitted: int = 0) -> Trace:
        told = report.as_dict() if isinstance(report, MediaReport) else report or {}
        return Trace("call-1", tuple(self.messages), told, omitted)


def answered(
    ours: str = sdp(US[0], 16384, "9 8 0 101"),
    theirs: str = sdp(),
    *,
    contact: str = "<sip:gw@192.0.2.1>",
    **where: Any,
) -> Call:
    """An outbound call from INVITE to BYE."""
    call = Call(**where)
    call.out(sip("INVITE sip:2@pbx SIP/2.0", "1 INVITE", f"Contact: {contact}", body=ours))
    call.back(sip("SIP/2.0 100 Trying", "1 INVITE"))
    call.back(sip("SIP/2.0 180 Ringing", "1 INVITE", tag="b"), 0.5)
    call.back(sip("SIP/2.0 200 OK", "1 INVITE", tag="b", body=theirs), 2.5)
    call.out(sip("ACK sip:2@pbx SIP/2.0", "1 ACK", branch="z9hG4bK2", tag="b"))
    call.out(sip("BYE sip:2@pbx SIP/2.0", "2 BYE", branch="z9hG4bK3", tag="b"), 20)
    return call.back(sip("SIP/2.0 200 OK", "2 BYE", branch="z9hG4bK3", tag="b"))


def healthy(**changes: Any) -> MediaReport:
    """The media of a call of 20 s in which all was well."""
    told: dict[str, Any] = {
        "codec": "PCMA", "local": (US[0], 16384), "remote": (PEER[0], 4000),
        "sent_packets": 1000, "sent_octets": 160_000, "received_packets": 998, "received_octets": 159_680,
        "jitter_ms": 1.5, "jitter_max_ms": 4.0, "rtt_ms": 20.0, "far_reports": 4, "far_lost_fraction": 0.0, "far_lost": 0,
        "far_jitter_ms": 2.0, "keys": 4, "first_packet_ms": 20, "last_packet_ms": 19_980, "longest_gap_ms": 60,
        "caller_speech_ms": 3000, "gateway_speech_ms": 9000, "ended_by": "caller", "reason": "hung up",
        "duration_ms": 20_000,
    }  # fmt: skip
    return MediaReport(**(told | changes))

"""RTP packets (RFC 3550 §5.1) and telephone events (RFC 4733 §2.3)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from gateway.telephony.errors import BadMessage

HEADER = struct.Struct("!BBHII")
EVENT = struct.Struct("!BBH")
DTMF_KEYS = "0123456789*#ABCD"
DTMF_VOLUME = 10


@dataclass(frozen=True, slots=True)
class RtpPacket:
    payload_type: int
    sequence: int
    timestamp: int
    ssrc: int
    marker: bool
    payload: bytes


@dataclass(frozen=True, slots=True)
class TelephoneEvent:
    """*duration* in timestamp units (1/8000 s)."""

    key: str
    end: bool
    duration: int


def parse_rtp(data: bytes) -> RtpPacket:
    """The packet in *data*. Raises BadMessage saying what is truncated or wrong."""
    if len(data) < HEADER.size:
        raise BadMessage(f"RTP packet has {len(data)} octets, its header takes 12")
    first, second, sequence, timestamp, ssrc = HEADER.unpack_from(data)
    if first >> 6 != 2:
        raise BadMessage(f"RTP packet has version {first >> 6}, not 2")
    start, end = HEADER.size + 4 * (first & 15), len(data)
    if start > end:
        raise BadMessage("RTP packet has truncated CSRC")
    if first & 0x10:
        if start + 4 > end:
            raise BadMessage("RTP packet has truncated extension header")
        start += 4 + 4 * int.from_bytes(data[start + 2 : start + 4], "big")
        if start > end:
            raise BadMessage("RTP packet has truncated extension")
    if first & 0x20:
        padding = data[-1]
        if not 0 < padding <= end - start:
            raise BadMessage(f"RTP packet has {padding} octets of padding in {end - start} of payload")
        end -= padding
    return RtpPacket(second & 0x7F, sequence, timestamp, ssrc, bool(second & 0x80), data[start:end])


def parse_event(payload: bytes) -> TelephoneEvent:
    """The telephone event in *payload*. Raises BadMessage."""
    if len(payload) < EVENT.size:
        raise BadMessage(f"telephone-event has {len(payload)} octets, not 4")
    event, flags, duration = EVENT.unpack_from(payload)
    if event >= len(DTMF_KEYS):
        raise BadMessage(f"telephone-event {event} is no DTMF key")
    return TelephoneEvent(DTMF_KEYS[event], bool(flags & 0x80), duration)


def event_payload(key: str, end: bool, duration: int) -> bytes:
    """The payload that reports *key*. Raises ValueError for what is no key."""
    return EVENT.pack(DTMF_KEYS.index(key), (0x80 if end else 0) | DTMF_VOLUME, min(duration, 0xFFFF))

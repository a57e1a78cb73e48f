"""RTCP (RFC 3550 §6): sender and receiver reports with the source's name, and goodbye. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from gateway.telephony.errors import BadMessage

SR, RR, SDES, BYE = 200, 201, 202, 203
_HEADER = struct.Struct("!BBHI")
_SENDER = struct.Struct("!IIIII")
_BLOCK = struct.Struct("!IIIIII")
_CNAME = 1
NTP_EPOCH = 2_208_988_800
"""Seconds from 1900 to 1970."""


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """What its sender says of *ssrc* (RFC 3550 §6.4.1). *fraction* is lost/256 since the last report, *jitter* in timestamp
    units, *last_sr* the middle of the NTP time of our last report, *delay* since then in 1/65536 s.
    """

    ssrc: int
    fraction: int
    lost: int
    highest: int
    jitter: int
    last_sr: int
    delay: int


@dataclass(frozen=True, slots=True)
class Report:
    """A sender or a receiver report. *ntp* is the sender's time in 1/2**32 s since 1900; None of a receiver report."""

    ssrc: int
    blocks: tuple[ReportBlock, ...]
    ntp: int | None = None
    rtp_timestamp: int = 0
    packets: int = 0
    octets: int = 0


@dataclass(frozen=True, slots=True)
class Goodbye:
    ssrcs: tuple[int, ...]


def is_rtcp(data: bytes) -> bool:
    """Whether a packet on a shared port is a report, and no audio (RFC 5761 §4)."""
    return len(data) >= 2 and 192 <= data[1] <= 223


def ntp_time(seconds: float) -> int:
    """NTP time in 1/2**32 s of *seconds* since 1970."""
    return int((seconds + NTP_EPOCH) * 2**32) & 0xFFFFFFFFFFFFFFFF


def middle(ntp: int) -> int:
    """The middle 32 bits of an NTP time, as LSR holds it."""
    return (ntp >> 16) & 0xFFFFFFFF


def make_report(report: Report, cname: str) -> bytes:
    """A compound packet: SR or RR, then SDES with *cname*."""
    kind = RR if report.ntp is None else SR
    body = b""
    if report.ntp is not None:
        body = _SENDER.pack(
            report.ntp >> 32, report.ntp & 0xFFFFFFFF, report.rtp_timestamp, report.packets & 0xFFFFFFFF,
            report.octets & 0xFFFFFFFF,
        )  # fmt: skip
    for block in report.blocks:
        lost = max(-0x800000, min(0x7FFFFF, block.lost)) & 0xFFFFFF
        body += _BLOCK.pack(
            block.ssrc, block.fraction << 24 | lost, block.highest, block.jitter, block.last_sr, block.delay
        )
    return _packet(kind, len(report.blocks), report.ssrc, body) + _named(report.ssrc, cname)


def make_goodbye(ssrc: int, cname: str) -> bytes:
    """The compound packet that ends a source: an empty RR, its name, BYE."""
    return _packet(RR, 0, ssrc, b"") + _named(ssrc, cname) + _packet(BYE, 1, ssrc, b"")


def parse_rtcp(data: bytes) -> Iterator[Report | Goodbye]:
    """The reports and goodbyes in a compound packet; what else it holds is passed over. Raises BadMessage in words."""
    if not data:
        raise BadMessage("RTCP packet is empty")
    while data:
        if len(data) < 4:
            raise BadMessage(f"RTCP packet has {len(data)} octets left, a header takes 4")
        first, kind, words = struct.unpack_from("!BBH", data)
        size = 4 * (words + 1)
        if first >> 6 != 2:
            raise BadMessage(f"RTCP packet has version {first >> 6}, not 2")
        if size > len(data):
            raise BadMessage(f"RTCP packet says {size} octets, {len(data)} are there")
        count = first & 31
        if kind in (SR, RR):
            yield _parse_report(kind, count, data[4:size])
        elif kind == BYE:
            if 4 * count > size - 4:
                raise BadMessage("RTCP BYE has truncated sources")
            yield Goodbye(struct.unpack_from(f"!{count}I", data, 4))
        data = data[size:]


def _parse_report(kind: int, count: int, body: bytes) -> Report:
    start = 4 + (_SENDER.size if kind == SR else 0)
    if len(body) < start + count * _BLOCK.size:
        raise BadMessage(f"RTCP report has {len(body)} octets for {count} blocks")
    (ssrc,) = struct.unpack_from("!I", body)
    blocks = tuple(_parse_block(body, start + i * _BLOCK.size) for i in range(count))
    if kind == RR:
        return Report(ssrc, blocks)
    high, low, timestamp, packets, octets = _SENDER.unpack_from(body, 4)
    return Report(ssrc, blocks, high << 32 | low, timestamp, packets, octets)


def _parse_block(body: bytes, at: int) -> ReportBlock:
    ssrc, losses, highest, jitter, last_sr, delay = _BLOCK.unpack_from(body, at)
    lost = losses & 0xFFFFFF
    return ReportBlock(
        ssrc, losses >> 24, lost - 0x1000000 if lost & 0x800000 else lost, highest, jitter, last_sr, delay
    )


def _packet(kind: int, count: int, ssrc: int, body: bytes) -> bytes:
    return _HEADER.pack(0x80 | count, kind, (len(body) + 4) // 4, ssrc) + body


def _named(ssrc: int, cname: str) -> bytes:
    name = cname.encode()[:255]
    items = bytes((_CNAME, len(name))) + name + b"\0"
    return _packet(SDES, 1, ssrc, items + b"\0" * (-len(items) % 4))

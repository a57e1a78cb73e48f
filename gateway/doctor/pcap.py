"""The messages of a trace as a packet file that Wireshark reads: IP and UDP headers are made anew, with right checksums.

Format: https://datatracker.ietf.org/doc/draft-ietf-opsawg-pcap/, microseconds, little endian, LINKTYPE_RAW (101). What went
over TCP or TLS is written as UDP: each message is a datagram, whole, and readable though it was encrypted on the wire.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable
from typing import BinaryIO

from gateway.telephony.message import HostPort
from gateway.telephony.trace import TracedMessage

MAGIC = 0xA1B2C3D4
VERSION = (2, 4)
SNAPLEN = 262_144
LINKTYPE_RAW = 101
UDP = 17
HOP_LIMIT = 64
MOST_PAYLOAD = 65_535 - 20 - 8
"""What one IPv4 datagram holds; a longer message (over TCP) is cut here."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def write_pcap(file: BinaryIO, messages: Iterable[TracedMessage]) -> int:
    """Write *messages* as a pcap file; returns their number."""
    file.write(struct.pack("<IHHiIII", MAGIC, *VERSION, 0, 0, SNAPLEN, LINKTYPE_RAW))
    count = 0
    for message in messages:
        source, target = (message.local, message.remote) if message.sent else (message.remote, message.local)
        packet = datagram(source, target, message.data[:MOST_PAYLOAD])
        seconds, microseconds = divmod(round(message.at * 1_000_000), 1_000_000)
        file.write(struct.pack("<IIII", seconds, microseconds, len(packet), len(packet)) + packet)
        count += 1
    return count


def datagram(source: HostPort, target: HostPort, payload: bytes) -> bytes:
    """An IP packet with *payload* in UDP (RFC 768, RFC 791, RFC 8200). IPv6 when either side is."""
    sender, receiver = _address(source[0]), _address(target[0])
    if sender.version != receiver.version:
        sender, receiver = _as_6(sender), _as_6(receiver)
    length = 8 + len(payload)
    if sender.version == 4:
        pseudo = sender.packed + receiver.packed + struct.pack("!BBH", 0, UDP, length)
    else:
        pseudo = sender.packed + receiver.packed + struct.pack("!IHBB", length, 0, 0, UDP)
    bare = struct.pack("!HHHH", source[1], target[1], length, 0)
    checksum = _checksum(pseudo + bare + payload) or 0xFFFF  # 0 would mean that there is none (RFC 768)
    udp = struct.pack("!HHHH", source[1], target[1], length, checksum) + payload
    if sender.version == 6:
        return struct.pack("!IHBB", 6 << 28, length, UDP, HOP_LIMIT) + sender.packed + receiver.packed + udp
    addresses = sender.packed + receiver.packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, HOP_LIMIT, UDP, 0)
    head = head[:10] + struct.pack("!H", _checksum(head + addresses))
    return head + addresses + udp


def _address(host: str) -> Address:
    """*host* as an address; one that is none, and IPv4 within IPv6, as the IPv4 address that it stands for."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ipaddress.IPv4Address(0)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _as_6(address: Address) -> ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv6Address):
        return address
    return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)


def _checksum(octets: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(octets) % 2:
        octets += b"\0"
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

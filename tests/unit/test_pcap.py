"""The packet file: read back by another's reader, checksums counted again by it."""

from __future__ import annotations

import io
import socket
import struct

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from traced_call import PEER, START, US, answered

from gateway.doctor.pcap import LINKTYPE_RAW, MOST_PAYLOAD, datagram, write_pcap
from gateway.telephony.message import HostPort
from gateway.telephony.trace import TracedMessage

US6: HostPort = ("2001:db8::1", 5060)
PEER6: HostPort = ("2001:db8::2", 5070)


def written(*messages: TracedMessage) -> dpkt.pcap.Reader:
    file = io.BytesIO()
    assert len(messages) == write_pcap(file, messages)
    file.seek(0)
    return dpkt.pcap.Reader(file)


def one(data: bytes, *, sent: bool = True, local: HostPort = US, remote: HostPort = PEER) -> TracedMessage:
    return TracedMessage(START, sent, "udp", local, remote, data)


def unpacked(packet: bytes) -> dpkt.ip.IP | dpkt.ip6.IP6:
    return dpkt.ip6.IP6(packet) if packet[0] >> 4 == 6 else dpkt.ip.IP(packet)


def assert_sums_hold(packet: bytes) -> None:
    """Every checksum in *packet* is what dpkt makes of it when it is told to count anew."""
    ip = unpacked(packet)
    told = ip.data.sum
    assert told != 0
    if isinstance(ip, dpkt.ip.IP):
        header = ip.sum
        ip.sum = 0
        ip.data.sum = 0
        again = dpkt.ip.IP(bytes(ip))
        assert (header, told) == (again.sum, again.data.sum)
    else:
        pseudo = ip.src + ip.dst + struct.pack("!II", ip.plen, ip.nxt)
        ip.data.sum = 0
        assert told == (dpkt.in_cksum(pseudo + bytes(ip.data)) or 0xFFFF)


class TestFile:
    def test_every_message_of_a_call_is_a_packet_at_its_time(self) -> None:
        messages = answered().messages
        reader = written(*messages)
        assert LINKTYPE_RAW == reader.datalink()
        packets = list(reader)
        assert [pytest.approx(m.at, abs=1e-6) for m in messages] == [float(at) for at, _ in packets]
        assert [m.data for m in messages] == [unpacked(packet).data.data for _, packet in packets]

    @pytest.mark.parametrize(("sent", "ports"), [(True, (5060, 5070)), (False, (5070, 5060))])
    def test_a_packet_goes_from_whom_it_went(self, sent: bool, ports: tuple[int, int]) -> None:
        ((_, packet),) = written(one(b"x", sent=sent))
        udp = unpacked(packet).data
        assert isinstance(udp, dpkt.udp.UDP)
        assert ports == (udp.sport, udp.dport)

    def test_an_empty_call_is_an_empty_file(self) -> None:
        assert [] == list(written())

    def test_a_time_just_before_a_second_does_not_overflow(self) -> None:
        ((at, _),) = written(one(b"x")._replace(at=START + 0.9999999))
        assert START + 1 == float(at)


class TestPackets:
    """RFC 791, RFC 8200, RFC 768, RFC 1071."""

    def test_ipv4(self) -> None:
        ip = unpacked(datagram(US, PEER, b"hello"))
        assert isinstance(ip, dpkt.ip.IP)
        assert (US[0], PEER[0], 33) == (socket.inet_ntoa(ip.src), socket.inet_ntoa(ip.dst), ip.len)

    def test_ipv6(self) -> None:
        ip = unpacked(datagram(US6, PEER6, b"hello"))
        assert isinstance(ip, dpkt.ip6.IP6)
        assert (US6[0], PEER6[0], 13) == (
            socket.inet_ntop(socket.AF_INET6, ip.src), socket.inet_ntop(socket.AF_INET6, ip.dst), ip.plen,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("source", "target", "version"),
        [
            (("::ffff:192.0.2.1", 1), ("198.51.100.7", 2), 4),
            (("192.0.2.1", 1), ("2001:db8::2", 2), 6),
            (("fe80::1%eth0", 1), ("fe80::2", 2), 6),
            (("no address", 1), ("198.51.100.7", 2), 4),
        ],
    )
    def test_odd_pairs_of_addresses(self, source: HostPort, target: HostPort, version: int) -> None:
        packet = datagram(source, target, b"x")
        assert version == packet[0] >> 4
        assert_sums_hold(packet)

    def test_a_message_too_long_for_a_datagram_is_cut(self) -> None:
        ((_, packet),) = written(one(b"x" * 70_000))
        assert (65_535, MOST_PAYLOAD) == (len(packet), len(unpacked(packet).data.data))

    @given(
        payload=st.binary(max_size=400),
        ports=st.tuples(st.integers(0, 65535), st.integers(0, 65535)),
        six=st.booleans(),
    )
    def test_the_checksums_are_right(self, payload: bytes, ports: tuple[int, int], six: bool) -> None:
        local, remote = (US6, PEER6) if six else (US, PEER)
        packet = datagram((local[0], ports[0]), (remote[0], ports[1]), payload)
        assert_sums_hold(packet)
        assert payload == unpacked(packet).data.data

    def test_a_sum_of_zero_is_sent_as_ones(self) -> None:
        """RFC 768: 0 would say that there is no checksum."""
        plain = datagram(US, PEER, b"\0\0")
        (checksum,) = struct.unpack("!H", plain[26:28])
        packet = datagram(US, PEER, struct.pack("!H", checksum))
        assert 0xFFFF == struct.unpack("!H", packet[26:28])[0]

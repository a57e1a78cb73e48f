"""NAPTR and SRV as they come from a real name server: one of a few lines, on loopback (RFC 1035, RFC 2782, RFC 3403)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from random import Random

import aiodns
import pytest

from gateway.telephony.errors import CallFailed
from gateway.telephony.location import Dns, Naptr, Srv, locate
from gateway.telephony.message import parse_sip_uri
from gateway.telephony.transport import Hop

SRV, NAPTR = 33, 35
NXDOMAIN = 3


def name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.split(".") if label) + b"\0"


def words(*texts: str) -> bytes:
    return b"".join(bytes([len(text)]) + text.encode() for text in texts)


def srv(priority: int, weight: int, port: int, target: str) -> bytes:
    return struct.pack("!HHH", priority, weight, port) + name(target)


def naptr(order: int, preference: int, service: str, replacement: str) -> bytes:
    return struct.pack("!HH", order, preference) + words("s", service, "") + name(replacement)


class Server(asyncio.DatagramProtocol):
    """Answers from *records*; of other names it says that they do not exist. A deaf one says nothing."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, int], list[bytes]] = {}
        self.asked: list[str] = []
        self.deaf = False

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport
        self.port: int = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        question, kind = data[12 : at + 5], int.from_bytes(data[at + 1 : at + 3], "big")
        asked = ".".join(labels).lower()
        self.asked.append(asked)
        if self.deaf:
            return
        found = self.records.get((asked, kind), [])
        flags = 0x8580 | (0 if found else NXDOMAIN)
        head = data[:2] + struct.pack("!HHHHH", flags, 1, len(found), 0, 0)
        answers = (b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(record)) + record for record in found)
        self.transport.sendto(head + question + b"".join(answers), addr)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    transport, made = await asyncio.get_running_loop().create_datagram_endpoint(Server, local_addr=("127.0.0.1", 0))
    yield made
    transport.close()


@pytest.fixture
async def dns(server: Server) -> AsyncIterator[Dns]:
    made = Dns()
    made._resolver = aiodns.DNSResolver(nameservers=["127.0.0.1"], udp_port=server.port, timeout=0.2, tries=2)
    yield made
    await made._resolver.close()


class TestRecords:
    async def test_srv_is_read_as_it_was_written(self, server: Server, dns: Dns) -> None:
        server.records["_sip._udp.example.com", SRV] = [
            srv(10, 60, 5060, "a.example.com"),
            srv(20, 0, 5070, "b.example.com"),
        ]
        found = await dns.srv("_sip._udp.example.com")
        assert {Srv(10, 60, 5060, "a.example.com"), Srv(20, 0, 5070, "b.example.com")} == {
            Srv(r.priority, r.weight, r.port, r.target.rstrip(".")) for r in found
        }

    async def test_naptr_is_read_as_it_was_written(self, server: Server, dns: Dns) -> None:
        server.records["example.com", NAPTR] = [naptr(50, 10, "sip+d2u", "_sip._udp.example.com")]
        (found,) = await dns.naptr("example.com")
        assert Naptr(50, 10, "SIP+D2U", "_sip._udp.example.com") == Naptr(
            found.order, found.preference, found.service, found.replacement.rstrip(".")
        )

    async def test_what_does_not_exist_is_nothing(self, dns: Dns) -> None:
        assert ([], []) == (await dns.naptr("example.com"), await dns.srv("_sip._udp.example.com"))

    async def test_nor_is_what_nobody_answers(self, server: Server, dns: Dns) -> None:
        """The addresses are asked next, and they fail loudly."""
        server.deaf = True
        assert [] == await dns.srv("_sip._udp.example.com")

    async def test_addresses_come_from_the_hosts_file_too(self, dns: Dns) -> None:
        assert "127.0.0.1" in await dns.addresses("localhost")


class TestLocating:
    """RFC 3263 §4, with the machine's own resolver for the addresses."""

    async def test_from_naptr_over_srv_to_the_address(self, server: Server, dns: Dns) -> None:
        server.records["example.com", NAPTR] = [
            naptr(20, 10, "SIP+D2U", "_sip._udp.example.com"), naptr(10, 10, "SIP+D2T", "_sip._tcp.example.com"),
        ]  # fmt: skip
        server.records["_sip._tcp.example.com", SRV] = [srv(0, 0, 5081, "localhost")]
        server.records["_sip._udp.example.com", SRV] = [srv(0, 0, 5080, "localhost")]
        hops = await locate(parse_sip_uri("sip:1@example.com"), dns, Random(1))
        v4 = [hop for hop in hops if hop.host == "127.0.0.1"]
        assert [Hop("127.0.0.1", 5081, "tcp"), Hop("127.0.0.1", 5080)] == v4

    async def test_a_name_without_records_is_looked_up_itself(self, dns: Dns) -> None:
        hops = await locate(parse_sip_uri("sip:1@localhost"), dns, Random(1))
        assert Hop("127.0.0.1", 5060) in hops

    async def test_a_name_that_does_not_exist_is_no_way_to_call(self, dns: Dns) -> None:
        with pytest.raises(CallFailed, match=r"503 nowhere\.invalid has no address"):
            await locate(parse_sip_uri("sip:1@nowhere.invalid"), dns, Random(1))

"""SIP over UDP and TCP on loopback, IPv4 and IPv6 (RFC 3261 §18, RFC 5626)."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from sip_peers import DUAL, V4, V6, Dial, Host, Stream, message, until

from gateway.telephony import transport as transport_module
from gateway.telephony.errors import TransportFailed
from gateway.telephony.transport import Hop, Transports


class TestUdp:
    async def test_a_datagram_arrives_with_where_it_came_from(self, us: Host, them: Host) -> None:
        us.send(b"hello", them.hop())
        assert (b"hello", us.hop()) == await them.next()

    async def test_it_goes_over_ipv6(self) -> None:
        async with Host(V6) as us, Host(V6) as them:
            us.send(b"hello", them.hop())
            assert (b"hello", Hop(V6, us.transports.port)) == await them.next()

    @pytest.mark.parametrize("family", [V4, V6])
    async def test_one_socket_serves_both_families(self, family: str) -> None:
        """And names an IPv4 address as what it is."""
        async with Host(family) as us, Host(DUAL) as them:
            us.send(b"ask", them.hop(host=family))
            data, source = await them.next()
            assert (b"ask", us.hop()) == (data, source)
            them.send(b"answer", source)
            assert (b"answer", them.hop(host=family)) == await us.next()

    async def test_a_port_where_nobody_listens_troubles_nobody(self, us: Host, them: Host) -> None:
        """ICMP says so, and the transactions' timers will notice."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed:
            closed.bind((V4, 0))
            nobody = Hop(V4, closed.getsockname()[1])
        for _ in range(3):
            us.send(b"lost", nobody)
        us.send(b"hello", them.hop())
        assert b"hello" == (await them.next())[0]


class TestTcp:
    async def test_a_message_arrives_with_where_it_came_from(self, us: Host, them: Host) -> None:
        us.send(message(), them.hop("tcp"))
        data, source = await them.next()
        assert (message(), V4, "tcp") == (data, source.host, source.transport)

    async def test_the_answer_goes_back_over_the_same_connection(self, us: Host, them: Host) -> None:
        us.send(message("ask"), them.hop("tcp"))
        _, source = await them.next()
        them.send(message("answer"), source)
        assert (message("answer"), them.hop("tcp")) == await us.next()
        assert (1, 1) == (len(us.transports), len(them.transports))

    async def test_what_is_sent_while_it_is_dialled_goes_over_one_connection_in_order(
        self, us: Host, them: Host
    ) -> None:
        for number in range(20):
            us.send(message(str(number)), them.hop("tcp"))
        assert [message(str(number)) for number in range(20)] == [(await them.next())[0] for _ in range(20)]
        assert 1 == len(them.transports)

    async def test_messages_of_any_size_come_out_whole(self, us: Host, them: Host) -> None:
        for size in (0, 1, 1500, 60_000):
            us.send(message("x" * size), them.hop("tcp"))
        assert [0, 1, 1500, 60_000] == [(await them.next())[0].count(b"x") - 1 for _ in range(4)]

    @pytest.mark.parametrize("family", [V4, V6])
    async def test_one_address_serves_both_families(self, family: str) -> None:
        async with Host(family) as us, Host(DUAL) as them:
            us.send(message("ask"), them.hop("tcp", family))
            _, source = await them.next()
            assert family == source.host
            them.send(message("answer"), source)
            assert message("answer") == (await us.next())[0]

    async def test_a_connection_that_was_closed_is_dialled_again(self, us: Host, them: Host) -> None:
        us.send(message(), them.hop("tcp"))
        await them.next()
        for connection in tuple(them.transports._connections.values()):
            connection.close()
        await until(lambda: not len(us.transports))
        us.send(message("again"), them.hop("tcp"))
        assert message("again") == (await them.next())[0]
        assert 0 == us.failed


class TestWhatCannotBeSent:
    async def test_every_message_to_a_port_where_nobody_listens_fails(self, us: Host) -> None:
        with socket.socket() as closed:
            closed.bind((V4, 0))
            nobody = Hop(V4, closed.getsockname()[1], "tcp")
        for _ in range(3):
            us.send(message(), nobody)
        await until(lambda: us.failed == 3)
        assert 0 == len(us.transports)

    async def test_the_next_one_is_tried_anew(self, us: Host) -> None:
        with socket.socket() as closed:
            closed.bind((V4, 0))
            nobody = Hop(V4, closed.getsockname()[1], "tcp")
        for tries in (1, 2):
            us.send(message(), nobody)
            await until(lambda tries=tries: us.failed == tries)

    async def test_an_answer_to_a_connection_that_is_gone_fails(self, us: Host, dial: Dial) -> None:
        """Its far end was an ephemeral port, which nobody listens at: the transaction knows where else (RFC 3261 §18.2.2)."""
        stream: Stream = await dial(us.hop("tcp").address)
        stream.writer.write(message())
        _, source = await us.next()
        stream.writer.close()
        await until(lambda: not len(us.transports))
        us.send(message("answer"), source)
        await until(lambda: us.failed == 1)

    async def test_a_peer_that_does_not_read_is_given_up(
        self, us: Host, dial: Dial, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport_module, "MOST_UNSENT", 10_000)
        stream: Stream = await dial(us.hop("tcp").address)
        stream.writer.write(message())
        _, source = await us.next()
        stream.writer.transport.pause_reading()
        for _ in range(5000):
            us.send(message("x" * 60_000), source)
            if us.failed:
                break
            await asyncio.sleep(0)
        await until(lambda: us.failed > 0 and not len(us.transports))


class TestKeepAlive:
    """RFC 5626 §3.5.1."""

    async def test_a_ping_is_answered(self, us: Host, dial: Dial) -> None:
        stream: Stream = await dial(us.hop("tcp").address)
        for _ in range(3):
            stream.writer.write(b"\r\n\r\n")
            assert b"\r\n" == await asyncio.wait_for(stream.reader.readexactly(2), 20)
        assert [] == us.got

    async def test_so_is_one_between_messages(self, us: Host, dial: Dial) -> None:
        stream: Stream = await dial(us.hop("tcp").address)
        stream.writer.write(message("a") + b"\r\n\r\n" + message("b"))
        assert b"\r\n" == await asyncio.wait_for(stream.reader.readexactly(2), 20)
        assert [message("a"), message("b")] == [(await us.next())[0] for _ in range(2)]


class TestHostileStreams:
    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(transport_module, "PARTIAL_S", 0.5)

    async def test_who_sends_a_message_octet_by_octet_for_ever_is_cut_off(self, us: Host, dial: Dial) -> None:
        """Slow loris: each octet comes in time, the message never."""
        stream: Stream = await dial(us.hop("tcp").address)

        async def dribble() -> None:
            with contextlib.suppress(ConnectionError):
                while True:
                    stream.writer.write(b"a")
                    await stream.writer.drain()
                    await asyncio.sleep(0.05)

        dribbling = asyncio.create_task(dribble())
        try:
            assert await stream.closed()
        finally:
            dribbling.cancel()
        await until(lambda: not len(us.transports))

    async def test_who_says_nothing_at_all_is_cut_off(self, us: Host, dial: Dial) -> None:
        stream: Stream = await dial(us.hop("tcp").address)
        assert await stream.closed()

    async def test_who_has_said_something_may_be_silent(self, us: Host, dial: Dial) -> None:
        """A trunk keeps its connection; a phone behind a router has no other."""
        stream: Stream = await dial(us.hop("tcp").address)
        stream.writer.write(message("a"))
        await us.next()
        await asyncio.sleep(1.2)
        stream.writer.write(message("b"))
        assert message("b") == (await us.next())[0]

    @pytest.mark.parametrize(
        "octets",
        [b"INVITE sip:x SIP/2.0\r\nVia: y\r\n\r\n", b"A: b\r\n" * 20_000, b"X\r\nContent-Length: 99999\r\n\r\n"],
    )
    async def test_a_stream_that_cannot_be_cut_is_closed(self, us: Host, dial: Dial, octets: bytes) -> None:
        stream: Stream = await dial(us.hop("tcp").address)
        stream.writer.write(octets)
        assert await stream.closed()
        assert [] == us.got

    async def test_only_so_many_connections_are_taken(
        self, us: Host, dial: Dial, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(transport_module, "PARTIAL_S", 30.0)
        monkeypatch.setattr(transport_module, "MOST_CONNECTIONS", 2)
        for _ in range(2):
            await dial(us.hop("tcp").address)
        await until(lambda: len(us.transports) == 2)
        third: Stream = await dial(us.hop("tcp").address)
        assert await third.closed()
        assert (2, 1) == (len(us.transports), us.transports.refused)


class TestBinding:
    async def test_an_address_in_use_is_named(self, us: Host) -> None:
        taken = Transports(lambda *_: None, (V4, us.transports.port))
        with pytest.raises(TransportFailed, match=rf"udp 127\.0\.0\.1:{us.transports.port}: .*in use"):
            await taken.start()
        taken.close()

    async def test_a_port_that_tcp_cannot_have_is_named(self) -> None:
        with socket.socket() as taken:
            taken.bind((V4, 0))
            taken.listen()
            port = taken.getsockname()[1]
            transports = Transports(lambda *_: None, (V4, port))
            with pytest.raises(TransportFailed, match=rf"tcp 127\.0\.0\.1:{port}: "):
                await transports.start()
            transports.close()

    async def test_after_closing_nothing_is_sent_and_nobody_listens(self, them: Host) -> None:
        us = Host()
        await us.transports.start()
        hop = us.hop("tcp")
        us.transports.close()
        us.send(b"late", them.hop())
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(*hop.address)
        them.send(b"hello", them.hop())
        assert b"hello" == (await them.next())[0]

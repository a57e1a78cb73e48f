"""Whole calls over every transport: two user agents on loopback, in the clear and encrypted, IPv4 and IPv6."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sip_peers import DUAL, V4, V6, Authority, Dial, Stream, started, until

from gateway.telephony.agent import UserAgent
from gateway.telephony.auth import Credentials, DigestServer
from gateway.telephony.call import Call
from gateway.telephony.errors import CallFailed
from gateway.telephony.invitation import Invitation
from gateway.telephony.media import MediaEngine
from gateway.telephony.message import uri_text
from gateway.telephony.registrar import Registrar
from gateway.telephony.transport import Hop

LIMIT_S = 30.0


class House:
    """A user agent with its media; it answers every call, and says goodbye to none."""

    def __init__(self, folder: Path, ports: range, address: str, **options: Any) -> None:
        self.address = address
        self.engine = MediaEngine(address, ports, folder)
        self.agent = UserAgent(self.engine, (address, 0), **{"trusted": lambda _: True} | options)
        self.agent.on_invite = self._answer
        self.taken: asyncio.Queue[Call] = asyncio.Queue()
        self.messages: asyncio.Queue[str] = asyncio.Queue()
        self.agent.on_message = self._message

    async def _answer(self, invitation: Invitation) -> None:
        invitation.ring()
        self.taken.put_nowait(await invitation.answer("in"))

    async def _message(self, number: str, text: str, name: str) -> None:
        self.messages.put_nowait(text)

    def uri(self, transport: str = "udp", host: str = "") -> str:
        port = self.agent.tls_port if transport == "tls" else self.agent.port
        return uri_text("100", host or (V4 if self.address == DUAL else self.address), port, transport)

    async def call(self, other: House, uri: str, **options: Any) -> tuple[Call, Call]:
        near = await asyncio.wait_for(self.agent.dial(uri, "out", from_user="200", **options), LIMIT_S)
        return near, await asyncio.wait_for(other.taken.get(), LIMIT_S)

    async def close(self) -> None:
        for call in self.agent.calls:
            await call.close()
        self.agent.stop()
        await until(lambda: not len(self.agent._transports))
        self.engine.stop()


Build = Callable[..., Awaitable[House]]


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    houses: list[House] = []

    async def make(address: str = V4, **options: Any) -> House:
        first = 24_000 + 40 * len(houses)
        houses.append(House(tmp_path / str(len(houses)), range(first, first + 40), address, **options))
        await started(houses[-1].agent.start, houses[-1].agent.stop)
        houses[-1].engine.start()
        return houses[-1]

    yield make
    for house in houses:
        await house.close()


async def lives(near: Call, far: Call) -> None:
    """Both sides hear each other, and the end of the one is that of the other."""
    await until(lambda: near.stream.received > 5 and far.stream.received > 5)
    near.hangup("done")
    async with asyncio.timeout(LIMIT_S):
        assert ("caller", "hung up") == ((end := await far.ended).by, end.reason)


class TestWholeCalls:
    @pytest.mark.parametrize("transport", ["udp", "tcp"])
    @pytest.mark.parametrize(("ours", "theirs"), [(V4, V4), (V6, V6), (DUAL, V4), (DUAL, V6), (V4, DUAL), (V6, DUAL)])
    async def test_over_both_families(self, build: Build, transport: str, ours: str, theirs: str) -> None:
        alice, bob = await build(ours), await build(theirs)
        host = theirs if theirs != DUAL else ours
        await lives(*await alice.call(bob, bob.uri(transport, host)))

    async def test_over_tls_with_srtp(self, build: Build, authority: Authority) -> None:
        alice, bob = await build(tls=authority.terms(V4, "a.example.com")), await build(tls=authority.terms(V4))
        near, far = await alice.call(bob, bob.uri("tls"), secure=True)
        assert (near.stream.own_crypto, far.stream.own_crypto) == (far.stream.terms.crypto, near.stream.terms.crypto)
        assert near.stream.own_crypto is not None
        await lives(near, far)

    async def test_the_callee_hangs_up_over_the_same_connection(self, build: Build, authority: Authority) -> None:
        """RFC 5923: its certificate proves the caller's address, so nothing is dialled."""
        alice, bob = await build(tls=authority.terms(V4, "a.example.com")), await build(tls=authority.terms(V4))
        near, far = await alice.call(bob, bob.uri("tls"))
        far.hangup("done")
        async with asyncio.timeout(LIMIT_S):
            assert "caller" == (await near.ended).by
        assert (1, 1) == (len(alice.agent._transports), len(bob.agent._transports))

    async def test_the_callee_hangs_up_over_tcp(self, build: Build) -> None:
        alice, bob = await build(), await build()
        near, far = await alice.call(bob, bob.uri("tcp"))
        far.hangup("done")
        async with asyncio.timeout(LIMIT_S):
            assert "caller" == (await near.ended).by

    async def test_a_long_message_goes_over_tcp(self, build: Build) -> None:
        alice, bob = await build(), await build()
        text = "동의합니다 " * 100
        response = await alice.agent.request(
            "MESSAGE", bob.uri("tcp"), from_user="200", body=text.encode(), headers={"Content-Type": "text/plain"}
        )
        assert (202, text[:1300]) == (response.status_code, await bob.messages.get())

    async def test_nobody_there_is_told_at_once(self, build: Build) -> None:
        alice, bob = await build(), await build()
        gone = bob.uri("tcp")
        bob.agent.stop()
        with pytest.raises(CallFailed, match="408"):
            await asyncio.wait_for(alice.agent.dial(gone, "out", from_user="200"), LIMIT_S)
        assert 20 == len(alice.engine.ports)

    async def test_a_certificate_of_another_is_no_way_to_call(self, build: Build, authority: Authority) -> None:
        alice, bob = await build(tls=authority.terms(V4)), await build(tls=authority.terms("bank.example.com"))
        with pytest.raises(CallFailed, match="408"):
            await asyncio.wait_for(alice.agent.dial(bob.uri("tls"), "out", from_user="200"), LIMIT_S)


class TestPhonesOnConnections:
    """RFC 5626: a phone behind a router is called over the connection that it keeps open to us."""

    async def test_a_call_to_it_goes_over_its_own_connection(self, build: Build) -> None:
        registrar = Registrar(DigestServer("gateway", {"100": "secret"}, lambda: 0.0), lambda: 0.0)
        gateway, phone = await build(registrar=registrar), await build()
        response = await phone.agent.request(
            "REGISTER", gateway.uri("tcp"), from_user="100", to="sip:100@gateway", credentials=Credentials("100", "secret"),
            headers={"Contact": "<sip:100@192.168.77.7:5060;transport=tcp>", "Expires": "60"},
        )  # fmt: skip
        binding = registrar.find("100")
        assert 200 == response.status_code
        assert binding is not None
        assert binding.flow is not None
        answer = await gateway.agent.request("OPTIONS", binding.contact, from_user="gateway", hop=binding.flow)
        assert 200 == answer.status_code
        assert 1 == len(gateway.agent._transports)


class TestAConnectionThatIsGone:
    """RFC 3261 §18.2.2."""

    async def test_the_answer_goes_to_the_port_that_the_request_names(self, build: Build, dial: Dial) -> None:
        alice = await build()
        got: asyncio.Queue[bytes] = asyncio.Queue()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            got.put_nowait(await reader.readuntil(b"\r\n\r\n"))
            writer.close()

        proceed = asyncio.Event()

        async def later(invitation: Invitation) -> None:
            await proceed.wait()
            invitation.reject(486)

        alice.agent.on_invite = later
        server = await asyncio.start_server(listen, V4, 0)
        port = server.sockets[0].getsockname()[1]
        stream: Stream = await dial((V4, alice.agent.port))
        stream.writer.write(
            f"INVITE sip:100@{V4} SIP/2.0\r\nVia: SIP/2.0/TCP {V4}:{port};branch=z9hG4bK-1\r\nFrom: <sip:a@{V4}>;tag=a\r\n"
            f"To: <sip:100@{V4}>\r\nCall-ID: gone\r\nCSeq: 1 INVITE\r\nContact: <sip:a@{V4}:{port};transport=tcp>\r\n"
            "Content-Length: 0\r\n\r\n".encode()
        )
        await until(lambda: len(alice.agent.answerer) == 1)
        stream.writer.close()
        await until(lambda: not len(alice.agent._transports))
        proceed.set()
        async with asyncio.timeout(LIMIT_S):
            assert (await got.get()).startswith(b"SIP/2.0 486 Busy Here\r\n")
        server.close()
        await server.wait_closed()


def test_hops_are_told_apart_by_all_that_they_are() -> None:
    assert 4 == len({Hop(V4, 5060), Hop(V4, 5060, "tcp"), Hop(V4, 5061, "tls"), Hop(V4, 5061, "tls", "a.example.com")})

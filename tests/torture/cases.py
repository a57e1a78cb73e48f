"""What a torture message is, and how it is played: to the endpoint without a socket, and to a user agent on loopback."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import structlog
from aiosipua.message import SipMessage, SipResponse
from sip_bench import Bench

from gateway.telephony.agent import UserAgent
from gateway.telephony.invitation import Invitation
from gateway.telephony.media import MediaEngine

HERE = Path(__file__).parent
LIMIT_S = 20.0
"""The longest wait for an answer; it ends when the answer comes."""

TORTURER = "127.44.75.1"
_SENT_BY_PORT = re.compile(
    rb"^v(?:ia)?\s*:\s*sip\s*/\s*[0-9.]+\s*/\s*\w+\s+(?:\[[^\]]*\]|[^\s:;,]+)(?::(\d+))?", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True)
class Case:
    """*refused* is the status that answers it before any user agent sees it, None when it is handed up. *answers* are the
    final responses that the RFC allows a user agent that is willing to hear it; none for what is to be dropped.
    """

    name: str
    section: str
    refused: int | None
    answers: tuple[int, ...]

    def __str__(self) -> str:
        return self.name


def read(rfc: str, name: str) -> bytes:
    return (HERE / rfc / f"{name}.dat").read_bytes()


def whole(data: bytes) -> bytes:
    """*data* with CRLF for LF and with the empty line after its headers, where the archive lost them."""
    if b"\r\n" not in data:
        data = data.replace(b"\n", b"\r\n")
    return data if b"\r\n\r\n" in data else data + b"\r\n"


def play(data: bytes) -> tuple[list[str | int], int]:
    """What the transaction layer sends by itself when *data* comes, and how many requests it hands up."""
    bench = Bench()
    bench.take(data)
    return bench.wire.summary, len(bench.requests)


async def answer_to(data: bytes, *, expected: bool) -> tuple[list[int], list[str]]:
    """The final responses to *data* of a user agent on loopback that declines every call with 486, and what it logged or let
    fall as an error. With *expected* the first is waited for. That the agent still answers OPTIONS is asserted here.
    """
    faults: list[str] = []
    finals: list[int] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(str(context)))
    with structlog.testing.capture_logs() as logs:
        async with _declining_agent() as agent, _Torturer.at(_reply_port(data)) as torturer:
            torturer.send(data, agent.port)
            for number in (1, 2):
                torturer.send(_options(torturer.port, number), agent.port)
                async with asyncio.timeout(LIMIT_S):
                    awake = False
                    while not awake or (expected and not finals):
                        response = await torturer.got.get()
                        if response.call_id == f"still-there-{number}":
                            assert 200 == response.status_code
                            awake = True
                        elif response.status_code >= 200:
                            finals.append(response.status_code)
    faults += [str(entry) for entry in logs if entry["log_level"] in ("error", "critical") or "exc_info" in entry]
    return finals, faults


@asynccontextmanager
async def _declining_agent() -> AsyncIterator[UserAgent]:
    async def decline(invitation: Invitation) -> None:
        invitation.reject(486)

    with TemporaryDirectory() as folder:
        engine = MediaEngine("127.0.0.1", range(23_900, 23_904), Path(folder))
        agent = UserAgent(engine, ("127.0.0.1", 0), trusted=lambda _: True)
        agent.on_invite = decline
        await agent.start()
        yield agent
        agent.stop()
        engine.stop()
        await asyncio.sleep(0)


class _Torturer(asyncio.DatagramProtocol):
    """A socket that sends what it is told and keeps the responses that come."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[SipResponse] = asyncio.Queue()

    @classmethod
    @asynccontextmanager
    async def at(cls, port: int) -> AsyncIterator[_Torturer]:
        try:
            transport, torturer = await asyncio.get_running_loop().create_datagram_endpoint(
                cls, local_addr=(TORTURER, port)
            )
        except OSError as error:
            pytest.fail(f"UDP {TORTURER}:{port} must be free, for that is where the Via wants its answer: {error}")
        yield torturer
        transport.close()

    @property
    def port(self) -> int:
        return int(self._transport.get_extra_info("sockname")[1])

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, _: tuple[str, int]) -> None:
        response = SipMessage.parse(data)
        assert isinstance(response, SipResponse)
        self.got.put_nowait(response)

    def send(self, data: bytes, port: int) -> None:
        self._transport.sendto(data, ("127.0.0.1", port))


def _reply_port(data: bytes) -> int:
    """The port that the topmost Via in *data* names."""
    found = _SENT_BY_PORT.search(data)
    return int(found[1]) if found is not None and found[1] else 5060


def _options(port: int, number: int) -> bytes:
    return (
        f"OPTIONS sip:gateway@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {TORTURER}:{port};branch=z9hG4bK-there-{number}\r\n"
        f"From: <sip:t@{TORTURER}>;tag=t\r\nTo: <sip:gateway@127.0.0.1>\r\nCall-ID: still-there-{number}\r\n"
        f"CSeq: {number} OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    ).encode()

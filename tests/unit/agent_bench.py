"""A user agent without sockets: what it sends is written down, what it gets is handed to it, and no clock ticks its media."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Any

from aiosipua.message import SipMessage, SipRequest, SipResponse
from sip_bench import PEER, US, request

from gateway.telephony.agent import UserAgent
from gateway.telephony.call import Call
from gateway.telephony.errors import TelephonyError
from gateway.telephony.invitation import Invitation
from gateway.telephony.media import MediaStream
from gateway.telephony.message import identity
from gateway.telephony.ports import PortPair, PortRange
from gateway.telephony.sdp import MediaTerms
from gateway.telephony.transport import Hop


class Media:
    """In the engine's place: real ports and streams, but no clock and no recording. *full*: what fails to be recorded."""

    def __init__(self) -> None:
        self.ports = PortRange("127.0.0.1", range(21_400, 21_404))
        self.full = False

    def reserve(self, host: str) -> PortPair:
        return self.ports.reserve("127.0.0.1")

    def release(self, ports: PortPair) -> None:
        self.ports.release(ports)

    def open(self, ports: PortPair, terms: MediaTerms, call_id: str, protection: Any = None) -> MediaStream:
        if self.full:
            raise OSError(28, "No space left on device")
        return MediaStream(ports, terms, None, wall=lambda: 0.0, protection=protection)

    async def close(self, stream: MediaStream) -> None:
        self.release(stream.ports)


class Wires:
    """In the transports' place: keeps what is sent, and to whom. Hops in *broken* cannot be reached."""

    port, tls_port = US[1], None

    def __init__(self) -> None:
        self.sent: list[SipRequest | SipResponse] = []
        self.hops: list[Hop] = []
        self.broken: set[Hop] = set()

    def send(self, data: bytes, hop: Hop, failed: Callable[[], None]) -> None:
        self.hops.append(hop)
        if hop in self.broken:
            failed()
        else:
            self.sent.append(SipMessage.parse(data))

    def close(self) -> None:
        """Nothing is open."""


class Gateway:
    """A user agent; every INVITE that it lets in is answered, unless ``policy`` says otherwise."""

    def __init__(self, **options: Any) -> None:
        self.media, self.wires = Media(), Wires()
        self.agent = UserAgent(self.media, US, **{"trusted": lambda _: True, "session_s": 0} | options)  # type: ignore[arg-type]
        self.agent._transports = self.wires  # type: ignore[assignment]
        self.policy: Callable[[Invitation], Any] = self._answer
        self.agent.on_invite = self._invited
        self.calls: list[Call] = []
        self.failed: list[TelephonyError] = []
        self.numbers: list[str] = []
        self._branches = count(1)

    async def _invited(self, invitation: Invitation) -> None:
        self.numbers.append(invitation.number)
        await self.policy(invitation)

    async def _answer(self, invitation: Invitation) -> None:
        try:
            self.calls.append(await invitation.answer("call-1"))
        except TelephonyError as error:
            self.failed.append(error)

    async def take(self, method: str = "INVITE", source: Hop = PEER, **options: Any) -> list[int | str]:
        """What goes out when *method* comes in, statuses and methods."""
        return await self.hear(request(method, **{"branch": f"z9hG4bK-{next(self._branches)}"} | options), source)

    async def hear(self, message: SipMessage, source: Hop = PEER) -> list[int | str]:
        before = len(self.wires.sent)
        self.agent._receive(bytes(message), source)
        await self.settle()
        return [m.method if isinstance(m, SipRequest) else m.status_code for m in self.wires.sent[before:]]

    async def settle(self) -> None:
        """Let everything run that can."""
        for _ in range(30):
            await asyncio.sleep(0)

    @property
    def last(self) -> SipRequest | SipResponse:
        return self.wires.sent[-1]

    @property
    def tag(self) -> str:
        """Ours, of the last response."""
        return identity(self.last).to.tag or ""


async def closed(gateway: Gateway) -> None:
    for call in gateway.agent.calls:
        await call.close()
    gateway.agent.stop()
    assert 2 == len(gateway.media.ports), "every port is back"

"""Coverage-guided fuzzing of SIP: parser, transaction layer and user agent, with whole conversations of hostile datagrams.

An input is one or more datagrams, parted by ``SEPARATOR``. Each goes to a user agent that answers one call, declines the next
and lets the third ring in vain; a request may name the tag that the agent chose last with ``OURTAG`` and the branch of a
request of ours with ``OURBRANCH``. A finding is: anything raised or logged as an error, what is sent that does not parse,
and anything still remembered when every timer has run out. Run by ``run.sh``.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM, socket
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
with atheris.instrument_imports(include=["gateway.telephony", "aiosipua"]):
    from aiosipua.message import SipMessage
    from sip_bench import FakeClock, request

    from gateway.telephony.agent import UserAgent
    from gateway.telephony.auth import DigestServer
    from gateway.telephony.crypto import Protection
    from gateway.telephony.endpoint import Endpoint
    from gateway.telephony.errors import BadMessage, CallFailed
    from gateway.telephony.invitation import Invitation
    from gateway.telephony.message import identity
    from gateway.telephony.ports import PortPair
    from gateway.telephony.registrar import Registrar
    from gateway.telephony.sdp import MediaTerms
    from gateway.telephony.stream import MediaStream
    from gateway.telephony.transport import Hop

import structlog

SEPARATOR = b"\n--next--\n"
SOURCE = Hop("192.0.2.2", 5070)
MOST_DATAGRAMS = 6
FORGOTTEN_S = 400.0
"""Longer than any timer of a transaction."""

_TO_TAG = re.compile(rb"\r\nTo: [^\r]*;tag=([^;\r]+)")
_BRANCH = re.compile(rb";branch=([^;\r]+)")


class Finding(Exception):
    """Something that no input may bring about."""


class House:
    """A user agent whose wire is a list and whose clock is turned by hand."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.tag, self.branch = b"", b""
        self.calls = 0
        registrar = Registrar(DigestServer("fuzz", {"200": "secret"}, lambda: self.clock.now), lambda: self.clock.now)
        media: Any = Silence()
        self.agent = UserAgent(media, ("127.0.0.1", 0), registrar=registrar, trusted=lambda _: True, resolver=Nowhere())
        self.agent.on_invite = self.on_invite
        self.agent.on_message = self.on_message
        answerer = self.agent.answerer
        self.agent.endpoint = Endpoint(
            self.send, self.clock.call_later, answerer.take, answerer.take_ack, lambda _: ("192.0.2.1", 5060)
        )

    def send(self, data: bytes, _: Hop, __: Any) -> None:
        try:
            identity(SipMessage.parse(data))
        except (BadMessage, ValueError) as error:
            raise Finding(f"we sent what does not parse ({error}): {data!r}") from error
        pattern, name = (_TO_TAG, "tag") if data.startswith(b"SIP/") else (_BRANCH, "branch")
        found = pattern.search(data)
        if found is not None:
            setattr(self, name, found[1])

    async def on_invite(self, invitation: Invitation) -> None:
        self.calls += 1
        if self.calls % 3 == 1:
            with contextlib.suppress(CallFailed):
                await invitation.answer(f"call-{self.calls}")
        elif self.calls % 3 == 2:
            invitation.reject(486)
        else:
            invitation.ring()
            for _ in range(3):
                await asyncio.sleep(0)
            invitation.reject(603)

    async def on_message(self, number: str, text: str, name: str) -> None:
        if not isinstance(number + text + name, str):
            raise Finding("a message is no text")

    async def play(self, data: bytes) -> None:
        self.calls = 0
        self.agent.endpoint.request(request("OPTIONS", from_tag="ours"), SOURCE, lambda _: None)
        for datagram in data.split(SEPARATOR)[:MOST_DATAGRAMS]:
            self.agent.endpoint.receive(
                datagram.replace(b"OURTAG", self.tag or b"x").replace(b"OURBRANCH", self.branch or b"x"), SOURCE
            )
            await turns()
            self.clock.advance(0.6)
        for call in self.agent.calls:
            await call.close()
        for _ in range(3):
            await turns()
            self.clock.advance(FORGOTTEN_S)
        left = (len(self.agent.endpoint), len(self.agent.answerer), len(self.agent.tasks), self.clock.waiting)
        if any(left):
            raise Finding(f"endpoint, invitations, tasks, timers are left: {left}")


class Silence:
    """Media for nobody: streams that are never ticked, on one pair of sockets. Stands in for the engine, which is not
    fuzzed here, so that calls can be answered a hundred times a second.
    """

    def __init__(self) -> None:
        self._ports = PortPair(4000, socket(AF_INET, SOCK_DGRAM), socket(AF_INET, SOCK_DGRAM))

    def reserve(self, _: str) -> PortPair:
        return self._ports

    def release(self, ports: PortPair) -> None: ...

    def open(self, ports: PortPair, terms: MediaTerms, _: str, protection: Protection | None = None) -> MediaStream:
        return MediaStream(ports, terms, None, wall=lambda: 0.0, protection=protection)

    async def close(self, stream: MediaStream) -> None:
        stream.stop_playing()


class Nowhere:
    """DNS in which nothing is found."""

    async def naptr(self, _: str) -> list[Any]:
        return []

    srv = addresses = naptr


class HandTurned(asyncio.SelectorEventLoop):
    """A loop that reads its time off the same clock as the transactions. It never waits: something is always ready."""

    def __init__(self, clock: FakeClock) -> None:
        self._hand = clock
        super().__init__()

    def time(self) -> float:
        return self._hand.now


async def turns() -> None:
    """Let the tasks run that are ready, and what they wake."""
    for _ in range(5):
        await asyncio.sleep(0)


def main() -> None:
    faults: list[str] = []

    def judge(_: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
        if method in ("error", "exception", "critical") or event.get("exc_info"):
            faults.append(repr(event))
        raise structlog.DropEvent

    structlog.configure(processors=[structlog.processors.format_exc_info, judge])
    house = House()
    loop = HandTurned(house.clock)
    asyncio.set_event_loop(loop)
    loop.set_exception_handler(lambda _, context: faults.append(repr(context)))
    loop.run_until_complete(house.agent.start())

    def one_input(data: bytes) -> None:
        loop.run_until_complete(house.play(data))
        if faults:
            raise Finding(faults.pop())

    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""The gateway's own telephony beside the peer: a house that calls, answers, hears and records, and what tests compare with."""

from __future__ import annotations

import asyncio
import itertools
import json
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gateway.audio.codec import FRAME, SAMPLE_RATE, Codec, decoder
from gateway.settings import Settings, load_settings
from gateway.switchboard import Switchboard, open_switchboard
from gateway.telephony.call import Call
from gateway.telephony.invitation import Invitation
from gateway.telephony.lines import Line
from gateway.telephony.vault import read_recording

LIMIT_S = 30.0
"""The longest that any single wait may take; each ends when what it waits for comes."""

A_SECOND = 50
"""In frames."""

HALF_A_SECOND = 4000
"""In octets."""

T = TypeVar("T")
Samples = np.ndarray[Any, np.dtype[np.int16]]


async def soon(wanted: Awaitable[T]) -> T:
    return await asyncio.wait_for(wanted, LIMIT_S)


async def until(true: Callable[[], object], what: str = "") -> None:
    """Return when *true* is; raises TimeoutError naming *what*."""
    try:
        async with asyncio.timeout(LIMIT_S):
            while not true():  # noqa: ASYNC110 - what is waited for lies in plain attributes
                await asyncio.sleep(0.01)
    except TimeoutError as error:
        raise TimeoutError(f"not within {LIMIT_S:.0f} s: {what}") from error


class House:
    """The gateway's telephony as its settings open it. Calls that come in are answered, unless *policy* says otherwise; messages are
    kept.
    """

    def __init__(self, board: Switchboard, host: str) -> None:
        self.board = board
        self.host = host
        self.agent = board.agent
        self.agent.on_invite = self._on_invite
        self.agent.on_message = self._on_message
        self.taken: asyncio.Queue[Call] = asyncio.Queue()
        self.callers: asyncio.Queue[str] = asyncio.Queue()
        self.messages: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self.policy: Callable[[Invitation], Awaitable[None]] = self.answer
        self._names = itertools.count(1)

    @property
    def line(self) -> Line:
        return self.board.lines[0]

    @property
    def uri(self) -> str:
        return f"sip:{self.host}:{self.agent.port}"

    @property
    def tls_uri(self) -> str:
        return f"sip:{self.host}:{self.agent.tls_port};transport=tls"

    async def dial(self, number: str) -> Call:
        """Call *number* over the first line."""
        return await self.line.call(self.agent, number, self._name())

    async def message(self, number: str, text: str) -> int:
        """Send *text* over the first line; the final status."""
        line = self.line
        response = await self.agent.request(
            "MESSAGE", line.uri(number), from_user=line.from_user, credentials=line.credentials, body=text.encode(),
            headers={"Content-Type": "text/plain;charset=UTF-8"},
        )  # fmt: skip
        return response.status_code

    async def close(self) -> None:
        for call in self.agent.calls:
            await call.close()

    async def answer(self, invitation: Invitation) -> None:
        self.taken.put_nowait(await invitation.answer(self._name()))

    async def ring_and_answer(self, invitation: Invitation) -> None:
        invitation.ring()
        await self.answer(invitation)

    async def ring(self, invitation: Invitation) -> None:
        """Until the caller gives up."""
        invitation.ring()
        await invitation.cancelled.wait()

    async def reject(self, invitation: Invitation) -> None:
        invitation.reject(486)

    async def _on_invite(self, invitation: Invitation) -> None:
        self.callers.put_nowait(invitation.number)
        await self.policy(invitation)

    async def _on_message(self, number: str, text: str, _: str) -> None:
        self.messages.put_nowait((number, text))

    def _name(self) -> str:
        return f"call-{next(self._names)}"


class Houses:
    """Opens houses, each with RTP ports of its own below the ephemeral ones, and closes them all."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._opened = itertools.count()

    async def open(
        self,
        host: str,
        line: dict[str, Any] | None = None,
        *,
        phones: dict[str, str] | None = None,
        codecs: tuple[Codec, ...] = ("PCMA",),
        **sip: Any,
    ) -> House:
        """A house on *host* with one *line*, *phones* (password by number), and *sip*: settings of that name."""
        number = next(self._opened)
        first = 22_000 + 40 * number
        tables = {
            "sip": {"bind": f"{host}:0", **sip},
            "media": {"address": host, "ports": f"{first}-{first + 39}", "codecs": list(codecs)},
        }
        arrays = {
            "lines": [{"name": "peer", "keepalive_s": 0, **line}] if line is not None else [],
            "softphones": [{"number": user, "password": password} for user, password in (phones or {}).items()],
        }
        file = self._folder / f"gateway-{number}.toml"
        head = f"data_dir = {json.dumps(str(self._folder / str(number)))}\n"
        file.write_text(head + "".join(_toml(tables, arrays)), encoding="utf-8")
        house = await self._stack.enter_async_context(_open_house(load_settings(file), host))
        self._stack.push_async_callback(house.close)
        return house


@asynccontextmanager
async def _open_house(settings: Settings, host: str) -> AsyncIterator[House]:
    async with open_switchboard(settings) as board:
        yield House(board, host)
        transports = board.agent._transports
        for connection in set(transports._connections.values()):
            connection._transport.abort()  # an Asterisk that goes on answers no close_notify for half a minute
        await until(lambda: not len(transports), "the connections closed")


def _toml(tables: dict[str, dict[str, Any]], arrays: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """What the tests write is strings, numbers, truths and lists of strings: JSON writes them as TOML does."""
    for name, table in tables.items():
        yield f"\n[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    for name, entries in arrays.items():
        for entry in entries:
            yield f"\n[[{name}]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())


@asynccontextmanager
async def open_houses(folder: Path) -> AsyncIterator[Houses]:
    async with AsyncExitStack() as stack:
        yield Houses(folder, stack)


def noise(seconds: float, seed: int) -> bytes:
    """Octets that no other part of a call is like: any are a signal in every codec of 64 kbit/s."""
    return np.random.default_rng(seed).integers(0, 256, int(8000 * seconds)).astype(np.uint8).tobytes()


def frames(octets: bytes) -> tuple[bytes, ...]:
    """*octets*, whole frames of them, 20 ms each."""
    assert len(octets) % FRAME == 0
    return tuple(octets[at : at + FRAME] for at in range(0, len(octets), FRAME))


async def a_second_of(call: Call) -> None:
    """Let a second of *call* go by, by its own clock, so that what is on the way comes."""
    there = call.stream.frames_in + A_SECOND
    await until(lambda: call.stream.frames_in > there, "a second of media")


def listen(call: Call) -> bytearray:
    """Grows by all that *call* hears from now on, octets of its codec as they go into the recording."""
    heard = bytearray()

    def take(caller: bytes, _: bytes) -> None:
        heard.extend(caller)

    call.stream.tap = take
    return heard


async def play_until(call: Call, said: bytes, heard: Callable[[], bytes | bytearray]) -> None:
    """Play *said* over *call* until *heard* holds it whole: a busy machine may lose a packet of the first."""
    async with asyncio.timeout(LIMIT_S):
        while said not in heard():
            await call.play(frames(said))
            await a_second_of(call)


async def recorded(call: Call) -> tuple[Samples, Samples]:
    """Close *call*; both channels of its recording: caller, gateway."""
    codec = call.stream.terms.codec
    recording = await call.close()
    assert recording is not None
    with wave.open(BytesIO(read_recording(recording.path, recording.key)), "rb") as file:
        assert SAMPLE_RATE[codec] == file.getframerate()
        both = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    return both[:, 0], both[:, 1]


def differing(sent: bytes, heard: Samples) -> int:
    """How many samples of *sent* (A-law) differ in *heard*, once both are aligned by the first 50 ms; all when those are not found."""
    wanted = decoder("PCMA").decode(sent)
    at = heard.tobytes().find(wanted[:400].tobytes())
    if at < 0:
        return int(wanted.size)
    there = heard[at // 2 : at // 2 + wanted.size]
    return int(np.sum(there != wanted[: there.size])) + int(wanted.size - there.size)


async def exact(attempt: Callable[[int], Awaitable[list[int]]]) -> list[int]:
    """The differing samples that *attempt*, given its number, found in each comparison, in the best of three tries.

    A machine too busy to run anybody for 60 ms loses audio, on either side, and no codec is to blame; what is wrong otherwise is wrong
    in all three.
    """
    found: list[list[int]] = []
    while len(found) < 3 and not (found and not any(found[-1])):
        found.append(await attempt(len(found)))
    return min(found, key=sum)

"""The gateway's telephony as a process of its own, without the consent flow: it does what the dialled user part says.

``busy`` is refused with 486; ``ring`` rings until the caller gives up; whatever else is answered, hears a tone and is listened to.
Commands come as JSON lines on stdin, events leave as JSON lines on stdout; peers.py holds the other end.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import uvloop

from gateway.audio.codec import CODECS, FRAME_MS, SAMPLE_RATE, Codec, decoder, frames_of
from gateway.settings import load_settings
from gateway.switchboard import Switchboard, open_switchboard
from gateway.telephony.auth import Credentials
from gateway.telephony.call import Call
from gateway.telephony.errors import TelephonyError
from gateway.telephony.invitation import Invitation

TONE_HZ = 1000
TONE_S = 600


def tell(event: str, **what: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **what}) + "\n")
    sys.stdout.flush()


def tone(codec: Codec) -> tuple[bytes, ...]:
    """The tone in 20 ms frames; one second of them is shared by all."""
    rate = SAMPLE_RATE[codec]
    wave = np.round(8000 * np.sin(2 * np.pi * TONE_HZ * np.arange(rate) / rate)).astype(np.int16)
    return frames_of(wave, codec) * TONE_S


def pitch(samples: np.ndarray, rate: int) -> float:
    """The strongest frequency in Hz, to 2 Hz."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)), max(len(samples), rate // 2)))
    return float(np.argmax(spectrum) * rate / max(len(samples), rate // 2))


class Answering:
    """What is done with the calls of an open switchboard; they are known by name."""

    def __init__(self, board: Switchboard) -> None:
        self.agent = board.agent
        self.registrar = board.registrar
        self.lines = {line.name: line for line in board.lines}
        self.agent.on_invite = self.invited
        self.agent.on_message = self.messaged
        self.calls: dict[str, Call] = {}
        self.heard: dict[str, list[bytes]] = {}
        self.tones = {codec: tone(codec) for codec in CODECS}
        self.tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)

    async def run(self) -> None:
        """Carry out the commands until stdin ends."""
        tell("ready", port=self.agent.port)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            self.spawn(self.command(json.loads(line)))
        for call in self.agent.calls:
            await call.close()

    def spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def invited(self, invitation: Invitation) -> None:
        user = (invitation.incoming.request.uri.partition(":")[2]).partition("@")[0]
        name = invitation.incoming.ids.call_id
        tell("invited", name=name, number=invitation.number, user=user)
        if user == "busy":
            invitation.reject(486)
            return
        invitation.ring()
        if user == "ring":
            await invitation.cancelled.wait()
            tell("cancelled", name=name)
            return
        try:
            call = await invitation.answer(f"in-{next(self._numbers)}")
        except TelephonyError as error:
            tell("failed", name=name, reason=str(error), status=getattr(error, "status", 0))
            return
        self.follow(name, call)

    async def messaged(self, number: str, text: str, _: str) -> None:
        tell("message", number=number, text=text)

    def follow(self, name: str, call: Call) -> None:
        """Play the tone, listen, and tell what becomes of *call*."""
        self.calls[name] = call
        heard: list[bytes] = []
        self.heard[name] = heard
        call.stream.tap = lambda incoming, _: heard.append(incoming)
        call.stream.on_key = lambda key: tell("key", name=name, key=key)
        codec = call.stream.terms.codec
        tell("answered", name=name, codec=codec, direction=call.direction)
        self.spawn(self._play(call, codec))
        self.spawn(self._until_over(name, call))

    async def _play(self, call: Call, codec: Codec) -> None:
        await call.play(self.tones[codec])

    async def _until_over(self, name: str, call: Call) -> None:
        end = await call.ended
        rate = SAMPLE_RATE[call.stream.terms.codec]
        seconds = len(self.heard[name]) * FRAME_MS / 1000
        last, loud = self._last_second(name)
        await call.close()
        del self.calls[name], self.heard[name]
        tell(
            "ended", name=name, by=end.by, reason=end.reason, seconds=seconds,
            heard_hz=round(pitch(last, rate)) if loud > 50 else 0, loudness=round(loud),
        )  # fmt: skip

    def _last_second(self, name: str) -> tuple[np.ndarray, float]:
        """What was heard of the far end, and its RMS. One second more is decoded before it: G.722 has to settle."""
        codec = self.calls[name].stream.terms.codec
        rate = SAMPLE_RATE[codec]
        last = decoder(codec).decode(b"".join(self.heard[name][-2000 // FRAME_MS :]))[-rate:]
        return last, float(np.sqrt(np.mean(last.astype(float) ** 2))) if len(last) else 0.0

    async def command(self, what: dict[str, Any]) -> None:
        do = what.pop("do")
        try:
            await getattr(self, f"do_{do}")(**what)
        except TelephonyError as error:
            tell("failed", name=what.get("name", ""), reason=str(error), status=getattr(error, "status", 0))
        except Exception as error:
            tell("failed", name=what.get("name", ""), reason=repr(error), status=0)
            raise

    async def do_dial(self, name: str, to: str, user: str = "", password: str = "", ring_s: float = 45.0) -> None:
        credentials = Credentials(user, password) if user else None
        call = await self.agent.dial(to, f"out-{next(self._numbers)}", from_user=user or "15880000",
                                     credentials=credentials, ring_s=ring_s)  # fmt: skip
        self.follow(name, call)

    async def do_call(self, name: str, line: str, number: str) -> None:
        """Call *number* over one of the lines of the settings."""
        self.follow(name, await self.lines[line].call(self.agent, number, f"out-{next(self._numbers)}"))

    async def do_ring(self, name: str, number: str) -> None:
        """Call the phone that has registered as *number*."""
        binding = self.registrar.find(number)
        assert binding is not None, f"{number} has not registered"
        await self.do_dial(name, binding.contact)

    async def do_hangup(self, name: str) -> None:
        call = self.calls.get(name)
        if call is not None:
            call.hangup("told so")

    async def do_keys(self, name: str, keys: str) -> None:
        self.calls[name].stream.send_keys(keys)

    async def do_listen(self, name: str) -> None:
        tell("listened", name=name, loudness=self._last_second(name)[1])

    async def do_request(self, name: str, method: str, to: str) -> None:
        response = await self.agent.request(method, to, from_user="15880000")
        tell("response", name=name, status=response.status_code)

    async def do_count(self, name: str) -> None:
        """How many calls there are, and how many SIP transactions."""
        tell("count", name=name, calls=len(self.agent.calls), transactions=len(self.agent.endpoint))


async def main() -> None:
    async with open_switchboard(load_settings(Path(sys.argv[1]))) as board:
        await Answering(board).run()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    uvloop.run(main())

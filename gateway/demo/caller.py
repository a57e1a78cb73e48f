"""A caller without a phone: the gateway's own user agent, which answers each question with a clip once it has ended."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gateway.audio.codec import SAMPLE_RATE, Codec, Decoder, decoder, frames_of
from gateway.speech.prompts import read_wav
from gateway.telephony.call import Call
from gateway.telephony.errors import CallOver

TURN_SILENCE_S = 1.0
QUIET_LSB = 200
POLL_S = 0.02


@dataclass
class Ear:
    """When the far end was last heard, by packets read from the socket."""

    codec: Codec
    last: float = 0.0
    first_after: float = 0.0
    armed: bool = False
    _decoder: Decoder = field(init=False)

    def __post_init__(self) -> None:
        self._decoder = decoder(self.codec)

    def take(self, heard: bytes, _: bytes) -> None:
        """A tap of the call's stream."""
        if np.abs(self._decoder.decode(heard).astype(np.int32)).max() > QUIET_LSB:
            self.last = time.monotonic()
            if self.armed:
                self.first_after, self.armed = self.last, False


async def answer(call: Call, ear: Ear, clip: Path) -> float:
    """Wait for the question's end, say *clip*; returns the ms from its last loud sample to the gateway's next word.

    Raises CallOver when the call ends before.
    """
    while ear.last == 0.0 or time.monotonic() - ear.last < TURN_SILENCE_S:
        await _pause(call)
    rate = SAMPLE_RATE[ear.codec]
    samples = read_wav(clip, rate)
    loud_end = (int(np.flatnonzero(np.abs(samples) > QUIET_LSB)[-1]) + 1) / rate
    ear.armed = True
    began = time.monotonic()
    await call.play(frames_of(samples, ear.codec))
    while ear.armed:
        await _pause(call)
    return (ear.first_after - began - loud_end) * 1000


async def _pause(call: Call) -> None:
    if call.ended.done():
        raise CallOver(call.ended.result().reason)
    await asyncio.sleep(POLL_S)

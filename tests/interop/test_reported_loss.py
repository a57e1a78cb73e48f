"""What real peers report of our packets: a prompt that loses a fifth of its own is found, the one behind it is not blamed."""

from __future__ import annotations

import wave
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asterisk import RECORD, Asterisk
from exchange import House, Houses, frames, noise, soon, until
from peers import Baresip
from processes import LOCALHOST

from gateway.telephony.call import Call
from gateway.telephony.passage import Passage

pytestmark = pytest.mark.interop

NUMBER = "+821012345678"
PROMPT_S = 6.5
"""Longer than either peer waits with its next report."""


class Lossy:
    """Our own socket, which swallows every fifth packet of audio while *on*."""

    def __init__(self, call: Call) -> None:
        self.on = False
        self._send: Callable[[bytes, Any], int] = call.stream._send_to
        self._numbers = count()
        call.stream._send_to = self._take  # type: ignore[method-assign, assignment]

    def _take(self, packet: bytes, to: Any) -> int:
        return len(packet) if self.on and next(self._numbers) % 5 == 4 else self._send(packet, to)


async def lose_a_fifth(call: Call) -> tuple[Passage, Passage]:
    """Play three prompts, the first over a line that loses; the first and the third, when both were reported."""
    line = Lossy(call)
    line.on = True
    first = await soon(call.play(frames(noise(PROMPT_S, 1))))
    line.on = False
    await soon(call.play(frames(noise(PROMPT_S, 2))))
    third = await soon(call.play(frames(noise(PROMPT_S, 3))))
    await until(lambda: third.far is not None, "a report of the third prompt")
    return first, third


def require_found(first: Passage, third: Passage) -> None:
    assert first.far is not None
    assert third.far is not None
    assert 0.1 <= first.far.lost_fraction <= 0.3
    assert 0.0 == third.far.lost_fraction
    assert min(first.far.reports, third.far.reports) >= 1


async def test_asterisk(asterisk: Asterisk, gateway: House) -> None:
    asterisk.take_recording()  # what the call of an earlier test may have left
    call = await soon(gateway.dial(RECORD))
    require_found(*await lose_a_fifth(call))
    call.hangup("done")
    await until(asterisk.recording, "the recording")
    asterisk.take_recording()


async def test_baresip(houses: Houses, tmp_path: Path) -> None:
    said = tmp_path / "said.wav"
    with wave.open(str(said), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(np.zeros(60 * 8000, "<i2").tobytes())
    house = await houses.open(LOCALHOST)
    with Baresip(tmp_path, said, f"{NUMBER}@{LOCALHOST}", ";answermode=auto;audio_codecs=PCMA/8000/1") as phone:
        call = await soon(
            house.agent.dial(f"sip:{NUMBER}@{LOCALHOST}:{phone.port}", "call", from_user="15880000")
        )  # fmt: skip
        require_found(*await lose_a_fifth(call))
        call.hangup("done")
        phone.event("CALL_CLOSED")

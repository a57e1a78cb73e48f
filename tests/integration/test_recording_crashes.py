"""kill -9 while calls are recorded: of the gateway, of its recording process, and of both at the same moment."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import sys
import wave
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from gateway.audio.codec import FRAME
from gateway.audio.g711 import decode
from gateway.telephony.vault import Recording, path_of, read_recording, salvage

CALLS = 3
KEY = bytes(range(32))
GATEWAY = f"""
import asyncio, sys
from pathlib import Path
import structlog
from gateway.telephony.recorder import RecordingOffice

structlog.configure(logger_factory=structlog.WriteLoggerFactory(sys.stderr))

async def main():
    office = RecordingOffice(Path(sys.argv[1]))
    for number in range({CALLS}):
        office.use_key(f"call-{{number}}", bytes(range(32)))
    recorders = [office.open(f"call-{{number}}", "PCMA") for number in range({CALLS})]
    octet = 0
    while True:
        for recorder in recorders:
            recorder.write(bytes([octet % 256]) * {FRAME}, bytes([(octet + 7) % 256]) * {FRAME})
        octet += 1
        if octet % 50 == 0:
            await asyncio.sleep(0)
            while office._unsent:
                await asyncio.sleep(0.001)
            print(office.pid, octet, min(r._written for r in recorders) // {FRAME}, flush=True)

asyncio.run(main())
"""
"""Records as a gateway does, only faster; says after each second of the calls who writes, how many
frames were sent to him, and how many of those he has said to be written.
"""


class Told(NamedTuple):
    """What a gateway said last."""

    scribe: int
    frames: int
    written: int


class Victim:
    """A gateway as a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def told(self, seconds: int) -> Told:
        """What it says after so many seconds of its calls more."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            for _ in range(seconds):
                line = await self.process.stdout.readline()
        return Told(*map(int, line.split()))

    async def writes(self) -> Told:
        """What it says once something of its calls is written."""
        told = await self.told(1)
        while not told.written:
            told = await self.told(1)
        return told

    async def kill(self, *others: int) -> Told:
        """Kill it, with *others* at the same moment; what it said last."""
        for pid in (*others, self.process.pid):
            os.kill(pid, signal.SIGKILL)
        await self.process.wait()
        assert self.process.stdout is not None
        said = (await self.process.stdout.read()).split(b"\n")[:-1]
        return Told(*map(int, said[-1].split())) if said else Told(0, 0, 0)


@pytest.fixture
async def victim(tmp_path: Path) -> AsyncIterator[Victim]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", GATEWAY, str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    yield Victim(process)
    if process.returncode is None:
        process.kill()
        await process.wait()


async def left(folder: Path, number: int) -> Recording:
    recording = await asyncio.to_thread(salvage, path_of(folder, f"call-{number}"), KEY)
    assert recording is not None
    return recording


def check(recording: Recording) -> int:
    """Every sample is in its place and every hash is right; how many frames there are."""
    data = read_recording(recording.path, KEY)
    assert hashlib.sha256(data).hexdigest() == recording.sha256
    block = 10 * 8000 * 4
    hashes = [hashlib.sha256(data[at : at + block]).hexdigest() for at in range(44, len(data), block)]
    assert hashes == list(recording.blocks)
    with wave.open(BytesIO(data)) as file:
        both = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
    frames = len(both) // FRAME
    octets = np.repeat(np.arange(frames) % 256, FRAME).astype(np.uint8)
    assert np.array_equal(decode(octets.tobytes(), "PCMA"), both[:, 0])
    assert np.array_equal(decode(((octets.astype(int) + 7) % 256).astype(np.uint8).tobytes(), "PCMA"), both[:, 1])
    return frames


@pytest.mark.parametrize("seed", range(4))
async def test_of_the_gateway_all_that_was_sent_is_written_by_the_process_that_outlives_it(
    victim: Victim, tmp_path: Path, seed: int
) -> None:
    """It is salvaged at once, while that process may still be writing: salvaging waits for it."""
    before = await victim.told(random.Random(seed).randrange(5, 60))
    last = await victim.kill()
    for number in range(CALLS):
        assert max(before.frames, last.frames) <= check(await left(tmp_path, number))


@pytest.mark.parametrize("seed", range(4))
async def test_of_both_every_whole_second_that_was_written_opens(victim: Victim, tmp_path: Path, seed: int) -> None:
    await victim.writes()
    before = await victim.told(random.Random(seed).randrange(1, 60))
    last = await victim.kill(before.scribe)
    for number in range(CALLS):
        assert 0 < max(before.written, last.written) <= check(await left(tmp_path, number))


async def test_of_the_process_again_and_again_costs_nothing(victim: Victim, tmp_path: Path) -> None:
    told = await victim.told(3)
    for _ in range(4):
        os.kill(told.scribe, signal.SIGKILL)
        dead = told.scribe
        while told.scribe == dead:
            told = await victim.told(1)
        told = await victim.told(7)
    await victim.kill()
    for number in range(CALLS):
        assert told.frames <= check(await left(tmp_path, number))


async def test_the_process_ends_when_its_gateway_is_killed(victim: Victim) -> None:
    told = await victim.told(5)
    await victim.kill()
    async with asyncio.timeout(60):
        while _state(told.scribe) != "Z":  # noqa: ASYNC110 - what is waited for is another process
            await asyncio.sleep(0.02)


def _state(pid: int) -> str:
    """As the system tells it; a dead one that nobody waits for is Z."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"

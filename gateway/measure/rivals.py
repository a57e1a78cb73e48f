"""Other people's engines under the same load: each in a process of its own, which alone imports it.

``python -m gateway.measure.rivals NAME OPTIONS``. Both do what their own documentation shows: answer, write a prompt,
read what is heard and put it into a file, ten times a second. pyVoIP is GPL-3 and never shares a process with the
gateway.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
import os
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

from gateway.measure.bench_calls import Subject, version_of
from gateway.measure.subject import HOST, Options, free_port, listen, prompt, say

PACKAGES = {"pyVoIP": "pyVoIP", "baresip-python": "baresip"}
"""Their names on PyPI, and what to import."""

STEP_S = 0.1
RATE = 8000


def installed() -> list[Subject]:
    return [Subject(name, (__name__, name)) for name, module in PACKAGES.items() if find_spec(module) is not None]


class Counted:
    """What each of them counts."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._numbers = itertools.count(1)
        self.calls = self.failed = self.keys = 0

    def counters(self) -> dict[str, int]:
        return {"calls": self.calls, "failed": self.failed, "keys": self.keys}

    def file(self) -> BinaryIO:
        """A recording, removed as soon as it is closed: nobody will hear it."""
        path = self._folder / f"{next(self._numbers)}.raw"
        made = path.open("wb")
        path.unlink()
        return made


def pyvoip(options: Options) -> None:
    """PyVoIP without its registration, which it cannot do without. Its audio is 8-bit linear."""
    voip, status = importlib.import_module("pyVoIP.VoIP"), importlib.import_module("pyVoIP.VoIP.VoIP")
    counted, port = Counted(options.folder), free_port()
    said = ((prompt(RATE) >> 8) + 128).astype("u1").tobytes()

    def answer(call: Any) -> None:
        counted.calls += 1
        try:
            call.answer()
            _talk(call)
        except (status.InvalidStateError, OSError):
            counted.failed += 1

    def _talk(call: Any) -> None:
        written = 0.0
        began = time.monotonic()
        with counted.file() as file:
            while call.state == voip.CallState.ANSWERED:
                if time.monotonic() - began >= written:
                    call.write_audio(said)
                    written += len(said) / RATE
                file.write(call.read_audio(int(RATE * STEP_S), blocking=False))
                counted.keys += len(call.get_dtmf(10))
                time.sleep(STEP_S)

    phone = voip.VoIPPhone(
        HOST, options.caller_port, "bench", "", myIP=HOST, callCallback=answer, sipPort=port,
        rtpPortLow=options.first_port, rtpPortHigh=options.last_port,
    )  # fmt: skip
    phone.sip.register = lambda: True
    phone.start()
    time.sleep(1.5)  # its SIP thread begins with a timer of 1 s
    say("ready", port=port, version=version_of("pyVoIP"), recording="8 bit, heard only")
    listen(counted.counters)


async def baresip(options: Options) -> None:
    """baresip-python with its driver for audio that a program makes."""
    library: Any = importlib.import_module("baresip")
    counted, port = Counted(options.folder), free_port()
    said = prompt(RATE).tobytes()
    step = int(2 * RATE * STEP_S)
    tasks: set[asyncio.Task[None]] = set()

    async def talk(call: Any) -> None:
        counted.calls += 1
        at = 0
        with counted.file() as file:
            try:
                call.on_dtmf(count_key)
                await call.answer()
                await call.wait_established()
                while call.state is not library.CallState.CLOSED:
                    at = (at + call.audio.write(said[at : at + 2 * step])) % len(said)
                    file.write(call.audio.read(2 * step))
                    await asyncio.sleep(STEP_S)
            except library.BaresipError:
                counted.failed += call.state is not library.CallState.CLOSED

    def count_key(digit: Any) -> None:
        counted.keys += bool(getattr(digit, "is_press", True))

    def take(call: Any) -> None:
        task = asyncio.create_task(talk(call))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    runtime = library.Runtime()
    text = f"sip_listen {HOST}:{port}\nrtp_ports {options.first_port}-{options.last_port}\n"
    await runtime.start(library.Config(net_interface=HOST, max_concurrent_calls=None, extra_config_text=text))
    agent = await library.UserAgent.create(
        runtime, library.Account(user="bench", domain=f"{HOST}:{port}", password="", reg_interval=0)
    )
    agent.on_incoming(take)
    say("ready", port=port, version=version_of("baresip-python"), recording="16 bit, heard only")
    await asyncio.to_thread(listen, counted.counters)
    await runtime.close()


RUN: dict[str, Callable[[Options], None]] = {
    "pyVoIP": pyvoip,
    "baresip-python": lambda options: asyncio.run(baresip(options)),
}


def main() -> None:
    name, argument = sys.argv[1:]
    RUN[name](Options.parse(argument))
    os._exit(0)  # their threads would keep the process


if __name__ == "__main__":
    main()

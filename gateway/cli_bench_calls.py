"""``consent-gateway bench media`` and ``bench setup``: the telephony under load, beside its goals and its peers."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gateway.measure import bench_media, bench_setup, rivals
from gateway.measure.bench_calls import BenchFailed, Cores, Show, Subject, conditions
from gateway.measure.bench_media import Goal, value_of
from gateway.measure.load_sip import Codec

AsJson = Annotated[bool, typer.Option("--json", help="for scripts")]
WithCodec = Annotated[Codec, typer.Option(help="what the callers offer")]
Rivals = Annotated[bool, typer.Option("--rivals/--no-rivals", help="pyVoIP and baresip-python too, where installed")]
Realtime = Annotated[
    bool, typer.Option("--realtime/--no-realtime", help="before all else that the machine does, where we may")
]
One = Callable[[Show], Awaitable[dict[str, Any]]]
RIVAL_CALLS, RIVAL_CPS, RIVAL_PLACED = 100, 20.0, 10.0
"""What the others are asked to carry at most, unless told otherwise: they fall behind soon after."""

out, err = Console(), Console(stderr=True)


def media(
    calls: Annotated[
        list[int] | None, typer.Option(min=1, max=1900, help="at once; may be repeated [default: 1000]")
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="of the window, once all calls are up")] = 30,
    cps: Annotated[
        float, typer.Option(min=1, max=200, help="calls placed a second until all are up")
    ] = bench_media.CPS,
    codec: WithCodec = "PCMA",
    with_rivals: Rivals = True,
    rival_calls: Annotated[int, typer.Option(min=1, max=1900, help="at once, for each of them")] = RIVAL_CALLS,
    realtime: Realtime = True,
    as_json: AsJson = False,
) -> None:
    """Many calls at once: prompts, recording, RTCP, keys. CPU, packet gaps, loss, memory a call. From another core."""
    cores = _cores(realtime=realtime)
    wanted = calls or [1000]

    def one(number: int, subject: Subject, rate: float, spoken: Codec) -> One:
        return lambda show: bench_media.run(number, seconds, spoken, cores, show, subject, rate)

    runs = [one(number, bench_media.SWITCHBOARD, cps, codec) for number in wanted]
    if with_rivals:
        fewer, spoken = min(*wanted, rival_calls) if wanted else rival_calls, _rivals_speak(codec)
        runs += [one(fewer, rival, min(cps, RIVAL_PLACED), spoken) for rival in rivals.installed()]
    rows = (
        ("calls up", "up", 0), ("CPU, ms per call-second", "cpu_ms_per_call_s", 3),
        ("  of it in the kernel", "system_ms_per_call_s", 3),
        ("  workers beside it", "workers_cpu_ms_per_call_s", 3), ("packet gap p50, ms", "gap_ms.p50", 2),
        ("packet gap p99, ms", "gap_ms.p99", 2), ("packet gap p99.9, ms", "gap_ms.p999", 2),
        ("packet gap max, ms", "gap_ms.max", 2), ("sent of the packets due", "packets_due", 4),
        ("lost from it", "lost_from", 0), ("lost to it", "lost_to", 0), ("memory, kB per call", "kb_per_call", 1),
        ("  workers beside it", "workers_kb_per_call", 1), ("INVITE to 200 p50, ms", "setup_ms.p50", 2),
        ("INVITE to 200 p99, ms", "setup_ms.p99", 2), ("failed calls", "failed", 0),
        ("keys heard", "keys.heard", 0), ("  of", "keys.pressed", 0), ("it waited for its core", "waited_for_core", 4),
        ("its core was stolen", "stolen_from_core", 4), ("the load was late p99, ms", "generator.late_ms.p99", 2),
    )  # fmt: skip
    _bench(runs, len(wanted), "calls", bench_media.GOALS, rows, cores, as_json=as_json)


def setup(
    cps: Annotated[
        float, typer.Option(min=1, max=1000, help="new calls a second, whether earlier ones were answered or not")
    ] = 100,
    seconds: Annotated[float, typer.Option(min=1, max=3600)] = 30,
    hold: Annotated[float, typer.Option(min=0.1, max=60, help="seconds from the 200 to the BYE")] = 2.0,
    poisson: Annotated[bool, typer.Option("--poisson", help="at random moments, not evenly spaced")] = False,
    codec: WithCodec = "PCMA",
    with_rivals: Rivals = True,
    rival_cps: Annotated[float, typer.Option(min=1, max=1000, help="for each of them")] = RIVAL_CPS,
    realtime: Realtime = True,
    as_json: AsJson = False,
) -> None:
    """New calls at a rate: INVITE to 200, failures by status. Each is answered, talks, and is ended by its caller."""
    cores = _cores(realtime=realtime)

    def one(rate: float, subject: Subject, spoken: Codec) -> One:
        return lambda show: bench_setup.run(rate, seconds, hold, spoken, cores, show, subject, poisson=poisson)

    runs = [one(cps, bench_media.SWITCHBOARD, codec)]
    if with_rivals:
        runs += [one(min(cps, rival_cps), rival, _rivals_speak(codec)) for rival in rivals.installed()]
    rows = (
        ("placed", "placed", 0), ("failed", "failed", 0), ("sent again", "resent", 0),
        ("INVITE to 200 p50, ms", "setup_ms.p50", 2), ("INVITE to 200 p99, ms", "setup_ms.p99", 2),
        ("INVITE to 200 p99.9, ms", "setup_ms.p999", 2), ("INVITE to 200 max, ms", "setup_ms.max", 2),
        ("CPU, ms per call", "cpu_ms_per_call", 2), ("  workers beside it", "workers_cpu_ms_per_call", 2),
        ("cores used", "cores_used", 3), ("packet gap p99, ms", "gap_ms.p99", 2), ("lost from it", "lost_from", 0),
        ("it waited for its core", "waited_for_core", 4), ("its core was stolen", "stolen_from_core", 4),
        ("the load was late p99, ms", "generator.late_ms.p99", 2),
    )  # fmt: skip
    _bench(runs, 1, "cps", bench_setup.GOALS, rows, cores, as_json=as_json)


def _cores(*, realtime: bool) -> Cores:
    if sys.platform != "linux":
        err.print("this bench reads Linux's /proc and kernel time stamps; it runs on Linux only", style="red")
        raise typer.Exit(1)
    return Cores.choose(realtime=realtime)


def _rivals_speak(codec: Codec) -> Codec:
    """G.722 is not among what pyVoIP has."""
    return "PCMA" if codec == "G722" else codec


def _bench(
    runs: Sequence[One],
    ours: int,
    size: str,
    goals: Sequence[Goal],
    rows: Sequence[tuple[str, str, int]],
    cores: Cores,
    *,
    as_json: bool,
) -> None:
    """Do *runs*, of which the first *ours* are the gateway's, and print them; the largest of those beside *goals*.

    Exits with 1 when one of those could not be done; a rival that breaks off is left out.
    """
    told = conditions(cores) | {"database": "none", "listening": "none"}
    figures: list[dict[str, Any]] = []
    for number, one in enumerate(runs):
        try:
            figures.append(asyncio.run(_shown(one, number, len(runs))))
        except BenchFailed as error:
            err.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
            if number < ours:
                raise typer.Exit(1) from error
    best = max(figures[:ours], key=lambda run: float(run[size]))
    judged = [goal.judge(best) for goal in goals]
    if as_json:
        sys.stdout.write(json.dumps({"conditions": told, "runs": figures, "goals": judged}) + "\n")
    else:
        _print(told, figures, judged, size, rows)


async def _shown(one: One, number: int, of: int) -> dict[str, Any]:
    columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("starting", total=1.0)
        return await one(
            lambda text, share: progress.update(task, description=f"{number + 1}/{of} {text}", completed=share)
        )


def _print(
    told: dict[str, Any], figures: Sequence[dict[str, Any]], judged: Sequence[dict[str, Any]], size: str,
    rows: Sequence[tuple[str, str, int]],
) -> None:  # fmt: skip
    out.print(", ".join(f"{name} {value}" for name, value in told.items()), highlight=False, soft_wrap=True)
    table = Table()
    table.add_column("", no_wrap=True)
    for run in figures:
        table.add_column(f"{run['engine']}\n{run['version']}", justify="right")
    for text, key in (
        (size, size),
        ("seconds", "seconds"),
        ("codec", "codec"),
        ("recording", "recording"),
        ("before all else on its core", "realtime"),
    ):
        table.add_row(text, *(str(run[key]) for run in figures))
    for text, path, digits in rows:
        values = [value_of(run, path) for run in figures]
        table.add_row(text, *("-" if value is None else f"{value:.{digits}f}" for value in values))
    table.add_row("failures", *(", ".join(f"{k}: {v}" for k, v in run["failures"].items()) or "-" for run in figures))
    out.print(table)
    for goal in judged:
        out.print(_verdict(goal), highlight=False, soft_wrap=True)


def _verdict(goal: dict[str, Any]) -> str:
    if goal["value"] is None:
        return f"not measured: {goal['goal']}"
    if goal["met"]:
        return f"met: {goal['goal']} {goal['value']:g} (goal {goal['limit']:g})"
    return f"missed by {goal['over']:g}: {goal['goal']} {goal['value']:g} (goal {goal['limit']:g})"

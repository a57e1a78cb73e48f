"""``consent-gateway bench ledger``: what the ledger bears, and what it costs as it grows."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import structlog
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from gateway.measure.bench_ledger import BATCH, ORIGIN, RECORDED_S, WRITERS, Bench, Figures
from gateway.store.database import Database
from gateway.store.postgres import EmbeddedPostgres

SMALLEST = 1000
GOALS = {
    "batched_per_s": ">= 5000", "reply_to_webhook_ms": "p50 10, p99 50", "verify_ms": "200",
    "growth": "flat but for log n",
}  # fmt: skip
out, err = Console(), Console(stderr=True)


def ledger(
    events: Annotated[int, typer.Option(min=BATCH, help="events of each rate; eight times as many in batches")] = 5000,
    most: Annotated[
        int, typer.Option(min=SMALLEST, max=10_000_000, help="grow the ledger to so many events, by tens")
    ] = 100_000,
    orders: Annotated[int, typer.Option(min=5, help="orders at each size, and replies")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="for scripts")] = False,
) -> None:
    """Appends a second, reply to webhook, bundles made and verified, and the cost of an order as the ledger grows.

    On a PostgreSQL of its own that is removed afterwards; a million events take a few minutes and 3 GB.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    sizes = [SMALLEST]
    while sizes[-1] * 10 <= most:
        sizes.append(sizes[-1] * 10)
    with tempfile.TemporaryDirectory(prefix="consent-bench-") as folder:
        Path(folder).chmod(0o755)  # root's PostgreSQL is another user's process
        server = EmbeddedPostgres(Path(folder) / "postgres")
        endpoint = server.start()
        try:
            figures = asyncio.run(_bench(endpoint.dsn(), Path(folder), events, sizes, orders))
        finally:
            server.stop()
    conditions = {
        "python": platform.python_version(), "cores": os.cpu_count(), "machine": platform.machine(),
        "load": round(os.getloadavg()[0], 2), "postgres": "embedded, one disk, synchronous_commit on", "writers": WRITERS,
        "batch": BATCH, "orders": orders, "recorded_s": RECORDED_S, "origin": ORIGIN,
    }  # fmt: skip
    told = {
        "conditions": conditions, "goals": GOALS, "single_per_s": figures.single_per_s,
        "single_writers_per_s": figures.single_writers_per_s, "batched_per_s": figures.batched_per_s,
        "leaves_per_s": figures.leaves_per_s, "growth": figures.growth, "bundle_octets": figures.bundle_octets,
        "reply_to_webhook_ms": _percentiles(figures.reply_to_webhook_ms), "export_ms": _percentiles(figures.export_ms),
        "verify_ms": _percentiles(figures.verify_ms),
    }  # fmt: skip
    if as_json:
        sys.stdout.write(json.dumps(told) + "\n")
    else:
        _print(told)


async def _bench(dsn: str, folder: Path, events: int, sizes: list[int], orders: int) -> Figures:
    figures = Figures()
    database = await Database.open(dsn)
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("starting", total=1.0)

        def show(what: str, done: float) -> None:
            progress.update(task, description=what, completed=done)

        bench = Bench(database, folder, show)
        try:
            figures.growth = await bench.grow(sizes[:1], orders)
            await bench.append(events, figures)
            await bench.deliver(orders, figures)
            await bench.export(max(5, orders // 10), figures)
            figures.growth += await bench.grow(sizes[1:], orders)
        finally:
            await database.close()
    return figures


def _percentiles(values: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values, (50, 99))
    return {"n": len(values), "p50": float(p50), "p99": float(p99)}


def _print(told: dict[str, Any]) -> None:
    out.print(
        ", ".join(f"{name} {value}" for name, value in told["conditions"].items()), highlight=False, soft_wrap=True
    )
    rates = Table("events a second", "", "goal")
    for name, what in (
        ("single_per_s", "one writer, one event a transaction"), ("single_writers_per_s", f"{WRITERS} writers, the same"),
        ("batched_per_s", f"{WRITERS} writers, {BATCH} a transaction"), ("leaves_per_s", "into the tree"),
    ):  # fmt: skip
        rates.add_row(what, f"{told[name]:,.0f}", GOALS.get(name, ""))
    out.print(rates)
    waits = Table("ms", "n", "p50", "p99", "goal")
    for name, what in (
        ("reply_to_webhook_ms", "SMS reply to webhook"), ("export_ms", "bundle exported"), ("verify_ms", "bundle verified"),
    ):  # fmt: skip
        row = told[name]
        waits.add_row(what, str(row["n"]), f"{row['p50']:.1f}", f"{row['p99']:.1f}", GOALS.get(name, ""))
    out.print(waits)
    growth = Table("events in the ledger", "whole order, ms p50", "p99", "proof, ms", "checkpoint, ms")
    for step in told["growth"]:
        growth.add_row(
            f"{step['events']:,}", f"{step['order_ms']:.1f}", f"{step['order_p99_ms']:.1f}", f"{step['proof_ms']:.2f}",
            f"{step['checkpoint_ms']:.1f}",
        )  # fmt: skip
    out.print(growth)

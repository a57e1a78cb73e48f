"""One loaded run: start what is measured on one core, load it from another, and weigh it while the load lasts."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gateway.measure.load import Plan
from gateway.measure.processes import cpu_s, memory, pin
from gateway.measure.subject import Options, free_port

Show = Callable[[str, float], None]
"""Is told what is going on, and which share of it is done (0 to 1)."""

READY_S = 60.0
LOAD = "gateway.measure.load"
WORKER_NICE = -15
"""Workers do what may wait, but not for a neighbour of the machine's."""

OVERDUE_S = 120.0
"""How much longer than its plan a run may take before it is given up."""

_LIMIT = 1 << 20


class BenchFailed(Exception):
    """What was to be measured did not start, or broke off; the message says what it said last."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where things run: what is measured, the load, and the workers of what is measured.

    *realtime*: the first two run before all else, where we may.
    """

    measured: int
    load: int
    workers: int
    realtime: bool = False

    @classmethod
    def choose(cls, *, realtime: bool = False) -> Cores:
        """The first core for what is measured, the second for the load, the last for workers: what there is of them."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[min(1, len(cores) - 1)], cores[-1], realtime)


@dataclass(frozen=True, slots=True)
class Held:
    """kB. *own*: what no file backs, a page shared by several processes divided among them (PSS without files, whose
    share changes with whatever else the machine runs). *resident*: RSS. *workers*: as *own*, of all workers together.
    """

    own: float = 0.0
    resident: float = 0.0
    workers: float = 0.0


@dataclass(slots=True)
class Weighed:
    """What a process and its workers used between two moments, *seconds* apart.

    *system_s*: the kernel's part of *cpu_s*. *waited_s*: its first thread could have run, but its core was another
    process's. *stolen_s*: its core was another virtual machine's. *realtime*: it ran before all else on its core.
    """

    seconds: float = 0.0
    cpu_s: float = 0.0
    system_s: float = 0.0
    workers_cpu_s: float = 0.0
    waited_s: float = 0.0
    stolen_s: float = 0.0
    idle: Held = Held()
    loaded: Held = Held()
    workers: int = 0
    socket_drops: int = 0
    realtime: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: a module and its first arguments, which speaks as ``subject.py`` says."""

    name: str
    module: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """*ready* and *counters* are what the measured process says of itself, *load* what the generator says."""

    plan: Plan
    ready: dict[str, Any]
    counters: dict[str, Any]
    load: dict[str, Any]
    weighed: Weighed


class Child:
    """A process that speaks JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self._name = process, name
        self._in, self._out = process.stdin, process.stdout

    @property
    def pid(self) -> int:
        return self.process.pid

    async def next(self, within_s: float) -> dict[str, Any]:
        """Its next line. Raises BenchFailed when it is gone, or silent for *within_s*."""
        try:
            line = await asyncio.wait_for(self._out.readline(), within_s)
        except TimeoutError:
            raise BenchFailed(f"{self._name} has said nothing for {within_s:.0f} s") from None
        if not line:
            raise BenchFailed(
                f"{self._name} ended early, with exit code {await self.process.wait()}; see its messages above"
            )
        said: dict[str, Any] = json.loads(line)
        return said

    async def ask(self, what: str) -> dict[str, Any]:
        self._in.write(what.encode() + b"\n")
        return await self.next(READY_S)

    async def close(self) -> None:
        """Close its stdin, which ends it; kill it if that does not."""
        with suppress(OSError):
            self._in.close()
        try:
            await asyncio.wait_for(self.process.wait(), 10)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


@asynccontextmanager
async def child(name: str, *arguments: str) -> AsyncIterator[Child]:
    """``python -m`` *arguments*, ended with the context."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LIMIT
    )
    made = Child(process, name)
    try:
        yield made
    finally:
        await made.close()


async def measure(subject: Subject, plan: Plan, cores: Cores, show: Show) -> Outcome:
    """Start *subject*, load it, weigh it. Raises BenchFailed."""
    try:
        return await _measure(subject, plan, cores, show)
    except OSError as error:
        raise BenchFailed(f"{subject.name} was lost while it was measured: {error}") from error


async def _measure(subject: Subject, plan: Plan, cores: Cores, show: Show) -> Outcome:
    name = subject.name
    with tempfile.TemporaryDirectory(prefix="gateway-bench-") as folder:
        options = Options(folder, plan.rows + 10, plan.cps, free_port())
        async with child(name, *subject.module, options.argument()) as measured:
            show(f"{name}: starting", 0)
            ready = await measured.next(READY_S)
            place(measured.pid, cores)
            plan = replace(plan, port=ready["port"], core=cores.load, from_port=options.caller_port)
            async with child("the load generator", LOAD, _warm_up(plan).argument()) as load:
                await _follow(subject, measured, load, _warm_up(plan), cores, Weighed(), show)
            await asyncio.sleep(1)  # what those calls leave behind is not idling
            weighed, before = Weighed(idle=_memory(measured.pid)), await measured.ask("counters")
            weighed.realtime = os.sched_getscheduler(measured.pid) == os.SCHED_RR
            async with child("the load generator", LOAD, plan.argument()) as load:
                if cores.realtime:
                    prefer(load.pid)
                figures = await _follow(subject, measured, load, plan, cores, weighed, show)
            counters = await measured.ask("counters")
    counters = {name: value - before[name] for name, value in counters.items() if name != "at"}
    return Outcome(plan, ready, counters, figures, weighed)


def _warm_up(plan: Plan) -> Plan:
    """Two short calls, so that what the first call starts (code, workers) is not taken for the cost of a call."""
    return replace(plan, kind="setup", calls=0, cps=2.0, seconds=1.0, hold_s=0.5)


async def _follow(
    subject: Subject, measured: Child, load: Child, plan: Plan, cores: Cores, weighed: Weighed, show: Show
) -> dict[str, Any]:
    """Read what the load says until its figures come, and weigh at the edges of its window."""
    name = subject.name
    ends = time.monotonic() + plan.seconds + plan.rows / max(plan.cps, 1) + OVERDUE_S
    first: tuple[float, ...] | None = None
    while time.monotonic() < ends:
        said = await load.next(READY_S)
        match said["at"]:
            case "window":
                place(measured.pid, cores)
                first = _sample(measured.pid, cores.measured)
            case "linger" | "leave" if first is not None:
                last = _sample(measured.pid, cores.measured)
                spent = (after - before for before, after in zip(first, last, strict=True))
                weighed.seconds, weighed.cpu_s, weighed.system_s, weighed.workers_cpu_s, *rest = spent
                weighed.waited_s, weighed.stolen_s = rest
                weighed.loaded, weighed.workers = _memory(measured.pid), len(children(measured.pid))
                weighed.socket_drops = socket_drops(measured.pid)
                first = None
            case "progress":
                place(measured.pid, cores)  # it may have started more
                show(f"{name}: {said['phase']}, {said['up']} calls", _done(said, plan))
            case "figures":
                return said
    raise BenchFailed(f"{name}: the run of {plan.seconds:.0f} s was not over {OVERDUE_S:.0f} s later")


def place(pid: int, cores: Cores) -> None:
    """The process on its core, its workers on theirs (they would inherit it). Raises OSError when it is gone."""
    for task in _tasks(pid):
        with suppress(ProcessLookupError):
            os.sched_setaffinity(task, {cores.measured})
    for worker in children(pid):
        with suppress(OSError):
            pin(worker, cores.workers)
            os.sched_setscheduler(worker, os.SCHED_OTHER, os.sched_param(0))
            if cores.realtime:
                os.setpriority(os.PRIO_PROCESS, worker, WORKER_NICE)
                Path(f"/proc/{worker}/autogroup").write_text(
                    str(WORKER_NICE)
                )  # else nice counts only within its session
    if cores.realtime:
        prefer(pid)


def prefer(pid: int) -> None:
    """Run *pid* before whatever else the machine does, so that a neighbour's work is not measured: its first thread
    before its others, and those too, since they may hold what the first one waits for. Does nothing where we may not.
    """
    for task in _tasks(pid):
        with suppress(ProcessLookupError, PermissionError):
            os.sched_setscheduler(task, os.SCHED_RR, os.sched_param(2 if task == pid else 1))


def _tasks(pid: int) -> list[int]:
    """The threads of *pid*; by the time that they are looked at some may have ended."""
    return [int(task.name) for task in Path(f"/proc/{pid}/task").iterdir()]


def children(pid: int) -> list[int]:
    """The processes that *pid* has started, and those that they have."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(stat.read_text().rpartition(")")[2].split()[1]), []).append(int(stat.parent.name))
    found, waiting = [], [pid]
    while waiting:
        more = parents.get(waiting.pop(), [])
        found += more
        waiting += more
    return found


def socket_drops(pid: int) -> int:
    """UDP packets that found a receive buffer of *pid* full."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            inodes.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = (line.split() for line in Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:])
    return sum(int(row[12]) for row in rows if row[9] in inodes)


def conditions(cores: Cores) -> dict[str, Any]:
    """The machine, and what runs on it."""
    return {
        "cpu": _cpu_model(), "cores": os.cpu_count(), "kernel": platform.release(), "python": platform.python_version(),
        "gateway": version_of("consent-gateway"), "load_average": round(os.getloadavg()[0], 2),
        "gateway_core": cores.measured, "load_core": cores.load, "workers_core": cores.workers,
    }  # fmt: skip


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _sample(pid: int, core: int) -> tuple[float, ...]:
    """Seconds: now, CPU, of it in the kernel, CPU of workers, waited for a core, stolen from *core*."""
    workers = 0.0
    for worker in children(pid):
        with suppress(OSError):
            workers += cpu_s(worker)
    waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1])
    system = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[12]) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), cpu_s(pid), system, workers, waited / 1e9, _stolen(core)


def _stolen(core: int) -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            return int(ticks[7]) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _memory(pid: int) -> Held:
    """Of the process and its workers."""
    own, workers = _own(pid), 0
    for worker in children(pid):
        with suppress(OSError):  # it ended in between
            workers += _own(worker)
    return Held(own, memory([pid]).rss_mb * 1000, workers)


def _own(pid: int) -> int:
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return sum(int(rest.split()[0]) for name, _, rest in lines if name in ("Pss_Anon", "Pss_Shmem"))


def _done(said: dict[str, Any], plan: Plan) -> float:
    """The share of the whole run; its parts are taken as long as they are planned to be."""
    ramp = plan.calls / plan.cps if plan.kind == "media" else 0.0
    rest = ramp / 4 + 3
    began = {
        "ramp": 0.0,
        "settle": ramp,
        "window": ramp + 2,
        "linger": ramp + 2 + plan.seconds,
        "leave": ramp + 3 + plan.seconds,
    }
    past = began.get(said["phase"], 0.0) + float(said["past_s"])
    return min(1.0, past / (ramp + 3 + plan.seconds + rest))

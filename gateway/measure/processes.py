"""What processes cost, read from Linux's /proc."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

_KIB = 1024
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Memory:
    """MB of 10^6 octets. *pss_mb* counts a page that processes share once, *rss_mb* once for each of them."""

    rss_mb: float
    pss_mb: float


def cpu_s(pid: int) -> float:
    """User and system seconds of *pid* and its threads. Raises OSError when it is gone."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pids: Sequence[int]) -> Memory:
    """What *pids* hold together. Raises OSError when one is gone."""
    rss = pss = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in ("Rss", "Pss"):
                octets = int(rest.split()[0]) * _KIB
                rss, pss = (rss + octets, pss) if name == "Rss" else (rss, pss + octets)
    return Memory(rss / _MB, pss / _MB)


def pin(pid: int, core: int) -> None:
    """Keep every thread of *pid*, and those that they will start, on one core. Raises OSError."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


@dataclass
class Usage:
    """CPU and memory of processes while something runs; one that dies and its successor both count."""

    peak: Memory = Memory(0.0, 0.0)
    _cpu: dict[int, tuple[float, float]] = field(default_factory=dict)

    @property
    def cpu_s(self) -> float:
        """Seconds from the first sample to the last."""
        return sum(last - first for first, last in self._cpu.values())

    def sample(self, pids: Sequence[int]) -> None:
        try:
            for pid in pids:
                used = cpu_s(pid)
                self._cpu[pid] = self._cpu.get(pid, (used, used))[0], used
            held = memory(pids)
        except OSError:  # it died in between; the next sample is of its successor
            return
        if held.pss_mb > self.peak.pss_mb:
            self.peak = held

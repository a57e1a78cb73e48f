"""``bench media``: many calls at once, what each costs, and the goals that this is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gateway.measure.bench_calls import Cores, Outcome, Show, Subject, measure
from gateway.measure.load import Plan
from gateway.measure.load_sip import Codec

FRAMES_PER_S = 50
RTP_COUNTS = ("sent", "unsent", "received", "duplicates", "stray", "malformed")
CPS = 50.0
"""How many calls a second are placed until all are up."""

SWITCHBOARD = Subject("consent-gateway", ("gateway.measure.switchboard_process",))


@dataclass(frozen=True, slots=True)
class Goal:
    """*figure* is a path into a run, such as ``gap_ms.p99``. Its value is to be *most* at most, or *least* at least."""

    text: str
    figure: str
    most: float | None = None
    least: float | None = None

    def judge(self, run: dict[str, Any]) -> dict[str, Any]:
        """Met or not, and *over*: by how much not, in the figure's own unit."""
        value = value_of(run, self.figure)
        limit = self.most if self.most is not None else self.least
        assert limit is not None
        over = None if value is None else value - limit if self.most is not None else limit - value
        return {
            "goal": self.text, "figure": self.figure, "value": value, "limit": limit,
            "met": over is not None and over <= 0, "over": None if over is None else round(max(0.0, over), 3),
        }  # fmt: skip


GOALS = (
    Goal("calls on one core", "up", least=1000),
    Goal("CPU, ms per call-second", "cpu_ms_per_call_s", most=0.7),
    Goal("packet gap p99, ms", "gap_ms.p99", most=23),
    Goal("packet gap p99.9, ms", "gap_ms.p999", most=30),
    Goal("share of the packets due that were sent", "packets_due", least=0.999),
    Goal("packets lost from the gateway", "lost_from", most=0),
    Goal("packets lost to the gateway", "lost_to", most=0),
    Goal("memory, kB per call", "kb_per_call", most=30),
    Goal("failed calls", "failed", most=0),
)


def value_of(run: dict[str, Any], path: str) -> float | None:
    """The figure at *path*."""
    found: Any = run
    for name in path.split("."):
        found = found.get(name) if found is not None else None
    return None if found is None else float(found)


async def run(
    calls: int, seconds: float, codec: Codec, cores: Cores, show: Show, subject: Subject = SWITCHBOARD, cps: float = CPS
) -> dict[str, Any]:
    """The figures of *calls* calls at once. Raises BenchFailed."""
    plan = Plan("media", seconds, calls=calls, cps=cps, codec=codec)
    return figures(subject.name, await measure(subject, plan, cores, show))


def figures(name: str, outcome: Outcome) -> dict[str, Any]:
    """What one run gives, ready for JSON. *lost_to* is what the far end's RTCP says; where it sends none, what the
    kernel had to drop because it did not read.
    """
    load, weighed, plan = outcome.load, outcome.weighed, outcome.plan
    up = load["answered"]
    call_s = up * weighed.seconds
    return {
        "engine": name, "version": outcome.ready.get("version", ""),
        "recording": outcome.ready.get("recording", "none"),
        "calls": plan.calls, "seconds": round(weighed.seconds, 2), "codec": plan.codec, "up": up,
        "cpu_ms_per_call_s": per(1000 * weighed.cpu_s, call_s, 3),
        "system_ms_per_call_s": per(1000 * weighed.system_s, call_s, 3),
        "workers_cpu_ms_per_call_s": per(1000 * weighed.workers_cpu_s, call_s, 3), "workers": weighed.workers,
        "realtime": weighed.realtime,
        "cores_used": per(weighed.cpu_s, weighed.seconds, 3),
        "waited_for_core": per(weighed.waited_s, weighed.seconds, 4),
        "stolen_from_core": per(weighed.stolen_s, weighed.seconds, 4),
        "gap_ms": load["gap_ms"], "packets": load["gaps"],
        "packets_due": per(load["gaps"], FRAMES_PER_S * load["window_s"] * up, 4),
        "lost_from": load["rtp_lost"],
        "lost_to": load["rtcp_reported_lost"] if load["rtcp_received"] else weighed.socket_drops,
        "lost_to_says": "RTCP" if load["rtcp_received"] else "kernel",
        "kb_per_call": per(weighed.loaded.own - weighed.idle.own, up, 1),
        "rss_kb_per_call": per(weighed.loaded.resident - weighed.idle.resident, up, 1),
        "workers_kb_per_call": per(weighed.loaded.workers - weighed.idle.workers, up, 1),
        "idle_mb": round(weighed.idle.own / 1000, 1), "loaded_mb": round(weighed.loaded.own / 1000, 1),
        "setup_ms": load["setup_ms"], "failures": load["failures"],
        "failed": plan.calls - load["ended"],
        "keys": {"pressed": load["keys_sent"], "heard": outcome.counters.get("keys")},
        "rtcp": {
            "sent": load["rtcp_sent"], "received": load["rtcp_received"], "jitter_ms": load["rtcp_reported_jitter_ms"],
        },
        "rtp": {name: load[f"rtp_{name}"] for name in RTP_COUNTS},
        "socket_drops": weighed.socket_drops,
        "counters": outcome.counters,
        "generator": load["generator"],
    }  # fmt: skip


def per(value: float, by: float, digits: int) -> float | None:
    return round(value / by, digits) if by else None

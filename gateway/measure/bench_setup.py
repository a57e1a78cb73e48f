"""``bench setup``: new calls at a given rate, however slow the answers are, and how slow they are."""

from __future__ import annotations

from typing import Any

from gateway.measure.bench_calls import Cores, Outcome, Show, Subject, measure
from gateway.measure.bench_media import SWITCHBOARD, Goal, per
from gateway.measure.load import Plan
from gateway.measure.load_sip import Codec

GOALS = (
    Goal("calls a second", "cps", least=100),
    Goal("failed calls", "failed", most=0),
    Goal("INVITE to 200 p50, ms", "setup_ms.p50", most=1),
    Goal("INVITE to 200 p99, ms", "setup_ms.p99", most=10),
)


async def run(
    cps: float, seconds: float, hold_s: float, codec: Codec, cores: Cores, show: Show, subject: Subject = SWITCHBOARD,
    *, poisson: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """The figures of *cps* new calls a second, each held for *hold_s*. Raises BenchFailed."""
    plan = Plan("setup", seconds, cps=cps, hold_s=hold_s, codec=codec, poisson=poisson)
    return figures(subject.name, await measure(subject, plan, cores, show))


def figures(name: str, outcome: Outcome) -> dict[str, Any]:
    """What one run gives, ready for JSON. A call has failed that was not answered, or that was not ended by its BYE."""
    load, weighed, plan = outcome.load, outcome.weighed, outcome.plan
    return {
        "engine": name, "version": outcome.ready.get("version", ""),
        "recording": outcome.ready.get("recording", "none"),
        "cps": plan.cps, "arrivals": "poisson" if plan.poisson else "fixed", "hold_s": plan.hold_s, "codec": plan.codec,
        "seconds": round(weighed.seconds, 2), "placed": load["placed"], "answered": load["answered"],
        "ended": load["ended"],
        "failed": load["placed"] + load["generator"]["full"] - load["ended"],
        "failures": load["failures"], "resent": load["resent"],
        "setup_ms": load["setup_ms"], "gap_ms": load["gap_ms"],
        "cpu_ms_per_call": per(1000 * weighed.cpu_s, load["answered"], 2),
        "workers_cpu_ms_per_call": per(1000 * weighed.workers_cpu_s, load["answered"], 2),
        "realtime": weighed.realtime,
        "cores_used": per(weighed.cpu_s, weighed.seconds, 3),
        "waited_for_core": per(weighed.waited_s, weighed.seconds, 4),
        "stolen_from_core": per(weighed.stolen_s, weighed.seconds, 4),
        "lost_from": load["rtp_lost"], "socket_drops": weighed.socket_drops,
        "counters": outcome.counters,
        "generator": load["generator"],
    }  # fmt: skip

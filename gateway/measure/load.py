"""The load generator: a process of its own that places calls at a gateway, speaks, presses keys, listens, and counts.

``python -m gateway.measure.load PLAN`` with the plan as JSON. It says what happens in JSON lines on stdout; the last
one has the figures. Everything runs on one thread in steps of 2 ms, and what it measures it reads from the kernel's
time stamps, so that its own lateness (which it reports too) does not count as the gateway's.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from gateway.measure.load_arrivals import Gaps
from gateway.measure.load_rtp import SLOTS, RtpLoad, audio
from gateway.measure.load_sip import GIVE_UP_S, PAYLOAD_TYPES, Codec, Leg, SipLoad

SLOT_S = 0.020 / SLOTS
STALL_S = 0.1
"""Behind by more than this, the frames in between are left out and counted, not sent in a burst."""

PROGRESS_S = 0.25
LINGER_S = 1.5
"""How long the calls of a media run go on after its window, so that memory can be read."""

SETTLE_S = 2.0
LAST_S = GIVE_UP_S + 3
_PR_SET_TIMERSLACK = 29
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. ``media``: *calls* at once for *seconds*, placed at *cps*. ``setup``: *cps* new calls a second for
    *seconds*, each held for *hold_s*, whether or not earlier ones were answered. ``mirror``: *calls* streams from the
    generator to itself.
    """

    kind: Literal["media", "setup", "mirror"]
    seconds: float
    calls: int = 0
    cps: float = 50.0
    hold_s: float = 2.0
    host: str = "127.0.0.1"
    port: int = 5060
    from_port: int = 0
    codec: Codec = "PCMA"
    poisson: bool = False
    core: int | None = None
    seed: int = 1

    @property
    def rows(self) -> int:
        """Calls that there must be room for: in a setup run, those of the hold and of a slow second more."""
        return self.calls or int(self.cps * (self.hold_s + 2) * 1.25) + 50

    def argument(self) -> str:
        return json.dumps(asdict(self))


class Load:
    """One run of a plan."""

    def __init__(self, plan: Plan, tell: Tell) -> None:
        self.plan, self._tell = plan, tell
        kind = PAYLOAD_TYPES[plan.codec]
        self.rtp = RtpLoad(plan.rows, kind, audio(kind), mirror=plan.kind == "mirror")
        self.sip = SipLoad((plan.host, plan.port), plan.codec, self._on_up, self._on_over, plan.from_port)
        self.lateness = Gaps()
        self.frames_skipped = 0
        self.full = 0
        self._free = deque(range(plan.rows))
        self._up: deque[Leg] = deque()
        self._legs = 0
        self._arrivals = self._schedule()
        self._next = next(self._arrivals, None)
        self._began = 0.0
        self._phase = "ramp"
        self._phase_at = 0.0
        self._shown = 0.0
        self._window_s = 0.0

    def run(self) -> dict[str, Any]:
        """Until the plan is done; the figures. Ends by itself, a good minute after the plan's time at the latest."""
        gc.collect()
        gc.freeze()
        gc.disable()
        ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1)
        rtp, sip, slot = self.rtp, self.sip, 0
        cpu_s, late = time.process_time(), []
        start = self._began = self._phase_at = time.monotonic()
        if self.plan.kind == "mirror":
            for row in range(self.plan.calls):
                rtp.begin(row, ("", 0))
        while self._phase != "done":
            due = start + slot * SLOT_S
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)
                now = time.monotonic()
            elif now - due > STALL_S:
                skipped = int((now - due) / (SLOT_S * SLOTS))
                self.frames_skipped += skipped
                start += skipped * SLOT_S * SLOTS
            late.append(int((now - due) * 1e9))
            place = slot % SLOTS
            if place == 0:
                rtp.frame()
                self.lateness.add(np.array(late, np.int64))
                late.clear()
                self._step(now)
            rtp.send(place)
            rtp.receive()
            sip.receive(now)
            sip.timers(now)
            self._place(now)
            slot += 1
            if place == SLOTS - 1:
                rtp.receive_reports()
        lasted = time.monotonic() - self._began
        figures = self._figures(lasted, time.process_time() - cpu_s)
        rtp.close()
        sip.close()
        return figures

    def _schedule(self) -> Iterator[float]:
        """When the calls are placed, seconds after the beginning."""
        plan, at = self.plan, 0.0
        random = np.random.default_rng(plan.seed)
        number = 0
        while plan.kind != "mirror":
            if number >= plan.calls if plan.kind == "media" else at >= plan.seconds:
                return
            yield at
            number += 1
            at = at + float(random.exponential(1 / plan.cps)) if plan.poisson else number / plan.cps

    def _place(self, now: float) -> None:
        while self._next is not None and self._began + self._next <= now:
            self._next = next(self._arrivals, None)
            if not self._free:
                self.full += 1
                continue
            row = self._free.popleft()
            self.sip.invite(Leg(self._legs, row, self.rtp.media_of(row)), now)
            self._legs += 1

    def _on_up(self, leg: Leg) -> None:
        self.rtp.begin(leg.row, leg.remote)
        self._up.append(leg)

    def _on_over(self, leg: Leg) -> None:
        self.rtp.end(leg.row)
        if self.plan.kind == "setup":
            self._free.append(leg.row)

    def _bye(self, leg: Leg, now: float) -> None:
        """Stop to send first: the port may be another call's a moment after the BYE."""
        self.rtp.end(leg.row)
        self.sip.bye(leg, now)

    def _step(self, now: float) -> None:
        """Once a frame: on to the next part of the plan."""
        if now - self._shown >= PROGRESS_S:
            self._shown = now
            self._progress(now)
        if self.plan.kind == "setup":
            self._step_setup(now)
        else:
            self._step_media(now)

    def _step_media(self, now: float) -> None:
        past = now - self._phase_at
        inviting = self._next is not None or any(leg.state == "inviting" for leg in self.sip.legs())
        if self._phase == "ramp" and not inviting:
            self._go("settle", now)
        elif self._phase == "settle" and past >= SETTLE_S:
            self.rtp.arrivals.measuring = True
            self._go("window", now)
        elif self._phase == "window" and past >= self.plan.seconds:
            self.rtp.arrivals.measuring = False
            self._window_s = past
            self._go("linger", now)
        elif self._phase == "linger" and past >= (0 if self.plan.kind == "mirror" else LINGER_S):
            self._go("leave", now)
        elif self._phase == "leave":
            self._leave(now, most=4)
            if not len(self.sip) or past >= LAST_S:
                self._go("done", now)

    def _step_setup(self, now: float) -> None:
        if self._phase == "ramp":
            self.rtp.arrivals.measuring = True
            self._go("window", now)
        elif self._phase == "window":
            self._leave(now, older_than_s=self.plan.hold_s)
            if self._next is None and now - self._phase_at >= self.plan.seconds:
                self._go("leave", now)
        elif self._phase == "leave":
            self._leave(now, older_than_s=self.plan.hold_s)
            if not len(self.sip) or now - self._phase_at >= LAST_S + self.plan.hold_s:
                self._go("done", now)

    def _leave(self, now: float, *, most: int = 1_000_000, older_than_s: float = 0.0) -> None:
        """End the calls that were answered first. Those that the gateway ended are passed over."""
        while self._up and most and (self._up[0].state != "up" or now - self._up[0].up_s >= older_than_s):
            leg = self._up.popleft()
            if leg.state == "up":
                self._bye(leg, now)
                most -= 1

    def _go(self, phase: str, now: float) -> None:
        self._phase, self._phase_at = phase, now
        self._tell({"at": phase})

    def _progress(self, now: float) -> None:
        if select.select([sys.stdin], [], [], 0)[0] and not os.read(0, 4096):
            raise SystemExit("the load generator's parent is gone")
        up = sum(leg.state == "up" for leg in self.sip.legs())
        self._tell({"at": "progress", "phase": self._phase, "up": up, "past_s": round(now - self._phase_at, 2)})

    def _figures(self, lasted_s: float, cpu_s: float) -> dict[str, Any]:
        rtp, sip, arrivals = self.rtp, self.sip.figures, self.rtp.arrivals
        return {
            "window_s": round(self._window_s, 3), "placed": sip.placed, "answered": sip.answered,
            "ended": sip.ended, "failures": dict(sip.failures),
            "resent": sip.resent,
            "setup_ms": quantiles(sip.setup_ms), "gap_ms": arrivals.gaps.figures(),
            "gaps": int(arrivals.gaps.counts.sum()), "rtp_received": arrivals.packets, "rtp_lost": arrivals.lost,
            "rtp_duplicates": arrivals.duplicates, "rtp_stray": arrivals.stray, "rtp_malformed": arrivals.malformed,
            "rtp_sent": int(rtp.sent.sum()) - rtp.unsent, "rtp_unsent": rtp.unsent, "keys_sent": rtp.keys_sent,
            "rtcp_sent": rtp.reports_sent, "rtcp_received": rtp.reports_received,
            "rtcp_reported_lost": int(rtp.reported_lost.sum()),
            "rtcp_reported_jitter_ms": round(int(rtp.reported_jitter.max(initial=0)) / 8, 2),
            "generator": {
                "late_ms": self.lateness.figures(), "frames_skipped": self.frames_skipped, "full": self.full,
                "dropped": rtp.dropped, "cpu_share": round(cpu_s / lasted_s, 3) if lasted_s else 0.0,
            },
        }  # fmt: skip


def quantiles(values: list[float]) -> dict[str, float | None]:
    """p50, p99, p99.9 and max; None of nothing."""
    if not values:
        return dict.fromkeys(("p50", "p99", "p999", "max"))
    p50, p99, p999 = np.percentile(values, (50, 99, 99.9))
    return {"p50": round(p50, 3), "p99": round(p99, 3), "p999": round(p999, 3), "max": round(max(values), 3)}


def main() -> None:
    plan = Plan(**json.loads(sys.argv[1]))
    if plan.core is not None:
        os.sched_setaffinity(0, {plan.core})

    def tell(line: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()

    load = Load(plan, tell)
    tell({"at": "ready", "sip": load.sip.socket.getsockname()[1]})
    tell({"at": "figures", **load.run()})


if __name__ == "__main__":
    main()

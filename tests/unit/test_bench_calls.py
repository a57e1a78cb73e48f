"""How the benches of calls judge and count: no process, no socket."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.measure.bench_media import Goal
from gateway.measure.load import Plan, quantiles
from gateway.measure.load_arrivals import BINS, Gaps


class TestGoals:
    @pytest.mark.parametrize(
        ("goal", "value", "met", "over"),
        [
            (Goal("gap", "gap_ms.p99", most=23), 22.9, True, 0),
            (Goal("gap", "gap_ms.p99", most=23), 23.0, True, 0),
            (Goal("gap", "gap_ms.p99", most=23), 25.5, False, 2.5),
            (Goal("gap", "gap_ms.p99", least=30), 25.5, False, 4.5),
            (Goal("gap", "gap_ms.p99", least=25), 25.5, True, 0),
            (Goal("gap", "gap_ms.p99", most=23), None, False, None),
        ],
    )
    def test_a_goal_is_met_or_says_by_how_much_not(
        self, goal: Goal, value: float | None, met: bool, over: float | None
    ) -> None:
        judged = goal.judge({"gap_ms": {"p99": value}})
        assert (met, over) == (judged["met"], judged["over"])

    def test_what_was_not_measured_is_not_met(self) -> None:
        assert not Goal("gap", "gap_ms.p99", most=23).judge({"gap_ms": None})["met"]


class TestGaps:
    def test_quantiles_are_those_of_the_gaps_to_ten_microseconds(self) -> None:
        gaps = Gaps()
        gaps.add(np.repeat(np.array([20_000_000, 30_000_000], np.int64), [990, 10]))
        figures = gaps.figures()
        assert figures["p50"] == pytest.approx(20, abs=0.01)
        assert figures["p99"] == pytest.approx(20, abs=0.01)
        assert figures["p999"] == pytest.approx(30, abs=0.01)
        assert 30 == figures["max"]

    def test_a_gap_beyond_the_last_step_is_told_in_full(self) -> None:
        gaps = Gaps()
        gaps.add(np.array([5_000_000_000], np.int64))
        assert 5000 == gaps.figures()["max"]
        assert 1 == gaps.counts[BINS - 1]

    def test_of_nothing_there_is_nothing(self) -> None:
        assert {None} == set(Gaps().figures().values()) == set(quantiles([]).values())


class TestPlans:
    def test_a_setup_run_has_room_for_calls_that_are_answered_two_seconds_late(self) -> None:
        assert Plan("setup", 60, cps=100, hold_s=2).rows >= 400

    def test_a_media_run_has_room_for_its_calls(self) -> None:
        assert 7 == Plan("media", 60, calls=7).rows

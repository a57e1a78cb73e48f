"""The schedule of Standard Webhooks: when a failed attempt is followed by another."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.provisioning.schedule import LONGEST_WAIT_S, RETRY_DELAYS_S, next_delay_s, retry_after_s

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class TestDelays:
    def test_ten_attempts_by_the_table_of_the_specification(self) -> None:
        minute, hour = 60, 3600
        assert [
            5, 5 * minute, 30 * minute, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour, None,
        ] == [next_delay_s(attempt, None, 0.0, lambda: 0.5) for attempt in range(1, 11)]  # fmt: skip
        assert 75 * hour + 35 * minute + 5 == sum(RETRY_DELAYS_S)

    def test_jitter_only_delays(self) -> None:
        assert (5.0, 5.25, 5.5) == tuple(next_delay_s(1, None, 0.1, lambda r=r: r) for r in (0.0, 0.5, 1.0))

    def test_a_longer_wish_is_honoured(self) -> None:
        assert 120.0 == next_delay_s(1, 120.0, 0.0, lambda: 0.0)

    def test_those_who_were_told_the_same_time_do_not_come_back_at_once(self) -> None:
        assert (600.0, 660.0) == tuple(next_delay_s(1, 600.0, 0.1, lambda r=r: r) for r in (0.0, 1.0))

    def test_a_shorter_one_is_not(self) -> None:
        assert 7200.0 == next_delay_s(4, 1.0, 0.0, lambda: 0.0)

    def test_a_wish_beyond_a_day_is_a_day(self) -> None:
        assert LONGEST_WAIT_S == next_delay_s(1, 1e9, 0.0, lambda: 0.0)

    def test_no_wish_adds_an_attempt(self) -> None:
        assert None is next_delay_s(10, 60.0, 0.0, lambda: 0.0)

    @given(st.integers(1, 9), st.none() | st.floats(0, 1e12), st.floats(0, 0.5), st.floats(0, 1))
    def test_never_sooner_than_the_schedule_nor_later_than_it_or_a_day(
        self, attempt: int, wish: float | None, jitter: float, chance: float
    ) -> None:
        delay = next_delay_s(attempt, wish, jitter, lambda: chance)
        assert delay is not None
        assert RETRY_DELAYS_S[attempt - 1] <= delay <= max(RETRY_DELAYS_S[attempt - 1] * 1.5, LONGEST_WAIT_S)


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            (120.0, "120"),
            (0.0, "0"),
            (7.0, " 7 "),
            (LONGEST_WAIT_S, "9" * 5000),
            (30.0, "Sun, 01 Mar 2026 12:00:30 GMT"),
            (30.0, "Sunday, 01-Mar-26 12:00:30 GMT"),
            (0.0, "Sun, 01 Mar 2026 11:00:00 GMT"),
            (None, ""),
            (None, "soon"),
            (None, "-5"),
            (None, "1.5"),
            (None, "１２"),
            (None, "Sun, 01 Mar 2026 12:00:30"),
            (None, "Sun, 99 Foo 2026 12:00:30 GMT"),
        ],
    )
    def test_seconds_or_an_http_date(self, expected: float | None, text: str) -> None:
        assert expected == retry_after_s(text, NOW)

    @given(st.text())
    def test_whatever_comes_is_a_wait_or_none(self, text: str) -> None:
        wait = retry_after_s(text, NOW)
        assert wait is None or wait >= 0

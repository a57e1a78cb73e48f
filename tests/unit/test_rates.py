"""Token buckets, and memory that stays bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.rates import MOST_BUCKETS, Forgetful, Rates, network_of


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestBuckets:
    def test_as_many_as_the_burst_at_once(self) -> None:
        rates = Rates(rate=2, burst=3, clock=Clock())
        assert [0, 0, 0, 0.5] == [rates.take("a") for _ in range(4)]

    def test_each_name_has_its_own(self) -> None:
        rates = Rates(rate=1, burst=1, clock=Clock())
        assert [0, 0] == [rates.take("a"), rates.take("b")]

    def test_tokens_come_back_with_time_but_never_more_than_the_burst(self) -> None:
        clock = Clock()
        rates = Rates(rate=2, burst=2, clock=clock)
        assert [0, 0] == [rates.take("a") for _ in range(2)]
        clock.now += 0.5
        assert [0, 0.5] == [rates.take("a") for _ in range(2)]
        clock.now += 3600
        assert [0, 0, 0.5] == [rates.take("a") for _ in range(3)]

    def test_who_waits_as_long_as_told_is_let_in(self) -> None:
        clock = Clock()
        rates = Rates(rate=0.3, burst=1, clock=clock)
        rates.take("a")
        clock.now += rates.take("a")
        assert 0 == rates.take("a")

    def test_a_token_may_be_given_back(self) -> None:
        rates = Rates(rate=1, burst=1, clock=Clock())
        rates.take("a")
        rates.give_back("a")
        assert [0, 1] == [rates.take("a"), rates.take("a")]

    def test_a_name_may_have_a_rate_of_its_own(self) -> None:
        rates = Rates(rate=1, burst=1, clock=Clock())
        assert [0, 0, 0.1] == [rates.take("a", rate=10, burst=2) for _ in range(3)]

    def test_a_clock_that_goes_backwards_gives_and_takes_nothing(self) -> None:
        clock = Clock()
        rates = Rates(rate=1, burst=2, clock=clock)
        rates.take("a")
        clock.now -= 500
        assert [0, 1] == [rates.take("a"), rates.take("a")]

    def test_the_standing_is_told(self) -> None:
        rates = Rates(rate=2, burst=5, clock=Clock())
        standing = rates.standing("a")
        assert (5, 4, 3, 1, 0) == (
            standing.limit, standing.remaining, standing.window_s, standing.reset_s, standing.wait_s,
        )  # fmt: skip

    def test_names_beyond_all_measure_are_forgotten_the_longest_unused_first(self) -> None:
        rates = Rates(rate=1, burst=1, clock=Clock())
        rates.take("first")
        for number in range(MOST_BUCKETS):
            rates.take(str(number))
        assert [0, 1] == [rates.take("first"), rates.take(str(MOST_BUCKETS - 1))]

    @given(st.lists(st.floats(min_value=0, max_value=10), min_size=1, max_size=60))
    def test_never_more_than_burst_and_rate_allow(self, pauses: list[float]) -> None:
        clock = Clock()
        rates = Rates(rate=0.7, burst=4, clock=clock)
        let_in = 0
        for pause in pauses:
            clock.now += pause
            let_in += rates.take("a") == 0
        assert let_in <= 4 + 0.7 * sum(pauses) + 1e-6


class TestForgetful:
    def test_what_was_set_the_longest_ago_goes_first(self) -> None:
        kept: Forgetful[str, int] = Forgetful(2)
        kept["a"], kept["b"], kept["a"], kept["c"] = 1, 2, 3, 4
        assert {"a": 3, "c": 4} == dict(kept)


@pytest.mark.parametrize(
    ("expected", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "::ffff:192.0.2.7"),
        ("2001:db8:1:2::/64", "2001:db8:1:2:3:4:5:6"),
        ("fe80::/64", "fe80::1%eth0"),
        ("unknown", ""),
        ("unknown", "/run/socket"),
    ],
)
def test_an_address_stands_for_its_network(expected: str, address: str) -> None:
    assert expected == network_of(address)

"""The bookkeeping of a line, on a clock and with a chance of its own."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telephony.routing import (
    DOWN_STATUSES,
    FAILOVER_STATUSES,
    FIRST_DOWN_S,
    LONGEST_DOWN_S,
    LONGEST_RETRY_AFTER_S,
    Peer,
    PeerState,
    Route,
    fails_over,
)

A, B, C = Peer("a.example.com"), Peer("b.example.com"), Peer("c.example.com", priority=10)


class Line:
    """A route with its clock."""

    def __init__(
        self, *peers: Peer, most_calls: int | None = None, calls_per_second: float | None = None, seed: int = 1
    ) -> None:
        self.now = 1000.0
        self.route = Route(peers or (A, B, C), most_calls, calls_per_second, lambda: self.now, Random(seed))

    def firsts(self, times: int) -> Counter[str]:
        """How often each peer came first."""
        return Counter(self.route.order()[0].host for _ in range(times))


class TestOrder:
    """RFC 2782, and what is down comes last."""

    def test_the_lower_priority_number_comes_first(self) -> None:
        line = Line(C, A)
        assert [A, C] == line.route.order()

    def test_calls_are_spread_by_weight(self) -> None:
        light, heavy = Peer("light", weight=1), Peer("heavy", weight=3)
        firsts = Line(light, heavy).firsts(4000)
        # of the marks 0..4 those from 2 on fall to the heavy one, 0 and 1 to the light one that stands first (RFC 2782)
        assert pytest.approx(4000 * 3 / 5, rel=0.1) == firsts["heavy"]

    def test_weight_0_is_chosen_seldom_but_not_never(self) -> None:
        firsts = Line(Peer("spare", weight=0), Peer("main", weight=99)).firsts(5000)
        assert 10 <= firsts["spare"] <= 150

    def test_the_same_chance_gives_the_same_order(self) -> None:
        one, other = Line(seed=7), Line(seed=7)
        assert [one.route.order() for _ in range(20)] == [other.route.order() for _ in range(20)]

    def test_a_peer_that_is_down_comes_last(self) -> None:
        line = Line()
        line.route.failed(A)
        assert [B, C, A] == line.route.order()

    def test_of_those_that_are_down_the_soonest_back_comes_first(self) -> None:
        line = Line()
        line.route.down(A, line.now + 60)
        line.route.down(B, line.now + 30)
        line.route.failed(C)
        assert [C, B, A] == line.route.order()

    @given(
        peers=st.lists(
            st.builds(Peer, st.sampled_from("abcdef"), priority=st.integers(0, 2), weight=st.integers(0, 5)),
            min_size=1, max_size=6, unique=True,
        ),
        fallen=st.sets(st.integers(0, 5)),
        seed=st.integers(0, 1000),
    )  # fmt: skip
    def test_whatever_happened_every_peer_is_tried_once(self, peers: list[Peer], fallen: set[int], seed: int) -> None:
        line = Line(*peers, seed=seed)
        down = {peers[number % len(peers)] for number in fallen}
        for peer in down:
            line.route.failed(peer)
        order = line.route.order()
        assert Counter(peers) == Counter(order)
        alive = [peer for peer in order if peer not in down]
        assert alive == order[: len(alive)]
        assert sorted(peer.priority for peer in alive) == [peer.priority for peer in alive]


class TestHealth:
    def test_a_failure_lasts_longer_each_time_up_to_a_limit(self) -> None:
        line = Line(A)
        lasted = []
        for _ in range(10):
            line.route.failed(A)
            (state,) = line.route.states()
            lasted.append(state.down_s)
            line.now += state.down_s
        assert [2, 4, 8, 16, 32, 64, 120, 120, 120, 120] == lasted
        assert (FIRST_DOWN_S, LONGEST_DOWN_S) == (lasted[0], lasted[-1])

    def test_when_the_time_is_over_it_is_tried_in_its_turn(self) -> None:
        line = Line(A, C)
        line.route.failed(A)
        assert not line.route.is_up(A)
        line.now += FIRST_DOWN_S
        assert line.route.is_up(A)
        assert [A, C] == line.route.order()

    def test_an_answer_makes_it_as_good_as_new(self) -> None:
        line = Line(A)
        for _ in range(3):
            line.route.failed(A)
            line.now += 60
        line.route.failed(A)
        line.route.up(A)
        assert [PeerState(A, up=True, down_s=0, failures=0)] == line.route.states()
        line.route.failed(A)
        assert [PeerState(A, up=False, down_s=FIRST_DOWN_S, failures=1)] == line.route.states()

    def test_calls_that_fail_together_are_one_failure(self) -> None:
        line = Line(A)
        for _ in range(100):
            line.route.failed(A)
        assert [PeerState(A, up=False, down_s=FIRST_DOWN_S, failures=1)] == line.route.states()

    def test_a_peer_that_asked_for_quiet_is_left_alone_until_then(self) -> None:
        line = Line(A)
        line.route.down(A, line.now + 30)
        line.route.down(A, line.now + 10)  # of two that came together the longer counts
        assert [PeerState(A, up=False, down_s=30, failures=1)] == line.route.states()
        line.now += 30
        assert line.route.is_up(A)

    def test_a_failure_while_it_is_down_shortens_nothing(self) -> None:
        line = Line(A)
        line.route.down(A, line.now + 30)
        line.route.failed(A)
        assert 30 == line.route.states()[0].down_s

    def test_an_absurd_retry_after_is_not_believed(self) -> None:
        line = Line(A)
        line.route.down(A, line.now + 1e9)
        assert LONGEST_RETRY_AFTER_S == line.route.states()[0].down_s

    def test_a_thousand_failures_overflow_nothing(self) -> None:
        line = Line(A)
        for _ in range(1200):
            line.route.failed(A)
            line.now += LONGEST_DOWN_S
        assert 1200 == line.route.states()[0].failures


class TestLimits:
    def test_without_limits_calls_go_out(self) -> None:
        line = Line()
        for _ in range(1000):
            assert line.route.may_call() is None
            line.route.began()
        assert 1000 == line.route.calls

    def test_the_most_calls_at_once(self) -> None:
        line = Line(most_calls=2)
        line.route.began()
        line.route.began()
        assert "2 calls are on the line, most_calls is 2" == line.route.may_call()
        line.route.ended()
        assert line.route.may_call() is None

    def test_the_calls_in_a_second(self) -> None:
        line = Line(calls_per_second=3)
        for _ in range(3):
            assert line.route.may_call() is None
            line.route.began()
            line.route.ended()
        assert "the line begins no more than 3 calls a second (calls_per_second)" == line.route.may_call()
        line.now += 0.34
        assert line.route.may_call() is None

    def test_less_than_one_call_a_second(self) -> None:
        line = Line(calls_per_second=0.1)
        assert line.route.may_call() is None
        line.route.began()
        line.now += 9
        assert line.route.may_call() is not None
        line.now += 1.01
        assert line.route.may_call() is None

    def test_asking_takes_nothing(self) -> None:
        line = Line(most_calls=1, calls_per_second=1)
        assert {None} == {line.route.may_call() for _ in range(100)}

    def test_more_ends_than_beginnings_are_a_fault(self) -> None:
        with pytest.raises(AssertionError, match="more calls ended than began"):
            Line().route.ended()


class TestFailover:
    """RFC 3263 §4.3 and RFC 3261 §21.5."""

    def test_the_failures_of_a_server_send_the_call_elsewhere(self) -> None:
        assert {408, 500, 502, 503, 504} == {status for status in range(300, 700) if fails_over(status, rang=False)}

    def test_once_it_rang_nothing_does(self) -> None:
        assert not any(fails_over(status, rang=True) for status in range(300, 700))

    def test_what_takes_a_peer_down_sends_the_call_elsewhere(self) -> None:
        assert DOWN_STATUSES <= FAILOVER_STATUSES


@pytest.mark.parametrize("peers", [(), (A, A)])
def test_a_line_without_peers_or_with_one_twice_is_refused(peers: tuple[Peer, ...]) -> None:
    with pytest.raises(ValueError, match="at least one peer, and none of them twice"):
        Route(peers, None, None, lambda: 0.0, Random(1))


@pytest.mark.parametrize(
    ("peer", "text"),
    [
        (Peer("pbx.example.com"), "pbx.example.com:5060/udp"),
        (Peer("2001:db8::1", 5061, "tls"), "[2001:db8::1]:5061/tls"),
    ],
)
def test_a_peer_reads_as_an_address(peer: Peer, text: str) -> None:
    assert text == str(peer)

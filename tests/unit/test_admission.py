"""Who is let in, and whom we may call: each rule on a clock of its own."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telephony.admission import (
    BUSY_BURST,
    BUSY_RATE,
    CALL_TOKENS,
    FULL_RETRY_S,
    MOST_SOURCES,
    Admission,
    Bucket,
    Counts,
    Destinations,
)

STRANGER = "198.51.100.7"
OTHER = "203.0.113.9"


class Door:
    """An admission with its clock. Unless told otherwise nothing but what a test sets is ever scarce."""

    def __init__(
        self,
        *,
        source_rate: float = 1e6,
        source_burst: float = 1e6,
        call_rate: float = 1e6,
        call_burst: float = 1e6,
        most_calls: int = 10**6,
    ) -> None:
        self.now = 1000.0
        self.admission = Admission(source_rate, source_burst, call_rate, call_burst, most_calls, lambda: self.now)

    def packets(self, number: int, host: str = STRANGER) -> int:
        """How many of *number* datagrams at once are looked at."""
        return sum(self.admission.packet(host) for _ in range(number))

    def calls(self, number: int, host: str = STRANGER, calls_now: int = 0, *, peer: bool = False) -> list[str]:
        return [self.admission.call(host, calls_now, peer=peer) for _ in range(number)]


class TestBucket:
    def test_it_is_full_at_the_start_and_then_empty(self) -> None:
        bucket = Bucket(1, 3, 0)
        assert [True, True, True, False] == [bucket.take(0) for _ in range(4)]

    def test_tokens_flow_in_up_to_the_burst(self) -> None:
        bucket = Bucket(2, 3, 0)
        assert bucket.take(0, 3)
        assert [True, False] == [bucket.take(0.5), bucket.take(0.5)]
        assert [True, True, True, False] == [bucket.take(1000) for _ in range(4)]

    def test_what_takes_more_than_the_burst_takes_the_whole_of_it(self) -> None:
        bucket = Bucket(1, 2, 0)
        assert [True, False] == [bucket.take(0, 50), bucket.take(0)]

    def test_a_reserve_stays_behind(self) -> None:
        bucket = Bucket(1, 4, 0)
        assert [True, True, True, False] == [bucket.take(0, reserve=1) for _ in range(4)]
        assert bucket.take(0)

    def test_a_bucket_that_never_fills_says_so(self) -> None:
        bucket = Bucket(0, 1, 0)
        assert 0 == bucket.wait_s(0)
        assert bucket.take(0)
        assert math.inf == bucket.wait_s(1e9)

    @pytest.mark.parametrize(("rate", "burst"), [(-1, 5), (1, 0), (1, 0.5)])
    def test_a_bucket_that_makes_no_sense_is_refused(self, rate: float, burst: float) -> None:
        with pytest.raises(ValueError, match="tokens/s and a burst of"):
            Bucket(rate, burst, 0)

    @given(
        rate=st.floats(0.01, 1000),
        burst=st.floats(1, 1000),
        steps=st.lists(st.floats(0, 30), min_size=1, max_size=200),
    )
    def test_never_more_than_the_burst_and_what_flowed_in(self, rate: float, burst: float, steps: list[float]) -> None:
        bucket, now, taken = Bucket(rate, burst, 0), 0.0, 0
        for step in steps:
            now += step
            taken += bucket.take(now)
            assert taken <= burst + rate * now + 1e-3

    @given(rate=st.floats(0.01, 1000), burst=st.floats(1, 1000), start=st.floats(0, 1e6), pause=st.floats(0, 100))
    def test_after_the_wait_that_it_names_a_token_is_there(
        self, rate: float, burst: float, start: float, pause: float
    ) -> None:
        bucket = Bucket(rate, burst, start)
        while bucket.take(start):
            pass
        now = start + pause
        assert bucket.take(now + bucket.wait_s(now))


class TestPackets:
    def test_a_source_has_its_burst_and_then_its_rate(self) -> None:
        door = Door(source_rate=10, source_burst=20)
        assert 20 == door.packets(50)
        door.now += 1
        assert 10 == door.packets(50)
        assert Counts(dropped=70) == door.admission.counts

    def test_a_flood_from_one_source_costs_no_other(self) -> None:
        door = Door(source_rate=10, source_burst=20)
        door.packets(1000)
        assert 20 == door.packets(20, OTHER)

    def test_ipv6_counts_by_the_network_of_64_bits(self) -> None:
        door = Door(source_rate=0, source_burst=5)
        assert 5 == sum(door.packets(1, f"2001:db8:0:1::{n:x}") for n in range(1, 100))
        assert 5 == door.packets(9, "2001:db8:0:2::1")
        assert 2 == len(door.admission)

    def test_a_zone_changes_no_address(self) -> None:
        door = Door(source_rate=0, source_burst=5)
        assert 5 == door.packets(5, "fe80::1%eth0") + door.packets(5, "fe80::1")

    def test_ipv4_within_ipv6_is_that_ipv4_address(self) -> None:
        door = Door(source_rate=0, source_burst=5)
        assert 5 == door.packets(5, f"::ffff:{STRANGER}") + door.packets(5, STRANGER)
        assert 5 == door.packets(9, f"::ffff:{OTHER}")

    def test_what_is_no_address_has_a_bucket_all_the_same(self) -> None:
        door = Door(source_rate=0, source_burst=5)
        assert 5 == door.packets(9, "fe80::zz:1")

    def test_the_source_that_was_silent_longest_is_forgotten(self) -> None:
        door = Door(source_rate=0, source_burst=1)
        assert 1 == door.packets(2, STRANGER)
        assert 1 == door.packets(2, OTHER)
        for n in range(MOST_SOURCES - 2):
            door.packets(1, f"10.0.{n // 250}.{n % 250}")
        assert 0 == door.packets(1, STRANGER)  # still known, and now the one that spoke last
        door.packets(1, "192.0.2.1")
        assert [0, 1] == [door.packets(1, STRANGER), door.packets(1, OTHER)]
        assert MOST_SOURCES == len(door.admission)


class TestCalls:
    def test_a_call_is_let_in(self) -> None:
        door = Door()
        assert ["admit"] == door.calls(1)
        assert Counts(admitted=1) == door.admission.counts

    def test_when_every_call_is_in_use_it_is_busy(self) -> None:
        door = Door(most_calls=10)
        assert ["admit"] == door.calls(1, calls_now=9)
        assert ["busy"] == door.calls(1, calls_now=10)
        assert FULL_RETRY_S == door.admission.retry_after_s
        assert Counts(admitted=1, busy=1) == door.admission.counts

    def test_a_call_takes_more_of_its_source_than_a_packet(self) -> None:
        door = Door(source_rate=0, source_burst=3 * CALL_TOKENS)
        assert ["admit"] * 3 + ["busy"] == door.calls(4)
        assert 0 == door.packets(1)

    def test_a_source_whose_burst_is_small_may_call_when_it_is_full(self) -> None:
        assert ["admit", "busy"] == Door(source_rate=0, source_burst=1).calls(2)

    def test_one_source_that_floods_does_not_take_the_calls_of_another(self) -> None:
        door = Door(source_rate=1, source_burst=8, call_rate=1, call_burst=10)
        assert 2 == door.calls(1000).count("admit")
        assert ["admit"] == door.calls(1, OTHER)

    def test_a_flood_is_answered_a_few_times_and_then_dropped(self) -> None:
        door = Door(source_rate=0, source_burst=1)
        door.calls(1)
        told = int(BUSY_BURST)
        assert ["busy"] * told + ["drop"] * 97 == door.calls(97 + told)
        assert Counts(admitted=1, busy=told, dropped=97) == door.admission.counts

    def test_a_source_that_went_on_is_told_again_after_a_while(self) -> None:
        door = Door(source_rate=0, source_burst=1)
        door.calls(100)
        door.now += 1 / BUSY_RATE
        assert ["busy", "drop"] == door.calls(2)

    def test_all_together_are_held_to_the_rate(self) -> None:
        door = Door(call_rate=10, call_burst=10)
        assert 10 == door.calls(50, peer=True).count("admit")
        door.now += 0.5
        assert 5 == door.calls(50, peer=True).count("admit")

    def test_a_peer_is_always_answered(self) -> None:
        door = Door(source_rate=0, source_burst=1, call_rate=1, call_burst=10)
        assert ["admit"] * 10 + ["busy"] * 990 == door.calls(1000, peer=True)

    def test_strangers_leave_a_part_of_the_rate_to_the_peers(self) -> None:
        door = Door(call_rate=0, call_burst=20)
        assert 15 == sum(door.calls(1, f"10.0.0.{n}").count("admit") for n in range(100))
        assert 5 == door.calls(100, peer=True).count("admit")

    def test_the_smallest_burst_leaves_a_stranger_his_call(self) -> None:
        assert ["admit"] == Door(call_rate=0, call_burst=1).calls(1)

    @pytest.mark.parametrize(("rate", "wait"), [(0.5, 2), (0.25, 4), (0.001, FULL_RETRY_S), (0, FULL_RETRY_S), (50, 1)])
    def test_the_wait_is_told_in_whole_seconds_and_never_long(self, rate: float, wait: int) -> None:
        door = Door(call_rate=rate, call_burst=1)
        assert ["admit", "busy"] == door.calls(2, peer=True)
        assert wait == door.admission.retry_after_s

    @given(
        events=st.lists(
            st.tuples(
                st.floats(0, 3), st.sampled_from([STRANGER, OTHER, "2001:db8::1"]), st.integers(0, 12), st.booleans()
            ),
            max_size=200,
        )
    )
    def test_whatever_comes_the_limits_hold_and_every_call_is_counted(
        self, events: list[tuple[float, str, int, bool]]
    ) -> None:
        door = Door(source_rate=2, source_burst=8, call_rate=3, call_burst=6, most_calls=10)
        began, admitted = door.now, 0
        for pause, host, calls_now, peer in events:
            door.now += pause
            verdict = door.admission.call(host, calls_now, peer=peer)
            admitted += verdict == "admit"
            assert admitted <= 6 + 3 * (door.now - began) + 1e-3
            assert verdict != "admit" or calls_now < 10
            assert verdict != "drop" or not peer
        counts = door.admission.counts
        assert (admitted, len(events)) == (counts.admitted, counts.admitted + counts.busy + counts.dropped)


PREFIXES = st.text("0123", max_size=4).map(lambda digits: "+" + digits)


class TestDestinations:
    def test_only_what_is_listed_is_allowed(self) -> None:
        destinations = Destinations(["+82", "+44"])
        assert [True, True, False] == [
            destinations.allows(n) for n in ("+821012345678", "+442079460000", "+12025550100")
        ]

    def test_no_list_allows_nothing(self) -> None:
        assert not Destinations([]).allows("+821012345678")

    def test_a_plus_allows_every_number(self) -> None:
        assert Destinations(["+"]).allows("+821012345678")

    @pytest.mark.parametrize(
        ("number", "allowed"),
        [("+821012345678", True), ("+8260123456", False), ("+82607001234", True), ("+82", True), ("+8", False)],
    )
    def test_the_longest_prefix_wins(self, number: str, allowed: bool) -> None:
        assert allowed == Destinations(["+82", "+82607"], ["+8260"]).allows(number)

    @pytest.mark.parametrize(
        "number", ["", "+", "821012345678", "+82 10", "+82x", "+82²", "+" + "8" * 16, "+82\n", "*21"]
    )
    def test_what_is_no_number_is_not_allowed(self, number: str) -> None:
        assert not Destinations(["+"]).allows(number)

    @pytest.mark.parametrize("prefix", ["", "82", "+8 2", "+82x", "00", "+82²", "+" + "8" * 16])
    def test_what_is_no_prefix_is_refused(self, prefix: str) -> None:
        with pytest.raises(ValueError, match=r"sip\.destinations: .* is no prefix of E\.164 numbers"):
            Destinations(["+44"], [prefix])

    def test_a_prefix_cannot_be_both(self) -> None:
        with pytest.raises(ValueError, match=r"sip\.destinations: '\+82' is both allowed and denied"):
            Destinations(["+82"], ["+82"])

    def test_the_refusal_names_the_setting_and_masks_the_number(self) -> None:
        refusal = Destinations(["+44"]).refusal("+821012345678")
        assert "sip.destinations" in refusal
        assert "+821012345678" not in refusal

    @given(allowed=st.sets(PREFIXES), denied=st.sets(PREFIXES), number=st.text("0123", min_size=1, max_size=6))
    def test_it_is_the_rule_told_in_other_words(self, allowed: set[str], denied: set[str], number: str) -> None:
        denied -= allowed
        fitting = sorted((p for p in allowed | denied if f"+{number}".startswith(p)), key=len)
        expected = bool(fitting) and fitting[-1] in allowed
        assert expected == Destinations(allowed, denied).allows(f"+{number}")

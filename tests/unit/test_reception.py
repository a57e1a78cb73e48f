"""Statistics of the audio that comes in (RFC 3550 §6.4.1, appendices A.1, A.3 and A.8)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telephony.reception import Reception

MS = 1_000_000
SSRC = 7


def received(sequences: Iterable[int], *, arrivals_ms: Iterable[float] | None = None) -> Reception:
    """What *sequences* leave, each at its own time 20 ms after the one before, and arriving then unless *arrivals_ms* says
    otherwise.
    """
    numbers = list(sequences)
    times = list(arrivals_ms) if arrivals_ms is not None else [20 * n for n in range(len(numbers))]
    made = Reception(SSRC, numbers[0] & 0xFFFF)
    for number, at in zip(numbers, times, strict=True):
        made.take(number & 0xFFFF, 160 * number & 0xFFFFFFFF, int((1000 + at) * MS))
    return made


class TestLoss:
    """A.3."""

    @pytest.mark.parametrize("first", [0, 1, 100, 65_535])
    def test_nothing_is_lost_of_a_whole_stream_wherever_it_begins(self, first: int) -> None:
        reception = received(range(first, first + 50))
        assert (50, 50, 0) == (reception.expected, reception.received, reception.lost)

    def test_what_is_missing_is_lost(self) -> None:
        assert 3 == received([1, 2, 4, 5, 8]).lost

    def test_what_comes_late_is_not_lost(self) -> None:
        reception = received([1, 2, 4, 3, 5])
        assert (0, 1) == (reception.lost, reception.reordered)

    def test_what_comes_twice_makes_the_loss_negative(self) -> None:
        reception = received([1, 2, 2, 3])
        assert (-1, 1) == (reception.lost, reception.duplicates)

    def test_the_number_wraps_around(self) -> None:
        reception = received(range(65_530, 65_546))
        assert (16, 0) == (reception.expected, reception.lost)
        assert 0x1_0000 | 9 == reception.block(0, 0).highest

    def test_a_loss_across_the_wrap_is_counted(self) -> None:
        assert 2 == received([65_534, 65_535, 65_538]).lost

    def test_a_far_end_that_begins_anew_keeps_the_losses_so_far(self) -> None:
        reception = received([1, 2, 5])
        reception.take(40_000, 0, 5000 * MS)
        reception.take(40_001, 160, 5020 * MS)
        assert (2, 5) == (reception.lost, reception.received)

    @given(st.integers(0, 65_535), st.sets(st.integers(1, 298)))
    def test_any_loss_from_any_number_is_counted_exactly(self, first: int, missing: set[int]) -> None:
        reception = received(first + n for n in range(300) if n not in missing)
        assert len(missing) == reception.lost


class TestReports:
    """§6.4.1."""

    def test_the_fraction_is_of_the_time_since_the_last_report(self) -> None:
        reception = received(range(8))
        assert 0 == reception.block(0, 0).fraction
        for number in (8, 10, 12, 14):
            reception.take(number, 160 * number, number * 20 * MS)
        block = reception.block(0, 0)
        assert (3 * 256 // 7, 3) == (block.fraction, block.lost)
        assert 0 == reception.block(0, 0).fraction

    def test_duplicates_make_no_negative_fraction(self) -> None:
        assert 0 == received([1, 1, 1, 2]).block(0, 0).fraction

    def test_the_far_ends_times_go_back_to_it(self) -> None:
        block = received([1, 2]).block(0xAABB, 77)
        assert (SSRC, 0xAABB, 77) == (block.ssrc, block.last_sr, block.delay)

    def test_all_numbers_fit_into_the_block(self) -> None:
        block = received([1, 3000, 1, 1, 65_000]).block(0, 0)
        assert all(0 <= value < 2**32 for value in (block.fraction, block.highest, block.jitter))


class TestJitter:
    """A.8: the mean deviation of the transit times, smoothed by 16."""

    def test_a_steady_stream_has_none(self) -> None:
        assert 0.0 == pytest.approx(received(range(100)).jitter_ms, abs=1e-6)

    def test_each_packet_moves_it_by_a_sixteenth(self) -> None:
        assert 16 / 16 == pytest.approx(received([1, 2], arrivals_ms=[0, 36]).jitter_ms)

    def test_steady_deviation_is_its_mean(self) -> None:
        arrivals = [20 * n + (10 if n % 2 else 0) for n in range(400)]
        assert 10 == pytest.approx(received(range(400), arrivals_ms=arrivals).jitter_ms, rel=0.02)

    def test_the_most_of_it_is_kept(self) -> None:
        arrivals = [20 * n + (40 if n == 3 else 0) for n in range(200)]
        reception = received(range(200), arrivals_ms=arrivals)
        assert reception.jitter_ms < 0.1 < 2.5 <= reception.most_jitter_ms

    def test_a_timestamp_that_wraps_around_is_none(self) -> None:
        reception = Reception(SSRC, 1)
        reception.take(1, 2**32 - 160, 1000 * MS)
        reception.take(2, 0, 1020 * MS)
        assert 0.0 == pytest.approx(reception.jitter_ms, abs=1e-6)

    def test_a_key_whose_timestamp_stands_still_is_none(self) -> None:
        """RFC 4733 §2.2.1: all packets of an event have the time of its beginning."""
        reception = received(range(10))
        for number in range(10, 17):
            reception.take(number, None, (1000 + 20 * number) * MS)
        reception.take(17, 160 * 17, (1000 + 20 * 17) * MS)
        assert (0, 18) == (reception.lost, reception.received)
        assert 0.0 == pytest.approx(reception.jitter_ms, abs=1e-6)


def test_the_longest_gap_is_between_two_packets() -> None:
    assert 250.0 == received([1, 2, 3, 4], arrivals_ms=[0, 20, 270, 280]).longest_gap_ms


def test_of_one_packet_there_is_no_gap() -> None:
    assert 0.0 == received([1]).longest_gap_ms

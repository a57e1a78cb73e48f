"""The play-out buffer: packets by timestamp in, a steady 20 ms out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.telephony.playout import DELAY, FARTHEST, FRAME, LATE_IN_A_ROW, Playout

SILENCE = b"\xd5"
QUIET = SILENCE * FRAME


def frame(letter: str) -> bytes:
    return letter.encode() * FRAME


def heard(playout: Playout, frames: int) -> str:
    """One letter for each frame taken: its own where it is of one letter, ``-`` for silence, ``?`` for a mixture."""
    letters = []
    for _ in range(frames):
        taken = playout.take()
        assert FRAME == len(taken)
        letters.append("-" if taken == QUIET else chr(taken[0]) if len(set(taken)) == 1 else "?")
    return "".join(letters)


def playout_of(*packets: tuple[int, str], start: int = 0) -> Playout:
    """A play-out that was given (frame number, letter) in this order."""
    made = Playout(SILENCE)
    for number, letter in packets:
        made.put((start + number * FRAME) % 2**32, frame(letter))
    return made


def test_before_anything_came_there_is_silence() -> None:
    assert "---" == heard(Playout(SILENCE), 3)


def test_the_first_packet_is_heard_after_60_ms() -> None:
    assert "---ab-" == heard(playout_of((0, "a"), (1, "b")), 6)


def test_packets_in_the_wrong_order_are_put_right() -> None:
    assert "---abcd" == heard(playout_of((0, "a"), (2, "c"), (3, "d"), (1, "b")), 7)


def test_a_packet_60_ms_late_is_still_in_its_place() -> None:
    playout = playout_of((0, "a"), (2, "c"))
    assert "---a" == heard(playout, 4)
    playout.put(1 * FRAME, frame("b"))
    assert "bc" == heard(playout, 2)


def test_a_lost_packet_is_20_ms_of_silence_and_nothing_moves() -> None:
    assert "---a-cd" == heard(playout_of((0, "a"), (2, "c"), (3, "d")), 7)


def test_a_duplicate_changes_nothing() -> None:
    assert "---abc-" == heard(playout_of((0, "a"), (1, "b"), (1, "b"), (0, "a"), (2, "c")), 7)


def test_a_packet_that_comes_too_late_is_dropped() -> None:
    playout = playout_of((0, "a"), (2, "c"))
    assert "---a-c" == heard(playout, 6)
    playout.put(1 * FRAME, frame("b"))
    assert "-" == heard(playout, 1)


def test_five_late_packets_in_a_row_mean_that_the_far_clock_is_behind() -> None:
    playout = playout_of((0, "a"))
    heard(playout, 20)
    for number in range(1, LATE_IN_A_ROW + 1):
        playout.put(number * FRAME, frame("xbcde"[number - 1]))
    assert "---e-" == heard(playout, 5)


def test_late_packets_between_good_ones_are_not_in_a_row() -> None:
    playout = playout_of((0, "a"))
    heard(playout, 10)
    for number in range(LATE_IN_A_ROW + 3):
        playout.put(0, frame("x"))
        playout.put((10 + number) * FRAME, frame("b"))
    assert "bbbbbbbb" == heard(playout, 3 + LATE_IN_A_ROW + 3).strip("-")


@pytest.mark.parametrize("octets", [1, 80, 160, 240, 320, 1600])
def test_any_packet_size_gives_the_same_sound(octets: int) -> None:
    sound = bytes(i % 251 for i in range(3200))
    playout = Playout(SILENCE)
    for start in range(0, len(sound), octets):
        playout.put(start, sound[start : start + octets])
    assert SILENCE * DELAY + sound == b"".join(playout.take() for _ in range(23))


def test_an_empty_packet_is_no_sound() -> None:
    playout = playout_of((0, "a"))
    playout.put(FRAME, b"")
    assert "---a-" == heard(playout, 5)


@pytest.mark.parametrize("jump", [FARTHEST + FRAME, -FARTHEST - 4 * FRAME, 2**31 - 1, -(2**31)])
def test_a_jump_of_over_two_seconds_starts_the_time_line_anew(jump: int) -> None:
    playout = playout_of((0, "a"))
    assert "---a" == heard(playout, 4)
    playout.put((4 * FRAME + jump) % 2**32, frame("b"))
    playout.put((5 * FRAME + jump) % 2**32, frame("c"))
    assert "---bc-" == heard(playout, 6)


def test_a_pause_of_silence_suppression_keeps_its_length() -> None:
    playout = playout_of((0, "a"), (10, "b"))
    assert "---a---------b" == heard(playout, 14)


def test_the_timestamp_wraps_around() -> None:
    playout = playout_of(*((n, "abcdef"[n]) for n in range(6)), start=2**32 - 3 * FRAME)
    assert "---abcdef-" == heard(playout, 10)


def test_the_wrap_around_may_fall_between_reordered_packets() -> None:
    playout = playout_of((0, "a"), (2, "c"), (1, "b"), start=2**32 - FRAME)
    assert "---abc" == heard(playout, 6)


def test_what_was_not_there_is_counted() -> None:
    playout = playout_of((0, "a"))
    heard(playout, 6)
    assert 2 * FRAME == playout.lost_octets


@settings(deadline=None)
@given(st.permutations(range(3)), st.integers(0, 2**32 - 1))
def test_any_order_within_60_ms_from_any_timestamp_gives_the_same_sound(order: Sequence[int], start: int) -> None:
    """The first packet fixes the delay, so the time line may begin up to two frames earlier."""
    playout = playout_of(*((n, "abc"[n]) for n in order), start=start)
    assert "abc" == heard(playout, 6).strip("-")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=400)), max_size=30))
def test_whatever_comes_20_ms_leave_and_the_buffer_stays_bounded(packets: list[tuple[int, bytes]]) -> None:
    playout = Playout(SILENCE)
    for timestamp, payload in packets:
        playout.put(timestamp, payload)
        assert FRAME == len(playout.take())
        assert len(playout._buffer) <= FARTHEST + 400

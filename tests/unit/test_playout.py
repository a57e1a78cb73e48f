"""The play-out buffer: packets by timestamp in, a steady 20 ms out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.audio.codec import CODECS, FRAME, Codec, silence
from gateway.audio.concealment import FADE, comfort, conceal
from gateway.telephony.playout import DELAY, FARTHEST, LATE_IN_A_ROW, WATCHED, Playout

SILENCE = b"\xd5"
QUIET = SILENCE * FRAME
LETTERS = b"abcdefx"


def frame(letter: str) -> bytes:
    return letter.encode() * FRAME


def heard(playout: Playout, frames: int) -> str:
    """One letter for each frame taken: its own where it is of one letter, ``-`` for silence, ``~`` for what fades away in its
    place.
    """
    letters = []
    for _ in range(frames):
        taken = playout.take()
        assert FRAME == len(taken)
        one = len(set(taken)) == 1 and taken[0] in LETTERS
        letters.append("-" if taken == QUIET else chr(taken[0]) if one else "~")
    return "".join(letters)


def playout_of(*packets: tuple[int, str], start: int = 0) -> Playout:
    """A play-out that was given (frame number, letter) in this order."""
    made = Playout("PCMA")
    for number, letter in packets:
        made.put((start + number * FRAME) % 2**32, frame(letter))
    return made


def test_before_anything_came_there_is_silence() -> None:
    assert "---" == heard(Playout("PCMA"), 3)


def test_the_first_packet_is_heard_after_60_ms() -> None:
    assert "---ac~" == heard(playout_of((0, "a"), (1, "c")), 6)


def test_packets_in_the_wrong_order_are_put_right() -> None:
    assert "---abcd" == heard(playout_of((0, "a"), (2, "c"), (3, "d"), (1, "b")), 7)


def test_a_packet_60_ms_late_is_still_in_its_place() -> None:
    playout = playout_of((0, "a"), (2, "c"))
    assert "---a" == heard(playout, 4)
    playout.put(1 * FRAME, frame("b"))
    assert "bc" == heard(playout, 2)


def test_a_lost_packet_is_20_ms_of_what_was_before_and_nothing_moves() -> None:
    assert "---a~cd" == heard(playout_of((0, "a"), (2, "c"), (3, "d")), 7)


def test_a_duplicate_changes_nothing() -> None:
    assert "---abc~" == heard(playout_of((0, "a"), (1, "b"), (1, "b"), (0, "a"), (2, "c")), 7)


def test_a_packet_that_comes_too_late_is_dropped() -> None:
    playout = playout_of((0, "a"), (2, "c"))
    assert "---a~c" == heard(playout, 6)
    playout.put(1 * FRAME, frame("b"))
    assert ("~", 1) == (heard(playout, 1), playout.late)


def test_five_late_packets_in_a_row_mean_that_the_far_clock_is_behind() -> None:
    playout = playout_of((0, "a"))
    heard(playout, 20)
    for number in range(1, LATE_IN_A_ROW + 1):
        playout.put(number * FRAME, frame("xbcde"[number - 1]))
    assert "---e~" == heard(playout, 5)


def test_late_packets_between_good_ones_are_not_in_a_row() -> None:
    playout = playout_of((0, "a"))
    heard(playout, 10)
    for number in range(LATE_IN_A_ROW + 3):
        playout.put(0, frame("x"))
        playout.put((10 + number) * FRAME, frame("b"))
    assert "bbbbbbbb" == heard(playout, 3 + LATE_IN_A_ROW + 3).strip("-~")


@pytest.mark.parametrize("octets", [1, 80, 160, 240, 320, 1600])
def test_any_packet_size_gives_the_same_sound(octets: int) -> None:
    sound = bytes(i % 251 for i in range(3200))
    playout = Playout("PCMA")
    for start in range(0, len(sound), octets):
        playout.put(start, sound[start : start + octets])
    assert SILENCE * DELAY + sound == b"".join(playout.take() for _ in range(23))


def test_an_empty_packet_is_no_sound() -> None:
    playout = playout_of((0, "a"))
    playout.put(FRAME, b"")
    assert "---a~" == heard(playout, 5)


@pytest.mark.parametrize("jump", [FARTHEST + FRAME, -FARTHEST - 4 * FRAME, 2**31 - 1, -(2**31)])
def test_a_jump_of_over_two_seconds_starts_the_time_line_anew(jump: int) -> None:
    playout = playout_of((0, "a"))
    assert "---a" == heard(playout, 4)
    playout.put((4 * FRAME + jump) % 2**32, frame("b"))
    playout.put((5 * FRAME + jump) % 2**32, frame("c"))
    assert "---bc~" == heard(playout, 6)


def test_a_pause_of_silence_suppression_keeps_its_length() -> None:
    playout = playout_of((0, "a"), (10, "b"))
    assert "---a~~~------b" == heard(playout, 14)


def test_the_timestamp_wraps_around() -> None:
    playout = playout_of(*((n, "abcdef"[n]) for n in range(6)), start=2**32 - 3 * FRAME)
    assert "---abcdef~" == heard(playout, 10)


def test_the_wrap_around_may_fall_between_reordered_packets() -> None:
    playout = playout_of((0, "a"), (2, "c"), (1, "b"), start=2**32 - FRAME)
    assert "---abc" == heard(playout, 6)


def test_what_was_not_there_is_counted() -> None:
    playout = playout_of((0, "a"))
    heard(playout, 6)
    assert 2 * FRAME == playout.concealed_octets


class TestGaps:
    """What nobody said must not sound like speech: a gap fades away within 60 ms."""

    def test_a_gap_fades_and_then_is_silence(self) -> None:
        playout = playout_of((0, "a"))
        assert "---a" == heard(playout, 4)
        faded = b"".join(playout.take() for _ in range(5))
        assert conceal("PCMA", frame("a"), 5 * FRAME) == faded
        assert QUIET * 2 == faded[len(FADE) * FRAME :]

    def test_an_hour_without_a_packet_costs_no_more_than_a_second(self) -> None:
        """Its silence is made frame by frame, not as one gap that grows."""
        playout = playout_of((0, "a"))
        heard(playout, 5)
        playout._starved = 180_000
        assert "-" == heard(playout, 1)

    @pytest.mark.parametrize("codec", CODECS)
    def test_every_codec_ends_in_its_own_silence(self, codec: Codec) -> None:
        playout = Playout(codec)
        playout.put(0, silence(codec)[::-1])
        assert [silence(codec)] * 2 == [playout.take() for _ in range(10)][-2:]

    def test_half_a_packet_is_filled_up(self) -> None:
        playout = playout_of((0, "a"))
        playout.put(FRAME, frame("b")[:80])
        assert "---a" == heard(playout, 4)
        rest = playout.take()
        assert (b"b" * 80, FRAME) == (rest[:80], len(rest))


class TestComfortNoise:
    """RFC 3389: the far end fell silent on purpose, and says how its silence sounds."""

    def test_its_noise_stands_for_what_does_not_come(self) -> None:
        playout = playout_of((0, "a"))
        heard(playout, 4)
        playout.comfort(50)
        taken = [playout.take() for _ in range(4)]
        assert [comfort("PCMA", 50, number) for number in (1, 2, 3, 4)] == taken
        assert 0 == playout.concealed_octets

    def test_speech_ends_it(self) -> None:
        playout = playout_of((0, "a"))
        heard(playout, 4)
        playout.comfort(50)
        heard(playout, 3)
        playout.put(7 * FRAME, frame("b"))
        heard(playout, 3)
        assert (b"b" * FRAME, conceal("PCMA", frame("b"), FRAME)) == (playout.take(), playout.take())

    def test_a_gap_between_its_packets_is_filled_with_it(self) -> None:
        playout = playout_of((0, "a"))
        playout.comfort(50)
        playout.put(5 * FRAME, frame("b"))
        heard(playout, 4)
        noise = [playout.take() for _ in range(4)]
        assert [comfort("PCMA", 50, number) for number in (1, 2, 3, 4)] == noise
        assert "b" == heard(playout, 1)

    def test_before_the_first_packet_there_is_silence(self) -> None:
        playout = Playout("PCMA")
        playout.comfort(30)
        assert "--" == heard(playout, 2)


class TestSuperfluousDelay:
    """A stall of ours leaves more in the buffer than is needed: it is taken back, in silence, a frame a time."""

    def full(self, sound: bytes, frames: int) -> Playout:
        """A buffer of *frames* that gets one for each that it gives, for three seconds."""
        playout = Playout("PCMA")
        for number in range(frames - DELAY // FRAME):
            playout.put(number * FRAME, sound)
        for number in range(frames - DELAY // FRAME, frames - DELAY // FRAME + 3 * WATCHED):
            playout.put(number * FRAME, sound)
            playout.take()
        return playout

    def test_it_is_taken_back_where_nobody_speaks(self) -> None:
        playout = self.full(QUIET, 5)
        assert (3, DELAY - FRAME) == (playout.dropped_frames, len(playout))

    def test_what_is_said_is_kept_while_the_delay_can_be_borne(self) -> None:
        playout = self.full(frame("a"), 5)
        assert (0, 5 * FRAME) == (playout.dropped_frames, len(playout))

    def test_a_delay_that_cannot_be_borne_is_taken_back_even_from_speech(self) -> None:
        playout = self.full(frame("a"), 30)
        assert playout.dropped_frames == 30 - len(playout) // FRAME > 0

    def test_a_delay_that_was_needed_stays(self) -> None:
        playout = playout_of((0, "a"))
        for number in range(1, 3 * WATCHED):
            playout.take()
            playout.put(number * FRAME, frame("a"))
        assert 0 == playout.dropped_frames


@settings(deadline=None)
@given(st.permutations(range(3)), st.integers(0, 2**32 - 1))
def test_any_order_within_60_ms_from_any_timestamp_gives_the_same_sound(order: Sequence[int], start: int) -> None:
    """The first packet fixes the delay, so the time line may begin up to two frames earlier."""
    playout = playout_of(*((n, "abc"[n]) for n in order), start=start)
    assert "abc" == heard(playout, 6).strip("-~")


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.binary(max_size=400)), max_size=30))
def test_whatever_comes_20_ms_leave_and_the_buffer_stays_bounded(packets: list[tuple[int, bytes]]) -> None:
    playout = Playout("PCMA")
    for timestamp, payload in packets:
        playout.put(timestamp, payload)
        assert FRAME == len(playout.take())
        assert len(playout) <= FARTHEST + 400

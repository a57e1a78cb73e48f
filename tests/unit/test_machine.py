"""Who has answered: a person, who says a little and waits, or a machine, which talks on and beeps. Voices are clips of people's
answers; beeps, noise and keys are computed.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soxr

from gateway.speech.frontend import MODEL_RATE, TELEPHONE_RATE, Pcm
from gateway.speech.machine import (
    LONGEST_TONE_MS,
    MESSAGE_SILENCE_MS,
    MOST_MS,
    RINGBACK_MS,
    Finding,
    MachineDetector,
    Thresholds,
    has_tone,
)
from gateway.speech.prompts import read_wav

VOICES = Path(__file__).parents[2] / "gateway/demo/voices"
MEASURE = Path(__file__).parents[1] / "speech/measure_machines.py"
LIMITS = Thresholds()
HELLO = ("bare_yes", "leave", "question", "filler_um", "owner")
BLOCK_MS = 100


def silence(ms: int) -> Pcm:
    return np.zeros(ms * TELEPHONE_RATE // 1000, np.int16)


def noise(ms: int, level: float) -> Pcm:
    return np.random.default_rng(1).normal(0, level, ms * TELEPHONE_RATE // 1000).astype(np.int16)


def tone(ms: int, *hertz: float, peak: float = 6000) -> Pcm:
    time = np.arange(ms * TELEPHONE_RATE // 1000) / TELEPHONE_RATE
    return np.rint(peak * sum(np.sin(2 * np.pi * pitch * time) for pitch in hertz)).astype(np.int16)


def said(name: str, voice: str = "kumo") -> Pcm:
    """A clip without the silence around it."""
    samples = read_wav(VOICES / voice / f"{name}.wav")
    loud = np.flatnonzero(np.abs(samples) > 300)
    return samples[loud[0] : loud[-1] + 1]


def greeting(ms: int, pause_ms: int = 200, voice: str = "kumo") -> Pcm:
    """Sentence after sentence, until it is *ms* long."""
    parts: list[Pcm] = []
    for name in (*HELLO, "consent", "repeat", "agent") * 10:
        parts += [said(name, voice), silence(pause_ms)]
    return np.concatenate(parts)[: ms * TELEPHONE_RATE // 1000]


def hear(*parts: Pcm, limits: Thresholds = LIMITS) -> MachineDetector:
    detector = MachineDetector(limits)
    detector.push(np.concatenate(parts))
    return detector


def begins(*parts: Pcm, limits: Thresholds = LIMITS) -> Finding:
    """What the call begins with."""
    answered = hear(*parts, limits=limits).answered
    assert answered is not None, "nothing was told"
    return answered


class TestPeople:
    @pytest.mark.parametrize("voice", ["alpha", "kumo", "mix"])
    @pytest.mark.parametrize("name", HELLO)
    def test_who_says_a_little_and_waits_is_a_person(self, voice: str, name: str) -> None:
        detector = hear(silence(500), said(name, voice), silence(3000))
        assert detector.answered is not None
        assert ("human", None) == (detector.answered.verdict, detector.machine)

    def test_he_is_told_when_the_pause_behind_his_hello_is_over(self) -> None:
        hello = said("bare_yes")
        ends_ms = 500 + hello.size * 1000 // TELEPHONE_RATE
        told = begins(silence(500), hello, silence(3000))
        assert ends_ms + LIMITS.pause_ms - 100 <= told.at_ms <= ends_ms + LIMITS.pause_ms + BLOCK_MS

    def test_the_evidence_is_in_the_finding(self) -> None:
        hello = said("bare_yes")
        told = begins(silence(500), hello, silence(3000))
        assert "a short greeting" == told.reason
        assert 500 == pytest.approx(told.silence_ms, abs=60)
        assert hello.size * 1000 / TELEPHONE_RATE == pytest.approx(told.greeting_ms, abs=100)
        assert told.words >= 1

    def test_behind_a_longer_greeting_the_pause_must_be_longer(self) -> None:
        business = greeting(2500)
        waits = begins(silence(300), business, silence(3000))
        goes_on = begins(silence(300), business, silence(700), greeting(3000), silence(3000))
        assert ("human", "machine") == (waits.verdict, goes_on.verdict)
        assert waits.at_ms >= 2800 + 2 * LIMITS.pause_ms - 300

    def test_who_says_nothing_is_not_waited_for_longer_than_the_initial_silence(self) -> None:
        told = begins(silence(8000))
        assert ("unsure", "nothing is said", LIMITS.initial_silence_ms) == (told.verdict, told.reason, told.at_ms)

    def test_a_click_is_no_word(self) -> None:
        click = noise(20, 9000)
        assert "nothing is said" == begins(silence(400), click, silence(4000)).reason

    @pytest.mark.parametrize("level", [5, 50, 300])
    def test_a_line_that_only_hisses_says_nothing(self, level: float) -> None:
        assert "unsure" == begins(noise(8000, level)).verdict

    def test_a_hello_on_a_noisy_line_is_no_machine_however_long_the_noise(self) -> None:
        hello = said("leave")
        level = float(np.sqrt(np.mean(np.square(hello, dtype=np.float64)))) / 2
        line = noise(20_000, level)
        line[4000 : 4000 + hello.size] += hello
        assert hear(line).machine is None


class TestGreetings:
    @pytest.mark.parametrize("voice", ["alpha", "kumo", "mix"])
    def test_who_talks_on_is_a_machine(self, voice: str) -> None:
        told = begins(silence(600), greeting(9000, voice=voice))
        assert "machine" == told.verdict
        assert told.greeting_ms >= LIMITS.greeting_ms or told.words > LIMITS.words

    def test_it_is_told_as_soon_as_the_greeting_is_long_enough(self) -> None:
        told = begins(silence(600), greeting(9000), limits=Thresholds(words=60))
        assert "a long greeting" == told.reason
        assert 0 <= told.greeting_ms - LIMITS.greeting_ms <= BLOCK_MS

    def test_many_words_tell_it_too(self) -> None:
        words = np.concatenate([said("bare_yes")[:1600], silence(120)] * 12)
        told = begins(silence(300), words, limits=Thresholds(words=5))
        assert ("a greeting of many words", 6) == (told.reason, told.words)

    def test_the_thresholds_are_the_callers(self) -> None:
        talk = silence(300), greeting(2600), silence(3000)
        assert ("human", "machine") == (
            begins(*talk).verdict,
            begins(*talk, limits=Thresholds(greeting_ms=1800)).verdict,
        )

    def test_talk_over_noise_is_not_called_a_machine_and_does_not_keep_the_call_waiting(self) -> None:
        talk = greeting(12_000)
        level = float(np.sqrt(np.mean(np.square(talk, dtype=np.float64)))) / 2
        told = begins(talk + noise(12_000, level))
        assert "machine" != told.verdict
        assert told.at_ms <= LIMITS.total_ms

    def test_who_talks_on_over_the_opening_is_a_machine_after_all(self) -> None:
        detector = hear(silence(2000), greeting(LIMITS.talk_ms + 1500))
        assert detector.answered is not None
        assert detector.machine is not None
        assert ("unsure", "it talks on and on") == (detector.answered.verdict, detector.machine.reason)

    def test_an_echo_of_the_opening_is_nobodys_talk(self) -> None:
        detector = hear(silence(300), said("bare_yes"), silence(600))
        detector.push(greeting(12_000), sending=True)
        for part in (silence(400), said("leave"), silence(2000)):
            detector.push(part)
        assert detector.machine is None

    def test_who_talks_on_when_the_opening_is_over_is_a_machine_all_the_same(self) -> None:
        detector = hear(silence(2000))
        detector.push(greeting(3000), sending=True)
        detector.push(greeting(LIMITS.talk_ms + 1500))
        assert detector.machine is not None

    def test_an_answer_to_the_opening_is_no_machine(self) -> None:
        parts = [silence(300), said("bare_yes"), silence(4000), greeting(5000), silence(1500), greeting(5000)]
        assert hear(*parts, silence(3000)).machine is None


class TestBeeps:
    @pytest.mark.parametrize("hertz", [425, 440, 852, 1000, 1400, 2000])
    @pytest.mark.parametrize("peak", [400, 20_000])
    def test_a_beep_tells_a_machine(self, hertz: int, peak: float) -> None:
        told = begins(silence(700), tone(300, hertz, peak=peak), silence(500))
        assert "machine" == told.verdict
        assert hertz == pytest.approx(told.tone_hz, rel=0.01)
        assert 300 == pytest.approx(told.tone_ms, abs=60)

    def test_it_tells_it_behind_a_hello_while_the_opening_plays_already(self) -> None:
        detector = hear(silence(300), said("bare_yes"), silence(1500), tone(250, 1000), silence(600))
        assert detector.answered is not None
        assert detector.machine is not None
        assert ("human", "a beep of 1000 Hz") == (detector.answered.verdict, detector.machine.reason)

    def test_it_is_heard_over_noise(self) -> None:
        line = noise(3000, 100)
        line[8000:10_400] += tone(300, 1000, peak=2000)
        assert hear(line).machine is not None

    @pytest.mark.parametrize(
        "sound",
        [
            tone(60, 1000),
            tone(LONGEST_TONE_MS + 300, 1000),
            tone(300, 770, 1336),
            tone(300, 440, 480),
            tone(300, 300),
            tone(300, 3000),
            tone(300, 1000, peak=50),
        ],
        ids=["too short", "too long", "a key", "two tones", "too low", "too high", "too faint"],
    )
    def test_what_is_no_beep(self, sound: Pcm) -> None:
        assert hear(silence(700), sound, silence(3000)).machine is None

    def test_a_pitch_that_glides_is_no_beep(self) -> None:
        time = np.arange(TELEPHONE_RATE) / TELEPHONE_RATE
        glide = np.rint(6000 * np.sin(2 * np.pi * (600 * time + 200 * time * time))).astype(np.int16)
        assert hear(silence(700), glide, silence(3000)).machine is None

    @pytest.mark.parametrize("side", ["before", "behind"])
    def test_a_tone_in_the_middle_of_a_voice_is_no_beep(self, side: str) -> None:
        voice, sung = said("owner"), tone(200, 560)
        line = [voice, sung, silence(2000)] if side == "before" else [sung, voice, silence(2000)]
        assert hear(silence(700), *line).machine is None

    def test_the_end_of_the_ringing_is_no_beep(self) -> None:
        assert hear(silence(RINGBACK_MS - 100), tone(400, 450), silence(3000)).machine is None

    @pytest.mark.parametrize(("own", "expected"), [(True, None), (False, "machine")])
    def test_the_echo_of_a_tone_of_our_own_is_no_beep(self, own: bool, expected: str | None) -> None:
        detector = MachineDetector(LIMITS, is_own=lambda tone: own)
        detector.push(np.concatenate([silence(1500), tone(300, 1000), silence(500)]))
        assert expected == (detector.machine and detector.machine.verdict)

    @pytest.mark.parametrize(("hertz", "expected"), [(1000, True), (1010, True), (1100, False)])
    def test_a_tone_is_found_in_what_was_sent(self, hertz: int, expected: bool) -> None:
        sent = np.concatenate([greeting(1500), silence(200), tone(200, 1000), silence(800)])
        assert expected == has_tone(sent, TELEPHONE_RATE, hertz)

    @pytest.mark.parametrize("sent", [silence(0), silence(40), silence(2000), greeting(3000)])
    def test_and_not_where_none_is(self, sent: Pcm) -> None:
        assert not has_tone(sent, TELEPHONE_RATE, 1000)

    def test_nothing_is_looked_for_any_more_when_the_call_has_gone_on_for_long(self) -> None:
        detector = hear(silence(MOST_MS))
        assert detector.push(np.concatenate([tone(300, 1000), silence(1000)])) is None
        assert detector.machine is None


class TestMessages:
    def test_only_a_machine_takes_one(self) -> None:
        assert not hear(silence(6000)).takes_message

    def test_not_while_its_greeting_goes_on(self) -> None:
        assert not hear(silence(300), greeting(8000)).takes_message

    def test_behind_its_beep(self) -> None:
        assert hear(silence(300), greeting(8000), silence(300), tone(300, 1000), silence(200)).takes_message

    def test_or_when_it_has_been_silent_for_long(self) -> None:
        detector = hear(silence(300), greeting(8000), silence(MESSAGE_SILENCE_MS - 800))
        assert not detector.takes_message
        detector.push(silence(1500))
        assert detector.takes_message

    def test_at_once_where_the_beep_told_it(self) -> None:
        assert hear(silence(700), tone(300, 1000), silence(300)).takes_message


@pytest.mark.parametrize("size", [160, 333, 800, 5000])
def test_how_the_samples_are_cut_changes_nothing(size: int) -> None:
    line = np.concatenate([silence(300), said("bare_yes"), silence(1500), tone(250, 1000), silence(600)])
    whole, cut = hear(line), MachineDetector(LIMITS)
    found = [cut.push(line[start : start + size]) for start in range(0, line.size, size)]
    assert (whole.answered, whole.machine) == (cut.answered, cut.machine)
    assert [whole.answered, whole.machine] == [finding for finding in found if finding is not None]


@pytest.mark.parametrize(
    "line",
    [
        (silence(500), said("leave"), silence(3000)),
        (silence(500), greeting(9000)),
        (silence(700), tone(300, 1000), silence(500)),
    ],
    ids=["a person", "a greeting", "a beep"],
)
def test_wideband_tells_the_same(line: tuple[Pcm, ...]) -> None:
    samples = np.concatenate(line)
    wide = MachineDetector(LIMITS, MODEL_RATE)
    wide.push(np.rint(soxr.resample(samples.astype(np.float64), TELEPHONE_RATE, MODEL_RATE)).astype(np.int16))
    assert wide.answered is not None
    assert begins(samples).verdict == wide.answered.verdict


@cache
def measured() -> dict[tuple[str, str], list[Any]]:
    """Every tenth call of the measurement, by kind and channel."""
    spec = importlib.util.spec_from_file_location("measure_machines", MEASURE)
    assert spec is not None
    assert spec.loader is not None
    measure = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = measure  # dataclasses look for it there
    spec.loader.exec_module(measure)
    voices = measure.clips(measure.CORPUS)
    calls = [*measure.people(voices, "person"), *measure.machines(voices, spoken=False)]
    rows: dict[tuple[str, str], list[Any]] = measure.tally(calls[::10], ("alaw", "ulaw,nb", "alaw,snr10-pink"), LIMITS)
    return rows


class TestTheFigures:
    """What docs/dialplans.md says of them."""

    def test_no_person_is_taken_for_a_machine(self) -> None:
        people = [heard for (kind, _), row in measured().items() if kind.startswith("person") for heard in row]
        assert len(people) > 200
        assert [] == [heard.call.name for heard in people if heard.machine is not None]

    @pytest.mark.parametrize("channel", ["alaw", "ulaw,nb"])
    def test_most_machines_are_found_on_a_quiet_line(self, channel: str) -> None:
        rows = measured().items()
        machines = [heard for (kind, line), row in rows if (kind[:7], line) == ("machine", channel) for heard in row]
        found = [heard for heard in machines if heard.machine is not None]
        assert len(machines) > 25
        assert len(found) >= 0.85 * len(machines)

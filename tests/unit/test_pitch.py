"""The pitch of a voice: made voices whose pitch is known, as a telephone carries them; and two real-sounding ones."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.consent.verdict import STRICT
from gateway.measure.channel import BAND_HZ
from gateway.speech.frontend import MODEL_RATE, TELEPHONE_RATE, Pcm
from gateway.speech.pitch import HIGHEST_HZ, LOWEST_HZ, final_rise, pitch_jump, pitch_track
from gateway.speech.prompts import read_wav

CORPUS = Path(__file__).parents[1] / "speech/corpus"
RATES = pytest.mark.parametrize("rate", [TELEPHONE_RATE, MODEL_RATE])


def voice(*pitches_hz: float, seconds: float = 1.0, rate: int = TELEPHONE_RATE) -> Pcm:
    """A voice that glides through *pitches_hz*: its harmonics within the telephone's band, its fundamental mostly without."""
    pitch = np.interp(np.linspace(0, 1, int(seconds * rate)), np.linspace(0, 1, len(pitches_hz)), pitches_hz)
    phase = 2 * np.pi * np.cumsum(pitch) / rate
    low, high = BAND_HZ
    tones = [
        np.where((low <= n * pitch) & (n * pitch <= high), np.sin(n * phase), 0.0) / n**2
        for n in range(1, int(high / min(pitches_hz)) + 1)
    ]
    sound: Pcm = np.rint(20_000 * np.sum(tones, axis=0)).astype(np.int16)
    return sound


def silence(seconds: float) -> Pcm:
    return np.zeros(int(seconds * TELEPHONE_RATE), np.int16)


def track(*pitches_hz: float, seconds: float = 1.0) -> np.ndarray:
    return pitch_track(voice(*pitches_hz, seconds=seconds), TELEPHONE_RATE)


class TestTheTrack:
    @RATES
    @pytest.mark.parametrize("hertz", [80, 110, 150, 220, 300, 380])
    def test_the_pitch_is_found_without_its_fundamental(self, hertz: float, rate: int) -> None:
        found = pitch_track(voice(hertz, rate=rate), rate)
        assert hertz == pytest.approx(float(np.nanmedian(found)), rel=0.05)

    def test_a_voice_has_a_pitch_all_the_time(self) -> None:
        assert not np.isnan(track(150)).any()

    def test_there_is_one_every_10_ms(self) -> None:
        assert 97 == track(150).size

    def test_there_is_none_in_silence(self) -> None:
        assert np.isnan(pitch_track(silence(1), TELEPHONE_RATE)).all()

    def test_there_is_none_in_noise(self) -> None:
        noise = np.random.default_rng(1).normal(0, 3000, TELEPHONE_RATE).astype(np.int16)
        assert np.isnan(pitch_track(noise, TELEPHONE_RATE)).all()

    def test_what_is_much_fainter_than_the_voice_has_none(self) -> None:
        faint = np.rint(voice(150) * 0.01).astype(np.int16)
        assert np.isnan(pitch_track(np.concatenate([voice(150), silence(0.1), faint]), TELEPHONE_RATE)[115:]).all()

    def test_nothing_comes_of_less_than_a_window(self) -> None:
        assert 0 == pitch_track(voice(150)[:319], TELEPHONE_RATE).size

    @settings(max_examples=30, deadline=None)
    @given(st.integers(0, 2**32 - 1), st.integers(0, 4000), st.sampled_from([TELEPHONE_RATE, MODEL_RATE]))
    def test_a_pitch_is_within_the_reach_of_a_voice(self, seed: int, size: int, rate: int) -> None:
        found = pitch_track(np.random.default_rng(seed).integers(-32768, 32767, size, np.int16), rate)
        heard = found[~np.isnan(found)]
        assert ((heard >= 0.95 * LOWEST_HZ) & (heard <= 1.05 * HIGHEST_HZ)).all()


class TestTwoVoices:
    def test_from_one_word_to_the_next_an_octave_is_12_semitones(self) -> None:
        both = pitch_track(np.concatenate([voice(110), voice(220)]), TELEPHONE_RATE)
        assert 12 == pytest.approx(pitch_jump(both, [(0.0, 0.9), (1.1, 1.9)]), abs=0.5)

    def test_it_does_not_matter_who_speaks_first(self) -> None:
        both = pitch_track(np.concatenate([voice(220), voice(110)]), TELEPHONE_RATE)
        assert 12 == pytest.approx(pitch_jump(both, [(0.0, 0.9), (1.1, 1.9)]), abs=0.5)

    def test_the_largest_of_several_steps_counts(self) -> None:
        several = pitch_track(np.concatenate([voice(150), voice(160), voice(300), voice(290)]), TELEPHONE_RATE)
        step = 12 * math.log2(300 / 160)
        spans = [(n + 0.1, n + 0.9) for n in range(4)]
        assert step == pytest.approx(pitch_jump(several, spans), abs=0.5)

    def test_a_voice_that_glides_from_word_to_word_does_not_leap(self) -> None:
        jump = pitch_jump(track(180, 120), [(0.0, 0.3), (0.3, 0.6), (0.6, 0.95)])
        assert jump is not None
        assert jump < 4

    @pytest.mark.parametrize("spans", [[], [(0.0, 0.9)], [(0.0, 0.9), (5.0, 6.0)], [(0.1, 0.1), (0.2, 0.9)]])
    def test_it_takes_two_words_with_a_pitch(self, spans: list[tuple[float, float]]) -> None:
        assert None is pitch_jump(track(150), spans)

    def test_a_man_and_a_woman_of_the_corpus_are_told_apart(self) -> None:
        man, woman = (read_wav(CORPUS / f"{name}/ne-donguihapnida.wav") for name in ("kumo", "alpha"))
        half = man.size / 2 / TELEPHONE_RATE
        spans = [(0.0, half), (half, 2 * half)]
        mixed = np.concatenate([man[: man.size // 2], woman[woman.size // 2 :]])
        alone, together = (pitch_jump(pitch_track(samples, TELEPHONE_RATE), spans) for samples in (man, mixed))
        assert alone is not None
        assert together is not None
        assert alone < together


class TestAQuestion:
    def test_it_rises_at_its_end(self) -> None:
        rise = final_rise(track(150, 150, 150, 220))
        assert rise is not None
        assert STRICT.final_rise[0] < rise < STRICT.final_rise[1]

    def test_a_statement_falls(self) -> None:
        rise = final_rise(track(180, 170, 120))
        assert rise is not None
        assert rise < 0

    def test_a_level_voice_does_neither(self) -> None:
        assert 0 == pytest.approx(final_rise(track(150)), abs=0.2)

    def test_the_silence_behind_it_does_not_hide_it(self) -> None:
        asked = voice(150, 150, 150, 220)
        later = final_rise(pitch_track(np.concatenate([asked, silence(0.6)]), TELEPHONE_RATE))
        assert final_rise(pitch_track(asked, TELEPHONE_RATE)) == pytest.approx(later, abs=0.5)

    @pytest.mark.parametrize("samples", [silence(1), voice(150, seconds=0.12)])
    def test_too_little_voice_tells_nothing(self, samples: Pcm) -> None:
        assert None is final_rise(pitch_track(samples, TELEPHONE_RATE))

    def test_the_questions_of_the_corpus_rise_above_its_statements(self) -> None:
        rises = {
            name: [
                final_rise(pitch_track(read_wav(CORPUS / f"{voice}/{name}.wav"), TELEPHONE_RATE))
                for voice in ("alpha", "alpha75", "kumo", "kumo75", "mix")
            ]
            for name in ("ne-donguihapnida", "ne-donguihapnikka-ask")
        }
        asked, said = (np.median(np.array(rises[name])) for name in ("ne-donguihapnikka-ask", "ne-donguihapnida"))
        assert said < STRICT.final_rise[0] < asked

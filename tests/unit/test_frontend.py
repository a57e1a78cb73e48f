"""What telephone audio goes through before the model hears it: level, 16 kHz, what the line added and took away (DESIGN §6)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.speech.frontend import (
    FILLED_HZ,
    LARGEST_GAIN,
    LOW_FILLED_HZ,
    MODEL_RATE,
    NOISE_LSB,
    TARGET_RMS,
    TELEPHONE_RATE,
    FrontEnd,
    Pcm,
    gain_for,
    rms,
)

EMPTY = np.zeros(0, np.int16)


def tone(hertz: float, seconds: float, amplitude: float = 8000.0) -> Pcm:
    time = np.arange(int(seconds * TELEPHONE_RATE)) / TELEPHONE_RATE
    return np.rint(amplitude * np.sin(2 * np.pi * hertz * time)).astype(np.int16)


def heard(octets: bytes) -> Pcm:
    return np.frombuffer(octets, "<i2").astype(np.int16)


def test_rms_of_nothing_is_zero() -> None:
    assert 0.0 == rms(EMPTY)


def test_rms_of_full_scale_does_not_overflow() -> None:
    assert 32768.0 == rms(np.full(8000, -32768, np.int16))


def test_the_gain_brings_active_speech_to_minus_25_dbfs() -> None:
    samples = tone(440, 1, 500)
    assert -25 == pytest.approx(20 * math.log10(rms(samples) * gain_for(samples) / 32768), abs=0.01)


def test_loud_speech_is_turned_down() -> None:
    assert TARGET_RMS / 32767 == pytest.approx(gain_for(np.full(100, 32767, np.int16)))


def test_a_whisper_is_raised_30_db_and_no_more() -> None:
    assert LARGEST_GAIN == gain_for(tone(440, 1, 10))


@pytest.mark.parametrize("samples", [EMPTY, np.zeros(800, np.int16), np.ones(800, np.int16)])
def test_silence_is_not_raised(samples: Pcm) -> None:
    assert 1.0 == gain_for(samples)


def test_twice_as_many_samples_come_out() -> None:
    assert 2 * TELEPHONE_RATE == heard(FrontEnd(1.0).push(tone(440, 1), last=True)).size


def test_a_tone_keeps_its_pitch_and_level() -> None:
    out = heard(FrontEnd(1.0).push(tone(1000, 1), last=True)).astype(np.float64)
    spectrum = np.abs(np.fft.rfft(out))
    assert 1000 == pytest.approx(float(np.argmax(spectrum)) * MODEL_RATE / out.size, abs=1)
    assert 8000 == pytest.approx(2 * spectrum.max() / out.size, rel=0.02)


def test_silence_comes_out_as_noise_of_16_lsb() -> None:
    out = heard(FrontEnd(1.0).push(np.zeros(TELEPHONE_RATE, np.int16), last=True))
    assert NOISE_LSB == pytest.approx(rms(out), rel=0.02)


def test_what_is_too_loud_is_clipped_and_never_wraps_around() -> None:
    out = heard(FrontEnd(LARGEST_GAIN).push(np.full(TELEPHONE_RATE, 20_000, np.int16), last=True))
    assert 32_767 == out[1000:-1000].min()


def test_the_same_samples_give_the_same_octets() -> None:
    samples = tone(440, 0.5)
    assert FrontEnd(2.0).push(samples, last=True) == FrontEnd(2.0).push(samples, last=True)


def noise(seconds: float, level: float, rate: int = TELEPHONE_RATE, seed: int = 1) -> Pcm:
    return np.random.default_rng(seed).normal(0, level, int(seconds * rate)).astype(np.int16)


def between(samples: Pcm, band_hz: tuple[float, float]) -> float:
    """The level of *samples* at 16 kHz within a band, in LSB."""
    spectrum = np.fft.rfft(samples.astype(np.float64))
    hertz = np.fft.rfftfreq(samples.size, 1 / MODEL_RATE)
    spectrum[(hertz < band_hz[0]) | (hertz > band_hz[1])] = 0
    return float(np.sqrt(np.mean(np.square(np.fft.irfft(spectrum, samples.size)))))


class TestWhatTheTelephoneLeftOut:
    def test_above_a_hiss_the_upper_band_is_filled(self) -> None:
        out = heard(FrontEnd(1.0).push(noise(1, 1000), last=True))
        assert between(out, (3500, 8000)) > 0.2 * between(out, (2000, 3300))

    def test_above_a_low_tone_the_upper_band_stays_empty(self) -> None:
        out = heard(FrontEnd(1.0).push(tone(500, 1), last=True))
        assert between(out[1000:-1000], FILLED_HZ) < 0.02 * between(out[1000:-1000], (450, 550))

    def test_the_fill_falls_towards_8_khz(self) -> None:
        out = heard(FrontEnd(1.0).push(noise(2, 2000), last=True))
        assert 2 < between(out, (4000, 4500)) / between(out, (7500, 8000)) < 4

    def test_below_a_murmur_the_lowest_band_is_filled(self) -> None:
        out = heard(FrontEnd(1.0).push(tone(500, 1), last=True))
        assert between(out, LOW_FILLED_HZ) > 10 * NOISE_LSB

    def test_below_a_hiss_the_lowest_band_stays_empty(self) -> None:
        out = heard(FrontEnd(1.0).push(tone(3000, 1), last=True))
        assert between(out[1000:-1000], LOW_FILLED_HZ) < 2 * NOISE_LSB


class TestTheNoiseOfTheLine:
    def test_what_the_line_sounded_like_before_is_taken_away(self) -> None:
        out = heard(FrontEnd(1.0, silence=noise(0.3, 300, seed=2)).push(noise(1, 300), last=True))
        assert rms(out) < 0.3 * rms(heard(FrontEnd(1.0).push(noise(1, 300), last=True)))

    def test_a_voice_above_it_stays(self) -> None:
        line = (tone(1000, 1).astype(np.int32) + noise(1, 100)).astype(np.int16)
        out = heard(FrontEnd(1.0, silence=noise(0.3, 100, seed=2)).push(line, last=True))
        assert rms(tone(1000, 1)) == pytest.approx(between(out, (950, 1050)), rel=0.05)

    def test_it_is_measured_at_the_level_to_which_the_voice_is_brought(self) -> None:
        out = heard(FrontEnd(4.0, silence=noise(0.3, 300, seed=2)).push(noise(1, 300), last=True))
        assert rms(out) < 0.3 * rms(heard(FrontEnd(4.0).push(noise(1, 300), last=True)))

    @pytest.mark.parametrize("silence", [EMPTY, noise(0.01, 300)])
    def test_nothing_is_taken_away_where_too_little_was_heard_before(self, silence: Pcm) -> None:
        samples = noise(1, 300)
        assert FrontEnd(1.0).push(samples, last=True) == FrontEnd(1.0, silence=silence).push(samples, last=True)


class TestAWidebandCall:
    def test_as_many_samples_come_out(self) -> None:
        assert MODEL_RATE == heard(FrontEnd(1.0, MODEL_RATE).push(noise(1, 1000, MODEL_RATE), last=True)).size

    def test_it_is_levelled_and_otherwise_untouched(self) -> None:
        samples = noise(1, 1000, MODEL_RATE)
        out = heard(FrontEnd(2.0, MODEL_RATE, silence=samples).push(samples, last=True))
        assert NOISE_LSB == pytest.approx(rms((out.astype(np.int32) - 2 * samples).astype(np.int16)), rel=0.05)

    def test_silence_comes_out_as_noise_of_16_lsb(self) -> None:
        out = heard(FrontEnd(1.0, MODEL_RATE).push(np.zeros(MODEL_RATE, np.int16), last=True))
        assert NOISE_LSB == pytest.approx(rms(out), rel=0.02)


@pytest.mark.parametrize("rate", [TELEPHONE_RATE, MODEL_RATE])
def test_nothing_comes_of_nothing(rate: int) -> None:
    assert b"" == FrontEnd(1.0, rate).push(EMPTY, last=True)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=8),
    st.sampled_from([TELEPHONE_RATE, MODEL_RATE]),
    st.sampled_from([EMPTY, noise(0.3, 100)]),
)
def test_it_does_not_matter_how_the_samples_are_cut(frames: list[int], rate: int, silence: Pcm) -> None:
    """The streaming first pass and the second pass at one go must hear the same."""
    size = rate // 50
    samples = noise(sum(frames) * 0.02, 3000, rate)
    cut, at, parts = FrontEnd(1.5, rate, silence), 0, []
    for index, count in enumerate(frames):
        parts.append(cut.push(samples[at : at + size * count], last=index == len(frames) - 1))
        at += size * count
    assert np.array_equal(heard(FrontEnd(1.5, rate, silence).push(samples, last=True)), heard(b"".join(parts)))

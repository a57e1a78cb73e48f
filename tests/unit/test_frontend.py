"""What telephone audio goes through before the model hears it: level, 16 kHz, noise from a fixed seed (DESIGN §6)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.speech.frontend import (
    LARGEST_GAIN,
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


def test_the_gain_brings_active_speech_to_minus_22_dbfs() -> None:
    samples = tone(440, 1, 500)
    assert -22 == pytest.approx(20 * math.log10(rms(samples) * gain_for(samples) / 32768), abs=0.01)


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


def test_noise_of_24_lsb_fills_the_empty_upper_band() -> None:
    out = heard(FrontEnd(1.0).push(np.zeros(TELEPHONE_RATE, np.int16), last=True))
    assert NOISE_LSB == pytest.approx(rms(out), rel=0.02)


def test_what_is_too_loud_is_clipped_and_never_wraps_around() -> None:
    out = heard(FrontEnd(LARGEST_GAIN).push(np.full(TELEPHONE_RATE, 20_000, np.int16), last=True))
    assert 32_767 == out[1000:-1000].min()


def test_the_same_samples_give_the_same_octets() -> None:
    samples = tone(440, 0.5)
    assert FrontEnd(2.0).push(samples, last=True) == FrontEnd(2.0).push(samples, last=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=8))
def test_it_does_not_matter_how_the_samples_are_cut(frames: list[int]) -> None:
    """The streaming first pass and the second pass at one go must hear the same."""
    samples = tone(700, sum(frames) * 0.02, 3000)
    cut, at, parts = FrontEnd(1.5), 0, []
    for index, count in enumerate(frames):
        parts.append(cut.push(samples[at : at + 160 * count], last=index == len(frames) - 1))
        at += 160 * count
    assert np.array_equal(heard(FrontEnd(1.5).push(samples, last=True)), heard(b"".join(parts)))

"""Whether it is our own prompt that comes back: what was heard, against what was sent up to a second before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.consent.verdict import STRICT
from gateway.measure.channel import Channel
from gateway.speech.echo import echo_share
from gateway.speech.frontend import MODEL_RATE, TELEPHONE_RATE, Pcm
from gateway.speech.prompts import read_wav

CORPUS = Path(__file__).parents[1] / "speech/corpus"
PROMPT = read_wav(CORPUS / "built/echo-ask-alpha.wav")
CALLER = read_wav(CORPUS / "kumo/ne-donguihapnida.wav")
REFUSAL = read_wav(CORPUS / "alpha/aniyo-dongui-an-hapnida.wav")


def silence(ms: int) -> Pcm:
    return np.zeros(ms * TELEPHONE_RATE // 1000, np.int16)


def hum(seconds: float, phase: float) -> Pcm:
    time = np.arange(int(seconds * TELEPHONE_RATE)) / TELEPHONE_RATE
    return np.rint(6000 * np.sin(2 * np.pi * 60 * time + phase)).astype(np.int16)


def added(*parts: Pcm) -> Pcm:
    out = np.zeros(max(part.size for part in parts), np.int32)
    for part in parts:
        out[: part.size] += part
    return np.clip(out, -32768, 32767).astype(np.int16)


def over(heard: Pcm, sent: Pcm) -> float:
    """How like *heard* is to *sent*, both begun at the same moment a second ago, and both still going on."""
    length = max(heard.size, sent.size)
    before = silence(1000)
    there = np.concatenate([before, sent, np.zeros(length - sent.size, np.int16)])
    return echo_share(np.concatenate([heard, np.zeros(length - heard.size, np.int16)]), there, TELEPHONE_RATE)


@pytest.mark.parametrize("delay_ms", [0, 1, 120, 500, 990])
def test_our_prompt_is_known_however_late_it_comes_back(delay_ms: int) -> None:
    assert 1.0 == pytest.approx(over(np.concatenate([silence(delay_ms), PROMPT]), PROMPT), abs=0.01)


def test_what_was_sent_longer_ago_than_a_second_is_no_echo() -> None:
    assert over(np.concatenate([silence(1900), PROMPT[:8000]]), PROMPT[:6400]) < STRICT.echo


@pytest.mark.parametrize("gain", [1, -1, 0.1, 0.02])
def test_it_does_not_matter_how_faint_it_is_nor_which_way_round(gain: float) -> None:
    assert over(np.rint(gain * PROMPT).astype(np.int16), PROMPT) > 0.95


def test_it_is_known_through_a_codec_in_noise_and_with_a_second_reflection() -> None:
    late = np.concatenate([silence(120), PROMPT // 2])
    heard, _ = Channel(codec="alaw", snr_db=15).apply(added(PROMPT, late) // 4, TELEPHONE_RATE)
    assert over(heard, PROMPT) >= STRICT.echo


def test_it_is_known_behind_the_callers_own_words() -> None:
    heard = np.concatenate([CALLER, PROMPT[CALLER.size :]])
    assert over(heard, PROMPT) > 0.95


def test_it_is_known_on_a_wideband_call() -> None:
    wide = np.asarray(soxr.resample(PROMPT, TELEPHONE_RATE, MODEL_RATE), np.int16)
    assert 1.0 == pytest.approx(echo_share(wide, wide, MODEL_RATE), abs=0.01)


@pytest.mark.parametrize("said", [CALLER, REFUSAL], ids=["another voice", "the voice of the prompt"])
def test_who_speaks_over_the_prompt_is_no_echo(said: Pcm) -> None:
    assert over(said, PROMPT) < STRICT.echo


def test_the_hum_of_a_line_is_no_echo() -> None:
    seconds = CALLER.size / TELEPHONE_RATE
    prompt = added(PROMPT[: CALLER.size], hum(seconds, 0.0))
    assert over(added(CALLER, hum(seconds, 1.0)), prompt) < STRICT.echo


@pytest.mark.parametrize("sent", [np.zeros(0, np.int16), silence(5000), silence(20)])
def test_where_nothing_was_sent_nothing_comes_back(sent: Pcm) -> None:
    assert 0.0 == echo_share(CALLER, sent, TELEPHONE_RATE)


def test_silence_is_no_echo() -> None:
    assert 0.0 == echo_share(silence(1000), PROMPT, TELEPHONE_RATE)


def test_a_prompt_that_has_only_just_begun_is_known() -> None:
    """Less was sent than was heard: the call is young."""
    assert 1.0 == pytest.approx(
        echo_share(np.concatenate([silence(300), PROMPT[:6400]]), PROMPT[:6400], TELEPHONE_RATE), abs=0.01
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(200, 20_000), st.integers(0, 30_000), st.sampled_from([8000, 16_000]))
def test_likeness_is_a_share(seed: int, heard: int, sent: int, rate: int) -> None:
    random = np.random.default_rng(seed)
    some, others = (random.integers(-32768, 32767, size, np.int16) for size in (heard, sent))
    assert 0.0 <= echo_share(some, others, rate) <= 1.0 + 1e-9

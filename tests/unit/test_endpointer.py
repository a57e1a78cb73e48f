"""Where an utterance begins and ends: 20 ms frames in, phases out. Synthetic sounds, and one clip of a voice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soxr

from gateway.speech.endpointer import (
    FRAME_MS,
    FRAME_SAMPLES,
    FULL_SCALE,
    LONG_SILENCE_MS,
    LONGEST_UTTERANCE_MS,
    PREROLL_FRAMES,
    SHORT_SILENCE_MS,
    Endpointer,
)
from gateway.speech.frontend import MODEL_RATE, TELEPHONE_RATE, Pcm
from gateway.speech.prompts import read_wav

CLIP = Path(__file__).parents[2] / "gateway/demo/voices/mix/consent.wav"
TO_ONSET_MS = 120


def silence(ms: int) -> Pcm:
    return np.zeros(ms * TELEPHONE_RATE // 1000, np.int16)


def noise(ms: int, level: float, seed: int = 1) -> Pcm:
    return np.random.default_rng(seed).normal(0, level, ms * TELEPHONE_RATE // 1000).astype(np.int16)


def speech() -> Pcm:
    """The clip without the digital silence around it, in whole frames."""
    samples = read_wav(CLIP)
    loud = np.flatnonzero(np.abs(samples) > 200)
    samples = samples[loud[0] : loud[-1] + 1]
    return samples[: samples.size // FRAME_SAMPLES * FRAME_SAMPLES]


def hear(endpointer: Endpointer, samples: Pcm, *, may_go_on: bool = True) -> list[tuple[str, int]]:
    """Each change of phase with its time in ms from the first sample ever pushed."""
    changes: list[tuple[str, int]] = []
    frame = endpointer.rate * FRAME_MS // 1000
    for start in range(0, samples.size - frame + 1, frame):
        phase = endpointer.push(samples[start : start + frame], may_go_on=may_go_on)
        if phase in ("started", "ended"):
            changes.append((phase, endpointer.frames * FRAME_MS))
        if phase == "ended":
            endpointer.reset()
    return changes


def test_silence_is_never_an_utterance() -> None:
    assert hear(Endpointer(), silence(30_000)) == []


def test_speech_is_noticed_within_120_ms() -> None:
    [(phase, at)] = hear(Endpointer(), np.concatenate([silence(1000), speech()]))
    assert (phase, at - 1000 <= TO_ONSET_MS) == ("started", True)


def test_the_onset_is_where_the_speech_begins() -> None:
    endpointer = Endpointer()
    hear(endpointer, np.concatenate([silence(1000), speech()]))
    assert 1000 == pytest.approx(endpointer.onset_frame * FRAME_MS, abs=2 * FRAME_MS)


def test_a_wideband_call_is_heard_at_the_same_moments() -> None:
    said = np.concatenate([silence(1000), speech(), silence(1000)])
    wide = np.asarray(soxr.resample(said, TELEPHONE_RATE, MODEL_RATE), np.int16)
    narrow_phases, wide_phases = hear(Endpointer(), said), hear(Endpointer(MODEL_RATE), wide)
    assert [(phase, pytest.approx(at, abs=2 * FRAME_MS)) for phase, at in narrow_phases] == wide_phases


def test_the_audio_begins_at_its_start_frame() -> None:
    endpointer = Endpointer()
    line = np.concatenate([noise(1000, 30), speech()])
    hear(endpointer, line)
    start = endpointer.start_frame * FRAME_SAMPLES
    assert np.array_equal(line[start : endpointer.frames * FRAME_SAMPLES], np.concatenate(endpointer.audio))


def test_the_audio_holds_300_ms_from_before_the_onset() -> None:
    endpointer = Endpointer()
    said = speech()
    hear(endpointer, np.concatenate([silence(1000), said]))
    audio = np.concatenate(endpointer.audio)
    first = int(np.flatnonzero(audio)[0])
    assert PREROLL_FRAMES * FRAME_MS == pytest.approx(first * 1000 / TELEPHONE_RATE + TO_ONSET_MS, abs=TO_ONSET_MS)
    assert np.array_equal(said, audio[first - int(np.flatnonzero(said)[0]) :][: said.size])


def test_a_click_is_no_speech() -> None:
    click = np.zeros(FRAME_SAMPLES, np.int16)
    click[:40] = 20_000
    assert hear(Endpointer(), np.concatenate([silence(500), click, silence(500), click, silence(500)])) == []


@pytest.mark.parametrize(("may_go_on", "wait_ms"), [(False, SHORT_SILENCE_MS), (True, LONG_SILENCE_MS)])
def test_a_whole_phrase_ends_after_the_short_silence_and_what_may_go_on_after_the_long(
    may_go_on: bool, wait_ms: int
) -> None:
    said = speech()
    changes = hear(Endpointer(), np.concatenate([silence(1000), said, silence(2000)]), may_go_on=may_go_on)
    ended = 1000 + said.size * 1000 // TELEPHONE_RATE + wait_ms
    assert [phase for phase, _ in changes] == ["started", "ended"]
    assert ended == pytest.approx(changes[-1][1], abs=80)


def test_a_pause_shorter_than_the_long_silence_does_not_cut_a_slow_speaker_in_half() -> None:
    slow = np.concatenate([silence(500), speech(), silence(LONG_SILENCE_MS - 100), speech(), silence(2000)])
    assert ["started", "ended"] == [phase for phase, _ in hear(Endpointer(), slow)]


def test_the_length_of_speech_counts_the_pause_within_it_and_not_the_silence_behind() -> None:
    endpointer, said = Endpointer(), speech()
    hear(endpointer, np.concatenate([silence(500), said, silence(400), said, silence(500)]))
    spoken_ms = 2 * said.size * 1000 // TELEPHONE_RATE + 400
    assert spoken_ms == pytest.approx(endpointer.speech_ms, abs=100)


def test_endless_speech_is_ended_at_the_longest_utterance() -> None:
    said = np.tile(speech(), 20)
    changes = hear(Endpointer(), said)
    assert LONGEST_UTTERANCE_MS == pytest.approx(changes[1][1] - changes[0][1], abs=500)


@pytest.mark.parametrize("level", [5, 100, 600, 3000])
def test_steady_noise_from_the_first_moment_is_no_speech(level: float) -> None:
    assert hear(Endpointer(), noise(20_000, level)) == []


def test_noise_that_sets_in_is_taken_for_the_line_after_a_while() -> None:
    """The floor rises by 1.7 dB a second: 20 dB more noise is the line's own within 12 s."""
    endpointer = Endpointer()
    hear(endpointer, np.concatenate([noise(2000, 60), noise(15_000, 600, seed=2)]))
    assert hear(endpointer, noise(5000, 600, seed=3)) == []


@pytest.mark.parametrize("level", [0, 30, 100, 300])
def test_speech_is_found_in_noise_below_it(level: float) -> None:
    said = speech()
    line = noise(6000, level).astype(np.int32)
    line[3 * TELEPHONE_RATE :][: said.size] += said
    changes = hear(Endpointer(), np.clip(line, -32768, 32767).astype(np.int16))
    assert ["started", "ended"] == [phase for phase, _ in changes]
    assert 3000 == pytest.approx(changes[0][1], abs=TO_ONSET_MS + 60)


def test_a_falling_floor_is_followed_at_once() -> None:
    endpointer = Endpointer()
    quiet = (speech() / 20).astype(np.int16)
    changes = hear(endpointer, np.concatenate([noise(3000, 600), noise(500, 8), quiet, noise(1500, 8)]))
    assert ["started", "ended"] == [phase for phase, _ in changes]


def test_the_signal_to_noise_ratio_is_in_db_over_the_floor() -> None:
    endpointer, said = Endpointer(), speech()
    line = noise(3000, 100).astype(np.int32)
    line[2 * TELEPHONE_RATE :][: said.size] += said[: line.size - 2 * TELEPHONE_RATE]
    hear(endpointer, np.clip(line, -32768, 32767).astype(np.int16))
    assert endpointer.snr_db is not None
    active = 20 * np.log10(np.sqrt(np.mean(np.square(said, dtype=np.float64))) / 100)
    assert active == pytest.approx(endpointer.snr_db, abs=4)


def test_there_is_no_signal_to_noise_ratio_before_anything_was_said() -> None:
    endpointer = Endpointer()
    hear(endpointer, silence(1000))
    assert endpointer.snr_db is None


def test_every_frame_of_the_utterance_is_voiced_or_not() -> None:
    endpointer = Endpointer()
    hear(endpointer, np.concatenate([silence(1000), speech(), silence(200)]))
    assert len(endpointer.audio) == len(endpointer.voiced) + len(endpointer.unvoiced)


def test_the_silence_behind_the_speech_is_counted() -> None:
    endpointer = Endpointer()
    hear(endpointer, np.concatenate([silence(1000), speech(), silence(200)]))
    assert 200 == pytest.approx(endpointer.silence_ms, abs=80)


def test_the_lead_in_is_what_the_line_was_like_before_anybody_spoke() -> None:
    endpointer = Endpointer()
    line = np.concatenate([noise(1000, 30), speech()])
    hear(endpointer, line)
    start = endpointer.start_frame * FRAME_SAMPLES
    assert np.array_equal(line[start : start + endpointer.lead_in.size], endpointer.lead_in)
    assert 100 <= endpointer.lead_in.size * 1000 / TELEPHONE_RATE < PREROLL_FRAMES * FRAME_MS


def test_there_is_no_lead_in_where_the_call_begins_with_speech() -> None:
    """A breath at the beginning, so that the floor is not the voice itself."""
    endpointer = Endpointer()
    hear(endpointer, np.concatenate([silence(20), speech()]))
    assert 0 == endpointer.lead_in.size


def test_clean_speech_is_not_clipped() -> None:
    endpointer = Endpointer()
    hear(endpointer, np.concatenate([silence(500), speech()]))
    assert 0.0 == endpointer.clipped


def test_the_share_of_clipped_samples_is_that_of_the_voiced_frames_at_full_scale() -> None:
    endpointer = Endpointer()
    shouted = np.clip(speech().astype(np.int32) * 40, -32124, 32124).astype(np.int16)
    hear(endpointer, np.concatenate([silence(500), shouted, silence(200)]))
    voiced = np.concatenate(endpointer.voiced)
    assert np.mean(np.abs(voiced.astype(np.int32)) >= FULL_SCALE) == endpointer.clipped
    assert endpointer.clipped > 0.3


def test_reset_forgets_the_utterance_and_the_next_one_is_found_alike() -> None:
    endpointer, said = Endpointer(), np.concatenate([silence(500), speech(), silence(1000)])
    first, second = hear(endpointer, said), hear(endpointer, said)
    length = said.size * 1000 // TELEPHONE_RATE // FRAME_MS * FRAME_MS
    assert first == [(phase, at - length) for phase, at in second]


def test_the_same_samples_give_the_same_phases() -> None:
    said = np.concatenate([noise(700, 60), speech(), noise(1500, 60, seed=2)])
    assert hear(Endpointer(), said) == hear(Endpointer(), said)

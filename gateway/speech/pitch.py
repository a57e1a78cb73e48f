"""The pitch of a voice: two speakers leap from word to word, one does not; and a question ends higher than it was."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gateway.speech.frontend import Pcm

WINDOW_S, HOP_S = 0.040, 0.010
LOWEST_HZ, HIGHEST_HZ = 70.0, 400.0
VOICED = 0.5
"""The autocorrelation above which a window is a voice."""
NEAR_BEST = 0.96
"""Peaks of so much of the highest one are as good; the shortest period of them is taken."""

FEWEST_WINDOWS = 3
FEWEST_TO_RISE = 15


def pitch_track(samples: Pcm, rate: int) -> NDArray[np.float64]:
    """The fundamental in Hz every 10 ms, NaN where no voice is; by autocorrelation, so that it is found on a telephone line,
    which carries the harmonics but not the fundamental.
    """
    window, hop = int(WINDOW_S * rate), int(HOP_S * rate)
    if samples.size < window:
        return np.full(0, np.nan)
    frames = np.lib.stride_tricks.sliding_window_view(samples.astype(np.float64), window)[::hop]
    frames = (frames - frames.mean(axis=1, keepdims=True)) * np.hanning(window)
    spectra = np.abs(np.fft.rfft(frames, 2 * window, axis=1)) ** 2
    likeness = np.fft.irfft(spectra, axis=1)[:, :window]
    tapered = np.fft.irfft(np.abs(np.fft.rfft(np.hanning(window), 2 * window)) ** 2)[:window]
    shortest, longest = int(rate / HIGHEST_HZ), int(rate / LOWEST_HZ) + 1
    power = likeness[:, :1]
    with np.errstate(divide="ignore", invalid="ignore"):
        normal = likeness[:, shortest:longest] / power / (tapered[shortest:longest] / tapered[0])
    normal = np.nan_to_num(normal)
    first = np.argmax(normal >= NEAR_BEST * normal.max(axis=1, keepdims=True), axis=1)
    # the first of the high peaks, climbed to its top: later ones are whole multiples of the period
    track = np.full(len(frames), np.nan)
    loud = np.sqrt(power[:, 0]) > 0.05 * math.sqrt(float(power.max(initial=0.0)))
    for row, lag in enumerate(first):
        while lag + 1 < normal.shape[1] and normal[row, lag + 1] > normal[row, lag]:
            lag += 1  # noqa: PLW2901 - climbing
        if loud[row] and normal[row, lag] >= VOICED:
            track[row] = rate / (shortest + lag)
    return track


def pitch_jump(track: NDArray[np.float64], spans_s: Iterable[tuple[float, float]]) -> float | None:
    """The largest step between the median pitches of neighbouring *spans_s* (words; seconds), in semitones.

    None where fewer than two spans have a pitch.
    """
    medians = []
    for start, end in spans_s:
        voiced = track[round(start / HOP_S) : round(end / HOP_S)]
        voiced = voiced[~np.isnan(voiced)]
        if voiced.size >= FEWEST_WINDOWS:
            medians.append(12 * math.log2(float(np.median(voiced))))
    steps = [abs(after - before) for before, after in pairwise(medians)]
    return max(steps) if steps else None


def final_rise(track: NDArray[np.float64]) -> float | None:
    """How far the last 50 ms of voice lie above the 80 to 250 ms before its end, in semitones: a question rises, a statement
    falls. None where there is too little voice.
    """
    semitones = 12 * np.log2(track[~np.isnan(track)])
    if semitones.size < FEWEST_TO_RISE:
        return None
    return float(np.median(semitones[-5:]) - np.median(semitones[-25:-8]))

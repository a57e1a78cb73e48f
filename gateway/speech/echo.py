"""Is it the caller who speaks, or our own prompt that comes back? (An echo of "do you agree?" must never consent.)"""

from __future__ import annotations

import numpy as np

from gateway.speech.frontend import Pcm

LONGEST_DELAY_S = 1.0
BLOCK_S = 0.4
LOUD_SHARE = 0.1
"""Blocks with less than this share of the loudest one's power are pauses: a faint echo in them says nothing of the voice."""


def echo_share(heard: Pcm, sent: Pcm, rate: int) -> float:
    """How like *heard* is to what was *sent* up to a second before: the highest correlation of any 0.4 s of it, 0 to 1.

    *sent* ends when *heard* ends and should reach back a second further; *rate* in Hz. Both are whitened by their first
    difference, so that the hum of a line does not pass for likeness. 0 where nothing was sent.
    """
    delay = int(LONGEST_DELAY_S * rate)
    whole = np.zeros(heard.size + delay)
    known = sent[-whole.size :]
    whole[whole.size - known.size :] = known
    if not known.any():
        return 0.0
    block = int(BLOCK_S * rate)
    starts = range(0, max(1, heard.size - block // 2), block // 2)
    powers = [_power(heard[start : start + block]) for start in starts]
    least = LOUD_SHARE * max(powers)
    return max(
        _likeness(heard[start : start + block], whole[start : start + block + delay])
        for start, power in zip(starts, powers, strict=True)
        if power >= least
    )


def _power(part: Pcm) -> float:
    return float(np.mean(np.square(np.diff(part.astype(np.float64)))))


def _likeness(part: Pcm, around: np.ndarray) -> float:
    """The highest normalised cross-correlation of *part* at any place of *around*."""
    x, y = np.diff(part.astype(np.float64)), np.diff(around)
    size = 1 << (x.size + y.size - 1).bit_length()
    places = y.size - x.size + 1
    products = np.fft.irfft(np.fft.rfft(y, size) * np.conj(np.fft.rfft(x, size)), size)[:places]
    power = np.concatenate([[0.0], np.cumsum(np.square(y))])
    energies = power[x.size :] - power[:places]
    loud = energies > 1e-3 * max(float(energies.max(initial=0.0)), 1.0)
    own = float(np.square(x).sum())
    if not own or not loud.any():
        return 0.0
    return float(np.max(np.abs(products[loud]) / np.sqrt(energies[loud] * own)))

"""What telephone audio goes through before the model hears it (DESIGN §6: the model was trained on wideband speech).

A narrowband call is levelled and brought up to 16 kHz; the noise of the line is subtracted; and the bands that a telephone
leaves out are filled with noise that follows the loudness of the band beside them, as the voice itself would: hiss where there
was hiss, a murmur where there was a vowel, nothing where there was silence. A wideband call (G.722) is levelled and otherwise
untouched. White noise of a fixed seed lies under both, so that digital silence is never heard as speech. The same samples
always give the same samples, however they are cut. What each step gains: docs/listening.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

TELEPHONE_RATE = 8000
MODEL_RATE = 16000
TARGET_RMS = 32768 * 10 ** (-25 / 20)
"""The level that the model hears best: -25 dBFS active."""

NOISE_LSB = 16.0
LARGEST_GAIN = 32.0
_SEED = 20260101

WINDOW, HOP = 512, 128
GUIDE_HZ, FILLED_HZ = (2000.0, 3300.0), (3500.0, 8000.0)
FILL_SHARE, FILL_SLOPE_DB = 0.7, -12.0
"""The fill at 3.5 kHz against its guide, and the fill at 8 kHz against that."""

LOW_GUIDE_HZ, LOW_FILLED_HZ, LOW_SHARE = (330.0, 700.0), (60.0, 310.0), 0.2
NOISE_WEIGHT, LEAST_LEFT = 6.0, 0.05
"""How many times the line's noise power is taken away, and the share of amplitude that is left at least."""

Pcm = NDArray[np.int16]
_Samples = NDArray[np.float64]
_NOTHING: Pcm = np.zeros(0, np.int16)


def rms(samples: Pcm) -> float:
    """Root mean square in LSB; 0 for nothing."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if samples.size else 0.0


def gain_for(active: Pcm) -> float:
    """The factor that brings *active* speech to the target level."""
    level = rms(active)
    return min(LARGEST_GAIN, TARGET_RMS / level) if level > 1 else 1.0


def _bins(band_hz: tuple[float, float]) -> NDArray[np.int64]:
    """The places of a band in a spectrum of a window."""
    hertz = np.fft.rfftfreq(WINDOW, 1 / MODEL_RATE)
    return np.flatnonzero((hertz >= band_hz[0]) & (hertz <= band_hz[1]))


class FrontEnd:
    """One utterance on its way to the model: samples at *rate* (8 or 16 kHz) in, 16 kHz little-endian octets out.

    *silence* is what the line sounded like before, at the same rate: its noise is taken away. Empty, nothing is.
    """

    def __init__(self, gain: float, rate: int = TELEPHONE_RATE, silence: Pcm = _NOTHING) -> None:
        self._gain = gain
        narrow = rate == TELEPHONE_RATE
        self._resampler = soxr.ResampleStream(rate, MODEL_RATE, 1, dtype="float32") if narrow else None
        self._restorer = (
            _Restorer(soxr.resample(silence.astype(np.float32) * gain, rate, MODEL_RATE)) if narrow else None
        )
        self._noise = np.random.default_rng(_SEED)

    def push(self, samples: Pcm, *, last: bool = False) -> bytes:
        loud = samples.astype(np.float32) * self._gain
        wide = loud.astype(np.float64)
        if self._resampler is not None and self._restorer is not None:
            wide = self._restorer.push(self._resampler.resample_chunk(loud, last=last), last=last)
        wide = wide + self._noise.normal(0.0, NOISE_LSB, wide.size)
        return bytes(np.clip(np.rint(wide), -32768, 32767).astype("<i2").tobytes())


class _Restorer:
    """Short-time spectra of 32 ms every 8 ms, each freed of noise and filled, added up again."""

    _window = np.sqrt(np.hanning(WINDOW + 1)[:-1])
    _overlap = WINDOW // (2 * HOP)
    """What the squared windows add up to."""

    _guide, _filled = _bins(GUIDE_HZ), _bins(FILLED_HZ)
    _low_guide, _low_filled = _bins(LOW_GUIDE_HZ), _bins(LOW_FILLED_HZ)
    _shares = FILL_SHARE * 10 ** (FILL_SLOPE_DB / 20 * np.linspace(0.0, 1.0, _filled.size))

    def __init__(self, silence: NDArray[np.float32]) -> None:
        self._random = np.random.default_rng(_SEED + 1)
        self._noise = np.mean(self._power(silence), axis=0) if silence.size >= WINDOW else np.zeros(WINDOW // 2 + 1)
        self._pending: _Samples = np.zeros(WINDOW - HOP)
        self._tail: _Samples = np.zeros(WINDOW - HOP)
        self._lead = WINDOW - HOP
        """Samples at the head that belong to nobody: the windows before the first sample."""

    def push(self, samples: NDArray[np.float32], *, last: bool) -> _Samples:
        """What is finished of the sound so far; all of it when *last*."""
        flush = np.zeros(WINDOW - HOP if last else 0)
        pending = np.concatenate([self._pending, samples, flush])
        if last:  # the last window is filled up with silence
            pending = np.concatenate([pending, np.zeros(-(pending.size - WINDOW) % HOP)])
        count = max(0, (pending.size - WINDOW) // HOP + 1)
        done = np.zeros(count * HOP + WINDOW - HOP)
        done[: WINDOW - HOP] = self._tail
        for number, restored in enumerate(self._restored(pending) if count else ()):
            done[number * HOP : number * HOP + WINDOW] += restored
        self._pending, self._tail = pending[count * HOP :], done[count * HOP :]
        ready = done[: count * HOP]
        lead, self._lead = min(self._lead, ready.size), max(0, self._lead - ready.size)
        return ready[lead:]

    def _restored(self, samples: _Samples) -> _Samples:
        """Every window of *samples*, as a row."""
        spectra = np.fft.rfft(_windows(samples) * self._window, axis=1)
        power = np.square(np.abs(spectra))
        kept = 1 - NOISE_WEIGHT * self._noise / np.maximum(power, 1e-9)
        spectra *= np.sqrt(np.maximum(kept, LEAST_LEFT**2))
        random = self._random.normal(size=(len(spectra), 2, self._filled.size + self._low_filled.size))
        noise = (random[:, 0] + 1j * random[:, 1]) / np.sqrt(2)
        spectra[:, self._filled] += self._loudness(spectra, self._guide) * self._shares * noise[:, : self._filled.size]
        low = self._loudness(spectra, self._low_guide) * LOW_SHARE
        spectra[:, self._low_filled] += low * noise[:, self._filled.size :]
        restored: _Samples = np.fft.irfft(spectra, WINDOW, axis=1) * self._window / self._overlap
        return restored

    def _power(self, samples: NDArray[np.float32]) -> _Samples:
        return np.square(np.abs(np.fft.rfft(_windows(samples) * self._window, axis=1)))

    @staticmethod
    def _loudness(spectra: NDArray[np.complex128], bins: NDArray[np.int64]) -> _Samples:
        mean: _Samples = np.sqrt(np.mean(np.square(np.abs(spectra[:, bins])), axis=1, keepdims=True))
        return mean


def _windows(samples: NDArray[Any]) -> NDArray[Any]:
    return np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]

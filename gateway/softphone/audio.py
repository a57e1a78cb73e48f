"""Reading what the script says and writing what the softphone heard (WAV files)."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr  # it ships no annotations

from gateway.softphone.g711 import SAMPLE_RATE, Samples


class AudioFileError(ValueError):
    """A file of the script cannot be played."""


def _to_float(raw: bytes, width: int) -> npt.NDArray[np.float64]:
    """PCM bytes of 1 to 4 bytes per sample as floats in -1..1."""
    if width == 1:
        # 8-bit WAV is the one unsigned form.
        return (np.frombuffer(raw, dtype=np.uint8).astype(np.float64) - 128) / 128
    if width == 3:
        bytes_ = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3)
        wide = np.zeros((len(bytes_), 4), dtype=np.uint8)
        wide[:, 1:] = bytes_
        return wide.view("<i4").reshape(-1).astype(np.float64) / 2**31
    kind = "<i2" if width == 2 else "<i4"
    return np.frombuffer(raw, dtype=kind).astype(np.float64) / float(2 ** (8 * width - 1))


def load_wav(path: Path) -> Samples:
    """The file as 16-bit mono samples at 8 kHz.

    A file that already has that form is returned bit for bit; others are mixed
    down and resampled (soxr, high quality).

    Raises:
        AudioFileError: the file is missing, or is no PCM WAV.

    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate = file.getnchannels(), file.getsampwidth(), file.getframerate()
            raw = file.readframes(file.getnframes())
    except (OSError, EOFError, wave.Error) as error:
        raise AudioFileError(f"{path}: not a readable PCM WAV file: {error}") from error
    if (channels, width, rate) == (1, 2, SAMPLE_RATE):
        return np.frombuffer(raw, dtype="<i2").astype(np.int16)
    mono = _to_float(raw, width).reshape(-1, channels).mean(axis=1)
    if rate != SAMPLE_RATE:
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="HQ")
    samples: Samples = np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)
    return samples


def save_wav(path: Path, samples: Samples) -> None:
    """Write 16-bit mono samples at 8 kHz.

    Raises:
        OSError: the file cannot be written.

    """
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(samples.astype("<i2").tobytes())

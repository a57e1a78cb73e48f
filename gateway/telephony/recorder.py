"""Records a call as WAV: caller left, gateway right, 8 kHz, 16 bit; written as the call runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.telephony.g711 import SAMPLE_RATE, Law, decode

_FLUSH_OCTETS = SAMPLE_RATE
_HEADER = struct.Struct("<4sI4s4sIHHIIHH4sI")
_CHANNELS, _WIDTH = 2, 2


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished recording in its place. *sha256* names its file."""

    path: Path
    sha256: str
    duration_ms: int


class Recorder:
    """One call's recording: a part file in *folder*, renamed to its content hash at the end."""

    def __init__(self, folder: Path, call_id: str, law: Law) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._law = law
        self._part = folder / f"{call_id}.part.wav"
        self._folder = folder
        self._file = open(self._part, "xb", opener=_private)  # noqa: SIM115 - Path.open takes no opener
        self._file.write(_header(0))
        self._samples = 0
        self._left, self._right = bytearray(), bytearray()

    @property
    def position_ms(self) -> int:
        return (self._samples + len(self._left)) * 1000 // SAMPLE_RATE

    def write(self, caller: bytes, gateway: bytes) -> None:
        """One frame of each side, equally long, as G.711 octets."""
        self._left += caller
        self._right += gateway
        if len(self._left) >= _FLUSH_OCTETS:
            self._flush()

    def discard(self) -> None:
        """Keep nothing of this call."""
        self._file.close()
        self._part.unlink()

    def abandon(self) -> None:
        """Close what could not be written on; the part file stays for whoever wants to see how far it came."""
        with contextlib.suppress(OSError):
            self._file.close()

    def finish(self) -> Recording:
        """Close, hash and name the file. Blocking: call it off the loop. Raises OSError."""
        with self._file:
            self._flush()
            self._file.seek(0)
            self._file.write(_header(self._samples))
        with self._part.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        path = self._folder / f"{sha256}.wav"
        self._part.replace(path)
        return Recording(path, sha256, self._samples * 1000 // SAMPLE_RATE)

    def _flush(self) -> None:
        frames = np.empty((len(self._left), _CHANNELS), "<i2")
        frames[:, 0] = decode(self._left, self._law)
        frames[:, 1] = decode(self._right, self._law)
        self._file.write(frames.tobytes())
        self._samples += len(self._left)
        self._left.clear()
        self._right.clear()


def _header(samples: int) -> bytes:
    size = samples * _CHANNELS * _WIDTH
    octets_per_second = SAMPLE_RATE * _CHANNELS * _WIDTH
    return _HEADER.pack(
        b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, _CHANNELS, SAMPLE_RATE, octets_per_second,
        _CHANNELS * _WIDTH, 8 * _WIDTH, b"data", size,
    )  # fmt: skip


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)

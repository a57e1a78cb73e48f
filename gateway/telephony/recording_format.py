"""Recordings at rest: sealed second by second as the call runs, so that a crash leaves seconds that open.

A file is a plain header (magic, version, channels, length of the call id, samples a second; the call id), then *chunks*:
one second of samples each, the last one shorter, 16-bit little-endian, caller and gateway in turn. A chunk is
``nonce (12) | ciphertext | tag (16)``, AES-256-GCM; the header and the chunk's number are its associated data, so that none can be
moved within a file or to another. Nonces are random: a chunk may be written again with other samples.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.telephony.errors import BadRecording

SUFFIX = ".rec"
KEY_OCTETS = 32
CHANNELS, WIDTH = 2, 2
PAIR = CHANNELS * WIDTH
"""Octets of one sample of both sides."""

BLOCK_S = 10
"""Each so many seconds have a hash of their own, by which a cut file proves its prefix."""

SPEECH_LSB = 500
"""A stretch of 20 ms whose loudest sample is above this counts as sound."""

_SIDES = np.array([0x00FF00FF00FF00FF, 0xFF00FF00FF00FF00], np.uint64)
_MAGIC, _VERSION = b"CGREC\r\n\x1a", 1
_FIXED = struct.Struct("<8sBBHI")
_NUMBER = struct.Struct("<Q")
_WAV = struct.Struct("<4sI4s4sIHHIIHH4sI")
_NONCE, _TAG = 12, 16
SEALED = _NONCE + _TAG
"""Octets that a chunk has beside its samples."""

_CALL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def path_of(folder: Path, call_id: str) -> Path:
    """Where the recording of *call_id* lies. Raises BadRecording for an id that cannot be a file's name."""
    if not _CALL_ID.fullmatch(call_id):
        raise BadRecording(f"{call_id!r} is no call id that a recording can be named by")
    return folder / f"{call_id}{SUFFIX}"


def wav_header(frames: int, rate: int) -> bytes:
    """The 44 octets before *frames* samples of each side at *rate*."""
    size = frames * PAIR
    return _WAV.pack(
        b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, CHANNELS, rate, rate * PAIR, PAIR, 8 * WIDTH, b"data", size
    )


class Layout:
    """The header of a file, and where its chunks lie."""

    __slots__ = ("call_id", "chunk", "header", "rate")

    def __init__(self, call_id: str, rate: int) -> None:
        name = call_id.encode()
        self.call_id, self.rate = call_id, rate
        self.header = _FIXED.pack(_MAGIC, _VERSION, CHANNELS, len(name), rate) + name
        self.chunk = rate * PAIR
        """Octets of the samples of a whole one."""

    @classmethod
    def read(cls, fd: int) -> Layout:
        """That of the open file *fd*. Raises BadRecording."""
        fixed = os.pread(fd, _FIXED.size, 0)
        if len(fixed) < _FIXED.size:
            raise BadRecording(f"a recording of {len(fixed)} octets has no header")
        magic, version, channels, length, rate = _FIXED.unpack(fixed)
        if magic != _MAGIC:
            raise BadRecording("this is no recording: it does not begin as one")
        if (version, channels) != (_VERSION, CHANNELS) or not 0 < rate <= 48_000:
            raise BadRecording(f"a recording of version {version} with {channels} channels at {rate} Hz is unknown")
        name = os.pread(fd, length, _FIXED.size)
        try:
            call_id = name.decode()
        except UnicodeDecodeError:
            call_id = ""
        if len(name) < length or not _CALL_ID.fullmatch(call_id):
            raise BadRecording("the header of the recording is broken: it names no call")
        return cls(call_id, rate)

    def place(self, number: int) -> int:
        """Where chunk *number*, from 0, begins."""
        return len(self.header) + number * (self.chunk + SEALED)

    def frames(self, size: int) -> int:
        """How many samples of each side a file of *size* octets holds. Raises BadRecording when its last chunk is torn."""
        whole, rest = divmod(size - len(self.header), self.chunk + SEALED)
        if rest and (rest <= SEALED or (rest - SEALED) % PAIR):
            raise BadRecording(f"second {whole + 1} of the recording of {self.call_id} is torn")
        return whole * self.rate + (rest - SEALED) // PAIR if rest else whole * self.rate

    def size(self, frames: int) -> int:
        """Octets of a file that holds *frames* samples of each side."""
        whole, rest = divmod(frames, self.rate)
        return self.place(whole) + (SEALED + rest * PAIR if rest else 0)

    def room(self, size: int) -> int:
        """The same of a file whose end may be torn: how many there may be at most."""
        try:
            return self.frames(size)
        except BadRecording:
            return (size - len(self.header)) // (self.chunk + SEALED) * self.rate


class Safe:
    """Seals and opens the chunks of one recording with its key of 32 octets."""

    __slots__ = ("_cipher", "layout")

    def __init__(self, key: bytes, layout: Layout) -> None:
        if len(key) != KEY_OCTETS:
            raise BadRecording(f"the key of a recording has {KEY_OCTETS} octets, not {len(key)}")
        self._cipher = AESGCM(key)
        self.layout = layout

    def seal(self, number: int, samples: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, samples, self.layout.header + _NUMBER.pack(number))

    def open(self, number: int, sealed: bytes) -> bytes:
        """The samples of chunk *number*. Raises BadRecording."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], self.layout.header + _NUMBER.pack(number))
        except (InvalidTag, ValueError) as error:
            raise BadRecording(
                f"second {number + 1} of the recording of {self.layout.call_id} does not open: it was changed, or its key is another"
            ) from error

    def read(self, fd: int, number: int, octets: int) -> bytes:
        """The *octets* of samples of chunk *number* in the open file *fd*. Raises OSError and BadRecording."""
        return self.open(number, os.pread(fd, octets + SEALED, self.layout.place(number)))

    def chunks(self, fd: int, frames: int) -> Iterator[bytes]:
        """The first *frames* samples of both sides in the open file *fd*, a second at a time. Raises OSError and BadRecording."""
        rate = self.layout.rate
        for number in range(-(-frames // rate)):
            yield self.read(fd, number, min(rate, frames - number * rate) * PAIR)

    def wav_sha256(self, fd: int, frames: int) -> str:
        """The hash of those as WAV."""
        whole = hashlib.sha256(wav_header(frames, self.layout.rate))
        for samples in self.chunks(fd, frames):
            whole.update(samples)
        return whole.hexdigest()


@dataclass(frozen=True, slots=True)
class Mark:
    """The end of a block: its SHA-256, and how long either side was heard until there."""

    sha256: bytes
    sound_ms: tuple[int, int]


class Tally:
    """What is told of samples as they come: the hash of each block, and how long either side was heard.

    One that goes on where another stopped, at the end of a block, begins with what that had heard.
    """

    def __init__(self, rate: int, sound_ms: tuple[int, int] = (0, 0)) -> None:
        self._stretch = rate // 50
        self._octets = BLOCK_S * rate * PAIR
        self._left = self._octets
        self._block = hashlib.sha256()
        self._sound_ms = list(sound_ms)

    @property
    def sound_ms(self) -> tuple[int, int]:
        return self._sound_ms[0], self._sound_ms[1]

    def add(self, samples: bytes) -> tuple[Mark, ...]:
        """Take *samples* of both sides; returns the blocks that they complete."""
        marks: list[Mark] = []
        rest = memoryview(samples)
        while rest:
            part, rest = rest[: self._left], rest[self._left :]
            self._block.update(part)
            self._listen(part)
            self._left -= len(part)
            if not self._left:
                marks.append(self._end())
        return tuple(marks)

    def end(self) -> tuple[Mark, ...]:
        """The last block, where it is not a whole one."""
        return () if self._left == self._octets else (self._end(),)

    def _end(self) -> Mark:
        mark = Mark(self._block.digest(), self.sound_ms)
        self._block, self._left = hashlib.sha256(), self._octets
        return mark

    def _listen(self, samples: memoryview) -> None:
        """Count the stretches with sound: a sample above the threshold or below its negative is an octet of 1, and eight of those,
        four of either side, are looked at together.
        """
        pairs = np.frombuffer(samples, "<u2")
        stretch = self._stretch * CHANNELS
        above = (pairs[: pairs.size // stretch * stretch] + np.uint16(SPEECH_LSB)) > 2 * SPEECH_LSB
        loud = np.bitwise_or.reduce(above.view("<u8").reshape(-1, stretch // 8), axis=1)
        heard, sent = (int(np.count_nonzero(loud & side)) for side in _SIDES)
        self._sound_ms[0] += 20 * heard
        self._sound_ms[1] += 20 * sent

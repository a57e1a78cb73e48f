"""Writes recordings, sealed, as calls run; reads finished ones; and salvages what a crash left of one.

Files and keys in, samples and hashes out: who may have them is decided elsewhere. The form is that of
:mod:`gateway.telephony.recording_format`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from gateway.telephony.errors import BadRecording
from gateway.telephony.recording_format import (
    BLOCK_S,
    PAIR,
    Layout,
    Mark,
    Safe,
    Tally,
    path_of,
    wav_header,
)

__all__ = ["Mark", "Recording", "Sound", "Writer", "path_of", "read_recording", "salvage", "wav_header", "write_wav"]

TORN = ".torn"
LOCK_S = 30.0
"""How long a recording process whose gateway has died may take to write what it was sent."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished recording in its place. *sha256* is over it as WAV, *blocks* over each :data:`BLOCK_S` of its samples, the last
    one shorter. *sound_ms* is how long caller and gateway were heard.
    """

    path: Path
    key: bytes = field(repr=False)
    sha256: str
    duration_ms: int
    rate: int
    blocks: tuple[str, ...] = ()
    sound_ms: tuple[int, int] = (0, 0)


class Writer:
    """Writes one recording into the file at *path*, which is there already, and which nobody else writes meanwhile.

    Where another one died, this goes on behind *frames* samples, with the *blocks* and the sound that were told of them. All of
    it raises OSError, and BadRecording where what it goes on with does not open. :meth:`sync` may be called by another thread.
    """

    def __init__(
        self, path: Path, key: bytes, call_id: str, rate: int, *,
        frames: int = 0, blocks: int = 0, sound_ms: tuple[int, int] = (0, 0),
    ) -> None:  # fmt: skip
        self.path, self.frames = path, frames
        self._layout = Layout(call_id, rate)
        self._safe = Safe(key, self._layout)
        self._tally = Tally(rate, sound_ms)
        self._tail = b""
        """The samples of the last chunk, while it is not whole."""
        self._dirty = self._named = False
        self._lost: OSError | None = None
        """What the disk said: it tells only once that something was lost."""
        self._closing = threading.Lock()
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write(self._layout.header, 0)
            if frames:
                self._go_on(blocks)
        except BaseException:
            self.close()
            raise

    def put(self, samples: bytes) -> tuple[Mark, ...]:
        """Write the next samples of both sides; returns the blocks that they complete."""
        if self._lost is not None:
            raise self._lost
        chunk, rate = self._layout.chunk, self._layout.rate
        number, rest = self.frames // rate, memoryview(self._tail + samples if self._tail else samples)
        while rest:
            part, rest = bytes(rest[:chunk]), rest[chunk:]
            try:
                self._write(self._safe.seal(number, part), self._layout.place(number))
            except OSError:
                with contextlib.suppress(OSError):  # what is whole stays whole
                    os.ftruncate(self._fd, self._layout.place(number))
                raise
            number += 1
            self._tail = part if len(part) < chunk else b""
        self.frames += len(samples) // PAIR
        return self._tally.add(samples)

    def finish(self) -> tuple[str, tuple[Mark, ...]]:
        """Close the file, safe on its disk; returns the hash of it as WAV, of what can be read back, and the last block.

        The hash covers the length, which stands at the beginning of a WAV: it cannot be told before the end.
        """
        marks = self._tally.end()
        try:
            if self._lost is not None:
                raise self._lost
            os.ftruncate(self._fd, self._layout.size(self.frames))
            sha256 = self._safe.wav_sha256(self._fd, self.frames)
            self._dirty = True
            self.sync()
        finally:
            self.close()
        return sha256, marks

    def sync(self) -> None:
        """Have what was written on the disk before this returns, and the file's name with the first."""
        with self._closing:
            if self._fd < 0 or not self._dirty:
                return
            self._dirty = False
            try:
                os.fdatasync(self._fd)
                if not self._named:
                    _sync_folder(self.path.parent)
            except OSError as error:
                self._lost = error
                raise
            self._named = True

    @property
    def sound_ms(self) -> tuple[int, int]:
        return self._tally.sound_ms

    def close(self) -> None:
        with self._closing, contextlib.suppress(OSError):
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    def _go_on(self, blocks: int) -> None:
        """Read again what follows the last block that was told."""
        rate = self._layout.rate
        for number in range(blocks * BLOCK_S, -(-self.frames // rate)):
            wanted = min(rate, self.frames - number * rate) * PAIR
            samples = self._safe.read(self._fd, number, self._layout.chunk)[
                :wanted
            ]  # the last one may have grown since
            if len(samples) < wanted:
                raise BadRecording(f"second {number + 1} of the recording of {self._layout.call_id} has lost its end")
            self._tally.add(samples)
            self._tail = samples if wanted < self._layout.chunk else b""

    def _write(self, octets: bytes, at: int) -> None:
        while octets:
            written = os.pwrite(self._fd, octets, at)
            octets, at = octets[written:], at + written
        self._dirty = True


class Sound:
    """A finished recording, opened to be read a second at a time: ``with Sound(path, key) as sound``.

    Raises OSError, and BadRecording for a file or a key that is not right; of a *torn* one the whole chunks are read.
    """

    def __init__(self, path: Path, key: bytes, *, torn: bool = False) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._layout = Layout.read(self._fd)
            self._safe = Safe(key, self._layout)
            self.call_id, self.rate = self._layout.call_id, self._layout.rate
            size = os.fstat(self._fd).st_size
            self.frames = self._layout.room(size) if torn else self._layout.frames(size)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def duration_ms(self) -> int:
        return self.frames * 1000 // self.rate

    def seconds(self) -> Iterator[bytes]:
        """The samples of both sides, 16-bit little-endian, a second at a time. Raises BadRecording where one does not open."""
        yield from self._safe.chunks(self._fd, self.frames)

    def wav(self) -> Iterator[bytes]:
        """The recording as WAV, in pieces. Raises BadRecording."""
        yield wav_header(self.frames, self.rate)
        yield from self.seconds()


def read_recording(path: Path, key: bytes) -> bytes:
    """The recording at *path* as WAV, whole. Raises OSError and BadRecording."""
    with Sound(path, key) as sound:
        return b"".join(sound.wav())


def write_wav(
    path: Path, key: bytes, out: BinaryIO, *, sha256: str, blocks: Sequence[str], prefix: bool = False
) -> int:  # fmt: skip
    """Write the recording at *path* to *out* as WAV, when it is the one that these hashes were taken of; how many ms it has.

    Of one that was damaged or cut since, *prefix* writes what the *blocks* from the beginning on prove. Raises OSError, and
    BadRecording for one that is not what it was.
    """
    with Sound(path, key, torn=prefix) as sound:
        whole, tally = hashlib.sha256(wav_header(sound.frames, sound.rate)), Tally(sound.rate)
        waiting, proven, frames = bytearray(), 0, 0
        out.write(wav_header(sound.frames, sound.rate))
        try:
            for samples in sound.seconds():
                whole.update(samples)
                waiting += samples
                marks = tally.add(samples)
                if not marks and frames * PAIR + len(waiting) == sound.frames * PAIR:
                    marks = tally.end()
                for mark in marks:
                    if proven == len(blocks) or mark.sha256.hex() != blocks[proven]:
                        raise BadRecording(
                            f"the recording of {sound.call_id} is not what it was after {proven * BLOCK_S} s"
                        )
                    out.write(waiting)
                    proven, frames = proven + 1, frames + len(waiting) // PAIR
                    waiting.clear()
            if (proven, whole.hexdigest()) != (len(blocks), sha256):
                raise BadRecording(
                    f"the recording of {sound.call_id} ends after {sound.duration_ms / 1000:.1f} s, before its end"
                )
        except BadRecording:
            if not prefix:
                raise
        out.seek(0)
        out.write(wav_header(frames, sound.rate))
        return frames * 1000 // sound.rate


def salvage(path: Path, key: bytes) -> Recording | None:
    """What a crash left of the recording at *path*: cut behind its last good chunk, safe on its disk and hashed.

    None when there is nothing that *key* opens; then the file stays as it was. It may take a while: a recording process whose
    gateway has died still writes what it was sent. Raises OSError.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        _lock(fd, path)
        try:
            layout = Layout.read(fd)
            safe = Safe(key, layout)
        except BadRecording:
            return None
        tally, frames = Tally(layout.rate), 0
        marks: list[Mark] = []
        size = os.fstat(fd).st_size
        with contextlib.suppress(BadRecording):
            for samples in safe.chunks(fd, layout.room(size)):
                marks += tally.add(samples)
                frames += len(samples) // PAIR
        if not frames:
            return None
        _cut(fd, path, safe, frames)
        marks += tally.end()
        sha256 = safe.wav_sha256(fd, frames)
        os.fsync(fd)
    finally:
        os.close(fd)
    _sync_folder(path.parent)
    blocks = tuple(mark.sha256.hex() for mark in marks)
    return Recording(path, key, sha256, frames * 1000 // layout.rate, layout.rate, blocks, tally.sound_ms)


def _cut(fd: int, path: Path, safe: Safe, frames: int) -> None:
    """Cut the file behind its first *frames* samples. Should any chunk behind those still open, a copy of all of it is kept."""
    layout, size = safe.layout, os.fstat(fd).st_size
    if size <= layout.size(frames):
        return
    for later in range(frames // layout.rate + 1, layout.room(size) // layout.rate):
        with contextlib.suppress(BadRecording):
            safe.read(fd, later, layout.chunk)
            copy = path.with_suffix(TORN)
            copy.touch(mode=0o600)
            shutil.copyfile(path, copy)
            break
    os.ftruncate(fd, layout.size(frames))


def _lock(fd: int, path: Path) -> None:
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > until:
                raise OSError(f"{path.name} is still being written by another process") from error
            time.sleep(0.05)
        else:
            return


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

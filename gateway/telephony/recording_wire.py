"""What the gateway and its recording process say to each other: a header of kind, recording and length, then the body."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple, cast

from gateway.audio.codec import Codec
from gateway.telephony.recording_format import KEY_OCTETS, Mark

_HEADER = struct.Struct("!BII")
_OFFSET = struct.Struct("!Q")
_OPENING = struct.Struct(f"!QIII{KEY_OCTETS}s")
_DONE = struct.Struct("!32sQII")
_MARK = struct.Struct("!32sII")


class Kind(IntEnum):
    OPEN = 1
    """Body: :class:`Opening`."""
    AUDIO = 2
    """Body: how many octets of each side come before, then the caller's, then as many of the gateway's."""
    FINISH = 3
    DISCARD = 4
    WRITTEN = 5
    """Answers OPEN, AUDIO and DISCARD, in their order. Body: the blocks that are whole since the last one."""
    DONE = 6
    """Answers FINISH. Body: :class:`Done`."""
    FAILED = 7
    """Instead of any of these; the recording is closed. Body: why."""
    ABANDON = 8
    """The gateway has given this recording up: close it, and leave what there is. Has no answer."""


class Message(NamedTuple):
    kind: Kind
    number: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Opening:
    """A recording to begin in the file at *path*; or to go on with, behind *frames* samples of each side, *blocks* of which are
    known, and the sound until there.
    """

    codec: Codec
    call_id: str
    path: Path
    key: bytes = field(repr=False)
    frames: int = 0
    blocks: int = 0
    sound_ms: tuple[int, int] = (0, 0)

    def pack(self) -> bytes:
        text = f"{self.codec}\n{self.call_id}\n{self.path}".encode()
        return _OPENING.pack(self.frames, self.blocks, *self.sound_ms, self.key) + text

    @classmethod
    def parse(cls, body: bytes) -> Opening:
        frames, blocks, heard, sent, key = _OPENING.unpack_from(body)
        codec, call_id, path = body[_OPENING.size :].decode().split("\n", 2)
        return cls(cast(Codec, codec), call_id, Path(path), key, frames, blocks, (heard, sent))


@dataclass(frozen=True, slots=True)
class Done:
    """A finished recording: its hash as WAV, samples of each side, ms of sound of caller and gateway, the last blocks."""

    sha256: bytes
    frames: int
    sound_ms: tuple[int, int]
    marks: tuple[Mark, ...]

    def pack(self) -> bytes:
        return _DONE.pack(self.sha256, self.frames, *self.sound_ms) + pack_marks(self.marks)

    @classmethod
    def parse(cls, body: bytes) -> Done:
        sha256, frames, heard, sent = _DONE.unpack_from(body)
        return cls(sha256, frames, (heard, sent), parse_marks(body[_DONE.size :]))


def pack(kind: Kind, number: int, body: bytes = b"") -> bytes:
    return _HEADER.pack(kind, number, len(body)) + body


def pack_audio(number: int, offset: int, caller: bytes, gateway: bytes) -> bytes:
    return pack(Kind.AUDIO, number, _OFFSET.pack(offset) + caller + gateway)


def unpack_audio(body: bytes) -> tuple[int, bytes, bytes]:
    """Offset, caller's and gateway's octets."""
    half = (len(body) - _OFFSET.size) // 2 + _OFFSET.size
    return _OFFSET.unpack_from(body)[0], body[_OFFSET.size : half], body[half:]


def pack_marks(marks: tuple[Mark, ...]) -> bytes:
    return b"".join(_MARK.pack(mark.sha256, *mark.sound_ms) for mark in marks)


def parse_marks(body: bytes) -> tuple[Mark, ...]:
    return tuple(Mark(sha256, (heard, sent)) for sha256, heard, sent in _MARK.iter_unpack(body))


class Reader:
    """Cuts a stream into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        self._buffer += data
        at, buffer = 0, self._buffer
        while len(buffer) - at >= _HEADER.size:
            kind, number, length = _HEADER.unpack_from(buffer, at)
            end = at + _HEADER.size + length
            if len(buffer) < end:
                break
            yield Message(Kind(kind), number, bytes(buffer[at + _HEADER.size : end]))
            at = end
        del buffer[:at]

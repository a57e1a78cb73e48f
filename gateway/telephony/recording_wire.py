"""What the gateway and its recording process say to each other: a header of kind, recording and length, then the body."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

_HEADER = struct.Struct("!BII")
_OFFSET = struct.Struct("!Q")


class Kind(IntEnum):
    OPEN = 1
    """Body: codec, space, path of the part file. A file that is there is written on."""
    AUDIO = 2
    """Body: how many octets of each side come before, then the caller's, then as many of the gateway's."""
    FINISH = 3
    DISCARD = 4
    WRITTEN = 5
    """Answers OPEN, AUDIO and DISCARD, in their order."""
    DONE = 6
    """Answers FINISH: hash, samples of each side, ms of sound of caller and gateway."""
    FAILED = 7
    """Instead of any of these; the recording is closed. Body: why."""


class Message(NamedTuple):
    kind: Kind
    number: int
    body: bytes


def pack(kind: Kind, number: int, body: bytes) -> bytes:
    return _HEADER.pack(kind, number, len(body)) + body


def pack_audio(number: int, offset: int, caller: bytes, gateway: bytes) -> bytes:
    return pack(Kind.AUDIO, number, _OFFSET.pack(offset) + caller + gateway)


def unpack_audio(body: bytes) -> tuple[int, bytes, bytes]:
    """Offset, caller's and gateway's octets."""
    half = (len(body) - _OFFSET.size) // 2 + _OFFSET.size
    return _OFFSET.unpack_from(body)[0], body[_OFFSET.size : half], body[half:]


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

"""The frames between the gateway and its listening processes: kind (1 octet), session (4), length (4), payload."""

from __future__ import annotations

import struct
import threading
from typing import IO

FRAME = struct.Struct("<cII")
LONGEST = 1 << 22

INIT = b"I"  # JSON: model, grammars; the first frame
OPEN = b"O"  # JSON: grammar, timeout_ms, mode, second_pass, rate, codec
AUDIO = b"A"  # the caller: octets of the session's codec, or without one 16-bit little-endian samples at its rate
SENT = b"P"  # what was played to the caller, as long as the AUDIO that follows it; left out where it was silence
QUESTION_ENDED = b"Q"
CLOSE = b"C"
READY = b"R"  # JSON: model, model_sha256, grammars
FAILED = b"X"  # text: why the process cannot listen
STARTED = b"S"
ASIDE = b"D"  # JSON: a report, of what was said while the question played
FINAL = b"F"  # JSON: the report


def pack(kind: bytes, session: int, payload: bytes = b"") -> bytes:
    return FRAME.pack(kind, session, len(payload)) + payload


class Sender:
    """Writes whole frames to a pipe from any thread."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink = sink
        self._lock = threading.Lock()

    def __call__(self, kind: bytes, session: int, payload: bytes) -> None:
        with self._lock:
            self._sink.write(pack(kind, session, payload))
            self._sink.flush()


def read(source: IO[bytes]) -> tuple[bytes, int, bytes] | None:
    """The next frame; None at the end of the pipe."""
    head = source.read(FRAME.size)
    if len(head) < FRAME.size:
        return None
    kind, session, length = FRAME.unpack(head)
    if length > LONGEST:
        raise ValueError(f"frame of {length} octets, at most {LONGEST}")
    return kind, session, source.read(length)

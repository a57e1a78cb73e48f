"""What happened, one line per event on standard output."""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import TextIO


class Events:
    """Writes events as JSON lines or as readable text; safe from every thread.

    Args:
        as_json: one JSON object per line instead of text.
        stream: where to; standard output if not given.

    """

    def __init__(self, as_json: bool, stream: TextIO | None = None) -> None:
        self._json = as_json
        self._stream = stream if stream is not None else sys.stdout
        self._lock = threading.Lock()
        self._start = time.monotonic()

    def since_start(self, moment: float) -> float:
        """A monotonic moment as the ``t`` of the events: seconds since the start."""
        return round(moment - self._start, 3)

    def emit(self, event: str, **fields: object) -> None:
        """Write one event; fields that are ``None`` are written as null."""
        moment = self.since_start(time.monotonic())
        if self._json:
            line = json.dumps({"event": event, "t": moment, **fields}, ensure_ascii=False)
        else:
            shown = " ".join(f"{key}={value}" for key, value in fields.items() if value is not None)
            line = f"{moment:8.3f}  {event:<12} {shown}".rstrip()
        with self._lock:
            # One write: two phones may share a terminal. Flushed: a reader on a
            # pipe waits for single lines.
            self._stream.write(f"{line}\n")
            self._stream.flush()

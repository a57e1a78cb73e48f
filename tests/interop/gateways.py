"""The gateway as a process of the interop tests, and the bad path to it."""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from processes import HERE, LOCALHOST, ROOT, STOP_S, WAIT_S, Process, bound, free_port

SETTINGS = """
data_dir = "{folder}"
[sip]
bind = "127.0.0.1:{port}"
most_calls = 900
calls_per_second = 200
{sip}
[media]
address = "127.0.0.1"
ports = "{first}-{last}"
"""
"""Nobody is trusted unless a test says so."""

TRUSTED = 'trusted = ["127.0.0.1"]'

WAYS = ("there", "back")

_names = itertools.count(1)
_media = itertools.count(24_000, 2_000)


class Gateway(Process):
    """The gateway's telephony in a process of its own (answering.py)."""

    def __init__(self, folder: Path, name: str = "gateway", settings: str = "", sip: str = "", port: int = 0) -> None:
        """*settings* are more tables of the settings file, *sip* more lines of its table [sip]."""
        self.port = port or free_port()
        self.name = name
        first = next(_media)
        file = folder / f"{name}.toml"
        file.write_text(
            SETTINGS.format(folder=folder / name, port=self.port, first=first, last=first + 1999, sip=sip) + settings
        )
        log = folder / f"{name}-{next(_names)}.log"
        self._events: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.past: list[dict[str, Any]] = []
        with log.open("wb") as errors:
            super().__init__(
                [sys.executable, HERE / "answering.py", file], folder / f"{name}.out",
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, cwd=ROOT,
            )  # fmt: skip
        self.log = log
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.event("ready")
        except BaseException:
            self.stop()
            raise

    @property
    def address(self) -> tuple[str, int]:
        return LOCALHOST, self.port

    def _read(self) -> None:
        assert self.child.stdout is not None
        for line in self.child.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)

    def do(self, command: str, **what: Any) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write(json.dumps({"do": command, **what}).encode() + b"\n")
        self.child.stdin.flush()

    def event(self, kind: str, limit_s: float = WAIT_S, **fields: Any) -> dict[str, Any]:
        """The next event of *kind* with these *fields*; others before it go to :attr:`past`."""
        end = time.monotonic() + limit_s
        while True:
            try:
                event = self._events.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                event = None
            if event is None:
                pytest.fail(
                    f"{self.name} told no {kind} {fields}; before: {self.past[-6:]}\n{self.said()[-3000:]}",
                    pytrace=False,
                )
            self.past.append(event)
            if event["event"] == kind and fields.items() <= event.items():
                return event

    def dial(self, name: str, to: tuple[str, int], **options: Any) -> None:
        self.do("dial", name=name, to=f"sip:+821087654321@{to[0]}:{to[1]}", **options)

    def everything(self) -> list[dict[str, Any]]:
        """All events so far."""
        while not self._events.empty():
            event = self._events.get()
            if event is not None:
                self.past.append(event)
        return self.past

    def loud(self, name: str) -> bool:
        """Whether the last second of the call *name* was loud."""
        self.do("listen", name=name)
        return bool(self.event("listened", name=name)["loudness"] > 1000)

    def idle(self) -> bool:
        """Whether no call is left."""
        self.do("count", name="idle")
        return self.event("count")["calls"] == 0

    def close(self) -> None:
        assert self.child.stdin is not None
        if not self.child.stdin.closed:
            self.child.stdin.close()

    def stop(self) -> None:
        """End of its input ends it in good order; then what is true of every process."""
        self.close()
        with suppress(subprocess.TimeoutExpired):
            self.child.wait(STOP_S)
        super().stop()
        self._reader.join(STOP_S)
        assert self.child.stdout is not None
        self.child.stdout.close()


class LossyPath(Process):
    """A path to the port *to* that loses the share *loss* of the datagrams, each way (lossy.py)."""

    def __init__(self, folder: Path, to: int, loss: float, seed: int) -> None:
        self.port = free_port()
        command = [sys.executable, HERE / "lossy.py", str(self.port), str(to), str(loss), str(seed)]
        super().__init__(command, folder / f"lossy-{next(_names)}.out")
        self.wait_until(lambda: bound(LOCALHOST, self.port), "the lossy path")

    @property
    def address(self) -> tuple[str, int]:
        return LOCALHOST, self.port

    def shares_lost(self) -> tuple[float, float]:
        """The share that was lost on the way there and on the way back. Stops the path."""
        self.stop()
        counts = json.loads(self.said())
        there, back = (counts[f"lost_{way}"] / max(1, counts[f"lost_{way}"] + counts[f"passed_{way}"]) for way in WAYS)
        return there, back

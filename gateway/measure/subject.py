"""What a process that is measured under load agrees to: its options, and JSON lines on stdin and stdout.

It says ``{"at": "ready", "port": ...}`` once it takes calls, answers ``counters`` on stdin with its counters, and
ends when stdin does. It answers every call, plays a prompt of ten seconds over and over, and records what it hears.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PROMPT_S = 10
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Options:
    """*folder* takes the recordings, removed when their call is over. Calls come from *caller_port*.

    *calls* may be on at a time, and *cps* begin in a second.
    """

    folder: str
    calls: int
    cps: float
    caller_port: int
    first_port: int = 12_000
    last_port: int = 20_000

    def argument(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, argument: str) -> Options:
        return cls(**json.loads(argument))


def say(at: str, **what: Any) -> None:
    sys.stdout.write(json.dumps({"at": at, **what}) + "\n")
    sys.stdout.flush()


def listen(counters: Callable[[], dict[str, int]]) -> None:
    """Answer what is asked until stdin ends. Blocks."""
    for line in sys.stdin:
        if line.strip() == "counters":
            say("counters", **counters())


def prompt(rate: int) -> NDArray[np.int16]:
    """A wandering tone, louder and softer as speech is; *rate* samples a second."""
    at = np.arange(PROMPT_S * rate) / rate
    tone = np.sin(2 * np.pi * (220 * at + 30 * np.sin(2 * np.pi * at)))
    return np.asarray(6000 * tone * (1 + np.sin(2 * np.pi * 3 * at)) / 2, np.int16)


def free_port() -> int:
    """A UDP port that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])

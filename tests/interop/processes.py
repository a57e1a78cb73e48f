"""Child processes of the tests: begun, waited for and ended by their own ids, whatever happens in between."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
LOCALHOST = "127.0.0.1"
STOP_S = 10.0
"""How long a process may take to stop after SIGTERM; then it is killed."""
WAIT_S = 30.0
"""The longest wait for anything that is to happen at once: the machine may be busy."""


def free_port(host: str = LOCALHOST) -> int:
    """A port that is free for UDP and TCP now, even, as RTP wants it."""
    while True:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
            udp.bind((host, 0))
            port = int(udp.getsockname()[1])
            try:
                tcp.bind((host, port))
            except OSError:
                continue
            if port % 2 == 0:
                return port


def bound(host: str, port: int) -> bool:
    """Whether something has that UDP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def until(true: Callable[[], Any], what: str, limit_s: float = WAIT_S) -> Any:
    """What *true* returns, once it is true. Fails the test after *limit_s* seconds."""
    end = time.monotonic() + limit_s
    while not (value := true()):
        if time.monotonic() > end:
            pytest.fail(f"waited {limit_s:.0f} s in vain for {what}", pytrace=False)
        time.sleep(0.02)
    return value


class Process:
    """A child in a process group of its own; what it prints goes to *log*."""

    def __init__(self, command: Sequence[str | Path], log: Path, **options: Any) -> None:
        self.log = log
        with log.open("wb") as output:
            options = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT, **options}
            self.child = subprocess.Popen([str(part) for part in command], start_new_session=True, **options)

    @property
    def running(self) -> bool:
        return self.child.poll() is None

    def wait_until(self, ready: Callable[[], Any], what: str) -> Any:
        """What *ready* returns once it is true. Fails the test, and leaves no process, when the process ends before or is slow."""
        try:
            found = until(lambda: ready() or not self.running, what)
            if not self.running:
                pytest.fail(f"{what}: the process ended with {self.child.poll()}\n{self.said()[-3000:]}", pytrace=False)
        except BaseException:
            self.kill()
            raise
        return found

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, to the process and its children."""
        if self.running:
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait()

    def stop(self) -> None:
        if self.running:
            self.child.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(STOP_S)
        self.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

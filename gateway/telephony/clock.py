"""The media clock: one tick of 20 ms for all calls, from a timerfd (asyncio's own timers round to 1 ms: DESIGN §7)."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
import sys
import time
from collections.abc import Callable

TICK_S = 0.020
MOST_CATCH_UP = 5
"""Ticks made good after a stall; more would only burst packets at the far end."""

_CLOCK_MONOTONIC = 1
_TFD_NONBLOCK = 0o4000
_TFD_CLOEXEC = 0o2000000
_ITIMERSPEC = struct.Struct("@qqqq")


class MediaClock:
    """Calls *tick* every 20 ms on the loop's thread; after a stall up to five times in a row."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._fd: int | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.ticks_lost = 0

    def start(self) -> None:
        """Start ticking on the running loop: by timerfd on Linux, by the loop's own timer elsewhere."""
        loop = asyncio.get_running_loop()
        if sys.platform == "linux":
            self._fd = _timerfd(TICK_S)
            loop.add_reader(self._fd, self._on_timerfd)
        else:
            self._due = time.monotonic()
            self._on_timer()

    def stop(self) -> None:
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _on_timerfd(self) -> None:
        assert self._fd is not None
        try:
            expired = int.from_bytes(os.read(self._fd, 8), sys.byteorder)
        except BlockingIOError:
            return
        self._run(expired)

    def _on_timer(self) -> None:
        now = time.monotonic()
        expired = int((now - self._due) / TICK_S)
        self._due += expired * TICK_S
        self._run(expired)
        self._handle = asyncio.get_running_loop().call_later(max(0.0, self._due + TICK_S - now), self._on_timer)

    def _run(self, expired: int) -> None:
        self.ticks_lost += max(0, expired - MOST_CATCH_UP)
        for _ in range(min(expired, MOST_CATCH_UP)):
            self._tick()


def _timerfd(interval_s: float) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = int(libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK | _TFD_CLOEXEC))
    nanoseconds = int(interval_s * 1e9)
    spec = _ITIMERSPEC.pack(0, nanoseconds, 0, nanoseconds)
    if fd < 0 or libc.timerfd_settime(fd, 0, spec, None) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"timerfd: {os.strerror(error)}")
    return fd

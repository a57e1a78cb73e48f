"""The play-out buffer: what arrives in packets, early, late, twice or never, leaves as a steady 160 octets each 20 ms."""

from __future__ import annotations

from gateway.audio.codec import FRAME, Codec, silence
from gateway.audio.concealment import FADE, comfort, conceal, peak

DELAY = 3 * FRAME
"""Packets up to 60 ms late are still put in their place."""

FARTHEST = 100 * FRAME
LATE_IN_A_ROW = 5
WATCHED = 50
"""Frames over which the buffer must never have been short before a superfluous delay is taken back."""

MOST_DELAY = 5 * FRAME
QUIET = 500
"""The loudest sample of a frame that nobody misses."""


class Playout:
    """Orders packets by RTP timestamp; gaps are concealed. Any packet size goes."""

    __slots__ = (
        "_base",
        "_buffer",
        "_codec",
        "_comfort_db",
        "_last",
        "_late",
        "_least",
        "_played",
        "_silence",
        "_starved",
        "_watched",
        "concealed_octets",
        "dropped_frames",
        "late",
    )  # fmt: skip

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._silence = silence(codec)
        self._buffer = bytearray()
        self._base: int | None = None
        self._last = b""
        self._late = self._starved = self._watched = self._played = 0
        self._least = FARTHEST
        self._comfort_db: int | None = None
        self.late = 0
        self.concealed_octets = 0
        self.dropped_frames = 0

    def put(self, timestamp: int, payload: bytes) -> None:
        """Place *payload* at *timestamp* (RFC 3550, 8 kHz). A jump of over two seconds starts the time line anew."""
        if self._base is None:
            self._restart(timestamp)
        assert self._base is not None
        buffer = self._buffer
        offset = (timestamp - self._base + 0x80000000) % 0x100000000 - 0x80000000
        if offset == len(buffer) and offset <= FARTHEST:
            buffer += payload
            self._late = 0
            self._comfort_db = None
            return
        if offset > FARTHEST or offset < -FARTHEST:
            self._restart(timestamp)
            offset = DELAY
        elif offset < 0:
            self._late += 1
            self.late += 1
            if self._late < LATE_IN_A_ROW:
                return
            self._restart(timestamp)
            offset = DELAY
        self._late = 0
        buffer = self._buffer
        if offset > len(buffer):
            self._fill(offset - len(buffer))
        self._comfort_db = None
        end = offset + len(payload)
        buffer[offset:end] = payload

    def comfort(self, level_db: int) -> None:
        """The far end falls silent on purpose (RFC 3389): its noise of -*level_db* dBov stands for what does not come."""
        self._comfort_db = level_db

    def __len__(self) -> int:
        """Octets that wait to be played out."""
        return len(self._buffer)

    def take(self) -> bytes:
        """The next 20 ms, as far as they have come, the rest concealed."""
        if self._base is None:
            return self._silence
        buffer = self._buffer
        waiting = len(buffer)
        if waiting < FRAME:
            return self._starve()
        self._starved = 0
        self._least = min(self._least, waiting)
        self._watched += 1
        if self._watched >= WATCHED:
            self._shrink()
        frame = bytes(buffer[:FRAME])
        del buffer[:FRAME]
        self._base = (self._base + FRAME) & 0xFFFFFFFF
        self._last = frame
        return frame

    def _starve(self) -> bytes:
        """Nothing, or not enough, has come: fade out, then silence."""
        assert self._base is not None
        self._watched, self._least = 0, FARTHEST
        self._base = (self._base + FRAME) & 0xFFFFFFFF
        self._starved += 1
        rest = bytes(self._buffer)
        self._buffer.clear()
        if self._comfort_db is not None:
            self._played += 1
            return (rest + comfort(self._codec, self._comfort_db, self._played))[:FRAME]
        missing = FRAME - len(rest)
        self.concealed_octets += missing
        gap = min(self._starved, len(FADE) + 1) * FRAME
        return rest + conceal(self._codec, self._last, gap)[-FRAME:][:missing]

    def _fill(self, gap: int) -> None:
        if self._comfort_db is not None:
            for _ in range(-(-gap // FRAME)):
                self._played += 1
                self._buffer += comfort(self._codec, self._comfort_db, self._played)[: min(FRAME, gap)]
                gap -= FRAME
            return
        last = bytes(self._buffer[-FRAME:]) if len(self._buffer) >= FRAME else self._last
        self._buffer += conceal(self._codec, last, gap)
        self.concealed_octets += gap

    def _shrink(self) -> None:
        """Take back a delay that was not needed for a second: a stall made it, and it never goes by itself."""
        superfluous = self._least - DELAY
        if superfluous >= FRAME:
            assert self._base is not None
            if superfluous >= MOST_DELAY or peak(self._codec, bytes(self._buffer[:FRAME])) < QUIET:
                del self._buffer[:FRAME]
                self._base = (self._base + FRAME) & 0xFFFFFFFF
                self.dropped_frames += 1
                self._least -= FRAME
                return
        self._watched, self._least = 0, FARTHEST

    def _restart(self, timestamp: int) -> None:
        self._base = (timestamp - DELAY) & 0xFFFFFFFF
        self._buffer = bytearray(self._silence * (DELAY // FRAME))

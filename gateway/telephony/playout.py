"""The play-out buffer: what arrives in packets, early, late, twice or never, leaves as a steady 160 octets each 20 ms."""

from __future__ import annotations

from collections import deque

from gateway.audio.codec import FRAME, Codec, silence
from gateway.audio.concealment import FADE, comfort, conceal, peak

DELAY = 3 * FRAME
"""Packets up to 60 ms late are still put in their place."""

FARTHEST = 100 * FRAME
_MOST_FRAMES = FARTHEST // FRAME
LATE_IN_A_ROW = 5
WATCHED = 50
"""Frames over which the buffer must never have been short before a superfluous delay is taken back."""

LOOK_AGAIN = 10
"""Frames until it is tried again, when nobody paused."""

MOST_DELAY = 5 * FRAME
QUIET = 500
"""The loudest sample of a frame that nobody misses."""


class Playout:
    """Orders packets by RTP timestamp; gaps are concealed. Any packet size goes."""

    __slots__ = (
        "_codec", "_comfort_db", "_end", "_frames", "_last", "_late", "_least", "_played", "_silence", "_starved", "_tail",
        "_watched", "concealed_octets", "dropped_frames", "late",
    )  # fmt: skip

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._silence = silence(codec)
        self._frames: deque[bytes] = deque()
        """What waits, in whole frames: as most packets come, and as all of it leaves."""
        self._tail = b""
        """Less than a frame behind them."""
        self._end: int | None = None
        """The timestamp behind what waits."""
        self._last = b""
        self._late = self._starved = self._watched = self._played = 0
        self._least = FARTHEST
        self._comfort_db: int | None = None
        self.late = 0
        self.concealed_octets = 0
        self.dropped_frames = 0

    def put(self, timestamp: int, payload: bytes) -> None:
        """Place *payload* at *timestamp* (RFC 3550, 8 kHz). A jump of over two seconds starts the time line anew."""
        if timestamp == self._end and len(payload) == FRAME and not self._tail and len(self._frames) < _MOST_FRAMES:
            self._frames.append(payload)
            self._end = (timestamp + FRAME) & 0xFFFFFFFF
            self._late = 0
            self._comfort_db = None
        else:
            self._place(timestamp, payload)

    def comfort(self, level_db: int) -> None:
        """The far end falls silent on purpose (RFC 3389): its noise of -*level_db* dBov stands for what does not come."""
        self._comfort_db = level_db

    @property
    def comforted(self) -> bool:
        """Whether the far end is silent on purpose."""
        return self._comfort_db is not None

    def __len__(self) -> int:
        """Octets that wait to be played out."""
        return len(self._frames) * FRAME + len(self._tail)

    def take(self) -> bytes:
        """The next 20 ms, as far as they have come, the rest concealed."""
        frames = self._frames
        if not frames:
            return self._starve() if self._end is not None else self._silence
        waiting = len(frames)
        if waiting < self._least:  # noqa: PLR1730 - every frame of every call: a third of the cost of min
            self._least = waiting
        self._watched += 1
        if self._watched >= WATCHED:
            self._shrink()
        frame = self._last = frames.popleft()
        return frame

    def _place(self, timestamp: int, payload: bytes) -> None:
        """A packet that is not simply the next one."""
        if self._end is None:
            self._restart(timestamp)
        assert self._end is not None
        offset = (timestamp - self._end + len(self) + 0x80000000) % 0x100000000 - 0x80000000
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
        buffer = bytearray(b"".join(self._frames) + self._tail)
        base = self._end - len(buffer)
        if offset > len(buffer):
            buffer += self._stand_in(buffer, offset - len(buffer))
        self._comfort_db = None
        buffer[offset : offset + len(payload)] = payload
        self._end = (base + len(buffer)) & 0xFFFFFFFF
        whole = len(buffer) - len(buffer) % FRAME
        self._frames = deque(bytes(buffer[start : start + FRAME]) for start in range(0, whole, FRAME))
        self._tail = bytes(buffer[whole:])

    def _starve(self) -> bytes:
        """Nothing, or not enough, has come: fade out, then silence."""
        assert self._end is not None
        if self._watched:  # it was fed before this frame
            self._starved = 0
        self._watched, self._least = 0, FARTHEST
        rest, self._tail = self._tail, b""
        self._end = (self._end - len(rest) + FRAME) & 0xFFFFFFFF
        self._starved += 1
        if self._comfort_db is not None:
            self._played += 1
            return (rest + comfort(self._codec, self._comfort_db, self._played))[:FRAME]
        missing = FRAME - len(rest)
        self.concealed_octets += missing
        gap = min(self._starved, len(FADE) + 1) * FRAME
        return rest + conceal(self._codec, self._last, gap)[-FRAME:][:missing]

    def _stand_in(self, before: bytearray, gap: int) -> bytes:
        """What stands for *gap* octets that have not come."""
        if self._comfort_db is None:
            self.concealed_octets += gap
            return conceal(self._codec, bytes(before[-FRAME:]) if len(before) >= FRAME else self._last, gap)
        noise = bytearray()
        while len(noise) < gap:
            self._played += 1
            noise += comfort(self._codec, self._comfort_db, self._played)
        return bytes(noise[:gap])

    def _shrink(self) -> None:
        """Take back a delay that was not needed for a second: a stall made it, and it never goes by itself."""
        superfluous = self._least * FRAME - DELAY
        if superfluous >= FRAME:
            if superfluous >= MOST_DELAY or peak(self._codec, self._frames[0]) < QUIET:
                self._frames.popleft()
                self.dropped_frames += 1
                self._least -= 1
            else:
                self._watched = WATCHED - LOOK_AGAIN  # until somebody pauses
                return
        self._watched, self._least = 1, FARTHEST

    def _restart(self, timestamp: int) -> None:
        self._end = timestamp
        self._frames = deque([self._silence] * (DELAY // FRAME))
        self._tail = b""

"""The play-out buffer: what arrives in packets, early, late, twice or never, leaves as a steady 160 octets each 20 ms."""

from __future__ import annotations

FRAME = 160
"""Samples and, in G.711, octets in 20 ms."""

DELAY = 3 * FRAME
"""Packets up to 60 ms late are still put in their place."""

FARTHEST = 100 * FRAME
LATE_IN_A_ROW = 5


class Playout:
    """Orders packets by RTP timestamp; gaps are silence. Any packet size goes."""

    def __init__(self, silence: bytes) -> None:
        self._silence = silence
        self._buffer = bytearray()
        self._base: int | None = None
        self._late = 0
        self.lost_octets = 0

    def put(self, timestamp: int, payload: bytes) -> None:
        """Place *payload* at *timestamp* (RFC 3550, 8 kHz). A jump of over two seconds starts the time line anew."""
        if self._base is None:
            self._restart(timestamp)
        assert self._base is not None
        offset = (timestamp - self._base + 0x80000000) % 0x100000000 - 0x80000000
        if offset > FARTHEST or offset < -FARTHEST:
            self._restart(timestamp)
            offset = DELAY
        elif offset < 0:
            self._late += 1
            if self._late < LATE_IN_A_ROW:
                return
            self._restart(timestamp)
            offset = DELAY
        self._late = 0
        end = offset + len(payload)
        if end > len(self._buffer):
            gap = end - len(self._buffer)
            self._buffer += self._silence * gap
        self._buffer[offset:end] = payload

    def __len__(self) -> int:
        """Octets that wait to be played out."""
        return len(self._buffer)

    def take(self) -> bytes:
        """The next 20 ms, as far as they have come; silence for what has not."""
        if self._base is None:
            return self._silence * FRAME
        frame = bytes(self._buffer[:FRAME])
        del self._buffer[:FRAME]
        self._base = (self._base + FRAME) % 0x100000000
        if len(frame) < FRAME:
            self.lost_octets += FRAME - len(frame)
            frame += self._silence * (FRAME - len(frame))
        return frame

    def _restart(self, timestamp: int) -> None:
        self._base = (timestamp - DELAY) % 0x100000000
        self._buffer = bytearray(self._silence * DELAY)

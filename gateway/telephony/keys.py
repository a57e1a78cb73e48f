"""DTMF as RTP events (RFC 4733): keys on their way out, packet by packet, and keys that are heard. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from gateway.audio.codec import FRAME
from gateway.telephony.rtp import DTMF_KEYS, TelephoneEvent, event_payload

EVENT_FRAMES = 5
"""A key lasts 100 ms."""

END_PACKETS = 3
"""Its end is sent three times (RFC 4733 §2.5.1.4)."""

GAP_FRAMES = 3
OVERDUE_FRAMES = 50
"""A second after the last packet of a key its end is taken for lost."""

_REMEMBERED = 4


class KeysOut:
    """Keys to send, a packet each 20 ms; a pause behind each."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: deque[tuple[str, int]] = deque()

    def __bool__(self) -> bool:
        return bool(self._steps)

    def add(self, keys: str) -> None:
        """Raises ValueError for what is no key."""
        if not set(keys) <= set(DTMF_KEYS):
            raise ValueError(f"{keys!r} are not all DTMF keys ({DTMF_KEYS})")
        for key in keys:
            self._steps += [(key, step) for step in range(1, EVENT_FRAMES + END_PACKETS)]
            self._steps += [("", 0)] * GAP_FRAMES

    def next(self, timestamp: int) -> tuple[bytes, int, bool] | None:
        """Payload, timestamp and marker of the packet at *timestamp*; None for a pause. All packets of a key have the time
        of its first, which is marked (RFC 4733 §2.5.1.1, §2.5.1.2).
        """
        key, step = self._steps.popleft()
        if not key:
            return None
        start = (timestamp - (step - 1) * FRAME) & 0xFFFFFFFF
        payload = event_payload(key, step >= EVENT_FRAMES, min(step, EVENT_FRAMES) * FRAME)
        return payload, start, step == 1


class KeysIn:
    """Keys as they are heard: each once, at its end; one whose end was lost when the next begins, or a second later."""

    __slots__ = ("_done", "_pressed")

    def __init__(self) -> None:
        self._pressed: tuple[int, str, int] | None = None
        """Timestamp and key of an event whose end has not come, and the frame of its last packet."""
        self._done: deque[int] = deque(maxlen=_REMEMBERED)
        """Timestamps of the last events: a packet of theirs that comes late is no new key."""

    def take(self, timestamp: int, event: TelephoneEvent, frame: int) -> Iterator[str]:
        """The keys that a packet, heard in *frame*, completes."""
        if timestamp in self._done:
            return
        if self._pressed is not None and self._pressed[0] != timestamp:
            yield from self._release()
        self._pressed = timestamp, event.key, frame
        if event.end:
            yield from self._release()

    def overdue(self, frame: int) -> Iterator[str]:
        """The key whose end will not come any more."""
        if self._pressed is not None and frame - self._pressed[2] > OVERDUE_FRAMES:
            yield from self._release()

    def _release(self) -> Iterator[str]:
        assert self._pressed is not None
        timestamp, key, _ = self._pressed
        self._pressed = None
        self._done.append(timestamp)
        yield key

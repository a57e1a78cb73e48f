"""A prompt on its way: which frame is next, and which packets are noted for the proof that it was sent (RFC 3550 §5.1)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.telephony.passage import At, Passage

Frames = Sequence[bytes]


@dataclass(slots=True)
class Playing:
    """*cursor* frames of *frames* are sent. *done* is set with *passage* when it stops.

    Something is to be noted only when they are *mark*: at the first frame, at the first after a pause, and at the last. So a
    frame costs one comparison.
    """

    frames: Frames
    passage: Passage
    done: asyncio.Future[Passage]
    cursor: int = 0
    mark: int = 1

    def noted(self, at: At) -> bool:
        """The packet *at* is the first, or the first after a pause; whether it is the very last, too."""
        passage = self.passage
        passage.first, passage.last = passage.first or at, None
        self.mark = len(self.frames)
        return self.cursor == self.mark

    def pause(self, last: At) -> None:
        """The packets behind *last* are not of this prompt, until it goes on."""
        if self.cursor and self.passage.last is None:
            self.passage.last = last
            self.mark = self.cursor + 1

    def hold(self, frame: int, last: At, *, held: bool, silent: bool) -> None:
        """From *frame* of the call on it is on hold, or is not. *silent*: nothing is played meanwhile, behind the packet *last*."""
        self.passage.hold(frame, held=held)
        if silent:
            self.pause(last)

    def stop(self, frame: int, last: At) -> None:
        """It ends before *frame* of the call, *last* being the last packet of all."""
        self.pause(last)
        self.passage.sent = self.cursor
        self.passage.hold(frame, held=False)
        if not self.done.done():
            self.done.set_result(self.passage)

"""The ears of a call: its media, connected to a listening session; and the watch that listens while nothing is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from gateway.audio.codec import FRAME, silence
from gateway.consent.verdict import Judgement
from gateway.dialplan.interpreter import Objection
from gateway.speech.errors import SpeechError
from gateway.speech.listener import Hearing, Listener, Session
from gateway.telephony.media import MediaStream

OnAside = Callable[[Hearing, int], Judgement]
AlsoHeard = Callable[[bytes, bytes], None]
"""Is given what the caller said and what was sent to him meanwhile, in the codec of the call."""

log = structlog.get_logger(__name__)
WATCH_FRAMES = 5
"""A watch is fed 100 ms at a time: nobody waits for its verdict, and small writes cost the media process time."""


class Tap:
    """Feeds a stream's frames to a session, *frames* at a time, from here on until :meth:`off`; and to *also*,
    where that is given.
    """

    def __init__(
        self, stream: MediaStream, session: Session | None, frames: int = 1, also: AlsoHeard | None = None
    ) -> None:
        self._stream, self._session, self._also = stream, session, also
        self._silence = silence(stream.terms.codec)
        self._octets = frames * FRAME
        self._heard, self._sent = bytearray(), bytearray()
        self.opened_ms = stream.position_ms
        stream.tap = self._take

    def off(self) -> None:
        """Hear no more, unless something else has taken the stream meanwhile."""
        if self._stream.tap == self._take:
            self._stream.tap = None

    def flush(self) -> None:
        """Feed what has come so far."""
        if self._heard:
            heard, sent = bytes(self._heard), bytes(self._sent)
            if self._session is not None:
                spoke = sent != self._silence * (len(sent) // FRAME)
                self._session.feed_octets(heard, sent if spoke else None)
            if self._also is not None:
                self._also(heard, sent)
            self._heard.clear()
            self._sent.clear()

    def _take(self, heard: bytes, sent: bytes) -> None:
        self._heard += heard
        self._sent += sent
        if len(self._heard) >= self._octets:
            self.flush()


class Watch:
    """Listens beside the prompts for a no and for stop words. Every utterance goes to *on_aside* with the place in the
    recording where the watch began; what that returns is judged, and the first objection stops what plays. What is heard and
    sent is given to *also* as well.
    """

    def __init__(
        self, stream: MediaStream, listener: Listener, grammar: str, on_aside: OnAside, also: AlsoHeard | None = None
    ) -> None:
        self._stream, self._listener, self._grammar = stream, listener, grammar
        self._on_aside, self._also = on_aside, also
        self._session: Session | None = None
        self._tap: Tap | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.objection: Objection | None = None

    def on(self) -> None:
        """Begin, where the watch is not on already. Without a listening process the prompts play unwatched."""
        if self._session is not None and not self._session.final.done():
            return
        self.off()
        try:
            self._session = self._listener.open(
                self._grammar,
                mode="watch",
                codec=self._stream.terms.codec,
                on_started=self._idle.clear,
                on_aside=self._take,
            )
        except SpeechError as error:
            log.warning("call.unwatched", reason=str(error))
            return
        self._tap = Tap(self._stream, self._session, WATCH_FRAMES, self._also)

    def off(self) -> None:
        """Stop listening; a question has its own ears."""
        if self._tap is not None:
            self._tap.off()
        if self._session is not None:
            self._session.close()
        self._session = self._tap = None
        self._idle.set()

    async def settled(self, timeout_s: float) -> Objection | None:
        """What the callee objects, when he has finished what he is saying now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        return self.objection

    def _take(self, hearing: Hearing) -> None:
        self._idle.set()
        opened_ms = self._tap.opened_ms if self._tap is not None else 0
        verdict = self._on_aside(hearing, opened_ms).verdict
        if self.objection is None and verdict in ("deny", "stop"):
            self.objection = "stop" if verdict == "stop" else "deny"
            self._stream.stop_playing()

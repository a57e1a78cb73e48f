"""Media of all calls on one clock: each tick drains what came in, then sends one frame per call (DESIGN §7).

Prompts are tuples of ready-made 160-octet frames, shared between calls; a call keeps only a cursor into them.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from gateway.telephony.clock import MediaClock
from gateway.telephony.crypto import Protection
from gateway.telephony.playing import Frames
from gateway.telephony.ports import PortPair, PortRange
from gateway.telephony.recorder import Recording, RecordingOffice
from gateway.telephony.sdp import MediaTerms
from gateway.telephony.stream import MediaStream, Tap

__all__ = ["Frames", "MediaEngine", "MediaStream", "PortPair", "Tap"]

log = structlog.get_logger(__name__)
_PER_TICK = 16
"""Packets of one call that are read in one tick: a flood costs no more than that."""


class MediaEngine:
    """The ports, the streams and the clock of all media. *timeout_s* without audio ends a call; 0 never does."""

    def __init__(self, address: str, ports: range, recordings: Path, *, timeout_s: float = 0.0) -> None:
        self.ports = PortRange(address, ports)
        self.office = RecordingOffice(recordings)
        self._timeout_s = timeout_s
        self._streams: dict[int, MediaStream] = {}
        self._readers: dict[int, Callable[[], None]] = {}
        self._owners: dict[int, MediaStream] = {}
        self._unrecorded: dict[int, str] = {}
        """Why a call that is still up is recorded no longer, by its port."""
        self._ticking: tuple[MediaStream, ...] = ()
        self._refused = {"malformed": 0, "foreign": 0}
        self._epoll = select.epoll()
        self.clock = MediaClock(self._tick)

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def refused(self) -> dict[str, int]:
        """Packets since the start that were not heard, by reason."""
        return {
            why: ended + sum(getattr(stream.counters, why) for stream in self._ticking)
            for why, ended in self._refused.items()
        }

    def start(self) -> None:
        self.clock.start()

    def stop(self) -> None:
        """Stop the clock, and let the recording process write what it has."""
        self.clock.stop()
        self._epoll.close()
        self.office.stop()

    def reserve(self, host: str) -> PortPair:
        """A pair of ports at *host*, an address of ours. Raises TransportFailed when all are in use."""
        return self.ports.reserve(host)

    def release(self, ports: PortPair) -> None:
        """Give a reserved pair back."""
        self.ports.release(ports)

    def open(
        self, ports: PortPair, terms: MediaTerms, call_id: str, protection: Protection | None = None
    ) -> MediaStream:
        """Start the stream of a call, with its recording. Raises OSError when the recording cannot be begun.

        What came before (early media) is not heard: it would delay all that follows.
        """
        ports.drain()
        recorder = self.office.open(call_id, terms.codec)
        stream = MediaStream(ports, terms, recorder, wall=time.time, protection=protection, timeout_s=self._timeout_s)
        recorder.on_failure = lambda reason: self._recording_failed(stream, reason)
        self._streams[ports.number] = stream
        self._ticking = tuple(self._streams.values())
        for sock, read in ((ports.rtp, stream.receive), (ports.rtcp, stream.receive_report)):
            self._readers[sock.fileno()], self._owners[sock.fileno()] = read, stream
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        return stream

    async def close(self, stream: MediaStream) -> Recording | None:
        """End the stream and finish its recording. Raises OSError when that cannot be written, or could not while it ran."""
        stream.stop_playing()
        if self._streams.pop(stream.ports.number, None) is None:
            return None
        self._ticking = tuple(self._streams.values())
        stream.leave()
        for why in self._refused:
            self._refused[why] += getattr(stream.counters, why)
        for sock in (stream.ports.rtp, stream.ports.rtcp):
            self._epoll.unregister(sock.fileno())
            del self._readers[sock.fileno()], self._owners[sock.fileno()]
        self.release(stream.ports)
        unrecorded = self._unrecorded.pop(stream.ports.number, None)
        if unrecorded is not None:
            raise OSError(unrecorded)
        recorder, stream.recorder = stream.recorder, None
        return await recorder.finish() if recorder is not None else None

    def _recording_failed(self, stream: MediaStream, reason: str) -> None:
        if stream.ports.number in self._streams:
            self._unrecorded[stream.ports.number] = reason
        stream.recording_failed(reason)

    def _tick(self) -> None:
        poll, readers = self._epoll.poll, self._readers
        for _ in range(_PER_TICK):
            ready = poll(0, max(1, len(readers)))
            if not ready:
                break
            events = iter(ready)
            while True:
                fd = -1
                try:
                    for fd, _ in events:
                        readers[fd]()
                except Exception as error:  # noqa: BLE001 - it ends this call; the tick belongs to all of them
                    self._fail(self._owners[fd], error)
                else:
                    break
        for stream in self._ticking:
            try:
                stream.tick()
            except Exception as error:  # noqa: BLE001 - the same
                self._fail(stream, error)

    @staticmethod
    def _fail(stream: MediaStream, error: Exception) -> None:
        log.error("media.call_failed", exc_info=error)
        stream.tap = None
        if stream.on_failure is not None:
            stream.on_failure(f"its media failed: {error!r}")

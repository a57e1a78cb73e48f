"""The recording process: writes and seals every call of a gateway, so that no disk and no cipher ever holds up the media clock.

``python -m gateway.telephony.scribe`` on a stream socket as stdin. Caller left, gateway right, 16 bit, at the codec's own rate.
What it writes is on the disk after :data:`SYNC_S` at most, as long as the disk keeps up; a finished recording at once.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from gateway.audio.codec import CLOCK_RATE, SAMPLE_RATE, Decoder, decoder
from gateway.telephony.errors import BadRecording
from gateway.telephony.recording_format import CHANNELS, Mark
from gateway.telephony.recording_wire import Done, Kind, Message, Opening, Reader, pack, pack_marks, unpack_audio
from gateway.telephony.vault import Writer

SYNC_S = 5.0
FINISHERS = 4
"""Threads that wait for the disk at the end of recordings."""

_RECEIVE_OCTETS = 1 << 18
_NO_CORE = 1
"""A core would hold keys. At a limit of 0 the kernel still writes one where it goes to a pipe; at 1 octet never (core(5))."""


@dataclass(slots=True)
class Track:
    """One recording that runs: decodes both sides and has them written."""

    opening: Opening
    writer: Writer = field(init=False)
    _decoders: tuple[Decoder, Decoder] = field(init=False)
    _rate: int = field(init=False)

    def __post_init__(self) -> None:
        opening = self.opening
        self._rate = SAMPLE_RATE[opening.codec]
        self._decoders = decoder(opening.codec), decoder(opening.codec)
        self.writer = Writer(
            opening.path, opening.key, opening.call_id, self._rate,
            frames=opening.frames, blocks=opening.blocks, sound_ms=opening.sound_ms,
        )  # fmt: skip

    def put(self, offset: int, left: bytes, right: bytes) -> tuple[Mark, ...]:
        """One stretch of both sides, equally long, *offset* octets of the codec after the beginning; returns the blocks that it
        completes. Raises OSError.
        """
        start = offset * (self._rate // CLOCK_RATE)
        if start != self.writer.frames:
            raise BadRecording(f"sample {self.writer.frames} was to be written, and {start} came")
        heard, sent = self._decoders[0].decode(left), self._decoders[1].decode(right)
        pairs = np.empty((heard.size, CHANNELS), "<i2")
        pairs[:, 0], pairs[:, 1] = heard, sent
        return self.writer.put(pairs.tobytes())

    def finish(self) -> Done:
        """Raises OSError."""
        sha256, marks = self.writer.finish()
        return Done(bytes.fromhex(sha256), self.writer.frames, self.writer.sound_ms, marks)

    def discard(self) -> None:
        self.writer.close()
        self.writer.path.unlink()


class Scribe:
    """Takes the messages of one gateway; *answer* is given what is to be told, from several threads."""

    def __init__(self, answer: Callable[[bytes], None]) -> None:
        self._answer = answer
        self._open: dict[int, Track] = {}
        self._finishers = ThreadPoolExecutor(FINISHERS, "finish")
        self._stopped = threading.Event()
        self._syncer = threading.Thread(target=self._sync, name="sync")
        self._syncer.start()

    def take(self, message: Message) -> bytes:
        """The answer to *message*: WRITTEN so far, or FAILED in words. That to FINISH comes later."""
        number = message.number
        marks: tuple[Mark, ...] = ()
        try:
            match message.kind:
                case Kind.OPEN:
                    self._open[number] = Track(Opening.parse(message.body))
                case Kind.AUDIO if number in self._open:
                    marks = self._open[number].put(*unpack_audio(message.body))
                case Kind.FINISH if number in self._open:
                    self._finishers.submit(self._finish, number, self._open.pop(number))
                    return b""
                case Kind.DISCARD if number in self._open:
                    self._open.pop(number).discard()
                case Kind.ABANDON:
                    self._close(number)
                    return b""
        except Exception as error:  # noqa: BLE001 - what is wrong with one recording is none of the others' business
            self._close(number)
            return _failed(number, error)
        return pack(Kind.WRITTEN, number, pack_marks(marks))

    def stop(self) -> None:
        """Finish what is to be finished, and have the rest on the disk as it is."""
        self._finishers.shutdown()
        self._stopped.set()
        self._syncer.join()
        for number, track in tuple(self._open.items()):
            with contextlib.suppress(OSError):  # the gateway is gone: whoever salvages it finds out
                track.writer.sync()
            self._close(number)

    def _close(self, number: int) -> None:
        """The file stays for whoever wants to see how far it came."""
        track = self._open.pop(number, None)
        if track is not None:
            track.writer.close()

    def _finish(self, number: int, track: Track) -> None:
        try:
            done = pack(Kind.DONE, number, track.finish().pack())
        except Exception as error:  # noqa: BLE001 - as above
            done = _failed(number, error)
        self._answer(done)

    def _sync(self) -> None:
        while not self._stopped.wait(SYNC_S):
            for track in tuple(self._open.values()):
                with contextlib.suppress(OSError):  # the next that is written to it tells
                    track.writer.sync()


def _failed(number: int, error: Exception) -> bytes:
    """In words that hold nothing of what was recorded, nor of its key."""
    reason = error.strerror if isinstance(error, OSError) else None
    return pack(Kind.FAILED, number, (reason or f"{type(error).__name__}: {error}").encode())


def main() -> None:
    """Serve until the gateway closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gateway's to handle: it finishes its recordings first
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _set_limits()
    sending = threading.Lock()
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as peer:

        def answer(octets: bytes) -> None:
            with sending, contextlib.suppress(BrokenPipeError, ConnectionResetError):  # gone: what it sent is written
                peer.sendall(octets)

        scribe, reader = Scribe(answer), Reader()
        try:
            while data := peer.recv(_RECEIVE_OCTETS):
                answers = b"".join(scribe.take(message) for message in reader.feed(data))
                if answers:
                    answer(answers)
        finally:
            scribe.stop()


def _set_limits() -> None:
    """A file a call, as many as the system lets us have; and no core."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    limit = _NO_CORE if most == resource.RLIM_INFINITY else min(_NO_CORE, most)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        main()

"""Records calls through a process of its own: octets go over a pipe, nothing is decoded or written on the media path.

What was sent is kept until it is written: when the recording process dies another one goes on with the same files, and no call
notices. A recording that cannot be written fails its call (rule R8), never the others.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.audio.codec import SAMPLE_RATE, Codec
from gateway.telephony.recording_wire import Kind, Message, Reader, pack, pack_audio

log = structlog.get_logger(__name__)
FLUSH_FRAMES = 50
"""One second of each side goes at once."""

MOST_UNSENT = 64_000_000
"""Octets that the process may be behind, all calls together; then recordings fail."""

MOST_RESTARTS = 5
"""In a row, without anything written in between."""

FINISH_S = 30.0
MOST_BEHIND_S = 15.0
"""How long the process may leave a recording unanswered: one that hangs must not go unnoticed."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A finished recording in its place. *sha256* names its file; *sound_ms* is how long caller and gateway were heard."""

    path: Path
    sha256: str
    duration_ms: int
    sound_ms: tuple[int, int] = (0, 0)


class Recorder:
    """One call's recording."""

    __slots__ = (
        "_codec",
        "_discarded",
        "_heard_at",
        "_left",
        "_octets",
        "_office",
        "_part",
        "_right",
        "done",
        "failed",
        "number",
        "on_failure",
        "unwritten",
    )

    def __init__(self, office: RecordingOffice, number: int, part: Path, codec: Codec) -> None:
        self._office = office
        self.number = number
        self._part = part
        self._codec = codec
        self._left: list[bytes] = []
        self._right: list[bytes] = []
        self._octets = 0
        self.failed = ""
        self._discarded = False
        self._heard_at = time.monotonic()
        self.unwritten: deque[bytes] = deque()
        """Messages that are not answered yet."""
        self.done: asyncio.Future[Recording] = asyncio.get_running_loop().create_future()
        self.on_failure: Callable[[str], None] | None = None

    @property
    def opening(self) -> bytes:
        return pack(Kind.OPEN, self.number, f"{self._codec} {self._part}".encode())

    def write(self, caller: bytes, gateway: bytes) -> None:
        """One frame of each side, equally long, in the codec."""
        self._left.append(caller)
        self._right.append(gateway)
        if len(self._left) >= FLUSH_FRAMES:
            self.flush()

    def flush(self) -> None:
        left, right = b"".join(self._left), b"".join(self._right)
        self._left.clear()
        self._right.clear()
        if self.unwritten and time.monotonic() - self._heard_at > MOST_BEHIND_S:
            self.fail(f"the recording process has been silent for {MOST_BEHIND_S:.0f} s")
        if left and not self.failed:
            message = pack_audio(self.number, self._octets, left, right)
            self._octets += len(left)
            self._office.send(self, message)

    def discard(self) -> None:
        """Keep nothing of this call."""
        self._left.clear()
        self._right.clear()
        self._discarded = True
        self._office.send(self, pack(Kind.DISCARD, self.number, b""))

    async def finish(self) -> Recording:
        """The recording, closed and hashed. Raises OSError."""
        self.flush()
        if not self.failed:
            self._office.send(self, pack(Kind.FINISH, self.number, b""))
        try:
            async with asyncio.timeout(FINISH_S):
                return await self.done
        except TimeoutError as error:
            raise OSError(f"the recording process does not finish {self._part.name}") from error
        finally:
            self._office.close(self)

    def asks(self) -> None:
        """From now on an answer is waited for."""
        self._heard_at = time.monotonic()

    def take(self, message: Message) -> None:
        """An answer of the process."""
        if message.kind is Kind.FAILED:
            self.fail(message.body.decode())
            return
        self._heard_at = time.monotonic()
        if self.unwritten:
            self.unwritten.popleft()
        if self._discarded and not self.unwritten:
            self._office.close(self)
        if message.kind is Kind.DONE and not self.done.done():
            sha256, samples, heard, sent = message.body.decode().split()
            duration_ms = int(samples) * 1000 // SAMPLE_RATE[self._codec]
            path = self._part.with_name(f"{sha256}.wav")
            try:
                self._part.replace(path)
            except OSError as error:
                self.fail(error.strerror or str(error))
                return
            self.done.set_result(Recording(path, sha256, duration_ms, (int(heard), int(sent))))

    def fail(self, reason: str) -> None:
        if self.failed:
            return
        self.failed = reason
        self.unwritten.clear()
        self._office.close(self)
        if not self.done.done():
            self.done.set_exception(OSError(reason))
            self.done.exception()  # whoever finishes it is told; nobody has to
        if self.on_failure is not None:
            self.on_failure(f"the recording failed: {reason}")


class RecordingOffice:
    """The recordings of one gateway in *folder*, and the process that writes them, started with the first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self._recorders: dict[int, Recorder] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._reader = Reader()
        self._unsent = bytearray()
        self._writing = False
        self._restarts = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def open(self, call_id: str, codec: Codec) -> Recorder:
        """A new recording. Raises OSError when it cannot be begun."""
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f"{call_id}.part.wav"
        part.touch(mode=0o600, exist_ok=False)
        if self._process is None:
            self.start()
        recorder = Recorder(self, next(self._numbers), part, codec)
        self._recorders[recorder.number] = recorder
        self.send(recorder, recorder.opening)
        if recorder.failed:
            raise OSError(recorder.failed)
        return recorder

    def close(self, recorder: Recorder) -> None:
        self._recorders.pop(recorder.number, None)

    def start(self) -> None:
        """Start the process. Raises OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gateway.telephony.scribe"], stdin=theirs.fileno(), start_new_session=True
            )
        ours.setblocking(False)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._socket, self._reader, self._writing = ours, Reader(), False
        asyncio.get_running_loop().add_reader(ours, self._readable)

    def stop(self) -> None:
        """Close the pipe: the process writes what it has and ends."""
        if self._socket is not None:
            self._forget_socket()
        if self._process is not None:
            try:
                self._process.wait(FINISH_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def send(self, recorder: Recorder, message: bytes) -> None:
        if not recorder.unwritten:
            recorder.asks()
        recorder.unwritten.append(message)
        if len(self._unsent) > MOST_UNSENT:
            recorder.fail("the recording process is too far behind")
        elif self._unsent:
            self._unsent += message
        else:
            self._transmit(message)

    def _transmit(self, data: bytes) -> None:
        if self._socket is None:
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # the reader notices the end, and starts anew
        if sent < len(data):
            self._unsent += data[sent:]
            self._writing = True
            asyncio.get_running_loop().add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        """Send more of what waits; a bytearray gives its front away without moving the rest."""
        assert self._socket is not None
        with memoryview(self._unsent) as waiting:
            try:
                sent = self._socket.send(waiting)
            except BlockingIOError:
                return
            except OSError:
                sent = 0  # the same
        del self._unsent[:sent]
        if not self._unsent or not sent:
            self._writing = False
            asyncio.get_running_loop().remove_writer(self._socket)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._revive()
            return
        self._restarts = 0
        for message in self._reader.feed(data):
            recorder = self._recorders.get(message.number)
            if recorder is not None:
                recorder.take(message)

    def _revive(self) -> None:
        """The process has died: start another, and give it what was not written."""
        self._forget_socket()
        code = self._process.wait() if self._process is not None else None
        self._process = None
        self._restarts += 1
        log.error("recorder.died", code=code, recordings=len(self._recorders), restarts=self._restarts)
        try:
            if self._restarts > MOST_RESTARTS:
                raise OSError(f"the recording process died {self._restarts} times in a row, the last time with {code}")
            self.start()
        except OSError as error:
            for recorder in tuple(self._recorders.values()):
                recorder.fail(str(error))
            return
        for recorder in tuple(self._recorders.values()):
            again = [message for message in recorder.unwritten if message != recorder.opening]
            recorder.unwritten.clear()
            for message in (recorder.opening, *again):
                self.send(recorder, message)

    def _forget_socket(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        if self._writing:
            loop.remove_writer(self._socket)
            self._writing = False
        self._unsent.clear()
        self._socket.close()
        self._socket = None

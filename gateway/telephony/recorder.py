"""Records calls through a process of its own: octets go over a pipe, nothing is decoded, sealed or written on the media path.

What was sent is kept until it is written: when the recording process dies another one goes on with the same files, and no call
notices. A recording that cannot be written fails its call (rule R8), never the others. Each has a key of its own (rule R14), which
this process and that one hold in memory only.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import subprocess
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path

import structlog

from gateway.audio.codec import CLOCK_RATE, SAMPLE_RATE, Codec
from gateway.telephony.recording_format import KEY_OCTETS, Mark
from gateway.telephony.recording_wire import Done, Kind, Message, Opening, Reader, pack, pack_audio, parse_marks
from gateway.telephony.vault import Recording, path_of

__all__ = ["Recorder", "Recording", "RecordingOffice"]

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


LEAST_FREE = 64_000_000
"""Octets: with less room no call should be begun that could not be recorded to its end."""

MOST_KEYS = 10_000
"""Keys of calls that have not begun; those of calls that never did are forgotten, the oldest first."""


class Recorder:
    """One call's recording, sealed with *key*."""

    __slots__ = (
        "_codec", "_heard_at", "_left", "_marks", "_octets", "_office", "_right", "_written", "call_id", "discarded", "done",
        "failed", "key", "number", "on_failure", "path", "unwritten",
    )  # fmt: skip

    def __init__(
        self, office: RecordingOffice, number: int, call_id: str, path: Path, codec: Codec, key: bytes
    ) -> None:
        self._office = office
        self.number = number
        self.call_id, self.path, self.key = call_id, path, key
        self._codec = codec
        self._left: list[bytes] = []
        self._right: list[bytes] = []
        self._octets = self._written = 0
        """Octets of each side that were sent to the process, and that it has written."""
        self._marks: list[Mark] = []
        self.failed = ""
        self.discarded = False
        self._heard_at = time.monotonic()
        self.unwritten: deque[tuple[bytes, int]] = deque()
        """Messages that are not answered yet, each with its octets of either side."""
        self.done: asyncio.Future[Recording] = asyncio.get_running_loop().create_future()
        self.on_failure: Callable[[str], None] | None = None

    def opening(self) -> bytes:
        """The message that lets a process begin this recording, or go on with it."""
        rate = SAMPLE_RATE[self._codec]
        sound_ms = self._marks[-1].sound_ms if self._marks else (0, 0)
        frames = self._written * (rate // CLOCK_RATE)
        opening = Opening(self._codec, self.call_id, self.path, self.key, frames, len(self._marks), sound_ms)
        return pack(Kind.OPEN, self.number, opening.pack())

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
            self._office.send(self, message, len(left))

    def discard(self) -> None:
        """Keep nothing of this call; what becomes of its recording is nobody's business any more."""
        self.on_failure = None
        self._left.clear()
        self._right.clear()
        self.discarded = True
        self._office.send(self, pack(Kind.DISCARD, self.number))

    async def finish(self) -> Recording:
        """The recording, closed and hashed. Raises OSError."""
        self.flush()
        if not self.failed:
            self._office.send(self, pack(Kind.FINISH, self.number))
        try:
            async with asyncio.timeout(FINISH_S):
                return await self.done
        except TimeoutError as error:
            self.fail(f"the recording process does not finish {self.path.name}")
            raise OSError(self.failed) from error
        finally:
            self._office.close(self)

    def asks(self) -> None:
        """From now on an answer is waited for."""
        self._heard_at = time.monotonic()

    def take(self, message: Message) -> None:
        """An answer of the process."""
        if message.kind is Kind.FAILED:
            self.fail(message.body.decode(errors="replace"), told=True)
            return
        self._heard_at = time.monotonic()
        if self.unwritten:
            self._written += self.unwritten.popleft()[1]
        if message.kind is Kind.WRITTEN:
            self._marks += parse_marks(message.body)
        if self.discarded and not self.unwritten:
            self._office.close(self)
        if message.kind is Kind.DONE and not self.done.done():
            done, rate = Done.parse(message.body), SAMPLE_RATE[self._codec]
            blocks = tuple(mark.sha256.hex() for mark in (*self._marks, *done.marks))
            duration_ms = done.frames * 1000 // rate
            self.done.set_result(
                Recording(self.path, self.key, done.sha256.hex(), duration_ms, rate, blocks, done.sound_ms)
            )

    def fail(self, reason: str, *, told: bool = False) -> None:
        """Give this recording up, and let the process do so too unless it has *told* us."""
        if self.failed:
            return
        self.failed = reason
        self.unwritten.clear()
        self._office.gave_up(self, told=told)
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
        self._keys: OrderedDict[str, bytes] = OrderedDict()
        self.failures = 0
        """Recordings that could not be begun or not be written to their end."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def free_octets(self) -> int:
        """The room that is left where recordings are written. Raises OSError."""
        folder = self._folder
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        free = os.statvfs(folder)
        return free.f_bavail * free.f_frsize

    @property
    def full(self) -> str:
        """Why no more calls should be begun here; empty when there is room to record them."""
        try:
            free = self.free_octets
        except OSError as error:
            return f"{self._folder}: {error.strerror}"
        if free >= LEAST_FREE:
            return ""
        return f"{self._folder}: {free // 1_000_000} MB are free, {LEAST_FREE // 1_000_000} are wanted; make room or move data_dir"

    def use_key(self, call_id: str, key: bytes) -> None:
        """Let the recording of *call_id*, once it is opened, be sealed with *key*; one without gets a key of its own."""
        if len(key) != KEY_OCTETS:
            raise ValueError(f"the key of a recording has {KEY_OCTETS} octets, not {len(key)}")
        self._keys[call_id] = key
        while len(self._keys) > MOST_KEYS:
            self._keys.popitem(last=False)

    def open(self, call_id: str, codec: Codec) -> Recorder:
        """A new recording. Raises OSError when it cannot be begun."""
        key = self._keys.pop(call_id, None) or os.urandom(KEY_OCTETS)
        path = path_of(self._folder, call_id)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600, exist_ok=False)
        except OSError:
            self.failures += 1
            raise
        try:
            if self._process is None:
                self.start()
        except OSError:
            self.failures += 1
            path.unlink()
            raise
        recorder = Recorder(self, next(self._numbers), call_id, path, codec, key)
        self._recorders[recorder.number] = recorder
        self.send(recorder, recorder.opening())
        if recorder.failed:
            raise OSError(recorder.failed)
        return recorder

    def close(self, recorder: Recorder) -> None:
        self._recorders.pop(recorder.number, None)

    def gave_up(self, recorder: Recorder, *, told: bool) -> None:
        """*recorder* has failed. The process closes its file, unless it has *told* so itself."""
        self.failures += 1
        self.close(recorder)
        log.error("recorder.failed", call=recorder.call_id, reason=recorder.failed)
        if not told:
            self._pass_on(pack(Kind.ABANDON, recorder.number))
        if recorder.discarded:
            recorder.path.unlink(missing_ok=True)

    def start(self) -> None:
        """Start the process. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "gateway.telephony.scribe"], stdin=theirs.fileno(), start_new_session=True
                )
        except OSError:
            ours.close()
            raise
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

    def send(self, recorder: Recorder, message: bytes, octets: int = 0) -> None:
        """*octets* of each side are in *message*."""
        if not recorder.unwritten:
            recorder.asks()
        recorder.unwritten.append((message, octets))
        if len(self._unsent) > MOST_UNSENT:
            recorder.fail("the recording process is too far behind")
        else:
            self._pass_on(message)

    def _pass_on(self, message: bytes) -> None:
        if self._unsent:
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
            again = [sent for sent in recorder.unwritten if sent[0][0] != Kind.OPEN]
            recorder.unwritten.clear()
            self.send(recorder, recorder.opening())
            for message, octets in again:
                self.send(recorder, message, octets)

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

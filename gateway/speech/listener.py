"""The gateway's side of listening: worker processes, started, fed and restarted; one session per question."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from gateway.audio.codec import SAMPLE_RATE, Codec
from gateway.consent.testimony import Grammar, Testimony, Word
from gateway.speech import wire
from gateway.speech.errors import DecoderLost, ListenerDown, SpeechError
from gateway.speech.frontend import TELEPHONE_RATE, Pcm

log = structlog.get_logger(__name__)
START_S = 60.0
RESTART_S = 1.0
OPEN_S = 15.0
MOST_BUFFERED = 1 << 20
"""Octets that may wait for a worker, for each of its sessions: half a minute of a call. More means that it hangs."""


Mode = Literal["ask", "bargein", "watch"]
"""``ask``: the answer is what is said after the question. ``bargein``: it may be given before. ``watch``: nothing is asked,
and what is said all the same is told as asides.
"""


@dataclass(frozen=True, slots=True)
class Hearing:
    """One utterance, or the silence after a question. All times count from the start of the session, in ms.

    *onset_ms*/*end_ms*: the speech. *audio_start_ms*/*decided_ms*: the audio that was judged, the caller's side of the
    recording, and its hash (16-bit little-endian samples); *compute_ms* is what the decoders took after its end.
    """

    testimony: Testimony
    onset_ms: int = 0
    end_ms: int = 0
    audio_start_ms: int = 0
    decided_ms: int = 0
    audio_sha256: str = ""
    model: str = ""
    model_sha256: str = ""
    grammar_sha256: str = ""
    compute_ms: float = 0.0


@dataclass(eq=False)
class Session:
    """One question being listened to, or one prompt being watched. Feed it from the prompt's first frame on; tell it when the
    question has ended. *on_aside* is given what was said and done before that.
    """

    number: int
    worker: _Process
    grammar: Grammar
    on_started: Callable[[], None]
    on_aside: Callable[[Hearing], None]
    final: asyncio.Future[Hearing] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def feed(self, heard: Pcm, sent: Pcm | None = None) -> None:
        """20 ms of the caller, or a multiple of it, and what was played to him meanwhile: None is silence."""
        self.feed_octets(heard.astype("<i2").tobytes(), None if sent is None else sent.astype("<i2").tobytes())

    def feed_octets(self, heard: bytes, sent: bytes | None = None) -> None:
        """The same in the codec that the session was opened with: it is decoded over there, off the media path."""
        if self.final.done():
            return
        if sent is not None:
            self.worker.send(wire.SENT, self.number, sent)
        self.worker.send(wire.AUDIO, self.number, heard)

    def question_ended(self) -> None:
        self.worker.send(wire.QUESTION_ENDED, self.number)

    def close(self) -> None:
        if not self.final.done():
            self.worker.send(wire.CLOSE, self.number)
            self.final.cancel()
        elif not self.final.cancelled():
            self.final.exception()  # a decoder that was lost when nobody waited any more has been dealt with
        self.worker.sessions.pop(self.number, None)


class Listener:
    """Listens in one language with *workers* processes. ``start`` returns when all of them are warm."""

    def __init__(self, model: str, grammars: dict[str, Grammar], workers: int) -> None:
        self._model = model
        self._grammars = grammars
        self._numbers = itertools.count(1)
        self._processes = [_Process(model, grammars) for _ in range(workers)]

    async def start(self) -> None:
        """Raises SpeechError with what the worker said."""
        await asyncio.gather(*(process.start() for process in self._processes))

    @property
    def pids(self) -> list[int]:
        """The listening processes."""
        return [process.pid for process in self._processes if process.pid is not None]

    async def stop(self) -> None:
        await asyncio.gather(*(process.stop() for process in self._processes))

    async def ready(self) -> None:
        """Until a process is up: one that has just died is on its way back. Raises ListenerDown after 15 s."""
        if any(process.ready for process in self._processes):
            return
        waits = [asyncio.create_task(process.up.wait()) for process in self._processes]
        done, pending = await asyncio.wait(waits, timeout=OPEN_S, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        if not done:
            raise ListenerDown("no listening process is up")

    def open(
        self,
        grammar: str,
        *,
        mode: Mode = "ask",
        timeout_s: float = 0.0,
        second_pass: bool = False,
        rate: int = TELEPHONE_RATE,
        codec: Codec | None = None,
        on_started: Callable[[], None] = lambda: None,
        on_aside: Callable[[Hearing], None] = lambda _: None,
    ) -> Session:
        """Begin to listen with the named grammar, to audio at *rate* (8 or 16 kHz) or in *codec*; *second_pass* decodes a
        candidate once more, openly. After *timeout_s* of silence from the question's end the hearing is empty.

        Raises DecoderLost when no worker is up.
        """
        ready = [process for process in self._processes if process.ready]
        if not ready:
            raise DecoderLost("no listening process is up")
        process = min(ready, key=lambda candidate: len(candidate.sessions))
        session = Session(next(self._numbers), process, self._grammars[grammar], on_started, on_aside)
        process.sessions[session.number] = session
        asked = {
            "grammar": grammar,
            "timeout_ms": int(timeout_s * 1000),
            "mode": mode,
            "second_pass": second_pass,
            "rate": SAMPLE_RATE[codec] if codec is not None else rate,
            "codec": codec,
        }
        process.send(wire.OPEN, session.number, json.dumps(asked).encode())
        return session


class _Process:
    def __init__(self, model: str, grammars: dict[str, Grammar]) -> None:
        plain = {name: dataclasses.asdict(grammar) for name, grammar in grammars.items()}
        self._init = json.dumps({"model": model, "grammars": plain}, ensure_ascii=False).encode()
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None
        self._told: dict[str, Any] = {}
        self.up = asyncio.Event()
        self.sessions: dict[int, Session] = {}

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def ready(self) -> bool:
        return self.up.is_set()

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway.speech.worker", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdin is not None
        self._process.stdin.write(wire.pack(wire.INIT, 0, self._init))
        try:
            kind, _, payload = await asyncio.wait_for(self._read(), START_S)
        except (TimeoutError, asyncio.IncompleteReadError) as error:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            raise SpeechError("the listening process ended before it was ready; its message stands above") from error
        if kind == wire.FAILED:
            raise SpeechError(payload.decode())
        self._told = json.loads(payload)
        self.up.set()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self.up.clear()
        if self._task is not None:
            self._task.cancel()
        if self._process is not None and self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), 3)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    def send(self, kind: bytes, session: int, payload: bytes = b"") -> None:
        assert self._process is not None
        pipe = self._process.stdin
        assert pipe is not None
        if not self.ready:
            return
        if pipe.transport.get_write_buffer_size() > MOST_BUFFERED * max(1, len(self.sessions)):
            log.error("speech.worker_hangs", pid=self._process.pid)
            self.up.clear()
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            return
        try:
            pipe.write(wire.pack(kind, session, payload))
        except (RuntimeError, OSError):  # it has just died; the end of its other pipe tells, and starts it again
            self.up.clear()

    async def _read(self) -> tuple[bytes, int, bytes]:
        assert self._process is not None
        pipe = self._process.stdout
        assert pipe is not None
        kind, session, length = wire.FRAME.unpack(await pipe.readexactly(wire.FRAME.size))
        return kind, session, await pipe.readexactly(length)

    async def _run(self) -> None:
        """Hand out what the worker says; when it dies, its questions are lost and it is started again."""
        while True:
            try:
                kind, number, payload = await self._read()
            except asyncio.IncompleteReadError:
                self._lose_sessions()
                await self._restart()
                return
            session = self.sessions.get(number)
            if session is None or session.final.done():
                continue
            if kind == wire.STARTED:
                session.on_started()
            elif kind == wire.ASIDE:
                session.on_aside(self._hearing(session, json.loads(payload)))
            elif kind == wire.FINAL:
                del self.sessions[number]
                session.final.set_result(self._hearing(session, json.loads(payload)))

    def _hearing(self, session: Session, report: dict[str, Any]) -> Hearing:
        witnesses = (
            "path_margin",
            "share",
            "speech_ms",
            "snr_db",
            "clipped",
            "overlapped",
            "echo",
            "pitch_jump",
            "final_rise",
        )
        spans = ("onset_ms", "end_ms", "audio_start_ms", "decided_ms", "audio_sha256", "compute_ms")
        open_words = report.get("open_words")
        testimony = Testimony(
            words=_words(report["words"]),
            open_words=None if open_words is None else _words(open_words),
            **{name: report[name] for name in witnesses if name in report},
        )
        return Hearing(
            testimony,
            **{name: report[name] for name in spans if name in report},
            model=self._told["model"],
            model_sha256=self._told["model_sha256"],
            grammar_sha256=self._told["grammars"][session.grammar.name],
        )

    def _lose_sessions(self) -> None:
        self.up.clear()
        for session in self.sessions.values():
            if not session.final.done():
                session.final.set_exception(DecoderLost("the listening process died in the middle of an utterance"))
        self.sessions.clear()

    async def _restart(self) -> None:
        assert self._process is not None
        log.error("speech.worker_died", status=await self._process.wait())
        while True:
            try:
                await self.start()
            except (SpeechError, OSError, ValueError) as error:
                log.error("speech.worker_restart_failed", error=str(error))
                await asyncio.sleep(RESTART_S)
            else:
                return


def _words(reported: list[dict[str, Any]]) -> tuple[Word, ...]:
    return tuple(Word(word["word"], word["start"], word["end"], word["conf"]) for word in reported)

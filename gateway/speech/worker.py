"""The listening process: one Vosk model, many sessions. ``python -m gateway.speech.worker``, framed messages on stdin/stdout.

CPU work in the media process ruins its clock (DESIGN §7), so decoders live here. The main thread takes audio, finds end
points and runs the streaming grammar pass while the caller speaks; the second pass runs on candidates only, in threads beside
it, and begins as soon as the caller falls silent, before it is sure that he has finished.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
import traceback
from collections import defaultdict, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import vosk

from gateway.audio import codec
from gateway.consent.testimony import Grammar
from gateway.consent.verdict import is_candidate, is_echo
from gateway.speech import wire
from gateway.speech.decoder import Decoder, Words
from gateway.speech.echo import LONGEST_DELAY_S, echo_share
from gateway.speech.endpointer import FRAME_MS, LONGEST_UTTERANCE_MS, PREROLL_FRAMES, Endpointer
from gateway.speech.errors import SpeechError
from gateway.speech.frontend import FrontEnd, Pcm, gain_for
from gateway.speech.models import (
    ModelSource,
    check_words,
    model_sha256,
    name_of,
    open_settings,
    read_vocabulary,
    runtime_grammar,
)
from gateway.speech.pitch import final_rise, pitch_jump, pitch_track
from gateway.speech.second_pass import Second, SecondPass

GAIN_FRAMES = PREROLL_FRAMES + 5
"""Frames heard before the level is set: the pre-roll and 100 ms."""

TAIL_FRAMES = 8
"""Silence behind the last voiced frame that a candidate keeps in the second pass, and after which that begins."""

SENT_FRAMES = int(1000 * LONGEST_DELAY_S + LONGEST_UTTERANCE_MS) // FRAME_MS + PREROLL_FRAMES


@dataclass(slots=True)
class _Session:
    number: int
    grammar: Grammar
    rate: int
    timeout_ms: int
    mode: str
    second_pass: bool
    endpointer: Endpointer
    coders: tuple[codec.Decoder, codec.Decoder] | None = None
    """Of the caller's octets and of ours, where the session has a codec."""
    sent: deque[Pcm] = field(default_factory=lambda: deque(maxlen=SENT_FRAMES))
    playing: deque[Pcm] = field(default_factory=deque)
    decoder: Decoder | None = None
    frontend: FrontEnd | None = None
    fed: int = 0
    partial: str = ""
    second: tuple[int, Future[Second]] | None = None
    question_ended: int | None = None

    def frames(self, payload: bytes, side: int) -> list[Pcm]:
        """*payload* of the caller (0) or of ours (1) in frames of 20 ms."""
        samples = np.frombuffer(payload, "<i2") if self.coders is None else self.coders[side].decode(payload)
        size = self.rate * FRAME_MS // 1000
        return [samples[start : start + size] for start in range(0, samples.size, size)]

    def new_frontend(self) -> FrontEnd:
        """Set for what was heard so far: the level of the voice, and the noise of the line before it."""
        endpointer = self.endpointer
        return FrontEnd(gain_for(np.concatenate(endpointer.voiced)), self.rate, endpointer.lead_in)

    def asked_before(self, frame: int) -> bool:
        """Whether the question had ended when *frame* came."""
        return self.question_ended is not None and frame > self.question_ended

    def renew(self) -> None:
        """Listen on, with what was said behind."""
        self.endpointer.reset()
        self.decoder = self.frontend = self.second = None
        self.fed, self.partial = 0, ""


class Worker:
    """Everything one process does. *send* takes a framed message."""

    def __init__(self, model: vosk.Model, grammars: dict[str, Grammar], texts: dict[str, str], send: Any) -> None:
        self._model = model
        self._grammars = grammars
        self._texts = texts
        self._send = send
        self._sessions: dict[int, _Session] = {}
        self._idle: dict[str, list[Decoder]] = defaultdict(list)
        self._second_pass = SecondPass(model, texts)

    def take(self, kind: bytes, number: int, payload: bytes) -> None:
        if kind == wire.OPEN:
            asked = json.loads(payload)
            self._sessions[number] = _Session(
                number, self._grammars[asked["grammar"]], asked["rate"], asked["timeout_ms"], asked["mode"],
                asked["second_pass"], Endpointer(asked["rate"]),
                (codec.decoder(asked["codec"]), codec.decoder(asked["codec"])) if asked["codec"] else None,
            )  # fmt: skip
        elif (session := self._sessions.get(number)) is None:
            return
        elif kind == wire.AUDIO:
            for frame in session.frames(payload, 0):
                session.sent.append(session.playing.popleft() if session.playing else np.zeros_like(frame))
                self._frame(session, frame)
        elif kind == wire.SENT:
            session.playing.extend(session.frames(payload, 1))
        elif kind == wire.QUESTION_ENDED:
            session.question_ended = session.endpointer.frames
        elif kind == wire.CLOSE:
            del self._sessions[number]

    def _frame(self, session: _Session, frame: Pcm) -> None:
        if session.number not in self._sessions:
            return
        endpointer = session.endpointer
        phase = endpointer.push(frame, may_go_on=session.grammar.may_go_on(session.partial))
        if phase == "started":
            session.decoder = self._decoder(session.grammar.name)
            self._send(wire.STARTED, session.number, b"")
        if phase in ("speaking", "ended"):
            self._feed(session, last=phase == "ended")
        if phase == "ended":
            self._utterance(session)
        elif phase == "idle" and session.question_ended is not None:
            waited = (endpointer.frames - session.question_ended) * FRAME_MS
            if waited >= session.timeout_ms:
                self._finish(session, {"words": [], "speech_ms": 0})

    def _feed(self, session: _Session, *, last: bool) -> None:
        endpointer = session.endpointer
        if session.frontend is None:
            if len(endpointer.audio) < GAIN_FRAMES and not last:
                return
            session.frontend = session.new_frontend()
        pending = np.concatenate(endpointer.audio[session.fed :])
        session.fed = len(endpointer.audio)
        assert session.decoder is not None, "an utterance has started"
        session.decoder.feed(session.frontend.push(pending, last=last))
        if endpointer.silence_ms:
            session.partial = session.decoder.partial()
            silent = endpointer.silence_ms >= TAIL_FRAMES * FRAME_MS
            if silent and session.second_pass and session.grammar.may_affirm(session.partial):
                self._begin_second_pass(session)

    def _begin_second_pass(self, session: _Session) -> Future[Second]:
        """Decode what was said up to the last voiced frame; once, however often it is asked for."""
        endpointer = session.endpointer
        length = len(endpointer.audio) - endpointer.silence_ms // FRAME_MS
        if session.second is None or session.second[0] != length:
            audio = np.concatenate(endpointer.audio[: length + TAIL_FRAMES])
            session.second = length, self._second_pass.submit(session.new_frontend(), audio, session.grammar)
        return session.second[1]

    def _utterance(self, session: _Session) -> None:
        began = time.perf_counter()
        assert session.decoder is not None, "an utterance has started"
        words = session.decoder.finish()
        self._idle[session.grammar.name].append(session.decoder)
        report = _report(session, words)
        echoed = report["overlapped"] and is_echo(report["echo"])  # the answer is still to come
        if session.mode != "bargein" and (session.question_ended is None or echoed):
            self._send(wire.ASIDE, session.number, _json(report))  # said and done while the prompt still played
            session.renew()
        elif session.second_pass and is_candidate(" ".join(word["word"] for word in words), session.grammar):
            del self._sessions[session.number]
            self._begin_second_pass(session).add_done_callback(
                lambda done: self._conclude(session, report, began, done)
            )
        else:
            report["compute_ms"] = _since(began)
            self._finish(session, report)

    def _conclude(self, session: _Session, report: dict[str, Any], began: float, done: Future[Second]) -> None:
        if (error := done.exception()) is not None:
            traceback.print_exception(error)  # the witness is missing, and the verdict says so
        else:
            second = done.result()
            report |= {"open_words": second.words, "path_margin": second.margin, "share": second.share}
        report["compute_ms"] = _since(began)
        self._send(wire.FINAL, session.number, _json(report))

    def _finish(self, session: _Session, report: dict[str, Any]) -> None:
        del self._sessions[session.number]
        self._send(wire.FINAL, session.number, _json(report))

    def _decoder(self, grammar: str) -> Decoder:
        """One with *grammar*, used again where one is idle."""
        idle = self._idle[grammar]
        return idle.pop() if idle else Decoder(self._model, self._texts[grammar])


def _report(session: _Session, words: Words) -> dict[str, Any]:
    """What the first witnesses have to say; times in ms from the start of the session."""
    endpointer = session.endpointer
    audio = np.concatenate(endpointer.audio)
    length = len(endpointer.audio)
    reach = length + int(1000 * LONGEST_DELAY_S) // FRAME_MS
    sent = list(session.sent)[-reach:]
    pitch = pitch_track(audio, session.rate)
    return {
        "words": words,
        "open_words": None,
        "path_margin": None,
        "share": None,
        "speech_ms": endpointer.speech_ms,
        "snr_db": endpointer.snr_db,
        "clipped": endpointer.clipped,
        "overlapped": session.mode != "bargein" and not session.asked_before(endpointer.onset_frame),
        "echo": echo_share(audio, np.concatenate(sent), session.rate),
        "pitch_jump": pitch_jump(pitch, [(word["start"], word["end"]) for word in words]),
        "final_rise": final_rise(pitch),
        "onset_ms": endpointer.onset_frame * FRAME_MS,
        "end_ms": endpointer.frames * FRAME_MS - endpointer.silence_ms,
        "decided_ms": endpointer.frames * FRAME_MS,
        "audio_start_ms": endpointer.start_frame * FRAME_MS,
        "audio_sha256": hashlib.sha256(audio.astype("<i2").tobytes()).hexdigest(),
        "compute_ms": 0.0,
    }


def _grammar(fields: dict[str, Any]) -> Grammar:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Grammar(**values)


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000


def main() -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    send = wire.Sender(sink)
    first = wire.read(source)
    if first is None:
        return
    init = json.loads(first[2])
    vosk.SetLogLevel(-1)
    try:
        folder = ModelSource(init["model"]).folder()
        grammars = {name: _grammar(fields) for name, fields in init["grammars"].items()}
        vocabulary = read_vocabulary(folder)
        check_words(grammars.values(), vocabulary.words)
        texts = {name: runtime_grammar(grammar, vocabulary) for name, grammar in grammars.items()}
        del vocabulary
    except SpeechError as error:
        send(wire.FAILED, 0, str(error).encode())
        return
    with open_settings(folder) as settings:
        worker = Worker(vosk.Model(settings), grammars, texts, send)
        ready = {
            "model": name_of(folder),
            "model_sha256": model_sha256(folder),
            "grammars": {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()},
        }
        send(wire.READY, 0, _json(ready))
        while (message := wire.read(source)) is not None:
            worker.take(*message)


if __name__ == "__main__":
    main()

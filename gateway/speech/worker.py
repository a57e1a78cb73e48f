"""The listening process: one Vosk model, many sessions. ``python -m gateway.speech.worker``, framed messages on stdin/stdout.

CPU work in the media process ruins its clock (DESIGN §7), so decoders live here. The main thread takes audio, finds end
points and runs the streaming grammar pass; the second pass (open decode, candidates only) runs in one thread beside it: Vosk
releases the GIL while it decodes.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import vosk

from gateway.consent.verdict import Grammar, is_candidate
from gateway.speech import wire
from gateway.speech.endpointer import FRAME_MS, FRAME_SAMPLES, PREROLL_FRAMES, Endpointer
from gateway.speech.errors import SpeechError
from gateway.speech.frontend import MODEL_RATE, FrontEnd, Pcm, gain_for
from gateway.speech.models import ModelSource, check_words, garbage_words, open_settings, read_vocabulary

GAIN_FRAMES = PREROLL_FRAMES + 5
"""Frames heard before the level is set: the pre-roll and 100 ms."""


@dataclass(slots=True)
class _Session:
    number: int
    grammar: Grammar
    recogniser: Any
    timeout_ms: int
    bargein: bool
    second_pass: bool
    endpointer: Endpointer = field(default_factory=Endpointer)
    frontend: FrontEnd | None = None
    words: list[dict[str, Any]] = field(default_factory=list)
    fed: int = 0
    partial: str = ""
    question_ended: int | None = None


class Worker:
    """Everything one process does. *send* takes a framed message."""

    def __init__(
        self, model: vosk.Model, grammars: dict[str, Grammar], garbage: dict[str, tuple[str, ...]], send: Any
    ) -> None:
        self._model = model
        self._grammars = grammars
        self._json = {
            name: json.dumps([*grammar.phrases, *garbage[name]], ensure_ascii=False)
            for name, grammar in grammars.items()
        }
        self._send = send
        self._sessions: dict[int, _Session] = {}
        self._open = _recogniser(model)
        self._second = ThreadPoolExecutor(1, "second-pass")

    def take(self, kind: bytes, number: int, payload: bytes) -> None:
        if kind == wire.OPEN:
            asked = json.loads(payload)
            recogniser = _recogniser(self._model, self._json[asked["grammar"]])
            self._sessions[number] = _Session(
                number, self._grammars[asked["grammar"]], recogniser,
                asked["timeout_ms"], asked["bargein"], asked["second_pass"],
            )  # fmt: skip
        elif (session := self._sessions.get(number)) is None:
            return
        elif kind == wire.AUDIO:
            samples = np.frombuffer(payload, "<i2")
            for start in range(0, samples.size, FRAME_SAMPLES):
                self._frame(session, samples[start : start + FRAME_SAMPLES])
        elif kind == wire.QUESTION_ENDED:
            session.question_ended = session.endpointer.frames
        elif kind == wire.CLOSE:
            del self._sessions[number]

    def _frame(self, session: _Session, frame: Pcm) -> None:
        if session.number not in self._sessions:
            return
        endpointer = session.endpointer
        phase = endpointer.push(frame, complete=session.partial in session.grammar.phrases)
        if phase == "started":
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
            session.frontend = FrontEnd(gain_for(np.concatenate(endpointer.voiced)))
        pending = np.concatenate(endpointer.audio[session.fed :])
        session.fed = len(endpointer.audio)
        if session.recogniser.AcceptWaveform(session.frontend.push(pending, last=last)):
            session.words += json.loads(session.recogniser.Result()).get("result", [])
        elif endpointer.silence_ms:
            said = [word["word"] for word in session.words]
            session.partial = " ".join([*said, json.loads(session.recogniser.PartialResult())["partial"]]).strip()

    def _utterance(self, session: _Session) -> None:
        endpointer = session.endpointer
        if session.question_ended is None and not session.bargein:
            self._renew(session)  # said and done while the question still played: not an answer
            return
        began = time.perf_counter()
        words = session.words + json.loads(session.recogniser.FinalResult()).get("result", [])
        report: dict[str, Any] = {
            "words": words,
            "speech_ms": endpointer.speech_ms,
            "snr_db": endpointer.snr_db,
            "overlapped": not session.bargein and endpointer.onset_frame <= (session.question_ended or 0),
            "onset_ms": endpointer.onset_frame * FRAME_MS,
            "end_ms": (endpointer.frames * FRAME_MS) - endpointer.silence_ms,
            "decided_ms": endpointer.frames * FRAME_MS,
            "open_text": None,
        }
        if session.second_pass and is_candidate(" ".join(word["word"] for word in words), session.grammar):
            audio, gain = np.concatenate(endpointer.audio), gain_for(np.concatenate(endpointer.voiced))
            del self._sessions[session.number]
            self._second.submit(self._second_pass, session.number, report, audio, gain, began)
        else:
            report["compute_ms"] = _since(began)
            self._finish(session, report)

    def _second_pass(self, number: int, report: dict[str, Any], audio: Pcm, gain: float, began: float) -> None:
        try:
            self._open.Reset()
            self._open.AcceptWaveform(FrontEnd(gain).push(audio, last=True))
            report["open_text"] = json.loads(self._open.FinalResult()).get("text", "")
        finally:
            report["compute_ms"] = _since(began)
            self._send(wire.FINAL, number, json.dumps(report, ensure_ascii=False).encode())

    def _finish(self, session: _Session, report: dict[str, Any]) -> None:
        del self._sessions[session.number]
        self._send(wire.FINAL, session.number, json.dumps(report, ensure_ascii=False).encode())

    @staticmethod
    def _renew(session: _Session) -> None:
        session.endpointer.reset()
        session.recogniser.Reset()
        session.frontend, session.words, session.fed, session.partial = None, [], 0, ""


def _grammar(fields: dict[str, Any]) -> Grammar:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Grammar(**values)


def _since(began: float) -> float:
    return (time.perf_counter() - began) * 1000


def _recogniser(model: vosk.Model, grammar: str | None = None) -> Any:
    recogniser = vosk.KaldiRecognizer(model, MODEL_RATE, *([grammar] if grammar else []))
    recogniser.SetWords(True)
    return recogniser


def main() -> None:
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    send = wire.Sender(sink)
    init = json.loads(sys.argv[1])
    vosk.SetLogLevel(-1)
    try:
        folder = ModelSource(init["model"]).folder()
        grammars = {name: _grammar(fields) for name, fields in init["grammars"].items()}
        vocabulary = read_vocabulary(folder)
        check_words(grammars.values(), vocabulary.words)
        garbage = {name: garbage_words(grammar, vocabulary) for name, grammar in grammars.items()}
        del vocabulary
    except SpeechError as error:
        send(wire.FAILED, 0, str(error).encode())
        return
    with open_settings(folder) as settings:
        worker = Worker(vosk.Model(settings), grammars, garbage, send)
        send(
            wire.READY, 0, json.dumps({"model": folder.name if folder.name != "model" else folder.parent.name}).encode()
        )
        while (message := wire.read(source)) is not None:
            worker.take(*message)


if __name__ == "__main__":
    main()

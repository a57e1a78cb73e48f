"""The second witness: a candidate is decoded again, openly, by the model's whole language; by the grammar, for how sure it is of
the phrase as a whole; and as the target alone.

How much likelier the target is than what the open decode made of it is the *path margin*. A sound that was only forced into
the phrase, because the grammar had nothing better, is explained better by other words; a phrase that was said is not.
"""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import LifoQueue

import vosk

from gateway.consent.testimony import Grammar
from gateway.speech.decoder import DIGITS, Decoder, Words
from gateway.speech.frontend import FrontEnd, Pcm

DECODERS = 2
ALTERNATIVES = 10


@dataclass(frozen=True, slots=True)
class Second:
    """*words* of the open decode; *margin* in nats, None where the audio is no target at all; *share*: how much of the
    probability of all that the grammar can hear falls to target phrases.
    """

    words: Words
    margin: float | None
    share: float


class SecondPass:
    """A pool of open decoders on threads: Vosk releases the GIL while it decodes."""

    def __init__(self, model: vosk.Model, texts: dict[str, str]) -> None:
        self._model = model
        self._texts = texts
        self._threads = ThreadPoolExecutor(DECODERS, "second-pass")
        self._open: LifoQueue[Decoder] = LifoQueue()  # the one that is warm first: a cold one takes a second longer
        for _ in range(DECODERS):
            self._open.put(Decoder(model, alternatives=ALTERNATIVES))

    def submit(self, frontend: FrontEnd, audio: Pcm, grammar: Grammar) -> Future[Second]:
        return self._threads.submit(self._hear, frontend, audio, grammar)

    def _hear(self, frontend: FrontEnd, audio: Pcm, grammar: Grammar) -> Second:
        sound = frontend.push(audio, last=True)
        openly = self._open.get()
        try:
            words = _decode(openly, sound)
            likelihood = openly.likelihood
        finally:
            self._open.put(openly)
        closed = Decoder(self._model, self._texts[grammar.name], alternatives=ALTERNATIVES)
        _decode(closed, sound)
        target = Decoder(self._model, json.dumps(grammar.affirm, ensure_ascii=False), alternatives=ALTERNATIVES)
        _decode(target, sound)
        best = target.likelihood_of(grammar.affirm)
        margin = None if best is None else round(best - likelihood, DIGITS)
        return Second(words, margin, closed.share_of(grammar.affirm))


def _decode(decoder: Decoder, sound: bytes) -> Words:
    try:
        decoder.feed(sound)
    finally:
        words = decoder.finish()
    return words

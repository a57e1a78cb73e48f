"""The sounds of a record: its recordings as WAV, and the very prompts that were played, found by what they hash to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from gateway.evidence import verify_evidence as evidence
from gateway.language.pack import LanguagePack
from gateway.speech.errors import SpeechError
from gateway.speech.frontend import Pcm
from gateway.speech.prompts import PROMPT_RATE, PromptStore, Wording, read_wav
from gateway.telephony.errors import BadRecording
from gateway.telephony.vault import Sound

_VOICE = re.compile(r"espeak:(\S+) (\d{1,4}) wpm")


@dataclass(frozen=True, slots=True)
class Found:
    """The content of a member, or why there is none."""

    content: bytes = b""
    missing: str = ""


def recording(path: Path, key: bytes, kept: evidence.Event, events: Sequence[evidence.Event]) -> Found:
    """The recording of a call as WAV; where the file is damaged, as far as it can be read. It is what the ledger says, or is left
    out.
    """
    pieces: list[bytes] = []
    damage = ""
    try:
        with Sound(path, key) as sound:
            try:
                pieces.extend(sound.seconds())
            except BadRecording as error:
                damage = str(error)
            rate = sound.rate
    except (OSError, BadRecording) as error:
        return Found(missing=f"it cannot be read: {_words(error)}")
    samples = b"".join(pieces)
    if not samples:
        return Found(missing=f"nothing of it can be read: {damage}")
    content = evidence.wav_header(2, rate, len(samples)) + samples
    member = evidence.recording_member(str(kept.body["call_id"]))
    try:
        heard = [event for event in events if event.of("utterance.heard", kept.body["call_id"])]
        evidence.check_recording(member, memoryview(content), evidence.sha256(content), kept, heard)
    except evidence.Invalid as invalid:
        return Found(missing=f"what is kept of it {invalid.reason}{'; ' + damage if damage else ''}")
    return Found(content)


class Prompts:
    """Finds prompts again: in the *cache* of those that were spoken, among the *recorded* ones, or by speaking them once more.

    *names*: the prompts that an order may have been told; the cache names a prompt by its name and wording. *scratch* is a folder
    for what is spoken here. ``async with Prompts(...) as prompts``: a voice that was started is stopped.
    """

    def __init__(self, cache: Path, recorded: Path, pack: LanguagePack, names: Iterable[str], scratch: Path) -> None:
        self._cache, self._recorded, self._pack = cache, recorded, pack
        self._names = tuple(dict.fromkeys((*names, *pack.prompts)))
        self._speaker = PromptStore(scratch, scratch / "none")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._speaker.stop()

    async def find(self, played: evidence.Event) -> Found:
        """The prompt of a ``prompt.played`` event, 16 kHz, one channel."""
        wanted = str(played.body["audio_sha256"])
        for path in self._candidates(played):
            if path.is_file():
                try:
                    samples = _octets(read_wav(path, PROMPT_RATE))
                except SpeechError:
                    continue  # a file that is no WAV is not what was played
                if evidence.sha256(samples) == wanted:
                    return _wav(samples)
        return await self._again(played, wanted)

    def _candidates(self, played: evidence.Event) -> Iterator[Path]:
        for wording in self._wordings(played):
            yield self._cache / f"{wording.key}.wav"
        for name in self._names:
            yield self._recorded / self._pack.language / "audio" / f"{name}.wav"

    def _wordings(self, played: evidence.Event) -> Iterator[Wording]:
        """Every name under which the cache may have it."""
        text, voice = str(played.body["text"]), self._pack.voice
        spoken = _VOICE.fullmatch(str(played.body["voice"]))
        paces = (int(spoken[2]),) if spoken else (voice.words_per_minute, voice.senior_words_per_minute)
        for name in self._names:
            for pace in paces:
                yield Wording(name, self._pack.language, text, spoken[1] if spoken else voice.espeak, pace)

    async def _again(self, played: evidence.Event, wanted: str) -> Found:
        """The prompt, spoken again by the same voice: it must come out the same."""
        wording = next(self._wordings(played), None)
        if wording is None or not _VOICE.fullmatch(str(played.body["voice"])):
            return Found(missing="the recorded prompt that was played is not on this gateway any more")
        try:
            await self._speaker.prepare([wording])
            prompt = self._speaker.get(wording)
        except SpeechError as error:
            return Found(missing=f"it is not in the cache any more, and cannot be spoken again: {error}")
        if prompt.sha256 != wanted:
            return Found(missing="it is not in the cache any more, and the voice of today speaks it otherwise")
        return _wav(_octets(prompt.samples))


def _octets(samples: Pcm) -> bytes:
    return samples.astype("<i2").tobytes()


def _wav(samples: bytes) -> Found:
    return Found(evidence.wav_header(1, PROMPT_RATE, len(samples)) + samples)


def _words(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)

"""Prompts as audio: spoken before the call, kept by content hash, cut into frames once and shared by all calls.

A recorded ``prompts/<language>/audio/<prompt>.wav`` is used instead of the voice where it is present. Nothing here is ever
awaited while somebody is on the line: ``get`` fails loudly for what was not prepared.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import sys
import wave
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import structlog

from gateway.speech.errors import VoiceFailed, VoiceMissing
from gateway.speech.frontend import MODEL_RATE, TELEPHONE_RATE, Pcm, rms

log = structlog.get_logger(__name__)
SPEAK_S = 30.0
PROMPT_RATE = MODEL_RATE
"""Samples a second at which prompts are kept: what the widest codec carries."""

PAUSE_MS = 250
"""Silence after each prompt, so that sentences do not run into each other."""
MOST_KEPT = 1000
"""Prompts in memory; the least recently used ones are read from the cache folder again."""
SPOKEN_RMS = 32768 * 10 ** (-22 / 20)
"""The level of every prompt: -22 dBFS active."""
_ACTIVE_LSB = 200
_PEAK = 30000


@dataclass(frozen=True, slots=True)
class Wording:
    """What is to be spoken, and how."""

    prompt: str
    language: str
    text: str
    voice: str
    words_per_minute: int

    @property
    def key(self) -> str:
        """The cache's name for it: a SHA-256 over everything that shapes the sound."""
        shape = (PROMPT_RATE, self.prompt, self.language, self.text, self.voice, self.words_per_minute)
        return hashlib.sha256(json.dumps(shape, ensure_ascii=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Prompt:
    """Audio ready to be encoded: 16 kHz samples; *sha256* is over the samples' octets, 16-bit little-endian."""

    wording: Wording
    samples: Pcm
    sha256: str
    recorded: bool = False

    @property
    def voice(self) -> str:
        """Who speaks: ``recording``, or the voice and its pace."""
        wording = self.wording
        return "recording" if self.recorded else f"espeak:{wording.voice} {wording.words_per_minute} wpm"


class PromptStore:
    """Speaks, keeps and hands out prompts."""

    def __init__(self, cache: Path, recorded: Path) -> None:
        self._cache = cache
        self._recorded = recorded
        self._prompts: OrderedDict[str, Prompt] = OrderedDict()
        self._voice = Voice()
        self._lock = asyncio.Lock()

    async def stop(self) -> None:
        await self._voice.stop()

    async def prepare(self, wordings: Iterable[Wording]) -> None:
        """Have every wording ready. Raises VoiceMissing or VoiceFailed."""
        self._cache.mkdir(parents=True, exist_ok=True)
        for wording in wordings:
            async with self._lock:
                if wording.key not in self._prompts:
                    self._prompts[wording.key] = await self._load(wording)
                self._prompts.move_to_end(wording.key)
                while len(self._prompts) > MOST_KEPT:
                    self._prompts.popitem(last=False)

    def get(self, wording: Wording) -> Prompt:
        """A prepared prompt. Raises VoiceFailed for one that was not prepared: nobody is made to wait for a voice."""
        try:
            return self._prompts[wording.key]
        except KeyError as error:
            raise VoiceFailed(f"prompt {wording.prompt!r} was not prepared before the call") from error

    async def _load(self, wording: Wording) -> Prompt:
        recorded = self._recorded / wording.language / "audio" / f"{wording.prompt}.wav"
        cached = self._cache / f"{wording.key}.wav"
        is_recorded = recorded.exists()
        if is_recorded:
            samples = await asyncio.to_thread(read_wav, recorded, PROMPT_RATE)
        elif cached.exists():
            samples = await asyncio.to_thread(read_wav, cached, PROMPT_RATE)
        else:
            samples = _finish(await self._voice.speak(wording))
            await asyncio.to_thread(_write_wav, cached, samples)
        sha256 = hashlib.sha256(samples.astype("<i2").tobytes()).hexdigest()
        return Prompt(wording, samples, sha256, is_recorded)


class Voice:
    """espeak-ng in its own process, started at the first word and again when it has died."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def speak(self, wording: Wording) -> tuple[int, bytes]:
        """Sample rate and 16-bit samples. Raises VoiceMissing or VoiceFailed."""
        asked = {"text": wording.text, "voice": wording.voice, "words_per_minute": wording.words_per_minute}
        line = json.dumps(asked, ensure_ascii=False).encode() + b"\n"
        with contextlib.suppress(asyncio.IncompleteReadError):  # it has died since the last prompt
            return await self._ask(line)
        try:
            return await self._ask(line)
        except asyncio.IncompleteReadError as error:
            raise VoiceFailed(f"prompt {wording.prompt!r} ends the speaking process") from error

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "gateway.speech.espeak",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            try:
                await self._answer(self._process)
            except (VoiceFailed, asyncio.IncompleteReadError) as error:
                raise VoiceMissing(
                    f"{error}; install the voice: pip install 'consent-gateway[espeak]', or record prompts/<language>/audio/*.wav"
                ) from error
        return self._process

    async def _ask(self, line: bytes) -> tuple[int, bytes]:
        process = await self._running()
        assert process.stdin is not None
        process.stdin.write(line)
        return await self._answer(process)

    async def _answer(self, process: asyncio.subprocess.Process) -> tuple[int, bytes]:
        """Raises IncompleteReadError when the process has died."""
        assert process.stdout is not None
        try:
            async with asyncio.timeout(SPEAK_S):
                answer = json.loads(await process.stdout.readuntil(b"\n"))
                octets = await process.stdout.readexactly(int(answer.get("octets", 0)))
        except BaseException as error:
            self._process = None  # an answer that nobody took must never be taken for the next prompt's
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            if isinstance(error, TimeoutError):
                raise VoiceFailed("the speaking process hangs") from error
            raise
        if "error" in answer:
            raise VoiceFailed(str(answer["error"]))
        return int(answer["rate"]), octets


def read_wav(path: Path, rate: int = TELEPHONE_RATE) -> Pcm:
    """Samples at *rate* of a 16-bit WAV of any rate; its first channel. Raises VoiceFailed for any other file."""
    samples, own = read_wav_at_its_rate(path)
    return resample(samples, own, rate)


def read_wav_at_its_rate(path: Path) -> tuple[Pcm, int]:
    """Samples of a 16-bit WAV, its first channel, and their rate in Hz. Raises VoiceFailed for any other file."""
    try:
        with wave.open(io.BytesIO(path.read_bytes())) as file:
            if file.getsampwidth() != 2:
                raise VoiceFailed(f"{path}: {8 * file.getsampwidth()} bits a sample; 16 are read")
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")[:: file.getnchannels()]
            return samples.astype(np.int16), file.getframerate()
    except (OSError, wave.Error, EOFError) as error:
        raise VoiceFailed(f"{path}: no WAV file: {error}") from error


def resample(samples: Pcm, rate: int, wanted: int) -> Pcm:
    """*samples* at *rate*, brought to *wanted* samples a second."""
    return samples if rate == wanted else np.asarray(soxr.resample(samples, rate, wanted), np.int16)


def _finish(spoken: tuple[int, bytes]) -> Pcm:
    """16 kHz, trimmed of silence at both ends, at -22 dBFS active RMS, with a pause behind."""
    rate, octets = spoken
    samples = resample(np.frombuffer(octets, "<i2").astype(np.int16), rate, PROMPT_RATE)
    loud = np.flatnonzero(np.abs(samples) > _ACTIVE_LSB)
    if loud.size:
        samples = samples[loud[0] : loud[-1] + 1]
    active = samples[np.abs(samples) > _ACTIVE_LSB]
    gain = min(SPOKEN_RMS / max(rms(active), 1.0), _PEAK / max(1, int(np.abs(samples).max(initial=1))))
    level = np.rint(samples.astype(np.float64) * gain).astype(np.int16)
    return np.concatenate([level, np.zeros(PROMPT_RATE * PAUSE_MS // 1000, np.int16)])


def _write_wav(path: Path, samples: Pcm) -> None:
    part = path.with_suffix(".part")
    with wave.open(str(part), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(PROMPT_RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    part.replace(path)

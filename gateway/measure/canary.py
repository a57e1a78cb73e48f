"""Canaries: clips that every listening process must judge right before a call is taken.

``prompts/<language>/canary/<grammar>/<verdict>-<name>.wav``. They also warm the decoders: the first open decode of a process
takes a second longer than the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from gateway.consent.verdict import Judgement
from gateway.language.pack import LanguagePack
from gateway.measure.channel import Channel
from gateway.measure.listening import Clip, hear
from gateway.speech.errors import SpeechError
from gateway.speech.listener import Listener

LINE = Channel(codec="alaw")


class CanaryMisjudged(SpeechError):
    """The listener is not fit to take calls."""


@dataclass(frozen=True, slots=True)
class Canary:
    """One clip as one listening process judged it; *wanted* is the verdict that its name says."""

    path: Path
    wanted: str
    judgement: Judgement

    @property
    def fault(self) -> str:
        """Empty where it was judged right."""
        if self.judgement.verdict == self.wanted:
            return ""
        return (
            f"canary {self.path} was judged {self.judgement.verdict} ({self.judgement.reason}), not {self.wanted}; "
            "the model or intents.yaml has changed: see consent-gateway speech hear"
        )


def canary_clips(pack: LanguagePack, prompts: Path) -> list[Path]:
    """The clips of the language. Raises CanaryMisjudged for one of a grammar that is not there."""
    clips = sorted((prompts / pack.language / "canary").glob("*/*.wav"))
    for path in clips:
        if path.parent.name not in pack.grammars:
            raise CanaryMisjudged(f"canary {path}: there is no grammar {path.parent.name!r} in {pack.language}")
    return clips


async def judge_canaries(listener: Listener, pack: LanguagePack, prompts: Path) -> AsyncIterator[Canary]:
    """Every canary of the language as every process of *listener* judges it. Raises SpeechError."""
    for path in canary_clips(pack, prompts):
        wanted = path.stem.partition("-")[0]
        clip, grammar = Clip(path, "", wanted), pack.grammars[path.parent.name]
        for heard, _ in await asyncio.gather(*(hear(clip, listener, grammar, LINE) for _ in listener.pids)):
            yield Canary(path, wanted, heard.judgement)


async def check_canaries(listener: Listener, pack: LanguagePack, prompts: Path) -> int:
    """Have every process of *listener* judge every canary of the language; how many clips there are.

    Raises CanaryMisjudged naming clip, verdict and reason.
    """
    async for canary in judge_canaries(listener, pack, prompts):
        if canary.fault:
            raise CanaryMisjudged(canary.fault)
    return len(canary_clips(pack, prompts))

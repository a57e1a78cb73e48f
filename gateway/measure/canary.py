"""Canaries: clips that every listening process must judge right before a call is taken.

``prompts/<language>/canary/<grammar>/<verdict>-<name>.wav``. They also warm the decoders: the first open decode of a process
takes a second longer than the others.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.language.pack import LanguagePack
from gateway.measure.channel import Channel
from gateway.measure.listening import Clip, hear
from gateway.speech.errors import SpeechError
from gateway.speech.listener import Listener

LINE = Channel(codec="alaw")


class CanaryMisjudged(SpeechError):
    """The listener is not fit to take calls."""


async def check_canaries(listener: Listener, pack: LanguagePack, prompts: Path) -> int:
    """Have every process of *listener* judge every canary of the language; how many clips there are.

    Raises CanaryMisjudged naming clip, verdict and reason.
    """
    clips = sorted((prompts / pack.language / "canary").glob("*/*.wav"))
    for path in clips:
        grammar = pack.grammars.get(path.parent.name)
        if grammar is None:
            raise CanaryMisjudged(f"canary {path}: there is no grammar {path.parent.name!r} in {pack.language}")
        expected = path.stem.partition("-")[0]
        clip = Clip(path, "", expected)
        for heard, _ in await asyncio.gather(*(hear(clip, listener, grammar, LINE) for _ in listener.pids)):
            if heard.judgement.verdict != expected:
                raise CanaryMisjudged(
                    f"canary {path} was judged {heard.judgement.verdict} ({heard.judgement.reason}), not {expected}; "
                    "the model or intents.yaml has changed: see consent-gateway speech hear"
                )
    return len(clips)

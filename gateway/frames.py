"""Prompts cut into frames of the line's law, once and before the call; all calls share them (DESIGN §7)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from gateway.speech.prompts import Prompt
from gateway.telephony.g711 import SILENCE, Law, encode
from gateway.telephony.media import Frames, frames_of

MOST_KEPT = 2000
LAWS: tuple[Law, ...] = ("PCMA", "PCMU")


class FrameStore:
    """Frames by the prompt's content hash and the law; the least recently used are forgotten."""

    def __init__(self) -> None:
        self._frames: OrderedDict[tuple[str, Law], Frames] = OrderedDict()

    async def prepare(self, prompts: Iterable[Prompt]) -> None:
        """Encode what is missing, off the loop: it carries the media clock."""
        for prompt in prompts:
            for law in LAWS:
                key = prompt.sha256, law
                if key not in self._frames:
                    self._frames[key] = await asyncio.to_thread(_encode, prompt, law)
                self._frames.move_to_end(key)
                while len(self._frames) > MOST_KEPT:
                    self._frames.popitem(last=False)

    def get(self, prompt: Prompt, law: Law) -> Frames:
        """The frames of *prompt*; made on the spot if they were forgotten meanwhile."""
        return self._frames.get((prompt.sha256, law)) or _encode(prompt, law)


def _encode(prompt: Prompt, law: Law) -> Frames:
    return frames_of(encode(prompt.samples, law), SILENCE[law])

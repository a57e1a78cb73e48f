"""Prompts cut into frames of a line's codec, once and before the call; all calls share them (DESIGN §7)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable

from gateway.audio.codec import CODECS, SAMPLE_RATE, Codec, frames_of
from gateway.speech.prompts import PROMPT_RATE, Prompt, resample
from gateway.telephony.media import Frames

MOST_KEPT = 2000


class FrameStore:
    """Frames by the prompt's content hash and the codec; the least recently used are forgotten."""

    def __init__(self) -> None:
        self._frames: OrderedDict[tuple[str, Codec], Frames] = OrderedDict()

    async def prepare(self, prompts: Iterable[Prompt]) -> None:
        """Encode what is missing, off the loop: it carries the media clock."""
        for prompt in prompts:
            for codec in CODECS:
                key = prompt.sha256, codec
                if key not in self._frames:
                    self._frames[key] = await asyncio.to_thread(_encode, prompt, codec)
                self._frames.move_to_end(key)
                while len(self._frames) > MOST_KEPT:
                    self._frames.popitem(last=False)

    def get(self, prompt: Prompt, codec: Codec) -> Frames:
        """The frames of *prompt*; made on the spot if they were forgotten meanwhile."""
        return self._frames.get((prompt.sha256, codec)) or _encode(prompt, codec)


def _encode(prompt: Prompt, codec: Codec) -> Frames:
    return frames_of(resample(prompt.samples, PROMPT_RATE, SAMPLE_RATE[codec]), codec)

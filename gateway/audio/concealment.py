"""What stands in for audio that was lost: the last frame fading away, or the far end's own comfort noise."""

from __future__ import annotations

from functools import cache

import numpy as np

from gateway.audio import g711
from gateway.audio.codec import FRAME, Codec, silence

FADE = (0.7, 0.4, 0.15)
"""How loud each 20 ms of a gap is; from 60 ms on it is silence: what nobody said must not sound like speech."""

_NOISE_VARIANTS = 8
_QUIETEST_DB = 78
_LOUDEST = 32767


def conceal(codec: Codec, last: bytes, octets: int) -> bytes:
    """*octets* that go on from the frame *last*. G.722 cannot be scaled in its code: it is repeated once."""
    made = bytearray()
    if len(last) == FRAME:
        if codec == "G722":
            made += last
        else:
            samples = g711.decode(last, codec).astype(np.float32)
            for gain in FADE[: -(-octets // FRAME)]:
                made += g711.encode((samples * gain).astype(np.int16), codec)
    while len(made) < octets:
        made += silence(codec)
    return bytes(made[:octets])


def comfort(codec: Codec, level_db: int, number: int) -> bytes:
    """The frame *number* of noise at -*level_db* dBov (RFC 3389 §3.1); silence for G.722."""
    if codec == "G722" or level_db >= _QUIETEST_DB:
        return silence(codec)
    return _noise(codec, level_db)[number % _NOISE_VARIANTS]


@cache
def _noise(codec: g711.Law, level_db: int) -> tuple[bytes, ...]:
    noise = np.random.default_rng(level_db).normal(0, 32768 * 10 ** (-level_db / 20), FRAME * _NOISE_VARIANTS)
    octets = g711.encode(np.clip(noise, -32768, 32767).astype(np.int16), codec)
    return tuple(octets[start : start + FRAME] for start in range(0, len(octets), FRAME))


def peak(codec: Codec, frame: bytes) -> int:
    """The loudest sample of a *frame*; of G.722, whose code does not tell, none where it is our own silence and else all."""
    if codec == "G722":
        return 0 if frame == silence(codec) else _LOUDEST
    return int(np.abs(g711.decode(frame, codec).astype(np.int32)).max(initial=0))

"""The codecs of a call: G.722 (16 kHz) and both laws of G.711 (8 kHz). Each puts 20 ms into 160 octets at an RTP clock of 8 kHz.

Coders keep state from frame to frame: one for each direction of a call.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Literal, Protocol, get_args

import numpy as np
from G722 import G722

from gateway.audio import g711
from gateway.audio.g711 import Samples

Codec = Literal["G722", "PCMA", "PCMU"]
CODECS: tuple[Codec, ...] = get_args(Codec)
"""In the order of preference: wideband doubles what the listener hears."""

STATIC_TYPES: dict[Codec, int] = {"G722": 9, "PCMA": 8, "PCMU": 0}
"""RFC 3551 §6."""

SAMPLE_RATE: dict[Codec, int] = {"G722": 16_000, "PCMA": 8000, "PCMU": 8000}
"""Samples a second of the audio inside."""

CLOCK_RATE = 8000
"""RTP timestamps a second, for G.722 as well (RFC 3551 §4.5.2)."""

FRAME = 160
"""Octets in 20 ms, and units of the RTP clock."""

FRAME_MS = 20
_G722_BITS = 64_000


class Decoder(Protocol):
    def decode(self, octets: bytes | bytearray) -> Samples:
        """Samples at the codec's own rate."""
        ...


class Encoder(Protocol):
    def encode(self, samples: Samples) -> bytes:
        """Octets of *samples* at the codec's own rate."""
        ...


class _G711:
    def __init__(self, law: g711.Law) -> None:
        self._law = law

    def decode(self, octets: bytes | bytearray) -> Samples:
        return g711.decode(octets, self._law)

    def encode(self, samples: Samples) -> bytes:
        return g711.encode(samples, self._law)


class _G722:
    def __init__(self) -> None:
        self._coder = G722(SAMPLE_RATE["G722"], _G722_BITS)

    def decode(self, octets: bytes | bytearray) -> Samples:
        return np.asarray(self._coder.decode(bytes(octets)), np.int16)

    def encode(self, samples: Samples) -> bytes:
        return bytes(self._coder.encode(np.ascontiguousarray(samples, np.int16)))


def decoder(codec: Codec) -> Decoder:
    return _G722() if codec == "G722" else _G711(codec)


def encoder(codec: Codec) -> Encoder:
    return _G722() if codec == "G722" else _G711(codec)


@cache
def silence(codec: Codec) -> bytes:
    """One frame of silence. Of G.722, the frame that its encoder settles on."""
    if codec != "G722":
        return g711.SILENCE[codec] * FRAME
    settled = encoder(codec).encode(np.zeros(SAMPLE_RATE[codec], np.int16))
    return settled[-FRAME:]


def frames_of(samples: Samples, codec: Codec) -> tuple[bytes, ...]:
    """*samples*, at the codec's rate, as 20 ms frames; the last one is filled up with silence."""
    whole = SAMPLE_RATE[codec] * FRAME_MS // 1000
    rest = -samples.size % whole
    octets = encoder(codec).encode(np.concatenate([samples, np.zeros(rest, np.int16)]) if rest else samples)
    return tuple(_cut(octets))


def _cut(octets: bytes) -> Iterator[bytes]:
    for start in range(0, len(octets), FRAME):
        yield octets[start : start + FRAME]

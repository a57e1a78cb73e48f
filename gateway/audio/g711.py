"""ITU-T G.711 by tables: octets to 16-bit samples and back, A-law and mu-law, bit exact both ways."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Law = Literal["PCMA", "PCMU"]
Samples = NDArray[np.int16]
SAMPLE_RATE = 8000


def _alaw_to_linear() -> Samples:
    code = np.arange(256) ^ 0x55
    exponent, mantissa = (code >> 4) & 7, code & 15
    magnitude = np.where(exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _ulaw_to_linear() -> Samples:
    code = ~np.arange(256) & 0xFF
    magnitude = (((code & 15) << 3) + 0x84 << ((code >> 4) & 7)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _linear_to_alaw() -> NDArray[np.uint8]:
    pcm = np.arange(-32768, 32768) >> 3
    sign = np.where(pcm >= 0, 0xD5, 0x55)
    pcm = np.where(pcm >= 0, pcm, -pcm - 1)
    exponent = np.maximum(np.floor(np.log2(np.maximum(pcm, 1))).astype(int) - 4, 0)
    mantissa = np.where(exponent < 2, pcm >> 1, pcm >> np.maximum(exponent, 1)) & 15
    return np.asarray((exponent << 4 | mantissa) ^ sign, np.uint8)


def _linear_to_ulaw() -> NDArray[np.uint8]:
    pcm = np.arange(-32768, 32768) >> 2
    sign = np.where(pcm < 0, 0x80, 0)
    magnitude = np.minimum(np.abs(pcm), 8158) + 33
    exponent = np.floor(np.log2(magnitude)).astype(int) - 5
    mantissa = (magnitude >> (exponent + 1)) & 15
    return np.asarray(~(sign | exponent << 4 | mantissa) & 0xFF, np.uint8)


_DECODE: dict[Law, Samples] = {"PCMA": _alaw_to_linear(), "PCMU": _ulaw_to_linear()}
_ENCODE: dict[Law, NDArray[np.uint8]] = {"PCMA": _linear_to_alaw(), "PCMU": _linear_to_ulaw()}
SILENCE: dict[Law, bytes] = {"PCMA": b"\xd5", "PCMU": b"\xff"}


def decode(octets: bytes | bytearray, law: Law) -> Samples:
    """Samples, one per octet."""
    return _DECODE[law][np.frombuffer(octets, np.uint8)]


def encode(samples: Samples, law: Law) -> bytes:
    """Octets, one per sample."""
    return _ENCODE[law][samples.astype(np.int32) + 32768].tobytes()

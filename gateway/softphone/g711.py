"""ITU-T G.711 A-law and mu-law, 16-bit linear in and out.

The encoders follow the ITU's own reference software (ITU-T G.191, ``g711.c``),
which forms the magnitude by one's complement; a sample exactly on a decision
value therefore goes to the upper neighbour, which G.711 leaves open.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.int16]
SAMPLE_RATE = 8000
FRAME_SAMPLES = 160
"""Samples in one 20 ms frame."""


def _every_sample() -> npt.NDArray[np.int32]:
    """All 65536 16-bit samples in the order of their unsigned bit patterns."""
    return np.arange(65536, dtype=np.uint16).view(np.int16).astype(np.int32)


def _alaw_encode_table() -> npt.NDArray[np.uint8]:
    linear = _every_sample()
    magnitude = np.where(linear < 0, ~linear, linear) >> 4
    segment = np.searchsorted([31, 63, 127, 255, 511, 1023], magnitude, side="left")
    code = (magnitude >> segment) - 16 + ((segment + 1) << 4)
    code = np.where(linear >= 0, code | 0x80, code) ^ 0x55
    return code.astype(np.uint8)


def _alaw_decode_table() -> Samples:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent = (code >> 4) & 7
    low = ((code & 0xF) << 4) + 8
    high = (low + 0x100) << np.maximum(exponent - 1, 0)
    magnitude = np.where(exponent == 0, low, high)
    signed: Samples = np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)
    return signed


def _ulaw_encode_table() -> npt.NDArray[np.uint8]:
    linear = _every_sample()
    biased = (np.where(linear < 0, ~linear, linear) >> 2) + 33
    biased = np.minimum(biased, 0x1FFF)
    segment = 1 + np.searchsorted([63, 127, 255, 511, 1023, 2047, 4095], biased, side="left")
    code = ((8 - segment) << 4) | (0xF - ((biased >> segment) & 0xF))
    table: npt.NDArray[np.uint8] = np.where(linear >= 0, code | 0x80, code).astype(np.uint8)
    return table


def _ulaw_decode_table() -> Samples:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    exponent = (code >> 4) & 7
    magnitude = ((((code & 0xF) << 3) + 0x84) << exponent) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


_ALAW_ENCODE = _alaw_encode_table()
_ALAW_DECODE = _alaw_decode_table()
_ULAW_ENCODE = _ulaw_encode_table()
_ULAW_DECODE = _ulaw_decode_table()


def alaw_encode(samples: Samples) -> bytes:
    """One A-law byte for each 16-bit sample."""
    return _ALAW_ENCODE[samples.view(np.uint16)].tobytes()


def alaw_decode(payload: bytes) -> Samples:
    """One 16-bit sample for each A-law byte."""
    return _ALAW_DECODE[np.frombuffer(payload, dtype=np.uint8)]


def ulaw_encode(samples: Samples) -> bytes:
    """One mu-law byte for each 16-bit sample."""
    return _ULAW_ENCODE[samples.view(np.uint16)].tobytes()


def ulaw_decode(payload: bytes) -> Samples:
    """One 16-bit sample for each mu-law byte."""
    return _ULAW_DECODE[np.frombuffer(payload, dtype=np.uint8)]


ENCODERS: dict[str, Callable[[Samples], bytes]] = {"PCMA": alaw_encode, "PCMU": ulaw_encode}
DECODERS: dict[str, Callable[[bytes], Samples]] = {"PCMA": alaw_decode, "PCMU": ulaw_decode}
STATIC_PAYLOADS = {"PCMA": 8, "PCMU": 0}
"""RTP payload numbers fixed by RFC 3551, table 4."""

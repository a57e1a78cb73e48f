"""ITU-T G.711: bit exact against CPython's own implementation, while there is one."""

from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest

from gateway.audio.g711 import SILENCE, Law, decode, encode

ALL_CODES = bytes(range(256))
ALL_SAMPLES = np.arange(-32768, 32768, dtype=np.int16)
ORACLE: dict[Law, tuple] = {}
if sys.version_info < (3, 13):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import audioop
    ORACLE = {"PCMA": (audioop.alaw2lin, audioop.lin2alaw), "PCMU": (audioop.ulaw2lin, audioop.lin2ulaw)}
LAWS: tuple[Law, ...] = ("PCMA", "PCMU")


@pytest.mark.skipif(not ORACLE, reason="audioop left the standard library in 3.13")
class TestAgainstAudioop:
    @pytest.mark.parametrize("law", LAWS)
    def test_every_code_decodes_bit_exactly(self, law: Law) -> None:
        assert ORACLE[law][0](ALL_CODES, 2) == decode(ALL_CODES, law).tobytes()

    @pytest.mark.parametrize("law", LAWS)
    def test_every_sample_encodes_bit_exactly(self, law: Law) -> None:
        assert ORACLE[law][1](ALL_SAMPLES.tobytes(), 2) == encode(ALL_SAMPLES, law)


def test_every_a_law_code_survives_the_round_trip() -> None:
    assert ALL_CODES == encode(decode(ALL_CODES, "PCMA"), "PCMA")


def test_every_mu_law_code_survives_the_round_trip_but_negative_zero() -> None:
    """0x7F and 0xFF both mean 0; the encoder knows only the positive one."""
    assert ALL_CODES.replace(b"\x7f", b"\xff") == encode(decode(ALL_CODES, "PCMU"), "PCMU")


@pytest.mark.parametrize(
    ("law", "code", "sample"),
    [("PCMA", 0xD5, 8), ("PCMA", 0x55, -8), ("PCMA", 0xAA, 32256), ("PCMA", 0x2A, -32256),
     ("PCMU", 0xFF, 0), ("PCMU", 0x80, 32124), ("PCMU", 0x00, -32124)],
)  # fmt: skip
def test_the_ends_and_the_middle_of_the_scale(law: Law, code: int, sample: int) -> None:
    assert [sample] == decode(bytes([code]), law).tolist()


@pytest.mark.parametrize("law", LAWS)
def test_the_polarity_is_kept(law: Law) -> None:
    loud = np.array([-20000, 20000], np.int16)
    assert [-1, 1] == np.sign(decode(encode(loud, law), law)).tolist()


@pytest.mark.parametrize("law", LAWS)
def test_the_error_is_at_most_half_a_step(law: Law) -> None:
    """The greatest step is 1024; mu-law first drops two bits, so 3 more, and clips at 32635."""
    error = np.abs(decode(encode(ALL_SAMPLES, law), law).astype(int) - ALL_SAMPLES)
    assert error.max() <= 644
    assert error[np.abs(ALL_SAMPLES.astype(int)) < 32000].max() <= 515


@pytest.mark.parametrize("law", LAWS)
def test_silence_is_the_quietest_code(law: Law) -> None:
    assert [np.abs(decode(ALL_CODES, law).astype(int)).min()] == np.abs(decode(SILENCE[law], law)).tolist()


@pytest.mark.parametrize("law", LAWS)
def test_nothing_is_nothing(law: Law) -> None:
    assert 0 == len(decode(b"", law))
    assert b"" == encode(np.array([], np.int16), law)

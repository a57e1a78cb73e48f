"""The codecs of a call: G.722 and both laws of G.711, 20 ms in 160 octets each (RFC 3551 §4.5.2, §6)."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.audio import g711
from gateway.audio.codec import (
    CLOCK_RATE,
    CODECS,
    FRAME,
    FRAME_MS,
    SAMPLE_RATE,
    STATIC_TYPES,
    Codec,
    decoder,
    encoder,
    frames_of,
    silence,
)
from gateway.audio.g711 import Samples


def tone(codec: Codec, seconds: float = 0.5, hertz: int = 400, amplitude: int = 8000) -> Samples:
    rate = SAMPLE_RATE[codec]
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.int16)


def test_wideband_is_preferred_and_then_the_law_of_europe() -> None:
    assert ("G722", "PCMA", "PCMU") == CODECS


def test_the_payload_types_are_those_of_rfc_3551_section_6() -> None:
    assert {"G722": 9, "PCMA": 8, "PCMU": 0} == STATIC_TYPES


@pytest.mark.parametrize("codec", CODECS)
class TestEach:
    def test_a_frame_is_20_ms_of_samples_in_160_octets(self, codec: Codec) -> None:
        samples = tone(codec, FRAME_MS / 1000)
        octets = encoder(codec).encode(samples)
        assert (FRAME, samples.size) == (len(octets), decoder(codec).decode(octets).size)
        assert FRAME == CLOCK_RATE * FRAME_MS // 1000

    def test_a_tone_survives_with_little_noise(self, codec: Codec) -> None:
        sent = tone(codec)
        heard = decoder(codec).decode(encoder(codec).encode(sent)).astype(float)
        best = max(np.corrcoef(sent[: sent.size - lag], heard[lag : lag + sent.size - lag])[0, 1] for lag in range(64))
        assert best > 0.99

    def test_frame_by_frame_is_the_same_as_all_at_once(self, codec: Codec) -> None:
        """The state of the coder goes from frame to frame."""
        octets = encoder(codec).encode(tone(codec))
        whole, piecewise = decoder(codec), decoder(codec)
        pieces = [piecewise.decode(octets[start : start + FRAME]) for start in range(0, len(octets), FRAME)]
        assert whole.decode(octets).tolist() == np.concatenate(pieces).tolist()

    def test_two_coders_share_no_state(self, codec: Codec) -> None:
        octets = encoder(codec).encode(tone(codec))
        used, fresh = decoder(codec), decoder(codec)
        used.decode(octets)
        assert decoder(codec).decode(octets).tolist() == fresh.decode(octets).tolist()

    def test_silence_is_one_frame_that_goes_on_as_silence(self, codec: Codec) -> None:
        assert FRAME == len(silence(codec))
        assert np.abs(decoder(codec).decode(silence(codec) * 50).astype(int)).max() <= 16

    def test_nothing_is_nothing(self, codec: Codec) -> None:
        assert 0 == decoder(codec).decode(b"").size
        assert () == frames_of(np.zeros(0, np.int16), codec)


class TestFrames:
    """What prompts are cut into, once for all calls."""

    @pytest.mark.parametrize("codec", CODECS)
    def test_whole_frames_are_the_encoded_samples(self, codec: Codec) -> None:
        samples = tone(codec, 0.1)
        frames = frames_of(samples, codec)
        assert [FRAME] * 5 == [len(frame) for frame in frames]
        assert encoder(codec).encode(samples) == b"".join(frames)

    @pytest.mark.parametrize("codec", CODECS)
    def test_the_last_frame_is_filled_up_with_silence(self, codec: Codec) -> None:
        whole = SAMPLE_RATE[codec] * FRAME_MS // 1000
        assert [FRAME] * 2 == [len(frame) for frame in frames_of(tone(codec, 0.1)[: whole + 1], codec)]

    @pytest.mark.parametrize("law", ["PCMA", "PCMU"])
    def test_of_g711_the_filling_decodes_as_zero(self, law: g711.Law) -> None:
        (frame,) = frames_of(np.full(40, 8000, np.int16), law)
        heard = decoder(law).decode(frame)
        assert heard[39] > 7000
        assert np.abs(heard[40:]).max() <= 8

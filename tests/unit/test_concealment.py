"""What stands in for audio that was lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio.codec import CODECS, FRAME, Codec, encoder, silence
from gateway.audio.concealment import FADE, comfort, conceal, peak
from gateway.audio.g711 import Law, decode, encode

LAWS: tuple[Law, ...] = ("PCMA", "PCMU")
LOUD = np.full(FRAME, 10_000, np.int16)


class TestConcealing:
    @pytest.mark.parametrize("law", LAWS)
    def test_the_last_frame_fades_away_in_60_ms(self, law: Law) -> None:
        made = decode(conceal(law, encode(LOUD, law), 4 * FRAME), law).astype(float).reshape(4, FRAME)
        loud = float(decode(encode(LOUD, law), law)[0])
        assert [*FADE, 0.0] == pytest.approx([block.mean() / loud for block in made], abs=0.03)

    @pytest.mark.parametrize("law", LAWS)
    def test_then_it_is_silence(self, law: Law) -> None:
        made = conceal(law, encode(LOUD, law), 10 * FRAME)
        assert silence(law) * 7 == made[3 * FRAME :]

    def test_g722_is_repeated_once_for_its_code_cannot_be_scaled(self) -> None:
        last = encoder("G722").encode(np.full(2 * FRAME, 5000, np.int16))
        assert last + silence("G722") * 2 == conceal("G722", last, 3 * FRAME)

    @pytest.mark.parametrize("codec", CODECS)
    @pytest.mark.parametrize("last", [b"", b"\x11" * 80])
    def test_without_a_whole_frame_before_it_is_silence(self, codec: Codec, last: bytes) -> None:
        assert silence(codec) * 2 == conceal(codec, last, 2 * FRAME)

    @given(st.sampled_from(CODECS), st.binary(max_size=FRAME), st.integers(0, 3000))
    def test_it_is_as_long_as_asked(self, codec: Codec, last: bytes, octets: int) -> None:
        assert octets == len(conceal(codec, last, octets))


class TestComfortNoise:
    """RFC 3389 §3.1."""

    @pytest.mark.parametrize("law", LAWS)
    @pytest.mark.parametrize("level_db", [20, 40, 55])
    def test_it_is_as_loud_as_the_far_end_says(self, law: Law, level_db: int) -> None:
        noise = np.concatenate([decode(comfort(law, level_db, number), law) for number in range(8)]).astype(float)
        assert -level_db == pytest.approx(20 * np.log10(np.sqrt((noise**2).mean()) / 32768), abs=1.5)

    def test_each_frame_differs_from_the_next(self) -> None:
        frames = [comfort("PCMA", 40, number) for number in range(8)]
        assert 8 == len(set(frames))

    def test_it_goes_round(self) -> None:
        assert comfort("PCMA", 40, 3) == comfort("PCMA", 40, 8_000_003)

    @pytest.mark.parametrize("level_db", [78, 100, 127])
    def test_what_nobody_could_hear_is_silence(self, level_db: int) -> None:
        assert silence("PCMU") == comfort("PCMU", level_db, 1)

    def test_of_g722_it_is_silence(self) -> None:
        assert silence("G722") == comfort("G722", 30, 1)

    @pytest.mark.parametrize("level_db", [0, 1, 30, 77, 127])
    @pytest.mark.parametrize("codec", CODECS)
    def test_it_is_a_frame_at_any_level(self, codec: Codec, level_db: int) -> None:
        assert FRAME == len(comfort(codec, level_db, 5))


class TestPeak:
    @pytest.mark.parametrize("law", LAWS)
    def test_it_is_the_loudest_sample_of_either_sign(self, law: Law) -> None:
        samples = np.zeros(FRAME, np.int16)
        samples[7] = -20_000
        assert abs(int(decode(encode(samples, law), law)[7])) == peak(law, encode(samples, law))

    def test_the_most_negative_sample_does_not_overflow(self) -> None:
        loudest = bytes([0x2A]) * FRAME
        assert 32_256 == peak("PCMA", loudest)

    def test_the_code_of_g722_tells_silence_alone(self) -> None:
        loud = encoder("G722").encode(np.full(2 * FRAME, 9000, np.int16))
        assert (0, 32767) == (peak("G722", silence("G722")), peak("G722", loud))

    def test_nothing_is_quiet(self) -> None:
        assert 0 == peak("PCMA", b"")

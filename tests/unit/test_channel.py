"""What a telephone line does to a voice, from a fixed seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audio.g711 import decode, encode
from gateway.measure.channel import Channel, Codec, Noise, parse_channel
from gateway.speech.frontend import MODEL_RATE, TELEPHONE_RATE, Pcm, rms
from gateway.speech.prompts import read_wav_at_its_rate

CORPUS = Path(__file__).parents[1] / "speech/corpus"
VOICE, _ = read_wav_at_its_rate(CORPUS / "mix/ne-donguihapnida.wav")
WIDE, _ = read_wav_at_its_rate(CORPUS / "wideband/mix-ne-donguihapnida.wav")
PACKET = TELEPHONE_RATE // 50


def tone(hertz: float, rate: int = TELEPHONE_RATE) -> Pcm:
    return np.rint(8000 * np.sin(2 * np.pi * hertz * np.arange(rate) / rate)).astype(np.int16)


def added(channel: Channel) -> np.ndarray:
    """What *channel* adds to a constant sound: its noise."""
    there = np.full(10 * TELEPHONE_RATE, 8000, np.int16)
    return channel.apply(there, TELEPHONE_RATE)[0].astype(np.float64) - there


def power(samples: np.ndarray, low_hz: float, high_hz: float) -> float:
    spectrum, hertz = np.fft.rfft(samples), np.fft.rfftfreq(samples.size, 1 / TELEPHONE_RATE)
    return float(np.sum(np.square(np.abs(spectrum[(hertz >= low_hz) & (hertz < high_hz)]))))


class TestTheRateAtWhichSoundArrives:
    @pytest.mark.parametrize(
        ("expected", "codec", "rate"),
        [
            (8000, "alaw", 8000), (8000, "alaw", 16_000), (8000, "ulaw", 48_000), (16_000, "g722", 8000),
            (16_000, "g722", 16_000), (8000, "none", 8000), (16_000, "none", 16_000), (16_000, "none", 48_000),
            (8000, "none", 11_025),
        ],
    )  # fmt: skip
    def test_it_is_the_codecs(self, expected: int, codec: Codec, rate: int) -> None:
        pcm, arriving = Channel(codec=codec).apply(tone(1000, rate), rate)
        assert (expected, expected) == (arriving, pytest.approx(pcm.size, abs=2))


class TestCodecs:
    def test_without_one_the_samples_arrive_as_they_were(self) -> None:
        assert np.array_equal(VOICE, Channel().apply(VOICE, TELEPHONE_RATE)[0])

    @pytest.mark.parametrize(("codec", "payload"), [("alaw", "PCMA"), ("ulaw", "PCMU")])
    def test_g711_is_the_gateways_own(self, codec: Codec, payload: str) -> None:
        expected = decode(encode(VOICE, payload), payload)  # type: ignore[arg-type]
        assert np.array_equal(expected, Channel(codec=codec).apply(VOICE, TELEPHONE_RATE)[0])

    def test_g722_carries_what_a_telephone_cannot(self) -> None:
        high = tone(6000, MODEL_RATE)
        wide, _ = Channel(codec="g722").apply(high, MODEL_RATE)
        narrow, _ = Channel(codec="alaw").apply(high, MODEL_RATE)
        assert rms(wide) > 0.5 * rms(high)
        assert rms(narrow) < 0.01 * rms(high)

    def test_g722_keeps_a_voice_and_does_not_keep_its_samples(self) -> None:
        coded, _ = Channel(codec="g722").apply(WIDE, MODEL_RATE)
        assert rms(WIDE) == pytest.approx(rms(coded), rel=0.05)
        assert not np.array_equal(WIDE[: coded.size], coded)

    def test_g722_takes_an_odd_number_of_samples(self) -> None:
        assert WIDE[:1001].size - 1 == Channel(codec="g722").apply(WIDE[:1001], MODEL_RATE)[0].size


class TestTheBand:
    @pytest.mark.parametrize(("share", "hertz"), [(0.0, 100), (1.0, 1000), (0.0, 3800)])
    def test_only_300_to_3400_hz_pass_where_it_is_narrow(self, share: float, hertz: float) -> None:
        assert share == pytest.approx(
            rms(Channel(narrow=True).apply(tone(hertz), TELEPHONE_RATE)[0]) / rms(tone(hertz)), abs=0.01
        )

    def test_all_passes_where_it_is_not(self) -> None:
        assert np.array_equal(tone(100), Channel().apply(tone(100), TELEPHONE_RATE)[0])


class TestLostPackets:
    def test_so_many_of_100_become_silence(self) -> None:
        pcm, _ = Channel(loss=0.1).apply(np.full(1000 * PACKET, 5000, np.int16), TELEPHONE_RATE)
        silent = [not packet.any() for packet in pcm.reshape(-1, PACKET)]
        assert 0.1 == pytest.approx(np.mean(silent), abs=0.03)

    def test_a_packet_is_lost_whole_or_not_at_all(self) -> None:
        pcm, _ = Channel(loss=0.3).apply(np.full(1000 * PACKET, 5000, np.int16), TELEPHONE_RATE)
        assert {0, PACKET} == {np.count_nonzero(packet) for packet in pcm.reshape(-1, PACKET)}

    def test_it_arrives_as_long_as_it_was(self) -> None:
        assert VOICE.size == Channel(loss=0.5).apply(VOICE, TELEPHONE_RATE)[0].size


class TestNoise:
    @pytest.mark.parametrize("noise", ["white", "pink", "brown"])
    @pytest.mark.parametrize("snr_db", [0, 10, 20])
    def test_the_voice_is_so_many_db_above_it(self, snr_db: float, noise: Noise) -> None:
        level = 20 * np.log10(8000 / rms(np.rint(added(Channel(snr_db=snr_db, noise=noise))).astype(np.int16)))
        assert snr_db == pytest.approx(level, abs=0.3)

    def test_silence_around_the_voice_does_not_count(self) -> None:
        """The level is that of what is said, however long nothing is."""
        around = np.concatenate([np.zeros(80_000, np.int16), VOICE, np.zeros(80_000, np.int16)])
        noisy, _ = Channel(snr_db=20).apply(around, TELEPHONE_RATE)
        active = VOICE[np.abs(VOICE.astype(np.int32)) > 0.1 * np.abs(VOICE.astype(np.int32)).max()]
        assert rms(active) / 10 == pytest.approx(rms(noisy[:80_000]), rel=0.05)

    @pytest.mark.parametrize(("falls_by", "noise"), [(0, "white"), (3, "pink"), (6, "brown")])
    def test_its_colour_is_how_it_falls_in_an_octave(self, falls_by: float, noise: Noise) -> None:
        sound = added(Channel(snr_db=10, noise=noise))
        each_hertz = [power(sound, low, 2 * low) / low for low in (500, 1000)]
        assert falls_by == pytest.approx(10 * np.log10(each_hertz[0] / each_hertz[1]), abs=0.5)


@pytest.mark.parametrize("codec", ["none", "alaw", "ulaw", "g722"])
def test_the_same_seed_does_the_same_and_another_another(codec: Codec) -> None:
    channel = Channel(codec=codec, loss=0.1, snr_db=15, noise="pink")
    once, again = (channel.apply(VOICE, TELEPHONE_RATE)[0] for _ in range(2))
    assert np.array_equal(once, again)
    assert not np.array_equal(once, replace(channel, seed=2).apply(VOICE, TELEPHONE_RATE)[0])


def test_the_samples_that_were_given_are_left_alone() -> None:
    before = VOICE.copy()
    Channel(codec="none", loss=0.5, snr_db=0).apply(VOICE, TELEPHONE_RATE)
    assert np.array_equal(before, VOICE)


def test_what_is_too_loud_is_clipped_and_never_wraps_around() -> None:
    pcm, _ = Channel(snr_db=0).apply(np.full(8000, 32767, np.int16), TELEPHONE_RATE)
    assert np.median(pcm) > 30_000


class TestTheNotation:
    @pytest.mark.parametrize(
        ("expected", "text"),
        [
            (Channel(), ""),
            (Channel(codec="alaw"), "alaw"),
            (Channel(codec="g722"), "g722"),
            (Channel(narrow=True, codec="ulaw"), "ulaw,nb"),
            (Channel(loss=0.02), "pl2"),
            (Channel(snr_db=20), "snr20"),
            (Channel(snr_db=5, noise="brown"), "snr5-brown"),
            (Channel("alaw", narrow=True, loss=0.1, snr_db=15, noise="pink"), "alaw,nb,pl10,snr15-pink"),
        ],
    )
    def test_a_line_is_told_in_parts(self, expected: Channel, text: str) -> None:
        assert expected == parse_channel(text)

    @pytest.mark.parametrize("part", ["opus", "pl", "plx", "snr", "snr-5", "snr20-red", "snr20 ", "NB", " nb", "pl²"])
    def test_a_part_that_means_nothing_is_named(self, part: str) -> None:
        with pytest.raises(ValueError, match=rf"^channel '{part}' is none of alaw, ulaw, g722, nb, plN"):
            parse_channel(f"alaw,{part}")

    @given(st.text())
    def test_nonsense_is_refused_in_words(self, text: str) -> None:
        with pytest.raises(ValueError, match="is none of alaw"):
            parse_channel("x" + text)

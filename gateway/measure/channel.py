"""What a telephone line does to a voice: codec, band limits, lost packets, noise; from a fixed seed."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import soxr
from numpy.typing import NDArray

from gateway.audio.codec import Codec as CallCodec
from gateway.audio.codec import decoder, encoder
from gateway.speech.frontend import MODEL_RATE, TELEPHONE_RATE, Pcm, rms

PACKETS_A_SECOND = 50
BAND_HZ = (300.0, 3400.0)
Codec = Literal["none", "alaw", "ulaw", "g722"]
Noise = Literal["white", "pink", "brown"]
_FALL: dict[Noise, float] = {"white": 0.0, "pink": -0.5, "brown": -1.0}
_ACTIVE = 0.1
_CODECS: dict[Codec, CallCodec] = {"alaw": "PCMA", "ulaw": "PCMU", "g722": "G722"}
_SNR = re.compile(r"snr(\d+)(?:-(white|pink|brown))?")


@dataclass(frozen=True, slots=True)
class Channel:
    """*loss* is the share of 20 ms packets that become silence; *snr_db* the *noise* under the active speech."""

    codec: Codec = "none"
    narrow: bool = False
    loss: float = 0.0
    snr_db: float | None = None
    noise: Noise = "white"
    seed: int = 1

    def apply(self, samples: Pcm, rate: int) -> tuple[Pcm, int]:
        """*samples* at *rate* as they arrive, and the rate at which they do: G.722 carries 16 kHz, G.711 carries 8; without
        a codec it stays at 16 where it is at least that, and else is 8.
        """
        random = np.random.default_rng(self.seed)
        wide = self.codec == "g722" or (self.codec == "none" and rate >= MODEL_RATE)
        arriving = MODEL_RATE if wide else TELEPHONE_RATE
        signal = soxr.resample(samples.astype(np.float64), rate, arriving)
        if self.snr_db is not None:
            level = max(1.0, rms(samples[np.abs(samples) > _ACTIVE * max(1, int(np.abs(samples).max(initial=0)))]))
            signal = signal + _noise(self.noise, signal.size, random) * level / 10 ** (self.snr_db / 20)
        if self.narrow:
            spectrum, hertz = np.fft.rfft(signal), np.fft.rfftfreq(signal.size, 1 / arriving)
            spectrum[(hertz < BAND_HZ[0]) | (hertz > BAND_HZ[1])] = 0
            signal = np.fft.irfft(spectrum, signal.size)
        pcm: Pcm = self._coded(np.clip(np.rint(signal), -32768, 32767).astype(np.int16))
        packet = arriving // PACKETS_A_SECOND
        for start in range(0, pcm.size if self.loss else 0, packet):
            if random.random() < self.loss:
                pcm[start : start + packet] = 0
        return pcm, arriving

    def _coded(self, pcm: Pcm) -> Pcm:
        """A copy of *pcm* as it comes out of the codec; G.722 takes pairs of samples."""
        if self.codec == "none":
            return pcm.copy()
        codec = _CODECS[self.codec]
        pairs = pcm[: pcm.size // 2 * 2] if codec == "G722" else pcm
        return decoder(codec).decode(encoder(codec).encode(pairs)).copy()


def _noise(kind: Noise, size: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Noise of power 1: pink falls by 3 dB an octave, brown by 6."""
    spectrum = np.fft.rfft(random.normal(size=size))
    hertz = np.maximum(np.fft.rfftfreq(size), 1 / size)
    noise = np.fft.irfft(spectrum * hertz ** _FALL[kind], size)
    level: NDArray[np.float64] = noise / np.sqrt(np.mean(np.square(noise)))
    return level


def parse_channel(text: str) -> Channel:
    """``alaw,nb,pl2,snr20-pink``: any of alaw, ulaw, g722, nb (300 to 3400 Hz), plN (per cent of packets lost), snrN, snrN-pink,
    snrN-brown (dB). Raises ValueError naming the part.
    """
    channel = Channel()
    for part in filter(None, text.split(",")):
        if part in ("alaw", "ulaw", "g722"):
            channel = replace(channel, codec=part)  # type: ignore[arg-type]
        elif part == "nb":
            channel = replace(channel, narrow=True)
        elif part.startswith("pl") and part[2:].isdecimal():
            channel = replace(channel, loss=int(part[2:]) / 100)
        elif found := _SNR.fullmatch(part):
            channel = replace(channel, snr_db=float(found[1]), noise=found[2] or "white")  # type: ignore[arg-type]
        else:
            raise ValueError(f"channel {part!r} is none of alaw, ulaw, g722, nb, plN, snrN, snrN-pink, snrN-brown")
    return channel

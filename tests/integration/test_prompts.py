"""Prompts as audio: the espeak-ng process for real, the cache, recorded files, and what happens when the voice dies."""

from __future__ import annotations

import asyncio
import os
import signal
import wave
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.audio.codec import CODECS, FRAME, Codec, decoder
from gateway.frames import FrameStore
from gateway.speech.errors import VoiceFailed, VoiceMissing
from gateway.speech.frontend import rms
from gateway.speech.prompts import MOST_KEPT, PAUSE_MS, PROMPT_RATE, SPOKEN_RMS, Prompt, PromptStore, Wording, read_wav

PRICE = Wording("disclosure_price", "ko", "요금은 매월 삼만 구천 원입니다.", "ko", 210)
TEXTS = {
    "ko": PRICE,
    "zh-CN": Wording("disclosure_price", "zh-CN", "费用是每月三十九元。", "cmn", 200),
    "en": Wording("disclosure_price", "en", "The price is thirty-nine dollars a month.", "en-us", 160),
}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[PromptStore]:
    opened = PromptStore(tmp_path / "cache", tmp_path / "prompts")
    yield opened
    await opened.stop()


def voices() -> list[int]:
    """The speaking processes that are children of this one."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            if b"gateway.speech.espeak" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


async def speak(store: PromptStore, wording: Wording) -> Prompt:
    await store.prepare([wording])
    return store.get(wording)


def record(path: Path, samples: np.ndarray, *, rate: int = PROMPT_RATE, channels: int = 1, width: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.astype(f"<i{width}").tobytes())


@pytest.mark.parametrize("language", TEXTS)
async def test_the_voice_speaks_every_language(store: PromptStore, language: str) -> None:
    samples = (await speak(store, TEXTS[language])).samples
    active = samples[np.abs(samples) > 200]
    assert 1.0 < samples.size / PROMPT_RATE < 6.0
    assert SPOKEN_RMS == pytest.approx(rms(active), rel=0.15)


async def test_a_prompt_begins_at_once_and_ends_in_a_pause(store: PromptStore) -> None:
    loud = np.flatnonzero(np.abs((await speak(store, PRICE)).samples) > 200)
    samples = store.get(PRICE).samples
    assert loud[0] < 0.02 * PROMPT_RATE
    assert PROMPT_RATE * PAUSE_MS // 1000 == pytest.approx(samples.size - loud[-1], abs=PROMPT_RATE // 50)


async def test_slower_words_take_longer(store: PromptStore) -> None:
    slow = replace(PRICE, words_per_minute=140)
    assert (await speak(store, slow)).samples.size > 1.2 * (await speak(store, PRICE)).samples.size


async def test_the_same_wording_sounds_the_same_on_every_machine_start(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        store = PromptStore(tmp_path / name, tmp_path)
        digests.add((await speak(store, PRICE)).sha256)
        await store.stop()
    assert 1 == len(digests)


@pytest.mark.parametrize(
    "change",
    [{"text": "요금은 매월 이만 원입니다."}, {"voice": "en-us"}, {"words_per_minute": 211}, {"language": "en"}],
)
def test_everything_that_shapes_the_sound_is_in_the_key(change: dict[str, object]) -> None:
    assert PRICE.key != replace(PRICE, **change).key


async def test_what_is_in_the_cache_needs_no_process(tmp_path: Path) -> None:
    first = PromptStore(tmp_path / "cache", tmp_path)
    spoken = await speak(first, PRICE)
    await first.stop()
    second = PromptStore(tmp_path / "cache", tmp_path)
    again = await speak(second, PRICE)
    assert ([], spoken.sha256) == (voices(), again.sha256)


async def test_a_recording_beats_the_voice(tmp_path: Path, store: PromptStore) -> None:
    samples = np.arange(-4000, 4000)
    record(tmp_path / "prompts/ko/audio/disclosure_price.wav", samples)
    assert np.array_equal(samples, (await speak(store, PRICE)).samples)
    assert [] == voices()


async def test_a_recording_of_studio_quality_is_brought_to_wideband(tmp_path: Path, store: PromptStore) -> None:
    time_s = np.arange(48_000) / 48_000
    left = np.rint(9000 * np.sin(2 * np.pi * 500 * time_s))
    stereo = np.stack([left, np.zeros_like(left)], axis=1)
    record(tmp_path / "prompts/ko/audio/disclosure_price.wav", stereo, rate=48_000, channels=2)
    samples = (await speak(store, PRICE)).samples
    assert PROMPT_RATE == pytest.approx(samples.size, abs=2)
    assert 9000 / np.sqrt(2) == pytest.approx(rms(samples[400:-400]), rel=0.02)


async def test_a_recording_of_another_width_is_named(tmp_path: Path, store: PromptStore) -> None:
    path = tmp_path / "prompts/ko/audio/disclosure_price.wav"
    record(path, np.zeros(800), width=4)
    with pytest.raises(VoiceFailed, match=rf"^{path}: 32 bits a sample; 16 are read$"):
        await speak(store, PRICE)


async def test_a_recording_that_is_no_wav_is_named(tmp_path: Path, store: PromptStore) -> None:
    path = tmp_path / "prompts/ko/audio/disclosure_price.wav"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"ID3 this is an mp3")
    with pytest.raises(VoiceFailed, match=rf"^{path}: no WAV file"):
        await speak(store, PRICE)


async def test_an_unprepared_prompt_fails_loudly(store: PromptStore) -> None:
    with pytest.raises(VoiceFailed, match=r"^prompt 'disclosure_price' was not prepared before the call$"):
        store.get(PRICE)


async def test_an_unknown_voice_is_named_and_the_next_prompt_is_spoken(store: PromptStore) -> None:
    with pytest.raises(VoiceFailed, match=r"^espeak-ng has no voice 'tlh-klingon'$"):
        await store.prepare([replace(PRICE, voice="tlh-klingon")])
    assert (await speak(store, PRICE)).samples.size > PROMPT_RATE


async def test_a_voice_that_died_is_started_again_for_the_next_prompt(store: PromptStore) -> None:
    await store.prepare([PRICE])
    [pid] = voices()
    os.kill(pid, signal.SIGKILL)
    assert (await speak(store, TEXTS["en"])).samples.size > PROMPT_RATE


async def test_a_preparation_that_was_given_up_does_not_put_its_words_into_the_next_prompt(
    tmp_path: Path, store: PromptStore
) -> None:
    """Rule R5: the price that is heard is the price that was asked for, whoever was cancelled before."""
    await store.prepare([PRICE])
    long = replace(PRICE, text="요금은 매월 구만 구천 원입니다. " * 40)
    given_up = asyncio.create_task(store.prepare([long]))
    for _ in range(10):  # on its way into the process, and far from spoken
        await asyncio.sleep(0)
    assert store._lock.locked()
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    fresh = PromptStore(tmp_path / "fresh", tmp_path)
    expected = await speak(fresh, TEXTS["en"])
    await fresh.stop()
    assert expected.sha256 == (await speak(store, TEXTS["en"])).sha256


async def test_two_preparations_at_once_speak_each_prompt_once(store: PromptStore) -> None:
    await asyncio.gather(store.prepare(TEXTS.values()), store.prepare(TEXTS.values()))
    assert (1, 3) == (len(voices()), len({store.get(wording).sha256 for wording in TEXTS.values()}))


async def test_without_espeak_the_mend_is_named(
    store: PromptStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "espeakng_loader.py").write_text("raise ImportError('No module named espeakng_loader')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(VoiceMissing, match=r"install the voice: pip install 'consent-gateway\[espeak\]'"):
        await store.prepare([PRICE])


async def test_a_prompt_that_left_memory_comes_back_from_the_cache(tmp_path: Path, store: PromptStore) -> None:
    record(tmp_path / "prompts/ko/audio/tone.wav", np.ones(160))
    await store.prepare([PRICE])
    await store.prepare(Wording("tone", "ko", str(number), "ko", 210) for number in range(MOST_KEPT))
    with pytest.raises(VoiceFailed):
        store.get(PRICE)
    assert np.array_equal(
        read_wav(tmp_path / "cache" / f"{PRICE.key}.wav", PROMPT_RATE), (await speak(store, PRICE)).samples
    )


class TestFrames:
    """Prompts as they are sent: encoded once, before the call, for whatever codec it will have."""

    @pytest.mark.parametrize("codec", CODECS)
    async def test_they_sound_as_loud_and_as_long_in_every_codec(self, store: PromptStore, codec: Codec) -> None:
        prompt = await speak(store, PRICE)
        frames = FrameStore()
        await frames.prepare([prompt])
        cut = frames.get(prompt, codec)
        heard = decoder(codec).decode(b"".join(cut))
        assert {FRAME} == {len(frame) for frame in cut}
        assert prompt.samples.size / PROMPT_RATE == pytest.approx(len(cut) / 50, abs=0.02)
        assert rms(prompt.samples) == pytest.approx(rms(heard), rel=0.15)

    async def test_all_calls_share_them(self, store: PromptStore) -> None:
        prompt = await speak(store, PRICE)
        frames = FrameStore()
        await frames.prepare([prompt])
        assert frames.get(prompt, "G722") is frames.get(prompt, "G722")

    async def test_what_was_not_prepared_is_made_on_the_spot(self, store: PromptStore) -> None:
        prompt = await speak(store, PRICE)
        prepared = FrameStore()
        await prepared.prepare([prompt])
        assert prepared.get(prompt, "PCMU") == FrameStore().get(prompt, "PCMU")

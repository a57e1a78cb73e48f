"""Recordings: a process of its own writes them, two sides in one WAV, named by what is in them."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import stat
import wave
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from gateway.audio.codec import CODECS, FRAME, SAMPLE_RATE, Codec, decoder, encoder
from gateway.audio.g711 import Law, decode, encode
from gateway.telephony.recorder import MOST_RESTARTS, Recorder, Recording, RecordingOffice

CALLER, GATEWAY = b"\x2a" * FRAME, b"\xaa" * FRAME
"""In A-law the lowest and the highest sample."""


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[RecordingOffice]:
    made = RecordingOffice(tmp_path)
    yield made
    made.stop()


def recorded(office: RecordingOffice, frames: int = 3, codec: Codec = "PCMA", call_id: str = "call-1") -> Recorder:
    recorder = office.open(call_id, codec)
    for _ in range(frames):
        recorder.write(CALLER, GATEWAY)
    return recorder


def samples(path: Path) -> np.ndarray:
    """Of shape (samples, 2)."""
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - what is waited for lies in files and plain attributes
            await asyncio.sleep(0.01)


async def written(recorder: Recorder) -> None:
    """Wait until the process has answered all that was sent to it."""
    recorder.flush()
    await until(lambda: not recorder.unwritten)


def noise(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(-20_000, 20_000, count).astype(np.int16)


class TestTheFile:
    async def test_the_caller_is_left_and_the_gateway_right(self, office: RecordingOffice) -> None:
        both = samples((await recorded(office).finish()).path)
        assert ({-32256}, {32256}) == (set(both[:, 0].tolist()), set(both[:, 1].tolist()))

    @pytest.mark.parametrize("codec", CODECS)
    async def test_the_header_says_the_codecs_rate_16_bit_stereo_and_the_length(
        self, office: RecordingOffice, codec: Codec
    ) -> None:
        recording = await recorded(office, 3, codec).finish()
        with wave.open(str(recording.path), "rb") as file:
            assert (2, 2, SAMPLE_RATE[codec], 3 * SAMPLE_RATE[codec] // 50) == file.getparams()[:4]

    async def test_the_riff_size_is_that_of_the_file(self, office: RecordingOffice) -> None:
        data = (await recorded(office).finish()).path.read_bytes()
        assert len(data) - 8 == int.from_bytes(data[4:8], "little")

    @pytest.mark.parametrize("law", ["PCMA", "PCMU"])
    async def test_both_laws_are_recorded_sample_for_sample(self, office: RecordingOffice, law: Law) -> None:
        octets = encode(np.linspace(-30000, 30000, 16000).astype(np.int16), law)
        recorder = office.open("call-1", law)
        for start in range(0, len(octets), FRAME):
            recorder.write(octets[start : start + FRAME], octets[::-1][start : start + FRAME])
        both = samples((await recorder.finish()).path)
        assert decode(octets, law).tolist() == both[:, 0].tolist()
        assert decode(octets[::-1], law).tolist() == both[:, 1].tolist()

    async def test_g722_is_recorded_as_its_decoder_hears_it(self, office: RecordingOffice) -> None:
        octets = encoder("G722").encode(noise(40_000))
        recorder = office.open("call-1", "G722")
        for start in range(0, len(octets), FRAME):
            recorder.write(octets[start : start + FRAME], octets[start : start + FRAME])
        both = samples((await recorder.finish()).path)
        assert decoder("G722").decode(octets).tolist() == both[:, 0].tolist() == both[:, 1].tolist()

    async def test_it_is_named_by_its_sha256(self, office: RecordingOffice, tmp_path: Path) -> None:
        recording = await recorded(office).finish()
        assert hashlib.sha256(recording.path.read_bytes()).hexdigest() == recording.sha256
        assert tmp_path / f"{recording.sha256}.wav" == recording.path

    async def test_the_part_file_is_gone_when_it_is_finished(self, office: RecordingOffice, tmp_path: Path) -> None:
        recording = await recorded(office).finish()
        assert [recording.path] == sorted(tmp_path.iterdir())  # noqa: ASYNC240 - a handful of names

    async def test_an_empty_recording_is_a_header(self, office: RecordingOffice) -> None:
        recording = await recorded(office, 0).finish()
        assert (0, 44) == (recording.duration_ms, recording.path.stat().st_size)

    async def test_a_long_call_is_written_as_it_runs(self, office: RecordingOffice, tmp_path: Path) -> None:
        """Its header too: what a crash leaves can be played."""
        recorder = recorded(office, 200)
        await written(recorder)
        assert 200 * FRAME == len(samples(tmp_path / "call-1.part.wav"))
        recorder.discard()

    async def test_a_discarded_recording_leaves_nothing(self, office: RecordingOffice, tmp_path: Path) -> None:
        recorded(office, 60).discard()
        await until(lambda: not list(tmp_path.iterdir()))

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
    async def test_nobody_else_may_read_it(self, office: RecordingOffice, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            recorder = recorded(office)
            assert 0o600 == stat.S_IMODE((tmp_path / "call-1.part.wav").stat().st_mode)
            assert 0o600 == stat.S_IMODE((await recorder.finish()).path.stat().st_mode)
        finally:
            os.umask(before)

    async def test_a_recording_is_never_written_over(self, office: RecordingOffice) -> None:
        recorder = recorded(office)
        with pytest.raises(FileExistsError):
            office.open("call-1", "PCMA")
        recorder.discard()

    async def test_the_folder_is_made(self, tmp_path: Path) -> None:
        office = RecordingOffice(tmp_path / "a" / "b")
        assert (await recorded(office).finish()).path.exists()
        office.stop()


class TestWhatIsTold:
    async def test_the_duration_is_that_of_the_frames(self, office: RecordingOffice) -> None:
        assert 1500 == (await recorded(office, 75).finish()).duration_ms

    async def test_how_long_each_side_was_heard(self, office: RecordingOffice) -> None:
        recorder = office.open("call-1", "PCMA")
        for frame in range(120):
            recorder.write(CALLER if frame < 30 else b"\xd5" * FRAME, GATEWAY if frame >= 50 else b"\xd5" * FRAME)
        assert (600, 1400) == (await recorder.finish()).sound_ms

    async def test_calls_do_not_mix(self, office: RecordingOffice) -> None:
        first, second = (office.open(f"call-{n}", "PCMA") for n in (1, 2))
        for _ in range(120):
            first.write(CALLER, CALLER)
            second.write(GATEWAY, GATEWAY)
        recordings = [await recorder.finish() for recorder in (first, second)]
        assert [{-32256}, {32256}] == [set(samples(recording.path).ravel().tolist()) for recording in recordings]


class TestTheProcessDies:
    """Another one goes on with the same files, and no call notices."""

    async def killed(self, office: RecordingOffice) -> None:
        assert office.pid is not None
        pid = office.pid
        os.kill(pid, signal.SIGKILL)
        await until(lambda: office.pid != pid)

    async def test_not_a_sample_is_lost(self, office: RecordingOffice) -> None:
        octets = encode(noise(80_000), "PCMA")
        recorder = office.open("call-1", "PCMA")
        for number in range(500):
            at = number * FRAME
            recorder.write(octets[at : at + FRAME], octets[::-1][at : at + FRAME])
            if number in (120, 330):
                await self.killed(office)
        both = samples((await recorder.finish()).path)
        assert decode(octets, "PCMA").tolist() == both[:, 0].tolist()
        assert decode(octets[::-1], "PCMA").tolist() == both[:, 1].tolist()

    async def test_how_long_each_side_was_heard_is_still_right(self, office: RecordingOffice) -> None:
        recorder = recorded(office, 100)
        await written(recorder)
        await self.killed(office)
        for _ in range(100):
            recorder.write(CALLER, GATEWAY)
        assert (4000, 4000) == (await recorder.finish()).sound_ms

    async def test_a_recording_that_was_just_begun_goes_on(self, office: RecordingOffice) -> None:
        recorder = office.open("call-1", "PCMA")
        await self.killed(office)
        recorder.write(CALLER, GATEWAY)
        assert 20 == (await recorder.finish()).duration_ms

    async def test_one_that_dies_again_and_again_fails_its_calls(
        self, office: RecordingOffice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = recorded(office, 60)
        await written(recorder)
        told: list[str] = []
        recorder.on_failure = told.append
        monkeypatch.setattr("gateway.telephony.recorder.sys.executable", "/bin/false")
        assert office.pid is not None
        os.kill(office.pid, signal.SIGKILL)
        with pytest.raises(OSError, match=f"died {MOST_RESTARTS + 1} times in a row"):
            await recorder.finish()
        assert 1 == len(told)

    async def test_the_next_call_after_that_is_recorded_again(
        self, office: RecordingOffice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = recorded(office, 60)
        await written(recorder)
        with monkeypatch.context() as patch:
            patch.setattr("gateway.telephony.recorder.sys.executable", "/bin/false")
            assert office.pid is not None
            os.kill(office.pid, signal.SIGKILL)
            with pytest.raises(OSError, match="in a row"):
                await recorder.finish()
        assert 60 == (await recorded(office, 3, call_id="call-2").finish()).duration_ms


class TestFailures:
    """A recording that cannot be written fails its call (rule R8), never the others."""

    async def full(self, office: RecordingOffice, call_id: str) -> Recorder:
        """A recorder on a disk without room: the process is stopped until its file is such."""
        assert office.pid is not None
        os.kill(office.pid, signal.SIGSTOP)
        recorder = office.open(call_id, "PCMA")
        part = recorder._part
        part.unlink()
        part.symlink_to("/dev/full")
        os.kill(office.pid, signal.SIGCONT)
        return recorder

    async def test_a_full_disk_ends_that_call_and_no_other(self, office: RecordingOffice) -> None:
        good = recorded(office, 100)
        broken = await self.full(office, "call-2")
        told: list[str] = []
        broken.on_failure = told.append
        with pytest.raises(OSError, match="No space left on device"):
            await broken.finish()
        assert ["the recording failed: No space left on device"] == told
        assert 2000 == (await good.finish()).duration_ms

    async def test_it_is_told_while_the_call_runs(self, office: RecordingOffice) -> None:
        await recorded(office, 1, call_id="call-0").finish()
        broken = await self.full(office, "call-1")
        told = asyncio.get_running_loop().create_future()
        broken.on_failure = told.set_result
        async with asyncio.timeout(30):
            assert "the recording failed: No space left on device" == await told
        broken.write(CALLER, GATEWAY)

    async def test_a_process_that_is_far_behind_fails_what_it_cannot_take(
        self, office: RecordingOffice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = recorded(office, 60)
        await written(recorder)
        monkeypatch.setattr("gateway.telephony.recorder.MOST_UNSENT", 100_000)
        told: list[str] = []
        recorder.on_failure = told.append
        assert office.pid is not None
        os.kill(office.pid, signal.SIGSTOP)
        try:
            for _ in range(60_000):
                recorder.write(CALLER, GATEWAY)
                if told:
                    break
        finally:
            os.kill(office.pid, signal.SIGCONT)
        assert ["the recording failed: the recording process is too far behind"] == told

    async def test_one_that_is_behind_catches_up_without_loss(self, office: RecordingOffice) -> None:
        recorder = recorded(office, 60)
        await written(recorder)
        assert office.pid is not None
        octets = encode(noise(8000 * 300), "PCMA")
        os.kill(office.pid, signal.SIGSTOP)
        try:
            for start in range(0, len(octets), FRAME):
                recorder.write(octets[start : start + FRAME], GATEWAY)
        finally:
            os.kill(office.pid, signal.SIGCONT)
        both = samples((await recorder.finish()).path)
        assert np.array_equal(decode(octets, "PCMA"), both[60 * FRAME :, 0])

    async def test_stopping_writes_what_there_is(self, tmp_path: Path) -> None:
        office = RecordingOffice(tmp_path)
        recorder = recorded(office, 100)
        recorder.flush()
        office.stop()
        assert 100 * FRAME == len(samples(tmp_path / "call-1.part.wav"))
        assert office.pid is None


def test_a_recording_says_where_it_is(tmp_path: Path) -> None:
    assert (0, 0) == Recording(tmp_path / "x.wav", "x", 0).sound_ms

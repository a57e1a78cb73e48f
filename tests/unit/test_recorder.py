"""Recordings: a process of its own seals and writes them, two sides in one WAV, as the call runs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import stat
import subprocess
import wave
from collections.abc import AsyncIterator, Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from gateway.audio.codec import CODECS, FRAME, SAMPLE_RATE, Codec, decoder, encoder
from gateway.audio.g711 import Law, decode, encode
from gateway.telephony import recorder as recorder_module
from gateway.telephony.errors import BadRecording
from gateway.telephony.recorder import MOST_RESTARTS, Recorder, Recording, RecordingOffice
from gateway.telephony.vault import Sound, read_recording, salvage

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


def samples(recording: Recording) -> np.ndarray:
    """Of shape (samples, 2)."""
    with wave.open(BytesIO(read_recording(recording.path, recording.key)), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)


def so_far(recorder: Recorder) -> np.ndarray:
    """What is in the file of a recording that runs, of shape (samples, 2)."""
    with Sound(recorder.path, recorder.key) as sound:
        return np.frombuffer(b"".join(sound.seconds()), "<i2").reshape(-1, 2)


def blocks_of(data: bytes, rate: int) -> tuple[str, ...]:
    """The hashes of each ten seconds of a WAV, reckoned anew."""
    block, body = 10 * rate * 4, data[44:]
    return tuple(hashlib.sha256(body[at : at + block]).hexdigest() for at in range(0, len(body), block))


def open_files(pid: int, folder: Path) -> list[str]:
    """What the process *pid* has open below *folder*."""
    links = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return [str(target) for target in links if target.is_relative_to(folder)]


def told_of(pid: int | None, what: str) -> bytes:
    """What the system tells of the process *pid*."""
    return Path(f"/proc/{pid}/{what}").read_bytes()


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
        both = samples(await recorded(office).finish())
        assert ({-32256}, {32256}) == (set(both[:, 0].tolist()), set(both[:, 1].tolist()))

    @pytest.mark.parametrize("codec", CODECS)
    async def test_the_header_says_the_codecs_rate_16_bit_stereo_and_the_length(
        self, office: RecordingOffice, codec: Codec
    ) -> None:
        recording = await recorded(office, 3, codec).finish()
        with wave.open(BytesIO(read_recording(recording.path, recording.key)), "rb") as file:
            assert (2, 2, SAMPLE_RATE[codec], 3 * SAMPLE_RATE[codec] // 50) == file.getparams()[:4]

    async def test_the_riff_size_is_that_of_the_file(self, office: RecordingOffice) -> None:
        recording = await recorded(office).finish()
        data = read_recording(recording.path, recording.key)
        assert len(data) - 8 == int.from_bytes(data[4:8], "little")

    @pytest.mark.parametrize("law", ["PCMA", "PCMU"])
    async def test_both_laws_are_recorded_sample_for_sample(self, office: RecordingOffice, law: Law) -> None:
        octets = encode(np.linspace(-30000, 30000, 16000).astype(np.int16), law)
        recorder = office.open("call-1", law)
        for start in range(0, len(octets), FRAME):
            recorder.write(octets[start : start + FRAME], octets[::-1][start : start + FRAME])
        both = samples(await recorder.finish())
        assert decode(octets, law).tolist() == both[:, 0].tolist()
        assert decode(octets[::-1], law).tolist() == both[:, 1].tolist()

    async def test_g722_is_recorded_as_its_decoder_hears_it(self, office: RecordingOffice) -> None:
        octets = encoder("G722").encode(noise(40_000))
        recorder = office.open("call-1", "G722")
        for start in range(0, len(octets), FRAME):
            recorder.write(octets[start : start + FRAME], octets[start : start + FRAME])
        both = samples(await recorder.finish())
        assert decoder("G722").decode(octets).tolist() == both[:, 0].tolist() == both[:, 1].tolist()

    async def test_its_hash_is_that_of_the_wav_that_is_read_from_it(self, office: RecordingOffice) -> None:
        recording = await recorded(office, 75).finish()
        assert hashlib.sha256(read_recording(recording.path, recording.key)).hexdigest() == recording.sha256

    async def test_it_is_named_by_its_call(self, office: RecordingOffice, tmp_path: Path) -> None:
        recording = await recorded(office).finish()
        assert [tmp_path / "call-1.rec"] == [recording.path] == sorted(tmp_path.iterdir())  # noqa: ASYNC240 - a handful

    async def test_an_empty_recording_is_a_header(self, office: RecordingOffice) -> None:
        recording = await recorded(office, 0).finish()
        assert (0, 44, ()) == (
            recording.duration_ms, len(read_recording(recording.path, recording.key)), recording.blocks,
        )  # fmt: skip

    @pytest.mark.parametrize(("codec", "frames"), [("PCMA", 1237), ("G722", 505), ("PCMU", 500), ("PCMA", 499)])
    async def test_each_ten_seconds_have_a_hash_of_their_own(
        self, office: RecordingOffice, codec: Codec, frames: int
    ) -> None:
        recorder = office.open("call-1", codec)
        octets = noise(FRAME * frames).astype(np.uint8).tobytes()
        for at in range(0, len(octets), FRAME):
            recorder.write(octets[at : at + FRAME], octets[at : at + FRAME][::-1])
        recording = await recorder.finish()
        wav = read_recording(recording.path, recording.key)
        assert blocks_of(wav, SAMPLE_RATE[codec]) == recording.blocks
        assert -(-frames // 500) == len(recording.blocks)

    async def test_a_long_call_is_written_as_it_runs(self, office: RecordingOffice) -> None:
        """What a crash leaves can be heard."""
        recorder = recorded(office, 200)
        await written(recorder)
        assert 200 * FRAME == len(so_far(recorder))
        recorder.discard()

    async def test_a_discarded_recording_leaves_nothing(self, office: RecordingOffice, tmp_path: Path) -> None:
        recorded(office, 60).discard()
        await until(lambda: not list(tmp_path.iterdir()))

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
    async def test_nobody_else_may_read_it(self, office: RecordingOffice, tmp_path: Path, umask: int) -> None:
        before = os.umask(umask)
        try:
            recorder = recorded(office)
            assert 0o600 == stat.S_IMODE((tmp_path / "call-1.rec").stat().st_mode)
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

    @pytest.mark.parametrize("call_id", ["", ".", "../call", "a/b", "a\nb", "a b", "x" * 129])
    async def test_an_id_that_is_no_name_of_a_file_is_refused(self, office: RecordingOffice, call_id: str) -> None:
        with pytest.raises(BadRecording, match="no call id"):
            office.open(call_id, "PCMA")


class TestTheKey:
    """Rule R14: at rest a recording is sealed, with a key of its own."""

    async def test_nothing_of_the_sound_is_in_the_file(self, office: RecordingOffice) -> None:
        recorder = office.open("call-1", "PCMA")
        octets = encode(noise(FRAME * 120), "PCMA")
        for at in range(0, len(octets), FRAME):
            recorder.write(octets[at : at + FRAME], octets[at : at + FRAME])
        recording = await recorder.finish()
        sealed, plain = recording.path.read_bytes(), samples(recording).tobytes()
        assert not [at for at in range(0, len(plain) - 16, 16) if plain[at : at + 16] in sealed]

    async def test_it_opens_with_the_key_that_was_given_before(self, office: RecordingOffice) -> None:
        key = os.urandom(32)
        office.use_key("call-1", key)
        recording = await recorded(office).finish()
        assert key == recording.key
        assert read_recording(recording.path, key)

    async def test_without_one_each_has_a_key_of_its_own(self, office: RecordingOffice) -> None:
        first, second = [await recorded(office, call_id=name).finish() for name in ("call-1", "call-2")]
        assert first.key != second.key
        with pytest.raises(BadRecording, match="second 1 of the recording of call-1 does not open"):
            read_recording(first.path, second.key)

    async def test_it_is_used_once(self, office: RecordingOffice) -> None:
        office.use_key("call-1", bytes(32))
        recorded(office).discard()
        await until(lambda: not list(office._folder.iterdir()))
        assert bytes(32) != office.open("call-1", "PCMA").key

    async def test_keys_of_calls_that_never_began_are_forgotten(
        self, office: RecordingOffice, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recorder_module, "MOST_KEYS", 2)
        for number in range(4):
            office.use_key(f"call-{number}", bytes([number]) * 32)
        assert [bytes([3]) * 32, bytes([2]) * 32] == [office.open(f"call-{number}", "PCMA").key for number in (3, 2)]
        assert bytes([1]) * 32 != office.open("call-1", "PCMA").key

    async def test_one_of_another_length_is_refused(self, office: RecordingOffice) -> None:
        with pytest.raises(ValueError, match="32 octets, not 16"):
            office.use_key("call-1", bytes(16))

    async def test_it_is_neither_in_a_file_nor_in_an_argument_nor_in_words(
        self, office: RecordingOffice, tmp_path: Path
    ) -> None:
        recorder = recorded(office, 60)
        await written(recorder)
        told = told_of(office.pid, "cmdline") + told_of(office.pid, "environ")
        recording = await recorder.finish()
        everything = told + recording.path.read_bytes() + repr(recording).encode()
        for secret in (recording.key, recording.key.hex().encode(), repr(recording.key).encode()):
            assert secret not in everything

    async def test_the_process_leaves_no_core(self, office: RecordingOffice) -> None:
        await written(recorded(office, 1))
        [line] = [line for line in told_of(office.pid, "limits").splitlines() if line.startswith(b"Max core file size")]
        assert line.split()[4] in {b"0", b"1"}

    async def test_the_process_may_have_as_many_files_open_as_the_system_lets_it(self, office: RecordingOffice) -> None:
        """The usual limit of 1024 would be a thousand calls."""
        await written(recorded(office, 1))
        [line] = [line for line in told_of(office.pid, "limits").splitlines() if line.startswith(b"Max open files")]
        assert line.split()[3] == line.split()[4]


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
        assert [{-32256}, {32256}] == [set(samples(recording).ravel().tolist()) for recording in recordings]


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
        both = samples(await recorder.finish())
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

    @pytest.mark.parametrize("codec", ["PCMA", "G722"])
    async def test_the_hashes_are_still_those_of_what_is_in_the_file(
        self, office: RecordingOffice, codec: Codec
    ) -> None:
        """Killed within a block, at the end of one, with much that is not yet answered, and within a second."""
        octets = noise(FRAME * 1700, 3).astype(np.uint8).tobytes()
        recorder = office.open("call-1", codec)
        for number in range(1700):
            at = number * FRAME
            recorder.write(octets[at : at + FRAME], octets[::-1][at : at + FRAME])
            if number in (230, 999):
                await written(recorder)
            if number in (230, 999, 1300):
                await self.killed(office)
        recording = await recorder.finish()
        wav = read_recording(recording.path, recording.key)
        assert (34_000, hashlib.sha256(wav).hexdigest()) == (recording.duration_ms, recording.sha256)
        assert blocks_of(wav, SAMPLE_RATE[codec]) == recording.blocks

    async def test_only_what_follows_the_last_whole_block_is_read_again(self, office: RecordingOffice) -> None:
        """Else a thousand long calls could not go on in time: what lies before may even be unreadable."""
        recorder = recorded(office, 1020)
        await written(recorder)
        with recorder.path.open("r+b") as file:
            file.seek(100_000)
            file.write(bytes(1000))
        await self.killed(office)
        for _ in range(100):
            recorder.write(CALLER, GATEWAY)
        await written(recorder)
        assert "" == recorder.failed
        with pytest.raises(OSError, match="second 4 of the recording of call-1 does not open"):
            await recorder.finish()

    async def test_what_does_not_open_again_fails_its_call(self, office: RecordingOffice) -> None:
        recorder = recorded(office, 100)
        await written(recorder)
        with recorder.path.open("r+b") as file:
            file.seek(40_000)
            file.write(bytes(1000))
        await self.killed(office)
        with pytest.raises(OSError, match="second 2 of the recording of call-1 does not open"):
            await recorder.finish()

    async def test_no_two_of_them_write_one_recording(self, office: RecordingOffice, tmp_path: Path) -> None:
        recorder = recorded(office, 60)
        await written(recorder)
        other = RecordingOffice(tmp_path)
        other.start()
        stranger = Recorder(other, 1, "call-1", recorder.path, "PCMA", recorder.key)
        other._recorders[1] = stranger
        other.send(stranger, stranger.opening())
        with pytest.raises(OSError, match="temporarily unavailable"):
            await stranger.done
        other.stop()
        assert 1200 == (await recorder.finish()).duration_ms

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
        recorder.path.unlink()
        recorder.path.symlink_to("/dev/full")
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
        both = samples(await recorder.finish())
        assert np.array_equal(decode(octets, "PCMA"), both[60 * FRAME :, 0])

    async def test_stopping_writes_what_there_is(self, tmp_path: Path) -> None:
        office = RecordingOffice(tmp_path)
        recorder = recorded(office, 100)
        recorder.flush()
        office.stop()
        assert 100 * FRAME == len(so_far(recorder))
        assert office.pid is None

    async def test_they_are_counted(self, office: RecordingOffice) -> None:
        await recorded(office, 1, call_id="call-0").finish()
        broken = await self.full(office, "call-1")
        with pytest.raises(OSError, match="No space"):
            await broken.finish()
        with pytest.raises(FileExistsError):
            office.open("call-0", "PCMA")
        assert 2 == office.failures

    async def test_one_that_was_to_be_discarded_harms_nobody(self, office: RecordingOffice) -> None:
        await recorded(office, 1, call_id="call-0").finish()
        broken = await self.full(office, "call-1")
        told: list[str] = []
        broken.on_failure = told.append
        broken.discard()
        await until(lambda: bool(broken.failed))
        assert ([], False) == (told, broken.path.is_symlink())

    async def test_where_no_process_can_be_started_no_file_is_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.telephony.recorder.sys.executable", "/nowhere")
        office = RecordingOffice(tmp_path)
        with pytest.raises(FileNotFoundError):
            office.open("call-1", "PCMA")
        assert ([], 1) == (list(tmp_path.iterdir()), office.failures)  # noqa: ASYNC240 - none


class TestASmallDisk:
    """A real file system that fills up while calls are recorded."""

    @pytest.fixture
    def disk(self, tmp_path: Path) -> Iterator[Path]:
        """A folder with room for some seconds of calls. Where none may be mounted, test_media_over_loopback.py limits files instead."""
        folder = tmp_path / "disk"
        folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)], check=False, capture_output=True
        )
        if mounted.returncode:
            pytest.skip("no file system can be mounted here")
        try:
            yield folder
        finally:
            subprocess.run(["umount", str(folder)], check=True)

    @pytest.fixture
    async def cramped(self, disk: Path) -> AsyncIterator[RecordingOffice]:
        made = RecordingOffice(disk)
        yield made
        made.stop()

    async def fill(self, office: RecordingOffice, recorder: Recorder) -> list[str]:
        """Write until it fails; what was told."""
        told: list[str] = []
        recorder.on_failure = told.append
        for _ in range(20):
            for _ in range(50):
                recorder.write(CALLER, GATEWAY)
            await until(lambda: not recorder.unwritten or bool(recorder.failed))
        return told

    async def test_the_call_is_told_why(self, cramped: RecordingOffice) -> None:
        recorder = cramped.open("call-1", "PCMA")
        assert ["the recording failed: No space left on device"] == await self.fill(cramped, recorder)
        with pytest.raises(OSError, match="No space left on device"):
            await recorder.finish()

    async def test_its_whole_seconds_open(self, cramped: RecordingOffice) -> None:
        recorder = cramped.open("call-1", "PCMA")
        await self.fill(cramped, recorder)
        left = salvage(recorder.path, recorder.key)
        assert left is not None
        assert (0, True) == (left.duration_ms % 1000, 5000 <= left.duration_ms <= 8000)
        assert hashlib.sha256(read_recording(left.path, left.key)).hexdigest() == left.sha256

    async def test_its_file_is_open_no_longer(self, cramped: RecordingOffice, disk: Path) -> None:
        recorder = cramped.open("call-1", "PCMA")
        await self.fill(cramped, recorder)
        assert cramped.pid is not None
        assert [] == open_files(cramped.pid, disk)

    async def test_when_there_is_room_again_the_next_call_is_recorded(self, cramped: RecordingOffice) -> None:
        recorder = cramped.open("call-1", "PCMA")
        await self.fill(cramped, recorder)
        recorder.path.unlink()
        assert 2000 == (await recorded(cramped, 100, call_id="call-2").finish()).duration_ms

    async def test_the_room_that_is_left_is_told(self, cramped: RecordingOffice, disk: Path) -> None:
        assert 0 < cramped.free_octets <= 256 * 1024
        assert f"{disk}: 0 MB are free, 64 are wanted; make room or move data_dir" == cramped.full

    async def test_where_there_is_room_nothing_is_said(self, tmp_path: Path) -> None:
        office = RecordingOffice(tmp_path / "not yet" / "made")
        assert (True, "") == (office.free_octets > 64_000_000, office.full)


class TestDescriptors:
    """Whatever becomes of a recording, its file is closed in the process in the end."""

    async def closed(self, office: RecordingOffice, folder: Path) -> None:
        assert office.pid is not None
        pid = office.pid
        await until(lambda: not open_files(pid, folder))

    async def test_of_one_that_is_finished_and_one_that_is_discarded(
        self, office: RecordingOffice, tmp_path: Path
    ) -> None:
        first, second = recorded(office, 60), recorded(office, 60, call_id="call-2")
        await written(first)
        await written(second)
        assert office.pid is not None
        assert 2 == len(open_files(office.pid, tmp_path))
        await first.finish()
        second.discard()
        await self.closed(office, tmp_path)

    async def test_of_one_that_the_gateway_gave_up(self, office: RecordingOffice, tmp_path: Path) -> None:
        recorder = recorded(office, 60)
        await written(recorder)
        recorder.fail("the gateway has had enough")
        await self.closed(office, tmp_path)
        assert 60 * FRAME == len(so_far(recorder))

    async def test_of_one_that_was_too_far_behind(
        self, office: RecordingOffice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = recorded(office, 60)
        await written(recorder)
        monkeypatch.setattr("gateway.telephony.recorder.MOST_UNSENT", 100_000)
        assert office.pid is not None
        os.kill(office.pid, signal.SIGSTOP)
        try:
            while not recorder.failed:
                recorder.write(CALLER, GATEWAY)
        finally:
            os.kill(office.pid, signal.SIGCONT)
        await self.closed(office, tmp_path)

    async def test_of_one_that_is_not_finished_in_time(
        self, office: RecordingOffice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recorder = recorded(office, 60)
        await written(recorder)
        monkeypatch.setattr("gateway.telephony.recorder.FINISH_S", 0.2)
        assert office.pid is not None
        os.kill(office.pid, signal.SIGSTOP)
        try:
            with pytest.raises(OSError, match=r"does not finish call-1\.rec"):
                await recorder.finish()
        finally:
            os.kill(office.pid, signal.SIGCONT)
        await self.closed(office, tmp_path)


def test_a_recording_says_where_it_is(tmp_path: Path) -> None:
    assert (0, 0) == Recording(tmp_path / "x.rec", bytes(32), "x", 0, 8000).sound_ms

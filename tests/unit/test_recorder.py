"""Recordings: two sides in one WAV, named by what is in them."""

from __future__ import annotations

import hashlib
import os
import stat
import wave
from pathlib import Path

import numpy as np
import pytest

from gateway.telephony.g711 import Law, decode, encode
from gateway.telephony.recorder import Recorder

CALLER, GATEWAY = b"\x2a" * 160, b"\xaa" * 160
"""In A-law the lowest and the highest sample."""


def recorded(folder: Path, frames: int = 3, law: Law = "PCMA") -> Recorder:
    recorder = Recorder(folder, "call-1", law)
    for _ in range(frames):
        recorder.write(CALLER, GATEWAY)
    return recorder


def samples(path: Path) -> np.ndarray:
    """Of shape (samples, 2)."""
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)


def test_the_caller_is_left_and_the_gateway_right(tmp_path: Path) -> None:
    both = samples(recorded(tmp_path).finish().path)
    assert ({-32256}, {32256}) == (set(both[:, 0].tolist()), set(both[:, 1].tolist()))


def test_the_header_says_8_khz_16_bit_stereo_and_the_length(tmp_path: Path) -> None:
    with wave.open(str(recorded(tmp_path, 3).finish().path), "rb") as file:
        assert (2, 2, 8000, 480) == file.getparams()[:4]


def test_the_riff_size_is_that_of_the_file(tmp_path: Path) -> None:
    data = recorded(tmp_path).finish().path.read_bytes()
    assert len(data) - 8 == int.from_bytes(data[4:8], "little")


@pytest.mark.parametrize("law", ["PCMA", "PCMU"])
def test_both_laws_are_recorded_sample_for_sample(tmp_path: Path, law: Law) -> None:
    ramp = np.linspace(-30000, 30000, 16000).astype(np.int16)
    octets = encode(ramp, law)
    recorder = Recorder(tmp_path, "call-1", law)
    for start in range(0, len(octets), 160):
        recorder.write(octets[start : start + 160], octets[::-1][start : start + 160])
    both = samples(recorder.finish().path)
    assert decode(octets, law).tolist() == both[:, 0].tolist()
    assert decode(octets[::-1], law).tolist() == both[:, 1].tolist()


def test_the_file_is_named_by_its_sha256(tmp_path: Path) -> None:
    recording = recorded(tmp_path).finish()
    assert hashlib.sha256(recording.path.read_bytes()).hexdigest() == recording.sha256
    assert tmp_path / f"{recording.sha256}.wav" == recording.path


def test_the_part_file_is_gone_when_it_is_finished(tmp_path: Path) -> None:
    recording = recorded(tmp_path).finish()
    assert [recording.path] == list(tmp_path.iterdir())


def test_the_duration_is_that_of_the_frames(tmp_path: Path) -> None:
    recorder = recorded(tmp_path, 75)
    assert 1500 == recorder.position_ms
    assert 1500 == recorder.finish().duration_ms


def test_an_empty_recording_is_a_header(tmp_path: Path) -> None:
    recording = recorded(tmp_path, 0).finish()
    assert (0, 44) == (recording.duration_ms, recording.path.stat().st_size)


def test_a_long_call_is_written_as_it_runs(tmp_path: Path) -> None:
    recorder = recorded(tmp_path, 200)
    recorder._file.flush()
    assert (tmp_path / "call-1.part.wav").stat().st_size > 100_000
    recorder.discard()


def test_a_discarded_recording_leaves_nothing(tmp_path: Path) -> None:
    recorded(tmp_path).discard()
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_nobody_else_may_read_it(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        recorder = recorded(tmp_path)
        assert 0o600 == stat.S_IMODE((tmp_path / "call-1.part.wav").stat().st_mode)
        assert 0o600 == stat.S_IMODE(recorder.finish().path.stat().st_mode)
    finally:
        os.umask(before)


def test_a_recording_is_never_written_over(tmp_path: Path) -> None:
    recorder = recorded(tmp_path)
    with pytest.raises(FileExistsError):
        Recorder(tmp_path, "call-1", "PCMA")
    recorder.discard()


def test_the_folder_is_made(tmp_path: Path) -> None:
    assert recorded(tmp_path / "a" / "b").finish().path.exists()


def full(recorder: Recorder) -> Recorder:
    """*recorder* on a disk without room."""
    recorder._file.close()
    recorder._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - the recorder closes it
    return recorder


def test_a_full_disk_is_told_of_while_the_call_runs(tmp_path: Path) -> None:
    recorder = full(recorded(tmp_path, 49))
    with pytest.raises(OSError, match="No space left"):
        recorder.write(CALLER, GATEWAY)
    recorder.abandon()
    assert recorder._file.closed
    assert ["call-1.part.wav"] == [path.name for path in tmp_path.iterdir()]


def test_a_full_disk_is_told_of_at_the_end_and_the_file_is_closed(tmp_path: Path) -> None:
    recorder = full(recorded(tmp_path, 3))
    with pytest.raises(OSError, match="No space left"):
        recorder.finish()
    assert recorder._file.closed

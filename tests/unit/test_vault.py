"""The file of a recording: what is in it, what opens it, and what a crash or a stranger's hand leaves of it."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import wave
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from gateway.telephony.errors import BadRecording
from gateway.telephony.recording_format import Layout, Mark, Safe, Tally, wav_header
from gateway.telephony.vault import Recording, Sound, Writer, path_of, read_recording, salvage

RATE, KEY, CALL = 8000, bytes(range(32)), "call-1"
CHUNK, SEALED = RATE * 4, RATE * 4 + 28
HEADER = 16 + len(CALL)


def sound(seconds: float, seed: int = 1, rate: int = RATE) -> bytes:
    """Noise of both sides, interleaved."""
    return np.random.default_rng(seed).integers(-20_000, 20_000, int(seconds * rate) * 2).astype("<i2").tobytes()


def begun(folder: Path, call_id: str = CALL) -> Path:
    """A file as the gateway makes it."""
    path = path_of(folder, call_id)
    path.touch(mode=0o600)
    return path


def written(
    folder: Path, samples: bytes, *, finished: bool = True, key: bytes = KEY, call_id: str = CALL, rate: int = RATE
) -> Path:
    path = begun(folder, call_id)
    writer = Writer(path, key, call_id, rate)
    for at in range(0, len(samples), rate * 4):
        writer.put(samples[at : at + rate * 4])
    if finished:
        writer.finish()
    writer.close()
    return path


def wav(samples: bytes, rate: int = RATE) -> bytes:
    made = BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples)
    return made.getvalue()


def hashes(samples: bytes, rate: int = RATE) -> tuple[str, ...]:
    block = 10 * rate * 4
    return tuple(hashlib.sha256(samples[at : at + block]).hexdigest() for at in range(0, len(samples), block))


class TestTheForm:
    """As it stands in docs/operations.md: somebody else can read it by that."""

    def test_a_plain_header_then_seconds_each_sealed_with_its_number_and_the_header(self, tmp_path: Path) -> None:
        samples = sound(2.5)
        octets = written(tmp_path, samples).read_bytes()
        assert b"CGREC\r\n\x1a" + struct.pack("<BBHI", 1, 2, len(CALL), RATE) + CALL.encode() == octets[:HEADER]
        opened = b""
        for number, start in enumerate(range(HEADER, len(octets), SEALED)):
            sealed = octets[start : start + SEALED]
            associated = octets[:HEADER] + struct.pack("<Q", number)
            opened += AESGCM(KEY).decrypt(sealed[:12], sealed[12:], associated)
        assert samples == opened

    def test_no_nonce_comes_twice(self, tmp_path: Path) -> None:
        octets = written(tmp_path, sound(20)).read_bytes()
        nonces = {octets[start : start + 12] for start in range(HEADER, len(octets), SEALED)}
        assert 20 == len(nonces)

    def test_a_chunk_that_is_written_again_has_another(self, tmp_path: Path) -> None:
        """Two texts under one nonce would give both away."""
        path = begun(tmp_path)
        nonces = []
        for _ in range(2):
            writer = Writer(path, KEY, CALL, RATE)
            writer.put(sound(1))
            writer.close()
            nonces.append(path.read_bytes()[HEADER : HEADER + 12])
        assert nonces[0] != nonces[1]

    @pytest.mark.parametrize("pieces", [1, 100, 8000, 12_000, 8001, 30_000])
    def test_it_is_the_same_in_whatever_pieces_it_comes(self, tmp_path: Path, pieces: int) -> None:
        samples = sound(1.2 if pieces == 1 else 23.4)
        path = begun(tmp_path)
        writer, marks = Writer(path, KEY, CALL, RATE), []
        for at in range(0, len(samples), 4 * pieces):
            marks += writer.put(samples[at : at + 4 * pieces])
        sha256, last = writer.finish()
        assert (wav(samples), hashlib.sha256(wav(samples)).hexdigest()) == (read_recording(path, KEY), sha256)
        assert hashes(samples) == tuple(mark.sha256.hex() for mark in (*marks, *last))

    @pytest.mark.parametrize("rate", [8000, 16_000])
    @pytest.mark.parametrize("seconds", [0, 0.02, 1, 1.5, 10, 10.02])
    def test_what_is_read_is_a_wav_of_what_was_written(self, tmp_path: Path, rate: int, seconds: float) -> None:
        samples = sound(seconds, rate=rate)
        path = written(tmp_path, samples, rate=rate)
        assert wav(samples, rate) == read_recording(path, KEY)

    def test_it_can_be_read_a_second_at_a_time(self, tmp_path: Path) -> None:
        samples = sound(3.5)
        with Sound(written(tmp_path, samples), KEY) as opened:
            assert (CALL, RATE, 28_000, 3500) == (opened.call_id, opened.rate, opened.frames, opened.duration_ms)
            pieces = list(opened.seconds())
        assert ([CHUNK, CHUNK, CHUNK, CHUNK // 2], samples) == ([len(piece) for piece in pieces], b"".join(pieces))

    def test_a_wav_header_is_that_of_the_standard_library(self) -> None:
        assert wav(sound(1))[:44] == wav_header(RATE, RATE)


class TestWhatDoesNotOpen:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return written(tmp_path, sound(3.5))

    def test_with_another_key(self, path: Path) -> None:
        with pytest.raises(BadRecording, match="second 1 of the recording of call-1 does not open"):
            read_recording(path, bytes(32))

    def test_a_key_of_another_length(self, path: Path) -> None:
        with pytest.raises(BadRecording, match="32 octets, not 31"):
            read_recording(path, KEY[1:])

    @pytest.mark.parametrize("number", [0, 1, 3])
    def test_a_changed_second_is_named(self, path: Path, number: int) -> None:
        octets = bytearray(path.read_bytes())
        for at in (0, 12, 5000, 16_000):  # nonce, text
            changed = bytes(octets[: HEADER + number * SEALED + at])
            path.write_bytes(changed + bytes([octets[len(changed)] ^ 1]) + octets[len(changed) + 1 :])
            with pytest.raises(BadRecording, match=f"second {number + 1} of the recording of call-1 does not open"):
                read_recording(path, KEY)

    def test_any_bit_of_the_header_that_is_changed(self, path: Path) -> None:
        octets = path.read_bytes()
        for at in range(HEADER):
            for bit in range(8):
                path.write_bytes(octets[:at] + bytes([octets[at] ^ 1 << bit]) + octets[at + 1 :])
                with pytest.raises(BadRecording):
                    read_recording(path, KEY)

    def test_seconds_in_another_order(self, path: Path) -> None:
        octets = path.read_bytes()
        first, second = octets[HEADER : HEADER + SEALED], octets[HEADER + SEALED : HEADER + 2 * SEALED]
        path.write_bytes(octets[:HEADER] + second + first + octets[HEADER + 2 * SEALED :])
        with pytest.raises(BadRecording, match="second 1 "):
            read_recording(path, KEY)

    def test_a_second_of_another_call_under_the_same_key(self, path: Path, tmp_path: Path) -> None:
        other = written(tmp_path, sound(3.5, 2), call_id="call-2").read_bytes()
        octets = path.read_bytes()
        path.write_bytes(
            octets[: HEADER + SEALED] + other[HEADER + SEALED : HEADER + 2 * SEALED] + octets[HEADER + 2 * SEALED :]
        )
        with pytest.raises(BadRecording, match="second 2 "):
            read_recording(path, KEY)

    @pytest.mark.parametrize("octets", [1, 27, 28, 5001])
    def test_one_that_ends_within_a_chunk(self, path: Path, octets: int) -> None:
        os.truncate(path, HEADER + 2 * SEALED + octets)
        with pytest.raises(BadRecording, match="second 3 of the recording of call-1 is torn"):
            read_recording(path, KEY)

    def test_one_that_ends_within_a_chunk_as_a_shorter_one_would(self, path: Path) -> None:
        os.truncate(path, HEADER + 2 * SEALED + 28 + 400)
        with pytest.raises(BadRecording, match="second 3 of the recording of call-1 does not open"):
            read_recording(path, KEY)

    @pytest.mark.parametrize(
        ("octets", "words"),
        [
            (b"", "0 octets has no header"),
            (b"CGREC\r\n\x1a\x01", "9 octets has no header"),
            (wav(sound(1)), "this is no recording"),
            (b"CGREC\r\n\x1a" + struct.pack("<BBHI", 2, 2, 1, 8000) + b"c", "version 2 with 2 channels"),
            (b"CGREC\r\n\x1a" + struct.pack("<BBHI", 1, 1, 1, 8000) + b"c", "version 1 with 1 channels"),
            (b"CGREC\r\n\x1a" + struct.pack("<BBHI", 1, 2, 1, 0) + b"c", "at 0 Hz"),
            (b"CGREC\r\n\x1a" + struct.pack("<BBHI", 1, 2, 1, 2**31) + b"c", "at 2147483648 Hz"),
            (b"CGREC\r\n\x1a" + struct.pack("<BBHI", 1, 2, 9, 8000) + b"c", "names no call"),
            (b"CGREC\r\n\x1a" + struct.pack("<BBHI", 1, 2, 2, 8000) + b"\xff\xfe", "names no call"),
            (b"CGREC\r\n\x1a" + struct.pack("<BBHI", 1, 2, 4, 8000) + b"../x", "names no call"),
        ],
    )
    def test_what_is_no_recording_is_said_in_words(self, tmp_path: Path, octets: bytes, words: str) -> None:
        path = tmp_path / "x.rec"
        path.write_bytes(octets)
        with pytest.raises(BadRecording, match=words):
            read_recording(path, KEY)

    @given(octets=st.binary(max_size=200), begins=st.booleans())
    def test_whatever_octets_they_are(self, octets: bytes, *, begins: bool) -> None:
        with NamedTemporaryFile() as file:
            file.write(b"CGREC\r\n\x1a\x01\x02" + octets if begins else octets)
            file.flush()
            assert salvage(Path(file.name), KEY) is None
            try:
                found = read_recording(Path(file.name), KEY)
            except BadRecording:
                return
        assert 44 == len(found), "a header alone is an empty recording"

    def test_one_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_recording(tmp_path / "x.rec", KEY)

    def test_it_is_closed_all_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "x.rec"
        path.write_bytes(b"no recording")
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            with pytest.raises(BadRecording):
                read_recording(path, KEY)
        assert before == len(list(Path("/proc/self/fd").iterdir()))


class TestSalvage:
    """What a crash left: every whole chunk, hashed as if the call had ended there."""

    def left(self, path: Path) -> Recording:
        recording = salvage(path, KEY)
        assert recording is not None
        return recording

    def expected(self, path: Path, samples: bytes, rate: int = RATE) -> Recording:
        return Recording(
            path, KEY, hashlib.sha256(wav(samples, rate)).hexdigest(), len(samples) // 4 * 1000 // rate, rate,
            hashes(samples, rate), (len(samples) // 4 * 1000 // rate,) * 2,
        )  # fmt: skip

    @pytest.mark.parametrize("rate", [8000, 16_000])
    def test_one_that_was_not_finished_is_whole_until_where_it_was_written(self, tmp_path: Path, rate: int) -> None:
        samples = sound(12.5, rate=rate)
        path = written(tmp_path, samples, finished=False, rate=rate)
        assert self.expected(path, samples, rate) == self.left(path)
        assert wav(samples, rate) == read_recording(path, KEY)

    def test_one_that_was_finished_is_told_of_as_it_was_then(self, tmp_path: Path) -> None:
        samples = sound(21)
        path = written(tmp_path, samples)
        before = path.read_bytes()
        assert (self.expected(path, samples), before) == (self.left(path), path.read_bytes())

    @pytest.mark.parametrize("torn", [1, 28, 32, 428, 5001, SEALED - 1])
    def test_power_that_failed_in_the_middle_of_a_chunk_costs_that_chunk(self, tmp_path: Path, torn: int) -> None:
        samples = sound(12)
        path = written(tmp_path, samples, finished=False)
        os.truncate(path, HEADER + 11 * SEALED + torn)
        assert self.expected(path, samples[: 11 * CHUNK]) == self.left(path)
        assert wav(samples[: 11 * CHUNK]) == read_recording(path, KEY)
        assert [path] == list(tmp_path.iterdir())

    def test_octets_that_never_reached_the_disk_end_it_too(self, tmp_path: Path) -> None:
        samples = sound(12)
        path = written(tmp_path, samples, finished=False)
        with path.open("r+b") as file:
            file.seek(HEADER + 11 * SEALED + 4096)
            file.write(bytes(8192))
        assert self.expected(path, samples[: 11 * CHUNK]) == self.left(path)

    def test_what_lies_behind_a_hole_is_not_thrown_away(self, tmp_path: Path) -> None:
        """Nothing is destroyed that still opens: the file as it was stays beside the part that was kept."""
        samples = sound(12)
        path = written(tmp_path, samples, finished=False)
        with path.open("r+b") as file:
            file.seek(HEADER + 5 * SEALED)
            file.write(bytes(100))
        before = path.read_bytes()
        assert self.expected(path, samples[: 5 * CHUNK]) == self.left(path)
        torn = path.with_suffix(".torn")
        assert (before, 0o600) == (torn.read_bytes(), stat.S_IMODE(torn.stat().st_mode))

    def test_with_another_key_nothing_is_touched(self, tmp_path: Path) -> None:
        path = written(tmp_path, sound(2), finished=False)
        before = path.read_bytes()
        assert (None, before) == (salvage(path, bytes(32)), path.read_bytes())

    @pytest.mark.parametrize("octets", [b"", b"CGREC", b"something else entirely, and rather longer than a header"])
    def test_what_has_no_header_is_nothing(self, tmp_path: Path, octets: bytes) -> None:
        path = tmp_path / "call-1.rec"
        path.write_bytes(octets)
        assert (None, octets) == (salvage(path, KEY), path.read_bytes())

    def test_a_header_alone_is_nothing(self, tmp_path: Path) -> None:
        assert salvage(written(tmp_path, b"", finished=False), KEY) is None

    def test_a_file_that_is_not_there_is_nothing(self, tmp_path: Path) -> None:
        assert salvage(tmp_path / "call-1.rec", KEY) is None

    def test_one_that_is_still_being_written_is_left_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.telephony.vault.LOCK_S", 0.1)
        path = begun(tmp_path)
        writer = Writer(path, KEY, CALL, RATE)
        writer.put(sound(1))
        with pytest.raises(OSError, match=r"call-1\.rec is still being written by another process"):
            salvage(path, KEY)
        writer.close()
        assert self.left(path)


class TestGoingOn:
    """Another process goes on with a recording behind what is known to be written."""

    @pytest.mark.parametrize("known", [1.0, 9.0, 10.0, 10.5, 12.0, 20.0, 23.98])
    def test_hashes_and_sound_go_on_where_they_stood(self, tmp_path: Path, known: float) -> None:
        samples, cut = sound(24), int(known * RATE) * 4
        path = begun(tmp_path)
        first = Writer(path, KEY, CALL, RATE)
        marks = first.put(samples[:cut])
        first.put(samples[cut : cut + CHUNK])  # written, and nobody told
        first.close()
        sound_ms = marks[-1].sound_ms if marks else (0, 0)
        second = Writer(path, KEY, CALL, RATE, frames=cut // 4, blocks=len(marks), sound_ms=sound_ms)
        marks += second.put(samples[cut:])
        sha256, last = second.finish()
        assert hashlib.sha256(wav(samples)).hexdigest() == sha256
        assert hashes(samples) == tuple(mark.sha256.hex() for mark in (*marks, *last))
        assert ((24_000, 24_000), wav(samples)) == (second.sound_ms, read_recording(path, KEY))

    def test_the_same_may_come_again_with_other_samples(self, tmp_path: Path) -> None:
        """A G.722 decoder that begins anew says it a little differently."""
        before, after = sound(3, 1), sound(3, 2)
        path = written(tmp_path, before, finished=False)
        again = Writer(path, KEY, CALL, RATE, frames=RATE)
        again.put(after[CHUNK:])
        again.finish()
        assert wav(before[:CHUNK] + after[CHUNK:]) == read_recording(path, KEY)

    def test_with_less_than_was_known_it_is_refused(self, tmp_path: Path) -> None:
        path = written(tmp_path, sound(2.5), finished=False)
        with pytest.raises(BadRecording, match="second 3 of the recording of call-1 has lost its end"):
            Writer(path, KEY, CALL, RATE, frames=int(2.6 * RATE))


class TestFailures:
    def test_a_chunk_that_found_no_room_is_cut_off(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        samples = sound(3)
        path = begun(tmp_path)
        writer = Writer(path, KEY, CALL, RATE)
        writer.put(samples[: 2 * CHUNK])
        real = os.pwrite

        def partly(fd: int, octets: bytes, at: int) -> int:
            if len(octets) < SEALED:
                raise OSError(28, "No space left on device")
            return real(fd, octets[:10_000], at)

        monkeypatch.setattr(os, "pwrite", partly)
        with pytest.raises(OSError, match="No space left"):
            writer.put(samples[2 * CHUNK :])
        writer.close()
        assert wav(samples[: 2 * CHUNK]) == read_recording(path, KEY)

    def test_what_the_disk_lost_behind_our_back_fails_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The kernel tells of it once: at the next fdatasync."""
        writer = Writer(begun(tmp_path), KEY, CALL, RATE)
        writer.put(sound(1))

        def lost(_: int) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", lost)
        with pytest.raises(OSError, match="Input/output"):
            writer.sync()
        monkeypatch.undo()
        for go_on in (lambda: writer.put(sound(1)), writer.finish):
            with pytest.raises(OSError, match="Input/output"):
                go_on()

    def test_what_cannot_be_read_back_is_not_finished(self, tmp_path: Path) -> None:
        path = begun(tmp_path)
        writer = Writer(path, KEY, CALL, RATE)
        writer.put(sound(3))
        with path.open("r+b") as file:
            file.seek(HEADER + SEALED + 100)
            file.write(b"\0\0\0\0")
        with pytest.raises(BadRecording, match="second 2 "):
            writer.finish()

    def test_one_that_is_closed_is_not_synced(self, tmp_path: Path) -> None:
        writer = Writer(begun(tmp_path), KEY, CALL, RATE)
        writer.put(sound(1))
        writer.close()
        writer.sync()
        writer.close()


class TestTheTally:
    def test_a_stretch_of_20_ms_counts_when_its_loudest_sample_is_above_500(self) -> None:
        pairs = np.zeros((RATE, 2), "<i2")
        pairs[0:160, 0] = 500  # not above
        pairs[160:320, 0] = -500
        pairs[320, 0], pairs[799, 0], pairs[800, 0] = 501, -501, -32768
        pairs[1000, 1] = 32767
        tally = Tally(RATE)
        assert () == tally.add(pairs.tobytes())
        assert (60, 20) == tally.sound_ms

    def test_marks_say_what_was_heard_until_there(self) -> None:
        quiet, loud = bytes(CHUNK), np.full(RATE * 2, 900, "<i2").tobytes()
        tally = Tally(RATE, (40, 60))
        marks = tally.add(quiet * 5 + loud * 5 + loud)
        assert ((Mark(hashlib.sha256(quiet * 5 + loud * 5).digest(), (5040, 5060)),), (6040, 6060)) == (
            marks, tally.sound_ms,
        )  # fmt: skip
        assert (Mark(hashlib.sha256(loud).digest(), (6040, 6060)),) == tally.end()
        assert () == tally.end()


class TestTheLayout:
    @pytest.mark.parametrize("frames", [0, 1, 7999, 8000, 8001, 80_000])
    def test_size_and_frames_are_each_others_inverse(self, frames: int) -> None:
        layout = Layout(CALL, RATE)
        assert frames == layout.frames(layout.size(frames)) == layout.room(layout.size(frames))

    def test_a_torn_end_is_no_room(self) -> None:
        layout = Layout(CALL, RATE)
        assert 2 * RATE == layout.room(layout.size(2 * RATE) + 29)

    def test_the_key_of_a_safe_is_not_shown(self) -> None:
        assert KEY.hex() not in repr(Safe(KEY, Layout(CALL, RATE)))

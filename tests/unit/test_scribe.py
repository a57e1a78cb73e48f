"""What the recording process makes of its messages, in this process: what it answers, and when it has things on the disk."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.audio.codec import FRAME
from gateway.telephony.recording_format import path_of
from gateway.telephony.recording_wire import Done, Kind, Message, Opening, Reader, pack_audio, parse_marks
from gateway.telephony.scribe import Scribe
from gateway.telephony.vault import read_recording

KEY = bytes(range(100, 132))
SECOND = 50 * FRAME


class Desk:
    """A scribe, and the answers that it gave later."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.later: list[Message] = []
        self.scribe = Scribe(lambda octets: self.later.extend(Reader().feed(octets)))

    def say(self, kind: Kind, number: int = 1, body: bytes = b"") -> list[Message]:
        return list(Reader().feed(self.scribe.take(Message(kind, number, body))))

    def open(self, call_id: str = "call-1", number: int = 1, *, there: bool = True, **known: int) -> list[Message]:
        path = path_of(self.folder, call_id)
        if there:
            path.touch()
        return self.say(Kind.OPEN, number, Opening("PCMA", call_id, path, KEY, **known).pack())

    def write(self, second: int, seconds: int = 1, number: int = 1) -> list[Message]:
        octets = b"\x2a" * (seconds * SECOND)
        [message] = Reader().feed(pack_audio(number, second * SECOND, octets, octets))
        return self.say(Kind.AUDIO, number, message.body)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.scribe.stop()


def until(true: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.005)


class TestAnswers:
    def test_opening_and_audio_are_answered_at_once_with_the_blocks_that_are_whole(self, desk: Desk) -> None:
        assert [Message(Kind.WRITTEN, 1, b"")] == desk.open()
        assert [Message(Kind.WRITTEN, 1, b"")] == desk.write(0, 9)
        [answer] = desk.write(9, 2)
        assert [(10_000, 10_000)] == [mark.sound_ms for mark in parse_marks(answer.body)]

    def test_finishing_is_answered_when_all_is_on_the_disk(self, desk: Desk) -> None:
        desk.open()
        desk.write(0, 2)
        assert [] == desk.say(Kind.FINISH)
        until(lambda: bool(desk.later))
        [(kind, number, body)] = desk.later
        assert (Kind.DONE, 1, 16_000, 1) == (kind, number, Done.parse(body).frames, len(Done.parse(body).marks))

    def test_stopping_waits_for_what_is_being_finished(self, tmp_path: Path) -> None:
        desk = Desk(tmp_path)
        for number in range(8):
            desk.open(f"call-{number}", number)
            desk.write(0, 5, number)
            desk.say(Kind.FINISH, number)
        desk.scribe.stop()
        assert [Kind.DONE] * 8 == [message.kind for message in desk.later]

    def test_one_that_is_given_up_has_no_answer_and_stays(self, desk: Desk) -> None:
        desk.open()
        desk.write(0, 2)
        assert ([], []) == (desk.say(Kind.ABANDON), desk.say(Kind.ABANDON))
        assert 44 + 2 * 32_000 == len(read_recording(path_of(desk.folder, "call-1"), KEY))

    def test_one_that_is_not_open_any_more_is_passed_over(self, desk: Desk) -> None:
        """What was on its way when it failed."""
        assert [Kind.WRITTEN] == [message.kind for message in desk.write(0)]


class TestFailures:
    def failed(self, answers: list[Message]) -> str:
        [(kind, _, body)] = answers
        assert Kind.FAILED == kind
        return body.decode()

    def test_a_file_that_is_not_there(self, desk: Desk) -> None:
        assert "No such file or directory" == self.failed(desk.open(there=False))

    def test_a_gap(self, desk: Desk) -> None:
        desk.open()
        desk.write(0)
        assert "BadRecording: sample 8000 was to be written, and 16000 came" == self.failed(desk.write(2))

    def test_what_comes_twice(self, desk: Desk) -> None:
        desk.open()
        desk.write(0)
        assert "BadRecording: sample 8000 was to be written, and 0 came" == self.failed(desk.write(0))

    def test_nothing_to_go_on_with(self, desk: Desk) -> None:
        assert "BadRecording: second 1 of the recording of call-1 does not open" in self.failed(desk.open(frames=8000))

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            bytes(20) + KEY[:20],
            bytes(20) + KEY + b"PCMA",
            bytes(20) + KEY + b"OPUS\ncall-1\n/nowhere",
            bytes(20) + KEY + b"\xff\xfe\n\xff",
            bytes(20) + KEY + b"PCMA\n../call\n/nowhere",
        ],
    )
    def test_an_opening_that_is_none_and_its_key_is_not_told(self, desk: Desk, body: bytes) -> None:
        reason = self.failed(desk.say(Kind.OPEN, 1, body))
        assert reason
        assert KEY[:8].hex() not in reason
        assert repr(KEY[:8])[2:-1] not in reason

    def test_one_fails_alone(self, desk: Desk) -> None:
        desk.open("call-1", 1)
        desk.open("call-2", 2)
        self.failed(desk.write(5, number=1))
        assert [Kind.WRITTEN] == [message.kind for message in desk.write(0, number=2)]

    def test_a_finish_that_fails_says_so(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        desk.open()
        desk.write(0)

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fdatasync", full)
        desk.say(Kind.FINISH)
        until(lambda: bool(desk.later))
        assert "No space left on device" == self.failed(desk.later)


class TestTheDisk:
    """What is written reaches it while the call runs."""

    @pytest.fixture
    def synced(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        """What was synced, in its order."""
        monkeypatch.setattr("gateway.telephony.scribe.SYNC_S", 0.01)
        found: list[Path] = []
        for name in ("fdatasync", "fsync"):
            real = getattr(os, name)

            def sync(fd: int, real: Callable[[int], None] = real) -> None:
                found.append(Path(f"/proc/self/fd/{fd}").readlink())
                real(fd)

            monkeypatch.setattr(os, name, sync)
        return found

    def test_the_file_again_and_again_and_its_folder_once(self, synced: list[Path], tmp_path: Path) -> None:
        desk, path = Desk(tmp_path), path_of(tmp_path, "call-1")
        desk.open()
        for second in range(3):
            before = synced.count(path)
            desk.write(second)
            until(lambda before=before: synced.count(path) > before)  # type: ignore[misc]
        desk.scribe.stop()
        assert ([path, tmp_path], 1) == (synced[:2], synced.count(tmp_path))

    def test_what_did_not_change_is_left_alone(self, synced: list[Path], tmp_path: Path) -> None:
        desk = Desk(tmp_path)
        desk.open("call-1", 1)
        until(lambda: len(synced) >= 2)
        desk.open("call-2", 2)
        for second in range(5):
            before = len(synced)
            desk.write(second, number=2)
            until(lambda before=before: len(synced) > before)  # type: ignore[misc]
        desk.scribe.stop()
        assert 1 == synced.count(path_of(tmp_path, "call-1"))

    def test_what_it_lost_fails_the_recording_with_its_next_message(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("gateway.telephony.scribe.SYNC_S", 0.01)
        told = threading.Event()

        def lost(_: int) -> None:
            told.set()
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", lost)
        desk = Desk(tmp_path)
        desk.open()
        assert told.wait(60)
        answers: list[Message] = []
        second = 0
        while not answers or answers[-1].kind is Kind.WRITTEN:
            answers += desk.write(second)
            second += 1
        desk.scribe.stop()
        assert Message(Kind.FAILED, 1, b"Input/output error") == answers[-1]

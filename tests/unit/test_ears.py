"""The ears of a call: a real stream, ticked by hand, feeds sessions that write down what they are fed."""

from __future__ import annotations

import asyncio
import wave
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media_bench import DELAY, Line

from gateway.audio.codec import CODECS, FRAME, SAMPLE_RATE, Codec, decoder
from gateway.consent.testimony import Testimony as Witnessed  # pytest would collect a class named Test...
from gateway.consent.verdict import Judgement, Verdict
from gateway.dialplan.interpreter import Objection
from gateway.ears import WATCH_FRAMES, Tap, Watch
from gateway.speech.errors import DecoderLost
from gateway.speech.listener import Hearing
from gateway.telephony.recorder import RecordingOffice
from gateway.telephony.vault import read_recording

SILENCE = b"\xd5" * FRAME


@dataclass
class Ear:
    """In a session's place: keeps what it was fed, and how it was opened."""

    options: dict[str, Any] = field(default_factory=dict)
    fed: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    final: asyncio.Future[Hearing] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    closed: bool = False

    def feed_octets(self, heard: bytes, sent: bytes | None = None) -> None:
        self.fed.append((heard, sent))

    def close(self) -> None:
        self.closed = True
        if self.final.done():
            self.final.exception()

    def start(self) -> None:
        """The callee begins to speak."""
        self.options["on_started"]()

    def end(self) -> None:
        """What he said has been understood."""
        self.options["on_aside"](Hearing(Witnessed(speech_ms=500)))

    @property
    def heard(self) -> bytes:
        return b"".join(heard for heard, _ in self.fed)


@dataclass
class Ears:
    """In the listener's place: opens ears, or says that none can be opened."""

    opened: list[Ear] = field(default_factory=list)
    down: bool = False

    def open(self, grammar: str, **options: Any) -> Ear:
        if self.down:
            raise DecoderLost("no listening process is up")
        self.opened.append(Ear({"grammar": grammar, **options}))
        return self.opened[-1]


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.close()


def sounds(count: int, first: int = 0x10) -> range:
    """Octets of *count* frames that differ."""
    return range(first, first + count)


def frames(octets: range) -> list[bytes]:
    return [bytes([octet]) * FRAME for octet in octets]


class TestTap:
    async def test_each_frame_is_fed_as_it_came(self, line: Line) -> None:
        ear = Ear()
        Tap(line.stream, ear)  # type: ignore[arg-type]
        line.speak(*sounds(6))
        assert [*[SILENCE] * DELAY, *frames(sounds(3))] == [heard for heard, _ in ear.fed]

    @pytest.mark.parametrize("codec", CODECS)
    async def test_it_is_the_recording_from_where_the_tap_was_opened(self, tmp_path: Path, codec: Codec) -> None:
        office = RecordingOffice(tmp_path)
        recorder = office.open("call", codec)
        line = Line(codec, recorder=recorder)
        line.speak(*sounds(7))
        before = b"".join(heard for heard, _ in line.frames)
        ear = Ear()
        tap = Tap(line.stream, ear)  # type: ignore[arg-type]
        line.stream.play(frames(sounds(20, 0x60)))
        line.speak(*sounds(20, 0x30))
        line.close()
        recording = await recorder.finish()
        with wave.open(BytesIO(read_recording(recording.path, recording.key))) as file:
            recorded = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2)
        office.stop()
        assert 140 == tap.opened_ms
        assert decoder(codec).decode(before + ear.heard).tolist() == recorded[:, 0].tolist()
        sent = b"".join(octets for _, octets in ear.fed if octets is not None)
        assert b"".join(frames(sounds(20, 0x60))) == sent
        if codec != "G722":  # whose decoder would have to know what came before
            start = tap.opened_ms * SAMPLE_RATE[codec] // 1000
            assert decoder(codec).decode(sent).tolist() == recorded[start:, 1].tolist()

    async def test_while_nothing_plays_nothing_was_sent(self, line: Line) -> None:
        ear = Ear()
        Tap(line.stream, ear)  # type: ignore[arg-type]
        line.speak(*sounds(2))
        line.stream.play([b"\x60" * 160])
        line.speak(*sounds(2))
        assert [None, None, b"\x60" * 160, None] == [sent for _, sent in ear.fed]

    async def test_several_frames_are_fed_at_once(self, line: Line) -> None:
        ear = Ear()
        Tap(line.stream, ear, frames=5)  # type: ignore[arg-type]
        line.speak(*sounds(14))
        assert [800, 800] == [len(heard) for heard, _ in ear.fed]

    async def test_what_was_sent_among_them_stands_in_its_place(self, line: Line) -> None:
        ear = Ear()
        Tap(line.stream, ear, frames=5)  # type: ignore[arg-type]
        line.speak(*sounds(3))
        line.stream.play([b"\x60" * 160])
        line.speak(*sounds(7))
        assert [SILENCE * 3 + b"\x60" * 160 + SILENCE, None] == [sent for _, sent in ear.fed]

    async def test_the_rest_can_be_fed_at_once(self, line: Line) -> None:
        ear = Ear()
        tap = Tap(line.stream, ear, frames=5)  # type: ignore[arg-type]
        line.speak(*sounds(7))
        tap.flush()
        tap.flush()
        assert [800, 320] == [len(heard) for heard, _ in ear.fed]

    async def test_once_off_it_feeds_no_more(self, line: Line) -> None:
        ear = Ear()
        tap = Tap(line.stream, ear)  # type: ignore[arg-type]
        line.speak(*sounds(2))
        tap.off()
        line.speak(*sounds(2))
        assert 2 == len(ear.fed)


def watching(line: Line, ears: Ears, *verdicts: Verdict) -> tuple[Watch, list[int]]:
    """A watch whose utterances are judged so, one after the other; the list gains where in the recording each counts from."""
    judgements = iter(verdicts)
    places: list[int] = []

    def judge(_: Hearing, opened_ms: int) -> Judgement:
        places.append(opened_ms)
        return Judgement(next(judgements), "for the test")

    return Watch(line.stream, ears, "watch", judge), places  # type: ignore[arg-type]


@pytest.fixture
def ears() -> Ears:
    return Ears()


class TestWatch:
    async def test_it_listens_for_what_nobody_asked(self, line: Line, ears: Ears) -> None:
        watch, _ = watching(line, ears)
        watch.on()
        line.speak(*sounds(2 * WATCH_FRAMES))
        [ear] = ears.opened
        assert ("watch", "watch", "PCMA") == tuple(ear.options[key] for key in ("grammar", "mode", "codec"))
        assert [160 * WATCH_FRAMES] * 2 == [len(heard) for heard, _ in ear.fed]

    async def test_turned_on_again_it_goes_on(self, line: Line, ears: Ears) -> None:
        watch, _ = watching(line, ears)
        watch.on()
        watch.on()
        assert 1 == len(ears.opened)

    async def test_turned_off_it_hears_nothing(self, line: Line, ears: Ears) -> None:
        watch, _ = watching(line, ears)
        watch.on()
        watch.off()
        line.speak(*sounds(2 * WATCH_FRAMES))
        [ear] = ears.opened
        assert ([], True) == (ear.fed, ear.closed)

    @pytest.mark.parametrize("objection", ["deny", "stop"])
    async def test_an_objection_stops_what_plays(self, line: Line, ears: Ears, objection: Objection) -> None:
        watch, _ = watching(line, ears, objection)
        watch.on()
        playing = line.stream.play([b"\x60" * 160] * 10)
        line.speak(*sounds(4))
        ears.opened[0].end()
        assert (4, objection) == (playing.result().sent, watch.objection)

    @pytest.mark.parametrize("remark", ["affirm", "unclear", "noinput", "repeat", "agent"])
    async def test_anything_else_does_not(self, line: Line, ears: Ears, remark: Verdict) -> None:
        watch, _ = watching(line, ears, remark)
        watch.on()
        playing = line.stream.play([b"\x60" * 160] * 10)
        line.speak(*sounds(4))
        ears.opened[0].end()
        assert (False, None) == (playing.done(), watch.objection)

    @pytest.mark.parametrize(("said", "expected"), [(("deny", "stop"), "deny"), (("unclear", "stop", "deny"), "stop")])
    async def test_the_first_objection_stands(
        self, line: Line, ears: Ears, said: tuple[Verdict, ...], expected: Objection
    ) -> None:
        watch, _ = watching(line, ears, *said)
        watch.on()
        for _ in said:
            ears.opened[0].end()
        assert expected == watch.objection

    async def test_it_stands_when_the_watch_is_off(self, line: Line, ears: Ears) -> None:
        watch, _ = watching(line, ears, "deny")
        watch.on()
        ears.opened[0].end()
        watch.off()
        assert "deny" == await watch.settled(0)

    async def test_an_utterance_is_told_with_the_place_where_the_watch_began(self, line: Line, ears: Ears) -> None:
        watch, places = watching(line, ears, "unclear", "unclear")
        line.speak(*sounds(3))
        watch.on()
        line.speak(*sounds(3))
        ears.opened[0].end()
        watch.off()
        watch.on()
        ears.opened[1].end()
        assert [60, 120] == places


class TestSettling:
    async def test_where_nobody_speaks_there_is_nothing_to_wait_for(self, line: Line, ears: Ears) -> None:
        watch, _ = watching(line, ears)
        watch.on()
        assert await watch.settled(0) is None

    async def test_who_speaks_may_finish(self, line: Line, ears: Ears) -> None:
        watch, _ = watching(line, ears, "deny")
        watch.on()
        ears.opened[0].start()
        settling = asyncio.create_task(watch.settled(60))
        await asyncio.sleep(0)
        before = settling.done()
        ears.opened[0].end()
        assert (False, "deny") == (before, await settling)

    async def test_but_not_for_ever(self, line: Line, ears: Ears) -> None:
        watch, _ = watching(line, ears)
        watch.on()
        ears.opened[0].start()
        assert await watch.settled(0.01) is None

    async def test_who_spoke_when_the_watch_ended_is_not_waited_for(self, line: Line, ears: Ears) -> None:
        watch, _ = watching(line, ears)
        watch.on()
        ears.opened[0].start()
        watch.off()
        settling = asyncio.create_task(watch.settled(60))
        await asyncio.sleep(0)
        assert settling.done()


class TestWithoutAListeningProcess:
    async def test_the_prompts_play_unwatched(self, line: Line, ears: Ears) -> None:
        ears.down = True
        watch, _ = watching(line, ears)
        watch.on()
        line.speak(*sounds(2))
        assert await watch.settled(0) is None

    async def test_the_next_prompt_is_watched_when_one_is_up_again(self, line: Line, ears: Ears) -> None:
        ears.down = True
        watch, _ = watching(line, ears)
        watch.on()
        ears.down = False
        watch.on()
        line.speak(*sounds(WATCH_FRAMES))
        assert [1] == [len(ear.fed) for ear in ears.opened]

    @pytest.mark.parametrize("speaking", [False, True])
    async def test_one_that_dies_while_it_listens_is_replaced(self, line: Line, ears: Ears, speaking: bool) -> None:
        watch, _ = watching(line, ears)
        watch.on()
        if speaking:
            ears.opened[0].start()
        ears.opened[0].final.set_exception(DecoderLost("it died"))
        watch.on()
        line.speak(*sounds(WATCH_FRAMES))
        assert [(True, 0), (False, 1)] == [(ear.closed, len(ear.fed)) for ear in ears.opened]
        assert await watch.settled(0) is None

"""Looking for machines on a call: what is heard, wherever it is tapped, is told once, written down, and ends what is done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import yaml

from gateway import machines
from gateway.audio.codec import FRAME, Codec, encoder, silence
from gateway.consent import events as ev
from gateway.dialplan.model import Dialplan
from gateway.ears import Tap
from gateway.language.pack import load_pack
from gateway.machines import MachineHeard, MachineWatch
from gateway.resources import data_folder
from gateway.speech.frontend import Pcm
from gateway.telephony.call import CallEnd
from gateway.telephony.errors import CallOver
from gateway.timeline import describe

SCRIPT = yaml.safe_load((data_folder("dialplans") / "plan-upgrade.yaml").read_text(encoding="utf-8"))
PACK = load_pack(data_folder("prompts"), "en")
SILENCE_MS = 1200
RATE = 8000


@dataclass
class Terms:
    codec: Codec = "PCMA"


@dataclass
class Stream:
    """In the media's place: gives what is said on it to whoever taps it, 20 ms at a time."""

    terms: Terms = field(default_factory=Terms)
    tap: Callable[[bytes, bytes], None] | None = None
    position_ms: int = 0

    def speak(self, samples: Pcm) -> None:
        octets = encoder(self.terms.codec).encode(samples)
        for start in range(0, len(octets), FRAME):
            self.position_ms += 20
            if self.tap is not None:
                self.tap(octets[start : start + FRAME], silence(self.terms.codec))


@dataclass
class Line:
    """In the call's place, with the record that is kept of it."""

    stream: Stream = field(default_factory=Stream)
    call_id: str = "call-1"
    stopped: int = 0
    ended: asyncio.Future[CallEnd] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    written: list[ev.AnswerJudged] = field(default_factory=list)

    def stop_playing(self) -> None:
        self.stopped += 1

    async def note(self, event: ev.AnswerJudged) -> None:
        self.written.append(event)


def watching(line: Line, **machine: Any) -> MachineWatch:
    plan = Dialplan.model_validate(SCRIPT | {"machine": SCRIPT["machine"] | machine})
    return MachineWatch(line, plan, PACK, line.note)  # type: ignore[arg-type]


def quiet(ms: int) -> Pcm:
    return np.zeros(RATE * ms // 1000, np.int16)


def beep(rate: int = RATE) -> Pcm:
    tone = np.rint(6000 * np.sin(2 * np.pi * 1000 * np.arange(rate * 3 // 10) / rate)).astype(np.int16)
    return np.concatenate([np.zeros(rate // 2, np.int16), tone, np.zeros(rate // 2, np.int16)])


async def begun(watch: MachineWatch) -> asyncio.Task[None]:
    """Looking for machines, and listening already."""
    task = asyncio.create_task(watch.detect())
    await asyncio.sleep(0)
    return task


class TestWhoAnswers:
    async def test_who_is_no_machine_is_written_down_and_goes_on(self) -> None:
        line = Line()
        looking = await begun(watching(line))
        line.stream.speak(quiet(SILENCE_MS))
        await looking
        assert [("unsure", SILENCE_MS)] == [(event.verdict, event.at_ms) for event in line.written]

    @pytest.mark.parametrize("codec", ["PCMA", "PCMU", "G722"])
    async def test_a_machine_is_heard_in_every_codec(self, codec: Codec) -> None:
        line = Line(Stream(Terms(codec)))
        looking = await begun(watching(line))
        line.stream.speak(beep(16_000 if codec == "G722" else RATE))
        with pytest.raises(MachineHeard, match="a beep of 1000 Hz"):
            await looking
        assert ["machine"] == [event.verdict for event in line.written]

    async def test_the_thresholds_are_the_scripts(self) -> None:
        line = Line()
        looking = await begun(watching(line, initial_silence_ms=400))
        line.stream.speak(quiet(400))
        await looking
        assert [400] == [event.at_ms for event in line.written]

    async def test_a_call_that_ends_first_is_over(self) -> None:
        line = Line()
        looking = await begun(watching(line))
        line.ended.set_result(CallEnd("caller", "hung up"))
        with pytest.raises(CallOver, match="hung up"):
            await looking
        assert [] == line.written


class TestAfterwards:
    async def test_a_machine_that_is_heard_beside_something_else_stops_what_plays(self) -> None:
        line = Line()
        watch = watching(line)
        looking = await begun(watch)
        line.stream.speak(quiet(SILENCE_MS))
        await looking
        Tap(line.stream, None, 1, watch.take)  # type: ignore[arg-type]
        line.stream.speak(beep())
        assert (True, 1, 1) == (watch.machine_heard, line.stopped, len(watch.waits))
        with pytest.raises(MachineHeard):
            await watch.unless_machine()
        assert ["unsure", "machine"] == [event.verdict for event in line.written]

    async def test_when_a_person_has_spoken_it_is_looked_for_no_longer(self) -> None:
        line = Line()
        watch = watching(line)
        looking = await begun(watch)
        line.stream.speak(quiet(SILENCE_MS))
        await looking
        watch.person()
        Tap(line.stream, None, 1, watch.take)  # type: ignore[arg-type]
        line.stream.speak(beep())
        await watch.unless_machine()
        assert (False, 0, set()) == (watch.machine_heard, line.stopped, watch.waits)

    async def test_before_it_is_asked_for_nothing_is_heard(self) -> None:
        line = Line()
        watch = watching(line)
        octets = encoder("PCMA").encode(beep())
        watch.take(octets, silence("PCMA") * (len(octets) // FRAME))
        assert (False, set()) == (watch.machine_heard, watch.waits)

    async def test_it_leaves_the_stream_to_what_has_taken_it_since(self) -> None:
        line = Line()
        watch = watching(line)
        looking = await begun(watch)
        line.stream.speak(quiet(SILENCE_MS))
        await looking
        heard: list[bytes] = []
        Tap(line.stream, None, 1, lambda octets, _: heard.append(octets))  # type: ignore[arg-type]
        watch.person()
        line.stream.speak(quiet(40))
        assert [silence("PCMA")] * 2 == heard


class TestOurOwnEcho:
    async def beside(self, sent: Pcm) -> MachineWatch:
        """A beep is heard half a second after *sent* was."""
        line = Line()
        watch = watching(line)
        looking = await begun(watch)
        line.stream.speak(quiet(SILENCE_MS))
        await looking
        coder, quiet_frame = encoder("PCMA"), silence("PCMA")
        heard, played = coder.encode(beep()), coder.encode(sent)
        played += quiet_frame * ((len(heard) - len(played)) // FRAME)
        for start in range(0, len(heard), FRAME):
            watch.take(heard[start : start + FRAME], played[start : start + FRAME])
        return watch

    async def test_the_echo_of_a_tone_that_we_play_is_no_machine(self) -> None:
        tone = beep()[RATE // 2 :][: RATE * 3 // 10]
        assert not (await self.beside(tone)).machine_heard

    async def test_a_beep_beside_what_else_we_play_is_one(self) -> None:
        assert (await self.beside(TestMessages.talk()[: RATE // 2])).machine_heard


class TestMessages:
    @pytest.fixture
    async def line(self) -> Line:
        return Line()

    async def found(self, line: Line, prompt: str, sound: Pcm) -> MachineWatch:
        """A machine that has been heard by *sound*, and is to be left *prompt*."""
        watch = watching(line, then="leave_message", prompt=prompt)
        looking = await begun(watch)
        line.stream.speak(sound)
        with pytest.raises(MachineHeard):
            await looking
        return watch

    async def test_it_is_left_when_the_machine_has_beeped(self, line: Line) -> None:
        watch = await self.found(line, "no_order", beep())
        assert await watch.takes_message()

    async def test_a_wording_with_the_offer_in_it_is_not_left(self, line: Line) -> None:
        """Rule R14: the house refuses such a script; this is the belt to those braces."""
        watch = await self.found(line, "opening", beep())
        assert not await watch.takes_message()

    async def test_one_that_depends_on_the_offer_is_not_left(self, line: Line) -> None:
        watch = await self.found(line, "disclosure_trial", beep())
        assert not await watch.takes_message()

    async def test_where_the_greeting_never_ends_none_is_left(
        self, line: Line, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(machines, "GREETING_S", 0.05)
        watch = await self.found(line, "no_order", self.talk())
        assert not await watch.takes_message()

    async def test_it_is_waited_for(self, line: Line) -> None:
        watch = await self.found(line, "no_order", self.talk())
        waiting = asyncio.create_task(watch.takes_message())
        await asyncio.sleep(0)
        assert not waiting.done()
        line.stream.speak(beep())
        assert await waiting

    async def test_a_machine_that_hangs_up_is_left_none(self, line: Line) -> None:
        watch = await self.found(line, "no_order", self.talk())
        line.ended.set_result(CallEnd("caller", "hung up"))
        with pytest.raises(CallOver, match="hung up"):
            await watch.takes_message()

    @staticmethod
    def talk() -> Pcm:
        """A buzz that swells and fades like syllables, for as long as no person says hello."""
        time = np.arange(RATE * 5) / RATE
        buzz = sum(np.sin(2 * np.pi * 140 * order * time) / order for order in range(1, 20))
        swell = np.clip(np.sin(2 * np.pi * 3 * time) + 0.5, 0.02, 1)
        return np.rint(5000 * swell * buzz).astype(np.int16)


def test_the_timeline_tells_who_answered_and_by_what() -> None:
    judged = ev.AnswerJudged(call_id="call-1", verdict="machine", reason="a beep of 1000 Hz", at_ms=2400)
    assert "machine: a beep of 1000 Hz, 2.4 s after the answer" == describe(judged)

"""Answering machines, on real calls: they are hung up on or left a message, counted, called again as the script says, and never
asked anything. People are waited for until they have said hello.
"""

from __future__ import annotations

import asyncio
import shutil
import wave
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import pytest_asyncio
import town as place
import yaml
from numpy.typing import NDArray
from town import HOST, Phone, Town, heard_s

from gateway.consent import events as ev
from gateway.demo import VOICES
from gateway.demo.world import World, clip
from gateway.resources import data_folder
from gateway.speech.prompts import read_wav

pytestmark = pytest.mark.asyncio(loop_scope="session")

Event = TypeVar("Event", bound=ev.Fact)
RATE = 8000
MESSAGE_HZ, MESSAGE_S = 2400.0, 0.6
BEEP_HZ = 1000.0
GREETING = ("owner", "adult", "repeat", "agent", "consent", "leave", "owner")
CALL_S = 60.0
YES = ";".join(clip("mix", name) for name in ("leave", "owner", "adult", "consent"))
LINE = "on the line"
"""The call that goes over the line, and is repeated; the others are to a phone that is named."""

NUMBER = {call: f"+82109000030{number}" for number, call in enumerate(("greeting", "hello", "beep", LINE))}


def silence(seconds: float) -> NDArray[np.int16]:
    return np.zeros(int(RATE * seconds), np.int16)


def said(name: str) -> NDArray[np.int16]:
    samples = read_wav(VOICES / "mix" / f"{name}.wav")
    loud = np.flatnonzero(np.abs(samples) > 300)
    return np.asarray(samples[loud[0] : loud[-1] + 1], np.int16)


def beep() -> NDArray[np.int16]:
    return np.rint(6000 * np.sin(2 * np.pi * BEEP_HZ * np.arange(RATE * 3 // 10) / RATE)).astype(np.int16)


def greeting() -> NDArray[np.int16]:
    return np.concatenate([part for name in GREETING for part in (said(name), silence(0.2))])


def write(path: Path, *parts: NDArray[np.int16]) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.concatenate(parts).astype("<i2").tobytes())
    return path


def scripts(folder: Path) -> Path:
    """The scripts that ship, and one that leaves a message and calls again at once."""
    made = folder / "dialplans"
    made.mkdir()
    for path in data_folder("dialplans").glob("*.yaml"):
        shutil.copy(path, made)
    plan = yaml.safe_load((made / "plan-upgrade.yaml").read_text(encoding="utf-8")) | {"name": "plan-message"}
    plan["machine"] |= {"then": "leave_message", "prompt": "machine_message", "retry_after_s": 1}
    (made / "plan-message.yaml").write_text(yaml.safe_dump(plan, allow_unicode=True), encoding="utf-8")
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def village() -> AsyncIterator[Town]:
    """A town of its own, whose gateway leaves messages and calls twice."""
    settings, own_prompts = place.settings, place.own_prompts

    def with_scripts(world: World, line_port: int, prompts: Path) -> str:
        text = settings(world, line_port, prompts).replace("call_attempts = 1", "call_attempts = 2")
        return f'dialplans = "{scripts(world.folder)}"\n{text}'

    def with_message(folder: Path) -> Path:
        prompts = own_prompts(folder)
        worded = prompts / "ko/prompts.yaml"
        worded.write_text(
            worded.read_text(encoding="utf-8") + "  machine_message: '{operator}입니다.'\n", encoding="utf-8"
        )
        place.tone(prompts / "ko/audio/machine_message.wav", MESSAGE_HZ, MESSAGE_S)
        return prompts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "settings", with_scripts)
        patch.setattr(place, "own_prompts", with_message)
        async with place.open_town() as opened:
            yield opened


@dataclass
class Answered:
    """A call that is over."""

    order_id: str
    phone: Phone
    heard: Path
    events: list[ev.Event]
    state: str

    def all(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def outcomes(self) -> list[str]:
        return [event.outcome for event in self.all(ev.CallEnded)]

    @property
    def judged(self) -> list[str]:
        return [event.verdict for event in self.all(ev.AnswerJudged)]


async def call_out(village: Town, call: str, script: str, folder: Path) -> Answered:
    """A call to the subscriber of *call*, who does *script*."""
    heard, over_line = folder / f"{NUMBER[call]}.wav", call == LINE
    listen = ("--listen", f"{HOST}:{village.line_port}", "--calls", "2") if over_line else ()
    phone = await village.phone("answer", "--script", script, "--record", str(heard), "--turn-silence", "500", *listen)
    dialplan = "plan-message" if over_line else "plan-upgrade"
    order_id = await village.order(NUMBER[call], call="now" if over_line else "inbound", dialplan=dialplan)
    if not over_line:
        to = f"sip:me@{(await phone.told('listening'))['sip']}"
        await village.world.ask("POST", f"/v1/orders/{order_id}/calls", {"to": to})
    await phone.done()
    state = await ended(village, order_id, 2 if over_line else 1)
    return Answered(order_id, phone, heard, [ev.parse_event(event) for event in await village.events(order_id)], state)


async def ended(village: Town, order_id: str, calls: int) -> str:
    """The state of the order, when so many of its calls have ended."""

    async def over() -> bool:
        return len(await village.events(order_id, "call.ended")) >= calls

    await place.until(over, f"the end of {calls} calls of {order_id}")
    return await village.state(order_id)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def calls(village: Town, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answered]:
    folder = tmp_path_factory.mktemp("machines")
    talk = write(folder / "greeting.wav", greeting(), silence(6.0))
    hello = write(folder / "hello.wav", said("bare_yes"))
    beeps = write(folder / "beeps.wav", said("bare_yes"), silence(2.5), beep(), silence(3.0))
    takes = write(folder / "takes.wav", greeting(), silence(0.3), beep(), silence(4.0))
    script = {
        "greeting": f"+wait:0.3;say:{talk}",
        "hello": f"+wait:0.4;say:{hello};{YES};wait:0.5;hangup",
        "beep": f"+wait:0.3;say:{beeps}",
        LINE: f"+wait:0.3;say:{takes}",
    }
    async with asyncio.timeout(4 * CALL_S):
        made = await asyncio.gather(*(call_out(village, call, script[call], folder) for call in script))
    return dict(zip(script, made, strict=True))


async def test_who_says_hello_and_waits_is_asked(calls: dict[str, Answered]) -> None:
    person = calls["hello"]
    assert ["human"] == person.judged
    assert (1, "challenged") == (len(person.all(ev.ConsentSpoken)), person.state)


async def test_the_opening_begins_half_a_second_behind_the_hello(calls: dict[str, Answered]) -> None:
    """0.4 s pass before it; the play-out buffer and a busy machine add some."""
    hello_ms = 400 + said("bare_yes").size * 1000 // RATE
    [judged] = calls["hello"].all(ev.AnswerJudged)
    assert hello_ms + 400 <= judged.at_ms <= hello_ms + 500 + 600


async def test_who_talks_on_is_a_machine_and_hung_up_on(calls: dict[str, Answered]) -> None:
    machine = calls["greeting"]
    assert (["machine"], ["machine"]) == (machine.judged, machine.outcomes)
    assert "remote" == (await machine.phone.told("ended"))["by"]


async def test_it_is_played_nothing_and_asked_nothing(calls: dict[str, Answered]) -> None:
    machine = calls["greeting"]
    assert ([], []) == (machine.all(ev.PromptPlayed), machine.all(ev.UtteranceHeard))


async def test_the_order_stays_open_and_says_why(village: Town, calls: dict[str, Answered]) -> None:
    summary: dict[str, Any] = await village.world.ask("GET", f"/v1/orders/{calls['greeting'].order_id}")
    assert ("ordered", 1) == (summary["state"], summary["calls"])
    assert summary["reason"].startswith("machine: a ")


async def test_a_beep_in_the_middle_of_the_first_question_ends_it(calls: dict[str, Answered]) -> None:
    machine = calls["beep"]
    steps = {event.step for event in machine.all(ev.PromptPlayed)}
    assert (["human", "machine"], ["machine"], {"opening"}) == (machine.judged, machine.outcomes, steps)
    [_, found] = machine.all(ev.AnswerJudged)
    assert pytest.approx(BEEP_HZ, rel=0.01) == found.tone_hz
    assert "ordered" == machine.state


async def test_a_message_is_left_behind_the_beep(calls: dict[str, Answered]) -> None:
    machine = calls[LINE]
    played = machine.all(ev.PromptPlayed)
    assert [("machine", True)] * 2 == [(event.step, event.samples_sent == event.samples_planned) for event in played]
    assert ["a long greeting; a message was left"] * 2 == [event.reason for event in machine.all(ev.CallEnded)]
    assert MESSAGE_S == pytest.approx(heard_s(machine.heard, MESSAGE_HZ), abs=0.2)


async def test_the_call_counts_and_is_made_again_as_the_script_says(calls: dict[str, Answered]) -> None:
    machine = calls[LINE]
    assert (["machine", "machine"], "unreachable") == (machine.outcomes, machine.state)
    assert {ev.NextCall(wanted=True, after_s=1)} == {event.next_call for event in machine.all(ev.CallEnded)}


async def test_no_machine_has_consented(calls: dict[str, Answered]) -> None:
    consents = [event for call in ("greeting", "beep", LINE) for event in calls[call].all(ev.ConsentSpoken)]
    assert [] == consents

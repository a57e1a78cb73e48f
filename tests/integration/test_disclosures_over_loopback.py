"""A disclosure that does not arrive is told once more, and then nothing is asked: whole conversations over a line that loses."""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Literal

import pytest
from loss_bench import PRICE_FRAMES, House, Packet, Scene, until

from gateway.consent import events as ev
from gateway.consent import testimony
from gateway.consent.disclosure import MANDATORY, unheard
from gateway.consent.verdict import Judgement
from gateway.speech.listener import Hearing
from gateway.telephony import passage, reporting, stream

Play = Callable[..., Awaitable[Scene]]
_ports = count(25_000, 40)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides report about five times a second, and every report counts: a disclosure here lasts half a second."""
    monkeypatch.setattr(reporting, "INTERVAL_S", 0.2)
    monkeypatch.setattr(reporting, "FIRST_S", 0.0)
    monkeypatch.setattr(stream, "CHECK_FRAMES", 5)
    monkeypatch.setattr(passage, "LEAST_PACKETS", 5)


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Play]:
    houses: list[House] = []

    async def make(*, secure: bool = False, **options: object) -> Scene:
        for name in ("gateway", "callee"):
            first = next(_ports)
            houses.append(House(tmp_path / name, range(first, first + 20)))
            await houses[-1].open()
        gateway, callee = houses
        uri = f"sip:callee@127.0.0.1:{callee.agent.port}"
        near = await gateway.agent.dial(uri, "call", from_user="200", secure=secure)
        near.direction = "inbound"  # who answers is not looked for here
        return Scene(near, await asyncio.wait_for(callee.taken.get(), 10), **options)  # type: ignore[arg-type]

    yield make
    for house in houses:
        await house.close()


def numbers(packets: list[Packet]) -> tuple[int, int, int, int, int]:
    first, last = packets[0], packets[-1]
    return first.ssrc, first.sequence, last.sequence, first.timestamp, last.timestamp


def proven(event: ev.PromptPlayed) -> tuple[int | None, ...]:
    return event.ssrc, event.first_sequence, event.last_sequence, event.first_timestamp, event.last_timestamp


def heard(book_events: list[ev.PromptPlayed]) -> Counter[str]:
    return Counter(event.disclosure for event in book_events if event.disclosure and not unheard(event, 0.05))


@pytest.mark.parametrize("secure", [False, True], ids=["rtp", "srtp"])
async def test_on_a_good_line_every_proof_is_what_was_on_the_wire(scene: Play, secure: bool) -> None:
    played = await scene(secure=secure)
    ended = await played.run()
    events = played.book.all(ev.PromptPlayed)
    assert ("completed", "spoken") == (ended.outcome, played.book.record.state)
    assert [*MANDATORY] == sorted((e.disclosure for e in events if e.disclosure), key=MANDATORY.index)
    assert 0 < sum(event.far is not None for event in events if event.disclosure)
    assert {0.0} == {event.far.lost_fraction for event in events if event.far}
    if not secure:
        for event in events[:-1]:  # the callee may be gone before all of the last one has come
            name = f"disclosure_{event.disclosure}" if event.disclosure else event.text[1:-1]
            [packets] = played.line.of(played.frames[name])
            assert numbers(packets) == proven(event)
            assert len(packets) * 160 == event.samples_planned == event.samples_sent
    else:  # only the headers can be read
        wire = {packet.sequence: packet.timestamp for packet in played.line.packets}
        for event in events[:-1]:
            assert wire[event.first_sequence] == event.first_timestamp
            assert wire[event.last_sequence] == event.last_timestamp


async def test_one_that_is_lost_is_told_once_more_and_then_heard(scene: Play) -> None:
    played = await scene()
    of_price, numbered = played.carries("disclosure_price"), count()
    played.line.loses = lambda payload: of_price(payload) and next(numbered) < PRICE_FRAMES
    ended = await played.run()
    told = played.book.told("price")
    assert ("completed", "spoken") == (ended.outcome, played.book.record.state)
    assert [PRICE_FRAMES, 0] == [
        sum(packet.lost for packet in once) for once in played.line.of(played.frames["disclosure_price"])
    ]
    assert 2 == len(told)
    taken = {event.disclosure for event in played.book.all(ev.DisclosureUnheard)}
    assert "price" in taken or unheard(told[0], 0.05)
    assert {*MANDATORY} == set(heard(played.book.all(ev.PromptPlayed)))
    assert 1 == len(played.book.all(ev.ConsentSpoken))


async def test_one_that_is_lost_again_ends_the_call_without_the_consent_question(scene: Play) -> None:
    """Every other packet, so that what has come is reported while it plays."""
    played = await scene()
    of_price, numbered = played.carries("disclosure_price"), count()
    played.line.loses = lambda payload: of_price(payload) and next(numbered) % 2 == 1
    ended = await played.run()
    told = played.book.told("price")
    assert ("failed", "the disclosure 'price' could not be played whole") == (ended.outcome, ended.reason)
    assert [True, True] == ["lost on the line" in unheard(event, 0.05) for event in told]
    assert ["leave", "owner", "adult"] == played.answers.asked
    assert [] == played.book.all(ev.ConsentSpoken)
    assert "goodbye_trouble" == played.book.all(ev.PromptPlayed)[-1].text[1:-1]


async def test_one_whose_loss_is_reported_late_both_times_is_not_consented_to(scene: Play) -> None:
    """All of its packets: the far end can tell only when others have come."""
    played = await scene()
    played.line.loses = played.carries("disclosure_price")
    ended = await played.run()
    assert "failed" == ended.outcome
    assert re.fullmatch(r"the disclosure '\w+' (could not be played|did not arrive) whole", ended.reason)
    assert [] == played.book.all(ev.ConsentSpoken)
    assert "price" not in played.book.record.disclosed
    assert (
        max(Counter(event.disclosure for event in played.book.all(ev.PromptPlayed) if event.disclosure).values()) == 2
    )


async def test_more_loss_than_usual_is_within_what_this_policy_allows(scene: Play) -> None:
    played = await scene(loss_allowed=1.0)
    numbered = count()
    played.line.loses = lambda _: next(numbered) % 5 == 4
    ended = await played.run()
    events = [event for event in played.book.all(ev.PromptPlayed) if event.disclosure]
    worst = max(event.far.lost_fraction for event in events if event.far)
    assert ("completed", "spoken", 10) == (ended.outcome, played.book.record.state, len(events))
    assert 0.1 < worst < 0.6


async def test_a_far_end_that_never_reports_is_believed_to_hear(scene: Play) -> None:
    played = await scene()
    played.far.stream.reporting._due = math.inf
    played.line.loses = played.carries("disclosure_price")
    ended = await played.run()
    assert ("completed", "spoken") == (ended.outcome, played.book.record.state)
    assert {None} == {event.far for event in played.book.all(ev.PromptPlayed)}


async def test_one_that_is_held_in_the_middle_is_told_again(scene: Play) -> None:
    played = await scene()
    running = asyncio.create_task(played.run())
    await until(played.playing("disclosure_price"))
    assert await played.far.hold()
    at = len(played.line.packets)
    await until(lambda: len(played.line.packets) > at + 20)
    assert await played.far.resume()
    ended = await running
    first, second = played.book.told("price")
    assert first.held_ms >= 400
    assert first.samples_sent == first.samples_planned
    assert (0, "") == (second.held_ms, unheard(second, 0.05))
    assert ("completed", "spoken") == (ended.outcome, played.book.record.state)
    for event, packets in zip((first, second), played.line.of(played.frames["disclosure_price"]), strict=True):
        assert numbers(packets) == proven(event)


async def test_one_that_we_hold_in_the_middle_is_told_again_too(scene: Play) -> None:
    played = await scene()
    running = asyncio.create_task(played.run())
    await until(played.playing("disclosure_price"))
    assert await played.near.hold()
    assert await played.near.resume()
    ended = await running
    first, second = played.book.told("price")
    assert first.held_ms > 0
    assert (0, "completed", "spoken") == (second.held_ms, ended.outcome, played.book.record.state)


async def test_one_that_is_held_twice_ends_the_call_without_the_consent_question(scene: Play) -> None:
    played = await scene()
    running = asyncio.create_task(played.run())
    for times in (1, 2):
        await until(lambda times=times: times == len(played.line.of(played.frames["disclosure_price"])))
        assert await played.far.hold()
        assert await played.far.resume()
    ended = await running
    assert ("failed", "the disclosure 'price' could not be played whole") == (ended.outcome, ended.reason)
    assert ("consent" in played.answers.asked, []) == (False, played.book.all(ev.ConsentSpoken))


async def test_keys_in_the_middle_of_one_leave_it_whole(scene: Play) -> None:
    played = await scene()
    running = asyncio.create_task(played.run())
    await until(played.playing("disclosure_price"))
    played.near.stream.send_keys("5")
    ended = await running
    [event] = played.book.told("price")
    [packets] = played.line.of(played.frames["disclosure_price"])
    assert numbers(packets) == proven(event)
    assert (event.last_sequence - event.first_sequence) & 0xFFFF > PRICE_FRAMES  # type: ignore[operator]
    assert ("", "completed", "spoken") == (unheard(event, 0.05), ended.outcome, played.book.record.state)


async def test_one_in_which_the_callee_hangs_up_is_proven_as_far_as_it_came(scene: Play) -> None:
    played = await scene()
    running = asyncio.create_task(played.run())
    await until(played.playing("disclosure_price"))
    played.far.hangup("enough")
    ended = await running
    event = played.book.all(ev.PromptPlayed)[-1]
    [packets] = played.line.of(played.frames["disclosure_price"])
    assert ("price", "hung_up", "hung_up") == (event.disclosure, event.interruption, ended.outcome)
    assert 0 < event.samples_sent < event.samples_planned
    assert numbers(packets)[:2] == proven(event)[:2]
    assert [] == played.book.all(ev.ConsentSpoken)


async def test_one_that_the_goodbye_of_a_stopping_gateway_cuts_is_proven_too(scene: Play) -> None:
    played = await scene()
    running = asyncio.create_task(played.run())
    await until(played.playing("disclosure_price"))
    await played.conversation.say_goodbye("the gateway is stopping")
    await running
    event = played.book.all(ev.PromptPlayed)[-1]
    assert ("price", "stopping") == (event.disclosure, event.interruption)
    assert 0 < event.samples_sent < event.samples_planned


@pytest.mark.parametrize("verdict", ["deny", "stop"])
async def test_a_no_that_the_database_cannot_be_told_of_is_kept_for_the_end_of_the_call(
    scene: Play, verdict: Literal["deny", "stop"]
) -> None:
    played = await scene()
    started = ev.CallStarted(call_id=played.near.call_id, gateway="g1", direction=played.near.direction)
    await played.book.append("", started)
    running = asyncio.create_task(played.conversation.run())
    await until(played.playing("disclosure_price"))
    judgement = Judgement(verdict, "said so")
    played.conversation._minutes.remarked(Hearing(testimony.Testimony()), Judgement("unclear", "mumbled"), 0, "terms")
    played.conversation._minutes.remarked(Hearing(testimony.Testimony()), judgement, 0, "terms")
    played.conversation._minutes.remarked(Hearing(testimony.Testimony()), judgement, 0, "terms")
    played.book.away = True
    async with asyncio.timeout(60):
        ended = await running
    assert ("failed", [verdict, verdict]) == (
        ended.outcome, [event.verdict for event in played.conversation.unwritten if isinstance(event, ev.UtteranceHeard)],
    )  # fmt: skip
    assert [] == played.book.all(ev.ConsentSpoken)


async def test_a_call_whose_recording_fails_ends_with_a_word_of_goodbye_and_no_consent(scene: Play) -> None:
    """Rule R8."""
    played = await scene()
    running = asyncio.create_task(played.run())
    await until(played.playing("disclosure_price"))
    played.near.stream.recording_failed("the recording failed: No space left on device")
    ended = await running
    [goodbye] = played.line.of(played.frames["goodbye_trouble"])
    assert len(played.frames["goodbye_trouble"]) == len(goodbye)
    assert ("gateway", "the recording failed: No space left on device") == (
        played.near.ended.result().by, played.near.ended.result().reason,
    )  # fmt: skip
    assert ("failed", "stopping") == (ended.outcome, played.book.all(ev.PromptPlayed)[-1].interruption)
    assert [] == played.book.all(ev.ConsentSpoken)

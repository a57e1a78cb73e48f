"""SIGKILL for the whole gateway in the middle of two real calls: what it is told by when it comes back, and what counts.

At one moment one caller has answered the first question, and the other has given the consent, and still hears the thanks. Kills at every
single boundary, with calls that are scripted: tests/crash.
"""

from __future__ import annotations

import wave
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from town import Town, command, descendants, until

from gateway.demo.world import clip

pytestmark = pytest.mark.asyncio(loop_scope="session")
EARLY, LATE = "+821090000601", "+821090000602"
YES = ";".join(clip("mix", name) for name in ("leave", "owner", "adult", "consent"))
LOUD = 1000


@dataclass
class Survivor:
    """An order whose call the gateway died in; *recording* is what an operator hears of it afterwards."""

    order_id: str
    before: list[str]
    events: list[dict[str, Any]]
    state: str
    recording: Path

    def all(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def survivors(town: Town) -> AsyncIterator[dict[str, Survivor]]:
    await town.run()
    orders = {number: await town.order(number) for number in (LATE, EARLY)}
    late = await town.call_in(LATE, "--script", YES)
    await town.comes(orders[LATE], "prompt.played")
    await until(lambda: has(town, orders[LATE], "utterance.heard", 3), "the late caller's third answer")
    early = await town.call_in(EARLY, "--script", clip("mix", "leave"))
    await town.comes(orders[LATE], "consent.spoken")
    await town.comes(orders[EARLY], "utterance.heard")
    process = await town.run()
    children = descendants(process)
    process.kill()
    await process.wait()
    for phone in (late, early):
        phone.process.kill()
        await phone.done()
    await until(
        lambda: not any(command(pid) for pid in children), "the end of its database, recorder, decoder and voice"
    )
    await town.run()
    found = {}
    for number, order_id in orders.items():
        events = await town.events(order_id)
        types = [event["type"] for event in events]
        last = min(types.index(kind) for kind in ("recording.kept", "recording.failed", "call.ended") if kind in types)
        found[number] = Survivor(
            order_id, types[:last], events, await town.state(order_id), await town.listen(order_id)
        )
    yield found


async def has(town: Town, order_id: str, kind: str, number: int) -> bool:
    return len(await town.events(order_id, kind)) >= number


@pytest.mark.parametrize("number", [EARLY, LATE])
async def test_the_call_is_lost_and_its_recording_salvaged(survivors: dict[str, Survivor], number: str) -> None:
    lost = survivors[number]
    assert ["lost"] == [event["outcome"] for event in lost.all("call.ended")]
    assert ([True], []) == ([kept["salvaged"] for kept in lost.all("recording.kept")], lost.all("recording.failed"))


@pytest.mark.parametrize("number", [EARLY, LATE])
async def test_what_was_salvaged_can_be_heard_to_the_end_that_the_record_names(
    survivors: dict[str, Survivor], number: str
) -> None:
    [kept] = survivors[number].all("recording.kept")
    heard = [event["audio_end_ms"] for event in survivors[number].all("utterance.heard")]
    with wave.open(str(survivors[number].recording)) as file:
        duration_ms = file.getnframes() * 1000 // file.getframerate()
        caller, ours = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, 2).T
    assert (duration_ms, True) == (kept["duration_ms"], duration_ms >= max(heard))
    assert (True, True) == (np.abs(caller).max() > LOUD, np.abs(ours).max() > LOUD)


async def test_an_order_whose_call_was_lost_before_the_consent_may_be_called_again(
    survivors: dict[str, Survivor],
) -> None:
    assert ("ordered", []) == (survivors[EARLY].state, survivors[EARLY].all("consent.spoken"))


async def test_a_consent_that_the_salvaged_recording_holds_stands(survivors: dict[str, Survivor]) -> None:
    """Had the recording ended before the phrase did, the order would have failed: tests/integration/test_engine_ledger.py."""
    late = survivors[LATE]
    assert "consent.spoken" in late.before
    assert ("challenged", 1) == (late.state, len(late.all("challenge.issued")))


async def test_the_gateway_takes_the_next_call(town: Town, survivors: dict[str, Survivor]) -> None:
    phone = await town.call_in(EARLY, "--script", f"{clip('mix', 'leave')};hangup")
    await phone.done()
    order_id = survivors[EARLY].order_id
    await until(lambda: has(town, order_id, "call.ended", 2), "the end of the second call")
    ended = [event["outcome"] for event in await town.events(order_id, "call.ended")]
    assert ["lost", "hung_up"] == ended

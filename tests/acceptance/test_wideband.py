"""A whole call in G.722, over TCP: the gateway prefers it, speaks it, records it at 16 kHz, and hears the consent in it."""

from __future__ import annotations

import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from town import HOST, Town

from gateway.demo import VOICES
from gateway.demo.caller import Ear, answer
from gateway.telephony.agent import UserAgent
from gateway.telephony.media import MediaEngine

pytestmark = pytest.mark.asyncio(loop_scope="session")

NUMBER = "+821090000311"
CLIPS = ("leave", "owner", "adult", "consent")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def wideband(town: Town, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    """The order's events, and the caller's own recording, of a call that offered every codec."""
    await town.run()
    order_id = await town.order(NUMBER)
    engine = MediaEngine(HOST, range(26_000, 26_020), tmp_path_factory.mktemp("caller"))
    engine.start()
    agent = UserAgent(engine, (HOST, 0))
    await agent.start()
    try:
        call = await agent.dial(f"{town.sip};transport=tcp", "caller", from_user=NUMBER)
        ear = Ear(call.stream.terms.codec)
        call.stream.tap = ear.take
        for name in CLIPS:
            await answer(call, ear, VOICES / "mix" / f"{name}.wav")
        await call.ended
        recording = await call.close()
        await town.comes(order_id, "call.ended")
        yield {
            "codec": ear.codec,
            "events": await town.events(order_id),
            "order_id": order_id,
            "recording": recording,
            "town": town,
        }
    finally:
        agent.stop()
        engine.stop()


async def test_g722_is_taken_where_it_is_offered(wideband: dict[str, Any]) -> None:
    assert "G722" == wideband["codec"]


async def test_consent_is_heard_in_it(wideband: dict[str, Any]) -> None:
    assert 1 == [event["type"] for event in wideband["events"]].count("consent.spoken")


async def test_both_recordings_are_wideband(wideband: dict[str, Any]) -> None:
    ours = await wideband["town"].listen(wideband["order_id"])
    assert [16_000, 16_000] == [rate(ours), wideband["recording"].rate]


def rate(path: Path) -> int:
    with wave.open(str(path)) as file:
        return file.getframerate()

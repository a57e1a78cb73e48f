"""A real disk that fills up while a call is recorded: the call ends politely, nothing was consented in it, and somebody is told."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from town import PITCH, PROMPT_S, Phone, Town, heard_s, open_town, until

from gateway.demo.world import clip

pytestmark = pytest.mark.asyncio(loop_scope="session")

NUMBERS = [f"+8210900004{last:02}" for last in range(3)]
ROOM = "80m"
"""More than a call is begun with."""
SOME_OCTETS = 100_000


@dataclass
class Filled:
    """What came of a call while whose recording the disk filled up, of one that was to begin then, and of one with room again."""

    town: Town
    order_id: str
    ended: dict[str, Any]
    heard: Path
    metrics: dict[str, float]
    refused: dict[str, Any]
    refused_order_id: str
    later_order_id: str


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system in *folder* with room for a call."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def metrics(town: Town) -> dict[str, float]:
    async with town.world.session.get(f"{town.world.api}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return {
        name: float(value) for name, _, value in (line.partition(" ") for line in lines if line[:1] not in ("#", ""))
    }


def fill(folder: Path) -> Path:
    """A file that takes all the room that is left in *folder*."""
    filler = folder / "filler"
    with (
        Path("/dev/zero").open("rb") as zeros,
        filler.open("wb", buffering=0) as file,
        pytest.raises(OSError, match="No space left"),
    ):
        shutil.copyfileobj(zeros, file)
    return filler


def recorded(folder: Path) -> int:
    """The octets of the longest recording in *folder*."""
    return max((path.stat().st_size for path in folder.glob("*.rec")), default=0)


async def rung_off(phone: Phone) -> dict[str, Any]:
    await phone.done()
    return await phone.told("ended")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def filled(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Filled]:
    heard = tmp_path_factory.mktemp("heard") / "heard.wav"
    async with open_town() as town:
        with small_disk(town.world.folder / "data/recordings") as folder:
            orders = [await town.order(number) for number in NUMBERS]
            phone = await town.call_in(
                NUMBERS[0], "--script", f"{clip('mix', 'leave')};wait:60", "--record", str(heard)
            )
            await until(lambda: recorded(folder) > SOME_OCTETS, "a recording that grows")
            filler = fill(folder)
            ended = await rung_off(phone)
            await town.comes(orders[0], "call.ended")
            told = await metrics(town)
            stranger = await town.call_in(NUMBERS[1])
            await stranger.done()
            refused = await stranger.told("failed")
            filler.unlink()
            later = await town.call_in(NUMBERS[2], "--script", f"{clip('mix', 'leave')};hangup")
            await later.done()
            await town.comes(orders[2], "call.ended")
            yield Filled(town, orders[0], ended, heard, told, refused, *orders[1:])


async def test_the_caller_hears_the_goodbye_before_the_gateway_hangs_up(filled: Filled) -> None:
    assert "remote" == filled.ended["by"]
    assert PROMPT_S == pytest.approx(heard_s(filled.heard, PITCH["goodbye_trouble"]), abs=0.15)


async def test_the_record_says_that_and_why_it_was_not_recorded(filled: Filled) -> None:
    [failed] = await filled.town.events(filled.order_id, "recording.failed")
    assert "the recording failed: No space left on device" == failed["reason"]
    assert [] == await filled.town.events(filled.order_id, "recording.kept")


async def test_no_consent_comes_of_it(filled: Filled) -> None:
    types = [event["type"] for event in await filled.town.events(filled.order_id)]
    assert not {"consent.spoken", "challenge.issued"} & set(types)
    assert await filled.town.state(filled.order_id) in ("ordered", "unreachable", "failed")


async def test_an_alarm_can_be_made_of_it(filled: Filled) -> None:
    told = filled.metrics
    free = told["consent_gateway_recordings_free_bytes"]
    assert (1.0, True) == (told["consent_gateway_recordings_failed_total"], free < SOME_OCTETS)


async def test_no_other_call_is_begun_while_there_is_no_room(filled: Filled) -> None:
    assert 480 == filled.refused["code"]
    assert [] == await filled.town.events(filled.refused_order_id, "call.started")


async def test_with_room_again_calls_are_recorded_again(filled: Filled) -> None:
    [kept] = await filled.town.events(filled.later_order_id, "recording.kept")
    assert (True, True) == (kept["duration_ms"] > 0, (await filled.town.listen(filled.later_order_id)).exists())

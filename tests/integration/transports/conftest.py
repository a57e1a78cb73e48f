"""What all tests of the transports share. Each runs on both event loops: the gateway's own, and that of the tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop
from sip_peers import Authority, Dial, Host, Stream

from gateway.telephony.message import HostPort


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def us() -> AsyncIterator[Host]:
    async with Host() as made:
        yield made


@pytest.fixture
async def them() -> AsyncIterator[Host]:
    async with Host() as made:
        yield made


@pytest.fixture
async def dial() -> AsyncIterator[Dial]:
    streams: list[Stream] = []

    async def dialled(address: HostPort) -> Stream:
        streams.append(Stream(*await asyncio.open_connection(*address)))
        return streams[-1]

    yield dialled
    for stream in streams:
        stream.writer.close()
        with contextlib.suppress(ConnectionError):
            await stream.writer.wait_closed()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")

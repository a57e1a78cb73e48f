"""The town that all acceptance tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from town import Town, open_town


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def town() -> AsyncIterator[Town]:
    async with open_town() as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def gateway(town: Town) -> Town:
    """The town with its gateway running, whatever the test before did to it."""
    await town.run()
    return town

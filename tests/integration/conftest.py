"""What the tests on a real database share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from engines import Clock, engine_on

from gateway.engine import Engine
from gateway.store.database import Database


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine(database: Database, clock: Clock) -> Engine:
    return engine_on(database, clock)


@pytest.fixture
async def owner(dsn: str, database: Database) -> AsyncIterator[asyncpg.Connection]:
    """The owner of the schema, who may change it. Depends on *database*: the schema must be there."""
    connection = await asyncpg.connect(dsn)
    yield connection
    await connection.close()

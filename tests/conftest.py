"""What all tests share: a real PostgreSQL, started once, and a fresh database for each test that asks."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import settings

from gateway.store.database import Database
from gateway.store.postgres import EmbeddedPostgres, Endpoint

settings.register_profile("any machine", deadline=None)  # a busy machine is no fault
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Endpoint]:
    """The embedded server, in memory where there is room: root never runs it, so its folder must be passable."""
    shm = Path("/dev/shm")
    roomy = shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free > 500_000_000
    folder = Path(tempfile.mkdtemp(prefix="consent-test-", dir=shm if roomy else None))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "server")
    endpoint = server.start()
    yield endpoint
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def migrated(postgres: Endpoint) -> str:
    """The name of a migrated database that others are copied from: migrating takes far longer than a copy."""
    name = "migrated"

    async def make() -> None:
        admin = await asyncpg.connect(postgres.dsn())
        await admin.execute(f"CREATE DATABASE {name}")
        await admin.close()
        await (await Database.open(replace(postgres, database=name).dsn(), most=2)).close()

    with asyncio.Runner() as runner:
        runner.run(make())
    return name


@pytest.fixture
async def dsn(postgres: Endpoint, migrated: str) -> AsyncIterator[str]:
    """A fresh database, migrated, without a row."""
    name = f"test_{uuid4().hex}"
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f'CREATE DATABASE "{name}" TEMPLATE {migrated}')
    yield replace(postgres, database=name).dsn()
    await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    await admin.close()


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """The same, opened in the application's role."""
    opened = await Database.open(dsn, most=5)
    yield opened
    await opened.close()

"""What the tests on a real database share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from uuid import uuid4

import asyncpg
import pytest
from engines import KEYRING, START, Clock, challenged, confirmed, engine_on, ordered, wrong
from histories import CALL_MS, consented, happen, kept
from raw_sql import Standing, known

from gateway.consent import events as ev
from gateway.consent.record import Record
from gateway.engine import Engine
from gateway.store import tree
from gateway.store.database import ROLE, Database
from gateway.store.postgres import Endpoint

ORIGIN = "consent-gateway/ledger"


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


async def _fill(dsn: str, stranger: str) -> Standing:
    database = await Database.open(dsn, most=2)
    clock = Clock()
    engine = engine_on(database, clock)
    records: list[Record] = []
    for number in range(4):
        clock.forward(hours=1)
        phone = f"+8210123456{number:02d}"
        match number:
            case 0:
                records.append(await confirmed(engine, phone))
            case 1:
                records.append(await challenged(engine, phone))
                await engine.take_message("http", "2", phone, wrong(engine.code(records[-1])))
            case 2:
                record = await ordered(engine, phone)
                record = await happen(
                    engine, record, (e for e in consented(record) if getattr(e, "disclosure", "") != "price")
                )
                await engine.append(record.order.order_id, kept(duration_ms=CALL_MS))
                replied = ev.ReplyReceived(message_id="3", channel="http", reading="code", matches=True)
                records.append(await engine.append(record.order.order_id, replied))
            case 3:
                records.append(await challenged(engine, phone))
                await engine.take_message("http", "4", phone, "stop")
    async with database.transaction() as connection:
        events = await connection.fetchval("SELECT count(*) FROM consent.events")
        await tree.sequence(connection, events - 3)
        await tree.checkpoint(connection, KEYRING.signer, ORIGIN, START)
    async with database.pool.acquire() as connection:
        orders = [await known(connection, record.order.order_id) for record in records]
    await database.close()
    return Standing(dsn, stranger, *orders, size=events - 3)


@pytest.fixture(scope="session")
def standing(postgres: Endpoint) -> Iterator[Standing]:
    """Every test leaves it as it was."""
    name, stranger = f"promise_{uuid4().hex}", f"stranger_{uuid4().hex}"

    async def admin(*commands: str) -> None:
        connection = await asyncpg.connect(postgres.dsn())
        for command in commands:
            await connection.execute(command)
        await connection.close()

    made = replace(postgres, database=name)
    with asyncio.Runner() as runner:
        runner.run(admin(f"CREATE DATABASE {name}"))
        filled = runner.run(_fill(made.dsn(), made.dsn(stranger)))
        runner.run(admin(f"CREATE ROLE {stranger} LOGIN IN ROLE {ROLE}"))
        yield filled
        runner.run(admin(f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {stranger}"))


async def _rolled_back(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    opened = await asyncpg.connect(dsn)
    transaction = opened.transaction()
    await transaction.start()
    yield opened
    await transaction.rollback()
    await opened.close()


@pytest.fixture(params=["application", "owner"])
async def writer(standing: Standing, request: pytest.FixtureRequest) -> AsyncIterator[asyncpg.Connection]:
    """On the standing ledger, once as the application and once as its owner, in a transaction that is rolled back."""
    async for opened in _rolled_back(standing.dsn if request.param == "owner" else standing.stranger):
        yield opened


@pytest.fixture
async def master(standing: Standing) -> AsyncIterator[asyncpg.Connection]:
    """The owner alone."""
    async for opened in _rolled_back(standing.dsn):
        yield opened


@pytest.fixture
async def application(standing: Standing) -> AsyncIterator[asyncpg.Connection]:
    """The application alone, by a login of its own."""
    async for opened in _rolled_back(standing.stranger):
        yield opened

"""The promise where two write at once, by raw SQL: a no that is being written is waited for, and of two that confirm or provision
one does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from engines import NUMBER, challenged, wrong
from raw_sql import Known, confirm, event, known, provision, put, refuse, reply

from gateway.engine import Engine
from gateway.store.database import ROLE

PATIENCE_S = 30.0
"""How long a test waits for what must come. Nothing is proven by its passing."""

NOES: dict[str, Callable[[Known], str]] = {
    "an event that is one": lambda order: event(order, "consent.denied"),
    "an event that freezes it": lambda order: event(order, "order.frozen"),
    "a refusal": lambda order: refuse(order, "reply.received", "withdrawn"),
    "a state": lambda order: put(order, "refused"),
}


@pytest.fixture
async def pair(dsn: str, engine: Engine) -> AsyncIterator[tuple[asyncpg.Connection, asyncpg.Connection]]:
    """Two connections in the application's role, each in a transaction."""
    opened = [await asyncpg.connect(dsn) for _ in range(2)]
    for connection in opened:
        await connection.execute(f"SET ROLE {ROLE}; BEGIN")
    yield opened[0], opened[1]
    for connection in opened:
        await connection.close()


@pytest.fixture
async def waiting(engine: Engine) -> Known:
    """A challenged order whose subscriber has replied with a wrong code: all that a raw confirmation needs is there."""
    record = await challenged(engine)
    await engine.take_message("http", "1", NUMBER, wrong(engine.code(record)))
    async with engine.database.pool.acquire() as connection:
        return await known(connection, record.order.order_id)


async def is_blocked(observer: asyncpg.Connection, pid: int, by: int) -> None:
    """Returns once the server process *pid* waits for *by*."""
    async with asyncio.timeout(PATIENCE_S):
        while by not in await observer.fetchval("SELECT pg_blocking_pids($1)", pid):  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("write", NOES.values(), ids=NOES)
@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_a_confirmation_waits_for_a_no_that_is_being_written(
    pair: tuple[asyncpg.Connection, asyncpg.Connection], waiting: Known, owner: asyncpg.Connection,
    write: Callable[[Known], str], end: str,
) -> None:  # fmt: skip
    no, yes = pair
    await no.execute(write(waiting))
    await yes.execute(reply(waiting))
    confirming = asyncio.create_task(yes.execute(confirm(waiting) + provision(waiting)))
    await is_blocked(owner, yes.get_server_pid(), no.get_server_pid())
    await no.execute(end)
    if end == "COMMIT":
        with pytest.raises(asyncpg.CheckViolationError, match="has ended with a no"):
            await confirming
        await yes.execute("ROLLBACK")
    else:
        await confirming
        await yes.execute("COMMIT")
    assert (0 if end == "COMMIT" else 1) == await owner.fetchval("SELECT count(*) FROM consent.provisioning_events")


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
async def test_a_webhook_waits_for_a_freeze_that_is_being_written(
    pair: tuple[asyncpg.Connection, asyncpg.Connection], waiting: Known, owner: asyncpg.Connection, end: str
) -> None:
    freeze, webhook = pair
    await webhook.execute(reply(waiting) + confirm(waiting) + "COMMIT; BEGIN")
    await freeze.execute(event(waiting, "order.frozen"))
    provisioning = asyncio.create_task(webhook.execute(provision(waiting)))
    await is_blocked(owner, webhook.get_server_pid(), freeze.get_server_pid())
    await freeze.execute(end)
    if end == "COMMIT":
        with pytest.raises(asyncpg.CheckViolationError, match="has ended with a no"):
            await provisioning
    else:
        await provisioning


@pytest.mark.parametrize("write", NOES.values(), ids=NOES)
async def test_a_no_waits_for_a_confirmation_that_is_being_written_and_stands_beside_it(
    pair: tuple[asyncpg.Connection, asyncpg.Connection], waiting: Known, owner: asyncpg.Connection,
    write: Callable[[Known], str],
) -> None:  # fmt: skip
    no, yes = pair
    await yes.execute(reply(waiting) + confirm(waiting))
    refusing = asyncio.create_task(no.execute(write(waiting)))
    await is_blocked(owner, no.get_server_pid(), yes.get_server_pid())
    await yes.execute("COMMIT; BEGIN")
    await refusing
    await no.execute("COMMIT")
    with pytest.raises(asyncpg.CheckViolationError, match="has ended with a no"):
        await yes.execute(provision(waiting))


async def test_of_two_confirmations_at_once_one_is_made(
    pair: tuple[asyncpg.Connection, asyncpg.Connection], waiting: Known, owner: asyncpg.Connection
) -> None:
    one, other = pair
    await owner.execute(reply(waiting))
    await one.execute(confirm(waiting))
    confirming = asyncio.create_task(other.execute(confirm(waiting)))
    await is_blocked(owner, other.get_server_pid(), one.get_server_pid())
    await one.execute("COMMIT")
    with pytest.raises(asyncpg.UniqueViolationError):
        await confirming
    assert 1 == await owner.fetchval("SELECT count(*) FROM consent.confirmations")


async def test_of_two_webhooks_at_once_one_is_made(
    pair: tuple[asyncpg.Connection, asyncpg.Connection], waiting: Known, owner: asyncpg.Connection
) -> None:
    one, other = pair
    await owner.execute(reply(waiting) + confirm(waiting))
    await one.execute(provision(waiting))
    provisioning = asyncio.create_task(other.execute(provision(waiting)))
    await is_blocked(owner, other.get_server_pid(), one.get_server_pid())
    await one.execute("COMMIT")
    with pytest.raises(asyncpg.UniqueViolationError):
        await provisioning
    assert 1 == await owner.fetchval("SELECT count(*) FROM consent.provisioning_events")


async def test_a_record_does_not_fork(
    pair: tuple[asyncpg.Connection, asyncpg.Connection], waiting: Known, owner: asyncpg.Connection
) -> None:
    """Two events that follow the same one: the second waits, and is refused."""
    one, other = pair
    await one.execute(event(waiting))
    appending = asyncio.create_task(other.execute(event(waiting)))
    await is_blocked(owner, other.get_server_pid(), one.get_server_pid())
    await one.execute("COMMIT")
    with pytest.raises(asyncpg.UniqueViolationError, match="events_pkey"):
        await appending


async def test_replies_to_one_order_at_once_wait_for_each_other_and_none_is_lost(engine: Engine) -> None:
    """Right, wrong and stop, many at once: no deadlock, each is in the record; and where a stop came in time nobody is told to bill."""
    record = await challenged(engine)
    code = engine.code(record)
    texts = [code, wrong(code), "stop", code, "stop", wrong(code)] * 3
    await asyncio.gather(*(engine.take_message("http", str(n), NUMBER, text) for n, text in enumerate(texts)))
    after = await engine.record(record.order.order_id)
    assert after.state in {"frozen", "withdrawn", "failed"}
    entries = await engine.entries(record.order.order_id)
    assert len(texts) == [entry.event.type for entry in entries].count("reply.received")
    webhooks = await engine.database.pool.fetchval("SELECT count(*) FROM consent.provisioning_events")
    assert (1 if after.state == "frozen" else 0) == webhooks

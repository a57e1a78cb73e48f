"""The one port to PostgreSQL: a pool in the application's role, named queries, migrations under a lock."""

from __future__ import annotations

import asyncio
import importlib.resources
import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from urllib.parse import parse_qs, urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from pogo_core.util import migrate

from gateway.store.errors import DatabaseUnreachable, NameTaken

Connection = asyncpg.Connection | PoolConnectionProxy
ROLE = "consent_app"
MIGRATION_LOCK = 7_226_381_120
NAME_S = 40.0
ANSWER_S = 30.0
"""How long a statement may take; a server that has fallen silent must not hold up a call for ever."""

_ALIVE = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
CONNECT_S = 10.0
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
UNREACHABLE = (OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.CannotConnectNowError)


@cache
def sql(name: str) -> str:
    """The query *name* in ``queries/*.sql``. Raises KeyError for a name that is not there."""
    return _queries()[name]


@cache
def _queries() -> dict[str, str]:
    found: dict[str, str] = {}
    for file in importlib.resources.files("gateway.store").joinpath("queries").iterdir():
        parts = _NAME.split(file.read_text(encoding="utf-8"))
        found.update(zip(parts[1::2], (text.strip() for text in parts[2::2]), strict=True))
    return found


def reason_of(error: Exception) -> str:
    """Why a connection failed, in words; what a DSN cannot be read for may be a part of its password."""
    if isinstance(error, ValueError):
        return "its address cannot be read; write %2F, %3A, %40 for / : @ in the password"
    return str(error) or f"no answer within {CONNECT_S:.0f} s"


class Database:
    """A pool of connections that act as the role ``consent_app``: INSERT and SELECT on the ledger, no more.

    *boundary* is called before and after every commit, and where an effect begins and ends: what a crash test waits for.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self.boundary: Callable[[str], None] = _nothing

    @classmethod
    async def open(cls, dsn: str, *, most: int = 10) -> Database:
        """Migrate, then connect. Raises DatabaseUnreachable."""
        try:
            connection = await asyncpg.connect(dsn, timeout=CONNECT_S)
            try:
                await apply_migrations(connection)
            finally:
                await connection.close()
            pool = await asyncpg.create_pool(
                dsn, min_size=2, max_size=most, init=_as_application, timeout=CONNECT_S, command_timeout=ANSWER_S
            )
        except (*UNREACHABLE, TimeoutError, asyncpg.PostgresError, ValueError) as error:
            why = reason_of(error)
            mend = "check address, user, password and database in database.dsn"
            raise DatabaseUnreachable(f"database: {address(dsn)}: {why}; {mend}") from error
        return cls(pool)

    async def close(self) -> None:
        await self.pool.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        async with self.pool.acquire() as connection:
            async with connection.transaction():
                yield connection
                self.boundary("before commit")
            self.boundary("after commit")


def address(dsn: str) -> str:
    """Which server and database a DSN means, for people: without user and password."""
    try:
        parts = urlsplit(dsn)
        host, port = parts.hostname or parse_qs(parts.query).get("host", ["localhost"])[0], parts.port or 5432
    except ValueError:
        return "an address that cannot be read"
    return f"{host}:{port}{parts.path}"


async def claim_name(dsn: str, gateway: str) -> asyncpg.Connection:
    """A connection that, while it lives, makes this the only process called *gateway* on the database. Raises NameTaken.

    One that has just died is waited for: the server notices soon that nobody is there.
    """
    connection = await asyncpg.connect(dsn, timeout=CONNECT_S, server_settings=_ALIVE, command_timeout=ANSWER_S)
    deadline = time.monotonic() + NAME_S
    while not await connection.fetchval(sql("claim_name"), gateway):
        if time.monotonic() > deadline:
            await connection.close()
            raise NameTaken(
                f"gateway: another process called {gateway!r} runs on this database; give this one a name of its own"
            )
        await asyncio.sleep(0.1)
    return connection


async def apply_migrations(connection: asyncpg.Connection) -> None:
    """Bring the schema up to date; several gateways may start at once."""
    await connection.execute("SELECT pg_advisory_lock($1)", MIGRATION_LOCK)
    try:
        logging.getLogger(migrate.__name__).setLevel(logging.ERROR)  # it warns of every migration that it makes
        with importlib.resources.as_file(importlib.resources.files("gateway.store") / "migrations") as folder:
            await migrate.apply(connection, folder, schema_name="public")
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", MIGRATION_LOCK)


async def _as_application(connection: asyncpg.Connection) -> None:
    await connection.execute(f"SET ROLE {ROLE}")


def _nothing(_where: str) -> None:
    """Nobody waits for a boundary."""

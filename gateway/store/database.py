"""The one port to PostgreSQL: a pool in the application's role, named queries, migrations under a lock."""

from __future__ import annotations

import importlib.resources
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from urllib.parse import parse_qs, urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from pogo_core.util import migrate

from gateway.store.errors import DatabaseUnreachable

Connection = asyncpg.Connection | PoolConnectionProxy
ROLE = "consent_app"
MIGRATION_LOCK = 7_226_381_120
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
            pool = await asyncpg.create_pool(dsn, min_size=2, max_size=most, init=_as_application, timeout=CONNECT_S)
        except (*UNREACHABLE, TimeoutError, asyncpg.PostgresError, ValueError) as error:
            why = str(error) or f"no answer within {CONNECT_S:.0f} s"
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

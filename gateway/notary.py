"""Brings the tree of all events up to date beside the running gateway: leaves, signed checkpoints, time stamps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import asyncpg
import structlog

from gateway.ledger.errors import BadTimestamp
from gateway.ledger.sealing import Keyring
from gateway.settings import Ledger
from gateway.store import tree
from gateway.store.database import UNREACHABLE, Database, sql

log = structlog.get_logger(__name__)
TIMEOUT_S = 15.0
LARGEST_ANSWER = 65_536


class Notary:
    """Any number of gateways may have one on the same database: who comes second finds nothing to do. *now* gives aware UTC
    times.
    """

    def __init__(self, database: Database, keyring: Keyring, settings: Ledger, now: Callable[[], datetime]) -> None:
        self._database = database
        self._keyring = keyring
        self._settings = settings
        self._now = now

    async def keep_current(self) -> None:
        """For ever: as often as the settings say."""
        while True:
            try:
                await self.bring_up_to_date()
                if self._settings.timestamp_url:
                    await self.stamp()
            except (*UNREACHABLE, asyncpg.PostgresError, aiohttp.ClientError, TimeoutError, BadTimestamp) as error:
                log.error("ledger.not_current", error=str(error) or type(error).__name__)
            await asyncio.sleep(self._settings.checkpoint_s)

    async def bring_up_to_date(self) -> tree.Signed | None:
        """Make leaves of all events that are pending, and sign; the checkpoint, None of an empty ledger."""
        added = tree.MOST_AT_ONCE
        while added == tree.MOST_AT_ONCE:
            async with self._database.transaction() as connection:
                added = await tree.sequence(connection)
        async with self._database.transaction() as connection:
            return await tree.checkpoint(connection, self._keyring.signer, self._settings.origin, self._now())

    async def stamp(self) -> bool:
        """Have the last checkpoint dated, when the last one that was is old enough. Whether it was done now."""
        async with self._database.pool.acquire() as connection:
            checkpoint = await tree.last_checkpoint(connection)
            dated: Any = await connection.fetchrow(sql("last_timestamp"))
        if checkpoint is None or (dated is not None and dated["size"] == checkpoint.size):
            return False
        if dated is not None and self._now() < dated["at"] + timedelta(seconds=self._settings.timestamp_s):
            return False
        from gateway.ledger.timestamping import Question, read_roots  # noqa: PLC0415 - an extra

        assert self._settings.timestamp_ca is not None, "the settings say so"
        roots = await asyncio.to_thread(read_roots, self._settings.timestamp_ca)
        question = Question(checkpoint.note.encode())
        stamp = question.check(await self._ask(question.query), roots)
        async with self._database.transaction() as connection:
            await connection.execute(sql("insert_timestamp"), checkpoint.size, stamp.token, stamp.at)
        log.info("ledger.stamped", size=checkpoint.size, at=stamp.at.isoformat())
        return True

    async def _ask(self, query: bytes) -> bytes:
        """Raises aiohttp.ClientError, TimeoutError, BadTimestamp."""
        from gateway.ledger.timestamping import QUERY_TYPE  # noqa: PLC0415

        url, timeout = self._settings.timestamp_url, aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(url, data=query, headers={"Content-Type": QUERY_TYPE}, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise BadTimestamp(f"the time-stamping authority answers HTTP {response.status}")
            try:
                await response.content.readexactly(LARGEST_ANSWER)
            except asyncio.IncompleteReadError as ended:
                return ended.partial
            raise BadTimestamp(f"the time-stamping authority's answer is longer than {LARGEST_ANSWER} octets")

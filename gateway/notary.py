"""Brings the tree of all events up to date beside the running gateway: leaves, signed checkpoints, time stamps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import aiohttp
import structlog

from gateway.ledger.errors import BadTimestamp
from gateway.ledger.sealing import Keyring
from gateway.settings_sections import Ledger
from gateway.store import tree
from gateway.store.database import Database, sql

log = structlog.get_logger(__name__)
TIMEOUT_S = 15.0
LARGEST_ANSWER = 65_536
CLOCKS_APART = timedelta(minutes=1)
"""An authority whose time is further from ours than this is worth a warning: one of the two clocks is wrong."""


class Notary:
    """Any number of gateways may have one on the same database: who comes second finds nothing to do. *now* gives aware UTC
    times; *sleep* takes seconds; an authority that takes longer than *timeout_s* is down.
    """

    def __init__(
        self, database: Database, keyring: Keyring, settings: Ledger, now: Callable[[], datetime], *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, timeout_s: float = TIMEOUT_S,
    ) -> None:  # fmt: skip
        self._database = database
        self._keyring = keyring
        self._settings = settings
        self._now = now
        self._sleep = sleep
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._asked_at: datetime | None = None

    async def keep_current(self) -> None:
        """For ever. Checkpoints are signed as often as the settings say, and dated beside that: an authority that is slow or
        down holds nothing up, and is asked again ever more rarely, up to once in ``timestamp_s``.
        """
        often_s = self._settings.checkpoint_s
        async with asyncio.TaskGroup() as group:
            group.create_task(self._for_ever(self.bring_up_to_date, "ledger.not_signed", often_s))
            if self._settings.timestamp_url:
                rarely_s = max(often_s, self._settings.timestamp_s)
                group.create_task(self._for_ever(self.stamp, "ledger.not_stamped", rarely_s))

    async def _for_ever(self, work: Callable[[], Awaitable[object]], failed: str, longest_s: float) -> None:
        pause_s = self._settings.checkpoint_s
        while True:
            try:
                await work()
                pause_s = self._settings.checkpoint_s
            except Exception as error:  # noqa: BLE001 - whatever a lost database or an authority makes of it, it is done later
                pause_s = min(2 * pause_s, longest_s)
                log.error(failed, error=str(error) or repr(error), again_s=pause_s)
            await self._sleep(pause_s)

    async def bring_up_to_date(self) -> tree.Signed | None:
        """Make leaves of all events that are pending, and sign; the checkpoint, None of an empty ledger."""
        added = tree.MOST_AT_ONCE
        while added == tree.MOST_AT_ONCE:
            async with self._database.transaction() as connection:
                added = await tree.sequence(connection)
        async with self._database.transaction() as connection:
            return await tree.checkpoint(connection, self._keyring.signer, self._settings.origin, self._now())

    async def stamp(self) -> bool:
        """Have the last checkpoint dated, when the last one that was is old enough. Whether it was done now.

        Raises BadTimestamp, aiohttp.ClientError, TimeoutError, OSError for ``timestamp_ca``, and what a lost database raises.
        """
        async with self._database.pool.acquire() as connection:
            checkpoint = await tree.last_checkpoint(connection)
            dated: Any = await connection.fetchrow(sql("last_timestamp"))
        if checkpoint is None or (dated is not None and dated["size"] == checkpoint.size):
            return False
        now = self._now()
        if self._is_recent(self._asked_at, now) or (dated is not None and self._is_recent(dated["at"], now)):
            return False
        from gateway.ledger.timestamping import Question, read_roots  # noqa: PLC0415 - an extra

        assert self._settings.timestamp_ca is not None, "the settings say so"
        roots = await asyncio.to_thread(read_roots, self._settings.timestamp_ca)
        question = Question(checkpoint.note.encode())
        stamp = question.check(await self._ask(question.query), roots)
        async with self._database.transaction() as connection:
            await connection.execute(sql("insert_timestamp"), checkpoint.size, stamp.token, stamp.at)
        self._asked_at = now
        log.info("ledger.stamped", size=checkpoint.size, at=stamp.at.isoformat())
        if abs(stamp.at - now) > CLOCKS_APART:
            log.warning("ledger.clocks_apart", authority=stamp.at.isoformat(), ours=now.isoformat())
        return True

    def _is_recent(self, at: datetime | None, now: datetime) -> bool:
        """Whether *at* is so near, on either side should a clock have been set, that no other time stamp is wanted yet."""
        return at is not None and abs(now - at) < timedelta(seconds=self._settings.timestamp_s)

    async def _ask(self, query: bytes) -> bytes:
        """Raises aiohttp.ClientError, TimeoutError, BadTimestamp."""
        from gateway.ledger.timestamping import QUERY_TYPE  # noqa: PLC0415

        url = self._settings.timestamp_url
        async with (
            aiohttp.ClientSession(timeout=self._timeout) as session,
            session.post(url, data=query, headers={"Content-Type": QUERY_TYPE}, allow_redirects=False) as response,
        ):
            if response.status != 200:
                raise BadTimestamp(f"the time-stamping authority answers HTTP {response.status}")
            try:
                await response.content.readexactly(LARGEST_ANSWER + 1)
            except asyncio.IncompleteReadError as ended:
                return ended.partial
            raise BadTimestamp(f"the time-stamping authority's answer is longer than {LARGEST_ANSWER} octets")

"""Whom nobody may call (rule R11): a journal, of which nothing is ever taken away.

A tenant sees its own entries: those of its subscribers' stop words, and those that it placed. Whether a number may be called at all is decided
by the entries of every tenant.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import structlog
from aiohttp import web
from asyncpg import Record as Row
from pydantic import ConfigDict, Field

from gateway.consent.order import mask
from gateway.engine import Engine
from gateway.store.database import Connection, sql
from gateway.web.fields import Flag, Number, after, cursor_of
from gateway.web.order_models import Reason
from gateway.web.problems import Refused
from gateway.web.routes import Answer, Asked, Call, Page, Route, Stamp, Told, answer, example

log = structlog.get_logger(__name__)
MOST_NUMBERS = 1000


class Entry(Told):
    """*source*: ``subscriber`` for one who asked for it on a call, ``api`` for what was asked here."""

    number: str
    action: Literal["block", "lift"]
    source: Literal["subscriber", "api"]
    reason: str
    order_id: UUID | None
    at: Stamp


class Entries(Told):
    entries: list[Entry]
    next: str | None


class Wish(Asked):
    model_config = ConfigDict(
        json_schema_extra=example({"number": "+821012345678", "reason": "asked by letter of 3 March"})
    )

    number: Number
    reason: Reason


class Numbers(Asked):
    model_config = ConfigDict(json_schema_extra=example({"numbers": ["+821012345678", "+821087654321"]}))

    numbers: Annotated[tuple[Number, ...], Field(min_length=1, max_length=MOST_NUMBERS)]


class Blocked(Told):
    """Those of the numbers that nobody may call, E.164, in ascending order."""

    blocked: list[str]


class ListQuery(Page):
    history: Flag = Field(False, description="every entry ever made, lifted ones and lifts too")


class DoNotCall:
    def __init__(self, engine: Engine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now

    def routes(self) -> list[Route]:
        where = "/v1/do-not-call"
        return [
            Route(
                "GET", where, self.page, "listDoNotCall", "List the numbers that you may not call", "do-not-call",
                {200: Answer("one page, the newest first", Entries)}, scope="dnc:read", query=ListQuery,
            ),
            Route(
                "POST", where, self.add, "addDoNotCall", "Let nobody call a number again", "do-not-call",
                {200: Answer("it was on the list already", Entry), 201: Answer("it is on the list now", Entry)},
                description="Every campaign of every tenant honours it, and open orders of the number are withdrawn.",
                scope="dnc:write", body=Wish, noun="entry",
            ),
            Route(
                "POST", f"{where}/check", self.check, "checkDoNotCall", "Which of these numbers may not be called", "do-not-call",
                {200: Answer("those on the list", Blocked)},
                description=f"Up to {MOST_NUMBERS} at once. Posted, so that no number stands in anybody's log of addresses.",
                scope="dnc:read", body=Numbers, noun="list",
            ),
            Route(
                "POST", f"{where}/lift", self.lift, "liftDoNotCall", "Take back your own entry of a number", "do-not-call",
                {200: Answer("it is lifted; the entry and this stay in the history", Entry)},
                description="What another tenant's subscriber asked for stands.", scope="dnc:lift", body=Wish, noun="entry",
                errors={404: "you have no entry of this number"},
            ),
        ]  # fmt: skip

    async def page(self, call: Call) -> web.StreamResponse:
        wanted = call.wanted(ListQuery)
        (last,) = after(wanted.cursor, int)
        rows = await self._engine.database.pool.fetch(
            sql("page_of_do_not_call"), call.tenant, last, wanted.history, wanted.limit + 1
        )
        shown = rows[: wanted.limit]
        following = cursor_of(shown[-1]["entry_id"]) if len(rows) > wanted.limit else None
        return answer(Entries(entries=[_entry(row) for row in shown], next=following))

    async def add(self, call: Call) -> web.StreamResponse:
        asked = call.asked(Wish)
        async with self._engine.database.transaction() as connection:
            await connection.execute(sql("lock_number"), asked.number)
            last = await connection.fetchrow(sql("last_do_not_call"), asked.number, call.tenant)
            if last is not None and last["action"] == "block":
                return answer(_entry(last))
            made = await self._insert(connection, call, asked, "block")
            await self._engine.end_orders_of(connection, asked.number)
        log.info("do_not_call.added", tenant=call.tenant, key=call.by.key_id, number=mask(asked.number))
        return answer(made, 201)

    async def check(self, call: Call) -> web.StreamResponse:
        asked = call.asked(Numbers)
        rows = await self._engine.database.pool.fetch(sql("which_are_blocked"), list(asked.numbers))
        return answer(Blocked(blocked=sorted(row["number"] for row in rows)))

    async def lift(self, call: Call) -> web.StreamResponse:
        asked = call.asked(Wish)
        async with self._engine.database.transaction() as connection:
            await connection.execute(sql("lock_number"), asked.number)
            last = await connection.fetchrow(sql("last_do_not_call"), asked.number, call.tenant)
            if last is None or last["action"] != "block":
                raise Refused(404, "you have no entry of this number")
            made = await self._insert(connection, call, asked, "lift")
        log.warning("do_not_call.lifted", tenant=call.tenant, key=call.by.key_id, number=mask(asked.number))
        return answer(made)

    async def _insert(self, connection: Connection, call: Call, asked: Wish, action: str) -> Entry:
        row = await connection.fetchrow(
            sql("insert_do_not_call"), asked.number, call.tenant, action, asked.reason, call.by.key_id, self._now()
        )
        assert row is not None, "it returns what it inserted"
        return _entry(row)


def _entry(row: Row) -> Entry:
    return Entry.model_validate({name: row[name] for name in Entry.model_fields})

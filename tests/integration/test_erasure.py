"""The right to be forgotten: the key of a record is destroyed, by the one way that there is, and nothing else breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest
from engines import KEYRING, NUMBER, OTHER, START, Clock, challenged, confirmed, count, engine_on, ordered, spoken
from raw_sql import Standing, event

from gateway.consent import events as ev
from gateway.consent.record import Record
from gateway.engine import Engine
from gateway.ledger.note import verifier_of
from gateway.ledger_audit import audit
from gateway.store import tree
from gateway.store.errors import ErasedRecord, NotErasable, UnknownOrder

ORIGIN = "consent-gateway/ledger"
WHO = {"by": "the privacy officer", "reason": "asked for it"}


async def withdrawn(engine: Engine, number: str = NUMBER) -> Record:
    record = await challenged(engine, number)
    return await engine.append(record.order.order_id, ev.OrderWithdrawn(source="api", reason="changed"))


class TestThePersonIsForgotten:
    async def test_nothing_of_the_record_can_be_read_by_anybody_any_more(self, engine: Engine, clock: Clock) -> None:
        record = await withdrawn(engine)
        order_id = record.order.order_id
        await engine.erase(order_id, **WHO)
        for one in (engine, engine_on(engine.database, clock, gateway="g2")):
            for attempt in (one.record(order_id), one.entries(order_id), one.record_key(order_id)):
                with pytest.raises(ErasedRecord, match="its key is destroyed"):
                    await attempt
        assert 0 == await count(engine, "record_keys")

    async def test_nothing_more_is_written_to_it(self, engine: Engine, clock: Clock) -> None:
        """Not by the gateway that erased it, which knew its key a moment ago, and not by another that did."""
        record = await withdrawn(engine)
        order_id, other = record.order.order_id, engine_on(engine.database, clock, gateway="g2")
        await other.append(order_id, ev.HoldReleased(by="x", reason="y"))
        await engine.erase(order_id, **WHO)
        events = await count(engine, "events")
        for one in (engine, other):
            with pytest.raises(ErasedRecord):
                await one.append(order_id, ev.HoldPlaced(by="x", reason="y"))
            with pytest.raises(ErasedRecord):
                await one.erase(order_id, **WHO)
        assert events == await count(engine, "events")

    async def test_the_number_is_in_no_table_but_that_of_those_who_may_not_be_called(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        record = await challenged(engine)
        await engine.take_message("http", "1", NUMBER, "stop")
        await engine.erase(record.order.order_id, **WHO)
        tables = await owner.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'consent'")
        for table in {row["tablename"] for row in tables} - {"do_not_call"}:
            dump = await owner.fetch(f"SELECT t::text AS row FROM consent.{table} AS t")
            assert not any(NUMBER in row["row"] or NUMBER[1:] in row["row"] for row in dump), table

    async def test_others_are_not(self, engine: Engine) -> None:
        record, other = await withdrawn(engine), await confirmed(engine, OTHER)
        await engine.erase(record.order.order_id, **WHO)
        assert "confirmed" == (await engine.record(other.order.order_id)).state
        assert OTHER == await engine.database.pool.fetchval("SELECT max(number) FROM consent.orders")

    async def test_a_later_message_from_the_number_is_that_of_a_stranger(self, engine: Engine) -> None:
        record = await withdrawn(engine)
        await engine.erase(record.order.order_id, **WHO)
        assert "unknown_number" == (await engine.take_message("http", "late", NUMBER, "stop")).result

    async def test_the_ledger_is_as_whole_as_before(self, engine: Engine) -> None:
        record = await withdrawn(engine)
        await confirmed(engine, OTHER)
        async with engine.database.transaction() as connection:
            await tree.sequence(connection)
            await tree.checkpoint(connection, KEYRING.signer, ORIGIN, START)
        await engine.erase(record.order.order_id, **WHO)
        async with engine.database.transaction() as connection:
            assert 1 == await tree.sequence(connection)
            await tree.checkpoint(connection, KEYRING.signer, ORIGIN, START)
        found = await audit(engine.database, verifier_of(KEYRING.signer, ORIGIN), lambda _done, _of: None)
        assert ([], 0, 2) == (found.faults, found.pending, found.checkpoints)
        assert await count(engine, "events") == found.events == found.leaves


class TestWhoIsNot:
    @pytest.mark.parametrize("make", [ordered, spoken, challenged])
    async def test_while_the_order_is_open(self, engine: Engine, make: object) -> None:
        record = await make(engine)  # type: ignore[operator]
        await self._stays(engine, record, "withdraw or freeze it first")

    async def test_while_it_waits_for_the_billing_system(self, engine: Engine) -> None:
        await self._stays(engine, await confirmed(engine), "withdraw or freeze it first")

    async def test_under_a_legal_hold(self, engine: Engine) -> None:
        record = await withdrawn(engine)
        order_id = record.order.order_id
        await engine.append(order_id, ev.HoldPlaced(by="counsel", reason="a lawsuit"))
        await self._stays(engine, record, "legal hold; release it first")
        await engine.append(order_id, ev.HoldReleased(by="counsel", reason="settled"))
        await engine.erase(order_id, **WHO)
        with pytest.raises(ErasedRecord):
            await engine.record(order_id)

    @pytest.mark.parametrize("order_id", [str(UUID(int=7)), "no-uuid"])
    async def test_of_an_order_that_there_is_not(self, engine: Engine, order_id: str) -> None:
        with pytest.raises(UnknownOrder):
            await engine.erase(order_id, **WHO)

    async def test_where_the_key_cannot_be_destroyed_the_record_does_not_say_so(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        record = await withdrawn(engine)
        await owner.execute("REVOKE EXECUTE ON FUNCTION consent.erase_record FROM consent_app")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await engine.erase(record.order.order_id, **WHO)
        assert not (await engine.record(record.order.order_id)).erased
        after = await engine.append(record.order.order_id, ev.HoldPlaced(by="x", reason="y"))
        assert after.held

    async def _stays(self, engine: Engine, record: Record, why: str) -> None:
        before = await count(engine, "events")
        with pytest.raises(NotErasable, match=why):
            await engine.erase(record.order.order_id, **WHO)
        assert before == await count(engine, "events")
        assert record.state == (await engine.record(record.order.order_id)).state


ERASE = "SELECT consent.erase_record('{}')"


class TestByRawSql:
    """The only way in which the application destroys anything."""

    @pytest.fixture
    async def application(self, standing: Standing) -> AsyncIterator[asyncpg.Connection]:
        opened = await asyncpg.connect(standing.stranger)
        await opened.execute("BEGIN")
        yield opened
        await opened.execute("ROLLBACK")
        await opened.close()

    async def test_a_record_that_does_not_say_so_is_not_erased(
        self, application: asyncpg.Connection, standing: Standing
    ) -> None:
        with pytest.raises(asyncpg.CheckViolationError, match="does not say that it is erased"):
            await application.execute(ERASE.format(standing.waiting.order_id))

    async def test_nor_by_what_another_record_says(self, application: asyncpg.Connection, standing: Standing) -> None:
        await application.execute(event(standing.placed, "record.erased"))
        with pytest.raises(asyncpg.CheckViolationError, match="does not say that it is erased"):
            await application.execute(ERASE.format(standing.waiting.order_id))

    async def test_nor_under_a_legal_hold(self, application: asyncpg.Connection, standing: Standing) -> None:
        order = standing.waiting
        await application.execute(event(order, "hold.placed"))
        row = await application.fetchrow(
            "SELECT seq, hash, at FROM consent.events WHERE order_id = $1 ORDER BY seq DESC LIMIT 1",
            UUID(order.order_id),
        )
        held = type(order)(order.order_id, order.order_hash, row["seq"], row["hash"], row["at"], order.events)
        await application.execute(event(held, "record.erased"))
        with pytest.raises(asyncpg.CheckViolationError, match="under a legal hold"):
            await application.execute(ERASE.format(order.order_id))

    async def test_nor_in_a_transaction_that_looks_at_the_past(self, standing: Standing) -> None:
        opened = await asyncpg.connect(standing.stranger)
        try:
            with pytest.raises(asyncpg.CheckViolationError, match="READ COMMITTED"):
                await opened.execute(
                    "BEGIN ISOLATION LEVEL REPEATABLE READ;" + event(standing.waiting, "record.erased")
                    + ERASE.format(standing.waiting.order_id)
                )  # fmt: skip
        finally:
            await opened.close()

    async def test_one_that_does_loses_its_key_and_its_number_and_no_other_does(
        self, application: asyncpg.Connection, standing: Standing
    ) -> None:
        await application.execute(event(standing.waiting, "record.erased") + ERASE.format(standing.waiting.order_id))
        left = await application.fetch(
            "SELECT order_id, number FROM consent.orders LEFT JOIN consent.record_keys USING (order_id) WHERE wrapped IS NULL"
        )
        assert [(standing.waiting.order_id, None)] == [(str(row["order_id"]), row["number"]) for row in left]
        assert 4 == await application.fetchval("SELECT count(*) FROM consent.orders")

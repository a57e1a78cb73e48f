"""What meets in the database in one moment: webhooks that are gone, stop words on two ways, gateways of one name, calls and blocks."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest
from engines import NUMBER, Clock, confirmed, engine_on, ordered
from histories import started

from gateway.calls import Calls
from gateway.consent import events as ev
from gateway.consent.record import Record
from gateway.deliveries import Deliveries
from gateway.engine import Engine
from gateway.provisioning.delivery import Answer
from gateway.store.database import Connection, Database, claim_name, sql
from gateway.store.errors import NameTaken
from gateway.telephony.admission import Destinations
from gateway.telephony.errors import CallFailed

STOP = ev.UtteranceHeard(call_id="call-1", step="opening", grants_consent=False, verdict="stop", reason="stop word")


def calls_of(engine: Engine) -> Calls:
    """Calls without a line: what is asked here happens before one would ring."""
    office = SimpleNamespace(full="", use_key=lambda *_: None)
    agent = SimpleNamespace(draining=False, engine=SimpleNamespace(office=office))
    house = SimpleNamespace(plan_for=lambda _: object(), wordings=lambda _: {})

    async def prepare(_: object) -> None:
        """Nothing is said."""

    prompts = SimpleNamespace(prepare=prepare, get=None)
    return Calls(agent, engine, house, prompts, (), Destinations(("+",)), region="KR", transfer_targets={})  # type: ignore[arg-type]


async def test_two_endpoints_that_are_gone_at_once_are_both_noted(engine: Engine, database: Database) -> None:
    """Each holds its own delivery when it would hurry what waits for the endpoint, the other's too."""
    await confirmed(engine)
    await confirmed(engine, "+821087654321")
    sender = Deliveries(engine, {}, None, now=engine._now, random=lambda: 0.5)  # type: ignore[arg-type]
    found = await database.pool.fetch("SELECT webhook_id FROM consent.deliveries WHERE kind = 'consent.confirmed'")
    rows = [await database.pool.fetchrow(sql("select_attemptable"), row["webhook_id"]) for row in found]
    both, append = asyncio.Barrier(2), engine.append_within

    async def slowly(connection: Connection, order_id: str, *events: ev.Event) -> Record:
        made = await append(connection, order_id, *events)
        if isinstance(events[0], ev.DeliveryAttempted):
            await both.wait()
        return made

    engine.append_within = slowly  # type: ignore[method-assign]
    await asyncio.gather(*(sender._note(dict(row), Answer(410, "HTTP 410"), None) for row in rows))
    assert {"dead"} == {row["state"] for row in await database.pool.fetch("SELECT state FROM consent.deliveries")}
    assert 2 == await database.pool.fetchval("SELECT count(*) FROM consent.delivery_attempts")


async def test_a_stop_word_on_a_call_and_one_by_sms_are_both_taken(
    engine: Engine, database: Database, clock: Clock, owner: asyncpg.Connection
) -> None:
    """The call takes its own order first and then the others of the number, the message takes them in their order."""
    first, second = sorted([await ordered(engine), await ordered(engine)], key=lambda record: record.order.order_id)
    await engine.append(second.order.order_id, started())
    other, reached, go = engine_on(database, clock, gateway="g2"), asyncio.Event(), asyncio.Event()

    async def slowly(connection: Connection, number: str, *, but: str = "") -> None:
        reached.set()
        await go.wait()
        await Engine.end_orders_of(other, connection, number, but=but)

    other.end_orders_of = slowly  # type: ignore[method-assign]
    said = asyncio.create_task(other.append(second.order.order_id, STOP))
    await reached.wait()
    sms = asyncio.create_task(engine.take_message("http", "m1", NUMBER, "STOP"))
    while not await owner.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    go.set()
    await asyncio.gather(said, sms)
    states = [(await engine.record(record.order.order_id)).state for record in (first, second)]
    assert {"withdrawn", "refused"} >= set(states)
    assert await database.pool.fetchval(sql("is_blocked"), NUMBER)


async def test_two_gateways_of_one_name_do_not_run_together(dsn: str) -> None:
    """The second would take the first one's calls for lost."""
    held = await claim_name(dsn, "gateway-1")
    (await claim_name(dsn, "gateway-2")).terminate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gateway.store.database.NAME_S", 0.3)
        with pytest.raises(NameTaken, match="'gateway-1' runs on this database"):
            await claim_name(dsn, "gateway-1")
    held.terminate()  # as a process that is killed
    (await claim_name(dsn, "gateway-1")).terminate()


async def test_a_call_whose_key_cannot_be_read_is_not_begun(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await ordered(engine)

    async def away(_: str) -> Any:
        raise asyncpg.ConnectionDoesNotExistError("gone")

    monkeypatch.setattr(engine, "record_key", away)
    with pytest.raises(asyncpg.ConnectionDoesNotExistError):
        await calls_of(engine).dial(record, "sip:me@127.0.0.1")
    monkeypatch.undo()
    assert "ordered" == (await engine.record(record.order.order_id)).state


async def test_a_number_that_was_blocked_since_is_rung_by_nobody(engine: Engine, database: Database) -> None:
    record = await ordered(engine)
    order_id = record.order.order_id
    await database.pool.execute(
        sql("block_number"),
        NUMBER,
        "asked on another call",
        *[(await database.pool.fetchval("SELECT order_id FROM consent.orders")), engine._now()],
    )
    with pytest.raises(CallFailed, match="do-not-call"):
        await calls_of(engine).dial(record, "sip:me@127.0.0.1")
    assert "withdrawn" == (await engine.record(order_id)).state


async def test_a_stop_word_that_comes_before_billing_has_taken_the_order_freezes_it(engine: Engine) -> None:
    record = await confirmed(engine)
    await engine.take_message("http", "stop-1", NUMBER, "STOP")
    assert "frozen" == (await engine.record(record.order.order_id)).state

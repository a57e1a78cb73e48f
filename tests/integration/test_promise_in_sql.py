"""The promise, kept by PostgreSQL alone: raw SQL as the application and as the owner of the schema, and each attempt refused.

Four orders stand in the ledger: one confirmed, one challenged (the consent is spoken), one merely ordered, one whose subscriber
sent a stop word. The ``state`` column is only a projection, so the attempts put it right for themselves first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import uuid4

import asyncpg
import pytest

from gateway.consent import events as ev
from gateway.consent.order import DialplanRef, OrderRequest, Policy
from gateway.consent.record import Record
from gateway.demo.orders import sample_order
from gateway.engine import Engine
from gateway.store.database import ROLE, Database
from gateway.store.postgres import Endpoint

START = datetime(2026, 3, 1, 9, tzinfo=UTC)
PLAN = DialplanRef(name="plan-upgrade", version=1, sha256="0" * 64)
Who = Literal["application", "owner"]
Facts = dict[str, str]
BOTH: tuple[Who, ...] = ("application", "owner")
RESTRICTED, CHECKED = asyncpg.RestrictViolationError, asyncpg.CheckViolationError
FOREIGN, UNIQUE = asyncpg.ForeignKeyViolationError, asyncpg.UniqueViolationError
FORBIDDEN = asyncpg.InsufficientPrivilegeError


async def _fill(dsn: str) -> Facts:
    """The four orders, made by the engine itself; what the attempts need to know of them."""
    database = await Database.open(dsn, most=2)
    time = iter(START + timedelta(seconds=second) for second in range(1000))
    engine = Engine(database, policy=Policy(), secret=b"s" * 32, gateway="g1", now=lambda: next(time))
    facts: Facts = {}

    async def order(name: str, number: str) -> Record:
        request = OrderRequest.model_validate(sample_order(number, START.date()))
        record = await engine.create(request, "billing", PLAN)
        facts[name], facts[f"{name}_hash"] = record.order.order_id, record.order_hash
        return record

    async def challenge(record: Record) -> Record:
        order_id = record.order.order_id
        await engine.append(order_id, ev.CallStarted(call_id="c", gateway="g1", direction="inbound"))
        return await engine.append(order_id, ev.ConsentSpoken(call_id="c", order_hash=record.order_hash))

    async def note(name: str, record: Record) -> None:
        for entry in await engine.entries(record.order.order_id):
            kind = entry.event.type.replace(".", "_")
            facts[f"{name}_{kind}"], facts[f"{name}_{kind}_at"] = entry.event_id, entry.at.isoformat()

    confirmed = await challenge(await order("confirmed", "+821012345601"))
    await engine.take_message("http", "1", "+821012345601", engine.code(confirmed))
    waiting = await challenge(await order("challenged", "+821012345602"))
    await engine.take_message("http", "2", "+821012345602", "000")
    placed = await order("ordered", "+821012345603")
    stopped = await challenge(await order("stopped", "+821012345604"))
    await engine.take_message("http", "3", "+821012345604", "stop")
    for name, record in (("confirmed", confirmed), ("challenged", waiting), ("ordered", placed), ("stopped", stopped)):
        await note(name, record)
    facts["new"] = str(uuid4())
    facts["webhook"] = str(await database.pool.fetchval("SELECT webhook_id FROM consent.deliveries"))
    await database.close()
    return facts


@pytest.fixture(scope="module")
def ledger(postgres: Endpoint) -> Iterator[tuple[str, Facts]]:
    """A database with the four orders; every test leaves it as it was."""
    name = f"promise_{uuid4().hex}"

    async def admin(command: str) -> None:
        connection = await asyncpg.connect(postgres.dsn())
        await connection.execute(command)
        await connection.close()

    dsn = replace(postgres, database=name).dsn()
    with asyncio.Runner() as runner:
        runner.run(admin(f'CREATE DATABASE "{name}"'))
        facts = runner.run(_fill(dsn))
        yield dsn, facts
        runner.run(admin(f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
async def connection(ledger: tuple[str, Facts]) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the owner, in a transaction that is rolled back."""
    opened = await asyncpg.connect(ledger[0])
    transaction = opened.transaction()
    await transaction.start()
    yield opened
    await transaction.rollback()
    await opened.close()


PUT_RIGHT = "UPDATE consent.orders SET state = 'challenged';"
REPLY = """INSERT INTO consent.code_replies (order_id, order_hash, event_id, at, expires_at)
    VALUES ('{%(order)s}', '{%(order)s_hash}', '{%(event)s}', '{%(event)s_at}', '2027-01-01+00');"""
CONFIRM = """INSERT INTO consent.confirmations (order_id, order_hash, spoken_at, replied_at)
    VALUES ('{%(order)s}', '{%(order)s_hash}', '{%(order)s_consent_spoken_at}', '{%(order)s_reply_received_at}');"""


def reply(order: str, event: str | None = None) -> str:
    return REPLY % {"order": order, "event": event or f"{order}_reply_received"}


def confirm(order: str) -> str:
    return CONFIRM % {"order": order}


PROMISE = {
    "a webhook for an order that was only placed": (
        FOREIGN, "INSERT INTO consent.provisioning_events VALUES ('{new}', '{ordered}', '{ordered_hash}', now())",
    ),
    "a webhook with one proof of two": (
        FOREIGN, "INSERT INTO consent.provisioning_events VALUES ('{new}', '{challenged}', '{challenged_hash}', now())",
    ),
    "a second webhook of one order": (
        UNIQUE, "INSERT INTO consent.provisioning_events VALUES ('{new}', '{confirmed}', '{confirmed_hash}', now())",
    ),
    "a delivery without a webhook": (
        FOREIGN,
        "INSERT INTO consent.deliveries VALUES ('{new}', 't', '{ordered}', '', 'pending', 0, null, '', now(), now())",
    ),
    "a confirmation without a code reply": (FOREIGN, confirm("challenged")),
    "a confirmation without a spoken consent": (
        FOREIGN,
        """INSERT INTO consent.confirmations
        VALUES ('{ordered}', '{ordered_hash}', '2026-03-01 09:00+00', '2026-03-01 09:01+00')""",
    ),
    "a confirmation with the proofs turned round": (
        CHECKED,
        """INSERT INTO consent.confirmations
        VALUES ('{ordered}', '{ordered_hash}', '2026-03-01 09:01+00', '2026-03-01 09:00+00')""",
    ),
    "a confirmation after a stop word": (CHECKED, PUT_RIGHT + reply("stopped") + confirm("stopped")),
    "a confirmation of an order that is refused": (
        CHECKED,
        "UPDATE consent.orders SET state = 'refused' WHERE order_id = '{challenged}';"
        + reply("challenged") + confirm("challenged"),
    ),
    **{
        f"a confirmation after {kind}": (
            CHECKED,
            f"""INSERT INTO consent.events VALUES
            ('{{challenged}}', 99, '{{new}}', '2026-03-02+00', '{kind}', '{{{{}}}}', repeat('0', 64));"""
            + PUT_RIGHT + reply("challenged") + confirm("challenged"),
        )
        for kind in ("consent.denied", "order.withdrawn", "challenge.expired")
    },
    "a spoken consent that no event proves": (
        FOREIGN,
        """INSERT INTO consent.spoken_consents (order_id, order_hash, event_id, at)
        VALUES ('{ordered}', '{ordered_hash}', '{new}', now())""",
    ),
    "a spoken consent proven by an event of another record": (
        FOREIGN,
        """INSERT INTO consent.spoken_consents (order_id, order_hash, event_id, at)
        VALUES ('{ordered}', '{ordered_hash}', '{confirmed_consent_spoken}', '{confirmed_consent_spoken_at}')""",
    ),
    "a spoken consent proven by another kind of event": (
        FOREIGN,
        """INSERT INTO consent.spoken_consents (order_id, order_hash, event_id, at)
        VALUES ('{ordered}', '{ordered_hash}', '{ordered_order_created}', '{ordered_order_created_at}')""",
    ),
    "a spoken consent of other terms": (
        FOREIGN,
        """INSERT INTO consent.spoken_consents (order_id, order_hash, event_id, at)
        VALUES ('{ordered}', '{confirmed_hash}', '{new}', now())""",
    ),
    "a second spoken consent": (
        UNIQUE,
        """INSERT INTO consent.spoken_consents (order_id, order_hash, event_id, at)
        VALUES ('{challenged}', '{challenged_hash}', '{challenged_consent_spoken}', '{challenged_consent_spoken_at}')""",
    ),
    "a code reply of other terms": (FOREIGN, reply("challenged").replace("{challenged_hash}", "{ordered_hash}")),
    "a code reply that is an event of another kind": (FOREIGN, reply("challenged", "challenged_challenge_issued")),
    "a code reply at another time than its event": (
        FOREIGN,
        """INSERT INTO consent.code_replies (order_id, order_hash, event_id, at, expires_at)
        VALUES ('{challenged}', '{challenged_hash}', '{challenged_reply_received}', '2026-03-01 10:00+00', '2027-01-01+00')""",
    ),
    "a code reply after its expiry": (
        CHECKED, reply("challenged").replace("2027-01-01+00", "{challenged_reply_received_at}"),
    ),
    "a proof that names its own kind": (
        asyncpg.GeneratedAlwaysError,
        """INSERT INTO consent.spoken_consents (order_id, order_hash, event_id, type, at)
        VALUES ('{challenged}', '{challenged_hash}', '{challenged_call_started}', 'call.started', now())""",
    ),
    "new terms for an old order": (
        RESTRICTED, "UPDATE consent.orders SET order_hash = '{ordered_hash}' WHERE order_id = '{confirmed}'",
    ),
    "another number for an old order": (
        RESTRICTED, "UPDATE consent.orders SET number = '+821099999999' WHERE order_id = '{challenged}'",
    ),
    "another tenant for an old order": (
        RESTRICTED, "UPDATE consent.orders SET tenant = 'mine' WHERE order_id = '{challenged}'",
    ),
    "an order for a number that is none": (
        CHECKED,
        "INSERT INTO consent.orders VALUES ('{new}', repeat('0', 64), 't', '010-1234', 'ordered', null, now(), now())",
    ),
    "an event of no order": (
        FOREIGN,
        "INSERT INTO consent.events VALUES ('{new}', 1, gen_random_uuid(), now(), 'call.started', '{{}}', repeat('0', 64))",
    ),
    "another event in an old one's place": (
        UNIQUE,
        "INSERT INTO consent.events VALUES ('{confirmed}', 2, '{new}', now(), 'call.started', '{{}}', repeat('0', 64))",
    ),
    "the same event twice": (
        UNIQUE,
        """INSERT INTO consent.events
        SELECT order_id, 99, event_id, at, type, body, hash FROM consent.events WHERE event_id = '{confirmed_call_started}'""",
    ),
    "an event before the first": (
        CHECKED,
        "INSERT INTO consent.events VALUES ('{confirmed}', 0, '{new}', now(), 'call.started', '{{}}', repeat('0', 64))",
    ),
    "an event without a hash": (
        CHECKED, "INSERT INTO consent.events VALUES ('{confirmed}', 99, '{new}', now(), 'call.started', '{{}}', '')",
    ),
}  # fmt: skip
APPEND_ONLY = ("events", "spoken_consents", "code_replies", "confirmations", "provisioning_events")
FORBIDDEN_TO_THE_APPLICATION = {
    "the body of a webhook": "UPDATE consent.deliveries SET body = '{{}}'",
    "the tenant of a delivery": "UPDATE consent.deliveries SET tenant = 'mine'",
    "a delivery away": "DELETE FROM consent.deliveries",
    "an order away": "DELETE FROM consent.orders",
    "a number off the do-not-call list": "DELETE FROM consent.do_not_call",
    "the reason on the do-not-call list": "UPDATE consent.do_not_call SET reason = ''",
    "a received message away": "DELETE FROM consent.inbound_messages",
    "the guard of the ledger away": "ALTER TABLE consent.events DISABLE TRIGGER append_only",
    "the guard of the ledger itself": "DROP TRIGGER append_only ON consent.events",
    "the meaning of the guard": "CREATE OR REPLACE FUNCTION consent.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN END'",
    "triggers off for itself": "SET session_replication_role = replica",
    "a table of its own in the schema": "CREATE TABLE consent.mine ()",
}  # fmt: skip


async def attempt(connection: asyncpg.Connection, who: Who, statements: str, facts: Facts) -> None:
    if who == "application":
        await connection.execute(f"SET ROLE {ROLE}")
    await connection.execute(statements.format_map(facts))


@pytest.mark.parametrize("who", BOTH)
@pytest.mark.parametrize("what", PROMISE)
async def test_nobody_can_write(what: str, who: Who, connection: asyncpg.Connection, ledger: tuple[str, Facts]) -> None:
    refusal, statements = PROMISE[what]
    with pytest.raises(refusal):
        await attempt(connection, who, statements, ledger[1])


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize(
    "change", ["UPDATE consent.{} SET at = now()", "DELETE FROM consent.{}", "TRUNCATE consent.{} CASCADE"]
)
async def test_not_even_the_owner_changes_the_ledger(table: str, change: str, connection: asyncpg.Connection) -> None:
    statement = change.format(table).replace("SET at", "SET spoken_at" if table == "confirmations" else "SET at")
    with pytest.raises(RESTRICTED, match="only takes new rows"):
        await connection.execute(statement)


@pytest.mark.parametrize("table", APPEND_ONLY)
@pytest.mark.parametrize(
    "change", ["UPDATE consent.{} SET order_id = order_id", "DELETE FROM consent.{}", "TRUNCATE consent.{}"]
)
async def test_the_application_has_no_right_to_try(table: str, change: str, connection: asyncpg.Connection) -> None:
    with pytest.raises(FORBIDDEN):
        await attempt(connection, "application", change.format(table), {})


async def test_emptying_the_orders_does_not_empty_the_ledger(connection: asyncpg.Connection) -> None:
    with pytest.raises(RESTRICTED):
        await connection.execute("TRUNCATE consent.orders CASCADE")


async def test_an_order_with_a_history_cannot_be_deleted(connection: asyncpg.Connection) -> None:
    with pytest.raises(FOREIGN):
        await connection.execute("DELETE FROM consent.orders")


@pytest.mark.parametrize("what", FORBIDDEN_TO_THE_APPLICATION)
async def test_the_application_cannot_change(what: str, connection: asyncpg.Connection) -> None:
    with pytest.raises(FORBIDDEN):
        await attempt(connection, "application", FORBIDDEN_TO_THE_APPLICATION[what], {})


@pytest.mark.parametrize("who", BOTH)
async def test_a_true_confirmation_is_taken(
    who: Who, connection: asyncpg.Connection, ledger: tuple[str, Facts]
) -> None:
    """Else everything above would prove only that nothing can be written."""
    statements = reply("challenged") + confirm("challenged")
    statements += "INSERT INTO consent.provisioning_events VALUES ('{new}', '{challenged}', '{challenged_hash}', now())"
    await attempt(connection, who, statements, ledger[1])
    assert 2 == await connection.fetchval("SELECT count(*) FROM consent.provisioning_events")

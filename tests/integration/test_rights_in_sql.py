"""What the application may not do to the database at all, tried by a login that is a member of consent_app and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest
from raw_sql import Standing, event, insert, provision

FORBIDDEN = asyncpg.InsufficientPrivilegeError
NOBODY = "00000000-0000-4000-8000-000000000000"

CHANGES = {
    "an order away": "DELETE FROM consent.orders",
    "the terms of an order": "UPDATE consent.orders SET order_hash = order_hash",
    "the number of an order": "UPDATE consent.orders SET number = NULL",
    "the key of a record": "UPDATE consent.record_keys SET wrapped = wrapped",
    "the key of a record away": "DELETE FROM consent.record_keys",
    "the key of a record for its own": (
        "INSERT INTO consent.record_keys SELECT * FROM consent.record_keys ON CONFLICT (order_id) DO UPDATE SET wrapped = ''"
    ),
    "a pending event away": "DELETE FROM consent.pending_leaves",
    "an event into the pending ones": (
        f"INSERT INTO consent.pending_leaves (order_id, seq, hash) VALUES ('{NOBODY}', 1, repeat('0', 64))"
    ),
    "a received message away": "DELETE FROM consent.inbound_messages",
    "a number off the do-not-call list": "DELETE FROM consent.do_not_call",
    "the reason on the do-not-call list": "UPDATE consent.do_not_call SET reason = ''",
    "the body of a webhook": "UPDATE consent.deliveries SET body = body",
    "the tenant of a delivery": "UPDATE consent.deliveries SET tenant = 'mine'",
    "a delivery away": "DELETE FROM consent.deliveries",
    "what was answered to a webhook": "UPDATE consent.delivery_attempts SET status = 200",
    "a revocation away": "DELETE FROM consent.api_key_revocations",
    "the scopes of a key": "UPDATE consent.api_keys SET scopes = '{all}'",
    "the audit": "DELETE FROM consent.audit",
    "the terms of an offer": "UPDATE consent.offers SET terms = '{}'",
    "a job away": "DELETE FROM consent.jobs",
}
GUARDS = {
    "off": "ALTER TABLE consent.events DISABLE TRIGGER chained",
    "away": "DROP TRIGGER append_only ON consent.events",
    "away with its function": "DROP FUNCTION consent.refuse_after_a_no CASCADE",
    "to mean nothing": (
        "CREATE OR REPLACE FUNCTION consent.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
    ),
    "to know no state that is a no": (
        "CREATE OR REPLACE FUNCTION consent.is_no(state text) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN false"
    ),
    "to look elsewhere": "ALTER FUNCTION consent.check_event() SET search_path = pg_temp",
    "to act as somebody else": "ALTER FUNCTION consent.check_event() OWNER TO consent_app",
    "off for its session": "SET session_replication_role = replica",
    "of a foreign key away": "ALTER TABLE consent.provisioning_events DROP CONSTRAINT provisioning_events_order_id_order_hash_fkey",
    "of a check away": "ALTER TABLE consent.code_replies DROP CONSTRAINT code_replies_check",
    "round by a trigger of its own": (
        "CREATE TRIGGER mine BEFORE INSERT ON consent.events FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()"
    ),
    "round by a rule": "CREATE RULE mine AS ON INSERT TO consent.refusals DO INSTEAD NOTHING",
    "round by a policy": "ALTER TABLE consent.refusals ENABLE ROW LEVEL SECURITY",
    "round by a child table": "CREATE TABLE pg_temp.mine () INHERITS (consent.refusals)",
    "round by a partition": "ALTER TABLE consent.events SET UNLOGGED",
    "round by the catalogue": "UPDATE pg_trigger SET tgenabled = 'D'",
}
POWERS = {
    "be the owner": "SET ROLE postgres",
    "be the owner for the session": "SET SESSION AUTHORIZATION postgres",
    "be the owner by membership": "GRANT postgres TO consent_app",
    "be a superuser": "ALTER ROLE consent_app SUPERUSER",
    "make a role": "CREATE ROLE mine SUPERUSER",
    "own the ledger": "ALTER TABLE consent.events OWNER TO consent_app",
    "own the schema": "ALTER SCHEMA consent OWNER TO consent_app",
    "give itself the right": "GRANT UPDATE ON consent.events TO consent_app; UPDATE consent.events SET at = at",
    "make a table in the schema": "CREATE TABLE consent.mine ()",
    "make a function in the schema": "CREATE FUNCTION consent.mine() RETURNS int LANGUAGE sql RETURN 1",
    "make a table beside it": "CREATE TABLE public.mine ()",
    "make another schema": "CREATE SCHEMA mine",
    "drop the schema": "DROP SCHEMA consent CASCADE",
    "forget the migrations": "DELETE FROM public._pogo_migration",
    "load an extension": "CREATE EXTENSION file_fdw",
    "read the server's files": "SELECT pg_read_file('PG_VERSION')",
    "write the server's files": "COPY consent.events TO '/tmp/events'",
    "run a program on the server": "COPY consent.events TO PROGRAM 'cat'",
}


@pytest.mark.parametrize("what", CHANGES)
async def test_it_cannot_change(what: str, application: asyncpg.Connection) -> None:
    with pytest.raises(FORBIDDEN):
        await application.execute(CHANGES[what])


@pytest.mark.parametrize("what", GUARDS)
async def test_it_cannot_turn_the_guard(what: str, application: asyncpg.Connection) -> None:
    with pytest.raises(FORBIDDEN):
        await application.execute(GUARDS[what])


@pytest.mark.parametrize("what", POWERS)
async def test_it_cannot(what: str, application: asyncpg.Connection) -> None:
    with pytest.raises(FORBIDDEN):
        await application.execute(POWERS[what])


async def test_a_second_key_of_a_record_is_refused(writer: asyncpg.Connection, standing: Standing) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        await writer.execute(insert("record_keys", {"order_id": standing.waiting.order_id, "wrapped": "x"}))


async def test_a_key_of_no_record_is_refused(writer: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await writer.execute(insert("record_keys", {"order_id": NOBODY, "wrapped": "x"}))


@pytest.fixture
async def fresh(standing: Standing) -> AsyncIterator[asyncpg.Connection]:
    """The application on a connection that has planned nothing yet, in a transaction that is rolled back."""
    opened = await asyncpg.connect(standing.stranger)
    await opened.execute("BEGIN")
    yield opened
    await opened.execute("ROLLBACK")
    await opened.close()


FUNCTIONS = (
    "check_event", "check_leaves", "check_nodes", "refuse_change", "refuse_after_a_no", "refuse_new_terms",
)  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
async def test_a_guard_cannot_be_hung_on_a_table_of_its_own(function: str, fresh: asyncpg.Connection) -> None:
    """Some act with the owner's rights: on another table they would write what they are told."""
    await fresh.execute("CREATE TEMP TABLE mine (order_id uuid, seq int, hash text, leaf bigint)")
    with pytest.raises(FORBIDDEN):
        await fresh.execute(
            f"CREATE TRIGGER mine AFTER INSERT ON mine FOR EACH ROW EXECUTE FUNCTION consent.{function}()"
        )


async def test_every_function_of_the_schema_is_known_here(fresh: asyncpg.Connection) -> None:
    found = await fresh.fetch(
        "SELECT proname FROM pg_proc WHERE pronamespace = 'consent'::regnamespace AND prorettype = 'trigger'::regtype"
    )
    assert set(FUNCTIONS) <= {row["proname"] for row in found}
    unsafe = await fresh.fetch(
        """SELECT proname FROM pg_proc JOIN pg_language ON pg_language.oid = prolang
        WHERE pronamespace = 'consent'::regnamespace AND (
            has_function_privilege('public', pg_proc.oid, 'EXECUTE')
            OR lanname <> 'sql' AND NOT coalesce(proconfig::text, '') LIKE '%search_path=pg_catalog, pg_temp%'
        )"""
    )
    assert [] == [row["proname"] for row in unsafe]


SHADOWS: dict[str, tuple[str, Callable[[Standing], str]]] = {
    "a type for times": (
        "CREATE DOMAIN pg_temp.timestamptz AS date",
        lambda s: event(s.waiting, at="2026-04-01T23:00:00Z", columns={"at": "2026-04-01T00:00:00Z"}),
    ),
    "a type for numbers": (
        "CREATE DOMAIN pg_temp.int4 AS text", lambda s: event(s.waiting, seq=str(s.waiting.seq + 1)),
    ),
    "tables of the same names": (
        """CREATE TEMP TABLE orders (LIKE consent.orders); CREATE TEMP TABLE refusals (LIKE consent.refusals);
        CREATE TEMP TABLE events (LIKE consent.events); SET search_path = pg_temp, consent""",
        lambda s: provision(s.stopped),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SHADOWS)
async def test_it_cannot_deceive_a_guard_by(what: str, fresh: asyncpg.Connection, standing: Standing) -> None:
    prepare, statement = SHADOWS[what]
    await fresh.execute(prepare)
    with pytest.raises(asyncpg.CheckViolationError):
        await fresh.execute(statement(standing))


async def test_a_function_of_its_own_has_no_more_rights_than_it(fresh: asyncpg.Connection) -> None:
    await fresh.execute(
        "CREATE FUNCTION pg_temp.mine() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'DELETE FROM consent.events'"
    )
    with pytest.raises(FORBIDDEN):
        await fresh.execute("SELECT pg_temp.mine()")


async def test_what_it_works_with_is_in_the_role_alone(fresh: asyncpg.Connection) -> None:
    """RESET ROLE gives back nothing that the login has not."""
    await fresh.execute("SET ROLE consent_app; RESET ROLE")
    with pytest.raises(FORBIDDEN):
        await fresh.execute("DELETE FROM consent.events")

"""The ledger and its tree, kept by PostgreSQL alone: events follow each other, leaves are events, nodes are their hashes, and what is
written stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256

import asyncpg
import pytest
from raw_sql import Known, Standing, envelope, event, insert, literal

from gateway.consent.canonical import canonical

CHECKED, RESTRICTED = asyncpg.CheckViolationError, asyncpg.RestrictViolationError
FOREIGN, UNIQUE = asyncpg.ForeignKeyViolationError, asyncpg.UniqueViolationError
Attempt = tuple[type[asyncpg.PostgresError], str, Callable[[Standing], str]]
SAYS, CANONICAL, FOLLOWS = (
    "is not what its envelope says",
    "has no canonical envelope",
    "does not follow its predecessor",
)
FORBIDDEN = asyncpg.InsufficientPrivilegeError
NOBODY = "00000000-0000-4000-8000-000000000000"
LATER = "2026-04-01T00:00:00Z"


def spelt(change: Callable[[str], str]) -> Callable[[Standing], str]:
    """The next event, its envelope spelt otherwise and its hash that of this spelling."""

    def forged(standing: Standing) -> str:
        said = envelope(standing.waiting)
        return event(standing.waiting, text=change(canonical(said).decode()), columns={"event_id": said["event_id"]})

    return forged


EVENTS: dict[str, Attempt] = {
    "with another hash than its own": (CHECKED, "events_check", lambda s: event(s.waiting, columns={"hash": "0" * 64})),
    "of an order that there is not": (
        FOREIGN, "events_order_id_fkey",
        lambda s: event(s.waiting, order_id=NOBODY, columns={"order_id": NOBODY}),
    ),
    "of another order than it says": (CHECKED, SAYS, lambda s: event(s.waiting, order_id=s.placed.order_id)),
    "at another place than it says": (CHECKED, SAYS, lambda s: event(s.waiting, seq=99)),
    "by another name than it says": (CHECKED, SAYS, lambda s: event(s.waiting, event_id=NOBODY)),
    "at another time than it says": (CHECKED, SAYS, lambda s: event(s.waiting, at=LATER)),
    "of another type than it says": (CHECKED, SAYS, lambda s: event(s.waiting, type="order.withdrawn")),
    "that says nothing": (CHECKED, SAYS, lambda s: event(s.waiting, text="{}")),
    "that says null": (CHECKED, SAYS, lambda s: event(s.waiting, text="null")),
    "that is no JSON": (asyncpg.InvalidTextRepresentationError, "json", lambda s: event(s.waiting, text="so it was")),
    "that is too long": (
        CHECKED, "events_envelope_check", lambda s: event(s.waiting, payload="A" * 1_048_576),
    ),
    "with a member more": (CHECKED, CANONICAL, spelt(lambda text: text[:-1] + ',"zone":"+82"}')),
    "with a payload in the clear": (CHECKED, CANONICAL, lambda s: event(s.waiting, payload='{"said": "yes"}')),
    "with no payload": (CHECKED, CANONICAL, lambda s: event(s.waiting, payload="")),
    "with a payload that is no text": (CHECKED, CANONICAL, lambda s: event(s.waiting, payload={"said": "yes"})),
    "spelt with spaces": (CHECKED, CANONICAL, spelt(lambda text: text.replace(",", ", "))),
    "spelt with a line's end": (CHECKED, CANONICAL, spelt(lambda text: text + "\n")),
    "spelt in another order": (
        CHECKED, CANONICAL, spelt(lambda text: json.dumps(dict(reversed(json.loads(text).items())), separators=(",", ":"))),
    ),
    "that says one thing twice": (CHECKED, CANONICAL, spelt(lambda text: text.replace("{", '{"seq":1,', 1))),
    "spelt with escapes": (CHECKED, CANONICAL, spelt(lambda text: text.replace("hold", "\\u0068old"))),
    "with its place as text": (CHECKED, CANONICAL, lambda s: event(s.waiting, seq=str(s.waiting.seq + 1))),
    "at a time that is a word": (
        CHECKED, CANONICAL, lambda s: event(s.waiting, at="infinity", columns={"at": "infinity"}),
    ),
    "at a time without a zone": (
        CHECKED, CANONICAL, lambda s: event(s.waiting, at="2026-04-01T00:00:00", columns={"at": LATER}),
    ),
    "that follows another": (CHECKED, FOLLOWS, lambda s: event(s.waiting, previous=s.placed.hash)),
    "that follows nothing": (CHECKED, FOLLOWS, lambda s: event(s.waiting, previous="")),
    "that does not say what it follows": (CHECKED, FOLLOWS, lambda s: event(s.waiting, previous=None)),
    "at the time of the one before": (
        CHECKED, FOLLOWS, lambda s: event(s.waiting, at=stamp(s.waiting, 0), columns={"at": s.waiting.at}),
    ),
    "before the one before": (
        CHECKED, FOLLOWS,
        lambda s: event(s.waiting, at=stamp(s.waiting, -1), columns={"at": s.waiting.at - timedelta(seconds=1)}),
    ),
    "after a gap": (
        CHECKED, FOLLOWS,
        lambda s: event(s.waiting, seq=s.waiting.seq + 2, columns={"seq": s.waiting.seq + 2}),
    ),
    "before the first": (
        CHECKED, "events_seq_check", lambda s: event(s.waiting, seq=0, columns={"seq": 0}),
    ),
    "in an old one's place": (
        UNIQUE, "events_pkey", lambda s: event(s.waiting, seq=s.waiting.seq, columns={"seq": s.waiting.seq}),
    ),
    "by the name of an old one": (
        UNIQUE, "event_id",
        lambda s: event(
            s.waiting, event_id=s.placed.event("call.started"), columns={"event_id": s.placed.event("call.started")}
        ),
    ),
    "that creates the order again": (CHECKED, FOLLOWS, lambda s: event(s.waiting, "order.created")),
    "that begins a record otherwise than by creating the order": (
        CHECKED, FOLLOWS,
        lambda s: insert("orders", {
            "order_id": NOBODY, "order_hash": "0" * 64, "tenant": "t", "state": "ordered", "created_at": "now",
            "updated_at": "now",
        }) + event(Known(NOBODY, "", 0, "", s.waiting.at, {}), "call.started"),
    ),
}  # fmt: skip


def stamp(order: Known, seconds: int) -> str:
    return (order.at + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def leaf(place: int, order: Known, seq: int) -> str:
    return insert("leaves", {"leaf": place, "order_id": order.order_id, "seq": seq})


def node(level: int, place: int, hashed: str = "") -> str:
    return f"INSERT INTO consent.nodes VALUES ({level}, {place}, {hashed or literal(chr(92) + 'x' + '00' * 32)});"


def leaf_hash(order: Known) -> str:
    """That of its last event."""
    return f"sha256('\\x00'::bytea || decode('{order.hash}', 'hex'))"


TREE: dict[str, Attempt] = {
    "a leaf of an event that there is not": (FOREIGN, "leaves", lambda s: leaf(s.size, s.stopped, 999)),
    "a leaf of an order that there is not": (
        FOREIGN, "leaves", lambda s: insert("leaves", {"leaf": s.size, "order_id": NOBODY, "seq": 1}),
    ),
    "an event as a second leaf": (UNIQUE, "order_id_seq", lambda s: leaf(s.size, s.placed, 1)),
    "a leaf in another's place": (UNIQUE, "leaves_pkey", lambda s: leaf(0, s.stopped, s.stopped.seq)),
    "a leaf after a gap": (CHECKED, "without a gap", lambda s: leaf(s.size + 1, s.stopped, s.stopped.seq)),
    "a leaf before the first": (CHECKED, "leaves_leaf_check", lambda s: leaf(-1, s.stopped, s.stopped.seq)),
    "a node that is no event's": (
        CHECKED, "what is below it", lambda s: leaf(s.size, s.stopped, s.stopped.seq) + node(0, s.size),
    ),
    "a node of another event": (
        CHECKED, "what is below it",
        lambda s: leaf(s.size, s.stopped, s.stopped.seq) + node(0, s.size, leaf_hash(s.placed)),
    ),
    "a node of an event that is no leaf": (
        CHECKED, "what is below it", lambda s: node(0, s.size, leaf_hash(s.stopped)),
    ),
    "a node above others that is not theirs": (
        CHECKED, "what is below it", lambda s: "SET CONSTRAINTS ALL IMMEDIATE;" + node(40, 0),
    ),
    "a node above others that are not there": (CHECKED, "what is below it", lambda s: node(1, s.size)),
    "a node in another's place": (
        UNIQUE, "nodes_pkey", lambda s: "INSERT INTO consent.nodes SELECT * FROM consent.nodes WHERE level = 0",
    ),
    "a node that is no hash": (CHECKED, "nodes_hash_check", lambda s: node(0, s.size, r"'\x00'")),
    "a node below the leaves": (CHECKED, "nodes_level_check", lambda s: node(-1, 0)),
    "a checkpoint of a tree that there is not": (
        FOREIGN, "checkpoints", lambda s: checkpoint(s.size + 1, s.size + 1),
    ),
    "a checkpoint of no tree": (CHECKED, "checkpoints_size_check", lambda s: checkpoint(0, 0)),
    "a checkpoint that says another size": (CHECKED, "checkpoints_check", lambda s: checkpoint(s.size - 1, s.size)),
    "a second checkpoint of one size": (UNIQUE, "checkpoints_pkey", lambda s: checkpoint(s.size, s.size)),
    "a time stamp of a checkpoint that there is not": (
        FOREIGN, "timestamps", lambda s: insert("timestamps", {"size": s.size - 1, "token": "x", "at": "now"}),
    ),
}  # fmt: skip


def checkpoint(size: int, said: int) -> str:
    return insert("checkpoints", {"size": size, "note": f"origin\n{said}\nroot\n\n", "at": "now"})


@pytest.mark.parametrize("what", EVENTS)
async def test_no_event(what: str, writer: asyncpg.Connection, standing: Standing) -> None:
    await refused(writer, standing, EVENTS[what])


@pytest.mark.parametrize("what", TREE)
async def test_the_tree_takes_no(what: str, writer: asyncpg.Connection, standing: Standing) -> None:
    await refused(writer, standing, TREE[what])


async def refused(connection: asyncpg.Connection, standing: Standing, attempt: Attempt) -> None:
    error, guard, statements = attempt
    with pytest.raises(error, match=guard):
        await connection.execute(statements(standing))


async def test_what_is_true_of_the_tree_is_taken(writer: asyncpg.Connection, standing: Standing) -> None:
    """Else everything above would prove only that nothing can be written."""
    s = standing
    await writer.execute(
        event(s.waiting) + leaf(s.size, s.stopped, s.stopped.seq) + node(0, s.size, leaf_hash(s.stopped))
        + checkpoint(s.size + 1, s.size + 1)
    )  # fmt: skip
    assert s.size + 1 == await writer.fetchval("SELECT count(*) FROM consent.leaves")


async def test_an_event_is_pending_until_it_is_a_leaf(writer: asyncpg.Connection, standing: Standing) -> None:
    pending = "SELECT order_id, seq FROM consent.pending_leaves ORDER BY position"
    stopped = standing.stopped
    before = [(str(row["order_id"]), row["seq"]) for row in await writer.fetch(pending)]
    assert [(stopped.order_id, stopped.seq - back) for back in (2, 1, 0)] == before
    await writer.execute(event(standing.waiting) + leaf(standing.size, stopped, stopped.seq - 1))
    after = [(str(row["order_id"]), row["seq"]) for row in await writer.fetch(pending)]
    assert [before[0], before[2], (standing.waiting.order_id, standing.waiting.seq + 1)] == after


EVIDENCE = (
    "events", "leaves", "nodes", "checkpoints", "timestamps", "spoken_consents", "code_replies", "confirmations",
    "provisioning_events", "refusals",
)  # fmt: skip


async def column_of(connection: asyncpg.Connection, table: str) -> str:
    """The first column of *table*."""
    return str(
        await connection.fetchval(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum = 1", f"consent.{table}"
        )
    )


@pytest.mark.parametrize("table", EVIDENCE)
class TestWhatIsWrittenStays:
    async def test_even_before_its_owner(self, table: str, standing: Standing) -> None:
        owner = await asyncpg.connect(standing.dsn)
        try:
            column = await column_of(owner, table)
            for change in (
                f"UPDATE consent.{table} SET {column} = {column}",
                f"DELETE FROM consent.{table}",
                f"DELETE FROM consent.{table} WHERE false",
                f"TRUNCATE consent.{table} CASCADE",
                f"MERGE INTO consent.{table} USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
            ):
                with pytest.raises(RESTRICTED, match="only takes new rows"):
                    await owner.execute(change)
        finally:
            await owner.close()

    async def test_and_the_application_has_no_right_to_try(self, table: str, standing: Standing) -> None:
        application = await asyncpg.connect(standing.stranger)
        try:
            column = await column_of(application, table)
            for change in (
                f"UPDATE consent.{table} SET {column} = {column}",
                f"DELETE FROM consent.{table}",
                f"TRUNCATE consent.{table}",
                f"MERGE INTO consent.{table} USING (SELECT 1) AS one ON true WHEN MATCHED THEN DELETE",
                f"BEGIN; LOCK TABLE consent.{table} IN SHARE MODE",
                f"SELECT * FROM consent.{table} FOR UPDATE",
                f"ALTER TABLE consent.{table} DISABLE TRIGGER ALL",
                f"DROP TABLE consent.{table}",
            ):
                with pytest.raises(FORBIDDEN):
                    await application.execute(change)
                await application.execute("ROLLBACK")
        finally:
            await application.close()


UPSERT = """INSERT INTO consent.refusals SELECT * FROM consent.refusals LIMIT 1
    ON CONFLICT (order_id, event_id) DO UPDATE SET state = 'none'"""


async def test_an_upsert_is_no_way_round(master: asyncpg.Connection) -> None:
    with pytest.raises(RESTRICTED, match="only takes new rows"):
        await master.execute(UPSERT)


async def test_nor_for_the_application(application: asyncpg.Connection) -> None:
    with pytest.raises(FORBIDDEN):
        await application.execute(UPSERT)


async def test_emptying_the_orders_does_not_empty_the_ledger(master: asyncpg.Connection) -> None:
    with pytest.raises(RESTRICTED):
        await master.execute("TRUNCATE consent.orders CASCADE")


async def test_an_order_with_a_history_cannot_be_deleted(master: asyncpg.Connection) -> None:
    with pytest.raises(FOREIGN):
        await master.execute("DELETE FROM consent.orders")


async def test_what_is_copied_in_is_checked_too(writer: asyncpg.Connection, standing: Standing) -> None:
    """COPY is no way round: the envelope is right, and follows nothing."""
    said = envelope(standing.waiting, previous="0" * 64)
    text = canonical(said).decode()
    row = (
        said["order_id"], said["seq"], said["event_id"], standing.waiting.at + timedelta(seconds=1), said["type"], text,
        sha256(text.encode()).hexdigest(),
    )  # fmt: skip
    with pytest.raises(CHECKED, match=FOLLOWS):
        await writer.copy_records_to_table("events", schema_name="consent", records=[row])

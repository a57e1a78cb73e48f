"""The ledger read anew: it holds, and whatever the owner of the database changes in it, past every guard, is named."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import re
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from authority import make_authority, open_authority
from commands import Done, command, process
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from engines import KEYRING, START, Clock, challenged, confirmed, count, engine_on, ordered

from gateway.consent import events as ev
from gateway.ledger import note
from gateway.ledger.errors import BadNote
from gateway.ledger.sealing import Keyring
from gateway.ledger.timestamping import read_roots
from gateway.ledger_audit import MOST_FAULTS, Audit, audit
from gateway.notary import Notary
from gateway.settings import load_settings
from gateway.settings_sections import Ledger
from gateway.store import tree
from gateway.store.database import Database
from gateway.store.postgres import Endpoint

ORIGIN = "consent-gateway/ledger"
VERIFIER = note.verifier_of(KEYRING.signer, ORIGIN)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
FIRST, SECOND = 18, 35
"""The sizes of the two checkpoints: after the first order, and after the second."""

NO_CHECKS = """
    SET session_replication_role = replica;
    DO $$ DECLARE known record; BEGIN
        FOR known IN SELECT conrelid::regclass AS place, conname FROM pg_constraint
            WHERE contype = 'c' AND connamespace = 'consent'::regnamespace
        LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', known.place, known.conname);
        END LOOP;
    END $$;
"""


async def look(database: Database, **options: object) -> Audit:
    return await audit(database, KEYRING, VERIFIER, lambda _done, _total: None, **options)  # type: ignore[arg-type]


@dataclass
class Place:
    """A ledger of its own: *a* is confirmed (leaves 0 to 17), *b* challenged (18 to 34), *c* has been placed, and is pending."""

    database: Database
    owner: asyncpg.Connection
    dsn: str
    a: str
    b: str
    c: str

    async def tamper(self, *statements: str) -> Audit:
        """What is found after the owner, past triggers and checks, has run *statements*."""
        await self.owner.execute(NO_CHECKS)
        for statement in statements:
            done = await self.owner.execute(statement.format(a=self.a, b=self.b, c=self.c))
            assert not done.endswith(" 0"), f"nothing was changed by: {statement}"
        return await look(self.database)

    def named(self, words: str) -> str:
        return words.format(a=self.a, b=self.b, c=self.c)


async def _fill(dsn: str) -> tuple[str, str, str]:
    database = await Database.open(dsn, most=2)
    engine = engine_on(database, Clock())

    async def sign() -> int:
        signed = await Notary(database, KEYRING, Ledger(), lambda: START).bring_up_to_date()
        return signed.size if signed is not None else 0

    first = await confirmed(engine)
    assert FIRST == await sign()
    second = await challenged(engine, "+821087654321")
    assert SECOND == await sign()
    third = await ordered(engine, "+821000000003")
    await engine.append(
        third.order.order_id, ev.BillingAcknowledged(reference="B-1", source="api"), ev.HoldPlaced(by="b", reason="r")
    )
    await database.close()
    return first.order.order_id, second.order.order_id, third.order.order_id


@pytest.fixture(scope="module")
def filled(postgres: Endpoint) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """The database that every test has a copy of."""
    name = f"audited_{uuid4().hex}"

    async def admin(command: str) -> None:
        connection = await asyncpg.connect(postgres.dsn())
        await connection.execute(command)
        await connection.close()

    with asyncio.Runner() as runner:
        runner.run(admin(f"CREATE DATABASE {name}"))
        orders = runner.run(_fill(replace(postgres, database=name).dsn()))
        yield name, orders
        runner.run(admin(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def place(filled: tuple[str, tuple[str, str, str]], postgres: Endpoint) -> AsyncIterator[Place]:
    template, orders = filled
    name = f"tampered_{uuid4().hex}"
    admin = await asyncpg.connect(postgres.dsn())
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    dsn = replace(postgres, database=name).dsn()
    database, owner = await Database.open(dsn, most=2), await asyncpg.connect(dsn)
    yield Place(database, owner, dsn, *orders)
    await owner.close()
    await database.close()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


class TestWhatHolds:
    async def test_a_ledger_as_it_was_written(self, place: Place) -> None:
        assert Audit(events=38, leaves=35, checkpoints=2, pending=3) == await look(place.database)

    async def test_an_empty_one(self, database: Database) -> None:
        assert Audit() == await look(database)

    async def test_one_that_grew_through_many_checkpoints(self, database: Database, clock: Clock) -> None:
        engine = engine_on(database, clock)
        notary = Notary(database, KEYRING, Ledger(), clock)
        record = await ordered(engine)
        for number in range(40):
            await notary.bring_up_to_date()
            noted = (ev.RecordingListened(call_id="call-1", by="an auditor", purpose="p") for _ in range(number % 7))
            await engine.append(record.order.order_id, *noted)
        found = await look(database)
        assert ([], await count(engine, "checkpoints")) == (found.faults, found.checkpoints)
        assert 30 < found.checkpoints

    async def test_it_is_told_how_far_it_is(self, place: Place) -> None:
        told: list[tuple[int, int]] = []
        await audit(place.database, KEYRING, VERIFIER, lambda done, total: told.append((done, total)))
        assert [(done, 73) for done in range(1, 74)] == told

    async def test_an_erased_person_is_no_fault(self, place: Place) -> None:
        engine = engine_on(place.database, Clock())
        await engine.append(place.a, ev.OrderFrozen(source="cli", reason="r"))
        await place.owner.execute("UPDATE consent.deliveries SET state = 'dead'")
        await engine.erase(place.a, by="dpo", reason="asked for it")
        found = await look(place.database)
        assert ([], 1) == (found.faults, found.erased)

    async def test_what_comes_while_it_reads_changes_nothing(self, place: Place) -> None:
        engine = engine_on(place.database, Clock())
        waiting: list[asyncio.Task[object]] = []

        def disturb(done: int, _total: int) -> None:
            if done == 1:
                waiting.append(asyncio.create_task(confirmed(engine, "+821000000009")))

        found = await audit(place.database, KEYRING, VERIFIER, disturb)
        await asyncio.gather(*waiting)
        assert ([], 38) == (found.faults, found.events)


EVENT = "UPDATE consent.events SET {what} WHERE order_id = '{{{order}}}' AND seq = {seq}"
OTHER_PAYLOAD = 'envelope = replace(envelope, \'"payload":"\', \'"payload":"AAAA\')'
ITS_HASH = "hash = encode(sha256(convert_to(envelope, 'UTF8')), 'hex')"
SWAP = """
    WITH one AS (SELECT * FROM consent.{table} WHERE {first}), other AS (SELECT * FROM consent.{table} WHERE {second})
    UPDATE consent.{table} SET {columns}
"""
ROOT_OF_ALL = f"before leaf {FIRST} was changed"


def event(what: str, order: str = "a", seq: int = 5) -> str:
    return EVENT.format(what=what, order=order, seq=seq)


TAMPERED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "an envelope": (
        (event(OTHER_PAYLOAD),),
        ("event 5 of order {a} has another hash than its envelope", "event 5 of order {a} cannot be opened: ",
         "node 4 of level 0 is not that of the event of its leaf", ROOT_OF_ALL),
    ),
    "an envelope and its hash": (
        (event(OTHER_PAYLOAD), event(ITS_HASH)),
        ("event 5 of order {a} cannot be opened: ", "event 6 of order {a} does not follow its predecessor",
         "node 4 of level 0 is not that of the event of its leaf", ROOT_OF_ALL),
    ),
    "the last envelope of a record and its hash": (
        (event(OTHER_PAYLOAD, "a", FIRST), event(ITS_HASH, "a", FIRST)),
        ("event 18 of order {a} cannot be opened: ", "node 17 of level 0 is not that of the event of its leaf", ROOT_OF_ALL),
    ),
    "an envelope that nobody has signed yet, and its hash": (
        (event(OTHER_PAYLOAD, "c", 3), event(ITS_HASH, "c", 3)),
        ("event 3 of order {c} cannot be opened: ", "event 3 of order {c} is no leaf and does not wait to be one",
         "event 3 of order {c} waits to be a leaf, but is none that could be"),
    ),
    "an envelope into rubbish": (
        (event("envelope = 'rubbish'"),),
        ("event 5 of order {a} has an envelope that cannot be read: JSONDecodeError",),
    ),
    "an envelope into another kind of JSON": (
        (event("envelope = '[]'"),), ("event 5 of order {a} has an envelope that cannot be read: TypeError",),
    ),
    "a member of an envelope away": (
        (event("envelope = (envelope::jsonb - 'previous')::text"),),
        ("event 5 of order {a} has an envelope that cannot be read: KeyError",),
    ),
    "an envelope whose payload is no text": (
        (event("envelope = (envelope::jsonb || jsonb_build_object('payload', 7))::text"),),
        ("event 5 of order {a} cannot be opened: ",),
    ),
    "the type that is searched by": (
        (event("type = 'consent.denied'"),), ("event 5 of order {a} is not what its envelope says",),
    ),
    "the time that is searched by": (
        (event("at = at + interval '1 second'"),), ("event 5 of order {a} is not what its envelope says",),
    ),
    "the id of an event": (
        (event("event_id = gen_random_uuid()"),), ("event 5 of order {a} is not what its envelope says",),
    ),
    "an event away": (
        ("DELETE FROM consent.events WHERE order_id = '{a}' AND seq = 5",),
        ("event 6 of order {a} does not follow its predecessor", "leaf 4: event 5 of order {a} is missing", ROOT_OF_ALL),
    ),
    "the last event of a record away": (
        (f"DELETE FROM consent.events WHERE order_id = '{{a}}' AND seq = {FIRST}",),
        ("leaf 17: event 18 of order {a} is missing", ROOT_OF_ALL),
    ),
    "an event and its leaf away": (
        (f"DELETE FROM consent.events WHERE order_id = '{{a}}' AND seq = {FIRST}", "DELETE FROM consent.leaves WHERE leaf = 17"),
        ("leaf 17 is missing", ROOT_OF_ALL),
    ),
    "a whole record away": (
        ("DELETE FROM consent.events WHERE order_id = '{a}'", "DELETE FROM consent.leaves WHERE order_id = '{a}'",
         "DELETE FROM consent.record_keys WHERE order_id = '{a}'"),
        ("order {a} has no events any more", "leaf 0 is missing", "leaf 17 is missing", ROOT_OF_ALL),
    ),
    "a whole order away, with every trace of it": (
        ("DELETE FROM consent.events WHERE order_id = '{a}'", "DELETE FROM consent.leaves WHERE order_id = '{a}'",
         "DELETE FROM consent.record_keys WHERE order_id = '{a}'", "DELETE FROM consent.orders WHERE order_id = '{a}'"),
        ("leaf 0 is missing", "leaf 17 is missing", ROOT_OF_ALL),
    ),
    "two events, one for the other": (
        (SWAP.format(
            table="events", first="order_id = '{a}' AND seq = 5", second="order_id = '{a}' AND seq = 6",
            columns="envelope = CASE events.seq WHEN 5 THEN other.envelope ELSE one.envelope END, "
            "hash = CASE events.seq WHEN 5 THEN other.hash ELSE one.hash END "
            "FROM one, other WHERE events.order_id = '{a}' AND events.seq IN (5, 6)",
        ),),
        ("event 5 of order {a} is not what its envelope says", "event 5 of order {a} does not follow its predecessor",
         "event 6 of order {a} does not follow its predecessor", "event 7 of order {a} does not follow its predecessor",
         "node 4 of level 0", "node 5 of level 0", ROOT_OF_ALL),
    ),
    "an event into another record": (
        ("UPDATE consent.events SET order_id = '{c}', seq = 4 WHERE order_id = '{a}' AND seq = 18",),
        ("event 4 of order {c} is not what its envelope says", "event 4 of order {c} does not follow its predecessor",
         "event 4 of order {c} is no leaf and does not wait to be one", "leaf 17: event 18 of order {a} is missing"),
    ),
    "a leaf away": (
        ("DELETE FROM consent.leaves WHERE leaf = 3",),
        ("leaf 3 is missing", "node 3 of level 0 is not that of the event of its leaf", ROOT_OF_ALL,
         "event 4 of order {a} is no leaf and does not wait to be one"),
    ),
    "the last leaf away": (
        (f"DELETE FROM consent.leaves WHERE leaf = {SECOND - 1}",),
        (f"the checkpoint of {SECOND} leaves is of more than there are: {SECOND - 1}",
         f"node {SECOND - 1} of level 0 is of no leaves that are there"),
    ),
    "all leaves away": (
        ("DELETE FROM consent.leaves",),
        (f"the checkpoint of {FIRST} leaves is of more than there are: 0", "event 1 of order {a} is no leaf"),
    ),
    "two leaves, one for the other": (
        ("UPDATE consent.leaves SET leaf = -1 WHERE leaf = 3", "UPDATE consent.leaves SET leaf = 3 WHERE leaf = 20",
         "UPDATE consent.leaves SET leaf = 20 WHERE leaf = -1"),
        ("node 3 of level 0", "node 20 of level 0", ROOT_OF_ALL),
    ),
    "a leaf far beyond all others": (
        (f"UPDATE consent.leaves SET leaf = 1000000000000000 WHERE leaf = {SECOND - 1}",),
        (f"leaf {SECOND - 1} is missing",),
    ),
    "a node": (
        ("UPDATE consent.nodes SET hash = sha256('forged') WHERE (level, place) = (2, 1)",),
        ("node 1 of level 2 is not that of the events below it",),
    ),
    "the node of a leaf": (
        ("UPDATE consent.nodes SET hash = sha256('forged') WHERE (level, place) = (0, 21)",),
        ("node 21 of level 0 is not that of the event of its leaf",),
    ),
    "two nodes, one for the other": (
        ("UPDATE consent.nodes SET place = -1 WHERE (level, place) = (1, 2)",
         "UPDATE consent.nodes SET place = 2 WHERE (level, place) = (1, 3)",
         "UPDATE consent.nodes SET place = 3 WHERE (level, place) = (1, -1)"),
        ("node 2 of level 1 is not that of the events below it", "node 3 of level 1 is not that of the events below it"),
    ),
    "a node away": (
        ("DELETE FROM consent.nodes WHERE (level, place) = (3, 1)",), ("node 1 of level 3 is missing",),
    ),
    "the last node away": (
        ("DELETE FROM consent.nodes WHERE (level, place) = (0, 34)",), ("node 34 of level 0 is missing",),
    ),
    "a node too many": (
        ("INSERT INTO consent.nodes VALUES (5, 1, sha256('forged'))",), ("node 1 of level 5 is of no leaves that are there",),
    ),
    "a node of no tree": (
        ("INSERT INTO consent.nodes VALUES (70, 1, sha256('forged')), (2, -4, sha256('forged'))",),
        ("2 nodes are in no tree at all",),
    ),
    "the root in a checkpoint": (
        ((f"UPDATE consent.checkpoints SET note = replace(note, split_part(note, E'\\n', 3), encode(sha256('forged'), 'base64')) "
         f"WHERE size = {FIRST}"),),
        (f"the checkpoint of {FIRST} leaves is not signed as it should be: the signature of {ORIGIN} is not right",),
    ),
    "a checkpoint into rubbish": (
        (f"UPDATE consent.checkpoints SET note = 'rubbish' WHERE size = {FIRST}",),
        (f"the checkpoint of {FIRST} leaves is not signed as it should be: the note has no signature",),
    ),
    "a checkpoint for that of another size": (
        (f"UPDATE consent.checkpoints SET note = (SELECT note FROM consent.checkpoints WHERE size = {SECOND}) WHERE size = {FIRST}",),
        (f"the checkpoint of {FIRST} leaves says that it is of {SECOND} leaves of {ORIGIN}",),
    ),
    "the size beside a checkpoint": (
        (f"UPDATE consent.checkpoints SET size = {FIRST + 2} WHERE size = {FIRST}",),
        (f"the checkpoint of {FIRST + 2} leaves says that it is of {FIRST} leaves of {ORIGIN}",),
    ),
    "a checkpoint to be of more than there is": (
        (f"UPDATE consent.checkpoints SET size = 1000 WHERE size = {SECOND}",),
        (f"the checkpoint of 1000 leaves is of more than there are: {SECOND}",),
    ),
    "the time stamp of a checkpoint": (
        (f"INSERT INTO consent.timestamps VALUES ({FIRST}, sha256('forged'), now())",),
        (f"the checkpoint of {FIRST} leaves has the time stamp of something else",),
    ),
    "the key of a record away": (
        ("DELETE FROM consent.record_keys WHERE order_id = '{a}'",),
        ("order {a}: its key is gone, and its last event does not say that it was erased",),
    ),
    "the key of a record for that of another": (
        (("UPDATE consent.record_keys SET wrapped = (SELECT wrapped FROM consent.record_keys WHERE order_id = '{b}') "
         "WHERE order_id = '{a}'"),),
        ("order {a}: its key is not one that the ledger's secret has wrapped",),
    ),
    "what waits to be a leaf away": (
        ("DELETE FROM consent.pending_leaves WHERE seq = 2",), ("event 2 of order {c} is no leaf and does not wait to be one",),
    ),
    "a leaf into what waits": (
        (("INSERT INTO consent.pending_leaves (order_id, seq, hash) SELECT order_id, seq, hash FROM consent.events "
         "WHERE order_id = '{a}' AND seq = 2"),),
        ("event 2 of order {a} waits to be a leaf, but is none that could be",),
    ),
    "what never happened into what waits": (
        ("INSERT INTO consent.pending_leaves (order_id, seq, hash) VALUES ('{c}', 9, repeat('0', 64))",),
        ("event 9 of order {c} waits to be a leaf, but is none that could be",),
    ),
}  # fmt: skip


LEAVES = ("all leaves away", "the last leaf away", "a leaf far beyond all others")


class TestWhatIsNamed:
    @pytest.mark.parametrize("what", TAMPERED)
    async def test_who_changes(self, what: str, place: Place) -> None:
        """And no record that nobody touched is named beside it."""
        statements, expected = TAMPERED[what]
        found = await place.tamper(*statements)
        for words in expected:
            assert [fault for fault in found.faults if place.named(words) in fault], found.faults
        touched = {name for name in "abc" for text in (*statements, *expected) if f"{{{name}}}" in text}
        if what in LEAVES:
            touched = {"a", "b"}  # their events are no leaves any more
        assert touched >= {name for name in "abc" for fault in found.faults if getattr(place, name) in fault}

    async def test_no_more_than_a_hundred_are_named(self, place: Place) -> None:
        found = await place.tamper(f"UPDATE consent.events SET {OTHER_PAYLOAD}")
        assert MOST_FAULTS == len(found.faults)

    async def test_a_person_who_was_erased_on_paper_only(self, place: Place) -> None:
        engine = engine_on(place.database, Clock())
        await engine.append(place.c, ev.HoldReleased(by="b", reason="r"))
        await engine.append(place.c, ev.RecordErased(by="dpo", reason="asked for it"))
        found = await look(place.database)
        assert [f"order {place.c}: its last event says that it was erased, and its key is still there"] == found.faults

    async def test_a_checkpoint_that_another_key_has_signed(self, place: Place) -> None:
        text = await place.owner.fetchval("SELECT note FROM consent.checkpoints WHERE size = $1", SECOND)
        forged = note.sign(note.verify(text, VERIFIER), STRANGER, ORIGIN)
        found = await place.tamper(f"UPDATE consent.checkpoints SET note = '{forged}' WHERE size = {SECOND}")
        [fault] = found.faults
        assert f"the checkpoint of {SECOND} leaves is not signed as it should be: the note is not signed by" in fault

    async def test_by_another_key_nothing_is_signed(self, place: Place) -> None:
        stranger = note.verifier_of(STRANGER, ORIGIN)
        found = await audit(place.database, KEYRING, stranger, lambda _done, _total: None)
        assert [f"the checkpoint of {size} leaves is not signed as it should be: the note is not signed by {ORIGIN} with the key "
                f"{stranger.id.hex()}" for size in (FIRST, SECOND)] == found.faults  # fmt: skip

    async def test_by_another_secret_nothing_opens(self, place: Place) -> None:
        found = await audit(place.database, Keyring(b"x" * 32), VERIFIER, lambda _done, _total: None)
        assert {
            f"order {order}: its key is not one that the ledger's secret has wrapped"
            for order in (place.a, place.b, place.c)
        } == set(found.faults)

    async def test_a_past_that_is_rewritten_without_a_seam(self, place: Place) -> None:
        """Whoever has the database, and even the ledger's secret but for its signing key: an event taken out, the chain joined
        again, the whole tree grown anew. Only what was signed before tells.
        """
        await _rewrite(place)
        found = await look(place.database)
        [fault] = found.faults
        assert (
            f"the checkpoint of {FIRST} leaves has another root than the events: something before leaf {FIRST}" in fault
        )
        await place.owner.execute("SET session_replication_role = replica; DELETE FROM consent.checkpoints")
        assert [] == (await look(place.database)).faults

    async def test_where_the_past_was_changed_is_bounded_by_what_was_signed(self, place: Place) -> None:
        found = await place.tamper(event(OTHER_PAYLOAD, "b", 5))
        [fault] = [fault for fault in found.faults if "root" in fault]
        assert f"something before leaf {SECOND} was changed after it was signed, and not before leaf {FIRST}" in fault


async def _rewrite(place: Place) -> None:
    """Take the last event of order *a* away, and grow a tree of the rest."""
    await place.owner.execute(NO_CHECKS)
    await place.owner.execute("DELETE FROM consent.events WHERE order_id = $1 AND seq = $2", UUID(place.a), FIRST)
    await place.owner.execute(
        "DELETE FROM consent.leaves; DELETE FROM consent.nodes; DELETE FROM consent.pending_leaves;"
        "INSERT INTO consent.pending_leaves (order_id, seq, hash) SELECT order_id, seq, hash FROM consent.events ORDER BY at, seq"
    )
    await place.owner.execute("SET session_replication_role = origin")
    async with place.owner.transaction():
        await tree.sequence(place.owner)


class TestWhatWasPublished:
    async def note_of(self, place: Place, size: int) -> str:
        return str(await place.owner.fetchval("SELECT note FROM consent.checkpoints WHERE size = $1", size))

    async def test_a_ledger_that_only_grew_is_still_what_it_was_of(self, place: Place) -> None:
        published = [await self.note_of(place, size) for size in (SECOND, FIRST, FIRST)]
        assert [] == (await look(place.database, published=published)).faults

    async def test_a_past_that_was_rewritten_and_signed_again_by_the_right_key_is_named(self, place: Place) -> None:
        """The operator himself cannot change what he has published."""
        published = [await self.note_of(place, FIRST)]
        await _rewrite(place)
        await place.owner.execute("SET session_replication_role = replica; DELETE FROM consent.checkpoints")
        await Notary(place.database, KEYRING, Ledger(), lambda: START).bring_up_to_date()
        assert [] == (await look(place.database)).faults
        [fault] = (await look(place.database, published=published)).faults
        assert f"the published checkpoint of {FIRST} leaves has another root than the events" == fault

    async def test_a_ledger_that_was_set_back_is_named(self, place: Place) -> None:
        """As from a backup: all is in order, and the last part is not there."""
        published = [await self.note_of(place, SECOND)]
        found = await place.tamper(
            "DELETE FROM consent.events WHERE order_id <> '{a}'", "DELETE FROM consent.leaves WHERE order_id <> '{a}'",
            "DELETE FROM consent.record_keys WHERE order_id <> '{a}'", "DELETE FROM consent.orders WHERE order_id <> '{a}'",
            "DELETE FROM consent.pending_leaves", f"DELETE FROM consent.checkpoints WHERE size = {SECOND}",
            f"DELETE FROM consent.nodes WHERE (place + 1) << level > {FIRST}",
        )  # fmt: skip
        assert [] == found.faults
        [fault] = (await look(place.database, published=published)).faults
        assert f"the published checkpoint of {SECOND} leaves is of more than there are: {FIRST}" == fault

    async def test_one_that_is_not_ours_is_refused(self, place: Place) -> None:
        forged = note.sign(note.Checkpoint(ORIGIN, FIRST, bytes(32)).text, STRANGER, ORIGIN)
        with pytest.raises(BadNote, match="is not signed by"):
            await look(place.database, published=[forged])


class TestTimeStamps:
    async def test_they_are_counted_and_verified(self, place: Place, tmp_path: Path) -> None:
        vouches = make_authority(tmp_path / "authority")
        await self.stamp(place, vouches)
        found = await look(place.database, roots=read_roots(vouches))
        assert ([], 1) == (found.faults, found.timestamps)

    async def test_one_of_another_authority_is_named_where_we_know_ours(self, place: Place, tmp_path: Path) -> None:
        vouches, others = make_authority(tmp_path / "authority"), make_authority(tmp_path / "other", name="Other")
        await self.stamp(place, others)
        assert [] == (await look(place.database)).faults
        [fault] = (await look(place.database, roots=read_roots(vouches))).faults
        assert f"the checkpoint of {SECOND} leaves has a time stamp that does not hold: " in fault

    async def test_a_time_that_it_does_not_vouch_for_is_named(self, place: Place, tmp_path: Path) -> None:
        vouches = make_authority(tmp_path / "authority")
        await self.stamp(place, vouches)
        await place.tamper("UPDATE consent.timestamps SET at = at - interval '1 day'")
        [fault] = (await look(place.database, roots=read_roots(vouches))).faults
        assert re.search(rf"the checkpoint of {SECOND} leaves was dated \S+, not ", fault)

    async def stamp(self, place: Place, vouches: Path) -> None:
        async with open_authority(vouches.parent) as authority:
            settings = Ledger.model_validate({"timestamp_url": authority.url, "timestamp_ca": str(vouches)})
            assert await Notary(place.database, KEYRING, settings, lambda: START).stamp() is True


class TestItsCost:
    async def test_memory_does_not_grow_with_the_ledger(self, database: Database, clock: Clock) -> None:
        engine = engine_on(database, clock)
        record = await ordered(engine)
        notary = Notary(database, KEYRING, Ledger(), clock)
        noted = ev.RecordingListened(call_id="call-1", by="an auditor", purpose="p" * 100)

        async def peak(events: int) -> int:
            while await count(engine, "events") < events:
                clock.forward(seconds=1)
                await engine.append(record.order.order_id, *(noted for _ in range(1000)))
                await notary.bring_up_to_date()
            await look(database)  # what is made once, such as prepared queries
            gc.collect()
            tracemalloc.start()
            assert [] == (await look(database)).faults
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return most

        few, many = await peak(3000), await peak(15_000)
        assert many < 1.3 * few


@pytest.fixture
def config(place: Place, tmp_path: Path) -> Path:
    """The settings of a gateway on the ledger of *place*: its secret is that of KEYRING, in its file."""
    file = tmp_path / "gateway.toml"
    file.write_text(f'data_dir = "{tmp_path}/data"\n[database]\ndsn = "{place.dsn}"\n')
    secret = load_settings(file).data_dir / "ledger-secret"
    secret.parent.mkdir()
    secret.write_bytes(b"k" * 32)
    return file


Cli = Callable[..., Awaitable[Done]]


@pytest.fixture
def cli(config: Path) -> Cli:
    async def run(*arguments: str) -> Done:
        return await command(config, "ledger", *arguments)

    return run


class TestTheCommandLine:
    """Beside a gateway that holds the same database open, which every one of these tests does."""

    async def test_the_key_is_a_verifier_key_on_one_line(self, cli: Cli) -> None:
        code, out, _ = await cli("key")
        assert (0, f"{VERIFIER}\n") == (code, out)
        assert note.parse_verifier(out) == VERIFIER
        raw = KEYRING.signer.public_key().public_bytes_raw()
        name, key_id, encoded = out.strip().split("+", 2)
        assert (ORIGIN, sha256(ORIGIN.encode() + b"\n\x01" + raw).hexdigest()[:8]) == (name, key_id)
        assert b"\x01" + raw == base64.b64decode(encoded)

    async def test_a_checkpoint_is_a_signed_note_of_all_there_is(self, place: Place, cli: Cli) -> None:
        """C2SP tlog-checkpoint in a signed-note, taken apart without our own reader."""
        code, out, _ = await cli("checkpoint")
        text, _, signatures = out.partition("\n\n")
        origin, size, root = text.split("\n")
        assert (0, ORIGIN, "38", 32) == (code, origin, size, len(base64.b64decode(root, validate=True)))
        match = re.fullmatch(rf"— {re.escape(ORIGIN)} ([A-Za-z0-9+/=]+)\n", signatures)
        assert match is not None
        signature = base64.b64decode(match[1], validate=True)
        assert VERIFIER.id == signature[:4]
        KEYRING.signer.public_key().verify(signature[4:], f"{text}\n".encode())
        assert out == await place.owner.fetchval("SELECT note FROM consent.checkpoints WHERE size = 38")

    async def test_it_is_the_same_while_nothing_is_new(self, cli: Cli) -> None:
        assert (await cli("checkpoint"))[:2] == (await cli("checkpoint"))[:2]

    async def test_of_an_empty_ledger_there_is_none(self, place: Place, cli: Cli) -> None:
        await place.owner.execute(NO_CHECKS)
        await place.owner.execute(
            "TRUNCATE consent.events, consent.leaves, consent.nodes, consent.checkpoints, consent.pending_leaves CASCADE"
        )
        code, out, err = await cli("checkpoint")
        assert (1, "", True) == (code, out, "the ledger is empty: no order was ever made" in err)

    async def test_verify_says_what_it_has_read(self, cli: Cli) -> None:
        code, out, err = await cli("verify")
        assert (0, "✓ 38 events, 35 leaves, 2 checkpoints, 0 timestamps, 3 pending, 0 erased\n", "") == (code, out, err)

    async def test_verify_for_scripts(self, cli: Cli) -> None:
        code, out, _ = await cli("verify", "--json")
        assert (0, {"events": 38, "leaves": 35, "checkpoints": 2, "timestamps": 0, "pending": 3, "erased": 0, "faults": []}) == (
            code, json.loads(out),
        )  # fmt: skip

    async def test_verify_names_each_fault_on_a_line_and_exits_1(self, place: Place, config: Path) -> None:
        found = await place.tamper("UPDATE consent.nodes SET hash = sha256('forged') WHERE (level, place) = (2, 1)")
        code, out, err = await process(config, "ledger", "verify")
        assert (1, [f"✗ {fault}" for fault in found.faults]) == (code, err.splitlines())
        assert out.startswith("✗ 38 events")
        code, out, err = await process(config, "ledger", "verify", "--json")
        assert (1, found.faults, "") == (code, json.loads(out)["faults"], err)

    async def test_verify_by_a_key_that_was_kept(self, cli: Cli) -> None:
        assert 0 == (await cli("verify", "--key", str(VERIFIER)))[0]
        code, _, err = await cli("verify", "--key", str(note.verifier_of(STRANGER, ORIGIN)))
        assert (1, True) == (code, "is not signed by" in err)

    @pytest.mark.parametrize("key", ["rubbish", "a+b", f"{VERIFIER}x", str(VERIFIER).replace("ledger", "other")])
    async def test_a_key_that_is_none_is_refused(self, cli: Cli, key: str) -> None:
        code, out, err = await cli("verify", "--key", key)
        assert (1, "", 1) == (code, out, len(err.splitlines()))
        assert "verifier key" in err

    async def test_verify_against_what_was_published(self, place: Place, cli: Cli, tmp_path: Path) -> None:
        """`ledger checkpoint > FILE`, a forged past, `ledger verify --checkpoint FILE`."""
        file = tmp_path / "published"
        file.write_text((await cli("checkpoint"))[1])
        assert 0 == (await cli("verify", "--checkpoint", str(file)))[0]
        await _rewrite(place)
        await place.owner.execute("SET session_replication_role = replica; DELETE FROM consent.checkpoints")
        assert 0 == (await cli("verify"))[0]
        code, _, err = await cli("verify", "--checkpoint", str(file))
        assert (1, True) == (code, "the published checkpoint of 38 leaves is of more than there are: 37" in err)

    @pytest.mark.parametrize("content", [None, b"\xff", b"rubbish"])
    async def test_a_published_checkpoint_that_cannot_be_read(
        self, cli: Cli, tmp_path: Path, content: bytes | None
    ) -> None:
        file = tmp_path / "published"
        if content is not None:
            file.write_bytes(content)
        code, out, err = await cli("verify", "--checkpoint", str(file))
        assert (1, "", True, False) == (code, out, err.startswith("✗ "), "Traceback" in err)

    async def test_time_stamps_are_verified_by_the_settings(
        self, place: Place, cli: Cli, config: Path, tmp_path: Path
    ) -> None:
        vouches, others = make_authority(tmp_path / "authority"), make_authority(tmp_path / "other", name="Other")
        await TestTimeStamps().stamp(place, others)
        told, base = {}, await asyncio.to_thread(config.read_text)
        for name, file in (("ours", vouches), ("theirs", others)):
            await asyncio.to_thread(config.write_text, f'{base}[ledger]\ntimestamp_ca = "{file}"\n')
            told[name] = (await cli("verify"))[0]
        assert {"ours": 1, "theirs": 0} == told

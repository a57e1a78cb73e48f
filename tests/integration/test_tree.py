"""The tree of all events in the database: it grows in whatever batches and whoever grows it, and proves what RFC 6962 defines."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from hashlib import sha256
from random import Random
from uuid import UUID

import asyncpg
import pytest
from engines import KEYRING, NUMBER, OTHER, START, Clock, confirmed, engine_on, ordered

from gateway.consent import events as ev
from gateway.engine import Engine
from gateway.ledger.errors import BadNote, BadProof
from gateway.ledger.merkle import leaf_hash, verify_consistency, verify_inclusion
from gateway.ledger.note import Checkpoint, parse_checkpoint, verifier_of, verify
from gateway.ledger.sealing import Keyring
from gateway.store import tree
from gateway.store.database import Database

ORIGIN = "consent-gateway/ledger"
VERIFIER = verifier_of(KEYRING.signer, ORIGIN)
MOST = 70


def definition(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\x01" + definition(leaves[:split]) + definition(leaves[split:])).digest()


async def append(engine: Engine, order_id: str, many: int) -> None:
    """*many* events that change nothing, in one transaction."""
    async with engine.database.transaction() as connection:
        for number in range(many):
            listened = ev.RecordingListened(call_id="call-1", by=f"auditor {number}", purpose="a complaint")
            await engine.append_within(connection, order_id, listened)


async def sequence(database: Database, most: int = tree.MOST_AT_ONCE) -> int:
    async with database.transaction() as connection:
        return await tree.sequence(connection, most)


async def sign(database: Database, minutes: int = 0) -> tree.Signed | None:
    async with database.transaction() as connection:
        return await tree.checkpoint(connection, KEYRING.signer, ORIGIN, START + timedelta(minutes=minutes))


async def leaves(database: Database) -> list[bytes]:
    """The leaf hashes, made anew from the envelopes of the events."""
    rows = await database.pool.fetch(
        "SELECT leaf, envelope FROM consent.leaves JOIN consent.events USING (order_id, seq) ORDER BY leaf"
    )
    assert list(range(len(rows))) == [row["leaf"] for row in rows]
    return [leaf_hash(sha256(row["envelope"].encode()).digest()) for row in rows]


async def check_tree(database: Database) -> None:
    """Every event is a leaf once, every whole subtree is kept, and is what the definition says."""
    assert [0] == [await database.pool.fetchval("SELECT count(*) FROM consent.pending_leaves")]
    found = await leaves(database)
    assert await database.pool.fetchval("SELECT count(*) FROM consent.events") == len(found)
    rows = await database.pool.fetch("SELECT level, place, hash FROM consent.nodes")
    expected = {
        (level, place): definition(found[place << level : place + 1 << level])
        for level in range(len(found).bit_length())
        for place in range(len(found) >> level)
    }
    assert expected == {(row["level"], row["place"]): row["hash"] for row in rows}


@pytest.fixture
async def grown(engine: Engine) -> Database:
    """A tree of MOST leaves, which came in batches of 1, 2, 3 ..."""
    record = await ordered(engine)
    await append(engine, record.order.order_id, MOST - 1)
    batch = 1
    while await sequence(engine.database, batch):
        batch += 1
    return engine.database


class TestProofs:
    async def test_every_leaf_is_in_the_tree_of_every_size(self, grown: Database) -> None:
        found = await leaves(grown)
        assert MOST == len(found)
        async with grown.pool.acquire() as connection:
            for size in range(1, MOST + 1):
                root = definition(found[:size])
                for leaf in range(size):
                    proof = await tree.inclusion_proof(connection, leaf, size)
                    verify_inclusion(leaf, size, found[leaf], proof, root)

    async def test_the_tree_of_every_size_grew_from_every_smaller_one(self, grown: Database) -> None:
        found = await leaves(grown)
        roots = [definition(found[:size]) for size in range(MOST + 1)]
        async with grown.pool.acquire() as connection:
            for second in range(1, MOST + 1):
                for first in range(1, second + 1):
                    proof = await tree.consistency_proof(connection, first, second)
                    verify_consistency(first, second, roots[first], roots[second], proof)

    async def test_of_what_is_not_there_there_is_none(self, grown: Database) -> None:
        async with grown.pool.acquire() as connection:
            for leaf, size in ((MOST, MOST), (-1, MOST)):
                with pytest.raises(BadProof):
                    await tree.inclusion_proof(connection, leaf, size)
            for first, second in ((0, MOST), (MOST, MOST - 1)):
                with pytest.raises(BadProof):
                    await tree.consistency_proof(connection, first, second)

    async def test_a_proof_of_a_size_that_the_tree_has_not_come_to_is_refused(self, grown: Database) -> None:
        async with grown.pool.acquire() as connection:
            with pytest.raises(BadProof):
                await tree.inclusion_proof(connection, 0, MOST + 2)
            with pytest.raises(BadProof):
                await tree.consistency_proof(connection, MOST, MOST + 2)

    async def test_an_event_of_a_person_who_was_erased_is_proven_all_the_same(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        record = await confirmed(engine)
        await sequence(engine.database)
        await owner.execute("DELETE FROM consent.record_keys")
        async with engine.database.pool.acquire() as connection:
            found, size = await leaves(engine.database), await tree.tree_size(connection)
            places = await tree.leaves_of(connection, record.order.order_id)
            assert dict(enumerate(range(size), 1)) == places
            for leaf in places.values():
                proof = await tree.inclusion_proof(connection, leaf, size)
                verify_inclusion(leaf, size, found[leaf], proof, definition(found))


class TestGrowing:
    async def test_the_leaves_of_a_record_are_told_by_their_place_in_it(self, engine: Engine) -> None:
        first, second = await ordered(engine), await ordered(engine, OTHER)
        await append(engine, first.order.order_id, 2)
        async with engine.database.pool.acquire() as connection:
            assert {} == await tree.leaves_of(connection, first.order.order_id)
        assert 3 == await sequence(engine.database, 3)
        async with engine.database.pool.acquire() as connection:
            assert {1: 0, 2: 2} == await tree.leaves_of(connection, first.order.order_id)
            assert {1: 1} == await tree.leaves_of(connection, second.order.order_id)
            assert {} == await tree.leaves_of(connection, str(UUID(int=7)))

    async def test_two_write_and_two_make_leaves_at_once(
        self, engine: Engine, database: Database, clock: Clock
    ) -> None:
        """Whoever comes first: every event becomes a leaf exactly once, in batches of all sizes."""
        engines = [engine, engine_on(database, clock, gateway="g2")]
        orders = [(await ordered(engine, f"+8210999900{n:02d}")).order.order_id for n in range(6)]
        total, random = 6 + 2 * 12 * 4, Random(7)
        made = [0, 0]

        async def write(one: Engine) -> None:
            for _ in range(12):
                await append(one, random.choice(orders), 4)

        async def grow(which: int) -> None:
            async with asyncio.timeout(120):
                while sum(made) < total:
                    made[which] += await sequence(database, random.randint(1, 9))
                    await sign(database)
                    await asyncio.sleep(0)

        await asyncio.gather(*map(write, engines), grow(0), grow(1))
        assert total == sum(made)
        await check_tree(database)
        rows = await database.pool.fetch("SELECT size, note FROM consent.checkpoints ORDER BY size")
        found = await leaves(database)
        for row in rows:
            checkpoint = parse_checkpoint(verify(row["note"], VERIFIER))
            assert Checkpoint(ORIGIN, row["size"], definition(found[: row["size"]])) == checkpoint
        assert total == rows[-1]["size"]

    async def test_the_events_of_a_record_keep_their_order(self, engine: Engine) -> None:
        orders = [(await ordered(engine, number)).order.order_id for number in (NUMBER, OTHER)]
        for number in range(5):
            await append(engine, orders[number % 2], 3)
            await sequence(engine.database, 2)
        while await sequence(engine.database, 3):
            pass
        async with engine.database.pool.acquire() as connection:
            for order_id in orders:
                places = await tree.leaves_of(connection, order_id)
                assert sorted(places.values()) == list(places.values())

    async def test_no_more_become_leaves_at_once_than_asked_for(self, engine: Engine) -> None:
        record = await ordered(engine)
        await append(engine, record.order.order_id, 9)
        assert [4, 4, 2, 0] == [await sequence(engine.database, 4) for _ in range(4)]
        await check_tree(engine.database)

    async def test_an_empty_ledger_has_nothing_to_add(self, database: Database) -> None:
        assert (0, None) == (await sequence(database), await sign(database))


class TestWhatIsRolledBack:
    async def test_leaves_that_are_rolled_back_are_pending_again(self, engine: Engine) -> None:
        record = await ordered(engine)
        await append(engine, record.order.order_id, 6)
        await sequence(engine.database, 3)
        before = await leaves(engine.database)

        async def fail() -> None:
            async with engine.database.transaction() as connection:
                assert 4 == await tree.sequence(connection)
                await tree.checkpoint(connection, KEYRING.signer, ORIGIN, START)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert before == await leaves(engine.database)
        assert None is await engine.database.pool.fetchval("SELECT max(size) FROM consent.checkpoints")
        assert 4 == await sequence(engine.database)
        await check_tree(engine.database)

    async def test_a_connection_that_is_cut_leaves_nothing_and_locks_nobody_out(
        self, engine: Engine, owner: asyncpg.Connection
    ) -> None:
        record = await ordered(engine)
        await append(engine, record.order.order_id, 6)

        async def die() -> None:
            async with engine.database.transaction() as connection:
                await tree.sequence(connection, 5)
                await owner.fetchval("SELECT pg_terminate_backend($1, 5000)", connection.get_server_pid())
                await tree.sequence(connection, 1)

        with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.AdminShutdownError)):
            await die()
        assert 7 == await sequence(engine.database)
        await check_tree(engine.database)

    async def test_events_that_are_rolled_back_leave_no_gap(self, engine: Engine) -> None:
        record = await ordered(engine)
        order_id = record.order.order_id

        async def fail() -> None:
            async with engine.database.transaction() as connection:
                await engine.append_within(connection, order_id, ev.HoldPlaced(by="x", reason="y"))
                raise ZeroDivisionError

        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await fail()
            await append(engine, order_id, 1)
            await sequence(engine.database)
        await check_tree(engine.database)

    async def test_an_event_that_is_not_committed_yet_becomes_a_leaf_later(
        self, engine: Engine, database: Database, clock: Clock
    ) -> None:
        """Those after it do not wait for it."""
        slow, quick = await ordered(engine), await ordered(engine, OTHER)
        other = engine_on(database, clock, gateway="g2")
        async with database.transaction() as connection:
            await engine.append_within(connection, slow.order.order_id, ev.HoldPlaced(by="x", reason="y"))
            await append(other, quick.order.order_id, 1)
            assert 3 == await sequence(database)
        assert 1 == await sequence(database)
        async with database.pool.acquire() as connection:
            assert {1: 0, 2: 3} == await tree.leaves_of(connection, slow.order.order_id)
        await check_tree(database)


class TestCheckpoints:
    async def test_one_says_what_the_tree_has_come_to_and_is_signed(self, grown: Database) -> None:
        signed = await sign(grown)
        assert signed is not None
        assert (MOST, START) == (signed.size, signed.at)
        checkpoint = parse_checkpoint(verify(signed.note, VERIFIER))
        assert Checkpoint(ORIGIN, MOST, definition(await leaves(grown))) == checkpoint
        with pytest.raises(BadNote):
            verify(signed.note, verifier_of(Keyring(b"x" * 32).signer, ORIGIN))

    async def test_while_nothing_is_added_it_is_the_same(self, grown: Database) -> None:
        first = await sign(grown)
        assert first == await sign(grown, minutes=5)
        async with grown.pool.acquire() as connection:
            assert first == await tree.last_checkpoint(connection)

    async def test_the_next_one_is_a_growth_of_it(self, grown: Database, engine: Engine) -> None:
        first = await sign(grown)
        await ordered(engine, OTHER)
        assert first == await sign(grown), "what is pending is not covered"
        await sequence(grown)
        second = await sign(grown, minutes=5)
        assert first is not None
        assert second is not None
        assert (MOST + 1, START + timedelta(minutes=5)) == (second.size, second.at)
        old, new = (parse_checkpoint(verify(signed.note, VERIFIER)) for signed in (first, second))
        async with grown.pool.acquire() as connection:
            proof = await tree.consistency_proof(connection, old.size, new.size)
            verify_consistency(old.size, new.size, old.root, new.root, proof)

    async def test_the_first_that_covers_a_leaf_is_found(self, engine: Engine) -> None:
        record = await ordered(engine)
        signed = []
        for number in range(3):
            await append(engine, record.order.order_id, 2)
            await sequence(engine.database)
            signed.append(await sign(engine.database, minutes=number))
        async with engine.database.pool.acquire() as connection:
            found = [await tree.first_checkpoint_covering(connection, leaf) for leaf in range(8)]
        assert [*[signed[0]] * 3, *[signed[1]] * 2, *[signed[2]] * 2, None] == found

    async def test_of_two_that_sign_at_once_both_get_the_same(self, grown: Database) -> None:
        """Ed25519 signs the same the same way; the time is that of the first."""
        both = await asyncio.gather(*(sign(grown, minutes) for minutes in range(4)))
        assert 1 == len(set(both))
        assert 1 == await grown.pool.fetchval("SELECT count(*) FROM consent.checkpoints")

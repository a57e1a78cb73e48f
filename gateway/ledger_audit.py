"""The whole ledger, read and checked anew: every envelope, every chain, the tree with all its nodes, checkpoints and time stamps.

It trusts nothing that is stored but the envelopes: hashes, leaves, nodes and roots are made again from them. Memory does not grow
with the ledger: everything is read in one order, a few rows at a time.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from cryptography import x509

from gateway.consent.canonical import digest
from gateway.ledger import merkle, note
from gateway.ledger.envelope import open_payload
from gateway.ledger.errors import BadNote, BadTimestamp, Unsealable
from gateway.ledger.merkle import Hash, Node
from gateway.ledger.note import Checkpoint, Verifier
from gateway.ledger.sealing import Keyring, events_key
from gateway.ledger.timestamping import check_token
from gateway.store.database import Connection, Database, sql

MOST_FAULTS = 100
ROWS_AT_ONCE = 1000
ERASED = "record.erased"
Progress = Callable[[int, int], None]
"""Is told how many of how many rows are done."""


@dataclass
class Audit:
    """*faults* in words, the first :data:`MOST_FAULTS`; *pending* events are no leaves yet, *erased* records cannot be read."""

    events: int = 0
    leaves: int = 0
    checkpoints: int = 0
    timestamps: int = 0
    pending: int = 0
    erased: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(text)


async def audit(
    database: Database, keyring: Keyring, verifier: Verifier, progress: Progress, *,
    roots: Sequence[x509.Certificate] = (), published: Sequence[str] = (),
) -> Audit:  # fmt: skip
    """Read all of it, as it stood when this began. With *roots* every time stamp is verified; *published* are checkpoints, in their
    signed notes, that somebody has kept: the ledger must still be what they were of. Raises BadNote for one that *verifier* has not
    signed.
    """
    kept = [note.parse_checkpoint(note.verify(text, verifier)) for text in published]
    found = Audit()
    async with (
        database.pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        counts: Any = await connection.fetchrow(sql("count_ledger"))
        total, found.pending = counts["events"] + counts["leaves"], counts["pending"]
        chains = _Chains(found, keyring)
        async for row in connection.cursor(sql("all_events"), prefetch=ROWS_AT_ONCE):
            chains.see(row)
            progress(found.events, total)
        chains.end()
        nodes, checkpoints = await _Rows.open(connection, "all_nodes"), await _Rows.open(connection, "all_checkpoints")
        tree = _Tree(found, verifier, list(roots), nodes, checkpoints, kept)
        async for row in connection.cursor(sql("all_leaves"), prefetch=ROWS_AT_ONCE):
            await tree.see(row)
            progress(found.events + found.leaves, total)
        await tree.end(counts["nodes"])
        for query, words in (
            ("empty_records", "order {order_id} has no events any more"),
            ("lost_leaves", "event {seq} of order {order_id} is no leaf and does not wait to be one"),
            ("false_leaves", "event {seq} of order {order_id} waits to be a leaf, but is none that could be"),
        ):
            for row in await connection.fetch(sql(query)):
                found.fault(words.format(**row))
    return found


class _Rows:
    """What a query gives, in its order; *next* is looked at before it is taken."""

    def __init__(self, rows: AsyncIterator[Any]) -> None:
        self._rows = rows
        self.taken = 0
        self.next: Any = None

    @classmethod
    async def open(cls, connection: Connection, query: str) -> _Rows:
        opened = cls(aiter(connection.cursor(sql(query), prefetch=ROWS_AT_ONCE)))
        opened.next = await anext(opened._rows, None)
        return opened

    async def take(self) -> Any:
        taken, self.next = self.next, await anext(self._rows, None)
        self.taken += 1
        return taken


class _Chains:
    """Rows of events, record by record."""

    def __init__(self, found: Audit, keyring: Keyring) -> None:
        self._found = found
        self._keyring = keyring
        self._order, self._seq, self._hash, self._type = "", 0, "", ""
        self._wrapped: bytes | None = None
        self._key: bytes | None = None

    def see(self, row: Any) -> None:
        self._found.events += 1
        if str(row["order_id"]) != self._order:
            self.end()
            self._begin(row)
        place = f"event {row['seq']} of order {self._order}"
        for fault in self._faults(row):
            self._found.fault(f"{place} {fault}")
        self._seq, self._hash, self._type = row["seq"], row["hash"], row["type"]

    def end(self) -> None:
        """The record before is over. A key is destroyed with the event that says so, and by nothing else."""
        if not self._order:
            return
        if self._wrapped is None:
            self._found.erased += 1
        if (self._wrapped is None) != (self._type == ERASED):
            gone = "its key is gone, and its last event does not say that it was erased"
            there = "its last event says that it was erased, and its key is still there"
            self._found.fault(f"order {self._order}: {gone if self._wrapped is None else there}")

    def _begin(self, row: Any) -> None:
        self._order, self._seq, self._hash, self._type = str(row["order_id"]), 0, "", ""
        self._wrapped, self._key = row["wrapped"], None
        if self._wrapped is None:
            return
        try:
            self._key = events_key(self._keyring.unwrap(self._wrapped, self._order))
        except Unsealable:
            self._found.fault(f"order {self._order}: its key is not one that the ledger's secret has wrapped")

    def _faults(self, row: Any) -> Iterator[str]:
        if digest(row["envelope"].encode()) != row["hash"]:
            yield "has another hash than its envelope"
        try:
            said = json.loads(row["envelope"])
            facts = said["order_id"], said["seq"], said["event_id"], said["type"], datetime.fromisoformat(said["at"])
            follows = said["seq"], said["previous"]
        except (ValueError, KeyError, TypeError) as error:
            yield f"has an envelope that cannot be read: {error!r}"
            return
        if facts != (self._order, row["seq"], str(row["event_id"]), row["type"], row["at"]):
            yield "is not what its envelope says"
        if follows != (self._seq + 1, self._hash):
            yield "does not follow its predecessor"
        if self._key is not None:
            try:
                open_payload(said, self._key)
            except (Unsealable, ValueError, KeyError, TypeError) as error:
                yield f"cannot be opened: {error}"


class _Tree:
    """Leaves in their order, folded; every node is compared, and at the size of each checkpoint the root."""

    def __init__(
        self, found: Audit, verifier: Verifier, roots: list[x509.Certificate], nodes: _Rows, checkpoints: _Rows,
        published: Sequence[Checkpoint],
    ) -> None:  # fmt: skip
        self._found = found
        self._verifier = verifier
        self._roots = roots
        self._nodes = nodes
        self._checkpoints = checkpoints
        self._published = sorted(published, key=lambda checkpoint: checkpoint.size, reverse=True)
        self._size = 0
        self._peaks: dict[Node, Hash] = {}
        self._agreed = 0
        self._astray = False

    async def see(self, row: Any) -> None:
        self._found.leaves += 1
        while self._size < row["leaf"] and len(self._found.faults) < MOST_FAULTS:
            self._found.fault(f"leaf {self._size} is missing")
            await self._add(None)
        if row["envelope"] is None:
            self._found.fault(f"leaf {row['leaf']}: event {row['seq']} of order {row['order_id']} is missing")
        await self._add(row["envelope"])

    async def end(self, nodes: int) -> None:
        if self._checkpoints.next is not None:
            size = self._checkpoints.next["size"]
            self._found.fault(f"the checkpoint of {size} leaves is of more than there are: {self._size}")
        for kept in self._published:
            self._found.fault(f"the published checkpoint of {kept.size} leaves is of more than there are: {self._size}")
        while self._nodes.next is not None:
            await self._take_stranger()
        if nodes != self._nodes.taken:
            self._found.fault(f"{nodes - self._nodes.taken} nodes are in no tree at all")

    async def _add(self, envelope: str | None) -> None:
        leaf = merkle.leaf_hash(bytes.fromhex(digest(envelope.encode()))) if envelope is not None else bytes(32)
        grown = dict(merkle.grown(self._size, [leaf], self._peaks.__getitem__))
        self._size += 1
        for node, hashed in grown.items():
            await self._compare(node, hashed)
        known = self._peaks | grown
        self._peaks = {peak: known[peak] for peak in merkle.peaks(0, self._size)}
        while self._checkpoints.next is not None and self._checkpoints.next["size"] <= self._size:
            signed = await self._checkpoints.take()
            self._found.checkpoints += 1
            for fault in self._faults_of(signed):
                self._found.fault(f"the checkpoint of {signed['size']} leaves {fault}")
        while self._published and self._published[-1].size <= self._size:
            kept = self._published.pop()
            if kept.root != self._root():
                self._found.fault(f"the published checkpoint of {kept.size} leaves has another root than the events")

    async def _compare(self, node: Node, hashed: Hash) -> None:
        """Both come in the order in which they become whole."""
        while self._nodes.next is not None and _whole_at(self._nodes.next) < _whole_at(node._asdict()):
            await self._take_stranger()
        kept = self._nodes.next
        if kept is None or _whole_at(kept) != _whole_at(node._asdict()):
            self._found.fault(f"node {node.place} of level {node.level} is missing")
            return
        await self._nodes.take()
        if kept["hash"] != hashed:
            below = "the event of its leaf" if node.level == 0 else "the events below it"
            self._found.fault(f"node {node.place} of level {node.level} is not that of {below}")

    async def _take_stranger(self) -> None:
        node = await self._nodes.take()
        self._found.fault(f"node {node['place']} of level {node['level']} is of no leaves that are there")

    def _faults_of(self, signed: Any) -> Iterator[str]:
        if signed["token"] is not None:
            self._found.timestamps += 1
            yield from self._faults_of_stamp(signed)
        try:
            checkpoint = note.parse_checkpoint(note.verify(signed["note"], self._verifier))
        except BadNote as error:
            yield f"is not signed as it should be: {error}"
            return
        if (checkpoint.origin, checkpoint.size) != (self._verifier.name, signed["size"]):
            yield f"says that it is of {checkpoint.size} leaves of {checkpoint.origin}"
        elif self._astray:
            return  # said once: every later root has the same fault in it
        elif checkpoint.root != self._root():
            self._astray = True
            yield (
                f"has another root than the events: something before leaf {signed['size']} was changed after it was signed"
                + (f", and not before leaf {self._agreed}" if self._agreed else "")
            )
        else:
            self._agreed = signed["size"]

    def _root(self) -> Hash:
        return merkle.root(self._size, self._peaks.__getitem__)

    def _faults_of_stamp(self, signed: Any) -> Iterator[str]:
        data = signed["note"].encode()
        if sha256(data).digest() not in signed["token"]:
            yield "has the time stamp of something else"
        elif self._roots:
            try:
                at = check_token(signed["token"], data, self._roots).at
            except BadTimestamp as error:
                yield f"has a time stamp that does not hold: {error}"
            else:
                if at != signed["dated_at"]:
                    yield f"was dated {at.isoformat()}, not {signed['dated_at'].isoformat()}"


def _whole_at(node: Any) -> tuple[int, int]:
    """By which leaf a node is whole, and its level: no two nodes have the same."""
    return (node["place"] + 1) << node["level"], node["level"]

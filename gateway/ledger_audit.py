"""The whole ledger, read and checked anew: every envelope, every chain, the tree and all its checkpoints.

It trusts nothing that is stored but the envelopes: hashes, leaves and roots are made again from them. Memory does not grow with the
ledger.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from gateway.consent.canonical import digest
from gateway.ledger import merkle, note
from gateway.ledger.errors import BadNote
from gateway.ledger.merkle import Hash, Node
from gateway.ledger.note import Verifier
from gateway.store.database import Database, sql

MOST_FAULTS = 100
ROWS_AT_ONCE = 1000
Progress = Callable[[int, int], None]
"""Is told how many of how many rows are done."""


@dataclass
class Audit:
    """*faults* in words, the first :data:`MOST_FAULTS`; *pending* events are no leaves yet."""

    events: int = 0
    leaves: int = 0
    checkpoints: int = 0
    pending: int = 0
    faults: list[str] = field(default_factory=list)

    def fault(self, text: str) -> None:
        if len(self.faults) < MOST_FAULTS:
            self.faults.append(text)


async def audit(database: Database, verifier: Verifier, progress: Progress) -> Audit:
    """Read all of it, as it stood when this began."""
    found = Audit()
    async with (
        database.pool.acquire() as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        found.pending = await connection.fetchval(sql("unsequenced"))
        total = await connection.fetchval(sql("count_events"))
        leaves = total - found.pending
        chains = _Chains(found)
        async for row in connection.cursor(sql("all_events"), prefetch=ROWS_AT_ONCE):
            chains.see(row)
            progress(found.events, total + leaves)
        notes = {row["size"]: row["note"] for row in await connection.fetch(sql("all_checkpoints"))}
        tree = _Tree(found, verifier, notes)
        async for row in connection.cursor(sql("all_leaves"), prefetch=ROWS_AT_ONCE):
            tree.see(row)
            progress(found.events + found.leaves, total + leaves)
        for size in notes:
            found.fault(f"the checkpoint of {size} leaves is signed for more than there are")
        if found.leaves + found.pending != found.events:
            found.fault(f"{found.events} events, but {found.leaves} leaves and {found.pending} that are pending")
    return found


class _Chains:
    """Rows of events, record by record."""

    def __init__(self, found: Audit) -> None:
        self._found = found
        self._order, self._seq, self._hash = "", 0, ""

    def see(self, row: Any) -> None:
        self._found.events += 1
        order_id = str(row["order_id"])
        if order_id != self._order:
            self._order, self._seq, self._hash = order_id, 0, ""
        place = f"event {row['seq']} of order {order_id}"
        if digest(row["envelope"].encode()) != row["hash"]:
            self._found.fault(f"{place}: its hash is not that of its envelope")
        try:
            said = json.loads(row["envelope"])
            if (said["order_id"], said["seq"], said["type"]) != (order_id, row["seq"], row["type"]):
                self._found.fault(f"{place} is not what its envelope says")
            if (said["seq"], said["previous"]) != (self._seq + 1, self._hash):
                self._found.fault(f"{place} does not follow its predecessor")
        except (ValueError, KeyError, TypeError):
            self._found.fault(f"{place}: its envelope cannot be read")
        self._seq, self._hash = row["seq"], row["hash"]


class _Tree:
    """Leaves in their order, folded; at the size of each checkpoint the root is compared."""

    def __init__(self, found: Audit, verifier: Verifier, notes: dict[int, str]) -> None:
        self._found = found
        self._verifier = verifier
        self._notes = notes
        self._peaks: dict[Node, Hash] = {}

    def see(self, row: Any) -> None:
        found = self._found
        if row["leaf"] != found.leaves:
            found.fault(f"leaf {found.leaves} is missing")
        leaf = merkle.leaf_hash(bytes.fromhex(digest(row["envelope"].encode())))
        grown = dict(merkle.grown(found.leaves, [leaf], self._peaks.__getitem__))
        found.leaves += 1
        known = self._peaks | grown
        self._peaks = {peak: known[peak] for peak in merkle.peaks(0, found.leaves)}
        signed = self._notes.pop(found.leaves, None)
        if signed is not None:
            found.checkpoints += 1
            for fault in self._faults_of(signed):
                found.fault(f"the checkpoint of {found.leaves} leaves: {fault}")

    def _faults_of(self, signed: str) -> Iterator[str]:
        try:
            checkpoint = note.parse_checkpoint(note.verify(signed, self._verifier))
        except BadNote as error:
            yield str(error)
            return
        if checkpoint.size != self._found.leaves:
            yield f"it says that it is of {checkpoint.size}"
        if checkpoint.root != merkle.root(self._found.leaves, self._peaks.__getitem__):
            yield "its root is not that of the events"

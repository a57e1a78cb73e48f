"""The Merkle tree of all events, as rows: grows, signs what it has come to, and proves (RFC 6962).

Leaves are made in batches by one writer at a time, beside the appends and never in their way: until then an event is pending, and
no checkpoint covers it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.ledger import merkle, note
from gateway.ledger.errors import BadProof
from gateway.ledger.merkle import Hash, Lookup, Node
from gateway.store.database import Connection, sql

MOST_AT_ONCE = 1000
"""Hashing these takes 2 ms, during which no call gets its packets."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint in its signed note, and when it was signed."""

    size: int
    note: str
    at: datetime


async def sequence(connection: Connection, most: int = MOST_AT_ONCE) -> int:
    """Make leaves of up to *most* pending events, within the caller's transaction. How many there were."""
    await connection.execute(sql("lock_tree"))
    rows = await connection.fetch(sql("next_pending"), most)
    if not rows:
        return 0
    size = await tree_size(connection)
    kept = await _read(connection, merkle.peaks(0, size))
    leaves = [merkle.leaf_hash(bytes.fromhex(row["hash"])) for row in rows]
    nodes = list(merkle.grown(size, leaves, kept.__getitem__))
    await connection.execute(
        sql("insert_leaves"),
        list(range(size, size + len(rows))), [row["order_id"] for row in rows], [row["seq"] for row in rows],
    )  # fmt: skip
    await connection.execute(
        sql("insert_nodes"),
        [node.level for node, _ in nodes], [node.place for node, _ in nodes], [hashed for _, hashed in nodes],
    )  # fmt: skip
    return len(rows)


async def checkpoint(connection: Connection, signer: Ed25519PrivateKey, origin: str, now: datetime) -> Signed | None:
    """Sign the tree as it stands, within the caller's transaction; the last one again when nothing was added, None for an empty
    tree.
    """
    await connection.execute(sql("lock_tree"))
    size = await tree_size(connection)
    if size == 0:
        return None
    last = await last_checkpoint(connection)
    if last is not None and last.size == size:
        return last
    root = await _prove(connection, lambda lookup: merkle.root(size, lookup))
    signed = note.sign(note.Checkpoint(origin, size, root).text, signer, origin)
    await connection.execute(sql("insert_checkpoint"), size, signed, now)
    return Signed(size, signed, now)


async def tree_size(connection: Connection) -> int:
    return int(await connection.fetchval(sql("tree_size")))


async def last_checkpoint(connection: Connection) -> Signed | None:
    row = await connection.fetchrow(sql("last_checkpoint"))
    return None if row is None else Signed(row["size"], row["note"], row["at"])


async def first_checkpoint_covering(connection: Connection, leaf: int) -> Signed | None:
    row = await connection.fetchrow(sql("first_checkpoint_covering"), leaf)
    return None if row is None else Signed(row["size"], row["note"], row["at"])


async def leaves_of(connection: Connection, order_id: str) -> dict[int, int]:
    """The leaf of each event of a record, by its seq; pending ones have none yet."""
    return {row["seq"]: row["leaf"] for row in await connection.fetch(sql("leaves_of"), UUID(order_id))}


async def inclusion_proof(connection: Connection, leaf: int, size: int) -> list[Hash]:
    """Raises BadProof for a leaf that a tree of *size* does not have."""
    return await _prove(connection, lambda lookup: merkle.inclusion_proof(leaf, size, lookup))


async def consistency_proof(connection: Connection, first: int, second: int) -> list[Hash]:
    """Raises BadProof when *first* is no size that the tree had on its way to *second*."""
    return await _prove(connection, lambda lookup: merkle.consistency_proof(first, second, lookup))


async def _prove(connection: Connection, compute: Callable[[Lookup], Result]) -> Result:
    """What *compute* makes of the nodes that it asks for. It is run twice: what it wants is noted, then read in one query."""
    wanted: dict[Node, Hash] = {}

    def note_down(node: Node) -> Hash:
        wanted[node] = bytes(32)
        return wanted[node]

    compute(note_down)
    known = await _read(connection, wanted)
    try:
        return compute(known.__getitem__)
    except KeyError as missing:
        raise BadProof(f"the tree has not come to {missing.args[0]} yet") from missing


async def _read(connection: Connection, wanted: Iterable[Node]) -> dict[Node, Hash]:
    nodes = list(wanted)
    rows = await connection.fetch(sql("select_nodes"), [node.level for node in nodes], [node.place for node in nodes])
    return {Node(row["level"], row["place"]): row["hash"] for row in rows}

"""The Merkle tree of RFC 6962 §2.1, as arithmetic: hashes, which nodes a proof is made of, and whether a proof holds.

A node is named by its level (0: leaves) and its place from the left; only whole subtrees are kept, and never change again. So a
tree of n leaves costs two nodes a leaf, and any root or proof of it is made of O(log n) of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

from gateway.ledger.errors import BadProof


class Node(NamedTuple):
    """A whole subtree: the 2**level leaves from place * 2**level on."""

    level: int
    place: int


Hash = bytes
Lookup = Callable[[Node], Hash]
EMPTY_ROOT = sha256().digest()


def leaf_hash(data: bytes) -> Hash:
    return sha256(b"\0" + data).digest()


def node_hash(left: Hash, right: Hash) -> Hash:
    return sha256(b"\1" + left + right).digest()


def peaks(begin: int, end: int) -> list[Node]:
    """The fewest whole subtrees that make up the leaves from *begin* to *end*, where *begin* is a subtree's own beginning."""
    found: list[Node] = []
    while begin < end:
        level = (end - begin).bit_length() - 1
        found.append(Node(level, begin >> level))
        begin += 1 << level
    return found


def grown(size: int, leaves: Sequence[Hash], lookup: Lookup) -> Iterator[tuple[Node, Hash]]:
    """Every node that becomes whole when *leaves* (leaf hashes) are added to a tree of *size*, the leaves among them.

    *lookup* gives the nodes of the tree as it was: the peaks of *size* are asked for, no others.
    """
    edge = {node.level: lookup(node) for node in peaks(0, size)}
    for number, leaf in enumerate(leaves):
        index, node, level = size + number, leaf, 0
        yield Node(0, index), node
        while index & 1:
            node = node_hash(edge.pop(level), node)
            index >>= 1
            level += 1
            yield Node(level, index), node
        edge[level] = node


def root(size: int, lookup: Lookup) -> Hash:
    """MTH(D[size])."""
    return _range(0, size, lookup) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, lookup: Lookup) -> list[Hash]:
    """PATH(index, D[size]). Raises BadProof for a leaf that the tree does not have."""
    if not 0 <= index < size:
        raise BadProof(f"leaf {index} is not in a tree of {size}")
    proof: list[Hash] = []
    begin, end = 0, size
    while end - begin > 1:
        middle = begin + _split(end - begin)
        if index < middle:
            proof.append(_range(middle, end, lookup))
            end = middle
        else:
            proof.append(_range(begin, middle, lookup))
            begin = middle
    return proof[::-1]


def consistency_proof(first: int, second: int, lookup: Lookup) -> list[Hash]:
    """PROOF(first, D[second]). Raises BadProof when *first* is no size that the tree had."""
    if not 0 < first <= second:
        raise BadProof(f"a tree of {second} never grew from one of {first}")
    proof: list[Hash] = []
    begin, end, whole = 0, second, True
    while first != end:
        middle = begin + _split(end - begin)
        if first <= middle:
            proof.append(_range(middle, end, lookup))
            end = middle
        else:
            proof.append(_range(begin, middle, lookup))
            begin, whole = middle, False
    if not whole:
        proof.append(_range(begin, end, lookup))
    return proof[::-1]


def verify_inclusion(index: int, size: int, leaf: Hash, proof: Sequence[Hash], expected: Hash) -> None:
    """Whether *proof* leads from *leaf* (its hash) to the root *expected* (RFC 9162 §2.1.3.2). Raises BadProof."""
    if not 0 <= index < size:
        raise BadProof(f"leaf {index} is not in a tree of {size}")
    place, last, node = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise BadProof("the inclusion proof is too long")
        if place & 1 or place == last:
            node = node_hash(step, node)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            node = node_hash(node, step)
        place, last = place >> 1, last >> 1
    if last or node != expected:
        raise BadProof(f"the inclusion proof of leaf {index} does not lead to the root of {size} leaves")


def verify_consistency(first: int, second: int, first_root: Hash, second_root: Hash, proof: Sequence[Hash]) -> None:
    """Whether the tree of *second* leaves only added to that of *first* (RFC 9162 §2.1.4.2). Raises BadProof."""
    wrong = BadProof(f"the tree of {second} leaves is no growth of that of {first}")
    if not 0 < first <= second:
        raise wrong
    if first == second:
        if proof or first_root != second_root:
            raise wrong
        return
    path = list(proof) if first & (first - 1) else [first_root, *proof]
    if not path:
        raise wrong
    place, last = first - 1, second - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            raise wrong
        if place & 1 or place == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            new = node_hash(new, step)
        place, last = place >> 1, last >> 1
    if last or old != first_root or new != second_root:
        raise wrong


def _split(size: int) -> int:
    """The largest power of two smaller than *size*."""
    return 1 << (size - 1).bit_length() - 1


def _range(begin: int, end: int, lookup: Lookup) -> Hash:
    """MTH(D[begin:end]) for a range that a proof may ask for."""
    *left, node = peaks(begin, end)
    folded = lookup(node)
    for peak in reversed(left):
        folded = node_hash(lookup(peak), folded)
    return folded

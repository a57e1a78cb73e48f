"""The Merkle tree of RFC 6962: the vectors of Certificate Transparency, and every proof of small trees against the definition."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger import merkle
from gateway.ledger.errors import BadProof
from gateway.ledger.merkle import EMPTY_ROOT, Node, leaf_hash, node_hash, verify_consistency, verify_inclusion

MOST = 70
DATA = [f"event {number}".encode() for number in range(MOST)]
LEAVES = [leaf_hash(data) for data in DATA]


def definition(leaves: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962 §2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return sha256(b"\x01" + definition(leaves[:split]) + definition(leaves[split:])).digest()


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962 §2.1.1, word for word."""
    if len(leaves) == 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return [*path(index, leaves[:split]), definition(leaves[split:])]
    return [*path(index - split, leaves[split:]), definition(leaves[:split])]


def proof(size: int, leaves: Sequence[bytes], *, whole: bool = True) -> list[bytes]:
    """SUBPROOF of RFC 6962 §2.1.2, word for word."""
    if size == len(leaves):
        return [] if whole else [definition(leaves)]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if size <= split:
        return [*proof(size, leaves[:split], whole=whole), definition(leaves[split:])]
    return [*proof(size - split, leaves[split:], whole=False), definition(leaves[:split])]


class Tree:
    """Nodes as they are kept: asked for one that is not whole, it fails."""

    def __init__(self) -> None:
        self.nodes: dict[Node, bytes] = {}
        self.asked: set[Node] = set()
        self.size = 0

    def __call__(self, node: Node) -> bytes:
        self.asked.add(node)
        return self.nodes[node]

    def grow(self, leaves: Sequence[bytes]) -> None:
        for node, hashed in list(merkle.grown(self.size, leaves, self)):
            assert node not in self.nodes
            self.nodes[node] = hashed
        self.size += len(leaves)


@pytest.fixture(scope="module")
def tree() -> Tree:
    grown = Tree()
    grown.grow(LEAVES)
    return grown


class TestTheVectorsOfCertificateTransparency:
    """Those of the reference implementation of RFC 6962: eight leaves, the first of them empty."""

    INPUTS = tuple(
        bytes.fromhex(text) for text in (
            "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
        )
    )  # fmt: skip
    ROOTS = (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
    LEFT = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
    PAIR = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
    HALF = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
    FIFTH = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
    LAST_PAIR = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
    THIRD_PAIR = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"

    @pytest.fixture
    def tree(self) -> Tree:
        grown = Tree()
        grown.grow([leaf_hash(data) for data in self.INPUTS])
        return grown

    def test_the_empty_tree(self) -> None:
        assert "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" == EMPTY_ROOT.hex()

    def test_the_roots(self, tree: Tree) -> None:
        assert list(self.ROOTS) == [merkle.root(size, tree).hex() for size in range(1, 9)]

    @pytest.mark.parametrize(
        ("index", "size", "expected"),
        [
            (0, 1, []),
            (0, 8, [LEFT, PAIR, HALF]),
            (5, 8, [FIFTH, LAST_PAIR, ROOTS[3]]),
            (2, 3, [ROOTS[1]]),
            (1, 5, [ROOTS[0], PAIR, FIFTH]),
        ],
    )
    def test_inclusion(self, tree: Tree, index: int, size: int, expected: list[str]) -> None:
        assert expected == [step.hex() for step in merkle.inclusion_proof(index, size, tree)]

    @pytest.mark.parametrize(
        ("first", "second", "expected"),
        [
            (1, 1, []),
            (1, 8, [LEFT, PAIR, HALF]),
            (6, 8, [THIRD_PAIR, LAST_PAIR, ROOTS[3]]),
            (2, 5, [PAIR, FIFTH]),
        ],
    )
    def test_consistency(self, tree: Tree, first: int, second: int, expected: list[str]) -> None:
        assert expected == [step.hex() for step in merkle.consistency_proof(first, second, tree)]


class TestAgainstTheDefinition:
    def test_the_root_of_every_size(self, tree: Tree) -> None:
        assert [definition(LEAVES[:size]) for size in range(MOST + 1)] == [
            merkle.root(size, tree) for size in range(MOST + 1)
        ]

    def test_every_leaf_of_every_size(self, tree: Tree) -> None:
        for size in range(1, MOST + 1):
            root = definition(LEAVES[:size])
            for index in range(size):
                given = merkle.inclusion_proof(index, size, tree)
                assert path(index, LEAVES[:size]) == given
                verify_inclusion(index, size, LEAVES[index], given, root)

    def test_every_pair_of_sizes(self, tree: Tree) -> None:
        roots = [definition(LEAVES[:size]) for size in range(MOST + 1)]
        for second in range(1, MOST + 1):
            for first in range(1, second + 1):
                given = merkle.consistency_proof(first, second, tree)
                assert proof(first, LEAVES[:second]) == given
                verify_consistency(first, second, roots[first], roots[second], given)


class TestGrowing:
    @given(st.lists(st.integers(0, 9), max_size=12))
    def test_it_comes_to_the_same_in_whatever_batches(self, batches: list[int]) -> None:
        """And every node but those of the edge is asked for never again."""
        tree, leaves = Tree(), [leaf_hash(bytes([number])) for number in range(sum(batches))]
        for many in batches:
            tree.asked.clear()
            size = tree.size
            tree.grow(leaves[size : size + many])
            assert set(merkle.peaks(0, size)) == tree.asked
        assert definition(leaves) == merkle.root(len(leaves), tree)

    def test_only_whole_subtrees_are_kept(self, tree: Tree) -> None:
        whole = {Node(level, place) for level in range(8) for place in range(MOST >> level)}
        assert whole == set(tree.nodes)
        for level, place in whole - {node for node in whole if node.level == 0}:
            assert tree.nodes[Node(level, place)] == node_hash(
                tree.nodes[Node(level - 1, 2 * place)], tree.nodes[Node(level - 1, 2 * place + 1)]
            )

    @pytest.mark.parametrize("size", [1, 7, 63, 64, 65, 70])
    def test_a_proof_is_made_of_few_nodes(self, tree: Tree, size: int) -> None:
        for index in range(size):
            tree.asked.clear()
            merkle.inclusion_proof(index, size, tree)
            assert len(tree.asked) <= 2 * size.bit_length()

    def test_a_leaf_is_no_node(self) -> None:
        """RFC 6962 §2.1: else two leaves could be passed off as one."""
        assert leaf_hash(LEAVES[0] + LEAVES[1]) != node_hash(LEAVES[0], LEAVES[1])


class TestWhatIsNoProof:
    @pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0), (6, 5)])
    def test_a_leaf_that_the_tree_does_not_have(self, tree: Tree, index: int, size: int) -> None:
        with pytest.raises(BadProof, match=f"leaf {index} is not in a tree of {size}"):
            merkle.inclusion_proof(index, size, tree)
        with pytest.raises(BadProof, match=f"leaf {index} is not in a tree of {size}"):
            verify_inclusion(index, size, LEAVES[0], [], LEAVES[0])

    @pytest.mark.parametrize(("first", "second"), [(0, 5), (-1, 5), (6, 5), (0, 0)])
    def test_a_size_that_it_never_had(self, tree: Tree, first: int, second: int) -> None:
        with pytest.raises(BadProof, match=f"a tree of {second} never grew from one of {first}"):
            merkle.consistency_proof(first, second, tree)
        with pytest.raises(BadProof):
            verify_consistency(first, second, EMPTY_ROOT, LEAVES[0], [])

    @pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 21])
    def test_of_inclusion_any_other(self, tree: Tree, size: int) -> None:
        root = merkle.root(size, tree)
        for index in range(size):
            given = merkle.inclusion_proof(index, size, tree)
            for other in _spoilt(given):
                with pytest.raises(BadProof):
                    verify_inclusion(index, size, LEAVES[index], other, root)
            with pytest.raises(BadProof):
                verify_inclusion(index, size, LEAVES[index + 1], given, root)
            with pytest.raises(BadProof):
                verify_inclusion(index, size, LEAVES[index], given, bytes(32))
            for place in set(range(size)) - {index}:
                with pytest.raises(BadProof):
                    verify_inclusion(place, size, LEAVES[index], given, root)

    @pytest.mark.parametrize("second", [2, 3, 7, 8, 21])
    def test_of_growth_any_other(self, tree: Tree, second: int) -> None:
        roots = [merkle.root(size, tree) for size in range(second + 1)]
        for first in range(1, second):
            given = merkle.consistency_proof(first, second, tree)
            for other in _spoilt(given):
                with pytest.raises(BadProof):
                    verify_consistency(first, second, roots[first], roots[second], other)
            for old, new in (
                (roots[first - 1], roots[second]),
                (roots[first], roots[second - 1]),
                (bytes(32), roots[second]),
            ):
                with pytest.raises(BadProof):
                    verify_consistency(first, second, old, new, given)

    def test_a_tree_grew_from_itself_without_a_proof(self) -> None:
        verify_consistency(3, 3, LEAVES[0], LEAVES[0], [])
        for steps, root in (([LEAVES[1]], LEAVES[0]), ([], LEAVES[1])):
            with pytest.raises(BadProof):
                verify_consistency(3, 3, LEAVES[0], root, steps)


def _spoilt(given: list[bytes]) -> list[list[bytes]]:
    """The proof with each step left out, changed or doubled, in another order, and with one step more."""
    others = [[*given, bytes(32)], [bytes(32), *given]]
    for number, step in enumerate(given):
        before, after = given[:number], given[number + 1 :]
        others += [[*before, *after], [*before, bytes([step[0] ^ 1]) + step[1:], *after], [*before, step, step, *after]]
    if len(given) > 1:
        others.append(given[::-1])
    return others

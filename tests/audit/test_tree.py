"""The hash tree against RFC 6962's own words: a recursive definition written here, and published vectors."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitaccess.audit import tree
from tests.audit.second_verifier import merkle


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def hashes(count: int) -> list[bytes]:
    return [tree.leaf_hash(str(number).encode()) for number in range(count)]


def test_the_published_vectors_of_certificate_transparency_hold() -> None:
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [tree.leaf_hash(bytes.fromhex(text)) for text in inputs]
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    for size, expected in roots.items():
        assert tree.root(tree.nodes_of(leaves), size).hex() == expected


@pytest.mark.parametrize("size", range(70))
def test_the_root_is_the_one_of_the_definition(size: int) -> None:
    assert tree.root(tree.nodes_of(hashes(70)), size) == mth(hashes(size))


def test_every_leaf_of_every_small_tree_has_a_proof_that_holds_for_it_alone() -> None:
    nodes = tree.nodes_of(hashes(34))
    for size in range(1, 34):
        root = tree.root(nodes, size)
        for index in range(size):
            proof = tree.inclusion_proof(nodes, index, size)
            assert tree.verify_inclusion(hashes(34)[index], index, size, proof, root)
            assert not tree.verify_inclusion(hashes(34)[index], (index + 1) % size, size, proof, root) or size == 1
            assert not tree.verify_inclusion(b"\x00" * 32, index, size, proof, root)
            assert not tree.verify_inclusion(hashes(34)[index], index, size, [*proof, root], root)


def test_every_pair_of_small_trees_has_a_consistency_proof_that_a_fork_does_not_pass() -> None:
    leaves = hashes(34)
    nodes, forked = tree.nodes_of(leaves), tree.nodes_of([b"\x07" * 32, *leaves[1:]])
    for new in range(1, 34):
        for old in range(1, new + 1):
            proof = tree.consistency_proof(nodes, old, new)
            roots = tree.root(nodes, old), tree.root(nodes, new)
            assert tree.verify_consistency(old, new, *roots, proof)
            assert not tree.verify_consistency(old, new, tree.root(forked, old), roots[1], proof)
            assert not tree.verify_consistency(old, new, roots[0], tree.root(forked, new), proof)


def test_a_path_that_ends_too_early_proves_nothing_even_if_the_hashes_agree() -> None:
    nodes = tree.nodes_of(hashes(7))
    root, old = tree.root(nodes, 7), tree.root(nodes, 4)
    assert not tree.verify_inclusion(root, 0, 7, [], root)
    assert not tree.verify_inclusion(root, 6, 7, [], root)
    assert not tree.verify_consistency(4, 7, old, old, [])
    assert not tree.verify_consistency(3, 7, root, root, [root])


@given(st.integers(1, 3000), st.data())
def test_proofs_of_random_trees_hold_and_changed_ones_do_not(size: int, data: st.DataObject) -> None:
    nodes = tree.nodes_of(hashes(size))
    index = data.draw(st.integers(0, size - 1))
    proof, root = tree.inclusion_proof(nodes, index, size), tree.root(nodes, size)
    assert tree.verify_inclusion(hashes(size)[index], index, size, proof, root)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        changed = [*proof[:place], bytes([proof[place][0] ^ 1]) + proof[place][1:], *proof[place + 1 :]]
        assert not tree.verify_inclusion(hashes(size)[index], index, size, changed, root)
    old = data.draw(st.integers(1, size))
    assert tree.verify_consistency(old, size, tree.root(nodes, old), root, tree.consistency_proof(nodes, old, size))


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=600))
def test_a_frontier_agrees_with_the_tree_and_with_the_second_verifier_at_every_size(leaves: list[bytes]) -> None:
    nodes = tree.nodes_of(leaves)
    seen: dict[tuple[int, int], bytes | None] = {}

    def completed(level: int, index: int, value: bytes | None) -> bytes | None:
        assert value == nodes(level, index)
        assert seen.setdefault((level, index), value) is value, "told twice"
        return value

    frontier = tree.Frontier(completed)
    assert frontier.root() == tree.EMPTY_ROOT
    for size, leaf in enumerate(leaves, start=1):
        frontier.append(leaf)
        assert len(frontier._peaks) == size.bit_count()
        if size & 15 == len(leaves) & 15 or size < 20:
            assert frontier.root() == tree.root(nodes, size) == merkle(leaves[:size])
    assert frontier.size == len(leaves)
    assert seen.keys() == {(level, index) for level in range(1, 11) for index in range(len(leaves) >> level)}


@given(st.integers(1, 2000), st.data())
def test_a_frontier_knows_what_it_does_not_know_and_takes_what_is_known_elsewhere(
    size: int, data: st.DataObject
) -> None:
    leaves = hashes(size)
    start = data.draw(st.integers(0, size - 1))
    count = data.draw(st.integers(1, size - start))
    nodes = tree.nodes_of(leaves)

    def grown(frontier: tree.Frontier) -> tree.Frontier:
        for leaf in leaves[:start]:
            frontier.append(leaf)
        frontier.skip(count)
        for leaf in leaves[start + count :]:
            frontier.append(leaf)
        return frontier

    def known(level: int, index: int, value: bytes | None) -> bytes | None:
        overlaps = index << level < start + count and (index + 1) << level > start
        assert (value is None) == overlaps, "unknown exactly where a leaf is"
        return value

    frontier = grown(tree.Frontier(known))
    assert frontier.size == size
    assert frontier.root() is None
    healed = grown(tree.Frontier(lambda level, index, value: nodes(level, index)))
    assert healed.root() in {None, tree.root(nodes, size)}
    if not size & (size - 1) and size > 1:
        assert healed.root() == tree.root(nodes, size)


def test_a_gap_as_wide_as_the_numbers_go_costs_nothing() -> None:
    frontier = tree.Frontier()
    frontier.append(b"\x01" * 32)
    frontier.skip(2**63 - 2)
    frontier.append(b"\x02" * 32)
    assert (frontier.size, frontier.root()) == (2**63, None)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 3), (9, 3)])
def test_a_leaf_outside_the_tree_has_no_proof(index: int, size: int) -> None:
    with pytest.raises(ValueError, match="not in a tree"):
        tree.inclusion_proof(tree.nodes_of(hashes(3)), index, size)
    assert not tree.verify_inclusion(b"", index, size, [], b"")

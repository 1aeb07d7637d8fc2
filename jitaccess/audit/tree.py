"""The hash tree of RFC 6962 section 2.1 (unchanged in RFC 9162): roots, inclusion and consistency proofs. Pure.

A tree is read through `Nodes`: the hash of the perfect subtree of 2^level leaves that starts at leaf index << level.
Everything else follows from those, so that a store may keep as few of them as it likes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

# (level, index) -> hash of the perfect subtree over leaves [index << level, (index + 1) << level)
Nodes = Callable[[int, int], bytes]
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def nodes_of(leaves: Sequence[bytes]) -> Nodes:
    """Nodes over leaf hashes in memory: for tests, exports and small logs."""
    levels: list[list[bytes]] = [list(leaves)]

    def node(level: int, index: int) -> bytes:
        while len(levels) <= level:
            below = levels[-1]
            levels.append([node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)])
        return levels[level][index]

    return node


def root(nodes: Nodes, size: int) -> bytes:
    """MTH over the first `size` leaves."""
    return _range_hash(nodes, 0, size) if size else EMPTY_ROOT


def inclusion_proof(nodes: Nodes, index: int, size: int) -> list[bytes]:
    """PATH(index, D[size]): the audit path of one leaf, from the leaf upwards. Raises ValueError out of range."""
    if not 0 <= index < size:
        raise ValueError(f"leaf {index} is not in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        split = start + _split(end - start)
        if index < split:
            path.append(_range_hash(nodes, split, end))
            end = split
        else:
            path.append(_range_hash(nodes, start, split))
            start = split
    return path[::-1]


def consistency_proof(nodes: Nodes, old: int, new: int) -> list[bytes]:
    """PROOF(old, D[new]): the tree of `new` leaves begins with that of `old`. Raises ValueError out of range."""
    if not 0 < old <= new:
        raise ValueError(f"no proof from {old} to {new} leaves")
    path: list[bytes] = []
    start, end, whole = 0, new, True
    while old != end:
        split = start + _split(end - start)
        if old <= split:
            path.append(_range_hash(nodes, split, end))
            end = split
        else:
            path.append(_range_hash(nodes, start, split))
            start, whole = split, False
    if not whole:
        path.append(_range_hash(nodes, start, end))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], expected: bytes) -> bool:
    """RFC 9162 section 2.1.3.2. False for anything that does not fit; never raises."""
    if not 0 <= index < size:
        return False
    position, last, value = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return False
        if position & 1 or position == last:
            value = node_hash(sibling, value)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            value = node_hash(value, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and value == expected


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, path: Sequence[bytes]) -> bool:
    """RFC 9162 section 2.1.4.2. False for anything that does not fit; never raises."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not path and old_root == new_root
    steps = list(path)
    if old & (old - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        return False
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    first = second = steps[0]
    for sibling in steps[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        position, last = position >> 1, last >> 1
    return last == 0 and first == old_root and second == new_root


def _range_hash(nodes: Nodes, start: int, end: int) -> bytes:
    """MTH of leaves [start, end), where start is a multiple of the largest power of two below the length."""
    size = end - start
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return nodes(level, start >> level)
    split = start + _split(size)
    return node_hash(_range_hash(nodes, start, split), _range_hash(nodes, split, end))


def _split(size: int) -> int:
    """The largest power of two smaller than `size`."""
    return 1 << ((size - 1).bit_length() - 1)

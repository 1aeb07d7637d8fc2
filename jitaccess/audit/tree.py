"""The hash tree of RFC 6962 section 2.1 (unchanged in RFC 9162): roots, inclusion and consistency proofs. Pure.

A tree is read through `Nodes`: the hash of the perfect subtree of 2^level leaves that starts at leaf index << level.
Everything else follows from those, so that a store may keep as few of them as it likes. Or it is read leaf by leaf, by
a `Frontier`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

# (level, index) -> hash of the perfect subtree over leaves [index << level, (index + 1) << level)
Nodes = Callable[[int, int], bytes]
# Told of a perfect subtree (level, index, hash or None where it is not known); returns the hash to go on with.
Completed = Callable[[int, int, bytes | None], bytes | None]
EMPTY_ROOT = hashlib.sha256(b"").digest()
STEP = 8  # levels between the nodes that the ledger stores: 256 of one level make one of the next


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def parse_hash(text: object) -> bytes | None:
    """32 bytes of lower-case hex, the one spelling that is written here; None for anything else."""
    try:
        value = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        return None
    return value if len(value) == 32 and value.hex() == text else None


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


class Frontier:
    """A tree that grows leaf by leaf and is kept as O(log n) hashes: its largest perfect subtrees, left to right.

    A hash is None where a leaf below it is not known. `completed` hears of each perfect subtree of two leaves and more
    that is complete, children first; what it returns stands in for the hash.
    """

    def __init__(self, completed: Completed = lambda _level, _index, value: value) -> None:
        self.size = 0
        self._completed = completed
        self._peaks: list[tuple[int, bytes | None]] = []  # (level, hash)

    def append(self, leaf: bytes | None) -> None:
        """The next leaf hash."""
        self._push(0, leaf)

    def skip(self, count: int) -> None:
        """`count` leaves that are not known, in O(log² count)."""
        while count:
            level = count.bit_length() - 1
            if self.size:
                level = min(level, (self.size & -self.size).bit_length() - 1)
            self._push(level, None)
            count -= 1 << level

    def root(self) -> bytes | None:
        """MTH over all leaves so far, or None when one is not known."""
        if not self._peaks:
            return EMPTY_ROOT
        value = self._peaks[-1][1]
        for _, left in self._peaks[-2::-1]:
            value = _join(left, value)
        return value

    def _push(self, level: int, value: bytes | None) -> None:
        self.size += 1 << level
        if level:
            value = self._completed(level, (self.size >> level) - 1, value)
        while self._peaks and self._peaks[-1][0] == level:
            value = _join(self._peaks.pop()[1], value)
            level += 1
            value = self._completed(level, (self.size >> level) - 1, value)
        self._peaks.append((level, value))


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


def _join(left: bytes | None, right: bytes | None) -> bytes | None:
    return None if left is None or right is None else node_hash(left, right)


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

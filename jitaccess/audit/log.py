"""The hash tree over the ledger's rows: leaves, and one stored node for every 256 of what is below it."""

from __future__ import annotations

from collections.abc import Sequence

from django.db.models import Max

from jitaccess.audit import tree
from jitaccess.audit.models import Leaf, Node
from jitaccess.audit.tree import STEP


def size() -> int:
    """How many entries have their place."""
    return Leaf.objects.aggregate(last=Max("seq"))["last"] or 0


def nodes() -> tree.Nodes:
    """The tree's nodes, read in tiles of 256 as they are needed. Good for one state of the ledger: it only grows."""
    tiles: dict[tuple[int, int], tree.Nodes] = {}

    def node(level: int, index: int) -> bytes:
        stored = level - level % STEP
        first = index << (level - stored)
        tile = first >> STEP
        if (stored, tile) not in tiles:
            tiles[stored, tile] = tree.nodes_of(_tile(stored, tile))
        return tiles[stored, tile](level - stored, index - (tile << (STEP - (level - stored))))

    return node


def root(at: int) -> bytes:
    """The root after `at` entries. Raises IndexError when there are fewer."""
    return tree.root(nodes(), at)


def store_nodes(before: int, fresh: Sequence[bytes]) -> None:
    """Keep the nodes that are complete with these leaves after the first `before`, in the transaction of the leaves."""
    after, level = before + len(fresh), STEP
    while before >> level != after >> level:
        Node.objects.bulk_create(
            Node(level=level, index=index, hash=tree.root(tree.nodes_of(below), 1 << STEP).hex())
            for index in range(before >> level, after >> level)
            for below in [_below(level, index, before, fresh)]
        )
        level += STEP


def _below(level: int, index: int, before: int, fresh: Sequence[bytes]) -> Sequence[bytes]:
    start = (index << level) - before
    whole = level == STEP and start >= 0  # all of them are new, and need not be read
    return fresh[start : start + (1 << STEP)] if whole else _tile(level - STEP, index)


def _tile(level: int, tile: int) -> list[bytes]:
    """Up to 256 stored hashes of a level, in order."""
    start, end = tile << STEP, (tile + 1) << STEP
    if level == 0:
        leaves = Leaf.objects.filter(seq__gt=start, seq__lte=end).order_by("seq")
        return [bytes.fromhex(text) for text in leaves.values_list("leaf_hash", flat=True)]
    stored = Node.objects.filter(level=level, index__gte=start, index__lt=end).order_by("index")
    return [bytes.fromhex(text) for text in stored.values_list("hash", flat=True)]

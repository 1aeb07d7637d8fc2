"""The hash tree over the ledger's rows: leaves, and one stored node for every 256 of what is below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from django.db import transaction
from django.db.models import Max

from jitaccess.audit import tree
from jitaccess.audit.models import Leaf, Node
from jitaccess.audit.tree import STEP
from jitaccess.store import byhand

_TILE = 1 << STEP


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


class Growth:
    """The leaves of the last, incomplete tile as this process committed them, which then need not be read again."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        self._after, self._tile = 0, list[bytes]()

    def store_nodes(self, before: int, last: bytes, fresh: Sequence[bytes]) -> None:
        """Keep the nodes that are complete with these leaves after the first `before`, whose `last` is this, in the
        transaction of the leaves.
        """
        begun = before % _TILE
        known = not begun or (before == self._after and self._tile[-1:] == [last])
        tile = [*((self._tile if known else _tile(0, before >> STEP))[:begun]), *fresh]
        whole = len(tile) >> STEP
        first = before >> STEP
        _store(STEP, first, (tile[at << STEP : (at + 1) << STEP] for at in range(whole)))
        _store_above(first, first + whole)

        def committed() -> None:
            self._after, self._tile = before + len(fresh), tile[whole << STEP :]

        transaction.on_commit(committed)


def _store_above(before: int, after: int) -> None:
    """The nodes over those of the first level, of which there were so many before and are after."""
    level = STEP
    while before >> STEP != after >> STEP:
        before, after = before >> STEP, after >> STEP
        _store(level + STEP, before, (_tile(level, index) for index in range(before, after)))
        level += STEP


def _store(level: int, first: int, tiles: Iterable[Sequence[bytes]]) -> None:
    rows = [
        (level, index, tree.root(tree.nodes_of(below), _TILE).hex()) for index, below in enumerate(tiles, start=first)
    ]
    into = f'INSERT INTO {Node._meta.db_table} (level, "index", hash)'
    if not rows:
        return
    if byhand.on_sqlite():
        byhand.execute_each(f"{into} VALUES (?, ?, ?)", rows)
    else:
        columns = [byhand.array(column, quoted=False) for column in zip(*rows, strict=True)]
        given = "unnest($1::smallint[], $2::bigint[], $3::text[])"
        byhand.execute(f"{into} SELECT * FROM {given}", columns)  # noqa: S608 - our own names


def _tile(level: int, tile: int) -> list[bytes]:
    """Up to 256 stored hashes of a level, in order."""
    start, end = tile << STEP, (tile + 1) << STEP
    if level == 0:
        leaves = Leaf.objects.filter(seq__gt=start, seq__lte=end).order_by("seq")
        return [bytes.fromhex(text) for text in leaves.values_list("leaf_hash", flat=True)]
    stored = Node.objects.filter(level=level, index__gte=start, index__lt=end).order_by("index")
    return [bytes.fromhex(text) for text in stored.values_list("hash", flat=True)]

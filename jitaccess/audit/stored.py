"""The ledger as the database holds it, read so that a damaged row is one finding and hides no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from itertools import chain
from typing import Any, TypeVar

from django.db import DatabaseError, connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet

from jitaccess.audit import filed, verify
from jitaccess.audit.checkpoint import Verifier
from jitaccess.audit.filed import Filed
from jitaccess.audit.models import Bundle, Checkpoint, Entry, Leaf, Node, Unsequenced
from jitaccess.audit.sequencer import plain
from jitaccess.audit.spelling import misspelled
from jitaccess.audit.tree import STEP
from jitaccess.audit.verify import Finding, Report, Row
from jitaccess.store.clock import now

CHUNK = 500
LATE, WAIT = 10_000, timedelta(minutes=1)  # so many entries may wait for their place for longer
# What Django's converters, our own and the drivers make of damaged values.
_DAMAGE = (ValueError, TypeError, AttributeError, OverflowError, DatabaseError)
_Value = TypeVar("_Value")


def verified(
    verifiers: Sequence[Verifier],
    checkpoints: Iterable[Iterable[Filed | Finding]],
    watch: Callable[[Iterable[Row | Finding]], Iterable[Row | Finding]] = iter,
) -> Report:
    """Check all of the database, its own checkpoints and the given ones. Call it inside `consistent_reads`.

    `watch` hands on the rows that it is given, for who wants to see how far it is.
    """
    heads = filed.read([_checkpoints(), *checkpoints], verifiers)
    report = verify.check(chain(watch(rows()), misspelled()), heads, _Nodes())
    return replace(report, findings=report.findings + tuple(_loose_ends(report.entries)))


def rows() -> Iterator[Row | Finding]:
    """All places, in order."""
    count = 0
    for start, end in _chunks(Leaf.objects.all(), "seq"):
        entries = _entries(start, end)
        for seq, leaf in _values(Leaf.objects.all(), start, end, "seq", "leaf_hash"):
            if not isinstance(seq, int):
                continue  # REAL, on SQLite: counted below
            count += 1
            if isinstance(leaf, Exception):
                yield Finding(seq, f"the leaf of entry {seq} cannot be read ({leaf})")
            entry = entries.get(seq, "it has a leaf, but is not there")
            if isinstance(entry, str):
                yield Finding(seq, f"entry {seq} cannot be read: {entry}")
            # The one that cannot be read leaves it to the other; NULL is no hash, which is found.
            stored = None if isinstance(leaf, Exception) else leaf or ""
            yield Row(seq, None if isinstance(entry, str) else entry, stored)
    if Leaf.objects.count() > count:
        yield Finding(0, f"{Leaf.objects.count() - count} leaves have no number")


def _entries(start: int, end: int) -> dict[int, dict[str, Any] | str]:
    """Entries by their seq, or why one cannot be read."""

    def read() -> dict[int, dict[str, Any] | str]:
        # Two statements, by keys: with a join a database that does not know its own size yet may try every pair.
        places = list(Leaf.objects.filter(seq__gte=start, seq__lt=end).values_list("seq", "entry_id"))
        found = Entry.objects.in_bulk([uid for _, uid in places])
        return {seq: plain(found[uid]) for seq, uid in places if uid in found}

    try:
        return _attempt(read)
    except _DAMAGE as error:
        _raise_if_lost(error)
        if end - start == 1:
            return {start: f"{error} ({type(error).__name__})"}
    middle = (start + end) // 2
    return _entries(start, middle) | _entries(middle, end)


def _checkpoints() -> Iterator[Filed | Finding]:
    count = 0
    for start, end in _chunks(Checkpoint.objects.all(), "size"):
        for size, note, at in _values(Checkpoint.objects.all(), start, end, "size", "note", "at"):
            if not isinstance(size, int):
                continue
            count += 1
            name = f"checkpoint {size} of the database"
            if isinstance(note, str):
                yield Filed(size, name, note)
            if not isinstance(note, str) or at is None:
                yield Finding(size, f"{name} cannot be read ({note if isinstance(note, Exception) else 'NULL'})")
    if Checkpoint.objects.count() > count:
        yield Finding(0, f"{Checkpoint.objects.count() - count} checkpoints of the database have no size")


class _Nodes:
    """Stored nodes, asked for in the order in which a growing tree completes them: a cursor on each level."""

    def __init__(self) -> None:
        self._levels: dict[int, Iterator[tuple[Any, ...]]] = {}
        self._next: dict[int, tuple[Any, ...] | None] = {}

    def __call__(self, level: int, index: int) -> object:
        if level not in self._levels:
            self._levels[level] = self._read(level)
            self._next[level] = next(self._levels[level], None)
        row = self._next[level]
        while row is not None and row[0] < index:
            row = self._next[level] = next(self._levels[level], None)
        return row[1] if row is not None and row[0] == index else None

    def _read(self, level: int) -> Iterator[tuple[Any, ...]]:
        nodes = Node.objects.filter(level=level)
        for start, end in _chunks(nodes, "index"):
            yield from _values(nodes, start, end, "index", "hash")


def _loose_ends(size: int) -> Iterator[str]:
    """What a pass over the places does not show."""
    places, level = Q(pk__in=[]), STEP
    while size >> level:
        places |= Q(level=level, index__gte=0, index__lt=size >> level)
        level += STEP
    stray = Node.objects.count() - Node.objects.filter(places).values("level", "index").distinct().count()
    if stray:
        yield f"{stray} nodes of the tree should not be there"
    twice = Leaf.objects.count() - Leaf.objects.values("entry_id").distinct().count()
    if twice:
        yield f"{twice} places hold an entry that has another place too"
    lost = Entry.objects.filter(leaf=None).exclude(pk__in=Unsequenced.objects.values("entry_id")).count()
    if lost:
        yield f"{lost} entries were never given a place"
    gone = Unsequenced.objects.exclude(Exists(Entry.objects.filter(pk=OuterRef("entry_id")))).count()
    if gone:
        yield f"{gone} entries are gone that waited for their place"
    before = now() - WAIT
    late = Unsequenced.objects.filter(entry__at__lt=before).count()
    late += sum(Bundle.objects.filter(at__lt=before).values_list("n", flat=True)[:LATE])
    if late > LATE:
        yield f"{late} entries wait for their place: is a web process running, and does its log say what stops it?"


def _chunks(query: QuerySet[Any], key: str) -> Iterator[tuple[int, int]]:
    """Ranges [start, end) of `key` with about CHUNK rows each, which hold every row whose key is a whole number."""
    after = query
    while True:
        # On SQLite a column holds anything; texts sort behind all numbers.
        numbers = [value for value in _keys(after, key)[:CHUNK] if isinstance(value, int)]
        if not numbers:
            return
        yield numbers[0], numbers[-1] + 1
        after = query.filter(**{f"{key}__gt": numbers[-1]})


def _keys(query: QuerySet[Any], key: str) -> QuerySet[Any, Any]:
    return query.order_by(key).values_list(key, flat=True)


def _values(query: QuerySet[Any], start: int, end: int, key: str, *names: str) -> Iterator[tuple[Any, ...]]:
    """(key, values) in order, where start <= key < end. Of a row that cannot be read all values are the exception."""
    rows = query.filter(**{f"{key}__gte": start, f"{key}__lt": end}).order_by(key).values_list(key, *names)
    try:
        found = _attempt(lambda: list(rows))
    except _DAMAGE as error:
        _raise_if_lost(error)
        if end - start == 1:
            yield (start, *[error] * len(names))
            return
        middle = (start + end) // 2
        yield from _values(query, start, middle, key, *names)
        yield from _values(query, middle, end, key, *names)
    else:
        yield from found


def _attempt(read: Callable[[], _Value]) -> _Value:
    """Inside a savepoint where there is a transaction: PostgreSQL would refuse everything after an error."""
    with transaction.atomic() if connection.in_atomic_block else nullcontext():
        return read()


def _raise_if_lost(error: Exception) -> None:
    """It was not the row."""
    if isinstance(error, DatabaseError) and not connection.is_usable():
        raise error

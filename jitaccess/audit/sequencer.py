"""Giving entries their place: one process, in contiguous steps, a leaf hash (RFC 6962 section 2.1) for each."""

from __future__ import annotations

from datetime import UTC

from django.db import transaction
from django.db.models import Max

from jitaccess.audit import tree
from jitaccess.audit.log import store_nodes
from jitaccess.audit.models import Cursor, Entry, Leaf, Unsequenced
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.steps import step

_FIELDS = [field.attname for field in Entry._meta.concrete_fields]


def plain(entry: Entry) -> dict[str, str | int | None]:
    """All fields of an entry as JSON values: what is hashed, and what is exported. Times are RFC 3339 in UTC."""
    value: dict[str, str | int | None] = {}
    for name in _FIELDS:
        field = getattr(entry, name)
        if name == "at":
            field = field.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        value[name] = field if field is None or isinstance(field, int) else str(field)
    return value


def leaf_hash(entry: Entry) -> str:
    """SHA-256(0x00 || canonical JSON of all fields), hex."""
    return tree.leaf_hash(canonical(plain(entry))).hex()


def sequence(*, limit: int = 1000) -> int:
    """Give up to `limit` waiting entries the next numbers; returns how many wait no longer.

    Safe to run twice, even at once: both would claim the same next number, the primary key lets one of them commit, the
    other rolls back and its entries wait for the next round.
    """
    with transaction.atomic():
        waiting = list(Unsequenced.objects.select_related("entry").order_by("entry_id")[:limit])
        if not waiting:
            return 0
        # An entry that has its place and was queued again would stop all others.
        placed = set(Leaf.objects.filter(entry__in=[row.pk for row in waiting]).values_list("entry_id", flat=True))
        new = [row.entry for row in waiting if row.pk not in placed]
        step("sequence.read")
        last = Leaf.objects.aggregate(last=Max("seq"))["last"] or 0
        Leaf.objects.bulk_create(
            Leaf(seq=seq, entry=entry, leaf_hash=leaf_hash(entry)) for seq, entry in enumerate(new, start=last + 1)
        )
        store_nodes(last, last + len(new))
        Unsequenced.objects.filter(pk__in=[row.pk for row in waiting]).delete()
        step("sequence.written")
    step("sequence.committed")
    return len(waiting)


def read_after(cursor_name: str, *, limit: int = 500) -> tuple[Cursor, list[Leaf]]:
    """The next entries for a reader, locked against a second reader of the same name.

    Call it inside a transaction and end with `advance`: what the reader wrote and how far it came commit together.
    """
    Cursor.objects.get_or_create(name=cursor_name)
    cursor = Cursor.objects.select_for_update().get(name=cursor_name)
    leaves = Leaf.objects.filter(seq__gt=cursor.seq).select_related("entry").order_by("seq")[:limit]
    return cursor, list(leaves)


def advance(cursor: Cursor, seq: int) -> None:
    """Everything up to `seq` is done."""
    Cursor.objects.filter(name=cursor.name).update(seq=seq)

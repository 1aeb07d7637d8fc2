"""Giving entries their place: one process, in contiguous steps, a leaf hash (RFC 6962 section 2.1) for each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC
from functools import cache
from hashlib import sha256
from typing import Any

from django.db import connection, transaction
from django.db.models import Max

from jitaccess.audit import tree
from jitaccess.audit.log import store_nodes
from jitaccess.audit.models import Cursor, Entry, Leaf, Unsequenced
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.steps import step
from jitaccess.store import byhand, wakeups

_FIELDS = [field.attname for field in Entry._meta.concrete_fields]
# In the order of canonical JSON, with what stands before each value there.
_SORTED = sorted(_FIELDS)
_BEFORE = [f'{"," if at else ""}"{name}":' for at, name in enumerate(_SORTED)]
_quote = json.encoder.encode_basestring  # has exactly the escapes of RFC 8785 section 3.2.2.2


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
    # Read and hashed before the transaction: entries never change, and on SQLite nobody could write meanwhile.
    waiting = _waiting(limit)
    if not waiting:
        return 0
    with transaction.atomic():
        step("sequence.read")
        last = Leaf.objects.aggregate(last=Max("seq"))["last"] or 0
        # An entry that has its place and was queued again would stop all others.
        new = [one for one in waiting if not one.placed]
        _place(new, last)
        store_nodes(last, [one.hashed for one in new])
        _forget(waiting)
        step("sequence.written")
    step("sequence.committed")
    if new:
        wakeups.notify(wakeups.LEDGER)  # not in the transaction: others who notify would wait for its commit
    return len(waiting)


@dataclass(frozen=True, slots=True)
class _Waiting:
    uid: str
    hashed: bytes
    placed: bool


def _waiting(limit: int) -> list[_Waiting]:
    """The next entries in the order of their ids, which is that of their coming in each process."""
    with connection.cursor() as cursor:
        cursor.execute(_statement(), [limit])
        rows = cursor.fetchall()
    uid = _SORTED.index("uid")
    return [_Waiting(row[uid], sha256(b"\0" + _canonical(row)).digest(), row[-1] is not None) for row in rows]


def _canonical(row: Sequence[Any]) -> bytes:
    """What `canonical(plain(entry))` gives, of a row of `_statement`."""
    values = [
        before + (_quote(value) if value.__class__ is str else "null" if value is None else str(value))
        for before, value in zip(_BEFORE, row, strict=False)
    ]
    return ("{" + "".join(values) + "}").encode()


@cache
def _statement() -> str:
    """The columns as `plain` shows them, and the place where an entry has one already."""
    fields = {field.attname: field for field in Entry._meta.concrete_fields}
    columns = ", ".join(_shown(fields[name].get_internal_type(), f'entry."{fields[name].column}"') for name in _SORTED)
    entry, leaf, queue = (model._meta.db_table for model in (Entry, Leaf, Unsequenced))
    return (
        f"SELECT {columns}, leaf.seq FROM (SELECT entry_id FROM {queue} ORDER BY entry_id LIMIT %s) AS queue "  # noqa: S608 - our own names
        f"JOIN {entry} AS entry ON entry.uid = queue.entry_id "
        f"LEFT JOIN {leaf} AS leaf ON leaf.entry_id = queue.entry_id ORDER BY queue.entry_id"
    )


def _shown(kind: str, name: str) -> str:
    if not byhand.on_sqlite():
        forms = {
            "UUIDField": "{0}::text",
            "DateTimeField": """to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')""",
        }
    else:
        parts = " || '-' || ".join(f"substr({{0}}, {at}, {length})" for at, length in _PARTS)
        # A whole second may be stored without a fraction.
        whole = "CASE length({0}) WHEN 19 THEN '.000000Z' ELSE 'Z' END"
        forms = {"UUIDField": parts, "DateTimeField": f"replace({{0}}, ' ', 'T') || {whole}"}
    return forms.get(kind, "{0}").format(name)


_PARTS = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))  # of a UUID's digits


def _place(new: Sequence[_Waiting], last: int) -> None:
    table = Leaf._meta.db_table
    if not byhand.on_sqlite():
        uids, hashes = [one.uid for one in new], [one.hashed.hex() for one in new]
        byhand.execute(
            f"INSERT INTO {table} (seq, entry_id, leaf_hash) SELECT $1::bigint + place, uid, hash "  # noqa: S608 - as above
            "FROM unnest($2::uuid[], $3::text[]) WITH ORDINALITY AS fresh (uid, hash, place)",
            (str(last), byhand.array(uids, quoted=False), byhand.array(hashes, quoted=False)),
        )
        return
    byhand.execute_each(
        f"INSERT OR FAIL INTO {table} (seq, entry_id, leaf_hash) VALUES (?, ?, ?)",  # noqa: S608 - as above
        [(seq, one.uid.replace("-", ""), one.hashed.hex()) for seq, one in enumerate(new, start=last + 1)],
    )


def _forget(waiting: Sequence[_Waiting]) -> None:
    table, uids = Unsequenced._meta.db_table, [one.uid for one in waiting]
    if not byhand.on_sqlite():
        statement = f"DELETE FROM {table} WHERE entry_id = ANY($1::uuid[])"  # noqa: S608 - as above
        byhand.execute(statement, (byhand.array(uids, quoted=False),))
    else:
        byhand.execute_each(f"DELETE FROM {table} WHERE entry_id = ?", [(uid.replace("-", ""),) for uid in uids])  # noqa: S608


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

"""Giving entries their place: one process, in contiguous steps, a leaf hash (RFC 6962 section 2.1) for each."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from functools import cache
from hashlib import sha256
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from jitaccess.audit import bundles, tree
from jitaccess.audit.log import Growth
from jitaccess.audit.models import Bundle, Cursor, Entry, Leaf, Unsequenced
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.steps import step
from jitaccess.store import byhand, wakeups

_BY_NAME = {field.attname: field for field in Entry._meta.concrete_fields}
_FIELDS = list(_BY_NAME)
# In the order of canonical JSON, with what stands before each value there.
_SORTED = sorted(_FIELDS)
_BEFORE = [f'{"," if at else ""}"{name}":' for at, name in enumerate(_SORTED)]
_growth = Growth()
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


def sequence(*, limit: int = 1000, tells: bool = True, whole: bool = True) -> int:
    """Give about `limit` waiting entries the next numbers; returns how many wait no longer. Whoever says that it is not
    to tell those who listen calls `tell` soon. Unless it is to look at the `whole` queue, what was made long before it
    came may wait for a third of a second, and get its place behind what came with it.

    Safe to run twice, even at once: both would claim the same next number, the primary key lets one of them commit, the
    other rolls back and its entries wait for the next round.
    """
    # On SQLite read and hashed before the transaction: entries never change, and nobody could write meanwhile.
    waiting = _waiting(limit) if byhand.on_sqlite() else None
    if waiting == []:
        return 0
    with transaction.atomic():
        step("sequence.read")  # PostgreSQL reads with what it writes
        placed = _place_by_postgresql(limit, whole=whole) if waiting is None else _place_on_sqlite(waiting)
        _growth.store_nodes(placed.before, placed.last, placed.hashes)
        step("sequence.written")
    step("sequence.committed")
    if placed.hashes and tells:
        tell()
    return placed.done


def behind() -> float:
    """How old the first was that the last step placed, in seconds; 0 where there was none."""
    return _queue.age


def forget() -> None:
    """What this process remembers of the ledger's end, where it may have become another."""
    _growth.forget()


def tell() -> None:
    """Whoever listens, that the ledger has grown. Not in a transaction: others who notify would wait for its commit."""
    wakeups.notify(wakeups.LEDGER)


@dataclass(frozen=True, slots=True)
class _Placed:
    """The leaf hashes that came after the first `before`, whose `last` is this, and how many entries wait no longer."""

    before: int
    last: bytes
    hashes: list[bytes]
    done: int


_FIRST = UUID(int=0)


class _Queue:
    """Where the queue begins on PostgreSQL. In front of that lie the remains of those who left, until they are vacuumed
    away: hundreds of thousands under load, over which the database would step one by one each time.
    """

    # Made so long before the first that waits, an entry may yet come: longer than anybody waits for a lock, or for the
    # answer to a packet. The first 48 bits of a UUIDv7 count milliseconds.
    LATE_MS = 10_000
    WHOLE_SECONDS = 0.3

    def __init__(self) -> None:
        self.begins, self._due = _FIRST, -math.inf
        self.age = 0.0

    @contextmanager
    def look(self, *, whole: bool) -> Iterator[UUID]:
        """From where on to look: from the very first at least every 0.3 s, unless that takes long."""
        began = time.monotonic()
        whole = whole or began >= self._due
        try:
            yield _FIRST if whole else self.begins
        finally:
            if whole:
                took = time.monotonic() - began
                self._due = began + took + max(self.WHOLE_SECONDS, 10 * took)

    def found(self, since: UUID, first: str | None, age: str) -> None:
        """The first that waited from there on, if any did, and its age in seconds."""
        self.age = float(age)
        if since == _FIRST and first is not None:
            self.begins = UUID(int=max(UUID(first).int - (self.LATE_MS << 80), 0))


_queue = _Queue()


def _place_by_postgresql(limit: int, *, whole: bool) -> _Placed:
    """Reads, hashes and writes in one statement: entries do not travel."""
    with _queue.look(whole=whole) as since:
        with byhand.round_trip():
            # A plan is kept. One that was made while the tables were small would go on to read them from end to end.
            byhand.execute(
                "SELECT set_config('enable_seqscan', 'off', true), "
                "set_config('plan_cache_mode', 'force_generic_plan', true), set_config('jitaccess.places', 'on', true)"
            )
            entered = byhand.execute(_entering(limit), (since.hex,))
            byhand.execute("SELECT set_config('jitaccess.places', '', true)")
        answer = byhand.execute(_placing(limit), (since.hex, entered.rows[0][0]))
        ((before, last, hashes, done, first, age),) = answer.rows
        _queue.found(since, first, age)
    joined = bytes.fromhex(hashes)
    return _Placed(
        int(before), bytes.fromhex(last), [joined[at : at + 32] for at in range(0, len(joined), 32)], int(done)
    )


@cache
def _entering(limit: int) -> str:
    return bundles.enter_next(limit, queue=Unsequenced._meta.db_table)


@cache
def _placing(limit: int) -> str:
    """The whole step as a statement. The limit stands in it, so that the plan is made for it.

    Entries are found by their keys one by one, whatever the planner believes of tables that grow: it does not look
    into a subquery with an OFFSET. What has its place by now leaves the queue, and not before it has it: of two who do
    this at once the second waits for the first at the number, holding nothing that the first still needs. Where there
    are bundles still, what came after the next one waits for it.
    """
    entry, leaf, queue, bundle = (model._meta.db_table for model in (Entry, Leaf, Unsequenced, Bundle))
    hashed = f"encode(sha256('\\x00'::bytea || convert_to({_canonical_sql()}, 'UTF8')), 'hex')"
    return f"""
WITH last AS (SELECT coalesce(max(seq), 0) AS seq FROM {leaf}),
waiting AS (
  SELECT entry_id, hash, "at", queued,
    CASE WHEN queued THEN (SELECT seq FROM {leaf} WHERE entry_id = of.entry_id) END AS place
  FROM (
    (SELECT entry_id, true AS queued FROM {queue} WHERE entry_id >= $1::uuid AND entry_id < coalesce(
      (SELECT id FROM {bundle} WHERE id >= $1::uuid ORDER BY id LIMIT 1), 'ffffffff-ffff-ffff-ffff-ffffffffffff'
    ) ORDER BY entry_id LIMIT {limit:d})
    UNION ALL SELECT unnest($2::uuid[]), false
  ) AS of
  CROSS JOIN LATERAL (SELECT {hashed} AS hash, "at" FROM {entry} AS entry WHERE uid = of.entry_id OFFSET 0) AS found
),
placed AS (
  INSERT INTO {leaf} (seq, entry_id, leaf_hash)
  SELECT (SELECT seq FROM last) + row_number() OVER (ORDER BY entry_id), entry_id, hash FROM waiting WHERE place IS NULL
  RETURNING seq, entry_id, leaf_hash
),
gone AS (
  DELETE FROM {queue} WHERE entry_id = ANY(ARRAY(
    SELECT entry_id FROM waiting LEFT JOIN placed USING (entry_id)
    WHERE queued AND (place IS NOT NULL OR placed.seq IS NOT NULL)
  ))
)
SELECT (SELECT seq FROM last), coalesce((SELECT leaf_hash FROM {leaf} WHERE seq = (SELECT seq FROM last)), ''),
  coalesce(string_agg(leaf_hash, '' ORDER BY seq), ''), (SELECT count(*) FROM waiting),
  (SELECT entry_id FROM waiting ORDER BY entry_id LIMIT 1),
  coalesce((SELECT extract(epoch FROM jit_now() - "at") FROM waiting ORDER BY entry_id LIMIT 1), 0)
FROM placed"""  # noqa: S608 - our own names


def _canonical_sql() -> str:
    """What `canonical(plain(entry))` gives, as an expression of PostgreSQL.

    Of a text, to_json makes exactly the escapes of RFC 8785 section 3.2.2.2; other values need none.
    """
    forms = {
        "UUIDField": """'"' || {0} || '"'""",
        "DateTimeField": """'"' || to_char({0} AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') || '"'""",
        "BigIntegerField": "{0}::text",
    }
    values = []
    for before, name in zip(_BEFORE, _SORTED, strict=True):
        field = _BY_NAME[name]
        form = forms.get(field.get_internal_type(), "to_json({0})::text").format(f'entry."{field.column}"')
        values += [f"'{before}'", f"coalesce({form}, 'null')" if field.null else form]
    return f"concat('{{', {', '.join(values)}, '}}')"


@dataclass(frozen=True, slots=True)
class _Waiting:
    uid: str
    hashed: bytes
    placed: bool


def _waiting(limit: int) -> list[_Waiting]:
    """On SQLite: the next entries in the order of their ids, which is that of their coming in each process."""
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
    fields = [_BY_NAME[name] for name in _SORTED]
    columns = ", ".join(_shown(field.get_internal_type(), f'entry."{field.column}"') for field in fields)
    entry, leaf, queue = (model._meta.db_table for model in (Entry, Leaf, Unsequenced))
    return (
        f"SELECT {columns}, leaf.seq FROM (SELECT entry_id FROM {queue} ORDER BY entry_id LIMIT %s) AS queue "  # noqa: S608 - our own names
        f"JOIN {entry} AS entry ON entry.uid = queue.entry_id "
        f"LEFT JOIN {leaf} AS leaf ON leaf.entry_id = queue.entry_id ORDER BY queue.entry_id"
    )


def _shown(kind: str, name: str) -> str:
    parts = " || '-' || ".join(f"substr({{0}}, {at}, {length})" for at, length in _PARTS)
    # A whole second may be stored without a fraction.
    whole = "CASE length({0}) WHEN 19 THEN '.000000Z' ELSE 'Z' END"
    forms = {"UUIDField": parts, "DateTimeField": f"replace({{0}}, ' ', 'T') || {whole}"}
    return forms.get(kind, "{0}").format(name)


_PARTS = ((1, 8), (9, 4), (13, 4), (17, 4), (21, 12))  # of a UUID's digits


def _place_on_sqlite(waiting: Sequence[_Waiting]) -> _Placed:
    before, last = Leaf.objects.order_by("-seq").values_list("seq", "leaf_hash").first() or (0, "")
    # An entry that has its place and was queued again would stop all others.
    new = [one for one in waiting if not one.placed]
    byhand.execute_each(
        f"INSERT OR FAIL INTO {Leaf._meta.db_table} (seq, entry_id, leaf_hash) VALUES (?, ?, ?)",  # noqa: S608 - as above
        [(seq, one.uid.replace("-", ""), one.hashed.hex()) for seq, one in enumerate(new, start=before + 1)],
    )
    byhand.execute_each(
        f"DELETE FROM {Unsequenced._meta.db_table} WHERE entry_id = ?",  # noqa: S608 - as above
        [(one.uid.replace("-", ""),) for one in waiting],
    )
    return _Placed(before, bytes.fromhex(last), [one.hashed for one in new], len(waiting))


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

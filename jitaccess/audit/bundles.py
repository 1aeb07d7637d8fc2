"""Entries on their way into the ledger, many in one row (PostgreSQL): what a call waits for is one short insert.

A bundle is as durable as its entries, and becomes them when its row is deleted: a trigger of the database enters them
then (see triggers.py), so that nobody can take a bundle away without its entries being in the ledger. The sequencer
does it all the time. Whoever looks for an entry that must be there if it ever was calls `unbundle` before. See
docs/adr/0029.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import QuerySet

from jitaccess.audit.models import Bundle, Entry
from jitaccess.audit.recorder import COLUMNS, Row
from jitaccess.audit.triggers import BUNDLE
from jitaccess.store import byhand
from jitaccess.store.clock import now

# As many lines as entries, as many parts as an entry has fields. New fields come last, and the processes of the release
# before do not say them.
_LINES, _PARTS = "\n", "\t"
_FIELDS = Entry._meta.concrete_fields
_AT_ONCE = 200
MANY = 10_000  # of those that wait no more are counted


def bundled(rows: Sequence[Row]) -> str:
    """The body of a bundle of these rows. Those without a time get the bundle's.

    Raises ValueError where a value could be read as another one: no value of an entry has control characters.
    """
    body = _LINES.join(
        [_PARTS.join([one if one.__class__ is str else "" if one is None else str(one) for one in row]) for row in rows]
    )
    if body.count(_PARTS) != (len(_FIELDS) - 1) * len(rows) or body.count(_LINES) != len(rows) - 1:
        raise ValueError("a value of an entry has a tabulator or a line break")
    return body


def unbundle() -> None:
    """Enter all that is on record by now, and wait for whoever does so at this moment."""
    last = None if byhand.on_sqlite() else Bundle.objects.order_by("-pk").values_list("pk", flat=True).first()
    while last is not None and _enter(Bundle.objects.filter(pk__lte=last).select_for_update()):
        pass  # what comes meanwhile is for others


def unbundle_left(lying: timedelta) -> None:
    """Enter those that lie so long, but what others do: a process that stands still must not hold up this one."""
    if byhand.on_sqlite():
        return
    left = Bundle.objects.filter(at__lt=now() - lying)
    if left.exists():
        _enter(left.select_for_update(skip_locked=True))


def _enter(these: QuerySet[Bundle]) -> bool:
    """Whether there were any. In their order: two who do so wait for each other in turn, not for ever."""
    with transaction.atomic():
        next_ones = list(these.order_by("pk").values_list("pk", flat=True)[:_AT_ONCE])
        Bundle.objects.filter(pk__in=next_ones).delete()
    return bool(next_ones)


def waiting() -> tuple[int, datetime | None]:
    """How many entries are in bundles, and the time of the first."""
    first = list(Bundle.objects.order_by("pk").values_list("n", "at")[:MANY])
    return sum(n for n, _ in first), first[0][1] if first else None


def enter_next(limit: int, *, queue: str) -> str:
    """A statement that enters the bundles from $1 on that come next, and gives the uids of their entries as an array:
    `limit` entries, and at most a bundle more; none that comes behind the last of as many in the queue.
    """
    # Only so many are looked at, for each stands on a page of its own.
    return f"""
WITH next (id, before) AS (
  SELECT id, sum(n) OVER (ORDER BY id ROWS UNBOUNDED PRECEDING) - n
  FROM (SELECT id, n FROM {BUNDLE} WHERE id >= $1::uuid ORDER BY id LIMIT {limit // 8 + 1:d}) AS some_next
),
gone AS (
  DELETE FROM {BUNDLE} WHERE id = ANY(ARRAY(SELECT id FROM next WHERE before < {limit:d} AND id < coalesce(
    (SELECT entry_id FROM {queue} WHERE entry_id >= $1::uuid ORDER BY entry_id OFFSET {limit - 1:d} LIMIT 1),
    'ffffffff-ffff-ffff-ffff-ffffffffffff'
  ))) RETURNING body
)
SELECT coalesce(array_agg(split_part(line, E'\\t', 1)), '{{}}')
FROM gone CROSS JOIN LATERAL string_to_table(body, E'\\n') AS line
"""  # noqa: S608 - our own names


def entering() -> str:
    """What the trigger does with the deleted rows, `gone`."""
    casts = {
        "UUIDField": "nullif({0}, '')::uuid",
        "DateTimeField": "coalesce(nullif({0}, '')::timestamptz, moment)",
        "BigIntegerField": "nullif({0}, '')::bigint",
    }
    values = []
    for at, field in enumerate(_FIELDS, 1):
        kind = field.get_internal_type()
        # A name too long would stop all others, and is cut before it comes here.
        text = f"{{0}}::varchar({field.max_length})" if kind == "CharField" else "{0}"
        values.append(casts.get(kind, text).format(f"part[{at}]"))
    columns = ", ".join(COLUMNS)
    return (
        f"INSERT INTO {Entry._meta.db_table} ({columns}) SELECT {', '.join(values)} FROM ("  # noqa: S608 - our own names
        "SELECT gone.at AS moment, string_to_array(line, E'\\t') AS part "
        "FROM gone CROSS JOIN LATERAL string_to_table(gone.body, E'\\n') AS line OFFSET 0) AS parted"
    )

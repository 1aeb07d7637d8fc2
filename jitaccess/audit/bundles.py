"""Entries on their way into the ledger, many in one row (PostgreSQL): what a call waits for is one short insert.

A bundle is as durable as its entries, and becomes them when its row is deleted: a trigger of the database enters them
then (see triggers.py), so that nobody can take a bundle away without its entries being in the ledger. The sequencer
does it all the time. Whoever looks for an entry that must be there if it ever was calls `unbundle` before. See
docs/adr/0029.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Bundle, Entry
from jitaccess.audit.recorder import COLUMNS, Row, uids
from jitaccess.audit.triggers import BUNDLE
from jitaccess.kernel.ids import uuid7_hex
from jitaccess.store import byhand
from jitaccess.store.clock import now

# As many lines as entries, as many parts as an entry has fields. New fields come last, and the processes of the release
# before do not say them.
_LINES, _PARTS = "\n", "\t"
_FIELDS = Entry._meta.concrete_fields
_CALL = [field.attname for field in _FIELDS].index("call") + 1
_AT_ONCE = 100
MANY = 1_000  # each stands on a page of its own, so no more of them are counted


def line(
    *,
    event: Event,
    outcome: Outcome,
    about: str,
    tool_pin: str = "",
    bindings: tuple[UUID, ...] = (),
    policy_version: int | str = "",
    instance: str = "",
    data: str = "{}",
) -> str:
    """One entry, as `recorder.row` makes it, with the bundle's time. `about` is of `about_line`."""
    told = uids(bindings) if bindings else "[]"
    return f"{uuid7_hex()}\t\t{event}\t{outcome}\t{about}\t{tool_pin}\t{told}\t{policy_version}\t{instance}\t{data}"


def about_line(about: Row) -> str:
    """What `recorder.about` gives, as a part of lines."""
    return _PARTS.join([one if one.__class__ is str else "" if one is None else str(one) for one in about])


def first_of(lines: Sequence[str]) -> str:
    """The uid of the first of these entries."""
    return lines[0][:32]


def bundled(lines: Sequence[str]) -> str:
    """The body of a bundle.

    Raises ValueError where a value could be read as another one: no value of an entry has control characters.
    """
    body = _LINES.join(lines)
    if body.count(_PARTS) != (len(_FIELDS) - 1) * len(lines) or body.count(_LINES) != len(lines) - 1 or "\0" in body:
        raise ValueError("a value of an entry has a tabulator, a line break or a NUL")
    return body


def unbundle(calls: Sequence[UUID]) -> None:
    """Enter what tells of these calls and is on record by now, and wait for whoever does so at this moment."""
    if byhand.on_sqlite() or not calls:
        return  # where entries are entered as they come
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            f"SELECT id FROM {BUNDLE} WHERE EXISTS (SELECT FROM string_to_table(body, E'\\n') AS line "  # noqa: S608 - our own names
            f"WHERE split_part(line, E'\\t', {_CALL}) = ANY(%s)) ORDER BY id FOR UPDATE",
            [[call.hex for call in calls]],
        )
        Bundle.objects.filter(pk__in=[pk for (pk,) in cursor.fetchall()]).delete()


def unbundle_left(lying: timedelta, *, within: float = 1.0) -> None:
    """Enter those that lie so long, for so many seconds, but not what others are at: a process that stands still must
    not hold up this one.
    """
    ends = time.monotonic() + within
    while not byhand.on_sqlite() and time.monotonic() < ends:
        left = Bundle.objects.filter(at__lt=now() - lying)
        if not left.exists():
            return
        with transaction.atomic():
            # In their order, as all do: who comes second waits for the first, and nobody for ever.
            some = list(left.select_for_update(skip_locked=True).order_by("pk").values_list("pk", flat=True)[:_AT_ONCE])
            Bundle.objects.filter(pk__in=some).delete()
        if not some:
            return


def waiting() -> tuple[int, datetime | None]:
    """How many entries are in bundles, of the first so many, and the time of the first."""
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
  FROM (SELECT id, n FROM {BUNDLE} WHERE id >= $1::uuid ORDER BY id LIMIT {limit // 4 + 1:d}) AS some_next
),
held AS MATERIALIZED (
  SELECT id FROM {BUNDLE} WHERE id = ANY(ARRAY(SELECT id FROM next WHERE before < {limit:d} AND id < coalesce(
    (SELECT entry_id FROM {queue} WHERE entry_id >= $1::uuid ORDER BY entry_id OFFSET {limit - 1:d} LIMIT 1),
    'ffffffff-ffff-ffff-ffff-ffffffffffff'
  ))) ORDER BY id FOR UPDATE
),
gone AS (DELETE FROM {BUNDLE} WHERE id = ANY(ARRAY(SELECT id FROM held)) RETURNING body)
SELECT coalesce(array_agg(split_part(line, E'\\t', 1)), '{{}}')
FROM gone CROSS JOIN LATERAL string_to_table(body, E'\\n') AS line
"""  # noqa: S608 - our own names


def entering() -> str:
    """What the trigger does with the deleted rows, `gone`."""
    values = [_read(field, f"part[{at}]") for at, field in enumerate(_FIELDS, 1)]
    columns = ", ".join(COLUMNS)
    return (
        f"INSERT INTO public.{Entry._meta.db_table} ({columns}) SELECT {', '.join(values)} FROM ("  # noqa: S608 - our own names
        "SELECT gone.at AS moment, string_to_array(line, E'\\t') AS part "
        "FROM gone CROSS JOIN LATERAL string_to_table(gone.body, E'\\n') AS line OFFSET 0) AS parted"
    )


def _read(field: Any, part: str) -> str:
    """The value of a field. What is too long, or not said by the release before, would stop all others."""
    kind = field.get_internal_type()
    if kind == "DateTimeField":
        return f"coalesce(nullif({part}, '')::timestamptz, moment)"
    if kind in {"UUIDField", "BigIntegerField"}:
        return f"nullif({part}, '')::{'uuid' if kind == 'UUIDField' else 'bigint'}"
    text = f"{part}::varchar({field.max_length})" if kind == "CharField" else part
    return f"coalesce({text}, '{field.default if field.has_default() else ''}')"

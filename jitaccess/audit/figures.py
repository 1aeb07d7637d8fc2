"""Counting the ledger as it grows, so that nobody counts ten million entries to draw a line.

A reader of the ledger like others: in its order, each entry once; what was counted and how far commit together. The
database counts: no entry comes to Python. PostgreSQL reads each entry once for all tables, in one statement.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.db.models import Max, QuerySet

from jitaccess.audit.events import Event
from jitaccess.audit.models import Burst, Cursor, DayOfAgent, Entry, HourCount, Leaf, ToolUse
from jitaccess.store import byhand
from jitaccess.store.clock import now

CURSOR = "figures"
ALL_SERVERS = UUID(int=0)
# How long figures are kept: the pages look back a month, two weeks and one. The ledger is there for all else.
KEPT: dict[type[HourCount | DayOfAgent | Burst], tuple[str, timedelta]] = {
    HourCount: ("hour", timedelta(days=92)),
    DayOfAgent: ("day", timedelta(days=92)),
    Burst: ("at", timedelta(days=31)),
}
# Entries in a step: on SQLite nobody else can write meanwhile.
_STEP = {"sqlite": 500, "postgresql": 50_000}
_REFUSED = (Event.CALL_DENIED, Event.CALL_DENIED_AGAIN)
_TROUBLE = (*_REFUSED, Event.CALL_REPEATED)
_OF_DAYS = (Event.CALL_AUTHORIZED, *_TROUBLE, Event.CALL_COMPLETED, Event.CALL_FAILED)


# CROSS: SQLite would otherwise begin with all entries of an event, and read the whole ledger for each step.
_ENTRIES = (
    f"FROM {Leaf._meta.db_table} AS leaf CROSS JOIN {Entry._meta.db_table} AS e "
    "WHERE e.uid = leaf.entry_id AND leaf.seq > %s AND leaf.seq <= %s"
)


@dataclass(frozen=True, slots=True)
class _Count:
    """One table of figures: what it has one row for (columns and what they are of an entry), what else it says, what
    of a row that is there changes, and of which entries it is; `on`: the columns of a key, where it has a constant.
    """

    table: str
    key: dict[str, str]
    also: dict[str, str]
    updates: dict[str, str]
    where: str
    on: str = ""


def count(*, seconds: float = 4.0) -> int:
    """Count what is new, in steps, for at most about so long; returns how many entries that were."""
    began, counted = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        done = count_step(_STEP[connection.vendor])
        counted += done
        if done < _STEP[connection.vendor]:
            break
    return counted


def count_step(limit: int) -> int:
    """Count at most `limit` entries in a transaction; returns how many. Two at once count each entry once."""
    seen = Cursor.objects.filter(name=CURSOR).values_list("seq", flat=True).first() or 0
    if not Leaf.objects.filter(seq__gt=seen).exists():
        return 0  # an idle look takes no write lock
    with transaction.atomic():
        Cursor.objects.get_or_create(name=CURSOR)
        cursor = Cursor.objects.select_for_update().get(name=CURSOR)
        last = Leaf.objects.aggregate(last=Max("seq"))["last"] or 0
        upto = min(cursor.seq + limit, last)
        with connection.cursor() as database:
            for statement in _statements():
                database.execute(statement, [cursor.seq, upto] if "%s" in statement else None)
        Cursor.objects.filter(name=CURSOR).update(seq=upto)
    return upto - cursor.seq


def tidy(*, part: int = 5000) -> int:
    """Delete what is older than KEPT, in small transactions; returns how many rows. Of uses of tools nothing goes: they
    are as many as there are agents and tools, and say what was ever used.
    """
    gone, at = 0, now()
    for model, (column, age) in KEPT.items():
        rows: QuerySet[Any] = QuerySet(model)
        old = rows.filter(**{f"{column}__lt": at - age})
        while some := list(old.values_list("pk", flat=True)[:part]):
            gone += rows.filter(pk__in=some).delete()[0]
    return gone


def _statements() -> list[str]:
    """What counts the entries after one place and up to another."""
    if byhand.on_sqlite():
        return [_count_from(_ENTRIES, one) for one in _counts()]
    # Those that are alike within ten minutes are summed up first. Each is found by its key and hashed, whatever the
    # planner believes of tables that grow: it would read all of them, or sort by long texts. Up to PostgreSQL 17 it
    # believes what is left to be so dear that it would compile it each time.
    fresh = (
        "SELECT e.event, e.server, e.agent, e.tool, "
        "date_bin('10 minutes', e.at, TIMESTAMPTZ '2000-01-01 00:00:00+00') AS at, "
        "count(*) AS n, min(e.at) AS first, max(e.at) AS last, "
        f'max(e.agent_name COLLATE "C") AS agent_name, max(e.server_name COLLATE "C") AS server_name {_ENTRIES} '
        "GROUP BY 1, 2, 3, 4, 5"
    )
    parts = [f"count_{at} AS ({_count_from('FROM fresh AS e WHERE true', one)})" for at, one in enumerate(_counts())]
    ways = ("enable_sort", "enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit")
    counting = f"WITH fresh AS MATERIALIZED ({fresh}), {', '.join(parts)} SELECT"
    return ["; ".join(f"SET LOCAL {way} = off" for way in ways), counting]


def _count_from(source: str, one: _Count) -> str:
    """One table's part."""
    columns = [*one.key, *one.also]
    chosen = [f"{of} AS {name}" for name, of in (one.key | one.also).items()]
    updates = ", ".join(f"{name} = {of.format(old=one.table)}" for name, of in one.updates.items())
    keys = ", ".join(one.key.values())
    return (
        f"INSERT INTO {one.table} ({', '.join(columns)}) SELECT {', '.join(chosen)} {source}{one.where} "
        f"GROUP BY {keys} ORDER BY {keys} "
        f"ON CONFLICT ({one.on or ', '.join(one.key)}) DO UPDATE SET {updates}"
    )


def _counts() -> list[_Count]:
    more = {"n": "{old}.n + excluded.n"}
    named = {"agent_name": "max(e.agent_name)"}
    if byhand.on_sqlite():
        n, first, last, least, most = "count(*)", "min(e.at)", "max(e.at)", "min", "max"
    else:
        n, first, last, least, most = "sum(e.n)", "min(e.first)", "max(e.last)", "least", "greatest"
    return [
        _Count(
            HourCount._meta.db_table,
            {"event": "e.event", "hour": _start("hour")},
            {"server": f"'{ALL_SERVERS.hex}'", "server_name": "''", "n": n},
            more,
            "",
            on="server, event, hour",
        ),
        _Count(
            HourCount._meta.db_table,
            {"server": "e.server", "event": "e.event", "hour": _start("hour")},
            {"server_name": "max(e.server_name)", "n": n},
            more | {"server_name": "excluded.server_name"},
            " AND e.server IS NOT NULL",
        ),
        _Count(
            DayOfAgent._meta.db_table,
            {"agent": "e.agent", "day": _start("day"), "event": "e.event"},
            {"n": n},
            more,
            f" AND e.agent IS NOT NULL AND e.event IN ({_listed(*_OF_DAYS)})",
        ),
        _Count(
            ToolUse._meta.db_table,
            {"agent": "e.agent", "server": "e.server", "tool": "e.tool"},
            named | {"server_name": "max(e.server_name)", "n": n, "first": first, "last": last},
            more | {"first": f"{least}({{old}}.first, excluded.first)", "last": f"{most}({{old}}.last, excluded.last)"},
            f" AND e.agent IS NOT NULL AND e.server IS NOT NULL AND e.event IN ({_listed(Event.CALL_AUTHORIZED)})",
        ),
        _Count(
            Burst._meta.db_table,
            {"at": _start("burst"), "event": "e.event", "agent": "e.agent"},
            named | {"n": n},
            more,
            f" AND e.agent IS NOT NULL AND e.event IN ({_listed(*_TROUBLE)})",
        ),
    ]


def _listed(*events: Event) -> str:
    return ", ".join(f"'{event.value}'" for event in events)


def _start(unit: str) -> str:
    """Of the hour, the day, or (burst) the ten minutes of an entry; UTC, as the database keeps times. On PostgreSQL of
    its ten minutes.
    """
    if byhand.on_sqlite():
        return {
            "hour": "substr(e.at, 1, 13) || ':00:00'",
            "day": "substr(e.at, 1, 10) || ' 00:00:00'",
            "burst": "substr(e.at, 1, 15) || '0:00'",
        }[unit]
    if unit == "burst":
        return "e.at"
    return f"date_trunc('{unit}', e.at, 'UTC')"

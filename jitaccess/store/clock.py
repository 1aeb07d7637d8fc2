"""Time is one SQL function, jit_now(): the database's clock, read where access is decided.

On PostgreSQL a migration defines it (clock_timestamp(): the real time, not the transaction's start); on SQLite every
connection defines it, in the text form in which Django stores times, so that comparing strings compares times.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from django.conf import settings
from django.db import connection, models

from jitaccess.kernel.once import once


class JitNow(models.Func):
    """jit_now() in a query: `.filter(expires_at__lte=JitNow())`, `.update(ended_at=JitNow())`."""

    function = "jit_now"
    arity = 0
    output_field: ClassVar[models.DateTimeField[Any, Any]] = models.DateTimeField()


@once  # one page, one moment
def now() -> datetime:
    """The database's clock, in UTC. Reads the database; on an open transaction it is still the present moment."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT jit_now()")
        return as_utc(cursor.fetchone()[0])


def as_utc(value: datetime | str) -> datetime:
    """What a cursor gives for jit_now(): PostgreSQL a time, or a text with its offset, SQLite a text without."""
    found = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _sqlite_now() -> str:
    moment = datetime.now(UTC)
    if settings.TEST_CLOCK_FILE:
        path = Path(settings.TEST_CLOCK_FILE)
        moment += timedelta(seconds=float(path.read_text() or 0) if path.exists() else 0)
    return moment.isoformat(" ", "microseconds")[:26]  # without the offset, which is none


def define_on_sqlite(*, connection: Any, **_: object) -> None:
    """Give a new SQLite connection its jit_now()."""
    if connection.vendor == "sqlite":
        connection.connection.create_function("jit_now", 0, _sqlite_now)

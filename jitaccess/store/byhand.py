"""Statements by hand, for where calls wait: on Django's connection and in its transaction, without the ORM.

On PostgreSQL they are prepared, and those of one `round_trip` are sent together. Parameters are texts: hexadecimal
UUIDs, ISO times, array literals.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from django.db import InterfaceError, InternalError, OperationalError, connection

from jitaccess.store.metrics import DATABASE_ERRORS

# Between the values of a column while they are escaped at once: canonical JSON and visible text never hold it.
_BETWEEN = "\x1f"


@contextmanager
def round_trip() -> Iterator[None]:
    """Send the statements in the block together; their results are there, and their errors raised, after it."""
    connection.ensure_connection()
    with _known_errors():
        if connection.vendor == "postgresql":
            with connection.connection.pipeline():
                yield
        else:
            yield


def execute(statement: str, parameters: Sequence[Any] = ()) -> Any:
    """A cursor with the result. The statement is in the form of the database (%s or ?). Inside a transaction only."""
    raw = connection.connection
    with _known_errors():
        if connection.vendor == "sqlite":
            # Not the cursor that takes turns: the transaction has its turn already.
            return sqlite3.Connection.cursor(raw).execute(statement, parameters)
        return _cursor(raw).execute(statement, parameters, prepare=True)


def execute_each(statement: str, rows: Iterable[Sequence[Any]]) -> None:
    """One statement for many rows, on SQLite."""
    with _known_errors():
        sqlite3.Connection.cursor(connection.connection).executemany(statement, rows)


def commit() -> None:
    """Commit within a `round_trip`, together with what stands before it. Django's own commit has nothing to do then."""
    with _known_errors():
        connection.connection.commit()


def is_lost() -> bool:
    """Whether the connection is gone, so that nobody knows what became of a commit."""
    raw = connection.connection
    return raw is None or (connection.vendor == "postgresql" and raw.closed)


def array(values: Iterable[Any], *, quoted: bool) -> str:
    """An array literal of PostgreSQL. Quoted are texts; others are NULL where they are None."""
    if not quoted:
        return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"
    text = _BETWEEN.join(values)
    if not text:
        return "{" + ",".join(['""' for _ in values]) + "}"
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '{"' + text.replace(_BETWEEN, '","') + '"}'


def _cursor(raw: Any) -> Any:
    import psycopg  # here: on SQLite every command would pay for it

    # Django turns prepared statements off, for poolers that it does not know; its own cursors do without them still.
    raw.prepare_threshold = 0
    return psycopg.Cursor(raw)


@contextmanager
def _known_errors() -> Iterator[None]:
    """As Django's errors, and counted, as those of its own cursors are."""
    try:
        with connection.wrap_database_errors:
            yield
    except (OperationalError, InterfaceError, InternalError) as error:
        if not getattr(error, "jit_counted", False):
            error.jit_counted = True  # type: ignore[union-attr]  # an error passes here on its way out of a round trip
            DATABASE_ERRORS.labels(type(error).__name__).inc()
        raise

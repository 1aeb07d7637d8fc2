"""Statements by hand, for where calls wait: on Django's connection and in its transaction, without the ORM.

On PostgreSQL they are prepared, and those of one `round_trip` go out in one packet (libpq's pipeline mode). Parameters
and results are texts: hexadecimal UUIDs, ISO times, array literals.
"""

from __future__ import annotations

import select
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

from django.db import DEFAULT_DB_ALIAS, InterfaceError, InternalError, OperationalError, connection, connections

from jitaccess.store.metrics import DATABASE_ERRORS

# Between the values of a column while they are escaped at once: canonical JSON and visible text never hold it.
_BETWEEN = "\x1f"
_READ, _BOTH = select.POLLIN, select.POLLIN | select.POLLOUT
UNKNOWN_STATEMENT = "26000"  # a pooler gave us a session that has not prepared it


class Result:
    """What a statement gave, once it has run: its rows, and how many there were or were changed."""

    __slots__ = ("count", "rows")

    def __init__(self) -> None:
        self.rows: list[tuple[Any, ...]] = []
        self.count = 0

    def read(self, found: Any) -> None:
        """What libpq has."""
        columns = range(found.nfields)
        self.rows = [tuple(_text(found.get_value(row, at)) for at in columns) for row in range(found.ntuples)]
        self.count = found.ntuples or found.command_tuples or 0


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


class _RoundTrip:
    """The statements of one block."""

    def __init__(self) -> None:
        self.wanted: list[tuple[str, Sequence[str | None], Result]] = []
        self.commits = False


# Of each connection, by the thread that has it: the block that is open, and the names of what it has prepared.
_open: WeakKeyDictionary[Any, _RoundTrip] = WeakKeyDictionary()
_prepared: WeakKeyDictionary[Any, dict[str, bytes]] = WeakKeyDictionary()
_numbers = count()


@contextmanager
def round_trip() -> Iterator[None]:
    """Send the statements in the block together, at its end; then their results are there, or the first error is
    raised. On SQLite each runs where it stands. Inside a transaction only.
    """
    if on_sqlite():
        yield
        return
    raw = connection.connection
    _open[raw] = block = _RoundTrip()
    try:
        yield
    finally:
        del _open[raw]
    _send(raw, block)


def execute(statement: str, parameters: Sequence[str | None] = ()) -> Result:
    """The statement is in the form of the database: $1 on PostgreSQL, ? on SQLite."""
    raw, result = connection.connection, Result()
    if on_sqlite():
        with _known_errors():
            # Not the cursor that takes turns: the transaction has its turn already.
            cursor = sqlite3.Connection.cursor(raw).execute(statement, parameters)
            result.rows = cursor.fetchall()
            result.count = len(result.rows) if cursor.description else cursor.rowcount
        return result
    block = _open.get(raw)
    if block is not None:
        block.wanted.append((statement, parameters, result))
        return result
    with round_trip():
        _open[raw].wanted.append((statement, parameters, result))
    return result


def execute_each(statement: str, rows: Iterable[Sequence[Any]]) -> None:
    """One statement for many rows, on SQLite."""
    with _known_errors():
        sqlite3.Connection.cursor(connection.connection).executemany(statement, rows)


def commit() -> None:
    """On PostgreSQL: commit at the end of the `round_trip`, in the same packet. Django's own has nothing to do then."""
    _open[connection.connection].commits = True


def is_lost(error: Exception) -> bool:
    """Whether this error means that the session is gone, so that nobody knows what became of a commit. By the time that
    it is asked Django may have opened another.
    """
    if on_sqlite():
        return False
    cause: Any = error.__cause__
    state = getattr(cause, "sqlstate", None)
    return state is None or cause.diag.severity_nonlocalized in {"FATAL", "PANIC"}


@cache
def on_sqlite() -> bool:
    """For life. Django's `connection` is looked up anew, and slowly, each time that it is asked anything."""
    return connections[DEFAULT_DB_ALIAS].vendor == "sqlite"


def array(values: Sequence[Any], *, quoted: bool) -> str:
    """An array literal of PostgreSQL. Quoted are texts; others are NULL where they are None."""
    if not quoted:
        return "{" + ",".join(["NULL" if value is None else str(value) for value in values]) + "}"
    if not values:
        return "{}"
    text = _BETWEEN.join(values)
    if "\\" in text or '"' in text:
        text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '{"' + text.replace(_BETWEEN, '","') + '"}'


def _send(raw: Any, block: _RoundTrip) -> None:
    from psycopg import pq  # here: on SQLite every command would pay for it

    pgconn, names = raw.pgconn, _prepared.setdefault(raw, {})
    with _known_errors():
        begins = not raw.autocommit and pgconn.transaction_status == pq.TransactionStatus.IDLE
        pgconn.enter_pipeline_mode()
        try:
            new: dict[int, str] = {}  # what is prepared, by the place of its result
            told: list[Result] = []
            if begins:
                pgconn.send_query_params(b"BEGIN", None)
                told.append(Result())
            for statement, parameters, result in block.wanted:
                if statement not in names:
                    names[statement] = b"jit_%d" % next(_numbers)
                    pgconn.send_prepare(names[statement], statement.encode())
                    new[len(told)] = statement
                    told.append(Result())
                pgconn.send_query_prepared(
                    names[statement], [None if one is None else one.encode() for one in parameters]
                )
                told.append(result)
            if block.commits:
                pgconn.send_query_params(b"COMMIT", None)
                told.append(Result())
            pgconn.pipeline_sync()
            failed = _receive(pgconn, told)
        finally:
            if pgconn.status == pq.ConnStatus.OK:
                pgconn.exit_pipeline_mode()
        if failed is not None:
            at, error = failed
            for place, statement in new.items():
                if place >= at:
                    del names[statement]
            if error.sqlstate == UNKNOWN_STATEMENT:
                names.clear()
            raise error


def _receive(pgconn: Any, told: list[Result]) -> tuple[int, Any] | None:
    """Read what each statement gave. The place of the first that failed, and its error; those after it did not run."""
    from psycopg import errors, pq

    poll = select.poll()
    poll.register(pgconn.socket, _BOTH)
    while pgconn.flush():
        if poll.poll()[0][1] & ~select.POLLOUT:
            pgconn.consume_input()
    poll.modify(pgconn.socket, _READ)
    failed: tuple[int, Any] | None = None
    place = 0
    while True:
        while pgconn.is_busy():
            poll.poll()
            pgconn.consume_input()
        found = pgconn.get_result()
        if found is None:  # between two statements
            if pgconn.status != pq.ConnStatus.OK:
                raise errors.OperationalError("the connection to the database is lost")
            continue
        if found.status == pq.ExecStatus.PIPELINE_SYNC:
            return failed
        if found.status == pq.ExecStatus.FATAL_ERROR and failed is None:
            error = errors.error_from_result(found)
            # Of what the server did not say itself there is no state: it is gone.
            failed = place, error if error.sqlstate else errors.OperationalError(str(error))
        elif place < len(told):
            told[place].read(found)
        place += 1


@contextmanager
def _known_errors() -> Iterator[None]:
    """As Django's errors, and counted, as those of its own cursors are."""
    try:
        with connection.wrap_database_errors:
            yield
    except (OperationalError, InterfaceError, InternalError) as error:
        DATABASE_ERRORS.labels(type(error).__name__).inc()
        raise

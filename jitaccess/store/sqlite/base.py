"""Connections that take a turn before they write and give it back when SQLite's transaction is over."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from django.db.backends.sqlite3 import base

from jitaccess.store import wakeups
from jitaccess.store.sqlite.turns import Queue, Turn, queue_of

P = ParamSpec("P")
T = TypeVar("T")

# Everything else is taken for a write: a turn too many costs a little time, one too few somebody's place.
_READS = re.compile(
    r"""(?: \s | --[^\n]*(?:\n|\Z) | /\*.*?\*/ )*+
    (?: SELECT | VALUES | PRAGMA | EXPLAIN | ATTACH | DETACH | SAVEPOINT | RELEASE | ROLLBACK | COMMIT | END
      | BEGIN (?! \s+ (?:IMMEDIATE|EXCLUSIVE) \b )
      | WITH \b (?! .* \b (?:INSERT|UPDATE|DELETE|REPLACE) \b )
    )\b""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


class Connection(sqlite3.Connection):
    """Holds a turn while a transaction may write: what SQLite says about itself decides, not what was asked of it."""

    queue: Queue | None = None
    patience: float = 0.0
    turn: Turn | None = None
    # Whether this turn wrote to what others want to hear of.
    concerns: bool = False

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(Cursor if factory is None else factory)

    def commit(self) -> None:
        try:
            super().commit()
        finally:
            self.settle()

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self.settle()

    def close(self) -> None:
        try:
            super().close()
        finally:
            self._give_back()

    def take_turn(self, statement: str) -> None:
        """Before `statement`. Raises OperationalError when others write for longer than the connection's timeout."""
        if self.queue is not None and self.turn is None and not _READS.match(statement):
            self.turn = self.queue.take(self.patience)
        self.concerns = self.concerns or (self.turn is not None and wakeups.concerns(statement))

    def settle(self) -> None:
        """After a statement, also a failed one: outside a transaction there is nothing to hold a turn for."""
        if self.turn is not None and not self.in_transaction:
            self._give_back()

    def _give_back(self) -> None:
        turn, self.turn = self.turn, None
        concerns, self.concerns = self.concerns, False
        if turn is not None:
            turn.give_back()
        if concerns:
            wakeups.tell()


class Cursor(base.SQLiteCursorWrapper):
    """Django's cursor, taking turns."""

    connection: Connection

    def execute(self, query: str, params: Any = None) -> Any:
        return self._in_turn(query, super().execute, query, params)

    def executemany(self, query: str, param_list: Iterable[Any]) -> Any:
        return self._in_turn(query, super().executemany, query, param_list)

    def executescript(self, script: str) -> Any:
        return self._in_turn("", super().executescript, script)

    # A statement with RETURNING writes until its rows are fetched or its cursor is closed.

    def fetchone(self) -> Any:
        return self._and_settle(super().fetchone)

    def fetchmany(self, size: int | None = 1) -> Any:
        return self._and_settle(super().fetchmany, size)

    def fetchall(self) -> Any:
        return self._and_settle(super().fetchall)

    def close(self) -> None:
        self._and_settle(super().close)

    def _in_turn(self, statement: str, run: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.connection.take_turn(statement)
        rows = False
        try:
            result = run(*args, **kwargs)
            rows = self.description is not None
        finally:
            if not rows:
                self.connection.settle()
        return result

    def _and_settle(self, run: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return run(*args, **kwargs)
        finally:
            self.connection.settle()


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's SQLite, with turns for whatever is a file."""

    def get_connection_params(self) -> dict[str, Any]:
        return {**super().get_connection_params(), "factory": Connection}

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        if not self.is_in_memory_db():
            connection.queue = queue_of(str(conn_params["database"]))
            connection.patience = float(conn_params.get("timeout", 5.0))
        return connection

    def create_cursor(self, name: str | None = None) -> Any:  # noqa: ARG002 - Django's signature
        return self.connection.cursor(factory=Cursor)

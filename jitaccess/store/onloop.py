"""A session of PostgreSQL on an event loop: prepared statements in one packet, and nobody waits for the answer.

As `byhand`, without a thread: where calls wait, handing over to another thread and back takes longer than the database.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

from django.db import DEFAULT_DB_ALIAS, OperationalError, connections
from psycopg import errors, pq

from jitaccess.store.byhand import UNKNOWN_STATEMENT, Result
from jitaccess.store.metrics import DATABASE_ERRORS

Statement = tuple[str, Sequence[str | None]]
Told = Callable[[list[Result] | None, Exception | None], None]
# What is asked is asked again and again with other values: a plan for each of them would take longer than to run it.
_SET_UP = b"SET plan_cache_mode = force_generic_plan"


class Gone(OperationalError):
    """The session is over; of what was under way nobody knows what became of it."""


def connect() -> Any:
    """A session of its own, set up as Django's are. Blocks: to be called in a thread."""
    wrapper = connections.create_connection(DEFAULT_DB_ALIAS)
    wrapper.inc_thread_sharing()
    wrapper.ensure_connection()
    raw = wrapper.connection
    raw.pgconn.exec_(_SET_UP)
    wrapper.connection = None  # ours from here on
    return raw


class Session:
    """Belongs to the running event loop. One packet at a time: see `busy`."""

    def __init__(self, raw: Any, on_lost: Callable[[], None]) -> None:
        """`raw` is of `connect`; `on_lost` is called once, when the session has ended by itself."""
        self._raw, self._pgconn, self._on_lost = raw, raw.pgconn, on_lost
        self._loop = asyncio.get_running_loop()
        self._socket = self._pgconn.socket
        self._names: dict[str, bytes] = {}
        self._unique = os.urandom(6).hex().encode()  # behind a pooler another process may have had this session
        self._numbers = itertools.count()  # never again the name of one that was forgotten: it may be there still
        self._new: dict[int, str] = {}  # what is prepared in this packet, by the place of its result
        self._told: Told | None = None
        self._results: list[Result] = []
        self._all: list[Result] = []  # with those of what is prepared besides
        self._at = 0
        self._failed: Exception | None = None
        self.closed = False
        self._pgconn.nonblocking = 1
        self._pgconn.enter_pipeline_mode()
        self._loop.add_reader(self._socket, self._readable)

    @property
    def busy(self) -> bool:
        return self._told is not None

    def send(self, statements: Sequence[Statement], told: Told) -> None:
        """Run them as one transaction. `told` gets what each gave, or the error because of which nothing of it was
        done; Gone: nobody knows.
        """
        if self.closed:
            told(None, Gone("the session is over"))
            return
        pgconn = self._pgconn
        self._told, self._results, self._all, self._at, self._failed = told, [], [], 0, None
        self._new = {}
        try:
            for statement, parameters in statements:
                name = self._names.get(statement)
                if name is None:
                    name = self._names[statement] = b"jit_%s_%d" % (self._unique, next(self._numbers))
                    pgconn.send_prepare(name, statement.encode())
                    self._new[len(self._all)] = statement
                    self._all.append(Result())
                pgconn.send_query_prepared(name, [None if one is None else one.encode() for one in parameters])
                self._results.append(Result())
                self._all.append(self._results[-1])
            pgconn.pipeline_sync()
            self._flush()
        except Exception as error:  # noqa: BLE001 - whatever libpq says, this session is of no more use
            DATABASE_ERRORS.labels("OperationalError").inc()
            self._lose(error)

    def close(self) -> None:
        """End the session. What is under way is told that it is Gone."""
        self._on_lost = _nobody
        self._lose(Gone("the session was closed"))

    def give_up(self) -> None:
        """End the session as if it had ended by itself."""
        self._lose(Gone("the database says nothing"))

    def _flush(self) -> None:
        if self._pgconn.flush():
            self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        try:
            if not self._pgconn.flush():
                self._loop.remove_writer(self._socket)
        except Exception as error:  # noqa: BLE001 - as in `send`
            self._lose(error)

    def _readable(self) -> None:
        try:
            self._pgconn.consume_input()
            told = self._take()
        except Exception as error:  # noqa: BLE001 - as in `send`
            self._lose(error)
            return
        if told is not None:
            results, failed = self._results, self._failed
            self._told = None
            told(None if failed else results, failed)

    def _take(self) -> Told | None:
        """Read what is there; whom to tell when that is all. Raises when the session is over."""
        pgconn, between = self._pgconn, False
        while not pgconn.is_busy():
            found = pgconn.get_result()
            if found is None:
                # Between two statements, or nothing is there; and that twice is the end.
                if pgconn.status != pq.ConnStatus.OK:
                    raise Gone("the connection to the database is lost")
                if between:
                    return None
                between = True
                continue
            between = False
            if found.status == pq.ExecStatus.PIPELINE_SYNC:
                return self._told
            if found.status == pq.ExecStatus.FATAL_ERROR:
                error = errors.error_from_result(found)
                if not error.sqlstate or found.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) != b"ERROR":
                    raise Gone(str(error))
                if self._failed is None:
                    self._failed = error
                    self._forget(self._at, error.sqlstate)
            elif self._at < len(self._all):
                self._all[self._at].read(found)
            self._at += 1
        return None

    def _forget(self, failed_at: int, sqlstate: str) -> None:
        """What was not prepared, because something before it failed."""
        if sqlstate == UNKNOWN_STATEMENT:
            self._names.clear()
        for place, statement in self._new.items():
            if place >= failed_at:
                self._names.pop(statement, None)

    def _lose(self, error: Exception) -> None:
        if self.closed:
            return
        self.closed = True
        told, self._told = self._told, None
        try:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._raw.close()
        finally:
            self._on_lost()
            if told is not None:
                told(None, error if isinstance(error, Gone) else Gone(str(error)))


def _nobody() -> None:
    """Whoever closes a session knows."""

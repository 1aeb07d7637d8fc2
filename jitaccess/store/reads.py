"""Several reads that see one state of the database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection, transaction

from jitaccess.store import byhand


def in_transaction() -> bool:
    """Whether somebody has begun one, with Django or, as `consistent_reads` does, without it."""
    if connection.in_atomic_block:
        return True
    return connection.vendor == "sqlite" and connection.connection is not None and connection.connection.in_transaction


@contextmanager
def consistent_reads() -> Iterator[None]:
    """Read only, at one state: REPEATABLE READ on PostgreSQL, a deferred transaction on SQLite.

    On SQLite `atomic` would take the write lock, for which every other writer would wait. Inside a transaction that
    is open already, that one has to do.
    """
    connection.ensure_connection()
    if in_transaction():
        yield
    elif connection.vendor == "postgresql":
        with transaction.atomic():
            byhand.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")  # in one packet with BEGIN
            yield
    else:
        with connection.cursor() as cursor:
            cursor.execute("BEGIN DEFERRED")
            try:
                yield
            finally:
                cursor.execute("COMMIT")


@contextmanager
def one_state() -> Iterator[None]:
    """A transaction that reads one state of the database throughout, and may write. Begin no other before it.

    On PostgreSQL a write to a row that changed meanwhile raises an error of which `was_overtaken` is true; on SQLite
    nobody else writes meanwhile.
    """
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        yield


def was_overtaken(error: Exception) -> bool:
    """Whether the database refused because another transaction was first (SQLSTATE 40001)."""
    return getattr(error.__cause__, "sqlstate", "") == "40001"

"""Entries of calls are read when they are entered: on PostgreSQL a sequencer does it, which most tests do not run.

So it is done before the test itself asks, and not when what is tested does: that has to do it itself.
"""

from __future__ import annotations

import threading
from typing import Any

import psycopg
from django.db import connection
from django.db.backends.signals import connection_created

_MARK = '"jit_audit_entry"'
# Not those that somebody is about to enter, who may stand still.
_ENTER = "DELETE FROM jit_audit_bundle WHERE id IN (SELECT id FROM jit_audit_bundle ORDER BY id FOR UPDATE SKIP LOCKED)"


def enter(raw: psycopg.Connection[Any]) -> None:
    """Enter what there is: where there is nothing, no lock is waited for."""
    if raw.execute("SELECT FROM jit_audit_bundle LIMIT 1").fetchone() is not None:
        raw.execute(_ENTER)


def enter_all() -> None:
    """In this thread."""
    if connection.vendor == "postgresql":
        connection.ensure_connection()
        enter(connection.connection)


def enter_before_reading() -> None:
    """In this process, for what its main thread asks."""
    connection_created.connect(_watch, dispatch_uid="tests.entered")


def _watch(*, connection: Any, **_: object) -> None:
    if connection.vendor == "postgresql" and threading.current_thread() is threading.main_thread():
        if _enter not in connection.execute_wrappers:  # it outlives each session
            connection.execute_wrappers.append(_enter)


def _enter(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    if sql.startswith("SELECT") and _MARK in sql and not context["connection"].in_atomic_block:
        enter(context["connection"].connection)
    return execute(sql, params, many, context)

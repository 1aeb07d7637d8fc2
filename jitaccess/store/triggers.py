"""Triggers that carry a promise, installed by whoever makes it and looked for before anything starts.

SQLite drops a table's triggers when a migration rebuilds the table. So they are not made once by a migration: every
migration run puts back what is missing or reads otherwise, and a process refuses to start without them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import connections


@dataclass(frozen=True, slots=True)
class Promise:
    """The triggers of one app on one kind of database: functions (PostgreSQL) first, then triggers by name."""

    triggers: Mapping[str, str]
    functions: tuple[str, ...] = field(default=())


_TABLE = re.compile(r" ON (\w+)")
_promises: dict[str, Callable[[str], Promise]] = {}


def register(app_label: str, promise: Callable[[str], Promise]) -> None:
    """`promise` gives an app's triggers for a vendor, "sqlite" or "postgresql"."""
    _promises[app_label] = promise


def install(connection: Any, promise: Promise) -> None:
    """Create what is missing and renew what reads otherwise; safe to run any number of times."""
    there = _existing(connection)
    with connection.cursor() as cursor:
        for statement in promise.functions:
            cursor.execute(statement)
        for name, statement in promise.triggers.items():
            if there.get(name) == _said(connection.vendor, statement):
                continue
            if connection.vendor == "postgresql":
                table = _TABLE.search(statement)[1]  # type: ignore[index]  # every CREATE TRIGGER names its table
                cursor.execute(f"DROP TRIGGER IF EXISTS {name} ON {table}")
                cursor.execute(statement)
                cursor.execute(f"COMMENT ON TRIGGER {name} ON {table} IS '{_said('postgresql', statement)}'")
            else:
                cursor.execute(f"DROP TRIGGER IF EXISTS {name}")
                cursor.execute(statement)


def install_after_migration(*, sender: Any, using: str, **_: object) -> None:
    """Put back what is missing, for the app that was just migrated (Django's post_migrate)."""
    promise = _promises.get(sender.label)
    tables = {model._meta.db_table for model in sender.get_models()}
    connection = connections[using]
    if promise is not None and tables <= set(connection.introspection.table_names()):
        install(connection, promise(connection.vendor))


def missing(connection: Any) -> list[str]:
    """Names of promised triggers that the database does not have, or has with another text."""
    there = _existing(connection)
    return sorted(
        name
        for promise in _promises.values()
        for name, statement in promise(connection.vendor).triggers.items()
        if there.get(name) != _said(connection.vendor, statement)
    )


def _said(vendor: str, statement: str) -> str:
    """What the database shows of a trigger. PostgreSQL rewrites its text, so a digest is kept in its comment."""
    return hashlib.sha256(statement.encode()).hexdigest() if vendor == "postgresql" else statement


def _existing(connection: Any) -> dict[str, str]:
    catalogue = (
        "SELECT tgname, coalesce(obj_description(oid, 'pg_trigger'), '') FROM pg_trigger "
        "WHERE NOT tgisinternal AND tgenabled <> 'D'"
        if connection.vendor == "postgresql"
        else "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    )
    with connection.cursor() as cursor:
        cursor.execute(catalogue)
        return dict(cursor.fetchall())

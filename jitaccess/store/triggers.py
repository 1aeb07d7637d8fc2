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

from django.db import connections, transaction


@dataclass(frozen=True, slots=True)
class Promise:
    """The triggers of one app on one kind of database: functions (PostgreSQL) first, then triggers by name."""

    triggers: Mapping[str, str]
    functions: tuple[str, ...] = field(default=())
    # Said once whenever a trigger had to be made: what happened without it was not noticed.
    afterwards: str = ""


_TABLE = re.compile(r" ON (\w+)")
_FUNCTION = re.compile(r"FUNCTION (\w+)\(\).*?\$\$(.*)\$\$", re.DOTALL)
_promises: dict[str, Callable[[str], Promise]] = {}


def register(app_label: str, promise: Callable[[str], Promise]) -> None:
    """`promise` gives an app's triggers for a vendor, "sqlite" or "postgresql"."""
    _promises[app_label] = promise


def install(connection: Any, promise: Promise) -> None:
    """Create what is missing and renew what reads otherwise; safe to run any number of times."""
    # One transaction: nobody writes between the end of an old trigger and the beginning of the new one.
    with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
        there = _existing(connection)
        for statement in promise.functions:
            cursor.execute(statement)
        renewed = [name for name in promise.triggers if there.get(name) != _said(connection.vendor, promise, name)]
        for name in renewed:
            statement = promise.triggers[name]
            if connection.vendor == "postgresql":
                table = _TABLE.search(statement)[1]  # type: ignore[index]  # every CREATE TRIGGER names its table
                cursor.execute(f"DROP TRIGGER IF EXISTS {name} ON {table}")
                cursor.execute(statement)
                said = _said("postgresql", promise, name)
                cursor.execute(f"COMMENT ON TRIGGER {name} ON {table} IS '{said}'")
            else:
                cursor.execute(f"DROP TRIGGER IF EXISTS {name}")
                cursor.execute(statement)
        if renewed and promise.afterwards:
            cursor.execute(promise.afterwards)


def drop_before_migration(*, using: str, plan: Any, **_: object) -> None:
    """SQLite reads every trigger when a table is renamed, and a migration that rebuilds one would fail on those that
    name it (Django's pre_migrate). They are put back after the run.
    """
    connection = connections[using]
    if connection.vendor == "sqlite" and plan:
        with connection.cursor() as cursor:
            for name in _existing(connection):
                cursor.execute(f'DROP TRIGGER "{name}"')


def install_after_migration(*, sender: Any, using: str, **_: object) -> None:
    """Put back what is missing, for the app that was just migrated (Django's post_migrate)."""
    promise = _promises.get(sender.label)
    tables = {model._meta.db_table for model in sender.get_models()}
    connection = connections[using]
    if promise is not None and tables <= set(connection.introspection.table_names()):
        install(connection, promise(connection.vendor))


def missing(connection: Any) -> list[str]:
    """Names of promised triggers and functions that the database does not have, or has with another text."""
    there, functions = _existing(connection), _functions(connection)
    lacking = set()
    for make in _promises.values():
        promise = make(connection.vendor)
        lacking |= {name for name in promise.triggers if there.get(name) != _said(connection.vendor, promise, name)}
        for statement in promise.functions:
            name, body = _FUNCTION.search(statement).groups()  # type: ignore[union-attr]  # as above
            if functions.get(name) != body:
                lacking.add(name)
    return sorted(lacking)


def _said(vendor: str, promise: Promise, name: str) -> str:
    """What the database shows of a trigger. PostgreSQL rewrites its text, so a digest is kept in its comment."""
    statement = promise.triggers[name]
    return hashlib.sha256(statement.encode()).hexdigest() if vendor == "postgresql" else statement


def _existing(connection: Any) -> dict[str, str]:
    # On PostgreSQL those only that fire in an ordinary session.
    catalogue = (
        "SELECT tgname, coalesce(obj_description(oid, 'pg_trigger'), '') FROM pg_trigger "
        "WHERE NOT tgisinternal AND tgenabled IN ('O', 'A')"
        if connection.vendor == "postgresql"
        else "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    )
    with connection.cursor() as cursor:
        cursor.execute(catalogue)
        return dict(cursor.fetchall())


def _functions(connection: Any) -> dict[str, str]:
    if connection.vendor != "postgresql":
        return {}
    with connection.cursor() as cursor:
        cursor.execute("SELECT proname, prosrc FROM pg_proc WHERE proname LIKE 'jit\\_%'")
        return dict(cursor.fetchall())

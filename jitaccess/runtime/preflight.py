"""Before anything starts: is var/ usable, does the schema fit; one clear sentence for each thing that is wrong."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from jitaccess.kernel.errors import Conflict, Invalid, Unavailable


def lock_var(var: Path) -> IO[str]:
    """Hold var/ for this process: two on one SQLite file would both be sequencer. Keep the result open.

    Raises Invalid when var/ cannot be used, Conflict when another process holds it.
    """
    try:
        var.mkdir(parents=True, exist_ok=True)
        file = (var / "lock").open("a+")
    except OSError as error:
        raise Invalid(
            "var.unusable", f"Cannot use {var}: {error.strerror}. It must be a directory that you may write to."
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        pid = file.read().strip() or "?"
        raise Conflict("var.in_use", f"jitaccess is already running on {var} (process {pid}). Stop it first.") from None
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()))
    file.flush()
    return file


def check_schema() -> MigrationExecutor:
    """The migration state of a database that this code can use, perhaps after migrating.

    Raises Unavailable when the database cannot be used, Conflict when its schema is newer than this code.
    """
    try:
        executor = MigrationExecutor(connection)
    except (DatabaseError, sqlite3.DatabaseError) as error:
        raise Unavailable("database.unusable", _unusable(error)) from error
    applied = executor.loader.applied_migrations
    newer = sorted(
        f"{app}.{name}" for app, name in applied if app.startswith("jit_") and (app, name) not in _ours(executor)
    )
    if newer:
        raise Conflict(
            "schema.newer",
            f"The database was migrated by a newer jitaccess ({newer[-1]}). "
            "Run that version, or restore a backup made before it (var/backups).",
        )
    return executor


def ensure_current() -> None:
    """For processes that must not migrate by themselves. Raises Conflict when the schema is older than this code."""
    executor = check_schema()
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise Conflict(
            "schema.older", "The database has an older schema. Run `jitaccess migrate` once, then start again."
        )


def prepare_database() -> str:
    """Bring the schema to this version, with a backup on SQLite; returns what was done. Raises as check_schema."""
    executor = check_schema()
    applied = bool(executor.loader.applied_migrations)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if not plan:
        return ""
    backup = _backup() if applied else None
    call_command("migrate", verbosity=0, interactive=False)
    if backup:
        return f"migrated {len(plan)} steps; a copy of the database as it was is {backup}"
    return f"migrated {len(plan)} steps" if applied else "created"


def _ours(executor: MigrationExecutor) -> set[tuple[str, str]]:
    return {key for key in executor.loader.disk_migrations if key[0].startswith("jit_")}


def _backup() -> Path | None:
    if connection.vendor != "sqlite":
        return None
    folder = settings.VAR / "backups"
    folder.mkdir(parents=True, exist_ok=True)
    path: Path = folder / f"jitaccess-{datetime.now(UTC):%Y%m%d-%H%M%S}.sqlite3"
    with sqlite3.connect(str(connection.settings_dict["NAME"])) as source, sqlite3.connect(path) as target:
        source.backup(target)
    return path


def _unusable(error: Exception) -> str:
    if connection.vendor == "sqlite":
        name = settings.DATABASES["default"]["NAME"]
        what_to_do = "Restore a backup from var/backups, or move it away to start anew."
        return f"The database {name} cannot be used ({error}). {what_to_do}"
    return f"PostgreSQL cannot be used: {str(error).strip()}. Check DATABASE_URL, and that the server is running."

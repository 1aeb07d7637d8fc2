"""Before anything starts: is var/ usable, does the schema fit; one clear sentence for each thing that is wrong."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from django.conf import settings
from django.core.management import call_command
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from jitaccess.kernel.errors import Conflict, Invalid, Unavailable
from jitaccess.store import triggers
from jitaccess.store.roles import lacking_rights


def lock_var(var: Path) -> IO[str]:
    """Hold var/ for this process: two on one SQLite file would both be sequencer. Keep the result open.

    Raises Invalid when var/ cannot be used, Conflict when another process holds it.
    """
    try:
        var.mkdir(parents=True, exist_ok=True, mode=0o700)
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
        raise Unavailable("database.unusable", unusable(error)) from error
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
    """For commands that must not migrate by themselves. Raises Conflict when the schema is not this code's."""
    executor = check_schema()
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        state = "an older schema" if executor.loader.applied_migrations else "no schema yet"
        raise Conflict("schema.older", f"The database has {state}. Run `jitaccess migrate` (or `jitaccess up`) once.")
    if lacking := lacking_rights():
        raise Conflict(
            "schema.not_granted",
            f"This database role may not use {lacking[0]} (of {len(lacking)}). "
            "Run `jitaccess database grant ROLE` as the owner, which is due after each migration.",
        )
    _ensure_triggers()


def _ensure_triggers() -> None:
    missing = triggers.missing(connection)
    if missing:
        raise Conflict(
            "schema.triggers_missing",
            f"The database lacks {len(missing)} of the triggers that protect it ({missing[0]}, …). "
            "Run `jitaccess migrate`, which puts them back, and find out who removed them.",
        )


def prepare_database(*, repair: bool = False) -> str:
    """Bring the schema to this version, with a backup on SQLite; returns what was done. Raises as check_schema.

    Missing triggers are put back with `repair` only, on purpose: somebody took them away.
    """
    executor = check_schema()
    applied = bool(executor.loader.applied_migrations)
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if not plan and not (repair and triggers.missing(connection)):
        _ensure_triggers()
        return ""
    backup = _backup() if applied else None
    with _alone():
        call_command("migrate", verbosity=0, interactive=False)
    if backup:
        return f"migrated {len(plan)} steps; a copy of the database as it was is {backup}"
    return f"migrated {len(plan)} steps" if applied else "created"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One migration at a time; on PostgreSQL without the timeouts that are meant for requests."""
    if connection.vendor != "postgresql":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("SET lock_timeout = 0; SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0")
        cursor.execute("SELECT pg_advisory_lock(%s)", [zlib.crc32(b"jitaccess:migrate")])
    try:
        yield
    finally:
        connection.close()  # frees the lock, and the next connection has its timeouts again


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


def unusable(error: Exception) -> str:
    """What is wrong with the database, and what to do."""
    if connection.vendor == "sqlite":
        name = settings.DATABASES["default"]["NAME"]
        what_to_do = "Restore a backup from var/backups, or move it away to start anew."
        # Nothing is wrong with what the database holds.
        if "unable to lock" in str(error):
            what_to_do = "That file only says whose turn it is to write: stop jitaccess, then move it away."
        elif "is locked" in str(error):
            what_to_do = "Try again when whoever writes to it has finished."
        return f"The database {name} cannot be used ({error}). {what_to_do}"
    said = " ".join(str(error).split()).rstrip(".")
    return f"PostgreSQL cannot be used: {said}. Check DATABASE_URL, and that the server is running."

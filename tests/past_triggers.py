"""Writes of which no trigger knows: a restored table, a replica's apply, somebody with a superuser's rights."""

from __future__ import annotations

from collections.abc import Callable

from django.db import connection

from jitaccess.store import triggers


def past_the_triggers(write: Callable[[], object]) -> None:
    """Call `write` while there are none."""
    existing = triggers._existing(connection)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET session_replication_role = replica")
        else:
            for name in existing:
                cursor.execute(f"DROP TRIGGER {name}")
        try:
            write()
        finally:
            if connection.vendor == "postgresql":
                cursor.execute("SET session_replication_role = DEFAULT")
            else:
                for text in existing.values():
                    cursor.execute(text)

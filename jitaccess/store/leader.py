"""Leader election: one process of an installation does what must be done once (sequencing, beat)."""

from __future__ import annotations

import zlib

from django.db import DatabaseError, connections


class Leadership:
    """Leadership of `task`, held by an advisory lock of this thread's connection on PostgreSQL.

    The lock dies with its connection, so a killed leader frees it without a timeout. On SQLite one process
    runs the installation (a file lock in var/ sees to that), and it always leads.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self._key = zlib.crc32(f"jitaccess:{task}".encode())
        self._held_by: object | None = None

    def held(self) -> bool:
        """True while this thread leads; takes the lead when it is free. Call it before every unit of work."""
        connection = connections["default"]
        if connection.vendor != "postgresql":
            return True
        try:
            connection.close_if_unusable_or_obsolete()
            connection.ensure_connection()
            if self._held_by is connection.connection:
                return True
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_try_advisory_lock(%s)", [self._key])
                self._held_by = connection.connection if cursor.fetchone()[0] else None
        except DatabaseError:
            self._held_by = None
            connection.close()
        return self._held_by is not None

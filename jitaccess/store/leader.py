"""Leader election: one process of an installation does what must be done once (sequencing, beat)."""

from __future__ import annotations

import zlib
from typing import Any

from django.db import Error, connections


class Leadership:
    """Leadership of `task`, held by an advisory lock of a connection of its own on PostgreSQL.

    The lock dies with its connection, so a killed leader frees it without a timeout; a pooler in between must pool
    sessions, not transactions. On SQLite one process runs the installation (a file lock in var/ sees to that), and
    it always leads. Belongs to one thread.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self._key = zlib.crc32(f"jitaccess:{task}".encode())
        self._connection: Any = None

    def held(self) -> bool:
        """Whether this process leads, asked of the database each time; takes the lead when it is free."""
        if connections["default"].vendor != "postgresql":
            return True
        try:
            if self._connection is not None:
                self._ask("SELECT 1")
                return True
            self._connection = connections.create_connection("default")
            # A host that loses its power says no goodbye; by TCP's defaults its lock would be held for two hours.
            self._run("SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3")
            if self._ask("SELECT pg_try_advisory_lock(%s)", self._key):
                return True
        except Error:
            pass  # whoever has the database leads
        self.give_up()
        return False

    def give_up(self) -> None:
        """Free the lead for others."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _run(self, statement: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(statement)

    def _ask(self, statement: str, *parameters: object) -> bool:
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return bool(cursor.fetchone()[0])

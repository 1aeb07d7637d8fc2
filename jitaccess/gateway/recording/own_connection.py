"""The batch writer's connection to the database, looked after as Django does between requests."""

from __future__ import annotations

import time

from django.db import close_old_connections, connection

TRUSTED_SECONDS = 1.0


class OwnConnection:
    """That of the thread which uses this."""

    def __init__(self) -> None:
        # When it was last seen to work; before that it is asked first.
        self._worked = -TRUSTED_SECONDS

    def has_worked(self) -> None:
        self._worked = time.monotonic()

    def look_after(self) -> None:
        """Close it where it is due or broken. Not a moment after it worked: whether it does takes as long to ask as to
        write a small batch.
        """
        now = time.monotonic()
        due = connection.close_at is not None and now >= connection.close_at
        if due or connection.errors_occurred or now - self._worked > TRUSTED_SECONDS:
            close_old_connections()

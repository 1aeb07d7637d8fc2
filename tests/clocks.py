"""Moving the database's clock: for every connection, thread and process that uses the test database."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from django.conf import settings
from django.db import connection

from jitaccess.store.clock import now

_FUNCTION = (
    "CREATE OR REPLACE FUNCTION jit_now() RETURNS timestamptz LANGUAGE sql VOLATILE AS 'SELECT clock_timestamp(){}'"
)


class Clock:
    """The clock behind jit_now(). Time passes; it can be shifted, not stopped."""

    def __init__(self) -> None:
        self._offset = 0.0

    def shift(self, seconds: float) -> datetime:
        """Let `seconds` pass (negative: go back) and return the time it is then."""
        self._set(self._offset + seconds)
        return now()

    def at(self, moment: datetime) -> datetime:
        """Make it `moment`, and return the time it is then."""
        self._set((moment - datetime.now(UTC)).total_seconds())
        return now()

    def now(self) -> datetime:
        return now()

    def restore(self) -> None:
        if self._offset and not connection.needs_rollback:
            self._set(0.0)

    def _set(self, offset: float) -> None:
        self._offset = offset
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute(_FUNCTION.format(f" + interval ''{offset:.6f} seconds''" if offset else ""))
            return
        # Renamed into place: a reader never sees half a number.
        path = Path(settings.TEST_CLOCK_FILE)
        draft = path.with_suffix(".draft")
        draft.write_text(repr(offset))
        draft.replace(path)

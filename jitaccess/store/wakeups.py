"""Wake-ups: policy has changed, a request was decided or the ledger has grown, so look now and not at the next poll. A
lost one costs a second, never access.

On PostgreSQL the trigger that raises the policy version notifies, in the transaction of the change, whoever makes it;
each process listens on a connection of its own. On SQLite the connections of this process tell after their COMMIT.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from django.db import connections

if TYPE_CHECKING:
    import psycopg

log = logging.getLogger(__name__)

CHANNEL = "jitaccess_policy"
LEDGER = "jitaccess_live"  # the sequencer has given entries their places
PAUSES = (0.2, 10.0)  # seconds after the first failed connection, and at most
LOOK_SECONDS = 0.5  # how often a thread that listens looks whether it shall stop

_WRITES = re.compile(
    r'\s*(?:INSERT\s+(?:OR\s+\w+\s+)?INTO|REPLACE\s+INTO|(UPDATE)|DELETE\s+FROM)\s+"?(\w+)', re.IGNORECASE
)
_tables: set[str] = set()
_updated: set[str] = set()
_listeners: defaultdict[str, set[Callable[[], None]]] = defaultdict(set)


def watch(tables: Iterable[str], *, updates_only: bool = False) -> None:
    """Tables whose changes are to wake the listeners of this process (SQLite; PostgreSQL's triggers know their own)."""
    (_updated if updates_only else _tables).update(tables)


def concerns(statement: str) -> bool:
    """Whether a statement may change one of these tables. One too many wakes somebody for nothing."""
    found = _WRITES.match(statement)
    return found is not None and (found[2] in _tables or (found[1] is not None and found[2] in _updated))


def tell(channel: str = CHANNEL) -> None:
    """Wake the listeners of this process: a transaction that concerned them is over."""
    for wake in tuple(_listeners[channel]):
        wake()


def notify(channel: str) -> None:
    """Wake whoever listens: on PostgreSQL every process, with the commit if one is to come; on SQLite this one."""
    connection = connections["default"]
    if connection.vendor != "postgresql":
        tell(channel)
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_notify(%s, '')", [channel])


class Wakeups:
    """Calls `wake`, from any thread, soon after something was told on `channel`. `start` and `stop` it once."""

    def __init__(self, wake: Callable[[], None], *, channel: str = CHANNEL) -> None:
        self._wake, self._channel = wake, channel
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if connections["default"].vendor != "postgresql":
            _listeners[self._channel].add(self._wake)
            return
        self._thread = threading.Thread(target=self._run, name="wake-ups", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Blocks for at most a second."""
        _listeners[self._channel].discard(self._wake)
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2 * LOOK_SECONDS)

    def _run(self) -> None:
        import psycopg  # here: on SQLite every command would pay for it
        from psycopg import sql

        pause, most = PAUSES
        while not self._stopping.is_set():
            try:
                with self._connect() as connection:
                    connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
                    pause = PAUSES[0]
                    self._wake()  # what was told while nobody listened
                    self._listen(connection)
            except (psycopg.Error, OSError) as error:
                log.warning("wake-ups are lost for a while, polling goes on: %s", " ".join(str(error).split()))
            if self._stopping.wait(pause):
                return
            pause = min(pause * 2, most)

    def _connect(self) -> psycopg.Connection:
        import psycopg

        return psycopg.connect(**connections["default"].get_connection_params(), autocommit=True)

    def _listen(self, connection: psycopg.Connection) -> None:
        while not self._stopping.is_set():
            for _ in connection.notifies(timeout=LOOK_SECONDS, stop_after=1):
                self._wake()

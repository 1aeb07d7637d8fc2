"""Whether a process knows the policy in force, and how it gets there when it does not: calls wait a moment for that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from jitaccess.policy.snapshots import SnapshotStore

log = logging.getLogger(__name__)

# So long calls wait, however long a look takes and however many follow one another. Then they go on with what is known,
# and what the database does not agree to is for the batch writer.
WAIT_SECONDS = 0.25


class Following:
    """Belongs to an event loop. `catch_up` brings the store to the policy in force: one look at a time, however long it
    takes. `then` is called whenever those who wait may go on.
    """

    def __init__(
        self, store: SnapshotStore, catch_up: Callable[[], Awaitable[object]], *, then: Callable[[], None]
    ) -> None:
        self._store, self._catch_up, self._then = store, catch_up, then
        self._loop = asyncio.get_running_loop()
        # The stamps of a policy that is not in force any more, and of one that may not be.
        self._overtaken = self._doubted = ""
        self._moved = self._closed = False  # moved: since the last look began
        self._patient = False  # calls wait, while one look follows another
        self._look: asyncio.Future[object] | None = None
        self._over: asyncio.TimerHandle | None = None

    @property
    def behind(self) -> bool:
        """Whether calls are to wait, for what is in force is being read."""
        if self._look is None or not self._patient:
            return False
        return self._store.current.stamp in (self._overtaken, self._doubted)

    def was_overtaken(self, stamp: str) -> bool:
        """Whether the database has said that this one is not in force any more."""
        return stamp == self._overtaken

    def overtaken(self, stamp: str) -> None:
        """The database says so."""
        self._overtaken = stamp
        self._follow()

    def moved(self) -> None:
        """Somebody says so: what is known here may be old."""
        self._doubted = self._store.current.stamp
        self._follow()

    def close(self) -> None:
        self._closed = True
        if self._over is not None:
            self._over.cancel()
        if self._look is not None:
            self._look.cancel()

    def _follow(self) -> None:
        self._moved = True
        if self._over is None and not self._closed:
            self._patient, self._over = True, self._loop.call_later(WAIT_SECONDS, self._enough)
            self._begin()

    def _enough(self) -> None:
        # Not by a look at the clock: a timer may come a moment before it says so.
        self._patient = False
        self._then()

    def _begin(self) -> None:
        if self._closed:
            return
        self._moved = False
        self._look = asyncio.ensure_future(self._catch_up())
        self._look.add_done_callback(self._looked)

    def _looked(self, look: asyncio.Future[object]) -> None:
        self._look = None
        if not look.cancelled() and (error := look.exception()) is not None:
            log.warning("policy cannot be read now: %r", error)  # the batch writer will see what it is
        if self._over is not None and not self._moved:
            self._over.cancel()
            self._over = None
        self._then()
        if self._moved:
            self._loop.call_soon(self._begin)  # after whoever waited for this look

"""Whether a process knows the policy in force, and how it gets there when it does not: calls wait a moment for that."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from jitaccess.policy.snapshots import SnapshotStore

log = logging.getLogger(__name__)

# Then calls go on with what is known; what the database no longer agrees to is for the batch writer.
WAIT_SECONDS = 1.0


class Following:
    """Belongs to an event loop. `catch_up` brings the store to the policy in force; after that comes `then`."""

    def __init__(
        self, store: SnapshotStore, catch_up: Callable[[], Awaitable[object]], *, then: Callable[[], None]
    ) -> None:
        self._store, self._catch_up, self._then = store, catch_up, then
        # The stamps of a policy that is not in force any more, and of one that may not be.
        self._overtaken = self._doubted = ""
        self._moved = False  # since the last look
        self._catching: asyncio.Task[None] | None = None

    @property
    def behind(self) -> bool:
        """Whether calls are to wait, for what is in force is being read."""
        return self._catching is not None and self._store.current.stamp in (self._overtaken, self._doubted)

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
        if self._catching is not None:
            self._catching.cancel()

    def _follow(self) -> None:
        self._moved = True
        if self._catching is None:
            self._catching = asyncio.create_task(self._catch())

    async def _catch(self) -> None:
        try:
            while self._moved:
                self._moved = False
                async with asyncio.timeout(WAIT_SECONDS):
                    await self._catch_up()
        except Exception as error:  # noqa: BLE001 - the batch writer will see what it is
            log.warning("policy cannot be read now: %r", error)
        finally:
            self._catching = None
        self._then()

"""Clients that leave before their answer has come: what they wanted is then given up."""

from __future__ import annotations

import asyncio
from typing import Self

from jitaccess.gateway.http import Receive, disconnected

# Most answers are there before anybody could leave; only for the others a task listens.
GLANCE_SECONDS = 0.2


class Presences:
    """Who waits for an answer of this process, on its event loop."""

    def __init__(self) -> None:
        self.young: dict[Presence, None] = {}  # nobody listens for them yet; oldest first
        self.timer: asyncio.TimerHandle | None = None

    def of(self, task: asyncio.Task[None], receive: Receive) -> Presence:
        """The client for whom `task` works, as long as the block lasts."""
        return Presence(self, task, receive)

    def soon(self) -> None:
        if self.timer is None:
            self.timer = asyncio.get_running_loop().call_later(GLANCE_SECONDS, self._look)

    def _look(self) -> None:
        self.timer = None
        before = asyncio.get_running_loop().time() - GLANCE_SECONDS / 2
        for client in [client for client in self.young if client.since <= before]:
            client.listen()
        if self.young:
            self.soon()


class Presence:
    """One client. `gone` says that it left."""

    __slots__ = ("_all", "_listener", "_over", "_receive", "_task", "gone", "since")

    def __init__(self, presences: Presences, task: asyncio.Task[None], receive: Receive) -> None:
        self._all, self._task, self._receive = presences, task, receive
        self._listener: asyncio.Task[None] | None = None
        self.since = asyncio.get_running_loop().time()
        self.gone = self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._all.young.pop(self, None)
        if self._listener is not None:
            self._listener.cancel()

    def ending(self) -> None:
        """The work is over, and the task only says so: who leaves now cancels nothing."""
        self._over = True

    def watch(self) -> None:
        """Cancel the task when the client leaves."""
        self._all.young[self] = None
        if self._all.timer is None:
            self._all.soon()

    def listen(self) -> None:
        del self._all.young[self]
        self._listener = asyncio.create_task(disconnected(self._receive))
        self._listener.add_done_callback(self._ended)

    def _ended(self, listener: asyncio.Task[None]) -> None:
        if not listener.cancelled():
            self.left()

    def left(self) -> None:
        if not self.gone:
            self.gone = True
            # A listener may have heard of it in the very moment in which the work ended.
            if not self._over:
                self._task.cancel()

"""How long the calls of one connection may take: each runs in its caller's task, and one timer watches all of them."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import msgspec

from .asked import Asked
from .errors import UpstreamError

TIMEOUT, CLOSED = "timeout", "closed"


class Bound(msgspec.Struct, eq=False):
    """One call. `ends` is the loop's time at which it is over, not counting what its server's questions take."""

    task: asyncio.Task[Any]
    asked: Asked
    ends: float
    before: int
    why: str = ""

    def end(self, why: str) -> None:
        """Cancel it; `why` tells this from a cancellation by whoever called."""
        if not self.why:
            self.why = why
            self.task.cancel()

    def ended(self) -> str:
        """Why it was cancelled by `end`, which is then settled; "" when it was not, or not by that alone."""
        return self.why if self.why and self.task.uncancel() <= self.before else ""


class Bounds:
    """Those of the calls in progress, by the id of the request, oldest first."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.calls: dict[int, Bound] = {}
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf
        self._empty: asyncio.Future[None] | None = None

    def add(self, call_id: int, asked: Asked, seconds: float) -> Bound:
        """The current task's call; `remove` is due whatever comes of it."""
        task = asyncio.current_task()
        assert task is not None
        bound = self.calls[call_id] = Bound(task, asked, self._loop.time() + seconds, task.cancelling())
        if bound.ends < self._at:  # as a rule one that began earlier ends earlier: then nothing is to be done
            self._arm(bound.ends)
        return bound

    def remove(self, call_id: int) -> None:
        del self.calls[call_id]
        if self._empty is not None and not self.calls and not self._empty.done():
            self._empty.set_result(None)

    async def close(self) -> None:
        """End all of them, and return when they are over."""
        if self._timer is not None:
            self._timer.cancel()
        for bound in list(self.calls.values()):
            bound.end(CLOSED)
        if self.calls:
            self._empty = self._loop.create_future()
            await self._empty

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = self._loop.call_at(at, self._check)

    def _check(self) -> None:
        self._timer, self._at = None, math.inf
        now = self._loop.time()
        nearest = math.inf
        for bound in list(self.calls.values()):
            ends = bound.ends + bound.asked.waited
            if ends <= now:
                bound.end(TIMEOUT)
            else:
                nearest = min(nearest, ends)
        if nearest < math.inf:
            self._arm(nearest)


def late(slug: str, method: str, seconds: float, *, sent: bool) -> UpstreamError:
    """The server did not answer in time."""
    detail = f'The server "{slug}" did not answer "{method}" within {seconds:g} seconds.'
    return UpstreamError("upstream.timeout", detail, sent=sent, server=slug)

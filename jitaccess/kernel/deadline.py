"""Deadlines by the thousand: as asyncio.timeout, with one timer for all of an event loop, as most are never due."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from contextvars import copy_context
from types import TracebackType
from typing import Any


class deadline:  # noqa: N801 - read like asyncio.timeout
    """`with deadline(seconds):` what the current task awaits inside. Raises TimeoutError when it takes longer."""

    __slots__ = ("_all", "_before", "_late", "_task", "ends")

    def __init__(self, seconds: float) -> None:
        self._all = _deadlines()
        self.ends = self._all.loop.time() + seconds

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[Any] = task
        self._before, self._late = task.cancelling(), False
        self._all.add(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.pending.pop(self, None)
        # Somebody else may have cancelled the task as well: then it is theirs.
        if self._late and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        self._late = True
        self._task.cancel()


class alarm:  # noqa: N801 - read like `deadline`
    """Calls `then` after so many seconds on the event loop, in the context of now, unless it is spared that before."""

    __slots__ = ("_all", "_context", "_then", "ends")

    def __init__(self, seconds: float, then: Callable[[], None]) -> None:
        self._all, self._then, self._context = _deadlines(), then, copy_context()
        self.ends = self._all.loop.time() + seconds
        self._all.add(self)

    def spare(self) -> None:
        self._all.pending.pop(self, None)

    def expire(self) -> None:
        self._context.run(self._then)


class _Deadlines:
    """Those of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.pending: dict[deadline | alarm, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def add(self, one: deadline | alarm) -> None:
        self.pending[one] = None
        if one.ends < self._at:  # as a rule there is an earlier one
            self._arm(one.ends)

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = self.loop.call_at(at, self._check)

    def _check(self) -> None:
        self._timer, self._at = None, math.inf
        now = self.loop.time()
        try:
            for one in sorted((one for one in self.pending if one.ends <= now), key=_ends):
                if one in self.pending:  # another may have spared it
                    del self.pending[one]
                    one.expire()
        finally:
            if self.pending:
                self._arm(min(map(_ends, self.pending)))


def _ends(one: deadline | alarm) -> float:
    return one.ends


class _Here(threading.local):
    """Those of the event loop that runs in this thread, or ran in it last."""

    found: _Deadlines | None = None


_here = _Here()


def _deadlines() -> _Deadlines:
    loop, found = asyncio.get_running_loop(), _here.found
    if found is None or found.loop is not loop:
        found = _here.found = _Deadlines(loop)
    return found

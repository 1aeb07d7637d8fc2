"""Deadlines by the thousand: as asyncio.timeout, with one timer for all of an event loop, as most are never due."""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary


class deadline:  # noqa: N801 - read like asyncio.timeout
    """`with deadline(seconds):` what the current task awaits inside. Raises TimeoutError when it takes longer."""

    __slots__ = ("_all", "_before", "_late", "_task", "ends")

    def __init__(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._all = _of.get(loop) or _of.setdefault(loop, _Deadlines())
        self.ends = loop.time() + seconds

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


class _Deadlines:
    """Those of one event loop."""

    def __init__(self) -> None:
        self.pending: dict[deadline, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def add(self, one: deadline) -> None:
        self.pending[one] = None
        if one.ends < self._at:  # as a rule there is an earlier one
            self._arm(one.ends)

    def _arm(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._check)

    def _check(self) -> None:
        self._timer, self._at = None, math.inf
        now = asyncio.get_running_loop().time()
        for one in [one for one in self.pending if one.ends <= now]:
            del self.pending[one]
            one.expire()
        if self.pending:
            self._arm(min(one.ends for one in self.pending))


_of: WeakKeyDictionary[asyncio.AbstractEventLoop, _Deadlines] = WeakKeyDictionary()

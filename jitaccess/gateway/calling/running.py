"""Calls under way at servers: one whose right ends while it runs is cut, at once or after the time the server is given.

A right ends by the clock, by a revoke, by a lock, or with its agent or user. The first is watched by each call's own
timer, the others each time somebody has read policy.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from jitaccess.gateway.recording.facts import Admitted
from jitaccess.policy.engine.decide import END_OF_TIME, Verdict, Who, decide
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store.host_clock import steady


class RunningCall:
    """One call, while the block lasts: raises TimeoutError when it was cut. `cut` says that its right has ended."""

    __slots__ = ("_all", "_before", "_cancelled", "_end", "_task", "admitted", "cut", "timer")

    def __init__(self, calls: RunningCalls, admitted: Admitted) -> None:
        self._all, self.admitted, self.cut = calls, admitted, False
        self.timer: asyncio.TimerHandle | None = None
        self._end: asyncio.TimerHandle | None = None
        self._cancelled = False

    def now(self) -> datetime:
        """The database's clock, as read for the call and carried on."""
        return self.admitted.clock + timedelta(seconds=steady() - self.admitted.read_at)

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task: asyncio.Task[Any] = task
        self._before = task.cancelling()
        self._all.begin(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.over(self)
        if self._end is not None:
            self.spare()
        # Somebody else may have cancelled the task as well: then it is theirs.
        if self._cancelled and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from error

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def end_in(self, seconds: float) -> None:
        """Cancel it then."""
        self.spare()
        self._end = asyncio.get_running_loop().call_later(seconds, self._cancel)

    def spare(self) -> None:
        """Do not cancel it after all."""
        if self._end is not None:
            self._end.cancel()
            self._end = None

    def _cancel(self) -> None:
        self._end, self._cancelled = None, True
        self._task.cancel()


class RunningCalls:
    """Those of one process, on its event loop."""

    def __init__(self, store: SnapshotStore) -> None:
        self._store = store
        self._calls: set[RunningCall] = set()
        # Let through by a batch that may have been a moment behind what was checked last.
        self._fresh: set[RunningCall] = set()
        self._stamp = ""

    def __len__(self) -> int:
        return len(self._calls)

    def one(self, admitted: Admitted) -> RunningCall:
        """Watch this call while the block lasts."""
        return RunningCall(self, admitted)

    def begin(self, running: RunningCall) -> None:
        self._calls.add(running)
        self._fresh.add(running)
        if running.admitted.verdict.until is not END_OF_TIME:
            self._arm(running, running.admitted.verdict.until)

    def look(self, running: RunningCall) -> None:
        """Cut it if its right has ended since it was let through: of one that was in nobody's list until now."""
        self._look(running, self._store.current, running.now())

    def over(self, running: RunningCall) -> None:
        self._calls.discard(running)
        self._fresh.discard(running)
        if running.timer is not None:
            self._disarm(running)

    def go_on(self, running: RunningCall, admitted: Admitted) -> None:
        """The same work goes on under a new admission."""
        running.admitted = admitted
        if running.cut and not running.cancelled:
            running.cut = False
            running.spare()
        self._fresh.add(running)
        self._arm(running, admitted.verdict.until)

    def check(self, snapshot: Snapshot, at: datetime) -> None:
        """Cut every call that may not be made any more. Called whenever policy was read."""
        due = list(self._fresh if snapshot.stamp == self._stamp else self._calls)
        self._stamp = snapshot.stamp
        self._fresh.clear()
        for running in due:
            self._look(running, snapshot, at)

    def _look(self, running: RunningCall, snapshot: Snapshot, at: datetime) -> None:
        if running.cut:
            return
        verdict = still(snapshot, running.admitted, at)
        if verdict.allowed:
            self._arm(running, verdict.until)
            return
        running.cut = True
        self._disarm(running)
        server = running.admitted.verdict.server
        more = server.options.let_finish_seconds if server else 0
        running.end_in(more)

    def _arm(self, running: RunningCall, until: datetime) -> None:
        self._disarm(running)
        if until == END_OF_TIME:
            return
        left = max((until - running.now()).total_seconds(), 0.0) + 0.002
        running.timer = asyncio.get_running_loop().call_later(min(left, 3600.0), self._due, running)

    def _due(self, running: RunningCall) -> None:
        self._look(running, self._store.current, running.now())

    def _disarm(self, running: RunningCall) -> None:
        if running.timer is not None:
            running.timer.cancel()
            running.timer = None


def still(snapshot: Snapshot, admitted: Admitted, at: datetime, *, answers: bool | None = None) -> Verdict:
    """What policy says of a call that was let through: its own use is made, and does not count against it."""
    intent = admitted.intent
    assert intent.principal.agent
    return decide(
        replace(snapshot, spent=snapshot.spent - set(admitted.verdict.bindings)) if snapshot.spent else snapshot,
        who=Who(intent.principal.agent, intent.principal.user),
        server=intent.server,
        tool=intent.tool,
        at=at,
        arguments=intent.given,
        digest=intent.digest,
        kind=intent.kind,
        answers=intent.answers if answers is None else answers,
    )

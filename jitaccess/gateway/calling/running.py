"""Calls under way at servers: one whose right ends while it runs is cut, at once or after the time the server is given.

A right ends by the clock, by a revoke, by a lock, or with its agent or user. The first is watched by each call's own
timer, the others each time somebody has read policy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from jitaccess.gateway.recording.batch import Admitted
from jitaccess.policy.engine.decide import END_OF_TIME, Verdict, Who, decide
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store.host_clock import steady


@dataclass(eq=False, slots=True)
class RunningCall:
    """One call. `scope` is what cancels it; `cut` says that its right has ended."""

    admitted: Admitted
    scope: asyncio.Timeout
    cut: bool = False
    timer: asyncio.TimerHandle | None = None

    def now(self) -> datetime:
        """The database's clock, as read for the call and carried on."""
        return self.admitted.clock + timedelta(seconds=steady() - self.admitted.read_at)


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

    @contextmanager
    def one(self, admitted: Admitted, scope: asyncio.Timeout) -> Iterator[RunningCall]:
        """Watch this call while it lasts."""
        running = RunningCall(admitted, scope)
        self._calls.add(running)
        self._fresh.add(running)
        self._arm(running, admitted.verdict.until)
        try:
            yield running
        finally:
            self._calls.discard(running)
            self._fresh.discard(running)
            self._disarm(running)

    def go_on(self, running: RunningCall, admitted: Admitted) -> None:
        """The same work goes on under a new admission."""
        running.admitted = admitted
        if running.cut and not running.scope.expired():
            running.cut = False
            running.scope.reschedule(None)
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
        running.scope.reschedule(asyncio.get_running_loop().time() + more)

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

"""Admission: every call is decided and recorded, in batches, before it may be forwarded.

One thread commits batches back to back; the next gathers while one is written. What a batch does is in batch.py. A call
received after a revoke has committed is refused, because the version read in its batch is newer than the revoke. On
PostgreSQL most calls need no thread: see lane.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from django.db import close_old_connections, connection

from jitaccess.audit.events import Event, Outcome
from jitaccess.gateway.recording import counters
from jitaccess.gateway.recording.batch import AWAY, admit_batch
from jitaccess.gateway.recording.clock_guard import ClockGuard
from jitaccess.gateway.recording.endings import touches_uses, write_endings
from jitaccess.gateway.recording.facts import Admitted, Ending, Hears, Intent, UnheardCommit, Waiting, tell
from jitaccess.gateway.recording.instances import LEASE
from jitaccess.gateway.recording.own_connection import OwnConnection
from jitaccess.kernel.deadline import deadline
from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import Json
from jitaccess.policy.compiler import Head
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store import byhand, metrics
from jitaccess.store.host_clock import steady

if TYPE_CHECKING:
    from jitaccess.gateway.recording.lane import Lane

log = logging.getLogger(__name__)

MAX_BATCH = 256
COMMIT_SECONDS = 40.0  # longer than the database lets a statement run
PAUSE_SECONDS = 10.0
# How long the end of a call waits for a call with which it shares a commit.
ENDS_WAIT = 0.02


class Admission:
    """The batch writer of one gateway process. Thread-safe; `admit` belongs to an event loop."""

    def __init__(self, store: SnapshotStore, instance: UUID, guard: ClockGuard) -> None:
        self._store, self.instance, self._guard = store, instance, guard
        # On the steady clock. Past it others may close this process's calls, so it starts none: it fences itself.
        self.lease_until = steady() + LEASE.total_seconds()
        self._ready = threading.Condition()
        self._sleeping = False
        self._waiting: list[Waiting] = []
        self._endings: list[Ending] = []
        self._ends_due = 0.0
        self._stopping = False
        self._connection = OwnConnection()
        self._thread = threading.Thread(target=self._run, name="admission", daemon=True)
        self._lane: Lane | None = None
        self._home = 0  # the thread of the lane's event loop
        self._looking_after: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._thread.start()

    async def start_lane(self, catch_up: Callable[[], Awaitable[object]]) -> None:
        """Let calls of this event loop take the quick way, where there is one. `catch_up`: as of the Lane."""
        if byhand.on_sqlite():
            return
        from jitaccess.gateway.recording import lane, lane_keeper  # here: on SQLite nobody needs the driver

        self._home = threading.get_ident()
        self._lane = lane.Lane(
            store=self._store,
            instance=lambda: self.instance,
            lease_until=lambda: self.lease_until,
            answer=self._let_through,
            calls_left=self._take_over_calls,
            ends_left=self._take_over_ends,
            unheard=self._unheard,
            catch_up=catch_up,
        )
        self._looking_after = asyncio.create_task(lane_keeper.keep_open(self._lane))

    async def stop_lane(self) -> None:
        """To be done before `stop`: what is under way is waited for, what waits is left to the thread."""
        lane, self._lane = self._lane, None
        if lane is not None and self._looking_after is not None:
            from jitaccess.gateway.recording import lane_keeper

            await lane_keeper.leave(lane, self._looking_after)

    def stop(self, *, timeout: float = 5) -> None:
        """Write what waits, then end the thread."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        self._thread.join(timeout)

    def write_left(self) -> None:
        """After `stop`: the ends of calls of the last batch that nobody waits for any more."""
        endings, self._endings = self._endings, []
        if endings and not self._thread.is_alive():
            self._write_endings(endings)
            connection.close()

    async def admit(self, intent: Intent) -> Admitted:
        """Decide and record. Raises Unavailable when that is not possible: then nothing may be forwarded."""
        future: asyncio.Future[Admitted] = asyncio.get_running_loop().create_future()
        self.enter(intent, future)
        return await self.heard(future)

    def enter(self, intent: Intent, future: Hears) -> None:
        """As `admit`, for who is told instead of waiting: an Admitted that nobody wants any more is taken back."""
        lane = self._lane
        if lane is not None and lane.open and intent.plain and not self._stopping:
            lane.enter(Waiting(intent, future))
        else:
            self._take_over_calls([Waiting(intent, future)])

    async def heard(self, future: asyncio.Future[Admitted]) -> Admitted:
        """What the future of `enter` says. Raises as `admit`."""
        try:
            return await future
        except asyncio.CancelledError:
            # The decision may be on record by now or a moment later (then `_settle` sees that nobody waits any more);
            # an authorized call must not stay open for ever.
            if future.done() and not future.cancelled() and future.exception() is None:
                self._unwanted(future.result())
            raise

    async def look(self, hashed: str) -> Head | None:
        """As `Lane.look`; None where there is no lane."""
        lane = self._lane
        return await lane.look(hashed) if lane is not None else None

    def policy_moved(self) -> None:
        """Somebody says so: calls of the lane wait until it is known here what has changed."""
        if self._lane is not None:
            self._lane.policy.moved()

    def _take_over_calls(self, calls: Sequence[Waiting]) -> None:
        """They are the thread's."""
        if not calls:
            return
        with self._ready:
            if not self._stopping:
                self._waiting.extend(calls)
                if self._sleeping:
                    self._ready.notify()
                return
        refusal = Unavailable("gateway.stopping", "The gateway is shutting down; try again.")
        self._settle([(waiting.future, refusal) for waiting in calls])

    def _take_over_ends(self, endings: Sequence[Ending], *, at_once: bool = False) -> None:
        if not endings:
            return
        with self._ready:
            if not self._endings or at_once:
                self._ends_due = 0.0 if at_once else time.monotonic() + ENDS_WAIT
                if self._sleeping:
                    self._ready.notify()
            self._endings.extend(endings)

    def _let_through(self, calls: Sequence[Waiting], answers: Sequence[Admitted]) -> None:
        """By the lane, on its event loop."""
        counters.allowed().inc(len(answers))
        for waiting, answer in zip(calls, answers, strict=True):
            if waiting.future.done():
                self._unwanted(answer)
            else:
                waiting.future.set_result(answer)

    def _unwanted(self, answer: Admitted | Exception) -> None:
        if isinstance(answer, Admitted) and answer.allowed:
            self.not_sent(answer, "the client left or cancelled the call")

    def _settle(self, answers: list[tuple[Hears, Admitted | Exception]]) -> None:
        """On the event loop, for a whole batch at once."""
        for future, answer in answers:
            if future.done():
                self._unwanted(answer)
            elif isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def not_sent(self, admitted: Admitted, why: str) -> None:
        """Record that nothing of an authorized call reached the server."""
        self.finish(admitted, Event.CALL_NOT_SENT, Outcome.ERROR, {"why": why})

    def finish(
        self,
        admitted: Admitted,
        event: Event,
        outcome: Outcome,
        data: dict[str, Json],
        *,
        continuation: UUID | None = None,
        told: Callable[[], None] | None = None,
    ) -> None:
        """Record how an authorized call ended, with the next batch; kept and tried again while the database is away.
        With `continuation` the same principal may go on with it, once. `told` is called after it, from another thread.
        """
        seconds = None if event is Event.CALL_NOT_SENT else steady() - admitted.read_at
        counters.ends.count(event, admitted.intent.server_name, seconds)
        ending = Ending(admitted, event, outcome, data, continuation, told)
        lane = self._lane
        if lane is not None and lane.open and ending.plain and threading.get_ident() == self._home:
            lane.end(ending)
        else:
            self._take_over_ends([ending], at_once=told is not None)

    async def pause(self, admitted: Admitted, data: dict[str, Json], *, continuation: UUID) -> None:
        """Record that a call ended with a question to its client, and how it may go on. Raises Unavailable when that is
        not on record in time: whoever goes on in another process would not be known there.
        """
        loop = asyncio.get_running_loop()
        recorded: asyncio.Future[None] = loop.create_future()

        def told() -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: None if recorded.done() else recorded.set_result(None))

        self.finish(admitted, Event.CALL_COMPLETED, Outcome.ALLOWED, data, continuation=continuation, told=told)
        try:
            with deadline(PAUSE_SECONDS):
                await recorded
        except TimeoutError:
            raise Unavailable("ledger.unavailable", "The gateway cannot record calls right now.") from None

    def _run(self) -> None:
        while True:
            with self._ready:
                self._sleep()
                calls, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                endings, self._endings = self._endings[:MAX_BATCH], self._endings[MAX_BATCH:]
                if self._stopping and not calls and not endings:
                    break
            if calls and endings and self._write_together(endings, calls):
                continue
            if endings and not self._write_endings(endings) and not calls:
                if self._stopping:
                    break
                time.sleep(0.5)  # the database is away; without calls there is nobody to refuse meanwhile
            self._write_calls(calls)
        connection.close()

    def _sleep(self) -> None:
        """Until there is something to write. Ends wait a little for a call with which they share a commit: alone they
        would make the next call wait for theirs.
        """
        while not (self._waiting or self._stopping or len(self._endings) >= MAX_BATCH):
            left = self._ends_due - time.monotonic() if self._endings else None
            if left is not None and left <= 0:
                return
            self._sleeping = True
            try:
                self._ready.wait(left)
            finally:
                self._sleeping = False

    def _write_together(self, endings: list[Ending], calls: Sequence[Waiting]) -> bool:
        """One commit for both. False: each has to be tried by itself, because one may be to blame and not the other.

        Ends that touch uses go alone: two processes would take the rows of uses in different orders.
        """
        if any(touches_uses(ending) for ending in endings):
            return False
        try:
            answers = self._commit([waiting.intent for waiting in calls], endings)
        except UnheardCommit as error:
            self._keep(endings)  # whether they are on record is as unsure; a second time says nothing new
            self._unheard(calls, error)
        except AWAY as error:
            self._keep(endings)
            log.warning("%d calls refused: the ledger cannot be written (%s)", len(calls), error)
            self._refuse(calls)
        except Exception:  # noqa: BLE001 - said by whoever is to blame
            return False
        else:
            step("complete.committed")
            tell(endings)
            self._answer(calls, answers)
        return True

    def _keep(self, endings: list[Ending]) -> None:
        """They are tried again with the next batch."""
        with self._ready:
            self._endings[:0] = endings

    def _write_endings(self, endings: list[Ending]) -> bool:
        """False when the database is away; then they wait. One that cannot be written must not hold up the others."""
        try:
            self._connection.look_after()
            write_endings(endings, instance=self.instance)
            self._connection.has_worked()
        except AWAY as error:
            log.error("endings of %d calls are not on record yet: %s", len(endings), error)  # noqa: TRY400 - no traceback per retry
            self._keep(endings)
            return False
        except Exception:
            if len(endings) == 1:
                log.exception("the outcome of call %s cannot be recorded", endings[0].admitted.intent.call)
                return True  # the call stays open, and is closed as unknown once this process has ended
            middle = len(endings) // 2
            return all([self._write_endings(endings[:middle]), self._write_endings(endings[middle:])])
        tell(endings)
        return True

    def _write_calls(self, calls: Sequence[Waiting]) -> None:
        """Answer every call, whatever happens. A batch that fails is halved, so that only the culprit is refused;
        not so while the database is away or locked, or every half would wait for it in turn.
        """
        if not calls:
            return
        try:
            answers = self._commit([waiting.intent for waiting in calls])
        except UnheardCommit as error:
            self._unheard(calls, error)
        except (*AWAY, Unavailable) as error:
            log.warning("%d calls refused: the ledger cannot be written (%s)", len(calls), error)
            self._refuse(calls)
        except Exception as error:
            if len(calls) > 1:
                middle = len(calls) // 2
                self._write_calls(calls[:middle])
                self._write_calls(calls[middle:])
                return
            log.exception("a call was refused, because it cannot be recorded", exc_info=error)
            self._refuse(calls)
        else:
            self._answer(calls, answers)

    def _answer(self, calls: Sequence[Waiting], answers: Sequence[Admitted | Exception]) -> None:
        reasons: Counter[tuple[str, str]] = Counter()
        loops: dict[asyncio.AbstractEventLoop, list[tuple[Hears, Admitted | Exception]]] = {}
        for waiting, answer in zip(calls, answers, strict=True):
            if isinstance(answer, Admitted):
                reasons["allowed" if answer.allowed else "denied", answer.code] += 1
            else:
                reasons["denied", "ledger.unavailable"] += 1
            loops.setdefault(waiting.future.get_loop(), []).append((waiting.future, answer))
        for labels, count in reasons.items():
            metrics.CALLS.labels(*labels).inc(count)
        for loop, settled in loops.items():
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._settle, settled)

    def _unheard(self, calls: Sequence[Waiting], error: UnheardCommit) -> None:
        log.warning("%d calls refused: %s", len(calls), error)
        self._refuse(calls)
        self._take_back([answer for answer in error.answers if answer.allowed], str(error))

    def _take_back(self, answers: list[Admitted], why: str) -> None:
        """Nothing of these calls was sent, if they are on record: said at once, and when a late commit must be over."""
        for answer in answers:
            self.not_sent(answer, why)
        again = [Ending(answer, Event.CALL_NOT_SENT, Outcome.ERROR, {"why": why}) for answer in answers]
        later = threading.Timer(COMMIT_SECONDS, self._take_over_ends, (again,))
        later.daemon = True
        later.start()

    def _refuse(self, calls: Sequence[Waiting]) -> None:
        why = "The gateway cannot record calls right now, so it refuses them."
        self._answer(calls, [Unavailable("ledger.unavailable", why) for _ in calls])

    def _commit(self, intents: list[Intent], endings: Sequence[Ending] = ()) -> list[Admitted]:
        metrics.BATCH_SIZE.observe(len(intents))
        with metrics.BATCH_SECONDS.time():
            self._connection.look_after()
            try:
                answers = self._admit(intents, endings)
            except AWAY as error:
                # Nothing of it is on record. It may be that only the connection has gone since it was last used.
                if not byhand.is_lost(error):
                    raise
                close_old_connections()
                answers = self._admit(intents, endings)
        self._connection.has_worked()
        return answers

    def _admit(self, intents: list[Intent], endings: Sequence[Ending]) -> list[Admitted]:
        return admit_batch(
            intents,
            store=self._store,
            instance=self.instance,
            guard=self._guard,
            lease_until=lambda: self.lease_until,
            endings=endings,
        )

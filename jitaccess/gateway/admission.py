"""Admission: every call is decided and recorded, in batches, before it may be forwarded.

One thread commits batches back to back; the next gathers while one is written. What a batch does is in batch.py. A call
received after a revoke has committed is refused, because the version read in its batch is newer than the revoke.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from django.db import close_old_connections, connection

from jitaccess.audit.events import Event, Outcome
from jitaccess.gateway.batch import (
    AWAY,
    Admitted,
    Ending,
    Intent,
    UnheardCommit,
    admit_batch,
    touches_uses,
    write_endings,
)
from jitaccess.gateway.clock_guard import ClockGuard
from jitaccess.gateway.instances import LEASE
from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import Json
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store import metrics
from jitaccess.store.host_clock import steady

log = logging.getLogger(__name__)

MAX_BATCH = 256
# Longer than the database lets a statement run.
COMMIT_SECONDS = 40.0
PAUSE_SECONDS = 10.0


@dataclass(slots=True)
class _Waiting:
    intent: Intent
    settle: Callable[[Admitted | Exception], None]


class Admission:
    """The batch writer of one gateway process. Thread-safe; `admit` belongs to an event loop."""

    def __init__(self, store: SnapshotStore, instance: UUID, guard: ClockGuard) -> None:
        self._store, self.instance, self._guard = store, instance, guard
        # On the steady clock. Past it others may close this process's calls, so it starts none: it fences itself.
        self.lease_until = steady() + LEASE.total_seconds()
        self._ready = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._endings: list[Ending] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="admission", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, timeout: float = 5) -> None:
        """Write what waits, then end the thread."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        self._thread.join(timeout)

    async def admit(self, intent: Intent) -> Admitted:
        """Decide and record. Raises Unavailable when that is not possible: then nothing may be forwarded."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Admitted] = loop.create_future()

        def settle(answer: Admitted | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, answer)

        with self._ready:
            if self._stopping:
                raise Unavailable("gateway.stopping", "The gateway is shutting down; try again.")
            self._waiting.append(_Waiting(intent, settle))
            self._ready.notify()
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The decision may be on record by now or a moment later; an authorized call must not stay open for ever.
            future.add_done_callback(self._unwanted)
            raise

    def _unwanted(self, future: asyncio.Future[Admitted]) -> None:
        if future.exception() is None and future.result().allowed:
            self.not_sent(future.result(), "the client left or cancelled the call")

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

        With `continuation` the same principal may go on with it, once. `told` is called, from another thread, when it
        is on record.
        """
        metrics.CALL_ENDINGS.labels(event).inc()
        if event != Event.CALL_NOT_SENT:
            metrics.FORWARD_SECONDS.labels(admitted.intent.server_name).observe(steady() - admitted.read_at)
        with self._ready:
            self._endings.append(Ending(admitted, event, outcome, data, continuation, told))
            self._ready.notify()

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
            await asyncio.wait_for(recorded, PAUSE_SECONDS)
        except TimeoutError:
            raise Unavailable("ledger.unavailable", "The gateway cannot record calls right now.") from None

    def _run(self) -> None:
        while True:
            with self._ready:
                while not (self._waiting or self._endings or self._stopping):
                    self._ready.wait()
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

    def _write_together(self, endings: list[Ending], calls: Sequence[_Waiting]) -> bool:
        """One commit for both. False: each has to be tried by itself, because one may be to blame and not the other.

        Ends that touch uses go alone: two processes would take the rows of uses in different orders.
        """
        if any(touches_uses(ending) for ending in endings):
            return False
        try:
            close_old_connections()
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
            _tell(endings)
            self._answer(calls, answers)
        return True

    def _keep(self, endings: list[Ending]) -> None:
        """They are tried again with the next batch."""
        with self._ready:
            self._endings[:0] = endings

    def _write_endings(self, endings: list[Ending]) -> bool:
        """False when the database is away; then they wait. One that cannot be written must not hold up the others."""
        try:
            close_old_connections()
            write_endings(endings, instance=self.instance)
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
        _tell(endings)
        return True

    def _write_calls(self, calls: Sequence[_Waiting]) -> None:
        """Answer every call, whatever happens. A batch that fails is halved, so that only the culprit is refused;
        not so while the database is away or locked, or every half would wait for it in turn.
        """
        if not calls:
            return
        try:
            close_old_connections()
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

    def _answer(self, calls: Sequence[_Waiting], answers: Sequence[Admitted]) -> None:
        for waiting, answer in zip(calls, answers, strict=True):
            metrics.CALLS.labels("allowed" if answer.allowed else "denied", answer.code).inc()
            waiting.settle(answer)

    def _unheard(self, calls: Sequence[_Waiting], error: UnheardCommit) -> None:
        log.warning("%d calls refused: %s", len(calls), error)
        self._take_back([answer for answer in error.answers if answer.allowed], str(error))
        self._refuse(calls)

    def _take_back(self, answers: list[Admitted], why: str) -> None:
        """Nothing of these calls was sent, if they are on record at all: at once, and once more when a commit that was
        under way must be over. The second time says nothing new, unless the commit came late.
        """

        def again() -> None:
            for answer in answers:
                self.not_sent(answer, why)

        again()
        later = threading.Timer(COMMIT_SECONDS, again)
        later.daemon = True
        later.start()

    def _refuse(self, calls: Sequence[_Waiting]) -> None:
        metrics.CALLS.labels("denied", "ledger.unavailable").inc(len(calls))
        for waiting in calls:
            waiting.settle(
                Unavailable("ledger.unavailable", "The gateway cannot record calls right now, so it refuses them.")
            )

    def _commit(self, intents: list[Intent], endings: Sequence[Ending] = ()) -> list[Admitted]:
        metrics.BATCH_SIZE.observe(len(intents))
        with metrics.BATCH_SECONDS.time():
            return admit_batch(
                intents,
                store=self._store,
                instance=self.instance,
                guard=self._guard,
                lease_until=lambda: self.lease_until,
                endings=endings,
            )


def _tell(endings: Sequence[Ending]) -> None:
    for ending in endings:
        if ending.told is not None:
            ending.told()


def _settle(future: asyncio.Future[Admitted], answer: Admitted | Exception) -> None:
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)

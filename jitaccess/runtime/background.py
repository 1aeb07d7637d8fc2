"""What runs once per installation, embedded in a web process: the sequencer, and Celery's worker and beat in threads.

With several web processes, an advisory lock elects which one does it. Nothing here decides about access.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import Any

from celery import Celery
from celery import beat as celery_beat
from celery.worker import state as worker_state
from django.conf import settings
from django.db import close_old_connections, connection

from jitaccess.audit.heads import sign_head
from jitaccess.audit.sequencer import behind, forget, sequence, tell
from jitaccess.kernel.errors import JitAccessError
from jitaccess.runtime.celery import Scheduler
from jitaccess.runtime.slack_worker import run_slack
from jitaccess.store.leader import Leadership

log = logging.getLogger(__name__)

SEQUENCE_SECONDS = 0.3
# Under load: to place each few entries as they come, or very many at once, would keep the processor from calls.
AT_ONCE, BETWEEN_SECONDS, BEHIND_SECONDS = 500, 0.05, 0.01
# Calls go first: between two steps it rests so many times as long as a step took, unless entries have waited for long.
# What is older than the first of these times was left by the step before.
REST, LEFT_SECONDS, LATE_SECONDS = 3, 0.2, 3.0
TELL_SECONDS = 0.1  # how often those who listen hear of entries that keep coming
ELECTION_SECONDS = 2.0
CHECKPOINT_SECONDS = 60.0


class Background:
    """Threads of one process; `start` and `stop` them once."""

    def __init__(self, app: Celery | None) -> None:
        self._app = app
        self._stopping = threading.Event()
        self._leads = threading.Event()
        self._threads = [
            threading.Thread(target=self._sequence, name="sequencer", daemon=True),
            threading.Thread(target=self._sign, name="signer", daemon=True),
        ]
        if settings.SLACK_BOT_TOKEN:
            self._threads.append(threading.Thread(target=run_slack, args=(self._stopping,), name="slack", daemon=True))
        if app is not None:
            self._threads.append(threading.Thread(target=self._celery, name="celery", daemon=True))

    @property
    def alive(self) -> bool:
        """False when a thread has died, which none of them should."""
        return all(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, *, timeout: float = 2.0) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout)

    def _sequence(self) -> None:
        leadership, pause, owed = Leadership("sequencer"), SEQUENCE_SECONDS, False
        asked = told = -math.inf
        while not self._stopping.wait(pause):
            pause = SEQUENCE_SECONDS
            try:
                if (now := time.monotonic()) - asked >= SEQUENCE_SECONDS:  # two at once do no harm
                    close_old_connections()  # which asks whether this one is still good
                    if (leads := leadership.held()) and not self._leads.is_set():
                        forget()  # others have placed entries meanwhile
                    (self._leads.set if leads else self._leads.clear)()
                    asked = now
                began = time.monotonic()
                placed = sequence(limit=AT_ONCE, tells=False, whole=False) if self._leads.is_set() else 0
                if placed:
                    pause, owed = _rest(placed, time.monotonic() - began), True
                if owed and (not placed or now - told >= TELL_SECONDS):
                    tell()
                    owed, told = False, now
            except Exception as error:  # noqa: BLE001 - the ledger waits in its queue; the loop must not die
                log.warning("sequencing will be tried again: %s", error)
                pause, asked = SEQUENCE_SECONDS, -math.inf
                forget()
        leadership.give_up()
        connection.close()

    def _sign(self) -> None:
        """Apart from the sequencer: a folder that hangs, or keys that are gone, keep no entry from its place.

        A process that just lost the lead may sign once more beside the new leader: both sign the same history.
        """
        due = 0.0
        while not self._stopping.wait(SEQUENCE_SECONDS):
            if not self._leads.is_set() or time.monotonic() < due:
                continue
            due = time.monotonic() + CHECKPOINT_SECONDS
            try:
                close_old_connections()
                sign_head()
            except (JitAccessError, OSError) as error:
                log.error("no checkpoint is signed: %s", error)  # noqa: TRY400 - a sentence, not a bug
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("a checkpoint will be tried again: %s", error)
        connection.close()

    def _celery(self) -> None:
        leadership = Leadership("celery")
        worker: _Embedded | None = None
        while True:
            try:
                close_old_connections()
                leads = leadership.held()
            except Exception as error:  # noqa: BLE001 - as above
                log.warning("election will be tried again: %s", error)
                leads = False
            if worker is not None and not (leads and worker.alive):
                if leads:
                    log.warning("Celery's worker or beat has ended and is started again")
                worker.stop()
                worker = None
            if leads and worker is None:
                assert self._app is not None
                worker = _Embedded(self._app)
            if self._stopping.wait(ELECTION_SECONDS):
                break
        if worker is not None:
            worker.stop()
        leadership.give_up()
        connection.close()


def _rest(placed: int, took: float) -> float:
    """How long the sequencer rests after a step, in seconds."""
    waited = behind()
    if waited > LATE_SECONDS:
        return BEHIND_SECONDS
    more = placed >= AT_ONCE or waited > LEFT_SECONDS
    return max(BEHIND_SECONDS if more else BETWEEN_SECONDS, REST * took)


class _Embedded:
    """A Celery worker and a beat in threads of this process."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._beat: Any = celery_beat.Service(app, max_interval=1, scheduler_cls=Scheduler)
        self._threads = [
            threading.Thread(target=self._work, name="celery-worker", daemon=True),
            threading.Thread(target=self._beat.start, name="celery-beat", daemon=True),
        ]
        worker_state.should_stop = None
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        return all(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        # Built here, not before: inside an event loop Celery's Django checks would refuse to run.
        worker = self._app.WorkController(
            pool_cls="threads",
            concurrency=2,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            loglevel="WARNING",
        )
        worker.start()

    def stop(self) -> None:
        worker_state.should_stop = 0  # type: ignore[assignment]  # an exit code; the stubs know only None
        self._beat.stop(wait=False)
        # The worker looks at should_stop between messages, waits up to two seconds for one, and once more before it
        # goes: these are the two.
        for _ in range(2):
            self._app.send_task("requests_app.lapse_requests")
        for thread in self._threads:
            thread.join(1.5)

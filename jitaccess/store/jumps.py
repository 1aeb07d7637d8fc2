"""Jumps of this machine's clock, on record until an operator accepts them. For SQLite, where that clock decides."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from functools import partial
from uuid import UUID

from django.db import transaction

from jitaccess.kernel.ids import uuid7
from jitaccess.store.clock import now
from jitaccess.store.host_clock import JUMP_SECONDS, HostClock
from jitaccess.store.models import ClockJump


class Jumps:
    """What one process knows of them. `record` is called with each new row, in the transaction that writes it."""

    def __init__(self, host: HostClock, record: Callable[[ClockJump], object]) -> None:
        self._host, self._record = host, record
        self._lock = threading.Lock()
        # Kept until their rows are committed: a transaction that fails must not make us forget a jump.
        self._unwritten: dict[UUID, float] = {}
        self._open = True  # what an earlier process left open counts too, so the first look is at the database

    def suspected(self) -> bool:
        """Whether there is anything to look at. Asks no database."""
        with self._lock:  # a jump is told once: nobody may look between the telling and the keeping
            seconds = self._host.jump()
            if seconds:
                self._unwritten[uuid7()] = seconds
            return self._open or bool(self._unwritten)

    def look_back(self, newest: datetime) -> None:
        """At the start: a clock behind the newest time on record was set back while nobody watched it."""
        seconds = (now() - newest).total_seconds()
        if seconds < -JUMP_SECONDS:
            self._unwritten[uuid7()] = seconds

    def open(self) -> bool:
        """Whether a jump waits for an operator. Call it in a transaction; while nothing happened it asks nothing."""
        if not self.suspected():
            return False
        for pk, seconds in list(self._unwritten.items()):
            jump, new = ClockJump.objects.get_or_create(pk=pk, defaults={"noticed_at": now(), "seconds": seconds})
            if new:
                self._record(jump)
            transaction.on_commit(partial(self._unwritten.pop, pk, None))
        self._open = ClockJump.objects.filter(accepted_at=None).exists()
        return self._open

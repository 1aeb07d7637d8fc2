"""On SQLite this machine's clock decides. When it jumps, calls are refused until an operator says it is right.

On PostgreSQL the database's clock decides, and nothing here does anything.
"""

from __future__ import annotations

from datetime import datetime
from itertools import chain

from django.db import connection, transaction
from django.db.models import Max

from jitaccess.audit.events import Event
from jitaccess.audit.models import Leaf, Unsequenced
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.kernel.errors import Conflict, Invalid
from jitaccess.kernel.text import visible
from jitaccess.store.clock import now
from jitaccess.store.host_clock import HostClock
from jitaccess.store.jumps import Jumps
from jitaccess.store.models import ClockJump

CODE = "clock_jumped"
# The newest time on record is looked for among this many of the last entries.
LOOK_BACK = 1000


class ClockGuard:
    """The watch of one gateway process over its machine's clock."""

    def __init__(self, host: HostClock | None = None) -> None:
        self._jumps = Jumps(host or HostClock(), _noticed)
        self._looked_back = False

    def refuses(self) -> bool:
        """Whether calls must be refused. Ask in the transaction that records them, after its clock was read: a jump
        before that is seen, and one after it changes nothing.
        """
        if connection.vendor != "sqlite":
            return False
        if not self._looked_back:
            newest = _newest_on_record()
            if newest is not None:
                self._jumps.look_back(newest)
            self._looked_back = True
        return self._jumps.open()

    def watch(self) -> None:
        """Put a jump on record although nobody calls. Run it every few seconds."""
        if connection.vendor == "sqlite" and self._jumps.suspected():
            with transaction.atomic():
                self.refuses()


def open_jumps() -> list[ClockJump]:
    """Jumps that nobody has accepted, oldest first."""
    return list(ClockJump.objects.filter(accepted_at=None))


def accept_jumps(*, operator: Actor) -> list[ClockJump]:
    """Say that the clock is right as it is; returns what was accepted. Raises Conflict when nothing is open."""
    if connection.vendor != "sqlite":
        raise Invalid("clock.of_database", "The clock of PostgreSQL decides here, and no jump of another matters.")
    with transaction.atomic():
        jumps = open_jumps()
        if not jumps:
            raise Conflict("clock.nothing_open", "No jump of the clock waits to be accepted.")
        moment, who = now(), visible(operator.user_name, limit=150)
        for jump in jumps:
            ClockJump.objects.filter(pk=jump.pk).update(accepted_at=moment, accepted_by=who)
            record(Facts(event=Event.CLOCK_ACCEPTED, actor=operator, at=moment, data=_data(jump)))
    return jumps


def _noticed(jump: ClockJump) -> None:
    record(Facts(event=Event.CLOCK_JUMPED, actor=Actor.system("clock"), at=jump.noticed_at, data=_data(jump)))


def _data(jump: ClockJump) -> dict[str, str | float]:
    return {"jump": str(jump.pk), "seconds": round(jump.seconds, 3)}


def _newest_on_record() -> datetime | None:
    """The newest time among the last entries, from the last acceptance on: it was of all that was before it."""
    accepted = Leaf.objects.filter(entry__event=Event.CLOCK_ACCEPTED).aggregate(last=Max("seq"))["last"] or 0
    placed = Leaf.objects.filter(seq__gte=accepted).order_by("-seq").values_list("entry__at", flat=True)[:LOOK_BACK]
    waiting = Unsequenced.objects.values_list("entry__at", flat=True)
    return max(chain(placed, waiting), default=None)

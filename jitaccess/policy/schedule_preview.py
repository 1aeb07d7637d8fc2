"""What a change of an on-call schedule would do, before it is saved: whose turn it is, and who asks it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from jitaccess.policy.approval.rota import is_fresh, on_call
from jitaccess.policy.models import ApprovalPolicy, OnCallSchedule
from jitaccess.store.clock import now

AHEAD = timedelta(days=14)
_MOST = 30  # turns that are shown
NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Turn:
    """From `at` on: who is on call as it is, and as it would be."""

    at: datetime
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ScheduleImpact:
    """`turns` of the next days, the first is now; `policies` ask it."""

    turns: tuple[Turn, ...]
    policies: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def stable(self) -> list[object]:
        """Times go on while it is looked at; who takes turns with whom does not."""
        return [[[one.before, one.after] for one in self.turns[:1]], list(self.policies), list(self.warnings)]


def of_schedule(after: OnCallSchedule, before: OnCallSchedule | None) -> ScheduleImpact:
    """`after` is not saved; `before` None: a new one. Writes nothing."""
    at = now()
    if before is None or after.url != before.url:
        after.fetched, after.fetched_at = "[]", None  # what the old address said is not what the new one says
    turns = tuple(_turns(after, before, at))
    policies = tuple(
        ApprovalPolicy.objects.filter(document__contains=f"schedule:{after.name}")
        .order_by("name")
        .values_list("name", flat=True)
    )
    warnings = []
    if turns[0].after == NOBODY and after.url:
        warnings.append("Nobody is on call until its URL has answered, which it is asked to each minute.")
    elif turns[0].after == NOBODY:
        warnings.append("Nobody would be on call now.")
    if turns[0].after == NOBODY and policies:
        warnings.append(f"Meanwhile nobody decides by it what these ask it for: {', '.join(policies)}.")
    return ScheduleImpact(turns, policies, tuple(warnings))


def _turns(after: OnCallSchedule, before: OnCallSchedule | None, at: datetime) -> Iterator[Turn]:
    moments = sorted({at, *_changes(after, at), *(_changes(before, at) if before else ())})
    last: tuple[str, str] | None = None
    for moment in moments[:_MOST]:
        said = _who(before, moment), _who(after, moment)
        if said != last:
            yield Turn(moment, *said)
        last = said


def _changes(row: OnCallSchedule, at: datetime) -> Iterator[datetime]:
    """When somebody's turn begins, in the time to come."""
    if row.url or row.starts_at is None or row.hours < 1:
        return
    turn = timedelta(hours=row.hours)
    moment = row.starts_at if row.starts_at > at else row.starts_at + ((at - row.starts_at) // turn + 1) * turn
    for number in range(_MOST):
        if moment + number * turn > at + AHEAD:
            return
        yield moment + number * turn


def _who(row: OnCallSchedule | None, at: datetime) -> str:
    if row is None:
        return NOBODY
    if row.url:
        names = json.loads(row.fetched) if is_fresh(row.fetched_at, at=now()) else []
        return ", ".join(sorted(names)) or NOBODY
    if row.starts_at is None:
        return NOBODY
    return on_call(json.loads(row.rota), starts_at=row.starts_at, hours=row.hours, at=at) or NOBODY

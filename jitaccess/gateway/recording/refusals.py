"""Refusals of one kind by one source: the first of a minute is an entry, the others are counted in one more.

An agent in a loop would otherwise make the ledger grow with its impatience. Counts are rows of the process that
refuses, so that no batch ever waits for another process; whoever keeps house writes them down when the minute is over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import F

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Facts, record_many
from jitaccess.gateway.models import RefusalCount
from jitaccess.gateway.recording.remembered import recall, remember
from jitaccess.identity.principal import Principal
from jitaccess.kernel.canonical import digest
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.matching import Kind
from jitaccess.store.clock import now


@dataclass(frozen=True, slots=True)
class Refusal:
    """One refused call. `known`: whether the server may have such a thing; made-up tools are all of one kind."""

    call: UUID
    principal: Principal
    server: UUID | None
    server_name: str
    tool: str
    known: bool
    code: str
    what: Kind = Kind.TOOL
    method: str = ""

    @property
    def kind(self) -> str:
        """Who is refused what, and why: what is counted together. Not by the client's name, which it gives itself."""
        actor = self.principal.actor()
        parts = (actor.agent, actor.user, actor.source, self.server, self.tool if self.known else "")
        more = (self.known, self.what, self.method, self.code)
        return digest([str(part) for part in (*parts, *more)], domain="jitaccess-refusal-v1")


def count_refusals(refusals: Sequence[Refusal], *, instance: UUID, clock: datetime) -> dict[UUID, UUID]:
    """Count them in the transaction of their batch; returns for each repeated call the first of its kind.

    Calls that are not in the result are the first of their kind in this minute: they need an entry of their own.
    """
    minute = clock.replace(second=0, microsecond=0)
    kinds: dict[str, list[Refusal]] = defaultdict(list)
    for refusal in refusals:
        kinds[refusal.kind].append(refusal)
    known = RefusalCount.objects.select_for_update().filter(instance=instance, minute=minute, kind__in=kinds)
    first_of = dict(known.values_list("kind", "first_call"))
    for kind in first_of:
        RefusalCount.objects.filter(instance=instance, minute=minute, kind=kind).update(
            count=F("count") + len(kinds[kind])
        )
    new = [group for kind, group in kinds.items() if kind not in first_of]
    RefusalCount.objects.bulk_create(_row(group, instance, minute) for group in new)
    first_of |= {group[0].kind: group[0].call for group in new}
    return {
        refusal.call: first_of[kind]
        for kind, group in kinds.items()
        for refusal in group
        if refusal.call != first_of[kind]
    }


def _row(group: list[Refusal], instance: UUID, minute: datetime) -> RefusalCount:
    first = group[0]
    # Cut: of a name that somebody made up there may be megabytes.
    tool = visible(first.tool, limit=200)
    who = remember(first.principal, server=first.server, server_name=first.server_name, tool=tool)
    return RefusalCount(
        instance=instance,
        kind=first.kind,
        minute=minute,
        count=len(group),
        first_call=first.call,
        code=first.code,
        facts=who,
    )


def write_down_refusals(*, limit: int = 500) -> int:
    """One entry for each kind that was refused again in a minute that is over; returns how many kinds were closed."""
    over = RefusalCount.objects.filter(minute__lt=now().replace(second=0, microsecond=0)).order_by("minute", "pk")
    if not over.exists():
        return 0  # looked first: an idle round takes no lock
    with transaction.atomic():
        rows = list(over.select_for_update(skip_locked=True)[:limit])
        record_many(_again(row) for row in rows if row.count > 1)
        RefusalCount.objects.filter(pk__in=[row.pk for row in rows]).delete()
    return len(rows)


def _again(row: RefusalCount) -> Facts:
    return Facts(
        event=Event.CALL_DENIED_AGAIN,
        outcome=Outcome.DENIED,
        call=row.first_call,
        instance=row.instance,
        data={"reason_code": row.code, "times": row.count - 1, "minute": row.minute.isoformat()},
        **recall(row.facts),
    )

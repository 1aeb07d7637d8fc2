"""Reminders and escalations of pending requests, as pinned at filing; who they go to is decided when they are told.

`AccessRequest.told` counts those that were told of, in the order of their times. It is raised by compare-and-swap with
the entry: two workers at once, or one that was frozen for an hour, tell nobody twice.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record_many
from jitaccess.kernel.strictjson import Json
from jitaccess.policy.delegations import standins_for
from jitaccess.policy.people import members_of
from jitaccess.store.clock import JitNow, now
from requests_app.lifecycle import RequestStatus
from requests_app.models import AccessRequest, Grant


@dataclass(frozen=True, slots=True, order=True)
class Telling:
    """What is due `after` so many seconds from filing; `groups` are those an escalation asks as well, () a reminder."""

    after: int
    groups: tuple[tuple[str, tuple[str, ...]], ...] = ()


def tellings_of(plan: str) -> list[Telling]:
    """All tellings of a pinned plan in the order of their times; none for a request that nobody is asked about."""
    pinned: dict[str, Any] = json.loads(plan)
    found = [Telling(int(after)) for after in pinned.get("reminders") or ()]
    for one in pinned.get("escalations") or ():
        groups = tuple((str(group["name"]), tuple(map(str, group["people"]))) for group in one["groups"])
        found.append(Telling(int(one["after"]), groups))
    return sorted(found)


def tell_about(*, request_id: UUID) -> bool:
    """Record what is due of one pending request; returns whether this call did. What was missed comes as one."""
    with transaction.atomic():
        open_ = AccessRequest.objects.filter(pk=request_id, status=RequestStatus.PENDING, pending_until__gt=JitNow())
        # Skipped while somebody decides on it, or is frozen with it.
        request = open_.select_for_update(no_key=True, skip_locked=True).first()
        if request is None:
            return False
        waited = now() - request.created_at
        due = [one for one in tellings_of(request.plan) if timedelta(seconds=one.after) <= waited]
        fresh = due[request.told :]
        if not fresh or open_.filter(told=request.told).update(told=len(due)) != 1:
            return False
        record_many(_entries(request, fresh))
    return True


def _entries(request: AccessRequest, fresh: list[Telling]) -> list[Facts]:
    actor, reminders = Actor.system("reminders"), [one.after for one in fresh if not one.groups]
    found = []
    if reminders:
        data: dict[str, Json] = {"after": reminders[-1]}
        found.append(Facts(event=Event.REQUEST_REMINDED, actor=actor, request=request.pk, data=data))
    later = [one for one in fresh if one.groups]
    if later:
        groups: list[Json] = [{"name": name, "people": [*refs]} for one in later for name, refs in one.groups]
        data = {"after": later[-1].after, "groups": groups}
        found.append(Facts(event=Event.REQUEST_ESCALATED, actor=actor, request=request.pk, data=data))
    return found


def escalated_to(groups: list[dict[str, Any]]) -> frozenset[UUID]:
    """The active people in the groups of a `request.escalated` entry as they are now, or who stands in for them."""
    asked = frozenset[UUID]().union(*members_of(ref for group in groups for ref in group["people"]).values())
    standins = standins_for(asked)
    return (asked - standins.away) | {delegate for delegate, persons in standins.acting.items() if persons & asked}


def grants_ending(*, after: datetime, until: datetime) -> QuerySet[Grant]:
    """Live grants that end between these moments, for who says so beforehand."""
    rows = Grant.objects.select_related("agent__owner", "user")
    return rows.filter(ended_at=None, expires_at__gt=after, expires_at__lte=until).order_by("expires_at")

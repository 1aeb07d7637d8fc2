"""More sweeps, as in tasks.py: they tidy and tell; no access depends on them. Safe to run twice, even at once.

Each looks at a bounded number of rows and goes on behind them the next time (every process by itself): what is well
stays in its table, and would otherwise be all that is ever looked at. One bad row never stops a sweep.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from celery import shared_task
from django.db.models import F, QuerySet

from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import Tool
from jitaccess.kernel.errors import Conflict
from jitaccess.policy.models import GRANTED, RoleBinding
from jitaccess.store.clock import JitNow, now
from requests_app.lifecycle import EndReason, RequestStatus
from requests_app.models import AccessRequest, Grant
from requests_app.obstacles import obstacle_to
from requests_app.services.activate import activate_grant
from requests_app.services.end import end_grant
from requests_app.services.invalidate import invalidate_request
from requests_app.services.remind import tell_about, tellings_of

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Round:
    """Going round a table in parts of `size`, in the order of its keys."""

    size: int
    after: UUID | None = None

    def part(self, rows: QuerySet[Any]) -> list[Any]:
        """The next part; from the beginning again when the end is reached."""
        rows = rows.order_by("pk")
        found = list((rows.filter(pk__gt=self.after) if self.after else rows)[: self.size])
        self.after = found[-1].pk if len(found) == self.size else None
        return found


_REQUESTS, _TELLINGS, _GRANTS = Round(100), Round(1000), Round(500)


@shared_task(name="requests_app.invalidate_requests", ignore_result=True)
def invalidate_requests() -> int:
    """Close pending requests that can no longer be approved: what they ask for, or who asks, is gone or has changed."""
    rows = _open().select_related("agent__owner", "agent__team", "user", "extends")
    return _each(_REQUESTS.part(rows), _invalidate)


@shared_task(name="requests_app.end_grants_of_removed", ignore_result=True)
def end_grants_of_removed() -> int:
    """End grants of which nothing is left: every tool is gone, by itself or with its server.

    A server that is merely disabled may come back, and its tools with it. Roles that somebody holds cannot be deleted.
    """
    actor = Actor.system("catalog")
    live = Grant.objects.filter(ended_at=None, expires_at__gt=JitNow())
    empty = _without_targets([grant.pk for grant in _GRANTS.part(live.only("pk"))])
    return _each(
        empty, lambda pk: end_grant(grant_id=pk, reason=EndReason.TARGET_REMOVED, actor=actor, by="system:catalog")
    )


@shared_task(name="requests_app.activate_grants", ignore_result=True)
def activate_grants() -> int:
    """Write down the start of scheduled grants whose time has come."""
    due = Grant.objects.filter(activated_at=None, ended_at=None, starts_at__lte=JitNow(), expires_at__gt=JitNow())
    # Those that began with their approval have this on record, also from before there was a column for it.
    due = due.filter(starts_at__gt=F("request__closed_at"))
    return _each(due.values_list("pk", flat=True)[:500], lambda pk: activate_grant(grant_id=pk))


@shared_task(name="requests_app.tell_about_requests", ignore_result=True)
def tell_about_requests() -> int:
    """Write down reminders and escalations that are due; notices are made from those entries."""
    moment = now()

    def tell(request: AccessRequest) -> bool:
        left = tellings_of(request.plan)[request.told :]
        due = bool(left) and request.created_at + timedelta(seconds=left[0].after) <= moment
        return due and tell_about(request_id=request.pk)

    return _each(_TELLINGS.part(_open().only("pk", "created_at", "plan", "told")), tell)


def _open() -> QuerySet[AccessRequest]:
    return AccessRequest.objects.filter(status=RequestStatus.PENDING, pending_until__gt=JitNow())


def _invalidate(request: AccessRequest) -> bool:
    # Without a lock first: nearly all are well, and people decide on them meanwhile.
    return bool(obstacle_to(request)) and invalidate_request(request_id=request.pk)


def _without_targets(grants: list[UUID]) -> list[UUID]:
    """Those whose bindings are all of tools, none of which is there any more."""
    held: dict[UUID, set[str]] = {}
    lasting = set()
    rows = RoleBinding.objects.filter(origin__in=GRANTED, origin_id__in=grants)
    for grant, role, tools, privileges in rows.values_list("origin_id", "role", "tools", "privileges"):
        assert grant
        held.setdefault(grant, set()).update(json.loads(tools))
        if role or privileges:
            lasting.add(grant)
    wanted = {tool for tools in held.values() for tool in tools}
    there = {str(pk) for pk in Tool.objects.filter(pk__in=wanted, present=True).values_list("pk", flat=True)}
    return [grant for grant, tools in held.items() if grant not in lasting and tools and not tools & there]


def _each(rows: Iterable[Any], do: Callable[[Any], object]) -> int:
    """Returns for how many rows `do` did something."""
    done = 0
    for row in rows:
        try:
            done += bool(do(row))
        except Conflict:
            continue  # somebody else was first
        except Exception:
            log.exception("sweep: %s failed and will be tried again", getattr(row, "pk", row))
    return done

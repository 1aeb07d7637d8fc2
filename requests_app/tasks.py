"""Sweeps. They tidy and tell; no access depends on them. Safe to run twice; one bad row never stops a sweep."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from celery import shared_task
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from jitaccess.audit.recorder import Actor
from jitaccess.identity.models import Agent
from jitaccess.kernel.errors import Conflict
from jitaccess.policy.services import is_used_up, used_up_grants
from jitaccess.store.clock import JitNow, now
from requests_app.lifecycle import EndReason, RequestStatus
from requests_app.models import AccessRequest, Grant
from requests_app.overview import keep_all
from requests_app.services.end import due_grants, end_grant, expire_grants
from requests_app.services.lapse import lapse_request

# Until then the last call may turn out not to have been sent, and its use comes back.
SETTLED = timedelta(seconds=30)

PART = 50
# A worker that is told to stop ends its sweep first.
SECONDS = 10.0
_one_goes_on = threading.Lock()

log = logging.getLogger(__name__)


@shared_task(name="requests_app.end_due_grants", ignore_result=True)
def end_due_grants() -> int:
    """Write down the expiry of grants whose time is up, many in a transaction; one by one where one of them fails."""
    actor = Actor.system("expiry")

    def end(grants: Sequence[UUID]) -> int:
        try:
            return expire_grants(grants, actor=actor)
        except Exception:  # noqa: BLE001 - said of the one that fails
            return _each(grants, lambda pk: end_grant(grant_id=pk, reason=EndReason.EXPIRED, actor=actor, by=""))

    return _until_done(due_grants(), end)


@shared_task(name="requests_app.end_grants_of_disabled", ignore_result=True)
def end_grants_of_disabled() -> int:
    """End grants of agents that are disabled or whose owner is not active, and of users who are not active or may no
    longer use the agent.

    The engine refuses them already; an end on record keeps them from coming back when the agent is enabled again.
    """
    actor = Actor.system("identity")
    usable = Agent.users.through.objects.filter(agent_id=OuterRef("agent_id"), user_id=OuterRef("user_id"))
    shut_out = Q(user__isnull=False) & ~Q(user=F("agent__owner")) & ~Exists(usable)
    rows = Grant.objects.filter(
        Q(agent__enabled=False) | Q(agent__owner__is_active=False) | Q(user__is_active=False) | shut_out,
        ended_at=None,
        expires_at__gt=JitNow(),
    )

    def end(pk: UUID) -> object:
        return end_grant(grant_id=pk, reason=EndReason.SUBJECT_DISABLED, actor=actor, by="system:identity")

    return _until_done(rows.order_by("pk"), lambda grants: _each(grants, end))


@shared_task(name="requests_app.end_used_up_grants", ignore_result=True)
def end_used_up_grants() -> int:
    """End grants whose calls are all made. The engine refuses more already."""
    actor = Actor.system("uses")

    def end(pk: UUID) -> None:
        with transaction.atomic():
            if is_used_up(grant=pk):  # a use may have come back since
                end_grant(grant_id=pk, reason=EndReason.USED_UP, actor=actor, by="")

    return _each(used_up_grants(settled=SETTLED, limit=500), end)


@shared_task(name="requests_app.lapse_requests", ignore_result=True)
def lapse_requests() -> int:
    """Expire pending requests that nobody decided in time."""
    due = AccessRequest.objects.filter(status=RequestStatus.PENDING, pending_until__lte=JitNow())
    return _until_done(
        due.order_by("pending_until"), lambda requests: _each(requests, lambda pk: lapse_request(request_id=pk))
    )


@shared_task(name="requests_app.keep_figures", ignore_result=True)
def keep_figures() -> None:
    """Make what takes long on the overview, so that whoever looks at it first does not wait."""
    keep_all(now())


def _until_done(rows: QuerySet[Any], do: Callable[[Sequence[UUID]], int]) -> int:
    """`do` with the keys of `rows`, `PART` by `PART`: what it has done, which it counts, is no longer among them.

    Goes on for about `SECONDS`, in one thread of a process; other sweeps need the rest, and do a part each.
    """
    until, done, left, mine = time.monotonic() + SECONDS, 0, 0, False
    try:
        while part := list(rows.values_list("pk", flat=True)[left : left + PART]):
            did = do(part)
            done, left = done + did, left + len(part) - did  # what failed is where it was
            mine = mine or _one_goes_on.acquire(blocking=False)
            if not mine or time.monotonic() >= until:
                break
    finally:
        if mine:
            _one_goes_on.release()
    return done


def _each(ids: Iterable[UUID], do: Callable[[UUID], object]) -> int:
    done = 0
    for pk in ids:
        try:
            do(pk)
            done += 1
        except Conflict:
            continue  # somebody else was first
        except Exception:
            log.exception("sweep: %s failed and will be tried again", pk)
    return done

"""Sweeps. They tidy and tell; no access depends on them. Safe to run twice; one bad row never stops a sweep."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import timedelta
from uuid import UUID

from celery import shared_task
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q

from jitaccess.audit.recorder import Actor
from jitaccess.identity.models import Agent
from jitaccess.kernel.errors import Conflict
from jitaccess.policy.services import is_used_up, used_up_grants
from jitaccess.store.clock import JitNow
from requests_app.lifecycle import EndReason, RequestStatus
from requests_app.models import AccessRequest, Grant
from requests_app.services.end import due_grants, end_grant
from requests_app.services.lapse import lapse_request

# Until then the last call may turn out not to have been sent, and its use comes back.
SETTLED = timedelta(seconds=30)

log = logging.getLogger(__name__)


@shared_task(name="requests_app.end_due_grants", ignore_result=True)
def end_due_grants() -> int:
    """Write down the expiry of grants whose time is up."""
    actor = Actor.system("expiry")
    return _each(due_grants(), lambda pk: end_grant(grant_id=pk, reason=EndReason.EXPIRED, actor=actor, by=""))


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
    return _each(
        rows.values_list("pk", flat=True)[:500],
        lambda pk: end_grant(grant_id=pk, reason=EndReason.SUBJECT_DISABLED, actor=actor, by="system:identity"),
    )


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
    return _each(due.values_list("pk", flat=True)[:500], lambda pk: lapse_request(request_id=pk))


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

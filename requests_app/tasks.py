"""Sweeps. They tidy and tell; no access depends on them. Safe to run twice; one bad row never stops a sweep."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from uuid import UUID

from celery import shared_task

from jitaccess.audit.recorder import Actor
from jitaccess.kernel.errors import Conflict
from jitaccess.store.clock import JitNow
from requests_app.lifecycle import EndReason, RequestStatus
from requests_app.models import AccessRequest, Grant
from requests_app.services.end import due_grants, end_grant
from requests_app.services.lapse import lapse_request

log = logging.getLogger(__name__)


@shared_task(name="requests_app.end_due_grants", ignore_result=True)
def end_due_grants() -> int:
    """Write down the expiry of grants whose time is up."""
    actor = Actor.system("expiry")
    return _each(due_grants(), lambda pk: end_grant(grant_id=pk, reason=EndReason.EXPIRED, actor=actor, by=""))


@shared_task(name="requests_app.end_grants_of_disabled", ignore_result=True)
def end_grants_of_disabled() -> int:
    """End grants whose agent is disabled or whose user is no longer active; the engine refuses them already."""
    actor = Actor.system("identity")
    live = Grant.objects.filter(ended_at=None, expires_at__gt=JitNow())
    rows = live.filter(agent__enabled=False) | live.filter(user__is_active=False)
    return _each(
        rows.values_list("pk", flat=True)[:500],
        lambda pk: end_grant(grant_id=pk, reason=EndReason.SUBJECT_DISABLED, actor=actor, by="system:identity"),
    )


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

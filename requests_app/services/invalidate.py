"""A pending request for what can no longer be granted becomes void, and its agent asks anew."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.store.clock import JitNow, now
from requests_app.lifecycle import RequestStatus
from requests_app.models import AccessRequest
from requests_app.obstacles import obstacle_to
from requests_app.services.granting import close


def invalidate_request(*, request_id: UUID) -> bool:
    """Close a pending request that `obstacle_to` stands against; returns whether this call did. Safe to run twice.

    One past its deadline is left to expire: that is what became of it first.
    """
    with transaction.atomic():
        # Looked at again under its lock, for what stood against it may be put right. Who holds it now may be deciding,
        # or be frozen: the next sweep comes by, and this one must not stop.
        open_ = AccessRequest.objects.filter(pk=request_id, status=RequestStatus.PENDING, pending_until__gt=JitNow())
        request = open_.select_for_update(no_key=True, skip_locked=True).first()
        obstacle = obstacle_to(request) if request else ""
        if request is None or not obstacle:
            return False
        invalidate(request, obstacle, now())
    return True


def invalidate(request: AccessRequest, why: str, moment: datetime) -> None:
    """Close a pending request that can no longer be granted, inside a transaction that holds it."""
    close(request, RequestStatus.INVALIDATED, moment, "system:workflow", why)
    record(
        Facts(
            event=Event.REQUEST_INVALIDATED,
            actor=Actor.system("workflow"),
            at=moment,
            request=request.pk,
            data={"why": why},
        )
    )

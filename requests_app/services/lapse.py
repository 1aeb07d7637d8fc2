"""A request that nobody decided in time has expired; it is never reported as denied."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.store.clock import JitNow
from requests_app.lifecycle import RequestStatus
from requests_app.models import AccessRequest


def lapse_request(*, request_id: UUID) -> bool:
    """Close a pending request whose deadline has passed; returns whether this call closed it. Safe to run twice."""
    with transaction.atomic():
        due = AccessRequest.objects.filter(pk=request_id, status=RequestStatus.PENDING, pending_until__lte=JitNow())
        if due.update(status=RequestStatus.EXPIRED, closed_at=JitNow(), closing_note="Nobody decided in time.") != 1:
            return False
        record(Facts(event=Event.REQUEST_EXPIRED, actor=Actor.system("expiry"), request=request_id))
    return True

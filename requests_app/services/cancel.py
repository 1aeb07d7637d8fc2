"""Withdrawing a pending request: by the principal that filed it, or by a person it is filed for or with."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Facts, record
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import NotFound
from jitaccess.kernel.text import visible
from jitaccess.store.clock import JitNow
from requests_app import selectors, standing
from requests_app.lifecycle import RequestStatus, ensure_pending
from requests_app.models import AccessRequest
from requests_app.services.lapse import lapse_request


def cancel_request(*, request_id: UUID, principal: Principal) -> AccessRequest:
    """Close a pending request for its requester. Raises NotFound for a foreign one, Conflict for a decided one."""
    with transaction.atomic():
        request = AccessRequest.objects.select_for_update().filter(pk=request_id).first()
        if request is None or not _may_cancel(request, principal):
            raise NotFound("request.unknown", f"You have no request {request_id}.")
        ensure_pending(request.status, said=selectors.how_it_ended(request))
        if lapse_request(request_id=request.pk):
            return _reread(request)  # past its deadline it has expired, whether or not the sweep came by
        AccessRequest.objects.filter(pk=request.pk, status=RequestStatus.PENDING).update(
            status=RequestStatus.CANCELLED, closed_at=JitNow(), closed_by_name=visible(principal.label, limit=150)
        )
        record(Facts(event=Event.REQUEST_CANCELLED, actor=principal.actor(), request=request.pk))
        return _reread(request)


def _reread(request: AccessRequest) -> AccessRequest:
    request.refresh_from_db()
    return request


def _may_cancel(request: AccessRequest, principal: Principal) -> bool:
    """Whoever counts as the requester may: what is not asked any more needs nobody's consent."""
    if principal.agent is None:
        return principal.user in standing.self_of(request)
    return request.principal_key == principal.key

"""What a request is known by: the digest of everything that was asked."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from jitaccess.kernel.canonical import digest
from jitaccess.kernel.strictjson import Json
from requests_app.models import AccessRequest


def request_digest(request: AccessRequest) -> str:
    """The digest over everything that was asked: decisions and grants carry it."""

    def uid(value: UUID | None) -> str | None:
        return str(value) if value else None

    def moment(value: datetime | None) -> str | None:
        return value.isoformat() if value else None

    value: dict[str, Json] = {
        "id": str(request.pk),
        "agent": str(request.agent_id),
        "owner": str(request.owner_id),
        "user": uid(request.user_id),
        "issued_by": uid(request.issued_by_id),
        "filed_by": uid(request.filed_by_id),
        "client": request.client,
        "kind": request.kind,
        "extends": uid(request.extends_id),
        "supersedes": uid(request.supersedes_id),
        "bundle": uid(request.bundle),
        "items": request.items,
        "risk": request.risk,
        "reason": request.reason,
        "ticket": request.ticket,
        "context": request.context,
        "seconds": request.seconds,
        "max_uses": request.max_uses,
        "starts_at": moment(request.starts_at),
        "not_after": moment(request.not_after),
        "max_total_seconds": request.max_total_seconds,
        "plan": request.plan,
        "created_at": request.created_at.isoformat(),
        "pending_until": request.pending_until.isoformat(),
    }
    return digest(value, domain="jitaccess-request-v2")

"""The states of a request and of a grant, and every move between them. Pure: no Django, no clock."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from jitaccess.kernel.errors import Conflict


class RequestStatus(StrEnum):
    """`pending` ends exactly once, in one of the others; those are final."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"
    INVALIDATED = "invalidated"


class RequestKind(StrEnum):
    """What is asked: access, more time for a grant, or access at once by a break-glass right (never pending)."""

    ACCESS = "access"
    EXTENSION = "extension"
    BREAK_GLASS = "break_glass"


class Risk(StrEnum):
    """How much harm what is asked for can do: by access classes and the labels of servers and tools."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class EndReason(StrEnum):
    """Why a grant is over. `expired` needs no write to be true."""

    EXPIRED = "expired"
    RELEASED = "released"
    REVOKED = "revoked"
    USED_UP = "used_up"
    SUPERSEDED = "superseded"
    SUBJECT_DISABLED = "subject_disabled"
    TARGET_REMOVED = "target_removed"


class DecisionVerdict(StrEnum):
    APPROVE = "approve"
    DENY = "deny"


def ensure_pending(status: str, *, said: str) -> None:
    """Raise Conflict("request.already_decided") unless the request is pending; `said` tells by whom and when."""
    if status != RequestStatus.PENDING:
        raise Conflict("request.already_decided", f"Already {said}.", status=status)


def grant_state(*, starts_at: datetime, expires_at: datetime, ended: bool, at: datetime) -> str:
    """scheduled, active or ended at `at`: derived from the clock, only an early end is stored."""
    if ended or at >= expires_at:
        return "ended"
    return "active" if at >= starts_at else "scheduled"

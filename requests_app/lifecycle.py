"""The states of a request and of a grant, and every move between them. Pure: no Django, no clock."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

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


@dataclass(frozen=True, slots=True)
class Group:
    """An approver group as pinned when the request was filed: it keeps its quorum, whoever is in it now."""

    id: UUID
    name: str
    quorum: int


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one group is: distinct eligible people who approved, of `quorum`."""

    group: Group
    approved_by: frozenset[UUID]

    @property
    def met(self) -> bool:
        return len(self.approved_by) >= max(self.group.quorum, 1)

    @property
    def missing(self) -> int:
        return max(max(self.group.quorum, 1) - len(self.approved_by), 0)


def progress(
    groups: Iterable[Group],
    members: Mapping[UUID, Collection[UUID]],
    approvals: Iterable[UUID],
    excluded: Collection[UUID],
) -> tuple[Progress, ...]:
    """Count distinct people per group: members now, minus `excluded` (self is one person, however many hats)."""
    people = frozenset(approvals) - frozenset(excluded)
    return tuple(Progress(group, people & frozenset(members.get(group.id, ()))) for group in groups)


def approved(progresses: Collection[Progress]) -> bool:
    """Every group has met its quorum, and there is at least one group: nothing is approved by nobody."""
    return bool(progresses) and all(one.met for one in progresses)


def grant_state(*, starts_at: datetime, expires_at: datetime, ended: bool, at: datetime) -> str:
    """scheduled, active or ended at `at`: derived from the clock, only an early end is stored."""
    if ended or at >= expires_at:
        return "ended"
    return "active" if at >= starts_at else "scheduled"

"""Reading the workflow: who may see, decide and end what; how far approval is; how things ended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Q, QuerySet

from jitaccess.audit.models import Entry
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.policy.models import ApproverGroup
from jitaccess.store.clock import JitNow
from requests_app.lifecycle import DecisionVerdict, Group, Progress, RequestStatus, progress
from requests_app.models import AccessRequest, Decision, Grant


@dataclass(frozen=True, slots=True)
class Standing:
    """What one person is to one request. `self_because` says why they count as the requester ("" if they do not)."""

    may_see: bool
    eligible: bool
    self_because: str
    may_revoke: bool

    @property
    def may_decide(self) -> bool:
        return self.eligible and not self.self_because


def groups_of(request: AccessRequest) -> tuple[Group, ...]:
    """The approver groups as pinned at filing."""
    return tuple(Group(UUID(group["id"]), group["name"], group["quorum"]) for group in json.loads(request.groups))


def members_of(groups: Iterable[Group]) -> dict[UUID, frozenset[UUID]]:
    """Active members of each group as they are now."""
    members: dict[UUID, frozenset[UUID]] = {}
    for row in ApproverGroup.objects.filter(pk__in=[group.id for group in groups]):
        people = User.objects.filter(Q(pk__in=row.users.all()) | Q(teams__in=row.teams.all()), is_active=True)
        members[row.pk] = frozenset(people.values_list("pk", flat=True))
    return members


def self_of(request: AccessRequest) -> dict[UUID, str]:
    """Everybody who counts as the requester, and why: self is one person, however many hats."""
    who: dict[UUID, str] = {}
    if request.issued_by_id:
        who[request.issued_by_id] = "you issued the token it was made with"
    if request.user_id:
        who[request.user_id] = "the agent asks on your behalf"
    who[request.agent.owner_id] = "you own the agent that asks"
    return who


def standing_of(request: AccessRequest, user: User) -> Standing:
    """Decided from membership as it is now."""
    if not user.is_active:
        return Standing(may_see=False, eligible=False, self_because="", may_revoke=False)
    eligible = any(user.pk in people for people in members_of(groups_of(request)).values())
    because = self_of(request).get(user.pk, "")
    admin = user.is_superuser
    team = user.teams.filter(pk=request.agent.team_id).exists()
    decided = Decision.objects.filter(request=request, user=user).exists()
    return Standing(
        may_see=bool(eligible or because or admin or team or decided),
        eligible=eligible,
        self_because=because,
        may_revoke=bool(eligible or because or admin),
    )


def approval_progress(request: AccessRequest) -> tuple[Progress, ...]:
    """Distinct eligible people per group, every approval checked against membership now."""
    groups = groups_of(request)
    approvals = Decision.objects.filter(
        request=request, live=True, verdict=DecisionVerdict.APPROVE, digest=request.digest, user__is_active=True
    ).values_list("user_id", flat=True)
    return progress(groups, members_of(groups), approvals, self_of(request))


def approvers_of(request: AccessRequest) -> list[User]:
    """The people who can decide now, self left out."""
    ids = {person for people in members_of(groups_of(request)).values() for person in people} - set(self_of(request))
    return list(User.objects.filter(pk__in=ids).order_by("username"))


def pending_of(principal: Principal) -> QuerySet[AccessRequest]:
    """Pending requests of exactly this principal."""
    return AccessRequest.objects.filter(principal_key=principal.key, status=RequestStatus.PENDING)


def open_requests() -> QuerySet[AccessRequest]:
    """Pending and before their deadline."""
    return AccessRequest.objects.filter(status=RequestStatus.PENDING, pending_until__gt=JitNow())


def inbox_of(user: User) -> list[AccessRequest]:
    """What waits for this person's decision, oldest first."""
    mine = Decision.objects.filter(user=user, live=True).values("request_id")
    waiting = open_requests().exclude(pk__in=mine).select_related("agent__owner", "user").order_by("created_at")[:200]
    return [request for request in waiting if standing_of(request, user).may_decide]


def visible_requests(user: User, *, limit: int = 50) -> list[AccessRequest]:
    """The latest requests this person may see."""
    rows = AccessRequest.objects.select_related("agent__owner", "user", "grant").order_by("-created_at")[: limit * 4]
    return [request for request in rows if standing_of(request, user).may_see][:limit]


def request_of(principal: Principal, request_id: UUID) -> AccessRequest | None:
    """A request filed by exactly this principal."""
    rows = AccessRequest.objects.select_related("agent", "grant")
    return rows.filter(pk=request_id, agent=principal.agent, user=principal.user).first()


def live_grants_of(principal: Principal) -> QuerySet[Grant]:
    return Grant.objects.filter(
        agent=principal.agent, user=principal.user, ended_at=None, starts_at__lte=JitNow(), expires_at__gt=JitNow()
    ).select_related("request")


def timeline_of(request: AccessRequest) -> list[Entry]:
    """A request's whole life from the ledger: asked, decided, used, ended, in order."""
    about = Q(request=request.pk)
    grant = Grant.objects.filter(request=request).first()
    if grant:
        about |= Q(grant=grant.pk)
    return list(Entry.objects.filter(about).order_by("uid")[:1000])


def how_it_ended(request: AccessRequest) -> str:
    """ "approved by anna at 14:02 UTC": for the person who came second."""
    by = f" by {request.closed_by_name}" if request.closed_by_name else ""
    at = f" at {request.closed_at:%H:%M} UTC" if request.closed_at else ""
    return f"{request.status}{by}{at}"


def when_it_ended(grant: Grant, at: datetime) -> str:
    if grant.ended_at:
        by = f" by {grant.ended_by_name}" if grant.ended_by_name else ""
        return f"was {grant.end_reason.replace('_', ' ')}{by} at {grant.ended_at:%H:%M} UTC"
    return f"expired at {grant.expires_at:%H:%M} UTC" if grant.expires_at <= at else "is live"

"""Reading the workflow: inboxes, lists, histories; how things ended. Who is who to a request: standing.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from enum import StrEnum
from functools import reduce
from operator import or_
from uuid import UUID

from django.db.models import Q as Q  # noqa: PLC0414 - for interfaces that add filters
from django.db.models import QuerySet

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.store.clock import JitNow
from jitaccess.store.paging import Part, part_of
from requests_app.lifecycle import RequestStatus

# Interfaces that read name the rows by way of this module: whatever imports requests_app.models may write them.
from requests_app.models import AccessRequest as AccessRequest  # noqa: PLC0414
from requests_app.models import Concern
from requests_app.models import Decision as Decision  # noqa: PLC0414
from requests_app.models import Grant as Grant  # noqa: PLC0414
from requests_app.models import labels_of as labels_of  # noqa: PLC0414
from requests_app.standing import hats_of, standings_of


class State(StrEnum):
    """How requests stand, for lists: approved ones are active or ended; nobody said yes or no to undecided ones."""

    WAITING = "waiting"
    ACTIVE = "active"
    ENDED = "ended"
    DENIED = "denied"
    UNDECIDED = "undecided"


_ALL = Q()


def live_decision_of(request: AccessRequest, user: User) -> Decision | None:
    """What this person has decided on it, if anything that still counts."""
    return Decision.objects.filter(request=request, user=user, live=True).first()


def requests_by_id(ids: Collection[UUID]) -> dict[UUID, AccessRequest]:
    """Requests with their agents, owners and users at hand."""
    return {row.pk: row for row in AccessRequest.objects.filter(pk__in=ids).select_related("agent__owner", "user")}


def request_of_grant(grant_id: UUID) -> UUID | None:
    """The request a grant came from, if there is such a grant."""
    return Grant.objects.filter(pk=grant_id).values_list("request_id", flat=True).first()


def pending_of(principal: Principal) -> QuerySet[AccessRequest]:
    """Pending requests of exactly this principal."""
    return AccessRequest.objects.filter(principal_key=principal.key, status=RequestStatus.PENDING)


def open_requests() -> QuerySet[AccessRequest]:
    """Pending and before their deadline."""
    return AccessRequest.objects.filter(status=RequestStatus.PENDING, pending_until__gt=JitNow())


def inbox_of(user: User, *, limit: int = 200) -> list[AccessRequest]:
    """What waits for this person's decision, oldest first."""
    return desk_of(user, waiting=limit, recent=0)[0]


def desk_of(user: User, *, waiting: int = 200, recent: int = 20) -> tuple[list[AccessRequest], list[AccessRequest]]:
    """What waits for this person's decision, oldest first; and the latest others that they may see."""
    hats = hats_of(user)
    asked = Concern.objects.filter(subject__in=hats, request__status=RequestStatus.PENDING)
    rows = open_requests().filter(pk__in=asked.values("request")).select_related("agent__owner", "user", "grant")
    oldest = list(rows.order_by("created_at")[:waiting])
    latest = list(_concerning(user, hats).order_by("-pk")[:recent]) if recent else []
    unique = {row.pk: row for row in (*oldest, *latest)}
    standings = dict(zip(unique, standings_of(list(unique.values()), user), strict=True))
    mine = [row for row in oldest if standings[row.pk].may_decide and standings[row.pk].decided is None]
    return mine, [row for row in latest if standings[row.pk].may_see and row not in mine]


def visible_requests(user: User, *, limit: int = 50) -> list[AccessRequest]:
    """The latest requests this person may see."""
    return _seen(user, list(_concerning(user).order_by("-pk")[:limit]))


def page_of_requests(
    user: User,
    *,
    state: State | None = None,
    before: UUID | None = None,
    after: UUID | None = None,
    size: int = 50,
    where: Q = _ALL,
) -> Part[AccessRequest]:
    """Requests this person may see, latest first: those filed before or after one of them, or the latest of all."""
    part = part_of(_concerning(user).filter(where, _in_state(state)), before=before, after=after, size=size)
    return Part(_seen(user, part.rows), newer=part.newer, older=part.older)


def requests_of(principal: Principal) -> QuerySet[AccessRequest]:
    """What exactly this principal filed."""
    rows = AccessRequest.objects.select_related("agent__owner", "user", "grant")
    return rows.filter(principal_key=principal.key, agent=principal.agent)


def page_of_own_requests(
    principal: Principal,
    *,
    state: State | None = None,
    before: UUID | None = None,
    after: UUID | None = None,
    size: int = 50,
    where: Q = _ALL,
) -> Part[AccessRequest]:
    """As page_of_requests, for the principal that filed them."""
    return part_of(requests_of(principal).filter(where, _in_state(state)), before=before, after=after, size=size)


def all_requests(state: State | None = None) -> QuerySet[AccessRequest]:
    """Those of the whole installation, for its operator."""
    return AccessRequest.objects.select_related("agent__owner", "user", "grant").filter(_in_state(state))


def grants_seen_by(user: User) -> QuerySet[Grant]:
    """Grants of the requests that this person may see."""
    rows = Grant.objects.select_related("request__agent", "agent", "user")
    return rows if user.is_superuser else rows.filter(request__in=_concerning(user).order_by().values("pk"))


def seen_grants(user: User, grants: Sequence[Grant]) -> list[Grant]:
    """Those whose requests this person may see: `grants_seen_by` is a filter for lists, standing has the last word."""
    standings = standings_of([grant.request for grant in grants], user)
    return [grant for grant, standing in zip(grants, standings, strict=True) if standing.may_see]


def grants_of(principal: Principal) -> QuerySet[Grant]:
    """What exactly this principal holds or held."""
    rows = Grant.objects.select_related("request__agent", "agent", "user")
    return rows.filter(agent=principal.agent, user=principal.user)


def asks_of_server(slug: str) -> Q:
    """Requests for tools of the server with this slug. `items` is our own canonical JSON."""
    return Q(items__contains=f'"server":"{slug}"')


def grants_live(*, live: bool) -> Q:
    """Grants that are live by the clock, or those that are not."""
    now_live = Q(ended_at=None, starts_at__lte=JitNow(), expires_at__gt=JitNow())
    return now_live if live else ~now_live


def decisions_on(request: AccessRequest) -> list[Decision]:
    """All of them, in their order, with who decided."""
    return list(request.decisions.select_related("user").order_by("at", "pk"))


def _concerning(user: User, hats: Collection[str] | None = None) -> QuerySet[AccessRequest]:
    rows = AccessRequest.objects.select_related("agent__owner", "user", "grant")
    if user.is_superuser:
        return rows
    concerned = Concern.objects.filter(subject__in=hats_of(user) if hats is None else hats).values("request")
    decided = Decision.objects.filter(user=user).values("request")
    return rows.filter(Q(pk__in=concerned) | Q(pk__in=decided))


def _seen(user: User, rows: list[AccessRequest]) -> list[AccessRequest]:
    return [row for row, standing in zip(rows, standings_of(rows, user), strict=True) if standing.may_see]


def _in_state(state: State | None) -> Q:
    """By the clock: what the sweep has not written down yet is true already."""
    pending, approved = Q(status=RequestStatus.PENDING), Q(status=RequestStatus.APPROVED)
    match state:
        case None:
            return Q()
        case State.WAITING:
            return pending & Q(pending_until__gt=JitNow())
        case State.ACTIVE:
            return approved & Q(grant__ended_at=None, grant__expires_at__gt=JitNow())
        case State.ENDED:
            return approved & (Q(grant__ended_at__isnull=False) | Q(grant__expires_at__lte=JitNow()))
        case State.DENIED:
            return Q(status=RequestStatus.DENIED)
        case State.UNDECIDED:
            closed = (
                RequestStatus.CANCELLED,
                RequestStatus.EXPIRED,
                RequestStatus.SUPERSEDED,
                RequestStatus.INVALIDATED,
            )
            return Q(status__in=closed) | (pending & Q(pending_until__lte=JitNow()))


def history_of(request: AccessRequest) -> dict[UUID, Counter[str]]:
    """For each tool asked for: how earlier requests of the same agent for it (the latest 1,000) ended, by status."""
    counts: dict[UUID, Counter[str]] = {UUID(tool["id"]): Counter() for tool in request.tools}
    same = reduce(or_, (Q(items__contains=str(tool)) for tool in counts), Q(pk__in=[]))
    earlier = AccessRequest.objects.filter(same, agent=request.agent_id, created_at__lt=request.created_at)
    for items, status in earlier.order_by("-created_at").values_list("items", "status")[:1000]:
        for tool, ended in counts.items():
            if str(tool) in items:
                ended[status] += 1
    return counts


def request_of(principal: Principal, request_id: UUID) -> AccessRequest | None:
    """A request filed by exactly this principal."""
    rows = AccessRequest.objects.select_related("agent", "grant")
    return rows.filter(pk=request_id, agent=principal.agent, user=principal.user).first()


def is_open(principal: Principal, request_id: UUID) -> bool:
    """Whether a request of this principal still waits: one small query, for those who ask again and again."""
    return pending_of(principal).filter(pk=request_id, pending_until__gt=JitNow()).exists()


def live_grants_of(principal: Principal) -> QuerySet[Grant]:
    """What exactly this principal holds now."""
    return Grant.objects.filter(
        agent=principal.agent, user=principal.user, ended_at=None, starts_at__lte=JitNow(), expires_at__gt=JitNow()
    ).select_related("request")


def timeline_of(request: AccessRequest, *, calls: int = 500) -> list[Entry]:
    """A request's whole life from the ledger: asked, decided, used, ended, in order.

    Entries about calls are many: the latest `calls` of them are given, everything else always.
    """
    grant = getattr(request, "grant", None)
    # What extends a grant is a request of its own, and part of this one's life too.
    extended = Q(grant=grant.pk, event=Event.GRANT_EXTENDED) if grant else Q(pk__in=())
    life = list(Entry.objects.filter(Q(request=request.pk) | extended))
    uses = list(Entry.objects.filter(grant=grant.pk, call__isnull=False).order_by("-uid")[:calls]) if grant else []
    # By the database's clock: uids carry the clock of whichever host wrote them.
    return sorted([*life, *uses], key=lambda entry: (entry.at, entry.uid))


def comments_by(user: User, request: AccessRequest) -> int:
    """How many remarks this person has made on a request."""
    return Entry.objects.filter(request=request.pk, event=Event.REQUEST_COMMENTED, user=user.pk).count()


def how_it_ended(request: AccessRequest) -> str:
    """Such as "approved by anna at 14:02 UTC", for the person who came second."""
    by = f" by {request.closed_by_name}" if request.closed_by_name else ""
    at = f" at {request.closed_at:%H:%M} UTC" if request.closed_at else ""
    return f"{request.status}{by}{at}"


def when_it_ended(grant: Grant, at: datetime) -> str:
    """Such as "was revoked by anna at 14:02 UTC", or "is live"."""
    if grant.ended_at:
        by = f" by {grant.ended_by_name}" if grant.ended_by_name else ""
        return f"was {grant.end_reason.replace('_', ' ')}{by} at {grant.ended_at:%H:%M} UTC"
    return f"expired at {grant.expires_at:%H:%M} UTC" if grant.expires_at <= at else "is live"


def how_many() -> dict[str, int]:
    """Open requests and live grants of the whole installation, for who watches it."""
    pending = AccessRequest.objects.filter(status=RequestStatus.PENDING, pending_until__gt=JitNow())
    live = Grant.objects.filter(ended_at=None, starts_at__lte=JitNow(), expires_at__gt=JitNow())
    return {"pending_requests": pending.count(), "live_grants": live.count()}

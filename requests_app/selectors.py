"""Reading the workflow: inboxes, lists, histories; how things ended. Who is who to a request: standing.py."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from django.db.models import Case, OuterRef, QuerySet, SmallIntegerField, Subquery, When
from django.db.models import Q as Q  # noqa: PLC0414 - for interfaces that add filters
from django.db.models.lookups import IsNull

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.store.clock import JitNow
from jitaccess.store.paging import Part, part_of
from requests_app.lifecycle import RequestStatus, Risk

# Interfaces that read name the rows by way of this module: whatever imports requests_app.models may write them.
from requests_app.models import AccessRequest as AccessRequest  # noqa: PLC0414
from requests_app.models import Concern, about_server
from requests_app.models import Decision as Decision  # noqa: PLC0414
from requests_app.models import Grant as Grant  # noqa: PLC0414
from requests_app.models import labels_of as labels_of  # noqa: PLC0414
from requests_app.near import Span, part_near
from requests_app.standing import hats_of, standings_of


class State(StrEnum):
    """How requests stand, for lists: approved ones are active or ended; nobody said yes or no to undecided ones."""

    WAITING = "waiting"
    ACTIVE = "active"
    ENDED = "ended"
    DENIED = "denied"
    UNDECIDED = "undecided"


_ALL = Q()
_RISKS = (Risk.CRITICAL, Risk.HIGH, Risk.MEDIUM, Risk.LOW)
_HARM = Case(*(When(risk=risk, then=place) for place, risk in enumerate(_RISKS)), output_field=SmallIntegerField())
_MARGIN = timedelta(days=1)


def live_decision_of(request: AccessRequest, user: User) -> Decision | None:
    """What this person has decided on it, if anything that still counts."""
    return Decision.objects.filter(request=request, user=user, live=True).first()


def requests_by_id(ids: Collection[UUID]) -> dict[UUID, AccessRequest]:
    """Requests with their agents, owners and users at hand."""
    return {row.pk: row for row in AccessRequest.objects.filter(pk__in=ids).select_related("agent__owner", "user")}


def requests_with_grants(ids: Collection[UUID]) -> dict[UUID, AccessRequest]:
    """As requests_by_id, with what they were given."""
    rows = AccessRequest.objects.filter(pk__in=ids).select_related("agent__owner", "user", "grant")
    return {row.pk: row for row in rows}


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
    """What waits for this person's decision, the riskiest and of those the oldest first."""
    return desk_of(user, waiting=limit, recent=0).waiting


class Desk(NamedTuple):
    """What waits for somebody's decision, the riskiest and of those the oldest first; the latest others they may see;
    and the last of this part, if more are waiting behind it.
    """

    waiting: list[AccessRequest]
    recent: list[AccessRequest]
    more: UUID | None


def desk_of(
    user: User,
    *,
    at: datetime | None = None,
    waiting: int = 200,
    recent: int = 20,
    after: UUID | None = None,
    where: Q = _ALL,
) -> Desk:
    """What of `where` waits for this person's decision (`at` this moment), behind the request `after`."""
    hats = hats_of(user)
    rows = open_requests().filter(concerns(hats)).select_related("agent__owner", "user", "grant")
    found = list(rows.filter(where, _behind(after)).order_by(_HARM, "created_at", "pk")[: waiting + 1])
    first, more = found[:waiting], len(found) > waiting
    latest = _page(None if user.is_superuser else hats, None, size=recent).rows if recent else []
    unique = {row.pk: row for row in (*first, *latest)}
    standings = dict(zip(unique, standings_of(list(unique.values()), user, at, hats), strict=True))
    waits = {pk for pk, place in standings.items() if place.may_decide and place.decided is None}
    mine = [row for row in first if row.pk in waits]
    # What waits on another part of the desk is none of the others.
    rest = [row for row in latest if row not in mine and not ((more or after) and row.pending and row.pk in waits)]
    seen = [row for row in rest if standings[row.pk].may_see]
    return Desk(mine, seen, first[-1].pk if more else None)


def _behind(request: UUID | None) -> Q:
    """What stands behind this request on a desk, whatever became of it meanwhile."""
    row = AccessRequest.objects.filter(pk=request).first() if request else None
    if row is None:
        return Q()
    later = Q(created_at__gt=row.created_at) | Q(created_at=row.created_at, pk__gt=row.pk)
    return Q(risk__in=_RISKS[_RISKS.index(row.risk) + 1 :]) | Q(later, risk=row.risk)


def visible_requests(user: User, *, limit: int = 50) -> list[AccessRequest]:
    """The latest requests this person may see."""
    return page_of_requests(user, size=limit).rows


def page_of_requests(
    user: User,
    *,
    state: State | None = None,
    before: UUID | None = None,
    after: UUID | None = None,
    size: int = 50,
    where: Q = _ALL,
    theirs: bool = False,
) -> Part[AccessRequest]:
    """Requests this person may see, latest first: those filed before or after one of them, or the latest of all.

    `theirs`: they may see all that `where` finds, so that it need not be looked for by whom it concerns.
    """
    hats = None if theirs else _sought(user)
    part = _page(hats, state, before=before, after=after, size=size, where=where)
    return Part(_seen(user, part.rows, hats), newer=part.newer, older=part.older)


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


def page_of_grants(
    user: User,
    *,
    live: bool | None = None,
    before: UUID | None = None,
    after: UUID | None = None,
    size: int = 50,
    where: Q = _ALL,
    theirs: bool = False,
) -> Part[Grant]:
    """Grants of the requests that this person may see, latest first; `live` or not, None: all. `theirs`: as above."""
    hats = None if theirs else _sought(user)
    table = Grant.objects.select_related("request__agent", "agent", "user")
    wanted = table.filter(where, _ALL if live is None else grants_live(live=live))
    if hats is None:
        part = part_of(wanted, before=before, after=after, size=size)
    elif live or where:  # few enough to ask of each
        part = part_of(wanted.filter(concerns(hats, "request")), before=before, after=after, size=size)
    else:

        def rows(span: Span) -> QuerySet[Grant]:
            if not span.whole:
                return wanted.filter(span.of("pk"), concerns(hats, "request"))
            return wanted.filter(request__in=Concern.objects.filter(subject__in=hats).values("request"))

        part = part_near(Grant.objects.all(), rows, before=before, after=after, size=size)
    return Part(seen_grants(user, part.rows, hats), newer=part.newer, older=part.older)


def grants_seen_by(user: User) -> QuerySet[Grant]:
    """Grants of the requests that this person may see, to find one among; page_of_grants lists them."""
    rows = Grant.objects.select_related("request__agent", "agent", "user")
    return rows if user.is_superuser else rows.filter(concerns(hats_of(user), "request"))


def seen_grants(user: User, grants: Sequence[Grant], hats: Collection[str] | None = None) -> list[Grant]:
    """Those whose requests this person may see: `grants_seen_by` is a filter for lists, standing has the last word."""
    standings = standings_of([grant.request for grant in grants], user, hats=hats)
    return [grant for grant, standing in zip(grants, standings, strict=True) if standing.may_see]


def grants_of(principal: Principal) -> QuerySet[Grant]:
    """What exactly this principal holds or held."""
    rows = Grant.objects.select_related("request__agent", "agent", "user")
    return rows.filter(agent=principal.agent, user=principal.user)


def asks_of_server(slug: str) -> Q:
    """Requests for tools of the server with this slug."""
    return Q(pk__in=Concern.objects.filter(subject=about_server(slug)).values("request"))


def filed_between(after: datetime | None, before: datetime | None) -> Q:
    """Filed after and before these moments. One query each finds a day's margin in the order of the list, which is that
    of keys: the clock by which those are made is another one.
    """
    rows, where = AccessRequest.objects.values_list("pk", flat=True), Q()
    if after:
        first = rows.filter(created_at__gt=after - _MARGIN).order_by("created_at").first()
        where &= Q(created_at__gt=after, pk__gte=first) if first else Q(pk__in=[])
    if before:
        last = rows.filter(created_at__lt=before + _MARGIN).order_by("-created_at").first()
        where &= Q(created_at__lt=before, pk__lte=last) if last else Q(pk__in=[])
    return where


def grants_live(*, live: bool) -> Q:
    """Grants that are live by the clock, or those that are not."""
    now_live = Q(ended_at=None, starts_at__lte=JitNow(), expires_at__gt=JitNow())
    return now_live if live else ~now_live


def decisions_on(request: AccessRequest) -> list[Decision]:
    """All of them, in their order, with who decided."""
    return list(request.decisions.select_related("user").order_by("at", "pk"))


def _page(
    hats: Collection[str] | None,
    state: State | None,
    *,
    before: UUID | None = None,
    after: UUID | None = None,
    size: int,
    where: Q = _ALL,
) -> Part[AccessRequest]:
    """Of what concerns somebody by these refs; their standing has the last word."""
    table = all_requests(state).filter(where)
    if hats is None:
        return part_of(table, before=before, after=after, size=size)
    if where or state in (State.WAITING, State.ACTIVE):  # few enough to ask of each
        return part_of(table.filter(concerns(hats)), before=before, after=after, size=size)

    def rows(span: Span) -> QuerySet[AccessRequest]:
        concerned = Concern.objects.filter(span.of("request"), subject__in=hats)
        return table.filter(span.of("pk"), pk__in=concerned.values("request"))

    return part_near(AccessRequest.objects.all(), rows, before=before, after=after, size=size)


def concerns(hats: Collection[str], request: str = "pk") -> IsNull:
    """Asked of each row, by the index on whom a request concerns. Not EXISTS: to be clever, the planner would gather
    all that ever concerned them first.
    """
    theirs = Concern.objects.filter(request=OuterRef(request), subject__in=hats)
    return IsNull(Subquery(theirs.values("subject")[:1]), False)


def _sought(user: User) -> frozenset[str] | None:
    """By which refs to find what they may see; None: it is everything."""
    return None if user.is_superuser else hats_of(user)


def _seen(user: User, rows: list[AccessRequest], hats: Collection[str] | None) -> list[AccessRequest]:
    standings = standings_of(rows, user, hats=hats)
    return [row for row, standing in zip(rows, standings, strict=True) if standing.may_see]


def _in_state(state: State | None) -> Q:
    """By the clock: what the sweep has not written down yet is true already."""
    pending, approved = Q(status=RequestStatus.PENDING), Q(status=RequestStatus.APPROVED)
    match state:
        case None:
            return Q()
        case State.WAITING:
            return pending & Q(pending_until__gt=JitNow())
        case State.ACTIVE:
            live = Grant.objects.filter(ended_at=None, expires_at__gt=JitNow())
            return approved & Q(pk__in=live.values("request"))
        case State.ENDED:
            return approved & (Q(grant__ended_at__isnull=False) | Q(grant__expires_at__lte=JitNow()))
        case State.DENIED:
            return Q(status=RequestStatus.DENIED)
        case State.UNDECIDED:
            # Said as what it is not: read in the order of the list, for four statuses would be sorted all at once.
            decided = Q(status__in=(RequestStatus.APPROVED, RequestStatus.DENIED))
            return ~(decided | (pending & Q(pending_until__gt=JitNow())))


def request_of(principal: Principal, request_id: UUID) -> AccessRequest | None:
    """A request filed by exactly this principal."""
    rows = AccessRequest.objects.select_related("agent", "grant")
    return rows.filter(pk=request_id, agent=principal.agent, user=principal.user).first()


def is_open(principal: Principal, request_id: UUID) -> bool:
    """Whether a request of this principal still waits."""
    return pending_of(principal).filter(pk=request_id, pending_until__gt=JitNow()).exists()


def still_open(request_ids: Collection[UUID]) -> set[UUID]:
    """Those of these requests that still wait: one query for all that somebody waits for."""
    return set(open_requests().filter(pk__in=request_ids).values_list("pk", flat=True)) if request_ids else set()


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
    of_calls = Entry.objects.filter(grant=getattr(grant, "pk", None), call__isnull=False).exclude(request=request.pk)
    uses = list(of_calls.order_by("-uid")[:calls]) if grant else []
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

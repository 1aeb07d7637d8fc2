"""Who may see and decide a request, and how far its approval is: the pinned plan, with people as they are now."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db.models import Q, QuerySet

from jitaccess.identity.models import Team, User
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid, NotFound
from jitaccess.kernel.once import once, once_each
from jitaccess.policy.approval.plan import Plan, read_plan
from jitaccess.policy.delegations import delegators, delegators_of, standins_for
from jitaccess.policy.people import members_of, refs_of
from jitaccess.store.clock import now
from requests_app import approval
from requests_app.approval import People, Tally, Vote
from requests_app.lifecycle import DecisionVerdict, RequestStatus
from requests_app.models import AccessRequest, Decision, Grant


@dataclass(frozen=True, slots=True)
class Standing:
    """What one person is to one request. `self_because` says why they count as the requester ("" if they do not).

    `seat` is whose word theirs is at the stage that is decided now: their own, or that of whom they stand in for.
    """

    may_see: bool
    seat: UUID | None
    self_because: str
    may_revoke: bool
    decided: DecisionVerdict | None = None

    @property
    def eligible(self) -> bool:
        return self.seat is not None

    @property
    def may_decide(self) -> bool:
        return self.eligible and not self.self_because


_NOBODY = Standing(may_see=False, seat=None, self_because="", may_revoke=False)


def plan_of(request: AccessRequest) -> Plan | None:
    """The plan pinned at filing; None when there is none that can be read: nobody decides by that."""
    return _read(request.plan)


@lru_cache(maxsize=2048)
def _read(text: str) -> Plan | None:
    value = strictjson.decode(text.encode())
    assert isinstance(value, dict)
    try:
        return read_plan(value)
    except Invalid:
        return None


def self_of(request: AccessRequest) -> dict[UUID, str]:
    """Everybody who counts as the requester, and why: self is one person, however many hats."""
    who: dict[UUID, str] = {}
    if request.issued_by_id:
        who[request.issued_by_id] = "you issued the token it was made with"
    if request.user_id:
        who[request.user_id] = "the agent asks on your behalf"
    who[request.owner_id] = "you owned the agent when it asked"
    who[request.agent.owner_id] = "you own the agent that asks"
    if request.filed_by_id:
        who[request.filed_by_id] = "you filed it"
    if request.extends and request.extends.request.filed_by_id:
        who[request.extends.request.filed_by_id] = "you filed what it extends"
    return who


def people_of(requests: Sequence[AccessRequest], at: datetime | None = None) -> dict[UUID, People]:
    """Who is who to each request now (`at`: for schedules); as many queries for a hundred as for one."""
    plans = [plan for request in requests if (plan := plan_of(request))]
    members = members_of((ref for plan in plans for ref in plan.refs()), at=at)
    everybody = {person for people in members.values() for person in people}
    standins = standins_for(everybody)
    delegates = frozenset((person, to) for to, persons in standins.acting.items() for person in persons)
    # Whether a delegate is there themselves does not depend on whether they are asked in their own right, too.
    others = standins.acting.keys() - everybody
    away = standins.away | (standins_for(others).away if others else frozenset())
    return {request.pk: People(members, frozenset(self_of(request)), delegates, away) for request in requests}


def votes_on(requests: Iterable[AccessRequest]) -> dict[UUID, list[Vote]]:
    """Live decisions on what each request says now, of active people."""
    ids = [request.pk for request in requests]
    return _votes(Decision.objects.filter(request__in=ids, live=True).values_list(*_OF_A_VOTE))


_OF_A_VOTE = (
    "request_id",
    "request__digest",
    "digest",
    "user_id",
    "on_behalf_of_id",
    "stage",
    "verdict",
    "live",
    "user__is_active",
)


def _votes(rows: Iterable[tuple[Any, ...]]) -> dict[UUID, list[Vote]]:
    """Those of these decisions that count."""
    found: dict[UUID, list[Vote]] = defaultdict(list)
    for request, wanted, digest, person, holder, stage, verdict, live, active in rows:
        if live and active and digest == wanted:
            found[request].append(Vote(person, holder, stage, DecisionVerdict(verdict)))
    return found


def tallies_of(requests: Sequence[AccessRequest], at: datetime) -> dict[UUID, Tally]:
    """How far each is; those without a plan are left out."""
    people, votes = people_of(requests), votes_on(requests)
    return {
        request.pk: approval.tally(plan, votes[request.pk], people[request.pk], waited=waited(request, at))
        for request in requests
        if (plan := plan_of(request))
    }


def tally_of(request: AccessRequest, at: datetime | None = None) -> Tally | None:
    """How far this one is, every approval checked against who is who now."""
    return tallies_of([request], at or now()).get(request.pk)


def waited(request: AccessRequest, at: datetime) -> float:
    """Seconds since filing, by which escalations are due; after its end those that it had until then."""
    return ((request.closed_at or at) - request.created_at).total_seconds()


@once
def hats_of(user: User) -> frozenset[str]:
    """Every ref that means this person now, or somebody in whose place they may decide."""
    return refs_of(user, *User.objects.filter(pk__in=delegators_of(user)))


def standing_of(request: AccessRequest, user: User) -> Standing:
    """Decided from who is who now."""
    return standings_of([request], user)[0]


def standings_of(
    requests: Sequence[AccessRequest], user: User, at: datetime | None = None, hats: Collection[str] | None = None
) -> list[Standing]:
    """The standing of one person to each of `requests`, in their order; as many queries for a hundred as for one.

    `hats` are theirs, for whoever has them at hand.
    """
    if not user.is_active or not requests:
        return [_NOBODY for _ in requests]
    at = at or now()
    people, teams = people_of(requests, at), _TeamsOf(user, hats)
    decisions = [row for rows in _decided((request.pk for request in requests), user).values() for row in rows]
    votes, decided = _votes(decisions), {request for request, _, _, person, *_ in decisions if person == user.pk}
    return [
        _standing(request, user, people[request.pk], votes[request.pk], teams, at, decided=request.pk in decided)
        for request in requests
    ]


@once_each
def _decided(requests: frozenset[UUID], user: User) -> dict[UUID, list[tuple[Any, ...]]]:
    """By request, the decisions that count, and whatever this person decided; the columns of _OF_A_VOTE."""
    found: dict[UUID, list[tuple[Any, ...]]] = {request: [] for request in requests}
    rows = Decision.objects.filter(Q(live=True) | Q(user=user), request__in=requests)
    for row in rows.values_list(*_OF_A_VOTE):
        found[row[0]].append(row)
    return found


class _TeamsOf:
    """The teams of a person, and of those in whose place they decide; read when they matter, once."""

    def __init__(self, user: User, hats: Collection[str] | None = None) -> None:
        self._user = user
        self._found: frozenset[UUID] | None = None
        if hats is not None:
            self._found = frozenset(UUID(hat.removeprefix("team:")) for hat in hats if hat.startswith("team:"))

    def __contains__(self, team: UUID) -> bool:
        if self._found is None:
            self._found = _teams_of(self._user)
        return team in self._found


@once
def _teams_of(user: User) -> frozenset[UUID]:
    theirs = Team.objects.filter(Q(members=user) | Q(members__in=delegators(user)))
    return frozenset(theirs.values_list("pk", flat=True))


def _standing(
    request: AccessRequest,
    user: User,
    around: People,
    votes: Sequence[Vote],
    teams: _TeamsOf,
    at: datetime,
    *,
    decided: bool,
) -> Standing:
    """`decided`: whether this person ever decided on it, whatever became of that."""
    plan, because = plan_of(request), self_of(request).get(user.pk, "")
    seat, mine, asked = None, None, False
    if plan:
        here = approval.tally(plan, votes, around, waited=waited(request, at))
        taken = {vote.seat for vote in votes if vote.stage == here.stage and vote.person != user.pk}
        seat = approval.seat_of(user.pk, here.seats, around, taken)
        own = (vote for vote in votes if vote.person == user.pk and vote.stage == here.stage)
        mine = next((vote.verdict for vote in own), None)
        stands_for = {user.pk} | {person for person, delegate in around.delegates if delegate == user.pk}
        asked = any(stands_for & around.members.get(ref, frozenset()) for ref in plan.refs())
    involved = bool(seat or asked or because or user.is_superuser)
    return Standing(
        may_see=involved or decided or request.agent.team_id in teams,
        seat=seat,
        self_because=because,
        may_revoke=involved,
        decided=mine,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A request as one person sees it at one moment. `relatives` are those they may see of its bundle, what it extends
    or replaces, and what extends or replaces it. `decisions` are all of them, in their order.
    """

    request: AccessRequest
    standing: Standing
    plan: Plan | None
    people: People
    votes: tuple[Vote, ...]
    decisions: tuple[Decision, ...]
    relatives: tuple[AccessRequest, ...]
    at: datetime

    @property
    def waited(self) -> float:
        return waited(self.request, self.at)


def seen_by(user: User, request_id: UUID) -> tuple[AccessRequest, Standing]:
    """A request and what this person is to it. Raises NotFound: a foreign one answers like one that does not exist."""
    request = _rows().filter(pk=request_id).first()
    standing = standing_of(request, user) if request else None
    if request is None or standing is None or not standing.may_see:
        raise _unknown()
    return request, standing


def look_at(user: User, request_id: UUID) -> Seen:
    """As `seen_by`, with all that a page about it needs; every table is read once."""
    request = _rows().filter(pk=request_id).first() if user.is_active else None
    if request is None:
        raise _unknown()
    return _look(request, user)


def look_at_each(user: User, requests: Sequence[AccessRequest]) -> list[Seen]:
    """The same of several that they may see, in their order. In one look, as many queries for ten as for one."""
    rows = {row.pk: row for row in _rows().filter(pk__in=[one.pk for one in requests])}
    found = [rows[one.pk] for one in requests if one.pk in rows]
    others = _relatives(found)
    _decisions_on(rows)
    people_of([*found, *(other for some in others.values() for other in some)], now())
    return [_look(request, user) for request in found]


def look(request_id: UUID) -> Seen:
    """The same for what nobody in particular reads: it has no relatives and no seat. Raises NotFound."""
    request = _rows().filter(pk=request_id).first()
    if request is None:
        raise _unknown()
    return _look(request, None)


def as_if(request: AccessRequest) -> Seen:
    """The same for a request that a dry run has taken back: what its approvers would see."""
    return _look(request, None)


def _look(request: AccessRequest, user: User | None) -> Seen:
    at = now()
    others = _relatives([request])[request] if user else []
    people = people_of([request, *others], at)
    decisions = tuple(_decisions_on([request.pk])[request.pk])
    votes = tuple(
        Vote(one.user_id, one.on_behalf_of_id, one.stage, DecisionVerdict(one.verdict))
        for one in decisions
        if one.live and one.user.is_active and one.digest == request.digest
    )
    standing, relatives = _NOBODY, []
    if user:
        teams, decided = _TeamsOf(user), any(one.user_id == user.pk for one in decisions)
        standing = _standing(request, user, people[request.pk], votes, teams, at, decided=decided)
        if not standing.may_see:
            raise _unknown()
        relatives = [
            one for one in others if _standing(one, user, people[one.pk], (), teams, at, decided=False).may_see
        ]
    return Seen(
        request=request,
        standing=standing,
        plan=plan_of(request),
        people=people[request.pk],
        votes=votes,
        decisions=decisions,
        relatives=tuple(relatives),
        at=at,
    )


@once_each
def _relatives(requests: frozenset[AccessRequest]) -> dict[AccessRequest, list[AccessRequest]]:
    """Of each, at most fifty that belong to it; five queries at most. Each kind by its own index: together with an
    ORDER BY they might be looked for in the whole table.
    """
    near: dict[AccessRequest, set[UUID]] = {
        one: {pk for pk in (one.supersedes_id, one.extends.request_id if one.extends else None) if pk}
        for one in requests
    }
    kinds: dict[str, dict[UUID, list[AccessRequest]]] = {
        name: defaultdict(list) for name in ("supersedes", "extends", "bundle")
    }
    for one in requests:
        grant: Grant | None = getattr(one, "grant", None)
        for name, key in (("supersedes", one.pk), ("extends", grant and grant.pk), ("bundle", one.bundle)):
            if key:
                kinds[name][key].append(one)
    for name, keys in kinds.items():
        rows = AccessRequest.objects.filter(**{f"{name}__in": list(keys)}).values_list(name, "pk")
        for key, pk in rows[: 50 * len(requests)]:
            for one in keys[key]:
                near[one].add(pk)
    for one, found in near.items():
        found.discard(one.pk)
    rows_by_id = AccessRequest.objects.select_related("agent", "grant").in_bulk(set[UUID]().union(*near.values()))
    return {one: [rows_by_id[pk] for pk in sorted(found) if pk in rows_by_id][:50] for one, found in near.items()}


@once_each
def _decisions_on(requests: frozenset[UUID]) -> dict[UUID, list[Decision]]:
    """Of each request all of them, in their order."""
    found: dict[UUID, list[Decision]] = {request: [] for request in requests}
    rows = Decision.objects.filter(request__in=requests).select_related("user", "on_behalf_of")
    for one in rows.order_by("at", "pk"):
        found[one.request_id].append(one)
    return found


def _rows() -> QuerySet[AccessRequest]:
    return AccessRequest.objects.select_related(
        "agent__owner", "agent__team", "user", "issued_by", "filed_by", "grant", "extends__request"
    )


def _unknown() -> NotFound:
    return NotFound("request.unknown", "There is no such request, or you may not see it.")


def approvers_of(request: AccessRequest) -> list[User]:
    """The people who can decide now: self left out, and those who are away with nobody in their place."""
    tally = tally_of(request)
    if tally is None or request.status != RequestStatus.PENDING:
        return []
    people = people_of([request])[request.pk]
    stand_ins = {delegate for person, delegate in people.delegates if person in tally.seats} - people.self_
    ids = (tally.seats - people.away) | stand_ins
    return list(User.objects.filter(pk__in=ids, is_active=True).order_by("username"))

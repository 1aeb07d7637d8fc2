"""Who is meant by the refs of a pinned plan ("team:<uuid>", "server:<uuid>", …), now; and the refs of selectors."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db.models import F, QuerySet, UUIDField, Value

from jitaccess.catalog.models import Server
from jitaccess.identity.models import Team, User
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.once import once_each
from jitaccess.kernel.yamldoc import Reader
from jitaccess.policy.approval.document import Kind, PolicyRule, Selector
from jitaccess.policy.approval.plan import Resolve
from jitaccess.policy.approval.rota import is_fresh, on_call
from jitaccess.policy.models import OnCallSchedule, Role
from jitaccess.store.clock import now

_READ = Reader("role.invalid")
# (what a ref names, a person)
Pairs = Iterable[tuple[UUID, UUID]]


def resolver(rule: PolicyRule, *, servers: Collection[UUID], roles: Collection[UUID], owner: UUID) -> Resolve:
    """What the selectors of `rule` mean in a request for these servers and roles by an agent of `owner`.

    What is named but gone means nobody. At most three queries.
    """
    selectors = {one for group in rule.groups() for one in group.people}
    names = {kind: {one.name for one in selectors if one.kind is kind} for kind in Kind}
    ids: dict[Kind, dict[str, UUID]] = {}
    if names[Kind.USER]:
        ids[Kind.USER] = dict(User.objects.filter(username__in=names[Kind.USER]).values_list("username", "pk"))
    if names[Kind.TEAM]:
        ids[Kind.TEAM] = dict(Team.objects.filter(name__in=names[Kind.TEAM]).values_list("name", "pk"))
    if names[Kind.SCHEDULE]:
        rows = OnCallSchedule.objects.filter(name__in=names[Kind.SCHEDULE])
        ids[Kind.SCHEDULE] = dict(rows.values_list("name", "pk"))

    def resolve(selector: Selector) -> Sequence[str]:
        match selector.kind:
            case Kind.SERVER_OWNERS:
                return [f"server:{one}" for one in sorted(servers)]
            case Kind.ROLE_OWNERS:
                return [f"role:{one}" for one in sorted(roles)]
            case Kind.MANAGER:
                return [f"manager:{owner}"]
            case kind:
                found = ids[kind].get(selector.name)
                return [f"{kind}:{found}"] if found else []

    return resolve


@once_each
def members_of(refs: frozenset[str], *, at: datetime | None = None) -> dict[str, frozenset[UUID]]:
    """The active people whom each ref means now (`at`: for schedules); nobody for what is gone.

    One query, and two more for each of roles and schedules, however many there are.
    """
    ids: dict[str, set[UUID]] = defaultdict(set)
    for ref in refs:
        kind, _, value = ref.partition(":")
        ids[kind].add(UUID(value))
    found: dict[str, set[UUID]] = defaultdict(set)
    parts = [_ROWS[kind](some).order_by().annotate(kind=Value(kind)) for kind, some in ids.items() if kind in _ROWS]
    rows = [part.values_list("kind", "of", "who") for part in parts]
    for kind, one, person in rows[0].union(*rows[1:], all=True) if rows else ():
        found[f"{kind}:{one}"].add(person)
    for kind, some in ids.items():
        for one, person in _PEOPLE[kind](some, at) if kind in _PEOPLE else ():
            found[f"{kind}:{one}"].add(person)
    return {ref: frozenset(found.get(ref, ())) for ref in refs}


def refs_of(*users: User, at: datetime | None = None) -> frozenset[str]:
    """Every ref that means one of `users` now: the other way round, for finding what waits for somebody.

    At most three queries, for however many users.
    """
    people = {user.pk for user in users if user.is_active}
    nothing = Value(None, output_field=UUIDField())
    teams = Team.objects.filter(members__in=people).values_list(Value("team"), "pk", "name", "servers")
    reports = User.objects.filter(manager__in=people).values_list(Value("manager"), "pk", Value(""), nothing)
    owned = Role.objects.filter(document__contains="team:").values_list(Value("role"), "pk", "document", nothing)
    rows = list(teams.order_by().union(reports.order_by(), owned.order_by(), all=True))
    names = {name for kind, _, name, _ in rows if kind == "team"}
    refs = {f"user:{pk}" for pk in people}
    refs |= {f"{kind}:{pk}" for kind, pk, text, _ in rows if kind != "role" or owner_team_of(text) in names}
    refs |= {f"server:{pk}" for _, _, _, pk in rows if pk}
    refs |= {f"schedule:{pk}" for pk, person in _turns(OnCallSchedule.objects.all(), at) if person in people}
    return frozenset(refs)


@lru_cache(maxsize=1024)
def owner_team_of(document: str) -> str:
    """The team that a role's `metadata.owner: team:<name>` names; "" if it names none."""
    try:
        root = _READ.compose(document)
        metadata = _READ.members(root, "", ()).get("metadata") if root else None
        owner = _READ.members(metadata, "metadata", ()).get("owner") if metadata else None
        kind, _, name = _READ.text(owner, "metadata.owner").partition(":") if owner else ("", "", "")
    except JitAccessError:  # a document of another release: nobody owns it until it is saved again
        return ""
    return name if kind == "team" else ""


def _owners_of_roles(roles: Collection[UUID], _: datetime | None) -> Pairs:
    owned: dict[str, list[UUID]] = defaultdict(list)
    for role, document in Role.objects.filter(pk__in=roles).values_list("pk", "document"):
        owned[owner_team_of(document)].append(role)
    people = Team.objects.filter(name__in=owned, members__is_active=True).values_list("name", "members")
    return ((role, person) for team, person in people for role in owned[team])


def _on_call(schedules: Collection[UUID], at: datetime | None) -> Pairs:
    return _turns(OnCallSchedule.objects.filter(pk__in=schedules), at)


def _turns(schedules: Iterable[OnCallSchedule], at: datetime | None) -> Pairs:
    rows = list(schedules)
    if not rows:
        return []
    moment = at or now()
    turns = {row.pk: _names_on_call(row, moment) for row in rows}
    names = set[str]().union(*turns.values())
    people = dict(User.objects.filter(username__in=names, is_active=True).values_list("username", "pk"))
    return ((schedule, people[name]) for schedule, called in turns.items() for name in called if name in people)


# By kind of ref, rows of whom it is `of` and `who` that is: all of them are one query.
_ROWS: dict[str, Callable[[Collection[UUID]], QuerySet[Any]]] = {
    "user": lambda ids: User.objects.filter(pk__in=ids, is_active=True).annotate(of=F("pk"), who=F("pk")),
    "team": lambda ids: User.objects.filter(teams__in=ids, is_active=True).annotate(of=F("teams"), who=F("pk")),
    "server": lambda ids: Server.objects.filter(pk__in=ids, owner_team__members__is_active=True).annotate(
        of=F("pk"), who=F("owner_team__members")
    ),
    "manager": lambda ids: User.objects.filter(pk__in=ids, manager__is_active=True).annotate(
        of=F("pk"), who=F("manager")
    ),
}
_PEOPLE: dict[str, Callable[[Collection[UUID], datetime | None], Pairs]] = {
    "role": _owners_of_roles,
    "schedule": _on_call,
}


def _names_on_call(schedule: OnCallSchedule, at: datetime) -> set[str]:
    if schedule.url:
        return set(json.loads(schedule.fetched)) if is_fresh(schedule.fetched_at, at=at) else set()
    if schedule.starts_at is None:
        return set()
    person = on_call(json.loads(schedule.rota), starts_at=schedule.starts_at, hours=schedule.hours, at=at)
    return {person} if person else set()

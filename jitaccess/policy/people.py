"""Who is meant by the refs of a pinned plan ("team:<uuid>", "server:<uuid>", …), now; and the refs of selectors."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from uuid import UUID

from jitaccess.catalog.models import Server
from jitaccess.identity.models import Team, User
from jitaccess.kernel.errors import JitAccessError
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


def members_of(refs: Iterable[str], *, at: datetime | None = None) -> dict[str, frozenset[UUID]]:
    """The active people whom each ref means now (`at`: for schedules); nobody for what is gone.

    One or two queries for each kind of ref, however many there are.
    """
    wanted = set(refs)
    ids: dict[str, set[UUID]] = defaultdict(set)
    for ref in wanted:
        kind, _, value = ref.partition(":")
        ids[kind].add(UUID(value))
    found: dict[str, set[UUID]] = defaultdict(set)
    for kind, some in ids.items():
        for one, person in _PEOPLE[kind](some, at) if kind in _PEOPLE else ():
            found[f"{kind}:{one}"].add(person)
    return {ref: frozenset(found.get(ref, ())) for ref in wanted}


def refs_of(*users: User, at: datetime | None = None) -> frozenset[str]:
    """Every ref that means one of `users` now: the other way round, for finding what waits for somebody.

    At most eight queries, for however many users.
    """
    people = {user.pk for user in users if user.is_active}
    teams = dict(Team.objects.filter(members__in=people).values_list("pk", "name"))
    refs = {*(f"user:{pk}" for pk in people), *(f"team:{pk}" for pk in teams)}
    servers = Server.objects.filter(owner_team__in=teams)
    refs |= {f"server:{pk}" for pk in servers.values_list("pk", flat=True)}
    refs |= {f"manager:{pk}" for pk in User.objects.filter(manager__in=people).values_list("pk", flat=True)}
    names = set(teams.values())
    owned = Role.objects.filter(document__contains="team:").values_list("pk", "document") if names else ()
    refs |= {f"role:{pk}" for pk, document in owned if owner_team_of(document) in names}
    schedules = set(OnCallSchedule.objects.values_list("pk", flat=True))
    refs |= {f"schedule:{pk}" for pk, person in _on_call(schedules, at) if person in people}
    return frozenset(refs)


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


def _active(users: Collection[UUID], _: datetime | None) -> Pairs:
    return ((pk, pk) for pk in User.objects.filter(pk__in=users, is_active=True).values_list("pk", flat=True))


def _members(teams: Collection[UUID], _: datetime | None) -> Pairs:
    return User.objects.filter(teams__in=teams, is_active=True).values_list("teams", "pk")


def _owners_of_servers(servers: Collection[UUID], _: datetime | None) -> Pairs:
    rows = Server.objects.filter(pk__in=servers, owner_team__members__is_active=True)
    return rows.values_list("pk", "owner_team__members")


def _owners_of_roles(roles: Collection[UUID], _: datetime | None) -> Pairs:
    owned: dict[str, list[UUID]] = defaultdict(list)
    for role, document in Role.objects.filter(pk__in=roles).values_list("pk", "document"):
        owned[owner_team_of(document)].append(role)
    people = Team.objects.filter(name__in=owned, members__is_active=True).values_list("name", "members")
    return ((role, person) for team, person in people for role in owned[team])


def _managers(users: Collection[UUID], _: datetime | None) -> Pairs:
    rows = User.objects.filter(pk__in=users, manager__is_active=True).values_list("pk", "manager")
    return ((person, manager) for person, manager in rows if manager)


def _on_call(schedules: Collection[UUID], at: datetime | None) -> Pairs:
    rows = list(OnCallSchedule.objects.filter(pk__in=schedules))
    if not rows:
        return []
    moment = at or now()
    turns = {row.pk: _names_on_call(row, moment) for row in rows}
    names = set[str]().union(*turns.values())
    people = dict(User.objects.filter(username__in=names, is_active=True).values_list("username", "pk"))
    return ((schedule, people[name]) for schedule, called in turns.items() for name in called if name in people)


_PEOPLE: dict[str, Callable[[Collection[UUID], datetime | None], Pairs]] = {
    "user": _active,
    "team": _members,
    "server": _owners_of_servers,
    "role": _owners_of_roles,
    "manager": _managers,
    "schedule": _on_call,
}


def _names_on_call(schedule: OnCallSchedule, at: datetime) -> set[str]:
    if schedule.url:
        return set(json.loads(schedule.fetched)) if is_fresh(schedule.fetched_at, at=at) else set()
    if schedule.starts_at is None:
        return set()
    person = on_call(json.loads(schedule.rota), starts_at=schedule.starts_at, hours=schedule.hours, at=at)
    return {person} if person else set()

"""Rows into a Snapshot: all of them, or those that are asked for."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol, TypeVar
from uuid import UUID

from django.db import connection
from django.db.models import F, Q, QuerySet

from jitaccess.catalog.models import Server, Tool
from jitaccess.identity.models import Agent, Team, User
from jitaccess.kernel.errors import Invalid, Unavailable
from jitaccess.kernel.labels import parse_labels
from jitaccess.kernel.patterns import PatternSet
from jitaccess.policy.engine.arguments import ArgumentConstraint, parse_constraint
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.engine.rules import (
    AgentFacts,
    BindingFacts,
    GrantedTool,
    LockFacts,
    LockKind,
    Origin,
    Privileges,
    RequestableFacts,
    RoleFacts,
    ServerFacts,
    Snapshot,
    Subject,
    ToolFacts,
    UserFacts,
)
from jitaccess.policy.models import (
    BindingUse,
    Lock,
    PolicyVersion,
    Requestable,
    Role,
    RoleBinding,
    RoleVersion,
    ServerAccess,
)
from jitaccess.store.clock import as_utc
from jitaccess.store.host_clock import steady
from jitaccess.store.reads import consistent_reads

# Everything is read in pieces of so many rows: all of them at once would be there beside what is made of them.
PIECE = 100
# Between two pieces, where there is time: they take half as long.
PAUSE_SECONDS = 0.005
# Ended grants stay in the snapshot this long, so that a refusal can say "expired" or "revoked".
REMEMBERED = timedelta(hours=24)


HEAD = f"SELECT version, stamp, jit_now() FROM {PolicyVersion._meta.db_table} WHERE id = 1"  # noqa: S608 - our own


@dataclass(frozen=True, slots=True)
class Head:
    """The policy version and the database's clock, read in one statement: the clock is not before the version.

    `known_at`: since when, on the steady clock, somebody here knows of it.
    """

    version: int
    stamp: str
    clock: datetime
    known_at: float = field(default_factory=steady, compare=False)


def head() -> Head:
    """The version in force. A plain read: a lock here would make revokes wait for readers."""
    with connection.cursor() as cursor:
        cursor.execute(HEAD)  # by hand: asked again and again, and the ORM takes longer than the database
        return head_of(cursor.fetchone())


def head_of(row: Sequence[Any]) -> Head:
    """What `HEAD` gave."""
    version, stamp, clock = row
    return Head(int(version), stamp, as_utc(clock))


@dataclass(frozen=True, slots=True)
class Everything:
    """All rows are read: in pieces, and of what is as it was in `old` that is kept, so that nothing is had twice.

    With `over` others get their turn between two pieces, until it is set.
    """

    old: Snapshot
    over: threading.Event | None = None


class Stopped(Exception):
    """Before everything was read."""


def compile_snapshot(old: Snapshot | None = None, *, over: threading.Event | None = None) -> Snapshot:
    """Read everything at one version; see Everything. Raises Unavailable, naming what it is, when something cannot be
    read, and Stopped.
    """
    every = Everything(old or Snapshot(0), over)
    with consistent_reads():
        now = head()
        bindings = read_bindings(RoleBinding.objects.order_by(), now.clock, every)
        found: dict[Subject, list[BindingFacts]] = defaultdict(list)
        for place, binding in bindings.held.values():
            found[place].append(binding)
        return Snapshot(
            version=now.version,
            stamp=now.stamp,
            agents=agents(Agent.objects.order_by(), every),
            users=users(User.objects.order_by(), every),
            servers=servers(Server.objects.all(), every),
            bindings={subject: tuple(held) for subject, held in found.items()},
            requestables=requestables(),
            places={pk: place for pk, (place, _) in bindings.held.items()},
            spent=bindings.spent,
            locks=locks(now.clock),
            teams=teams(),
            roles=requestable_roles(),
        )


class _Facts(Protocol):
    @property
    def id(self) -> UUID: ...


Row = TypeVar("Row")
Facts = TypeVar("Facts", bound=_Facts)


def _pieces(rows: QuerySet[Any, Row], every: Everything | None) -> Iterator[list[Row]]:
    """At once when only some were asked for."""
    if every is None:
        yield list(rows)
        return
    stream = rows.iterator(chunk_size=PIECE)
    while piece := list(islice(stream, PIECE)):
        yield piece
        if every.over is not None and every.over.wait(PAUSE_SECONDS):
            raise Stopped


def _by_id(found: Iterable[Facts], old: Mapping[UUID, Facts]) -> dict[UUID, Facts]:
    """Of what is equal in `old`, that one."""
    facts = {}
    for one in found:
        before = old.get(one.id)
        kept = before if before is not None and before == one else one
        facts[kept.id] = kept
    return facts


def agents(rows: QuerySet[Agent], every: Everything | None = None) -> dict[UUID, AgentFacts]:
    users = _pairs(Agent.users.through.objects.filter(agent__in=rows).values_list("agent_id", "user_id"))
    found = (
        AgentFacts(
            agent.pk,
            agent.name,
            agent.enabled,
            agent.owner_id,
            agent.team_id,
            frozenset(users.get(agent.pk, ())),
            labels(agent.labels, f"agent {agent.name}"),
        )
        for piece in _pieces(rows, every)
        for agent in piece
    )
    return _by_id(found, every.old.agents if every else {})


def users(rows: QuerySet[User], every: Everything | None = None) -> dict[UUID, UserFacts]:
    teams = _pairs(Team.members.through.objects.filter(user__in=rows).values_list("user_id", "team_id"))
    found = (
        UserFacts(pk, username, active, frozenset(teams.get(pk, ())))
        for piece in _pieces(rows.values_list("pk", "username", "is_active"), every)
        for pk, username, active in piece
    )
    return _by_id(found, every.old.users if every else {})


def servers(rows: QuerySet[Server], every: Everything | None = None) -> dict[UUID, ServerFacts]:
    tools: dict[UUID, dict[str, ToolFacts]] = defaultdict(dict)
    for piece in _pieces(Tool.objects.filter(present=True, server__in=rows).order_by("name"), every):
        for tool in piece:
            tools[tool.server_id][tool.name] = tool_facts(tool)
    access = ServerAccess.objects.filter(server__in=rows)
    listed = _pairs(
        ServerAccess.teams.through.objects.filter(serveraccess__in=access).values_list(
            "serveraccess__server_id", "team_id"
        )
    )
    open_to_all = set(access.filter(every_team=True).values_list("server_id", flat=True))
    found = (
        ServerFacts(
            server.pk,
            server.slug,
            server.enabled,
            server.instructions,
            None if server.pk in open_to_all else frozenset(listed.get(server.pk, ())),
            tools.get(server.pk, {}),
            labels(server.labels, f"server {server.slug}"),
            server.options,
        )
        for server in rows.order_by("slug")
    )
    return _by_id(found, every.old.servers if every else {})


def tool_facts(tool: Tool) -> ToolFacts:
    """A tool as the engine sees it."""
    found = labels(tool.labels, f"tool {tool.pk}")
    return ToolFacts(tool.pk, tool.name, tool.access, tool.pin, tool.quarantined, tool.definition, found)


def labels(text: str, whose: str) -> dict[str, str]:
    """The labels in a column. Raises Unavailable: without them nobody knows what a deny rule is about."""
    if text in {"", "{}"}:
        return {}
    try:
        return parse_labels(text)
    except Invalid as error:
        raise Unavailable("policy.labels_unreadable", f"The labels of {whose} cannot be read.") from error


def teams() -> dict[UUID, str]:
    """The names of teams: conditions, and roles that may be asked for, speak of them by name."""
    return dict(Team.objects.values_list("pk", "name"))


def locks(clock: datetime) -> tuple[LockFacts, ...]:
    """Those that nobody lifted and that have not ended long ago."""
    rows = Lock.objects.filter(Q(expires_at=None) | Q(expires_at__gt=clock - REMEMBERED), lifted_at=None)
    return tuple(
        LockFacts(row.pk, LockKind(row.kind), row.target, row.target_name, row.reason, row.expires_at)
        for row in rows.order_by("created_at", "id")
    )


@dataclass(frozen=True, slots=True)
class Bindings:
    """Bindings by id with whose they are; `spent` are those that ended with no use left."""

    held: dict[UUID, tuple[Subject, BindingFacts]]
    spent: frozenset[UUID]


def read_bindings(rows: QuerySet[RoleBinding], clock: datetime, every: Everything | None = None) -> Bindings:
    since = clock - REMEMBERED
    rows = rows.filter(Q(expires_at=None) | Q(expires_at__gt=since), Q(ended_at=None) | Q(ended_at__gt=since))
    old = every.old if every else Snapshot(0)
    facts = {one.id: one for held in old.bindings.values() for one in held}
    held, used_up, roles = {}, set[UUID](), dict[UUID, RoleFacts]()
    for found in _pieces(rows if every else rows.select_related("role"), every):
        if every is None:  # they came along
            roles = {row.role.pk: _head(row.role) for row in found if row.role is not None and row.role.head}
        else:
            roles |= _roles(Role.objects.filter(pk__in={row.role_id for row in found if row.role_id} - roles.keys()))
        ended = [row.pk for row in found if row.max_uses is not None and row.ended_at is not None]
        if ended:
            used_up.update(BindingUse.objects.filter(binding__in=ended, left=0).values_list("binding_id", flat=True))
        for one, row in zip(_binding_facts(found, roles, facts), found, strict=True):
            place = Subject(row.agent_id, row.user_id, row.team_id, row.everyone)
            held[one.id] = (old.places[one.id] if old.places.get(one.id) == place else place, one)
    return Bindings(held, frozenset(used_up))


def _binding_facts(
    rows: Sequence[RoleBinding], roles: Mapping[UUID, RoleFacts], old: Mapping[UUID, BindingFacts]
) -> Iterable[BindingFacts]:
    pinned = _pinned(row for row in rows if row.role_version is not None)
    found = (
        BindingFacts(
            row.pk,
            Origin(row.origin),
            roles.get(row.role_id) if row.role_id else None,
            {UUID(tool): GrantedTool(UUID(tool), pin) for tool, pin in json.loads(row.tools).items()},
            row.starts_at,
            row.expires_at,
            row.ended_at,
            row.origin_id,
            row.max_uses,
            pinned.get((row.role_id, row.role_version or 0)) if row.role_id else None,
            _constraint(row.arguments) if row.arguments else None,
            (_privileges(row.privileges),) if row.privileges else (),
        )
        for row in rows
    )
    return _by_id(found, old).values()


def _roles(rows: QuerySet[Role]) -> dict[UUID, RoleFacts]:
    return {role.pk: _head(role) for role in rows.exclude(head=0)}


def _head(role: Role) -> RoleFacts:
    return _compiled(role.pk, role.name, role.document, role.head)


def _pinned(rows: Iterable[RoleBinding]) -> dict[tuple[UUID, int], RoleFacts]:
    """Roles as they were approved, by role and version."""
    roles = {row.role_id for row in rows}
    if not roles:
        return {}
    found = RoleVersion.objects.filter(role__in=roles, role__bindings__role_version=F("version")).distinct()
    return {
        (role, version): _compiled(role, name, document, version)
        for role, name, version, document in found.values_list("role_id", "role__name", "version", "document")
    }


def requestable_roles() -> dict[UUID, RoleFacts]:
    """The heads of those roles that say how they may be asked for."""
    rows = Role.objects.filter(document__contains="request").order_by("name")
    return {pk: role for pk, role in _roles(rows).items() if role.request is not None}


@lru_cache(maxsize=4096)
def _compiled(pk: UUID, name: str, document: str, version: int) -> RoleFacts:
    try:
        return replace(parse_role(document, version=version).facts, id=pk)
    except Invalid as error:
        raise Unavailable("policy.role_unreadable", f"Role {name}@{version} cannot be read: {error.detail}") from error


@lru_cache(maxsize=4096)
def _constraint(text: str) -> ArgumentConstraint:
    try:
        return parse_constraint(json.loads(text))
    except ValueError as error:
        raise Unavailable("policy.arguments_unreadable", "The arguments of a grant cannot be read.") from error
    except Invalid as error:
        detail = f"The arguments of a grant cannot be read: {error.detail}"
        raise Unavailable("policy.arguments_unreadable", detail) from error


def _privileges(text: str) -> Privileges:
    value = json.loads(text)
    return Privileges(value["database"], PatternSet(value["objects"]), frozenset(value["privileges"]))


def requestables() -> tuple[RequestableFacts, ...]:
    return tuple(map(requestable_facts, Requestable.objects.order_by("id")))


def requestable_facts(row: Requestable) -> RequestableFacts:
    """A requestable as the engine sees it."""
    return RequestableFacts(
        row.pk,
        row.server_id,
        row.team_id,
        PatternSet(split_list(row.tools)),
        frozenset(split_list(row.access)),
        row.max_minutes * 60,
        row.policy_id,
        row.max_uses,
        row.arguments,
        row.max_total_minutes * 60 if row.max_total_minutes is not None else None,
        row.max_advance_minutes * 60,
        row.database,
        PatternSet(split_list(row.database_objects)),
        frozenset(split_list(row.privileges)),
    )


def split_list(text: str) -> list[str]:
    """Comma-separated words of a form field."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _pairs(rows: Iterable[tuple[Any, Any]]) -> dict[UUID, set[UUID]]:
    pairs: dict[UUID, set[UUID]] = defaultdict(set)
    for one, many in rows:
        pairs[one].add(many)
    return pairs

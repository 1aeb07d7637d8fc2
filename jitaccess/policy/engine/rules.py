"""The rules a decision is made of, and the Snapshot that holds all of them at one policy version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from jitaccess.catalog.options import DEFAULTS, ServerOptions
from jitaccess.kernel.patterns import PatternSet
from jitaccess.policy.engine.arguments import ArgumentConstraint
from jitaccess.policy.engine.conditions import Condition

NOTHING = PatternSet(())
# What conditions of rules may speak of.
VARIABLES = ("args", "principal", "prompt", "resource", "server", "time", "tool")


class Origin(StrEnum):
    DEFAULT = "default"
    STANDING = "standing"
    GRANT = "grant"
    BREAK_GLASS = "break_glass"
    CEILING = "ceiling"


# To exactly one principal, for a time: these bindings add to rights, all others are rights.
GRANTED = frozenset({Origin.GRANT, Origin.BREAK_GLASS})


@dataclass(frozen=True, slots=True)
class Labels:
    """What labels must be: each of these names there, with a value that a pattern matches. None at all: no match."""

    wanted: tuple[tuple[str, PatternSet], ...]

    def match(self, labels: Mapping[str, str]) -> bool:
        return bool(self.wanted) and all(
            name in labels and values.matches(labels[name]) for name, values in self.wanted
        )


@dataclass(frozen=True, slots=True)
class RoleRule:
    """One allow or deny rule: servers by name or labels, and on them tools (by name or class), resources (by URI) and
    prompts (by name), with data labels, a condition and a constraint of the arguments where it has them. Or privileges
    on objects of databases. `every` is a rule that names nothing but servers and labels: all that has them.
    """

    number: int
    servers: PatternSet
    tools: PatternSet
    access: frozenset[str]
    server_labels: tuple[Labels, ...] = ()
    every: bool = False
    resources: PatternSet = NOTHING
    prompts: PatternSet = NOTHING
    labels: Labels | None = None
    where: Condition | None = None
    arguments: ArgumentConstraint | None = None
    databases: PatternSet = NOTHING
    objects: PatternSet = NOTHING
    privileges: frozenset[str] = frozenset()

    def about(self, server: ServerFacts) -> bool:
        """Whether it is about this server."""
        return self.servers.matches(server.slug) or any(labels.match(server.labels) for labels in self.server_labels)

    def covers(self, tool: ToolFacts) -> bool:
        """Whether it is about this tool, on a server that it is about; its conditions aside."""
        return tool.access in self.access or self.every or self.tools.matches(tool.name)

    @property
    def plain(self) -> bool:
        """Whether that is all there is to it."""
        return self.where is None and self.arguments is None and self.labels is None


@dataclass(frozen=True, slots=True)
class RoleRequest:
    """How a role may be asked for. `teams` by name; None: every team. Times in seconds."""

    max_seconds: int
    approval: str
    teams: tuple[str, ...] | None = None
    max_total: int | None = None
    max_advance: int = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """A role at one version. `timed` roles have a condition about the time; `id` is None of one that is not saved."""

    name: str
    version: int
    allow: tuple[RoleRule, ...]
    deny: tuple[RoleRule, ...]
    request: RoleRequest | None = None
    id: UUID | None = None
    timed: bool = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        timed = any(rule.where and "time" in rule.where.variables for rule in (*self.allow, *self.deny))
        object.__setattr__(self, "timed", timed)

    def __str__(self) -> str:
        return f"role {self.name}@{self.version}"


@dataclass(frozen=True, slots=True)
class Privileges:
    """Privileges on objects of one database, as they were approved."""

    database: str
    objects: PatternSet
    privileges: frozenset[str]


@dataclass(frozen=True, slots=True)
class GrantedTool:
    """One tool of a grant: the very tool, with the definition that was approved."""

    tool: UUID
    pin: str


@dataclass(frozen=True, slots=True)
class BindingFacts:
    """A live or recently ended right: a role, or (for grants) the approved tools or privileges themselves.

    A granted role gives what is in the version that was approved, `pinned`, and still in its head, `role`.
    """

    id: UUID
    origin: Origin
    role: RoleFacts | None
    tools: Mapping[UUID, GrantedTool]
    starts_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None
    grant: UUID | None = None
    max_uses: int | None = None
    pinned: RoleFacts | None = None
    arguments: ArgumentConstraint | None = None
    privileges: tuple[Privileges, ...] = ()

    @property
    def granted(self) -> bool:
        return self.origin in GRANTED

    def live(self, at: datetime) -> bool:
        return self.ended_at is None and self.starts_at <= at and (self.expires_at is None or at < self.expires_at)


@dataclass(frozen=True, slots=True)
class AgentFacts:
    id: UUID
    name: str
    enabled: bool
    owner: UUID
    team: UUID
    users: frozenset[UUID]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UserFacts:
    id: UUID
    name: str
    active: bool
    teams: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class ToolFacts:
    id: UUID
    name: str
    access: str
    pin: str
    quarantined: bool
    definition: str
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server with the tools it offers. `teams` None: every team may use it.

    `memo` holds what others worked out about it, by what, and is gone with it.
    """

    id: UUID
    slug: str
    enabled: bool
    instructions: str
    teams: frozenset[UUID] | None
    tools: Mapping[str, ToolFacts]
    labels: Mapping[str, str] = field(default_factory=dict)
    options: ServerOptions = DEFAULTS
    memo: dict[object, Any] = field(default_factory=dict, init=False, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class RequestableFacts:
    """What may be asked for: tools of one server, or privileges on a database, by agents of one team (None: of every
    team). `arguments` says what may be asked for at most: "any", "schema" or "exact". Times in seconds.
    """

    id: UUID
    server: UUID | None
    team: UUID | None
    tools: PatternSet
    access: frozenset[str]
    max_seconds: int
    policy: UUID
    max_uses: int | None = None
    arguments: str = "any"
    max_total: int | None = None
    max_advance: int = 7 * 24 * 3600
    database: str = ""
    objects: PatternSet = NOTHING
    privileges: frozenset[str] = frozenset()

    def covers(self, *, server: UUID, team: UUID, tool: ToolFacts) -> bool:
        return self.server == server and self.team in (None, team) and self.names(tool)

    def names(self, tool: ToolFacts) -> bool:
        """Whether it is about this tool of its server."""
        return tool.access in self.access or self.tools.matches(tool.name)


@dataclass(frozen=True, slots=True)
class Subject:
    """To whom a binding belongs. All None: see `everyone`."""

    agent: UUID | None = None
    user: UUID | None = None
    team: UUID | None = None
    everyone: str = ""


EVERY_AGENT = Subject(everyone="agents")
EVERY_USER = Subject(everyone="users")


class LockKind(StrEnum):
    AGENT = "agent"
    USER = "user"
    SERVER = "server"
    ROLE = "role"
    GRANT = "grant"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class LockFacts:
    """An emergency stop, in force from when it is known until `expires_at` (None: until it is lifted)."""

    id: UUID
    kind: LockKind
    target: UUID | None
    name: str
    reason: str
    expires_at: datetime | None = None

    def live(self, at: datetime) -> bool:
        # Whatever the clock says about when it was made: one that was set back must not open anything.
        return self.expires_at is None or at < self.expires_at

    def __str__(self) -> str:
        return f"the lock on {f'{self.kind} {self.name}'.strip()}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of policy at one version; immutable. Built by policy.compiler, decided upon by decide().

    `stamp` names the version beyond doubt. `places` tells whose each binding is. The bindings in `spent` had no
    use left when somebody last looked, and allow nothing. `roles` are those that may be asked for.

    `memo` (see standing) goes along to the next Snapshot; `identity` is of this one alone.
    """

    version: int
    agents: Mapping[UUID, AgentFacts] = field(default_factory=dict)
    users: Mapping[UUID, UserFacts] = field(default_factory=dict)
    servers: Mapping[UUID, ServerFacts] = field(default_factory=dict)
    bindings: Mapping[Subject, tuple[BindingFacts, ...]] = field(default_factory=dict)
    requestables: tuple[RequestableFacts, ...] = ()
    stamp: str = ""
    places: Mapping[UUID, Subject] = field(default_factory=dict)
    spent: frozenset[UUID] = frozenset()
    locks: tuple[LockFacts, ...] = ()
    teams: Mapping[UUID, str] = field(default_factory=dict)
    roles: Mapping[UUID, RoleFacts] = field(default_factory=dict)
    memo: dict[object, Any] = field(default_factory=dict, compare=False, repr=False)
    identity: object = field(default_factory=object, init=False, compare=False, repr=False)
    _slugs: dict[str, ServerFacts] = field(default_factory=dict, init=False, compare=False, repr=False)

    def server_by_slug(self, slug: str) -> ServerFacts | None:
        if not self._slugs:
            # At once: another thread must not see half of them.
            self._slugs.update({server.slug: server for server in self.servers.values()})
        return self._slugs.get(slug)

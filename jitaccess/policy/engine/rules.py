"""The rules a decision is made of, and the Snapshot that holds all of them at one policy version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from jitaccess.kernel.patterns import PatternSet


class Origin(StrEnum):
    DEFAULT = "default"
    STANDING = "standing"
    GRANT = "grant"


@dataclass(frozen=True, slots=True)
class RoleRule:
    """One allow or deny rule: servers by name pattern, and on them tools by name pattern or by access class."""

    number: int
    servers: PatternSet
    tools: PatternSet
    access: frozenset[str]

    def covers(self, tool: ToolFacts) -> bool:
        """Whether it is about this tool, on a server that it is about."""
        return tool.access in self.access or self.tools.matches(tool.name)


@dataclass(frozen=True, slots=True)
class RoleFacts:
    """A role at one version."""

    name: str
    version: int
    allow: tuple[RoleRule, ...]
    deny: tuple[RoleRule, ...]


@dataclass(frozen=True, slots=True)
class GrantedTool:
    """One tool of a grant: the very tool, with the definition that was approved."""

    tool: UUID
    pin: str


@dataclass(frozen=True, slots=True)
class BindingFacts:
    """A live or recently ended right: a role, or (for grants) the approved tools themselves."""

    id: UUID
    origin: Origin
    role: RoleFacts | None
    tools: Mapping[UUID, GrantedTool]
    starts_at: datetime
    expires_at: datetime | None
    ended_at: datetime | None
    grant: UUID | None = None
    max_uses: int | None = None

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


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server with the tools it offers. `teams` None: every team may use it."""

    id: UUID
    slug: str
    enabled: bool
    instructions: str
    teams: frozenset[UUID] | None
    tools: Mapping[str, ToolFacts]


@dataclass(frozen=True, slots=True)
class RequestableFacts:
    """What may be asked for: tools of one server, by agents of one team (None: of every team)."""

    id: UUID
    server: UUID
    team: UUID | None
    tools: PatternSet
    access: frozenset[str]
    max_seconds: int
    policy: UUID
    max_uses: int | None = None

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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All of policy at one version; immutable. Built by policy.compiler, decided upon by decide().

    `stamp` names the version beyond doubt. `places` tells whose each binding is. The bindings in `spent` had no
    use left when somebody last looked, and allow nothing.
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

    def server_by_slug(self, slug: str) -> ServerFacts | None:
        return next((server for server in self.servers.values() if server.slug == slug), None)

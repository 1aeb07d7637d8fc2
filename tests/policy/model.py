"""What a principal may call, once more and as plainly as it can be said: the engine is held against this.

Rights of an agent A on behalf of a user U: (rights(A) ∩ rights(U)) ∪ grants(A for U), inside ceiling(A) ∩ ceiling(U),
minus deny(A) ∪ deny(U). Of an agent alone: rights(A) ∪ grants(A), inside its ceiling, minus deny(A). Times are numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass
class Rule:
    servers: list[str]
    tools: list[str]
    access: list[str]


@dataclass
class Role:
    allow: list[Rule]
    deny: list[Rule]


@dataclass
class Binding:
    """`whose`: ("agent", a), ("pair", a, u), ("user", u), ("team", t), ("agents",) or ("users",)."""

    id: int
    whose: tuple[object, ...]
    origin: str
    role: Role | None
    tools: dict[int, str]
    starts: int
    expires: int | None
    ended: int | None
    spent: bool = False

    def live(self, at: float) -> bool:
        return self.ended is None and self.starts <= at and (self.expires is None or at < self.expires)


@dataclass
class Tool:
    id: int
    name: str
    access: str
    pin: str
    digest: str


@dataclass
class Server:
    slug: str
    enabled: bool
    every_team: bool
    teams: set[int]
    tools: list[Tool]


@dataclass
class Agent:
    enabled: bool
    owner: int
    team: int
    users: set[int]


@dataclass
class User:
    active: bool
    teams: set[int]


@dataclass
class World:
    agents: dict[int, Agent] = field(default_factory=dict)
    users: dict[int, User] = field(default_factory=dict)
    servers: dict[int, Server] = field(default_factory=dict)
    bindings: list[Binding] = field(default_factory=list)


def matches(pattern: str, name: str) -> bool:
    return bool(re.fullmatch(pattern, name)) if pattern.startswith("^") else fnmatchcase(name, pattern)


def covers(rule: Rule, server: Server, tool: Tool) -> bool:
    return any(matches(pattern, server.slug) for pattern in rule.servers) and (
        tool.access in rule.access or any(matches(pattern, tool.name) for pattern in rule.tools)
    )


def allows(binding: Binding, server: Server, tool: Tool) -> bool:
    """Whether this binding, were it live and in the right place, allows the tool."""
    if binding.origin == "grant":
        return binding.tools.get(tool.id) == tool.pin
    return binding.role is not None and any(covers(rule, server, tool) for rule in binding.role.allow)


def allowed(world: World, a: int, u: int | None, s: int, name: str, at: float) -> bool:
    agent, server = world.agents.get(a), world.servers.get(s)
    if agent is None or not agent.enabled or server is None or not server.enabled:
        return False
    ceiling = server.every_team or agent.team in server.teams
    mine, theirs, grants = {("agent", a), ("agents",)}, set(), ("agent", a)
    if u is not None:
        user = world.users.get(u)
        if user is None or not user.active or (u != agent.owner and u not in agent.users):
            return False
        ceiling = ceiling and (server.every_team or bool(user.teams & server.teams))
        theirs, grants = {("user", u), ("users",), *(("team", team) for team in user.teams)}, ("pair", a, u)
    tool = next((tool for tool in server.tools if tool.name == name), None)
    if not ceiling or tool is None or tool.pin != tool.digest:
        return False
    live = [binding for binding in world.bindings if binding.live(at)]
    for binding in live:
        if binding.whose in mine | theirs and binding.role:
            if any(covers(rule, server, tool) for rule in binding.role.deny):
                return False
    rights = [binding for binding in live if binding.origin != "grant" and allows(binding, server, tool)]
    by_right = any(one.whose in mine for one in rights) and (u is None or any(one.whose in theirs for one in rights))
    return by_right or any(
        b.origin == "grant" and not b.spent and b.whose == grants and allows(b, server, tool) for b in live
    )

"""What a principal may call, once more and as plainly as it can be said: the engine is held against this.

Rights of an agent A on behalf of a user U: (rights(A) ∩ rights(U)) ∪ grants(A for U), inside ceiling(A) ∩ ceiling(U),
minus deny(A) ∪ deny(U). Of an agent alone: rights(A) ∪ grants(A), inside its ceiling, minus deny(A). Nothing while a
lock is on it. Times are numbers. Arguments None: is there any that might do?
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

Arguments = dict[str, object]


@dataclass(frozen=True)
class Test:
    """A condition, or a constraint of arguments: as the engine is told it, and as a function of the question, which
    gives None where there is no answer."""

    __test__ = False
    text: str
    of_arguments: bool
    holds: Callable[[Ask], bool | None]


@dataclass
class Rule:
    servers: list[str]
    tools: list[str]
    access: list[str]
    server_labels: list[dict[str, str]] = field(default_factory=list)
    labels: dict[str, str] | None = None
    where: Test | None = None
    arguments: Test | None = None


@dataclass
class Role:
    allow: list[Rule]
    deny: list[Rule]
    id: int = 0


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
    pinned: Role | None = None
    arguments: Test | None = None

    def live(self, at: float) -> bool:
        return self.ended is None and self.starts <= at and (self.expires is None or at < self.expires)

    @property
    def granted(self) -> bool:
        return self.origin in {"grant", "break_glass"}


@dataclass
class Lock:
    kind: str
    target: int
    expires: int | None

    def live(self, at: float) -> bool:
        return self.expires is None or at < self.expires


@dataclass
class Tool:
    id: int
    name: str
    access: str
    pin: str
    digest: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass
class Server:
    slug: str
    enabled: bool
    every_team: bool
    teams: set[int]
    tools: list[Tool]
    labels: dict[str, str] = field(default_factory=dict)


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
    locks: list[Lock] = field(default_factory=list)

    def locked(self, kind: str, target: int | None, at: float) -> bool:
        return any(one.live(at) and (one.kind, one.target) == (kind, target) for one in self.locks)


@dataclass
class Ask:
    user: int | None
    server: Server
    tool: Tool
    at: float
    arguments: Arguments | None

    @property
    def second(self) -> int:
        return math.floor(self.at)


def matches(pattern: str, name: str) -> bool:
    return bool(re.fullmatch(pattern, name)) if pattern.startswith("^") else fnmatchcase(name, pattern)


def has(labels: dict[str, str], wanted: dict[str, str]) -> bool:
    return bool(wanted) and all(labels.get(name) == value for name, value in wanted.items())


def satisfied(test: Test | None, ask: Ask, *, denies: bool) -> bool:
    """What has no answer, denies and does not allow; what depends on arguments that nobody gave, the other way round."""
    if test is None:
        return True
    if ask.arguments is None and test.of_arguments:
        return not denies
    answer = test.holds(ask)
    return denies if answer is None else answer


def applies(rule: Rule, ask: Ask, *, denies: bool = False) -> bool:
    server, tool = ask.server, ask.tool
    if not any(matches(pattern, server.slug) for pattern in rule.servers):
        if not any(has(server.labels, wanted) for wanted in rule.server_labels):
            return False
    if tool.access not in rule.access and not any(matches(pattern, tool.name) for pattern in rule.tools):
        return False
    if rule.labels is not None and not has(server.labels | tool.labels, rule.labels):
        if not denies or not (has(server.labels, rule.labels) or has(tool.labels | server.labels, rule.labels)):
            return False
    return satisfied(rule.where, ask, denies=denies) and satisfied(rule.arguments, ask, denies=denies)


def allows(binding: Binding, ask: Ask) -> bool:
    """Whether this binding, were it live and in the right place, allows the tool."""
    if not satisfied(binding.arguments, ask, denies=False):
        return False
    if binding.role is None:
        return binding.tools.get(ask.tool.id) == ask.tool.pin
    roles = [binding.role]
    if binding.granted:
        if binding.pinned is None:
            return False
        roles.append(binding.pinned)
    return all(any(applies(rule, ask) for rule in role.allow) for role in roles)


def denies(binding: Binding, ask: Ask) -> bool:
    roles = [role for role in (binding.role, binding.pinned) if role]
    return any(applies(rule, ask, denies=True) for role in roles for rule in role.deny)


def allowed(
    world: World, a: int, u: int | None, s: int, name: str, at: float, arguments: Arguments | None = None
) -> bool:
    agent, server = world.agents.get(a), world.servers.get(s)
    if agent is None or not agent.enabled or server is None or not server.enabled:
        return False
    if not world.users[agent.owner].active:
        return False
    if world.locked("everything", 0, at) or world.locked("agent", a, at) or world.locked("server", s, at):
        return False
    if world.locked("user", agent.owner, at) or world.locked("user", u, at):
        return False
    door = server.every_team or agent.team in server.teams
    mine, theirs, grants = {("agent", a), ("agents",)}, set(), ("agent", a)
    if u is not None:
        user = world.users.get(u)
        if user is None or not user.active or (u != agent.owner and u not in agent.users):
            return False
        door = door and (server.every_team or bool(user.teams & server.teams))
        theirs, grants = {("user", u), ("users",), *(("team", team) for team in user.teams)}, ("pair", a, u)
    tool = next((tool for tool in server.tools if tool.name == name), None)
    if not door or tool is None or tool.pin != tool.digest:
        return False
    ask = Ask(u, server, tool, at, arguments)
    live = [binding for binding in world.bindings if binding.live(at)]
    own = [one for one in live if one.whose in mine | theirs and not one.granted]
    given = [one for one in live if one.whose == grants and one.granted]
    if any(denies(one, ask) for one in (*own, *given)):
        return False
    stopped = [one for one in live if one.role and world.locked("role", one.role.id, at)]
    stopped += [one for one in live if one.granted and world.locked("grant", 1000 + one.id, at)]
    ceilings = [one for one in own if one.origin == "ceiling"]
    if not all(allows(one, ask) and one not in stopped for one in ceilings):
        return False
    rights = [one for one in own if one not in ceilings and one not in stopped and allows(one, ask)]
    by_right = any(one.whose in mine for one in rights) and (u is None or any(one.whose in theirs for one in rights))
    return by_right or any(not one.spent and one not in stopped and allows(one, ask) for one in given)

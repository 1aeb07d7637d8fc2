"""Random worlds for the model, and the same worlds as Snapshots for the engine."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from random import Random
from uuid import UUID

from jitaccess.kernel.patterns import PatternSet
from jitaccess.policy.engine.arguments import ArgumentConstraint, parse_constraint
from jitaccess.policy.engine.conditions import Condition, compile_condition
from jitaccess.policy.engine.rules import (
    EVERY_AGENT,
    EVERY_USER,
    VARIABLES,
    AgentFacts,
    BindingFacts,
    GrantedTool,
    Labels,
    LockFacts,
    LockKind,
    Origin,
    RequestableFacts,
    RoleFacts,
    RoleRequest,
    RoleRule,
    ServerFacts,
    Snapshot,
    Subject,
    ToolFacts,
    UserFacts,
)
from tests.policy.model import Agent, Arguments, Ask, Binding, Lock, Role, Rule, Server, Test, Tool, User, World

NAMES = ("git_log", "git_add", "git_reset", "Git_log")
SLUGS = ("git", "git-2")
CLASSES = ("read", "write", "destructive", "unclassified")
PATTERNS = ("*", "git_*", "*_log", "git_log", "git_add", "^git_(log|reset)$", "^[a-z]+_add$", "none")
START = datetime(2026, 7, 1, tzinfo=UTC)
HORIZON = 40  # all edges lie on whole seconds within it
LABELS = ({}, {}, {"env": "prod"}, {"data": "pii"}, {"env": "prod", "data": "pii"}, {"data": "public"})
# Arguments of calls; None asks whether there are any that would do.
CALLS: tuple[Arguments | None, ...] = (None, {"path": "/srv/a"}, {"path": "/etc"}, {"path": 5}, {})


def _path(ask: Ask) -> object:
    return (ask.arguments or {}).get("path")


def _in_srv(ask: Ask) -> bool | None:
    path = _path(ask)
    return path.startswith("/srv/") if isinstance(path, str) else None


CONDITIONS = (
    Test('args.path.startsWith("/srv/")', True, _in_srv),
    Test('args.path.matches("^/srv/")', True, _in_srv),
    Test("has(args.path)", True, lambda ask: "path" in (ask.arguments or {})),
    Test('principal.user == ""', False, lambda ask: ask.user is None),
    Test('tool.name.endsWith("_log")', False, lambda ask: ask.tool.name.endswith("_log")),
    Test('server.labels.env == "prod"', False, lambda ask: ask.server.labels.get("env") and True),
    Test("time.getSeconds() % 2 == 0", False, lambda ask: ask.second % 60 % 2 == 0),
    Test("size(tool.name) / 0 == 1", False, lambda ask: None),
)
_SRV = {
    "type": "object",
    "properties": {"path": {"type": "string", "pattern": "^/srv/.*$"}},
    "required": ["path"],
    "additionalProperties": False,
}
CONSTRAINTS = (
    Test(json.dumps({"mode": "any"}), False, lambda ask: True),
    Test(json.dumps({"mode": "exact", "value": {"path": "/etc"}}), True, lambda ask: _path(ask) == "/etc"),
    Test(json.dumps({"mode": "schema", "schema": _SRV}), True, lambda ask: bool(_in_srv(ask))),
)


def moment(at: float) -> datetime:
    return START + timedelta(seconds=at)


def seconds(moment: datetime) -> float:
    return (moment - START).total_seconds()


def some(random: Random, values: tuple[str, ...], most: int) -> list[str]:
    return random.sample(values, random.randint(0, most))


def random_world(random: Random, size: int) -> World:
    world = World()
    teams, users = range(1, size + 1), range(1, size + 1)
    for number in users:
        world.users[number] = User(random.random() < 0.9, {team for team in teams if random.random() < 0.6})
    for number in range(1, size + 1):
        allowed = {user for user in users if random.random() < 0.6}
        world.agents[number] = Agent(random.random() < 0.9, random.choice(users), random.choice(teams), allowed)
    for number in range(1, random.randint(1, 2) + 1):
        tools = []
        for tool, name in enumerate(random.sample(NAMES, random.randint(1, len(NAMES)))):
            pin = random.choice("ab")
            digest = pin if random.random() < 0.9 else "c"
            labels = random.choice(LABELS)
            tools.append(Tool(number * 10 + tool, name, random.choice(CLASSES), pin, digest, labels))
        open_to = {team for team in teams if random.random() < 0.7}
        door, labels = random.random() < 0.5, random.choice(LABELS)
        world.servers[number] = Server(SLUGS[number - 1], random.random() < 0.9, door, open_to, tools, labels)
    roles = [random_role(random, number) for number in range(1, size + 2)]
    for number in range(1, random.randint(size, 5 * size) + 1):
        world.bindings.append(random_binding(random, number, world, roles, size))
    world.locks = [random_lock(random, size) for _ in range(random.choice((0,) * 8 + (1, 2)))]
    return world


def random_lock(random: Random, size: int) -> Lock:
    kind = random.choice(("agent", "user", "server", "role", "role", "grant", "grant", "everything"))
    target = 0 if kind == "everything" else random.randint(1, size) + (1000 if kind == "grant" else 0)
    return Lock(kind, target, random.choice((None, random.randint(0, HORIZON), random.randint(0, HORIZON))))


def random_role(random: Random, number: int = 0) -> Role:
    def rules(chance: float) -> list[Rule]:
        found = []
        while random.random() < chance:
            by_name = random.random() < 0.5
            tools, access = (some(random, PATTERNS, 3), []) if by_name else ([], some(random, CLASSES, 3))
            servers = random.choice((["*"], ["*"], ["git"], ["git-*"], [], ["^git.*$"]))
            found.append(Rule(servers, tools, access))
            _add_conditions(random, found[-1])
        return found

    return Role(rules(0.75), rules(0.12), number)


def _add_conditions(random: Random, rule: Rule) -> None:
    if random.random() < 0.15:
        rule.server_labels = random.sample([one for one in LABELS if one], random.randint(1, 2))
    if random.random() < 0.15:
        rule.labels = random.choice(LABELS)
    if random.random() < 0.2:
        rule.where = random.choice(CONDITIONS)
    if random.random() < 0.1:
        rule.arguments = random.choice(CONSTRAINTS)


def random_binding(random: Random, number: int, world: World, roles: list[Role], size: int) -> Binding:
    one, other = random.randint(1, size), random.randint(1, size)
    starts = random.randint(0, HORIZON // 3)
    expires = random.randint(starts + 10, HORIZON)
    ended = random.randint(starts, expires) if random.random() < 0.1 else None
    if random.random() < 0.45:
        whose = random.choice((("agent", one), ("pair", one, other)))
        origin, spent = random.choice(("grant", "grant", "break_glass")), random.random() < 0.15
        arguments = random.choice(CONSTRAINTS) if random.random() < 0.25 else None
        if random.random() < 0.3:
            role = random.choice(roles)
            pinned = random.choice((role, role, random_role(random)))
            return Binding(number, whose, origin, role, {}, starts, expires, ended, spent, pinned, arguments)
        tools = [tool for server in world.servers.values() for tool in server.tools]
        granted = {tool.id: random.choice((tool.pin, tool.pin, "z")) for tool in tools if random.random() < 0.4}
        return Binding(number, whose, origin, None, granted, starts, expires, ended, spent, None, arguments)
    whose = random.choice(
        (("agent", one), ("agents",), ("user", one), ("team", one), ("users",), ("agents",), ("users",))
    )
    until = expires if random.random() < 0.3 else None
    origin = "ceiling" if random.random() < 0.1 else random.choice(("default", "standing"))
    return Binding(number, whose, origin, random.choice(roles), {}, starts, until, ended)


def snapshot_of(world: World, random: Random) -> Snapshot:
    bindings = defaultdict(list)
    for one in random.sample(world.bindings, len(world.bindings)):  # the order of rows must not matter
        bindings[_subject(one.whose)].append(
            BindingFacts(
                UUID(int=one.id),
                Origin(one.origin),
                _role_facts(one.role) if one.role else None,
                {UUID(int=tool): GrantedTool(UUID(int=tool), pin) for tool, pin in one.tools.items()},
                moment(one.starts),
                None if one.expires is None else moment(one.expires),
                None if one.ended is None else moment(one.ended),
                UUID(int=1000 + one.id) if one.granted else None,
                1 if one.spent else None,
                _role_facts(one.pinned) if one.pinned else None,
                _constraint(one.arguments.text) if one.arguments else None,
            )
        )
    requestables = tuple(
        RequestableFacts(
            UUID(int=server),
            UUID(int=server),
            None,
            _patterns("git_a*"),
            frozenset({"destructive"}),
            3600,
            UUID(int=1),
        )
        for server in world.servers
        if random.random() < 0.5
    )
    return Snapshot(
        version=1,
        agents={
            UUID(int=number): AgentFacts(
                UUID(int=number),
                f"agent-{number}",
                agent.enabled,
                UUID(int=agent.owner),
                UUID(int=agent.team),
                frozenset(UUID(int=user) for user in agent.users),
            )
            for number, agent in world.agents.items()
        },
        users={
            UUID(int=number): UserFacts(
                UUID(int=number), f"user-{number}", user.active, frozenset(UUID(int=team) for team in user.teams)
            )
            for number, user in world.users.items()
        },
        servers={UUID(int=number): _server_facts(number, server) for number, server in world.servers.items()},
        bindings={subject: tuple(found) for subject, found in bindings.items()},
        requestables=requestables,
        spent=frozenset(UUID(int=one.id) for one in world.bindings if one.spent),
        locks=tuple(
            LockFacts(
                UUID(int=number),
                LockKind(one.kind),
                UUID(int=one.target) if one.target else None,
                "",
                "because",
                None if one.expires is None else moment(one.expires),
            )
            for number, one in enumerate(world.locks)
        ),
        teams={UUID(int=number): f"team-{number}" for number in world.agents},
        roles={UUID(int=number): _askable_role(random, number) for number in range(1, random.choice((1, 1, 3)))},
    )


def _askable_role(random: Random, number: int) -> RoleFacts:
    """A role that everybody, or one team, may ask for: it decides nothing, and is shown."""
    teams = random.choice((None, ("team-1",)))
    return replace(_role_facts(random_role(random, number)), request=RoleRequest(3600, "review", teams))


@lru_cache
def _condition(text: str) -> Condition:
    return compile_condition(text, variables=VARIABLES)


@lru_cache
def _constraint(text: str) -> ArgumentConstraint:
    return parse_constraint(json.loads(text))


def _labels(wanted: dict[str, str]) -> Labels:
    return Labels(tuple((name, _patterns(value)) for name, value in wanted.items()))


@lru_cache
def _patterns(*sources: str) -> PatternSet:
    return PatternSet(sources)


def _subject(whose: tuple[object, ...]) -> Subject:
    match whose:
        case ("agents",):
            return EVERY_AGENT
        case ("users",):
            return EVERY_USER
        case ("pair", int(agent), int(user)):
            return Subject(agent=UUID(int=agent), user=UUID(int=user))
        case (str(kind), int(number)):
            return Subject(**{kind: UUID(int=number)})
    raise AssertionError(whose)


def _role_facts(role: Role) -> RoleFacts:
    def rules(found: list[Rule]) -> tuple[RoleRule, ...]:
        return tuple(
            RoleRule(
                number,
                _patterns(*rule.servers),
                _patterns(*rule.tools),
                frozenset(rule.access),
                tuple(map(_labels, rule.server_labels)),
                labels=None if rule.labels is None else _labels(rule.labels),
                where=_condition(rule.where.text) if rule.where else None,
                arguments=_constraint(rule.arguments.text) if rule.arguments else None,
            )
            for number, rule in enumerate(found, start=1)
        )

    return RoleFacts("role", 1, rules(role.allow), rules(role.deny), id=UUID(int=role.id) if role.id else None)


def _server_facts(number: int, server: Server) -> ServerFacts:
    return ServerFacts(
        UUID(int=number),
        server.slug,
        server.enabled,
        "",
        None if server.every_team else frozenset(UUID(int=team) for team in server.teams),
        {
            tool.name: ToolFacts(
                UUID(int=tool.id), tool.name, tool.access, tool.pin, tool.pin != tool.digest, "{}", tool.labels
            )
            for tool in server.tools
        },
        server.labels,
    )

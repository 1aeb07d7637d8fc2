"""Random worlds for the model, and the same worlds as Snapshots for the engine."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from random import Random
from uuid import UUID

from jitaccess.kernel.patterns import PatternSet
from jitaccess.policy.engine.rules import (
    EVERY_AGENT,
    EVERY_USER,
    AgentFacts,
    BindingFacts,
    GrantedTool,
    Origin,
    RequestableFacts,
    RoleFacts,
    RoleRule,
    ServerFacts,
    Snapshot,
    Subject,
    ToolFacts,
    UserFacts,
)
from tests.policy.model import Agent, Binding, Role, Rule, Server, Tool, User, World

NAMES = ("git_log", "git_add", "git_reset", "Git_log")
SLUGS = ("git", "git-2")
CLASSES = ("read", "write", "destructive", "unclassified")
PATTERNS = ("*", "git_*", "*_log", "git_log", "git_add", "^git_(log|reset)$", "^[a-z]+_add$", "none")
START = datetime(2026, 7, 1, tzinfo=UTC)
HORIZON = 40  # all edges lie on whole seconds within it


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
            tools.append(Tool(number * 10 + tool, name, random.choice(CLASSES), pin, digest))
        open_to = {team for team in teams if random.random() < 0.7}
        world.servers[number] = Server(SLUGS[number - 1], random.random() < 0.9, random.random() < 0.5, open_to, tools)
    roles = [_role(random) for _ in range(size + 1)]
    for number in range(1, random.randint(size, 5 * size) + 1):
        world.bindings.append(_binding(random, number, world, roles, size))
    return world


def _role(random: Random) -> Role:
    def rules(chance: float) -> list[Rule]:
        found = []
        while random.random() < chance:
            by_name = random.random() < 0.5
            tools, access = (some(random, PATTERNS, 3), []) if by_name else ([], some(random, CLASSES, 3))
            found.append(Rule(random.choice((["*"], ["*"], ["git"], ["git-*"], [], ["^git.*$"])), tools, access))
        return found

    return Role(rules(0.75), rules(0.12))


def _binding(random: Random, number: int, world: World, roles: list[Role], size: int) -> Binding:
    one, other = random.randint(1, size), random.randint(1, size)
    starts = random.randint(0, HORIZON // 3)
    expires = random.randint(starts + 10, HORIZON)
    ended = random.randint(starts, expires) if random.random() < 0.1 else None
    if random.random() < 0.35:
        whose = random.choice((("agent", one), ("pair", one, other)))
        tools = [tool for server in world.servers.values() for tool in server.tools]
        granted = {tool.id: random.choice((tool.pin, tool.pin, "z")) for tool in tools if random.random() < 0.4}
        spent = random.random() < 0.15
        return Binding(number, whose, "grant", None, granted, starts, expires, ended, spent)
    whose = random.choice(
        (("agent", one), ("agents",), ("user", one), ("team", one), ("users",), ("agents",), ("users",))
    )
    until = expires if random.random() < 0.3 else None
    return Binding(
        number, whose, random.choice(("default", "standing")), random.choice(roles), {}, starts, until, ended
    )


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
                UUID(int=1000 + one.id) if one.origin == "grant" else None,
                1 if one.spent else None,
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
    )


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
            RoleRule(number, _patterns(*rule.servers), _patterns(*rule.tools), frozenset(rule.access))
            for number, rule in enumerate(found, start=1)
        )

    return RoleFacts("role", 1, rules(role.allow), rules(role.deny))


def _server_facts(number: int, server: Server) -> ServerFacts:
    return ServerFacts(
        UUID(int=number),
        server.slug,
        server.enabled,
        "",
        None if server.every_team else frozenset(UUID(int=team) for team in server.teams),
        {
            tool.name: ToolFacts(UUID(int=tool.id), tool.name, tool.access, tool.pin, tool.pin != tool.digest, "{}")
            for tool in server.tools
        },
    )

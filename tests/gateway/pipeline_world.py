"""A random world of the model (tests.policy.model) as rows of the database, and what happens to both alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID

from django.db import transaction

from jitaccess.catalog import models as catalog
from jitaccess.identity import models as identity
from jitaccess.policy import models as policy
from tests.policy import model
from tests.policy.worlds import (
    CALLS,
    CLASSES,
    CONSTRAINTS,
    HORIZON,
    NAMES,
    random_binding,
    random_lock,
    random_role,
    random_world,
)

Question = tuple[int, int | None, int, str, model.Arguments]


def key(number: int) -> UUID:
    return UUID(int=number)


@dataclass
class Placed:
    """The world and its rows. `began` is the database's time of second 0 of the model's clock."""

    random: Random
    size: int
    began: datetime
    world: model.World = field(default_factory=model.World)
    roles: list[model.Role] = field(default_factory=list)
    uses: dict[int, int] = field(default_factory=dict)
    lifted: int = 0

    def seconds(self, at: datetime) -> float:
        return (at - self.began).total_seconds()

    def moment(self, second: float) -> datetime:
        return self.began + timedelta(seconds=second)


def placed(random: Random, size: int, began: datetime) -> Placed:
    """A world with nothing disabled yet, in an empty database."""
    here = Placed(random, size, began)
    # Of some worlds the one in which most is allowed: in most of them hardly anything is.
    here.world = max((_everybody(random_world(random, size)) for _ in range(12)), key=lambda one: len(allowed(one, 10)))
    found = {id(one.role): one.role for one in here.world.bindings if one.role}
    here.roles = list(found.values()) or [random_role(random, 1)]
    here.world.bindings, bindings = [], here.world.bindings
    with transaction.atomic():
        _people(here)
        for number, server in here.world.servers.items():
            _server(number, server)
        for role in here.roles:
            _role(role, head=100)
        for binding in bindings:
            bind(here, binding)
    return here


def _everybody(world: model.World) -> model.World:
    """Nobody is locked or disabled."""
    world.locks = []
    for person in world.users.values():
        person.active = True
    for one in (*world.agents.values(), *world.servers.values()):
        one.enabled = True
    return world


def allowed(world: model.World, at: float) -> list[Question]:
    """Every call that is allowed at a second."""
    return [
        (agent, user, server, name, arguments)
        for agent in world.agents
        for user in (None, *world.users)
        for server in world.servers
        for name in NAMES
        for arguments in CALLS
        if arguments is not None and model.allowed(world, agent, user, server, name, at, arguments)
    ]


def _people(here: Placed) -> None:
    for number in range(1, here.size + 1):
        identity.Team.objects.create(pk=key(number), name=f"team-{number}")
    for number, user in here.world.users.items():
        row = identity.User.objects.create(pk=key(number), username=f"user-{number}", email=f"u{number}@example.test")
        row.teams.set([key(team) for team in user.teams])
    for number, agent in here.world.agents.items():
        owner, team = key(agent.owner), key(agent.team)
        made = identity.Agent.objects.create(pk=key(number), name=f"agent-{number}", owner_id=owner, team_id=team)
        made.users.set([key(user) for user in agent.users])


def _server(number: int, server: model.Server) -> None:
    labels = json.dumps(server.labels)
    row = catalog.Server.objects.create(pk=key(number), slug=server.slug, enabled=server.enabled, labels=labels)
    access = policy.ServerAccess.objects.create(server=row, every_team=server.every_team)
    access.teams.set([key(team) for team in server.teams])
    for tool in server.tools:
        definition = json.dumps({"name": tool.name, "inputSchema": {"type": "object"}})
        catalog.Tool.objects.create(
            pk=key(tool.id), server=row, name=tool.name, access=tool.access, pin=tool.pin, digest=tool.digest,
            labels=json.dumps(tool.labels), definition=definition, present=True,
        )  # fmt: skip


def _role(role: model.Role, *, head: int) -> None:
    text = document(role)
    row, made = policy.Role.objects.update_or_create(
        pk=key(role.id), defaults={"name": f"role-{role.id}", "document": text, "head": head}
    )
    del made
    _version(row, text, head)


def _version(row: policy.Role, text: str, version: int) -> None:
    policy.RoleVersion.objects.create(
        role=row, version=version, document=text, saved_by="tests", saved_at="2026-01-01T00:00:00Z"
    )


def document(role: model.Role) -> str:
    """The role as people write it; JSON is YAML."""

    def written(rule: model.Rule) -> dict[str, Any]:
        servers = [*rule.servers, *({"labels": labels} for labels in rule.server_labels)]
        found: dict[str, Any] = {"servers": servers or ["nowhere"]}
        found |= {"access": rule.access} if rule.access else {"tools": rule.tools or ["nothing"]}
        if rule.labels is not None:
            found["labels"] = rule.labels or {"no": "such"}
        if rule.where:
            found["where"] = rule.where.text
        if rule.arguments:
            found["arguments"] = json.loads(rule.arguments.text)
        return found

    spec = {"allow": [written(rule) for rule in role.allow], "deny": [written(rule) for rule in role.deny]}
    metadata = {"name": f"role-{role.id}"}
    return json.dumps({"kind": "role", "version": "v1", "metadata": metadata, "spec": spec})


def bind(here: Placed, binding: model.Binding) -> None:
    """Add it to both; uses are counted of some grants."""
    if binding.spent:
        binding.origin, here.uses[binding.id] = "grant", 0
    elif binding.origin == "grant" and here.random.random() < 0.4:
        here.uses[binding.id] = here.random.randint(1, 3)
    here.world.bindings.append(binding)
    left = here.uses.get(binding.id)
    row = policy.RoleBinding.objects.create(
        pk=key(binding.id),
        origin=binding.origin,
        origin_id=key(1000 + binding.id) if binding.granted else None,
        role_id=key(binding.role.id) if binding.role else None,
        role_version=_pinned(here, binding),
        tools=json.dumps({str(key(tool)): pin for tool, pin in binding.tools.items()}),
        arguments=binding.arguments.text if binding.arguments else "",
        starts_at=here.moment(binding.starts),
        expires_at=None if binding.expires is None else here.moment(binding.expires),
        ended_at=None if binding.ended is None else here.moment(binding.ended),
        max_uses=None if left is None else max(left, 1),
        **_subject(binding.whose),
    )
    if left is not None:
        policy.BindingUse.objects.create(binding=row, left=left)


def _pinned(here: Placed, binding: model.Binding) -> int | None:
    """The version of its role that was approved."""
    if binding.pinned is None or binding.role is None:
        return None
    row = policy.Role.objects.get(pk=key(binding.role.id))
    if binding.pinned is binding.role:
        return row.head
    version = row.versions.filter(version__lt=100).count() + 1
    _version(row, document(model.Role(binding.pinned.allow, binding.pinned.deny, binding.role.id)), version)
    return version


def _subject(whose: tuple[Any, ...]) -> dict[str, Any]:
    match whose:
        case ("agents" | "users" as everyone,):
            return {"everyone": everyone}
        case ("pair", int(agent), int(user)):
            return {"agent_id": key(agent), "user_id": key(user)}
        case (str(kind), int(number)):
            return {f"{kind}_id": key(number)}
    raise AssertionError(whose)


def change(here: Placed, at: float) -> str:
    """Something happens: to the model and to the database. Returns what."""
    what = here.random.choice(CHANGES)
    with transaction.atomic():
        what(here, at)
    return what.__name__


def _another_binding(here: Placed, at: float) -> None:
    number = max((one.id for one in here.world.bindings), default=0) + 1
    binding = random_binding(here.random, number, here.world, here.roles, here.size)
    later = int(at) - HORIZON // 4
    binding.starts += later
    binding.expires = None if binding.expires is None else binding.expires + later
    binding.ended = None
    bind(here, binding)


def _grant_a_tool(here: Placed, at: float) -> None:
    """To one principal for some seconds, perhaps with certain arguments, perhaps for some calls."""
    number = max((one.id for one in here.world.bindings), default=0) + 1
    agent, user = here.random.choice(list(here.world.agents)), here.random.choice((None, *here.world.users))
    tool = here.random.choice([tool for server in here.world.servers.values() for tool in server.tools])
    whose = ("pair", agent, user) if user else ("agent", agent)
    until = int(at) + here.random.randint(2, 15)
    arguments = here.random.choice((None, None, *CONSTRAINTS))
    bind(
        here,
        model.Binding(number, whose, "grant", None, {tool.id: tool.pin}, int(at), until, None, arguments=arguments),
    )


def _end_a_binding(here: Placed, at: float) -> None:
    live = [one for one in here.world.bindings if one.live(at)]
    if live:
        one = here.random.choice(live)
        one.ended = int(at)
        policy.RoleBinding.objects.filter(pk=key(one.id)).update(ended_at=here.moment(at))


def _change_a_tool(here: Placed, at: float) -> None:
    tool = here.random.choice([tool for server in here.world.servers.values() for tool in server.tools])
    if here.random.random() < 0.5:
        tool.digest = here.random.choice((tool.pin, tool.pin, "c"))
    else:
        tool.access = here.random.choice(CLASSES)
    catalog.Tool.objects.filter(pk=key(tool.id)).update(digest=tool.digest, access=tool.access)


def _lock(here: Placed, at: float) -> None:
    lock = random_lock(here.random, here.size)
    lock.expires = None if lock.expires is None else int(at) + 1 + lock.expires // 8
    expires = None if lock.expires is None else here.moment(lock.expires)
    target = key(lock.target) if lock.target else None
    policy.Lock.objects.create(
        kind=lock.kind, target=target, reason="because", created_at=here.moment(-10), created_by_name="tests",
        expires_at=expires,
    )  # fmt: skip
    here.world.locks.append(lock)


def _lift_all_locks(here: Placed, at: float) -> None:
    policy.Lock.objects.filter(lifted_at=None).update(lifted_at=here.moment(at), lifted_by_name="tests")
    here.world.locks = []


def _switch_an_agent(here: Placed, at: float) -> None:
    number, agent = here.random.choice(list(here.world.agents.items()))
    agent.enabled = not agent.enabled
    identity.Agent.objects.filter(pk=key(number)).update(enabled=agent.enabled)


def _switch_a_user(here: Placed, at: float) -> None:
    number, user = here.random.choice(list(here.world.users.items()))
    user.active = not user.active
    identity.User.objects.filter(pk=key(number)).update(is_active=user.active)


def _everybody_is_back(here: Placed, at: float) -> None:
    locks, here.world.locks = here.world.locks, []
    _everybody(here.world).locks = locks
    identity.Agent.objects.update(enabled=True)
    identity.User.objects.update(is_active=True)
    catalog.Server.objects.update(enabled=True)


def _switch_a_server(here: Placed, at: float) -> None:
    number, server = here.random.choice(list(here.world.servers.items()))
    server.enabled = not server.enabled
    catalog.Server.objects.filter(pk=key(number)).update(enabled=server.enabled)


def _rewrite_a_role(here: Placed, at: float) -> None:
    """Default and standing bindings follow; a granted role gives what is in both versions."""
    place = here.random.randrange(len(here.roles))
    old = here.roles[place]
    new = here.roles[place] = random_role(here.random, old.id)
    if here.random.random() < 0.5:
        new = here.roles[place] = model.Role(old.allow, [model.Rule(["*"], [here.random.choice(NAMES)], [])], old.id)
    head = policy.Role.objects.get(pk=key(old.id)).head + 1
    _role(new, head=head)
    for binding in here.world.bindings:
        if binding.role is not None and binding.role.id == old.id:
            binding.role = new


CHANGES: tuple[Callable[[Placed, float], None], ...] = (
    *[_another_binding] * 3, *[_grant_a_tool] * 5, *[_end_a_binding] * 3, *[_change_a_tool] * 2, _lock, *[_lift_all_locks] * 2, _switch_an_agent,
    _switch_a_user, _switch_a_server, *[_rewrite_a_role] * 3, *[_everybody_is_back] * 4,
)  # fmt: skip

"""A policy of realistic size. What is many is inserted in bulk, as the services would leave it; what is measured later
goes through the services.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import cast

from django.db import connection, transaction
from django.db.models import F, Model

from bench import echo_http
from bench.client import ECHO, SERVER
from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import AccessClass, Server, Tool
from jitaccess.catalog.services import import_tools, register_server
from jitaccess.identity.models import AccessToken, Agent, Team, User
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.ids import new_token, token_hash
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.models import ApprovalPolicy, Requestable, Role, RoleBinding, ServerAccess
from jitaccess.policy.policies import save_policy
from jitaccess.policy.services import bind_grant, bind_role, save_role
from jitaccess.store.clock import now
from requests_app.lifecycle import RequestStatus
from requests_app.models import AccessRequest, Grant

OPERATOR = Actor.system("bench")
AT_ONCE = 1000  # rows in a statement
APPROVALS = """\
kind: approval-policy
version: v1
metadata: {name: review}
spec:
  rules:
    - name: everything
      stages:
        - groups:
            - {name: reviewers, people: ["user:admin", "user:approver"], quorum: 1}
"""
READ = "read-0"
_ROLE = """\
kind: role
version: v1
metadata: {{name: {name}}}
spec:
  allow:
    - servers: [{servers}]
      access: [{access}]
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How much policy there is: agents (with two standing bindings each), servers, tools of each server, roles."""

    agents: int = 1000
    servers: int = 50
    tools: int = 20
    roles: int = 20


SMALL = Size(agents=40, servers=3, tools=20)
LARGE = Size(agents=10_000, servers=50, tools=20, roles=200)


@dataclass(frozen=True, slots=True)
class World:
    """Agents with a token each; half of the measured server's tools are `write`: refused without a grant."""

    admin: User
    approver: User
    agents: list[Agent]
    tokens: list[str]
    write: list[Tool]


@cache
def build(size: Size) -> World:
    """Everything that the runs play with, in the chosen installation; made once."""
    admin = User.objects.create_superuser(username="admin", email="admin@example.invalid", password=None)
    team = Team.objects.create(name="bench")
    team.members.add(admin)
    servers = [_server(SERVER, size.tools)] + [
        _server(f"server-{number}", size.tools) for number in range(1, size.servers)
    ]
    agents = [Agent(name=f"agent-{number}", owner=admin, team=team) for number in range(size.agents)]
    _insert(Agent, agents)
    with transaction.atomic():
        roles = _roles(servers, size.roles)
    _bind(agents, roles)
    with transaction.atomic():
        # Nobody approves what an agent of their own asks for.
        approver = User.objects.create(username="approver", email="approver@example.invalid")
        policy = save_policy(document=APPROVALS, operator=OPERATOR)
        Requestable.objects.create(server=servers[0], access="write", policy=policy)
        tokens = _tokens(agents)
    write = list(Tool.objects.filter(server=servers[0], access=AccessClass.WRITE).order_by("name"))
    return World(admin, approver, agents, tokens, write)


def add_server(slug: str, tools: int) -> None:
    """One more, half of whose tools everybody may call and half may ask for."""
    with transaction.atomic():
        policy = ApprovalPolicy.objects.get(name="review")
        Requestable.objects.create(server=_server(slug, tools), access="write", policy=policy)


@cache
def add_echo() -> None:
    """The one that is reached over HTTP; everybody may call its only tool."""
    with transaction.atomic():
        server = register_server(slug=ECHO, operator=OPERATOR)
        import_tools(server=server, definitions=cast(list[JsonObject], echo_http.TOOLS), operator=OPERATOR)
        Tool.objects.filter(server=server).update(access=AccessClass.READ, pin=F("digest"))
        ServerAccess.objects.create(server=server, every_team=True)


def _server(slug: str, tools: int) -> Server:
    server = register_server(slug=slug, operator=OPERATOR)
    half = tools // 2
    names = [f"read-{number}" for number in range(half)] + [f"write-{number}" for number in range(tools - half)]
    schema: JsonObject = {
        "type": "object",
        "properties": {"nonce": {"type": "string", "description": "given back as it is"}},
    }
    definitions: list[JsonObject] = [
        {"name": name, "description": f"The tool {name} of {slug}", "inputSchema": schema} for name in names
    ]
    import_tools(server=server, definitions=definitions, operator=OPERATOR)
    for access in (AccessClass.READ, AccessClass.WRITE):
        Tool.objects.filter(server=server, name__startswith=f"{access}-").update(access=access, pin=F("digest"))
    ServerAccess.objects.create(server=server, every_team=True)
    return server


def _roles(servers: list[Server], count: int) -> list[Role]:
    """One that lets everybody read everywhere, and some that let their holders write on other servers."""
    everyone = save_role(document=_ROLE.format(name="read-only", servers='"*"', access="read"), operator=OPERATOR)
    bind_role(role=everyone, everyone="agents", origin=RoleBinding.Origin.DEFAULT, operator=OPERATOR)
    roles = []
    others = [server.slug for server in servers[1:]] or ["server-0"]
    for number in range(count):
        slugs = ", ".join(others[number % len(others) :: count])
        document = _ROLE.format(name=f"writer-{number}", servers=slugs, access="read, write")
        roles.append(save_role(document=document, operator=OPERATOR))
    return roles


def _bind(agents: list[Agent], roles: list[Role]) -> None:
    choice, moment = random.Random(1), now()
    bindings = (
        RoleBinding(agent=agent, role=role, origin=RoleBinding.Origin.STANDING, starts_at=moment)
        for agent in agents
        for role in choice.sample(roles, 2)
    )
    _insert(RoleBinding, bindings)


def _tokens(agents: list[Agent]) -> list[str]:
    """One each, good for a day: the service gives an hour at most, and a long run would end in the middle."""
    values, moment = [new_token("jit") for _ in agents], now()
    tokens = (
        AccessToken(
            agent=agent,
            hash=token_hash(value),
            issued_by_name="bench",
            created_at=moment,
            expires_at=moment + timedelta(days=1),
        )
        for agent, value in zip(agents, values, strict=True)
    )
    _insert(AccessToken, tokens)
    return values


def _insert(model: type[Model], rows: Iterable[Model]) -> None:
    """Past the triggers, which count each row as a change of policy: nobody has seen this installation yet."""
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SET LOCAL session_replication_role = replica")
        model._default_manager.bulk_create(rows, batch_size=AT_ONCE)  # noqa: SLF001 - documented


def make_grants(
    wanted: Iterable[tuple[Agent, Tool]], *, until: Iterable[datetime], max_uses: int | None = None
) -> list[Grant]:
    """Live grants of one tool each, as an approval leaves them, in one transaction; `until` as many ends."""
    counted = {} if max_uses is None else {"max_uses": max_uses}
    grants = []
    with transaction.atomic():
        moment = now()
        for (agent, tool), end in zip(wanted, until, strict=True):
            request = AccessRequest.objects.create(**_asked(agent, tool, moment))
            grant = Grant.objects.create(request=request, agent=agent, starts_at=moment, expires_at=end)
            bind_grant(
                grant=grant.pk,
                agent=agent.pk,
                user=None,
                tools={tool.pk: tool.pin},
                starts_at=moment,
                expires_at=end,  # shorter than anybody may ask for
                **counted,
            )
            grants.append(grant)
    return grants


def _asked(agent: Agent, tool: Tool, moment: datetime) -> dict[str, object]:
    one = {"id": str(tool.pk), "name": tool.name, "pin": tool.pin, "access": tool.access}
    return {
        "agent": agent,
        "owner_id": agent.owner_id,
        "principal_key": f"{agent.pk}/-",
        "items": canonical(
            [{"kind": "tools", "server": SERVER, "server_id": str(tool.server_id), "tools": [one]}]
        ).decode(),
        "reason": "to be measured",
        "seconds": 60,
        "policy_name": "review",
        "created_at": moment,
        "pending_until": moment + timedelta(hours=1),
        "status": RequestStatus.APPROVED,
        "closed_at": moment,
        "closed_by_name": "bench",
    }

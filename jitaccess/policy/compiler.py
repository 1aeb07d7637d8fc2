"""Rows into a Snapshot, and the store that keeps a process's Snapshot current."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.db.models import Q

from jitaccess.catalog.models import Server, Tool
from jitaccess.identity.models import Agent, Team, User
from jitaccess.kernel.errors import Invalid, Unavailable
from jitaccess.kernel.patterns import PatternSet
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.engine.rules import (
    AgentFacts,
    BindingFacts,
    GrantedTool,
    Origin,
    RequestableFacts,
    RoleFacts,
    ServerFacts,
    Snapshot,
    Subject,
    ToolFacts,
    UserFacts,
)
from jitaccess.policy.models import PolicyVersion, Requestable, Role, RoleBinding, ServerAccess
from jitaccess.store.clock import now
from jitaccess.store.reads import consistent_reads

# Ended grants stay in the snapshot this long, so that a refusal can say "expired" or "revoked".
REMEMBERED = timedelta(hours=24)


def current_version() -> int:
    """The policy version now. A plain read: a lock here would make revokes wait for readers."""
    return PolicyVersion.objects.values_list("version", flat=True).get(pk=1)


def compile_snapshot() -> Snapshot:
    """Read everything at one version. Raises Unavailable, naming the role, when one cannot be read."""
    with consistent_reads():
        version = current_version()
        tools = _tools()
        return Snapshot(
            version=version,
            agents=_agents(),
            users=_users(),
            servers=_servers(tools),
            bindings=_bindings(_roles()),
            requestables=tuple(_requestables()),
        )


def _agents() -> dict[UUID, AgentFacts]:
    users = _pairs(Agent.users.through.objects.values_list("agent_id", "user_id"))
    return {
        agent.pk: AgentFacts(
            agent.pk, agent.name, agent.enabled, agent.owner_id, agent.team_id, frozenset(users.get(agent.pk, ()))
        )
        for agent in Agent.objects.all()
    }


def _users() -> dict[UUID, UserFacts]:
    teams = _pairs(Team.members.through.objects.values_list("user_id", "team_id"))
    return {
        pk: UserFacts(pk, username, active, frozenset(teams.get(pk, ())))
        for pk, username, active in User.objects.values_list("pk", "username", "is_active")
    }


def _tools() -> dict[UUID, dict[str, ToolFacts]]:
    tools: dict[UUID, dict[str, ToolFacts]] = defaultdict(dict)
    for tool in Tool.objects.filter(present=True).order_by("name"):
        tools[tool.server_id][tool.name] = tool_facts(tool)
    return tools


def tool_facts(tool: Tool) -> ToolFacts:
    """A tool as the engine sees it."""
    return ToolFacts(tool.pk, tool.name, tool.access, tool.pin, tool.quarantined, tool.definition)


def _servers(tools: dict[UUID, dict[str, ToolFacts]]) -> dict[UUID, ServerFacts]:
    listed = _pairs(ServerAccess.teams.through.objects.values_list("serveraccess__server_id", "team_id"))
    open_to_all = set(ServerAccess.objects.filter(every_team=True).values_list("server_id", flat=True))
    return {
        server.pk: ServerFacts(
            server.pk,
            server.slug,
            server.enabled,
            server.instructions,
            None if server.pk in open_to_all else frozenset(listed.get(server.pk, ())),
            tools.get(server.pk, {}),
        )
        for server in Server.objects.order_by("slug")
    }


def _roles() -> dict[UUID, RoleFacts]:
    return {role.pk: _compiled(role.name, role.document, role.head) for role in Role.objects.exclude(head=0)}


@lru_cache(maxsize=4096)
def _compiled(name: str, document: str, version: int) -> RoleFacts:
    try:
        return parse_role(document, version=version).facts
    except Invalid as error:
        raise Unavailable("policy.role_unreadable", f"Role {name}@{version} cannot be read: {error.detail}") from error


def _bindings(roles: dict[UUID, RoleFacts]) -> dict[Subject, tuple[BindingFacts, ...]]:
    since = now() - REMEMBERED
    found: dict[Subject, list[BindingFacts]] = defaultdict(list)
    rows = RoleBinding.objects.filter(
        Q(expires_at=None) | Q(expires_at__gt=since), Q(ended_at=None) | Q(ended_at__gt=since)
    )
    for row in rows:
        tools = {UUID(tool): GrantedTool(UUID(tool), pin) for tool, pin in json.loads(row.tools).items()}
        subject = Subject(row.agent_id, row.user_id, row.team_id, row.everyone)
        found[subject].append(
            BindingFacts(
                row.pk,
                Origin(row.origin),
                roles.get(row.role_id) if row.role_id else None,
                tools,
                row.starts_at,
                row.expires_at,
                row.ended_at,
                row.origin_id,
            )
        )
    return {subject: tuple(bindings) for subject, bindings in found.items()}


def _requestables() -> Iterable[RequestableFacts]:
    return map(requestable_facts, Requestable.objects.order_by("id"))


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
    )


def split_list(text: str) -> list[str]:
    """Comma-separated words of a form field."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _pairs(rows: Iterable[tuple[Any, Any]]) -> dict[UUID, set[UUID]]:
    pairs: dict[UUID, set[UUID]] = defaultdict(set)
    for one, many in rows:
        pairs[one].add(many)
    return pairs


class SnapshotStore:
    """The Snapshot of this process. `catch_up` is the one way to a newer one; how it gets there is its own affair."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None

    @property
    def current(self) -> Snapshot:
        """The newest Snapshot this process has; reads the database the first time."""
        return self._snapshot or self.catch_up(current_version())

    def catch_up(self, version: int) -> Snapshot:
        """The Snapshot of `version` or a newer one. Several threads that ask at once read the database once.

        A database restored from a backup counts from a lower number: anything but this version is read anew.
        """
        with self._lock:
            if self._snapshot is None or self._snapshot.version != version:
                self._snapshot = compile_snapshot()
            return self._snapshot

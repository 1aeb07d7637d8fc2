"""Agents as one person may know them: all about those of theirs and of their teams, less about those they may use."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Count, QuerySet

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.catalog.snippets import CLIENTS, EVERY_SERVER, snippet
from jitaccess.identity.models import AccessToken, Agent, User
from jitaccess.identity.services import live_tokens
from jitaccess.kernel.errors import NotFound
from jitaccess.policy.models import GRANTED, RoleBinding
from jitaccess.store.clock import JitNow
from requests_app import selectors
from requests_app.selectors import Grant, Q

LOOKED_AT = 300  # of the latest entries, for the calls among them
CALLS_SHOWN = 15
_CALLS = {
    Event.CALL_AUTHORIZED: ("allowed", "good"),
    Event.CALL_DENIED: ("denied", "bad"),
    Event.CALL_DENIED_AGAIN: ("denied again", "bad"),
}
_CLIENTS = {
    "claude-code": "Claude Code",
    "claude-desktop": "Claude Desktop",
    "cursor": "Cursor",
    "vscode": "VS Code",
    "inspector": "Inspector",
}


@dataclass(frozen=True, slots=True)
class CallLine:
    """A call, or denied tries of it, without its arguments; `user` on whose behalf, "" for nobody's."""

    at: datetime
    server: str
    tool: str
    user: str
    said: str
    tone: str


@dataclass(frozen=True, slots=True)
class Connect:
    """How one client is connected: its file whole, where that may be, commands as a shell takes them, and hints."""

    client: str
    label: str
    config: str
    files: tuple[str, ...]
    commands: tuple[str, ...]
    hints: tuple[str, ...]


def agents_seen_by(user: User) -> QuerySet[Agent]:
    """As the admin shows them; for others those they own or may use, and their teams'."""
    rows = Agent.objects.select_related("owner", "team").order_by("name")
    if sees_all(user):
        return rows
    usable = Agent.users.through.objects.filter(user=user).values("agent_id")
    return rows.filter(Q(owner=user) | Q(pk__in=usable) | Q(team__in=user.teams.values("pk")))


def agent_seen_by(user: User, name: str) -> Agent:
    """Raises NotFound for those that may not be seen as for absent ones."""
    found = agents_seen_by(user).filter(name=name).first() if "\0" not in name else None
    if found is None:
        raise NotFound("agent.unknown", "There is no such agent, or you may not see it.")
    return found


def is_theirs(user: User, agent: Agent) -> bool:
    """Whether it is theirs or their team's."""
    return agent.owner_id == user.pk or user.teams.filter(pk=agent.team_id).exists()


def tokens_of(user: User, agent: Agent) -> list[AccessToken]:
    """Live tokens, for the owner and for whom the admin would show them; never their values, which nobody has."""
    may = agent.owner_id == user.pk or (user.is_staff and user.has_perm("jit_identity.view_accesstoken"))
    rows = live_tokens().filter(agent=agent).select_related("user", "issued_by").defer("hash")
    return list(rows.order_by("expires_at")[:50]) if may else []


def rights_of(agent: Agent) -> list[RoleBinding]:
    """What it has without asking, and its ceilings: roles bound to it, to its team, or to every agent."""
    whose = Q(agent=agent, user=None) | Q(team=agent.team_id) | Q(everyone=RoleBinding.Everyone.AGENTS)
    live = Q(ended_at=None) & (Q(expires_at=None) | Q(expires_at__gt=JitNow()))
    # All rights have a role, of what was granted little has: that is in an index.
    rows = RoleBinding.objects.filter(whose, live, role__isnull=False).exclude(origin__in=GRANTED)
    return list(rows.select_related("role", "agent", "team").order_by("origin", "pk")[:100])


def calls_of(agent: Agent, *, user: UUID | None) -> list[CallLine]:
    """The latest calls, all of them or those on behalf of one person; of the latest entries only."""
    rows = Entry.objects.filter(agent=agent.pk).order_by("-uid")
    told = rows.values_list("event", "at", "server_name", "tool", "user", "user_name")[:LOOKED_AT]
    found = [
        CallLine(at, server, tool, name, *_CALLS[Event(event)])
        for event, at, server, tool, whose, name in told
        if event in _CALLS and user in (None, whose)
    ]
    return found[:CALLS_SHOWN]


def live_counts(agents: Sequence[Agent]) -> Counter[UUID]:
    """How many grants each holds now."""
    rows = Grant.objects.filter(selectors.grants_live(live=True), agent__in=[agent.pk for agent in agents])
    return Counter(dict(rows.order_by().values_list("agent").annotate(Count("pk"))))


def connect(client: str, url: str) -> Connect | None:
    """For one of CLIENTS, None for another; a placeholder stands where the token goes."""
    if client not in CLIENTS:
        return None
    made = snippet(client, server=EVERY_SERVER, url=url, token=None)
    commands = tuple(shlex.join(command) for command in made.commands)
    config = json.dumps(made.config, indent=2, ensure_ascii=False)
    return Connect(client, _CLIENTS.get(client, client), config, made.files, commands, made.hints)


def clients() -> list[tuple[str, str]]:
    """(name, label) of all of them."""
    return [(client, _CLIENTS.get(client, client)) for client in CLIENTS]


def sees_all(user: User) -> bool:
    """Whether the admin shows them every agent."""
    if not (user.is_active and user.is_staff):
        return False  # most people: without asking for their permissions
    return user.has_perm("jit_identity.view_agent") or user.has_perm("jit_identity.change_agent")

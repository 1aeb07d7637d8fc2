"""What is there now, in the words of the files, with the facts that decide what may be done to it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Exists, OuterRef, Q

from jitaccess.catalog.models import Server, Tool, Transport
from jitaccess.identity.models import Agent, Team, User
from jitaccess.kernel.labels import parse_labels
from jitaccess.policy.compiler import split_list
from jitaccess.policy.models import (
    GRANTED,
    ApprovalPolicy,
    BreakGlass,
    OnCallSchedule,
    Requestable,
    Role,
    RoleBinding,
    ServerAccess,
)
from jitaccess.runtime.access_files.documents import Key, normal
from jitaccess.runtime.access_files.kinds import EVERY, EVERY_TEAM, ORIGINS
from jitaccess.runtime.access_files.shapes import spell_minutes, spell_moment
from jitaccess.store.clock import JitNow, now

State = dict[Key, dict[str, Any]]
_EVERYONE = {value: word for word, value in EVERY.items()}


@dataclass(slots=True, kw_only=True)
class Now:
    """One reading of the database. `people` says who is active, `schedules` who may come on call (None: a URL knows).

    `offered` is the digest of what a server offers under (server, tool) now, "" when it offers it no more. `history`
    is what cannot be deleted, `busy` what a live grant uses, `elsewhere` what only the admin names, each with its why.
    """

    at: datetime
    state: State = field(default_factory=dict)
    people: dict[str, bool] = field(default_factory=dict)
    schedules: dict[str, list[str] | None] = field(default_factory=dict)
    offered: dict[tuple[str, str], str] = field(default_factory=dict)
    history: dict[Key, str] = field(default_factory=dict)
    busy: dict[Key, str] = field(default_factory=dict)
    elsewhere: dict[Key, str] = field(default_factory=dict)


def read_now() -> Now:
    """Everything, by a number of queries that does not depend on how much there is."""
    found = Now(at=now())
    found.people = dict(User.objects.values_list("username", "is_active"))
    found.schedules = {row.name: _rota(row) for row in OnCallSchedule.objects.all()}
    for role in Role.objects.all():
        found.state[Key("role", role.name)] = {"document": normal(role.document)}
    for policy in ApprovalPolicy.objects.all():
        found.state[Key("approval-policy", policy.name)] = {"document": normal(policy.document)}
    _teams(found)
    _agents(found)
    _servers(found)
    _bindings(found)
    _uses(found)
    return found


def _rota(row: OnCallSchedule) -> list[str] | None:
    return None if row.url else [str(name) for name in json.loads(row.rota or "[]")]


def _teams(found: Now) -> None:
    for team in Team.objects.prefetch_related("members"):
        members = sorted(user.username for user in team.members.all())
        found.state[Key("team", team.name)] = {"members": members}


def _agents(found: Now) -> None:
    for agent in Agent.objects.select_related("owner", "team").prefetch_related("users"):
        found.state[Key("agent", agent.name)] = {
            "description": agent.description.strip(),
            "owner": agent.owner.username,
            "team": agent.team.name,
            "users": sorted(user.username for user in agent.users.all()),
            "labels": dict(sorted(parse_labels(agent.labels).items())),
            "enabled": agent.enabled,
        }


def _servers(found: Now) -> None:
    doors = {row.server_id: row for row in ServerAccess.objects.prefetch_related("teams")}
    asked: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for row in Requestable.objects.exclude(server=None).select_related("team", "policy"):
        asked[row.server_id].append(requestable(row))
    tools: dict[Any, dict[str, Any]] = defaultdict(dict)
    for tool in Tool.objects.select_related("server").order_by("name"):
        found.offered[tool.server.slug, tool.name] = tool.digest if tool.present else ""
        labels = dict(sorted(parse_labels(tool.labels).items()))
        tools[tool.server_id][tool.name] = {"access": tool.access, "pin": tool.pin, "labels": labels}
    for server in Server.objects.select_related("owner_team"):
        door = doors.get(server.pk)
        over_http = server.transport == Transport.HTTP
        found.state[Key("server", server.slug)] = {
            "description": server.description.strip(),
            **({"url": server.url, "era": server.era, "shared": server.shared} if over_http else {}),
            "instructions": server.instructions.strip(),
            "enabled": server.enabled,
            "owner_team": server.owner_team.name if server.owner_team else "",
            "labels": dict(sorted(parse_labels(server.labels).items())),
            "options": server.options.as_json(),
            "access": _door(door),
            "tools": tools[server.pk],
            "requestables": in_order(asked[server.pk]),
        }


def _door(row: ServerAccess | None) -> str | list[str]:
    if row is None:
        return []
    return EVERY_TEAM if row.every_team else sorted(team.name for team in row.teams.all())


def requestable(row: Requestable) -> dict[str, Any]:
    """As a file has it. Needs its team and its policy."""
    return {
        "tools": sorted(set(split_list(row.tools))),
        "access": sorted(set(split_list(row.access))),
        "team": row.team.name if row.team else "",
        "arguments": str(row.arguments),
        "max_duration": spell_minutes(row.max_minutes),
        "max_total": spell_minutes(row.max_total_minutes) if row.max_total_minutes else "",
        "max_advance": spell_minutes(row.max_advance_minutes),
        "max_uses": row.max_uses or 0,
        "approval": row.policy.name,
    }


def in_order(requestables: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each once, in an order that depends neither on the rows nor on how a file is written."""
    by_text = {json.dumps(one, sort_keys=True): one for one in requestables}
    return [by_text[text] for text in sorted(by_text)]


def live_bindings() -> Any:
    """Default and standing bindings and ceilings that are in force."""
    rows = RoleBinding.objects.filter(origin__in=ORIGINS, ended_at=None).select_related("role", "agent", "user", "team")
    return rows.filter(Q(expires_at=None) | Q(expires_at__gt=JitNow()))


def binding_key(row: RoleBinding) -> Key:
    if row.everyone:
        subject = _EVERYONE[row.everyone]
    elif row.agent:
        subject = f"agent:{row.agent.name}"
    else:
        subject = f"user:{row.user.username}" if row.user else f"team:{row.team.name if row.team else ''}"
    return Key("binding", f"{row.role.name if row.role else ''} {row.origin} {subject}")


def _bindings(found: Now) -> None:
    """The same right given twice lasts as long as the longer one."""
    for row in live_bindings():
        key, until = binding_key(row), spell_moment(row.expires_at) if row.expires_at else ""
        before = found.state.get(key, {}).get("until")
        if before is None or (before and (not until or datetime.fromisoformat(before) < datetime.fromisoformat(until))):
            found.state[key] = {"until": until}


def _uses(found: Now) -> None:
    """What history and grants hold on to."""
    had = "somebody had it, or may have it"
    held: tuple[tuple[str, str, Any, tuple[Any, ...], str], ...] = (
        ("role", "name", Role, ("bindings", "break_glass"), had),
        ("team", "name", Team, ("bindings",), had),
        ("agent", "name", Agent, ("tokens", "bindings", "requests"), "it has a history"),
        ("server", "slug", Server, ("tools",), "it has a history"),
    )
    for kind, column, model, relations, why in held:
        for relation in relations:
            field_ = model._meta.get_field(relation)
            there = Exists(field_.related_model.objects.filter(**{field_.field.name: OuterRef("pk")}))
            found.history.update(
                (Key(kind, name), why) for name in model.objects.filter(there).values_list(column, flat=True)
            )
    for right in BreakGlass.objects.select_related("reviewers").prefetch_related("teams"):
        for team in (right.reviewers, *right.teams.all()):
            found.history[Key("team", team.name)] = had
    for slug in Server.objects.exclude(transport=Transport.HTTP).values_list("slug", flat=True):
        found.elsewhere[Key("server", slug)] = "the operator's file describes it"
    for name, policy in Requestable.objects.filter(server=None).values_list("team__name", "policy__name"):
        found.elsewhere[Key("approval-policy", policy)] = found.elsewhere[Key("team", name or "")] = (
            "what may be asked of a database names it"
        )
    live = RoleBinding.objects.filter(origin__in=GRANTED, ended_at=None, expires_at__gt=JitNow())
    _granted(found, live.order_by().select_related("agent"))


def _granted(found: Now, live: Iterable[RoleBinding]) -> None:
    tools: set[str] = set()
    for row in live:
        if row.agent:
            found.busy[Key("agent", row.agent.name)] = "a grant uses it"
        tools.update(json.loads(row.tools))
    if tools:  # by reading all of them: a list of ids may be longer than a database takes
        for pk, slug in Tool.objects.values_list("pk", "server__slug"):
            if str(pk) in tools:
                found.busy[Key("server", slug)] = "a grant uses it"

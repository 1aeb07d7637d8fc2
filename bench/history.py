"""A year of a busy installation: requests, decisions, grants and their ends, written past services and triggers.

By COPY on PostgreSQL and in one transaction on SQLite: a million requests are eight million rows. The rows are as the
services would leave them; who asks whom for what follows from a row's number, so that two runs are alike.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from django.db import connection, models, transaction

from jitaccess.audit.models import Entry, Leaf
from jitaccess.catalog.models import Server, Tool
from jitaccess.identity.models import Agent, Team, User
from jitaccess.kernel.canonical import canonical
from jitaccess.policy.models import RoleBinding
from jitaccess.store.clock import now
from requests_app.models import AccessRequest, Concern, Decision, Grant, about_server

TOOLS = 20
_BATCH = 20_000
_ENDS = (("expired", 6), ("released", 2), ("used_up", 1), ("revoked", 1))
_CLOSED = ("expired", "cancelled", "superseded", "invalidated")
_ASK = {
    "policy": "history", "version": 1, "rule": "all", "auto_approve": False, "escalations": [], "deny_threshold": 1,
    "fallback": None, "channels": ["cli", "slack", "web"], "step_up": False, "reminders": [], "cool_down": 0,
    "ticket": {"required": False, "pattern": None}, "facts": None,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much there is. Of `grants`, `live` go on and `due` are over without their end being written down."""

    requests: int
    pending: int = 200
    grants: int = 300_000
    live: int = 2000
    due: int = 0
    agents: int = 2000
    users: int = 500
    teams: int = 50
    days: int = 365


@dataclass(frozen=True, slots=True)
class Actors:
    """`auditor` may decide everything, `member` what the servers of two teams are asked for; `root` is a superuser."""

    root: User
    auditor: User
    member: User
    users: list[User]
    teams: list[Team]
    agents: list[Agent]
    servers: list[Server]


@dataclass(frozen=True, slots=True)
class _Row:
    """One request with everything that came of it, as column values by table."""

    request: tuple[Any, ...]
    concerns: list[tuple[Any, ...]]
    decision: tuple[Any, ...] | None
    grant: tuple[Any, ...] | None
    binding: tuple[Any, ...] | None


def key_at(moment: datetime, number: int) -> UUID:
    """A UUIDv7 of that moment: the keys of all rows follow their times, as in life."""
    millis = int(moment.timestamp() * 1000)
    return UUID(int=millis << 80 | 0x7 << 76 | (number & 0xFFF) << 64 | 0b10 << 62 | (number >> 12 & 0x3FFFFFFF) << 32)


def people(scale: Scale) -> Actors:
    """Users in two teams each, a server of every team, agents of users and teams: by Django, in bulk."""
    root = User.objects.create_superuser(username="root", email="root@example.invalid", password=None)
    users = [User(username=f"user-{number}") for number in range(scale.users)]
    teams = [Team(name=f"team-{number}") for number in range(scale.teams)]
    User.objects.bulk_create(users)
    Team.objects.bulk_create(teams)
    belongs = {
        (user.pk, teams[(number * step) % scale.teams].pk) for number, user in enumerate(users) for step in (1, 7)
    }
    through = Team.members.through
    through.objects.bulk_create(through(user_id=user, team_id=team) for user, team in sorted(belongs))
    servers = [Server(slug=f"old-server-{number}", owner_team=team) for number, team in enumerate(teams)]
    Server.objects.bulk_create(servers)
    Tool.objects.bulk_create(
        Tool(server=server, name=f"write-{number}", definition="{}", access="write", pin="sha256:x", digest="sha256:x")
        for server in servers
        for number in range(TOOLS)
    )
    agents = [
        Agent(name=f"old-agent-{number}", owner=users[number % scale.users], team=teams[number % scale.teams])
        for number in range(scale.agents)
    ]
    Agent.objects.bulk_create(agents)
    return Actors(root, users[1], users[2], users, teams, agents, servers)


def fill(scale: Scale, actors: Actors) -> None:
    """Write it all, and let the database count its rows (ANALYZE), as it does by itself in an hour's time."""
    with transaction.atomic(), _without_triggers():
        rows = _rows(scale, actors)
        while part := list(islice(rows, _BATCH)):
            _write(AccessRequest, [row.request for row in part])
            _write(Concern, [concern for row in part for concern in row.concerns])
            _write(Decision, [row.decision for row in part if row.decision])
            _write(Grant, [row.grant for row in part if row.grant])
            _write(RoleBinding, [row.binding for row in part if row.binding])
    if connection.vendor == "postgresql":  # nothing counts rows on SQLite
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")


def record(count: int, actors: Actors, days: int = 365) -> None:
    """A ledger of so many entries, all in their place, beside the requests and grants that `fill` wrote: of ten, four
    are calls let through, four their ends, one is a refusal, one is about a request.
    """
    with transaction.atomic(), _without_triggers():
        requests = list(AccessRequest.objects.order_by("pk").values_list("pk", "agent"))
        grants = list(Grant.objects.order_by("pk").values_list("pk", "agent"))
        names = {agent.pk: agent.name for agent in actors.agents}
        moment, written = now(), 0
        rows = (_entry(number, count, actors, requests, grants, names, moment, days) for number in range(count))
        while part := list(islice(rows, _BATCH)):
            _write(Entry, part)
            _write(Leaf, [(seq, row[0], "0" * 64) for seq, row in enumerate(part, start=written + 1)])
            written += len(part)
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE jit_audit_entry, jit_audit_leaf")


_KINDS = ("call.authorized", "call.completed") * 4 + ("call.denied", "request.submitted")


def _entry(
    number: int, count: int, actors: Actors, requests: Sequence[tuple[UUID, UUID]],
    grants: Sequence[tuple[UUID, UUID]], names: dict[UUID, str], moment: datetime,
    days: int,
) -> tuple[Any, ...]:  # fmt: skip
    event = _KINDS[number % 10]
    at = moment - timedelta(days=days) * ((count - number) / count)
    request = grant = call = server = None
    tool = server_name = ""
    if event == "request.submitted":
        request, agent = requests[number * len(requests) // count]
    else:
        grant, agent = grants[number * len(grants) // count]
        if number % 3:  # most calls are of standing rights
            grant, agent = None, actors.agents[number // 2 % len(actors.agents)].pk
        row = actors.servers[number // 2 % len(actors.servers)]
        server, server_name, tool = row.pk, row.slug, f"write-{number // 2 % TOOLS}"
        call = UUID(int=number // 2)
    user = actors.users[number % len(actors.users)] if number % 2 else None
    outcome = {"call.authorized": "allowed", "call.denied": "denied"}.get(event, "")
    return (
        key_at(at, number), at, event, outcome, agent, names[agent],
        user.pk if user else None, user.username if user else "",
        "bench", "127.0.0.1", request, grant, call, server, server_name, tool, "", "[]", 1, None,
        '{"args_digest":"sha256:0","arguments":{"path":"/srv/notes/release.md"}}',
    )  # fmt: skip


@contextmanager
def _without_triggers() -> Iterator[None]:
    """They would ask of each row whether it may be written. In a transaction."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL session_replication_role = replica")
            # Making up twenty thousand rows takes seconds in which the database hears nothing.
            cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL statement_timeout = 0")
            yield
            cursor.execute("SET LOCAL session_replication_role = origin")
            return
        cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        triggers = cursor.fetchall()
        for name, _ in triggers:
            cursor.execute(f'DROP TRIGGER "{name}"')
        yield
        for _, statement in triggers:
            cursor.execute(statement)


def _rows(scale: Scale, actors: Actors) -> Iterator[_Row]:
    choice, moment = random.Random(5), now()
    apart = timedelta(days=scale.days) / scale.requests
    tools = dict[UUID, list[Tool]]()
    for tool in Tool.objects.filter(server__in=actors.servers).order_by("name"):
        tools.setdefault(tool.server_id, []).append(tool)
    asked = [_asked(server, actors, tools[server.pk]) for server in actors.servers]
    closed = scale.requests - scale.pending
    for number in range(scale.requests):
        # The latest hour is that of the pending ones.
        pending = number >= closed
        at = moment - (timedelta(seconds=10 * (scale.requests - number)) if pending else timedelta(hours=1))
        at -= timedelta() if pending else apart * (closed - number)
        given = min((number + 1) * scale.grants // closed, scale.grants)
        approved = not pending and given > number * scale.grants // closed
        status = "pending" if pending else "approved" if approved else _status(choice)
        yield _row(scale, actors, choice, asked, number, at, moment, status, scale.grants - given)


def _status(choice: random.Random) -> str:
    return "denied" if choice.random() < 0.2 else choice.choices(_CLOSED, (60, 30, 8, 2))[0]


def _asked(server: Server, actors: Actors, tools: Sequence[Tool]) -> tuple[list[str], str, tuple[str, ...], str]:
    """The items of requests for one or two tools of a server, the plan of all of them, whom and what that names."""
    refs = (f"server:{server.pk}", f"user:{actors.auditor.pk}")
    group = {"id": "0/owners", "name": "owners", "quorum": 1, "people": list(refs)}
    items = []
    for first in range(len(tools)):
        some = [
            {"id": str(tool.pk), "name": tool.name, "pin": tool.pin, "access": tool.access}
            for tool in tools[first : first + 1 + first % 2]
        ]
        kind = {"kind": "tools", "server": server.slug, "server_id": str(server.pk), "tools": some}
        items.append(canonical([kind]).decode())  # type: ignore[list-item]  # JSON all the same
    plan = canonical({**_ASK, "stages": [{"groups": [group]}]}).decode()  # type: ignore[dict-item]
    return items, plan, refs, about_server(server.slug)


def _row(
    scale: Scale, actors: Actors, choice: random.Random, asked: Any, number: int, at: datetime, moment: datetime,
    status: str, later: int,
) -> _Row:  # fmt: skip
    """`later`: how many grants are newer than this one."""
    agent = actors.agents[choice.randrange(len(actors.agents))]
    user = agent.owner_id if number % 2 else None
    items, plan, refs, about = asked[choice.randrange(len(asked))]
    key, end = key_at(at, number), at + timedelta(seconds=60)
    request = (
        key, agent.pk, agent.owner_id, user, "access", f"{agent.pk}/{user or '-'}", "bench",
        items[choice.randrange(len(items))], "medium", "one of a million", "", "{}", 600, plan, "history",
        "sha256:d", f"sha256:{number}", at, at + timedelta(hours=8), status,
        None if status == "pending" else end, "" if status == "pending" else "somebody", "", 0, "", "",
    )  # fmt: skip
    subjects = {*refs, about, f"user:{agent.owner_id}", f"team:{agent.team_id}"}
    decision = grant = binding = None
    if status in {"approved", "denied"}:
        person = actors.auditor if number % 3 else actors.users[choice.randrange(len(actors.users))]
        verdict = "approve" if status == "approved" else "deny"
        subjects.add(f"user:{person.pk}")
        decision = (key, key, person.pk, 0, verdict, "", "sha256:d", "{}", "", "web", end, True)
    if status == "approved":
        grant, binding = _granted(scale, choice, key, agent, user, end, moment, later)
    concerns = [(key, subject) for subject in sorted(subjects)]
    return _Row(request, concerns, decision, grant, binding)


def _granted(
    scale: Scale, choice: random.Random, key: UUID, agent: Agent, user: UUID | None, start: datetime, moment: datetime,
    later: int,
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:  # fmt: skip
    until, ended, reason = start + timedelta(minutes=10), None, ""
    if later < scale.live:
        until = moment + timedelta(hours=8)
    elif later >= scale.live + scale.due:
        ended, reason = until, choice.choices([end for end, _ in _ENDS], [often for _, often in _ENDS])[0]
    early = None if reason in {"", "expired"} else ended
    grant = (key, key, agent.pk, user, start, until, until, start, ended, reason, "", "")
    binding = (key, "", agent.pk, user, "{}", "", "", "grant", key, start, until, early)
    return grant, binding


_COLUMNS: dict[type[models.Model], str] = {
    AccessRequest: "id agent_id owner_id user_id kind principal_key client items risk reason ticket context seconds "
    "plan policy_name digest dedupe_digest created_at pending_until status closed_at closed_by_name closing_note told "
    "changes_by_name changes_note",
    Concern: "request_id subject",
    Decision: "id request_id user_id stage verdict reason digest terms terms_digest channel at live",
    Grant: "id request_id agent_id user_id starts_at expires_at latest activated_at ended_at end_reason ended_by_name "
    "end_note",
    Entry: 'uid at event outcome agent agent_name "user" user_name client source request "grant" call server '
    "server_name tool tool_pin bindings policy_version instance data",
    Leaf: "seq entry_id leaf_hash",
    RoleBinding: "id everyone agent_id user_id tools arguments privileges origin origin_id starts_at expires_at "
    "ended_at",
}


def _write(model: type[models.Model], rows: Sequence[tuple[Any, ...]]) -> None:
    columns = _COLUMNS[model].split()
    table, names = model._meta.db_table, ", ".join(columns)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            with cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        else:
            marks = ", ".join(["%s"] * len(columns))
            plain = [tuple(map(_plain, row)) for row in rows]
            cursor.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", plain)


def _plain(value: Any) -> Any:
    """As Django stores it on SQLite."""
    if isinstance(value, UUID):
        return value.hex
    return str(value.astimezone(UTC).replace(tzinfo=None)) if isinstance(value, datetime) else value

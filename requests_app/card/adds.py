"""What approving a request would add to what its principal may do already: policy asked twice, before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.patterns import PatternSet
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.arguments import parse_constraint
from jitaccess.policy.engine.certain import certain
from jitaccess.policy.engine.decide import START_OF_TIME, Verdict, Who, decide, decide_all
from jitaccess.policy.engine.privileges import against_privileges
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.engine.rules import (
    BindingFacts,
    GrantedTool,
    Origin,
    Privileges,
    RoleFacts,
    ServerFacts,
    Snapshot,
    Subject,
    ToolFacts,
)
from jitaccess.policy.engine.trial import said
from jitaccess.policy.models import RoleVersion
from requests_app.lifecycle import RequestKind
from requests_app.models import AccessRequest

ANY, SOME = "with any arguments", "with some arguments"
EXACT, SCHEMA = "with exactly these arguments", "with arguments that fit the schema"
UNKNOWN = "What it would add cannot be said: its rules are of another release."


@dataclass(frozen=True, slots=True)
class Reach:
    """One thing within reach: a tool of a server, or an object of a database with the privileges in `access`.

    `how` says with which arguments, or why not at all. `label` names what of the request it comes by. `until`: when
    what is allowed already ends, None for open.
    """

    server: str
    tool: str
    access: str
    how: str
    label: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Adds:
    """`already` adds nothing; `blocked` would stay refused, by a deny rule, a ceiling or a lock. `conditional`: some of
    `new` depends on the arguments. `unknown`: why a role could not be looked at, as a sentence.
    """

    new: tuple[Reach, ...]
    already: tuple[Reach, ...]
    blocked: tuple[Reach, ...]
    conditional: bool
    unknown: str = ""

    def of(self, label: str) -> Adds:
        """What one thing of the request has to do with."""
        new, already, blocked = (
            tuple(one for one in some if one.label == label) for some in (self.new, self.already, self.blocked)
        )
        conditional = any(one.how == SOME for one in new)
        return Adds(new=new, already=already, blocked=blocked, conditional=conditional, unknown=self.unknown)


class _Asked(NamedTuple):
    """One item as the grant it would become."""

    item: dict[str, Any]
    label: str
    binding: BindingFacts


@dataclass(frozen=True, slots=True)
class _Policy:
    """Policy at one moment for one principal, whole and without all that is conditional."""

    who: Who
    at: datetime
    whole: Snapshot
    plain: Snapshot

    def asks(self, server: UUID, tool: str, arguments: Any = None, digest: str = "") -> Verdict:
        """For the arguments given; without, whether some would do."""
        return decide(
            self.whole, who=self.who, server=server, tool=tool, at=self.at, arguments=arguments, digest=digest
        )

    def always(self, server: UUID, tool: str) -> Verdict:
        """Whether any arguments do."""
        return decide(self.plain, who=self.who, server=server, tool=tool, at=self.at)

    def levels(self, server: UUID) -> Iterator[tuple[ToolFacts, int]]:
        """For each tool: 0 refused, 1 allowed with some arguments, 2 with any."""
        some, always = (
            list(decide_all(one, who=self.who, server=server, at=self.at)) for one in (self.whole, self.plain)
        )
        for (tool, verdict), (_, plain) in zip(some, always, strict=True):
            yield tool, 2 if verdict.allowed and plain.allowed else int(verdict.allowed)

    def until(self, verdict: Verdict) -> datetime | None:
        """When the first of the bindings that allow it ends."""
        places, bindings = self.whole.places, self.whole.bindings
        held = [one for pk in verdict.bindings if pk in places for one in bindings[places[pk]] if one.id == pk]
        return min((one.expires_at for one in held if one.expires_at), default=None)


def adds_of(request: AccessRequest, snapshot: Snapshot, at: datetime) -> Adds:
    """By the decisions that calls would get before and after. One query when roles are asked for, else none.

    The snapshot is of SnapshotStore.look, which does not belong in a transaction that writes.
    """
    who = Who(request.agent_id, request.user_id)
    asked, unknown = _asked(request)
    place = Subject(agent=who.agent, user=who.user)
    held = (*snapshot.bindings.get(place, ()), *(one.binding for one in asked))
    # Without the memo: it would hold answers to another question.
    after = replace(snapshot, bindings={**snapshot.bindings, place: held}, memo={})
    before, then = (_Policy(who, at, one, certain(one, who)) for one in (snapshot, after))
    found: list[tuple[str, Reach]] = []
    for one in asked:
        match one.item["kind"]:
            case "role":
                found += _by_role(one, before, then)
            case "database":
                found += _by_privileges(one, before, place)
            case _:
                counts = request.kind != RequestKind.EXTENSION
                found += (_by_tool(one, tool, before, then, counts=counts) for tool in one.item["tools"])
    new, already, blocked = (
        tuple(reach for kind, reach in found if kind == name) for name in ("new", "already", "blocked")
    )
    conditional = any(one.how == SOME for one in new)
    return Adds(new=new, already=already, blocked=blocked, conditional=conditional, unknown=unknown)


def _by_tool(asked: _Asked, tool: dict[str, str], before: _Policy, then: _Policy, *, counts: bool) -> tuple[str, Reach]:
    item, name, server = asked.item, tool["name"], UUID(asked.item["server_id"])
    arguments = item.get("arguments")
    label = asked.label or f"{item['server']}/{name}"
    if arguments and arguments["mode"] == "exact":
        had, gets = (one.asks(server, name, arguments["value"], arguments["digest"]) for one in (before, then))
        how = EXACT
    else:
        had, gets = before.always(server, name), then.asks(server, name)
        how = SCHEMA if arguments else ANY if then.always(server, name).allowed else SOME
    # What is counted comes to an end by being used: more of it is something new.
    if had.allowed and before.asks(server, name).allowed and not (counts and had.counted):
        return "already", Reach(item["server"], name, tool["access"], how, label, before.until(had))
    if not gets.allowed:
        return "blocked", Reach(item["server"], name, tool["access"], visible(gets.rule, limit=300), label)
    return "new", Reach(item["server"], name, tool["access"], how, label)


def _by_role(asked: _Asked, before: _Policy, then: _Policy) -> Iterator[tuple[str, Reach]]:
    role = asked.binding.role
    assert role is not None
    for server in sorted(then.whole.servers.values(), key=lambda one: one.slug):
        if any(rule.about(server) for rule in role.allow):
            yield from _on_server(asked.label, role, server, before, then)


def _on_server(
    label: str, role: RoleFacts, server: ServerFacts, before: _Policy, then: _Policy
) -> Iterator[tuple[str, Reach]]:
    had = {tool.name: level for tool, level in before.levels(server.id)}
    for tool, level in then.levels(server.id):
        if not said(role, server, tool).startswith("allowed"):
            continue
        how = ANY if level == 2 else SOME
        if level > had.get(tool.name, 0):
            yield "new", Reach(server.slug, tool.name, tool.access, how, label)
        elif level:
            until = before.until(before.asks(server.id, tool.name))
            yield "already", Reach(server.slug, tool.name, tool.access, how, label, until)


def _by_privileges(asked: _Asked, before: _Policy, place: Subject) -> Iterator[tuple[str, Reach]]:
    item, at = asked.item, before.at
    database, wanted = item["database"], item["privileges"]
    live = [one for one in before.whole.bindings.get(place, ()) if one.granted and one.live(at)]
    held = [(one.expires_at, some) for one in live for some in one.privileges if some.database == database]
    for name in item["objects"]:
        label = f"{database}/{name}"
        have = {word: end for end, some in held if some.objects.matches(name) for word in some.privileges}
        missing = [word for word in wanted if word not in have]
        why = against_privileges(
            before.whole, who=before.who, database=database, objects=[name], privileges=wanted, at=at
        )
        if why:
            yield "blocked", Reach(database, name, ", ".join(wanted), visible(why, limit=300), label)
        elif missing:
            yield "new", Reach(database, name, ", ".join(missing), "", label)
        else:
            until = min((end for word, end in have.items() if word in wanted and end), default=None)
            yield "already", Reach(database, name, ", ".join(wanted), "", label, until)


def _asked(request: AccessRequest) -> tuple[Sequence[_Asked], str]:
    """Every item as it would be granted; and why a role is left out."""
    items, found, unknown = request.parsed_items, [], ""
    roles = {UUID(item["role_id"]): item["version"] for item in items if item["kind"] == "role"}
    rows = RoleVersion.objects.filter(role__in=roles) if roles else ()
    documents = {row.role_id: row.document for row in rows if roles[row.role_id] == row.version}
    for item in items:
        if item["kind"] != "role":
            label = f"{item['server']}/{item['tools'][0]['name']}#{_short(item)}" if item["kind"] == "call" else ""
            found.append(_Asked(item, label, _binding(item)))
            continue
        pk = UUID(item["role_id"])
        try:
            role = replace(parse_role(documents[pk], version=item["version"]).facts, id=pk)
        except (JitAccessError, KeyError):
            unknown = UNKNOWN
        else:
            found.append(_Asked(item, f"role:{item['role']}", _granted(role=role, pinned=role)))
    return found, unknown


def _short(item: dict[str, Any]) -> str:
    """As it stands in a label."""
    return str(item["arguments"]["digest"]).rpartition(":")[2][:8]


def _binding(item: dict[str, Any]) -> BindingFacts:
    if item["kind"] == "database":
        held = Privileges(item["database"], PatternSet(item["objects"]), frozenset(item["privileges"]))
        return _granted(privileges=(held,))
    tools = {UUID(tool["id"]): GrantedTool(UUID(tool["id"]), tool["pin"]) for tool in item["tools"]}
    limits = {name: value for name, value in (item.get("arguments") or {}).items() if name != "value"}
    return _granted(tools=tools, arguments=parse_constraint(limits) if limits else None)


def _granted(**content: Any) -> BindingFacts:
    facts: dict[str, Any] = {"role": None, "tools": {}} | content
    return BindingFacts(
        id=uuid7(), origin=Origin.GRANT, starts_at=START_OF_TIME, expires_at=None, ended_at=None, **facts
    )

"""What is asked for, looked up: every item with its limits and who decides, or why it cannot be asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from jitaccess.identity.principal import Principal
from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible
from jitaccess.policy.approval.choose import ItemFacts
from jitaccess.policy.engine.arguments import Mode, arguments_digest, parse_constraint
from jitaccess.policy.engine.decide import Code, Verdict, Who, bindings_of, decide
from jitaccess.policy.engine.privileges import against_privileges
from jitaccess.policy.engine.rights import lock_on, user_may_act
from jitaccess.policy.engine.rules import RequestableFacts, RoleFacts, ServerFacts, Snapshot, ToolFacts
from jitaccess.policy.models import ApprovalPolicy

MAX_ITEMS = 50
MAX_ARGUMENTS = 8000  # characters of canonical JSON: an approver has to read all of them
MAX_SCHEMA = 4000
# What is asked for is named: a pattern would be another one than the one it was matched by, and must not be one.
_OBJECT = re.compile(r"[\w.$-]{1,200}")


@dataclass(frozen=True, slots=True)
class ExactCall:
    """One call of one tool, with these very arguments."""

    server: str
    tool: str
    arguments: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Privileges:
    """Privileges on objects of a database, by name."""

    database: str
    objects: Sequence[str]
    privileges: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked for: tools as (server slug, exact tool name), exact calls, roles by name, database privileges; why,
    for how many seconds, and how many calls. `schema` limits the arguments of the tools (a subset of JSON Schema).

    `supersedes` is a pending request of one's own that this one replaces.
    """

    reason: str
    tools: Sequence[tuple[str, str]] = ()
    calls: Sequence[ExactCall] = ()
    roles: Sequence[str] = ()
    privileges: Sequence[Privileges] = ()
    schema: Mapping[str, Json] | None = None
    seconds: int | None = None
    max_uses: int | None = None
    starts_at: datetime | None = None
    not_after: datetime | None = None
    ticket: str = ""
    context: Mapping[str, Json] = field(default_factory=dict)
    supersedes: UUID | None = None

    @property
    def count(self) -> int:
        return len(self.tools) + len(self.calls) + len(self.roles) + len(self.privileges)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much of an item may be asked for: seconds, calls (None: any number), and who decides."""

    policy: UUID
    max_seconds: int
    max_total_seconds: int | None
    max_advance_seconds: int
    max_uses: int | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """One item as it will be stored, as policies see it, and its limits."""

    item: JsonObject
    facts: tuple[ItemFacts, ...]
    limits: Limits


def look_up(*, principal: Principal, ask: Ask, snapshot: Snapshot, at: datetime) -> list[Wanted]:
    """Every item of `ask`. Raises Invalid, Conflict or Forbidden, naming the item and what to do."""
    if not 1 <= ask.count <= MAX_ITEMS:
        raise Invalid("request.tools", f"Ask for 1 to {MAX_ITEMS} tools, calls, roles or privileges by name.")
    look = _Look(principal, snapshot, at)
    ensure_may_act(principal=principal, snapshot=snapshot, at=at)
    found = [look.tool(slug, name, ask.schema) for slug, name in sorted(set(ask.tools))]
    found += [look.call(call) for call in ask.calls]
    found += [look.role(name) for name in sorted(set(ask.roles))]
    found += [look.database(asked) for asked in ask.privileges]
    return found


def ensure_may_act(*, principal: Principal, snapshot: Snapshot, at: datetime) -> None:
    """Raise Forbidden for a principal that may do nothing at all now: for them there is nothing to ask for either."""
    assert principal.agent
    agent = snapshot.agents.get(principal.agent)
    if agent is None or not agent.enabled or not user_may_act(snapshot, agent, principal.user):
        raise _stopped("This agent is disabled, or may no longer act for this user.")
    owner = snapshot.users.get(agent.owner)
    if owner is None or not owner.active:
        raise _stopped("This agent's owner is not active.")
    lock = lock_on(snapshot, who=Who(principal.agent, principal.user), at=at)
    if lock:
        raise _stopped(f"Nothing can be asked for now: {lock}.")


def stored(items: Sequence[JsonObject], *, policy: str, snapshot: Snapshot) -> list[Wanted]:
    """Items as they were stored once, for deciding about them again. Raises Conflict when the policy is gone."""
    row = ApprovalPolicy.objects.filter(name=policy).first()
    if row is None:
        raise Conflict("policy.gone", f"The approval policy {visible(policy, limit=40)} is gone; file a new request.")
    limits = Limits(policy=row.pk, max_seconds=0, max_total_seconds=None, max_advance_seconds=0)
    return [Wanted(item, tuple(_stored_facts(item, snapshot)), limits) for item in items]


def _stored_facts(item: JsonObject, snapshot: Snapshot) -> Iterator[ItemFacts]:
    if item["kind"] == "role":
        yield ItemFacts(kind="role", role=str(item["role"]))
    elif item["kind"] == "database":
        objects, privileges = item["objects"], item["privileges"]
        assert isinstance(objects, list)
        assert isinstance(privileges, list)
        yield ItemFacts(
            kind="database",
            database=str(item["database"]),
            objects=tuple(map(str, objects)),
            privileges=tuple(map(str, privileges)),
        )
    else:
        tools: Any = item["tools"]
        server = snapshot.server_by_slug(str(item["server"]))
        for asked in tools:
            tool = server.tools.get(asked["name"]) if server else None
            labels = {**server.labels, **tool.labels} if server and tool else {}
            yield ItemFacts(
                kind=str(item["kind"]),
                server=str(item["server"]),
                tool=asked["name"],
                access=asked["access"],
                labels=labels,
                exact=item["kind"] == "call",
            )


def as_items(found: Sequence[Wanted]) -> list[Json]:
    """What is stored: tools of one server as one item, everything else by itself. In one order, each thing once."""
    by_server: dict[tuple[str, bytes], JsonObject] = {}
    others: dict[bytes, JsonObject] = {}
    for one in found:
        item = one.item
        if item["kind"] != "tools":
            others[canonical(item)] = item
            continue
        key = (str(item["server_id"]), canonical(item.get("arguments")))
        there = by_server.setdefault(key, {**item, "tools": []})
        tools, more = there["tools"], item["tools"]
        assert isinstance(tools, list)
        assert isinstance(more, list)
        tools += more
    return [*by_server.values(), *(others[key] for key in sorted(others))]


def requestable_roles(snapshot: Snapshot, agent: UUID) -> list[RoleFacts]:
    """The roles that this agent may ask for, by name."""
    facts = snapshot.agents.get(agent)
    if facts is None or not facts.enabled:
        return []
    team = snapshot.teams.get(facts.team, "")
    found = [
        role
        for role in snapshot.roles.values()
        if role.request and (role.request.teams is None or team in role.request.teams)
    ]
    return sorted(found, key=lambda role: role.name)


@dataclass(frozen=True, slots=True)
class _Look:
    principal: Principal
    snapshot: Snapshot
    at: datetime

    def tool(self, slug: str, name: str, schema: Mapping[str, Json] | None) -> Wanted:
        label = _label(slug, name)
        server, tool, limits, allows = self._found(slug, name, label, None)
        if allows == Mode.EXACT:
            raise Invalid(
                "request.exact_only", f"{label} may only be asked for as an exact call, with its arguments.", tool=label
            )
        if allows == Mode.SCHEMA and schema is None:
            raise Invalid(
                "request.schema_needed",
                f"{label} may only be asked for with a schema of its arguments, or as an exact call.",
                tool=label,
            )
        item: JsonObject = {"kind": "tools", **_named(server, tool)}
        if schema is not None:
            if len(canonical(dict(schema))) > MAX_SCHEMA:
                raise Invalid("request.schema", f"The schema may have {MAX_SCHEMA} bytes.")
            item["arguments"] = {"mode": "schema", "schema": dict(schema)}
            found = parse_constraint(item["arguments"]).schema
            if found and found.choices is None and not found.properties and not found.required and found.others is True:
                raise Invalid("request.schema", "The schema allows any arguments; say what they are.")
            ensure_kept(dict(schema), "The schema")
        return Wanted(item, (_facts(server, tool, exact=False),), limits)

    def call(self, asked: ExactCall) -> Wanted:
        label = _label(asked.server, asked.tool)
        value = dict(asked.arguments)
        if len(canonical(value)) > MAX_ARGUMENTS:
            raise Invalid(
                "request.arguments",
                f"The arguments of {label} are more than an approver can read ({MAX_ARGUMENTS} bytes at most).",
                tool=label,
            )
        ensure_kept(value, f"The arguments of {label}")
        server, tool, limits, _ = self._found(asked.server, asked.tool, label, value)
        exact = arguments_digest(value)
        item: JsonObject = {
            "kind": "call",
            **_named(server, tool),
            "arguments": {"mode": "exact", "digest": exact, "value": value},
        }
        return Wanted(item, (_facts(server, tool, exact=True),), limits)

    def role(self, name: str) -> Wanted:
        assert self.principal.agent
        found = next((one for one in requestable_roles(self.snapshot, self.principal.agent) if one.name == name), None)
        policy = ApprovalPolicy.objects.filter(name=found.request.approval).first() if found and found.request else None
        if found is None or found.request is None or policy is None:
            raise Invalid("request.unknown_role", f"role:{visible(name, limit=40)} is not something you can ask for.")
        item: JsonObject = {"kind": "role", "role": name, "role_id": str(found.id), "version": found.version}
        limits = Limits(
            policy=policy.pk,
            max_seconds=found.request.max_seconds,
            max_total_seconds=found.request.max_total,
            max_advance_seconds=found.request.max_advance,
        )
        return Wanted(item, (ItemFacts(kind="role", role=name),), limits)

    def database(self, asked: Privileges) -> Wanted:
        assert self.principal.agent
        objects, privileges = sorted(set(asked.objects)), sorted({one.lower() for one in asked.privileges})
        label = f"{visible(asked.database, limit=40)} ({', '.join(visible(one, limit=80) for one in objects[:3])})"
        if not objects or not privileges or len(objects) > MAX_ITEMS or not all(map(_OBJECT.fullmatch, objects)):
            raise Invalid(
                "request.privileges", f"Name 1 to {MAX_ITEMS} objects of {label}, and the privileges on them."
            )
        facts = self._database(asked.database, objects, privileges)
        who = Who(self.principal.agent, self.principal.user)
        if facts is None or against_privileges(
            self.snapshot, who=who, database=asked.database, objects=objects, privileges=privileges, at=self.at
        ):
            raise Invalid(
                "request.unknown_database", f"{label} is not something you can ask for with these privileges."
            )
        item: JsonObject = {
            "kind": "database",
            "database": asked.database,
            "objects": list[Json](objects),
            "privileges": list[Json](privileges),
        }
        shown = ItemFacts(
            kind="database", database=asked.database, objects=tuple(objects), privileges=tuple(privileges)
        )
        return Wanted(item, (shown,), _limits(facts))

    def _database(self, database: str, objects: list[str], privileges: list[str]) -> RequestableFacts | None:
        """By which all of these may be asked for together."""
        assert self.principal.agent
        agent = self.snapshot.agents.get(self.principal.agent)
        if agent is None or not agent.enabled:
            return None
        for one in self.snapshot.requestables:
            fits = one.database == database and one.team in (None, agent.team) and set(privileges) <= one.privileges
            if database and fits and all(one.objects.matches(name) for name in objects):
                return one
        return None

    def _found(
        self, slug: str, name: str, label: str, arguments: JsonObject | None
    ) -> tuple[ServerFacts, ToolFacts, Limits, str]:
        """What one tool is. A tool the caller may not know about answers like one that does not exist."""
        assert self.principal.agent
        server = self.snapshot.server_by_slug(slug)
        unknown = Invalid(
            "request.unknown_tool", f"{label} is not something you can ask for; see list_requestable.", tool=label
        )
        if server is None:
            raise unknown
        verdict = self._verdict(server.id, name, arguments)
        if verdict.allowed and (arguments is not None or self._with_any_arguments(verdict)):
            raise Conflict("request.already_allowed", f"{label} is allowed already; just call it.", tool=label)
        if verdict.code is Code.LOCKED_DOWN:
            raise _stopped(f"Nothing of {label} can be asked for now: {verdict.rule}.")
        if verdict.code is Code.QUARANTINED:
            raise Conflict("tool.quarantined", f"{label} awaits review by an admin and cannot be granted.", tool=label)
        requestable = verdict.requestable or (self._requestable(verdict) if verdict.allowed else None)
        if requestable is None or verdict.tool is None:
            raise unknown
        return server, verdict.tool, _limits(requestable), requestable.arguments

    def _with_any_arguments(self, verdict: Verdict) -> bool:
        """Whether what allows the tool does not depend on the arguments: then there is nothing more to ask for."""
        assert self.principal.agent
        who, server, tool = Who(self.principal.agent, self.principal.user), verdict.server, verdict.tool
        assert server
        assert tool
        for binding in bindings_of(self.snapshot, who):
            if binding.id in verdict.bindings:
                if binding.arguments is not None:
                    return False
                rules = [rule for rule in binding.role.allow if rule.about(server)] if binding.role else []
                if rules and not any(rule.plain and rule.covers(tool) for rule in rules):
                    return False
        return True

    def _requestable(self, verdict: Verdict) -> RequestableFacts | None:
        assert self.principal.agent
        assert verdict.server
        assert verdict.tool
        team = self.snapshot.agents[self.principal.agent].team
        for one in self.snapshot.requestables:
            if one.covers(server=verdict.server.id, team=team, tool=verdict.tool):
                return one
        return None

    def _verdict(self, server: UUID, tool: str, arguments: JsonObject | None) -> Verdict:
        assert self.principal.agent
        who = Who(self.principal.agent, self.principal.user)
        exact = arguments_digest(arguments) if arguments is not None else ""
        return decide(self.snapshot, who=who, server=server, tool=tool, at=self.at, arguments=arguments, digest=exact)


def ensure_kept(value: JsonObject, what: str) -> None:
    """Raise Invalid for what could not be read again as it is stored: 1e16 is written as too large an integer."""
    try:
        strictjson.decode(canonical(value))
    except Invalid as error:
        raise Invalid("request.arguments", f"{what} cannot be kept: {error.detail}") from error


def _stopped(why: str) -> Forbidden:
    return Forbidden("agent.disabled", why)


def _label(slug: str, name: str) -> str:
    return f"{visible(slug, limit=32)}/{visible(name, limit=128)}"


def _named(server: ServerFacts, tool: ToolFacts) -> JsonObject:
    return {
        "server": server.slug,
        "server_id": str(server.id),
        "tools": [{"id": str(tool.id), "name": tool.name, "pin": tool.pin, "access": tool.access}],
    }


def _facts(server: ServerFacts, tool: ToolFacts, *, exact: bool) -> ItemFacts:
    labels = {**server.labels, **tool.labels}
    return ItemFacts(
        kind="call" if exact else "tools", server=server.slug, tool=tool.name, access=tool.access, labels=labels,
        exact=exact,
    )  # fmt: skip


def _limits(facts: RequestableFacts) -> Limits:
    return Limits(
        policy=facts.policy,
        max_seconds=facts.max_seconds,
        max_total_seconds=facts.max_total,
        max_advance_seconds=facts.max_advance,
        max_uses=facts.max_uses,
    )

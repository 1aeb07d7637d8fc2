"""The one decision: may this principal call this tool at this instant, because of what, until when, and if not, why.

Rights of an agent alone: its default and standing bindings and its grants. Of an agent on behalf of a user: what both
have by default and standing bindings, and the grants to exactly this pair. Deny rules of either beat every allow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from uuid import UUID

from jitaccess.policy.engine.rules import (
    EVERY_AGENT,
    EVERY_USER,
    AgentFacts,
    BindingFacts,
    Origin,
    RequestableFacts,
    RoleRule,
    ServerFacts,
    Snapshot,
    Subject,
    ToolFacts,
)

END_OF_TIME = datetime.max.replace(tzinfo=UTC)
START_OF_TIME = datetime.min.replace(tzinfo=UTC)


class Code(StrEnum):
    """Why. All but ALLOWED are refusals; UNKNOWN is answered as if the tool did not exist."""

    ALLOWED = "allowed"
    UNKNOWN = "unknown"
    NO_BINDING = "no_binding"
    EXPIRED = "expired"
    REVOKED = "revoked"
    USED_UP = "used_up"
    QUARANTINED = "quarantined"
    LOCKED_DOWN = "locked_down"
    NOT_REQUESTABLE = "not_requestable"


@dataclass(frozen=True, slots=True)
class Who:
    """The identity half of a question: an agent, perhaps on behalf of a user."""

    agent: UUID
    user: UUID | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer. It holds while `since` <= time < `until`, at the snapshot's version.

    `bindings` are those that allow the call (two for an intersection); `rule` names what decided, for people.
    `counted` is the binding of which the call is one use, when its uses are counted.
    `requestable` is what could be asked for instead, when the tool may be asked for.
    """

    code: Code
    rule: str
    bindings: tuple[UUID, ...] = ()
    grant: UUID | None = None
    counted: UUID | None = None
    since: datetime = START_OF_TIME
    until: datetime = END_OF_TIME
    requestable: RequestableFacts | None = None
    tool: ToolFacts | None = None
    server: ServerFacts | None = None

    @property
    def allowed(self) -> bool:
        return self.code is Code.ALLOWED


@dataclass(frozen=True, slots=True)
class _Match:
    binding: BindingFacts
    rule: str


@dataclass(frozen=True, slots=True)
class _Rights:
    """What decides about one principal at one instant, in the order in which it counts: the ledger must name the same
    binding in every process. `grants` may be used now, `past` are all that there were.
    """

    agent: AgentFacts
    user: UUID | None
    agents_own: tuple[BindingFacts, ...]
    users_own: tuple[BindingFacts, ...]
    grants: tuple[BindingFacts, ...]
    past: tuple[BindingFacts, ...]
    denying: tuple[BindingFacts, ...]
    since: datetime
    until: datetime


# A binding with those of its rules that are about the server in question.
_Ruled = tuple[BindingFacts, tuple[RoleRule, ...]]


@dataclass(frozen=True, slots=True)
class _Here:
    """A principal's rights on one server."""

    rights: _Rights
    server: ServerFacts
    agents_own: tuple[_Ruled, ...]
    users_own: tuple[_Ruled, ...]
    grants: tuple[_Ruled, ...]
    denying: tuple[_Ruled, ...]
    requestables: tuple[RequestableFacts, ...]


def decide(snapshot: Snapshot, *, who: Who, server: UUID | None, tool: str, at: datetime) -> Verdict:
    """The verdict for one call. Pure: everything it depends on is in the arguments. `server` None: of no server."""
    here = _here(snapshot, who, server, at)
    if isinstance(here, Verdict):
        return here
    wanted = here.server.tools.get(tool)
    if wanted is None:
        return Verdict(Code.UNKNOWN, "no such tool", server=here.server)
    return _verdict(snapshot, here, wanted, at)


def decide_all(snapshot: Snapshot, *, who: Who, server: UUID, at: datetime) -> Iterator[tuple[ToolFacts, Verdict]]:
    """The verdict for each tool of a server, by name: what `decide` says, with what they have in common done once."""
    here = _here(snapshot, who, server, at)
    if isinstance(here, Verdict):
        return
    for name in sorted(here.server.tools):
        tool = here.server.tools[name]
        yield tool, _verdict(snapshot, here, tool, at)


def _here(snapshot: Snapshot, who: Who, server: UUID | None, at: datetime) -> _Here | Verdict:
    """What the decision about any tool of this server needs, or the verdict that is the same for all of them."""
    agent = snapshot.agents.get(who.agent)
    if agent is None or not agent.enabled or not _user_may_act(snapshot, agent, who.user):
        return Verdict(Code.LOCKED_DOWN, "the agent is disabled, or its user is not active or may no longer use it")
    facts = snapshot.servers.get(server) if server is not None else None
    if facts is None or not facts.enabled or not _server_open_to(snapshot, facts, agent, who.user):
        return Verdict(Code.UNKNOWN, "no such server for this principal")
    rights = _rights(snapshot, agent, who, at)
    return _Here(
        rights,
        facts,
        tuple(_allowing(binding, facts) for binding in rights.agents_own),
        tuple(_allowing(binding, facts) for binding in rights.users_own),
        tuple(_allowing(binding, facts) for binding in rights.grants),
        tuple((binding, _about(binding.role.deny, facts)) for binding in rights.denying if binding.role),
        tuple(one for one in snapshot.requestables if one.server == facts.id and one.team in (None, agent.team)),
    )


def _rights(snapshot: Snapshot, agent: AgentFacts, who: Who, at: datetime) -> _Rights:
    agents_own = _own(snapshot, Subject(agent=agent.id), EVERY_AGENT)
    users_own = _users_own(snapshot, who.user) if who.user else ()
    past = snapshot.bindings.get(Subject(agent=agent.id, user=who.user), ())
    since, until = _interval(snapshot, who, at)
    return _Rights(
        agent,
        who.user,
        _in_order(one for one in agents_own if one.origin is not Origin.GRANT and one.live(at)),
        _in_order(one for one in users_own if one.origin is not Origin.GRANT and one.live(at)),
        _in_order(one for one in past if one.origin is Origin.GRANT and one.live(at) and one.id not in snapshot.spent),
        past,
        tuple(one for one in (*agents_own, *users_own) if one.role is not None and one.role.deny and one.live(at)),
        since,
        until,
    )


def _in_order(bindings: Iterable[BindingFacts]) -> tuple[BindingFacts, ...]:
    """Those whose uses are counted come last: nothing is used up that another binding gives for nothing."""
    return tuple(sorted(bindings, key=lambda one: (one.max_uses is not None, one.starts_at, one.id)))


def _allowing(binding: BindingFacts, server: ServerFacts) -> _Ruled:
    return binding, _about(binding.role.allow, server) if binding.role else ()


def _about(rules: Iterable[RoleRule], server: ServerFacts) -> tuple[RoleRule, ...]:
    return tuple(rule for rule in rules if rule.servers.matches(server.slug))


def reachable(snapshot: Snapshot, *, who: Who, server: ServerFacts) -> bool:
    """Whether this principal may know that the server is there. A disabled agent may: it is told why it is refused."""
    agent = snapshot.agents.get(who.agent)
    if agent is None or not server.enabled or (who.user is not None and who.user not in snapshot.users):
        return False
    return _server_open_to(snapshot, server, agent, who.user)


def _verdict(snapshot: Snapshot, here: _Here, tool: ToolFacts, at: datetime) -> Verdict:
    one, rights = _weigh(snapshot, here, tool, at), here.rights
    # By hand: this is done for every tool of a list, and replace() takes four times as long.
    return Verdict(
        one.code, one.rule, one.bindings, one.grant, one.counted, rights.since, rights.until, one.requestable, tool,
        here.server,
    )  # fmt: skip


def _weigh(snapshot: Snapshot, here: _Here, tool: ToolFacts, at: datetime) -> Verdict:
    denied = _denied(here.denying, tool)
    if denied:
        return Verdict(Code.NOT_REQUESTABLE, denied)
    requestable = next((one for one in here.requestables if one.names(tool)), None)
    granted = _first(here.grants, tool)
    base = _first(here.agents_own, tool)
    if here.rights.user and base:
        theirs = _first(here.users_own, tool)
        matches: tuple[_Match, ...] = (base, theirs) if theirs else ()
    else:
        matches = (base,) if base else ()
    if tool.quarantined:
        # Known to this principal, so it is told; to anybody else the tool does not exist.
        known = granted or matches or requestable
        return Verdict(Code.QUARANTINED if known else Code.UNKNOWN, "the tool's definition awaits review by an admin")
    if matches:
        rule = " and ".join(match.rule for match in matches)
        return Verdict(Code.ALLOWED, rule, tuple(match.binding.id for match in matches))
    if granted:
        binding = granted.binding
        counted = binding.id if binding.max_uses is not None else None
        return Verdict(Code.ALLOWED, granted.rule, (binding.id,), binding.grant, counted)
    return _refusal(snapshot, here.rights.past, tool, at, requestable)


def _refusal(
    snapshot: Snapshot,
    grants: Iterable[BindingFacts],
    tool: ToolFacts,
    at: datetime,
    requestable: RequestableFacts | None,
) -> Verdict:
    if requestable is None:
        return Verdict(Code.UNKNOWN, "neither allowed nor requestable")
    past = [
        binding
        for binding in grants
        if tool.id in binding.tools
        and binding.starts_at <= at
        and (not binding.live(at) or binding.id in snapshot.spent)
    ]
    if not past:
        return Verdict(Code.NO_BINDING, "no live binding allows it", requestable=requestable)
    last = max(past, key=lambda binding: (binding.ended_at or binding.expires_at or at, binding.id))
    code = Code.USED_UP if last.id in snapshot.spent else Code.REVOKED if last.ended_at else Code.EXPIRED
    return Verdict(code, f"the grant {last.grant} has ended", grant=last.grant, requestable=requestable)


def _own(snapshot: Snapshot, *subjects: Subject) -> tuple[BindingFacts, ...]:
    return tuple(binding for subject in subjects for binding in snapshot.bindings.get(subject, ()))


def _users_own(snapshot: Snapshot, user: UUID) -> tuple[BindingFacts, ...]:
    teams = sorted(snapshot.users[user].teams)
    return _own(snapshot, Subject(user=user), *(Subject(team=team) for team in teams), EVERY_USER)


def _user_may_act(snapshot: Snapshot, agent: AgentFacts, user: UUID | None) -> bool:
    if user is None:
        return True
    facts = snapshot.users.get(user)
    return facts is not None and facts.active and (user == agent.owner or user in agent.users)


def _server_open_to(snapshot: Snapshot, server: ServerFacts, agent: AgentFacts, user: UUID | None) -> bool:
    if server.teams is None:
        return True
    return agent.team in server.teams and (user is None or not server.teams.isdisjoint(snapshot.users[user].teams))


def _denied(bindings: Iterable[_Ruled], tool: ToolFacts) -> str:
    for binding, rules in bindings:
        for rule in rules:
            if rule.covers(tool):
                assert binding.role
                return f"role {binding.role.name}@{binding.role.version}, deny rule {rule.number}"
    return ""


def _first(bindings: Iterable[_Ruled], tool: ToolFacts) -> _Match | None:
    """The first that allows the tool: by its pin, or by a rule."""
    for binding, rules in bindings:
        granted = binding.tools.get(tool.id)
        if granted is not None and granted.pin == tool.pin:
            return _Match(binding, f"grant {binding.grant}")
        for rule in rules:
            if rule.covers(tool):
                assert binding.role
                return _Match(binding, f"role {binding.role.name}@{binding.role.version}, allow rule {rule.number}")
    return None


def _interval(snapshot: Snapshot, who: Who, at: datetime) -> tuple[datetime, datetime]:
    """The span around `at` in which no binding of this principal starts or ends."""
    since, until = START_OF_TIME, END_OF_TIME
    for binding in bindings_of(snapshot, who):
        for edge in (binding.starts_at, binding.expires_at):
            if edge is None or binding.ended_at is not None:
                continue
            if edge <= at:
                since = max(since, edge)
            else:
                until = min(until, edge)
    return since, until


def bindings_of(snapshot: Snapshot, who: Who) -> tuple[BindingFacts, ...]:
    """Every binding that can matter to this principal, live or not."""
    subjects = [Subject(agent=who.agent), EVERY_AGENT]
    if who.user:
        subjects.append(Subject(agent=who.agent, user=who.user))
    users_own = _users_own(snapshot, who.user) if who.user and who.user in snapshot.users else ()
    return (*_own(snapshot, *subjects), *users_own)


def next_edge(snapshot: Snapshot, *, who: Who, at: datetime) -> datetime:
    """When the next binding of this principal starts or ends; END_OF_TIME if none does."""
    return _interval(snapshot, who, at)[1]


class Visibility(StrEnum):
    VISIBLE = "visible"
    LOCKED = "locked"
    HIDDEN = "hidden"


def visibility(verdict: Verdict) -> Visibility:
    """How a tool with this verdict is listed: the same decision that a call would get."""
    if verdict.allowed:
        return Visibility.VISIBLE
    return Visibility.LOCKED if verdict.requestable else Visibility.HIDDEN

"""The one decision: may this principal call this tool at this instant, because of what, until when, and if not, why.

Rights of an agent alone: its default and standing bindings and its grants. Of an agent on behalf of a user: what both
have by default and standing bindings, and the grants to exactly this pair. Deny rules of either beat every allow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
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


def decide(snapshot: Snapshot, *, who: Who, server: UUID | None, tool: str, at: datetime) -> Verdict:
    """The verdict for one call. Pure: everything it depends on is in the arguments. `server` None: of no server."""
    agent = snapshot.agents.get(who.agent)
    if agent is None or not agent.enabled or not _user_may_act(snapshot, agent, who.user):
        return Verdict(Code.LOCKED_DOWN, "the agent is disabled, or its user is not active or may no longer use it")
    facts = snapshot.servers.get(server) if server is not None else None
    if facts is None or not facts.enabled or not _server_open_to(snapshot, facts, agent, who.user):
        return Verdict(Code.UNKNOWN, "no such server for this principal")
    wanted = facts.tools.get(tool)
    if wanted is None:
        return Verdict(Code.UNKNOWN, "no such tool", server=facts)
    verdict = _weigh(snapshot, agent, who.user, facts, wanted, at)
    since, until = _interval(snapshot, who, at)
    return replace(verdict, since=since, until=until, tool=wanted, server=facts)


def reachable(snapshot: Snapshot, *, who: Who, server: ServerFacts) -> bool:
    """Whether this principal may know that the server is there. A disabled agent may: it is told why it is refused."""
    agent = snapshot.agents.get(who.agent)
    if agent is None or not server.enabled or (who.user is not None and who.user not in snapshot.users):
        return False
    return _server_open_to(snapshot, server, agent, who.user)


def _weigh(
    snapshot: Snapshot, agent: AgentFacts, user: UUID | None, server: ServerFacts, tool: ToolFacts, at: datetime
) -> Verdict:
    agents_own = _own(snapshot, Subject(agent=agent.id), EVERY_AGENT)
    users_own = _users_own(snapshot, user) if user else ()
    for binding in (*agents_own, *users_own):
        denied = _denies(binding, server, tool, at)
        if denied:
            return Verdict(Code.NOT_REQUESTABLE, denied)
    requestable = next(
        (r for r in snapshot.requestables if r.covers(server=server.id, team=agent.team, tool=tool)), None
    )
    grants = snapshot.bindings.get(Subject(agent=agent.id, user=user), ())
    usable = [binding for binding in grants if binding.id not in snapshot.spent]
    granted = _first_allowing(usable, server, tool, at, grants=True)
    base = _first_allowing(agents_own, server, tool, at, grants=False)
    if user and base:
        theirs = _first_allowing(users_own, server, tool, at, grants=False)
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
    return _refusal(snapshot, grants, tool, at, requestable)


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


def _denies(binding: BindingFacts, server: ServerFacts, tool: ToolFacts, at: datetime) -> str:
    if binding.role is None or not binding.live(at):
        return ""
    for rule in binding.role.deny:
        if rule.matches(server_slug=server.slug, tool=tool):
            return f"role {binding.role.name}@{binding.role.version}, deny rule {rule.number}"
    return ""


def _first_allowing(
    bindings: Iterable[BindingFacts], server: ServerFacts, tool: ToolFacts, at: datetime, *, grants: bool
) -> _Match | None:
    """The binding that allows, by a fixed order (start, id), so that the ledger names the same one in every process.

    Those whose uses are counted come last: nothing is used up that another binding gives for nothing.
    """
    for binding in sorted(bindings, key=lambda b: (b.max_uses is not None, b.starts_at, b.id)):
        if (binding.origin is Origin.GRANT) is not grants or not binding.live(at):
            continue
        granted = binding.tools.get(tool.id)
        if granted is not None and granted.pin == tool.pin:
            return _Match(binding, f"grant {binding.grant}")
        for rule in binding.role.allow if binding.role else ():
            if rule.matches(server_slug=server.slug, tool=tool):
                return _Match(binding, f"role {binding.role.name}@{binding.role.version}, allow rule {rule.number}")  # type: ignore[union-attr]  # the loop is empty without a role
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

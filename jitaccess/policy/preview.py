"""What a change of policy would do, before it is saved: for whom, of which tools, and to which calls there were.

Read, compared, and nothing written. Not inside a transaction that writes: policy is looked at as it is now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.audit.search import between
from jitaccess.kernel.durations import format_duration
from jitaccess.policy.engine.certain import certain
from jitaccess.policy.engine.decide import Who, decide
from jitaccess.policy.engine.rights import START_OF_TIME
from jitaccess.policy.engine.rules import (
    EVERY_AGENT,
    EVERY_USER,
    AgentFacts,
    BindingFacts,
    Origin,
    RequestableFacts,
    RoleFacts,
    Snapshot,
    Subject,
)
from jitaccess.policy.engine.trial import Change, changes, with_rules
from jitaccess.policy.engine.trial import said as rule_of
from jitaccess.policy.lockouts import allows_nothing
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store.clock import now

STORE = SnapshotStore()
# So many calls are tried again, of so long.
LATEST = 2000
BACK = timedelta(days=7)
# So much of each is shown; the rest is counted.
SHOWN = 50
_EVERYBODY = {EVERY_AGENT: "every agent", EVERY_USER: "every user"}
_HELD = "as far as it is held"


@dataclass(frozen=True, slots=True)
class CallChange:
    """Calls that there were, of one principal and tool: `count`, the last at `last`, and what they would get."""

    agent: str
    user: str
    server: str
    tool: str
    count: int
    last: datetime
    outcome: str
    allowed: bool


@dataclass(frozen=True, slots=True)
class Impact:
    """`agents`: whom it is about. `tools`: of which something else is said. `asking`: how it may be asked for, before
    and after, when that changes. `looked_at`: so many calls were tried again; `cut`: there were more in that time.
    `refusals`: why it may not be saved at all.
    """

    agents: tuple[str, ...]
    tools: tuple[Change, ...]
    calls: tuple[CallChange, ...] = ()
    looked_at: int = 0
    cut: bool = False
    asking: tuple[str, str] | None = None
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def stable(self) -> list[object]:
        """What must be the same when it is saved. Calls go on meanwhile, so they are no part of it."""
        tools = [[one.server, one.tool, one.before, one.after] for one in self.tools]
        return [list(self.agents), tools, list(self.asking or ()), list(self.warnings)]


def of_role(document: RoleFacts, before: RoleFacts | None) -> Impact:
    """A role with other rules, for everybody who has it; `before` None: a new one, which nobody has."""
    snapshot, at = STORE.look()
    after = _asked_for(with_rules(snapshot, document), before, document)
    holders = _holders(snapshot, document.name)
    said = tuple(changes(snapshot, before, document))
    asking = _asking(before), _asking(document)
    found = _impact(snapshot, after, at, holders, said, asking if asking[0] != asking[1] else None)
    return replace(found, refusals=_nothing_left(snapshot, document, before))


def of_binding(role: RoleFacts, subject: Subject, *, ceiling: bool = False) -> Impact:
    """Somebody with one role more, or under one ceiling more, from now on."""
    snapshot, at = STORE.look()
    origin = Origin.CEILING if ceiling else Origin.STANDING
    one = BindingFacts(UUID(int=0), origin, role, {}, START_OF_TIME, None, None)
    bindings = {**snapshot.bindings, subject: (*snapshot.bindings.get(subject, ()), one)}
    after = replace(snapshot, bindings=bindings, places={**snapshot.places, one.id: subject}, memo={})
    agents = _agents_of(snapshot, subject)
    if not ceiling:
        return _impact(snapshot, after, at, agents, tuple(changes(snapshot, None, role)))
    found = _impact(snapshot, after, at, agents, tuple(_beyond(snapshot, role, (_HELD, "beyond it, so refused"))))
    if role.allow or subject not in _EVERYBODY:
        return found
    return replace(found, refusals=(f"This is a ceiling, and {allows_nothing(_EVERYBODY[subject])}",))


def of_end(ids: Collection[UUID]) -> Impact:
    """Bindings that end now: roles that nobody has by them any more, ceilings that hold nobody back. Granted ones are
    not ended so.
    """
    snapshot, at = STORE.look()
    ending = {
        place: [one for one in held if one.id in ids and not one.granted and one.ended_at is None]
        for place, held in snapshot.bindings.items()
    }
    bindings = {
        place: tuple(one for one in held if one not in ending[place]) for place, held in snapshot.bindings.items()
    }
    agents = {one.id: one for place, some in ending.items() if some for one in _agents_of(snapshot, place)}
    said: dict[Change, None] = {}
    for one in (one for some in ending.values() for one in some if one.role):
        assert one.role
        if one.origin is Origin.CEILING:
            found = _beyond(snapshot, one.role, ("beyond a ceiling, so refused", _HELD))
        else:
            found = changes(snapshot, one.role, None)
        said |= dict.fromkeys(found)
    return _impact(snapshot, replace(snapshot, bindings=bindings, memo={}), at, agents.values(), tuple(said))


def of_access(server: UUID, teams: frozenset[UUID] | None) -> Impact:
    """A server for these teams (None: every team)."""
    snapshot, at = STORE.look()
    found = snapshot.servers.get(server)
    if found is None:
        return Impact((), ())
    servers = {**snapshot.servers, server: replace(found, teams=teams)}
    after = replace(snapshot, servers=servers, memo={})
    agents = [one for one in snapshot.agents.values() if _open(found.teams, one) != _open(teams, one)]
    words = {True: "open", False: "closed"}
    said = tuple(
        Change(found.slug, f"for the agents of {name}", words[_has(found.teams, team)], words[_has(teams, team)])
        for team, name in sorted(snapshot.teams.items(), key=lambda pair: pair[1])
        if _has(found.teams, team) != _has(teams, team)
    )
    before_open = any(one.enabled and one.teams != frozenset() for one in snapshot.servers.values())
    after_open = any(one.enabled and one.teams != frozenset() for one in servers.values())
    closed = ("No server would be open to anybody any more. To stop everything, use a lock: that can be lifted.",)
    return _impact(snapshot, after, at, agents, said, None, closed if before_open and not after_open else ())


def of_requestable(after: RequestableFacts, before: RequestableFacts | None) -> Impact:
    """What may be asked for: no call is decided by it, so none is tried again."""
    snapshot, _ = STORE.look()
    rows = dict[tuple[str, str], list[str]]()
    for place, one in enumerate((before, after)):
        server = snapshot.servers.get(one.server) if one and one.server else None
        for tool in server.tools.values() if one and server else ():
            if one and server and one.names(tool):
                rows.setdefault((server.slug, tool.name), ["not by this row"] * 2)[place] = _terms(snapshot, one)
        if one and one.database:
            what = ", ".join(sorted(one.privileges))
            rows.setdefault((one.database, what), ["not by this row"] * 2)[place] = _terms(snapshot, one)
    said = tuple(Change(*what, *terms) for what, terms in sorted(rows.items()) if terms[0] != terms[1])
    teams = {one.team for one in (before, after) if one}
    agents = [one for one in snapshot.agents.values() if None in teams or one.team in teams]
    return Impact(_names(agents), said)


def _impact(
    before: Snapshot,
    after: Snapshot,
    at: datetime,
    agents: Iterable[AgentFacts],
    said: tuple[Change, ...],
    asking: tuple[str, str] | None = None,
    warnings: tuple[str, ...] = (),
) -> Impact:
    calls, looked_at, cut = _replayed(replace(before, memo={}), replace(after, memo={}), at)
    return Impact(_names(agents), said, calls, looked_at, cut, asking, warnings)


@dataclass(frozen=True, slots=True)
class _Call:
    who: Who
    server: UUID
    tool: str


def _replayed(before: Snapshot, after: Snapshot, at: datetime) -> tuple[tuple[CallChange, ...], int, bool]:
    """The latest calls, as they would be decided now and then. Their arguments are not kept whole on record: each is
    tried with whatever arguments would do, and as one that has any.
    """
    found: dict[_Call, list[datetime]] = {}
    names: dict[_Call, tuple[str, str, str]] = {}
    looked_at, cut = 0, False
    for event in (Event.CALL_AUTHORIZED, Event.CALL_DENIED):
        rows = list(_latest(event))
        looked_at, cut = looked_at + min(len(rows), LATEST), cut or len(rows) > LATEST
        for moment, agent, user, server, tool, *said in rows[:LATEST]:
            if agent and server:
                call = _Call(Who(agent, user), server, tool)
                found.setdefault(call, []).append(moment)
                names.setdefault(call, (said[0], said[1], said[2]))
    told = []
    sure: dict[Who, tuple[Snapshot, Snapshot]] = {}
    for call, moments in found.items():
        outcome = _outcome(before, after, call, at, sure)
        if outcome:
            agent_name, user_name, slug = names[call]
            allowed = outcome.startswith("allowed")
            told.append(
                CallChange(agent_name, user_name, slug, call.tool, len(moments), max(moments), outcome, allowed)
            )
    told.sort(key=lambda one: (one.allowed, -one.count, one.agent, one.server, one.tool))
    return tuple(told), looked_at, cut


def _latest(event: Event) -> Iterable[tuple[datetime, UUID | None, UUID | None, UUID | None, str, str, str, str]]:
    rows = Entry.objects.filter(between(now() - BACK, None), event=event).order_by("-uid")
    return rows.values_list("at", "agent", "user", "server", "tool", "agent_name", "user_name", "server_name")[
        : LATEST + 1
    ]


def _outcome(
    before: Snapshot, after: Snapshot, call: _Call, at: datetime, sure: dict[Who, tuple[Snapshot, Snapshot]]
) -> str:
    """What these calls would get then; nothing when that stays as it is."""
    was, becomes = (decide(one, who=call.who, server=call.server, tool=call.tool, at=at) for one in (before, after))
    if was.allowed != becomes.allowed:
        return "allowed" if becomes.allowed else f"refused: {becomes.rule}"
    if not was.allowed:
        return ""
    if call.who not in sure:
        sure[call.who] = certain(before, call.who), certain(after, call.who)
    any_was, any_becomes = (
        decide(one, who=call.who, server=call.server, tool=call.tool, at=at).allowed for one in sure[call.who]
    )
    if any_was == any_becomes:
        return ""
    return "allowed with any arguments" if any_becomes else "refused with some arguments, or at some times"


def _holders(snapshot: Snapshot, role: str) -> list[AgentFacts]:
    subjects = [
        subject
        for subject, held in snapshot.bindings.items()
        if any(one.role and one.role.name == role and one.ended_at is None for one in held)
    ]
    found = {one.id: one for subject in subjects for one in _agents_of(snapshot, subject)}
    return list(found.values())


def _agents_of(snapshot: Snapshot, subject: Subject) -> list[AgentFacts]:
    """Those whose calls it can matter to: what a user has, matters to the agents that act for them."""
    agents = snapshot.agents.values()
    if subject in (EVERY_AGENT, EVERY_USER):
        return list(agents)
    if subject.agent:
        return [snapshot.agents[subject.agent]] if subject.agent in snapshot.agents else []
    users = {one.id for one in snapshot.users.values() if one.id == subject.user or subject.team in one.teams}
    return [one for one in agents if users & {one.owner, *one.users}]


def _names(agents: Iterable[AgentFacts]) -> tuple[str, ...]:
    return tuple(sorted(one.name for one in agents if one.enabled))


def _beyond(snapshot: Snapshot, role: RoleFacts, words: tuple[str, str]) -> Iterator[Change]:
    """The tools that a ceiling of this role leaves out, with what is said of them before and after."""
    for server in sorted(snapshot.servers.values(), key=lambda one: one.slug):
        for tool in sorted(server.tools):
            if not rule_of(role, server, server.tools[tool]).startswith("allowed"):
                yield Change(server.slug, tool, *words)


def _asked_for(snapshot: Snapshot, before: RoleFacts | None, after: RoleFacts) -> Snapshot:
    roles: Mapping[UUID, RoleFacts] = snapshot.roles
    if before and before.id:
        known = {key: one for key, one in roles.items() if key != before.id}
        roles = {**known, before.id: replace(after, id=before.id)} if after.request else known
    return replace(snapshot, roles=roles, memo={})


def _asking(role: RoleFacts | None) -> str:
    if role is None or role.request is None:
        return "it cannot be asked for"
    asked = role.request
    teams = "every team" if asked.teams is None else ", ".join(asked.teams)
    return f"agents of {teams}, for at most {format_duration(asked.max_seconds)}, approval policy {asked.approval}"


def _terms(snapshot: Snapshot, one: RequestableFacts) -> str:
    team = f"team {snapshot.teams.get(one.team, '?')}" if one.team else "every team"
    uses = f", {one.max_uses} calls" if one.max_uses else ""
    arguments = {"any": "", "schema": ", with arguments of a schema", "exact": ", exact calls only"}[one.arguments]
    return f"{team}, at most {format_duration(one.max_seconds)}{uses}{arguments}"


def _nothing_left(snapshot: Snapshot, role: RoleFacts, before: RoleFacts | None) -> tuple[str, ...]:
    """What was so before is not refused."""
    if role.allow or before is None or not before.allow:
        return ()
    return tuple(
        f"This is a ceiling, and {allows_nothing(everybody)}"
        for place, everybody in _EVERYBODY.items()
        if any(
            one.ended_at is None and one.origin is Origin.CEILING and one.role and one.role.name == role.name
            for one in snapshot.bindings.get(place, ())
        )
    )


def _has(teams: frozenset[UUID] | None, team: UUID) -> bool:
    return teams is None or team in teams


def _open(teams: frozenset[UUID] | None, agent: AgentFacts) -> bool:
    return _has(teams, agent.team)

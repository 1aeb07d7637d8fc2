"""What a principal has on one server: worked out once, and good until something that it is made of changes.

Every change of policy makes another Snapshot, and most changes concern few. So what was worked out is kept with the
facts it was made of, and is good for every Snapshot that holds the very same ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from operator import is_
from uuid import UUID

from jitaccess.policy.engine.rights import (
    TIMED_LIST,
    Rights,
    Ruled,
    Who,
    about,
    allowing,
    denying,
    interval,
    lock_on,
    lock_on_server,
    rights,
    server_open_to,
    subjects_of,
    timed,
    user_may_act,
)
from jitaccess.policy.engine.rules import (
    AgentFacts,
    BindingFacts,
    RequestableFacts,
    RoleFacts,
    RoleRule,
    ServerFacts,
    Snapshot,
    Subject,
    UserFacts,
)
from jitaccess.policy.engine.verdict import Code, Verdict

# About a kilobyte each; all are forgotten when there are more, and worked out again.
MAX_KEPT = 16_384
MAX_SETTLED = 16


@dataclass(frozen=True, slots=True)
class Askable:
    """What agents of one team may ask for on a server: tools, and roles by name with their rules about it."""

    requestables: tuple[RequestableFacts, ...]
    roles: tuple[tuple[str, tuple[RoleRule, ...]], ...]


@dataclass(slots=True)
class Standing:
    """A principal's rights on one server, whatever it asks there. Read by many threads; only ever added to.

    `settled` are verdicts by tool that hold for any arguments, `listed` are the tools it sees and the grants
    that give it some, as listing knows them.
    """

    agent: AgentFacts
    user: UserFacts | None
    server: ServerFacts
    rights: Rights
    agents_own: tuple[Ruled, ...]
    users_own: tuple[Ruled, ...]
    grants: tuple[Ruled, ...]
    ceilings: tuple[Ruled, ...]
    denying: tuple[tuple[RoleFacts, tuple[RoleRule, ...]], ...]
    askable: Askable
    settled: dict[str, Verdict] = field(default_factory=dict)
    listed: tuple[int, int, tuple[UUID, ...]] | None = None

    def settle(self, tool: str, verdict: Verdict) -> None:
        if len(self.settled) >= MAX_SETTLED:
            self.settled.clear()
        self.settled[tool] = verdict


@dataclass(slots=True)
class Kept:
    """A Standing, or the verdict that is the same for everything there: good from `since` until `until` wherever
    policy holds these `parts`. `seen` names the Snapshot for which that was last found true.
    """

    has: Standing | Verdict
    parts: tuple[object, ...]
    since: datetime
    until: datetime
    timed: bool
    seen: object


def stand(snapshot: Snapshot, *, who: Who, server: UUID | None, at: datetime) -> Standing | Verdict:
    """What decides about anything of this server, or the verdict that is the same for all of it."""
    return _kept(snapshot, who, server, at).has


def next_edge(snapshot: Snapshot, *, who: Who, at: datetime) -> datetime:
    """When to look again at what this principal sees, for it may change by itself; END_OF_TIME if never."""
    kept = _kept(snapshot, who, None, at)
    return min(kept.until, at + TIMED_LIST) if kept.timed else kept.until


def _kept(snapshot: Snapshot, who: Who, server: UUID | None, at: datetime) -> Kept:
    # Numbers, because a UUID is hashed and compared in Python.
    key = (who.agent.int, who.user.int if who.user else -1, server.int if server else -1)
    kept: Kept | None = snapshot.memo.get(key)
    if kept is not None and kept.since <= at < kept.until:
        if kept.seen is snapshot.identity:
            return kept
        parts = parts_of(snapshot, who, server)
        if len(parts) == len(kept.parts) and all(map(is_, parts, kept.parts)):
            kept.seen = snapshot.identity
            return kept
    since, until = interval(snapshot, who, at)
    has = _stand(snapshot, who, server, at)
    kept = Kept(has, parts_of(snapshot, who, server), since, until, timed(snapshot, who, at), snapshot.identity)
    if len(snapshot.memo) >= MAX_KEPT:
        snapshot.memo.clear()
    snapshot.memo[key] = kept
    return kept


def parts_of(snapshot: Snapshot, who: Who, server: UUID | None) -> tuple[object, ...]:
    """All that `_stand`, the decisions made from it and its interval look at; equal ones are the same ones."""
    agent = snapshot.agents.get(who.agent)
    spent: tuple[UUID, ...] = ()
    if snapshot.spent:
        own = snapshot.bindings.get(Subject(agent=who.agent, user=who.user), ())
        spent = tuple(one.id for one in own if one.id in snapshot.spent)  # made anew is not the same, unless empty
    return (
        agent,
        snapshot.users.get(agent.owner) if agent else None,
        snapshot.users.get(who.user) if who.user else None,
        snapshot.servers.get(server) if server else None,
        snapshot.locks,
        snapshot.requestables,
        snapshot.roles,
        snapshot.teams,
        spent,
        *(snapshot.bindings.get(subject, ()) for subject in subjects_of(snapshot, who)),
    )


def _stand(snapshot: Snapshot, who: Who, server: UUID | None, at: datetime) -> Standing | Verdict:
    agent = snapshot.agents.get(who.agent)
    if agent is None or not agent.enabled or not user_may_act(snapshot, agent, who.user):
        return Verdict(Code.LOCKED_DOWN, "the agent is disabled, or its user is not active or may no longer use it")
    owner = snapshot.users.get(agent.owner)
    if owner is None or not owner.active:
        return Verdict(Code.LOCKED_DOWN, "the agent's owner is not active")
    if lock := lock_on(snapshot, who=who, at=at):
        return Verdict(Code.LOCKED_DOWN, str(lock))
    facts = snapshot.servers.get(server) if server is not None else None
    if facts is None or not facts.enabled or not server_open_to(snapshot, facts, agent, who.user):
        return Verdict(Code.UNKNOWN, "no such server for this principal")
    if lock := lock_on_server(snapshot, server=facts.id, at=at):
        return Verdict(Code.LOCKED_DOWN, str(lock), server=facts)
    has = rights(snapshot, agent, who, at)
    for ceiling in has.ceilings:
        if lock := has.stopped.get(ceiling.id):
            return Verdict(Code.LOCKED_DOWN, str(lock), server=facts)
    return Standing(
        agent,
        snapshot.users[who.user] if who.user else None,
        facts,
        has,
        ruled_by(has.agents_own, facts, has.stopped),
        ruled_by(has.users_own, facts, has.stopped),
        ruled_by(has.grants, facts, has.stopped),
        ruled_by(has.ceilings, facts, {}),
        tuple(pair for one in has.denying for pair in denying(one, facts)),
        _askable(snapshot, facts, agent),
    )


def ruled_by(bindings: Iterable[BindingFacts], server: ServerFacts, but: Collection[UUID]) -> tuple[Ruled, ...]:
    """What each of the bindings allows there, those in `but` aside."""
    return tuple(allowing(one, server) for one in bindings if one.id not in but)


def _askable(snapshot: Snapshot, server: ServerFacts, agent: AgentFacts) -> Askable:
    made_of, key = (snapshot.requestables, snapshot.roles, snapshot.teams), ("askable", agent.team)
    known = server.memo.get(key)
    if known is None or not all(map(is_, known[0], made_of)):
        team = snapshot.teams.get(agent.team, "")
        found = Askable(
            tuple(one for one in snapshot.requestables if one.server == server.id and one.team in (None, agent.team)),
            tuple(
                (role.name, about(role.allow, server))
                for role in snapshot.roles.values()
                if role.request and (role.request.teams is None or team in role.request.teams)
            ),
        )
        known = server.memo[key] = (made_of, found)
    askable: Askable = known[1]
    return askable

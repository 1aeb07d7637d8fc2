"""What decides about one principal at one instant: bindings, ceilings and locks, and until when that stays so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from jitaccess.policy.engine.rules import (
    EVERY_AGENT,
    EVERY_USER,
    AgentFacts,
    BindingFacts,
    LockFacts,
    LockKind,
    Origin,
    RoleFacts,
    RoleRule,
    ServerFacts,
    Snapshot,
    Subject,
)

END_OF_TIME = datetime.max.replace(tzinfo=UTC)
START_OF_TIME = datetime.min.replace(tzinfo=UTC)
# A condition about the time may change its answer at any instant. A call is never held longer than this; a list may
# be late by so much, because all that listen would have to be looked at again.
TIMED, TIMED_LIST = timedelta(seconds=1), timedelta(seconds=10)
# What is known about a server by old versions of roles is forgotten at some time.
MAX_MEMO = 20_000


class Who(msgspec.Struct, frozen=True):
    """The identity half of a question: an agent, perhaps on behalf of a user."""

    agent: UUID
    user: UUID | None = None


@dataclass(frozen=True, slots=True)
class Rights:
    """In the order in which they count: the ledger must name the same binding in every process. `grants` may be used
    now, `past` are all that there were. Those in `stopped` allow nothing, for their role or grant is locked; what they
    deny stays denied. All that from `since` until `until`; with `timed` there is a condition about the time besides.
    """

    agents_own: tuple[BindingFacts, ...]
    users_own: tuple[BindingFacts, ...]
    grants: tuple[BindingFacts, ...]
    past: tuple[BindingFacts, ...]
    denying: tuple[BindingFacts, ...]
    ceilings: tuple[BindingFacts, ...]
    stopped: Mapping[UUID, LockFacts]
    since: datetime
    until: datetime
    timed: bool

    def holds(self, at: datetime) -> tuple[datetime, datetime]:
        """The span around `at` in which a decision stays what it is."""
        return (at, min(self.until, at + TIMED)) if self.timed else (self.since, self.until)


def rights(snapshot: Snapshot, agent: AgentFacts, who: Who, at: datetime) -> Rights:
    """All that this principal has. The user is known to be there."""
    agents_own = _own(snapshot, Subject(agent=agent.id), EVERY_AGENT)
    users_own = _users_own(snapshot, who.user) if who.user else ()
    past = snapshot.bindings.get(Subject(agent=agent.id, user=who.user), ())
    live = [one for one in (*agents_own, *users_own, *(past if who.user else ())) if one.live(at)]
    mine = {one.id for one in past if one.granted}
    since, until = interval(snapshot, who, at)
    return Rights(
        _in_order(one for one in agents_own if _is_right(one, at)),
        _in_order(one for one in users_own if _is_right(one, at)),
        _in_order(one for one in past if one.granted and one.live(at) and one.id not in snapshot.spent),
        past,
        # Grants to the agent alone count only where it acts alone, and so does what their roles deny.
        tuple(one for one in live if _denies(one) and (not one.granted or one.id in mine)),
        tuple(one for one in live if one.origin is Origin.CEILING),
        _stopped(snapshot, live, at),
        since,
        until,
        timed(snapshot, who, at),
    )


def _denies(binding: BindingFacts) -> bool:
    return any(role is not None and role.deny for role in (binding.role, binding.pinned))


def _is_right(binding: BindingFacts, at: datetime) -> bool:
    return not binding.granted and binding.origin is not Origin.CEILING and binding.live(at)


def _stopped(snapshot: Snapshot, bindings: Iterable[BindingFacts], at: datetime) -> dict[UUID, LockFacts]:
    """The bindings whose role or grant is locked, and by what."""
    if not snapshot.locks:
        return {}
    roles = {lock.target: lock for lock in snapshot.locks if lock.kind is LockKind.ROLE and lock.live(at)}
    grants = {lock.target: lock for lock in snapshot.locks if lock.kind is LockKind.GRANT and lock.live(at)}
    found = {}
    for one in bindings:
        lock = (roles.get(one.role.id) if one.role and one.role.id else None) or (
            grants.get(one.grant) if one.grant else None
        )
        if lock:
            found[one.id] = lock
    return found


def _in_order(bindings: Iterable[BindingFacts]) -> tuple[BindingFacts, ...]:
    """Those whose uses are counted come last: nothing is used up that another binding gives for nothing. Of those, what
    is good for certain arguments only comes first: it is good for nothing else.
    """
    return tuple(
        sorted(bindings, key=lambda one: (one.max_uses is not None, one.arguments is None, one.starts_at, one.id))
    )


@dataclass(frozen=True, slots=True)
class Ruled:
    """A binding with those of its allow rules that are about one server; for a granted role, of both its versions."""

    binding: BindingFacts
    rules: tuple[RoleRule, ...]
    pinned: tuple[RoleRule, ...] | None = None


def allowing(binding: BindingFacts, server: ServerFacts) -> Ruled:
    """What a binding allows there. A granted role whose approved version is not known gives nothing."""
    rules = about(binding.role.allow, server) if binding.role else ()
    if not binding.granted or binding.role is None:
        return Ruled(binding, rules)
    return Ruled(binding, rules, about(binding.pinned.allow, server) if binding.pinned else ())


def denying(binding: BindingFacts, server: ServerFacts) -> list[tuple[RoleFacts, tuple[RoleRule, ...]]]:
    """What a binding denies there: in the version that was approved too."""
    roles = [role for role in (binding.role, binding.pinned) if role is not None]
    return [(role, rules) for role in roles if (rules := about(role.deny, server))]


def about(rules: tuple[RoleRule, ...], server: ServerFacts) -> tuple[RoleRule, ...]:
    """Those of a role's rules that are about this server."""
    found: tuple[object, tuple[RoleRule, ...]] | None = server.memo.get(id(rules))
    if found is None:
        if len(server.memo) > MAX_MEMO:
            server.memo.clear()
        # With the rules themselves: nothing else may get their id meanwhile.
        found = server.memo[id(rules)] = (rules, tuple(rule for rule in rules if rule.about(server)))
    return found[1]


def lock_on(snapshot: Snapshot, *, who: Who, at: datetime) -> LockFacts | None:
    """The lock that stops this principal altogether. One on a user stops the agents that he owns, too."""
    if not snapshot.locks:
        return None
    agent = snapshot.agents.get(who.agent)
    people = {who.user, agent.owner if agent else None} - {None}
    for lock in snapshot.locks:
        if lock.live(at) and (
            lock.kind is LockKind.EVERYTHING
            or (lock.kind is LockKind.AGENT and lock.target == who.agent)
            or (lock.kind is LockKind.USER and lock.target in people)
        ):
            return lock
    return None


def lock_on_server(snapshot: Snapshot, *, server: UUID, at: datetime) -> LockFacts | None:
    """The lock that stops everything on this server."""
    live = (lock for lock in snapshot.locks if lock.kind is LockKind.SERVER and lock.live(at))
    return next((lock for lock in live if lock.target == server), None)


def user_may_act(snapshot: Snapshot, agent: AgentFacts, user: UUID | None) -> bool:
    """Whether this user is there, active and may use the agent; without one, yes."""
    if user is None:
        return True
    facts = snapshot.users.get(user)
    return facts is not None and facts.active and (user == agent.owner or user in agent.users)


def server_open_to(snapshot: Snapshot, server: ServerFacts, agent: AgentFacts, user: UUID | None) -> bool:
    """Whether the agent's team, and one of the user's, may use the server."""
    if server.teams is None:
        return True
    return agent.team in server.teams and (user is None or not server.teams.isdisjoint(snapshot.users[user].teams))


def reachable(snapshot: Snapshot, *, who: Who, server: ServerFacts) -> bool:
    """Whether this principal may know that the server is there. A disabled agent may: it is told why it is refused."""
    agent = snapshot.agents.get(who.agent)
    if agent is None or not server.enabled or (who.user is not None and who.user not in snapshot.users):
        return False
    return server_open_to(snapshot, server, agent, who.user)


def interval(snapshot: Snapshot, who: Who, at: datetime) -> tuple[datetime, datetime]:
    """The span around `at` in which no binding of this principal starts or ends, and no lock ends."""
    since, until = START_OF_TIME, END_OF_TIME
    bindings = bindings_of(snapshot, who)
    edges = [edge for one in bindings if one.ended_at is None for edge in (one.starts_at, one.expires_at)]
    for edge in (*edges, *(lock.expires_at for lock in snapshot.locks)):
        if edge is None:
            continue
        if edge <= at:
            since = max(since, edge)
        else:
            until = min(until, edge)
    return since, until


def timed(snapshot: Snapshot, who: Who, at: datetime) -> bool:
    """Whether one of its live roles has a condition about the time."""
    live = (one for one in bindings_of(snapshot, who) if one.live(at))
    return any(role is not None and role.timed for one in live for role in (one.role, one.pinned))


def bindings_of(snapshot: Snapshot, who: Who) -> tuple[BindingFacts, ...]:
    """Every binding that can matter to this principal, live or not."""
    return _own(snapshot, *subjects_of(snapshot, who))


def subjects_of(snapshot: Snapshot, who: Who) -> tuple[Subject, ...]:
    """Whose bindings can matter to this principal."""
    mine = (Subject(agent=who.agent), EVERY_AGENT)
    if not who.user:
        return mine
    users = _subjects_of_user(snapshot, who.user) if who.user in snapshot.users else ()
    return (*mine, Subject(agent=who.agent, user=who.user), *users)


def _own(snapshot: Snapshot, *subjects: Subject) -> tuple[BindingFacts, ...]:
    return tuple(binding for subject in subjects for binding in snapshot.bindings.get(subject, ()))


def _users_own(snapshot: Snapshot, user: UUID) -> tuple[BindingFacts, ...]:
    return _own(snapshot, *_subjects_of_user(snapshot, user))


def _subjects_of_user(snapshot: Snapshot, user: UUID) -> tuple[Subject, ...]:
    teams = sorted(snapshot.users[user].teams)
    return (Subject(user=user), *(Subject(team=team) for team in teams), EVERY_USER)

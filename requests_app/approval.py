"""How far a request is from being approved, and who may decide on it: pure, from people as they are now.

A stage is met when all its groups are, or all groups of an escalation that is due. A person counts once, whoever they
act for: a delegate who is not a member sits on the delegator's seat. Self sits nowhere, nor does a delegate of self.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from jitaccess.policy.approval.plan import Group, Plan
from requests_app.lifecycle import DecisionVerdict


@dataclass(frozen=True, slots=True)
class People:
    """Who is who at this moment. `members` holds active people by ref; `delegates` are (person, delegate) pairs;
    `away` are people who said that they are not there.
    """

    members: Mapping[str, frozenset[UUID]]
    self_: frozenset[UUID]
    delegates: frozenset[tuple[UUID, UUID]] = frozenset()
    away: frozenset[UUID] = frozenset()

    def of(self, group: Group) -> frozenset[UUID]:
        """The members of a group who are not self."""
        return frozenset[UUID]().union(*(self.members.get(ref, frozenset()) for ref in group.people)) - self.self_


@dataclass(frozen=True, slots=True)
class Vote:
    """One live decision on one stage."""

    person: UUID
    on_behalf_of: UUID | None
    stage: int
    verdict: DecisionVerdict

    @property
    def seat(self) -> UUID:
        return self.on_behalf_of or self.person


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one group is: distinct seats of eligible people who approved, of its quorum."""

    group: Group
    approved_by: frozenset[UUID]

    @property
    def met(self) -> bool:
        return self.missing == 0

    @property
    def missing(self) -> int:
        return max(max(self.group.quorum, 1) - len(self.approved_by), 0)


@dataclass(frozen=True, slots=True)
class Tally:
    """Where a request stands. `stage` is the one that is decided now (the last one when all are met); `seats` are the
    people whose word counts there, `counted` the people (not seats) whose approvals count anywhere.
    """

    stage: int
    stages: tuple[tuple[Progress, ...], ...]
    seats: frozenset[UUID]
    counted: frozenset[UUID]
    denials: int
    approved: bool
    denied: bool


def tally(plan: Plan, votes: Collection[Vote], people: People, *, waited: float) -> Tally:
    """`waited`: seconds since filing, by which escalations are due."""
    stages: list[tuple[Progress, ...]] = []
    counted: set[UUID] = set()
    # One person sits on one seat, also from stage to stage: a stand-in is not somebody else than themselves.
    sat: dict[UUID, UUID] = {}
    against: set[UUID] = set()
    seats: frozenset[UUID] = frozenset()
    stage, denials, approved = 0, 0, False
    for number in range(len(plan.stages)):
        usual, later = groups_at(plan, number, people, waited=waited)
        seats = frozenset[UUID]().union(*(people_in for _, people_in in (*usual, *later)))
        here = [vote for vote in votes if vote.stage == number and is_seated(vote, seats, people)]
        yes = [
            vote
            for vote in here
            if vote.verdict is DecisionVerdict.APPROVE and sat.setdefault(vote.person, vote.seat) == vote.seat
        ]
        counted |= {vote.person for vote in yes}
        against |= {vote.seat for vote in here if vote.verdict is DecisionVerdict.DENY}
        denials = len(against)
        lines = _progress(usual, yes)
        instead = _progress(later, yes)
        stages.append((*lines, *instead))
        stage = number
        approved = _all_met(lines) or any(_all_met(_of_one(instead, found)) for found in _escalations(instead))
        if not approved:
            break
    for number in range(len(stages), len(plan.stages)):
        usual, _ = groups_at(plan, number, people, waited=waited)
        stages.append(_progress(usual, ()))
    approved = approved and bool(plan.stages)
    return Tally(stage, tuple(stages), seats, frozenset(counted), denials, approved, denials >= plan.deny_threshold)


def groups_at(
    plan: Plan, stage: int, people: People, *, waited: float
) -> tuple[list[tuple[Group, frozenset[UUID]]], list[tuple[Group, frozenset[UUID]]]]:
    """The groups of a stage with their people, and those of escalations that are due.

    A group with too few people left is helped by the fallback group; its quorum stands.
    """
    usual = []
    for group in plan.stages[stage]:
        members = people.of(group)
        if plan.fallback and len(_reachable(members, people)) < group.quorum:
            members |= people.of(plan.fallback)
            group = replace(group, quorum=max(group.quorum, plan.fallback.quorum))  # noqa: PLW2901 - the same, helped
        usual.append((group, members))
    return usual, [(group, people.of(group)) for group in plan.escalated(waited)]


def lacking(plan: Plan, people: People) -> Group | None:
    """A group that cannot be met by anybody who is there, now or with the fallback's help: nobody could approve."""
    for stage in range(len(plan.stages)):
        for group, members in groups_at(plan, stage, people, waited=0)[0]:
            if len(_reachable(members, people)) < group.quorum:
                return group
    return None


def seat_of(person: UUID, seats: Collection[UUID], people: People, taken: Collection[UUID] = ()) -> UUID | None:
    """The seat this person decides from: their own, or one whose holder delegated to them. None: they have none."""
    if person in people.self_:
        return None
    if person in seats:
        return person
    lent = sorted(holder for holder, delegate in people.delegates if delegate == person and holder in seats)
    free = [holder for holder in lent if holder not in taken]
    return next(iter(free or lent), None)


def is_seated(vote: Vote, seats: Collection[UUID], people: People) -> bool:
    """Whether a decision counts now: its person still has the seat it was made from."""
    if vote.person in people.self_ or vote.seat not in seats:
        return False
    return vote.on_behalf_of is None or (vote.on_behalf_of, vote.person) in people.delegates


def _reachable(members: Iterable[UUID], people: People) -> set[UUID]:
    """Those who are there, or whose delegate is."""
    lent = {holder for holder, delegate in people.delegates if delegate not in people.self_ | people.away}
    return {person for person in members if person not in people.away or person in lent}


def _progress(groups: Sequence[tuple[Group, frozenset[UUID]]], yes: Iterable[Vote]) -> tuple[Progress, ...]:
    seats = {vote.seat for vote in yes}
    return tuple(Progress(group, frozenset(seats & members)) for group, members in groups)


def _all_met(lines: Collection[Progress]) -> bool:
    """There is at least one group: nothing is approved by nobody."""
    return bool(lines) and all(line.met for line in lines)


def _escalations(lines: Iterable[Progress]) -> set[str]:
    return {line.group.id.split("/")[0] for line in lines}


def _of_one(lines: Iterable[Progress], escalation: str) -> list[Progress]:
    return [line for line in lines if line.group.id.split("/")[0] == escalation]

"""How far the approval of a request is, stage by stage, with names: who approved, who can, who is asked later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from jitaccess.identity.services import people
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.once import once
from requests_app import approval
from requests_app.approval import Progress, Tally, Vote
from requests_app.lifecycle import DecisionVerdict
from requests_app.selectors import AccessRequest, Decision
from requests_app.standing import Seen
from requests_app.terms import read_terms, terms_of


@dataclass(frozen=True, slots=True)
class GroupLine:
    """How far one approver group is. Names: of stand-ins as "carl for anna"; `away` are those without one."""

    name: str
    quorum: int
    missing: int
    approved: tuple[str, ...]
    can: tuple[str, ...]
    away: tuple[str, ...]
    escalated: bool


@dataclass(frozen=True, slots=True)
class StageLine:
    """`state` is done, now or later."""

    number: int
    state: str
    groups: tuple[GroupLine, ...]


@dataclass(frozen=True, slots=True)
class Later:
    """Groups that are asked as well at `at`, if nobody has decided by then."""

    at: datetime
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DecisionLine:
    """One decision; `less` says to what an approval was narrowed. Not `counts`: decided otherwise later."""

    who: str
    verdict: str
    at: datetime
    channel: str
    stage: int
    less: str
    reason: str
    counts: bool


def tally_of(seen: Seen, *more: Vote) -> Tally | None:
    """How far it is, with these votes as well."""
    if seen.plan is None:
        return None
    return approval.tally(seen.plan, [*seen.votes, *more], seen.people, waited=seen.waited)


def stages_of(seen: Seen, tally: Tally | None) -> list[StageLine]:
    """Every stage; one query for names while the request is pending, none afterwards."""
    plan = seen.plan
    if plan is None or tally is None:
        return []
    names = _names(seen)
    found = []
    for number, lines in enumerate(tally.stages):
        usual, later = approval.groups_at(plan, number, seen.people, waited=seen.waited)
        # Escalations are counted with the stage that is decided, or was: an earlier answer has no lines for them.
        members = [people_in for _, people_in in (*usual, *later)]
        groups = tuple(_group(seen, number, line, some, names) for line, some in zip(lines, members, strict=False))
        done = number < tally.stage or tally.approved
        state = "done" if done else "now" if number == tally.stage else "later"
        found.append(StageLine(number + 1, state, groups))
    return found


def escalations_of(seen: Seen) -> list[Later]:
    """Those that are still to come before the request expires."""
    request, plan = seen.request, seen.plan
    if plan is None or not request.pending:
        return []
    found = []
    for one in plan.escalations:
        at = request.created_at + timedelta(seconds=one.after)
        if seen.at < at < request.pending_until:
            found.append(Later(at, tuple(group.name for group in one.groups)))
    return found


def decisions_of(seen: Seen) -> list[DecisionLine]:
    """All of them, in their order."""
    return [_decision(seen, one) for one in seen.decisions]


def narrowed_to(text: str, request: AccessRequest) -> str:
    """What of a request stored terms leave, in words; "" for all of it."""
    terms, asked = read_terms(text, request), terms_of(request)
    parts = []
    if terms.seconds != asked.seconds:
        parts.append(format_duration(terms.seconds))
    if terms.max_uses != asked.max_uses:
        parts.append(f"{terms.max_uses} call{'' if terms.max_uses == 1 else 's'}")
    if terms.labels != asked.labels:
        parts.append(", ".join(terms.labels))
    return ", ".join(parts)


def _decision(seen: Seen, one: Decision) -> DecisionLine:
    return DecisionLine(
        who=f"{one.user.username} for {one.on_behalf_of.username}" if one.on_behalf_of else one.user.username,
        verdict="approved" if one.verdict == DecisionVerdict.APPROVE else "denied",
        at=one.at,
        channel=one.channel,
        stage=one.stage + 1,
        less=narrowed_to(one.terms, seen.request),
        reason=one.reason,
        counts=one.live,
    )


def _names(seen: Seen) -> Mapping[UUID, str]:
    """Of everybody who decided; of all who could, while that matters."""
    names = {one.user_id: one.user.username for one in seen.decisions}
    names |= {one.on_behalf_of.pk: one.on_behalf_of.username for one in seen.decisions if one.on_behalf_of}
    if seen.request.pending:
        around = seen.people
        names |= _people(frozenset[UUID]().union(*around.members.values(), (to for _, to in around.delegates)))
    return names


@once  # those who are decided together are decided by the same
def _people(ids: frozenset[UUID]) -> dict[UUID, str]:
    return people(set(ids))


def _group(seen: Seen, stage: int, line: Progress, members: frozenset[UUID], names: Mapping[UUID, str]) -> GroupLine:
    around = seen.people
    yes = {
        vote.seat: vote.person for vote in seen.votes if vote.stage == stage and vote.verdict is DecisionVerdict.APPROVE
    }
    approved = [_said(yes.get(seat, seat), seat, names) for seat in line.approved_by]
    can, away = [], []
    for person in members - line.approved_by:
        standins = [to for holder, to in around.delegates if holder == person and to not in around.self_ | around.away]
        if person not in around.away:
            can.append(_said(person, person, names))
        elif standins:
            can += [_said(to, person, names) for to in standins]
        else:
            away.append(_said(person, person, names))
    return GroupLine(
        name=line.group.name,
        quorum=max(line.group.quorum, 1),
        missing=line.missing,
        approved=tuple(sorted(approved)),
        can=tuple(sorted(filter(None, can))),
        away=tuple(sorted(filter(None, away))),
        escalated=line.group.id.startswith("e"),
    )


def _said(person: UUID, seat: UUID, names: Mapping[UUID, str]) -> str:
    who, whose = names.get(person, ""), names.get(seat, "")
    return who if person == seat or not who else f"{who} for {whose}"

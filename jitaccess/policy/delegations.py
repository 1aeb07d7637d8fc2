"""Handing one's approvals to somebody else for a while, or being away: both names are on record."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity.models import User
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid
from jitaccess.kernel.once import once, once_each
from jitaccess.kernel.text import visible
from jitaccess.policy.models import Delegation
from jitaccess.store.clock import JitNow, now

LONGEST = timedelta(days=30)
# However far ahead: a holiday is planned, but a decision of somebody who left long ago is not.
FARTHEST = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Standins:
    """Who stands in for whom now: by delegate, those in whose place; and those who are not asked themselves."""

    acting: dict[UUID, frozenset[UUID]]
    away: frozenset[UUID]


def delegate(
    *,
    person: User,
    to: User | None,
    ends_at: datetime,
    operator: Actor,
    starts_at: datetime | None = None,
    note: str = "",
) -> Delegation:
    """Hand the approvals of `person` to another active user until `ends_at`; to None: away, and not asked.

    Only `person` may: nobody gives away what is somebody else's, and agents have nothing to give. Raises Forbidden,
    Invalid with what to change, Conflict when another delegation of theirs is in force at that time.
    """
    if operator.agent is not None or operator.user != person.pk:
        raise Forbidden("delegation.not_yours", "Only the person themselves can hand over their approvals.")
    with transaction.atomic():
        # Two at once wait for each other here, so that each sees the other.
        person = User.objects.select_for_update(no_key=True).get(pk=person.pk)
        moment = now()
        starts = max(starts_at or moment, moment)
        _ensure_possible(person, to, starts, ends_at, moment)
        row = Delegation.objects.create(
            person=person,
            delegate=to,
            starts_at=starts,
            ends_at=ends_at,
            note=visible(note.strip(), limit=300),
            made_by_name=operator.user_name,
        )
        data = {
            "person": person.username,
            "delegate": to.username if to else None,
            "starts_at": starts.isoformat(),
            "ends_at": ends_at.isoformat(),
            "delegation": str(row.pk),
        }
        record(Facts(event=Event.DELEGATION_CREATED, actor=operator, data=data))
    return row


def end_delegation(*, delegation: Delegation, operator: Actor) -> None:
    """End it now, or before it begins: the person, the delegate, or an admin. Raises Forbidden, Conflict."""
    if operator.agent is not None or not _may_end(delegation, operator):
        raise Forbidden("delegation.not_yours", "Only those it is about, or an admin, can end this delegation.")
    with transaction.atomic():
        rows = Delegation.objects.filter(pk=delegation.pk, ended_at=None, ends_at__gt=JitNow())
        if rows.update(ended_at=JitNow()) != 1:
            raise Conflict("delegation.ended", "This delegation has ended already.")
        data = {
            "person": delegation.person.username,
            "delegate": delegation.delegate.username if delegation.delegate else None,
            "delegation": str(delegation.pk),
        }
        record(Facts(event=Event.DELEGATION_ENDED, actor=operator, data=data))


def concerning(user: User) -> QuerySet[Delegation]:
    """Those that `user` made, or stands in by."""
    return Delegation.objects.filter(Q(person=user) | Q(delegate=user)).select_related("person", "delegate")


def standins_for(people: Iterable[UUID]) -> Standins:
    """The delegations of `people` that are in force now: one query.

    Never followed further: the delegate of a delegate stands in for nobody but the delegate.
    """
    acting: dict[UUID, set[UUID]] = defaultdict(set)
    given = {person: some for person, some in _given_by(people).items() if some}
    for person, some in given.items():
        for to in filter(None, some):
            acting[to].add(person)
    return Standins({to: frozenset(persons) for to, persons in acting.items()}, frozenset(given))


@once_each
def _given_by(people: frozenset[UUID]) -> dict[UUID, list[UUID | None]]:
    """By person, to whom their approvals are handed now; None: they are away, with nobody who could stand in."""
    found: dict[UUID, list[UUID | None]] = {person: [] for person in people}
    rows = Delegation.objects.filter(_in_force(), person__in=people, person__is_active=True)
    for person, to, active in rows.values_list("person", "delegate", "delegate__is_active"):
        found[person].append(to if active else None)
    return found


@once
def delegators_of(user: User) -> frozenset[UUID]:
    """Those in whose place `user` may decide now; one query."""
    return frozenset(delegators(user)) if user.is_active else frozenset()


def delegators(user: User) -> QuerySet[Delegation, UUID]:
    """The same of somebody active, for a part of a query."""
    rows = Delegation.objects.filter(_in_force(), delegate=user, person__is_active=True)
    return rows.order_by().values_list("person", flat=True)


def _in_force() -> Q:
    return Q(ended_at=None, starts_at__lte=JitNow(), ends_at__gt=JitNow())


def _may_end(delegation: Delegation, operator: Actor) -> bool:
    if operator.user is None:  # whoever runs this installation, from its shell
        return True
    if operator.user in (delegation.person_id, delegation.delegate_id):
        return True
    return User.objects.filter(pk=operator.user, is_active=True, is_superuser=True).exists()


def _ensure_possible(person: User, to: User | None, starts: datetime, ends: datetime, moment: datetime) -> None:
    if to is not None and to.pk == person.pk:
        raise Invalid("delegation.self", "Choose somebody else: you cannot stand in for yourself.")
    if not person.is_active or (to is not None and not User.objects.filter(pk=to.pk, is_active=True).exists()):
        raise Invalid("delegation.inactive", "Choose somebody who is active: who is not cannot approve.")
    if ends <= starts:
        raise Invalid("delegation.window", "The end must be after the start, and in the future.")
    if ends - starts > LONGEST:
        raise Invalid("delegation.too_long", f"At most {LONGEST.days} days at a time; hand them over again after that.")
    if starts - moment > FARTHEST:
        raise Invalid("delegation.too_far", f"It must start within {FARTHEST.days} days.")
    other = Delegation.objects.filter(person=person, ended_at=None, starts_at__lt=ends, ends_at__gt=starts).first()
    if other is not None:
        raise Conflict(
            "delegation.overlaps",
            f"Your approvals are with {other.delegate or 'nobody'} from {other.starts_at:%F %H:%M} to "
            f"{other.ends_at:%F %H:%M} UTC already; end that one first.",
            delegation=str(other.pk),
        )

"""What is wanted on targets: asked of the grants, the locks and the clock each time, never remembered."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q, QuerySet

from jitaccess.policy.locks import live_locks
from jitaccess.policy.models import Lock
from jitaccess.store.clock import JitNow, now

from .rows import Claim, Provision, State

# For so long after something changed, each sweep looks whether it was noticed.
JUST_NOW = timedelta(minutes=2)
# How workers lock a provision: not if somebody has it, and so that claims on it can be written meanwhile (PostgreSQL).
FREE: dict[str, bool] = {"skip_locked": True, "no_key": True}
MANY = 1000
_HELD = (State.GRANTING, State.GRANTED)
_IDLE = (State.NONE, State.REVOKED)


def live_claims() -> QuerySet[Claim]:
    """Of grants in force now or later. By the clock: no sweep needs to have written down an end."""
    return Claim.objects.filter(grant__ended_at=None, grant__expires_at__gt=JitNow())


def wanted_until(provision: Provision, moment: datetime) -> tuple[bool, datetime | None]:
    """Whether a grant in force claims it and no lock stops that, and when that may change by itself: at an end, or at a
    start. None: not by itself.
    """
    values = live_claims().filter(provision=provision).values_list("grant", "grant__starts_at", "grant__expires_at")
    windows = [(start, end, grant) for grant, start, end in values if end > moment]
    if not windows:
        return False, None
    locks = list(live_locks().filter(_on(provision) | Q(target__in=[grant for *_, grant in windows])))
    locked = {one.target for one in locks if one.kind == Lock.Kind.GRANT}
    lifting = min((one.expires_at for one in locks if one.expires_at is not None), default=None)
    if any(one.kind != Lock.Kind.GRANT for one in locks):
        return False, lifting
    free = [(start, end) for start, end, grant in windows if grant not in locked]
    if ends := [end for start, end in free if start <= moment]:
        return True, max(ends)
    return False, min(filter(None, (lifting, *(start for start, _ in free))), default=None)


def look_again_at_recent() -> int:
    """What a lock stops, and what a lock, a grant's start or a grant's end has just changed, is due now; returns how
    many. Looks at little, so that it can be asked every other second.
    """
    since = now() - JUST_NOW
    held = Provision.objects.filter(state__in=_HELD)
    idle = Provision.objects.filter(in_force(), state__in=_IDLE, gave_up=False)
    locks = list(live_locks())
    lifted = Lock.objects.filter(Q(lifted_at__gt=since) | Q(expires_at__gt=since, expires_at__lte=JitNow()))
    begun = Claim.objects.filter(grant__ended_at=None, grant__starts_at__gt=since, grant__starts_at__lte=JitNow())
    ended = Claim.objects.filter(grant__ended_at__gt=since)
    return sum(
        _due_now(rows)
        for rows in (
            _concerned(locks, held),
            _concerned(list(lifted), idle),
            idle.filter(pk__in=begun.values("provision")),
            held.filter(~in_force(), pk__in=ended.values("provision")),
        )
    )


def look_again_at_all() -> int:
    """A net under everything, whoever forgot to say so: what is there although no grant claims it, and what is not
    although one does, is due now; returns how many.
    """
    rows = Provision.objects.filter(Q(~in_force(), state__in=_HELD) | Q(in_force(), state__in=_IDLE, gave_up=False))
    return _due_now(rows) + look_again_at_recent()


def in_force() -> Q:
    """In a query of provisions: a grant in force now claims it."""
    return Q(Exists(live_claims().filter(provision=OuterRef("pk"), grant__starts_at__lte=JitNow())))


def _on(provision: Provision) -> Q:
    found = Q(kind=Lock.Kind.EVERYTHING) | Q(kind__in=(Lock.Kind.SERVER, Lock.Kind.ROLE), target=provision.about)
    # A lock on a person stops the agents that they own, too: as in the engine.
    people = [one for one in (provision.user_id, provision.agent.owner_id) if one]
    return found | Q(kind=Lock.Kind.AGENT, target=provision.agent_id) | Q(kind=Lock.Kind.USER, target__in=people)


def _concerned(locks: list[Lock], rows: QuerySet[Provision]) -> QuerySet[Provision]:
    if not locks:
        return rows.none()
    if any(one.kind == Lock.Kind.EVERYTHING for one in locks):
        return rows
    targets = [one.target for one in locks]
    claimed = Claim.objects.filter(provision=OuterRef("pk"), grant__in=targets)
    people = Q(user__in=targets) | Q(agent__owner__in=targets)
    return rows.filter(Q(agent__in=targets) | people | Q(about__in=targets) | Exists(claimed))


def _due_now(rows: QuerySet[Provision]) -> int:
    later = rows.filter(Q(next_try_at=None) | Q(next_try_at__gt=JitNow()))
    # Read first: on SQLite a write that finds nothing stands in the queue of writers too.
    ids = list(later.values_list("pk", flat=True)[:MANY])
    return Provision.objects.filter(pk__in=ids).update(next_try_at=JitNow()) if ids else 0

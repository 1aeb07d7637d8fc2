"""What is wanted on targets: asked of the grants, the locks and the clock each time, never remembered."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q, QuerySet

from jitaccess.policy.locks import live_locks
from jitaccess.policy.models import Lock
from jitaccess.store.clock import JitNow, now

from .rows import Claim, Provision, State

# For so long after a lock has ended, each sweep looks for what it had stopped. What was missed is found by `net`.
JUST_LIFTED = timedelta(minutes=2)
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


def look_again_at_locked() -> int:
    """What a lock stops, and what a lock has just ceased to stop, is due now; returns how many."""
    stopped = _concerned(list(live_locks()), Provision.objects.filter(state=State.GRANTED))
    since = now() - JUST_LIFTED
    over = Lock.objects.filter(Q(lifted_at__gt=since) | Q(expires_at__gt=since, expires_at__lte=JitNow()))
    freed = _concerned(list(over), Provision.objects.filter(in_force(), state__in=_IDLE, gave_up=False))
    return _due_now(stopped) + _due_now(freed)


def look_again_at_all() -> int:
    """A net under everything, whoever forgot to say so: what is there although no grant claims it, and what is not
    although one does, is due now; returns how many.
    """
    rows = Provision.objects.filter(Q(~in_force(), state=State.GRANTED) | Q(in_force(), state__in=_IDLE, gave_up=False))
    return _due_now(rows)


def in_force() -> Q:
    """In a query of provisions: a grant in force now claims it."""
    return Q(Exists(live_claims().filter(provision=OuterRef("pk"), grant__starts_at__lte=JitNow())))


def _on(provision: Provision) -> Q:
    subjects = {Lock.Kind.AGENT: provision.agent_id, Lock.Kind.USER: provision.user_id}
    found = Q(kind=Lock.Kind.EVERYTHING) | Q(kind__in=(Lock.Kind.SERVER, Lock.Kind.ROLE), target=provision.about)
    for kind, target in subjects.items():
        found |= Q(kind=kind, target=target)
    return found


def _concerned(locks: list[Lock], rows: QuerySet[Provision]) -> QuerySet[Provision]:
    if not locks:
        return rows.none()
    if any(one.kind == Lock.Kind.EVERYTHING for one in locks):
        return rows
    targets = [one.target for one in locks]
    claimed = Claim.objects.filter(provision=OuterRef("pk"), grant__in=targets)
    return rows.filter(Q(agent__in=targets) | Q(user__in=targets) | Q(about__in=targets) | Exists(claimed))


def _due_now(rows: QuerySet[Provision]) -> int:
    later = Q(next_try_at=None) | Q(next_try_at__gt=JitNow())
    return rows.filter(later).update(next_try_at=JitNow())

"""Grants in lists, with what one person may do about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from jitaccess.identity.models import User
from jitaccess.identity.services import agents_for
from jitaccess.kernel.errors import NotFound
from jitaccess.kernel.once import once
from jitaccess.policy.locks import live_locks
from jitaccess.policy.models import Lock
from jitaccess.policy.services import uses_left_of
from jitaccess.store.clock import JitNow
from requests_app import selectors, standing
from requests_app.card.items import chips_of
from requests_app.selectors import Grant, Q

CHIPS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A grant in a list. `tools` without the last `more`; `calls_left` None: not counted; `percent` of its time is
    left. `more_minutes`: so much longer it may live, 0 when this person cannot ask for more.
    """

    grant: Grant
    tools: list[dict[str, str]]
    more: int
    calls_left: int | None
    over: bool
    to_come: bool
    percent: int
    more_minutes: int
    may_release: bool
    may_revoke: bool
    may_lock: bool
    locked: bool

    @property
    def key(self) -> str:
        """Its id as text, for the ids of a page."""
        return str(self.grant.pk)


def own(user: User) -> Q:
    """Grants of this person's agents, of agents on their behalf, and of what they asked for."""
    return Q(request__agent__owner=user) | Q(user=user) | Q(request__filed_by=user)


def held_rows(user: User, which: Q, at: datetime, *, size: int, theirs: bool) -> list[Held]:
    """Those that are live or begin later, what ends next first. `theirs`: this person may see all of them."""
    open_now = Q(ended_at=None, expires_at__gt=JitNow())
    rows = selectors.page_of_grants(user, where=which & open_now, size=size, theirs=theirs).rows
    return rows_of(user, sorted(rows, key=lambda grant: grant.expires_at), at)


def rows_of(user: User, grants: Sequence[Grant], at: datetime) -> list[Held]:
    """As many queries for a hundred as for one."""
    if not grants:
        return []
    left = uses_left_of([grant.pk for grant in grants])
    places = standing.standings_of([grant.request for grant in grants], user, at)
    usable = usable_by(user)
    stops = user.is_staff and user.has_perm("jit_policy.add_lock")
    targets = {target for grant in grants for target in (grant.pk, grant.agent_id, grant.user_id) if target}
    live = set(
        live_locks().filter(Q(target__in=targets) | Q(kind=Lock.Kind.EVERYTHING)).values_list("target", flat=True)
    )
    found = []
    for grant, place in zip(grants, places, strict=True):
        over = grant.ended_at is not None or grant.expires_at <= at
        chips = chips_of(grant.request)
        theirs = grant.agent_id in usable and grant.user_id in (None, user.pk)
        found.append(
            Held(
                grant=grant,
                tools=chips[:CHIPS],
                more=max(len(chips) - CHIPS, 0),
                calls_left=left.get(grant.pk),
                over=over,
                to_come=grant.starts_at > at,
                percent=_percent(grant, at),
                more_minutes=_minutes(grant) if theirs and not over else 0,
                may_release=bool(place.self_because) and not over,
                may_revoke=place.may_revoke and not over,
                may_lock=not over and (stops or grant.request.agent.owner_id == user.pk),
                locked=not over and bool(live & {None, grant.pk, grant.agent_id, grant.user_id or grant.pk}),
            )
        )
    return found


@once
def usable_by(user: User) -> frozenset[UUID]:
    """The agents that may act on this person's behalf."""
    return frozenset(agents_for(user).values_list("pk", flat=True))


def grant_of_theirs(user: User, grant_id: UUID) -> Grant:
    """A grant that this person may see, and that no other person holds. Raises NotFound."""
    rows = list(selectors.grants_seen_by(user).filter(pk=grant_id))
    found = next(iter(selectors.seen_grants(user, rows)), None)
    if found is None or found.user_id not in (None, user.pk):
        raise NotFound("grant.unknown", "There is no such grant, or somebody else holds it.")
    return found


def _percent(grant: Grant, at: datetime) -> int:
    whole = (grant.expires_at - grant.starts_at).total_seconds()
    return max(0, min(100, round(100 * (grant.expires_at - at).total_seconds() / whole)))


def _minutes(grant: Grant) -> int:
    return int(((grant.latest or grant.expires_at) - grant.expires_at) / timedelta(minutes=1))

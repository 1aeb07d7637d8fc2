"""Numbers about requests and grants, for people: what waits, what is live, how long decisions take."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.core.cache import cache
from django.db.models import Count, Min, Q, QuerySet

from jitaccess.identity.models import User
from jitaccess.store.clock import JitNow
from requests_app.models import Concern, Decision, Grant
from requests_app.selectors import concerns, grants_live, open_requests
from requests_app.standing import hats_of

WEEK = timedelta(days=7)
# Decisions that are looked at: the latest, and none older than a week; remembered for so many seconds.
DECISIONS, _FRESH = 1000, 30


@dataclass(frozen=True, slots=True)
class Desk:
    """Of what one person may see: how many requests are open, since when the oldest, and how many grants are live;
    of those, how many end within the hour.
    """

    open: int
    oldest: datetime | None
    live: int
    ending: int


@dataclass(frozen=True, slots=True)
class Timed:
    """A decision of a person that counts, and how long after the request was filed it was made."""

    request: UUID
    policy: str
    user: UUID
    user_name: str
    at: datetime
    took: timedelta


def concerning(hats: Collection[str]) -> QuerySet[Concern, UUID]:
    """The ids of the requests that concern whom these refs mean: a filter, standing has the last word."""
    return Concern.objects.filter(subject__in=hats).values_list("request", flat=True)


def desk_figures(user: User) -> Desk:
    """What is open and live is a few thousand rows, whatever has been: two queries."""
    asked, live = open_requests(), Grant.objects.filter(grants_live(live=True))
    if not user.is_superuser:
        hats = hats_of(user)
        asked, live = asked.filter(concerns(hats)), live.filter(concerns(hats, "request"))
    soon = Q(expires_at__lte=JitNow() + timedelta(hours=1))
    opened = asked.order_by().aggregate(n=Count("pk"), oldest=Min("created_at"))
    lives = live.order_by().aggregate(n=Count("pk"), ending=Count("pk", filter=soon))
    return Desk(open=opened["n"], oldest=opened["oldest"], live=lives["n"], ending=lives["ending"])


def latest_decisions(at: datetime) -> list[Timed]:
    """What people decided of late, latest first: asked for by several rules at once, so remembered for a while."""
    found: list[Timed] | None = cache.get("figures:decisions")
    if found is None:
        found = _latest_decisions(at)
        cache.set("figures:decisions", found, _FRESH)
    return found


def _latest_decisions(at: datetime) -> list[Timed]:
    rows = Decision.objects.filter(live=True).order_by("-pk")
    found = rows.values_list("request", "request__policy_name", "user", "user__username", "at", "request__created_at")[
        :DECISIONS
    ]
    return [
        Timed(request, policy, user, name, decided, decided - filed)
        for request, policy, user, name, decided, filed in found
        if decided >= at - WEEK
    ]


def median_and_p90(took: Sequence[timedelta]) -> tuple[timedelta, timedelta]:
    """Of at least one."""
    found = sorted(took)
    seconds = [one.total_seconds() for one in found]
    return timedelta(seconds=statistics.median(seconds)), found[min(len(found) - 1, len(found) * 9 // 10)]

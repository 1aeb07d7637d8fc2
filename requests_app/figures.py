"""Numbers about requests and grants, for people: what waits, what is live, how long decisions take."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.core.cache import cache
from django.db.models import QuerySet

from jitaccess.identity.models import User
from jitaccess.store.clock import JitNow
from requests_app.models import Concern, Decision, Grant
from requests_app.selectors import grants_live, open_requests
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


def desk_figures(user: User, at: datetime) -> Desk:
    """Four numbers of four small queries: what is open and live is a few thousand rows, whatever has been."""
    asked, live = open_requests(), Grant.objects.filter(grants_live(live=True))
    if not user.is_superuser:
        hats = hats_of(user, at)
        asked, live = (
            asked.filter(pk__in=_among(asked.values_list("pk", flat=True), hats)),
            live.filter(request__in=_among(live.values_list("request", flat=True), hats)),
        )
    return Desk(
        open=asked.count(),
        oldest=asked.order_by("created_at").values_list("created_at", flat=True).first(),
        live=live.count(),
        ending=live.filter(expires_at__lte=JitNow() + timedelta(hours=1)).count(),
    )


def _among(ids: QuerySet[object, UUID], hats: Collection[str]) -> list[UUID]:  # type: ignore[type-var]
    """Those of these few requests that concern whom the refs mean."""
    few = list(ids)
    return list(Concern.objects.filter(request__in=few, subject__in=hats).values_list("request", flat=True).distinct())


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

"""The overview: how much there is to do, what is going on, what is out of the ordinary. Every number has its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django.core.cache import cache
from django.db.models import Sum
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe

from jitaccess.audit.events import Event
from jitaccess.audit.models import DayOfAgent
from jitaccess.identity.models import User
from jitaccess.store.clock import now
from jitaccess.web.seen.anomalies import counts_of
from jitaccess.web.seen.charts import Series, bars, number
from jitaccess.web.seen.sight import Sight, sight_of
from jitaccess.web.seen.spans import rows_url
from jitaccess.web.templatetags.jit import relative
from requests_app import overview as kept
from requests_app.anomalies import spoken
from requests_app.figures import Desk, desk_figures
from requests_app.overview import REFUSED, Counts, by_step
from requests_app.pages import page, person_of
from requests_app.spans import SPANS, Span, span_of

# Seconds for which figures of one person are good enough.
_FRESH = 30
_OF_ONES_OWN = Span("own", "14 days", timedelta(days=1), 14, "%-d %b")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is drawn as one series: its events, and how the activity page calls them."""

    label: str
    events: tuple[Event, ...]
    what: str


_CALLS = (
    _Kind("Let through", (Event.CALL_AUTHORIZED,), Event.CALL_AUTHORIZED),
    _Kind("Refused", REFUSED, "refused"),
)
_REQUESTS = (
    _Kind("Filed", (Event.REQUEST_SUBMITTED,), Event.REQUEST_SUBMITTED),
    _Kind("Approved", (Event.REQUEST_APPROVED,), Event.REQUEST_APPROVED),
    _Kind("Denied", (Event.REQUEST_DENIED,), Event.REQUEST_DENIED),
)


@page
@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    user, at = person_of(request), now()
    sight = sight_of(user)
    span = span_of(request.GET.get("span", "")) if sight.whole else _OF_ONES_OWN
    starts = span.starts(at)
    counts = _counts(sight, span, at)
    charts = [_chart("calls", "Calls", span, starts, counts, _CALLS)]
    stats = [*_desk(user, at), *_flow(span, starts, counts)]
    context: dict[str, Any] = {"span": span, "whole": sight.whole, "now": at}
    if sight.whole:
        charts.append(_chart("requests", "Requests and how they were decided", span, starts, counts, _REQUESTS))
        stats.insert(1, _decisions(at))
        context["tabs"] = [{"label": one.label, "url": f"?span={one.slug}", "here": one is span} for one in SPANS]
        context["servers"] = _servers(span, starts, at)
        context["rules"] = counts_of(at)
    return render(request, "web/seen/overview.html", context | {"charts": charts, "stats": stats})


def _counts(sight: Sight, span: Span, at: datetime) -> Counts:
    """How often each event, by the step of time it is in."""
    if sight.agents is None:
        return kept.counts(span, at)
    since = span.starts(at)[0]
    key = f"figures:{span.slug}:{sight.user.pk}:{since:%Y%m%d%H}"
    found: Counts | None = cache.get(key)
    if found is None:
        events = (Event.CALL_AUTHORIZED, *REFUSED)
        days = DayOfAgent.objects.filter(agent__in=sight.agents, day__gte=since, event__in=events)
        found = by_step(span, at, days.values_list("event", "day").annotate(Sum("n")))
        cache.set(key, found, _FRESH)
    return found


def _chart(
    name: str, title: str, span: Span, starts: Sequence[datetime], counts: Mapping[Any, int], kinds: Sequence[_Kind]
) -> dict[str, Any]:
    return bars(
        name=name,
        title=title,
        about=f"The last {span.label}, UTC",
        axis="From",
        places=[start.strftime(span.form) for start in starts],
        series=[
            Series(
                kind.label,
                [sum(counts.get((event, start), 0) for event in kind.events) for start in starts],
                [rows_url(start, start + span.step, {"what": kind.what}) for start in starts],
            )
            for kind in kinds
        ],
    )


def _flow(span: Span, starts: Sequence[datetime], counts: Counts) -> list[dict[str, Any]]:
    until = starts[-1] + span.step
    return [
        {
            "label": f"Calls {kind.label.lower()}",
            "value": number(sum(n for (event, _), n in counts.items() if event in kind.events)),
            "url": rows_url(starts[0], until, {"what": kind.what}),
            "about": f"in {span.label}",
        }
        for kind in _CALLS
    ]


def _desk(user: User, at: datetime) -> list[dict[str, Any]]:
    desk: Desk | None = cache.get(key := f"figures:desk:{user.pk}")
    if desk is None:
        desk = desk_figures(user)
        cache.set(key, desk, _FRESH)
    return [
        {
            "label": "Open requests",
            "value": number(desk.open),
            "url": reverse("web:requests") + "?state=waiting",
            "about": f"the oldest was filed {relative(desk.oldest, at)}" if desk.oldest else "nothing waits",
        },
        {
            "label": "Live grants",
            "value": number(desk.live),
            "url": reverse("web:grants"),
            "about": f"{number(desk.ending)} of them will end within the hour" if desk.live else "",
        },
    ]


def _decisions(at: datetime) -> dict[str, Any]:
    some = kept.decisions(at)
    if some is None:
        return {"label": "Time to decision", "value": "none", "url": "", "about": "nobody decided this week"}
    since = f"{some.since:%Y-%m-%dT%H:%M:%S}"
    return {
        "label": "Time to decision",
        "value": spoken(some.middle),
        "url": reverse("web:activity") + "?" + urlencode({"what": Event.DECISION_RECORDED, "since": since}),
        "about": f"the median of {number(some.n)}; one in ten took {spoken(some.most)} or more",
    }


def _servers(span: Span, starts: Sequence[datetime], at: datetime) -> list[dict[str, Any]]:
    """Those with most calls."""
    found = kept.servers(span, at)
    until, most = starts[-1] + span.step, max((n for _, n in found), default=1)
    return [
        {
            "name": name,
            "n": number(n),
            "share": round(100 * n / most),
            "url": rows_url(starts[0], until, {"what": Event.CALL_AUTHORIZED, "server": name}),
        }
        for name, n in found
    ]

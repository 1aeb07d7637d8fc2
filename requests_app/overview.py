"""What the overview shows to everybody who may see all: kept for them each minute, see audit/kept.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Sum

from jitaccess.audit.events import Event
from jitaccess.audit.figures import ALL_SERVERS
from jitaccess.audit.kept import keep, kept
from jitaccess.audit.models import HourCount
from jitaccess.catalog.models import Server
from requests_app.anomalies import RULES, Finding, Rule, findings_of
from requests_app.figures import latest_decisions, median_and_p90
from requests_app.spans import SPANS, Span

REFUSED = (Event.CALL_DENIED, Event.CALL_DENIED_AGAIN)
ASKED = (Event.REQUEST_SUBMITTED, Event.REQUEST_APPROVED, Event.REQUEST_DENIED)
_SERVERS = 10
Counts = Counter[tuple[str, datetime]]


@dataclass(frozen=True, slots=True)
class Decisions:
    """The latest ones: how many, since when, how long half of them took at most, and nine of ten."""

    n: int
    since: datetime
    middle: timedelta
    most: timedelta


def counts(span: Span, at: datetime) -> Counts:
    """How often each event, by the start of the step it was in."""
    rows = kept(f"counts:{span.slug}", lambda: _counts(span, at), at)
    return Counter({(event, datetime.fromisoformat(start)): n for event, start, n in rows})


def servers(span: Span, at: datetime) -> list[tuple[str, int]]:
    """Those with most calls."""
    return [(name, n) for name, n in kept(f"servers:{span.slug}", lambda: _servers(span, at), at)]


def decisions(at: datetime) -> Decisions | None:
    """None when nobody decided this week."""
    found = kept("decisions", lambda: _decisions(at), at)
    if not found:
        return None
    n, since, middle, most = found
    return Decisions(n, datetime.fromisoformat(since), timedelta(seconds=middle), timedelta(seconds=most))


def findings(rule: Rule, at: datetime) -> list[Finding]:
    """What a rule finds, for everybody the same."""
    return [_finding(one) for one in _kept(rule, at)]


def how_many(rules: Iterable[Rule], gone: frozenset[tuple[str, str]], at: datetime) -> dict[str, int]:
    """By rule, how much it finds that nobody has explained."""
    return {rule.slug: sum((rule.slug, one["key"]) not in gone for one in _kept(rule, at)) for rule in rules}


def keep_all(at: datetime) -> None:
    """Make all of it anew."""
    made: dict[str, Any] = {"decisions": _decisions(at)}
    for span in SPANS:
        made |= {f"counts:{span.slug}": _counts(span, at), f"servers:{span.slug}": _servers(span, at)}
    keep(made | {_name(rule): _found(rule, at) for rule in RULES})


def by_step(span: Span, at: datetime, rows: Iterable[tuple[str, datetime, int]]) -> Counts:
    """Events with when and how often, put into the steps of a span."""
    starts, found = span.starts(at), Counts()
    for event, moment, n in rows:
        found[event, starts[min((moment - starts[0]) // span.step, len(starts) - 1)]] += n
    return found


def _counts(span: Span, at: datetime) -> list[Any]:
    events = (Event.CALL_AUTHORIZED, *REFUSED, *ASKED)
    hours = HourCount.objects.filter(server=ALL_SERVERS, event__in=events, hour__gte=span.starts(at)[0])
    found = by_step(span, at, hours.values_list("event", "hour", "n"))
    return [[event, start.isoformat(), n] for (event, start), n in found.items()]


def _servers(span: Span, at: datetime) -> list[Any]:
    names = dict(Server.objects.values_list("pk", "slug"))
    since = span.starts(at)[0]
    rows = HourCount.objects.filter(server__in=names, event=Event.CALL_AUTHORIZED, hour__gte=since)
    sums = rows.order_by().values_list("server").annotate(all=Sum("n")).order_by("-all")[:_SERVERS]
    return [[names[server], int(n)] for server, n in sums]


def _decisions(at: datetime) -> list[Any]:
    some = latest_decisions(at)
    if not some:
        return []
    middle, most = median_and_p90([one.took for one in some])
    return [len(some), some[-1].at.isoformat(), middle.total_seconds(), most.total_seconds()]


def _name(rule: Rule) -> str:
    return f"anomalies:{rule.slug}"


def _kept(rule: Rule, at: datetime) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = kept(_name(rule), lambda: _found(rule, at), at)
    return found


def _found(rule: Rule, at: datetime) -> list[dict[str, Any]]:
    return [
        {name: getattr(one, name) for name in ("key", "name", "text", "activity")}
        | {"number": int(one.number), "at": one.at.isoformat(), "requests": list(map(str, one.requests))}
        for one in findings_of(rule, at)
    ]


def _finding(value: dict[str, Any]) -> Finding:
    return Finding(
        **{**value, "at": datetime.fromisoformat(value["at"]), "requests": tuple(map(UUID, value["requests"]))}
    )

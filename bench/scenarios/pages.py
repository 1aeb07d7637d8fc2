"""Every page that people look at, at a million requests and ten million entries: server time and queries.

In this process, through Django's handler and all middleware, for a superuser, for an auditor who decides everything,
and for a member of two teams. The first look is with an empty cache: it finds what the task keeps each minute.
"""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.models import Permission
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import URLPattern, URLResolver, get_resolver, reverse

from bench.history import Actors, Scale, fill, people, record
from bench.place import Place
from bench.report import Report
from bench.world import SMALL, build
from jitaccess.audit import figures
from jitaccess.audit.models import Entry, HourCount
from jitaccess.identity.models import User
from jitaccess.store.clock import now
from requests_app.anomalies import RULES
from requests_app.models import AccessRequest, Grant
from requests_app.overview import keep_all

OPTIONS = {
    "requests": (1_000_000, "in the history; three of ten were granted"),
    "entries": (10_000_000, "of the ledger"),
    "looks": (9, "at each page"),
    "small": (0, "1: few people"),
}
MOST_QUERIES = 20
GOAL = 100.0  # ms of server time
_ROOMS = ("web", "notify")
# Not for looking at: what signs in, what is streamed, what only programs read.
_NOT = {"sign_in", "activity_export", "favicon", "robots"}


@dataclass(slots=True)
class _Worst:
    queries: int = 0
    milliseconds: float = 0.0


def run(place: Place, options: Namespace) -> Report:
    """Fill the installation, count the ledger, look at every page."""
    report = Report("pages", place.database)
    build(SMALL)
    many = {"agents": 40, "users": 40, "teams": 10, "live": 50, "pending": 50} if options.small else {}
    scale = Scale(requests=options.requests, grants=options.requests * 3 // 10, **many)
    actors = people(scale)
    fill(scale, actors)
    record(options.entries, actors)
    _count(report, options.entries)
    keep_all(now())  # as the task does each minute
    actors.auditor.user_permissions.add(Permission.objects.get(codename="view_entry"))
    worst = _Worst()
    rows = [
        row
        for who, user in (("superuser", actors.root), ("auditor", actors.auditor), ("member", actors.member))
        for row in _looks(report, who, user, actors, options.looks, worst)
    ]
    report.figures |= {"pages": len(rows), "most_queries": worst.queries, "worst_p95_ms": worst.milliseconds}
    report.compared(("page", "for", "queries", "first ms", "p50 ms", "p95 ms", "own cpu ms"), rows)
    return report


def _count(report: Report, entries: int) -> None:
    """How fast the figures keep up, and that they are right."""
    began = time.monotonic()
    while figures.count():
        pass
    took = time.monotonic() - began
    total = sum(HourCount.objects.filter(server=figures.ALL_SERVERS).values_list("n", flat=True))
    report.check(total == entries, f"{total} entries of {entries} were counted")
    report.figures |= {"counted_a_second": entries / took}
    report.table(
        ("entries counted", "seconds", "a second"), [[f"{entries:,}", f"{took:.1f}", f"{entries / took:,.0f}"]]
    )


def _looks(report: Report, who: str, user: User, actors: Actors, looks: int, worst: _Worst) -> Iterator[list[Any]]:
    client = Client(HTTP_HOST=urlsplit(settings.PUBLIC_URL).netloc, raise_request_exception=True)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    for path in dict.fromkeys(paths(actors)):
        client.get(path)  # templates are read once in the life of a process
        cache.clear()
        took, worked = list[float](), list[float]()
        with CaptureQueriesContext(connection) as queries:
            status = _timed(client, path, took, worked)
        asked = len(queries)  # now: the next request begins a new list
        report.check(status < 500, f"{path} for {who} answers {status}")
        if status != 200:  # a form's address, or not theirs
            continue
        for _ in range(looks):
            _timed(client, path, took, worked)
        first, rest = took[0], sorted(took[1:])
        p95 = rest[min(len(rest) - 1, round(0.95 * (len(rest) - 1)))]
        worst.queries, worst.milliseconds = max(worst.queries, asked), max(worst.milliseconds, p95)
        report.check(asked <= MOST_QUERIES, f"{path} for {who} takes {asked} queries")
        report.goal(max(first, p95) <= GOAL, f"{path} for {who}: first {first:.0f} ms, p95 {p95:.0f} ms")
        cpu = statistics.median(worked[1:])
        yield [path, who, asked, f"{first:.0f}", f"{statistics.median(rest):.0f}", f"{p95:.0f}", f"{cpu:.0f}"]


def _timed(client: Client, path: str, took: list[float], worked: list[float]) -> int:
    """One look: by the clock, and what this thread worked for it, which a busy machine does not change; in ms."""
    began, idle = time.perf_counter(), time.thread_time()
    status: int = client.get(path).status_code
    took.append(1000 * (time.perf_counter() - began))
    worked.append(1000 * (time.thread_time() - idle))
    return status


def paths(actors: Actors) -> Iterator[str]:
    """Every address of the rooms, by what their arguments are called, and the activity page as people filter it."""
    asked = AccessRequest.objects.filter(status="approved", policy_name="history").latest("pk")
    grant = Grant.objects.filter(ended_at=None).latest("pk")
    entry = Entry.objects.filter(event="call.authorized").latest("uid")
    agent, server = actors.agents[7], actors.servers[2]
    known: dict[str, Any] = {
        "request_id": asked.pk, "grant_id": grant.pk, "uid": entry.uid, "team_id": actors.teams[1].pk,
        "name": agent.name, "slug": server.slug, "rule": RULES[0].slug,
    }  # fmt: skip
    for room, pattern in _patterns():
        arguments = {name: known[name] for name in pattern.pattern.converters if name in known}
        if pattern.name and pattern.name not in _NOT and arguments.keys() == pattern.pattern.converters.keys():
            yield reverse(f"{room}:{pattern.name}", kwargs=arguments)
    activity = reverse("web:activity")
    for query in (
        f"agent={agent.name}", f"user={actors.users[7].username}", f"server={server.slug}", "tool=write-3",
        "tool=none-of-this-name", "outcome=denied", "what=calls", "what=refused", "what=configuration",
        f"request={asked.pk}", f"request={asked.pk}&view=entries", f"agent={agent.name}&what=refused&tool=write-3",
        f"since={entry.at:%Y-%m-%dT%H:%M}", f"until={asked.created_at:%Y-%m-%dT%H:%M}", f"before={_middle()}",
    ):  # fmt: skip
        yield f"{activity}?{query}"
    yield from (reverse("web:overview") + f"?span={span}" for span in ("week", "month"))
    yield from (reverse("web:anomaly", args=[rule.slug]) for rule in RULES)
    yield from (f"{reverse('web:requests')}?state={state}" for state in ("waiting", "active", "denied"))


def _middle() -> str:
    first, last = Entry.objects.earliest("uid").uid, Entry.objects.latest("uid").uid
    return f"{type(first)(int=(first.int + last.int) // 2)}"


def _patterns() -> Iterator[tuple[str, URLPattern]]:
    def walk(patterns: Any, room: str) -> Iterator[tuple[str, URLPattern]]:
        for one in patterns:
            if isinstance(one, URLResolver):
                yield from walk(one.url_patterns, one.namespace or room)
            elif room in _ROOMS:
                yield room, one

    yield from walk(get_resolver().url_patterns, "")

"""Lists and sweeps when there is much: no list reads a whole table, no page asks twenty questions, a sweep goes on.

The figures of a million are made by `python -m bench workflow-scale`; here it is the plans, which are the same.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext

from bench.history import Actors, Scale, fill, people
from jitaccess.audit.models import Entry
from jitaccess.policy.services import used_up_grants
from jitaccess.store.clock import now
from jitaccess.store.paging import Part
from requests_app import earlier, near, selectors, standing, sweeps, tasks
from requests_app.models import AccessRequest, Grant
from requests_app.selectors import Q, State
from requests_app.services.end import due_grants
from tests.cast import Cast
from tests.clocks import Clock
from tests.requests_app.ledger import gains

SMALL = Scale(requests=1500, grants=450, live=20, due=120, pending=20, agents=20, users=20, teams=5)
GROWING = ("jit_requests_accessrequest", "jit_requests_concern", "jit_requests_decision", "jit_requests_grant")
MOST = 20


@pytest.fixture
def actors(db: None, monkeypatch: pytest.MonkeyPatch) -> Actors:
    monkeypatch.setattr(near, "WIDTH", 100)
    found = people(SMALL)
    fill(SMALL, found)
    return found


def lists(actors: Actors) -> Iterator[tuple[str, Callable[[], object]]]:
    for user in (actors.root, actors.auditor, actors.member):
        yield f"inbox of {user}", lambda user=user: selectors.desk_of(user)
        for state in (None, *State):
            yield f"{state} of {user}", lambda user=user, state=state: selectors.page_of_requests(user, state=state)
        wheres = {
            "agent": Q(agent__name="old-agent-7"),
            "person": Q(user__username="user-7"),
            "server": selectors.asks_of_server("old-server-2"),
            "before": selectors.filed_between(None, now() - timedelta(days=200)),
            "after": selectors.filed_between(now() - timedelta(days=2), None),
        }
        for name, where in wheres.items():
            yield f"{name} of {user}", lambda user=user, where=where: selectors.page_of_requests(user, where=where)
        for live in (None, True, False):
            yield f"grants {live} of {user}", lambda user=user, live=live: selectors.page_of_grants(user, live=live)
        grant = Grant.objects.latest("pk").pk
        yield f"a grant of {user}", lambda user=user: selectors.grants_seen_by(user).filter(pk=grant).first()
    asked = AccessRequest.objects.filter(status="approved").latest("pk")
    yield "one request", lambda: standing.look_at(actors.auditor, asked.pk)
    yield "its history", lambda: earlier.history_of(asked)
    yield "its timeline", lambda: selectors.timeline_of(asked)
    yield "sweep of ends", lambda: list(due_grants()[:50])
    yield "sweep of uses", lambda: used_up_grants(settled=timedelta(0), limit=500)
    yield "sweep of starts", sweeps.activate_grants
    yield "sweep of requests", lambda: sweeps.Round(100).part(sweeps._open())
    yield "numbers", selectors.how_many


def whole_tables(sql: str) -> list[str]:
    """The growing tables that a query reads as a whole, other than in the order of their keys."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            # With so few rows it would be no mistake; what is left of it is what no index can do.
            ways = ("enable_seqscan", "enable_hashjoin", "enable_mergejoin")
            cursor.execute("; ".join(f"SET LOCAL {way} = off" for way in ways))
            cursor.execute(f"EXPLAIN (FORMAT JSON) {sql}")
            plan = cursor.fetchone()[0]
            cursor.execute("; ".join(f"SET LOCAL {way} = on" for way in ways))
            return list(_sequential(json.loads(plan) if isinstance(plan, str) else plan))
        cursor.execute("EXPLAIN QUERY PLAN " + sql.replace("%", "%%"))
        steps = [str(row[3]) for row in cursor.fetchall()]
    keys = re.compile(r"USING (COVERING )?INDEX sqlite_autoindex_\w+_1\b")
    names = [(step, match[1]) for step in steps if (match := re.match(r"SCAN (\w+)", step))]
    return [step for step, name in names if name in {*GROWING, "U0", "U1", "V0"} and not keys.search(step)]


def _sequential(plan: Any) -> Iterator[str]:
    if isinstance(plan, list):
        for part in plan:
            yield from _sequential(part)
    elif isinstance(plan, dict):
        index = str(plan.get("Index Name", ""))
        by_key = "Index Cond" in plan or index.endswith("_pkey") or plan.get("Node Type", "").startswith("Bitmap")
        few = index.startswith("jit_grant_live")  # an index of those that have not ended
        if plan.get("Relation Name") in GROWING and not (by_key or few):
            yield f"{plan['Node Type']} on {plan['Relation Name']} {index}".strip()
        for part in plan.values():
            yield from _sequential(part)


def test_no_list_reads_a_whole_table_or_asks_twenty_questions(actors: Actors) -> None:
    wrong = []
    for name, do in lists(actors):
        with CaptureQueriesContext(connection) as queries:
            do()
        asked = [query["sql"] for query in queries if any(table in query["sql"] for table in GROWING)]
        wrong += [f"{name}: {found}" for sql in asked for found in whole_tables(sql)]
        if len(queries) > MOST:
            wrong.append(f"{name}: {len(queries)} queries")
    assert wrong == []


def test_a_query_without_an_index_would_be_found(actors: Actors) -> None:
    one = actors.agents[0].pk
    for rows in (
        AccessRequest.objects.filter(items__contains="x").order_by("reason"),
        AccessRequest.objects.filter(Q(supersedes=one) | Q(extends__request=one)).order_by("reason"),
    ):
        with CaptureQueriesContext(connection) as queries:
            list(rows)
        assert whole_tables(queries[0]["sql"]) != []


def test_no_page_asks_more_than_twenty_questions(actors: Actors) -> None:
    waiting, asked = (AccessRequest.objects.filter(status=status).latest("pk").pk for status in ("pending", "approved"))
    pages = ["/", "/requests/", *(f"/requests/?state={state}" for state in State)]
    pages += [f"/requests/{waiting}/", f"/requests/{asked}/"]
    admin = [f"/admin/jit_requests/{name}/" for name in ("accessrequest", "decision", "grant", "review")]
    admin += [f"/admin/jit_requests/accessrequest/?q={asked}", f"/admin/jit_requests/accessrequest/{asked}/change/"]
    counted = {}
    for user, wanted in ((actors.root, [*pages, *admin]), (actors.auditor, pages), (actors.member, pages[:-2])):
        client = Client()
        client.force_login(user)
        client.get(f"/requests/{waiting}/")  # the first look of a process reads policy, once for all
        for page in wanted:
            with CaptureQueriesContext(connection) as queries:
                assert client.get(page).status_code == 200, page
            counted[user.username, page] = len(queries)
    assert {page: count for page, count in counted.items() if count > MOST} == {}


@pytest.mark.parametrize("width", [1, 30, 10_000])
def test_however_few_are_looked_at_first_pages_are_the_same(
    actors: Actors, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near, "WIDTH", width)
    member = actors.member
    hats = standing.hats_of(member)
    mine = AccessRequest.objects.filter(concerns__subject__in=hats, status="denied").distinct().order_by("-pk")
    expected = list(mine.values_list("pk", flat=True))
    assert 20 < len(expected) < 200

    def page(**where: Any) -> Part[AccessRequest]:
        return selectors.page_of_requests(member, state=State.DENIED, size=17, **where)

    there, part = [], page()
    assert part.newer is None
    while True:
        there += [row.pk for row in part.rows]
        if part.older is None:
            break
        part = page(before=part.older)
    assert there == expected
    back: list[Any] = [row.pk for row in part.rows]
    while part.newer:
        part = page(after=part.newer)
        back = [row.pk for row in part.rows] + back
    assert back == expected
    grants = [grant.pk for grant in selectors.page_of_grants(member, size=1000).rows]
    held = Grant.objects.filter(request__concerns__subject__in=hats).distinct().order_by("-pk")
    assert grants == list(held.values_list("pk", flat=True))
    assert selectors.page_of_grants(member, size=3).rows == list(held[:3])


def test_a_sweep_goes_on_until_nothing_is_due_in_short_transactions(
    actors: Actors, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert tasks.end_due_grants() == SMALL.due
    parts = -(-SMALL.due // tasks.PART)
    assert len(queries) < 20 * parts + 5, "many ends in a few statements"
    assert tasks.end_due_grants() == 0
    ended = Entry.objects.filter(event="grant.expired")
    assert ended.values("grant").distinct().count() == ended.count() == SMALL.due
    assert Grant.objects.filter(ended_at=None).count() == SMALL.live
    clock.shift(9 * 3600)
    monkeypatch.setattr(tasks, "PART", 8)
    monkeypatch.setattr(tasks, "SECONDS", 0.0)
    assert [tasks.end_due_grants() for _ in range(4)] == [8, 8, 4, 0], "its time was up after each part"


def test_only_one_sweep_of_a_process_goes_on_and_the_others_do_a_part(
    actors: Actors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "PART", 50)
    with tasks._one_goes_on:
        assert tasks.end_due_grants() == 50
    assert tasks.end_due_grants() == SMALL.due - 50
    assert not tasks._one_goes_on.locked()


@pytest.mark.postgresql_only
@pytest.mark.django_db(transaction=True)
def test_a_grant_that_a_frozen_process_holds_stops_no_sweep(cast: Cast, clock: Clock) -> None:
    held, free = cast.grant(seconds=60), cast.grant("git_add", seconds=60)
    clock.shift(90)
    locked, over = threading.Event(), threading.Event()

    def hold() -> None:
        try:
            with transaction.atomic():
                Grant.objects.select_for_update().get(pk=held.pk)
                locked.set()
                over.wait(20)
        finally:
            connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert locked.wait(10)
        with gains("grant.expired"):
            assert tasks.end_due_grants() == 1
        free.refresh_from_db()
        assert free.end_reason == "expired"
    finally:
        over.set()
        thread.join()
    with gains("grant.expired"):
        assert tasks.end_due_grants() == 1

"""No page asks the database more than twenty questions, whoever looks at it first and however much it shows."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.contrib.auth.models import Permission
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from bench.history import Actors, Scale, fill, people, record
from bench.scenarios.pages import MOST_QUERIES, paths
from jitaccess.audit import figures
from jitaccess.audit.kept import FRESH, keep, kept
from jitaccess.audit.models import Kept
from jitaccess.identity.models import Agent
from jitaccess.policy.models import Requestable
from jitaccess.store.clock import now
from requests_app.overview import keep_all
from tests.cast import Cast
from tests.clocks import Clock

SMALL = Scale(requests=900, grants=270, live=60, pending=60, agents=20, users=20, teams=5)
ENTRIES = 3000


@pytest.fixture
def actors(db: None) -> Actors:
    found = people(SMALL)
    fill(SMALL, found)
    record(ENTRIES, found)
    while figures.count():
        pass
    keep_all(now())
    found.auditor.user_permissions.add(Permission.objects.get(codename="view_entry"))
    return found


def test_no_page_takes_more_than_twenty_queries(actors: Actors) -> None:
    looked, many = 0, dict[str, int]()
    for user in (actors.root, actors.auditor, actors.member):
        client = Client(HTTP_HOST=urlsplit(settings.PUBLIC_URL).netloc)
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        client.get("/requests/new/")  # a process reads all of policy once
        for path in dict.fromkeys(paths(actors)):
            if "?" in path and user == actors.root:
                continue  # filters ask least for who sees everything
            cache.clear()
            with CaptureQueriesContext(connection) as queries:
                status = client.get(path).status_code
            assert status < 500, path
            looked += status == 200
            if len(queries) > MOST_QUERIES:
                many[f"{path} for {user}"] = len(queries)
    assert looked > 90
    assert many == {}


def test_what_is_kept_is_read_and_what_is_old_is_made_anew(db: None, clock: Clock) -> None:
    keep({"answer": [1]})
    assert kept("answer", lambda: [2], now()) == [1]
    assert kept("question", lambda: [3], now()) == [3]
    clock.shift(FRESH.total_seconds() + 1)
    assert kept("answer", lambda: [2], now()) == [2]
    keep({"answer": [4]})
    assert kept("answer", lambda: [5], now()) == [4]
    assert Kept.objects.count() == 1


def test_deciding_ten_together_asks_as_much_as_deciding_two(cast: Cast, browser) -> None:
    Requestable.objects.create(server=cast.server, access="read", max_minutes=240, policy=cast.policy)
    cast.read_only.bindings.all().delete()
    agents = [Agent.objects.create(name=f"agent-{n}", owner=cast.olga, team=cast.team) for n in range(10)]
    client, asked = browser(cast.anna), dict[int, int]()
    first = cast.submit("git_log", principal=cast.principal(agent=agents[0]))
    for n, agent in enumerate(agents[1:], start=2):
        cast.submit("git_log", principal=cast.principal(agent=agent))
        if n not in {2, 10}:
            continue
        page = f"/requests/bulk/?like={first.pk}"
        client.get(page)
        with CaptureQueriesContext(connection) as queries:
            html = client.get(page).content.decode()
        assert f"Decide {n} together" in html
        asked[n] = len(queries)
    assert asked[10] == asked[2] <= MOST_QUERIES

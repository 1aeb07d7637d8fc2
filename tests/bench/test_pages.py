"""What `python -m bench pages` does, with little: the ledger it writes is whole, and every page is looked at."""

from __future__ import annotations

import pytest
from django.core.cache import cache
from django.db.models import Max

from bench.history import Scale, fill, people, record
from bench.report import Report
from bench.scenarios import pages
from jitaccess.audit.models import Entry, Leaf, Unsequenced

SMALL = Scale(requests=60, grants=18, live=4, pending=4, agents=10, users=10, teams=4, days=10)


@pytest.mark.django_db
def test_the_ledger_of_the_measurement_is_counted_and_every_page_is_looked_at() -> None:
    actors, report, worst = people(SMALL), Report("pages", "SQLite"), pages._Worst()
    fill(SMALL, actors)
    record(100, actors, days=10)
    assert Entry.objects.filter(agent__isnull=False).count() == 100
    assert Leaf.objects.aggregate(last=Max("seq"))["last"] == 100
    assert not Unsequenced.objects.exists()
    pages._count(report, 100)
    rows = list(pages._looks(report, "superuser", actors.root, actors, 1, worst))
    cache.clear()
    seen = {row[0].partition("?")[0] for row in rows}
    assert {"/", "/requests/", "/activity/", "/overview/", "/overview/anomalies/first-use/"} <= seen
    assert sum(row[0].startswith("/activity/?") for row in rows) == 15
    assert report.violations == []
    assert 3 < worst.queries <= pages.MOST_QUERIES

"""Finding entries: the same as a look at every one, page by page, however little is looked through at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from random import Random
from typing import Any
from uuid import UUID

import pytest
from django.db import connection, transaction
from django.db.models import Q
from django.test.utils import CaptureQueriesContext

from jitaccess.audit import search
from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor, Facts, record_many
from jitaccess.audit.search import Kind, Sought, between, find

pytestmark = pytest.mark.django_db
START = datetime(2026, 5, 4, tzinfo=UTC)
IDS = [UUID(int=number) for number in range(1, 4)]
EVENTS = (Event.CALL_AUTHORIZED, Event.CALL_DENIED, Event.ROLE_SAVED)


@pytest.fixture
def entries() -> list[Entry]:
    choice = Random(7)
    with transaction.atomic():
        record_many(
            Facts(
                event=choice.choice(EVENTS),
                at=START + timedelta(minutes=choice.randrange(600)),
                actor=Actor(agent=choice.choice([*IDS, None]), user=choice.choice([*IDS, None])),
                request=choice.choice([*IDS, None]),
                grant=choice.choice([*IDS, None]),
                server=choice.choice(IDS),
                tool=choice.choice("ab"),
            )
            for _ in range(120)
        )
    return list(Entry.objects.order_by("-uid"))


def all_of(sought: Sought, **options: Any) -> list[UUID]:
    """By going on until there is no older part."""
    found: list[UUID] = []
    before = None
    for _ in range(200):
        part = find(sought, before=before, size=7, **options).part
        found += [entry.uid for entry in part.rows]
        before = part.older
        if before is None:
            return found
    raise AssertionError("it never ends")


def holds(sought: Sought, entry: Entry) -> bool:
    alike = all(
        getattr(sought, name) in (None, "", getattr(entry, name))
        for name in ("agent", "user", "server", "tool", "grant")
    )
    asked = sought.request in (None, entry.request) or (sought.given and entry.grant == sought.given)
    return alike and bool(asked) and (not sought.events or entry.event in sought.events)


@pytest.mark.parametrize("width", [1, 10, 1000])
def test_pages_add_up_to_what_a_look_at_every_entry_finds(
    entries: list[Entry], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(search, "WIDTH", width)
    monkeypatch.setattr(search, "_FEW", width)
    one, other = IDS[0], IDS[1]
    for agent, user, tool, events, request in product(
        (None, one), (None, other), ("", "a"), ((), EVENTS[:1], EVENTS[:2]), ({}, {"request": one, "given": other})
    ):
        sought = Sought(agent=agent, user=user, tool=tool, events=events, **request)
        assert all_of(sought) == [entry.uid for entry in entries if holds(sought, entry)], sought


@pytest.mark.parametrize("width", [3, 1000])
def test_within_what_somebody_may_see_pages_add_up_too(
    entries: list[Entry], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(search, "WIDTH", width)
    within = [Kind(kind, kind) for kind in (Q(agent__in=IDS[:1]), Q(request__in=IDS[1:2]))]
    mine = [entry for entry in entries if entry.agent == IDS[0] or entry.request == IDS[1]]
    for sought in (Sought(), Sought(tool="b"), Sought(events=EVENTS[:2]), Sought(agent=IDS[2], user=IDS[0])):
        assert all_of(sought, within=within) == [entry.uid for entry in mine if holds(sought, entry)], sought
    assert all_of(Sought(), within=[]) == []


def test_going_back_comes_to_the_page_before(entries: list[Entry]) -> None:
    first = find(Sought(), size=20).part
    second = find(Sought(), before=first.older, size=20).part
    back = find(Sought(), after=second.newer, size=20).part
    assert [row.uid for row in back.rows] == [row.uid for row in first.rows]
    assert (back.newer, first.newer) == (None, None)


def test_time_is_exact_though_keys_say_another_day(entries: list[Entry]) -> None:
    # All keys are of today, all times of that day in May: no key is within a day of them.
    assert all_of(Sought(since=START, until=START + timedelta(hours=10))) == []
    now = datetime.now(UTC)
    with transaction.atomic():
        uids = record_many(
            Facts(event=Event.ROLE_SAVED, actor=Actor(), at=now + timedelta(hours=hours))
            for hours in (-20, -1, 0, 5, 20)
        )
    for since, until, expected in ((-21, -2, uids[:1]), (-1, 5, uids[1:3]), (0, None, uids[2:]), (None, 0, uids[:2])):
        bounds = [None if hours is None else now + timedelta(hours=hours) for hours in (since, until)]
        found = all_of(Sought(since=bounds[0], until=bounds[1]))
        assert set(found) - {entry.uid for entry in entries} == set(expected)
        assert set(Entry.objects.filter(between(*bounds)).values_list("uid", flat=True)) == set(found)


def test_a_page_takes_a_few_queries(entries: list[Entry]) -> None:
    within = [Kind(kind, kind) for kind in (Q(agent__in=IDS[:1]), Q(request__in=IDS[1:2]))]
    for sought, most in ((Sought(), 2), (Sought(tool="a"), 3), (Sought(events=EVENTS), 2)):
        for options in ({}, {"within": within}):
            with CaptureQueriesContext(connection) as queries:
                find(sought, **options)
            assert len(queries) <= most + 6 * bool(options), sought

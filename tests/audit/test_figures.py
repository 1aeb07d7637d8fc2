"""The figures count the ledger: each entry once, whoever dies or comes second, and as the entries themselves say."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from django.db import connection, transaction

from jitaccess.audit import figures
from jitaccess.audit.events import Event
from jitaccess.audit.models import Burst, Cursor, DayOfAgent, Entry, HourCount, ToolUse
from jitaccess.audit.recorder import Actor, Facts, record_many
from jitaccess.audit.sequencer import sequence
from tests.clocks import Clock

pytestmark = pytest.mark.django_db
DAY = datetime(2026, 5, 4, tzinfo=UTC)
AGENT, OTHER, GIT, FILES = (UUID(int=number) for number in (1, 2, 3, 4))


def happened(*what: tuple[Event, timedelta, UUID | None, UUID | None, str]) -> None:
    """Entries of a made-up day: event, time of day, agent, server, tool; all in their place in the ledger."""
    names = {AGENT: "demo-agent", OTHER: "other-agent", GIT: "git", FILES: "files", None: ""}
    with transaction.atomic():
        record_many(
            Facts(
                event=event, at=DAY + at, actor=Actor(agent=agent, agent_name=names[agent], user_name="x"),
                server=server, server_name=names[server], tool=tool, call=uuid4(),
            )
            for event, at, agent, server, tool in what
        )  # fmt: skip
    while sequence():
        pass


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def a_day() -> None:
    happened(
        (Event.CALL_AUTHORIZED, minutes(0), AGENT, GIT, "git_log"),
        (Event.CALL_AUTHORIZED, minutes(59.99), AGENT, GIT, "git_log"),
        (Event.CALL_AUTHORIZED, minutes(60), AGENT, FILES, "read"),
        (Event.CALL_AUTHORIZED, minutes(61), OTHER, GIT, "git_log"),
        (Event.CALL_DENIED, minutes(9), AGENT, GIT, "git_add"),
        (Event.CALL_DENIED, minutes(9.9), AGENT, GIT, "git_add"),
        (Event.CALL_DENIED, minutes(10), AGENT, GIT, "git_add"),
        (Event.CALL_REPEATED, minutes(10), AGENT, GIT, "git_log"),
        (Event.ROLE_SAVED, minutes(5), None, None, ""),
    )


def everything() -> list[object]:
    return [
        sorted(model.objects.values_list(*(field.name for field in model._meta.fields if field.name != "id")))
        for model in (HourCount, DayOfAgent, ToolUse, Burst)
    ]


def test_hours_are_counted_by_event_in_all_and_by_server() -> None:
    a_day()
    assert figures.count() == 9
    found = Counter({(row.server, row.event, row.hour): row.n for row in HourCount.objects.all()})
    first, second = DAY, DAY + timedelta(hours=1)
    assert found == {
        (figures.ALL_SERVERS, "call.authorized", first): 2,
        (figures.ALL_SERVERS, "call.authorized", second): 2,
        (figures.ALL_SERVERS, "call.denied", first): 3,
        (figures.ALL_SERVERS, "call.repeated", first): 1,
        (figures.ALL_SERVERS, "role.saved", first): 1,
        (GIT, "call.authorized", first): 2,
        (GIT, "call.authorized", second): 1,
        (FILES, "call.authorized", second): 1,
        (GIT, "call.denied", first): 3,
        (GIT, "call.repeated", first): 1,
    }
    assert set(HourCount.objects.filter(server=GIT).values_list("server_name", flat=True)) == {"git"}


def test_agents_tools_and_ten_minutes_of_trouble_are_counted() -> None:
    a_day()
    figures.count()
    days = {(row.agent, row.event, row.day): row.n for row in DayOfAgent.objects.all()}
    assert days[AGENT, "call.authorized", DAY] == 3
    assert days[AGENT, "call.denied", DAY] == 3
    assert len(days) == 4
    use = ToolUse.objects.get(agent=AGENT, server=GIT)
    assert (use.tool, use.n, use.first, use.last) == ("git_log", 2, DAY, DAY + minutes(59.99))
    assert ToolUse.objects.count() == 3
    bursts = {(row.event, row.at): row.n for row in Burst.objects.all()}
    assert bursts == {
        ("call.denied", DAY): 2,
        ("call.denied", DAY + minutes(10)): 1,
        ("call.repeated", DAY + minutes(10)): 1,
    }


def test_counting_twice_is_counting_once_and_what_is_new_is_added() -> None:
    a_day()
    figures.count()
    before = everything()
    assert figures.count() == 0
    assert everything() == before
    happened((Event.CALL_AUTHORIZED, minutes(30), AGENT, GIT, "git_log"))
    assert figures.count() == 1
    use = ToolUse.objects.get(agent=AGENT, server=GIT)
    assert (use.n, use.first, use.last) == (3, DAY, DAY + minutes(59.99))


def test_small_steps_count_what_one_step_counts() -> None:
    a_day()
    figures.count()
    whole = everything()
    for model in (HourCount, DayOfAgent, ToolUse, Burst, Cursor):
        model.objects.all().delete()
    steps = 0
    while figures.count_step(2):
        steps += 1
    assert steps == 5
    assert everything() == whole


def test_a_step_that_fails_leaves_nothing_counted_and_the_next_one_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    a_day()
    counts = figures._counts

    def broken() -> list[figures._Count]:
        bad = counts()
        return [*bad[:2], figures._Count("no_such_table", {"x": "e.event"}, {}, {"x": "1"}, "")]

    monkeypatch.setattr(figures, "_counts", broken)
    with pytest.raises(Exception, match="no_such_table"), transaction.atomic():
        figures.count()
    assert not HourCount.objects.exists()
    monkeypatch.setattr(figures, "_counts", counts)
    assert figures.count() == 9
    assert sum(HourCount.objects.filter(server=figures.ALL_SERVERS).values_list("n", flat=True)) == 9


def test_the_figures_agree_with_the_entries_they_are_of() -> None:
    a_day()
    figures.count()
    for row in HourCount.objects.exclude(server=figures.ALL_SERVERS):
        rows = Entry.objects.filter(server=row.server, event=row.event)
        assert rows.filter(at__gte=row.hour, at__lt=row.hour + timedelta(hours=1)).count() == row.n


def test_nothing_is_counted_of_an_empty_ledger_and_no_cursor_is_made() -> None:
    assert figures.count() == 0
    assert not Cursor.objects.exists()


def test_no_step_reads_anything_but_its_own_entries() -> None:
    """SQLite counts no rows: without being told it would read all entries of an event for each step. PostgreSQL would
    read all entries there are, when it believes that they are few.
    """
    if connection.vendor == "postgresql":
        a_day()
        assert figures.count() == 9
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE jit_audit_entry, jit_audit_leaf")
        happened((Event.CALL_AUTHORIZED, minutes(30), AGENT, GIT, "git_log"))
        before = read_of_entries()
        assert figures.count() == 1
        assert read_of_entries() == (before[0], before[1] + 1)
        return
    for statement in figures._statements():
        with connection.cursor() as cursor:
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", [1, 2])
            plan = [row[-1] for row in cursor.fetchall()]
        assert plan[0].startswith("SEARCH leaf"), plan


def read_of_entries() -> tuple[int, int]:
    """How often all of them were read, and how many one by one; on PostgreSQL, in this transaction."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT seq_scan, idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'jit_audit_entry'")
        return cursor.fetchone()


def test_figures_that_no_page_shows_any_more_go_and_uses_and_entries_stay(clock: Clock) -> None:
    a_day()
    figures.count()
    entries, uses = Entry.objects.count(), ToolUse.objects.count()
    clock.at(DAY + timedelta(days=30))
    assert figures.tidy(part=2) == 0
    clock.at(DAY + timedelta(days=32))
    assert figures.tidy(part=2) > 0
    assert not Burst.objects.exists()
    assert HourCount.objects.exists()
    assert DayOfAgent.objects.exists()
    clock.at(DAY + timedelta(days=94))
    figures.tidy(part=2)
    assert not HourCount.objects.exists()
    assert not DayOfAgent.objects.exists()
    assert (ToolUse.objects.count(), Entry.objects.count()) == (uses, entries)
    assert figures.count() == 0

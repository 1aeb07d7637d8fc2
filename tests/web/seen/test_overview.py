"""The overview and what is out of the ordinary: every number is that of the rows behind its link."""

from __future__ import annotations

import html
import re
from datetime import timedelta

import pytest
from django.core.cache import cache
from django.db import transaction
from django.test import Client

from jitaccess.audit import figures
from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry, HourCount
from jitaccess.audit.recorder import Actor, Facts, record_many
from jitaccess.audit.sequencer import sequence
from jitaccess.identity.models import Agent
from jitaccess.web.seen.charts import ceiling, number
from requests_app.models import Decision
from tests.cast import Cast
from tests.clocks import Clock
from tests.web.seen.test_activity import HOSTILE, auditor, called

RULES = (
    "denial-bursts", "repeated-calls", "unused-grants", "frequent-askers", "slow-approvals", "quick-decisions",
    "first-use",
)  # fmt: skip


def counted() -> None:
    while sequence():
        pass
    figures.count()
    cache.clear()


def refused(cast: Cast, times: int, event: Event = Event.CALL_DENIED, name: str = "demo-agent") -> None:
    actor = Actor(agent=cast.agent.pk, agent_name=name)
    facts = Facts(event=event, actor=actor, outcome=Outcome.DENIED, server=cast.server.pk, server_name="git", tool="x")
    with transaction.atomic():
        record_many([facts] * times)


def entries_behind(client: Client, url: str) -> int:
    """All pages of it."""
    found = 0
    while url:
        page = client.get(url)
        assert page.status_code == 200, url
        found += len(page.context["rows"])
        on = re.search(r'rel="next" href="(.*?)"', page.content.decode())
        url = "/activity/" + html.unescape(on[1]) if on else ""
    return found


def row_of(client: Client, rule: str) -> dict[str, object]:
    """The only finding of a rule."""
    (row,) = client.get(f"/overview/anomalies/{rule}/").context["rows"]
    assert isinstance(row, dict)
    return row


def test_every_number_of_a_chart_links_to_exactly_that_many_entries(cast: Cast, browser) -> None:
    grant = cast.grant()
    for _ in range(3):
        called(cast, grant.pk)
    refused(cast, 4)
    refused(cast, 1, Event.CALL_DENIED_AGAIN)
    cast.deny(cast.submit("git_add"))
    counted()
    client = browser(cast.admin)
    for span in ("", "?span=week", "?span=month"):
        charts = client.get(f"/overview/{span}").context["charts"]
        cells = [cell for chart in charts for row in chart["rows"] for cell in row[1:] if cell["text"] != "0"]
        assert sorted(cell["text"] for cell in cells) == ["1", "1", "2", "3", "5"], span
        for cell in cells:
            assert entries_behind(client, cell["url"]) == int(cell["text"]), cell
    assert "Let through: 3 in all; Refused: 5 in all" in client.get("/overview/").content.decode()


def test_the_figures_on_top_link_to_their_rows(cast: Cast, browser) -> None:
    grant = cast.grant()
    called(cast, grant.pk)
    waiting = cast.submit("git_add")
    counted()
    client = browser(auditor(cast.anna))
    stats = {one["label"]: one for one in client.get("/overview/").context["stats"]}
    assert [stats[label]["value"] for label in ("Open requests", "Live grants", "Calls let through")] == ["1", "1", "1"]
    assert str(waiting.pk) in client.get(stats["Open requests"]["url"]).content.decode()
    assert client.get(stats["Live grants"]["url"]).status_code == 200
    assert entries_behind(client, stats["Time to decision"]["url"]) == 1
    assert entries_behind(client, stats["Calls let through"]["url"]) == 1
    assert "the median of 1" in stats["Time to decision"]["about"]


def test_servers_are_ranked_by_their_calls_of_that_time(cast: Cast, browser) -> None:
    for _ in range(2):
        called(cast)
    counted()
    client = browser(cast.admin)
    (server,) = client.get("/overview/").context["servers"]
    assert (server["name"], server["n"]) == ("git", "2")
    assert entries_behind(client, server["url"]) == 2


def test_whoever_is_no_auditor_sees_the_calls_of_their_agents_alone(cast: Cast, browser) -> None:
    called(cast)
    other = Agent.objects.create(name="other", owner=cast.carl, team=cast.team)
    with transaction.atomic():
        record_many([Facts(event=Event.CALL_AUTHORIZED, actor=Actor(agent=other.pk, agent_name="other"))] * 7)
    cast.team.members.set([])
    counted()
    for user, calls in ((cast.olga, 1), (cast.carl, 7), (cast.anna, 0)):
        client = browser(user)
        answer = client.get("/overview/")
        stats = {one["label"]: one for one in answer.context["stats"]}
        assert stats["Calls let through"]["value"] == str(calls)
        assert entries_behind(client, stats["Calls let through"]["url"]) == calls
        assert "rules" not in answer.context
        assert "Out of the ordinary" not in answer.content.decode()
        assert "Time to decision" not in stats


def test_an_empty_installation_has_an_overview_and_empty_rules(db: None, browser) -> None:
    from jitaccess.identity.models import User

    client = browser(User.objects.create_superuser(username="root", email="", password="x"))
    page = client.get("/overview/").content.decode()
    assert "nobody decided this week" in page
    assert "<rect" not in re.sub(r'<ul class="legend">.*?</ul>', "", page, flags=re.DOTALL)
    assert client.get("/overview/anomalies/").status_code == 200
    for rule in RULES:
        assert "Nothing of this kind" in client.get(f"/overview/anomalies/{rule}/").content.decode()
    assert "Nothing happened yet" not in client.get("/overview/").content.decode()


def test_a_burst_of_refusals_is_found_with_its_entries(cast: Cast, browser, clock: Clock) -> None:
    _ten_minutes(clock, -3600)
    refused(cast, 7)
    refused(cast, 3, Event.CALL_DENIED_AGAIN)
    _ten_minutes(clock, -1800)
    refused(cast, 9)
    clock.restore()
    counted()
    client = browser(cast.admin)
    row = row_of(client, "denial-bursts")
    assert (row["name"], row["number"]) == ("demo-agent", "10")
    assert entries_behind(client, str(row["url"])) == 10


def _ten_minutes(clock: Clock, seconds: float) -> None:
    """At the beginning of ten minutes, so that what happens now is in the same."""
    clock.restore()
    at = clock.now() + timedelta(seconds=seconds)
    clock.at(at.replace(minute=at.minute // 10 * 10, second=1, microsecond=0))


def test_the_same_call_again_and_again_is_found_with_its_entries(cast: Cast, browser, clock: Clock) -> None:
    _ten_minutes(clock, -3600)
    refused(cast, 3, Event.CALL_REPEATED)
    clock.restore()
    counted()
    client = browser(cast.admin)
    row = row_of(client, "repeated-calls")
    assert row["number"] == "3"
    assert entries_behind(client, str(row["url"])) == 3


def test_a_grant_is_unused_after_half_of_its_time_unless_it_was_used(cast: Cast, browser, clock: Clock) -> None:
    unused, used = cast.grant(seconds=600), cast.grant("git_add", seconds=600)
    client = browser(cast.admin)
    assert client.get("/overview/anomalies/unused-grants/").context["rows"] == []
    clock.shift(320)
    called(cast, used.pk)
    counted()
    row = row_of(client, "unused-grants")
    assert row["finding"].key == str(unused.pk)  # type: ignore[attr-defined]
    assert str(unused.request_id) in str(row["url"])
    assert client.get(str(row["url"])).status_code == 200
    clock.shift(300)
    cache.clear()
    assert client.get("/overview/anomalies/unused-grants/").context["rows"] == []


def test_whoever_asks_twenty_times_a_day_is_found_with_the_requests(
    cast: Cast, browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("requests_app.anomalies.ASKS", 3)
    for tool in ("git_commit", "git_add"):
        cast.deny(cast.submit(tool))
    counted()
    client = browser(cast.admin)
    assert client.get("/overview/anomalies/frequent-askers/").context["rows"] == []
    cast.submit("git_reset")
    counted()
    row = row_of(client, "frequent-askers")
    assert (row["name"], row["number"]) == ("demo-agent", "3")
    assert entries_behind(client, str(row["url"])) == 3


def test_slow_and_quick_decisions_are_found_with_their_requests(
    cast: Cast, browser, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("requests_app.anomalies.SLOW", timedelta(minutes=10))
    client, slow = browser(cast.admin), cast.submit()
    clock.shift(700)
    cast.approve(slow)
    row = row_of(client, "slow-approvals")
    assert (row["name"], row["number"]) == ("review", "1")
    behind = client.get(str(row["url"]))
    assert [one.request.pk for one in behind.context["rows"]] == [slow.pk]
    for _ in range(5):
        cast.deny(cast.submit("git_add"), by=cast.bert)
    cache.clear()
    row = row_of(client, "quick-decisions")
    assert (row["name"], row["number"]) == ("bert", "5")
    assert len(client.get(str(row["url"])).context["rows"]) == 5
    assert Decision.objects.count() == 6


def test_the_first_use_of_a_server_is_found_for_a_week(cast: Cast, browser, clock: Clock) -> None:
    called(cast, tool="git_log")
    called(cast, tool="git_add")
    counted()
    client = browser(cast.admin)
    row = row_of(client, "first-use")
    assert (row["name"], row["number"]) == ("demo-agent", "2")
    assert entries_behind(client, str(row["url"])) == 2
    clock.shift(8 * 86_400)
    called(cast, tool="git_reset")
    counted()
    assert browser(cast.admin).get("/overview/anomalies/first-use/").context["rows"] == []


def test_a_finding_is_explained_with_a_reason_on_record_and_then_left_out(cast: Cast, browser, clock: Clock) -> None:
    _ten_minutes(clock, -3600)
    refused(cast, 12)
    clock.restore()
    counted()
    client = browser(cast.admin)
    key = row_of(client, "denial-bursts")["finding"].key  # type: ignore[attr-defined]
    address = "/overview/anomalies/denial-bursts/explain/"
    assert client.post(address, {"key": key, "reason": " \u200b"}).status_code == 400
    assert client.post(address, {"key": "other", "reason": "known"}).status_code == 404
    assert browser(cast.anna).post(address, {"key": key, "reason": "known"}).status_code == 404
    assert client.get(address).status_code == 405
    assert browser(cast.admin, csrf=True).post(address, {"key": key, "reason": "known"}).status_code == 403
    assert not Entry.objects.filter(event=Event.ANOMALY_DISMISSED).exists()
    assert client.post(address, {"key": key, "reason": HOSTILE}).status_code == 302
    entry = Entry.objects.get(event=Event.ANOMALY_DISMISSED)
    assert entry.user == cast.admin.pk
    assert client.get("/overview/anomalies/denial-bursts/").context["rows"] == []
    assert "<script>alert" not in client.get(f"/activity/{entry.uid}/").content.decode()


def test_anomalies_are_for_auditors(cast: Cast, browser) -> None:
    for path in ("/overview/anomalies/", *(f"/overview/anomalies/{rule}/" for rule in RULES)):
        assert browser(cast.anna).get(path).status_code == 404
        assert Client().get(path).status_code == 302
        assert browser(cast.admin).get(path).status_code == 200
    assert browser(cast.admin).get("/overview/anomalies/other/").status_code == 404
    assert browser(cast.admin).get("/overview/?span=year").status_code == 400


def test_names_of_agents_are_inert_wherever_they_are_shown(cast: Cast, browser, clock: Clock) -> None:
    _ten_minutes(clock, -3600)
    refused(cast, 12, name=HOSTILE)
    clock.restore()
    counted()
    client = browser(cast.admin)
    for path in ("/overview/", "/overview/anomalies/denial-bursts/", "/activity/"):
        page = client.get(path).content.decode()
        assert "<script>alert" not in page
        assert "\u202e" not in page
        assert "style=" not in page


def test_the_overview_costs_a_bounded_number_of_queries_and_few_when_it_was_just_seen(
    cast: Cast, browser, django_assert_max_num_queries
) -> None:
    grant = cast.grant()
    called(cast, grant.pk)
    cast.submit("git_add")
    counted()
    for user in (cast.admin, auditor(cast.anna), cast.olga):
        client = browser(user)
        for limit in (30, 20):
            with django_assert_max_num_queries(limit):
                client.get("/overview/")
    assert HourCount.objects.exists()


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (1, 1), (3, 5), (10, 10), (11, 20), (51, 100), (1_204_377, 2_000_000)]
)
def test_the_upper_edge_of_a_chart_is_round_and_not_below_anything(value: int, top: int) -> None:
    assert ceiling(value) == top
    assert number(1_204_377) == "1\u202f204\u202f377"

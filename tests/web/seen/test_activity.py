"""The activity page: who sees what of the ledger, filters, a request's whole life, one entry, the export."""

from __future__ import annotations

import html
import json
import re
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from django.contrib.auth.models import Permission
from django.db import transaction
from django.test import Client

from jitaccess.audit import search
from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor, Facts, record, record_many
from jitaccess.audit.sequencer import plain
from jitaccess.identity.models import Agent, User
from jitaccess.store.clock import now
from requests_app.models import AccessRequest
from requests_app.selectors import timeline_of
from tests.cast import Cast

HOSTILE = "<script>alert(1)</script>\u202e@anna\u200b"


def auditor(user: User) -> User:
    user.user_permissions.add(Permission.objects.get(codename="view_entry"))
    return User.objects.get(pk=user.pk)


def happen(event: Event, actor: Actor, **facts: object) -> UUID:
    with transaction.atomic():
        return record(Facts(event=event, actor=actor, **facts))  # type: ignore[arg-type]


def called(cast: Cast, grant: UUID | None = None, tool: str = "git_commit", **facts: object) -> UUID:
    actor = Actor(agent=cast.agent.pk, agent_name="demo-agent", user_name="")
    values = {"server": cast.server.pk, "server_name": "git", "tool": tool, "call": uuid4(), "grant": grant}
    return happen(Event.CALL_AUTHORIZED, actor, **(values | {"outcome": Outcome.ALLOWED} | facts))


def shown(client: Client, query: str = "") -> list[UUID]:
    answer = client.get(f"/activity/{query}")
    assert answer.status_code == 200
    return [line.uid for line in answer.context["rows"]]


def test_an_auditor_sees_everything_latest_first_and_a_stranger_nothing(cast: Cast, browser) -> None:
    cast.grant()
    called(cast)
    everything = list(Entry.objects.values_list("uid", flat=True)[:50])
    assert shown(browser(auditor(cast.carl))) == everything
    assert shown(browser(cast.admin))[:5] == list(Entry.objects.values_list("uid", flat=True)[:5])
    stranger = User.objects.create_user(username="stranger", password="x")
    assert shown(browser(stranger)) == []


def test_an_owner_sees_their_agents_and_an_approver_the_requests_they_decide(cast: Cast, browser) -> None:
    grant = cast.grant()
    use = called(cast, grant.pk)
    own = set(Entry.objects.filter(agent=cast.agent.pk).values_list("uid", flat=True))
    asked = set(Entry.objects.filter(request=grant.request_id).values_list("uid", flat=True))
    assert set(shown(browser(cast.olga))) == own | asked
    reviewer = User.objects.create_user(username="rita", password="x")
    cast.reviewers.members.add(reviewer)
    again = cast.submit("git_add")
    seen = set(shown(browser(reviewer)))
    assert seen >= set(Entry.objects.filter(request=again.pk).values_list("uid", flat=True))
    assert use not in seen
    assert not set(Entry.objects.filter(event__startswith="role.").values_list("uid", flat=True)) & seen


def test_an_agents_entries_are_not_shown_to_the_owner_of_another(cast: Cast, browser) -> None:
    other = Agent.objects.create(name="other", owner=cast.carl, team=cast.team)
    cast.team.members.remove(cast.bert)
    called(cast)
    client = browser(cast.carl)
    assert shown(client) == []
    assert shown(client, "?agent=demo-agent") == []
    happen(Event.CALL_DENIED, Actor(agent=other.pk, agent_name="other"), outcome=Outcome.DENIED)
    assert len(shown(client)) == 1


def test_filters_find_what_a_look_at_every_entry_finds(cast: Cast, browser) -> None:
    grant = cast.grant()
    called(cast, grant.pk)
    called(cast, tool="git_log", outcome=Outcome.ERROR)
    happen(Event.ROLE_SAVED, Actor(user=cast.anna.pk, user_name="anna"))
    client = browser(cast.admin)
    rows = list(Entry.objects.all())
    for query, holds in {
        "agent=demo-agent": lambda e: e.agent == cast.agent.pk,
        "user=anna": lambda e: e.user == cast.anna.pk,
        "server=git": lambda e: e.server == cast.server.pk,
        "tool=git_log": lambda e: e.tool == "git_log",
        "outcome=error": lambda e: e.outcome == "error",
        "what=calls": lambda e: e.event.startswith("call."),
        "what=role.saved": lambda e: e.event == "role.saved",
        "what=requests&agent=demo-agent": lambda e: e.event.startswith(("request.", "decision.")) and e.agent,
        "server=git&outcome=allowed&what=calls": lambda e: e.event.startswith("call.") and e.outcome == "allowed",
        f"grant={grant.pk}": lambda e: e.grant == grant.pk,
        f"request={grant.request_id}&view=entries": lambda e: grant.pk == e.grant or e.request == grant.request_id,
        "agent=nobody": lambda _: False,
        "user=demo-agent": lambda _: False,
    }.items():
        expected = [entry.uid for entry in rows if holds(entry)]
        assert shown(client, f"?{query}") == expected, query
        assert len(expected) > 0 or "nobody" in query or query == "user=demo-agent", query


def test_time_is_that_of_the_database_even_where_the_hosts_clock_is_hours_away(cast: Cast, browser, clock) -> None:
    clock.shift(-5 * 3600)
    before = now()
    early = called(cast)  # its key says five hours later than its time
    clock.restore()
    called(cast)
    since, until = (
        f"{moment:%Y-%m-%dT%H:%M}" for moment in (before - timedelta(minutes=1), before + timedelta(hours=1))
    )
    found = shown(browser(cast.admin), f"?what=call.authorized&since={since}&until={until}")
    assert found == [early]


@pytest.mark.parametrize(
    "query",
    ["what=x", "outcome=maybe", "request=1", "before=x", "since=yesterday", "until=0001-01-01", "agent=%00",
     "since=9999-12-31T00:00", f"tool={'x' * 201}"],
)  # fmt: skip
def test_what_is_no_filter_is_refused(cast: Cast, browser, query: str) -> None:
    assert browser(cast.anna).get(f"/activity/?{query}").status_code == 400
    assert browser(cast.anna).get(f"/activity/export/?{query}").status_code == 400


def links(client: Client, query: str = "") -> dict[str, str]:
    page = client.get(f"/activity/{query}").content.decode()
    found = re.findall(r'<a class="button quiet" rel="(\w+)" href="(.*?)">', page)
    return {rel: html.unescape(url) for rel, url in found}


def test_five_hundred_entries_are_reached_by_going_on_and_back(cast: Cast, browser) -> None:
    with transaction.atomic():
        facts = Facts(event=Event.CALL_DENIED, actor=Actor(agent=cast.agent.pk, agent_name="demo-agent"))
        record_many([facts] * 500)
    everything = list(Entry.objects.filter(event="call.denied").values_list("uid", flat=True))
    client, query, found = browser(cast.admin), "?what=call.denied", []
    while True:
        part = shown(client, query)
        found += part
        on = links(client, query)
        if "next" not in on:
            break
        query = on["next"]
        assert shown(client, links(client, query)["prev"]) == part
    assert found == everything


def test_what_no_index_knows_is_looked_for_a_stretch_at_a_time_and_that_is_said(
    cast: Cast, browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "WIDTH", 10)
    old = called(cast, tool="needle")
    with transaction.atomic():
        record_many([Facts(event=Event.CALL_DENIED, actor=Actor(agent=uuid4(), agent_name="x"))] * 25)
    client, query, looks = browser(cast.admin), "?tool=needle", 0
    while not shown(client, query):
        looks += 1
        assert "Looked for it back to" in client.get(f"/activity/{query}").content.decode()
        query = links(client, query)["next"]
    assert (shown(client, query), looks) == ([old], 2)
    query, looks = f"?tool=needle&after={Entry.objects.earliest('uid').uid}", 0
    while not shown(client, query):
        query, looks = links(client, query)["prev"], looks + 1
    assert shown(client, query) == [old]
    assert looks > 0


def test_somebody_of_whom_little_is_among_the_latest_sees_all_of_theirs(
    cast: Cast, browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "WIDTH", 10)
    own = called(cast)
    with transaction.atomic():
        record_many([Facts(event=Event.CALL_DENIED, actor=Actor(agent=uuid4(), agent_name="x"))] * 25)
    found = shown(browser(cast.olga))
    assert found[0] == own
    assert found == list(Entry.objects.filter(agent=cast.agent.pk).values_list("uid", flat=True))


def test_a_requests_whole_life_is_on_one_page(cast: Cast, browser) -> None:
    grant = cast.grant()
    called(cast, grant.pk, data={"arguments": {"message": HOSTILE}})
    page = browser(cast.anna).get(f"/activity/?request={grant.request_id}").content.decode()
    told = [page.index(text) for text in ("asked for git/git_commit", "approved", "Access began", "called")]
    assert told == sorted(told)
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert browser(cast.carl).get(f"/activity/?request={grant.request_id}").status_code == 404
    assert browser(cast.anna).get(f"/activity/?request={uuid4()}").status_code == 404
    # An auditor who is nobody to the request reads what the ledger says of it.
    found = shown(browser(auditor(cast.carl)), f"?request={grant.request_id}")
    assert set(found) == {entry.uid for entry in timeline_of(AccessRequest.objects.get(pk=grant.request_id))}


def test_one_entry_says_all_that_is_kept_of_it_and_is_404_for_strangers(cast: Cast, browser) -> None:
    grant = cast.grant()
    uid = called(cast, grant.pk, data={"arguments": {"message": HOSTILE}}, tool=HOSTILE)
    for user in (cast.anna, cast.olga, cast.admin):  # anna may see the request that gave the grant
        page = browser(user).get(f"/activity/{uid}/").content.decode()
        assert "Call authorized" in page
        assert str(uid) in page
        assert "<script>alert" not in page
        assert "\u202e" not in page
        assert "\u200b" not in page
    assert browser(cast.carl).get(f"/activity/{uid}/").status_code == 404
    assert browser(cast.admin).get(f"/activity/{uuid4()}/").status_code == 404
    saved = Entry.objects.filter(event="role.saved").first()
    assert browser(cast.anna).get(f"/activity/{saved.uid}/").status_code == 404


def test_the_export_has_what_the_page_finds_and_no_more(cast: Cast, browser) -> None:
    grant = cast.grant()
    called(cast, grant.pk)
    client = browser(cast.olga)
    answer = client.get("/activity/export/?what=call.authorized")
    assert answer["Content-Type"] == "application/jsonl; charset=utf-8"
    lines = [json.loads(line) for line in b"".join(answer.streaming_content).splitlines()]
    entry = Entry.objects.get(event="call.authorized")
    assert lines == [{**plain(entry), "bindings": [], "data": {}}]
    stranger = User.objects.create_user(username="stranger", password="x")
    assert b"".join(browser(stranger).get("/activity/export/").streaming_content) == b""


def test_an_export_ends_after_ten_thousand_and_comes_in_large_parts(
    cast: Cast, browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jitaccess.web.seen.activity.EXPORTED", 130)
    monkeypatch.setattr("jitaccess.web.seen.activity._PART", 50)
    with transaction.atomic():
        facts = Facts(event=Event.CALL_DENIED, actor=Actor(agent_name="x"), data={"a": "x" * 4000})
        record_many([facts] * 150)
    parts = list(browser(cast.admin).get("/activity/export/?what=call.denied").streaming_content)
    assert len(parts) > 1
    assert all(len(part) >= 65_536 for part in parts[:-1])
    uids = [json.loads(line)["uid"] for line in b"".join(parts).splitlines()]
    assert uids == [str(uid) for uid in Entry.objects.values_list("uid", flat=True)[:130]]


def test_the_list_is_a_part_for_htmx_and_live_only_while_it_shows_the_latest(cast: Cast, browser) -> None:
    client = browser(cast.admin)
    part = client.get("/activity/", headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in part
    assert 'data-live="activity"' in client.get("/activity/?what=calls").content.decode()
    uid = Entry.objects.latest("uid").uid
    assert "data-live=" not in client.get(f"/activity/?before={uid}").content.decode()


def test_pages_need_a_sign_in_and_a_bounded_number_of_queries(
    cast: Cast, browser, django_assert_max_num_queries
) -> None:
    grant = cast.grant()
    uid = called(cast, grant.pk)
    paths = (
        "/activity/",
        f"/activity/?request={grant.request_id}",
        f"/activity/{uid}/",
        "/activity/?what=calls&user=anna",
    )
    for path in paths:
        answer = Client().get(path)
        assert (answer.status_code, answer["Location"].startswith("/accounts/login/")) == (302, True)
        for user in (cast.admin, cast.olga):
            client = browser(user)
            with django_assert_max_num_queries(25):
                assert client.get(path).status_code == 200
    assert Client().get("/activity/export/").status_code == 302

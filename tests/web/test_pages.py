from __future__ import annotations

import re
from html import unescape
from uuid import uuid4

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity.models import Agent, Team
from jitaccess.policy.models import BindingUse, RoleBinding
from jitaccess.web.templatetags.jit import relative
from requests_app.models import AccessRequest
from requests_app.services import Ask, deny_request, revoke_grant, submit_request
from tests.cast import Cast
from tests.clocks import Clock

HOSTILE = (
    "<script>alert(1)</script> @anna <!channel> \u202elive\u202c zero\u200bwidth\x00 https://evil.example/\nsecond line"
)


def read(client: Client, asked: AccessRequest) -> str:
    response = client.get(reverse("web:request", args=[asked.pk]))
    assert response.status_code == 200
    return response.content.decode()


def test_a_hostile_reason_is_shown_and_does_nothing(cast: Cast, browser) -> None:
    html = read(browser(cast.anna), cast.submit(reason=HOSTILE))
    quoted = re.search(r"<blockquote[^>]*>(.*?)</blockquote>", html, re.DOTALL)
    assert quoted
    assert "<" not in quoted[1]  # no markup inside, no link either
    assert "<script>alert(1)</script> @anna <!channel> \\u{202e}live\\u{202c} zero\\u{200b}width\\u{0}" in unescape(
        quoted[1]
    )
    assert "https://evil.example/\nsecond line" in unescape(quoted[1])
    assert "evil.example" not in "".join(re.findall(r'(?:href|src|action)="[^"]*"', html))
    assert not set("\u202e\u202c\u200b\x00") & set(html)
    assert "Written by <bdi>the agent</bdi>" in html


def test_a_hostile_tool_description_is_inert_and_cut_with_the_whole_at_hand(cast: Cast, browser) -> None:
    asked = cast.submit()
    tool = cast.server.tools.get(name="git_commit")
    tool.definition = '{"name":"git_commit","description":"<b>x</b>\\u202e' + "long " * 100 + 'END"}'
    tool.save()
    html = read(browser(cast.anna), asked)
    assert "&lt;b&gt;x&lt;/b&gt;\\u{202e}" in html
    assert "<b>x</b>" not in html
    assert html.count("END") == 1  # only in the <details>


def test_the_card_answers_in_the_order_an_approver_asks(cast: Cast, browser) -> None:
    html = read(browser(cast.anna), cast.submit(principal=cast.principal(user=cast.olga)))
    order = ["demo-agent", "Owned by", "team", "through", "git_commit", "badge write", "The tool git_commit", "10 min",
             "never asked for this before", "Finish the release notes", "0 of 1", "anna", "Approve</strong> and", "Deny</strong> and"]  # fmt: skip
    places = [html.index(words, html.index("<dl")) for words in order]
    assert places == sorted(places)


def test_earlier_requests_are_counted_by_how_they_ended(cast: Cast, browser) -> None:
    first = cast.submit(reason="one")
    deny_request(request_id=first.pk, approver=cast.anna, channel="web", digest=first.digest)
    second = cast.submit(reason="two")
    grant = cast.approve(second, cast.anna).grant
    revoke_grant(grant_id=grant.pk, user=cast.anna)
    html = read(browser(cast.anna), cast.submit("git_commit", "git_reset", reason="three"))
    assert "asked for 2 times before: 1 approved, 1 denied" in html
    assert "1 of 2 for the first time; the others have been asked for before" in html


def test_who_files_for_an_agent_is_not_said_to_be_acted_for(cast: Cast, browser) -> None:
    ask = Ask(tools=[("git", "git_commit")], reason="for the agent", seconds=600)
    filed = submit_request(principal=cast.principal(), ask=ask, snapshot=cast.snapshot(), filed_by=cast.olga)
    html = read(browser(cast.anna), filed.request)
    assert "<bdi>olga</bdi></strong> asked for" in html
    assert "demo-agent for olga" not in html


def test_the_timeline_tells_the_whole_life_with_each_call_once(cast: Cast, browser) -> None:
    asked = cast.submit()
    grant = cast.approve(asked, cast.anna).grant
    binding = RoleBinding.objects.get(origin_id=grant.pk)
    actor = Actor(agent=cast.agent.pk, agent_name="demo-agent")
    call = {"actor": actor, "grant": grant.pk, "server": cast.server.pk, "server_name": "git", "tool": "git_commit"}
    arguments = {"arguments": {"message": "<i>hi</i>"}, "args_digest": "sha256:12"}
    with transaction.atomic():
        for end in (Event.CALL_COMPLETED, Event.CALL_OUTCOME_UNKNOWN, None):
            uid = uuid4()
            record(
                Facts(
                    event=Event.CALL_AUTHORIZED,
                    outcome=Outcome.ALLOWED,
                    call=uid,
                    bindings=[binding.pk],
                    data=arguments,
                    **call,
                )
            )
            if end:
                record(Facts(event=end, call=uid, data={}, **call))
    revoke_grant(grant_id=grant.pk, user=cast.bert, note="Done.")
    html = read(browser(cast.anna), asked)
    timeline = html[html.index("<ol") : html.index("</ol>")]
    words = unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", timeline)))
    told = ["demo-agent asked for git/git_commit for 10 min", "anna approved", "Access began, until",
            "demo-agent called git/git_commit succeeded", "demo-agent called git/git_commit outcome unknown",
            "demo-agent called git/git_commit no outcome yet", "bert revoked the access"]  # fmt: skip
    places = [words.index(sentence) for sentence in told]
    assert places == sorted(places)
    assert words.count("called") == 3
    assert words.count("allowed by this grant") == 3
    assert '"message": "<i>hi</i>"' in words
    assert "Done." in words
    assert "<i>" not in timeline
    assert re.search(r'title="\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"', timeline)
    assert "request.approved" not in html


def test_an_empty_inbox_says_what_it_is_for(cast: Cast, browser) -> None:
    html = browser(cast.anna).get("/").content.decode()
    assert "Nothing waits for you" in html


def test_the_inbox_holds_what_waits_for_me_and_not_what_is_mine(cast: Cast, browser) -> None:
    asked = cast.submit()
    mine = reverse("web:request", args=[asked.pk])
    waiting = browser(cast.anna).get("/").context["waiting"]
    assert [row.request.pk for row in waiting] == [asked.pk]
    owner = browser(cast.olga).get("/")
    assert owner.context["waiting"] == []
    assert [row.request.pk for row in owner.context["recent"]] == [asked.pk]
    assert mine not in browser(cast.carl).get("/").content.decode()
    assert mine not in browser(cast.carl).get("/requests/").content.decode()


def test_membership_is_as_it_is_now_directly_or_by_team(cast: Cast, browser) -> None:
    night = Team.objects.create(name="night")
    cast.change_policy("team:reviewers", "team:night")
    cast.submit()
    cast.reviewers.members.remove(cast.anna)
    night.members.add(cast.carl)
    assert len(browser(cast.carl).get("/").context["waiting"]) == 1
    assert browser(cast.anna).get("/").context["waiting"] == []


@pytest.mark.parametrize("path", ["/", "/requests/"])
def test_lists_take_as_many_queries_for_thirty_requests_as_for_one(
    cast: Cast, browser, path: str, django_assert_max_num_queries
) -> None:
    for number in range(30):
        agent = Agent.objects.create(name=f"agent-{number}", owner=cast.olga, team=cast.team)
        cast.submit(principal=cast.principal(agent=agent))
    client = browser(cast.anna)
    with django_assert_max_num_queries(18):
        html = client.get(path).content.decode()
    assert html.count('class="row"') == 30


@pytest.mark.parametrize("path", ["/", "/nothing/", "/accounts/logout/", "/static/jitaccess/site.css"])
def test_every_answer_carries_the_security_headers(cast: Cast, browser, path: str) -> None:
    response = browser(cast.anna).get(path)
    assert "default-src 'none'" in response["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in response["Content-Security-Policy"]
    assert "unsafe" not in response["Content-Security-Policy"]
    assert response["X-Content-Type-Options"] == "nosniff"
    if not path.startswith("/static/"):
        assert response["X-Frame-Options"] == "DENY"
        assert response["Cache-Control"] == "no-store"
    response.close()


def test_no_page_needs_what_the_policy_forbids(cast: Cast, browser) -> None:
    asked = cast.submit()
    client = browser(cast.anna)
    for path in (
        "/",
        "/requests/",
        f"/requests/{asked.pk}/",
        "/accounts/password/change/",
        "/accounts/logout/",
        "/nothing/",
    ):
        html = client.get(path).content.decode()
        assert "site.css" in html
        assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?! src=)|javascript:", html)
        assert not re.search(r'(?:src|href)="(?:https?:)?//', html)


def test_every_page_asks_who_you_are(cast: Cast) -> None:
    asked = cast.submit()
    for path in ("/", "/requests/", f"/requests/{asked.pk}/"):
        response = Client().get(path)
        assert response.status_code == 302
        assert response.url.startswith("/accounts/login/?next=")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "just now"),
        (40, "in 40 s"),
        (24 * 60, "in 24 min"),
        (5400, "in 1 h 30 min"),
        (-300, "5 min ago"),
        (-3 * 86400, "3 d ago"),
    ],
)
def test_times_are_readable(seconds: int, text: str) -> None:
    from datetime import UTC, datetime, timedelta

    now = datetime(2026, 7, 1, tzinfo=UTC)
    assert relative(now + timedelta(seconds=seconds), now) == text


def test_a_failure_of_ours_has_a_page_that_tells_nothing_about_us(
    cast: Cast, browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = browser(cast.anna)
    client.raise_request_exception = False
    monkeypatch.setattr("jitaccess.web.desk.views.selectors.desk_of", lambda user, **_: 1 / 0)
    response = client.get("/")
    assert response.status_code == 500
    html = response.content.decode()
    assert "Something broke on our side" in html
    assert "ZeroDivisionError" not in html


def test_access_whose_time_is_up_shows_as_expired_before_any_sweep(cast: Cast, browser, clock: Clock) -> None:
    asked = cast.submit()
    grant = cast.approve(asked).grant
    clock.shift(601)
    html = read(browser(cast.anna), asked)
    assert "Expired</span>" in html
    assert f"Access expired at {grant.expires_at:%H:%M} UTC." in html
    assert "Revoke access" not in html


def test_a_request_past_its_deadline_cannot_be_decided_before_any_sweep(cast: Cast, browser, clock: Clock) -> None:
    asked = cast.submit()
    clock.shift(3601)
    html = read(browser(cast.anna), asked)
    assert "so this request has expired" in html
    assert 'name="digest"' not in html
    late = browser(cast.anna).post(reverse("web:approve", args=[asked.pk]), {"digest": asked.digest})
    assert late.status_code == 409
    assert browser(cast.anna).get("/").context["waiting"] == []


def test_what_browsers_and_robots_ask_for_unbidden_is_there(db: None) -> None:
    icon = Client().get("/favicon.ico")
    assert (icon.status_code, icon.url) == (302, "/static/jitaccess/mark.svg")
    mark = Client().get(icon.url)
    assert (mark.status_code, mark["Content-Type"]) == (200, "image/svg+xml")
    mark.close()
    robots = Client().get("/robots.txt")
    assert (robots.status_code, robots["Content-Type"]) == (200, "text/plain")
    assert robots.content == b"User-agent: *\nDisallow: /\n"


def test_how_often_is_shown_where_it_is_decided_and_told_where_it_is_used(cast: Cast, browser) -> None:
    cast.requestable.max_uses = 3
    cast.requestable.save()
    asked = cast.submit()
    html = read(browser(cast.anna), asked)
    assert "at most 3 calls" in html
    assert "Approve for 10 min, 3 calls" in html
    assert "for 10 min and 3 calls" in html
    cast.approve(asked)
    BindingUse.objects.update(left=1)
    html = read(browser(cast.anna), asked)
    assert re.search(r"and 1 call left", html)
    with transaction.atomic():
        record(
            Facts(
                event=Event.CALL_DENIED_AGAIN, outcome=Outcome.DENIED, actor=cast.principal().actor(),
                grant=asked.grant.pk, call=uuid4(), server_name="git", tool="git_commit",
                data={"reason_code": "used_up", "times": 4, "minute": "2026-01-01T00:00:00+00:00"},
            )
        )  # fmt: skip
    html = unescape(read(browser(cast.anna), asked))
    assert "tried 4 more times in that minute" in html
    assert "refused: used up" in html

"""Asking on the web: what is offered, what a dry run says, what is filed."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.test import Client
from django.urls import reverse

from jitaccess.audit.models import Entry
from jitaccess.identity.models import Agent
from jitaccess.identity.services import set_agent_enabled
from requests_app.models import AccessRequest
from tests.cast import OPERATOR, Cast
from tests.web.test_pages import HOSTILE

NEW, CHECK, FILE = "/requests/new/", "/requests/new/check/", "/requests/new/file/"
WANTED = {"agent": "demo-agent", "tool": "git/git_commit", "reason": "The release notes", "minutes": "15"}


def words(html: str) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)))


def offered(html: str) -> set[str]:
    return set(re.findall(r'<input type="checkbox" id="pick-\d+" name="tool" value="([^"]+)"', html))


def part(client: Client, target: str, **sent: str) -> str:
    response = client.post(CHECK, sent, headers={"HX-Request": "true", "HX-Target": target})
    assert response.status_code == 200
    html = response.content.decode()
    assert "<html" not in html
    return html


def test_what_may_be_asked_for_is_offered_with_who_decides(cast: Cast, browser) -> None:
    html = browser(cast.olga).get(NEW).content.decode()
    assert offered(html) == {"git/git_add", "git/git_commit", "git/git_reset"}
    assert "Decided by 1 of reviewers" in words(html)
    assert "For 4 h at most" in words(html)


def test_search_narrows_the_offers_and_keeps_what_was_chosen(cast: Cast, browser) -> None:
    client = browser(cast.olga)
    html = part(client, "catalogue", agent="demo-agent", search="reset", tool="git/git_commit")
    assert offered(html) == {"git/git_commit", "git/git_reset"}
    assert html.count(" checked") == 1
    assert offered(part(client, "catalogue", agent="demo-agent", search="reset")) == {"git/git_reset"}
    assert "Nothing that may be asked for fits" in part(client, "catalogue", agent="demo-agent", search="nothing like")


def test_a_dry_run_says_what_is_added_and_who_is_asked_and_writes_nothing(cast: Cast, browser) -> None:
    before = Entry.objects.count()
    said = words(part(browser(cast.olga), "outcome", **WANTED | {"reason": ""}))
    assert "git_commit" in said
    assert "15 min" in said
    assert "Can decide: anna , bert" in said
    assert "olga" not in said.partition("Can decide")[2]  # who asks decides nothing
    assert not AccessRequest.objects.exists()
    assert Entry.objects.count() == before


def test_a_dry_run_says_why_it_would_be_refused(cast: Cast, browser) -> None:
    client = browser(cast.olga)
    assert "is not something you can ask for" in part(client, "outcome", **WANTED | {"tool": "git/nothing"})
    assert "Ask for between 1 min and 4 h" in part(client, "outcome", **WANTED | {"minutes": "999"})
    assert "whole number" in part(client, "outcome", **WANTED | {"minutes": "-5"})
    assert "not JSON" in part(client, "outcome", **WANTED | {"call_tool": "git/git_commit", "call_arguments": "{"})
    assert "Choose something" in part(client, "outcome", agent="demo-agent")


def test_it_is_filed_by_the_person_for_the_agent(cast: Cast, browser) -> None:
    response = browser(cast.olga).post(FILE, WANTED | {"for_me": "1", "ticket": "OPS-7", "user": str(cast.anna.pk)})
    asked = AccessRequest.objects.get()
    assert (response.status_code, response.url) == (302, reverse("web:request", args=[asked.pk]))
    assert (asked.agent, asked.user, asked.filed_by) == (cast.agent, cast.olga, cast.olga)
    assert (asked.seconds, asked.ticket, asked.reason) == (900, "OPS-7", "The release notes")
    assert asked.pending


def test_the_same_again_files_nothing_twice(cast: Cast, browser) -> None:
    client = browser(cast.olga)
    first = client.post(FILE, WANTED)
    again = client.post(FILE, WANTED, follow=True)
    assert again.redirect_chain[0][0] == first.url
    assert "nothing was filed twice" in again.content.decode()
    assert AccessRequest.objects.count() == 1


def test_one_exact_call_is_filed_with_its_arguments(cast: Cast, browser) -> None:
    sent = WANTED | {"call_tool": "git/git_reset", "call_arguments": '{"mode": "soft"}'}
    del sent["tool"]
    assert browser(cast.olga).post(FILE, sent).status_code == 302
    (item,) = AccessRequest.objects.get().parsed_items
    assert (item["kind"], item["arguments"]["value"]) == ("call", {"mode": "soft"})


def test_a_refusal_keeps_what_was_typed(cast: Cast, browser) -> None:
    response = browser(cast.olga).post(FILE, WANTED | {"reason": " ", "ticket": '"><b>x</b>'})
    assert response.status_code == 400
    html = response.content.decode()
    assert "Say why" in html
    assert 'value="git/git_commit" checked' in html
    assert "<b>x</b>" not in html
    assert not AccessRequest.objects.exists()


@pytest.mark.parametrize("path", [CHECK, FILE])
def test_nobody_asks_for_an_agent_of_others(cast: Cast, browser, path: str) -> None:
    Agent.objects.create(name="other", owner=cast.admin, team=cast.team)
    for agent in ("other", "absent"):
        response = browser(cast.olga).post(path, WANTED | {"agent": agent})
        assert response.status_code == 403
    assert not AccessRequest.objects.exists()


def test_whoever_has_no_agent_is_told_so(cast: Cast, browser) -> None:
    assert "No agent may act for you" in browser(cast.carl).get(NEW).content.decode()
    set_agent_enabled(agent=cast.agent, enabled=False, operator=OPERATOR)
    assert "No agent may act for you" in browser(cast.olga).get(NEW).content.decode()


def test_hostile_text_does_nothing_in_any_field(cast: Cast, browser) -> None:
    tool = cast.tools["git_commit"]
    tool.definition = '{"name":"git_commit","description":"<script>x</script>\\u202e"}'
    tool.save()
    fields = ("search", "call_tool", "call_arguments", "reason", "minutes", "uses", "ticket", "tool", "role")
    html = browser(cast.olga).post(CHECK, dict.fromkeys(fields, f'"><script>x</script>{HOSTILE}')).content.decode()
    assert "<script>" not in html
    html = browser(cast.olga).get(NEW).content.decode()
    assert "<script>" not in html
    assert "\u202e" not in html
    assert "&lt;script&gt;x&lt;/script&gt;\\u{202e}" in html


def test_signed_out_nothing_is_filed_and_one_comes_back_to_the_form(cast: Cast) -> None:
    response = Client().post(FILE, WANTED)
    html = response.content.decode()
    assert response.status_code == 403
    assert f'href="/accounts/login/?next={NEW}"' in html
    assert "The release notes</textarea>" in html  # to be taken along
    assert Client(enforce_csrf_checks=True).post(FILE, WANTED).status_code in {302, 403}
    assert not AccessRequest.objects.exists()


def test_a_form_without_its_token_files_nothing(cast: Cast, browser) -> None:
    assert browser(cast.olga, csrf=True).post(FILE, WANTED).status_code == 403
    assert browser(cast.olga).get(FILE).status_code == 405
    assert not AccessRequest.objects.exists()


def test_the_form_takes_few_queries(cast: Cast, browser, django_assert_max_num_queries) -> None:
    client = browser(cast.olga)
    client.get(NEW)
    with django_assert_max_num_queries(20):
        client.get(NEW)

"""Agents and grants: who sees what of them, revoking and locking."""

from __future__ import annotations

from uuid import uuid4

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Facts, record
from jitaccess.identity.models import Agent
from jitaccess.identity.services import issue_token
from jitaccess.policy.models import Lock, RoleBinding
from jitaccess.policy.services import bind_role
from requests_app.models import Grant
from tests.cast import OPERATOR, Cast

AGENT = "/agents/demo-agent/"


def called(cast: Cast, tool: str, *, user=None, outcome: Outcome = Outcome.ALLOWED) -> None:
    event = Event.CALL_AUTHORIZED if outcome is Outcome.ALLOWED else Event.CALL_DENIED
    with transaction.atomic():
        record(
            Facts(
                event=event, outcome=outcome, actor=cast.principal(user=user).actor(), call=uuid4(),
                server_name="git", tool=tool, data={"arguments": {"message": "hidden words"}},
            )
        )  # fmt: skip


def test_the_agents_of_ones_own_and_of_ones_teams_are_listed(cast: Cast, browser) -> None:
    Agent.objects.create(name="foreign", owner=cast.admin, team=cast.reviewers)
    assert "foreign" in browser(cast.anna).get("/agents/").content.decode()  # anna is of that team
    cast.agent.users.add(cast.carl)
    html = browser(cast.carl).get("/agents/").content.decode()
    assert "demo-agent" in html
    assert "foreign" not in html
    assert "not yours to see" in html  # how much it holds for others
    assert "foreign" in browser(cast.admin).get("/agents/?q=FOR").content.decode()
    assert "No agent of this name" in browser(cast.admin).get("/agents/?q=nobody").content.decode()


def test_an_agents_page_for_its_owner(cast: Cast, browser) -> None:
    value, token = issue_token(agent=cast.agent, ttl=600, operator=OPERATOR, client="<i>laptop</i>")
    cast.agent.users.add(cast.carl)
    cast.grant()
    bind_role(role=cast.read_only, agent=cast.agent, origin=RoleBinding.Origin.CEILING, operator=OPERATOR)
    called(cast, "git_commit", user=cast.carl)
    called(cast, "git_reset", outcome=Outcome.DENIED)
    html = browser(cast.olga).get(AGENT).content.decode()
    for shown in (
        "Never beyond",
        "carl",
        "&lt;i&gt;laptop&lt;/i&gt;",
        "git_reset",
        "denied",
        "min</time></strong> left",
    ):
        assert shown in html
    assert "mcpServers" in html  # how Claude Code is connected
    for kept in (value, token.hash, "hidden words", "<i>laptop"):
        assert kept not in html


def test_whoever_may_only_use_it_learns_of_what_it_does_for_them(cast: Cast, browser) -> None:
    cast.agent.users.add(cast.carl)
    issue_token(agent=cast.agent, ttl=600, operator=OPERATOR, client="laptop")
    cast.grant()
    called(cast, "git_commit", user=cast.carl)
    called(cast, "git_reset", user=cast.olga)
    response = browser(cast.carl).get(AGENT)
    html = response.content.decode()
    assert [call.tool for call in response.context["calls"]] == ["git_commit"]
    assert response.context["held"] == []
    for kept in ("laptop", "git_reset", "Always has", "Lock this agent"):
        assert kept not in html


def test_strangers_find_no_such_agent(cast: Cast, browser) -> None:
    for path in (AGENT, "/agents/absent/"):
        assert browser(cast.carl).get(path).status_code == 404
    assert Client().get(AGENT).status_code == 302
    assert browser(cast.carl).post(f"{AGENT}lock/", {"reason": "x"}).status_code == 404
    assert not Lock.objects.exists()


@pytest.mark.parametrize("client", ["claude-code", "claude-desktop", "cursor", "vscode", "inspector"])
def test_each_client_has_its_snippet_and_no_token_in_it(cast: Cast, browser, client: str) -> None:
    html = browser(cast.olga).get(f"{AGENT}?client={client}").content.decode()
    assert "/mcp" in html
    assert "jit_" not in html.partition('id="connect"')[2].partition("</section>")[0].replace("jitaccess", "")


def test_an_unknown_client_is_no_page(cast: Cast, browser) -> None:
    assert browser(cast.olga).get(f"{AGENT}?client=../x").status_code == 400


def test_the_owner_locks_the_agent_with_a_reason(cast: Cast, browser) -> None:
    cast.grant()
    client = browser(cast.olga)
    assert client.post(f"{AGENT}lock/", {"reason": " "}).status_code == 400
    assert not Lock.objects.exists()
    assert client.post(f"{AGENT}lock/", {"reason": "It <b>misbehaves</b>"}).url == AGENT
    html = client.get(AGENT).content.decode()
    assert "&lt;b&gt;misbehaves" in html
    assert "Lock this agent" not in html
    assert not cast.verdict("git_commit").allowed
    assert browser(cast.anna).post(f"{AGENT}lock/", {"reason": "x"}).status_code == 403


def test_grants_are_listed_for_whom_they_concern(cast: Cast, browser) -> None:
    grant = cast.grant()
    for user in (cast.olga, cast.anna, cast.admin):
        html = browser(user).get("/grants/").content.decode()
        assert reverse("web:request", args=[grant.request_id]) in html
        assert reverse("web:revoke", args=[grant.pk]) in html
    assert "Nothing is live" in browser(cast.carl).get("/grants/").content.decode()
    assert "None of these" in browser(cast.olga).get("/grants/?agent=nobody").content.decode()
    assert browser(cast.olga).get("/grants/?before=x").status_code == 400


def test_who_may_only_see_a_grant_is_offered_nothing(cast: Cast, browser) -> None:
    grant = cast.grant()
    cast.team.members.add(cast.carl)
    html = browser(cast.carl).get("/grants/").content.decode()
    assert str(grant.request_id) in html
    assert "Revoke" not in html
    assert "Lock…" not in html
    assert browser(cast.carl).post(reverse("web:lock_grant", args=[grant.pk]), {"reason": "x"}).status_code == 403
    assert not Lock.objects.exists()


def test_a_grant_is_revoked_from_the_list_and_found_among_the_ended(cast: Cast, browser) -> None:
    grant, client = cast.grant(), browser(cast.anna)
    assert client.post(reverse("web:revoke", args=[grant.pk]), {"reason": "Enough"}).status_code == 302
    assert str(grant.request_id) not in client.get("/grants/").content.decode()
    html = client.get("/grants/?state=ended").content.decode()
    assert str(grant.request_id) in html
    assert "revoked" in html
    assert reverse("web:revoke", args=[grant.pk]) not in html


def test_a_grant_is_locked_and_says_so(cast: Cast, browser) -> None:
    grant, client = cast.grant(), browser(cast.olga)
    assert client.post(reverse("web:lock_grant", args=[grant.pk]), {"reason": "Look first"}).url == "/grants/"
    assert ">locked<" in client.get("/grants/").content.decode()
    assert ">locked<" in client.get("/mine/").content.decode()
    assert not cast.verdict("git_commit").allowed
    assert client.post(reverse("web:lock_grant", args=[grant.pk]), {"reason": "Again"}).status_code == 409
    assert browser(cast.carl).post(reverse("web:lock_grant", args=[grant.pk]), {"reason": "x"}).status_code == 404
    assert Grant.objects.get().ended_at is None


@pytest.mark.parametrize("path", ["/agents/", AGENT, "/grants/"])
def test_looking_changes_nothing_and_takes_few_queries(
    cast: Cast, browser, path: str, django_assert_max_num_queries
) -> None:
    for number in range(10):
        agent = Agent.objects.create(name=f"agent-{number}", owner=cast.olga, team=cast.team)
        cast.grant(principal=cast.principal(agent=agent))
    cast.grant()
    before, client = Entry.objects.count(), browser(cast.olga)
    with django_assert_max_num_queries(40):
        assert client.get(path).status_code == 200
    assert Entry.objects.count() == before


@pytest.mark.parametrize(("path", "region"), [("/grants/", "grants"), ("/mine/", "grants inbox")])
def test_what_is_held_is_fetched_anew_as_a_part_of_ones_own(cast: Cast, browser, path: str, region: str) -> None:
    grant, htmx = cast.grant(), {"HX-Request": "true"}
    assert f'data-live="{region}"' in browser(cast.olga).get(path).content.decode()
    part = browser(cast.olga).get(path, headers=htmx).content.decode()
    assert "<html" not in part
    assert str(grant.pk) in part
    assert str(grant.pk) not in browser(cast.carl).get(path, headers=htmx).content.decode()
    assert Client().get(path, headers=htmx)["HX-Redirect"].startswith("/accounts/login/")

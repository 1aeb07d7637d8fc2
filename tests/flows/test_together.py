"""Several people at one request, each in a browser of their own."""

from __future__ import annotations

import itertools
import re
import threading
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from playwright.sync_api import Error, Page, expect

from jitaccess.audit.models import Entry
from jitaccess.audit.sequencer import sequence
from jitaccess.web.desk import views
from requests_app.models import Decision, Grant
from tests.cast import Cast
from tests.flows.conftest import Site
from tests.installation import eventually

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first two decisions wait for each other within the web, so that neither has seen the other's."""
    both, turns, real = threading.Barrier(2, timeout=10), itertools.count(), views.source_of

    def waiting(request: Any) -> str:
        if next(turns) < 2:
            both.wait()
        return real(request)

    monkeypatch.setattr(views, "source_of", waiting)


def form(page: Page, verb: str) -> Any:
    return page.locator(f"form[action$='/{verb}/']:not(details form)")


def send(page: Page, verb: str, reason: str) -> None:
    """Type and press, without waiting for the answer: the other has to press too."""
    form(page, verb).get_by_role("textbox").fill(reason)
    form(page, verb).evaluate("form => { setTimeout(() => form.requestSubmit(), 0) }")


def is_answered(page: Page) -> bool:
    """Whether another page has come in place of the one that was sent."""
    try:
        return bool(page.evaluate("!window.before && document.readyState === 'complete'"))
    except Error:
        return False  # between the two


def decide_together(site: Site, cast: Cast, path: str, verbs: tuple[str, str]) -> dict[str, Page]:
    pages = {one.username: site.visit(one, path) for one in (cast.anna, cast.bert)}
    for (name, page), verb in zip(pages.items(), verbs, strict=True):
        page.evaluate("window.before = true")
        send(page, verb, f"{name} has looked")
    for page in pages.values():
        eventually(lambda page=page: is_answered(page), within=60, what="the answer")
    return pages


@pytest.mark.parametrize("verbs", [("approve", "approve"), ("approve", "deny")])
def test_of_two_at_once_one_decides_and_the_other_is_told_and_keeps_what_they_wrote(
    site: Site, cast: Cast, at_once: None, verbs: tuple[str, str]
) -> None:
    asked = cast.submit()
    pages = decide_together(site, cast, f"/requests/{asked.pk}/", verbs)
    decision = Decision.objects.select_related("user").get()
    assert Entry.objects.filter(event="decision.recorded").count() == 1
    assert Grant.objects.count() == (1 if decision.verdict == "approve" else 0)
    loser = pages.pop("bert" if decision.user == cast.anna else "anna")
    (winner,) = pages.values()
    said = "approved" if decision.verdict == "approve" else "denied"
    expect(loser.get_by_role("alert")).to_contain_text(
        re.compile(rf"already {said} by {decision.user.username} at \d\d:\d\d UTC", re.IGNORECASE)
    )
    lost = "anna" if decision.user == cast.bert else "bert"
    expect(loser.get_by_label("Comment")).to_have_value(f"{lost} has looked")
    for verb in ("approve", "deny"):
        expect(form(loser, verb)).to_have_count(0)
        expect(form(winner, verb)).to_have_count(0)
    loser.get_by_role("button", name="Comment").click()
    expect(loser.locator("#timeline")).to_contain_text(f"{lost} has looked")


def test_two_who_are_both_needed_approve_at_once_and_the_access_begins_once(
    site: Site, cast: Cast, at_once: None
) -> None:
    cast.change_policy(quorum=2)
    asked = cast.submit()
    pages = decide_together(site, cast, f"/requests/{asked.pk}/", ("approve", "approve"))
    assert Decision.objects.count() == 2
    assert Grant.objects.count() == 1
    assert Entry.objects.filter(event="grant.activated").count() == 1
    for page in pages.values():
        expect(page.get_by_role("alert")).to_have_count(0)
    told = [page.get_by_role("status").first.inner_text() for page in pages.values()]
    assert sorted("others are still needed" in one for one in told) == [False, True], told


def test_one_of_two_needed_approves_while_the_other_denies(site: Site, cast: Cast, at_once: None) -> None:
    cast.change_policy(quorum=2)
    asked = cast.submit()
    decide_together(site, cast, f"/requests/{asked.pk}/", ("approve", "deny"))
    asked.refresh_from_db()
    assert asked.status == "denied"
    assert not Grant.objects.exists()
    assert Decision.objects.get(verdict="deny").user == cast.bert


def test_a_decision_shows_in_another_browser_without_a_reload(site: Site, cast: Cast) -> None:
    inbox = site.visit(cast.bert)
    expect(inbox.get_by_text("Nothing waits for you")).to_be_visible()
    inbox.evaluate("window.same = true")
    asked = cast.submit()
    sequence()
    expect(inbox.get_by_role("link", name=re.compile("demo-agent"))).to_be_visible()
    page = site.visit(cast.bert, f"/requests/{asked.pk}/")
    page.evaluate("window.same = true")
    form(page, "approve").get_by_role("textbox").fill("Half a sen")
    cast.approve(asked)
    sequence()
    expect(page.locator("#status")).to_contain_text("Active")
    expect(page.locator("#status")).to_contain_text("This page was made before")
    expect(page.locator("#timeline")).to_contain_text("anna")
    expect(inbox.get_by_text("Nothing waits for you")).to_be_visible()
    assert page.evaluate("window.same")
    assert inbox.evaluate("window.same")
    expect(form(page, "approve").get_by_role("textbox")).to_have_value("Half a sen")


def test_back_after_a_decision_shows_what_is_now_and_offers_no_second_one(site: Site, cast: Cast) -> None:
    asked = cast.submit()
    page = site.visit(cast.anna)
    page.get_by_role("link", name=re.compile("demo-agent")).click()
    form(page, "approve").get_by_role("button").click()
    expect(page.get_by_role("status").first).to_contain_text("Access began")
    page.go_back()
    page.wait_for_load_state()
    expect(page).to_have_url(re.compile(r"/requests/|/$"))
    page.goto(f"/requests/{asked.pk}/")
    page.go_back()
    expect(form(page, "approve")).to_have_count(0)
    expect(page.locator("main")).not_to_contain_text("wait for you, the riskiest")
    assert Decision.objects.count() == 1


def test_a_page_from_before_somebody_else_decided_is_told_the_outcome(site: Site, cast: Cast) -> None:
    """As a browser keeps it that does not ask again for Back."""
    asked = cast.submit()
    page = site.visit(cast.bert, f"/requests/{asked.pk}/")
    cast.deny(asked, reason="Not today.")
    form(page, "approve").get_by_role("button").click()
    expect(page.get_by_role("alert")).to_contain_text("Already denied by anna")
    assert not Grant.objects.exists()


def test_a_session_that_ended_meanwhile_decides_nothing_and_gives_back_what_was_written(site: Site, cast: Cast) -> None:
    asked = cast.submit()
    page = site.visit(cast.anna, f"/requests/{asked.pk}/")
    Session.objects.all().delete()
    form(page, "deny").get_by_role("textbox").fill("Only after <b>the</b> freeze")
    form(page, "deny").get_by_role("button").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("not signed in")
    expect(page.get_by_text("Nothing was decided")).to_be_visible()
    expect(page.get_by_label("What you wrote")).to_have_value("Only after <b>the</b> freeze")
    assert not Decision.objects.exists()
    page.get_by_role("link", name="Sign in").click()
    page.get_by_label("Name").fill("anna")
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page).to_have_url(re.compile(f"/requests/{asked.pk}/$"))
    assert not Decision.objects.exists()
    form(page, "deny").get_by_role("button").click()
    expect(page.get_by_role("status").first).to_contain_text("Denied")
    assert Decision.objects.get().verdict == "deny"


def test_a_page_of_somebody_who_signed_in_anew_elsewhere_decides_nothing(site: Site, cast: Cast) -> None:
    asked = cast.submit()
    page = site.visit(cast.anna, f"/requests/{asked.pk}/")
    other = page.context.new_page()
    other.goto("/")
    other.get_by_role("button", name="Sign out").click()
    other.get_by_label("Name").fill("bert")
    other.get_by_label("Password").fill("correct horse battery")
    other.get_by_role("button", name="Sign in", exact=True).click()
    expect(other.get_by_role("heading", name="Inbox")).to_be_visible()
    form(page, "approve").get_by_role("button").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("gone stale")
    assert not Decision.objects.exists()

"""One person at a desk: by touch, by keyboard, without script, with more than fits."""

from __future__ import annotations

import re
from datetime import timedelta
from uuid import uuid4

import pytest
from playwright.sync_api import Page, expect

from jitaccess.audit.sequencer import sequence
from jitaccess.identity.models import Agent
from jitaccess.kernel.ids import uuid7
from jitaccess.policy.models import Requestable
from requests_app.digests import request_digest
from requests_app.models import AccessRequest, Decision, Grant
from requests_app.services import comment_on_request
from tests.cast import Cast, like
from tests.flows.conftest import Site
from tests.flows.test_together import form

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
ASKS = re.compile("demo-agent")


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def sign_in(page: Page, name: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Sign in", exact=True).click()


def test_a_request_is_approved_on_a_phone_by_touch(site: Site, cast: Cast) -> None:
    asked = cast.submit()
    phone = site.visit(
        None, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True, color_scheme="dark"
    )
    sign_in(phone, "anna")
    phone.get_by_role("button", name="Menu").tap()
    phone.get_by_role("navigation", name="Main").get_by_role("link", name="Inbox").tap()
    phone.wait_for_url("**/")
    expect(phone.get_by_role("heading", name="Inbox")).to_be_visible()
    assert fits(phone)
    phone.get_by_role("link", name=ASKS).tap()
    expect(phone.get_by_role("heading", level=1)).to_be_visible()
    assert fits(phone)
    button = form(phone, "approve").get_by_role("button")
    button.scroll_into_view_if_needed()
    box = button.bounding_box()
    assert box
    assert box["height"] >= 24
    button.tap()
    expect(phone.get_by_role("status").first).to_contain_text("Access began")
    assert fits(phone)
    assert Grant.objects.get().request_id == asked.pk


def test_everything_is_decided_by_keyboard_and_no_key_decides_by_itself(site: Site, cast: Cast) -> None:
    for tools in (("git_commit",), ("git_reset",)):
        cast.submit(*tools)
    page = site.visit(cast.anna)
    keys = page.keyboard
    expect(page.locator("[data-keys-open]")).to_be_visible()
    keys.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    keys.press("Enter")
    keys.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    keys.press("j")
    keys.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    links = page.get_by_role("link", name=ASKS)
    for key, number in (("j", 0), ("j", 1), ("j", 1), ("k", 0)):
        keys.press(key)
        expect(links.nth(number)).to_be_focused()
    ring = "document.activeElement.closest('.row')).outlineStyle"
    assert page.evaluate(f"getComputedStyle({ring}") == "solid", "nobody sees which one is chosen"
    keys.press("Enter")
    page.wait_for_url("**/requests/*/")
    order = walk(page)
    for stop in ("approve-reason", "Approve for", "deny-reason", "Deny", "comment", "Comment"):
        assert any(stop in one for one in order), (stop, order)
    marks = [
        next(at for at, one in enumerate(order) if one.startswith(stop))
        for stop in ("approve-reason", "Approve for", "deny-reason", "comment")
    ]
    assert marks == sorted(marks), order
    for key in ("a", "d", "y", "Enter", "Escape", "Control+Enter"):
        page.locator("#main").focus()
        keys.press(key)
    assert not Decision.objects.exists()
    form(page, "approve").get_by_role("textbox").focus()
    keys.type("Fine")
    keys.press("Tab")
    expect(form(page, "approve").get_by_role("button")).to_be_focused()
    keys.press("Enter")
    expect(page.get_by_role("status").first).to_contain_text("Access began")
    assert Decision.objects.get().reason == "Fine"


def walk(page: Page) -> list[str]:
    """Where Tab leads from the top of the page, each by its id or its words."""
    page.evaluate("document.activeElement.blur()")
    stops = list[str]()
    for _ in range(80):
        page.keyboard.press("Tab")
        stop = page.evaluate("document.activeElement.id || document.activeElement.innerText || ''")
        if page.evaluate("document.activeElement === document.body"):
            break
        stops.append(stop.strip())
    return stops


def test_without_script_everything_but_live_updates_works(site: Site, cast: Cast) -> None:
    cast.requestable.max_total_minutes = 480
    cast.requestable.save()
    approved, denied = cast.submit(), cast.submit("git_reset")
    page = site.visit(None, java_script_enabled=False)
    sign_in(page, "anna")
    page.get_by_role("link", name=ASKS).nth(1).click()
    page.goto(f"/requests/{denied.pk}/")
    form(page, "deny").get_by_role("textbox").fill("Not on a Friday")
    form(page, "deny").get_by_role("button").click()
    expect(page.get_by_role("status").first).to_contain_text("Denied")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Inbox").click()
    page.get_by_role("link", name=ASKS).first.click()
    form(page, "approve").get_by_role("button").click()
    expect(page.get_by_role("status").first).to_contain_text("Access began")
    page.get_by_label("Comment").fill("Seen")
    page.get_by_role("button", name="Comment").click()
    expect(page.locator("#timeline")).to_contain_text("Seen")
    states = {one.pk: one.status for one in AccessRequest.objects.all()}
    assert (states[approved.pk], states[denied.pk]) == ("approved", "denied")
    page.get_by_role("button", name="Sign out").click()

    sign_in(page, "olga")
    page.goto("/requests/new/")
    page.get_by_label("Search").fill("add")
    page.get_by_role("button", name="Search").click()
    page.get_by_label("git/git_add").check()
    page.get_by_label("Reason").fill("The new pages")
    page.get_by_role("button", name="Check first").click()
    expect(page.locator("#outcome")).to_contain_text("Can decide")
    expect(page.get_by_label("Reason")).to_have_value("The new pages")
    page.get_by_role("button", name="Ask for it").click()
    expect(page.get_by_role("status").first).to_contain_text("Those who decide are told")
    page.goto("/mine/")
    page.get_by_text("More time…").click()
    page.get_by_label("Minutes more").fill("5")
    page.locator("[id^=why-]").fill("Nearly done")
    page.get_by_role("button", name="Ask for more time").click()
    expect(page.get_by_role("status").first).to_contain_text("Those who decide are told")
    page.goto("/mine/")
    page.get_by_role("button", name=re.compile("Give back")).click()
    expect(page.get_by_role("status").first).to_contain_text("Given back")
    assert Grant.objects.get().end_reason == "released"


def test_without_script_the_activity_is_filtered_and_paged(site: Site, cast: Cast) -> None:
    asked = cast.submit()
    for number in range(60):
        comment_on_request(request_id=asked.pk, author=cast.anna, text=f"Number {number}", channel="web")
    sequence()
    page = site.visit(cast.admin, "/activity/", java_script_enabled=False)
    page.get_by_label("What").select_option("request.commented")
    page.get_by_label("Person").fill("anna")
    page.get_by_role("button", name="Filter").click()
    rows = page.locator("#entries tbody tr")
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Older").click()
    expect(rows).to_have_count(10)
    expect(page.get_by_label("What")).to_have_value("request.commented")
    page.get_by_role("link", name="Newer").click()
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Clear all").click()
    expect(page.get_by_label("Person")).to_have_value("")


def test_five_hundred_wait_and_all_of_them_are_found_and_some_decided_together(site: Site, cast: Cast) -> None:
    Requestable.objects.create(server=cast.server, access="read", max_minutes=240, policy=cast.policy)
    cast.read_only.bindings.all().delete()
    first = cast.submit("git_log")
    made = [copied(first, number) for number in range(498)]
    like(first, made)
    other = Agent.objects.create(name="demo-agent-2", owner=cast.olga, team=cast.team)
    risky = cast.submit("git_reset", principal=cast.principal(other))  # the last of all
    page = site.visit(cast.anna)
    expect(page.locator("a.row-who").first).to_have_id(f"r-{risky.pk}")
    expect(page.locator(".inbox-count")).to_contain_text("More than 50 requests wait for you")
    seen = list[str]()
    for _ in range(10):
        seen += page.locator("#inbox > ul a.row-who").evaluate_all("all => all.map(one => one.id)")
        if not page.locator("#next-part").count():
            break
        with page.expect_navigation():  # a click waits for no page: one that is half there has fewer rows, or no way on
            page.locator("#next-part").click()
    assert len(seen) == len(set(seen)) == 500
    expect(page.get_by_role("heading", name="Lately")).to_have_count(0)  # all of it waits
    page.goto("/")
    page.get_by_role("link", name=re.compile("Decide .* together")).first.click()
    boxes = page.get_by_role("checkbox")
    expect(boxes).to_have_count(10)
    boxes.nth(0).uncheck()
    page.get_by_role("button", name="Approve the chosen ones").click()
    expect(page.get_by_role("heading", name="Inbox")).to_be_visible()
    assert Decision.objects.count() == 9, page.locator("main").inner_text()[:900]
    assert Grant.objects.count() == 9


def copied(request: AccessRequest, number: int) -> AccessRequest:
    made = AccessRequest.objects.get(pk=request.pk)
    made.pk, made.created_at = uuid7(), request.created_at + timedelta(milliseconds=number + 1)
    made.principal_key, made._state.adding = uuid4().hex, True
    made.digest = request_digest(made)
    return made

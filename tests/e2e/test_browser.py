"""The approval as people do it: in a real Chromium, against a running installation, while an agent waits."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser import launched
from tests.installation import Installation, eventually
from tests.mcp_client import MODERN, connect

pytestmark = pytest.mark.browser
T = TypeVar("T")
ARTEFACTS = Path(__file__).parents[2] / "test-artefacts"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


def sign_in(browser: Browser, installation: Installation, name: str, **options: object) -> Page:
    """A page of a browser of one's own, signed in as `name` with a one-time link."""
    page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
    page.goto(installation.cli("people", "link", name).stdout.strip())
    page.get_by_role("button", name=re.compile("sign in", re.IGNORECASE)).click()
    expect(page.get_by_role("heading", name=re.compile("inbox|waits", re.IGNORECASE)).first).to_be_visible()
    return page


def picture(page: Page, name: str) -> None:
    ARTEFACTS.mkdir(exist_ok=True)
    page.screenshot(path=ARTEFACTS / f"{name}.png", full_page=True)


def as_agent(work: Coroutine[Any, Any, T]) -> T:
    """Run an agent's part in a thread: Playwright keeps a loop of its own in this one."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, work).result()


async def ask(url: str, token: str) -> str:
    """An agent that reads, is refused and asks; returns the request's id."""
    async with connect(url, token, era=MODERN) as agent:
        await agent.call("git_log", repo_path=".")
        assert (await agent.call("git_commit", repo_path=".", message="Note it")).is_error
        asked = await agent.call(
            "request_access",
            tools=["git_commit"],
            reason="The release notes are staged; commit them for v1.4.",
            minutes=30,
        )
        return str(asked.structured_content["request_id"])


NOTED = {"repo_path": ".", "message": "Note it\n\n\u202eonce"}


async def ask_for_one_call(url: str, token: str) -> str:
    """An agent that asks for one exact call; returns the request's id."""
    async with connect(url, token, era=MODERN) as agent:
        asked = await agent.call(
            "request_access", calls=[{"tool": "git_commit", "arguments": NOTED}], reason="This one note."
        )
        assert not asked.is_error, asked.content[0].text
        return str(asked.structured_content["request_id"])


async def make_the_call(url: str, token: str) -> None:
    async with connect(url, token, era=MODERN) as agent:
        calls = ({**NOTED, "message": "Another"}, NOTED, NOTED)
        answers = [(await agent.call("git_commit", **arguments)).content[0].text for arguments in calls]
    # Everything is committed already, as git says when it is asked at all: once, for the call that was approved.
    assert ["staged" in answer for answer in answers] == [False, True, False], answers


async def use(url: str, token: str) -> None:
    async with connect(url, token, era=MODERN) as agent:
        committed = await agent.call("git_commit", repo_path=".", message="Note it")
        assert not committed.is_error, committed.content[0].text


def test_an_approver_finds_the_request_in_the_inbox_and_approves_it(
    installation: Installation, browser: Browser
) -> None:
    url = installation.up().url
    token = installation.ready_token
    anna = sign_in(browser, installation, "anna")
    picture(anna, "inbox-empty")
    request_id = as_agent(ask(url, token))

    olga = sign_in(browser, installation, "olga")
    olga.goto(f"{url}/requests/{request_id}/")
    expect(olga.get_by_text(re.compile("you own the agent", re.IGNORECASE)).first).to_be_visible()
    expect(olga.get_by_role("button", name=re.compile("^approve", re.IGNORECASE))).to_have_count(0)
    picture(olga, "request-owner")

    bert = sign_in(browser, installation, "bert", color_scheme="dark", viewport={"width": 390, "height": 844})
    bert.goto(f"{url}/requests/{request_id}/")
    picture(bert, "request-pending-phone-dark")

    anna.goto(url)
    anna.get_by_role("link", name=re.compile("git_commit|demo-agent")).first.click()
    expect(anna.get_by_text("The release notes are staged; commit them for v1.4.")).to_be_visible()
    assert anna.evaluate("document.activeElement.tagName") != "BUTTON"
    picture(anna, "request-pending")
    anna.get_by_role("button", name=re.compile("^approve", re.IGNORECASE)).click()
    expect(anna.get_by_text(re.compile("active", re.IGNORECASE)).first).to_be_visible()

    # Bert still looks at the page as it was.
    bert.get_by_role("button", name=re.compile("^approve", re.IGNORECASE)).click()
    expect(
        bert.get_by_text(re.compile(r"already approved by anna at \d\d:\d\d UTC", re.IGNORECASE)).first
    ).to_be_visible()
    picture(bert, "request-second-approver")

    as_agent(use(url, token))
    eventually(lambda: [row for row in installation.ledger("call.completed") if row["tool"] == "git_commit"])
    anna.reload()
    expect(anna.get_by_text("git_commit").first).to_be_visible()
    picture(anna, "request-active")
    anna.get_by_label(re.compile("reason", re.IGNORECASE)).last.fill("done")
    anna.get_by_role("button", name=re.compile("revoke", re.IGNORECASE)).click()
    expect(anna.get_by_text(re.compile("revoked", re.IGNORECASE)).first).to_be_visible()
    picture(anna, "request-ended")
    assert [entry["user_name"] for entry in installation.ledger("grant.revoked")] == ["anna"]
    assert len(installation.ledger("grant.activated")) == 1

    exact = as_agent(ask_for_one_call(url, token))
    bert.goto(f"{url}/requests/{exact}/")
    expect(bert.get_by_text("Good for one call with exactly these arguments")).to_be_visible()
    shown = bert.locator("pre.whole").inner_text()
    assert json.loads(shown) == NOTED
    assert "\u202e" not in shown
    assert bert.evaluate("document.documentElement.scrollWidth <= innerWidth")
    picture(bert, "request-exact-call-phone-dark")
    bert.get_by_role("button", name=re.compile("^approve for", re.IGNORECASE)).click()
    expect(bert.get_by_text(re.compile("active", re.IGNORECASE)).first).to_be_visible()
    as_agent(make_the_call(url, token))


def test_an_admin_sees_a_mistake_in_a_role_with_its_line_and_path(installation: Installation, browser: Browser) -> None:
    url = installation.up("--no-worker").url
    admin = sign_in(browser, installation, "admin")
    admin.goto(f"{url}/admin/jit_policy/role/")
    picture(admin, "admin-roles")
    admin.get_by_role("link", name="read-only").first.click()
    box = admin.locator("textarea[name=document]")
    good = box.input_value()
    box.fill(good.replace("access: [read]", "acess: [read]"))
    admin.get_by_role("button", name="See what this changes", exact=True).click()
    expect(admin.get_by_text(re.compile(r"line \d+, spec\.allow\[1\]\.acess"))).to_be_visible()
    picture(admin, "admin-role-mistake")
    assert len(installation.ledger("role.saved")) == 1

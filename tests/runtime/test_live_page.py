"""live.js in a real Chromium, under the CSP of the pages: what it fetches, and what it leaves alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.template.loader import render_to_string
from playwright.sync_api import Browser, Page, Route, expect

from jitaccess.web.middleware import CSP
from tests.browser import launched

pytestmark = [pytest.mark.browser, pytest.mark.pure]
SITE = "http://desk.localhost"
BODY = """
<section id="list" data-live="inbox" hx-get="/part/list" hx-trigger="live"><p>first</p></section>
<section id="form" data-live="inbox grants" hx-get="/part/form" hx-trigger="live">
  <input id="note" value=""><select id="days"><option>1<option selected>2</select>
  <details id="more" open><summary id="open">More</summary>…</details></section>
<section id="other" data-live="activity" hx-get="/part/other" hx-trigger="live">untouched</section>
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


class Desk:
    """The site as the page sees it: `says` is what a stream says before it ends; after `retry` ms comes the next."""

    def __init__(self, browser: Browser, says: str = "", *, retry: int = 50) -> None:
        self.says, self.retry, self.answer = says, retry, dict[str, Any]()
        self.fetched, self.asked = Counter[str](), list[str]()
        self.page: Page = browser.new_page()
        self.page.clock.install()
        self.complaints: list[str] = []
        self.page.on("console", lambda said: self._complain(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.route("**/*", self._serve)
        self.page.goto(f"{SITE}/")

    def _complain(self, text: str) -> None:
        if "Failed to load resource" not in text:  # what the test wanted
            self.complaints.append(text)

    def _serve(self, route: Route) -> None:
        path = route.request.url.removeprefix(SITE)
        if path == "/":
            html = f"<!doctype html><head>{render_to_string('parts/live_head.html')}</head>"
            html += render_to_string("parts/live_notes.html") + BODY
            route.fulfill(body=html, content_type="text/html", headers={"content-security-policy": CSP})
        elif path.startswith("/static/"):
            route.fulfill(path=finders.find(path.removeprefix("/static/")), content_type="text/javascript")
        elif path.startswith("/live"):
            self.asked.append(path)
            route.fulfill(body=f"retry: {self.retry}\r\n\r\n{self.says}", content_type="text/event-stream")
        elif path.startswith("/part/"):
            name = path.removeprefix("/part/")
            self.fetched[name] += 1
            body = f"<p>{name} {self.fetched[name]}</p>" + ("<input id='note' value=''>" if name == "form" else "")
            body += "<details id='more'><summary>More</summary>…</details>" if name == "form" else ""
            route.fulfill(**({"body": body, "content_type": "text/html"} | self.answer))
        else:
            route.fulfill(body="<h1>Sign in</h1>", content_type="text/html")

    def until(self, check: Any) -> None:
        for _ in range(100):
            if check():
                return
            self.page.clock.run_for(100)
            self.page.wait_for_timeout(10)
        raise AssertionError("it did not happen")


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def visit(*args: Any, **options: Any) -> Desk:
        desks.append(Desk(browser, *args, **options))
        return desks[-1]

    yield visit
    for desk in desks:
        desk.page.close()
        assert desk.complaints == []


def note(desk: Desk, name: str) -> Any:
    return desk.page.locator(f"[data-live-note={name}]")


def test_regions_that_show_a_topic_are_fetched_and_others_are_not(visit: Callable[..., Desk]) -> None:
    desk = visit("event: changed\r\ndata: inbox request:1\r\n\r\n", retry=3_600_000)
    desk.until(lambda: desk.fetched["list"] and desk.fetched["form"])
    assert desk.asked == ["/live?topics=activity%2Cgrants%2Cinbox"]
    expect(desk.page.locator("#list")).to_contain_text("list 1")
    expect(desk.page.locator("#more")).to_have_attribute("open", "")
    expect(desk.page.locator("#other")).to_have_text("untouched")
    assert desk.fetched == {"list": 1, "form": 1}
    expect(note(desk, "stale")).to_be_hidden()


def test_without_a_stream_everything_is_fetched_now_and_then(visit: Callable[..., Desk]) -> None:
    desk = visit("event: enough\r\ndata: .\r\n\r\n")
    desk.until(lambda: desk.asked)
    desk.page.wait_for_timeout(100)
    desk.page.clock.run_for(20_000)
    assert not desk.fetched
    desk.page.clock.run_for(20_000)
    desk.until(lambda: len(desk.fetched) == 3)
    assert len(desk.asked) == 1


def test_a_stream_that_comes_back_after_a_gap_has_everything_fetched(visit: Callable[..., Desk]) -> None:
    desk = visit()
    desk.until(lambda: len(desk.fetched) == 3)
    assert len(desk.asked) > 1


def test_what_somebody_is_typing_is_not_taken_from_them(visit: Callable[..., Desk]) -> None:
    desk = visit("event: changed\r\ndata: inbox\r\n\r\n")
    desk.page.locator("#note").fill("half a sentence")
    before = desk.fetched["form"]
    desk.until(lambda: desk.fetched["list"] > 1)
    desk.until(lambda: note(desk, "stale").is_visible())
    assert desk.page.locator("#note").input_value() == "half a sentence"
    desk.page.locator("#note").fill("")
    desk.page.locator("#note").blur()
    desk.until(lambda: desk.fetched["form"] > before)
    desk.until(lambda: note(desk, "stale").is_hidden())


@pytest.mark.parametrize(
    "answer",
    [
        {"status": 404, "body": "<h1>Not found</h1>"},
        {"status": 200, "headers": {"HX-Redirect": "/accounts/login/"}},
    ],
)
def test_whoever_is_signed_out_meanwhile_keeps_the_page_and_is_told(
    visit: Callable[..., Desk], answer: dict[str, Any]
) -> None:
    desk = visit()
    desk.answer = answer
    desk.until(lambda: note(desk, "lost").is_visible())
    assert desk.page.url == f"{SITE}/"
    expect(desk.page.locator("#other")).not_to_contain_text("Not found")

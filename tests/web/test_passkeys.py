"""Passkeys in a real Chromium with a virtual authenticator, under the CSP of the pages, and the pages as pictures."""

from __future__ import annotations

import contextvars
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest
from django.contrib.staticfiles import finders
from django.core.cache import cache
from django.test import Client
from playwright.sync_api import Browser, Page, Route, expect

from jitaccess.audit.models import Entry
from requests_app.models import Decision
from tests.browser import launched
from tests.cast import Cast

pytestmark = [pytest.mark.browser, pytest.mark.pure]
SITE = "http://localhost"
ARTEFACTS = Path(__file__).parents[2] / "test-artefacts"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # Playwright keeps a loop of its own in this thread
        yield browser


class Site:
    """What the browser sees of ours: each request goes to Django in this thread. Cookies are the client's."""

    def __init__(self, page: Page) -> None:
        self.client, self.complaints = Client(SERVER_NAME="localhost"), list[str]()
        # Handlers run in greenlets with a context of their own, and so would have a database connection of their own.
        self.context = contextvars.copy_context()
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.route("**/*", self._serve)

    def _serve(self, route: Route) -> None:
        asked = route.request
        path = asked.url.removeprefix(SITE)
        if path.startswith("/static/"):
            route.fulfill(path=finders.find(path.removeprefix("/static/").partition("?")[0]))
            return
        if path.startswith("/live"):
            route.fulfill(status=204)
            return
        kind = asked.headers.get("content-type", "")
        body = asked.post_data_buffer or b""
        headers = {"accept": asked.headers.get("accept", ""), "user-agent": asked.headers["user-agent"]}
        made = self.context.run(self.client.generic, asked.method, path, body, content_type=kind, headers=headers)
        if made.status_code in {302, 303}:  # the browser would follow it to the network
            lead = f'<meta http-equiv="refresh" content="0; url={escape(made.headers["location"])}">'
            route.fulfill(body=lead, content_type="text/html")
            return
        told = {name: value for name, value in made.headers.items() if name.lower() != "content-length"}
        route.fulfill(status=made.status_code, headers=told, body=made.content)


@pytest.fixture
def page(browser: Browser, cast: Cast, settings: Any) -> Iterator[tuple[Page, Site]]:
    settings.PUBLIC_URL = SITE
    cache.clear()
    page = browser.new_context().new_page()
    devices = page.context.new_cdp_session(page)
    devices.send("WebAuthn.enable")
    options = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True}
    devices.send(
        "WebAuthn.addVirtualAuthenticator",
        {"options": options | {"isUserVerified": True, "automaticPresenceSimulation": True}},
    )
    yield page, Site(page)
    page.context.close()


def pictures(page: Page, name: str) -> None:
    ARTEFACTS.mkdir(exist_ok=True)
    for scheme, size in (("light", (1440, 900)), ("dark", (390, 844))):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.set_viewport_size({"width": size[0], "height": size[1]})
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} scrolls sideways at {size[0]}"
        device = "phone" if size[0] < 600 else "desktop"
        page.screenshot(path=ARTEFACTS / f"{name}-{scheme}-{device}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1440, "height": 900})


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=re.compile(name))


def test_a_passkey_is_made_signs_in_alone_and_proves_who_one_is(cast: Cast, page: tuple[Page, Site]) -> None:
    page, site = page
    page.goto(f"{SITE}/accounts/login/")
    pictures(page, "sign-in")
    page.get_by_label("Name").fill("anna")
    page.get_by_label("Password").fill("correct horse battery")
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("heading", name=re.compile("inbox|waits", re.IGNORECASE)).first).to_be_visible()
    page.goto(f"{SITE}/accounts/passkeys/add/")
    expect(page.get_by_role("heading", name="Is it you")).to_be_visible()
    page.get_by_label("Password").fill("correct horse battery")
    button(page, "Confirm").click()
    expect(page.get_by_role("heading", name="Add a passkey")).to_be_visible()
    pictures(page, "passkey-add")
    page.get_by_role("textbox", name="Name").fill("Laptop <b>\u202e")
    button(page, "Make the passkey").click()
    expect(page.get_by_role("heading", name="Recovery codes")).to_be_visible()
    pictures(page, "recovery-codes-before")
    button(page, "Show the codes, once").click()
    pictures(page, "recovery-codes")
    page.get_by_role("link", name="I have kept them").click()
    expect(page.get_by_text("Passkey Laptop").first).to_be_visible()
    page.goto(f"{SITE}/accounts/totp/add/")
    pictures(page, "authenticator-app")
    other = Client(headers={"user-agent": FIREFOX})
    other.force_login(cast.anna, backend="django.contrib.auth.backends.ModelBackend")
    other.get("/accounts/security/")
    page.goto(f"{SITE}/accounts/security/")
    pictures(page, "sign-in-and-sessions")

    page.goto(f"{SITE}/accounts/logout/")
    page.locator("main").get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    button(page, "Sign in with a passkey").click()
    expect(page.get_by_role("heading", name=re.compile("inbox|waits", re.IGNORECASE)).first).to_be_visible()
    assert Entry.objects.filter(event="user.signed_in").latest("uid").data == '{"with":"webauthn"}'

    cast.change_policy(step_up=True)
    asked = cast.submit()
    page.goto(f"{SITE}/requests/{asked.pk}/")
    page.get_by_role("link", name="Prove who you are, to approve").click()
    expect(button(page, "Use a passkey")).to_be_visible()
    pictures(page, "prove-by-passkey")
    button(page, "Use a passkey").click()
    expect(page).to_have_url(f"{SITE}/requests/{asked.pk}/")
    assert not Decision.objects.exists(), "to prove who one is decides nothing"
    button(page, "^Approve for").first.click()
    expect(page.get_by_text(re.compile("Approved|Active|live", re.IGNORECASE)).first).to_be_visible()
    assert Decision.objects.count() == 1
    assert site.complaints == []


def test_a_passkey_of_nobody_here_is_told_in_words(cast: Cast, page: tuple[Page, Site]) -> None:
    page, site = page
    page.goto(f"{SITE}/accounts/login/")
    button(page, "Sign in with a passkey").click()
    expect(page.get_by_text("That did not work")).to_be_visible()
    assert "_auth_user_id" not in site.client.session


def test_the_button_for_a_passkey_cannot_be_pressed_before_anything_listens_to_it(
    browser: Browser, cast: Cast, settings: Any
) -> None:
    settings.PUBLIC_URL = SITE
    page = browser.new_context(java_script_enabled=False).new_page()
    Site(page)
    page.goto(f"{SITE}/accounts/login/")
    expect(button(page, "Sign in with a passkey")).to_be_disabled()
    page.context.close()

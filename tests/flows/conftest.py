from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from django.test import Client
from playwright.sync_api import Browser, Page

from jitaccess.identity.models import User
from jitaccess.runtime.asgi import Switch
from tests.browser import launched
from tests.installation import eventually

SLOWEST = 10_000  # milliseconds a page may take on a machine that is busy with other tests


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    with launched() as browser, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # Playwright keeps a loop of its own in this thread
        yield browser


@pytest.fixture(scope="package")
def served(django_db_setup: None) -> Iterator[str]:
    """The address of the web as it runs, live updates and all, in threads of this process and on its database."""
    switch = Switch(role="web", gateway=None, web=True, background=None)
    server = uvicorn.Server(uvicorn.Config(switch, host="127.0.0.1", port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        eventually(lambda: server.started, within=30, what="the web is served")
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        switch.begin_shutdown()
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


class Site:
    """Browsers of people, each with cookies of its own; no page may complain."""

    def __init__(self, chromium: Browser, url: str) -> None:
        self.url, self.complaints = url, list[str]()
        self._chromium, self._contexts = chromium, contextlib.ExitStack()

    def visit(self, person: User | None, path: str = "/", **options: Any) -> Page:
        """A page of a browser of one's own, signed in as `person` if there is one."""
        context = self._chromium.new_context(base_url=self.url, **options)
        self._contexts.callback(context.close)
        context.set_default_timeout(SLOWEST)
        if person:
            context.add_cookies([{"name": "sessionid", "value": cookie_of(person), "url": self.url}])
        page = context.new_page()
        # What is refused is also told to the console; a page that breaks is told only there.
        page.on("console", lambda said: self._complain(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("dialog", self._dialog)
        page.goto(path)
        return page

    def _complain(self, text: str) -> None:
        if "Failed to load resource" not in text:
            self.complaints.append(text)

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def close(self) -> None:
        self._contexts.close()


def cookie_of(person: User) -> str:
    """Of a new session."""
    client = Client()
    client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
    return client.cookies["sessionid"].value


@pytest.fixture
def site(transactional_db: None, chromium: Browser, served: str) -> Iterator[Site]:
    site = Site(chromium, served)
    yield site
    site.close()
    assert site.complaints == []

"""What a browser sees of this process: Django answers in the test's own thread and transaction, for whoever looks."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from html import escape
from typing import Any

from django.contrib.staticfiles import finders
from django.http import HttpResponse
from django.test import Client
from playwright.sync_api import BrowserContext, Page, Route

from jitaccess.identity.models import User

SITE = "http://localhost"
AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


class Site:
    """One page of a browser; `visit` shows it what somebody (None: a stranger) gets at a path. Sessions are kept."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self._clients: dict[object, Client] = {}
        self._made: Callable[[], HttpResponse] | None = None
        self._client, self._path, self._status = Client(), "", 0
        # Handlers run in greenlets with a context of their own, and so would have a database connection of their own.
        self._context = contextvars.copy_context()
        self.page.on("console", lambda said: self._hear(said.type, said.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda asked: self.complaints.append(f"failed: {asked.url} {asked.failure}"))
        self.page.route("**/*", self._serve)

    def visit(
        self, path: str, user: User | None, *, prepare: Any = None, made: Callable[[], HttpResponse] | None = None
    ) -> int:
        """Open it and return its status. `prepare` is called with the client first; `made` answers instead of a view."""
        self.complaints.clear()
        self._client, self._path, self._made = self.client(user), path, made
        if prepare:
            self._client = self.client_of(None)
            prepare(self._client)
        self._status = 0
        self.page.emulate_media(color_scheme="light")  # to fade from one theme to the other takes a while
        self.page.goto(SITE + path, wait_until="load")
        return self._status

    def client(self, user: User | None) -> Client:
        key = user.pk if user else None
        if key not in self._clients:
            self._clients[key] = self.client_of(user)
        return self._clients[key]

    @staticmethod
    def client_of(user: User | None) -> Client:
        client = Client(SERVER_NAME="localhost", headers={"user-agent": AGENT}, raise_request_exception=False)
        if user:
            client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        return client

    def _hear(self, kind: str, text: str) -> None:
        # The page's own status is looked at by itself, and a refused page is one too.
        if kind not in {"verbose", "debug"} and not text.startswith(
            "Failed to load resource: the server responded with a status of"
        ):
            self.complaints.append(f"{kind}: {text}")

    def _serve(self, route: Route) -> None:
        asked = route.request
        path = asked.url.removeprefix(SITE)
        if path.startswith("/static/"):
            found = finders.find(path.removeprefix("/static/").partition("?")[0])
            if found:
                route.fulfill(path=found)
            else:
                self.complaints.append(f"missing: {path}")
                route.fulfill(status=404)
        elif path.startswith("/live"):
            route.fulfill(status=204)
        elif asked.resource_type != "document":
            part = self._context.run(self._client.get, path)
            if part.status_code != 200:
                self.complaints.append(f"asks for {path}, which is answered with {part.status_code}")
            route.fulfill(status=part.status_code, body=part.content, content_type=part["content-type"])
        elif path != self._path:
            route.fulfill(body=f"<!doctype html><title>{escape(path)}</title>", content_type="text/html")
        else:
            answer: HttpResponse = (
                self._context.run(self._made) if self._made else self._context.run(self._client.get, path)
            )
            self._status = answer.status_code
            if answer.status_code in {301, 302, 303}:  # the browser would follow it to the network
                self.complaints.append(f"{path} leads to {answer['location']}")
                route.fulfill(body="<!doctype html><title>elsewhere</title>", content_type="text/html")
                return
            told = {name: value for name, value in answer.items() if name.lower() != "content-length"}
            route.fulfill(status=answer.status_code, headers=told, body=answer.content)

"""What a browser sees of this process: Django answers in the test's own thread and transaction, for whoever looks."""

from __future__ import annotations

import contextlib
import contextvars
import mimetypes
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from django.contrib.staticfiles import finders
from django.http import HttpResponse
from django.test import Client
from playwright.sync_api import BrowserContext, Page, Request

from jitaccess.identity.models import User

SITE = "http://localhost"
AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
# What this process is asked for. All else stands beside the pages, and the browser gets it from `beside`, once.
ASKED = (
    *({"urlPattern": "*", "resourceType": kind} for kind in ("Document", "XHR", "Fetch", "EventSource")),
    {"urlPattern": f"{SITE}/admin/jsi18n/*"},
)
MISSING: list[str] = []


class _Beside(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        found = finders.find(path.removeprefix("/static/")) if path.startswith("/static/") else None
        if not found and path != "/favicon.ico":  # for that every browser asks
            MISSING.append(self.path)
        content = Path(found).read_bytes() if found else b""
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", mimetypes.guess_type(found or "")[0] or "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "max-age=3600")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def beside() -> Iterator[str]:
    """Styles, scripts and pictures, as files that a browser keeps. Yields what tells Chromium that SITE is there."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Beside) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"--host-resolver-rules=MAP localhost:80 127.0.0.1:{server.server_port},MAP * ~NOTFOUND,EXCLUDE 127.0.0.1"
        server.shutdown()
        thread.join()


class Site:
    """One page of a browser; `visit` shows it what somebody (None: a stranger) gets at a path. Sessions are kept."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        self._heard: list[str] = []
        self._clients: dict[object, Client] = {}
        self._made: Callable[[], HttpResponse] | None = None
        self._client, self._path, self._status = Client(), "", 0
        # Handlers run in greenlets with a context of their own, and so would have a database connection of their own.
        self._context = contextvars.copy_context()
        self.page.on("console", lambda said: self._hear(said.type, said.text))
        self.page.on("pageerror", lambda error: self._heard.append(str(error)))
        # What the page before was still fetching is given up with it, which is no fault of this one.
        self._asked: list[Request] = []
        self.page.on("request", lambda asked: self._asked.append(asked))
        self.page.on("requestfailed", self._hear_failure)
        # Not page.route: with it, the browser would keep no file.
        self._browser = context.new_cdp_session(self.page)
        self._browser.on("Fetch.requestPaused", self._serve)
        self._browser.send("Fetch.enable", {"patterns": list(ASKED)})

    @property
    def complaints(self) -> list[str]:
        """Of the page that is open."""
        return [*self._heard, *(f"missing: {path}" for path in MISSING)]

    def visit(
        self, path: str, user: User | None, *, prepare: Any = None, made: Callable[[], HttpResponse] | None = None
    ) -> int:
        """Open it and return its status. `prepare` is called with the client first; `made` answers instead of a view."""
        self._heard.clear()
        self._asked.clear()
        MISSING.clear()
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
        # Django's own forms have a script, too, that chooses the first field: whichever comes first.
        if self._path.startswith("/admin/") and text.startswith("Autofocus processing was blocked"):
            return
        # The page's own status is looked at by itself, and a refused page is one too.
        if kind not in {"verbose", "debug"} and not text.startswith(
            "Failed to load resource: the server responded with a status of"
        ):
            self._heard.append(f"{kind}: {text}")

    def _hear_failure(self, asked: Request) -> None:
        if asked in self._asked:
            self._heard.append(f"failed: {asked.url} {asked.failure}")

    def _serve(self, paused: dict[str, Any]) -> None:
        path = paused["request"]["url"].removeprefix(SITE)
        status, headers, body = self._answer(path, paused["resourceType"])
        told = [{"name": name, "value": value} for name, value in headers.items()]
        answer = {"responseCode": status, "responseHeaders": told, "body": b64encode(body).decode()}
        self._browser.send("Fetch.fulfillRequest", {"requestId": paused["requestId"]} | answer)

    def _answer(self, path: str, kind: str) -> tuple[int, dict[str, str], bytes]:
        page = {"Content-Type": "text/html"}
        if path.startswith("/live"):
            return 204, {}, b""
        if kind != "Document":
            part = self._context.run(self._client.get, path)
            if part.status_code != 200:
                self._heard.append(f"asks for {path}, which is answered with {part.status_code}")
            return part.status_code, {"Content-Type": part["content-type"]}, part.content
        if path != self._path:
            return 200, page, f"<!doctype html><title>{escape(path)}</title>".encode()
        answer: HttpResponse = (
            self._context.run(self._made) if self._made else self._context.run(self._client.get, path)
        )
        self._status = answer.status_code
        if answer.status_code in {301, 302, 303}:  # the browser would follow it to the network
            self._heard.append(f"{path} leads to {answer['location']}")
            return 200, page, b"<!doctype html><title>elsewhere</title>"
        told = {name: value for name, value in answer.items() if name.lower() != "content-length"}
        return answer.status_code, told, answer.content

"""The REST API as a verb uses it: JITACCESS_URL, JITACCESS_TOKEN, and a problem document becomes one sentence."""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import wraps
from typing import Any
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from django.core.exceptions import ImproperlyConfigured

from jitaccess import __version__, env
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid, JitAccessError
from jitaccess.kernel.text import visible
from jitaccess.runtime import references
from jitaccess.runtime.exits import say

URL, TOKEN = "JITACCESS_URL", "JITACCESS_TOKEN"
API = "/api/v1"
_SECONDS = 30.0
_MAX_ANSWER = 8 << 20
_PAGES = 40


class Answered(JitAccessError):
    """The installation refused; `status` is HTTP's."""

    def __init__(self, code: str, detail: str, status: int) -> None:
        super().__init__(code, detail)
        self.status = status


class Unreached(Answered):
    """There was no answer, or none of an installation."""

    def __init__(self, detail: str) -> None:
        super().__init__("remote.unreachable", detail, 503)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would carry the token along to wherever an answer points."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Remote:
    """An installation, as the agent whose token is in the environment. `at` is its clock at the last answer."""

    def __init__(self, url: str, token: str) -> None:
        self._base, self._token = url.rstrip("/"), token
        self.at = datetime.now(UTC)
        # A proxy for https sees no more than the host; one for http would see the token.
        proxies = {name: proxy for name, proxy in urllib.request.getproxies().items() if name == "https"}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies), _NoRedirects())

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """`path` below /api/v1, or a whole reference as `next` of a list is. Raises Answered."""
        whole = path if path.startswith(f"{API}/") else f"{API}{path}"
        asked = urlencode({name: value for name, value in query.items() if value is not None})
        return self._send("GET", f"{whole}?{asked}" if asked else whole, None)

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Raises Answered."""
        return self._send("POST", f"{API}{path}", strictjson.encode(body or {}))

    def items(self, path: str, *, limit: int, **query: Any) -> tuple[list[dict[str, Any]], bool]:
        """The latest `limit` of a list, and whether there are more."""
        rows: list[dict[str, Any]] = []
        for part, more in self._pages(path, min(limit, 100), query):
            rows += part
            if len(rows) >= limit:
                return rows[:limit], more or len(rows) > limit
        return rows, False

    def id_of(self, path: str, member: str, text: str, what: str) -> str:
        """The id in the list at `path` that is `text` or begins with it. Raises NotFound, Invalid."""
        low, high = references.span(text)
        if low == high:
            return str(low)
        found: list[str] = []
        for part, _ in self._pages(path, 100, {}):
            ids = [str(UUID(row[member])) for row in part]
            found += [one for one in ids if str(low) <= one <= str(high)]
            if ids and ids[-1] < str(low):  # latest first: all that follow are older
                break
        references.ensure_one(found, text, what)
        return found[0]

    def _pages(self, path: str, size: int, query: dict[str, Any]) -> Iterator[tuple[list[dict[str, Any]], bool]]:
        answer = self.get(path, limit=size, **query)
        for _ in range(_PAGES):
            following = answer.get("next")
            yield answer.get("items") or [], bool(following)
            if not isinstance(following, str) or not following.startswith(f"{API}/"):
                return
            answer = self.get(following)

    def _send(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        headers = {
            "Authorization": f"Bearer {self._token}",
            "Accept": "application/json",
            "User-Agent": f"jitaccess-cli/{__version__}",
        }
        if body is not None:
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self._base + path, data=body, headers=headers, method=method)  # noqa: S310 - checked in `connect`
        try:
            with self._opener.open(request, timeout=_SECONDS) as answer:
                return self._read(answer.status, answer)
        except urllib.error.HTTPError as answer:
            with answer:
                raise _problem(answer.code, self._read(answer.code, answer), self._base) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise Unreached(f"{self._base} cannot be reached: {_plain(reason)}. Is it running? ({URL})") from None

    def _read(self, status: int, answer: Any) -> dict[str, Any]:
        if date := answer.headers.get("Date"):
            try:
                self.at = parsedate_to_datetime(date)
            except ValueError:
                self.at = datetime.now(UTC)
        body = answer.read(_MAX_ANSWER + 1)
        try:
            return strictjson.decode(body)
        except Invalid:
            if status == 401:
                return {}
            raise Unreached(f"What answers at {self._base} (HTTP {status}) is no jitaccess. Check {URL}.") from None


def wanted() -> bool:
    """Whether there is a token, so that verbs that can do both go by way of the API."""
    return bool(os.environ.get(TOKEN) or os.environ.get(f"{TOKEN}_FILE"))


def connect() -> Remote:
    """Raises Invalid, with what to set."""
    try:
        url, token = env.text("JITACCESS_URL"), env.text("JITACCESS_TOKEN")
    except ImproperlyConfigured as error:
        raise Invalid("remote.settings", str(error)) from None
    if not token:
        raise Invalid("remote.token", f"Set {TOKEN} to an agent's token: jitaccess agents token NAME prints one.")
    if not url:
        raise Invalid("remote.url", f"Set {URL} to the address of the installation, such as http://127.0.0.1:8000.")
    try:
        env.web_address(url.rstrip("/"))
    except Invalid as error:
        raise Invalid("remote.url", f"{URL}: {error.detail}") from None
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise Invalid("remote.token", f"{TOKEN} does not hold a token.")
    if urlsplit(url).scheme == "http" and not _loopback(urlsplit(url).hostname or ""):
        say(f"warning: {URL} is not https, so the token travels readable.")
    return Remote(url, token)


def understood(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """A verb to which an answer without what it needs is one sentence. Raises Unreached."""

    @wraps(run)
    def guarded(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            said = f"{type(error).__name__}: {error}"
            raise Unreached(f"What is at {URL} answers in a way that this version does not know ({said}).") from error

    return guarded


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _problem(status: int, body: dict[str, Any], base: str) -> Answered:
    """RFC 9457: `detail` for people, and what does not fit in `errors`."""
    if status == 401:
        return Answered("auth.token", f"{base} does not accept the token: it is unknown, expired or revoked. "
                        f"Set {TOKEN} to a new one of jitaccess agents token NAME.", status)  # fmt: skip
    if 300 <= status < 400:
        return Unreached(f"{base} answers with a redirect (HTTP {status}). Set {URL} to the address it leads to.")
    detail = str(body.get("detail") or body.get("title") or f"HTTP {status}")
    for error in body.get("errors") or ():
        if isinstance(error, dict):
            where = error.get("pointer") or error.get("parameter") or ""
            detail += f"\n  {where}: {error.get('detail', '')}"
    return Answered(str(body.get("code") or "remote.refused"), visible(detail, limit=4000, multiline=True), status)


def _plain(reason: object) -> str:
    if isinstance(reason, TimeoutError):
        return "it does not answer in time"
    return str(getattr(reason, "strerror", None) or reason).lower().rstrip(".")

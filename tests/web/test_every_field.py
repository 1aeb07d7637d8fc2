"""Markup in every text that anybody may write, by whatever way: forms, REST, agents, servers. Pages show it and do not
obey it.
"""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from django.contrib.auth.models import Permission
from django.core.cache import cache
from django.http import HttpResponse
from django.test import Client
from django.urls import resolve

from jitaccess.audit.sequencer import sequence
from jitaccess.catalog.models import AccessClass, ServerHealth, Tool
from jitaccess.catalog.services import classify_tool, import_tools
from jitaccess.identity.models import User
from jitaccess.store.clock import now
from requests_app.models import AccessRequest
from requests_app.services import Ask, ExactCall, break_glass, submit_request
from tests.cast import OPERATOR, TOOLS, Cast, definition
from tests.web.test_every_form import Document, addresses, house, signed_in  # noqa: F401 - house is a fixture

SHORT = "\"'><xss7 onxss7=1>"
MARKUP = (
    SHORT + "</textarea></title></script><script>xss7()</script><img src=x onerror=xss7()> [x](javascript:xss7()) "
    "\u202eevil\u202c zero\u200bwidth nul\x00 {{ 7|add:7 }}{% debug %}"
)
BAD = list[tuple[object, str]]()
HIDDEN = frozenset("\u202e\u202c\u200b")
KEPT = MARKUP.replace("\x00", "")  # no column of PostgreSQL holds one
# What somebody writes words into; each is filled in and sent at least once.
WORDS = {
    "account_login", "web:approve", "web:deny", "web:changes", "web:comment", "web:revoke", "web:file",
    "web:new_dry_run", "web:extend", "web:lock", "web:lock_agent", "web:lock_grant", "web:simulator",
    "web:use_break_glass", "web:review", "web:hand_over", "notify:webhook_new", "notify:webhook_change",
}  # fmt: skip
# These would end the session, or what is to be looked at.
LEFT_OUT = {
    "account_logout", "admin:logout", "sessions_end", "account_change_password", "notify:webhook_remove", "web:release",
}  # fmt: skip
TEXTS = {"text", "search", "url", "email", "password", "textarea"}
FILLED = {"number": "5", "date": "2030-01-01", "datetime-local": "2030-01-01T10:00", "time": "10:00"}


class Forms(HTMLParser):
    """The forms of a page that POST: where to, what is in them already, and which of the fields are for words."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.found, self._path = list[tuple[str, dict[str, Any], list[str]]](), path
        self._form: tuple[str, dict[str, Any], list[str]] | None = None
        self._select, self._words, self._needed, self.areas = "", "", False, set[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._form = (urljoin(self._path, given.get("action") or self._path), {}, [])
            if given.get("method", "").lower() == "post":
                self.found.append(self._form)
        elif self._form and tag in {"select", "option"}:
            self._choice(tag, given, self._form[1])
        elif self._form:
            self._field(tag, given, *self._form[1:])

    def _choice(self, tag: str, given: dict[str, str], values: dict[str, Any]) -> None:
        if tag == "select":
            self._select, self._needed = given.get("name", ""), "required" in given
        elif "selected" in given or self._select not in values or (self._needed and not values[self._select]):
            values[self._select] = given.get("value", "")

    def _field(self, tag: str, given: dict[str, str], values: dict[str, Any], texts: list[str]) -> None:
        name, kind = given.get("name", ""), given.get("type", "text") if tag == "input" else tag
        if "formaction" in given:
            self.found.append((given["formaction"], values, texts))
        if not name:
            return
        if kind in TEXTS:
            values[name] = given.get("value", "")
            texts.append(name)
            self._words = name if tag == "textarea" else ""
            self.areas |= {self._words}
        elif kind in FILLED:
            values[name] = given.get("value") or FILLED[kind]
        elif kind in {"hidden", "checkbox"} or (kind == "radio" and "checked" in given):
            values[name] = given.get("value", "on")
        elif tag == "button":
            values.setdefault(name, given.get("value", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "select":
            self._select = ""
        elif tag == "textarea":
            self._words = ""

    def handle_data(self, data: str) -> None:
        if self._words and self._form:
            self._form[1][self._words] += data


def ensure_inert(answer: HttpResponse, where: object) -> None:
    """No element, attribute, script or address is of what somebody wrote, and nothing that is shown cannot be seen."""
    assert answer.status_code < 500, where
    if not answer.headers.get("Content-Type", "").startswith("text/html"):
        return
    page = Document.of(answer)
    assert "xss7" not in page.tags, where
    assert not {name for name in page.attributes if name.startswith("on")}, where
    assert not [text for text in page.scripts if "xss7" in text], where
    assert not [link for link in page.links if link.strip().lower().startswith(("javascript:", "data:"))], where
    assert not [text for text in page.texts if "7|add" not in text and "{{ 14" in text], where
    BAD.extend((where, text[:80]) for text in page.texts if HIDDEN & set(text))


@pytest.fixture
def written(cast: Cast, house: dict[str, Any]) -> dict[str, Any]:  # noqa: F811 - the fixture
    """What agents, servers and programs of others wrote, on record."""
    cache.clear()
    cast.anna.user_permissions.add(Permission.objects.get(codename="view_entry"))
    cast.requestable.max_total_minutes = 480
    cast.requestable.save()
    hostile = definition(
        "hostile",
        title=MARKUP,
        description=MARKUP,
        annotations={"title": MARKUP},
        inputSchema={"type": "object", "properties": {SHORT: {"type": "string", "description": MARKUP}}},
    )
    offered = [definition("git_commit", description=MARKUP), *(definition(one) for one in TOOLS if one != "git_commit")]
    import_tools(server=cast.server, definitions=[hostile, *offered], operator=OPERATOR)
    cast.server.description = cast.server.instructions = KEPT
    cast.server.save()
    for name in ("hostile", "git_commit"):
        tool = Tool.objects.get(server=cast.server, name=name)
        classify_tool(tool=tool, access=AccessClass.WRITE, operator=OPERATOR)
    import_tools(
        server=cast.server, definitions=[hostile | {"description": f"{MARKUP} again"}, *offered], operator=OPERATOR
    )
    ServerHealth.objects.create(server=cast.server, ok=False, detail=KEPT, checked_at=now())
    cast.agent.description = KEPT
    cast.agent.save()
    cast.team.name = SHORT
    cast.team.save()
    reader = cast.principal(client=SHORT)
    ask = {"reason": MARKUP, "ticket": SHORT, "context": {SHORT: [MARKUP, {"deep": MARKUP}]}}
    for more in ({"tools": [("git", "git_add")]}, {"calls": [ExactCall("git", "git_add", {SHORT: MARKUP})]}):
        submit_request(principal=reader, ask=Ask(**ask, **more), snapshot=cast.snapshot())
    break_glass(user=cast.olga, agent=cast.agent, right=house["right_id"], reason=MARKUP, seconds=300)
    return house


def sent(client: Client, page: str, *, models: bool) -> Iterator[str]:
    """Each form of a page, with markup in every field for words: in all at once, in those of the admin one by one."""
    answer = client.get(page)
    ensure_inert(answer, page)
    forms = Forms(page)
    if not answer.streaming:
        forms.feed(answer.content.decode())
    for action, values, texts in forms.found:
        name = resolve(urlsplit(action).path).view_name
        if name in LEFT_OUT or (models and not texts):
            continue
        for text in [[one] for one in texts[:12]] if models else [texts]:
            markup = SHORT if models and text[0] not in forms.areas else MARKUP
            said = client.post(action, values | dict.fromkeys(text, markup))
            ensure_inert(said, (page, action, text))
        yield name


def test_nothing_that_anybody_writes_becomes_part_of_a_page(cast: Cast, written: dict[str, Any], settings: Any) -> None:
    settings.ACCOUNT_RATE_LIMITS = False
    people: list[User] = [cast.anna, cast.olga, cast.admin]
    api = {"content_type": "application/json"}
    ask = {
        "agent": "demo-agent",
        "calls": [{"tool": "git/git_commit", "arguments": {SHORT: KEPT}}],
        "reason": KEPT,
        "ticket": SHORT,
        "context": {SHORT: KEPT},
    }
    filed = signed_in(cast.olga).post("/api/v1/requests", ask, **api)
    assert filed.status_code == 201, filed.content
    said = signed_in(cast.anna).post(f"/api/v1/requests/{written['request_id']}/comment", {"text": KEPT}, **api)
    assert said.status_code in {200, 201}, said.content
    done = set(sent(Client(), "/accounts/login/", models=False))
    for person in people:
        client = signed_in(person)
        if person == cast.olga:  # anna has revoked all there was
            cast.grant("git_commit", reason=f"{MARKUP} again")
        for page in sorted(pages(written, models=False), key=lambda one: one not in {"/mine/", "/grants/"}):
            done |= set(sent(client, page, models=False))
    assert done >= WORDS, WORDS - done
    admin = signed_in(cast.admin)
    for page in pages(written, models=True):
        if page.endswith(("/change/", "/add/")):
            set(sent(admin, page, models=True))
    while sequence():
        pass
    cache.clear()
    for person in people:
        client = signed_in(person)
        for page in pages(written, models=person == cast.admin):
            if page.startswith("/admin/") and page.endswith(("/delete/", "/add/")):
                continue  # nothing of what was written is there, or what has its own page
            ensure_inert(client.get(page), (person.username, page))
    assert BAD == [], "\n".join(map(str, BAD))


def pages(house: dict[str, Any], *, models: bool) -> list[str]:  # noqa: F811 - what the fixture gives
    """Every address that can be looked at; those of requests for each of them."""
    found = []
    for one in addresses(house):
        if one.no_form or one.kind in LEFT_OUT or one.name in LEFT_OUT or (one.kind == "admin:" and not models):
            continue
        if one.name in {"web:request", "web:request_part"}:
            ids = AccessRequest.objects.values_list("pk", flat=True)
            found += [one.path.replace(str(house["request_id"]), str(key)) for key in ids]
        else:
            found.append(one.path)
    return found

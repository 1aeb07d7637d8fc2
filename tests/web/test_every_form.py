"""Every address of the site against forged forms, frames, and ways to be led elsewhere. Whoever adds a view adds a row."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from django.urls.resolvers import RoutePattern

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.identity.models import Agent, Team, User
from jitaccess.identity.services import issue_sign_in_link
from jitaccess.kernel.ids import uuid7
from jitaccess.notify.slack.linking import issue_code
from jitaccess.notify.webhooks.models import HookDelivery
from jitaccess.notify.webhooks.services import create_endpoint
from jitaccess.policy.delegations import delegate
from jitaccess.policy.locks import lock
from jitaccess.policy.models import BreakGlass
from jitaccess.store.clock import now
from requests_app.models import AccessRequest
from tests.cast import OPERATOR, Cast

SITE = "http://testserver"
# What a browser may send a form to. Every other address of the site answers a POST with 404 or 405; "admin:" stands for
# the forms of all models there.
TAKES_POST = {
    "account_login", "account_logout", "account_change_password", "sessions_end", "account_reauthenticate",
    "mfa_reauthenticate", "mfa_reauthenticate_webauthn", "oidc_reauthenticate", "mfa_authenticate",
    "mfa_activate_totp", "mfa_deactivate_totp", "mfa_login_webauthn", "mfa_add_webauthn", "mfa_remove_webauthn",
    "mfa_view_recovery_codes", "mfa_generate_recovery_codes", "oidc_login", "oidc_link", "oidc_unlink",
    "slack:slack_link", "slack:slack_unlink", "slack:slack_retry", "notify:preferences", "notify:team_preferences",
    "notify:webhook_new", "notify:webhook_change", "notify:webhook_switch", "notify:webhook_remove",
    "notify:webhook_rotate", "notify:webhook_replay", "notify:webhook_test", "web:bulk", "web:approve", "web:deny", "web:changes",
    "web:comment", "web:revoke", "web:new_dry_run", "web:file", "web:cancel", "web:release", "web:extend",
    "web:lock_agent", "web:lock_grant", "web:classify", "web:simulator", "web:lock", "web:unlock",
    "web:explain_anomaly", "web:use_break_glass", "web:review", "web:stop_break_glass", "web:hand_over",
    "web:end_delegation", "web:sign_in", "admin:",
}  # fmt: skip
# Django answers these however they are asked, and they change nothing.
ANSWERS_ANY = {"account_inactive"}
# Not called by forms: who calls proves that in the call, which no other page can make a browser do.
NO_FORM = {
    "api": "a bearer token, or a session with the token of forms",
    "authzen": "a bearer token",
    "authzen_configuration": "tells only",
    "slack:slack_interactive": "Slack's signature",
    "slack:slack_commands": "Slack's signature",
}
# Where one is led after it, if the address says so.
LEADS_ON = {
    "account_login", "account_logout", "account_reauthenticate", "mfa_reauthenticate", "mfa_reauthenticate_webauthn",
    "mfa_authenticate", "mfa_login_webauthn", "oidc_login", "oidc_reauthenticate", "web:sign_in", "admin:login",
}  # fmt: skip
ELSEWHERE = (
    "https://evil.example/", "//evil.example", "///evil.example", "\\\\evil.example", "/\\evil.example",
    "/\t/evil.example", " //evil.example", "%2f%2fevil.example", "/%5cevil.example", "https:evil.example", "http:evil.example",
    "https:///evil.example", "http://testserver@evil.example/", "http://testserver.evil.example/",
    "//testserver:80@evil.example", "javascript:alert(1)", "JaVaScRiPt:alert(1)", "\x01javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>", "\nhttps://evil.example", "https://evil.example\\@testserver/",
)  # fmt: skip
NAMES = ("next", "return", "return_to", "redirect", "redirect_to", "url", "to", "back", "continue")
PASSWORD = "correct horse battery"


@dataclass(frozen=True, slots=True)
class Address:
    """`name` of a view with its namespace, else its path; a path with everything filled in."""

    name: str
    path: str

    @property
    def kind(self) -> str:
        """Its row in the tables: all models of the admin have the same."""
        admins = self.name.startswith(("admin:", "/admin/")) and self.name not in LEADS_ON
        return "admin:" if admins else self.name

    @property
    def no_form(self) -> bool:
        return (
            self.name in NO_FORM
            or self.name.partition(":")[0] in NO_FORM
            or self.name.startswith(("/api/", "/access/"))
        )


@pytest.fixture
def house(cast: Cast) -> dict[str, Any]:
    """One of each thing that an address can be about."""
    waiting, live = cast.submit(), cast.grant("git_reset")
    watch = Team.objects.create(name="watch")
    watch.members.add(cast.admin)
    right = BreakGlass.objects.create(name="look-inside", role=cast.read_only, max_minutes=30, reviewers=watch)
    right.users.add(cast.olga)
    other = Agent.objects.create(name="other", owner=cast.olga, team=cast.team)
    hook, _ = create_endpoint(
        name="siem", url="https://siem.example/x", events="*", team=None, owner=cast.admin, operator=OPERATOR
    )
    entry = Entry.objects.filter(event="request.submitted").latest("uid")
    at, mine = now(), Actor(user=cast.anna.pk, user_name="anna")
    sent = HookDelivery.objects.create(endpoint=hook, entry=entry.uid, event=entry.event, created_at=at, due_at=at)
    return {
        "request_id": waiting.pk,
        "grant_id": live.pk,
        "agent_id": cast.agent.pk,
        "team_id": cast.team.pk,
        "right_id": right.pk,
        "lock_id": lock(kind="agent", target=other.pk, reason="Stop", operator=OPERATOR).pk,
        "delegation_id": delegate(
            person=cast.anna, to=cast.bert, ends_at=at + timedelta(days=2), note="Away", operator=mine
        ).pk,
        "endpoint_id": hook.pk,
        "delivery_id": sent.pk,
        "uid": entry.uid,
        "id": cast.carl.pk,
        "pk": 1,
        "card_id": uuid7(),
        "slug": "git",
        "rule": "unused",
        "token": issue_sign_in_link(user=cast.carl, ttl=600, operator=OPERATOR).rstrip("/").rpartition("/")[2],
        "code": issue_code(team="T1", team_name="N", slack_user="U1", slack_name="c").rstrip("/").rpartition("/")[2],
        "app_label": "jit_policy",
        "content_type_id": "1",
    }


def addresses(house: dict[str, Any]) -> list[Address]:
    return list(_addresses(get_resolver(), "/", "", house))


def _addresses(resolver: URLResolver, path: str, space: str, house: dict[str, Any]) -> Iterator[Address]:
    for one in resolver.url_patterns:
        here = path + (one.pattern._route if isinstance(one.pattern, RoutePattern) else f"^{one.pattern}")
        if isinstance(one, URLResolver):
            yield from _addresses(one, here, f"{one.namespace}:" if one.namespace else space, house)
        elif isinstance(one, URLPattern):
            name = f"{space}{one.name}" if one.name else here
            yield Address(name, _filled(here, name, house))


def _filled(route: str, name: str, house: dict[str, Any]) -> str:
    if "^" in route:  # two of the admin's: everything else, and the index of an app
        return "/admin/jit_policy/" if "app_label" in route else f"{route.partition('^')[0]}no-such-page/"
    known = house | {"name": "status" if name == "web:request_part" else "demo-agent"}
    known["object_id"] = _row_of(name)

    nothing = uuid7()  # there is none: programs ask for it, not forms

    def value(found: re.Match[str]) -> str:
        return str(known.get(found[1], nothing))

    return re.sub(r"<(?:\w+:)?(\w+)>", value, route)


def _row_of(name: str) -> Any:
    """The key of a row of the model that a page of the admin is about."""
    about = name.removeprefix("/").removeprefix("admin").lstrip(":/").replace("/", "_")
    for model in admin.site._registry:
        if about.startswith(f"{model._meta.app_label}_{model._meta.model_name}_"):
            first = model._default_manager.first()
            return first.pk if first else uuid7()
    return uuid7()


def everything() -> dict[str, str]:
    """A digest of all rows by table, but of sign-ins, which note who looks."""
    digests = {}
    with connection.cursor() as cursor:
        for model in sorted(apps.get_models(include_auto_created=True), key=lambda one: one._meta.db_table):
            table = model._meta.db_table
            if model._meta.proxy or table in {"django_session", "usersessions_usersession"}:
                continue
            cursor.execute(f'SELECT * FROM "{table}"')
            digests[table] = hashlib.sha256(repr(sorted(map(repr, cursor.fetchall()))).encode()).hexdigest()
    return digests


def signed_in(user: User, *, csrf: bool = False) -> Client:
    client = Client(enforce_csrf_checks=csrf, raise_request_exception=True)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def test_the_tables_have_a_row_for_every_view_that_takes_a_form(cast: Cast, house: dict[str, Any]) -> None:
    found = {one.kind for one in addresses(house) if not one.no_form}
    assert found >= TAKES_POST | LEADS_ON | ANSWERS_ANY, "a row for what is not there any more"
    clients, more = (signed_in(cast.admin), signed_in(cast.olga)), set()
    for one in addresses(house):
        if one.no_form or one.kind in TAKES_POST | ANSWERS_ANY:
            continue
        if not {client.post(one.path).status_code for client in clients} <= {404, 405}:
            more.add(one.name)
    assert more == {"admin:login"}  # as if asked with GET: it leads to the page of the desk


def test_no_form_of_another_site_changes_anything(cast: Cast, house: dict[str, Any]) -> None:
    client = signed_in(cast.admin, csrf=True)
    before = everything()
    client.get("/")
    token = client.cookies["csrftoken"].value
    forged = {"reason": "forged", "digest": AccessRequest.objects.get(pk=house["request_id"]).digest}
    for one in addresses(house):
        answers = [client.post(one.path, forged)]
        if one.kind != "admin:":
            sent = forged | {"csrfmiddlewaretoken": token}
            answers.append(client.post(one.path, sent, headers={"Origin": "https://evil.example"}))
        for answer in answers:
            allowed = {400, 401, 403, 404, 405, 415} if one.no_form else {403}
            assert answer.status_code in allowed, (one, answer.status_code)
            assert one.no_form or "gone stale" in answer.content.decode(), one
    assert everything() == before


def test_every_answer_keeps_off_frames_and_foreign_script_and_get_changes_nothing(
    cast: Cast, house: dict[str, Any]
) -> None:
    elsewhere, pages = dict.fromkeys(NAMES, "https://evil.example/"), 0
    clients = signed_in(cast.admin), Client()
    before = everything()
    for client in clients:
        for one in addresses(house):
            if one.name in {"admin:logout", "account_logout"}:
                continue
            answer = client.get(one.path, elsewhere)
            assert answer.status_code < 500, one
            stays(answer)
            pages += ensure_guarded(one, answer)
    assert pages > 300
    assert everything() == before


def ensure_guarded(one: Address, answer: HttpResponse) -> bool:
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["default-src"] == "'none'", one
    assert policy["script-src"] == policy["form-action"] == "'self'", one
    assert policy["style-src"] == "'self'", one
    assert answer.headers["X-Frame-Options"] == "DENY", one
    assert answer.headers["X-Content-Type-Options"] == "nosniff", one
    if not answer.headers.get("Content-Type", "").startswith("text/html"):
        return False
    assert answer.headers["Cache-Control"], one
    assert "public" not in answer.headers["Cache-Control"], one
    return True


def stays(answer: HttpResponse) -> None:
    """Wherever it leads, as a browser reads it, is here; and so is wherever it says to go then."""
    for header in ("Location", "HX-Redirect"):
        if target := answer.headers.get(header, ""):
            ensure_here(target)
            for value in parse_qs(urlsplit(target).query).get("next", []):
                if not value.startswith("https://evil"):  # what the sign-in page does with it is asked below
                    ensure_here(value)


def ensure_here(target: str) -> None:
    # As browsers do (WHATWG URL): controls and spaces around are dropped, tabs and newlines anywhere, \ is /.
    read = re.sub(r"[\t\r\n]", "", target.strip("".join(map(chr, range(33))))).replace("\\", "/")
    schemed = re.match("[a-z][a-z0-9+.-]*:", read, re.IGNORECASE)
    assert read.startswith(f"{SITE}/") if schemed else not read.startswith("//"), target


def test_nobody_is_led_elsewhere_after_signing_in_or_out_or_proving_who_they_are(
    cast: Cast, house: dict[str, Any], settings: Any
) -> None:
    settings.ACCOUNT_RATE_LIMITS = False
    paths = {one.name: one.path for one in addresses(house) if one.name in LEADS_ON}
    assert paths.keys() == LEADS_ON
    right = {"login": "carl", "password": PASSWORD}
    anna = signed_in(cast.anna)  # whose password is carl's
    # The others ask the same function; a few each tell whether they do ask.
    whole = {"account_login", "account_reauthenticate", "account_logout", "web:sign_in"}
    for target in ELSEWHERE:
        for name, path in paths.items():
            if name not in whole and target not in ELSEWHERE[::5]:
                continue
            for client in (Client(), signed_in(cast.bert) if "logout" in name else anna):
                leads_nowhere(client.get(path, {"next": target}))
                if name != "web:sign_in":
                    leads_nowhere(client.post(path, right | {"next": target}))
        for query, form in (("", {"next": target}), (f"?{urlencode({'next': target})}", {})):
            token = issue_sign_in_link(user=cast.carl, ttl=600, operator=OPERATOR)
            answer = Client().post(f"/sign-in/{token}/{query}", form)
            assert answer.status_code == 302
            leads_nowhere(answer)
    welcome = Client().post("/accounts/login/", right | {"next": "/requests/?state=waiting"})
    assert welcome.headers["Location"] == "/requests/?state=waiting"


def leads_nowhere(answer: HttpResponse) -> None:
    assert answer.status_code < 500
    target = answer.headers.get("Location", "")
    if target:
        ensure_here(target)
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        for link in Document.of(answer).links:
            if not link.startswith("https://"):
                ensure_here(link)
            assert not link.startswith("https://evil"), link


class Document(HTMLParser):
    """What a page is made of: its elements, addresses, and the texts that are not in a field."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.attributes, self.links, self.texts = set[str](), set[str](), list[str](), list[str]()
        self.scripts, self._within = list[str](), ""

    @classmethod
    def of(cls, answer: HttpResponse) -> Document:
        document = cls()
        document.feed(answer.content.decode())
        return document

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.add(name)
            if name in {"href", "src", "action", "formaction", "hx-get", "hx-post", "data", "poster", "srcset"}:
                self.links.append(value or "")
            elif name not in {"value", "data-live"}:
                self.texts.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts.append(data)
        elif self._within not in {"textarea", "style"}:
            self.texts.append(data)

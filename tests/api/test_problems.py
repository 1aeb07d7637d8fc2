"""Whatever is sent, the answer is a problem with a code, and never a server error."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client, RequestFactory
from django.urls import resolve

from jitaccess.api import requests as views
from jitaccess.api.parsing import MAX_BODY
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, JitAccessError, NotFound, Unavailable
from jitaccess.runtime.wsgi import application
from requests_app.models import AccessRequest
from tests.api.conftest import Api, ask, person, problem, stranger
from tests.cast import Cast

pytestmark = pytest.mark.django_db

LONE = b'{"tools": ["git/git_commit"], "reason": "\\ud800"}'
NUL = b'{"tools": ["git/git_commit"], "reason": "a\\u0000b"}'
BODIES = {
    b"": "input.invalid",
    b"{": "json.invalid",
    b"[]": "json.batch",
    b"1": "json.not_object",
    b"\xff": "json.encoding",
    b'{"reason": "a", "reason": "b"}': "json.duplicate_member",
    LONE: "json.surrogate",
    NUL: "input.invalid",
    b'{"minutes": 99999999999999999999}': "json.number_range",
    b'{"minutes": NaN}': "json.invalid",
    b'{"context": ' + b'{"a":' * 40 + b"1" + b"}" * 41: "json.depth",
}


@pytest.mark.pure  # refused before the database is asked: one run of it is enough
@pytest.mark.parametrize("body", BODIES)
def test_bodies_that_are_not_read_in_one_way_are_refused(body: bytes, agent: Api):
    problem(agent.post("/requests", body), 400, BODIES[body])
    assert not AccessRequest.objects.exists()


@pytest.mark.pure  # as above
@pytest.mark.parametrize(
    ("more", "pointer"),
    [
        ({"minuets": 5}, "/minuets"),
        ({"minutes": "5"}, "/minutes"),
        ({"minutes": True}, "/minutes"),
        ({"minutes": 1.5}, "/minutes"),
        ({"minutes": 0}, "/minutes"),
        ({"minutes": 2**53 - 1}, "/minutes"),
        ({"dry_run": "true"}, "/dry_run"),
        ({"dry_run": 1}, "/dry_run"),
        ({"reason": 5}, "/reason"),
        ({"reason": None}, "/reason"),
        ({"tools": "git/git_commit"}, "/tools"),
        ({"tools": []}, "/tools"),
        ({"tools": ["git/git_commit", 7]}, "/tools/1"),
        ({"tools": ["git/git_commit"] * 51}, "/tools"),
        ({"context": []}, "/context"),
        ({"a/b~c": 1}, "/a~1b~0c"),
    ],
)
def test_input_that_does_not_fit_is_pointed_at(more: dict[str, Any], pointer: str, agent: Api):
    value = problem(agent.post("/requests", ask() | more), 400, "input.invalid")
    assert [error["pointer"] for error in value["errors"]] == [pointer]
    assert not AccessRequest.objects.exists()


def test_services_say_what_to_change(cast: Cast, agent: Api):
    value = problem(agent.post("/requests", ask(minutes=500)), 400, "request.duration")
    assert value["params"] == {"max_minutes": 240}
    problem(agent.post("/requests", ask("git/git_log")), 409, "request.already_allowed")
    problem(agent.post("/requests", ask() | {"reason": " "}), 400, "request.reason")
    problem(agent.post("/requests", ask(context={"a": "x" * 4000})), 400, "request.context")


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=101", "limit=x", "limit=1&limit=2", "state=gone", "colour=red", "agent=%00",
     "created_after=yesterday", "cursor=x", "cursor=bm9uc2Vuc2U", "cursor=" + "A" * 24, "cursor=" + "A" * 41],
)  # fmt: skip
def test_queries_that_do_not_fit_are_refused(query: str, agent: Api):
    response = agent.client.get(f"/api/v1/requests?{query}", headers=agent.headers)
    value = response.json()
    problem(response, 400, value["code"])
    assert value["code"] in {"input.invalid", "page.cursor"}
    if value["code"] == "input.invalid":
        assert [error["parameter"] for error in value["errors"]] == [query.partition("=")[0]]


def test_bodies_where_none_is_expected_hold_nothing(cast: Cast, agent: Api):
    asked = cast.submit()
    value = problem(agent.post(f"/requests/{asked.pk}/cancel", {"sure": True}), 400, "input.invalid")
    assert value["errors"][0]["pointer"] == "/sure"
    asked.refresh_from_db()
    assert asked.pending


def test_large_bodies_and_other_media_types_are_refused(agent: Api):
    problem(agent.post("/requests", b" " * (MAX_BODY + 1)), 413, "body.too_large")
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "nonsense"):
        answer = agent.client.post("/api/v1/requests", b"reason=a", content_type=kind, headers=agent.headers)
        problem(answer, 415, "body.media_type")


def test_broken_forms_in_a_session_are_no_server_error(cast: Cast):
    api = person(cast.anna, csrf=True)
    for kind in ("multipart/form-data", "multipart/form-data; boundary=\xff", "application/x-www-form-urlencoded"):
        answer = api.client.post("/api/v1/requests", b"--x\r\n\xff", content_type=kind)
        assert 400 <= answer.status_code < 500
        assert answer.headers["Content-Type"] == "application/problem+json"


def test_other_methods_and_other_answers_than_json_are_refused(agent: Api):
    client, headers = agent.client, agent.headers
    for method in ("delete", "put", "patch", "options"):
        answer = getattr(client, method)("/api/v1/requests", headers=headers)
        problem(answer, 405, "method.not_allowed")
    assert set(answer.headers["Allow"].split(", ")) >= {"GET", "POST"}
    problem(client.get("/api/v1/requests", headers={**headers, "Accept": "text/html"}), 406, "accept.unsupported")
    assert client.head("/api/v1/me", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "path", ["/api/", "/api/v1", "/api/v2/requests", "/api/v1/requests/", "/api/v1/nothing", "/api/x%00"]
)
def test_what_is_not_there_is_a_problem_too(path: str):
    problem(Client().get(path), 404, "path.unknown")
    problem(Client().post(path), 404, "path.unknown")


def test_other_pages_keep_their_own_errors(client: Client):
    assert "text/html" in client.get("/nothing").headers["Content-Type"]


def test_a_wrong_host_is_a_problem():
    problem(Client().get("/api/v1/me", headers={"Host": "evil.example"}), 400, "request.malformed")


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Invalid("a.b", "No."), 400, "a.b"),
        (Forbidden("a.b", "No."), 403, "a.b"),
        (NotFound("a.b", "No."), 404, "a.b"),
        (Conflict("a.b", "No."), 409, "a.b"),
        (Unavailable("a.b", "No."), 503, "a.b"),
        (OperationalError("secret"), 503, "database.unavailable"),
        (JitAccessError("a.b", "No."), 500, "a.b"),
        (ZeroDivisionError("secret"), 500, "internal"),
    ],
)
def test_each_kind_of_error_has_one_status(
    error: Exception, status: int, code: str, agent: Api, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(views, "submit_bundle", fail)
    answer = agent.post("/requests", ask())
    value = problem(answer, status, code)
    assert "secret" not in str(value)
    assert ("Retry-After" in answer.headers) is (status == 503)


def test_text_is_shown_without_what_cannot_be_seen(agent: Api):
    value = problem(agent.post("/requests", ask("git/\u202egnp")), 400, "request.unknown_tool")
    assert "\\u{202e}" in value["detail"]


def test_strangers_learn_nothing_from_errors_about_input():
    problem(stranger().post("/requests", b"{"), 401, "auth.missing")


@pytest.mark.parametrize("kind", ["application/json; a*=bogus''x", "x; charset=bogus", "a; b" * 9000, "\xff"])
def test_a_content_type_that_cannot_be_read_is_no_server_error(kind: str, agent: Api):
    """As it is served: Django's own request raises before anything can answer."""
    base = RequestFactory().post("/api/v1/requests", b"{}", "application/json", headers=agent.headers).environ
    request = application.request_class({**base, "CONTENT_TYPE": kind})
    answer = resolve(request.path).func(request)
    assert (answer.status_code, answer.data["code"]) == (415, "body.media_type")

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from django.core.cache import caches
from django.test import Client

from jitaccess.api import policy_now, throttles
from jitaccess.identity.models import Agent, User
from jitaccess.identity.services import issue_token
from jitaccess.kernel.canonical import canonical
from jitaccess.policy.snapshots import SnapshotStore
from tests.cast import OPERATOR, Cast

V1 = "/api/v1"
NOBODY = "00000000-0000-7000-8000-000000000000"


@dataclass
class Api:
    """A client of the API, as somebody."""

    client: Client
    headers: dict[str, str]

    def get(self, path: str, **query: Any) -> Any:
        return self.client.get(f"{V1}{path}", query or None, headers=self.headers)

    def post(self, path: str, body: Any = None, *, headers: dict[str, str] | None = None) -> Any:
        raw = body if isinstance(body, bytes) else b"" if body is None else canonical(body)
        return self.client.post(
            f"{V1}{path}", raw, content_type="application/json", headers={**self.headers, **(headers or {})}
        )


def person(user: User, *, csrf: bool = False) -> Api:
    client = Client(enforce_csrf_checks=csrf, raise_request_exception=False)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return Api(client, {})


def token_of(agent: Agent, user: User | None = None) -> str:
    return issue_token(agent=agent, ttl=600, operator=OPERATOR, user=user)[0]


def bearer(token: str) -> Api:
    return Api(Client(raise_request_exception=False), {"Authorization": f"Bearer {token}"})


def stranger() -> Api:
    return Api(Client(raise_request_exception=False), {})


def ask(*tools: str, **more: Any) -> dict[str, Any]:
    return {"tools": list(tools or ("git/git_commit",)), "reason": "Finish the release notes", **more}


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """The response is this problem, in the form that every problem has."""
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    value: dict[str, Any] = response.json()
    assert value["status"] == status
    assert value["code"] == code, value
    assert value["type"] == f"/api/v1/docs/#{code}"
    assert {"title", "detail", "instance"} <= value.keys()
    return value


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of other tests: what is remembered here is per process, theirs is rolled back."""
    monkeypatch.setattr(policy_now, "STORE", SnapshotStore())
    monkeypatch.setitem(throttles._away, "until", 0.0)
    for name in ("api", "api-local"):
        caches[name].clear()


@pytest.fixture
def agent(cast: Cast) -> Api:
    """The demo agent, alone."""
    return bearer(token_of(cast.agent))

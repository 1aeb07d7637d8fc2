from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client

from jitaccess.api import policy_now
from jitaccess.identity.models import User
from jitaccess.identity.services import create_agent
from jitaccess.kernel.canonical import canonical
from jitaccess.policy.engine.rules import Snapshot, Subject
from jitaccess.policy.snapshots import SnapshotStore
from tests.api.conftest import token_of
from tests.cast import OPERATOR, Cast

HERE = "https://jit.example.test"


@dataclass
class Pdp:
    """A client of the AuthZEN API, as somebody."""

    client: Client
    headers: dict[str, str]

    def post(self, path: str, body: Any = None, *, kind: str = "application/json", **headers: str) -> Any:
        raw = body if isinstance(body, bytes) else canonical(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(f"/access/v1/{path}", raw, content_type=kind, headers={**self.headers, **named})

    def get(self, path: str, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.get(f"/access/v1/{path}", headers={**self.headers, **named})

    def decide(self, tool: str = "git/git_commit", **members: Any) -> dict[str, Any]:
        answer = self.post("evaluation", question(tool, **members))
        assert answer.status_code == 200, answer.content
        value: dict[str, Any] = answer.json()
        return value

    def denied(self, tool: str = "git/git_commit", **members: Any) -> dict[str, Any]:
        """The context of a denial."""
        value = self.decide(tool, **members)
        assert value["decision"] is False
        context: dict[str, Any] = value["context"]
        return context

    def submit(self, denied: dict[str, Any], tool: str = "git/git_commit", **changes: Any) -> Any:
        """Ask for what was denied with the context `denied`."""
        headers = changes.pop("headers", {})
        return self.post("requests", submission(denied, tool, **changes), **headers)


def question(tool: str = "git/git_commit", **members: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "subject": {"type": "agent", "id": "demo-agent"},
        "action": {"name": "call"},
        "resource": {"type": "tool", "id": tool},
    }
    return asked | members


def submission(denied: dict[str, Any], tool: str = "git/git_commit", **changes: Any) -> dict[str, Any]:
    denial = {
        "evaluation_id": denied["evaluation_id"],
        "evaluated_at": denied["evaluated_at"],
        "reason": denied["reason"],
        "expires_at": denied["access_request"]["expires_at"],
        "binding_token": denied["access_request"]["binding_token"],
    }
    asked = question(tool) | {"context": {"business_justification": "Finish the release notes"}, "denial": denial}
    return {name: value for name, value in (asked | changes).items() if value is not None}


def bearing(token: str) -> Pdp:
    return Pdp(Client(raise_request_exception=False), {"Authorization": f"Bearer {token}"})


def problem(response: Any, status: int, name: str) -> dict[str, Any]:
    """The response is this problem of the profile, or with a dot in `name` one of ours."""
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    value: dict[str, Any] = response.json()
    if "." in name or "_" not in name:
        assert value["code"] == name
    else:
        assert value["type"] == f"urn:openid:authzen:access-request:error:{name}"
    return value


class Anew(SnapshotStore):
    """Reads everything at each look: PostgreSQL's version of policy moves once in a transaction, and a test is one."""

    def look(self, *whose: Subject) -> tuple[Snapshot, datetime]:
        return SnapshotStore().look(*whose)


@pytest.fixture(autouse=True)
def https(settings: LazySettings, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.PUBLIC_URL = HERE
    monkeypatch.setattr(policy_now, "STORE", Anew())


@pytest.fixture
def words(settings: LazySettings, tmp_path: Path) -> Any:
    """Writes the operator's file."""
    settings.AUTHZEN_FILE = tmp_path / "authzen.yaml"

    def write(spec: str) -> None:
        settings.AUTHZEN_FILE.write_text(f"kind: authzen\nversion: v1\nspec:\n{spec}", encoding="utf-8")

    return write


@pytest.fixture
def pdp(cast: Cast) -> Pdp:
    """As the demo agent, alone."""
    return bearing(token_of(cast.agent))


@pytest.fixture
def enforcer(cast: Cast, words: Any) -> Pdp:
    """As an enforcement point of the operator's file."""
    gate = create_agent(name="gate", owner=cast.carl, team=cast.team, operator=OPERATOR)
    words("  enforcement_points: [gate]\n")
    return bearing(token_of(gate))


def signed_in(user: User) -> Pdp:
    client = Client(raise_request_exception=False)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return Pdp(client, {})

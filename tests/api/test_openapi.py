"""The OpenAPI file says what there is; what there is says what the file says."""

from __future__ import annotations

import contextlib
import re
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.test import Client
from django.urls import URLPattern

from jitaccess.api import urls
from jitaccess.api.authzen import urls as authzen
from jitaccess.api.parsing import Input
from jitaccess.store.clock import now
from tests.api.conftest import Api, ask, person
from tests.cast import Cast

FILE = Path(__file__).parents[2] / "docs" / "openapi.yaml"
PUBLIC = {"/.well-known/authzen-configuration", "/access/v1/jwks.json"}
# What answers with a secret, and what changes nothing.
UNKEYED = ("/tokens", "/webhooks", "/change", "/rotate", "/evaluation", "/evaluations", "/explain")
REFUSALS = {"400", "401", "403", "404", "405", "406", "429", "500", "503"}


@cache
def document() -> dict[str, Any]:
    value: dict[str, Any] = yaml.load(FILE.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return value


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, several in document()["paths"].items()
        for method, operation in several.items()
    ]


@pytest.mark.pure
def test_the_file_is_what_the_code_generates_without_a_warning(tmp_path: Path):
    fresh = tmp_path / "openapi.yaml"
    call_command("spectacular", file=str(fresh), validate=True, fail_on_warn=True)
    message = "run: python manage.py spectacular --file docs/openapi.yaml --validate --fail-on-warn"
    assert fresh.read_text(encoding="utf-8") == FILE.read_text(encoding="utf-8"), message


@pytest.mark.pure
def test_every_address_is_in_the_file():
    ours = (("/api/", urls.urlpatterns), ("/access/v1/", authzen.urlpatterns), ("/.well-known/", authzen.well_known))
    served = {
        prefix + re.sub(r"<\w+:(\w+)>", r"{\1}", str(pattern.pattern))
        for prefix, patterns in ours
        for pattern in patterns
        if isinstance(pattern, URLPattern) and pattern.name not in {None, "openapi", "docs", "request_schema"}
    }
    assert served == set(document()["paths"])


@pytest.mark.pure
def test_every_operation_says_what_it_is_and_how_it_refuses():
    for path, method, operation in operations():
        where = f"{method} {path}"
        assert operation["summary"], where
        assert operation["description"], where
        who = [{"agentToken": []}, {"session": []}]
        assert operation.get("security") == (None if path in PUBLIC else who), where
        wanted = REFUSALS | ({"409", "413", "415"} if method == "post" else set())
        assert wanted <= operation["responses"].keys(), where
        for parameter in operation.get("parameters", ()):
            opaque = parameter["name"] == "task_id"
            assert opaque or parameter["in"] != "path" or parameter["schema"]["format"] == "uuid", where
        if method == "post" and not path.endswith(UNKEYED):
            assert "Idempotency-Key" in {one["name"] for one in operation["parameters"]}, where
    for path in ("/api/v1/requests", "/api/v1/requests/{request_id}/approve"):
        assert document()["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]


@pytest.mark.pure
def test_bodies_are_closed_and_problems_are_problems():
    schemas = document()["components"]["schemas"]
    bodies = {kind.__name__ for kind in Input.__subclasses__()} & schemas.keys()
    assert {"NewRequest", "NewApproval", "NewDecision", "NewComment", "NewToken", "AskedCall", "Less"} <= bodies
    assert all(schemas[name]["additionalProperties"] is False for name in bodies)
    for response in document()["components"]["responses"].values():
        assert list(response["content"]) == ["application/problem+json"]


@pytest.mark.django_db
def test_answers_hold_what_the_file_says_and_nothing_else(cast: Cast, agent: Api):
    """Schemathesis checks that what is promised is there; this, that nothing is there that is not promised."""
    asked = agent.post("/requests", ask(max_uses=3)).json()
    path = f"/requests/{asked['request_id']}"
    anna, admin = person(cast.anna), person(cast.admin)
    anna.post(f"{path}/approve", {"digest": asked["digest"]})
    grant = anna.get(path).json()["grant"]["grant_id"]
    more = {"minutes": 5, "reason": "It takes longer"}
    exact = {"calls": [{"tool": "git/git_add", "arguments": {"files": ["a"]}}], "reason": "One file"}
    question = {"server": "git", "tool": "git_commit"}
    answers = {
        "Delegation": anna.post("/delegations", {"ends_at": (now() + timedelta(hours=1)).isoformat()}).json(),
        "DelegationPage": anna.get("/delegations").json(),
        "Explanation": agent.post("/explain", question).json(),
        "FullRequest": anna.get(path).json(),
        "AccessRequestPage": anna.get("/requests").json(),
        "FullGrant": anna.get(f"/grants/{grant}").json(),
        "FullGrantPage": agent.get("/grants").json(),
        "Timeline": anna.get(f"{path}/timeline").json(),
        "Requestables": agent.get("/requestable").json(),
        "DryRun": agent.post("/requests", {**exact, "dry_run": True}).json(),
        "AskedItem": agent.post("/requests", exact).json()["items"][0],
        "AgentPage": admin.get("/agents").json(),
        "ServerPage": admin.get("/servers").json(),
        "ToolPage": admin.get("/tools").json(),
        "FullTool": admin.get(f"/tools/{cast.tools['git_log'].pk}").json(),
        "FullRole": admin.get(f"/roles/{cast.read_only.pk}").json(),
        "BindingPage": admin.get("/bindings").json(),
        "EntryPage": admin.get("/ledger/entries").json(),
        "Me": admin.get("/me").json(),
        "Problem": anna.get("/requests", limit=0).json(),
    }
    answers["Submitted"] = agent.post(f"/grants/{grant}/extend", more).json()
    schemas = document()["components"]["schemas"]
    for name, value in answers.items():
        _hold(name, value, schemas[name], schemas)


def _hold(where: str, value: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> None:
    for part in (schema, *schema.get("allOf", ())):
        if "$ref" in part:
            schema = schemas[part["$ref"].rpartition("/")[2]]
    if isinstance(value, dict) and "properties" in schema:
        assert value.keys() <= schema["properties"].keys(), where
        assert set(schema.get("required", ())) <= value.keys(), where
        for name, member in value.items():
            _hold(f"{where}.{name}", member, schema["properties"][name], schemas)
    elif isinstance(value, list):
        for item in value:
            _hold(f"{where}[]", item, schema["items"], schemas)


@pytest.mark.django_db
def test_the_documentation_needs_nothing_from_elsewhere_and_nothing_inline(client: Client):
    served = client.get("/api/v1/openapi.json")
    assert served.headers["Content-Type"] == "application/json"
    assert served.json() == document()
    page = client.get("/api/v1/docs/", headers={"Accept": "text/html"})
    assert page.status_code == 200
    text = page.content.decode()
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert "<style" not in text
    assert "://" not in text
    for source in (part.partition('"')[0] for part in text.split('src="')[1:]):
        assert source.startswith("/static/")
        with contextlib.closing(client.get(source)) as file:
            assert file.status_code == 200

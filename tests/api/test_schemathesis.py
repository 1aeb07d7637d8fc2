"""Schemathesis over the whole API, as an admin and as an agent: no server error, and only what the file promises."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from django.test import override_settings
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from jitaccess.audit.models import Entry
from jitaccess.identity.principal import Principal
from jitaccess.policy.delegations import delegate
from jitaccess.policy.models import Delegation
from jitaccess.store.clock import now
from tests.api.conftest import person, token_of
from tests.api.test_openapi import PUBLIC
from tests.cast import Cast

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# Of each operation, as each caller, with input that fits and with input that does not.
EXAMPLES = 3


@pytest.fixture
def callers(cast: Cast) -> dict[str, dict[str, Any]]:
    """What a call carries, by who it is from."""
    browser = person(cast.admin, csrf=True).client
    browser.get(f"/requests/{cast.submit('git_reset').pk}/")
    cookies = {name: morsel.value for name, morsel in browser.cookies.items()}
    return {
        "admin": {"cookies": cookies, "headers": {"X-CSRFToken": cookies["csrftoken"]}},
        "agent": {"headers": {"Authorization": f"Bearer {token_of(cast.agent)}"}},
    }


@pytest.fixture
def things(cast: Cast) -> dict[str, str]:
    """Ids of what there is, by the names that paths use."""
    return {
        "request_id": str(cast.submit("git_add").pk),
        "grant_id": str(cast.grant("git_commit").pk),
        "agent_id": str(cast.agent.pk),
        "server_id": str(cast.server.pk),
        "tool_id": str(cast.tools["git_log"].pk),
        "role_id": str(cast.read_only.pk),
        "delegation_id": str(_delegation(cast).pk),
        "task_id": f"arq_{cast.submit('git_add').pk.hex}",
        "uid": str(Entry.objects.latest("uid").pk),
    }


def _delegation(cast: Cast) -> Delegation:
    operator = Principal.of_user(cast.bert).actor()
    return delegate(person=cast.bert, to=None, ends_at=now() + timedelta(hours=1), operator=operator)


@pytest.fixture
def application() -> Iterator[Any]:
    """The site, inside the transaction of the test: as Django's test client does, connections stay open."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield get_wsgi_application()
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


@pytest.mark.pure  # one run of it is enough
@pytest.mark.django_db
@pytest.mark.parametrize("who", ["admin", "agent"])
@override_settings(API_READS_PER_MINUTE=10**6, API_WRITES_PER_MINUTE=10**6)
def test_nothing_that_is_sent_breaks_the_contract(
    who: str, callers: dict[str, dict[str, Any]], things: dict[str, str], application: Any
):
    schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", application)
    statuses: set[int] = set()
    count = 0
    for result in schema.get_all_operations():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            if mode is GenerationMode.NEGATIVE and result.ok().path in PUBLIC:
                continue  # without parameters, body and credentials nothing can be wrong
            count += _exercise(result.ok(), mode, callers[who], things, statuses)
    assert count >= 150
    assert {200, 400, 403, 404} <= statuses
    assert not {status for status in statuses if status >= 500}


def _exercise(
    operation: Any, mode: GenerationMode, caller: dict[str, Any], things: dict[str, str], statuses: set[int]
) -> int:
    calls = 0

    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: Any) -> None:
        nonlocal calls
        calls += 1
        if calls % 3:  # most of the time what is named is there
            case.path_parameters.update({name: things[name] for name in case.path_parameters if name in things})
        response = case.call(**caller)
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400:
            assert response.headers["content-type"] == ["application/problem+json"]

    check()
    return calls

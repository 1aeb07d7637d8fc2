"""A token that was good a moment ago is not looked up again for a call, and yet no call gets by on memory."""

from __future__ import annotations

from typing import Any

import pytest

from jitaccess.gateway import app, known
from jitaccess.identity.models import AccessToken
from jitaccess.identity.services import revoke_token, set_agent_enabled
from jitaccess.policy.models import ServerAccess
from tests.cast import Cast
from tests.clocks import Clock
from tests.gateway.harness import Client, Served, ledger, told

pytestmark = pytest.mark.django_db(transaction=True)


def status(client: Client, method: str = "tools/call", **params: Any) -> int:
    body = {"name": "git_log", "arguments": {}} if method == "tools/call" else {}
    return client.post(client.message(method, body | params)).status_code


def test_calls_after_the_first_do_not_ask_for_the_token_before_their_batch(
    agent: Client, gateway: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status(agent) == 200
    asked: list[str] = []
    identify = gateway.gateway.__class__.identify

    async def counted(self: Any, token: str, **options: Any) -> Any:
        asked.append(token)
        return await identify(self, token, **options)

    monkeypatch.setattr(gateway.gateway.__class__, "identify", counted)
    assert [status(agent) for _ in range(3)] == [200, 200, 200]
    assert asked == []
    assert status(agent, "tools/list") == 200
    assert len(asked) == 1


@pytest.mark.parametrize("method", ["tools/call", "tools/list", "server/discover"])
def test_a_revoked_token_gets_401_at_once_by_every_method(agent: Client, cast: Cast, method: str) -> None:
    assert status(agent) == 200
    assert agent.row
    revoke_token(token=agent.row, operator=cast.operator)
    assert status(agent, method) == 401
    assert status(agent, method) == 401
    assert told("call.authorized") == ["call.authorized"]


def test_a_token_that_has_expired_by_the_databases_clock_gets_401(agent: Client, clock: Clock) -> None:
    assert status(agent) == 200
    clock.shift(seconds=7200)
    assert status(agent) == 401


def test_a_refused_access_tool_is_never_served_from_memory(agent: Client, cast: Cast) -> None:
    assert status(agent) == 200
    assert agent.row
    revoke_token(token=agent.row, operator=cast.operator)
    assert status(agent, name="request_access", arguments={"tools": ["git_commit"], "reason": "x"}) == 401
    assert status(agent, name="call_tool", arguments={"name": "git_log"}) == 401
    assert ledger("request.") == []


def test_a_disabled_agent_and_a_closed_server_are_refused_at_the_next_call(agent: Client, cast: Cast) -> None:
    assert status(agent) == 200
    set_agent_enabled(agent=cast.agent, enabled=False, operator=cast.operator)
    assert agent.refusal("git_log") == "locked_down"
    set_agent_enabled(agent=cast.agent, enabled=True, operator=cast.operator)
    assert status(agent) == 200
    ServerAccess.objects.all().delete()
    assert status(agent) == 404
    assert ledger("call.denied")[-1].server == cast.server.pk


def test_memory_is_bounded_and_short(agent: Client, gateway: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    remembered = gateway.gateway.known
    assert status(agent) == 200
    assert remembered.find(agent.token, source="x").source == "x"  # type: ignore[union-attr]
    monkeypatch.setattr(known, "SECONDS", -1.0)
    assert remembered.find(agent.token, source="x") is None
    monkeypatch.setattr(known, "SECONDS", 60.0)
    monkeypatch.setattr(known, "MOST", 1)
    principal = remembered.find(agent.token, source="x")
    assert principal
    for hashed in ("a", "b"):
        remembered.remember(principal.__class__(token_hash=hashed))
    assert remembered.find(agent.token, source="x") is None


def test_what_is_no_plain_call_is_read_as_before(agent: Client) -> None:
    assert status(agent) == 200
    assert agent.post(b"{").status_code == 400
    assert status(agent, name=["git_log"]) in {200, 400}
    assert app.MAX_READING
    assert AccessToken.objects.count() == 1

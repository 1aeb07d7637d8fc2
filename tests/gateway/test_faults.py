"""Servers that are down, die, hang or talk nonsense, clients that leave, a database that is away: each harms only its own call."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from django.db import connections

from jitaccess.catalog.models import AccessClass, Tool
from jitaccess.catalog.services import classify_tool, import_tools, register_server
from jitaccess.gateway.models import OpenCall
from jitaccess.gateway.upstream.config import StdioServer
from jitaccess.identity.services import create_agent
from jitaccess.policy.models import ServerAccess
from tests.cast import Cast, definition
from tests.gateway.harness import (
    Client,
    Served,
    data,
    database_away,
    echo,
    eventually,
    ledger,
    ledger_held,
    settled,
    told,
)

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[dict[str, Any]]]
UPSTREAM = "io.jitaccess/upstream_error"


def outcome() -> Any:
    """The last entry, once every call has its end."""
    assert eventually(settled), told()
    return ledger()[-1]


def failure(client: Client, **arguments: Any) -> tuple[str, bool]:
    result = client.call("git_log", **arguments)
    assert result["isError"] is True
    assert "structuredContent" not in result
    assert "'git_log' failed: " in result["content"][0]["text"]
    found = result["_meta"][UPSTREAM]
    assert ("Nothing was sent" in result["content"][0]["text"]) is not found["sent"]
    return found["error"], found["sent"]


@pytest.mark.parametrize("broken", ["missing", "exits", "mute"])
def test_a_server_that_cannot_be_started_fails_the_call_and_nothing_else(
    cast: Cast, start: Callable[..., Served], record: Path, broken: str
) -> None:
    servers = {
        "missing": StdioServer("git", "/nowhere/mcp-server", (), MappingProxyType({}), None),
        "exits": echo(record, "--exit"),
        "mute": StdioServer("git", sys.executable, ("-c", "import time; time.sleep(60)"), MappingProxyType({}), None, start_timeout=0.5),
    }  # fmt: skip
    served = start({"git": servers[broken]})
    with served.client(cast) as agent:
        for _ in range(2):  # the second finds the wait before another start
            assert failure(agent) == ("upstream.unavailable", False)
            assert outcome().event == "call.failed"
        assert agent.refusal("git_commit") == "no_binding"
        assert "git_log" in agent.tools()
        assert agent.use("my_access")["allowed"] == ["git_log", "git_status"]


def test_a_server_that_is_not_configured_here_fails_the_call(cast: Cast, start: Callable[..., Served]) -> None:
    served = start({"other": StdioServer("other", "true", (), MappingProxyType({}), None)})
    with served.client(cast) as agent:
        assert failure(agent) == ("upstream.unavailable", False)
    assert outcome().event == "call.failed"


def test_a_server_that_dies_in_mid_call_leaves_its_outcome_unknown_and_is_started_again(
    agent: Client, sent: Sent
) -> None:
    assert failure(agent, do="die") == ("upstream.died", True)
    entry = outcome()
    assert (entry.event, entry.outcome, data(entry)["sent"]) == ("call.outcome_unknown", "error", True)
    assert "content" in agent.call("git_log")
    assert len(sent()) == 2


def test_a_server_that_never_answers_is_told_to_stop_and_the_call_ends_in_time(
    cast: Cast, start: Callable[..., Served], record: Path
) -> None:
    served = start(call_timeout=0.3)
    with served.client(cast) as agent:
        started = time.monotonic()
        assert failure(agent, do="never") == ("upstream.timeout", True)
        assert time.monotonic() - started < 5
        assert outcome().event == "call.outcome_unknown"
        assert eventually(lambda: "notifications/cancelled" in record.read_text())
        assert "content" in agent.call("git_log")


def test_a_call_has_a_minute_unless_told_otherwise(gateway: Served) -> None:
    assert gateway.gateway.call_timeout is None
    server = next(iter(gateway.gateway.store.current.servers.values()))
    assert server.options.call_seconds == 60


@pytest.mark.parametrize("what", ["garbage", "nonsense", "not blocks", "no tool result", "input", "huge"])
def test_an_answer_that_is_no_tool_result_is_a_failure(agent: Client, what: str) -> None:
    assert failure(agent, do=what) == ("upstream.invalid_response", True)
    assert outcome().event == "call.failed"
    assert "content" in agent.call("git_log")


def test_the_servers_own_refusals_are_passed_on(agent: Client) -> None:
    result = agent.call("git_log", do="fail")
    assert (result["isError"], result["content"][0]["text"]) == (True, "it went wrong")
    entry = outcome()
    assert (entry.event, data(entry)["is_error"]) == ("call.completed", True)
    for name in ("legacy", "modern"):
        answer = agent.ask("tools/call", {"name": "git_log", "arguments": {"do": "error"}})
        assert answer["error"] == {"code": -32099, "message": "I refuse", "data": {"k": 1}}, name
        entry = outcome()
        assert (entry.event, data(entry)["rpc_code"], data(entry)["message"]) == ("call.failed", -32099, "I refuse")
    answer = agent.ask("tools/call", {"name": "git_log", "arguments": {"do": "huge error"}})
    assert answer["error"]["code"] == -32099
    assert len(answer["error"]["message"]) <= 2000
    assert "data" not in answer["error"]
    assert outcome().event == "call.failed"


def test_a_hanging_server_holds_up_neither_others_nor_its_other_users(
    cast: Cast, start: Callable[..., Served], tmp_path: Path, record: Path
) -> None:
    files = register_server(slug="files", operator=cast.operator)
    import_tools(server=files, definitions=[definition("read")], operator=cast.operator)
    classify_tool(tool=Tool.objects.get(server=files), access=AccessClass.READ, operator=cast.operator)
    ServerAccess.objects.create(server=files, every_team=True)
    other = create_agent(name="other", owner=cast.olga, team=cast.team, operator=cast.operator)
    served = start({"git": echo(record), "files": echo(tmp_path / "files", slug="files")})
    go = tmp_path / "go"
    with (
        served.client(cast) as agent,
        served.client(cast, agent=other) as neighbour,
        agent.begin("git_log", **{"do": "wait", "for": str(go)}) as plain,
    ):
        assert eventually(lambda: "wait" in record.read_text())
        assert "content" in neighbour.call("git_log")
        agent.server = "files"
        assert "content" in agent.call("read")
        assert "read" in agent.tools()
        assert OpenCall.objects.count() >= 1
        go.touch()
        assert b" 200 " in plain.recv(100)
    assert eventually(settled)
    assert told().count("call.completed") == 3


# -- clients that leave -----------------------------------------------------------------------------------------------


def test_a_modern_client_that_leaves_has_cancelled(agent: Client, sent: Sent, record: Path) -> None:
    with agent.begin("git_log", do="never"):
        assert eventually(sent)
    entry = outcome()
    assert entry.event == "call.outcome_unknown"
    assert "left" in data(entry)["why"]
    assert eventually(lambda: "notifications/cancelled" in record.read_text())
    assert "content" in agent.call("git_log")


def test_a_legacy_client_that_leaves_has_not(
    legacy: Client, gateway: Served, sent: Sent, record: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    with legacy.begin("git_log", **{"do": "wait", "for": str(go)}):
        assert eventually(sent)
    with legacy.begin("git_status"):
        assert eventually(lambda: len(gateway.gateway.in_flight) == 2)
    go.touch()
    assert eventually(lambda: told().count("call.completed") == 2)
    assert eventually(settled)
    assert "notifications/cancelled" not in record.read_text()


def test_a_legacy_client_cancels_its_own_call_and_nobody_elses(
    cast: Cast, gateway: Served, legacy: Client, sent: Sent, record: Path
) -> None:
    answers: list[dict[str, Any]] = []
    message = legacy.message("tools/call", {"name": "git_log", "arguments": {"do": "never"}}, id="one")
    calling = threading.Thread(target=lambda: answers.append(legacy.post(message).json()))
    calling.start()
    assert eventually(sent)
    other = create_agent(name="other", owner=cast.olga, team=cast.team, operator=cast.operator)
    with gateway.client(cast) as again, gateway.client(cast, agent=other) as stranger, gateway.client(cast) as modern:
        for somebody in (again.initialize(), stranger.initialize(), modern):
            assert somebody.notify("notifications/cancelled", {"requestId": "one"}).status_code == 202
        twice = Client(legacy.url, legacy.token, session=legacy.session)
        assert twice.notify("notifications/cancelled", {"requestId": 1}).status_code == 202
        assert twice.post(message | {"params": {"name": "git_log", "arguments": {}}}).status_code == 400
        assert gateway.gateway.in_flight
        assert "notifications/cancelled" not in record.read_text()
        assert twice.notify("notifications/cancelled", {"requestId": "one"}).status_code == 202
        twice.http.close()
    calling.join(10)
    assert answers[0]["id"] == "one"
    assert answers[0]["error"]["message"] == "Cancelled."
    assert outcome().event == "call.outcome_unknown"
    assert eventually(lambda: "notifications/cancelled" in record.read_text())
    assert told().count("call.authorized") == 1


def test_a_legacy_client_cancels_its_call_at_any_process(
    cast: Cast, gateway: Served, start: Callable[..., Served], legacy: Client, sent: Sent
) -> None:
    other = start()
    answers: list[dict[str, Any]] = []
    message = legacy.message("tools/call", {"name": "git_log", "arguments": {"do": "never"}}, id="one")
    calling = threading.Thread(target=lambda: answers.append(legacy.post(message).json()))
    calling.start()
    assert eventually(sent)
    with other.client(cast) as stranger, other.client(cast) as same:
        assert stranger.initialize().notify("notifications/cancelled", {"requestId": "one"}).status_code == 202
        same.session, same.version = legacy.session, legacy.version
        assert gateway.gateway.in_flight
        assert same.notify("notifications/cancelled", {"requestId": "one"}).status_code == 202
    calling.join(10)
    assert answers[0]["error"]["message"] == "Cancelled."
    assert outcome().event == "call.outcome_unknown"


def test_a_client_that_leaves_before_its_call_is_decided_leaves_no_open_call(
    gateway: Served, agent: Client, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "content" in agent.call("git_log")
    assert eventually(settled)
    admit, asked = gateway.gateway.admission.admit, threading.Event()

    def watched(intent: Any) -> Any:
        asked.set()
        return admit(intent)

    monkeypatch.setattr(gateway.gateway.admission, "admit", watched)
    with ledger_held():
        with agent.begin("git_log", late=True):
            assert asked.wait(10)
        assert eventually(lambda: not gateway.gateway.in_flight)
        assert told() == ["call.authorized", "call.completed"]
    assert eventually(lambda: told()[2:] == ["call.authorized", "call.not_sent"], what=str(told()))
    assert eventually(settled)
    assert len(sent()) == 1


def test_calls_under_way_are_on_record_when_the_gateway_stops(cast: Cast, gateway: Served, sent: Sent) -> None:
    with gateway.client(cast) as agent, gateway.client(cast) as old:
        old.initialize()
        with agent.begin("git_log", do="never"), old.begin("git_log", do="never"):
            assert eventually(lambda: len(sent()) == 2)
            gateway.stop()
    assert settled(), told()
    assert told().count("call.outcome_unknown") == 2


# -- the database -----------------------------------------------------------------------------------------------------


def test_while_the_database_is_away_nothing_is_forwarded_and_afterwards_all_is_well(
    cast: Cast, start: Callable[..., Served], sent: Sent, monkeypatch: pytest.MonkeyPatch, postgresql: bool
) -> None:
    if not postgresql:
        monkeypatch.setitem(connections.settings["default"]["OPTIONS"], "timeout", 0.3)
    served = start()
    with served.client(cast) as agent, served.client(cast) as old:
        old.initialize()
        assert "content" in agent.call("git_log")
        with database_away():
            ask = agent.message("tools/call", {"name": "git_log", "arguments": {}})
            refused = [agent.post(ask), old.post(old.message("tools/call", {"name": "git_log", "arguments": {}}))]
            commit, tried = served.gateway.admission._commit, []
            monkeypatch.setattr(
                served.gateway.admission, "_commit", lambda batch: tried.append(len(batch)) or commit(batch)
            )
            many = _at_once(agent, 24)
            # A batch is refused as one: if it were halved, each half would wait for the database in turn.
            assert sum(tried) <= 24
        for response in refused + many:
            if response.status_code == 200:
                result = response.json()["result"]
                assert result["_meta"]["io.jitaccess/deny"]["reason_code"] == "unavailable"
                assert "structuredContent" not in result
            else:
                assert response.status_code == 503
                assert response.json()["error"]["code"] == -32603
        assert len(sent()) == 1
        assert eventually(
            lambda: agent.post(agent.message("tools/call", {"name": "git_log", "arguments": {}})).status_code == 200
        )
        assert "content" in old.call("git_log")
        assert "git_log" in agent.tools()
    assert eventually(settled)


def _at_once(agent: Client, count: int) -> list[Any]:
    async def all_of_them() -> list[Any]:
        import httpx2

        async with httpx2.AsyncClient(timeout=30, trust_env=False) as http:
            messages = [agent.message("tools/call", {"name": "git_log", "arguments": {}}) for _ in range(count)]
            return await asyncio.gather(
                *(http.post(agent.endpoint, json=message, headers=agent.headers(message)) for message in messages)
            )

    return asyncio.run(all_of_them())


def test_outcomes_are_kept_while_the_database_is_away(
    cast: Cast,
    start: Callable[..., Served],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    postgresql: bool,
    sent: Sent,
) -> None:
    if not postgresql:
        monkeypatch.setitem(connections.settings["default"]["OPTIONS"], "timeout", 0.2)
    served, go = start(), tmp_path / "go"
    with served.client(cast) as agent, agent.begin("git_log", **{"do": "wait", "for": str(go)}) as plain:
        assert eventually(sent)
        with database_away():
            go.touch()
            assert b" 200 " in plain.recv(100)
            assert eventually(lambda: served.gateway.admission._endings or not served.gateway.in_flight)
        assert eventually(settled, within=15)
    assert told() == ["call.authorized", "call.completed"]


def test_what_the_client_sees_is_never_a_traceback(
    agent: Client, gateway: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway.gateway.pool, "_servers", lambda _: 1 / 0)
    response = agent.post(agent.message("tools/call", {"name": "git_log", "arguments": {}}))
    assert response.status_code == 500
    assert "division" not in response.text
    assert json.loads(response.text)["error"]["code"] == -32603
    assert eventually(lambda: not OpenCall.objects.exists())

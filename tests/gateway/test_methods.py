"""The methods there are, the lists they give, and what is never passed on."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from jitaccess.catalog.models import Tool
from jitaccess.catalog.services import import_tools
from jitaccess.gateway.builtin.definitions import NAMES
from jitaccess.gateway.models import RefusalCount
from jitaccess.gateway.recording.refusals import write_down_refusals
from jitaccess.identity.services import set_agent_enabled
from jitaccess.policy.services import bind_role, save_role
from jitaccess.store.clock import now
from requests_app.services import revoke_grant
from tests.cast import Cast, definition
from tests.clocks import Clock
from tests.gateway.harness import META, Client, Served, data, echo, eventually, ledger, refusals, told

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[dict[str, Any]]]
REFUSED = [
    "resources/list", "resources/read", "resources/templates/list", "resources/subscribe", "resources/unsubscribe",
    "prompts/list", "prompts/get", "completion/complete", "logging/setLevel", "sampling/createMessage", "roots/list",
    "elicitation/create", "tasks/get", "tasks/list", "tasks/cancel", "tasks/result", "Tools/call", "tools",
    "rpc.discover", "__class__", "", "notifications/initialized",
]  # fmt: skip


def test_methods_that_are_not_served_are_refused_and_never_forwarded(
    agent: Client, legacy: Client, record: Any, sent: Sent
) -> None:
    agent.call("git_log")
    legacy.call("git_log")
    before = record.read_bytes()
    for method in REFUSED:
        params = {"name": "x", "uri": "x"}
        response = agent.post(agent.message(method, {"_meta": META} | params))
        assert (response.status_code, response.json()["error"]["code"]) == (404, -32601), method
        response = legacy.post(legacy.message(method, params))
        assert (response.status_code, response.json()["error"]["code"]) == (200, -32601), method
    assert agent.post(agent.message("ping")).status_code == 404
    assert record.read_bytes() == before


def test_notifications_are_taken_and_never_forwarded(agent: Client, legacy: Client, record: Any) -> None:
    agent.call("git_log")
    legacy.call("git_log")
    before = record.read_bytes()
    for method in ("notifications/initialized", "notifications/cancelled", "notifications/progress", "tools/call",
                   "notifications/roots/list_changed", "initialize", "anything"):  # fmt: skip
        for client in (agent, legacy):
            response = client.notify(method, {"requestId": 1, "name": "git_log", "arguments": {}})
            assert (response.status_code, response.content) == (202, b""), method
    assert record.read_bytes() == before
    assert told() == ["call.authorized", "call.completed"] * 2


def test_discovery_says_what_there_is(agent: Client) -> None:
    result = agent.ask("server/discover")["result"]
    assert result["supportedVersions"][0] == "2026-07-28"
    assert result["capabilities"] == {"tools": {"listChanged": True}}
    assert result["cacheScope"] == "private"
    assert result["resultType"] == "complete"
    assert result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "jitaccess"
    assert len(result["instructions"].splitlines()) == 5


def test_the_list_shows_what_is_allowed_then_what_may_be_asked_for_by_name_and_the_access_tools_last(
    agent: Client,
) -> None:
    tools = agent.tools()
    own = sorted(NAMES)
    assert list(tools) == ["git_add", "git_commit", "git_log", "git_reset", "git_status", *own]
    locked = [name for name, text in tools.items() if text.startswith("[LOCKED: needs approval] ")]
    assert locked == ["git_add", "git_commit", "git_reset"]
    assert list(agent.tools()) == list(tools)


def test_definitions_are_listed_as_the_server_gave_them(cast: Cast, agent: Client) -> None:
    special = definition(
        "git_log", title="Log", outputSchema={"type": "object"}, annotations={"x": 1}, vendor={"é": [1.5]}
    )
    import_tools(server=cast.server, definitions=[special, definition("git_commit")], operator=cast.operator)
    Tool.objects.filter(name="git_log").update(pin=Tool.objects.get(name="git_log").digest)
    listed = {tool["name"]: tool for tool in agent.ask("tools/list")["result"]["tools"]}
    assert listed["git_log"] == special
    assert listed["git_commit"] == definition("git_commit") | {
        "description": "[LOCKED: needs approval] The tool git_commit",
    }  # fmt: skip
    assert "git_status" not in listed


def test_there_is_one_page_and_no_cursor(agent: Client, legacy: Client) -> None:
    for client in (agent, legacy):
        assert "nextCursor" not in client.ask("tools/list")["result"]
        for cursor in ("", "1", 0, {}):
            assert client.ask("tools/list", {"cursor": cursor})["error"]["code"] == -32602


def test_a_list_is_private_and_kept_no_longer_than_it_is_true(cast: Cast, agent: Client, clock: Clock) -> None:
    def ttl() -> int:
        result = agent.ask("tools/list")["result"]
        assert result["cacheScope"] == "private"
        return int(result["ttlMs"])

    assert ttl() == 30_000
    grant = cast.grant("git_commit", seconds=600)
    assert ttl() == 30_000
    clock.at(grant.expires_at - timedelta(seconds=8))
    assert 0 < ttl() <= 8_000
    clock.at(grant.expires_at + timedelta(seconds=1))
    assert ttl() == 30_000
    bind_role(role=cast.read_only, agent=cast.agent, expires_at=now() + timedelta(seconds=5), operator=cast.operator)
    assert 0 < ttl() <= 5_000


def test_the_older_era_gets_no_members_of_the_newer(legacy: Client) -> None:
    modern = {"resultType", "ttlMs", "cacheScope"}
    assert not modern & legacy.ask("tools/list")["result"].keys()
    assert not modern & legacy.call("git_log", do="legacy members").keys()
    assert legacy.call("git_log", do="legacy members")["vendor"] == [1]
    assert not modern & legacy.call("my_access").keys()
    assert not modern & legacy.call("git_commit").keys()


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_results_carry_the_members_of_the_clients_era_whatever_the_servers(
    cast: Cast, start: Callable[..., Served], record: Any, era: str
) -> None:
    served = start({"git": echo(record, era=era)})
    with served.client(cast) as modern, served.client(cast) as old:
        old.initialize()
        new, plain = modern.call("git_log", a=1), old.call("git_log", a=1)
    assert new["resultType"] == "complete"
    assert new["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "jitaccess"
    assert plain == {"content": [{"type": "text", "text": '{"a": 1}'}]}


def test_nothing_of_the_callers_identity_reaches_the_server(agent: Client, legacy: Client, record: Any) -> None:
    meta = META | {"secret": "s3cret", "progressToken": "p-42", "io.modelcontextprotocol/logLevel": "debug"}
    for client, given in ((agent, meta), (legacy, {"secret": "s3cret", "progressToken": "p-42"})):
        message = client.message("tools/call", {"_meta": given, "name": "git_log", "arguments": {"a": 1}})
        assert client.post(message, cookie="c00kie=1", x_forwarded_user="mallory", mcp_param_x="1").status_code == 200
    received = record.read_text()
    for part in (
        agent.token,
        "s3cret",
        "p-42",
        "c00kie",
        "mallory",
        "demo-agent",
        '"tests"',
        legacy.session or "?",
    ):
        assert part not in received
    calls = [json.loads(line)["params"] for line in received.splitlines() if "tools/call" in line]
    assert all(
        set(call.get("_meta", {})) - {"progressToken"}
        <= {f"io.modelcontextprotocol/{x}" for x in ("protocolVersion", "clientInfo", "clientCapabilities", "logLevel")}
        for call in calls
    )
    assert all(call["_meta"]["io.modelcontextprotocol/clientInfo"]["name"] == "jitaccess" for call in calls)


# -- hidden, unknown, disabled ----------------------------------------------------------------------------------------


def test_a_hidden_tool_answers_exactly_like_an_unknown_one_and_is_on_record(
    cast: Cast, agent: Client, sent: Sent
) -> None:
    import_tools(
        server=cast.server,
        definitions=[*(definition(name) for name in cast.tools), definition("unreviewed"), definition("vanished")],
        operator=cast.operator,
    )
    Tool.objects.filter(name="vanished").update(present=False)
    cast.requestable.tools, cast.requestable.access = "git_add", ""
    cast.requestable.save()
    deny = save_role(
        document='kind: role\nversion: v1\nmetadata: {name: no-status}\nspec:\n  deny:\n    - {servers: ["*"], tools: [git_status, git_add]}\n',
        operator=cast.operator,
    )
    bind_role(role=deny, agent=cast.agent, operator=cast.operator)
    hidden = {"git_commit": "unknown", "unreviewed": "unknown", "vanished": "unknown", "git_status": "not_requestable",
              "git_add": "not_requestable", "nothing": "unknown", "GIT_LOG": "unknown", " git_log": "unknown"}  # fmt: skip
    assert not hidden.keys() & agent.tools().keys()

    def answers(name: str) -> set[tuple[int, bytes, str]]:
        found = set()
        for message in (
            agent.message("tools/call", {"name": name, "arguments": {}}, id=1),
            agent.message("tools/call", {"name": "call_tool", "arguments": {"name": name}}, id=1),
        ):
            header = {} if name == name.strip() else {"mcp_name": "=?base64?IGdpdF9sb2c=?="}
            response = agent.post(message, **(header if message["params"]["name"] == name else {}))
            differs = {"date", "content-length", "x-request-id"}
            headers = {key: value for key, value in response.headers.items() if key not in differs}
            found.add((response.status_code, response.content.replace(name.encode(), b"NAME"), str(headers)))
        return found

    first = answers("nothing")
    assert len(first) == 1
    assert all(answers(name) == first for name in hidden)
    entries = ledger()
    assert {entry.event for entry in entries} == {"call.denied"}
    # Names that the server does not have are one kind of refusal, however many are made up.
    made_up = {"vanished", "GIT_LOG", " git_log"}
    assert {entry.tool: data(entry)["reason_code"] for entry in entries} == {
        name: code for name, code in hidden.items() if name not in made_up
    }
    assert refusals() == 2 * (1 + len(hidden))
    assert all(entry.bindings == "[]" and entry.outcome == "denied" for entry in entries)
    assert sent() == []


def test_a_call_of_a_server_closed_to_the_team_is_refused_and_on_record(cast: Cast, agent: Client, sent: Sent) -> None:
    cast.access.teams.clear()
    for name in ("git_log", "request_access"):
        answer = agent.post(agent.message("tools/call", {"name": name, "arguments": {}}))
        assert answer.status_code == 404
    # Answered first: the record must not show in the time the answer takes.
    assert eventually(lambda: refusals() == 2)
    assert sent() == []


def test_a_disabled_agent_is_told_so_and_sees_only_the_access_tools(cast: Cast, agent: Client, sent: Sent) -> None:
    cast.grant("git_commit")
    set_agent_enabled(agent=cast.agent, enabled=False, operator=cast.operator)
    assert set(agent.tools()) == NAMES
    for tool in ("git_log", "git_commit", "nothing"):
        assert agent.refusal(tool) == "locked_down"
    assert agent.call("request_access", tools=["git_add"], reason="x")["isError"]
    assert agent.use("my_access")["allowed"] == []
    assert refusals() == 3
    assert sent() == []
    set_agent_enabled(agent=cast.agent, enabled=True, operator=cast.operator)
    assert "content" in agent.call("git_log")


def test_an_agent_whose_user_may_no_longer_use_it_is_locked_out(cast: Cast, gateway: Served, sent: Sent) -> None:
    cast.agent.users.add(cast.anna)
    with gateway.client(cast, user=cast.anna) as agent:
        assert "content" in agent.call("git_log")
        cast.agent.users.remove(cast.anna)
        assert agent.refusal("git_log") == "locked_down"
    assert len(sent()) == 1


# -- what is on record ------------------------------------------------------------------------------------------------


def test_an_allowed_call_is_on_record_with_what_allowed_it_and_its_end(cast: Cast, agent: Client, clock: Clock) -> None:
    grant = cast.grant("git_commit")
    version = cast.snapshot().version
    arguments = {"message": "m", "password": "hunter2", "nested": {"api_key": "k3y", "list": [{"token": "t0ken"}]}}
    assert "content" in agent.call("git_commit", **arguments)
    assert eventually(lambda: len(told()) == 2)
    authorized, completed = ledger()
    assert (authorized.event, completed.event) == ("call.authorized", "call.completed")
    assert authorized.policy_version == version
    assert json.loads(authorized.bindings) == [str(uid) for uid in cast.verdict("git_commit").bindings]
    assert authorized.grant == completed.grant == grant.pk
    assert authorized.call == completed.call
    assert authorized.tool_pin == cast.tools["git_commit"].pin
    assert (authorized.agent_name, authorized.client, authorized.source) == ("demo-agent", "tests/1", "127.0.0.1")
    kept = data(authorized)
    assert kept["arguments"] == {
        "message": "m", "password": "[redacted]", "nested": {"api_key": "[redacted]", "list": [{"token": "[redacted]"}]},
    }  # fmt: skip
    assert kept["args_digest"].startswith("sha256:")
    assert "hunter2" not in authorized.data + completed.data
    assert data(completed)["is_error"] is False
    assert authorized.at <= completed.at < grant.expires_at


def test_every_refusal_is_on_record_before_it_is_answered(cast: Cast, agent: Client) -> None:
    for number, tool in enumerate(["git_commit", "git_add", "git_reset"], start=1):
        result = agent.call(tool, number=number)
        entries = ledger("call.denied")
        assert len(entries) == number
        assert str(entries[-1].call) == result["_meta"]["io.jitaccess/deny"]["call"]
        assert data(entries[-1])["arguments"] == {"number": number}


def test_the_same_refusal_again_within_a_minute_is_counted_and_told_when_the_minute_is_over(
    cast: Cast, agent: Client, gateway: Served, clock: Clock
) -> None:
    # So that the minute does not end by itself. Never back: that is a jump.
    clock.at((clock.now() + timedelta(minutes=1)).replace(second=5))
    first = agent.call("git_commit", number=0)["_meta"]["io.jitaccess/deny"]["call"]
    for number in range(1, 6):
        again = agent.call("git_commit", number=number)
        assert again["_meta"]["io.jitaccess/deny"]["call"] == first
        assert refusals() == number + 1, "counted before it is answered"
    agent.refusal("git_add")
    assert told() == ["call.denied", "call.denied"]
    clock.shift(60)
    write_down_refusals()
    entry = ledger("call.denied_again")[0]
    assert (entry.agent_name, entry.tool, entry.server_name, str(entry.call)) == (
        "demo-agent", "git_commit", "git", first,
    )  # fmt: skip
    minute = (entry.at - timedelta(minutes=1)).replace(second=0, microsecond=0)
    assert data(entry) == {"reason_code": "no_binding", "times": 5, "minute": minute.isoformat()}
    assert told() == ["call.denied", "call.denied", "call.denied_again"], "what was refused once is told once"
    assert not RefusalCount.objects.exists()
    assert agent.call("git_commit")["_meta"]["io.jitaccess/deny"]["call"] != first
    assert refusals() == 8


def test_a_made_up_client_name_is_no_other_source(cast: Cast, agent: Client) -> None:
    for number in range(4):
        message = agent.message("tools/call", {"name": "git_commit", "arguments": {}})
        message["params"]["_meta"] = META | {
            "io.modelcontextprotocol/clientInfo": {"name": f"bot-{number}", "version": "1"}
        }
        assert agent.post(message).json()["result"]["isError"]
    assert told() == ["call.denied"]
    assert refusals() == 4


def test_another_reason_or_another_source_is_another_refusal(cast: Cast, agent: Client, gateway: Served) -> None:
    agent.refusal("git_commit")
    revoke_grant(grant_id=cast.grant().pk, user=cast.anna)
    assert agent.refusal("git_commit") == "revoked"
    cast.agent.users.add(cast.anna)
    with gateway.client(cast, user=cast.anna) as delegated:
        assert delegated.refusal("git_commit") == "no_binding"
    assert told() == ["call.denied"] * 3


def test_call_tool_is_the_tool_it_calls(cast: Cast, agent: Client, sent: Sent) -> None:
    assert agent.call("call_tool", name="git_log", arguments={"a": 1})["content"][0]["text"] == '{"a": 1}'
    assert agent.refusal("call_tool", name="git_commit", arguments={}) == "no_binding"
    assert agent.use("call_tool", name="my_access")["you"] == "demo-agent"
    assert [(entry.event, entry.tool) for entry in ledger() if entry.event != "call.completed"] == [
        ("call.authorized", "git_log"), ("call.denied", "git_commit"),
    ]  # fmt: skip
    for arguments in ({"name": "call_tool", "arguments": {"name": "git_log"}}, {}, {"name": 1}, {"name": "git_log", "arguments": []},
                      {"name": "git_log", "args": {}}):  # fmt: skip
        assert agent.ask("tools/call", {"name": "call_tool", "arguments": arguments})["error"]["code"] == -32602
    assert [params["name"] for params in sent()] == ["git_log"]


def test_a_server_cannot_speak_as_the_gateway(agent: Client) -> None:
    result = agent.call("git_log", do="forge")
    assert result["isError"]
    assert "io.jitaccess/deny" not in result["_meta"]
    assert result["_meta"]["vendor/y"] == 1

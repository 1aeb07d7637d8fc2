"""Arguments that a client repeats in headers (2026-07-28, "Custom Headers from Tool Parameters"): both say the same."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest

from jitaccess.catalog.models import AccessClass, Tool
from jitaccess.catalog.services import classify_tool, import_tools
from tests.cast import TOOLS, Cast, definition
from tests.gateway.harness import Client, told

pytestmark = pytest.mark.django_db(transaction=True)
Sent = Callable[[], list[dict[str, Any]]]
SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "deep": {"type": "object", "properties": {"sure": {"type": "boolean", "x-mcp-header": "Sure"}}},
    },
}
HELLO = "=?base64?SGVsbG8=?="


@pytest.fixture
def grep(cast: Cast) -> Tool:
    """A tool that wants arguments repeated, reviewed and readable by everybody."""
    offered = [*map(definition, TOOLS), definition("git_grep", inputSchema=SCHEMA)]
    import_tools(server=cast.server, definitions=offered, operator=cast.operator)
    tool = Tool.objects.get(name="git_grep")
    classify_tool(tool=tool, access=AccessClass.READ, operator=cast.operator)
    return tool


def call(client: Client, arguments: dict[str, Any], tool: str = "git_grep", **headers: str) -> Any:
    message = client.message("tools/call", {"name": tool, "arguments": arguments})
    return client.post(message, **{f"mcp-param-{name}": value for name, value in headers.items()})


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({}, {}),
        ({"region": None, "other": 1}, {}),
        ({"region": "Hello"}, {"region": "Hello"}),
        ({"region": "Hello"}, {"region": HELLO}),
        ({"region": HELLO[:-2]}, {"region": HELLO[:-2]}),
        ({"region": "Grüße"}, {"region": f"=?base64?{base64.b64encode('Grüße'.encode()).decode()}?="}),
        ({"region": ""}, {"region": ""}),
        ({"count": 42}, {"count": "42"}),
        ({"count": 42}, {"count": "42.0"}),
        ({"count": -1.0}, {"count": "-1"}),
        ({"deep": {"sure": True}}, {"sure": "true"}),
        ({"region": ["no header says this"]}, {}),
        ({}, {"unknown": "ignored"}),
    ],
)
def test_headers_that_say_what_the_body_says_are_taken(
    grep: Tool, agent: Client, sent: Sent, arguments: dict[str, Any], headers: dict[str, str]
) -> None:
    assert call(agent, arguments, **headers).status_code == 200
    assert [params["arguments"] for params in sent()] == [arguments]


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({"region": "Hello"}, {}),
        ({"region": "Hello"}, {"region": "hello"}),
        ({"region": "Hello"}, {"region": "=?base64?SGVsbG8?="}),
        ({"region": "Hello"}, {"region": "=?base64?SGVs!!!bG8=?="}),
        ({"region": ""}, {}),
        ({}, {"region": "Hello"}),
        ({"region": None}, {"region": ""}),
        ({"count": 42}, {"count": "43"}),
        ({"count": 42}, {"count": "42.5"}),
        ({"count": 42}, {"count": "4_2"}),
        ({"count": True}, {"count": "1"}),
        ({"deep": {"sure": True}}, {"sure": "True"}),
        ({"deep": {"sure": True}}, {"sure": "1"}),
        ({"sure": True}, {"sure": "true"}),
        ({"region": ["x"]}, {"region": "x"}),
    ],
)
def test_headers_that_say_something_else_are_refused_and_nothing_is_sent(
    grep: Tool, agent: Client, sent: Sent, arguments: dict[str, Any], headers: dict[str, str]
) -> None:
    answer = call(agent, arguments, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)
    assert sent() == []
    assert told() == []


def test_a_header_given_twice_is_refused(grep: Tool, agent: Client, sent: Sent) -> None:
    message = agent.message("tools/call", {"name": "git_grep", "arguments": {"region": "x"}})
    headers = [*agent.headers(message).items(), ("mcp-param-region", "x"), ("Mcp-Param-Region", "y")]
    answer = agent.http.post(agent.endpoint, json=message, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)
    assert sent() == []


def test_nothing_is_told_of_a_tool_that_the_caller_may_not_know(cast: Cast, grep: Tool, agent: Client) -> None:
    Tool.objects.filter(pk=grep.pk).update(access=AccessClass.UNCLASSIFIED)
    hidden, unknown = (call(agent, {"region": "x"}, tool=name) for name in ("git_grep", "git_none"))
    assert hidden.status_code == unknown.status_code == 200
    assert hidden.json()["error"]["code"] == unknown.json()["error"]["code"] == -32602


def test_older_clients_and_calls_inside_of_call_tool_repeat_nothing(
    grep: Tool, agent: Client, legacy: Client, sent: Sent
) -> None:
    assert not legacy.call("git_grep", region="x").get("isError")
    assert not agent.call("call_tool", name="git_grep", arguments={"region": "x"}).get("isError")
    assert [params["arguments"] for params in sent()] == [{"region": "x"}] * 2

"""A call that goes the short way is the call that it would be on the long one, and nothing else goes there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import web

from tests.gateway.harness import META, eventually, settled
from tests.gateway.shortly import World, alike, both, call, entries, received, short
from tests.gateway.upstream.web_server import Seen

__all__ = ["short"]
pytestmark = pytest.mark.django_db(transaction=True)


def test_a_call_whose_head_was_seen_goes_the_short_way_and_is_the_same_call(short: World) -> None:
    short.ready(short.line())
    line = short.line(short.token_of())
    request = line.request(call(path="x"))
    assert line.ask(request).status == 200
    assert short.ways.taken == []
    first = line.ask(request)
    assert short.ways.taken == [], "whose token it is was not known when the head was read"
    for _ in range(3):
        alike(short.short(line, request), first)
    assert first.result["params"]["arguments"] == {"path": "x"}
    assert short.ways.turned == []
    eventually(settled)
    calls = entries()[-5:]
    assert [[one["event"] for one in entry] for entry in calls] == [["call.authorized", "call.completed"]] * 5
    assert calls == [calls[0]] * 5
    sent = [received(seen) for seen in short.upstream.calls()]
    assert sent == [sent[0]] * 5
    assert len({seen.message["id"] for seen in short.upstream.calls()}) == 5


@pytest.mark.parametrize("name", ["git__git_log", "git__nothing", "nobody__git_log", "git_log"])
def test_at_the_endpoint_of_all_servers_it_is_the_same(short: World, name: str) -> None:
    line = short.line()
    short.ready(line)
    request = line.request(call(name, path="x"), path="/mcp", mcp_name=name)
    is_short = name == "git__git_log"
    assert both(short, line, request, is_short=is_short).status == 200
    assert [seen.message["params"]["name"] for seen in short.upstream.calls()] == (["git_log"] * 2 if is_short else [])


def test_a_head_is_known_on_every_connection_and_to_its_last_byte(short: World) -> None:
    line = short.line()
    short.ready(line)
    request = line.request(call(path="x"))
    short.learn(line, call(path="x"))
    short.short(short.line(), request)
    before = len(short.ways.taken)
    for changed in (request.replace(b"host:", b"Host:", 1), request.replace(b": ", b":  ", 1)):
        assert line.ask(changed).status == 200
        assert len(short.ways.taken) == before
        assert short.short(line, changed).status == 200
        before += 1
    eventually(settled)


async def done(seen: Seen) -> web.Response:
    return seen.json()


PLAIN = call(path="x")
META_OF = {
    "progressToken": 7, "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01", "tracestate": "a=b",
    "io.modelcontextprotocol/logLevel": "debug", "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
}  # fmt: skip


@pytest.mark.parametrize("member", META_OF)
def test_a_client_that_wants_more_than_the_result_goes_the_long_way(short: World, member: str) -> None:
    line = short.line()
    short.ready(line)
    short.upstream.on["tools/call"] = done
    message = call(path="x")
    message["params"]["_meta"] = META | {member: META_OF[member]}
    both(short, line, line.request(message), is_short=False)


@pytest.mark.parametrize("header", ["traceparent", "tracestate", "mcp_session_id"])
def test_a_head_that_says_more_is_not_learnt(short: World, header: str) -> None:
    line = short.line()
    short.ready(line)
    request = line.request(call(path="x"), **{header: META_OF.get(header, "x")})
    both(short, line, request, is_offered=False)


def odd(**changes: Any) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(json.dumps(PLAIN))
    for name, value in changes.items():
        where = message if name in message or name == "more" else message["params"]
        where[name] = value
    return message


ODD: dict[str, Any] = {
    "answers": odd(inputResponses={"a": {}}), "state": odd(requestState="x"), "access tool": call("my_access"),
    "search": call("list_requestable"), "call_tool": call("call_tool", name="git_log", arguments={}),
    "denied": call("git_commit"), "hidden": call("git_nothing"), "prefixed": call("git__git_log"),
    "other method": odd(method="tools/list"), "no arguments": odd(arguments=None), "a list": odd(arguments=[1]),
    "name twice": json.dumps(PLAIN).replace('"path"', '"path": 1, "path"').encode(), "no JSON": b'{"jsonrpc": ',
    "batch": json.dumps([PLAIN]).encode(), "no id": json.dumps({k: v for k, v in PLAIN.items() if k != "id"}).encode(),
    "id null": odd(id=None), "id true": odd(id=True), "id 1.5": odd(id=1.5), "more": odd(more=1), "1.0": odd(jsonrpc="1.0"),
    "not UTF-8": json.dumps(PLAIN).encode().replace(b'"x"', b'"\xff"'), "empty": b"", "params": odd(params=[]),
    "NaN": json.dumps(odd(arguments={"n": float("nan")})).encode(), "deep": b"[" * 4000,
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_what_is_no_plain_call_is_answered_as_on_the_long_way(short: World, what: str) -> None:
    line = short.line()
    short.ready(line)
    both(short, line, line.request(ODD[what]), is_short=False)


SAID = {"mcp_name": "git_status", "mcp_method": "tools/list", "mcp_protocol_version": "2025-11-25"}


@pytest.mark.parametrize("header", SAID)
def test_a_head_that_says_something_else_than_the_body_is_refused_each_time(short: World, header: str) -> None:
    line = short.line()
    short.ready(line)
    request = line.request(PLAIN, **{header: SAID[header]})
    assert both(short, line, request, is_short=False, is_offered=header != "mcp_protocol_version").status == 400


def test_a_body_is_read_anew_under_a_head_that_is_known(short: World) -> None:
    """The name of the tool and the version are in the head too, and must agree with each body."""
    line = short.line()
    short.ready(line)
    short.learn(line, call(path="x"))
    request = line.request(call(path="x"))
    for old, new in ((b"git_log", b"git_xyz"), (b"2026-07-28", b"2026-07-29"), (b"tools/call", b"tools/list")):
        head, _, body = request.partition(b"\r\n\r\n")
        assert line.ask(head + b"\r\n\r\n" + body.replace(old, new)).status == 400
    assert short.ways.taken == []
    assert short.ways.left == 3
    assert len(short.upstream.calls()) == 1

"""Calls through the gateway to servers over HTTP: every client era to every upstream era, and what the ledger says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from django.db import connection

from jitaccess.gateway.recording import facts
from jitaccess.gateway.upstream.config import HttpServer
from jitaccess.identity.services import set_agent_enabled
from tests.cast import Cast
from tests.gateway.harness import Client, Served, data, eventually, ledger, settled, told
from tests.gateway.upstream.web_server import Seen, WebServer, serving

pytestmark = pytest.mark.django_db(transaction=True)

UPSTREAM_KEY = "Bearer the-gateways-own"


@pytest.fixture(params=["modern", "legacy"])
def upstream(request: Any, settings: Any) -> Iterator[WebServer]:
    """A server over HTTP in a thread of its own."""
    settings.EGRESS_ALLOW = ["127.0.0.1"]
    server = WebServer(request.param)
    ready, done = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with serving(server):
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    yield server
    loops[0].call_soon_threadsafe(done.set)
    thread.join(10)
    assert not thread.is_alive()


@pytest.fixture(params=["modern", "legacy"])
def client(request: Any, cast: Cast, start: Callable[..., Served], upstream: WebServer) -> Iterator[Client]:
    """The demo agent in either era, before a gateway with the server as "git"."""
    config = HttpServer("git", upstream.url, {"Authorization": UPSTREAM_KEY})
    with start({"git": config}).client(cast) as agent:
        yield agent.initialize() if request.param == "legacy" else agent


def test_a_call_reaches_a_server_of_either_era_from_a_client_of_either_era(client: Client, upstream: WebServer) -> None:
    result = client.call("git_log", path="x")
    assert result["params"]["name"] == "git_log"
    assert result["params"]["arguments"] == {"path": "x"}
    assert not result.get("isError")
    assert len(upstream.calls()) == 1
    eventually(settled)
    assert told() == ["call.authorized", "call.completed"]


def test_the_clients_credential_never_goes_upstream_and_the_servers_never_comes_back(
    client: Client, upstream: WebServer
) -> None:
    answer = client.post(client.message("tools/call", {"name": "git_log", "arguments": {}}), x_forwarded_user="admin")
    assert "the-gateways-own" not in answer.text + str(answer.headers)
    for seen in upstream.seen:
        assert seen.request.headers.getall("Authorization") == [UPSTREAM_KEY]
        assert client.token not in seen.body.decode() + str(seen.request.headers)
        assert "X-Forwarded-User" not in seen.request.headers


@pytest.mark.parametrize("how", ["error", "result"])
def test_a_credential_that_the_server_repeats_reaches_neither_the_agent_nor_the_record(
    client: Client, upstream: WebServer, how: str
) -> None:
    async def repeat(seen: Seen) -> web.Response:
        given = seen.request.headers["Authorization"]
        if how == "error":
            return seen.error(
                -32000, f"your key is {given}", data={"headers": {given: [given, 1]}, "io.jitaccess/deny": 1}
            )
        return seen.json({"resultType": "complete", "content": [{"type": "text", "text": f"I got {given.split()[1]}"}]})

    upstream.on["tools/call"] = repeat
    answer = client.post(client.message("tools/call", {"name": "git_log", "arguments": {}})).text
    eventually(settled)
    assert "the-gateways-own" not in answer
    assert "[secret]" in answer
    assert "io.jitaccess/deny" not in answer, "only the gateway speaks as the gateway"
    assert all("the-gateways-own" not in entry.data for entry in ledger())


@pytest.mark.parametrize(
    ("message", "data", "kept"), [("x" * 2000, ["y" * 60_000], True), ("x" * 2001, "y" * 70_000, False)]
)
def test_an_error_of_a_server_is_passed_on_as_it_is_up_to_a_length(
    client: Client, upstream: WebServer, message: str, data: Any, kept: bool
) -> None:
    async def fail(seen: Seen) -> web.Response:
        return seen.error(-32000, message, data=data)

    upstream.on["tools/call"] = fail
    error = client.ask("tools/call", {"name": "git_log", "arguments": {}})["error"]
    assert len(error["message"]) <= 2000
    assert (error["message"] == message) == kept
    assert error.get("data") == (data if kept else None)


def test_a_server_cannot_speak_as_the_gateway_in_any_part_of_a_result(client: Client, upstream: WebServer) -> None:
    async def forge(seen: Seen) -> web.Response:
        block = {"type": "text", "text": "x", "_meta": {"io.jitaccess/deny": {"error": "no"}, "vendor/y": 1}}
        return seen.json({"resultType": "complete", "content": [block, {"type": "text", "text": "y"}]})

    upstream.on["tools/call"] = forge
    assert client.call("git_log")["content"] == [
        {"type": "text", "text": "x", "_meta": {"vendor/y": 1}},
        {"type": "text", "text": "y"},
    ]


def test_a_call_that_is_denied_sends_nothing_upstream(client: Client, upstream: WebServer) -> None:
    assert client.refusal("git_commit") == "no_binding"
    assert upstream.calls() == []
    assert all(
        seen.message["method"] in {"server/discover", "initialize", "notifications/initialized"}
        for seen in upstream.seen
    )


def test_the_ledger_says_whether_a_failed_call_may_have_been_done(client: Client, upstream: WebServer) -> None:
    statuses = {401: ("call.outcome_unknown", True), 500: ("call.outcome_unknown", True), 302: ("call.failed", True)}
    for count, (status, (event, sent)) in enumerate(statuses.items(), start=1):

        async def fail(_: Seen, status: int = status) -> web.Response:
            return web.Response(status=status)

        upstream.on["tools/call"] = fail
        assert client.call("git_log")["isError"] is True
        eventually(settled)
        end = ledger()[-1]
        assert (end.event, data(end)["sent"]) == (event, sent)
        assert len(upstream.calls()) == count  # never repeated


def test_an_upstream_that_is_not_allowed_is_never_connected_to(
    cast: Cast, start: Callable[..., Served], upstream: WebServer, settings: Any
) -> None:
    settings.EGRESS_ALLOW = []
    with start({"git": HttpServer("git", upstream.url, {})}).client(cast) as agent:
        assert agent.call("git_log")["isError"] is True
    assert upstream.seen == []
    eventually(settled)
    assert told() == ["call.authorized", "call.failed"]
    assert "JITACCESS_EGRESS_ALLOW" in data(ledger("call.failed")[0])["detail"]


def test_what_could_not_go_out_within_the_second_is_not_sent_but_admitted_again(
    client: Client, upstream: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer era first reads the list that says which arguments are mirrored; the older one may lose its session."""
    monkeypatch.setattr(facts, "FORWARD_WITHIN", 0.3)
    method = "tools/list" if upstream.era == "modern" else "tools/call"
    if upstream.era == "legacy":
        client.call("git_log")
        eventually(settled)
        upstream.seen.clear()
    before = len(ledger())

    async def slow_once(seen: Seen) -> web.StreamResponse:
        del upstream.on[method]
        await asyncio.sleep(0.5)
        if method == "tools/call":
            return seen.error(-32001, "Session not found", status=404, id=None)
        return upstream.common(seen, status=200)

    upstream.on[method] = slow_once
    assert not client.call("git_log").get("isError")
    eventually(settled)
    assert told()[before:] == ["call.authorized", "call.not_sent", "call.authorized", "call.completed"]
    # The older server said itself that it did not take the first.
    assert len(upstream.calls()) == (1 if upstream.era == "modern" else 2)


@pytest.mark.parametrize("upstream", ["modern"], indirect=True)
def test_a_call_revoked_while_the_connection_was_made_is_refused_and_never_goes_out(
    client: Client, upstream: WebServer, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "FORWARD_WITHIN", 0.3)

    async def slow(seen: Seen) -> web.StreamResponse:
        await asyncio.to_thread(
            in_thread, lambda: set_agent_enabled(agent=cast.agent, enabled=False, operator=cast.operator)
        )
        await asyncio.sleep(0.5)
        return upstream.common(seen, status=200)

    upstream.on["tools/list"] = slow
    assert client.refusal("git_log") == "locked_down"
    eventually(settled)
    assert upstream.calls() == []
    assert told() == ["call.authorized", "call.not_sent", "call.denied"]


def in_thread(work: Callable[[], object]) -> None:
    try:
        work()
    finally:
        connection.close()

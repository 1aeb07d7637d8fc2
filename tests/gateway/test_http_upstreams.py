"""Calls through the gateway to servers over HTTP: every client era to every upstream era, and what the ledger says."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from aiohttp import web

from jitaccess.gateway.upstream.config import HttpServer
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


def test_a_call_that_is_denied_sends_nothing_upstream(client: Client, upstream: WebServer) -> None:
    assert client.refusal("git_commit") == "no_binding"
    assert upstream.seen == []


def test_the_ledger_says_whether_a_failed_call_may_have_been_done(client: Client, upstream: WebServer) -> None:
    statuses = {401: ("call.failed", False), 500: ("call.outcome_unknown", True), 302: ("call.failed", True)}
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

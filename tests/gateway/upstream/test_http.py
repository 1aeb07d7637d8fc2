"""A connection over HTTP to servers that behave: eras, sessions, streams, cancellation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from jitaccess.egress.addresses import Allowance
from jitaccess.egress.client import Client
from jitaccess.gateway.upstream import handshake, http, listener
from jitaccess.gateway.upstream.asked import Told
from jitaccess.gateway.upstream.errors import RemoteError, UpstreamError
from jitaccess.gateway.upstream.http import HttpConnection
from jitaccess.kernel.errors import JitAccessError

from .conftest import Run, until
from .web_server import MODERN, Seen, WebServer, call, clients, connected, event, serving

META = "io.modelcontextprotocol/"
CHANGED = "notifications/tools/list_changed"


async def refused(server: WebServer, **changes: Any) -> UpstreamError:
    """Why no connection came about."""
    async with serving(server), clients() as client:
        with pytest.raises(UpstreamError) as caught:
            await HttpConnection.open(server.config(**changes), client=client)
        assert (caught.value.code, caught.value.sent) == ("upstream.unavailable", False)
        return caught.value


@pytest.mark.parametrize("era", ["auto", "modern"])
def test_a_modern_server_is_discovered_and_gets_meta_and_headers_on_each_request(run: Run, era: str) -> None:
    async def work() -> None:
        server = WebServer()
        async with connected(server, era=era, headers={"Authorization": "Bearer up"}) as connection:
            assert (connection.era, connection.server_info) == (MODERN, {"name": "web", "version": "1"})
            forged = {META + "protocolVersion": "1999", META + "clientInfo": {"name": "x"}, "progressToken": 9, "t": 1}
            params = {"name": "t", "arguments": {}, "_meta": forged}
            answer: Any = await connection.request("tools/call", params, timeout=5)
            meta = answer["params"]["_meta"]
            assert meta.pop(META + "clientInfo")["name"] == "jitaccess"
            assert meta == {META + "protocolVersion": MODERN, META + "clientCapabilities": {}, "t": 1}
        assert "initialize" not in server.methods()
        assert "DELETE" not in server.methods()
        for seen in server.seen:
            headers = seen.request.headers
            assert (
                headers["MCP-Protocol-Version"] == seen.message["params"]["_meta"][META + "protocolVersion"] == MODERN
            )
            assert headers["Mcp-Method"] == seen.method
            assert headers["Authorization"] == "Bearer up"
            assert headers["Content-Type"] == "application/json"
            assert headers["Accept"] == "application/json, text/event-stream"
            assert "Mcp-Session-Id" not in headers

    run(work())


@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18", "2025-03-26"])
@pytest.mark.parametrize("era", ["auto", "legacy"])
def test_a_legacy_server_is_initialized_and_keeps_its_session_to_the_end(run: Run, era: str, version: str) -> None:
    async def work() -> None:
        server = WebServer(version)
        async with connected(server, era=era) as connection:
            assert connection.era == version
            meta = {META + "protocolVersion": MODERN, META + "clientCapabilities": {"sampling": {}}}
            answer: Any = await connection.request("tools/call", {"name": "t", "_meta": meta}, timeout=5)
            assert answer["params"] == {"name": "t"}
            assert len(server.sessions) == 1
        probe = ["server/discover"] if era == "auto" else []
        assert server.methods() == [*probe, "initialize", "notifications/initialized", "tools/call", "DELETE"]
        assert server.sessions == set()
        for seen in server.seen[len(probe) + 1 :]:
            assert seen.request.headers["MCP-Protocol-Version"] == version
            assert seen.request.headers["Mcp-Session-Id"].startswith("session-")
            assert "Mcp-Method" not in seen.request.headers
        assert server.seen[len(probe)].message["params"]["capabilities"] == {}

    run(work())


def plain(status: int, text: str = "", kind: str = "text/plain") -> Any:
    async def handler(_: Seen) -> web.Response:
        return web.Response(status=status, text=text, content_type=kind)

    return handler


def error(code: int, status: int = 200, **changes: Any) -> Any:
    async def handler(seen: Seen) -> web.Response:
        return seen.error(code, "no", status=status, **changes)

    return handler


def success(value: Any) -> Any:
    async def handler(seen: Seen) -> web.Response:
        return seen.json(value)

    return handler


@pytest.mark.parametrize(
    "probed",
    [
        plain(400), plain(404), plain(405), plain(400, "<html>", "text/html"), plain(406), plain(422, "{", "application/json"),
        plain(500), plain(202), plain(200, "<html>", "text/html"), plain(302),
        error(-32600, 400), error(-32601), error(-32601, 404), error(-32000, 400, id=None), error(-32000, 400, id="server-error"),
        error(-32602), error(-32022, 400, data={"supported": ["2025-11-25"], "requested": MODERN}),
        success({"tools": []}), success({"supportedVersions": ["2025-11-25"], "capabilities": {}}),
    ],
)  # fmt: skip
def test_whatever_is_no_modern_answer_to_the_probe_leads_to_the_older_era(run: Run, probed: Any) -> None:
    async def work() -> None:
        server = WebServer("legacy", on={"server/discover": probed})
        async with connected(server) as connection:
            assert connection.era == "2025-11-25"
            await call(connection)

    run(work())


@pytest.mark.parametrize(
    ("probed", "problem"),
    [
        (error(-32020, 400), "-32020"),
        (error(-32021, 400), "-32021"),
        (error(-32022, 400, data={"supported": ["2027-01-01"]}), "2027-01-01"),
        (plain(401), "refuses the gateway's credential"),
    ],
)
def test_a_recognised_modern_error_or_a_refused_credential_never_leads_to_initialize(
    run: Run, probed: Any, problem: str
) -> None:
    server = WebServer("legacy", on={"server/discover": probed})
    assert problem in run(refused(server)).detail
    assert server.methods() == ["server/discover"]


def test_a_forced_era_does_not_fall_back_to_the_other(run: Run) -> None:
    legacy, modern = WebServer("legacy"), WebServer("modern")
    assert "Missing session" in run(refused(legacy, era="modern")).detail
    assert legacy.methods() == ["server/discover"]
    assert "Method not found" in run(refused(modern, era="legacy")).detail
    assert modern.methods() == ["initialize"]


def test_a_server_that_ignores_the_probe_is_initialized(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "PROBE_SECONDS", 0.1)

    async def silent(_: Seen) -> Any:
        await asyncio.Event().wait()

    async def work() -> None:
        async with connected(WebServer("legacy", on={"server/discover": silent})) as connection:
            assert connection.era == "2025-11-25"
            await call(connection)

    run(work())


@pytest.mark.parametrize("version", ["2099-01-01", None, 1])
def test_a_legacy_server_of_an_unknown_version_is_refused(run: Run, version: Any) -> None:
    server = WebServer("legacy", on={"initialize": success({"protocolVersion": version, "capabilities": {}})})
    assert "protocol versions that are not spoken" in run(refused(server)).detail


def test_a_server_without_sessions_gets_none(run: Run) -> None:
    result = {"protocolVersion": "2025-06-18", "capabilities": {}}

    async def stateless(seen: Seen) -> Any:
        return seen.json() if "id" in seen.message else web.Response(status=202)

    async def work() -> None:
        server = WebServer("legacy", on={"initialize": success(result)})
        server.legacy = stateless  # type: ignore[method-assign]
        async with connected(server, era="legacy") as connection:
            await call(connection)
        assert server.methods() == ["initialize", "notifications/initialized", "tools/call"]
        assert all("Mcp-Session-Id" not in seen.request.headers for seen in server.seen)

    run(work())


@pytest.mark.parametrize("session", ["a" * 1025, "a b", "\u00e9"], ids=["too long", "a space", "not ASCII"])
def test_a_session_id_that_is_no_header_value_is_refused(run: Run, session: str) -> None:
    async def bad(seen: Seen) -> Any:
        return seen.json({"protocolVersion": "2025-06-18", "capabilities": {}}, headers={"Mcp-Session-Id": session})

    assert "session id" in run(refused(WebServer("legacy", on={"initialize": bad}))).detail


def lost_400(seen: Seen) -> Any:
    return seen.error(-32000, "Bad Request: No valid session ID provided", status=400, id=None)


def lost_404(seen: Seen) -> Any:
    return seen.error(-32001, "Session not found", status=404, id=None)


def lost_empty(seen: Seen) -> Any:
    return web.Response(status=404)


@pytest.mark.parametrize("lost", [lost_400, lost_404, lost_empty])
def test_a_lost_session_is_begun_again_once_and_every_call_is_made_exactly_once(run: Run, lost: Any) -> None:
    async def work() -> None:
        server = WebServer("legacy")
        taken: list[Any] = []

        async def strict(seen: Seen) -> Any:
            if seen.request.headers["Mcp-Session-Id"] not in server.sessions:
                return lost(seen)
            taken.append(seen.message["params"]["arguments"]["n"])
            return seen.json()

        server.on["tools/call"] = strict
        async with connected(server) as connection:
            await call(connection, n=0)
            server.sessions.clear()  # it was started anew
            await asyncio.gather(*(call(connection, n=number) for number in range(1, 9)))
            assert sorted(taken) == list(range(9))
            assert server.methods().count("initialize") == 2
            assert connection.alive

    run(work())


def test_a_server_that_loses_every_session_is_given_up(run: Run) -> None:
    async def gone(seen: Seen) -> Any:
        return lost_404(seen)

    async def work() -> None:
        server = WebServer("legacy", on={"tools/call": gone})
        async with connected(server) as connection:
            with pytest.raises(UpstreamError) as caught:
                await call(connection)
            assert (caught.value.code, caught.value.sent) == ("upstream.unavailable", True)
            assert len(server.calls()) == 2
            assert not connection.alive

    run(work())


def test_a_method_that_is_not_found_is_no_lost_session(run: Run) -> None:
    async def work() -> None:
        server = WebServer("legacy", on={"tools/call": error(-32601, 404)})
        async with connected(server) as connection:
            with pytest.raises(RemoteError) as caught:
                await call(connection)
            assert caught.value.rpc_code == -32601
            assert server.methods().count("initialize") == len(server.calls()) == 1

    run(work())


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_an_answer_in_a_stream_arrives_with_progress_and_notifications_before_it(run: Run, era: str) -> None:
    heard: list[Any] = []
    progress: list[Any] = []

    async def streamed(seen: Seen) -> Any:
        token = seen.message["params"]["_meta"]["progressToken"]
        notify = {"jsonrpc": "2.0", "method": "notifications/progress"}
        return await seen.stream(
            b": open\r\n\r\n", b"id: 1\ndata:\n\n", b"event: ping\ndata: not json\n\n",
            notify | {"params": {"progressToken": token, "progress": 1}},
            notify | {"params": {"progressToken": token + 1, "progress": 2}},
            {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}},
            seen.result({"content": [{"type": "text", "text": "\u2028ä", "x-unknown": [1]}]}),
        )  # fmt: skip

    async def work() -> None:
        server = WebServer(era, on={"tools/call": streamed})
        async with connected(server, on_notification=lambda *event: heard.append(event)) as connection:
            for _ in range(3):
                answer: Any = await connection.request(
                    "tools/call",
                    {"name": "t", "_meta": {"progressToken": "mine"}},
                    timeout=5,
                    told=Told(progress=progress.append),
                )
                assert answer["content"][0] == {"type": "text", "text": "\u2028ä", "x-unknown": [1]}
                await until(lambda: not connection._side)
            assert len(server.connections) == 1  # the stream ended, so its connection is used again
        assert [params["progress"] for params in progress] == [1, 1, 1]
        assert heard == [("notifications/message", {"level": "info"})] * 3

    run(work())


def test_the_legacy_servers_own_requests_are_answered_at_once(run: Run) -> None:
    async def work() -> None:
        server = WebServer("legacy")
        answered: dict[Any, Any] = {}
        both = asyncio.Event()

        async def asks(seen: Seen) -> Any:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(seen.request)
            for number, method in enumerate(["ping", "sampling/createMessage", "elicitation/create", "roots/list"]):
                await response.write(event({"jsonrpc": "2.0", "id": f"s{number}", "method": method, "params": {}}))
            await both.wait()
            await response.write(event(seen.result()))
            return response

        async def take(seen: Seen) -> Any:
            assert seen.request.headers["Mcp-Session-Id"] in server.sessions
            answered[seen.message["id"]] = seen.message
            if len(answered) == 4:
                both.set()
            return web.Response(status=202)

        server.on |= {"tools/call": asks, "POST": take}
        async with connected(server) as connection:
            await call(connection)
        assert answered["s0"]["result"] == {}
        assert [answered[f"s{number}"]["error"]["code"] for number in (1, 2, 3)] == [-32601] * 3

    run(work())


def test_a_modern_servers_request_is_not_answered_since_it_may_not_ask(run: Run) -> None:
    async def asks(seen: Seen) -> Any:
        return await seen.stream({"jsonrpc": "2.0", "id": 1, "method": "ping"}, seen.result())

    async def work() -> None:
        server = WebServer(on={"tools/call": asks})
        async with connected(server) as connection:
            await call(connection)
        assert server.methods() == ["server/discover", "tools/list", "tools/call"]

    run(work())


@pytest.mark.parametrize("how", ["timeout", "cancelled", "closed"])
@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_a_call_that_is_given_up_is_cancelled_at_the_server_in_the_way_of_its_era(run: Run, era: str, how: str) -> None:
    async def work() -> None:
        hung_up = asyncio.Event()

        async def never(seen: Seen) -> Any:
            try:
                return await seen.stream(b": open\n\n", end=False)
            finally:
                hung_up.set()

        server = WebServer(era, on={"tools/call": never})
        async with connected(server) as connection:
            task = asyncio.create_task(call(connection, timeout=0.3 if how == "timeout" else 5))
            await until(server.calls)
            assert connection.pending == 1
            if how == "cancelled":
                task.cancel()
            if how == "closed":
                await connection.close()
            try:
                await task
            except asyncio.CancelledError:
                assert how == "cancelled"
            except UpstreamError as failed:
                codes = {"timeout": "upstream.timeout", "closed": "upstream.cancelled"}
                assert (failed.code, failed.sent) == (codes[how], True)
            await hung_up.wait()
            if how != "closed" and era == "legacy":
                await until(lambda: "notifications/cancelled" in server.methods())
                said = next(seen for seen in server.seen if seen.method == "notifications/cancelled")
                assert said.message["params"]["requestId"] == server.calls()[0].message["id"]
                assert "id" not in said.message
            assert connection.pending == 0
        assert len(server.calls()) == 1
        assert era == "legacy" or "notifications/cancelled" not in server.methods()

    run(work())


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_list_changed_arrives_and_a_broken_stream_is_opened_again(
    run: Run, era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "WAIT_SECONDS", (0.01, 0.02))
    heard: asyncio.Queue[Any] = asyncio.Queue()

    async def work() -> None:
        streams = 0

        async def stream(seen: Seen) -> Any:
            nonlocal streams
            streams += 1
            changed = {"jsonrpc": "2.0", "method": CHANGED, "params": {"n": streams}}
            acknowledged = {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {}}
            return await seen.stream(acknowledged, changed, end=streams == 1)

        server = WebServer(era, capabilities={"tools": {"listChanged": True}})
        server.on["subscriptions/listen" if era == "modern" else "GET"] = stream
        async with connected(server, on_notification=lambda *event: heard.put_nowait(event)) as connection:
            # Between two streams nothing is told, so the second begins with a change of its own.
            assert [await heard.get() for _ in range(3)] == [(CHANGED, {"n": 1}), (CHANGED, {}), (CHANGED, {"n": 2})]
            assert connection.pending == 0
            await call(connection)
        opened = next(seen for seen in server.seen if seen.method in ("subscriptions/listen", "GET"))
        if era == "modern":
            assert opened.message["params"]["notifications"] == {"toolsListChanged": True}
        else:
            assert opened.request.headers["Accept"] == "text/event-stream"
            assert opened.request.headers["Mcp-Session-Id"]

    run(work())


@pytest.mark.parametrize(("era", "capable"), [("modern", True), ("legacy", True), ("modern", False), ("legacy", False)])
def test_a_server_without_a_stream_of_changes_is_asked_once_or_not_at_all(run: Run, era: str, capable: bool) -> None:
    async def work() -> None:
        server = WebServer(era, capabilities={"tools": {"listChanged": capable}})
        async with connected(server, on_notification=lambda *_: None) as connection:
            await until(lambda: not connection._side)
            await call(connection)
        assert server.methods().count("subscriptions/listen" if era == "modern" else "GET") == int(capable)

    run(work())


def test_two_callers_never_get_each_others_answers(run: Run) -> None:
    async def slow(seen: Seen) -> Any:
        number = seen.message["params"]["arguments"]["n"]
        await asyncio.sleep(0.01 if number % 2 else 0)
        answer = seen.result({"content": [], "n": number})
        return await seen.stream(answer) if number % 3 else web.json_response(answer)

    async def work() -> None:
        async with connected(WebServer(on={"tools/call": slow})) as connection:
            found = await asyncio.gather(*(call(connection, n=number) for number in range(60)))
            assert [answer["n"] for answer in found] == list(range(60))

    run(work())


def test_more_calls_than_the_cap_are_refused_before_they_are_sent(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_PENDING", 3)

    async def work() -> None:
        release = asyncio.Event()

        async def slow(seen: Seen) -> Any:
            await release.wait()
            return seen.json()

        server = WebServer("legacy", on={"tools/call": slow})
        async with connected(server) as connection:
            tasks = [asyncio.create_task(call(connection)) for _ in range(3)]
            await until(lambda: len(server.calls()) == 3)
            with pytest.raises(UpstreamError) as caught:
                await call(connection)
            assert (caught.value.code, caught.value.sent) == ("upstream.busy", False)
            release.set()
            await asyncio.gather(*tasks)
            assert len(server.calls()) == 3

    run(work())


def test_an_address_that_is_not_allowed_is_refused_with_what_the_operator_can_do(run: Run) -> None:
    async def work() -> None:
        server = WebServer()
        async with serving(server):
            client = Client(Allowance())
            try:
                with pytest.raises(UpstreamError) as caught:
                    await HttpConnection.open(server.config(), client=client)
            finally:
                await client.close()
            failed: JitAccessError = caught.value
            assert (failed.code, caught.value.sent) == ("upstream.unavailable", False)
            assert failed.params["setting"] == "JITACCESS_EGRESS_ALLOW"
            assert "127.0.0.1" in failed.detail
        assert server.seen == []

    run(work())

"""HTTP servers that misbehave: each is one clear error for its own call, which says whether the call may have begun."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from aiohttp import web

from jitaccess.egress import client as egress
from jitaccess.gateway.upstream import answers, sse
from jitaccess.gateway.upstream.asked import Told
from jitaccess.gateway.upstream.errors import RemoteError, UpstreamError
from jitaccess.gateway.upstream.http import HttpConnection

from .conftest import Run, until
from .web_server import Seen, WebServer, call, clients, connected, serving

ERAS = pytest.mark.parametrize("era", ["modern", "legacy"])


async def failure(connection: HttpConnection, **options: Any) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await call(connection, **options)
    return caught.value


def raw(status: int, body: bytes = b"", kind: str = "application/json", **headers: str) -> Any:
    async def handler(_: Seen) -> web.Response:
        return web.Response(status=status, body=body, headers={"Content-Type": kind, **headers})

    return handler


def stream(*pieces: Any, end: bool = True) -> Any:
    async def handler(seen: Seen) -> Any:
        return await seen.stream(*[piece(seen) if callable(piece) else piece for piece in pieces], end=end)

    return handler


def changed(**changes: Any) -> Any:
    async def handler(seen: Seen) -> web.Response:
        return seen.json(**changes)

    return handler


def request_of(seen: Seen) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": seen.message["id"], "method": 7}


INVALID, DIED, DOWN, BUSY = "upstream.invalid_response", "upstream.died", "upstream.unavailable", "upstream.busy"
BAD: dict[str, tuple[Any, str, str]] = {
    "HTML": (raw(200, b"<html>Sign in</html>", "text/html"), INVALID, "text/html instead of JSON"),
    "no type": (raw(200, b"", ""), INVALID, "instead of JSON"),
    "taken only": (raw(202), INVALID, "without answering it (HTTP 202)"),
    "no content": (raw(204), INVALID, "without answering it (HTTP 204)"),
    "empty": (raw(200), INVALID, "cannot be read"),
    "not JSON": (raw(200, b"{"), INVALID, "cannot be read"),
    "two members": (raw(200, b'{"jsonrpc":"2.0","id":1,"result":{},"result":{}}'), INVALID, "two members"),
    "two answers": (raw(200, b'{"jsonrpc":"2.0","id":3,"result":{}}{"jsonrpc":"2.0","id":3,"result":{}}'), INVALID, "read"),
    "a batch": (raw(200, b'[{"jsonrpc":"2.0","id":3,"result":{}}]'), INVALID, "array"),
    "a number beyond doubles": (raw(200, b'{"jsonrpc":"2.0","id":3,"result":{"n":1e999}}'), INVALID, "double"),
    "another id": (changed(id=99_999), INVALID, "id of another request"),
    "a text id": (changed(id="3"), INVALID, "id of another request"),
    "true as id": (changed(id=True), INVALID, "id of another request"),
    "no id": (changed(id=None), INVALID, "id of another request"),
    "another version": (changed(jsonrpc="1.0"), INVALID, "no JSON-RPC message"),
    "result and error": (changed(error={"code": 1, "message": ""}), INVALID, "neither"),
    "a result that is a list": (changed(result=[]), INVALID, "neither"),
    "a request as answer": (changed(method="tools/call"), INVALID, "no JSON-RPC message"),
    "a redirect": (raw(307, Location="http://169.254.169.254/"), INVALID, "not followed"),
    "not found": (raw(410), INVALID, "no MCP endpoint at its URL (HTTP 410)"),
    "teapot": (raw(418, b"<html>", "text/html"), INVALID, "HTTP 418"),
    "too many": (raw(429), BUSY, "HTTP 429"),
    "broken": (raw(500, b"Traceback: hush", "text/plain"), DOWN, "HTTP 500"),
    "a gateway's timeout": (raw(504, b"<html>", "text/html"), DOWN, "HTTP 504"),
    "forbidden": (raw(403, b"hush"), DOWN, "refuses the gateway's credential (HTTP 403)"),
    "a stream without answer": (stream(b": hello\n\n"), DIED, "without an answer"),
    "a stream with half an answer": (stream(b'data: {"jsonrpc"'), DIED, "without an answer"),
    "a stream of nonsense": (stream(b"data: <html>\n\n", end=False), INVALID, "cannot be read"),
    "a stream with another id": (stream(lambda seen: seen.result(id=99_999), end=False), INVALID, "id of another request"),
    "a stream of no messages": (stream(request_of, end=False), INVALID, "no JSON-RPC message"),
    "packed in br": (raw(200, b"x", **{"Content-Encoding": "br"}), INVALID, "Content-Encoding"),
}  # fmt: skip


@ERAS
@pytest.mark.parametrize("what", BAD)
def test_a_bad_answer_is_one_clear_error_and_harms_no_other_call(run: Run, era: str, what: str) -> None:
    handler, code, problem = BAD[what]

    async def work() -> None:
        server = WebServer(era)
        async with connected(server, headers={"X-Key": "hush-hush"}) as connection:
            await call(connection)
            server.on["tools/call"] = handler
            error = await failure(connection)
            assert (error.code, error.sent) == (code, True)
            assert problem in error.detail
            assert "far" in error.detail
            assert "hush" not in error.detail
            del server.on["tools/call"]
            assert (await call(connection))["content"] == []
            assert connection.alive
            assert len(server.calls()) == 3  # nothing was repeated

    run(work())


@ERAS
def test_a_server_that_refuses_the_credential_had_the_call_all_the_same(run: Run, era: str) -> None:
    """An honest one did nothing (RFC 9110, 15.5.2). The metadata that the answer points to is never fetched."""
    hostile = {"WWW-Authenticate": 'Bearer resource_metadata="http://169.254.169.254/"'}

    async def work() -> None:
        server = WebServer(era, on={"tools/call": raw(401, **hostile)})
        async with connected(server) as connection:
            error = await failure(connection)
            assert (error.code, error.sent) == (DOWN, True)
            assert "refuses the gateway's credential" in error.detail
            assert len(server.calls()) == 1

    run(work())


@ERAS
@pytest.mark.parametrize("status", [200, 400, 404, 500])
@pytest.mark.parametrize("other", [None, "ours", "server-error"])
def test_the_servers_own_error_is_passed_on_whatever_status_it_has(run: Run, era: str, status: int, other: Any) -> None:
    async def refuse(seen: Seen) -> Any:
        changes = {} if other == "ours" else {"id": other}
        return seen.error(-32602 if status != 404 else -32601, "Unknown tool", status=status, data={"k": 1}, **changes)

    async def work() -> None:
        async with connected(WebServer(era, on={"tools/call": refuse})) as connection:
            if status == 200 and other == "server-error":
                assert "id of another request" in (await failure(connection)).detail
                return
            with pytest.raises(RemoteError, match="Unknown tool") as caught:
                await call(connection)
            assert caught.value.data == {"k": 1}

    run(work())


@ERAS
def test_an_unknown_kind_of_result_is_invalid_in_the_era_that_has_kinds(run: Run, era: str) -> None:
    async def work() -> None:
        server = WebServer(era, on={"tools/call": changed(result={"resultType": "surprise", "content": []})})
        async with connected(server) as connection:
            if era == "modern":
                assert (await failure(connection)).code == INVALID
            else:
                assert (await call(connection))["resultType"] == "surprise"
            server.on["tools/call"] = changed(result={"resultType": "input_required", "inputRequests": {}})
            assert (await call(connection))["resultType"] == "input_required"

    run(work())


def test_of_two_answers_in_a_stream_the_first_counts_and_the_second_is_nobodys(run: Run) -> None:
    async def twice(seen: Seen) -> Any:
        return await seen.stream(seen.result({"content": [], "n": 1}), seen.result({"content": [], "n": 2}))

    async def work() -> None:
        server = WebServer(on={"tools/call": twice})
        async with connected(server) as connection:
            assert [(await call(connection))["n"] for _ in range(3)] == [1, 1, 1]

    run(work())


@ERAS
@pytest.mark.parametrize("kind", ["json", "stream", "headers"])
def test_a_slow_drip_ends_with_the_time_limit_of_the_call(run: Run, era: str, kind: str) -> None:
    async def drip(seen: Seen) -> Any:
        if kind == "headers":
            await asyncio.Event().wait()
        response = web.StreamResponse(
            headers={"Content-Type": "application/json" if kind == "json" else "text/event-stream"}
        )
        await response.prepare(seen.request)
        while True:
            await response.write(b" " if kind == "json" else b":\n\n")
            await asyncio.sleep(0.01)

    async def work() -> None:
        server = WebServer(era, on={"tools/call": drip})
        async with connected(server) as connection:
            error = await failure(connection, timeout=0.2)
            assert (error.code, error.sent) == ("upstream.timeout", True)
            assert "within 0.2 seconds" in error.detail
            del server.on["tools/call"]
            await call(connection)

    run(work())


@pytest.mark.parametrize("kind", ["json", "stream", "event"])
def test_an_answer_over_the_size_cap_is_an_error_and_is_not_read_on(
    run: Run, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "MAX_ANSWER", 1 << 20)
    monkeypatch.setattr(answers, "messages", _capped(answers.messages))
    monkeypatch.setattr(sse, "MAX_EVENT", 1 << 20)
    written = 0

    async def endless(seen: Seen) -> Any:
        nonlocal written
        written = 0
        response = web.StreamResponse(
            headers={"Content-Type": "application/json" if kind == "json" else "text/event-stream"}
        )
        await response.prepare(seen.request)
        await response.write(b"data: " if kind == "event" else b" ")
        while True:
            await response.write(b": noise\n" * 8192 if kind == "stream" else b"x" * 65536)
            written += 65536

    async def work() -> None:
        server = WebServer(on={"tools/call": endless})
        async with connected(server) as connection:
            error = await failure(connection)
            assert (error.code, error.sent) == (INVALID, True)
            assert "larger than" in error.detail
            assert written < 32 << 20
            del server.on["tools/call"]
            await call(connection)

    run(work())


def _capped(real: Any) -> Any:
    return lambda response, slug: real(response, slug, limit=2 << 20)


@ERAS
def test_a_server_that_hangs_up_in_mid_call_leaves_it_open_whether_it_was_done(run: Run, era: str) -> None:
    async def hang_up(seen: Seen) -> Any:
        assert seen.request.transport is not None
        seen.request.transport.abort()
        return web.Response()

    async def work() -> None:
        server = WebServer(era, on={"tools/call": hang_up})
        async with connected(server) as connection:
            error = await failure(connection)
            assert (error.code, error.sent) == (DIED, True)
            assert len(server.calls()) == 1  # not sent again, though the connection was an old one

    run(work())


@ERAS
def test_a_server_that_is_gone_was_sent_nothing_and_the_connection_ends(run: Run, era: str) -> None:
    async def work() -> None:
        server = WebServer(era)
        async with clients() as client:
            async with serving(server):
                connection = await HttpConnection.open(server.config(), client=client)
                await call(connection)
            error = await failure(connection)
            assert (error.code, error.sent) == (DOWN, False)
            assert "cannot be reached" in error.detail
            assert not connection.alive
            assert (await failure(connection)).sent is False
            await connection.close()

    run(work())


def test_a_name_that_cannot_be_resolved_or_connected_to_is_said_at_the_start(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(egress, "CONNECT_SECONDS", 0.1)

    async def hang(host: str, port: int) -> list[str]:
        return [str(await asyncio.Event().wait())]

    async def work() -> None:
        async with clients() as client:
            client._resolver._lookup = hang
            config = WebServer(url="https://mcp.test/").config()
            with pytest.raises(
                UpstreamError, match=r"mcp.test:443 cannot be reached: no connection within 0.1"
            ) as caught:
                await HttpConnection.open(config, client=client)
            assert (caught.value.code, caught.value.sent) == (DOWN, False)

    run(work())


def test_a_server_that_never_greets_is_given_up_in_time(run: Run) -> None:
    async def never(_: Seen) -> Any:
        await asyncio.Event().wait()

    async def work() -> None:
        server = WebServer("legacy", on={"initialize": never})
        async with serving(server), clients() as client:
            with pytest.raises(UpstreamError, match=r"did not finish the handshake within 0.2 seconds") as caught:
                await HttpConnection.open(server.config(start_timeout=0.2), client=client)
            assert (caught.value.code, caught.value.sent) == (DOWN, False)

    run(work())


def test_a_server_that_does_not_take_the_greeting_is_not_used(run: Run) -> None:
    async def work() -> None:
        server = WebServer("legacy", on={"notifications/initialized": raw(500)})
        async with serving(server), clients() as client:
            with pytest.raises(UpstreamError, match="HTTP 500"):
                await HttpConnection.open(server.config(), client=client)

    run(work())


def test_a_flood_of_the_servers_own_requests_does_not_become_a_flood_of_ours(run: Run) -> None:
    async def flood(seen: Seen) -> Any:
        asked = [{"jsonrpc": "2.0", "id": number, "method": "ping"} for number in range(5000)]
        return await seen.stream(*asked, seen.result())

    async def work() -> None:
        waiting = 0

        async def take(_: Seen) -> Any:
            nonlocal waiting
            waiting += 1
            await asyncio.Event().wait()

        server = WebServer("legacy", on={"tools/call": flood, "POST": take})
        async with connected(server) as connection:
            await call(connection, timeout=10)
            await until(lambda: waiting)
            assert waiting <= 32

    run(work())


def test_what_a_listener_does_wrong_harms_no_call(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {}}
    progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 3}}

    async def work() -> None:
        server = WebServer(on={"tools/call": stream(note, progress, Seen.result)})
        async with connected(server, on_notification=fail) as connection:
            await connection.request("tools/call", {"name": "t"}, timeout=5, told=Told(progress=fail))

    with caplog.at_level(logging.CRITICAL + 1):
        run(work())


def test_no_header_value_is_ever_logged(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        server = WebServer("legacy")
        async with connected(server, headers={"Authorization": "Bearer hush"}) as connection:
            server.on |= {"tools/call": raw(500), "POST": raw(500), "notifications/cancelled": raw(500)}
            await failure(connection)
            assert "hush" not in repr(connection.server)

    with caplog.at_level(logging.DEBUG):
        run(work())
    assert "hush" not in caplog.text

"""A raw HTTP server on loopback that plays an MCP server of either era, good or bad."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from jitaccess.egress.addresses import Allowance
from jitaccess.egress.client import Client
from jitaccess.gateway.upstream.config import HttpServer
from jitaccess.gateway.upstream.http import HttpConnection

MODERN = "2026-07-28"
LOOPBACK = Allowance.parse(["127.0.0.1"])

Handler = Callable[["Seen"], Awaitable[web.StreamResponse]]


@dataclass
class Seen:
    """One request as it came."""

    request: web.Request
    body: bytes
    message: dict[str, Any]

    @property
    def method(self) -> str:
        return str(self.message.get("method", self.request.method))

    def result(self, value: Any = None, **changes: Any) -> dict[str, Any]:
        value = {"resultType": "complete", "content": []} if value is None else value
        return {"jsonrpc": "2.0", "id": self.message.get("id"), "result": value} | changes

    def json(self, value: Any = None, *, status: int = 200, headers: Any = None, **changes: Any) -> web.Response:
        return web.json_response(self.result(value, **changes), status=status, headers=headers)

    def error(self, code: int, text: str, *, status: int = 200, data: Any = None, **changes: Any) -> web.Response:
        error = {"code": code, "message": text} | ({} if data is None else {"data": data})
        body = {"jsonrpc": "2.0", "id": self.message.get("id"), "error": error} | changes
        return web.json_response(body, status=status)

    async def stream(self, *pieces: bytes | dict[str, Any], end: bool = True) -> web.StreamResponse:
        """An event stream; a dict is a message, bytes go out as they are. Without `end` it stays open."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(self.request)
        for piece in pieces:
            await response.write(event(piece) if isinstance(piece, dict) else piece)
        if not end:
            await asyncio.Event().wait()
        return response


def event(message: dict[str, Any]) -> bytes:
    return b"event: message\ndata: " + json.dumps(message).encode() + b"\n\n"


@dataclass
class WebServer:
    """`on` holds what answers a method (or "GET", "DELETE"), before what a server of `era` would say."""

    era: str = "modern"
    on: dict[str, Handler] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    sessions: set[str] = field(default_factory=set)
    tools: list[dict[str, Any]] = field(default_factory=list)
    capabilities: dict[str, Any] = field(default_factory=lambda: {"tools": {}})
    delivered: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    connections: set[Any] = field(default_factory=set)

    def methods(self) -> list[str]:
        return [seen.method for seen in self.seen]

    def calls(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == "tools/call"]

    def config(self, **changes: Any) -> HttpServer:
        return HttpServer(**{"slug": "far", "url": self.url, "headers": {}, "start_timeout": 5, **changes})

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            message = json.loads(body) if body else {}
        except ValueError:
            message = {}
        seen = Seen(request, body, message)
        self.seen.append(seen)
        self.connections.add(request.transport)
        self.delivered.set()
        handler = self.on.get(seen.method) or (self.modern if self.era == "modern" else self.legacy)
        return await handler(seen)

    async def modern(self, seen: Seen) -> web.StreamResponse:
        if seen.request.method != "POST":
            return web.Response(status=405)
        if seen.method == "server/discover":
            meta = {"io.modelcontextprotocol/serverInfo": {"name": "web", "version": "1"}}
            return seen.json(
                {
                    "resultType": "complete",
                    "supportedVersions": [MODERN],
                    "capabilities": self.capabilities,
                    "_meta": meta,
                }
            )
        return self.common(seen, status=404)

    async def legacy(self, seen: Seen) -> web.StreamResponse:
        if seen.method == "initialize":
            session = f"session-{len(self.seen)}"
            self.sessions.add(session)
            version = self.era if self.era != "legacy" else seen.message["params"]["protocolVersion"]
            result = {
                "protocolVersion": version, "capabilities": self.capabilities, "serverInfo": {"name": "web", "version": "0"},
            }  # fmt: skip
            return seen.json(result, headers={"Mcp-Session-Id": session})
        session = seen.request.headers.get("Mcp-Session-Id", "")
        if not session:
            return seen.error(-32600, "Bad Request: Missing session ID", status=400, id=None)
        if session not in self.sessions:
            return seen.error(-32001, "Session not found", status=404, id=None)
        if seen.request.method == "DELETE":
            self.sessions.discard(session)
            return web.Response(status=200)
        if seen.request.method == "GET":
            return web.Response(status=405)
        if "id" not in seen.message or "method" not in seen.message:
            return web.Response(status=202)
        return self.common(seen, status=200)

    def common(self, seen: Seen, *, status: int) -> web.Response:
        if seen.method == "tools/list":
            return seen.json({"resultType": "complete", "tools": self.tools})
        if seen.method == "tools/call":
            return seen.json({"resultType": "complete", "content": [], "params": seen.message["params"]})
        return seen.error(-32601, "Method not found", status=status)


@contextlib.asynccontextmanager
async def serving(server: WebServer) -> AsyncIterator[WebServer]:
    """Serve on a free port; what is still being handled at the end is cancelled."""
    runner = web.AppRunner(_app(server), handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    server.url = f"http://127.0.0.1:{port}/mcp"
    try:
        yield server
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def threaded(*servers: WebServer) -> Iterator[tuple[WebServer, ...]]:
    """Serve them in a thread of their own."""
    ready, done = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loops.append(asyncio.get_running_loop())
        async with contextlib.AsyncExitStack() as stack:
            for server in servers:
                await stack.enter_async_context(serving(server))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield servers
    finally:
        loops[0].call_soon_threadsafe(done.set)
        thread.join(10)
        assert not thread.is_alive()


def _app(server: WebServer) -> web.Application:
    app = web.Application(client_max_size=16 << 20)
    app.router.add_route("*", "/mcp", server.handle)
    return app


@contextlib.asynccontextmanager
async def connected(server: WebServer, *, on_notification: Any = None, **changes: Any) -> AsyncIterator[HttpConnection]:
    """A running server and a connection to it."""
    async with serving(server), clients() as client:
        connection = await HttpConnection.open(server.config(**changes), client=client, on_notification=on_notification)
        try:
            yield connection
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def clients() -> AsyncIterator[Client]:
    client = Client(LOOPBACK)
    try:
        yield client
    finally:
        await client.close()
        assert not client._busy, "an answer was not closed"


async def call(connection: HttpConnection, name: str = "t", *, timeout: float = 5, **arguments: Any) -> Any:  # noqa: ASYNC109
    return await connection.request("tools/call", {"name": name, "arguments": arguments}, timeout=timeout)

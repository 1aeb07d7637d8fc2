"""A running gateway for tests, and clients that can also say what no proper client would."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2
import psycopg
import uvicorn
import uvloop
from django.db import connection

from jitaccess.audit.models import Bundle, Entry
from jitaccess.gateway.app import Application
from jitaccess.gateway.core import Gateway
from jitaccess.gateway.models import OpenCall, RefusalCount
from jitaccess.gateway.upstream.config import StdioServer
from jitaccess.identity.models import AccessToken, Agent, User
from jitaccess.identity.services import issue_token
from jitaccess.runtime.front import Front
from jitaccess.runtime.protocol import Protocol
from jitaccess.runtime.server import bind
from tests.cast import Cast

ECHO = str(Path(__file__).with_name("echo_server.py"))
MODERN = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "tests", "version": "1"},
}
DENY = "io.jitaccess/deny"
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_ids = itertools.count(1)


def echo(record: Path, *options: str, era: str = "modern", slug: str = "git") -> StdioServer:
    """The instrumented server."""
    arguments = ("-I", "-S", ECHO, era, str(record), *options)
    return StdioServer(slug, sys.executable, arguments, MappingProxyType({}), None, era)  # type: ignore[arg-type]


def eventually(check: Callable[[], Any], *, within: float = 10, what: str = "") -> Any:
    """The first true value of `check`, asked again and again until the deadline."""
    deadline = time.monotonic() + within
    while not (value := check()):
        assert time.monotonic() < deadline, f"not within {within} s: {what}"
        time.sleep(0.01)
    return value


@dataclass
class Served:
    """A gateway on a port of its own, in a thread with a loop of its own."""

    url: str
    gateway: Gateway
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    finish: Callable[[], None]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run `work` on the gateway's loop and return its result."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def client(self, cast: Cast, *, agent: Agent | None = None, user: User | None = None, ttl: int = 3600) -> Client:
        value, token = issue_token(agent=agent or cast.agent, user=user, ttl=ttl, operator=cast.operator)
        return Client(self.url, value, token)

    def stop(self) -> None:
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.finish)
            self.thread.join(20)
            assert not self.thread.is_alive(), "the gateway does not stop"


class _Loop(uvloop.Loop):
    """Two loops in one process must not start children at the same instant: uvloop refuses that, and hangs."""

    _one = threading.Lock()

    async def subprocess_exec(self, *arguments: Any, **options: Any) -> Any:
        while not self._one.acquire(blocking=False):
            await asyncio.sleep(0.002)
        try:
            return await super().subprocess_exec(*arguments, **options)
        finally:
            self._one.release()


class _Server(uvicorn.Server):
    """Ends as soon as it is told to and has nobody left: uvicorn itself looks every tenth of a second."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self.gateway, self.told_to_end = gateway, asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)  # which makes the headers of all answers
        await self.told_to_end.wait()

    async def shutdown(self, sockets: Any = None) -> None:
        self.gateway.begin_shutdown()
        for one in [*self.servers, *(sockets or [])]:
            one.close()
        state = self.server_state
        for one in list(state.connections):
            one.shutdown()
        deadline = time.monotonic() + (self.config.timeout_graceful_shutdown or 0)
        while (state.connections or state.tasks) and time.monotonic() < deadline:
            await asyncio.sleep(0.002)
        for task in list(state.tasks):
            task.cancel()


def serve(servers: dict[str, StdioServer], **options: Any) -> Served:
    """As runtime.server does it, without the signals and the web half."""
    gateway = Gateway(servers=servers.get, **options)
    application, listener = Application(gateway), bind("127.0.0.1", 0)
    config = uvicorn.Config(
        Front(application, proxies=(), access_log=False, short=application.short), http=Protocol, lifespan="off", log_config=None, access_log=False,
        server_header=False, proxy_headers=False, timeout_graceful_shutdown=2,
    )  # fmt: skip
    ready: Any = threading.Event()
    broken: list[BaseException] = []

    async def main() -> None:
        server = ready.server = _Server(config, gateway)
        ready.loop = asyncio.get_running_loop()
        try:
            await gateway.start()
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.005)
            ready.set()
            await serving
            await gateway.stop()
        except BaseException as error:
            broken.append(error)
            raise
        finally:
            ready.set()

    def run() -> None:
        with asyncio.Runner(loop_factory=_Loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run, name="served", daemon=True)
    thread.start()
    assert ready.wait(20)
    if broken:
        raise broken[0]
    port = listener.getsockname()[1]
    return Served(f"http://127.0.0.1:{port}", gateway, ready.loop, thread, ready.server.told_to_end.set)


@dataclass
class Client:
    """One agent with its token. `session` is set in the older era; `http` is a plain client to say anything with."""

    url: str
    token: str
    row: AccessToken | None = None
    server: str = "git"
    session: str | None = None
    version: str = "2025-11-25"
    http: httpx2.Client = field(default_factory=lambda: httpx2.Client(timeout=20, trust_env=False))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    @property
    def endpoint(self) -> str:
        return f"{self.url}/mcp/{self.server}"

    def headers(self, message: Any = None) -> dict[str, str]:
        """What a proper client sends with `message`."""
        found = {
            "authorization": f"Bearer {self.token}",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
        }
        if self.session is not None:
            return found | {"mcp-session-id": self.session, "mcp-protocol-version": self.version}
        method = message.get("method") if isinstance(message, dict) else None
        if not isinstance(method, str) or method == "initialize":
            return found
        found |= {"mcp-protocol-version": MODERN, "mcp-method": method}
        name = message.get("params", {}).get(NAMED.get(method, ""))
        return found | ({"mcp-name": name} if isinstance(name, str) else {})

    def message(self, method: str, params: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
        params = params or {}
        if self.session is None and method != "initialize":
            params = {"_meta": META} | params
        return {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": params} | members

    def post(self, body: Any, **headers: str | None) -> httpx2.Response:
        """POST `body` (bytes as they are) with the proper headers; change them by name, None removes one."""
        found: dict[str, str | None] = dict(self.headers(body))
        found |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        kept = {name: value for name, value in found.items() if value is not None}
        return self.http.post(self.endpoint, content=content, headers=kept)

    def ask(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """The whole answer to a request."""
        message = self.message(method, params)
        answer: dict[str, Any] = self.post(message).json()
        assert answer["id"] == message["id"]
        return answer

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The result of a call, whatever it says; a protocol error is an error here."""
        answer = self.ask("tools/call", {"name": tool, "arguments": arguments})
        assert "result" in answer, answer
        return dict(answer["result"])

    def use(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """What an access tool returned, which must not be a refusal."""
        result = self.call(tool, **arguments)
        assert not result["isError"], result
        return dict(result["structuredContent"])

    def refusal(self, tool: str, **arguments: Any) -> str:
        """The reason code of a refused call."""
        result = self.call(tool, **arguments)
        assert result["isError"], result
        assert "structuredContent" not in result
        return str(result["_meta"][DENY].get("reason_code") or result["_meta"][DENY]["error"])

    def tools(self) -> dict[str, str]:
        """Descriptions by name, in the order of the list."""
        return {tool["name"]: tool.get("description", "") for tool in self.ask("tools/list")["result"]["tools"]}

    def initialize(self, version: str = "2025-11-25") -> Client:
        """Begin a session of the older era."""
        params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "old", "version": "0"}}
        response = self.post(self.message("initialize", params))
        assert response.status_code == 200, response.text
        self.session, self.version = response.headers["mcp-session-id"], response.json()["result"]["protocolVersion"]
        return self

    @contextlib.contextmanager
    def begin(self, tool: str, **arguments: Any) -> Iterator[socket.socket]:
        """A call that is under way; close the socket to leave, or read the answer from it."""
        message = self.message("tools/call", {"name": tool, "arguments": arguments})
        body = json.dumps(message).encode()
        host, _, port = self.url.removeprefix("http://").partition(":")
        lines = {"host": host, "content-length": str(len(body)), "connection": "close", "x-id": str(message["id"])}
        head = "".join(f"{name}: {value}\r\n" for name, value in (self.headers(message) | lines).items())
        with socket.create_connection((host, int(port)), timeout=20) as plain:
            plain.sendall(f"POST /mcp/{self.server} HTTP/1.1\r\n{head}\r\n".encode() + body)
            yield plain

    def notify(self, method: str, params: dict[str, Any]) -> httpx2.Response:
        message = self.message(method, params)
        del message["id"]
        return self.post(message)

    @contextlib.contextmanager
    def listen(self, **notifications: Any) -> Iterator[Stream]:
        """An open stream of changes in the client's era, acknowledged."""
        with contextlib.ExitStack() as stack:
            http = stack.enter_context(httpx2.Client(timeout=20, trust_env=False))
            if self.session is not None:
                headers = self.headers() | {"accept": "text/event-stream"}
                request = http.build_request("GET", self.endpoint, headers=headers)
            else:
                message = self.message(
                    "subscriptions/listen", {"notifications": notifications or {"toolsListChanged": True}}
                )
                request = http.build_request("POST", self.endpoint, json=message, headers=self.headers(message))
            response = http.send(request, stream=True)
            stream = Stream(response)
            stack.callback(stream.hang_up)
            if response.status_code == 200 and self.session is None:
                stream.acknowledged = stream.next()
            yield stream


class Stream:
    """Events of one response, read in a thread."""

    def __init__(self, response: httpx2.Response) -> None:
        self.response = response
        self.events: list[dict[str, Any]] = []
        self.ended = threading.Event()
        self.acknowledged: dict[str, Any] = {}
        self._seen = 0
        if response.status_code == 200:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(httpx2.HTTPError, httpx2.StreamError, OSError):
            for line in self.response.iter_lines():
                if line.startswith("data: "):
                    self.events.append(json.loads(line[6:]))
        self.ended.set()

    def hang_up(self) -> None:
        """Leave, as a client that is killed does."""
        with contextlib.suppress(OSError):
            self.response.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self.response.close()

    def next(self, *, within: float = 10) -> dict[str, Any]:
        """The next event."""
        eventually(lambda: len(self.events) > self._seen, within=within, what="an event")
        self._seen += 1
        return self.events[self._seen - 1]

    def changed(self, *, within: float = 10) -> None:
        """Wait for a list_changed that was not seen yet."""
        assert self.next(within=within)["method"] == "notifications/tools/list_changed"

    @property
    def quiet(self) -> bool:
        """Whether nothing came that was not seen."""
        return len(self.events) == self._seen


def ledger(event: str = "call.", **wanted: Any) -> list[Entry]:
    """Entries whose event begins so, oldest first."""
    return list(Entry.objects.filter(event__startswith=event, **wanted).order_by("uid"))


def refusals() -> int:
    """How many refused calls are on record: entries, those counted in entries, and those counted so far."""
    counted = sum(data(entry)["times"] for entry in ledger("call.denied_again"))
    counted += sum(row.count - 1 for row in RefusalCount.objects.all())
    return len(ledger("call.denied")) - len(ledger("call.denied_again")) + counted


def told(event: str = "call.") -> list[str]:
    return [entry.event for entry in ledger(event)]


def data(entry: Entry) -> dict[str, Any]:
    return dict(json.loads(entry.data))


NO_ENDS = {"call.authorized", "call.denied", "call.denied_again", "call.repeated"}


def settled() -> bool:
    """Whether every authorized call has its end on record, exactly one, and none is open."""
    begun = Counter(entry.call for entry in ledger("call.authorized"))
    ended = Counter(entry.call for entry in ledger() if entry.event not in NO_ENDS)
    return begun == ended and not OpenCall.objects.exists()


@contextlib.contextmanager
def ledger_held() -> Iterator[None]:
    """Nobody can write the ledger meanwhile; who tries waits."""
    if connection.vendor == "sqlite":
        other: Any = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
    else:
        other = psycopg.connect(**_postgresql())
        # As all who write both do: first bundles.
        other.execute(f"LOCK TABLE {Bundle._meta.db_table}, {Entry._meta.db_table} IN SHARE ROW EXCLUSIVE MODE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextlib.contextmanager
def database_away() -> Iterator[None]:
    """The database refuses: on SQLite every write (make the timeout short), on PostgreSQL every connection."""
    if connection.vendor == "sqlite":
        with ledger_held():
            yield
        return
    name = connection.settings_dict["NAME"]
    connection.close()
    with psycopg.connect(**_postgresql() | {"dbname": "postgres"}, autocommit=True) as other:
        try:
            other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            yield
        finally:
            other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def _postgresql() -> dict[str, Any]:
    values = connection.settings_dict
    return {"host": values["HOST"], "user": values["USER"], "dbname": values["NAME"], "port": values["PORT"] or 5432}

"""What the tests of the short way have in common: a server over HTTP, a client whose bytes are its own, and a counter
that sees which calls went the short way.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from jitaccess.audit.models import Entry
from jitaccess.gateway.calling.short import ShortCall, ShortWay
from jitaccess.gateway.upstream.config import HttpServer
from jitaccess.identity.models import Agent, User
from tests.cast import Cast
from tests.gateway.harness import META, MODERN, Served, eventually, refusals, settled
from tests.gateway.upstream.web_server import Seen, WebServer, threaded

GIT = "git"
_numbers = itertools.count(1)


class Ways:
    """Which way the calls of one gateway went: `taken` are those that began the short way."""

    def __init__(self, short: ShortWay) -> None:
        self.taken: list[ShortCall] = []
        self.left = 0  # that were offered to the short way, and not taken
        self._take = short.take
        short.take = self._counted  # type: ignore[method-assign]

    def _counted(self, *call: Any) -> ShortCall | None:
        taken = self._take(*call)
        if taken is None:
            self.left += 1
        else:
            self.taken.append(taken)
        return taken

    @property
    def turned(self) -> list[ShortCall]:
        """Those that went on the long way."""
        return [one for one in self.taken if one.future is not None]


@dataclass
class Answer:
    """One HTTP answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def result(self) -> dict[str, Any]:
        return dict(self.json["result"])


@dataclass
class Line:
    """One connection of a client that says bytes; `known` is its token."""

    url: str
    token: str
    plain: socket.socket = field(init=False)
    rest: bytes = b""
    source: str = "127.0.0.1"

    def __post_init__(self) -> None:
        host, _, port = self.url.removeprefix("http://").partition(":")
        self.plain = socket.create_connection((host, int(port)), timeout=20, source_address=(self.source, 0))
        self.plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def request(
        self, message: Any, path: str = f"/mcp/{GIT}", version: str = "HTTP/1.1", **changes: str | None
    ) -> bytes:
        """The bytes of a proper request; `message` may be bytes as they are. None removes a header."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        params = message.get("params", {}) if isinstance(message, dict) else {}
        found: dict[str, str | None] = {
            "host": self.url.removeprefix("http://"),
            "authorization": f"Bearer {self.token}",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": MODERN,
            "mcp-method": message.get("method") if isinstance(message, dict) else "tools/call",
            "mcp-name": params.get("name", "git_log") if isinstance(params, dict) else "git_log",
            "content-length": str(len(body)),
        }
        found |= {name.replace("_", "-"): value for name, value in changes.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in found.items() if value is not None)
        return f"POST {path} {version}\r\n{lines}\r\n".encode() + body

    def say(self, *parts: bytes) -> None:
        for part in parts:
            self.plain.sendall(part)

    def hear(self) -> Answer:
        """The next answer; ConnectionError when there is none."""
        head = self._until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if "transfer-encoding" in headers:
            body = b""
            while size := int(self._until(b"\r\n"), 16):
                body += self._take(size)
                self._take(2)
            self._take(2)
        else:
            body = self._take(int(headers.get("content-length", "0")))
        return Answer(int(first.split()[1]), headers, body)

    def ask(self, *parts: bytes) -> Answer:
        self.say(*parts)
        return self.hear()

    def is_closed(self) -> bool:
        """Whether the gateway hangs up, with nothing more said."""
        with contextlib.suppress(ConnectionResetError):
            return not self.rest and not self.plain.recv(1)
        return True

    def close(self) -> None:
        self.plain.close()

    def _until(self, mark: bytes) -> bytes:
        while mark not in self.rest:
            self._more()
        found, mark, self.rest = self.rest.partition(mark)
        return found + mark

    def _take(self, size: int) -> bytes:
        while len(self.rest) < size:
            self._more()
        found, self.rest = self.rest[:size], self.rest[size:]
        return found

    def _more(self) -> None:
        found = self.plain.recv(1 << 16)
        if not found:
            raise ConnectionError(f"hung up after {self.rest!r}")
        self.rest += found


@dataclass
class World:
    """A gateway before a server over HTTP, and who calls."""

    served: Served
    upstream: WebServer
    cast: Cast
    ways: Ways
    lines: list[Line] = field(default_factory=list)

    def line(self, token: str = "") -> Line:
        """A new connection, by default of the demo agent."""
        self.lines.append(Line(self.served.url, token or self.token))
        return self.lines[-1]

    def token_of(self, *, agent: Agent | None = None, user: User | None = None) -> str:
        return self.served.client(self.cast, agent=agent, user=user).token

    token: str = ""
    servers: dict[str, Any] = field(default_factory=dict)

    def on_loop(self, work: Callable[[], Any]) -> Any:
        """Do it on the gateway's event loop."""

        async def now() -> Any:
            return work()

        return self.served.run(now())

    def connections(self) -> list[Any]:
        """Those of the clients whose calls went the short way."""
        return [one._client for one in self.ways.taken]

    def learn(self, line: Line, message: Any, **changes: str | None) -> Answer:
        """Say it as a call that makes its head known, whose token and server are known already."""
        taken = len(self.ways.taken)
        answer = line.ask(line.request(message, **changes))
        assert len(self.ways.taken) == taken, "its head was known"
        return answer

    def short(self, line: Line, request: bytes) -> Answer:
        """Say it and see that it begins the short way."""
        taken = len(self.ways.taken)
        answer = line.ask(request)
        assert len(self.ways.taken) == taken + 1, "it went the long way"
        return answer

    @property
    def way(self) -> ShortWay:
        assert self.served.gateway.short is not None
        return self.served.gateway.short

    def ready(self, line: Line, *, forget: bool = True) -> None:
        """Let the gateway know the token, and have a connection to the server that is free."""

        def works() -> bool:  # a server that hangs up after it has answered may do so in the middle of the next call
            return not line.ask(line.request(call(ready=1), x_long=str(next(_numbers)))).result.get("isError")

        while self.served.gateway.pool.ready(GIT) is None:
            eventually(works)
        eventually(works)
        eventually(settled)
        if forget:
            self.upstream.seen.clear()


class Held:
    """The server answers a call only when it is let go. `cancelled`: somebody hung up before that."""

    def __init__(self, world: World) -> None:
        self.world, self._go, self.cancelled = world, False, False
        world.upstream.on["tools/call"] = self._answer

    async def _answer(self, seen: Seen) -> web.Response:
        try:
            while not self._go:
                await asyncio.sleep(0.002)
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return seen.json()

    def wait(self, calls: int) -> None:
        eventually(lambda: len(self.world.upstream.calls()) == calls)

    def let_go(self) -> None:
        self._go = True


def call(tool: str = "git_log", number: Any = 1, **arguments: Any) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments, "_meta": META}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


@contextlib.contextmanager
def world(cast: Cast, start: Callable[..., Served], settings: Any, **options: Any) -> Iterator[World]:
    settings.EGRESS_ALLOW = ["127.0.0.1"]
    with threaded(WebServer()) as (upstream,):
        servers = {GIT: HttpServer(GIT, upstream.url, {"Authorization": "Bearer ours"})}
        served = start(servers, **options)
        if served.gateway.admission._lane is not None or not _on_sqlite():
            eventually(lambda: served.gateway.admission._lane.open)  # type: ignore[union-attr]
        assert served.gateway.short is not None
        found = World(served, upstream, cast, Ways(served.gateway.short), servers=servers)
        found.token = found.token_of()
        try:
            yield found
        finally:
            for line in found.lines:
                line.close()
            served.stop()


def _on_sqlite() -> bool:
    from django.db import connection

    return connection.vendor == "sqlite"


def entries(event: str = "call.") -> list[list[dict[str, Any]]]:
    """What is on record of each call, in the order in which they began: all but ids, times and what differs by them."""
    calls: dict[Any, list[dict[str, Any]]] = {}
    for row in Entry.objects.filter(event__startswith=event).order_by("uid").values():
        said = json.loads(row["data"])
        said.pop("ms", None)
        kept = {name: value for name, value in row.items() if name not in {"uid", "at", "call", "data"}}
        calls.setdefault(row["call"], []).append(kept | {"data": said})
    return list(calls.values())


def received(seen: Seen) -> tuple[Any, ...]:
    """What came to the server with a call: its first line, its headers and its message, all but the id."""
    message = dict(seen.message)
    number = message.pop("id")
    assert message["params"]["_meta"].pop("progressToken", number) == number
    headers = [pair for pair in seen.request.raw_headers if pair[0].lower() != b"content-length"]
    return seen.request.method, seen.request.path_qs, headers, json.dumps(message)


def alike(one: Answer, other: Answer) -> None:
    """The same answer, but for what names it and the time."""
    assert _told(one) == _told(other)


def _told(answer: Answer) -> tuple[int, dict[str, str], bytes]:
    headers = dict(answer.headers)
    assert len(headers.pop("x-request-id", "")) == 32
    headers.pop("date", None)
    return answer.status, headers, answer.body


def both(world: World, line: Line, request: bytes, *, is_short: bool = True, is_offered: bool = True) -> Answer:
    """Say it twice: with a head that is new, and one that is known. Both are the same, in all that can be seen."""
    before, offered = len(entries()), world.ways.left + len(world.ways.taken)
    answers = [line.ask(request)]
    assert world.ways.left + len(world.ways.taken) == offered, "its head was known"
    eventually(settled)
    seen = len(world.upstream.seen)
    answers.append(line.ask(request))
    eventually(settled)
    assert (world.ways.left + len(world.ways.taken) > offered) is is_offered
    assert bool(world.ways.taken) is (is_short and is_offered)
    alike(*answers)
    calls = entries()[before:]
    half = len(calls) // 2
    if calls and calls[0][0]["event"] == "call.denied":
        assert (len(calls), refusals()) == (1, 2), "the same refusal in the same minute is counted"
    else:
        assert calls[:half] == calls[half:]
    first, second = world.upstream.seen[:seen], world.upstream.seen[seen:]
    assert [received(one) for one in first] == [received(one) for one in second]
    return answers[0]


@pytest.fixture
def short(cast: Cast, start: Callable[..., Served], settings: Any) -> Iterator[World]:
    with world(cast, start, settings) as found:
        yield found


@pytest.fixture
def line(short: World) -> Line:
    """A connection whose token is known, and the server ready."""
    found = short.line()
    short.ready(found)
    return found


def nothing_is_left(short: World) -> bool:
    """No call is under way, no place is taken, and no connection is counted."""
    gateway = short.served.gateway
    client: Any = gateway.pool._client
    left = (len(gateway.short or ()), gateway.in_flight, +gateway.limits.busy, client._busy, len(gateway.calls))
    return not any(left) and settled()

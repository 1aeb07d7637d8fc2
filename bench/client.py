"""A client that believes nothing: raw HTTP/1.1 on one connection, and every answer is checked against its call."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import uvloop

T = TypeVar("T")

SERVER = "bench"
ECHO = "echo"  # the server and its tool that bench/echo_http.py is
ALLOWED, BUSY, TOO_MANY = "allowed", "policy_busy", "http 429"
CUT = "access_ended"  # it ran when its access ended
PATIENCE = 60.0
MODERN, LEGACY = "2026-07-28", "2025-11-25"
META = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_nonces = itertools.count(1)


class Wrong(Exception):
    """An answer that is neither this call's result n."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One call and what came of it; `sent` and `got` are CLOCK_MONOTONIC, `code` is "allowed" or why it was refused."""

    nonce: str
    agent: int
    tool: str
    sent: float
    got: float
    code: str

    @property
    def allowed(self) -> bool:
        return self.code == ALLOWED

    @property
    def seconds(self) -> float:
        return self.got - self.sent


class Session:
    """One agent on one connection to one process. One call at a time."""

    def __init__(self, url: str, token: str, *, agent: int = 0, server: str = SERVER) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        self._address, self.agent = (parts.hostname, parts.port), agent
        self._head = (
            f"POST /mcp/{server} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"
            f"MCP-Protocol-Version: {MODERN}\r\n"
        )
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect, so that the first call does not have to."""
        self._streams = await asyncio.open_connection(*self._address)
        return self._streams

    async def call(self, tool: str, *, nonce: str = "") -> Answer:
        """Call, wait, check. Raises Wrong, or OSError when the process is gone."""
        nonce = nonce or new_nonce()
        request = self.message("tools/call", nonce, {"name": tool, "arguments": {"nonce": nonce}}, name=tool)
        sent, got, head, answer = await self.exchange(request)
        return Answer(nonce, self.agent, tool, sent, got, outcome(head, answer, nonce))

    def message(self, method: str, message_id: str, params: dict[str, Any], *, name: str = "") -> bytes:
        """A request as it goes out."""
        message = {"jsonrpc": "2.0", "id": message_id, "method": method, "params": {**params, "_meta": META}}
        body = json.dumps(message).encode()
        named = f"Mcp-Name: {name}\r\n" if name else ""
        return f"{self._head}Mcp-Method: {method}\r\n{named}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def exchange(self, request: bytes) -> tuple[float, float, bytes, bytes]:
        """Send and wait: when it was sent, when all of the answer was there, and its head and body."""
        async with asyncio.timeout(PATIENCE):
            reader, writer = self._streams or await self.open()
            sent = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            answer = await reader.readexactly(int(length[1]) if length else 0)
            return sent, time.monotonic(), head, answer

    async def tools(self) -> tuple[float, float, bytes]:
        """The list of tools: when it was asked for, when it was there, and the answer, which somebody has to check."""
        nonce = new_nonce()
        sent, got, head, body = await self.exchange(self.message("tools/list", nonce, {}))
        if not head.startswith(b"HTTP/1.1 200 ") or f'"id":"{nonce}"'.encode() not in body:
            raise Wrong(f"{nonce}: {head.decode(errors='replace')}{body[:400].decode(errors='replace')}")
        return sent, got, body

    def close(self) -> None:
        if self._streams:
            self._streams[1].close()
            self._streams = None


def new_nonce() -> str:
    return f"n{next(_nonces)}"


def outcome(head: bytes, body: bytes, nonce: str) -> str:
    """What a response says of the call: "allowed", or why it was refused. Raises Wrong for everything else."""
    status = head.split(b" ", 2)[1]
    answer = json.loads(body) if body else {}
    result = answer.get("result")
    if status == b"429":
        return TOO_MANY
    if status != b"200" or answer.get("id") != nonce or not isinstance(result, dict):
        raise Wrong(f"{nonce}: HTTP {status.decode()}: {body[:400].decode(errors='replace')}")
    if not result.get("isError"):
        if result.get("content") != [{"type": "text", "text": nonce}]:
            raise Wrong(f"{nonce} got the answer of another call: {result}")
        return ALLOWED
    meta = result.get("_meta", {})
    if meta.get("io.jitaccess/upstream_error", {}).get("error") == CUT:
        return CUT
    denied = meta.get("io.jitaccess/deny")
    if denied is None:
        raise Wrong(f"{nonce} failed: {result}")
    return str(denied["reason_code"])


class Caller(Protocol):
    """What can call, one way or another."""

    async def call(self, tool: str) -> Answer: ...

    def close(self) -> None: ...


async def closed_loop(sessions: Sequence[Caller], tool: str, *, seconds: float) -> list[Answer]:
    """Every session calls again as soon as it is answered."""
    until = time.monotonic() + seconds
    answers: list[Answer] = []

    async def work(session: Caller) -> None:
        while time.monotonic() < until:
            answers.append(await session.call(tool))

    await together(*(work(session) for session in sessions))
    return answers


async def open_loop(
    sessions: list[Session], tool: str, *, rate: float, until: Callable[[], bool]
) -> list[tuple[float, Answer]]:
    """`rate` calls a second in all, whatever the answers take; each with the moment at which it was due.

    A session that is behind sends at once, and what it waited counts: latency is from when a call was due.
    """
    started, answers = time.monotonic(), []

    async def work(number: int, session: Session) -> None:
        for turn in itertools.count():
            due = started + (number + turn * len(sessions)) / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if until():
                return
            answers.append((due, await session.call(tool)))

    await together(*(work(number, session) for number, session in enumerate(sessions)))
    return answers


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on a fast event loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


async def together(*work: Awaitable[None]) -> None:
    """All of them; the first that fails ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)  # type: ignore[arg-type]  # coroutines, all of them
    except BaseExceptionGroup as group_error:
        raise group_error.exceptions[0] from None

"""The load: a process of its own that makes calls as fast as they are answered, and checks every answer.

    python -m bench.load [NUMBER]   jobs on stdin, what came of each on stdout, a line of JSON each

Of several such processes each has a NUMBER up to 99, so that their nonces differ.

A job is {"name", "url", "tool", "era", "tokens" (one a session, or []), "sessions", "seconds", "rate" (0: each session
calls again when it is answered)}. The first answer that is right in every detail becomes a pattern; an answer that is
the pattern byte by byte, with the nonce of its own call in it, is right too. Every other answer is taken apart.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import os
import sys
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import uvloop

from bench.client import ALLOWED, LEGACY, META, MODERN, TOO_MANY, Wrong

PATIENCE = 60.0
DRAIN = 30.0
_HEAD_END = b"\r\n\r\n"
PLACE = "n00000000000"
_nonces = itertools.count(1)


@dataclass(slots=True)
class Tally:
    """What came of a job. Latencies are in seconds, of all answers; `inside` counts those within the time."""

    until: float
    interval: float
    latencies: array[float] = field(default_factory=lambda: array("d"))
    inside: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: int = 0


class Line(asyncio.Protocol):
    """One session on one connection; one call at a time."""

    def __init__(self, job: dict[str, Any], number: int) -> None:
        parts = urlsplit(job["url"])
        self.address, self.path, self.host = (parts.hostname, parts.port or 80), parts.path or "/", parts.netloc
        self.tool, self.modern = job["tool"], job["era"] == "modern"
        self.token = job["tokens"][number % len(job["tokens"])] if job["tokens"] else ""
        self.session = ""
        self.parts: list[bytes] = []  # of a request, between its nonces
        self.pattern: list[bytes] = []  # of an answer, likewise
        self.buffer = b""
        self.nonce = b""
        self.due = 0.0
        self.allowed = 0
        self.tally: Tally | None = None
        self.waiter: asyncio.Future[tuple[bytes, bytes]] | None = None
        self.idle: asyncio.Future[None] | None = None
        self.transport: asyncio.Transport | None = None
        self.reconnecting: asyncio.Task[None] | None = None

    # once for each session

    async def connect(self) -> None:
        """Anew: servers close a connection that was idle for some seconds, perhaps just now."""
        self.drop()
        self.buffer = b""
        await asyncio.get_running_loop().create_connection(lambda: self, *self.address)

    async def begin(self, *, session: bool = True) -> None:
        """Once: in the older era agree on a session, which outlives the connection."""
        if self.parts:
            return
        if session and not self.modern:
            await self.connect()
            params = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
            head, body = await self.ask("initialize", params, "initialize")
            agreed = read_answer(head, body, "initialize").get("result", {}).get("protocolVersion")
            if agreed != LEGACY:
                raise Wrong(f"initialize: {head[:200]!r} {body[:400]!r}")
            self.session = headers_of(head).get("mcp-session-id", "")
            await self.ask("notifications/initialized", {}, "")
        request = self.message("tools/call", {"name": self.tool, "arguments": {"nonce": PLACE}}, PLACE)
        self.parts = request.split(PLACE.encode())

    def message(self, method: str, params: dict[str, Any], message_id: str) -> bytes:
        """A request as it goes out; without an id a notification."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if message_id:
            message["id"] = message_id
        if params or self.modern:
            message["params"] = params | ({"_meta": META} if self.modern else {})
        body = json.dumps(message, separators=(",", ":")).encode()
        lines = [
            f"POST {self.path} HTTP/1.1", f"Host: {self.host}", "Content-Type: application/json",
            "Accept: application/json, text/event-stream", f"Content-Length: {len(body)}",
        ]  # fmt: skip
        if self.token:
            lines.append(f"Authorization: Bearer {self.token}")
        if self.modern:
            lines += [f"MCP-Protocol-Version: {MODERN}", f"Mcp-Method: {method}"]
            lines += [f"Mcp-Name: {params['name']}"] if "name" in params else []
        elif method != "initialize":
            lines.append(f"MCP-Protocol-Version: {LEGACY}")
        if self.session:
            lines.append(f"Mcp-Session-Id: {self.session}")
        return "\r\n".join(lines).encode() + _HEAD_END + body

    async def ask(self, method: str, params: dict[str, Any], message_id: str) -> tuple[bytes, bytes]:
        """Outside of any measurement."""
        assert self.transport
        self.waiter = asyncio.get_running_loop().create_future()
        self.transport.write(self.message(method, params, message_id))
        async with asyncio.timeout(PATIENCE):
            return await self.waiter

    # once for each call

    async def run(self, tally: Tally, first: float) -> None:
        """Call until the time is over and the last call is answered."""
        loop = asyncio.get_running_loop()
        self.tally, self.idle, self.due, self.allowed = tally, loop.create_future(), first, 0
        if tally.interval:
            loop.call_at(first, self.fire)
        else:
            self.fire()
        try:
            async with asyncio.timeout(tally.until + DRAIN - time.monotonic()):
                await self.idle
        except TimeoutError:
            tally.codes["no answer"] += 1
            self.drop()
        finally:
            self.tally = None

    def fire(self) -> None:
        if self.transport is None:
            self.again()
            return
        self.nonce = nonce = b"n%011d" % next(_nonces)
        if not self.tally or not self.tally.interval:
            self.due = time.monotonic()
        self.transport.write(nonce.join(self.parts))

    def data_received(self, data: bytes) -> None:
        tally = self.tally
        if (
            tally is not None
            and self.pattern
            and not self.buffer
            and data.endswith(self.nonce.join(self.pattern))
            and data.startswith(b"HTTP/1.1 200")
        ):
            self.answered(tally, ALLOWED)
            return
        self.buffer += data
        whole = split_answer(self.buffer)
        if whole is None:
            return
        head, raw, body = whole
        self.buffer = b""
        if self.waiter:
            waiter, self.waiter = self.waiter, None
            waiter.set_result((head, body))
        elif tally is not None:
            self.examine(tally, head, raw, body)

    def examine(self, tally: Tally, head: bytes, raw: bytes, body: bytes) -> None:
        nonce = self.nonce.decode()
        try:
            code = judge(head, body, nonce)
        except (Wrong, ValueError) as error:
            code = "wrong"
            tally.wrong.append(f"{nonce}: {error}"[:600])
        if code == ALLOWED:
            self.pattern = (_HEAD_END + raw).split(self.nonce)
        if b"connection: close" in head.lower():
            self.drop()
        self.answered(tally, code)

    def answered(self, tally: Tally, code: str) -> None:
        now = time.monotonic()
        tally.codes[code] += 1
        if code == ALLOWED:
            tally.latencies.append(now - self.due)
            tally.inside += now < tally.until
            self.allowed += 1
        self.due += tally.interval
        over = (self.due if tally.interval else now) >= tally.until or len(tally.wrong) >= 20
        if over:
            assert self.idle
            self.idle.set_result(None)
        elif self.transport is None:
            self.again()
        elif tally.interval and self.due > now:
            asyncio.get_running_loop().call_at(self.due, self.fire)
        else:
            self.fire()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.transport = None
        if self.waiter:
            self.waiter.set_exception(ConnectionError("closed before the answer"))
        if self.tally and self.idle and not self.idle.done():
            self.tally.lost += 1
            self.buffer = b""
            self.again()

    def again(self) -> None:
        async def reopen() -> None:
            await self.connect()
            self.fire()

        self.reconnecting = asyncio.create_task(reopen())

    def drop(self) -> None:
        transport, self.transport = self.transport, None
        if transport:
            transport.set_protocol(asyncio.Protocol())  # its end is no concern of the next connection
            transport.close()


def headers_of(head: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def split_answer(data: bytes) -> tuple[bytes, bytes, bytes] | None:
    """Head, body as it was sent and body as it was meant; None as long as something is missing."""
    end = data.find(_HEAD_END)
    if end < 0:
        return None
    head, raw = data[:end], data[end + 4 :]
    said = headers_of(head)
    if "chunked" in said.get("transfer-encoding", ""):
        body = _unchunked(raw)
        return None if body is None else (head, raw, body)
    length = int(said.get("content-length", "0"))
    if len(raw) > length:
        raise Wrong(f"more than was announced: {data[:400]!r}")
    return None if len(raw) < length else (head, raw, raw)


def _unchunked(raw: bytes) -> bytes | None:
    parts: list[bytes] = []
    at = 0
    while (end := raw.find(b"\r\n", at)) >= 0:
        size = int(raw[at:end].partition(b";")[0], 16)
        if size == 0:
            return b"".join(parts) if raw.endswith(_HEAD_END) else None
        parts.append(raw[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return None


def read_answer(head: bytes, body: bytes, message_id: str) -> dict[str, Any]:
    """The answer to `message_id` in a body of JSON or of events. Raises Wrong."""
    events = "text/event-stream" in headers_of(head).get("content-type", "")
    lines = [line[5:] for line in body.splitlines() if line.startswith(b"data:")] if events else [body]
    for line in lines:
        answer = json.loads(line) if line.strip() else {}
        if answer.get("id") == message_id:
            return dict(answer)
    raise Wrong(f"{head[:100]!r} {body[:400]!r}")


def judge(head: bytes, body: bytes, nonce: str) -> str:
    """What an answer says of its call: "allowed" or why it was refused. Raises Wrong for everything else."""
    status = head.split(b" ", 2)[1].decode()
    if status == "429":
        return TOO_MANY
    answer = read_answer(head, body, nonce)
    result = answer.get("result")
    if status != "200" or not isinstance(result, dict):
        raise Wrong(f"HTTP {status} {answer}")
    denied = result.get("_meta", {}).get("io.jitaccess/deny")
    if denied is not None:
        return str(denied["reason_code"])
    content = result.get("content")
    if result.get("isError") or not isinstance(content, list) or [one.get("text") for one in content] != [nonce]:
        raise Wrong(f"not the answer of this call: {answer}")
    return ALLOWED


class Load:
    """The sessions are kept from job to job: what peers need to begin one is not what is measured."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int], Line] = {}

    async def job(self, job: dict[str, Any]) -> dict[str, Any]:
        lines = [self._lines.setdefault((job["name"], number), Line(job, number)) for number in range(job["sessions"])]
        await lines[0].begin()
        # Who names no session keeps none: the others need not begin one.
        await asyncio.gather(*(line.begin(session=bool(lines[0].session)) for line in lines[1:]))
        await asyncio.gather(*(line.connect() for line in lines))
        start = time.monotonic()
        interval = len(lines) / job["rate"] if job.get("rate") else 0.0
        tally = Tally(start + job["seconds"], interval)
        gc.disable()
        used = time.process_time()
        await asyncio.gather(
            *(line.run(tally, start + interval * number / len(lines)) for number, line in enumerate(lines))
        )
        took = time.monotonic() - start
        used = time.process_time() - used
        gc.enable()
        for line in lines:
            line.drop()
        return {
            "inside": tally.inside, "seconds": job["seconds"], "began": start, "took": took, "codes": tally.codes,
            "answers": tally.codes.total(), "wrong": tally.wrong, "lost": tally.lost,
            "allowed": [line.allowed for line in lines], "used": used, "latencies": sorted(tally.latencies),
        }  # fmt: skip


def _fail(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    loop.default_exception_handler(context)
    os._exit(1)  # a session that is lost would only look like a slow answer


async def main() -> None:
    load, loop = Load(), asyncio.get_running_loop()
    loop.set_exception_handler(_fail)
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        try:
            told = await load.job(json.loads(line))
        except (OSError, Wrong, ValueError, TimeoutError) as error:
            told = {"failed": f"{type(error).__name__}: {error}"[:600]}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    _nonces = itertools.count(int(sys.argv[1]) * 10**9 + 1 if len(sys.argv) > 1 else 1)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())

"""The MCP server over HTTP behind everything that is measured: gives a call's arguments back, in next to no time.

    python -m bench.echo_http [--port N] [--record FILE]      prints its URL

Both eras, answers in JSON, no sessions. FILE gets a line for each call whose arguments have a nonce: the nonce and
CLOCK_MONOTONIC, which is one clock for all processes of a machine. A raw asyncio protocol on purpose: it must never be
what is measured. It reads only requests with a Content-Length, as every client here sends them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import time
from collections.abc import Callable
from typing import Any

import msgspec
import uvloop

MODERN = "2026-07-28"
LEGACY = "2025-11-25"
_SCHEMA = {"type": "object", "properties": {"nonce": {"type": "string", "description": "given back as it is"}}}
TOOLS = [{"name": "echo", "description": "Gives its arguments back", "inputSchema": _SCHEMA}]
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_TAKEN = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
_NOT_ALLOWED = b"HTTP/1.1 405 Method Not Allowed\r\nAllow: POST\r\nContent-Length: 0\r\n\r\n"
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def _call(params: dict[str, Any]) -> dict[str, Any]:
    """The nonce as text where there is one, else the arguments as JSON."""
    arguments = params.get("arguments", {})
    text = arguments.get("nonce")
    if not isinstance(text, str):
        text = _encode(arguments).decode()
    return {"resultType": "complete", "content": [{"type": "text", "text": text}]}


def _discover(_: dict[str, Any]) -> dict[str, Any]:
    return {"resultType": "complete", "supportedVersions": [MODERN], "capabilities": {"tools": {}}}


def _initialize(params: dict[str, Any]) -> dict[str, Any]:
    info = {"name": "echo", "version": "1"}
    version = params.get("protocolVersion", LEGACY)
    return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}


def _tools(_: dict[str, Any]) -> dict[str, Any]:
    return {"resultType": "complete", "tools": TOOLS, "ttlMs": 60_000, "cacheScope": "public"}


_METHODS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "tools/call": _call,
    "tools/list": _tools,
    "server/discover": _discover,
    "initialize": _initialize,
    "ping": lambda _: {"resultType": "complete"},
}


class Echo(asyncio.Protocol):
    """One connection: requests one after the other, in any pieces."""

    def __init__(self, record: int | None) -> None:
        self._record = record
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        self._write = transport.write

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        while (end := data.find(b"\r\n\r\n")) >= 0:
            found = _LENGTH.search(data, 0, end + 2)
            total = end + 4 + (int(found[1]) if found else 0)
            if len(data) < total:
                break
            self._write(self._answer(data[end + 4 : total]) if data.startswith(b"POST ") else _NOT_ALLOWED)
            data = data[total:]
        self._buffer = data

    def _answer(self, body: bytes) -> bytes:
        message = _decode(body)
        if "id" not in message or "method" not in message:
            return _TAKEN
        method, params = _METHODS.get(message["method"]), message.get("params", {})
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": message["id"]}
        if method is None:
            answer["error"] = {"code": -32601, "message": "Method not found"}
        else:
            answer["result"] = method(params)
            if self._record is not None and method is _call and "nonce" in params.get("arguments", {}):
                os.write(self._record, f"{params['arguments']['nonce']} {time.monotonic():.6f}\n".encode())
        raw = _encode(answer)
        return _HEAD % (len(raw), raw)


async def main(port: int, record: str | None) -> None:
    kept = None if record is None else os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    server = await asyncio.get_running_loop().create_server(lambda: Echo(kept), "127.0.0.1", port, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record")
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(options.port, options.record))

"""The little of ASGI that the gateway needs: a body with a cap, JSON answers, event streams."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from jitaccess.gateway.wire import INVALID_REQUEST, RpcError, encoded
from jitaccess.kernel.deadline import deadline
from jitaccess.kernel.strictjson import JsonObject

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

MAX_BODY = 2 * 1024 * 1024
BODY_SECONDS = 15.0
PART = 64 * 1024
# Bytes of a head and of a body that may go the short way; and the member of the scope of a call that comes from there.
SHORT_HEAD, SHORT_BODY = 2048, 4096
BEGUN = "jitaccess.begun"
SLOW_SECONDS = 30.0
_EVERYWHERE = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
JSON_HEADERS = (*_EVERYWHERE, (b"content-type", b"application/json"))


class ClientGone(ConnectionError):
    """The client left while it was being answered."""


class Answering:
    """The server's `send` for one request, whose complaint about a closed connection is no incident but ClientGone.

    `status` is what the answer began with, 0 before that. `name` becomes its X-Request-Id, unless it has one.
    """

    __slots__ = ("_name", "_send", "status")

    def __init__(self, send: Send, name: bytes = b"") -> None:
        self._send, self._name = send, name
        self.status = 0

    async def __call__(self, event: MutableMapping[str, Any]) -> None:
        if event["type"] == "http.response.start":
            self.status = event["status"]
            if self._name:
                event = {**event, "headers": self._named(event.get("headers", ()))}
        try:
            await self._send(event)
        except (RuntimeError, OSError) as error:
            raise ClientGone from error

    def _named(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        found = list(headers)
        for key, _ in found:
            if key == b"x-request-id" or key.lower() == b"x-request-id":
                return found  # AuthZEN gives the caller's name back
        return [*found, (b"x-request-id", self._name)]


def check_length(said: str) -> None:
    """Raises RpcError(413) for a Content-Length over the cap: nobody waits for a body that is refused anyway."""
    if len(said.lstrip("0")) > len(str(MAX_BODY)) or (said.isdecimal() and int(said) > MAX_BODY):
        raise RpcError(INVALID_REQUEST, f"The body is larger than {MAX_BODY} bytes.", status=413)


async def read_body(receive: Receive, *, limit: int = MAX_BODY, seconds: float = BODY_SECONDS) -> bytes:
    """The body. Raises RpcError: 413 beyond `limit` bytes (whatever Content-Length claims), 408 after `seconds`."""
    try:
        with deadline(seconds):
            return await _read(receive, limit)
    except TimeoutError:
        raise RpcError(INVALID_REQUEST, f"The body did not arrive within {seconds:.0f} seconds.", status=408) from None


async def _read(receive: Receive, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionError
        part: bytes = event.get("body", b"")
        size += len(part)
        if size > limit:
            raise RpcError(INVALID_REQUEST, f"The body is larger than {limit} bytes.", status=413)
        parts.append(part)
        if not event.get("more_body"):
            return part if len(parts) == 1 else b"".join(parts)


async def disconnected(receive: Receive) -> None:
    """Return when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_json(send: Send, status: int, value: JsonObject, headers: dict[str, str] | None = None) -> None:
    body = encoded(value)
    raw = [*JSON_HEADERS, (b"content-length", b"%d" % len(body))]
    for name, text in headers.items() if headers else ():
        raw.append((name.encode(), text.encode("latin-1")))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    # In parts, so that no more than one waits in the server's buffers for a client that does not read.
    start = 0
    while len(body) - start > PART:
        async with patience():
            await send({"type": "http.response.body", "body": body[start : start + PART], "more_body": True})
        start += PART
    await send({"type": "http.response.body", "body": body[start:] if start else body})


@contextlib.asynccontextmanager
async def patience() -> AsyncIterator[None]:
    """For what a client has to read. Raises ConnectionError when it takes nothing of it for SLOW_SECONDS."""
    try:
        with deadline(SLOW_SECONDS):
            yield
    except TimeoutError:
        raise ConnectionError("the client does not read") from None


async def send_empty(send: Send, status: int, headers: dict[str, str] | None = None) -> None:
    await _start(send, status, {"content-length": "0", **(headers or {})})
    await send({"type": "http.response.body", "body": b""})


def event(value: JsonObject) -> bytes:
    """One message as a server-sent event: encoding escapes line breaks, so that no text can forge a second one."""
    return b"event: message\r\ndata: " + encoded(value) + b"\r\n\r\n"


class EventStream:
    """Server-sent events. `X-Accel-Buffering: no` keeps proxies from holding events back."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def open(self) -> None:
        await _start(self._send, 200, {"content-type": "text/event-stream", "x-accel-buffering": "no"})
        await self._send({"type": "http.response.body", "body": b": open\r\n\r\n", "more_body": True})

    async def message(self, value: JsonObject) -> None:
        await self.write(event(value))

    async def write(self, frame: bytes) -> None:
        await self._send({"type": "http.response.body", "body": frame, "more_body": True})

    async def keep_alive(self) -> None:
        await self._send({"type": "http.response.body", "body": b":\r\n\r\n", "more_body": True})

    async def close(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": [*_EVERYWHERE, *raw]})

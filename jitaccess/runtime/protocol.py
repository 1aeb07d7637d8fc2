"""HTTP as uvicorn speaks it, without patience: a client that does not get on is put out, in every phase of a request.

uvicorn itself waits for ever for the head of a request, takes one of any size, and waits for ever for a client that
does not read its answer. A body has its own deadline where it is read.

A client says the same head with each of its calls. A request whose head has the very bytes of one that was read before,
and whose body came with it, is not read by uvicorn but offered to the short way; what that turns away or turns back
(BEGUN), uvicorn reads then as if it had just come.
"""

from __future__ import annotations

import asyncio
import logging
import math
import resource
from collections.abc import Iterable
from contextvars import Context
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from jitaccess.gateway.http import BEGUN, JSON_HEADERS, SHORT_BODY, SHORT_HEAD

if TYPE_CHECKING:
    from jitaccess.gateway.calling.short import ShortCall

log = logging.getLogger(__name__)

HEAD_SECONDS = 20.0  # from the connection, or the first byte of a further request, to the end of its headers
MAX_HEADERS = 64 * 1024  # bytes; what came in one read with them may be more
REST_SECONDS = 15.0  # for the rest of a body that nobody read, after its answer
STALL_SECONDS = 30.0  # in which a client reads nothing of what waits for it
SWEEP_SECONDS = 2.0
PART_SECONDS = 1.0  # for the rest of what may go the short way
_CALL = b"POST /mcp/", b"POST /mcp "
_JSON = b"".join([b"%b: %b\r\n" % header for header in JSON_HEADERS])
# For the database, upstreams, children and files: of what the system gives, so much is not for clients.
KEPT_BACK = 0.25


class Protocol(HttpToolsProtocol):
    """One connection. Marks in time instead of timers, which every request would pay for: see `sweep`."""

    _head_at = 0.0
    _head_bytes = 0
    _rest_at = 0.0
    _stalled_at = 0.0
    _idle_at = 0.0  # since an answer by the short way; uvicorn has a timer of its own
    _unread = 0
    # Whether nothing of a further request has come.
    _between = True
    # A call on the short way; the bytes that it came in, and those that came after it; whether it is the last one here.
    _short: ShortCall | None = None
    _came, _later = b"", b""
    _last = False
    _begun: ShortCall | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._head_at = self.loop.time()
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        self._head_at, self._head_bytes, self._between = self.loop.time(), 0, False
        super().on_message_begin()

    def data_received(self, data: bytes) -> None:
        if self._short is not None or self._later:
            self._later += data
            self.flow.pause_reading()
            return
        if self._came:  # of one that may go the short way the body is still to come
            data, self._came = self._came + data, b""
        if not self._between or not data.startswith(_CALL) or not self._is_taken(data):
            self._read(data)

    def _read(self, data: bytes) -> None:
        self._idle_at = 0.0
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_at and self._head_bytes > MAX_HEADERS:
            self._put_out("the head of a request is too large")

    def _is_taken(self, data: bytes) -> bool:
        """Whether it goes the short way, or may when the rest is here; or else was read, so that its head is known."""
        front: Any = self.app
        short, before = front.short, self.cycle
        ends = data.find(b"\r\n\r\n", 0, SHORT_HEAD) + 4
        if short is None or ends < 4 or len(data) - ends > SHORT_BODY or self.transport.is_closing():
            return False
        if (before is not None and not before.response_complete) or self.pipeline or self.flow.write_paused:
            return False
        key = sha256(data[:ends]).digest()
        head = short.heads.get(key)
        if head is None:
            self._read(data)
            if self.cycle is not before and not self.pipeline and _is_usual(self.cycle):
                short.heads.learn(key, self.cycle.scope)
            return True
        if len(data) - ends > head.length or len(self.connections) >= (self.limit_concurrency or math.inf):
            return False
        if self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._came, self._idle_at = data, 0.0
        if len(data) - ends < head.length:
            self._head_at = self._head_at or self.loop.time()
            return True
        self._head_at = 0.0
        call = front.take(self, self.client, head, data[ends:])
        if call is None:
            self._came = b""
            return False
        if call.future is None:
            self._short = call
        return True

    def _read_on(self) -> None:
        """What has come, and does not go the short way after all."""
        came, self._came = self._came, b""
        if came:
            self._read(came)

    # Of a call on the short way: `gateway.calling.short.Client`.

    def answer(self, status: int, body: bytes, call: ShortCall) -> None:
        front: Any = self.app
        self._short, self._came = None, b""
        name = front.answered(status, call)
        self.transport.write(
            b"%b%b%bcontent-length: %d\r\nx-request-id: %b\r\n%b\r\n%b"
            % (
                STATUS_LINE[status],
                _written(self.server_state.default_headers),
                _JSON,
                len(body),
                name,
                b"connection: close\r\n" if self._last else b"",
                body,
            )
        )
        if self._last:
            self.transport.close()
        self.server_state.total_requests += 1
        self._idle_at = self.loop.time()
        if self._later:
            self.loop.call_soon(self._answered, context=Context())

    def go_on(self, call: ShortCall) -> None:
        self._came += self._later
        self._short, self._later, self._begun = None, b"", call
        # Nothing of whose turn it is just now, a server's as a rule, belongs to this request.
        Context().run(self._read_on)

    def _answered(self) -> None:
        """Read what came meanwhile, before anything that comes after it."""
        later, self._later = self._later, b""
        if later and not self.transport.is_closing():
            self.flow.resume_reading()
            self.data_received(later)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            cycle.scope[BEGUN], app = begun, self.app  # also when there are too many to begin another
            if self._last:
                cycle.keep_alive = False
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        self._later = b""
        if self._short is not None:
            self._short.turn()  # which knows what becomes of a call whose client has left
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._short is not None:
            self._last = True
        else:
            self._read_on()
            super().shutdown()

    def on_headers_complete(self) -> None:
        self._head_at = 0.0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._rest_at, self._between = 0.0, True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.cycle.more_body:
            self._rest_at = self.loop.time()
        super().on_response_complete()

    def look(self, now: float) -> None:
        """Put the client out if it does not get on."""
        if self._came and self._short is None and now - self._head_at > PART_SECONDS:
            self._read_on()  # which has limits of its own
        elif self._head_at and now - self._head_at > HEAD_SECONDS:
            self._put_out("the head of a request did not arrive in time")
        elif self._rest_at and now - self._rest_at > REST_SECONDS:
            self._put_out("the rest of a body did not arrive in time")
        elif self._idle_at and now - self._idle_at > self.timeout_keep_alive:
            self.transport.close()
        else:
            unread = self.transport.get_write_buffer_size()
            if not unread or unread < self._unread:
                self._stalled_at = 0.0
            elif not self._stalled_at:
                self._stalled_at = now
            elif now - self._stalled_at > STALL_SECONDS:
                self._put_out("the client does not read")
            self._unread = unread

    def resume_writing(self) -> None:
        self._stalled_at = 0.0
        super().resume_writing()

    def _put_out(self, why: str) -> None:
        log.debug("a connection from %s was closed: %s", self.client, why)
        self.transport.abort()  # close() would wait for what is unread to be read


def _is_usual(cycle: Any) -> bool:
    """Whether a request is as long as its Content-Length, and followed by others on its connection."""
    scope = cycle.scope
    if not cycle.keep_alive or scope["http_version"] != "1.1" or scope["query_string"]:
        return False
    return not any(name in _FRAMES and (name, value.lower()) != _KEPT for name, value in scope["headers"])


_KEPT = b"connection", b"keep-alive"
_FRAMES = frozenset({b"transfer-encoding", b"upgrade", b"connection", b"expect", b"trailer", b"te"})


@lru_cache(maxsize=2)
def _joined(headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def _written(headers: list[tuple[bytes, bytes]]) -> bytes:
    return _joined(tuple(headers))


def sweep(connections: Iterable[Any], now: float) -> None:
    """Look at every connection; to be done every SWEEP_SECONDS."""
    for connection in list(connections):
        if isinstance(connection, Protocol):
            connection.look(now)


def raise_open_files() -> int:
    """Let this process open as many files as it may; returns how many that are. Each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard if hard != resource.RLIM_INFINITY else 1 << 20


def most_connections(open_files: int) -> int:
    """How many clients may be connected at once; further ones are answered with 503."""
    return max(int(open_files * (1 - KEPT_BACK)), 16)

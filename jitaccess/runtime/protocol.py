"""HTTP as uvicorn speaks it, without patience: a client that does not get on is put out, in every phase of a request.

uvicorn itself waits for ever for the head of a request, takes one of any size, and waits for ever for a client that
does not read its answer. A body has its own deadline where it is read.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)

HEAD_SECONDS = 20.0  # from the connection, or the first byte of a further request, to the end of its headers
MAX_HEAD = 64 * 1024  # bytes; what came in one read with it may be more
REST_SECONDS = 15.0  # for the rest of a body that nobody read, after its answer
STALL_SECONDS = 30.0  # in which a client reads nothing of what waits for it
SWEEP_SECONDS = 2.0
# For the database, upstreams, children and files: of what the system gives, so much is not for clients.
KEPT_BACK = 0.25


class Protocol(HttpToolsProtocol):
    """One connection. Marks in time instead of timers, which every request would pay for: see `sweep`."""

    _head_at = 0.0
    _head_bytes = 0
    _rest_at = 0.0
    _stalled_at = 0.0
    _unread = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        self._head_at = self.loop.time()
        super().connection_made(transport)

    def on_message_begin(self) -> None:
        self._head_at, self._head_bytes = self.loop.time(), 0
        super().on_message_begin()

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_at and self._head_bytes > MAX_HEAD:
            self._put_out("the head of a request is too large")

    def on_headers_complete(self) -> None:
        self._head_at = 0.0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._rest_at = 0.0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.cycle.more_body:
            self._rest_at = self.loop.time()
        super().on_response_complete()

    def look(self, now: float) -> None:
        """Put the client out if it does not get on."""
        if self._head_at and now - self._head_at > HEAD_SECONDS:
            self._put_out("the head of a request did not arrive in time")
        elif self._rest_at and now - self._rest_at > REST_SECONDS:
            self._put_out("the rest of a body did not arrive in time")
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

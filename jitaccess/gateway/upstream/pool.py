"""The connections of one gateway process: one per server and principal, shared starts, backoff, hard caps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from jitaccess.egress.client import Client
from jitaccess.kernel.strictjson import JsonObject

from .config import Era, HttpServer, ServerConfig
from .connection import Connection, egress_client, open_connection
from .errors import UpstreamError
from .handshake import MODERN
from .process import logger

QUICK_DEATH_SECONDS = 10.0
EVICTABLE_SECONDS = 10.0  # who was handed a connection a moment ago may be about to use it
BACKOFF_SECONDS = (1.0, 60.0)  # after the first failure, and at most

Key: TypeAlias = "tuple[str, str | None]"
PoolNotification: TypeAlias = "Callable[[str, str | None, str, JsonObject], None]"


@dataclass(slots=True)
class _Trouble:
    """Starts that failed, and when the next may be tried."""

    failures: int = 0
    retry_at: float = 0.0
    reason: str = ""

    def add(self, reason: str, now: float, *, free: int = 0) -> None:
        if now < self.retry_at:
            return  # many failed at once: that is one failure
        self.failures += 1
        self.reason = reason
        if self.failures > free:
            self.retry_at = now + _backoff(self.failures - free)

    def forget(self) -> None:
        self.failures, self.retry_at = 0, 0.0


@dataclass(slots=True)
class _Slot:
    server: ServerConfig
    trouble: _Trouble = field(default_factory=_Trouble)
    starting: asyncio.Task[Connection] | None = None
    connection: Connection | None = None
    started_at: float = 0.0

    @property
    def over_http(self) -> bool:
        return isinstance(self.server, HttpServer)

    @property
    def occupied(self) -> bool:
        return self.starting is not None or (self.connection is not None and self.connection.alive)

    @property
    def last_used(self) -> float:
        return self.connection.last_used if self.connection is not None else 0.0

    def idle_since(self, horizon: float) -> bool:
        connection = self.connection
        return connection is not None and connection.pending == 0 and connection.last_used <= horizon


class Pool:
    """Hands out connections; `servers` maps a slug to its present configuration, None when there is none.

    `on_notification` gets (slug, principal key or None for a shared server, method, params). `clock` is in seconds.
    `client` is how servers over HTTP are reached, by default as settings allow; it is closed with the pool. Belongs to
    one event loop.
    """

    def __init__(
        self,
        servers: Callable[[str], ServerConfig | None],
        *,
        client: Client | None = None,
        idle_seconds: float = 300,
        max_connections: int = 64,
        max_http_connections: int = 1024,
        on_notification: PoolNotification | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._idle_seconds = idle_seconds
        self._caps = {False: max_connections, True: max_http_connections}
        self._client = client or egress_client()
        # Every principal meets the same HTTP server with the same credential, so its failures are everybody's.
        self._troubles: dict[str, tuple[HttpServer, _Trouble]] = {}
        self._on_notification = on_notification
        self._clock = clock
        self._slots: dict[Key, _Slot] = {}
        self._eras: dict[str, tuple[ServerConfig, Era]] = {}
        self._announced: dict[str, tuple[ServerConfig, JsonObject]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def connection(self, slug: str, principal_key: str) -> Connection:
        """Return a live connection for this principal, started if need be; concurrent callers share one start.

        Raises UpstreamError with sent=False: upstream.unavailable (unknown, cannot be started, or waiting to be tried
        again: param retry_in, seconds) or upstream.busy (max_connections or max_http_connections are in use).
        """
        server = self._servers(slug)
        if server is None or self._closed:
            raise UpstreamError("upstream.unavailable", f'There is no server "{slug}" to connect to.', server=slug)
        key: Key = (slug, None if server.shared or self._stateless(server) else principal_key)
        slot = self._slot(key, server)
        if slot.connection is not None:
            if slot.connection.alive:
                return slot.connection
            self._bury(slot)
        if slot.starting is None:
            self._check_backoff(slot)
            self._make_room(slot)
            slot.starting = asyncio.get_running_loop().create_task(self._start(key, slot))
            slot.starting.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Shielded: the start is shared, one caller who leaves must not take it from the others.
        starting, task = slot.starting, asyncio.current_task()
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            if starting.cancelled() and not (
                task and task.cancelling()
            ):  # the pool closed, this caller was not cancelled
                detail = f'The start of the server "{slug}" was given up.'
                raise UpstreamError("upstream.unavailable", detail, server=slug) from None
            raise

    def announced(self, slug: str) -> JsonObject | None:
        """The capabilities that the server told of in its last greeting; None when it has not been greeted as it is
        configured now.
        """
        server, capabilities = self._announced.get(slug, (None, None))
        return capabilities if server is not None and server == self._servers(slug) else None

    @property
    def children(self) -> int:
        """How many processes run, or are being started. Asked from any thread: `list` copies without a pause."""
        return sum(slot.occupied and not slot.over_http for slot in list(self._slots.values()))

    async def reap_idle(self) -> None:
        """Close what nobody used for idle_seconds, and forget dead entries. The owner calls this now and then."""
        horizon = asyncio.get_running_loop().time() - self._idle_seconds
        forgotten = self._clock() - BACKOFF_SECONDS[1]
        for key, slot in list(self._slots.items()):
            past = max(slot.trouble.retry_at, slot.started_at) <= forgotten
            if slot.idle_since(horizon) or (not slot.occupied and past):
                self._discard(key, slot)
        await asyncio.gather(*self._closing)

    async def close(self) -> None:
        """End every child; later calls of connection() are refused."""
        self._closed = True
        for key, slot in list(self._slots.items()):
            self._discard(key, slot)
        await asyncio.gather(*self._closing)
        await self._client.close()

    def _stateless(self, server: ServerConfig) -> bool:
        """Whether it is known to speak 2026-07-28 over HTTP, where requests have nothing in common but the URL."""
        return isinstance(server, HttpServer) and self._eras.get(server.slug) == (server, "modern")

    def _slot(self, key: Key, server: ServerConfig) -> _Slot:
        slot = self._slots.get(key)
        if slot is not None and slot.server != server:  # reconfigured: the old process is not this server any more
            self._discard(key, slot)
            slot = None
        if slot is None:
            slot = self._slots[key] = _Slot(server, self._trouble(server))
        return slot

    def _trouble(self, server: ServerConfig) -> _Trouble:
        if not isinstance(server, HttpServer):
            return _Trouble()
        known, trouble = self._troubles.get(server.slug, (None, _Trouble()))
        if known != server:
            trouble = _Trouble()
            self._troubles[server.slug] = (server, trouble)
        return trouble

    def _discard(self, key: Key, slot: _Slot) -> None:
        self._slots.pop(key, None)
        if slot.starting is not None or slot.connection is not None:
            task = asyncio.get_running_loop().create_task(_close(slot.starting, slot.connection))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _bury(self, slot: _Slot) -> None:
        slot.connection = None
        now = self._clock()
        if slot.over_http:
            return  # the next greeting shows whether the server is there, and costs less than a process
        if now - slot.started_at >= QUICK_DEATH_SECONDS:
            slot.trouble.forget()
        else:
            slot.trouble.add("it ended soon after its start", now, free=1)  # one accident is repaired at once

    def _check_backoff(self, slot: _Slot) -> None:
        wait = slot.trouble.retry_at - self._clock()
        if wait > 0:
            slug = slot.server.slug
            detail = f'The server "{slug}" is tried again in {wait:.0f} seconds at the earliest: {slot.trouble.reason}'
            raise UpstreamError("upstream.unavailable", detail, server=slug, retry_in=round(wait, 1))

    def _make_room(self, wanted: _Slot) -> None:
        """Sessions over HTTP and processes are counted apart: neither takes the place of the other."""
        cap = self._caps[wanted.over_http]
        occupied = [
            (key, slot) for key, slot in self._slots.items() if slot.occupied and slot.over_http == wanted.over_http
        ]
        if len(occupied) < cap:
            return
        horizon = asyncio.get_running_loop().time() - EVICTABLE_SECONDS
        idle = [(key, slot) for key, slot in occupied if slot.idle_since(horizon)]
        if not idle:
            what = "connections over HTTP" if wanted.over_http else "server processes"
            raise UpstreamError("upstream.busy", f"All {cap} {what} are in use.")
        self._discard(*min(idle, key=lambda entry: entry[1].last_used))

    async def _start(self, key: Key, slot: _Slot) -> Connection:
        server = slot.server
        known, era = self._eras.get(server.slug, (None, server.era))
        if key[1] is None and not server.shared:
            # What principals share because it has no sessions must not become one session of theirs, should another
            # start have found meanwhile that the server is not what it was.
            known, era = server, "modern"
        try:
            connection = await open_connection(
                replace(server, era=era if known == server else server.era),
                client=self._client,
                on_notification=self._listener(key),
            )
        except UpstreamError as error:
            self._eras.pop(server.slug, None)  # the remembered era may be what is wrong: ask again next time
            slot.trouble.add(error.detail, self._clock())
            raise
        finally:
            slot.starting = None
        # 2026-07-28 versioning: the era belongs to the server, so it is asked once per configuration.
        self._eras[server.slug] = (server, "modern" if connection.era == MODERN else "legacy")
        self._announced[server.slug] = (server, connection.capabilities)
        slot.connection, slot.started_at = connection, self._clock()
        if slot.over_http:
            slot.trouble.forget()
        return connection

    def _listener(self, key: Key) -> Callable[[str, JsonObject], None] | None:
        relay = self._on_notification
        if relay is None:
            return None
        slug, principal_key = key
        return lambda method, params: relay(slug, principal_key, method, params)


def _backoff(failures: int) -> float:
    first, most = BACKOFF_SECONDS
    return float(min(most, first * 2 ** min(failures - 1, 16)))


async def _close(starting: asyncio.Task[Connection] | None, connection: Connection | None) -> None:
    try:
        if starting is not None:
            starting.cancel()
            await asyncio.wait({starting})
            if not starting.cancelled() and starting.exception() is None:
                connection = starting.result()
        if connection is not None:
            await connection.close()
    except Exception:  # noqa: BLE001 - runs in the background, where nobody would see it
        logger.exception("a connection to a server could not be closed")

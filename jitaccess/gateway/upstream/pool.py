"""The children of one gateway process: one per server and principal, shared starts, backoff, a hard cap."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from jitaccess.kernel.strictjson import JsonObject

from .config import Era, StdioServer
from .errors import UpstreamError
from .handshake import MODERN
from .process import logger
from .stdio import StdioConnection

QUICK_DEATH_SECONDS = 10.0
EVICTABLE_SECONDS = 10.0  # who was handed a connection a moment ago may be about to use it
BACKOFF_SECONDS = (1.0, 60.0)  # after the first failure, and at most

Key: TypeAlias = "tuple[str, str | None]"
PoolNotification: TypeAlias = "Callable[[str, str | None, str, JsonObject], None]"


@dataclass(slots=True)
class _Slot:
    server: StdioServer
    starting: asyncio.Task[StdioConnection] | None = None
    connection: StdioConnection | None = None
    started_at: float = 0.0
    failures: int = 0
    retry_at: float = 0.0
    reason: str = ""

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
    Belongs to one event loop.
    """

    def __init__(
        self,
        servers: Callable[[str], StdioServer | None],
        *,
        idle_seconds: float = 300,
        max_connections: int = 64,
        on_notification: PoolNotification | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._idle_seconds = idle_seconds
        self._max_connections = max_connections
        self._on_notification = on_notification
        self._clock = clock
        self._slots: dict[Key, _Slot] = {}
        self._eras: dict[str, tuple[StdioServer, Era]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def connection(self, slug: str, principal_key: str) -> StdioConnection:
        """Return a live connection for this principal, started if need be; concurrent callers share one start.

        Raises UpstreamError with sent=False: upstream.unavailable (unknown, cannot be started, or waiting to be tried
        again: param retry_in, seconds) or upstream.busy (max_connections are in use).
        """
        server = self._servers(slug)
        if server is None or self._closed:
            raise UpstreamError(
                "upstream.unavailable", f'There is no stdio server "{slug}" to connect to.', server=slug
            )
        key: Key = (slug, None if server.shared else principal_key)
        slot = self._slot(key, server)
        if slot.connection is not None:
            if slot.connection.alive:
                return slot.connection
            self._bury(slot)
        if slot.starting is None:
            self._check_backoff(slot)
            self._make_room()
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

    async def reap_idle(self) -> None:
        """Close what nobody used for idle_seconds, and forget dead entries. The owner calls this now and then."""
        horizon = asyncio.get_running_loop().time() - self._idle_seconds
        forgotten = self._clock() - BACKOFF_SECONDS[1]
        for key, slot in list(self._slots.items()):
            past = max(slot.retry_at, slot.started_at) <= forgotten
            if slot.idle_since(horizon) or (not slot.occupied and past):
                self._discard(key, slot)
        await asyncio.gather(*self._closing)

    async def close(self) -> None:
        """End every child; later calls of connection() are refused."""
        self._closed = True
        for key, slot in list(self._slots.items()):
            self._discard(key, slot)
        await asyncio.gather(*self._closing)

    def _slot(self, key: Key, server: StdioServer) -> _Slot:
        slot = self._slots.get(key)
        if slot is not None and slot.server != server:  # reconfigured: the old process is not this server any more
            self._discard(key, slot)
            slot = None
        if slot is None:
            slot = self._slots[key] = _Slot(server)
        return slot

    def _discard(self, key: Key, slot: _Slot) -> None:
        self._slots.pop(key, None)
        if slot.starting is not None or slot.connection is not None:
            task = asyncio.get_running_loop().create_task(_close(slot.starting, slot.connection))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def _bury(self, slot: _Slot) -> None:
        slot.connection = None
        now = self._clock()
        if now - slot.started_at >= QUICK_DEATH_SECONDS:
            slot.failures, slot.retry_at = 0, 0.0
            return
        slot.failures += 1
        slot.reason = "it ended soon after its start"
        if slot.failures > 1:  # one accident is repaired at once
            slot.retry_at = now + _backoff(slot.failures - 1)

    def _check_backoff(self, slot: _Slot) -> None:
        wait = slot.retry_at - self._clock()
        if wait > 0:
            slug = slot.server.slug
            detail = f'The server "{slug}" is started again in {wait:.0f} seconds at the earliest: {slot.reason}'
            raise UpstreamError("upstream.unavailable", detail, server=slug, retry_in=round(wait, 1))

    def _make_room(self) -> None:
        occupied = [(key, slot) for key, slot in self._slots.items() if slot.occupied]
        if len(occupied) < self._max_connections:
            return
        horizon = asyncio.get_running_loop().time() - EVICTABLE_SECONDS
        idle = [(key, slot) for key, slot in occupied if slot.idle_since(horizon)]
        if not idle:
            raise UpstreamError("upstream.busy", f"All {self._max_connections} server processes are in use.")
        self._discard(*min(idle, key=lambda entry: entry[1].last_used))

    async def _start(self, key: Key, slot: _Slot) -> StdioConnection:
        server = slot.server
        known, era = self._eras.get(server.slug, (None, server.era))
        try:
            connection = await StdioConnection.open(
                replace(server, era=era if known == server else server.era),
                on_notification=self._listener(key),
            )
        except UpstreamError as error:
            self._eras.pop(server.slug, None)  # the remembered era may be what is wrong: ask again next time
            slot.failures += 1
            slot.reason = error.detail
            slot.retry_at = self._clock() + _backoff(slot.failures)
            raise
        finally:
            slot.starting = None
        # 2026-07-28 versioning: the era belongs to the server, so it is asked once per configuration.
        self._eras[server.slug] = (server, "modern" if connection.era == MODERN else "legacy")
        slot.connection, slot.started_at = connection, self._clock()
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


async def _close(starting: asyncio.Task[StdioConnection] | None, connection: StdioConnection | None) -> None:
    try:
        if starting is not None:
            starting.cancel()
            await asyncio.wait({starting})
            if not starting.cancelled() and starting.exception() is None:
                connection = starting.result()
        if connection is not None:
            await connection.close()
    except Exception:  # noqa: BLE001 - runs in the background, where nobody would see it
        logger.exception("a server process could not be closed")

"""The connections of one gateway process: one per server and principal, shared starts, backoff, hard caps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias
from weakref import WeakKeyDictionary

from jitaccess.egress.client import Client
from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.store import metrics

from .breaker import BACKOFF_SECONDS, Breaker
from .confidence import inert
from .config import Era, HttpServer, ServerConfig
from .connection import Connection, egress_client, open_connection
from .errors import UpstreamError
from .handshake import MODERN
from .process import logger

QUICK_DEATH_SECONDS = 10.0
MAX_OF_ONE = 8  # connections of one principal to one server: its clients may declare different capabilities
EVICTABLE_SECONDS = 10.0  # who was handed a connection a moment ago may be about to use it

# Slug, principal (None: shared), what a server of the older era was told that its client can be asked, and whether it
# was greeted in the older way first.
Key: TypeAlias = "tuple[str, str | None, str, bool]"
PoolNotification: TypeAlias = "Callable[[str, str | None, str, JsonObject], None]"


@dataclass(slots=True)
class _Slot:
    server: ServerConfig
    breaker: Breaker
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
        idle = connection is not None and connection.pending == 0 and not connection.held
        return idle and connection is not None and connection.last_used <= horizon


class Pool:
    """Hands out connections; `servers` maps a slug to its present configuration, None when there is none.

    `on_notification` gets (slug, principal key or None for a shared server, method, params), `on_trouble`
    (slug, why) when a server is left alone for a while. `clock` is in seconds.
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
        on_trouble: Callable[[str, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._servers = servers
        self._idle_seconds = idle_seconds
        self._caps = {False: max_connections, True: max_http_connections}
        self._client = client or egress_client()
        # Every principal meets the same HTTP server with the same credential, so its failures are everybody's.
        self._breakers: dict[str, tuple[HttpServer, Breaker]] = {}
        self._used: WeakKeyDictionary[Connection, _Slot] = WeakKeyDictionary()
        self._on_notification, self._on_trouble = on_notification, on_trouble
        self._clock = clock
        self._slots: dict[Key, _Slot] = {}
        # Those that everybody shares and that are asked for again and again, by slug and whether as the older era.
        self._ready: dict[tuple[str, bool], _Slot] = {}
        self._eras: dict[str, tuple[ServerConfig, Era]] = {}
        self._older: dict[str, tuple[ServerConfig, Era]] = {}
        self._announced: dict[str, tuple[ServerConfig, JsonObject]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def connection(
        self, slug: str, principal_key: str, *, capabilities: JsonObject | None = None, older: bool = False
    ) -> Connection:
        """Return a live connection for this principal, started if need be; concurrent callers share one start.

        A server of the older era that is not shared is told that its client has exactly these `capabilities`. `older`:
        for a client of the older era, whom a server of both shall meet as it would without us.

        Raises UpstreamError with sent=False: upstream.unavailable (unknown, cannot be started, or waiting to be tried
        again: param retry_in, seconds) or upstream.busy (max_connections or max_http_connections are in use).
        """
        ready = self.ready(slug, older=older)
        if ready is not None:
            return ready
        server = self._servers(slug)
        if server is None or self._closed:
            raise UpstreamError("upstream.unavailable", f'There is no server "{slug}" to connect to.', server=slug)
        asked_older, older = older, older and server.era == "auto"
        announced = self._tells(server, capabilities or {}, older=older)
        whose = principal_key if self.apart(slug, older=older) else None
        key: Key = (slug, whose, strictjson.encode(announced).decode(), older)
        slot = self._slot(key, server)
        if slot.connection is not None:
            if slot.connection.alive:
                self._check(slot, principal_key)
                if whose is None and not announced:
                    self._ready[slug, asked_older] = slot
                return slot.connection
            self._bury(slot)
        if slot.starting is None:
            self._check(slot, principal_key)
            self._make_room(key, slot)
            slot.starting = asyncio.get_running_loop().create_task(self._start(key, slot, announced))
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

    def ready(self, slug: str, *, older: bool = False) -> Connection | None:
        """As `connection`, where everybody shares one that is there and works; None: ask that."""
        slot = self._ready.get((slug, older))
        if slot is None or self._closed or slot.breaker.retry_at or self._servers(slug) is not slot.server:
            return None
        return slot.connection if slot.connection is not None and slot.connection.alive else None

    def apart(self, slug: str, *, older: bool = False) -> bool:
        """Whether each principal has a connection of its own to this server, as far as it is known by now."""
        server = self._servers(slug)
        if server is None or server.shared:
            return False
        # 2026-07-28 over HTTP: requests have nothing in common but the URL.
        return not (isinstance(server, HttpServer) and self._speaks_modern(server, older=older))

    def announced(self, slug: str) -> JsonObject | None:
        """The capabilities that the server told of in its last greeting; None when it has not been greeted as it is
        configured now.
        """
        server, capabilities = self._announced.get(slug, (None, None))
        return capabilities if server is not None and server == self._servers(slug) else None

    def answered(self, connection: Connection, error: UpstreamError | None, principal_key: str) -> None:
        """Tell what came of a call of this principal: None when the server answered, whatever it said. Failures in a
        row make it be left alone for a while; a process that runs and never answers in time is started anew after that.
        """
        slot = self._used.get(connection)
        if slot is None or (error is None and not slot.breaker.failures):
            return
        if error is not None and not slot.over_http and error.code in ("upstream.died", "upstream.unavailable"):
            return  # the end of a process counts when it is buried
        opened = slot.breaker.answered(error, _agent_of(principal_key))
        theirs = slot.breaker.for_everybody or not slot.server.shared
        if opened and theirs and not slot.over_http and slot.connection is connection:
            slot.connection = None
            self._close_later(None, connection)
        self._judged(slot, opened=opened)

    def _judged(self, slot: _Slot, *, opened: bool = False) -> None:
        """Say how many of a server's connections are left alone; `opened`: one more just now."""
        slug = slot.server.slug
        theirs = {id(one.breaker): one.breaker for one in (slot, *self._slots.values()) if one.server.slug == slug}
        metrics.UPSTREAM_OPEN.labels(slug).set(sum(not breaker.closed for breaker in theirs.values()))
        if opened:
            why = inert(slot.breaker.reason, slot.server)
            logger.warning("server %s: left alone for a while: %s", slug, why)
            if self._on_trouble is not None:
                self._on_trouble(slug, why)

    @property
    def children(self) -> int:
        """How many processes run, or are being started. Asked from any thread: `list` copies without a pause."""
        return sum(slot.occupied and not slot.over_http for slot in list(self._slots.values()))

    async def reap_idle(self) -> None:
        """Close what nobody used for idle_seconds, and forget dead entries. The owner calls this now and then."""
        horizon = asyncio.get_running_loop().time() - self._idle_seconds
        forgotten = self._clock() - BACKOFF_SECONDS[1]
        for key, slot in list(self._slots.items()):
            past = max(slot.breaker.retry_at, slot.started_at) <= forgotten
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

    def _speaks_modern(self, server: ServerConfig, *, older: bool) -> bool:
        """Whether it is known by now to speak 2026-07-28, when greeted so."""
        eras = self._older if older and server.era == "auto" else self._eras
        return eras.get(server.slug) == (server, "modern")

    def _tells(self, server: ServerConfig, capabilities: JsonObject, *, older: bool) -> JsonObject:
        """What is told in the handshake: nothing where principals share it, or each request says it anew."""
        return {} if server.shared or self._speaks_modern(server, older=older) else capabilities

    def _slot(self, key: Key, server: ServerConfig) -> _Slot:
        slot = self._slots.get(key)
        if slot is not None and slot.server != server:  # reconfigured: the old process is not this server any more
            self._discard(key, slot)
            slot = None
        if slot is None:
            slot = self._slots[key] = _Slot(server, self._breaker(server))
        return slot

    def _breaker(self, server: ServerConfig) -> Breaker:
        if not isinstance(server, HttpServer):
            return Breaker(self._clock)
        known, breaker = self._breakers.get(server.slug, (None, Breaker(self._clock)))
        if known != server:
            breaker = Breaker(self._clock)
            self._breakers[server.slug] = (server, breaker)
        return breaker

    def _discard(self, key: Key, slot: _Slot) -> None:
        self._slots.pop(key, None)
        for ready in [ready for ready, one in self._ready.items() if one is slot]:
            del self._ready[ready]
        if not slot.breaker.closed and not slot.over_http:
            slot.breaker.forget()
            self._judged(slot)
        if slot.starting is not None or slot.connection is not None:
            self._close_later(slot.starting, slot.connection)

    def _close_later(self, starting: asyncio.Task[Connection] | None, connection: Connection | None) -> None:
        task = asyncio.get_running_loop().create_task(_close(starting, connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _bury(self, slot: _Slot) -> None:
        slot.connection = None
        now = self._clock()
        if slot.over_http:
            return  # the next greeting shows whether the server is there, and costs less than a process
        if now - slot.started_at >= QUICK_DEATH_SECONDS:
            slot.breaker.forget()
        else:  # one accident is repaired at once
            self._judged(slot, opened=slot.breaker.failed("it ended soon after its start", free=1))

    def _check(self, slot: _Slot, caller: str) -> None:
        """Raises UpstreamError while the server is left alone."""
        if wait := slot.breaker.wait(_agent_of(caller)):
            slug = slot.server.slug
            detail = f'The server "{slug}" is tried again in {wait:.0f} seconds at the earliest: {slot.breaker.reason}'
            raise UpstreamError("upstream.unavailable", detail, server=slug, retry_in=round(wait, 1))

    def _make_room(self, key: Key, wanted: _Slot) -> None:
        """Sessions over HTTP and processes are counted apart: neither takes the place of the other. Who declares ever
        other capabilities takes his own places only.
        """
        cap = self._caps[wanted.over_http]
        occupied = [
            (key, slot) for key, slot in self._slots.items() if slot.occupied and slot.over_http == wanted.over_http
        ]
        own = [entry for entry in occupied if entry[0][:2] == key[:2]]
        if len(own) >= MAX_OF_ONE:
            occupied, cap = own, MAX_OF_ONE
        if len(occupied) < cap:
            return
        horizon = asyncio.get_running_loop().time() - EVICTABLE_SECONDS
        idle = [(key, slot) for key, slot in occupied if slot.idle_since(horizon)]
        if not idle:
            what = "connections over HTTP" if wanted.over_http else "server processes"
            raise UpstreamError("upstream.busy", f"All {cap} {what} are in use.")
        self._discard(*min(idle, key=lambda entry: entry[1].last_used))

    async def _start(self, key: Key, slot: _Slot, announced: JsonObject) -> Connection:
        server, older = slot.server, key[3]
        eras = self._older if older else self._eras
        unknown: Era = "older" if older else server.era
        known, era = eras.get(server.slug, (None, unknown))
        if key[1] is None and not server.shared:
            # What principals share because it has no sessions must not become one session of theirs, should another
            # start have found meanwhile that the server is not what it was.
            known, era = server, "modern"
        try:
            connection = await open_connection(
                replace(server, era=era if known == server else unknown),
                client=self._client,
                on_notification=self._listener(key),
                capabilities=announced,
            )
        except UpstreamError as error:
            eras.pop(server.slug, None)  # the remembered era may be what is wrong: ask again next time
            self._judged(slot, opened=slot.breaker.failed(error.detail))
            raise
        finally:
            slot.starting = None
        # 2026-07-28 versioning: the era belongs to the server, so it is asked once per configuration.
        eras[server.slug] = (server, "modern" if connection.era == MODERN else "legacy")
        if not older:
            self._announced[server.slug] = (server, connection.capabilities)
        slot.connection, slot.started_at = connection, self._clock()
        self._used[connection] = slot
        self._settle(key, slot)
        if slot.breaker.failures:
            slot.breaker.started(forgive=slot.over_http)
            self._judged(slot)
        return connection

    def _settle(self, key: Key, slot: _Slot) -> None:
        """A server found to be of the newer era is for every client of its principal, whatever it can be asked."""
        after: Key = (*key[:2], "{}", key[3])
        if self._speaks_modern(slot.server, older=key[3]) and self._slots.get(key) is slot and after not in self._slots:
            self._slots[after] = self._slots.pop(key)

    def _listener(self, key: Key) -> Callable[[str, JsonObject], None] | None:
        relay = self._on_notification
        if relay is None:
            return None
        slug, principal_key, *_ = key
        return lambda method, params: relay(slug, principal_key, method, params)


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


def _agent_of(principal_key: str) -> str:
    """With and without a user it is one caller: a second token must not make two of it."""
    return principal_key.partition("/")[0]

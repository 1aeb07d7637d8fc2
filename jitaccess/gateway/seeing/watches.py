"""What this process watches at servers on behalf of those who listen here: resources, and lists that may change.

Each resource is subscribed to once for each connection that calls would use too, and given up when nobody listens to it
any more. What a server tells reaches exactly those who asked and may read it at that moment.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from jitaccess.gateway.seeing.offers import OWN
from jitaccess.gateway.seeing.streams import PROMPTS, RESOURCES, UPDATED
from jitaccess.gateway.upstream.connection import Connection
from jitaccess.gateway.upstream.errors import RemoteError, UpstreamError
from jitaccess.gateway.upstream.handshake import MODERN
from jitaccess.gateway.upstream.listener import ACKNOWLEDGED
from jitaccess.gateway.upstream.process import logger
from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import visible
from jitaccess.store.host_clock import steady

if TYPE_CHECKING:
    from jitaccess.gateway.upstream.pool import Pool

SUBSCRIBE_SECONDS = 10.0
BACKOFF_SECONDS = (1.0, 60.0)
CALM_SECONDS = 1.0
MAX_URI = 4096
# Of one connection: each is a request that stays open at a server of the newer era. And of one principal on it, so that
# of a connection for all nobody takes the others' places.
MAX_WATCHED = 512
MAX_OF_ONE = 64
# A request that ends when we say so.
_FOR_EVER = 10 * 365 * 86_400.0

Permit = Callable[[], bool]
Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Place:
    """Which connection to a server, as calls would use it: of a principal whose client declared these capabilities, and
    is of the older era or not; the gateway's own; or where there is one for all, that (`whose` None).
    """

    slug: str
    whose: str | None
    capabilities: JsonObject = field(default_factory=dict)
    older: bool = False

    @property
    def key(self) -> tuple[str, str | None, str, bool]:
        return self.slug, self.whose, strictjson.encode(self.capabilities).decode(), self.older


@dataclass(eq=False, slots=True)
class _Watch:
    """One resource at one server, on the connection `on`. `listening` is the open request at one of the newer era."""

    uri: str
    whose: str | None
    told: set[Told] = field(default_factory=set)
    begun: asyncio.Task[None] | None = None
    on: Connection | None = None
    listening: asyncio.Task[JsonObject] | None = None
    honoured: asyncio.Future[bool] | None = None


@dataclass(eq=False, slots=True)
class _Line:
    """A connection that is held while somebody listens. `lists` counts those who listen to lists."""

    place: Place
    lists: int = 0
    watches: dict[str, _Watch] = field(default_factory=dict)
    connection: Connection | None = None
    opened: bool = False
    failures: int = 0
    retry_at: float = 0.0
    mending: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return not self.lists and not self.watches

    def hold(self, connection: Connection | None) -> None:
        """A held connection is not closed for being idle."""
        if self.connection is not None:
            self.connection.held -= 1
        if connection is not None:
            connection.held += 1
            self.opened = True
        self.connection = connection

    @property
    def broken(self) -> bool:
        if self.connection is None or not self.connection.alive:
            return True
        return any(self.lost(watch) for watch in self.watches.values())

    def lost(self, watch: _Watch) -> bool:
        """Whether it was watched, and is no more."""
        if watch.begun is None or not watch.begun.done():
            return False
        return watch.on is not self.connection or (watch.listening is not None and watch.listening.done())


class Watches:
    """Belongs to one event loop. `changed` gets (slug, principal key or None for everybody's, method)."""

    def __init__(self, pool: Pool, changed: Callable[[str, str | None, str], None]) -> None:
        self._pool, self._changed = pool, changed
        self._lines: dict[tuple[str, str | None, str, bool], _Line] = {}
        self._parting: set[asyncio.Task[None]] = set()
        # Told a moment ago; True: and changed again since.
        self._calm: dict[tuple[str, str | None, str], bool] = {}

    def heard(self, slug: str, principal: str | None, method: str, params: JsonObject) -> None:
        """A server said something, on a connection of this principal or (None) of everybody's."""
        if method in (PROMPTS, RESOURCES):
            self._tell(slug, None if principal == OWN else principal, method)
        elif method == UPDATED and isinstance(uri := params.get("uri"), str) and len(uri) <= MAX_URI:
            for watch in self._on(slug, principal):
                # "This might be a sub-resource of the one that the client actually subscribed to" (2025-11-25, Schema).
                if uri == watch.uri or uri.startswith(watch.uri.rstrip("/") + "/"):
                    for told in list(watch.told):
                        told(uri)
        elif method == ACKNOWLEDGED:
            honoured = params.get("notifications")
            uris = honoured.get("resourceSubscriptions") if isinstance(honoured, dict) else None
            for watch in self._on(slug, principal):
                if isinstance(uris, list) and watch.uri in uris and watch.honoured and not watch.honoured.done():
                    watch.honoured.set_result(True)

    def _tell(self, slug: str, principal: str | None, method: str) -> None:
        """However often a server says that a list changed, nobody hears of it more than once a second."""
        key = (slug, principal, method)
        if key in self._calm:
            self._calm[key] = True
            return
        self._calm[key] = False
        asyncio.get_running_loop().call_later(CALM_SECONDS, self._calmed, key)
        self._changed(*key)

    def _calmed(self, key: tuple[str, str | None, str]) -> None:
        if self._calm.pop(key):
            self._tell(*key)

    def _on(self, slug: str, principal: str | None) -> list[_Watch]:
        lines = [line for line in self._lines.values() if (line.place.slug, line.place.whose) == (slug, principal)]
        return [watch for line in lines for watch in line.watches.values()]

    def follow(self, slug: str) -> None:
        """Somebody listens to the lists of this server from now on."""
        self._line(Place(slug, OWN)).lists += 1

    def unfollow(self, slug: str) -> None:
        line = self._line(Place(slug, OWN))
        line.lists -= 1
        self._let_go(line)

    async def ready(self, place: Place) -> None:
        """Open the connection, should there be none yet. Raises UpstreamError."""
        await self._connection(place)

    async def subscribe(self, place: Place, uri: str, told: Told, permit: Permit) -> Callable[[], None]:
        """Call `told` with what was updated from now on, until the returned function is called. Nothing is sent to the
        server for what is watched already.

        Raises UpstreamError or RemoteError, and then it is not watched.
        """
        try:
            async with asyncio.timeout(SUBSCRIBE_SECONDS):
                connection = await self._connection(place)
        except TimeoutError as error:
            detail = f'The server "{place.slug}" is not there within {SUBSCRIBE_SECONDS:g} seconds.'
            raise UpstreamError("upstream.unavailable", detail, server=place.slug) from error
        apart = self._pool.apart(place.slug, older=place.older)
        line = self._line_on(connection, place if apart else replace(place, whose=None))
        if line.connection is not connection:
            line.hold(connection)
        watch = line.watches.get(uri)
        if watch is None:
            mine = sum(one.whose == place.whose for one in line.watches.values())
            if mine >= MAX_OF_ONE or len(line.watches) >= MAX_WATCHED:
                self._let_go(line)
                most = f"{MAX_OF_ONE} for one principal, and {MAX_WATCHED} for all"
                raise UpstreamError("upstream.busy", f"Of a server so many resources are watched at once: {most}.")
            watch = line.watches[uri] = _Watch(uri, place.whose)
            watch.begun = asyncio.create_task(self._begin(line, watch, connection, permit))
        watch.told.add(told)
        release = partial(self._release, line, watch, told)
        assert watch.begun is not None
        try:
            await asyncio.shield(watch.begun)
        except BaseException:
            release()
            raise
        return release

    def _release(self, line: _Line, watch: _Watch, told: Told) -> None:
        watch.told.discard(told)
        if not watch.told and line.watches.get(watch.uri) is watch:
            del line.watches[watch.uri]
            task = asyncio.create_task(self._end(watch))
            self._parting.add(task)
            task.add_done_callback(self._parting.discard)
            self._let_go(line)

    def tend(self) -> None:
        """Called now and then: connections that are gone are opened again, and what was watched there watched again."""
        for line in list(self._lines.values()):
            if line.mending is None and line.broken and steady() >= line.retry_at:
                line.mending = asyncio.create_task(self._mend(line))

    async def close(self) -> None:
        tasks: set[asyncio.Task[Any]] = set(self._parting)
        for line in self._lines.values():
            watched = [task for one in line.watches.values() for task in (one.begun, one.listening)]
            tasks |= {task for task in (line.mending, *watched) if task is not None}
        self._lines.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _line_on(self, connection: Connection, place: Place) -> _Line:
        """Places that differ may have the same connection: a server is told once what is watched on it."""
        mine = (one for one in self._lines.values() if one.connection is connection)
        return next((one for one in mine if one.place.whose == place.whose), None) or self._line(place)

    def _line(self, place: Place) -> _Line:
        return self._lines.setdefault(place.key, _Line(place))

    async def _connection(self, place: Place) -> Connection:
        whose = place.whose or OWN
        return await self._pool.connection(place.slug, whose, capabilities=place.capabilities, older=place.older)

    def _let_go(self, line: _Line) -> None:
        if line.idle:
            self._lines.pop(line.place.key, None)
            line.hold(None)

    async def _begin(self, line: _Line, watch: _Watch, connection: Connection, permit: Permit | None) -> None:
        """Raises UpstreamError or RemoteError."""
        watch.on = connection
        if connection.era != MODERN:
            asked: JsonObject = {"uri": watch.uri}
            await connection.request("resources/subscribe", asked, timeout=SUBSCRIBE_SECONDS, permit=permit)
            return
        honoured = watch.honoured = asyncio.get_running_loop().create_future()
        asked = {"notifications": {"resourceSubscriptions": [watch.uri]}}
        request = connection.request("subscriptions/listen", asked, timeout=_FOR_EVER, permit=permit)
        listening = watch.listening = asyncio.create_task(request)
        connection.lasting += 1
        listening.add_done_callback(partial(_over, connection))
        await asyncio.wait({listening, honoured}, timeout=SUBSCRIBE_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not honoured.done():
            if listening.done():
                listening.result()
            listening.cancel()
            detail = f'The server "{line.place.slug}" does not watch {visible(watch.uri, limit=200)}.'
            raise UpstreamError("upstream.invalid_response", detail, sent=True, server=line.place.slug)

    async def _end(self, watch: _Watch) -> None:
        """Nobody listens to it any more: so is the server told, unless it does not know of it."""
        assert watch.begun is not None
        if not watch.begun.done():
            watch.begun.cancel()
            await asyncio.wait({watch.begun})
        if watch.listening is not None:
            watch.listening.cancel()
        elif not watch.begun.cancelled() and watch.begun.exception() is None and watch.on and watch.on.alive:
            with contextlib.suppress(UpstreamError, RemoteError):
                await watch.on.request("resources/unsubscribe", {"uri": watch.uri}, timeout=SUBSCRIBE_SECONDS)

    async def _mend(self, line: _Line) -> None:
        """Nothing is replayed by anybody: what may have changed meanwhile is told of as changed."""
        again = line.opened
        try:
            connection = await self._connection(line.place)
            if line.connection is not connection:
                line.hold(connection)
            for watch in list(line.watches.values()):
                if line.lost(watch):
                    await self._begin(line, watch, connection, None)
                    for told in list(watch.told):
                        told(watch.uri)
            for method in (PROMPTS, RESOURCES) if line.lists and again else ():
                self._tell(line.place.slug, None, method)
            line.failures = 0
        except (UpstreamError, RemoteError) as error:
            line.failures += 1
            least, most = BACKOFF_SECONDS
            line.retry_at = steady() + min(most, least * 2 ** min(line.failures - 1, 16))
            logger.debug("server %s: what is watched there cannot be: %s", line.place.slug, error)
        finally:
            line.mending = None
            self._let_go(line)


def _over(connection: Connection, listening: asyncio.Task[JsonObject]) -> None:
    connection.lasting -= 1
    if not listening.cancelled():
        listening.exception()  # looked at, so that asyncio does not report it

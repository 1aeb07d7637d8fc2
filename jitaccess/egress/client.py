"""The HTTP client of the whole product: connects to checked addresses only, follows nothing, believes no size."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec

from .addresses import Allowance, Target, check_url
from .errors import EgressFailed
from .http1 import Broken, Connection, request_bytes, request_head, request_start
from .resolver import Lookup, NoAddress, Resolver
from .response import Response, Sent

CONNECT_SECONDS = 10.0  # name, route and TLS together
# Shorter than the 5 s of common servers: a request must not go out on a connection that is just being closed.
KEEP_ALIVE_SECONDS = 4.0
MAX_PER_ORIGIN = 320  # requests in progress
MAX_STREAMS = 1024  # those that stay open, of one origin; apart, or they would leave no room for what they tell about
STAGGER_SECONDS = 0.25  # RFC 8305: then the next address is tried beside the first
_MAX_ROUTES = 1024


class Progress(msgspec.Struct, eq=False):
    """Whether anything of a request may have reached the server: to be asked after a timeout or a cancellation.

    `permit` is asked at the last moment, when name, route and TLS are there, and whether a byte may still go out.
    """

    sent: bool = False
    permit: Callable[[], bool] | None = None

    def leave(self) -> None:
        """The first byte goes out now. Raises EgressFailed "egress.too_late"."""
        if self.permit is not None and not self.permit():
            raise EgressFailed("egress.too_late", "It took too long until the request could go out.", sent=False)
        self.sent = True


@dataclass(frozen=True, slots=True)
class _Route:
    """What all requests to one URL by one method have in common."""

    target: Target
    origin: str
    key: tuple[str, str]
    head: bytes


@dataclass(frozen=True, slots=True)
class Prepared:
    """Requests of one kind: to one URL, with the same headers."""

    route: _Route
    start: bytes


class Client:
    """Makes requests within `allowance`. Belongs to one event loop; close it there.

    Nothing of the environment is used: no proxies, no ~/.netrc, no cookies. `lookup` resolves a name and a port to
    addresses; the system's resolver unless given.
    """

    def __init__(self, allowance: Allowance, *, lookup: Lookup | None = None) -> None:
        self.allowance = allowance
        self._resolver = Resolver(allowance, lookup)
        self._routes: dict[tuple[str, str], _Route] = {}
        self._busy: dict[tuple[str, bool], int] = {}
        self._kept: defaultdict[tuple[str, str], list[Connection]] = defaultdict(list)
        self._open: set[Connection] = set()
        self._closed: asyncio.Event | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    async def send(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: bytes | None = None,
        progress: Progress | None = None,
        lasting: bool = False,
    ) -> Response:
        """Return the answer once its headers are here. The caller bounds the time, and closes the answer. `lasting`:
        the answer is a stream that stays open.

        Never sent twice: also a connection that was kept, and broke before the first byte of an answer, had it.
        Raises EgressRefused before anything is sent, or EgressFailed, which says whether something was, or ValueError
        for a header that cannot be one.
        """
        progress = progress or Progress()
        route = self._routes.get((method, url)) or self._route(method, url)
        origin = route.origin
        request = request_bytes(request_start(route.head, headers), body)
        counted, most = (origin, lasting), MAX_STREAMS if lasting else MAX_PER_ORIGIN
        busy = self._busy.get(counted, 0)
        if busy >= most:
            raise EgressFailed("egress.busy", f"{most} requests to {origin} are in progress.", sent=False)
        self._busy[counted] = busy + 1
        connection = None
        try:
            connection = self._idle(route) or await self._connect(route.target)
            progress.leave()
            connection.ask(request)
        except Broken as error:
            self._left(route, counted, connection)
            raise _broken(route, error, sent=progress.sent) from error
        except BaseException:
            self._left(route, counted, connection)
            raise
        return await self._answered(route, counted, connection)

    def prepare(self, method: str, url: str, headers: Mapping[str, str]) -> Prepared | None:
        """What requests of this kind have in common, for `ask`; None before the first by `send`. Raises ValueError."""
        route = self._routes.get((method, url))
        return None if route is None else Prepared(route, request_start(route.head, headers))

    def ask(self, kind: Prepared, body: bytes, *, permit: Callable[[], bool], hears: Callable[[], None]) -> Sent | None:
        """As `send`, where nothing has to be waited for: on a connection that is there. `hears` is called whenever
        something of the answer has come, or the other side is gone. None: nothing was sent, `send` has to see to it.
        """
        route = kind.route
        counted = route.origin, False
        busy = self._busy.get(counted, 0)
        if busy >= MAX_PER_ORIGIN:
            return None
        connection = self._idle(route)
        if connection is None:
            return None
        if not permit():
            self._kept[route.key].append(connection)
            return None
        self._busy[counted] = busy + 1
        try:
            connection.ask(request_bytes(kind.start, body), hears)
        except Broken:
            self._left(route, counted, connection)
            return None
        except BaseException:
            self._left(route, counted, connection)
            raise
        return Sent(connection, partial(self._answered, route, counted), partial(self._left, route, counted))

    async def _answered(self, route: _Route, counted: tuple[str, bool], connection: Connection) -> Response:
        try:
            await connection.head()
        except Broken as error:
            self._left(route, counted, connection)
            raise _broken(route, error, sent=True) from error
        except BaseException:
            self._left(route, counted, connection)
            raise
        return Response(connection, partial(self._left, route, counted))

    async def close(self) -> None:
        """Hang up everywhere; what is still in progress breaks off."""
        self._closed = asyncio.Event()
        if self._sweeper is not None:
            self._sweeper.cancel()
        self._kept.clear()
        for connection in list(self._open):
            connection.abort()
        if self._open:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), 1)
        await self._resolver.close()

    def _route(self, method: str, url: str) -> _Route:
        target = check_url(url, self.allowance)
        _, _, host, path = target.url.split("/", 3)
        route = _Route(target, target.origin, (target.scheme, target.origin), request_head(method, f"/{path}", host))
        if len(self._routes) >= _MAX_ROUTES:
            self._routes.clear()
        self._routes[method, url] = route
        return route

    def _left(self, route: _Route, counted: tuple[str, bool], connection: Connection | None) -> None:
        """A request is over: its place is free, and its connection is kept if it can be used again."""
        self._busy[counted] -= 1
        if not self._busy[counted]:
            del self._busy[counted]
        if connection is None:
            return
        if self._closed is not None or not connection.may_follow():
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._kept[route.key].append(connection)
        if self._sweeper is None:
            self._sweeper = loop.call_later(KEEP_ALIVE_SECONDS, self._sweep)

    def _idle(self, route: _Route) -> Connection | None:
        """The connection that was used last, if it is not too old."""
        kept = self._kept.get(route.key)
        horizon = asyncio.get_running_loop().time() - KEEP_ALIVE_SECONDS
        while kept:
            connection = kept.pop()
            if connection.may_follow() and connection.idle_since > horizon and connection.is_quiet():
                return connection
            connection.abort()
        return None

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        horizon = loop.time() - KEEP_ALIVE_SECONDS
        for key, kept in list(self._kept.items()):
            young = [one for one in kept if not one.closed and one.idle_since > horizon]
            for connection in kept:
                if connection not in young:
                    connection.abort()
            if young:
                self._kept[key] = young
            else:
                del self._kept[key]
        self._sweeper = loop.call_later(KEEP_ALIVE_SECONDS, self._sweep) if self._kept else None

    async def _connect(self, target: Target) -> Connection:
        host = target.origin
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                if target.address is not None:
                    return await self._reach(target, str(target.address))
                return await self._first(target, await self._resolver.resolve(target.host, target.port))
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or type(error).__name__
            raise EgressFailed("egress.tls", f"No trusted TLS connection to {host}: {reason}.", sent=False) from error
        except OSError as error:
            if isinstance(error, TimeoutError):
                reason = f"no connection within {CONNECT_SECONDS:g} seconds"
            elif isinstance(error, NoAddress):
                reason = "its name cannot be resolved"
            else:
                reason = os.strerror(error.errno) if error.errno else type(error).__name__
            raise EgressFailed("egress.unreachable", f"{host} cannot be reached: {reason}.", sent=False) from error

    async def _first(self, target: Target, addresses: list[str]) -> Connection:
        """The first that answers. Each has a head start, so that a dead one does not take all the time (RFC 8305)."""
        rest, failure = list(addresses), OSError()
        trying: set[asyncio.Task[Connection]] = set()
        try:
            while rest or trying:
                if rest:
                    trying.add(asyncio.create_task(self._reach(target, rest.pop(0))))
                wait = STAGGER_SECONDS if rest else None
                done, trying = await asyncio.wait(trying, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if error is None:
                        trying |= done - {task}
                        return task.result()
                    if not isinstance(error, OSError):
                        raise error
                    failure = error
            raise failure
        finally:
            for task in trying:
                task.add_done_callback(_unwanted)
                task.cancel()

    async def _reach(self, target: Target, address: str) -> Connection:
        """Connect to exactly this address; TLS is with the host that was asked for, by name and certificate."""
        loop = asyncio.get_running_loop()
        secure = target.scheme == "https"
        if secure and self._tls is None:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        _, connection = await loop.create_connection(
            lambda: Connection(loop, self._lost),
            address,
            target.port,
            ssl=self._tls if secure else None,
            server_hostname=target.host if secure else None,
        )
        if not connection.closed:
            self._open.add(connection)
        return connection

    def _lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        if self._closed is not None and not self._open:
            self._closed.set()


def _broken(route: _Route, error: Broken, *, sent: bool) -> EgressFailed:
    return EgressFailed("egress.broken", f"The connection to {route.origin} broke ({error}).", sent=sent)


def _unwanted(task: asyncio.Task[Connection]) -> None:
    """It came too late: another address was faster, or nobody waits any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().abort()

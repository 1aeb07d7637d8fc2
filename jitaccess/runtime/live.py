"""GET /live: an open page is told which of its topics something happened to, as server-sent events. It then asks for
the parts that show them, and is answered as anybody who asks is: here go names, never content.

On the event loop and not behind a2wsgi, where each open page would hold one of a few threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import resource
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import parse_qs

from django.conf import settings
from django.db import Error as DatabaseTrouble
from django.db import close_old_connections, connection
from django.http import parse_cookie

from jitaccess.gateway.http import EventStream, Receive, Scope, Send, disconnected, patience, send_empty
from jitaccess.kernel.deadline import deadline
from jitaccess.kernel.errors import Forbidden, Invalid, JitAccessError, Unavailable
from jitaccess.runtime.news import Listener, Look, listener_of, look, topics_of
from jitaccess.store.wakeups import LEDGER, Wakeups

log = logging.getLogger(__name__)
T = TypeVar("T")

PATH = "/live"
MAX_QUERY = 1000
MOST = 2000  # streams of this process, and no more than a quarter of the files that it may open
MOST_OF_ONE = 8  # streams of one person
MOST_OPENING = 256
LOOK_SECONDS = 1.0
BETWEEN_LOOKS = 0.1
CHECK_SECONDS = 30.0
ALIVE_SECONDS = 15.0
PAUSE_SECONDS = 1.0
# Of pages that vanished without a word the network tells us late; the others come again.
LIFE_SECONDS = 900.0
RETRY_MS = (1000, 5000)  # not all of a process that ended come back to the next one at the same instant


class Full(Unavailable):
    """Nobody else is let in for now."""


@dataclass(eq=False, slots=True)
class _Stream:
    """One open page. `fresh`: it was not looked at yet."""

    listener: Listener
    checked: float
    fresh: bool = True
    due: set[str] = field(default_factory=set)
    enough: bool = False
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, topics: set[str]) -> None:
        """Say it soon; what waits to be said already is not said twice, however slowly they read."""
        self.due |= topics
        self.wake.set()

    def end(self, *, enough: bool = False) -> None:
        """Say no more. `enough`: and the page is not to come back."""
        self.enough = self.enough or enough
        self.over.set()
        self.wake.set()


class Live:
    """The open pages of one process. Belongs to one event loop; begins to look with the first page."""

    def __init__(self) -> None:
        self._streams: dict[_Stream, None] = {}  # oldest first
        self._opening = 0
        self._seen = 0
        self._over = False
        self._wake = asyncio.Event()
        self._pulse: asyncio.Task[None] | None = None
        self._wakeups: Wakeups | None = None
        # Apart: whoever knocks must not hold up what others are told.
        self._doorman = ThreadPoolExecutor(1, thread_name_prefix="live-door")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="live")

    @property
    def open_pages(self) -> int:
        return len(self._streams)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "GET":
            await send_empty(send, 405, {"allow": "GET"})
            return
        try:
            stream = self._enter(await self._listener(scope))
        except JitAccessError as error:
            await send_empty(send, error.http_status)
            return
        except DatabaseTrouble as error:
            log.warning("nobody can listen, because the database cannot be used: %s", error)
            await send_empty(send, 503)
            return
        tasks = [asyncio.create_task(_write(stream, EventStream(send))), asyncio.create_task(disconnected(receive))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._streams.pop(stream, None)
            for task in tasks:
                task.cancel()
            for failed in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(failed, Exception) and not isinstance(failed, ConnectionError):
                    log.error("a page could not be told of changes", exc_info=failed)

    def begin_shutdown(self) -> None:
        """Streams end, for the server's graceful stop would wait for them; nobody else is let in."""
        self._over = True
        for stream in self._streams:
            stream.end()

    async def stop(self) -> None:
        self.begin_shutdown()
        if self._pulse is not None:
            self._pulse.cancel()
            await asyncio.gather(self._pulse, return_exceptions=True)
        if self._wakeups is not None:
            await asyncio.to_thread(self._wakeups.stop)
        for executor in (self._doorman, self._reader):
            with contextlib.suppress(TimeoutError), deadline(1):
                await asyncio.get_running_loop().run_in_executor(executor, _close)
            executor.shutdown(wait=False, cancel_futures=True)

    async def _listener(self, scope: Scope) -> Listener:
        """Whoever asks, when they may. Raises JitAccessError, DatabaseTrouble."""
        topics = _topics(scope["query_string"])
        # Pages of a neighbour's origin come with our cookies, too: they could use up this person's streams.
        if _header(scope, b"sec-fetch-site") not in ("", "same-origin"):
            raise Forbidden("live.other_site", "Only pages of this site are told of changes.")
        cookie = parse_cookie(_header(scope, b"cookie")).get(settings.SESSION_COOKIE_NAME, "")
        self._ensure_room()
        self._opening += 1
        try:
            return await _in(self._doorman, lambda: listener_of(cookie, topics))
        finally:
            self._opening -= 1

    def _enter(self, listener: Listener) -> _Stream:
        self._ensure_room()
        theirs = [stream for stream in self._streams if stream.listener.person == listener.person]
        # The newest is where they look; the oldest may be one that nobody reads any more.
        for stream in theirs[: max(len(theirs) - MOST_OF_ONE + 1, 0)]:
            del self._streams[stream]
            stream.end(enough=True)
        stream = _Stream(listener, asyncio.get_running_loop().time())
        self._streams[stream] = None
        self._begin()
        self._wake.set()
        return stream

    def _ensure_room(self) -> None:
        """Raises Full."""
        most = min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
        if self._over or len(self._streams) >= most or self._opening >= MOST_OPENING:
            raise Full("live.full", "Nobody else can be told of changes now. Try again later.")

    def _begin(self) -> None:
        if self._pulse is None:
            loop = asyncio.get_running_loop()
            self._wakeups = Wakeups(lambda: _on(loop, self._wake.set), channel=LEDGER)
            self._wakeups.start()
            self._pulse = loop.create_task(self._look_again_and_again())

    async def _look_again_and_again(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError), deadline(LOOK_SECONDS):
                await self._wake.wait()
            self._wake.clear()
            try:
                if self._streams:
                    await self._look()
            except Exception as error:  # noqa: BLE001 - what was not found now is found the next time
                log.warning("open pages are told of changes later: %s", error)
            await asyncio.sleep(BETWEEN_LOOKS)

    async def _look(self) -> None:
        streams, moment = {stream.listener: stream for stream in self._streams}, asyncio.get_running_loop().time()
        known = [stream.listener for stream in streams.values() if not stream.fresh]
        fresh = [stream.listener for stream in streams.values() if stream.fresh]
        due = [stream.listener for stream in streams.values() if moment - stream.checked > CHECK_SECONDS]
        found: Look = await _in(self._reader, lambda: look(self._seen, known, fresh, due))
        self._seen = found.upto
        for one, stream in streams.items():
            stream.fresh = False
            if one in found.gone:
                stream.end()
            elif one in found.told:
                stream.tell(found.told[one])
        for one in due:
            streams[one].checked = moment


async def _write(stream: _Stream, out: EventStream) -> None:
    """Until it is over. Raises ConnectionError for a client that does not read."""
    loop = asyncio.get_running_loop()
    ends = loop.time() + LIFE_SECONDS * random.uniform(0.9, 1.1)  # noqa: S311 - to spread them
    async with patience():
        await out.open()
        await out.write(b"retry: %d\r\n\r\n" % random.randint(*RETRY_MS))  # noqa: S311 - as above
    while not stream.over.is_set() and loop.time() < ends:
        with contextlib.suppress(TimeoutError), deadline(ALIVE_SECONDS):
            await stream.wake.wait()
        stream.wake.clear()
        if stream.over.is_set():
            break
        due, stream.due = stream.due, set()
        async with patience():
            await (out.write(_event("changed", " ".join(sorted(due)))) if due else out.keep_alive())
        with contextlib.suppress(TimeoutError), deadline(PAUSE_SECONDS):
            await stream.over.wait()
    async with patience():
        if stream.enough:
            await out.write(_event("enough", "."))
        await out.close()


def _event(name: str, data: str) -> bytes:
    """`data` is of our own making: topics as `topics_of` lets them through hold no line breaks."""
    return f"event: {name}\r\ndata: {data}\r\n\r\n".encode()


def _header(scope: Scope, name: bytes) -> str:
    # HTTP/2 proxies may hand cookies on one by one (RFC 9113, 8.2.3).
    return b"; ".join(value for key, value in scope["headers"] if key == name).decode("latin-1")


def _topics(query: bytes) -> frozenset[str]:
    """Of the query string. Raises Invalid."""
    asked = parse_qs(query.decode("latin-1")).get("topics", []) if len(query) <= MAX_QUERY else []
    if len(asked) != 1:
        raise Invalid("live.topics", "Say once which topics: /live?topics=inbox,grants")
    return topics_of(asked[0])


async def _in(executor: ThreadPoolExecutor, function: Callable[[], T]) -> T:
    def run() -> T:
        close_old_connections()
        try:
            return function()
        except DatabaseTrouble:
            connection.close()  # a broken one must not be the next caller's problem
            raise

    return await asyncio.get_running_loop().run_in_executor(executor, run)


def _close() -> None:
    connection.close()  # of the thread that runs this


def _on(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Call it on `loop`, from any thread; not at all once the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)

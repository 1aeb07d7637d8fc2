"""The catalogue, refreshed in the background: what servers offer is taken over, what changed is quarantined.

One process leads and asks every server now and then. Any process asks a server that told it of a change. Nothing here
decides anything: a tool that is new or changed cannot be called until somebody has reviewed it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

from django.conf import settings
from django.db import DatabaseError, close_old_connections, connections, transaction

from jitaccess.audit.recorder import Actor
from jitaccess.catalog.models import Server, ServerHealth
from jitaccess.catalog.services import import_tools, register_server, server_by_slug
from jitaccess.gateway.seeing.offers import noted
from jitaccess.gateway.upstream.confidence import inert, masked
from jitaccess.gateway.upstream.config import ServerConfig
from jitaccess.gateway.upstream.connection import open_connection
from jitaccess.gateway.upstream.directory import Directory
from jitaccess.gateway.upstream.errors import RemoteError
from jitaccess.kernel.deadline import deadline
from jitaccess.kernel.errors import JitAccessError, Unavailable
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible
from jitaccess.store.clock import now
from jitaccess.store.host_clock import steady
from jitaccess.store.leader import Leadership

log = logging.getLogger("jitaccess.servers")
T = TypeVar("T")

TICK_SECONDS = 1.0
AT_ONCE = 4
LIST_SECONDS = 30.0
DEBOUNCE_SECONDS = 0.5
# However often a server says that its list changed, it is asked no more often than this; the pause doubles each time
# its list really is another, until it stood still for a while: so that nobody's record is filled by a server that never
# does. Whatever it offers last is taken over in the end: every server is asked now and then.
PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 900.0
CALM_SECONDS = 300.0
# Changes in one look after which the longest pause is due at once.
MANY_CHANGES = 100
BACKOFF_SECONDS = 10.0  # after the first failure, doubling
WRITTEN_EVERY = timedelta(seconds=180)
OPERATOR = Actor.system("catalogue")


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server said when it was asked: all of it its own claim."""

    era: str
    name: str
    version: str
    tools: list[JsonObject]
    announces: JsonObject = field(default_factory=dict)


async def ask(config: ServerConfig) -> Offer:
    """Connect, list the tools, and leave. Raises Unavailable with one inert sentence that holds no secret."""
    try:
        connection = await open_connection(config)
        try:
            offered = await connection.list_tools(timeout=LIST_SECONDS)
            # A definition goes to every agent that may see it.
            tools = [tool for one in offered if isinstance(tool := masked(one, config), dict)]
            era, info, announces = connection.era, connection.server_info, noted(connection.capabilities)
        finally:
            await connection.close()
    except (JitAccessError, RemoteError) as error:
        if isinstance(error, RemoteError):
            said = f"It refused to list its tools: {error}"
            raise Unavailable("upstream.invalid_response", inert(said, config)) from error
        hints = {name: error.params[name] for name in ("entry", "setting") if name in error.params}
        raise Unavailable(error.code, inert(error.detail, config), **hints) from error
    return Offer(era, _claim(info.get("name")), _claim(info.get("version")), tools, announces)


def take_over(config: ServerConfig, offer: Offer, *, operator: Actor, register: bool = True) -> dict[str, int]:
    """Bring the catalogue to what the server offers; returns counts by what was done.

    With `register` a server that is not known becomes so; else it must be there. Raises NotFound.
    """
    with transaction.atomic():
        slug = config.slug
        server = register_server(slug=slug, operator=operator) if register else server_by_slug(slug)
        counts = import_tools(server=server, definitions=offer.tools, operator=operator)
        _note_health(server, ok=True, detail="", offer=offer)
    return counts


def note_failure(slug: str, detail: str) -> None:
    """Keep for people that a server could not be asked."""
    server = Server.objects.filter(slug=slug).first()
    if server is not None:
        _note_health(server, ok=False, detail=detail, offer=None)


def _note_health(server: Server, *, ok: bool, detail: str, offer: Offer | None) -> None:
    """Written when something is different, and otherwise seldom: many processes may look, and a write is a write."""
    known = ServerHealth.objects.filter(pk=server.pk).first()
    state: dict[str, Any] = {"ok": ok, "detail": detail}
    if offer is not None:  # a failure leaves what was known before
        state |= {
            "era": offer.era[:20],
            "tools": len(offer.tools),
            "reported_name": offer.name,
            "reported_version": offer.version,
            "announces": offer.announces,
        }
    moment = now()
    same = known is not None and all(getattr(known, name) == value for name, value in state.items())
    if not same or known is None or moment - known.checked_at > WRITTEN_EVERY:
        ServerHealth.objects.update_or_create(server=server, defaults=state | {"checked_at": moment})


@dataclass(slots=True)
class _State:
    """One server as this process sees it. Times are those of the steady clock."""

    config: ServerConfig
    due: float
    told: float | None = None
    asked: float = float("-inf")
    pause: float = field(default_factory=lambda: PAUSE_SECONDS)
    names: frozenset[str] | None = None
    moved: float = float("-inf")
    failures: int = 0
    trouble: str = ""
    task: asyncio.Task[None] | None = None


class Catalogue:
    """The watcher of one gateway process: follows the directory and keeps the catalogue fresh. One event loop's."""

    def __init__(self, directory: Directory, *, seconds: float | None = None) -> None:
        """`seconds` between two looks at a server; JITACCESS_CATALOGUE_SECONDS unless given."""
        self._directory = directory
        self._seconds = settings.CATALOGUE_SECONDS if seconds is None else seconds
        self._states: dict[str, _State] = {}
        self._wake = asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._leadership = Leadership("catalogue")
        # Of its own: a leadership belongs to one thread, and following must not wait behind clients.
        self._own = ThreadPoolExecutor(1, thread_name_prefix="catalogue")

    def heard(self, slug: str, _principal: str | None, method: str, _params: JsonObject) -> None:
        """A server said something, in whatever connection. Soon it is asked, once, for many such words."""
        state = self._states.get(slug)
        if method == "notifications/tools/list_changed" and state is not None and state.told is None:
            state.told = max(steady() + DEBOUNCE_SECONDS, state.asked + state.pause)
            self._wake.set()

    async def follow(self) -> None:
        """Look at the operator's file and the rows now. Raises DatabaseError."""
        await self._in_own_thread(self._directory.follow)

    async def run(self, db: Callable[..., Awaitable[Any]]) -> None:
        """Until cancelled. `db` runs a function with a database connection in another thread."""
        try:
            while True:
                await self._tick(db)
                with contextlib.suppress(TimeoutError), deadline(self._pause()):
                    await self._wake.wait()
                self._wake.clear()
        finally:
            await self._end()

    async def _tick(self, db: Callable[..., Awaitable[Any]]) -> None:
        try:
            await self.follow()
            leads = await self._in_own_thread(self._leadership.held)
        except Exception as error:  # noqa: BLE001 - a watcher that dies would leave the catalogue as it is for ever
            log.warning("the servers will be looked up again: %s", error)
            return
        self._match()
        moment = steady()
        for state in self._states.values():
            told = state.told is not None and state.told <= moment
            if state.task is None and (told or (leads and state.due <= moment)):
                state.told = None
                state.task = asyncio.create_task(self._refresh(state, db))

    def _match(self) -> None:
        """New and changed servers are asked at once; those that are gone, no more."""
        configs = self._directory.all()
        for slug in self._states.keys() - configs.keys():
            if task := self._states.pop(slug).task:
                task.cancel()
        for slug, config in configs.items():
            state = self._states.get(slug)
            if state is None:
                self._states[slug] = _State(config, due=steady())
            elif state.config != config:
                state.config, state.due, state.failures = config, steady(), 0

    def _pause(self) -> float:
        """Seconds until something may be due, at most a tick."""
        moment = steady()
        waiting = [state.told - moment for state in self._states.values() if state.told is not None and not state.task]
        return max(min([TICK_SECONDS, *waiting]), 0.01)

    async def _refresh(self, state: _State, db: Callable[..., Awaitable[Any]]) -> None:
        """One that is down, slow or wrong harms only itself: its tools stay as they are known."""
        config = state.config
        try:
            async with self._slots:
                state.asked = steady()
                offer = await ask(config)
                # A row that was removed meanwhile must not come back; what the operator's file names, is there.
                register = self._directory.in_file(config.slug)
                counts = await db(take_over, config, offer, operator=OPERATOR, register=register)
            self._succeeded(state, counts, frozenset(str(tool.get("name")) for tool in offer.tools))
        except DatabaseError as error:
            self._failed(state, f"its tools cannot be written down: {error}")
        except JitAccessError as error:
            self._failed(state, error.detail)
            with contextlib.suppress(Exception):  # it is for people only, and tried again
                await db(note_failure, config.slug, error.detail)
        except Exception as error:  # whatever a server made us stumble over
            log.exception("server %s: its tools cannot be taken over", config.slug)
            self._failed(state, inert(f"{type(error).__name__}: {error}", config))
        finally:
            state.task = None
            if state.config != config:
                state.due = steady()

    def _succeeded(self, state: _State, counts: dict[str, int], names: frozenset[str]) -> None:
        """`names` of all that it offers: what is refused each time under another name, is on record each time."""
        slug = state.config.slug
        if state.trouble:
            log.info("server %s: reachable again", slug)
        if done := [f"{count} {what}" for what, count in counts.items() if count]:
            log.info("server %s: tools %s", slug, ", ".join(done))
        known, state.names = state.names, names
        moves = 0 if known is None else len(names - known)
        moves = max(moves, counts["imported"] + counts["changed"] + counts["removed"])
        if moves and known is not None:
            state.moved = steady()
            state.pause = min(state.pause * 2 if moves < MANY_CHANGES else math.inf, LONGEST_PAUSE_SECONDS)
        elif steady() - state.moved >= CALM_SECONDS:
            state.pause = PAUSE_SECONDS
        state.trouble, state.failures, state.due = "", 0, steady() + max(self._seconds, state.pause)

    def _failed(self, state: _State, detail: str) -> None:
        """One line when it goes wrong, none for each try."""
        state.failures += 1
        state.due = steady() + min(self._seconds, BACKOFF_SECONDS * 2 ** min(state.failures - 1, 16))
        if not state.trouble:
            log.warning("server %s: %s", state.config.slug, visible(detail, limit=500))
        state.trouble = detail

    async def _end(self) -> None:
        tasks = [state.task for state in self._states.values() if state.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._own.submit(self._leadership.give_up)
        self._own.submit(connections.close_all)
        self._own.shutdown(wait=False)

    async def _in_own_thread(self, function: Callable[[], T]) -> T:
        def run() -> T:
            close_old_connections()
            return function()

        return await asyncio.get_running_loop().run_in_executor(self._own, run)


def _claim(value: Json) -> str:
    return visible(value, limit=100) if isinstance(value, str) else ""

"""One gateway process: its snapshot, admission, upstream children, open streams, and its lease."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import os
import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from uuid import UUID

import msgspec
from django.db import close_old_connections, connections

from jitaccess.gateway.calling.running import RunningCalls
from jitaccess.gateway.known import KnownTokens
from jitaccess.gateway.limits import Limits
from jitaccess.gateway.recording import instances
from jitaccess.gateway.recording.admission import Admission
from jitaccess.gateway.recording.clock_guard import ClockGuard
from jitaccess.gateway.recording.continuations import forget_old_continuations
from jitaccess.gateway.recording.refusals import write_down_refusals
from jitaccess.gateway.seeing.catalogue import Catalogue, note_failure
from jitaccess.gateway.seeing.offers import OWN, Offers
from jitaccess.gateway.seeing.streams import RESOURCES, TOOLS, Streams
from jitaccess.gateway.seeing.subscribing import Subscriptions
from jitaccess.gateway.seeing.waits import Waits
from jitaccess.gateway.seeing.watches import Watches
from jitaccess.gateway.sessions import EndedSessions
from jitaccess.gateway.talking.asking import Questions
from jitaccess.gateway.talking.caller import Levels
from jitaccess.gateway.talking.mail import Postbox, sweep
from jitaccess.gateway.talking.parked import ParkedCalls
from jitaccess.gateway.upstream.config import ServerConfig
from jitaccess.gateway.upstream.pool import Pool
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import authenticate, ended_tokens, revoked_since
from jitaccess.kernel.deadline import deadline
from jitaccess.kernel.errors import Forbidden
from jitaccess.kernel.ids import token_hash
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.decide import reachable
from jitaccess.policy.engine.rules import Snapshot, Subject
from jitaccess.policy.snapshots import SnapshotStore, counted
from jitaccess.store.host_clock import steady
from jitaccess.store.threads import close_connections
from jitaccess.store.wakeups import Wakeups
from requests_app.selectors import still_open

if TYPE_CHECKING:
    from jitaccess.gateway.calling.short import ShortWay
    from jitaccess.gateway.talking.elsewhere import Elsewhere

log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")

DB_THREADS, OWN_THREADS, BETWEEN_CHECKS = 8, 4, 0.01
POLL_SECONDS = float(os.environ.get("JITACCESS_TEST_POLL_SECONDS", "1"))  # tests see then what wake-ups do alone
HOUSEKEEPING_SECONDS = 5.0
RENEW_SECONDS = 300.0
# Longer than a transaction may last that revokes a token.
REVOKED_WITHIN = timedelta(minutes=10)
END_SECONDS = 2.0  # a lease that is not ended runs out


class Clock(msgspec.Struct, frozen=True):
    """The database's clock as last read, carried on by the steady one. For lists and streams, never for calls."""

    at: datetime
    read: float

    def now(self) -> datetime:
        return self.at + timedelta(seconds=steady() - self.read)


# Policy and the clock, as somebody has just read them.
Seen = tuple[Snapshot, Clock]


@dataclass(slots=True)
class Gateway:
    """Composed in `start`, taken apart in `stop`; everything belongs to one event loop.

    `servers` maps a slug to how that server is started; a call may take `call_timeout`
    seconds, None: what the options of its server say.
    """

    servers: Callable[[str], ServerConfig | None]
    alone: bool = False
    call_timeout: float | None = None
    catalogue: Catalogue | None = None
    store: SnapshotStore = field(default_factory=SnapshotStore)
    streams: Streams = field(default_factory=Streams)
    offers: Offers = field(default_factory=Offers)
    guard: ClockGuard = field(default_factory=ClockGuard)
    known: KnownTokens = field(default_factory=KnownTokens)
    in_flight: dict[tuple[str, str, str], asyncio.Task[None]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits.configured)
    large: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    waits: Waits = field(default_factory=Waits)
    mail: Postbox = field(default_factory=Postbox)
    elsewhere: Elsewhere = field(init=False)
    questions: Questions = field(default_factory=Questions)
    levels: Levels = field(default_factory=Levels)
    ended: EndedSessions = field(default_factory=EndedSessions)
    calls: RunningCalls = field(init=False)
    parked: ParkedCalls = field(init=False)
    short: ShortWay = field(init=False)  # of its application
    over: bool = False
    instance: UUID = field(init=False)
    admission: Admission = field(init=False)
    pool: Pool = field(init=False)
    watches: Watches = field(init=False)
    subscriptions: Subscriptions = field(init=False)
    _executor: ThreadPoolExecutor = field(init=False)
    _own: ThreadPoolExecutor = field(init=False)
    _wakeups: Wakeups = field(init=False)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _notes: set[asyncio.Task[None]] = field(default_factory=set)
    _running: bool = False
    _over: threading.Event = field(default_factory=threading.Event)
    known_clock: Clock | None = None  # the database's as last read

    async def start(self) -> None:
        """Enter this process, start the batch writer and the watchers. Raises when the database cannot be used."""
        self._executor = ThreadPoolExecutor(max_workers=DB_THREADS, thread_name_prefix="gateway-db")
        # Lease and watcher must not wait behind clients: others would take this process for dead.
        self._own = ThreadPoolExecutor(max_workers=OWN_THREADS, thread_name_prefix="gateway-own")
        self.instance = await self.db(instances.register_instance)
        if self.alone:
            await self.db(instances.end_other_leases, self.instance)
        await self.db(lambda: self.store.current)
        self.admission = Admission(self.store, self.instance, self.guard)
        self.admission.start()
        await self.admission.start_lane(lambda: self._run(self._own, self.store.newest, at_once=True))
        self.pool = Pool(self.servers, on_notification=self._heard, on_trouble=self._note_trouble)
        self.watches = Watches(self.pool, self._lists_changed)
        self.subscriptions = Subscriptions(self)
        self.calls = RunningCalls(self.store)
        self.parked = ParkedCalls(self.calls)
        self._running = True
        loop = asyncio.get_running_loop()
        self._wakeups = Wakeups(lambda: _on(loop, self._woken))
        self._wakeups.start()
        self._tasks = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._keep_house()),
            asyncio.create_task(self._renew_policy()),
            asyncio.create_task(self.streams.beat()),
        ]
        if self.catalogue is not None:
            self._tasks.append(asyncio.create_task(self.catalogue.run(self.db)))

    async def stop(self) -> None:
        """End streams, the calls that the server's graceful stop has left, children; write what is owed."""
        self.begin_shutdown()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.short.stop()
        calls = list(self.in_flight.values())
        self.cut()
        # What they owe the ledger must be with the batch writer before it stops.
        await asyncio.gather(*calls, return_exceptions=True)
        await self.parked.close()
        await self.watches.close()
        await asyncio.gather(self.pool.close(), asyncio.to_thread(self._wakeups.stop))
        await self.admission.stop_lane()
        await asyncio.to_thread(self.admission.stop)
        await asyncio.to_thread(self.admission.write_left)
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.db(instances.end_lease, self.instance), END_SECONDS)
        executors = {self._executor: DB_THREADS, self._own: OWN_THREADS}
        await asyncio.gather(*(close_connections(executor, threads) for executor, threads in executors.items()))
        for executor in executors:
            executor.shutdown(wait=False, cancel_futures=True)

    def begin_shutdown(self) -> None:
        """Streams end first: an open one would hold the server's graceful stop until its timeout."""
        self._running = False
        self._over.set()
        self.short.close()
        self.streams.shut()
        self.waits.end()

    def cut(self) -> None:
        """Cancel the calls that have not ended in the time they were given: their clients are told, and the ledger."""
        self.over = True
        self.short.turn_all()  # which are cancelled as they begin the long way
        for call in list(self.in_flight.values()):
            call.cancel()

    def cancel(self, key: tuple[str, str, str]) -> bool:
        """Cancel the call of this principal, session and id; False when there is none here."""
        task = self.in_flight.get(key)
        return task is not None and task.cancel()

    @property
    def running(self) -> bool:
        return self._running

    async def db(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` with a database connection of this process's pool of threads."""
        return await self._run(self._executor, lambda: function(*args, **kwargs))

    async def _run(self, executor: ThreadPoolExecutor, function: Callable[[], T], *, at_once: bool = False) -> T:
        """`at_once`: without a look whether the connection is good, where others find out when it was not."""

        def run() -> T:
            if not at_once:
                close_old_connections()
            try:
                return function()
            except Exception:
                # A broken connection must not be the next caller's problem.
                if connections["default"].connection is not None and not connections["default"].is_usable():
                    connections["default"].close()
                raise

        # With the context: what is logged there says of which request it is.
        return await asyncio.get_running_loop().run_in_executor(executor, contextvars.copy_context().run, run)

    @property
    def clock(self) -> Clock:
        """The database's clock as this process last read it, or its own before that."""
        return self.known_clock or Clock(datetime.now(UTC), steady())

    def _heard(self, slug: str, principal: str | None, method: str, params: JsonObject) -> None:
        """A server said something, on a connection of this principal or (None) of everybody's."""
        if self.catalogue is not None:
            self.catalogue.heard(slug, principal, method, params)
        self.watches.heard(slug, principal, method, params)
        server = self.store.current.server_by_slug(slug) if method == TOOLS else None
        if server is not None and server.options.accept_definitions:
            # What a trusted server says is passed on as it comes, and told again once the catalogue has its new tools.
            self._lists_changed(slug, None if principal == OWN else principal, TOOLS)

    def _lists_changed(self, slug: str, principal: str | None, method: str) -> None:
        """A list that is read anew each time has changed: tell those who listen, and may know of the server."""
        snapshot = self.store.current
        server = snapshot.server_by_slug(slug)
        if server is None:
            return
        for group in (*self.streams.at(server.id), *(self.streams.at(None) if method != RESOURCES else ())):
            if principal in (None, group.key) and reachable(snapshot, who=group.who, server=server):
                group.tell(method)

    async def identify(self, token: str, *, source: str) -> tuple[Principal, Seen]:
        """Whose token it is, and policy as it is now. Raises Forbidden."""

        def read() -> tuple[Principal, Seen]:
            principal = authenticate(token, source=source)
            return principal, self._look([principal])

        known = self.known.find(token, source=source)
        if known is not None and (as_it_is := await self._quick_look(known)) is not None:
            return known, as_it_is
        try:
            principal, seen = await self.db(read)
        except Forbidden:
            self.known.forget(token_hash(token))
            raise
        self.known.remember(principal)
        return principal, seen

    async def _quick_look(self, principal: Principal) -> Seen | None:
        """What `_look` would read, if this process has that policy already, the principal's token is good, and none of
        its uses are counted.
        """
        now = await self.admission.look(principal.token_hash)
        snapshot = self.store.current
        if now is None or now.stamp != snapshot.stamp:
            return None
        if counted(snapshot, [Subject(agent=principal.agent, user=principal.user)], now.clock):
            return None
        self.known_clock = Clock(now.clock, steady())
        return snapshot, self.known_clock

    def recognize(self, token: str, *, source: str) -> tuple[Principal, Seen] | None:
        """Whose token it was within the last minute, and policy as this process knows it: for calls, which are decided
        with their token and policy as they are then. None for a token that has to be asked about.
        """
        principal = self.known.find(token, source=source)
        return (principal, (self.store.current, self.known_clock)) if principal and self.known_clock else None

    async def look(self, principal: Principal) -> Seen:
        """The newest snapshot and the clock, read from the database now: what this principal's lists are made from."""
        return await self.db(self._look, [principal])

    def _look(self, principals: Iterable[Principal]) -> Seen:
        read = steady()
        snapshot, clock = self.store.look(*{Subject(agent=one.agent, user=one.user) for one in principals})
        self.known_clock = Clock(clock, read)
        return snapshot, self.known_clock

    def _woken(self) -> None:
        self.admission.policy_moved()
        self.streams.wake.set()

    async def _watch(self) -> None:
        """Tell open streams what changed: each second, at the next edge of a binding, and when somebody wakes us."""
        while True:
            check = asyncio.create_task(self._check_streams())
            # A database that hangs is as far away as one that refuses: streams must not wait for its answer.
            while not (await asyncio.wait({check}, timeout=POLL_SECONDS))[0]:
                self.streams.check_failed()
            try:
                pause = check.result()
            except Exception as error:  # noqa: BLE001 - a watcher that dies would leave streams open for ever
                log.warning("cannot check policy: %s", error)
                self.streams.check_failed()
                pause = POLL_SECONDS
            # Whoever wakes us all the time must not keep us checking all the time.
            await asyncio.sleep(BETWEEN_CHECKS)
            # Not wait_for: until Python 3.12 it swallows a cancellation at the very moment of the wake-up.
            with contextlib.suppress(TimeoutError), deadline(max(pause - BETWEEN_CHECKS, 0.0)):
                await self.streams.wake.wait()
            self.streams.wake.clear()

    async def _check_streams(self) -> float:
        """Returns after how many seconds to look again."""
        limited, tokens, waited = self.streams.limited(), self.streams.tokens(), self.waits.requests()
        many = self.streams.many

        def read() -> tuple[Seen, set[str], list[JsonObject], set[UUID]]:
            seen = self._look(limited)
            # Who is not among those whose turn it is would be found late.
            revoked = revoked_since(seen[1].at - REVOKED_WITHIN) if many else set[str]()
            return seen, ended_tokens(tokens) | revoked, self.mail.take(self.instance), still_open(waited)

        (snapshot, clock), ended, mail, open_ = await self._run(self._own, read)
        self.mail.deliver(mail)
        self.waits.settle(waited, open_)
        self.short.check(snapshot, clock.now())
        self.calls.check(snapshot, clock.now())
        edge = await self.streams.refresh(snapshot, clock.now(), ended)
        self.subscriptions.sweep(snapshot, clock.now())
        self.watches.tend()
        if edge is None:
            return POLL_SECONDS
        return min(POLL_SECONDS, max((edge - clock.now()).total_seconds(), 0.0) + 0.002)

    def _renew_lease(self) -> None:
        asked = steady()
        if not instances.renew_lease(self.instance):
            log.warning("this gateway lost its lease and enters again")
            self.admission.lease_until = 0.0  # until then it admits nothing
            self.instance = self.admission.instance = instances.enter_again(self.instance)
        self.admission.lease_until = asked + instances.LEASE.total_seconds()

    async def _keep_house(self) -> None:
        chores: tuple[Callable[[], object], ...] = (
            self._renew_lease,
            lambda: instances.close_abandoned_calls(own=self.instance),
            write_down_refusals,
            self.guard.watch,
            instances.forget_old_instances,
            forget_old_continuations,
            sweep,
        )
        while True:
            for chore in chores:
                await self._try(chore)
            await self.pool.reap_idle()
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    async def _renew_policy(self) -> None:
        """By itself: with very much of it the lease would run out meanwhile."""
        while True:
            await asyncio.sleep(RENEW_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - not all processes at once
            await self._try(lambda: self.store.renew(self._over))

    def _note_trouble(self, slug: str, why: str) -> None:
        """A server is left alone for a while: kept for people, who see it in the admin and by `servers doctor`."""
        task = asyncio.get_running_loop().create_task(self._try(lambda: note_failure(slug, why)))
        self._notes.add(task)
        task.add_done_callback(self._notes.discard)

    async def _try(self, chore: Callable[[], object]) -> None:
        """One that fails is tried again next time, and stops none of the others."""
        try:
            await self._run(self._own, chore)
        except Exception as error:  # noqa: BLE001 - as above
            log.warning("housekeeping will be tried again: %s", error)


def _on(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    """Call it on `loop`, from any thread; not at all once the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function)

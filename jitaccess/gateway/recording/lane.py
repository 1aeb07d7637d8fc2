"""The quick way onto the record, on PostgreSQL: calls that this process's policy lets through, on the event loop.

They are decided before they are written, by policy and clock as this process knows them, and written in one statement
on the condition that both are still so: the version is in force, every token is good, and the clock has not reached a
moment at which one of the decisions could be another. When it is not so nothing is written. Where policy has moved on,
they wait until this process has caught up, and are decided anew. Otherwise, and for whatever needs more than that
(refusals, counted uses, continuations, conditions about the time), the batch writer's thread does it: see batch.py.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar
from uuid import UUID

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import count_events
from jitaccess.gateway.recording.facts import FORWARD_WITHIN, Admitted, Ending, UnheardCommit, Waiting
from jitaccess.gateway.recording.following import Following
from jitaccess.gateway.recording.packet import Batch, Packet, packet_statement, question
from jitaccess.kernel.steps import step
from jitaccess.policy.compiler import HEAD, Head, head_of
from jitaccess.policy.snapshots import SnapshotStore
from jitaccess.store import byhand
from jitaccess.store.byhand import Result
from jitaccess.store.host_clock import steady
from jitaccess.store.onloop import Gone, Session, Statement, Told

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_BATCH = 256
# How long the end of a call waits for a call with which it shares a commit.
ENDS_WAIT = 0.02
# A database that says nothing for so long is believed to be away.
SILENT_SECONDS = 10.0
# How often a call is tried here while policy moves on again and again. The batch writer ends with a try that nothing
# overtakes.
TRIES = 4


@dataclass(slots=True)
class _Asking:
    """Somebody who wants to know whether a token is good, and what is in force."""

    hashed: str
    future: asyncio.Future[Head | None]


class Lane:
    """One session and one packet at a time. Belongs to an event loop; nothing here ever waits.

    What it cannot do goes to `calls_left` and `ends_left`, in whose turn it then is; `unheard` gets calls of which
    nobody knows whether they are on record. `catch_up` brings the store to the policy in force.
    """

    def __init__(
        self,
        *,
        store: SnapshotStore,
        instance: Callable[[], UUID],
        lease_until: Callable[[], float],
        answer: Callable[[Sequence[Waiting], Sequence[Admitted]], None],
        calls_left: Callable[[Sequence[Waiting]], None],
        ends_left: Callable[[Sequence[Ending]], None],
        unheard: Callable[[Sequence[Waiting], UnheardCommit], None],
        catch_up: Callable[[], Awaitable[object]],
    ) -> None:
        self._store, self._instance, self._lease_until = store, instance, lease_until
        self._answer, self._calls_left, self._ends_left, self._unheard = answer, calls_left, ends_left, unheard
        self._loop = asyncio.get_running_loop()
        self._session: Session | None = None
        self._packet, self._ask = packet_statement(), question()
        self._asking: list[_Asking] = []
        self._waiting: list[Waiting] = []
        self._endings: list[Ending] = []
        self._clock: tuple[datetime, float] | None = None
        self.policy = Following(store, catch_up, then=self._soon)
        self._due: asyncio.Handle | None = None
        self._ends_due: asyncio.TimerHandle | None = None
        self._silent: asyncio.TimerHandle | None = None

    @property
    def open(self) -> bool:
        """Whether it takes anything."""
        return self._session is not None

    def begin(self, raw: object) -> None:
        """Use this session, of `onloop.connect`."""
        self._session, self._clock = Session(raw, self._lost), None
        self._send([(HEAD, ())], self._told_time)

    def close(self) -> None:
        """Leave the rest to the batch writer. Of what is under way nobody will know: to be called when nothing is."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self.policy.close()
        self._leave()

    async def idle(self) -> None:
        """Return when nothing is under way."""
        while self._session is not None and (self._session.busy or self._waiting or self._endings):
            self._soon()
            await asyncio.sleep(0.001)

    def enter(self, waiting: Waiting) -> None:
        """Let this call through, or leave it to the batch writer. Only while `open`."""
        self._waiting.append(waiting)
        if self._due is None:
            self._soon()

    def end(self, ending: Ending) -> None:
        """Put the end of a call on record, with the calls that come soon. Only while `open`."""
        self._endings.append(ending)
        if len(self._endings) >= MAX_BATCH:
            self._soon()
        elif self._ends_due is None:
            self._ends_due = self._loop.call_later(ENDS_WAIT, self._waited)

    async def look(self, hashed: str) -> Head | None:
        """Policy and clock as they are now, if the token of this hash is good. None: it is not, or that cannot be said
        here.
        """
        if self._session is None:
            return None
        one = _Asking(hashed, self._loop.create_future())
        self._asking.append(one)
        self._soon()
        return await one.future

    def _waited(self) -> None:
        self._ends_due = None
        self._soon()

    def _soon(self) -> None:
        """In the next round of the event loop, so that all who came in this one go together."""
        if self._due is None and self._session is not None and not self._session.busy:
            self._due = self._loop.call_soon(self._go)

    def _go(self) -> None:
        """Send what waits. What cannot be sent is left to the batch writer."""
        self._due = None
        if self._session is None or self._session.busy:
            return
        if self._ends_due is not None:
            self._ends_due.cancel()
            self._ends_due = None
        calls, self._waiting = ([], self._waiting) if self.policy.behind else _parted(self._waiting)
        endings, self._endings = _parted(self._endings)
        asking, self._asking = self._asking, []
        try:
            packet, left, statements = self._packed(calls, endings, asking)
        except Exception:
            log.exception("a packet could not be made; the batch writer sees what is wrong")
            _tell(asking, None)
            self._ends_left(endings)
            self._calls_left(calls)
            if self._waiting or self._endings:
                self._soon()
            return
        self._calls_left(left)
        if not statements:
            if self._waiting and not self.policy.behind:
                self._soon()
            return
        if packet.batch is not None:
            step("admit.decided")
        self._send(statements, lambda results, error: self._heard(packet, asking, results, error))
        if packet.batch is not None:
            step("admit.written")
        if packet.endings:
            step("complete.written")

    def _packed(
        self, calls: Sequence[Waiting], endings: Sequence[Ending], asking: Sequence[_Asking]
    ) -> tuple[Packet, Sequence[Waiting], list[Statement]]:
        """What is decided here, which calls are not, and the statements, in the order in which `_heard` expects what
        they give.
        """
        statements = [*self._questions(asking)]
        packet = Packet(endings, self._instance())
        packet.batch, left = self._decided(calls)
        if packet.batch is not None or endings:
            statements.append((self._packet, packet.parameters()))
        return packet, left, statements

    def _questions(self, asking: Sequence[_Asking]) -> Iterator[Statement]:
        if asking:
            yield self._ask, (byhand.array(tuple({one.hashed for one in asking}), quoted=True),)

    def _decided(self, calls: Sequence[Waiting]) -> tuple[Batch | None, Sequence[Waiting]]:
        """Those that are let through by what this process knows, and the others, which are left to the batch writer."""
        if not calls:
            return None, ()
        read_at, snapshot = steady(), self._store.current
        clock = self._clock
        if clock is None or self.policy.was_overtaken(snapshot.stamp) or read_at + FORWARD_WITHIN > self._lease_until():
            return None, calls
        batch = Batch(snapshot, clock[0] + timedelta(seconds=read_at - clock[1]), read_at, self._instance())
        left = [one for one in calls if not batch.take(one)]
        return (batch if batch.calls else None), left

    def _send(self, statements: Sequence[Statement], told: Told) -> None:
        assert self._session is not None
        self._silent = self._loop.call_later(SILENT_SECONDS, self._session.give_up)
        self._session.send(statements, told)

    def _told_time(self, results: list[Result] | None, _: Exception | None) -> None:
        self._answered()
        if results is not None:
            self._clock = head_of(results[-1].rows[0]).clock, steady()
            self._soon()
        elif self._session is not None:
            self._session.give_up()  # without the time nothing can be decided here: another session may tell it

    def _answered(self) -> None:
        if self._silent is not None:
            self._silent.cancel()
            self._silent = None

    def _heard(
        self,
        packet: Packet,
        asking: list[_Asking],
        results: list[Result] | None,
        error: Exception | None,
    ) -> None:
        """What the database said of a packet. The next one goes out before anybody is told of this one, for they are
        busy then, and the database is not.
        """
        self._answered()
        let_through, batch = None, packet.batch
        if batch is not None and results is not None:
            step("admit.committed")
            try:
                let_through = self._learned(batch, results[-1])
            except Exception as unreadable:
                log.exception("what the database said of a packet could not be read")
                results, error = None, Gone(str(unreadable))
        self._go_on()
        try:
            if asking:
                _tell(asking, results[0] if results is not None else None)
            if results is None:
                self._failed(packet, error)
            else:
                self._ended(packet.endings)
                if batch is not None:
                    self._told(batch, let_through)
        except Exception:
            log.exception("those who wait for a packet could not be told of it")
            _tell(asking, None)
            self._ends_left(packet.endings)  # a second time says nothing new
            if batch is not None:
                answers = [
                    answer
                    for answer, one in zip(batch.answers(batch.at), batch.calls, strict=True)
                    if not one.future.done()
                ]
                self._unheard([one for one in batch.calls if not one.future.done()], UnheardCommit(answers))
        self._go_on()
        if self._endings and self._ends_due is None and self._session is not None and not self._session.busy:
            self._ends_due = self._loop.call_later(ENDS_WAIT, self._waited)

    def _go_on(self) -> None:
        """At once: whoever waits has waited for this one. Whatever comes of it, that one is told, too."""
        try:
            if (self._waiting and not self.policy.behind) or self._asking or len(self._endings) >= MAX_BATCH:
                self._go()
        except Exception:
            log.exception("a packet could not be sent")

    def _learned(self, batch: Batch, result: Result) -> datetime | None:
        """The clock at which the calls of this packet were let through, if they were. Policy and time are known from
        here on as it found them.
        """
        version, stamp, clock, written = result.rows[0]
        now = head_of((version, stamp, clock))
        self._clock = now.clock, steady()
        if written == "1":
            return now.clock
        # Newer policy, a token that has ended, or a time at which it is another decision.
        if now.stamp != batch.snapshot.stamp:
            self.policy.overtaken(batch.snapshot.stamp)
        return None

    def _told(self, batch: Batch, clock: datetime | None) -> None:
        if clock is None:
            self._not_let_through(batch)
            return
        count_events({Event.CALL_AUTHORIZED: len(batch.calls)})
        self._answer(batch.calls, batch.answers(clock))

    def _not_let_through(self, batch: Batch) -> None:
        """Where policy has moved on they are decided anew, before those that came later."""
        again = list[Waiting]()
        if self.policy.was_overtaken(batch.snapshot.stamp) and self._session is not None:
            for one in batch.calls:
                one.tries += 1
            again = [one for one in batch.calls if one.tries < TRIES]
        self._waiting[:0] = again
        self._calls_left([one for one in batch.calls if one.tries >= TRIES] if again else batch.calls)

    def _ended(self, endings: Sequence[Ending]) -> None:
        if endings:
            step("complete.committed")
            count_events(Counter(one.event for one in endings))

    def _failed(self, packet: Packet, error: Exception | None) -> None:
        """Ends are tried again by the batch writer: a second time says nothing new. It may be one of theirs that was
        closed as unknown, or has an end already: then it says which.
        """
        self._ends_left(packet.endings)
        batch = packet.batch
        if batch is None:
            return
        if isinstance(error, Gone):
            self._unheard(batch.calls, UnheardCommit(batch.answers(batch.at)))
        else:
            log.warning("%d calls are tried one by one: %s", len(batch.calls), error)
            self._calls_left(batch.calls)

    def _lost(self) -> None:
        """The session has ended by itself; another is begun by whoever looks after this one."""
        self._session = None
        self._leave()

    def _leave(self) -> None:
        calls, self._waiting = self._waiting, []
        endings, self._endings = self._endings, []
        for timer in (self._due, self._ends_due, self._silent):
            if timer is not None:
                timer.cancel()
        self._due = self._ends_due = self._silent = None
        asking, self._asking = self._asking, []
        _tell(asking, None)
        self._calls_left(calls)
        self._ends_left(endings)


def _parted(waiting: list[T]) -> tuple[list[T], list[T]]:
    """Those of the next packet, and the others."""
    return waiting[:MAX_BATCH], waiting[MAX_BATCH:]


def _tell(asking: Sequence[_Asking], result: Result | None) -> None:
    now, good = None, frozenset[str]()
    if result is not None:
        (*head, hashes) = result.rows[0]
        now, good = head_of(head), frozenset(hashes.split())
    for one in asking:
        if not one.future.done():
            one.future.set_result(now if one.hashed in good else None)

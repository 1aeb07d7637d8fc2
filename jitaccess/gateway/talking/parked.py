"""Calls that wait in the middle: a server of the older era asks, while its client of the newer era has to be answered.

The call stays under way at the server, in this process. Its client is given the questions as the answer, and goes on by
calling again with what was sealed for it. What nobody goes on with is cancelled, and on record.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from jitaccess.gateway.calling.forwarding import Forwarding
from jitaccess.gateway.calling.running import RunningCall, RunningCalls
from jitaccess.gateway.recording.facts import Admitted
from jitaccess.gateway.talking.asking import ABANDONED_SECONDS, lacking
from jitaccess.gateway.talking.rounds import Subject, Turn, Wanted
from jitaccess.gateway.upstream.errors import RemoteError
from jitaccess.gateway.wire import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError
from jitaccess.kernel.strictjson import Json, JsonObject

if TYPE_CHECKING:
    from jitaccess.gateway.calling.call import Call

PARK_SECONDS = 300.0
# Of one principal, and of all, in one process.
MAX_OF_ONE = 8
MAX_PARKED = 256


class ParkedCall:
    """One call under way. `attached`: a request of its client waits for what comes next."""

    def __init__(self, calls: ParkedCalls, forwarding: Forwarding, subject: Subject) -> None:
        self.name = uuid4()
        self.subject = subject
        self.forwarding = forwarding
        self.attached = True
        self.number = 0
        self.since = 0.0
        self._calls = calls
        self._questions: dict[str, tuple[JsonObject, asyncio.Future[JsonObject]]] = {}
        self._asked = asyncio.Event()
        self._count = 0
        self._running: RunningCall | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._work = asyncio.create_task(self._run())

    async def next(self) -> JsonObject | Wanted:
        """The result, or what the server asks. A client that leaves meanwhile takes the call with it.

        Raises as Forwarding.failed.
        """
        asked = asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait({self._work, asked}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError as error:
            await self._end()
            return self.forwarding.failed(error)
        finally:
            asked.cancel()
        if self._work.done():
            return self._outcome()
        return Wanted({key: question for key, (question, _) in self._questions.items()})

    @property
    def under_way(self) -> bool:
        return not self._work.done()

    @property
    def asks(self) -> list[Json]:
        """The methods of what it asks now."""
        return [question["method"] for question, _ in self._questions.values()]

    def park(self, number: int) -> None:
        """Its client is about to be told what is asked: wait for it to come back with the round of this number."""
        loop = asyncio.get_running_loop()
        self.attached, self.number, self.since = False, number, loop.time()
        self._timer = loop.call_later(PARK_SECONDS, self.give_up, "nobody answered the server")
        self._calls.keep(self)
        self._work.add_done_callback(self._ended_alone)

    def attach(self) -> None:
        """Its client is back. What it then waits for is `next`."""
        self.attached = True
        self._calls.forget(self)
        self._work.remove_done_callback(self._ended_alone)
        if self._timer is not None:
            self._timer.cancel()

    def go_on(self, call: Call, admitted: Admitted, turn: Turn) -> None:
        """Give the server the answers it gets, under a new admission."""
        self.forwarding.call, self.forwarding.admitted, self.forwarding.turn = call, admitted, turn
        if self._running is not None:
            self._calls.running.go_on(self._running, admitted)
        for key, (_, answer) in list(self._questions.items()):
            given = (turn.responses or {}).get(key)
            if isinstance(given, dict) and not answer.done():
                answer.set_result(given)
                del self._questions[key]
        if not self._questions:
            self._asked.clear()

    def give_up(self, why: str) -> None:
        """Nobody goes on with it: cancelled, and on record."""
        self.attach()
        if not self._work.done() or self._asks_again():
            self.forwarding.unknown(why)
        self.stop()

    def _asks_again(self) -> bool:
        """Say how it ended, unless that is another question."""
        try:
            return isinstance(self._outcome(), Wanted)
        except (Exception, asyncio.CancelledError):  # noqa: BLE001 - it is on record, and nobody waits for it
            return False

    def attached_end(self, why: str) -> None:
        """As `give_up`, of one that its client has come back to."""
        self.forwarding.unknown(why)
        self.stop()

    def stop(self) -> None:
        """Cancel it at the server. What is on record of it is somebody else's business."""
        self._work.cancel()
        self._calls.ending.add(self._work)
        self._work.add_done_callback(self._calls.ending.discard)

    async def _end(self) -> None:
        self.stop()
        await asyncio.wait({self._work})

    def _outcome(self) -> JsonObject | Wanted:
        return self.forwarding.outcome(self._work.result)

    def _ended_alone(self, work: asyncio.Task[JsonObject]) -> None:
        """A result waits for its client. A failure ends it: its right has ended, or the server has."""
        if work.cancelled() or work.exception() is not None:
            self.give_up("the server gave it up")

    async def _run(self) -> JsonObject:
        with self._calls.running.one(self.forwarding.admitted) as self._running:
            return await self.forwarding.send(self._ask)

    async def _ask(self, method: str, params: JsonObject) -> JsonObject:
        caller = self.forwarding.call.caller
        if caller is None or lacking(method, params, caller.capabilities):
            raise RemoteError(METHOD_NOT_FOUND, "The client did not declare that it can be asked this.")
        self._calls.check(self.subject.principal)
        return await self.forwarding.relay(method, lambda: self._answered(method, params))

    async def _answered(self, method: str, params: JsonObject) -> JsonObject:
        self._count += 1
        key = f"question-{self._count}"
        answer: asyncio.Future[JsonObject] = asyncio.get_running_loop().create_future()
        question: JsonObject = {"method": method, "params": self.forwarding.shown(params)}
        self._questions[key] = question, answer
        self._asked.set()
        try:
            return await answer
        finally:
            if self._questions.pop(key, None) is not None and not self._questions:
                self._asked.clear()


class ParkedCalls:
    """Those of one process that wait for their clients."""

    def __init__(self, running: RunningCalls) -> None:
        self.running = running
        self.ending: set[asyncio.Task[JsonObject]] = set()
        self._calls: dict[UUID, ParkedCall] = {}
        self._of: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._calls)

    def __contains__(self, name: UUID) -> bool:
        return name in self._calls

    def take(self, name: UUID, subject: Subject, number: int) -> ParkedCall:
        """The call that a sealed state names, for whoever brings it first. Raises RpcError."""
        parked = self._calls.get(name)
        if parked is None or parked.subject != subject or parked.number != number:
            detail = "What asked for this is over, or was answered already; begin the call again."
            raise RpcError(INVALID_PARAMS, detail, status=400)
        parked.attach()
        return parked

    def check(self, principal: str) -> None:
        """Raises RemoteError when no further call may wait. One that nobody took up for long gives way to it: the
        principal's own, or where all have too many, one of whoever has most.
        """
        if self._of[principal] >= MAX_OF_ONE:
            self._make_room([principal])
        elif len(self._calls) >= MAX_PARKED:
            self._make_room([one for one, _ in self._of.most_common()])

    def _make_room(self, principals: list[str]) -> None:
        before = asyncio.get_running_loop().time() - ABANDONED_SECONDS
        for principal in principals:
            oldest = next((one for one in self._calls.values() if one.subject.principal == principal), None)
            if oldest is not None and oldest.since <= before:
                oldest.give_up("nobody answered the server, and another call needed the place")
                return
        raise RemoteError(INTERNAL_ERROR, "Too many calls wait for answers of their clients.")

    def keep(self, parked: ParkedCall) -> None:
        self._calls[parked.name] = parked
        self._of[parked.subject.principal] += 1

    def forget(self, parked: ParkedCall) -> None:
        if self._calls.pop(parked.name, None) is not None:
            self._of[parked.subject.principal] -= 1
            self._of += Counter()  # without those of whom there is none

    async def close(self) -> None:
        """End all of them."""
        for parked in list(self._calls.values()):
            parked.give_up("the gateway was stopped")
        if self.ending:
            await asyncio.wait(self.ending)

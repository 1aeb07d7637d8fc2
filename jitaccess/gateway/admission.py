"""Admission: every call is decided and recorded here, in batches, before it may be forwarded.

One thread commits batches back to back; the next gathers while one is written. Each is one short transaction: policy
version (a plain read, no lock: readers must never make a revoke wait), the database's clock, the status of the batch's
tokens, the decisions at that instant, the entries. A call received after a revoke has committed is refused, because
the version read in its batch is newer than the revoke.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db import InterfaceError, OperationalError, close_old_connections, connection, transaction

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Facts, record_many
from jitaccess.gateway.instances import LEASE
from jitaccess.gateway.models import OpenCall
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import live_tokens
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import Json
from jitaccess.policy.compiler import SnapshotStore, current_version
from jitaccess.policy.engine.decide import Code, Verdict, Who, decide
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.store.clock import now

log = logging.getLogger(__name__)

MAX_BATCH = 256
# SQLite has no queue of writers: without a pause between batches another process would hardly ever get its turn.
SQLITE_PAUSE = 0.003
TRIES = 3
# A call starts at most this long after the clock was read, on the monotonic clock: the guarantee's "a second later".
FORWARD_WITHIN = 1.0
_AWAY = (OperationalError, InterfaceError)


@dataclass(frozen=True, slots=True)
class Intent:
    """A call somebody wants to make. `arguments` are redacted already; `digest` is over the whole ones."""

    principal: Principal
    server: UUID
    server_name: str
    tool: str
    digest: str
    arguments: Json
    call: UUID = field(default_factory=uuid7)


@dataclass(frozen=True, slots=True)
class Admitted:
    """The recorded answer to an Intent. `read_at` is the monotonic time just before the database's clock was read."""

    intent: Intent
    verdict: Verdict
    code: str
    clock: datetime
    read_at: float

    @property
    def allowed(self) -> bool:
        return self.verdict.allowed and self.code == Code.ALLOWED

    def may_start(self) -> bool:
        """Whether the call may be forwarded at this very moment."""
        elapsed = time.monotonic() - self.read_at
        return (
            self.allowed and elapsed < FORWARD_WITHIN and self.clock + timedelta(seconds=elapsed) < self.verdict.until
        )


@dataclass(slots=True)
class _Waiting:
    intent: Intent
    settle: Callable[[Admitted | Exception], None]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How an authorized call ended; `settle` is told whether that is on record."""

    admitted: Admitted
    event: Event
    outcome: Outcome
    data: dict[str, Json]


class Admission:
    """The batch writer of one gateway process. Thread-safe; `admit` belongs to an event loop."""

    def __init__(self, store: SnapshotStore, instance: UUID) -> None:
        self._store, self.instance = store, instance
        # Monotonic. Past it others may close this process's calls, so it starts none: it fences itself.
        self.lease_until = time.monotonic() + LEASE.total_seconds()
        self._ready = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._outcomes: list[_Outcome] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="admission", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, *, timeout: float = 5) -> None:
        """Write what waits, then end the thread."""
        with self._ready:
            self._stopping = True
            self._ready.notify()
        self._thread.join(timeout)

    async def admit(self, intent: Intent) -> Admitted:
        """Decide and record. Raises Unavailable when that is not possible: then nothing may be forwarded."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Admitted] = loop.create_future()

        def settle(answer: Admitted | Exception) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, future, answer)

        with self._ready:
            if self._stopping:
                raise Unavailable("gateway.stopping", "The gateway is shutting down; try again.")
            self._waiting.append(_Waiting(intent, settle))
            self._ready.notify()
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The decision may be on record by now or a moment later; an authorized call must not stay open for ever.
            future.add_done_callback(self._unwanted)
            raise

    def _unwanted(self, future: asyncio.Future[Admitted]) -> None:
        if future.exception() is None and future.result().allowed:
            self.not_sent(future.result(), "the client left or cancelled the call")

    def not_sent(self, admitted: Admitted, why: str) -> None:
        """Record that nothing of an authorized call reached the server."""
        self.finish(admitted, Event.CALL_NOT_SENT, Outcome.ERROR, {"why": why})

    def finish(self, admitted: Admitted, event: Event, outcome: Outcome, data: dict[str, Json]) -> None:
        """Record how an authorized call ended, with the next batch; kept and tried again while the database is away."""
        with self._ready:
            self._outcomes.append(_Outcome(admitted, event, outcome, data))
            self._ready.notify()

    def _run(self) -> None:
        while True:
            with self._ready:
                while not (self._waiting or self._outcomes or self._stopping):
                    self._ready.wait()
                calls, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
                outcomes, self._outcomes = self._outcomes[:MAX_BATCH], self._outcomes[MAX_BATCH:]
                if self._stopping and not calls and not outcomes:
                    break
            if outcomes and not self._write_outcomes(outcomes) and not calls:
                if self._stopping:
                    break
                time.sleep(0.5)  # the database is away; without calls there is nobody to refuse meanwhile
            self._write_calls(calls)
            if connection.vendor == "sqlite":
                time.sleep(SQLITE_PAUSE)
        connection.close()

    def _write_outcomes(self, outcomes: list[_Outcome]) -> bool:
        """False when the database is away; then they wait. One that cannot be written must not hold up the others."""
        try:
            close_old_connections()
            with transaction.atomic():
                calls = OpenCall.objects.filter(pk__in=[one.admitted.intent.call for one in outcomes])
                still_open = set(calls.select_for_update().values_list("pk", flat=True))
                record_many(self._ending(one, late=one.admitted.intent.call not in still_open) for one in outcomes)
                calls.delete()
                step("complete.written")
            step("complete.committed")
        except _AWAY as error:
            log.error("outcomes of %d calls are not on record yet: %s", len(outcomes), error)  # noqa: TRY400 - no traceback per retry
            with self._ready:
                self._outcomes[:0] = outcomes
            return False
        except Exception:
            if len(outcomes) == 1:
                log.exception("the outcome of call %s cannot be recorded", outcomes[0].admitted.intent.call)
                return True  # the call stays open, and is closed as unknown once this process has ended
            middle = len(outcomes) // 2
            return all([self._write_outcomes(outcomes[:middle]), self._write_outcomes(outcomes[middle:])])
        return True

    def _write_calls(self, calls: Sequence[_Waiting]) -> None:
        """Answer every call, whatever happens. A batch that fails is halved, so that only the culprit is refused;
        not so while the database is away or locked, or every half would wait for it in turn.
        """
        if not calls:
            return
        try:
            close_old_connections()
            answers = self._commit([waiting.intent for waiting in calls])
            step("admit.committed")
        except (*_AWAY, Unavailable) as error:
            log.warning("%d calls refused: the ledger cannot be written (%s)", len(calls), error)
            self._refuse(calls)
        except Exception as error:
            if len(calls) > 1:
                middle = len(calls) // 2
                self._write_calls(calls[:middle])
                self._write_calls(calls[middle:])
                return
            log.exception("a call was refused, because it cannot be recorded", exc_info=error)
            self._refuse(calls)
        else:
            for waiting, answer in zip(calls, answers, strict=True):
                waiting.settle(answer)

    def _refuse(self, calls: Sequence[_Waiting]) -> None:
        for waiting in calls:
            waiting.settle(
                Unavailable("ledger.unavailable", "The gateway cannot record calls right now, so it refuses them.")
            )

    def _commit(self, intents: list[Intent]) -> list[Admitted]:
        if time.monotonic() > self.lease_until:
            raise Unavailable("gateway.fenced", "This gateway has lost touch with the database and refuses calls.")
        for _ in range(TRIES):
            snapshot = self._store.current
            with transaction.atomic():
                version = current_version()
                if version == snapshot.version:
                    return self._decide(intents, snapshot)
            self._store.catch_up(version)
        with transaction.atomic():
            return self._decide(intents, snapshot, busy=True)

    def _decide(self, intents: list[Intent], snapshot: Snapshot, *, busy: bool = False) -> list[Admitted]:
        read_at = time.monotonic()
        clock = now()
        hashes = {intent.principal.token_hash for intent in intents}
        live = set(live_tokens().filter(hash__in=hashes).values_list("hash", flat=True))
        admitted = []
        for intent in intents:
            principal = intent.principal
            assert principal.agent
            verdict = decide(
                snapshot, who=Who(principal.agent, principal.user), server=intent.server, tool=intent.tool, at=clock
            )
            code: str = verdict.code
            if busy:
                code = "policy_busy"
            elif principal.token_hash not in live:
                code = "token_ended"
            admitted.append(Admitted(intent, verdict, code, clock, read_at))
        step("admit.decided")
        record_many(self._facts(one, snapshot) for one in admitted)
        OpenCall.objects.bulk_create(
            OpenCall(call=one.intent.call, instance=self.instance, facts=_remember(one))
            for one in admitted
            if one.allowed
        )
        step("admit.written")
        return admitted

    def _facts(self, one: Admitted, snapshot: Snapshot) -> Facts:
        data: dict[str, Json] = {
            "arguments": one.intent.arguments,
            "args_digest": one.intent.digest,
            "rule": one.verdict.rule,
        }
        if not one.allowed:
            data["reason_code"] = str(one.code)
        return Facts(
            event=Event.CALL_AUTHORIZED if one.allowed else Event.CALL_DENIED,
            outcome=Outcome.ALLOWED if one.allowed else Outcome.DENIED,
            actor=one.intent.principal.actor(),
            at=one.clock,
            grant=one.verdict.grant,
            call=one.intent.call,
            server=one.intent.server,
            server_name=one.intent.server_name,
            tool=one.intent.tool,
            tool_pin=one.verdict.tool.pin if one.verdict.tool else "",
            bindings=one.verdict.bindings if one.allowed else (),
            policy_version=snapshot.version,
            instance=self.instance,
            data=data,
        )

    def _ending(self, one: _Outcome, *, late: bool) -> Facts:
        """`late`: it is on record as unknown already, for this process was believed dead (its lease had run out)."""
        intent = one.admitted.intent
        return Facts(
            event=Event.CALL_COMPLETED_LATE if late else one.event,
            outcome=one.outcome,
            actor=intent.principal.actor(),
            grant=one.admitted.verdict.grant,
            call=intent.call,
            server=intent.server,
            server_name=intent.server_name,
            tool=intent.tool,
            instance=self.instance,
            data=one.data | ({"ended_as": str(one.event)} if late else {}),
        )


def _settle(future: asyncio.Future[Admitted], answer: Admitted | Exception) -> None:
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _remember(one: Admitted) -> str:
    """What a reconciler needs to close this call if this process dies."""
    actor, intent = one.intent.principal.actor(), one.intent
    return canonical(
        {
            "agent": str(actor.agent),
            "agent_name": actor.agent_name,
            "user": str(actor.user) if actor.user else None,
            "user_name": actor.user_name,
            "grant": str(one.verdict.grant) if one.verdict.grant else None,
            "server": str(intent.server),
            "server_name": intent.server_name,
            "tool": intent.tool,
        }
    ).decode()

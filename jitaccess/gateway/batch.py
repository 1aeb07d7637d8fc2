"""One batch of calls, one short transaction: decided at one instant, used, recorded. And one batch of their ends.

In order: policy version and clock in one plain read (no lock: readers must never make a revoke wait), the status of the
batch's tokens, the decisions at that instant, the uses, the entries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from django.db import InterfaceError, InternalError, OperationalError, connection, transaction

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Facts, record_many
from jitaccess.gateway import clock_guard, continuations
from jitaccess.gateway.clock_guard import ClockGuard
from jitaccess.gateway.continuations import Continued
from jitaccess.gateway.models import OpenCall
from jitaccess.gateway.refusals import Refusal, count_refusals
from jitaccess.gateway.remembered import remember
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import live_tokens
from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.compiler import head
from jitaccess.policy.engine.decide import Code, Kind, Verdict, Who, decide
from jitaccess.policy.engine.rules import Snapshot, Subject
from jitaccess.policy.services import lock_uses, return_uses, take_uses
from jitaccess.policy.snapshots import SnapshotStore, counted, with_spent
from jitaccess.store.host_clock import steady
from jitaccess.store.reads import one_state, was_overtaken

# Two tries at whatever is in force; the third holds one state of the database still.
TRIES = 3
# The database, not what was written. A frozen process comes back to an InternalError: PostgreSQL has ended its session.
AWAY = (OperationalError, InterfaceError, InternalError)
# A call starts at most this long after the clock was read, on a clock that also counts while the machine sleeps: the
# guarantee's "a second later".
FORWARD_WITHIN = 1.0


@dataclass(frozen=True, slots=True)
class Intent:
    """A call somebody wants to make. `arguments` are redacted already; `given` are the whole ones, and `digest` is over
    them. `tool` is a name, or by `kind` the URI of a resource.

    `continues` is the continuation that an earlier call's end left for this one; `answers`: whether it carries answers
    to questions of the server. `barred` is a code with which it is refused whatever policy says.
    """

    principal: Principal
    server: UUID | None
    server_name: str
    tool: str
    digest: str
    arguments: Json
    call: UUID = field(default_factory=uuid7)
    given: JsonObject = field(default_factory=dict, repr=False)
    kind: Kind = Kind.TOOL
    continues: UUID | None = None
    answers: bool = False
    barred: str = ""


@dataclass(frozen=True, slots=True)
class Admitted:
    """The recorded answer to an Intent. `read_at` is the steady clock's just before the database's clock was read.

    `recorded` is the call whose entry tells of this one: its own, or the first of the same refusals in this minute.
    `continued` is what its continuation was; then the verdict's `counted` is None when no further use was taken.
    """

    intent: Intent
    verdict: Verdict
    code: str
    clock: datetime
    read_at: float
    recorded: UUID
    continued: Continued | None = None

    @property
    def allowed(self) -> bool:
        return self.verdict.allowed and self.code == Code.ALLOWED

    def may_start(self) -> bool:
        """Whether the call may be forwarded at this very moment."""
        elapsed = steady() - self.read_at
        return (
            self.allowed and elapsed < FORWARD_WITHIN and self.clock + timedelta(seconds=elapsed) < self.verdict.until
        )


class UnheardCommit(Exception):
    """The batch may or may not be on record. `answers` are what it says if it is."""

    def __init__(self, answers: list[Admitted]) -> None:
        super().__init__("the database was gone before it said that the batch is on record")
        self.answers = answers


@dataclass(frozen=True, slots=True)
class Ending:
    """How an authorized call ended. With `continuation` it may go on, once, under that id. `told` is called once this
    is on record.
    """

    admitted: Admitted
    event: Event
    outcome: Outcome
    data: dict[str, Json]
    continuation: UUID | None = None
    told: Callable[[], None] | None = None

    @property
    def unsent(self) -> bool:
        """Whether nothing of the call reached the server."""
        return self.event is Event.CALL_NOT_SENT or self.data.get("sent") is False

    @property
    def goes_on(self) -> Continued | None:
        """The continuation that is made with this end: a new one, or the one with which nothing was sent."""
        intent, before = self.admitted.intent, self.admitted.continued
        if self.unsent:
            return before
        if self.continuation is None:
            return None
        counted = self.admitted.verdict.counted or (before.binding if before else None)
        return Continued(self.continuation, before.call if before else intent.call, intent.principal.key, counted)


def admit_batch(
    intents: Sequence[Intent],
    *,
    store: SnapshotStore,
    instance: UUID,
    guard: ClockGuard,
    lease_until: Callable[[], float],
    endings: Sequence[Ending] = (),
) -> list[Admitted]:
    """Decide and record, in order; with the ends of other calls in the same commit, none of which gives uses back.

    The policy version often moves between two batches: the Snapshot then catches up outside the transaction, and the
    batch begins anew. The last try reads one state of the database throughout, so that not even a storm of changes
    can overtake it. `lease_until` is on the steady clock; a process that is past it may not start calls any more.

    Raises Unavailable past the lease, UnheardCommit when the database is gone before it says that this is on record.
    """
    for attempt in range(1, TRIES + 1):
        snapshot, answers = store.current, None
        try:
            still = attempt == TRIES
            with one_state() if still else transaction.atomic():
                read_at = _read_at(lease_until())
                # In a state that stands still, another thread must not bring the Snapshot further than what we see.
                with store.steady if still else nullcontext():
                    now = head()
                    # Nobody else writes to SQLite meanwhile.
                    if still or connection.vendor == "sqlite":
                        snapshot = store.catch_up(now)
                if snapshot.stamp == now.stamp:
                    write_ends(endings, instance)
                    answers = _Batch(intents, snapshot, instance, now.clock, read_at).write(guard)
            if answers is not None:
                step("admit.committed")
                return answers
        except AWAY as error:
            if answers is not None:
                raise UnheardCommit(answers) from error
            if attempt < TRIES or not was_overtaken(error):
                raise
        else:
            store.catch_up(now)
    with transaction.atomic():
        read_at = _read_at(lease_until())
        write_ends(endings, instance)
        batch = _Batch(intents, store.current, instance, head().clock, read_at)
        return batch.write(guard, barred="policy_busy")


def _read_at(lease_until: float) -> float:
    read_at = steady()
    if read_at + FORWARD_WITHIN > lease_until:
        raise Unavailable("gateway.fenced", "This gateway has lost touch with the database and refuses calls.")
    return read_at


@dataclass(frozen=True, slots=True)
class _Batch:
    """Calls, and what they are decided by: a Snapshot at one instant."""

    intents: Sequence[Intent]
    snapshot: Snapshot
    instance: UUID
    clock: datetime
    read_at: float

    def write(self, guard: ClockGuard, *, barred: str = "") -> list[Admitted]:
        """Inside the transaction. `barred` is a code with which all are refused, whatever policy says."""
        if guard.refuses():
            barred = clock_guard.CODE
        hashes = {intent.principal.token_hash for intent in self.intents}
        live = set(live_tokens().filter(hash__in=hashes).values_list("hash", flat=True))
        codes = [
            barred or (intent.barred if intent.principal.token_hash in live else "token_ended")
            for intent in self.intents
        ]
        continued = self._continued(codes)
        verdicts = self._verdicts(codes, continued)
        admitted = [
            Admitted(
                intent, verdict, code or str(verdict.code), self.clock, self.read_at, intent.call, continued.get(number)
            )
            for number, (intent, verdict, code) in enumerate(zip(self.intents, verdicts, codes, strict=True))
        ]
        if continued:
            continuations.redeem(one.continued.id for one in admitted if one.continued and one.allowed)
        refused = [self._refusal(one) for one in admitted if not one.allowed]
        repeated = count_refusals(refused, instance=self.instance, clock=self.clock) if refused else {}
        step("admit.decided")
        record_many(self._facts(one) for one in admitted if one.intent.call not in repeated)
        OpenCall.objects.bulk_create(
            OpenCall(call=one.intent.call, instance=self.instance, facts=_remember(one))
            for one in admitted
            if one.allowed
        )
        step("admit.written")
        return [replace(one, recorded=repeated.get(one.intent.call, one.recorded)) for one in admitted]

    def _continued(self, codes: list[str]) -> dict[int, Continued]:
        """What the calls go on with, by their number. Those whose continuation is not theirs or used get a code."""
        wanted = {
            number: intent.continues
            for number, intent in enumerate(self.intents)
            if intent.continues is not None and not codes[number]
        }
        if not wanted:
            return {}
        held = continuations.hold({one: self.intents[number].principal.key for number, one in wanted.items()})
        found = {}
        for number, one in wanted.items():
            if one in held:
                found[number] = held.pop(one)
            else:
                codes[number] = "continuation_unknown"
        return found

    def _verdicts(self, codes: list[str], continued: Mapping[int, Continued]) -> list[Verdict]:
        """Decide and take the uses: whoever finds none left is decided again without that binding. A call that goes on
        is the same use as the one before it.
        """
        paid = {number: one.binding for number, one in continued.items() if one.binding is not None}
        verdicts = [self._verdict(number, self.snapshot, paid) for number in range(len(self.intents))]
        todo = [number for number, verdict in enumerate(verdicts) if verdict.counted and not codes[number]]
        if not todo:
            return verdicts
        whose = {_subject(self.intents[number]) for number in todo}
        held = lock_uses(bindings := counted(self.snapshot, whose, self.clock))
        if held is None:
            for number in todo:
                codes[number] = "policy_busy"
            return verdicts
        left = {binding: held.get(binding, 0) for binding in bindings}
        used: Counter[UUID] = Counter()
        for number in todo:
            snapshot = with_spent(self.snapshot, {binding: left[binding] - used[binding] for binding in left})
            verdicts[number] = self._verdict(number, snapshot, paid)
            if binding := verdicts[number].counted:
                used[binding] += 1
        take_uses(used)
        return verdicts

    def _verdict(self, number: int, snapshot: Snapshot, paid: Mapping[int, UUID]) -> Verdict:
        intent = self.intents[number]
        assert intent.principal.agent
        who = Who(intent.principal.agent, intent.principal.user)
        if number in paid:
            snapshot = replace(snapshot, spent=snapshot.spent - {paid[number]})
        verdict = decide(
            snapshot,
            who=who,
            server=intent.server,
            tool=intent.tool,
            at=self.clock,
            arguments=intent.given,
            digest=intent.digest,
            kind=intent.kind,
            answers=intent.answers,
        )
        if verdict.counted is not None and verdict.counted == paid.get(number):
            return replace(verdict, counted=None)
        return verdict

    def _refusal(self, one: Admitted) -> Refusal:
        intent = one.intent
        server = self.snapshot.servers.get(intent.server) if intent.server else None
        known = server is not None and intent.tool in server.tools
        return Refusal(intent.call, intent.principal, intent.server, intent.server_name, intent.tool, known, one.code)

    def _facts(self, one: Admitted) -> Facts:
        data: dict[str, Json] = {
            "arguments": one.intent.arguments,
            "args_digest": one.intent.digest,
            "rule": one.verdict.rule,
        }
        if one.intent.kind is not Kind.TOOL:
            data["kind"] = one.intent.kind
        if one.continued is not None:
            data["continues"] = str(one.continued.call)
        if not one.allowed:
            data["reason_code"] = one.code
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
            policy_version=self.snapshot.version,
            instance=self.instance,
            data=data,
        )


def write_endings(endings: Sequence[Ending], *, instance: UUID) -> None:
    """Record how calls ended, each once. Of a call that is not open any more the end is late: it was closed as unknown,
    for this process was believed dead. Unless nobody heard that an earlier try, or the call's own batch, succeeded.
    """
    with transaction.atomic():
        write_ends(endings, instance)
    step("complete.committed")


def gives_back(ending: Ending) -> bool:
    """Whether a use that was taken is returned: nothing of the call was sent."""
    return ending.admitted.verdict.counted is not None and ending.unsent


def touches_uses(ending: Ending) -> bool:
    """Whether rows of uses are locked for it."""
    return gives_back(ending) or (ending.goes_on is not None and ending.goes_on.binding is not None)


def write_ends(endings: Sequence[Ending], instance: UUID) -> None:
    """Inside a transaction."""
    if not endings:
        return
    calls = OpenCall.objects.filter(pk__in=[one.admitted.intent.call for one in endings])
    still_open = set(calls.select_for_update().values_list("pk", flat=True))
    late = _late([one for one in endings if one.admitted.intent.call not in still_open])
    record_many(
        _facts(one, instance, late=one in late)
        for one in endings
        if one.admitted.intent.call in still_open or one in late
    )
    _settle([one for one in endings if one.admitted.intent.call in still_open])
    calls.delete()
    step("complete.written")


def _settle(endings: list[Ending]) -> None:
    """Give back uses that were not made, and keep what goes on."""
    on = [one.goes_on for one in endings if one.goes_on is not None]
    unused = Counter(one.admitted.verdict.counted for one in endings if gives_back(one))
    until = continuations.keep(on) if on else None
    open_until = {one.binding: until for one in on if one.binding is not None and until is not None}
    if unused or open_until:
        return_uses({binding: count for binding, count in unused.items() if binding}, open_until=open_until)


def _late(closed: list[Ending]) -> list[Ending]:
    """Those of calls that are on record, but whose own end is not."""
    if not closed:
        return []
    said = set(Entry.objects.filter(call__in=[one.admitted.intent.call for one in closed]).values_list("call", "event"))
    return [
        one
        for one in closed
        if (one.admitted.intent.call, Event.CALL_AUTHORIZED) in said
        and not said & {(one.admitted.intent.call, event) for event in (one.event, Event.CALL_COMPLETED_LATE)}
    ]


def _facts(one: Ending, instance: UUID, *, late: bool) -> Facts:
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
        instance=instance,
        data=one.data | ({"ended_as": str(one.event)} if late else {}),
    )


def _subject(intent: Intent) -> Subject:
    return Subject(agent=intent.principal.agent, user=intent.principal.user)


def _remember(one: Admitted) -> str:
    intent = one.intent
    return remember(
        intent.principal,
        server=intent.server,
        server_name=intent.server_name,
        tool=intent.tool,
        grant=one.verdict.grant,
    )

"""One batch of calls, one short transaction: decided at one instant, used, recorded. And one batch of their ends.

In order: policy version and clock in one plain read (no lock: readers must never make a revoke wait), the status of the
batch's tokens, the decisions at that instant, the uses, the entries.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

from django.db import InterfaceError, InternalError, OperationalError, connection, transaction
from msgspec import structs

from jitaccess.audit.bundles import line
from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Row, moment, row, write_rows
from jitaccess.gateway.models import OpenCall
from jitaccess.gateway.recording import clock_guard, continuations
from jitaccess.gateway.recording.clock_guard import ClockGuard
from jitaccess.gateway.recording.continuations import Continued
from jitaccess.gateway.recording.endings import Ends
from jitaccess.gateway.recording.facts import FORWARD_WITHIN, TOOLS_CALL, Admitted, Ending, Intent, UnheardCommit
from jitaccess.gateway.recording.refusals import Refusal, count_refusals
from jitaccess.identity.services import ask_live
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import Json
from jitaccess.policy.compiler import HEAD, Head, head_of
from jitaccess.policy.engine.decide import Kind, Verdict, Who, decide
from jitaccess.policy.engine.rules import Snapshot, Subject
from jitaccess.policy.services import lock_uses, take_uses
from jitaccess.policy.snapshots import SnapshotStore, counted, with_spent
from jitaccess.store import byhand
from jitaccess.store.host_clock import steady
from jitaccess.store.reads import one_state, was_overtaken

# Two tries at whatever is in force; the third holds one state of the database still.
TRIES = 3
# The database, not what was written. A frozen process comes back to an InternalError: PostgreSQL has ended its session.
AWAY = (OperationalError, InterfaceError, InternalError)


_OPEN_ALL = f"INSERT INTO {OpenCall._meta.db_table} (call, instance) SELECT unnest($1::uuid[]), $2::uuid"
_OPEN_EACH = f"INSERT INTO {OpenCall._meta.db_table} (call, instance) VALUES (?, ?)"  # noqa: S608 - our own names


def admit_batch(
    intents: Sequence[Intent],
    *,
    store: SnapshotStore,
    instance: UUID,
    guard: ClockGuard,
    lease_until: Callable[[], float],
    endings: Sequence[Ending] = (),
) -> list[Admitted]:
    """Decide and record, in order; with the ends of other calls in the same commit, none of which touches uses.

    The policy version often moves between two batches: the Snapshot then catches up outside the transaction, and the
    batch begins anew. The last try reads one state of the database throughout, so that not even a storm of changes
    can overtake it. `lease_until` is on the steady clock; a process that is past it may not start calls any more.

    Raises Unavailable past the lease, UnheardCommit when the database is gone before it says that this is on record.
    """

    def begin() -> _Attempt:
        return _Attempt(intents, endings, instance, _read_at(lease_until()))

    for number in range(1, TRIES + 1):
        snapshot, still = store.current, number == TRIES
        attempt: _Attempt | None = None
        try:
            # Inside of somebody's transaction it is theirs to commit.
            outermost = not connection.in_atomic_block
            with one_state() if still else transaction.atomic():
                # In a state that stands still, another thread must not bring the Snapshot further than what we see.
                with store.steady if still else nullcontext():
                    attempt = begin()
                    # Nobody else writes to SQLite meanwhile.
                    if snapshot.stamp != attempt.now.stamp and (still or byhand.on_sqlite()):
                        snapshot = store.catch_up(attempt.now)
                if snapshot.stamp == attempt.now.stamp:
                    attempt.write(snapshot, guard, commit=outermost)
                else:
                    transaction.set_rollback(True)
            if attempt.answers is not None:
                step("admit.committed")
                return attempt.answers
        except AWAY as error:
            if attempt is not None and attempt.answers is not None and (attempt.written or byhand.is_lost(error)):
                raise UnheardCommit(attempt.answers) from error
            if not still or not was_overtaken(error):
                raise
        else:
            store.catch_up(attempt.now)
    return _refused(begin, store.current, guard)


def _refused(begin: Callable[[], _Attempt], snapshot: Snapshot, guard: ClockGuard) -> list[Admitted]:
    """What could not be decided, on record as such."""
    with transaction.atomic():
        attempt = begin()
        attempt.write(snapshot, guard, barred="policy_busy")
    assert attempt.answers is not None
    return attempt.answers


def _read_at(lease_until: float) -> float:
    read_at = steady()
    if read_at + FORWARD_WITHIN > lease_until:
        raise Unavailable("gateway.fenced", "This gateway has lost touch with the database and refuses calls.")
    return read_at


class _Attempt:
    """One transaction, begun: what is in force now, whose tokens are good, and the ends are written."""

    def __init__(self, intents: Sequence[Intent], endings: Sequence[Ending], instance: UUID, read_at: float) -> None:
        self._intents, self._instance, self._read_at = intents, instance, read_at
        ends = Ends(endings, instance)
        with byhand.round_trip():
            head = byhand.execute(HEAD)
            live = ask_live({intent.principal.token_hash for intent in intents})
            ends.send()
        self.now: Head = head_of(head.rows[0])
        self._live = {hashed for (hashed,) in live.rows}
        ends.settle()
        self.answers: list[Admitted] | None = None
        self.written = False

    def write(self, snapshot: Snapshot, guard: ClockGuard, *, barred: str = "", commit: bool = False) -> None:
        """Decide and record. `barred` is a code with which all are refused, whatever policy says."""
        if guard.refuses():
            barred = clock_guard.CODE
        batch = _Batch(self._intents, snapshot, self._instance, self.now.clock, self._read_at)
        codes = [
            barred or (one.barred if one.principal.token_hash in self._live else "token_ended") for one in self._intents
        ]
        answers, rows = batch.decided(codes)
        step("admit.decided")
        allowed = [one.intent.call.hex for one in answers if one.allowed]
        with byhand.round_trip():
            write_rows(rows)
            if allowed and byhand.on_sqlite():
                byhand.execute_each(_OPEN_EACH, [(call, self._instance.hex) for call in allowed])
            elif allowed:
                byhand.execute(_OPEN_ALL, (byhand.array(allowed, quoted=False), self._instance.hex))
            step("admit.written")
            self.answers = answers
            if commit and not byhand.on_sqlite():
                byhand.commit()
        self.written = True


@dataclass(frozen=True, slots=True)
class _Batch:
    """Calls, and what they are decided by: a Snapshot at one instant."""

    intents: Sequence[Intent]
    snapshot: Snapshot
    instance: UUID
    clock: datetime
    read_at: float

    def decided(self, codes: list[str]) -> tuple[list[Admitted], list[Row]]:
        """The answers and their entries. `codes` say who is refused before anything is decided."""
        continued = self._continued(codes)
        verdicts = self._verdicts(codes, continued)
        admitted = [
            Admitted(
                intent,
                verdict,
                code or verdict.code.value,
                self.clock,
                self.read_at,
                intent.call,
                continued.get(number),
            )
            for number, (intent, verdict, code) in enumerate(zip(self.intents, verdicts, codes, strict=True))
        ]
        if continued:
            continuations.redeem(one.continued.id for one in admitted if one.continued and one.allowed)
        at, instance = moment(self.clock), self.instance.hex
        refused = [self._refusal(one) for one in admitted if not one.allowed]
        if not refused:
            return admitted, [self._row(one, at, instance) for one in admitted]
        repeated = count_refusals(refused, instance=self.instance, clock=self.clock)
        rows = [self._row(one, at, instance) for one in admitted if one.intent.call not in repeated]
        return [structs.replace(one, recorded=repeated.get(one.intent.call, one.recorded)) for one in admitted], rows

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
        if number in paid:
            snapshot = replace(snapshot, spent=snapshot.spent - {paid[number]})
        verdict = decided(snapshot, self.intents[number], self.clock)
        if verdict.counted is not None and verdict.counted == paid.get(number):
            return replace(verdict, counted=None)
        return verdict

    def _refusal(self, one: Admitted) -> Refusal:
        intent = one.intent
        server = self.snapshot.servers.get(intent.server) if intent.server else None
        # What else there is, only the server knows.
        known = server is not None and (intent.kind is not Kind.TOOL or intent.tool in server.tools)
        return Refusal(
            intent.call, intent.principal, intent.server, intent.server_name, intent.tool, known, one.code, intent.kind,
            intent.method,
        )  # fmt: skip

    def _row(self, one: Admitted, at: str, instance: str) -> Row:
        refused = "" if one.allowed else one.code
        continued = one.continued.call if one.continued else None
        return admitted_row(
            one.intent,
            one.verdict,
            version=self.snapshot.version,
            instance=instance,
            at=at,
            refused=refused,
            continued=continued,
        )


def decided(snapshot: Snapshot, intent: Intent, at: datetime) -> Verdict:
    """What policy says of it."""
    principal = intent.principal
    assert principal.agent
    return decide(
        snapshot,
        who=Who(principal.agent, principal.user),
        server=intent.server,
        tool=intent.tool,
        at=at,
        arguments=intent.given,
        digest=intent.digest,
        kind=intent.kind,
        answers=intent.answers,
    )


def admitted_row(
    intent: Intent,
    verdict: Verdict,
    *,
    version: int,
    instance: str,
    at: str | None = None,
    refused: str = "",
    continued: UUID | None = None,
) -> Row:
    """The entry of a call that is let through, or `refused` for the reason of that code."""
    more: dict[str, Json] = {"continues": str(continued)} if continued is not None else {}
    if refused:
        more["reason_code"] = refused
    return row(
        event=Event.CALL_DENIED if refused else Event.CALL_AUTHORIZED,
        outcome=Outcome.DENIED if refused else Outcome.ALLOWED,
        about=intent.about(verdict.grant),
        at=at,
        tool_pin=verdict.tool.pin if verdict.tool else "",
        bindings=() if refused else verdict.bindings,
        policy_version=version,
        instance=instance,
        data=admitted_data(intent, verdict, more),
    )


def admitted_line(intent: Intent, verdict: Verdict, *, about: str, version: int, instance: str) -> str:
    """The same of one that is let through, in a bundle. `about` is of `about_line`."""
    return line(
        event=Event.CALL_AUTHORIZED,
        outcome=Outcome.ALLOWED,
        about=about,
        tool_pin=verdict.tool.pin if verdict.tool else "",
        bindings=verdict.bindings,
        policy_version=version,
        instance=instance,
        data=admitted_data(intent, verdict),
    )


def admitted_data(intent: Intent, verdict: Verdict, more: Mapping[str, Json] = MappingProxyType({})) -> str:
    """What the entry of a decided call says besides its columns, and `more`; as canonical JSON."""
    data = {"arguments": intent.arguments, "args_digest": intent.digest, "rule": verdict.rule, **more}
    if intent.method != TOOLS_CALL:
        data |= intent.what_for
    if intent.kind is not Kind.TOOL:
        data["kind"] = intent.kind.value
    return canonical(data).decode()


def _subject(intent: Intent) -> Subject:
    return Subject(agent=intent.principal.agent, user=intent.principal.user)

"""Calls that end or are let through in one packet: which they are, and the statement that writes them if it is so."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from jitaccess.audit.bundles import about_line, bundled, first_of
from jitaccess.audit.recorder import moment
from jitaccess.audit.triggers import BUNDLE
from jitaccess.gateway.models import GatewayInstance, OpenCall
from jitaccess.gateway.recording.batch import admitted_line, decided
from jitaccess.gateway.recording.endings import ending_line
from jitaccess.gateway.recording.facts import ALLOWED, Admitted, Ending, Waiting
from jitaccess.identity.services import live_among
from jitaccess.policy.compiler import HEAD
from jitaccess.policy.engine.decide import END_OF_TIME, Code, Verdict
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.store import byhand

# From the decision on.
WITHIN = timedelta(seconds=5)


def _live(hashes: str) -> str:
    """The tokens that are good at the time of the head, and at no other."""
    return live_among(hashes).replace("(SELECT jit_now())", "(SELECT clock FROM head)")


# In the order of `Packet.parameters`.
_FIRST, _ENDED, _ENDS, _ENDINGS, _CALLS, _BEGUN, _BEGINNINGS, _INSTANCE, _HASHES, _TOKENS, _STAMP, _SINCE, _UNTIL = (
    f"${at}" for at in range(1, 14)
)


def packet_statement() -> str:
    """Closes calls, and opens others if policy, tokens, time and lease are what they were decided by; both go into one
    bundle of entries. Fails when one of those that are to be closed is not open.
    """
    # Divided by zero when they are not as many: the one error that a plain expression can raise on a condition.
    ended = f"({_ENDS}::int / ((SELECT count(*) FROM gone) = {_ENDS}::int)::int)"  # noqa: S608 - names of our own
    return (
        f"WITH head (version, stamp, clock) AS MATERIALIZED ({HEAD}), "  # noqa: S608 - names of our own
        f"live AS MATERIALIZED (SELECT count(*) AS n FROM ({_live(_HASHES)}) AS tokens), "
        f"go AS MATERIALIZED (SELECT clock FROM head, live WHERE {_BEGUN}::int > 0 AND stamp = {_STAMP} "
        f"AND live.n = {_TOKENS}::int AND clock >= {_SINCE}::timestamptz AND clock < {_UNTIL}::timestamptz "
        f"AND EXISTS (SELECT FROM {GatewayInstance._meta.db_table} AS own "
        f"WHERE own.id = {_INSTANCE}::uuid AND own.lease_until > head.clock)), "
        f"gone AS (DELETE FROM {OpenCall._meta.db_table} WHERE call = ANY({_ENDED}::uuid[]) RETURNING call), "
        f"opened AS (INSERT INTO {OpenCall._meta.db_table} (call, instance) "
        f"SELECT one, {_INSTANCE}::uuid FROM go, unnest({_CALLS}::uuid[]) AS one), "
        f"entries (n, begun) AS (SELECT {ended} + CASE WHEN go.clock IS NULL THEN 0 ELSE {_BEGUN}::int END, "
        f"CASE WHEN go.clock IS NULL THEN NULL ELSE {_BEGINNINGS}::text END FROM head LEFT JOIN go ON true), "
        f"bundled AS (INSERT INTO {BUNDLE} (id, at, n, body) "
        f"SELECT {_FIRST}::uuid, clock, n, concat_ws(E'\\n', {_ENDINGS}::text, begun) FROM head, entries WHERE n > 0) "
        "SELECT version, stamp, clock, (SELECT count(*) FROM go) FROM head"
    )


def question() -> str:
    """What is in force now, and which of the tokens of these hashes are good."""
    return (
        f"WITH head (version, stamp, clock) AS MATERIALIZED ({HEAD}) "  # noqa: S608 - names of our own
        f"SELECT version, stamp, clock, array_to_string(ARRAY({_live('$1')}), ' ') FROM head"
    )


_Taken = tuple[Sequence[str], Sequence[str], str, str | None, str | None]


class Batch:
    """Calls that are let through together, at `at` by the database's clock, which is not before it."""

    def __init__(self, snapshot: Snapshot, at: datetime, read_at: float, instance: UUID) -> None:
        self.snapshot, self.at, self.read_at, self._instance = snapshot, at, read_at, instance.hex
        self.calls: list[Waiting] = []
        self._verdicts: list[Verdict] = []
        self._about: list[str] = []
        self._lines: list[str] = []
        self._until = END_OF_TIME

    def take(self, waiting: Waiting) -> bool:
        """Whether it is let through here: allowed, and by nothing that is counted or asks for the time."""
        intent, verdict = waiting.intent, None
        if intent.guess is not None and intent.guess.snapshot is self.snapshot and not intent.answers:
            verdict = intent.guess.verdict
            # One that begins when it was made asks for the time, and is no other's.
            if not (verdict.since < intent.guess.at and verdict.since < self.at < verdict.until):
                verdict = None
        if verdict is None:
            verdict = decided(self.snapshot, intent, self.at)
        if verdict.code is not Code.ALLOWED or verdict.counted is not None or verdict.since >= self.at:
            return False
        try:
            about = about_line(intent.about(verdict.grant))
            line = admitted_line(intent, verdict, about=about, version=self.snapshot.version, instance=self._instance)
        except Exception:  # noqa: BLE001 - the batch writer says which call it is, and refuses that one
            return False
        self.calls.append(waiting)
        self._verdicts.append(verdict)
        self._about.append(about)
        self._lines.append(line)
        self._until = min(self._until, verdict.until)
        return True

    def taken(self) -> _Taken:
        """Their entries, the hashes of their tokens, the stamp of the policy, and between when the decisions hold."""
        return (
            self._lines,
            tuple({one.intent.principal.token_hash for one in self.calls}),
            self.snapshot.stamp,
            moment(self.at),
            # A packet that lay somewhere for long must not be carried out after all: it was given up by then.
            moment(min(self._until, self.at + WITHIN)),
        )

    def answers(self, clock: datetime) -> list[Admitted]:
        """What they are told, when they were let through at `clock`."""
        return [
            Admitted(one.intent, verdict, ALLOWED, clock, self.read_at, one.intent.call, None, about)
            for one, verdict, about in zip(self.calls, self._verdicts, self._about, strict=True)
        ]


class Packet:
    """Calls that end, and calls that are let through. Of one with neither nothing is sent."""

    def __init__(self, endings: Sequence[Ending], instance: UUID) -> None:
        # Of two ends of one call the first: both would otherwise be on record.
        self.endings = list({one.admitted.intent.call.int: one for one in reversed(endings)}.values())[::-1]
        # Made before the calls are decided, whose entries come behind.
        self._instance = instance.hex
        self._ends = [ending_line(one, self._instance) for one in self.endings]
        self.batch: Batch | None = None

    def parameters(self) -> tuple[str | None, ...]:
        """As `packet_statement` takes them. Raises what `bundled` raises."""
        ends, calls = self._ends, self.batch.calls if self.batch is not None else ()
        begun, hashes, stamp, since, until = self.batch.taken() if self.batch is not None else _NOTHING
        return (
            first_of(ends or begun),
            byhand.array([one.admitted.intent.call.hex for one in self.endings], quoted=False),
            str(len(ends)),
            bundled(ends) if ends else None,
            byhand.array([one.intent.call.hex for one in calls], quoted=False),
            str(len(begun)),
            bundled(begun) if begun else None,
            self._instance,
            byhand.array(hashes, quoted=True),
            str(len(hashes)),
            stamp,
            since,
            until,
        )


_NOTHING: _Taken = ((), (), "", None, None)

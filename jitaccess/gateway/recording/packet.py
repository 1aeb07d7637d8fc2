"""Calls that are let through in one packet: which they are, and the statement that writes them if it is still so."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from jitaccess.audit.recorder import CALL, COLUMNS, Row, as_arrays, insert_fresh, moment
from jitaccess.gateway.models import GatewayInstance, OpenCall
from jitaccess.gateway.recording.batch import admitted_row, decided
from jitaccess.gateway.recording.facts import ALLOWED, Admitted, Waiting
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


def admission_statement() -> str:
    """Its parameters: the columns of the entries, the calls, this process, the hashes of the tokens and how many they
    are, the stamp of the policy, and from when to when the decisions hold.
    """
    at = len(COLUMNS)
    calls, instance, hashes, tokens, stamp, since, until = range(at + 1, at + 8)
    return (
        f"WITH head (version, stamp, clock) AS MATERIALIZED ({HEAD}), "  # noqa: S608 - names of our own
        f"live AS MATERIALIZED (SELECT count(*) AS n FROM ({_live(f'${hashes}')}) AS tokens), "
        f"go AS MATERIALIZED (SELECT clock FROM head, live WHERE stamp = ${stamp} AND live.n = ${tokens}::int "
        f"AND clock >= ${since}::timestamptz AND clock < ${until}::timestamptz "
        f"AND EXISTS (SELECT FROM {GatewayInstance._meta.db_table} AS own "
        f"WHERE own.id = ${instance}::uuid AND own.lease_until > head.clock)), "
        f"entered AS ({insert_fresh(at='go.clock')}, go), "
        f"opened AS (INSERT INTO {OpenCall._meta.db_table} (call, instance) "
        f"SELECT one, ${instance}::uuid FROM go, unnest(${calls}::uuid[]) AS one) "
        "SELECT version, stamp, clock, (SELECT count(*) FROM go) FROM head"
    )


def question() -> str:
    """What is in force now, and which of the tokens of these hashes are good."""
    return (
        f"WITH head (version, stamp, clock) AS MATERIALIZED ({HEAD}) "  # noqa: S608 - names of our own
        f"SELECT version, stamp, clock, array_to_string(ARRAY({_live('$1')}), ' ') FROM head"
    )


class Batch:
    """Calls that are let through together, at `at` by the database's clock, which is not before it."""

    def __init__(self, snapshot: Snapshot, at: datetime, read_at: float, instance: UUID) -> None:
        self.snapshot, self.at, self.read_at, self._instance = snapshot, at, read_at, instance.hex
        self.calls: list[Waiting] = []
        self._verdicts: list[Verdict] = []
        self._rows: list[Row] = []
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
            row = admitted_row(intent, verdict, version=self.snapshot.version, instance=self._instance)
        except Exception:  # noqa: BLE001 - the batch writer says which call it is, and refuses that one
            return False
        self.calls.append(waiting)
        self._verdicts.append(verdict)
        self._rows.append(row)
        self._until = min(self._until, verdict.until)
        return True

    def parameters(self) -> tuple[str | None, ...]:
        """As `admission_statement` takes them."""
        calls = byhand.array([row[CALL] for row in self._rows], quoted=False)
        hashes = {one.intent.principal.token_hash for one in self.calls}
        return (
            *as_arrays(self._rows),
            calls,
            self._instance,
            byhand.array(tuple(hashes), quoted=True),
            str(len(hashes)),
            self.snapshot.stamp,
            moment(self.at),
            # A packet that lay somewhere for long must not be carried out after all: it was given up by then.
            moment(min(self._until, self.at + WITHIN)),
        )

    def answers(self, clock: datetime) -> list[Admitted]:
        """What they are told, when they were let through at `clock`."""
        return [
            Admitted(one.intent, verdict, ALLOWED, clock, self.read_at, one.intent.call, None, entry)
            for one, verdict, entry in zip(self.calls, self._verdicts, self._rows, strict=True)
        ]

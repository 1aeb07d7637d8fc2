"""Whether what everybody was told, what the server behind the gateway has seen and what is on record agree."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from tests.faults.world import World
from tests.installation import Installation, eventually

ENDS = {"call.completed", "call.failed", "call.not_sent", "call.outcome_unknown"}
LATE = "call.completed_late"
GRANT_ENDS = {"grant.expired", "grant.released", "grant.revoked", "grant.subject_disabled"}
RECOVERY_SECONDS = 60.0


Rows = list[dict[str, Any]]
Told = dict[str, Counter[str]]


def judge(world: World, *, ledger: bool = True) -> None:
    """Wait until nothing is owed any more, then compare everything. Raises AssertionError with all that is wrong.

    `ledger` False leaves out whether it is intact, for those who ask `intact` later: what is broken in it stays so.
    """
    settle(world.installation)
    # At one moment: grants go on expiring while they are looked at.
    entries, waiting, requests, grants = world.installation.queries(
        "SELECT entry.*, leaf.seq FROM jit_audit_entry entry LEFT JOIN jit_audit_leaf leaf ON leaf.entry_id = entry.uid"
        " ORDER BY leaf.seq IS NULL, leaf.seq, entry.uid",  # SQLite puts NULL first: what has no place yet is the newest
        "SELECT entry_id FROM jit_audit_unsequenced",
        "SELECT id, status FROM jit_requests_accessrequest",
        "SELECT id, request_id, ended_at FROM jit_requests_grant",
    )
    for entry in entries:
        entry["data"] = json.loads(entry["data"])
    calls, told, seen = _Calls.of(entries), _told(entries), Counter(effect["nonce"] for effect in effects(world))
    findings = [
        *_order(entries, waiting),
        *_endings(calls),
        *_effects(world, calls, seen),
        *_answers(world, calls, seen),
        *_requests(world, told, requests, grants),
        *_grants(world, told, grants),
    ]
    assert not findings, "\n".join([*findings[:20], f"({len(findings)} findings)", world.said()])
    if ledger:
        intact(world.installation)


def intact(installation: Installation) -> None:
    """Raises AssertionError with what `jitaccess audit verify` says when it says anything else."""
    report = installation.cli("audit", "verify", check=False)
    assert report.returncode == 0, f"audit verify: {report.stdout}{report.stderr}"
    assert "Intact" in report.stdout


def settle(installation: Installation) -> None:
    """Within a minute, without a hand: no call is open and every entry has its place."""

    def owed() -> list[Any]:
        try:
            return installation.query(
                "SELECT 'open' AS what, call AS which FROM jit_gateway_opencall"
                " UNION ALL SELECT 'no place', entry_id FROM jit_audit_unsequenced"
                " UNION ALL SELECT 'bundled', id FROM jit_audit_bundle"
            )
        except (psycopg.Error, sqlite3.Error) as error:
            return [error]

    eventually(lambda: not owed(), within=RECOVERY_SECONDS, every=0.3, what=lambda: f"nothing is owed: {owed()[:5]}")


def effects(world: World) -> list[dict[str, Any]]:
    """What the server behind the gateway has carried out."""
    path = world.installation.var / "effects"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _order(entries: Rows, waiting: Rows) -> Iterator[str]:
    placed = [entry["seq"] for entry in entries if entry["seq"] is not None]
    if placed != list(range(1, len(placed) + 1)) or len(placed) + len(waiting) != len(entries):
        yield f"of {len(entries)} entries {len(placed)} have a place, up to {max(placed)}, and {len(waiting)} wait"


@dataclass(frozen=True)
class _Calls:
    """What is on record: tries of a call by its nonce, how they ended by call, and the nonces of refused ones."""

    authorized: dict[str, Rows]
    ends: dict[Any, list[str]]
    denied: set[str]

    @classmethod
    def of(cls, entries: Rows) -> _Calls:
        found = cls(defaultdict(list), defaultdict(list), set())
        for entry in entries:
            if entry["event"] == "call.authorized":
                found.authorized[entry["data"]["arguments"]["nonce"]].append(entry)
            elif entry["event"] == "call.denied":
                found.denied.add(entry["data"]["arguments"]["nonce"])
            elif entry["event"] in ENDS | {LATE}:
                found.ends[entry["call"]].append(entry["event"])
        return found

    def ends_of(self, nonce: str) -> list[list[str]]:
        return [self.ends[entry["call"]] for entry in self.authorized.get(nonce, ())]


def _endings(calls: _Calls) -> Iterator[str]:
    for nonce, tries in calls.authorized.items():
        for entry in tries:
            events = calls.ends[entry["call"]]
            if not (len(events) == 1 and events[0] in ENDS) and events != ["call.outcome_unknown", LATE]:
                yield f"call {entry['call']} ({nonce}) ended as {events}"
    if orphans := set(calls.ends) - {entry["call"] for tries in calls.authorized.values() for entry in tries}:
        yield f"calls ended that were never authorized: {orphans}"


def _effects(world: World, calls: _Calls, seen: Counter[str]) -> Iterator[str]:
    for effect in effects(world):
        nonce = effect["nonce"]
        before = [
            entry for entry in calls.authorized.get(nonce, ()) if _epoch(entry["at"]) <= world.shifted(effect["at"])
        ]
        if not any(set(calls.ends[entry["call"]]) - {"call.not_sent"} for entry in before):
            yield f"carried out without an authorization before it: {effect}, {calls.authorized.get(nonce)}"
        if seen[nonce] > 1 or nonce in calls.denied:
            yield f"{nonce} was carried out {seen[nonce]} times, denied: {nonce in calls.denied}"


def _answers(world: World, calls: _Calls, seen: Counter[str]) -> Iterator[str]:
    good = (["call.completed"], ["call.outcome_unknown"], ["call.outcome_unknown", LATE])
    for answer in world.answers:
        last = calls.ends_of(answer.nonce)[-1:]
        if answer.kind == "done":
            if answer.detail != answer.nonce or answer.nonce not in seen or not last or last[0] not in good:
                yield f"acknowledged, but {answer}, ends {last}, carried out {seen[answer.nonce]} times"
        elif answer.kind == "odd":
            yield f"no clear answer: {answer}"
        elif (answer.kind == "refused" or answer.detail == "not sent") and answer.nonce in seen:
            yield f"refused and carried out: {answer}, ends {last}"


def _requests(world: World, told: Told, requests: Rows, grants: Rows) -> Iterator[str]:
    by_request = Counter(_id(grant["request_id"]) for grant in grants)
    status = {_id(row["id"]): row["status"] for row in requests}
    for request, how in status.items():
        expected = 1 if how == "approved" else 0
        found = told[request]["request.approved"], told[request]["grant.activated"], by_request[request]
        if found != (expected, expected, expected):
            yield f"request {request} is {how}, but approved, activated, grants: {found}"
    for request in world.approvals:
        if status.get(_id(request)) != "approved":
            yield f"the approval of {request} was acknowledged and is not on record"


def _grants(world: World, told: Told, grants: Rows) -> Iterator[str]:
    ended = {_id(grant["id"]): grant["ended_at"] is not None for grant in grants}
    for grant, over in ended.items():
        count = sum(told[grant][event] for event in GRANT_ENDS)
        if count != over:
            yield f"grant {grant} ended {count} times, by its row: {over}"
    for one in world.ends:
        if not ended.get(_id(one)):
            yield f"the end of grant {one} was acknowledged and is not on record"


def _told(entries: Rows) -> Told:
    """How often each event is on record for each request and grant."""
    told: Told = defaultdict(Counter)
    for entry in entries:
        for what in ("request", "grant"):
            if entry[what]:
                told[_id(entry[what])][entry["event"]] += 1
    return told


def _id(value: object) -> str:
    return str(value).replace("-", "")


def _epoch(at: datetime | str) -> float:
    """SQLite keeps times as text, in UTC."""
    moment = at if isinstance(at, datetime) else datetime.fromisoformat(at).replace(tzinfo=UTC)
    return moment.timestamp()

"""Whether what everybody was told, what the server behind the gateway has seen and what is on record agree."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg

from tests.faults.world import World
from tests.installation import Installation, eventually

ENDS = {"call.completed", "call.failed", "call.not_sent", "call.outcome_unknown"}
LATE = "call.completed_late"
GRANT_ENDS = {"grant.expired", "grant.released", "grant.revoked", "grant.subject_disabled"}
RECOVERY_SECONDS = 60.0


def judge(world: World) -> None:
    """Wait until nothing is owed any more, then compare everything. Raises AssertionError with all that is wrong."""
    settle(world.installation)
    entries = _entries(world.installation)
    findings = [*_order(entries), *_calls(world, entries), *_access(world, entries)]
    report = world.installation.cli("audit", "verify", check=False)
    if report.returncode != 0 or "Intact" not in report.stdout:
        findings.append(f"audit verify: {report.stdout}{report.stderr}")
    assert not findings, "\n".join([*findings[:20], f"({len(findings)} findings)", world.said()])


def settle(installation: Installation) -> None:
    """Within a minute, without a hand: no call is open and every entry has its place."""

    def owed() -> list[Any]:
        try:
            return [
                *installation.query("SELECT 'open' AS what, call AS which FROM jit_gateway_opencall"),
                *installation.query("SELECT 'no place' AS what, entry_id AS which FROM jit_audit_unsequenced"),
            ]
        except (psycopg.Error, sqlite3.Error) as error:
            return [error]

    eventually(lambda: not owed(), within=RECOVERY_SECONDS, what=lambda: f"nothing is owed: {owed()[:5]}")


def effects(world: World) -> list[dict[str, Any]]:
    """What the server behind the gateway has carried out."""
    path = world.installation.var / "effects"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _entries(installation: Installation) -> list[dict[str, Any]]:
    rows = installation.query(
        "SELECT entry.*, leaf.seq FROM jit_audit_entry entry LEFT JOIN jit_audit_leaf leaf ON leaf.entry_id = entry.uid"
        " ORDER BY leaf.seq"
    )
    for row in rows:
        row["data"] = json.loads(row["data"])
    return rows


def _order(entries: list[dict[str, Any]]) -> Iterator[str]:
    if [entry["seq"] for entry in entries] != list(range(1, len(entries) + 1)):
        yield "the ledger's numbers have gaps"


def _calls(world: World, entries: list[dict[str, Any]]) -> Iterator[str]:
    authorized: dict[str, list[dict[str, Any]]] = defaultdict(list)
    ends: dict[Any, list[str]] = defaultdict(list)
    denied = set()
    for entry in entries:
        if entry["event"] == "call.authorized":
            authorized[entry["data"]["arguments"]["nonce"]].append(entry)
        elif entry["event"] == "call.denied":
            denied.add(entry["data"]["arguments"]["nonce"])
        elif entry["event"] in ENDS | {LATE}:
            ends[entry["call"]].append(entry["event"])
    for nonce, tries in authorized.items():
        for entry in tries:
            if not _one_end(ends[entry["call"]]):
                yield f"call {entry['call']} ({nonce}) ended as {ends[entry['call']]}"
    if orphans := set(ends) - {entry["call"] for tries in authorized.values() for entry in tries}:
        yield f"calls ended that were never authorized: {orphans}"
    seen = Counter(effect["nonce"] for effect in effects(world))
    for effect in effects(world):
        nonce = effect["nonce"]
        before = [entry for entry in authorized[nonce] if _epoch(entry["at"]) <= world.shifted(effect["at"])]
        if not any(set(ends[entry["call"]]) - {"call.not_sent"} for entry in before):
            yield f"{nonce} was carried out without an authorization before it: {effect}, {authorized[nonce]}"
        if seen[nonce] > 1 or nonce in denied:
            yield f"{nonce} was carried out {seen[nonce]} times, denied: {nonce in denied}"
    for answer in world.answers:
        nonce = answer.nonce
        last = [ends[entry["call"]] for entry in authorized[nonce]]
        if answer.kind == "done":
            good = [["call.completed"], ["call.outcome_unknown"], ["call.outcome_unknown", LATE]]
            if answer.detail != nonce or nonce not in seen or not last or last[-1] not in good:
                yield f"acknowledged, but {answer}, ends {last}, carried out {seen[nonce]} times"
        elif answer.kind == "refused" or answer.detail == "not sent":
            if nonce in seen:
                yield f"refused and carried out: {answer}, ends {last}"
        elif answer.kind == "odd":
            yield f"no clear answer: {answer}"


def _one_end(events: list[str]) -> bool:
    if len(events) == 2:
        return events == ["call.outcome_unknown", LATE]
    return len(events) == 1 and events[0] in ENDS


def _access(world: World, entries: list[dict[str, Any]]) -> Iterator[str]:
    told: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        for what in ("request", "grant"):
            if entry[what]:
                told[_id(entry[what])][entry["event"]] += 1
    grants = world.installation.query("SELECT id, request_id, ended_at FROM jit_requests_grant")
    by_request = Counter(_id(grant["request_id"]) for grant in grants)
    status = {
        _id(row["id"]): row["status"]
        for row in world.installation.query("SELECT id, status FROM jit_requests_accessrequest")
    }
    for request, how in status.items():
        expected = 1 if how == "approved" else 0
        found = told[request]["request.approved"], told[request]["grant.activated"], by_request[request]
        if found != (expected, expected, expected):
            yield f"request {request} is {how}, but approved, activated, grants: {found}"
    for request in world.approvals:
        if status.get(_id(request)) != "approved":
            yield f"the approval of {request} was acknowledged and is not on record"
    ended = {}
    for grant in grants:
        count = sum(told[_id(grant["id"])][event] for event in GRANT_ENDS)
        ended[_id(grant["id"])] = grant["ended_at"] is not None
        if count != (grant["ended_at"] is not None):
            yield f"grant {grant['id']} ended {count} times, at {grant['ended_at']}"
    for grant in world.ends:
        if not ended.get(_id(grant)):
            yield f"the end of grant {grant} was acknowledged and is not on record"


def _id(value: object) -> str:
    return str(value).replace("-", "")


def _epoch(at: datetime | str) -> float:
    """SQLite keeps times as text, in UTC."""
    moment = at if isinstance(at, datetime) else datetime.fromisoformat(at).replace(tzinfo=UTC)
    return moment.timestamp()

"""What the pages show of a request: read with selectors, made ready for the templates, decided nowhere here."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from jitaccess.catalog.models import Tool
from jitaccess.identity.models import User
from jitaccess.identity.services import people
from jitaccess.kernel.text import visible
from jitaccess.policy.services import uses_left
from requests_app import approval, selectors, standing
from requests_app.approval import Tally, Vote
from requests_app.lifecycle import DecisionVerdict, EndReason, RequestStatus, grant_state
from requests_app.selectors import AccessRequest, Decision, Grant
from requests_app.standing import Standing

SHORT_DESCRIPTION = 300
LONG_DESCRIPTION = 4000

_ENDED = {
    EndReason.EXPIRED: "Expired",
    EndReason.RELEASED: "Given back",
    EndReason.REVOKED: "Revoked",
    EndReason.USED_UP: "Used up",
    EndReason.SUPERSEDED: "Replaced",
    EndReason.SUBJECT_DISABLED: "Agent disabled",
    EndReason.TARGET_REMOVED: "Target removed",
}
_CLOSED = {
    RequestStatus.DENIED: ("Denied", "bad"),
    RequestStatus.CANCELLED: ("Withdrawn", "off"),
    RequestStatus.EXPIRED: ("Nobody decided", "off"),
    RequestStatus.SUPERSEDED: ("Replaced", "off"),
    RequestStatus.INVALIDATED: ("Void", "bad"),
}


@dataclass(frozen=True, slots=True)
class Status:
    """How a request stands at one moment. `tone` is one of wait, good, bad, off."""

    label: str
    tone: str
    live: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A request in a list."""

    request: AccessRequest
    status: Status
    tools: list[dict[str, str]]
    more: int


@dataclass(frozen=True, slots=True)
class ToolLine:
    """One tool asked for, from stored data. `rest` is the whole description when it is longer than shown."""

    name: str
    access: str
    description: str
    rest: str
    history: str
    obstacle: str


@dataclass(frozen=True, slots=True)
class GroupLine:
    """How far one approver group is: names, never ids."""

    name: str
    quorum: int
    missing: int
    approved: list[str]
    can: list[str]


def grant_of(request: AccessRequest) -> Grant | None:
    found: Grant | None = getattr(request, "grant", None)
    return found


def status_of(request: AccessRequest, at: datetime) -> Status:
    """Derived from the clock: what the sweep has not written down yet is true already."""
    grant = grant_of(request)
    if grant is not None:
        state = grant_state(
            starts_at=grant.starts_at, expires_at=grant.expires_at, ended=grant.ended_at is not None, at=at
        )
        if state != "ended":
            return Status("Active" if state == "active" else "Scheduled", "good", live=True)
        return Status(_ENDED[EndReason(grant.end_reason or EndReason.EXPIRED)], "off")
    if request.pending:
        return Status("Waiting", "wait") if at < request.pending_until else Status("Nobody decided", "off")
    label, tone = _CLOSED.get(RequestStatus(request.status), (request.status.capitalize(), "off"))
    return Status(label, tone)


def rows(requests: list[AccessRequest], at: datetime, *, shown: int = 4) -> list[Row]:
    made = []
    for request in requests:
        tools = [
            {"server": item["server"], "name": tool["name"], "access": tool["access"]}
            for item in request.parsed_items
            for tool in item.get("tools", ())
        ]
        made.append(Row(request, status_of(request, at), tools[:shown], max(len(tools) - shown, 0)))
    return made


def request_page(request: AccessRequest, user: User, where: Standing, at: datetime) -> dict[str, Any]:
    """Everything the request page needs but the timeline."""
    history = selectors.history_of(request)
    tally = standing.tally_of(request, at)
    mine = selectors.live_decision_of(request, user)
    grant = grant_of(request)
    status = status_of(request, at)
    why_not = _why_not(request, where, mine, at)
    context = json.loads(request.context)
    return {
        "asked": request,
        "status": status,
        "grant": grant,
        "calls_left": uses_left(grant.pk) if grant else None,
        "servers": _servers(request, history),
        "unusual": _unusual(history),
        "first_time": not any(sum(ended.values()) for ended in history.values()),
        "context": visible(json.dumps(context, indent=2, ensure_ascii=False), limit=8000, multiline=True)
        if context
        else "",
        "groups": _groups(request, tally),
        "why_not": why_not,
        "may_decide": request.pending and not why_not,
        "my_approval_completes": _completes(request, where, at),
        "missing": sum(line.missing for stage in tally.stages for line in stage) if tally else 0,
        "may_revoke": status.live and where.may_revoke,
        "ending": _ending(request, at),
    }


def _why_not(request: AccessRequest, where: Standing, mine: Decision | None, at: datetime) -> str:
    """Why this person cannot decide now, as a sentence; "" when they can, or when there is nothing left to decide."""
    if not request.pending:
        return ""
    if request.pending_until <= at:
        return f"Nobody decided before {request.pending_until:%H:%M} UTC, so this request has expired."
    if where.self_because:
        return f"{where.self_because[0].upper()}{where.self_because[1:]}, so somebody else has to decide."
    if not where.eligible:
        return "You can see this request, but you are not one of its approvers."
    if mine is not None and mine.verdict == DecisionVerdict.APPROVE:
        return f"You approved this at {mine.at:%H:%M} UTC; others are still needed."
    return ""


def _completes(request: AccessRequest, where: Standing, at: datetime) -> bool:
    """Whether one more approval, from this person's seat, is all that is missing."""
    plan, people = standing.plan_of(request), standing.people_of([request])[request.pk]
    if plan is None or where.seat is None:
        return False
    votes, waited = standing.votes_on([request])[request.pk], standing.waited(request, at)
    stage = approval.tally(plan, votes, people, waited=waited).stage
    mine = Vote(where.seat, None, stage, DecisionVerdict.APPROVE)
    return approval.tally(plan, [*votes, mine], people, waited=waited).approved


def _servers(request: AccessRequest, history: dict[UUID, Counter[str]]) -> list[dict[str, Any]]:
    known = {tool.pk: tool for tool in Tool.objects.filter(pk__in=[UUID(tool["id"]) for tool in request.tools])}
    return [
        {"name": item["server"], "tools": [_tool_line(tool, known, history) for tool in item["tools"]]}
        for item in request.parsed_items
        if "tools" in item
    ]


def _tool_line(asked: dict[str, str], known: dict[UUID, Tool], history: dict[UUID, Counter[str]]) -> ToolLine:
    tool = known.get(UUID(asked["id"]))
    ended = history[UUID(asked["id"])]
    text, obstacle = "", ""
    if tool is None or not tool.present:
        obstacle = "The server no longer offers this tool."
    elif tool.digest != asked["pin"] or tool.quarantined:
        obstacle = "The server changed this tool after it was asked for; approving it will be refused."
    if tool is not None and tool.digest == asked["pin"]:
        text = str(tool.parsed.get("description") or "")
    return ToolLine(
        name=asked["name"],
        access=asked["access"],
        description=visible(text, limit=SHORT_DESCRIPTION, multiline=True),
        rest=visible(text, limit=LONG_DESCRIPTION, multiline=True) if len(text) > SHORT_DESCRIPTION else "",
        history=_counted(ended) or "first time",
        obstacle=obstacle,
    )


def _unusual(history: dict[UUID, Counter[str]]) -> str:
    """One sentence over all tools."""
    new = sum(1 for ended in history.values() if not sum(ended.values()))
    if new == len(history):
        return (
            "This agent has never asked for this before."
            if new == 1
            else "This agent has never asked for any of this before."
        )
    if len(history) == 1:
        return f"This has been {_counted(next(iter(history.values())))}."
    if new:
        return f"{new} of {len(history)} tools for the first time; the others have been asked for before."
    return "This agent has asked for all of this before."


def _counted(ended: Counter[str]) -> str:
    """Such as "asked for 4 times before: 3 approved, 1 denied", or "" for never."""
    total = sum(ended.values())
    if not total:
        return ""
    parts = ", ".join(f"{count} {status}" for status in RequestStatus if (count := ended[status]))
    return f"asked for {'once' if total == 1 else f'{total} times'} before: {parts}"


def _groups(request: AccessRequest, tally: Tally | None) -> list[GroupLine]:
    if tally is None:
        return []
    around = standing.people_of([request])[request.pk]
    names = people({person for group in around.members.values() for person in group})
    made = []
    for one in (line for stage in tally.stages for line in stage):
        can = around.of(one.group) - one.approved_by
        made.append(
            GroupLine(
                one.group.name,
                max(one.group.quorum, 1),
                one.missing,
                sorted(names[person] for person in one.approved_by if person in names),
                sorted(names[person] for person in can if person in names),
            )
        )
    return made


def _ending(request: AccessRequest, at: datetime) -> str:
    """How it ended, as a sentence; "" while it is open or live."""
    grant = grant_of(request)
    if grant is not None:
        return _end_of_grant(grant, at)
    if request.status == RequestStatus.INVALIDATED:
        return f"This request became void: {visible(request.closing_note, limit=500)}"
    if request.status == RequestStatus.EXPIRED or (request.pending and request.pending_until <= at):
        return f"Nobody decided before {request.pending_until:%H:%M} UTC."
    return "" if request.pending else f"This request was {selectors.how_it_ended(request)}."


def _end_of_grant(grant: Grant, at: datetime) -> str:
    reason, moment = grant.end_reason, grant.ended_at or grant.expires_at
    by = f" by {grant.ended_by_name}" if grant.ended_by_name else ""
    if moment > at:
        return ""
    match reason or EndReason.EXPIRED:
        case EndReason.EXPIRED:
            return f"Access expired at {moment:%H:%M} UTC."
        case EndReason.SUBJECT_DISABLED:
            return f"Access ended at {moment:%H:%M} UTC: the agent or the person it acts for was disabled."
        case EndReason.USED_UP:
            return f"Access ended at {moment:%H:%M} UTC: all its calls were made."
        case EndReason.RELEASED:
            return f"Access was given back{by} at {moment:%H:%M} UTC."
    return f"Access was {reason}{by} at {moment:%H:%M} UTC."

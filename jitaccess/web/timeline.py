"""A request's life as sentences: ledger entries in, moments out; a call is one moment with its outcome."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.text import visible
from jitaccess.policy.models import RoleBinding
from requests_app.selectors import AccessRequest

_NOTE = 2000
_DETAILS = 8000
# The decision that caused them is told already.
_TOLD = {Event.REQUEST_APPROVED, Event.REQUEST_DENIED}
_OUTCOMES: dict[str, tuple[str, str]] = {
    Event.CALL_COMPLETED: ("succeeded", "good"),
    Event.CALL_FAILED: ("failed", "bad"),
    Event.CALL_NOT_SENT: ("not sent", "off"),
    Event.CALL_OUTCOME_UNKNOWN: ("outcome unknown", "wait"),
}


@dataclass(slots=True)
class Moment:
    """One thing that happened. `tone` is one of ask, good, bad, off, use; `badge` is a call's outcome with its own tone."""

    at: datetime
    who: str
    text: str
    tone: str
    tool: str = ""
    note: str = ""
    badge: str = ""
    badge_tone: str = ""
    because: str = ""
    details: str = ""
    until: datetime | None = None


def moments(request: AccessRequest, entries: Iterable[Entry]) -> list[Moment]:
    """In the order of `entries`; the outcome of a call is folded into the moment it was allowed."""
    rows = list(entries)
    reasons = _bindings(rows)
    told: list[Moment] = []
    calls: dict[UUID, Moment] = {}
    for entry in rows:
        data = _data(entry)
        if entry.event in _OUTCOMES and entry.call in calls:
            _close(calls[entry.call], entry, data)
        elif entry.event in _TOLD:
            continue
        elif entry.event.startswith("call."):
            moment = _call(entry, data, reasons)
            told.append(moment)
            if entry.call:
                calls[entry.call] = moment
        else:
            told.append(_life(request, entry, data))
    return told


def _life(request: AccessRequest, entry: Entry, data: dict[str, Any]) -> Moment:
    who, text, tone, note = _who(entry), "", "off", ""
    until: datetime | None = None
    match entry.event:
        case Event.REQUEST_SUBMITTED:
            tools = ", ".join(request.tool_labels)
            text, tone = f"asked for {tools} for {format_duration(request.seconds)}", "ask"
        case Event.DECISION_RECORDED:
            approved = data.get("verdict") == "approve"
            text, tone, note = (
                ("approved", "good", data.get("reason")) if approved else ("denied it", "bad", data.get("reason"))
            )
        case Event.REQUEST_CANCELLED:
            text = "withdrew the request"
        case Event.REQUEST_EXPIRED:
            who, text = "", "Nobody decided in time, so the request expired"
        case Event.REQUEST_INVALIDATED:
            who, text, tone, note = "", "The request became void", "bad", data.get("why")
        case Event.GRANT_ACTIVATED:
            who, text, tone = "", "Access began", "good"
            until = _moment(data.get("expires_at"))
        case Event.GRANT_EXPIRED:
            who, text = "", "Time was up, access ended"
        case Event.GRANT_RELEASED:
            text = "gave the access back"
        case Event.GRANT_REVOKED:
            text, tone, note = "revoked the access", "bad", data.get("note")
        case Event.GRANT_SUBJECT_DISABLED:
            who, text = "", "Access ended: the agent was disabled, or the person it acts for is no longer active"
        case _:
            text = entry.event.replace(".", " ").replace("_", " ")
    return Moment(entry.at, who, text, tone, note=visible(str(note or ""), limit=_NOTE, multiline=True), until=until)


def _call(entry: Entry, data: dict[str, Any], reasons: dict[str, str]) -> Moment:
    tool = f"{entry.server_name}/{entry.tool}" if entry.server_name else entry.tool
    moment = Moment(entry.at, _who(entry), "called", "use", tool=tool, details=_details(data))
    if entry.event == Event.CALL_AUTHORIZED:
        moment.badge, moment.badge_tone = "no outcome yet", "wait"
        named = [reasons.get(uid, "a binding that is gone") for uid in json.loads(entry.bindings)]
        moment.because = " and ".join(dict.fromkeys(named))
    elif entry.event == Event.CALL_DENIED:
        why = str(data.get("reason_code") or "").replace("_", " ")
        moment.badge, moment.badge_tone, moment.tone = f"refused: {why}" if why else "refused", "bad", "bad"
    else:
        _close(moment, entry, data)
    return moment


def _close(moment: Moment, entry: Entry, data: dict[str, Any]) -> None:
    moment.badge, moment.badge_tone = _OUTCOMES.get(entry.event, (entry.event.removeprefix("call."), "off"))
    if data.get("is_error"):
        moment.badge, moment.badge_tone = "the tool reported an error", "bad"
    moment.note = visible(str(data.get("detail") or data.get("message") or data.get("why") or ""), limit=500, multiline=True)


def _details(data: dict[str, Any]) -> str:
    """Arguments as the ledger keeps them, with their digest."""
    kept = {name: data[name] for name in ("arguments", "args_digest") if name in data}
    return visible(json.dumps(kept, indent=2, ensure_ascii=False), limit=_DETAILS, multiline=True) if kept else ""


def _bindings(entries: Iterable[Entry]) -> dict[str, str]:
    """What allowed the calls, in words, by binding id."""
    ids = {uid for entry in entries if entry.event == Event.CALL_AUTHORIZED for uid in json.loads(entry.bindings)}
    rows = RoleBinding.objects.filter(pk__in=ids).select_related("role", "agent", "user", "team")
    return {
        str(row.pk): "this grant"
        if row.origin == RoleBinding.Origin.GRANT
        else f"{row.origin} role {row.role} of {row.subject}"
        for row in rows
    }


def _who(entry: Entry) -> str:
    if entry.agent_name and entry.user_name:
        return f"{entry.agent_name} for {entry.user_name}"
    return entry.agent_name or entry.user_name


def _data(entry: Entry) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(entry.data)
    return value


def _moment(text: object) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None

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
from jitaccess.policy.models import GRANTED, RoleBinding
from requests_app.card.items import chips_of
from requests_app.card.progress import narrowed_to
from requests_app.lifecycle import RequestKind
from requests_app.selectors import AccessRequest

_NOTE = 2000
_DETAILS = 8000
# The decision that caused them is told already; a rule decides without one.
_TOLD = {Event.REQUEST_APPROVED, Event.REQUEST_DENIED}


@dataclass(frozen=True, slots=True)
class _Telling:
    """A sentence about one kind of entry; `by` puts who did it in front; `note` names the member of data to quote."""

    text: str
    tone: str = "off"
    by: bool = True
    note: str = ""


_LIFE: dict[str, _Telling] = {
    Event.REQUEST_SUBMITTED: _Telling("asked for {what}", "ask"),
    Event.REQUEST_APPROVED: _Telling("approved", "good", note="reason"),
    Event.REQUEST_DENIED: _Telling("denied it", "bad", note="reason"),
    Event.REQUEST_CANCELLED: _Telling("withdrew the request"),
    Event.REQUEST_EXPIRED: _Telling("Nobody decided in time, so the request expired", by=False),
    Event.REQUEST_SUPERSEDED: _Telling("put another request in the place of this one"),
    Event.REQUEST_CHANGES_ASKED: _Telling("asked for changes", "ask", note="note"),
    Event.REQUEST_INVALIDATED: _Telling("The request became void", "bad", by=False, note="why"),
    Event.REQUEST_COMMENTED: _Telling("commented", note="text"),
    Event.REQUEST_REMINDED: _Telling("Nobody had decided yet: those who can were reminded", by=False),
    Event.REQUEST_ESCALATED: _Telling("Nobody had decided yet: {groups} were asked as well", "ask", by=False),
    Event.BREAK_GLASS_USED: _Telling("broke the glass: {what}", "bad", note="reason"),
    Event.BREAK_GLASS_REVIEWED: _Telling("reviewed this use of break-glass", "good", note="note"),
    Event.GRANT_SCHEDULED: _Telling("Access was scheduled: it begins by itself {start}", "good", by=False),
    Event.GRANT_ACTIVATED: _Telling("Access began", "good", by=False),
    Event.GRANT_EXTENDED: _Telling("The end of the access moved {moved}", "good", by=False),
    Event.GRANT_SUPERSEDED: _Telling("Access ended: something else took its place", by=False),
    Event.GRANT_USED: _Telling("An enforcement point let one call through", "use", by=False),
    Event.GRANT_EXPIRED: _Telling("Time was up, access ended", by=False),
    Event.GRANT_RELEASED: _Telling("gave the access back"),
    Event.GRANT_REVOKED: _Telling("revoked the access", "bad", note="note"),
    Event.GRANT_USED_UP: _Telling("All calls were made, access ended", by=False),
    Event.GRANT_SUBJECT_DISABLED: _Telling(
        "Access ended: the agent was disabled, or the person it acts for is no longer active", by=False
    ),
    Event.GRANT_TARGET_REMOVED: _Telling("Access ended: nothing of it was left", by=False),
    Event.PROVISION_GRANTED: _Telling("Access was given on a target", "good", by=False, note="told"),
    Event.PROVISION_REVOKED: _Telling("Access was taken away on a target", by=False, note="told"),
    Event.PROVISION_FAILED: _Telling("A target did not do what it was asked", "bad", by=False, note="told"),
    Event.PROVISION_DRIFT_FOUND: _Telling("A target was not as it should be", "bad", by=False, note="told"),
    Event.PROVISION_REPAIRED: _Telling("The target is as it should be again", "good", by=False, note="told"),
}
_BY_RULE = _Telling("Approved by the rule {rule} of the policy {policy}; nobody was asked", "good", by=False)
_OUTCOMES: dict[str, tuple[str, str]] = {
    Event.CALL_COMPLETED: ("succeeded", "good"),
    Event.CALL_COMPLETED_LATE: ("ended late", "off"),
    Event.CALL_FAILED: ("failed", "bad"),
    Event.CALL_NOT_SENT: ("not sent", "off"),
    Event.CALL_OUTCOME_UNKNOWN: ("outcome unknown", "wait"),
}


@dataclass(slots=True)
class Moment:
    """One thing that happened. `tone` is one of ask, good, bad, off, use; `badge` is a call's outcome."""

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
        elif entry.event in _TOLD and "rule" not in data:
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
    event = entry.event
    if event == Event.DECISION_RECORDED:
        event = Event.REQUEST_APPROVED if data.get("verdict") == "approve" else Event.REQUEST_DENIED
    told = _LIFE.get(event) or _Telling(event.replace(".", " ").replace("_", " "))
    if event == Event.REQUEST_APPROVED and "rule" in data:
        told = _BY_RULE
    text = told.text.format_map(_Words(request, data)) + _how(request, event, data)
    note = visible(str(data.get(told.note) or ""), limit=_NOTE, multiline=True)
    until = _moment(data.get("expires_at")) if event in {Event.GRANT_ACTIVATED, Event.GRANT_SCHEDULED} else None
    return Moment(entry.at, _by(entry, request) if told.by else "", text, told.tone, note=note, until=until)


class _Words(dict[str, str]):
    """What the sentences name; made when one does."""

    def __init__(self, request: AccessRequest, data: dict[str, Any]) -> None:
        super().__init__()
        self._request, self._data = request, data

    def __missing__(self, name: str) -> str:
        data = self._data
        match name:
            case "what":
                return _what(self._request)
            case "groups":
                names = [str(group.get("name")) for group in data.get("groups") or ()]
                return visible(" and ".join(names) or "others", limit=500)
            case "start":
                return f"on {_day(data.get('starts_at'))}"
            case "moved":
                return f"from {_day(data.get('from'))} to {_day(data.get('expires_at'))}"
        return visible(str(data.get(name)), limit=100)


def _what(request: AccessRequest) -> str:
    """What was asked for, and for how long. An exact call by its tool; the page shows its arguments."""
    things, long = ", ".join(dict.fromkeys(map(_named, chips_of(request)))), format_duration(request.seconds)
    if request.kind == RequestKind.EXTENSION:
        return f"{long} more of {things}"
    if request.max_uses:
        long += f" and {request.max_uses} call{'' if request.max_uses == 1 else 's'}"
    return f"{things} for {long}"


def _named(chip: dict[str, str]) -> str:
    if not chip["server"]:
        return f"the {chip['name']}"
    name = f"{chip['server']}/{chip['name']}"
    return f"one exact call of {name}" if chip.get("more") else name


def _how(request: AccessRequest, event: str, data: dict[str, Any]) -> str:
    """What there is to add to a decision: in whose place it was made, and to what it was narrowed."""
    if event not in _TOLD or data.get("verdict") is None:
        return ""
    text = f", in the place of {visible(str(data['on_behalf_of']), limit=150)}" if data.get("on_behalf_of") else ""
    if not data.get("terms_digest"):
        return text
    return f"{text}, but only {narrowed_to(str(data['terms']), request) or 'what was asked for'}"


def _day(text: object) -> str:
    moment = _moment(text)
    return f"{moment:%F %H:%M} UTC" if moment else "an unknown time"


def _call(entry: Entry, data: dict[str, Any], reasons: dict[str, str]) -> Moment:
    tool = f"{entry.server_name}/{entry.tool}" if entry.server_name else entry.tool
    moment = Moment(entry.at, _who(entry), "called", "use", tool=tool, details=_details(data))
    if entry.event == Event.CALL_AUTHORIZED:
        moment.badge, moment.badge_tone = "no outcome yet", "wait"
        named = [reasons.get(uid, "a binding that is gone") for uid in json.loads(entry.bindings)]
        moment.because = " and ".join(dict.fromkeys(named))
    elif entry.event in {Event.CALL_DENIED, Event.CALL_DENIED_AGAIN}:
        why = str(data.get("reason_code") or "").replace("_", " ")
        if entry.event == Event.CALL_DENIED_AGAIN:
            times = int(data.get("times") or 0)
            moment.text = f"tried {times} more time{'' if times == 1 else 's'} in that minute"
        moment.badge, moment.badge_tone, moment.tone = f"refused: {why}" if why else "refused", "bad", "bad"
    else:
        _close(moment, entry, data)
    return moment


def _close(moment: Moment, entry: Entry, data: dict[str, Any]) -> None:
    moment.badge, moment.badge_tone = _OUTCOMES.get(entry.event, (entry.event.removeprefix("call."), "off"))
    if data.get("is_error"):
        moment.badge, moment.badge_tone = "the tool reported an error", "bad"
    said = data.get("detail") or data.get("message") or data.get("why") or ""
    moment.note = visible(str(said), limit=500, multiline=True)


def _details(data: dict[str, Any]) -> str:
    """Arguments as the ledger keeps them, with their digest."""
    kept = {name: data[name] for name in ("arguments", "args_digest") if name in data}
    return visible(json.dumps(kept, indent=2, ensure_ascii=False), limit=_DETAILS, multiline=True) if kept else ""


def _bindings(entries: Iterable[Entry]) -> dict[str, str]:
    """What allowed the calls, in words, by binding id."""
    ids = {uid for entry in entries if entry.event == Event.CALL_AUTHORIZED for uid in json.loads(entry.bindings)}
    rows = RoleBinding.objects.filter(pk__in=ids).select_related("role", "agent", "user", "team")
    return {
        str(row.pk): "this grant" if row.origin in GRANTED else f"{row.origin} role {row.role} of {row.subject}"
        for row in rows
    }


def _by(entry: Entry, request: AccessRequest) -> str:
    """Who did something about a request. A person who files for an agent is not one on whose behalf it will act."""
    if entry.agent_name and entry.user and entry.user == request.filed_by_id != request.user_id:
        return entry.user_name
    return _who(entry)


def _who(entry: Entry) -> str:
    if entry.agent_name and entry.user_name:
        return f"{entry.agent_name} for {entry.user_name}"
    return entry.agent_name or entry.user_name


def _data(entry: Entry) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(entry.data)
    return value


def _moment(text: object) -> datetime | None:
    return datetime.fromisoformat(text) if isinstance(text, str) else None

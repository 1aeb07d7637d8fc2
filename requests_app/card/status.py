"""How a request stands at one moment, in words: derived from the clock, ahead of the sweeps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from jitaccess.kernel.text import visible
from requests_app import selectors
from requests_app.lifecycle import EndReason, RequestStatus, grant_state
from requests_app.selectors import AccessRequest, Grant

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
    RequestStatus.APPROVED: ("Approved", "good"),
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


def grant_of(request: AccessRequest) -> Grant | None:
    """What it was given, of a row that was read with its grant."""
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


def said_of(decided: AccessRequest, at: datetime) -> str:
    """What became of a request by a decision just now, for the person who made it; "" while it is pending."""
    if decided.status == RequestStatus.DENIED:
        return "Denied. The agent is told."
    if decided.status != RequestStatus.APPROVED:
        return ""
    if decided.extends:
        return f"Approved. The access lasts until {decided.extends.expires_at:%H:%M} UTC now."
    grant = grant_of(decided)
    if grant and grant.starts_at > at:
        return f"Approved. Access begins on {grant.starts_at:%F at %H:%M} UTC."
    return "Approved. Access began just now."


def ending_of(request: AccessRequest, at: datetime) -> str:
    """How it ended, as a sentence; "" while it is open or live."""
    grant = grant_of(request)
    if grant is not None:
        return _end_of_grant(grant, at)
    if request.status == RequestStatus.INVALIDATED:
        return f"This request became void: {visible(request.closing_note, limit=500)}"
    if request.status == RequestStatus.EXPIRED or (request.pending and request.pending_until <= at):
        return f"Nobody decided before {request.pending_until:%H:%M} UTC."
    if request.status == RequestStatus.SUPERSEDED:
        return "Another request took the place of this one."
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
        case EndReason.SUPERSEDED:
            return f"Access ended at {moment:%H:%M} UTC: something else took its place."
        case EndReason.TARGET_REMOVED:
            return f"Access ended at {moment:%H:%M} UTC: nothing of it was left."
    return f"Access was {reason}{by} at {moment:%H:%M} UTC."

"""What the pages show of a request: read with selectors, made ready for the templates, decided nowhere here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from jitaccess.identity.models import User
from jitaccess.kernel.text import visible
from jitaccess.policy.services import uses_left
from jitaccess.web import deciding, progress
from jitaccess.web.items import Block, blocks_of, chips_of, unusual
from jitaccess.web.roles import tools_added
from jitaccess.web.shown import shown
from requests_app import selectors
from requests_app.approval import Tally, Vote
from requests_app.lifecycle import DecisionVerdict, EndReason, RequestKind, RequestStatus, grant_state
from requests_app.selectors import AccessRequest, Grant
from requests_app.standing import Seen

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
_KINDS = {RequestKind.EXTENSION: "more time", RequestKind.BREAK_GLASS: "break-glass"}


@dataclass(frozen=True, slots=True)
class Status:
    """How a request stands at one moment. `tone` is one of wait, good, bad, off."""

    label: str
    tone: str
    live: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A request in a list. `together`: it was filed in one bundle with the row above."""

    request: AccessRequest
    status: Status
    kind: str
    tools: list[dict[str, str]]
    more: int
    together: bool = False


@dataclass(frozen=True, slots=True)
class Relative:
    """Another request that belongs to this one; `how` begins the sentence."""

    request: AccessRequest
    how: str
    status: Status
    tools: list[dict[str, str]]


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


def rows(requests: list[AccessRequest], at: datetime, *, shown: int = 4) -> list[Row]:
    """In their order, but those of one bundle at the place of its first."""
    made: list[Row] = []
    for request in _bundled(requests):
        chips = chips_of(request)
        together = bool(request.bundle and made and made[-1].request.bundle == request.bundle)
        kind = _KINDS.get(RequestKind(request.kind), "")
        status = status_of(request, at)
        made.append(Row(request, status, kind, chips[:shown], max(len(chips) - shown, 0), together))
    return made


def _bundled(requests: Iterable[AccessRequest]) -> list[AccessRequest]:
    """A dict remembers where each bundle was first seen."""
    groups: dict[UUID, list[AccessRequest]] = {}
    for request in requests:
        groups.setdefault(request.bundle or request.pk, []).append(request)
    return [request for group in groups.values() for request in group]


def request_page(seen: Seen, user: User, *, recently: bool) -> dict[str, Any]:
    """Everything the request page needs but the timeline. `recently`: this person has just proved who they are."""
    request, at = seen.request, seen.at
    history = selectors.history_of(request) if request.tools else {}
    tally = progress.tally_of(seen)
    grant = grant_of(request)
    status = status_of(request, at)
    blocks = blocks_of(request, history)
    context = json.loads(request.context)
    may = deciding.deciding(seen, user, recently=recently)
    return {
        "asked": request,
        "status": status,
        "grant": grant,
        "calls_left": uses_left(grant.pk) if grant else None,
        "blocks": blocks,
        "one_thing": sum(len(block.things) for block in blocks) == 1,
        "added": _added(request, blocks),
        "any_arguments": any(_is_free(block) for block in blocks),
        # Uses are counted for each item, for all tools that take any arguments together.
        "each": sum(not _is_free(block) for block in blocks) + any(_is_free(block) for block in blocks) > 1,
        "unusual": unusual(history),
        "first_time": bool(history) and not any(sum(ended.values()) for ended in history.values()),
        "context": shown(context) if context else None,
        "new_end": _new_end(request),
        "relatives": _relatives(seen),
        "plan": seen.plan,
        "stages": progress.stages_of(seen, tally),
        "escalations": progress.escalations_of(seen),
        "decisions": progress.decisions_of(seen),
        "may": may,
        "choices": deciding.choices_of(request) if may.may_approve else None,
        "labels": [(thing.label, thing.name) for block in blocks for thing in block.things],
        "my_approval_completes": _completes(seen, tally),
        "may_revoke": status.live and seen.standing.may_revoke,
        "ending": _ending(request, at),
    }


def _added(request: AccessRequest, blocks: Iterable[Block]) -> dict[str, list[dict[str, str]] | None]:
    """What the roles that are asked for would add now, by name."""
    if not request.pending:
        return {}
    return {block.where: tools_added(request, block.row) for block in blocks if block.row is not None}


def _is_free(block: Block) -> bool:
    return block.kind == "tools" and block.arguments is None


def _new_end(request: AccessRequest) -> datetime | None:
    """Where approving an extension in full would move the end of its grant."""
    grant = request.extends
    if grant is None:
        return None
    moved = grant.expires_at + timedelta(seconds=request.seconds)
    return min(moved, grant.latest or moved)


def _relatives(seen: Seen) -> list[Relative]:
    request = seen.request
    found = []
    for one in seen.relatives:
        if one.pk == request.supersedes_id:
            how = "Takes the place of"
        elif one.supersedes_id == request.pk:
            how = "Replaced by"
        elif request.extends and one.pk == request.extends.request_id:
            how = "More time for what was given by"
        elif one.extends_id:
            how = "More time was asked for"
        else:
            how = "Filed together with"
        found.append(Relative(one, how, status_of(one, seen.at), chips_of(one)))
    return found


def _completes(seen: Seen, tally: Tally | None) -> bool:
    """Whether one more approval, from this person's seat, is all that is missing."""
    seat = seen.standing.seat
    if tally is None or seat is None:
        return False
    then = progress.tally_of(seen, Vote(seat, None, tally.stage, DecisionVerdict.APPROVE))
    return bool(then and then.approved)


def _ending(request: AccessRequest, at: datetime) -> str:
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

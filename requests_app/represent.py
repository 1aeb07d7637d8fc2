"""Requests, grants and what may be asked for as JSON: the same members for MCP tools and for the REST API."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from uuid import UUID

from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.decide import Visibility
from jitaccess.policy.engine.listing import Listed
from jitaccess.policy.models import ApprovalPolicy
from jitaccess.policy.services import uses_left_of
from requests_app import selectors
from requests_app.lifecycle import RequestStatus, grant_state
from requests_app.selectors import AccessRequest, Grant


def status_at(request: AccessRequest, at: datetime) -> str:
    """By the clock: what the sweep has not written down yet is true already."""
    lapsed = request.pending and request.pending_until <= at
    return RequestStatus.EXPIRED if lapsed else str(request.status)


def request_data(request: AccessRequest, at: datetime, left: Mapping[UUID, int] | None = None) -> JsonObject:
    """What was asked and how it stands; asks the database nothing when `left` holds the uses of its grant."""
    status = status_at(request, at)
    data: JsonObject = {
        "request_id": str(request.pk),
        "status": status,
        "tools": list(request.tool_labels),
        "minutes": request.seconds // 60,
        "url": request.url,
    }
    if request.max_uses is not None:
        data["max_uses"] = request.max_uses
    if status == RequestStatus.PENDING:
        data["pending_until"] = request.pending_until.isoformat()
    else:
        data["decided_by"] = request.closed_by_name
        data["note"] = request.closing_note
    grant = getattr(request, "grant", None)
    if grant is not None:
        data["grant"] = grant_data(grant, at, left)
    return data


def approval_data(request: AccessRequest) -> JsonObject:
    """Who can approve now, and how far each group is."""
    return {
        "who_can_approve": [person.username for person in selectors.approvers_of(request)],
        "approvals": [
            {"group": one.group.name, "needed": one.group.quorum, "given": len(one.approved_by)}
            for one in selectors.approval_progress(request)
        ],
    }


def grant_data(grant: Grant, at: datetime, left: Mapping[UUID, int] | None = None) -> JsonObject:
    """A grant at one moment; `left` are uses by grant, read here when they are not given."""
    state = grant_state(starts_at=grant.starts_at, expires_at=grant.expires_at, ended=grant.ended_at is not None, at=at)
    data: JsonObject = {"grant_id": str(grant.pk), "state": state, "expires_at": grant.expires_at.isoformat()}
    if state == "ended":
        data["end_reason"] = grant.end_reason or "expired"
        return data
    data["seconds_left"] = max(int((grant.expires_at - at).total_seconds()), 0)
    uses = (uses_left_of([grant.pk]) if left is None else left).get(grant.pk)
    if uses is not None:
        data["calls_left"] = uses
    return data


def requestable_data(named: Iterable[tuple[str, Listed]], search: str = "") -> list[Json]:
    """The locked ones of `named` tools, with the limits and who decides; `search` in small letters."""
    deciders: dict[UUID, Json] = {}
    tools: list[Json] = []
    for name, listed in named:
        requestable = listed.verdict.requestable
        if listed.visibility is not Visibility.LOCKED or requestable is None:
            continue
        description = str(strictjson.decode(listed.tool.definition.encode()).get("description") or "")
        if search and search not in name.lower() and search not in description.lower():
            continue
        if requestable.policy not in deciders:
            policy = ApprovalPolicy.objects.get(pk=requestable.policy)
            deciders[requestable.policy] = [f"{group.quorum} of {group.name}" for group in policy.groups.all()]
        tools.append(
            {
                "tool": name,
                "access": listed.tool.access,
                "description": visible(description, limit=200),
                "max_minutes": requestable.max_seconds // 60,
                "decided_by": deciders[requestable.policy],
                **({"max_uses": requestable.max_uses} if requestable.max_uses is not None else {}),
            }
        )
    return tools

"""Rows as the API shows them, for the caller at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from jitaccess.api.endpoint import Caller
from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.kernel.errors import NotFound
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.services import uses_left_of
from requests_app import represent, selectors
from requests_app.lifecycle import DecisionVerdict, RequestStatus
from requests_app.selectors import AccessRequest, Decision, Grant
from requests_app.standing import Standing, seen_by


def seen_request(caller: Caller, request_id: UUID) -> tuple[AccessRequest, Standing | None]:
    """A request, and what the person who calls is to it. Raises NotFound for foreign ones as for absent ones."""
    if caller.person:
        return seen_by(caller.person, request_id)
    request = selectors.requests_of(caller.principal).filter(pk=request_id).first()
    if request is None:
        raise NotFound("request.unknown", "There is no such request, or you may not see it.")
    return request, None


def listed_request(request: AccessRequest, at: datetime, left: Mapping[UUID, int]) -> JsonObject:
    """A request in a list; asks the database nothing."""
    return represent.request_data(request, at, left) | {
        "agent": request.agent.name,
        "on_behalf_of": request.user.username if request.user else None,
        "reason": request.reason,
        "created_at": request.created_at.isoformat(),
    }


def full_request(caller: Caller, request: AccessRequest, standing: Standing | None, at: datetime) -> dict[str, Any]:
    """Everything about a request but its timeline."""
    grant = getattr(request, "grant", None)
    left = uses_left_of([grant.pk] if grant else [])
    data: dict[str, Any] = {
        **listed_request(request, at, left),
        "digest": request.digest,
        "policy": request.policy_name,
        "items": [
            {"server": item["server"], "tool": tool["name"], "access": tool["access"], "pin": tool["pin"]}
            for item in request.parsed_items
            for tool in item.get("tools", ())
        ],
        "context": json.loads(request.context),
        "decisions": [_decision(caller, one) for one in selectors.decisions_on(request)],
    }
    if data["status"] == RequestStatus.PENDING:
        data |= represent.approval_data(request)
    if standing is not None:
        data["standing"] = {
            "may_decide": standing.may_decide and data["status"] == RequestStatus.PENDING,
            "may_revoke": standing.may_revoke,
            "self_because": standing.self_because,
        }
    return data


def full_grant(caller: Caller, grant: Grant, at: datetime, left: Mapping[UUID, int]) -> JsonObject:
    """A grant with whose it is, and what for; asks the database nothing."""
    data = represent.grant_data(grant, at, left) | {
        "request_id": str(grant.request_id),
        "agent": grant.agent.name,
        "on_behalf_of": grant.user.username if grant.user else None,
        "tools": list(grant.request.tool_labels),
        "starts_at": grant.starts_at.isoformat(),
        "ended_at": grant.ended_at.isoformat() if grant.ended_at else None,
        "ended_by": grant.ended_by_name,
    }
    return data | {"note": grant.end_note} if caller.person else data


def moment(caller: Caller, entry: Entry) -> dict[str, Any] | None:
    """An entry of a timeline. What people say to each other is not for the agent; addresses are for auditors."""
    own = caller.person is not None or entry.agent == caller.principal.agent
    if not own and entry.event == Event.REQUEST_COMMENTED:
        return None
    return {
        "uid": str(entry.uid),
        "at": entry.at.isoformat(),
        "event": entry.event,
        "outcome": entry.outcome,
        "agent": entry.agent_name,
        "user": entry.user_name,
        "server": entry.server_name,
        "tool": entry.tool,
        "call": str(entry.call) if entry.call else None,
        "data": json.loads(entry.data) if own else {},
    }


def _decision(caller: Caller, decision: Decision) -> JsonObject:
    data: JsonObject = {
        "by": decision.user.username,
        "verdict": decision.verdict,
        "at": decision.at.isoformat(),
        "counts": decision.live,
    }
    # Why not is told to the agent; what was remarked beside a yes is for people.
    if caller.person or decision.verdict == DecisionVerdict.DENY:
        data["reason"] = decision.reason
    return data

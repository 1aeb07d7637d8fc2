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
from jitaccess.policy.engine.rules import RoleFacts
from jitaccess.policy.models import ApprovalPolicy
from jitaccess.policy.policies import document_of
from jitaccess.policy.services import uses_left_of
from requests_app import standing
from requests_app.lifecycle import RequestKind, RequestStatus, grant_state
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
    if request.kind != RequestKind.ACCESS:
        data["kind"] = request.kind
    if request.extends_id:
        data["extends"] = str(request.extends_id)
    if request.bundle:
        data["bundle"] = str(request.bundle)
    if request.starts_at:
        data["starts_at"] = request.starts_at.isoformat()
    if calls := [item for item in request.parsed_items if item["kind"] == "call"]:
        data["calls"] = [
            {"tool": f"{item['server']}/{item['tools'][0]['name']}", "arguments": item["arguments"]["value"]}
            for item in calls
        ]
    if request.changes_at and status == RequestStatus.PENDING:
        data["changes"] = {"asked_by": request.changes_by_name, "note": request.changes_note}
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
    """Who can approve now, and how far each group of each stage is."""
    tally = standing.tally_of(request)
    return {
        "who_can_approve": [person.username for person in standing.approvers_of(request)],
        "approvals": [
            {"stage": number, "group": one.group.name, "needed": one.group.quorum, "given": len(one.approved_by)}
            for number, stage in enumerate(tally.stages if tally else ())
            for one in stage
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
        requestable = listed.requestable
        if listed.visibility is not Visibility.LOCKED or requestable is None:
            continue
        description = str(strictjson.decode(listed.tool.definition.encode()).get("description") or "")
        if search and search not in name.lower() and search not in description.lower():
            continue
        if requestable.policy not in deciders:
            deciders[requestable.policy] = decided_by(ApprovalPolicy.objects.get(pk=requestable.policy))
        tools.append(
            {
                "tool": name,
                "access": listed.tool.access,
                "description": visible(description, limit=200),
                "max_minutes": requestable.max_seconds // 60,
                **({"arguments": requestable.arguments} if requestable.arguments != "any" else {}),
                "decided_by": deciders[requestable.policy],
                **({"max_uses": requestable.max_uses} if requestable.max_uses is not None else {}),
            }
        )
    return tools


def decided_by(policy: ApprovalPolicy) -> list[Json]:
    """Who is usually asked: the groups of the policy's last rule, which takes what no other does, stage by stage."""
    rule = document_of(policy).rules[-1]
    if rule.auto_approve:
        return ["nobody: approved by rule"]
    return [f"{group.quorum} of {group.name}" for stage in rule.stages for group in stage.groups]


def requestable_roles_data(roles: Iterable[RoleFacts], search: str = "") -> list[Json]:
    """Roles that may be asked for, with what they allow in a line; `search` in small letters."""
    found: list[Json] = []
    policies = {policy.name: policy for policy in ApprovalPolicy.objects.all()}
    for role in roles:
        policy = policies.get(role.request.approval) if role.request else None
        if role.request is None or policy is None or (search and search not in role.name):
            continue
        found.append(
            {"role": role.name, "max_minutes": role.request.max_seconds // 60, "decided_by": decided_by(policy)}
        )
    return found

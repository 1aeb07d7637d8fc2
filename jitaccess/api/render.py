"""Rows as the API shows them, for the caller at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import prefetch_related_objects

from jitaccess.api.endpoint import Caller
from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.identity.models import AccessToken
from jitaccess.kernel.errors import NotFound
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.services import uses_left_of
from requests_app import represent, selectors, standing
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
        "kind": request.kind,
        "risk": request.risk,
        "agent": request.agent.name,
        "on_behalf_of": request.user.username if request.user else None,
        "reason": request.reason,
        "created_at": request.created_at.isoformat(),
    }


def full_request(caller: Caller, request: AccessRequest, theirs: Standing | None, at: datetime) -> dict[str, Any]:
    """Everything about a request but its timeline."""
    grant = getattr(request, "grant", None)
    left = uses_left_of([grant.pk] if grant else [])
    decisions = selectors.decisions_on(request)
    prefetch_related_objects(decisions, "on_behalf_of")
    data: dict[str, Any] = {
        **listed_request(request, at, left),
        "digest": request.digest,
        "policy": request.policy_name,
        "plan": plan_data(request, at),
        "items": asked_items(request),
        "ticket": request.ticket,
        "not_after": request.not_after.isoformat() if request.not_after else None,
        "supersedes": str(request.supersedes_id) if request.supersedes_id else None,
        "filed_by": request.filed_by.username if request.filed_by else None,
        "context": json.loads(request.context),
        "decisions": [_decision(caller, one) for one in decisions],
    }
    if data["status"] == RequestStatus.PENDING:
        data |= represent.approval_data(request)
    if theirs is not None:
        data["standing"] = {
            "may_decide": theirs.may_decide and data["status"] == RequestStatus.PENDING,
            "may_revoke": theirs.may_revoke,
            "self_because": theirs.self_because,
            "decided": theirs.decided,
        }
    return data


def asked_items(request: AccessRequest) -> list[JsonObject]:
    """Every thing that is asked for, whole: of a call its very arguments, for whoever sees the request."""
    found: list[JsonObject] = []
    for item in request.parsed_items:
        if item["kind"] == "role":
            found.append({name: item[name] for name in ("kind", "role", "version")})
        elif item["kind"] == "database":
            found.append({name: item[name] for name in ("kind", "database", "objects", "privileges")})
        else:
            kind, more = "call" if item["kind"] == "call" else "tool", {}
            if "arguments" in item:
                more = {"arguments": item["arguments"]}
            found += [
                {
                    "kind": kind,
                    "server": item["server"],
                    "tool": tool["name"],
                    "access": tool["access"],
                    "pin": tool["pin"],
                    **more,
                }
                for tool in item["tools"]
            ]
    return found


def plan_data(request: AccessRequest, at: datetime) -> JsonObject | None:
    """The rule that applies, as it was pinned at filing; None for requests from before there were rules."""
    plan = standing.plan_of(request)
    if plan is None:
        return None
    waited = standing.waited(request, at)
    return {
        "rule": plan.rule,
        "version": plan.version,
        "auto_approve": plan.auto_approve,
        "stages": len(plan.stages),
        "deny_threshold": plan.deny_threshold,
        "channels": list[Json](sorted(plan.channels)),
        "step_up": plan.step_up,
        "escalations": [
            {
                "at": (request.created_at + timedelta(seconds=one.after)).isoformat(),
                "due": one.after <= waited,
                "groups": [group.name for group in one.groups],
            }
            for one in plan.escalations
        ],
        "fallback": plan.fallback.name if plan.fallback else None,
    }


def full_grant(
    caller: Caller, grant: Grant, at: datetime, left: Mapping[UUID, int], given: Mapping[UUID, list[str]]
) -> JsonObject:
    """A grant with whose it is, and what for; asks the database nothing. `given` is from `given_by`."""
    data = represent.grant_data(grant, at, left) | {
        "request_id": str(grant.request_id),
        "agent": grant.agent.name,
        "on_behalf_of": grant.user.username if grant.user else None,
        "tools": list[Json](given.get(grant.pk, grant.request.tool_labels)),
        "starts_at": grant.starts_at.isoformat(),
        "latest": grant.latest.isoformat() if grant.latest else None,
        "ended_at": grant.ended_at.isoformat() if grant.ended_at else None,
        "ended_by": grant.ended_by_name,
    }
    return data | {"note": grant.end_note} if caller.person else data


def given_by(grants: Sequence[Grant]) -> dict[UUID, list[str]]:
    """What approvals left of what was asked for, by grant, as the ledger has it; one query."""
    events = (Event.GRANT_ACTIVATED, Event.GRANT_SCHEDULED)
    rows = Entry.objects.filter(grant__in=[grant.pk for grant in grants], event__in=events)
    found: dict[UUID, list[str]] = {}
    for grant, data in rows.values_list("grant", "data"):
        # A scheduled grant has two entries; that it began says nothing more.
        if grant and (tools := json.loads(data).get("tools")) is not None:
            found[grant] = tools
    return found


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
        "on_behalf_of": decision.on_behalf_of.username if decision.on_behalf_of else None,
        "stage": decision.stage,
        "verdict": decision.verdict,
        "at": decision.at.isoformat(),
        "counts": decision.live,
    }
    terms = json.loads(decision.terms)
    if terms:
        data["terms"] = {
            "minutes": terms["seconds"] // 60,
            "max_uses": terms["max_uses"],
            "tools": terms["labels"],
        }
    # Why not is told to the agent; what was remarked beside a yes is for people.
    if caller.person or decision.verdict == DecisionVerdict.DENY:
        data["reason"] = decision.reason
    if caller.person:
        data["channel"] = decision.channel
    return data


def token_data(token: AccessToken, at: datetime) -> dict[str, Any]:
    """A token as it is shown; `at` is the database's clock."""
    return {
        "token_id": str(token.pk),
        "agent": token.agent.name,
        "on_behalf_of": token.user.username if token.user else None,
        "issued_by": token.issued_by_name,
        "created_at": token.created_at.isoformat(),
        "expires_at": token.expires_at.isoformat(),
        "revoked_at": token.revoked_at.isoformat() if token.revoked_at else None,
        "live": token.expires_at > at and (token.revoked_at is None or token.revoked_at > at),
    }

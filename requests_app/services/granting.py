"""What an approval brings about: a grant with its bindings, or more time for one. Recorded in the same transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity.models import User
from jitaccess.kernel.errors import Conflict
from jitaccess.kernel.strictjson import Json
from jitaccess.policy import services as policy
from jitaccess.policy.approval.plan import Plan
from requests_app.granted import kept_of
from requests_app.lifecycle import RequestKind, RequestStatus
from requests_app.models import AccessRequest, Grant, labels_of
from requests_app.provisioning.service import begin
from requests_app.terms import Terms, terms_of


def approve_by_rule(request: AccessRequest, plan: Plan, moment: datetime) -> None:
    """What a rule approves by itself, as it is filed."""
    who = f"policy {plan.policy}, rule {plan.rule}"
    data: dict[str, Json] = {"policy": plan.policy, "version": plan.version, "rule": plan.rule}
    activate(request, terms_of(request), Actor.system("policy"), moment, who=who, about=data)


def activate(
    request: AccessRequest,
    terms: Terms,
    actor: Actor,
    moment: datetime,
    *,
    who: str,
    about: dict[str, Json],
) -> Grant:
    """Close the request as approved and give what `terms` left of it. Raises Conflict when somebody was first, or when
    nothing is left to give.
    """
    close(request, RequestStatus.APPROVED, moment, who, "")
    record(
        Facts(
            event=Event.REQUEST_APPROVED,
            actor=actor,
            outcome=Outcome.ALLOWED,
            at=moment,
            request=request.pk,
            data={"digest": request.digest, **about},
        )
    )
    if request.kind == RequestKind.EXTENSION:
        return _extend(request, terms, actor, moment)
    return _begin(request, terms, actor, moment)


def close(request: AccessRequest, status: RequestStatus, moment: datetime, who: str, note: str) -> None:
    """End a pending request, once."""
    moved = AccessRequest.objects.filter(pk=request.pk, status=RequestStatus.PENDING).update(
        status=status, closed_at=moment, closed_by_name=who[:150], closing_note=note
    )
    if moved != 1:
        raise Conflict("request.already_decided", "Somebody else decided at the same moment. Open the request again.")
    request.status, request.closed_at, request.closed_by_name = status, moment, who[:150]


def _begin(request: AccessRequest, terms: Terms, actor: Actor, moment: datetime) -> Grant:
    """The clock of a grant starts here, at approval or at its scheduled start, never at filing."""
    starts_at = max(request.starts_at or moment, moment)
    latest = starts_at + timedelta(seconds=max(request.max_total_seconds or 0, terms.seconds))
    expires_at = starts_at + timedelta(seconds=terms.seconds)
    if request.not_after:
        latest, expires_at = min(latest, request.not_after), min(expires_at, request.not_after)
    scheduled = starts_at > moment
    grant = Grant.objects.create(
        request=request,
        agent_id=request.agent_id,
        user_id=request.user_id,
        starts_at=starts_at,
        expires_at=expires_at,
        latest=latest,
        activated_at=None if scheduled else moment,
    )
    items = [kept for item in request.parsed_items if (kept := kept_of(item, terms.labels))]
    # One exact call is one call, unless more were asked for: approving less must not make it more.
    once = {"call"} if request.max_uses is None else set()
    bindings = [_bind(grant, item, 1 if item["kind"] in once else terms.max_uses) for item in _together(items)]
    data: dict[str, Json] = {
        "tools": [label for item in items for label in labels_of(item)],
        "starts_at": starts_at.isoformat(),
        "expires_at": expires_at.isoformat(),
        "max_uses": terms.max_uses,
        "digest": request.digest,
    }
    record(
        Facts(
            event=Event.GRANT_SCHEDULED if scheduled else Event.GRANT_ACTIVATED,
            actor=actor,
            at=moment,
            request=request.pk,
            grant=grant.pk,
            bindings=bindings,
            data=data,
        )
    )
    begin(grant, items)
    return grant


def _together(items: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One binding for all tools that take any arguments: their uses are counted together."""
    free = [item for item in items if item["kind"] == "tools" and "arguments" not in item]
    rest = [item for item in items if item not in free]
    tools = [tool for item in free for tool in item["tools"]]
    return ([{"kind": "tools", "tools": tools}] if tools else []) + rest


def _bind(grant: Grant, item: dict[str, Any], max_uses: int | None) -> UUID:
    content: dict[str, Any]
    match item["kind"]:
        case "role":
            content = {"role": UUID(item["role_id"]), "role_version": item["version"]}
        case "database":
            content = {"privileges": {name: item[name] for name in ("database", "objects", "privileges")}}
        case _:
            tools = {UUID(tool["id"]): str(tool["pin"]) for tool in item["tools"]}
            content = {"tools": tools, "arguments": _constraint(item)}
    return policy.bind_grant(
        grant=grant.pk,
        agent=grant.agent_id,
        user=grant.user_id,
        starts_at=grant.starts_at,
        expires_at=grant.expires_at,
        max_uses=max_uses,
        **content,
    ).pk


def _constraint(item: dict[str, Any]) -> dict[str, Any] | None:
    """What of an item's arguments the engine needs: the approved values themselves stay with the request."""
    arguments = item.get("arguments")
    if arguments is None:
        return None
    return {name: value for name, value in arguments.items() if name != "value"}


def _extend(request: AccessRequest, terms: Terms, actor: Actor, moment: datetime) -> Grant:
    """The end of a live grant moves once, by what was approved, never past its life."""
    assert request.extends_id
    grant = Grant.objects.select_for_update().get(pk=request.extends_id)
    if grant.ended_at is not None or grant.expires_at <= moment:
        raise Conflict("grant.ended", "The grant that should be extended has ended.")
    expires_at = min(grant.expires_at + timedelta(seconds=terms.seconds), grant.latest or grant.expires_at)
    moved = Grant.objects.filter(pk=grant.pk, ended_at=None, expires_at=grant.expires_at).update(
        expires_at=expires_at, extension=request
    )
    if moved != 1:
        raise Conflict("grant.ended", "The grant has just changed. Open it again.")
    bindings = policy.extend_grant_bindings(grant=grant.pk, expires_at=expires_at)
    data: dict[str, Json] = {
        "from": grant.expires_at.isoformat(),
        "expires_at": expires_at.isoformat(),
        "digest": request.digest,
        "granted_by": str(grant.request_id),
    }
    record(
        Facts(
            event=Event.GRANT_EXTENDED,
            actor=actor,
            at=moment,
            request=request.pk,
            grant=grant.pk,
            bindings=bindings,
            data=data,
        )
    )
    grant.refresh_from_db()
    return grant


def names_of(people: Sequence[UUID] | frozenset[UUID]) -> list[str]:
    """Usernames in order, for the record."""
    return sorted(User.objects.filter(pk__in=people).values_list("username", flat=True))

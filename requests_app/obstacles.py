"""Why what was asked for can no longer be granted: asked by whoever approves, and by the page that offers it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from jitaccess.catalog.models import Tool
from jitaccess.identity.services import may_use
from jitaccess.policy.models import Role
from jitaccess.policy.selectors import may_ask_for_privileges, may_ask_for_role, may_be_asked
from jitaccess.store.clock import now
from requests_app.lifecycle import RequestKind
from requests_app.models import AccessRequest


def obstacle_to(request: AccessRequest, at: datetime | None = None) -> str:
    """A sentence for people, or "" when everything is as it was when it was asked for."""
    agent, user = request.agent, request.user
    if not agent.enabled:
        return f"the agent {agent.name} is disabled."
    if not agent.owner.is_active:
        return f"the owner of {agent.name} is not active."
    if user and not (user.is_active and may_use(user=user, agent=agent)):
        return f"{user.username} is not active or may no longer use {agent.name}."
    moment = at or now()
    if request.not_after and request.not_after < max(request.starts_at or moment, moment) + timedelta(seconds=60):
        return "the time it was wanted for is over."
    if request.kind == RequestKind.EXTENSION:
        grant = request.extends
        if grant is None or grant.ended_at is not None or grant.expires_at <= moment:
            return "the grant that should be extended has ended."
        if grant.latest and grant.expires_at >= grant.latest:
            return "the grant that should be extended has the longest life that it may have already."
    return next((found for item in request.parsed_items for found in _in_the_way(request, item) if found), "")


def _in_the_way(request: AccessRequest, item: dict[str, Any]) -> Iterator[str]:
    # What extends a grant was held to its limits when it was first asked for.
    seconds = 0 if request.kind == RequestKind.EXTENSION else request.seconds
    # What extends a grant is decided by its old policy: not when others decide about such things by now.
    policy = request.policy_name if request.kind == RequestKind.EXTENSION else ""
    match item["kind"]:
        case "role":
            role = Role.objects.filter(pk=item["role_id"]).first()
            if role is None:
                yield f"the role {item['role']} is gone."
            elif role.head != item["version"] and request.kind != RequestKind.EXTENSION:
                yield f"the role {item['role']} has changed since it was asked for; a new request is needed."
            elif not may_ask_for_role(agent=request.agent, role=role, seconds=seconds, policy=policy):
                yield f"the role {item['role']} may no longer be asked for by {request.agent.name}, or not for so long."
        case "database":
            if not may_ask_for_privileges(
                agent=request.agent,
                database=item["database"],
                objects=item["objects"],
                privileges=item["privileges"],
                seconds=seconds,
                policy=policy,
            ):
                yield f"these privileges on {item['database']} may no longer be asked for, or not for so long."
        case _:
            yield from _tools_in_the_way(request, item, seconds, policy)


def _tools_in_the_way(request: AccessRequest, item: dict[str, Any], seconds: int, policy: str) -> Iterator[str]:
    wanted = {UUID(tool["id"]): tool for tool in item["tools"]}
    rows = {tool.pk: tool for tool in Tool.objects.filter(pk__in=wanted, present=True, server__enabled=True)}
    mode = item.get("arguments", {}).get("mode", "any")
    for pk, asked in wanted.items():
        row = rows.get(pk)
        if row is None:
            yield f"the tool {asked['name']} is gone."
        elif row.quarantined or row.pin != asked["pin"] or row.access != asked["access"]:
            yield f"the tool {asked['name']} has changed since it was asked for; a new request is needed."
        elif not may_be_asked(
            agent=request.agent,
            user=request.user,
            tool=row,
            seconds=seconds,
            uses=request.max_uses,
            mode=mode,
            policy=policy,
        ):
            yield (
                f"the tool {asked['name']} may no longer be asked for by {request.agent.name}, or not for so long or "
                "so often."
            )

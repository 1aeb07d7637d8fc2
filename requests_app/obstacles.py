"""Why what was asked for can no longer be granted: asked by whoever approves, and by the page that offers it."""

from __future__ import annotations

from uuid import UUID

from jitaccess.catalog.models import Tool
from jitaccess.identity.services import may_use
from jitaccess.policy.selectors import may_be_asked
from requests_app.models import AccessRequest


def obstacle_to(request: AccessRequest) -> str:
    """A sentence for people, or "" when everything is as it was when it was asked for."""
    agent, user = request.agent, request.user
    if not agent.enabled:
        return f"the agent {agent.name} is disabled."
    if user and not (user.is_active and may_use(user=user, agent=agent)):
        return f"{user.username} is not active or may no longer use {agent.name}."
    wanted = {UUID(tool["id"]): tool for item in request.parsed_items for tool in item["tools"]}
    rows = {tool.pk: tool for tool in Tool.objects.filter(pk__in=wanted, present=True, server__enabled=True)}
    for pk, asked in wanted.items():
        row = rows.get(pk)
        if row is None:
            return f"the tool {asked['name']} is gone."
        if row.quarantined or row.pin != asked["pin"] or row.access != asked["access"]:
            return f"the tool {asked['name']} has changed since it was asked for; a new request is needed."
        if not may_be_asked(agent=agent, user=user, tool=row, seconds=request.seconds, uses=request.max_uses):
            return (
                f"the tool {asked['name']} may no longer be asked for by {agent.name}, or not for so long or so often."
            )
    return ""

"""Questions about policy that are asked of the rows, inside somebody's transaction, not of a Snapshot."""

from __future__ import annotations

from django.db.models import Q

from jitaccess.catalog.models import Tool
from jitaccess.identity.models import Agent, User
from jitaccess.policy.compiler import requestable_facts, tool_facts
from jitaccess.policy.models import Requestable, ServerAccess


def may_be_asked(*, agent: Agent, user: User | None, tool: Tool, seconds: int, uses: int | None) -> bool:
    """Whether this agent (on behalf of `user`) may use the tool's server at all, and ask for the tool for so long and
    for so many calls (None: any number).
    """
    doors = ServerAccess.objects.filter(server=tool.server_id)
    if not doors.filter(Q(every_team=True) | Q(teams=agent.team_id)).exists():
        return False
    if user is not None and not doors.filter(Q(every_team=True) | Q(teams__members=user)).exists():
        return False
    wanted = tool_facts(tool)
    return any(
        facts.covers(server=tool.server_id, team=agent.team_id, tool=wanted)
        and seconds <= facts.max_seconds
        and (facts.max_uses is None or (uses is not None and uses <= facts.max_uses))
        for facts in map(requestable_facts, Requestable.objects.filter(server=tool.server_id))
    )

"""Questions about policy that are asked of the rows, inside somebody's transaction, not of a Snapshot."""

from __future__ import annotations

from collections.abc import Collection

from django.db.models import Q, QuerySet

from jitaccess.catalog.models import Tool
from jitaccess.identity.models import Agent, User
from jitaccess.kernel.errors import Invalid
from jitaccess.policy.compiler import requestable_facts, tool_facts
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.models import Requestable, Role, ServerAccess

_STRICTNESS = ("any", "schema", "exact")


def may_be_asked(
    *, agent: Agent, user: User | None, tool: Tool, seconds: int, uses: int | None, mode: str = "any", policy: str = ""
) -> bool:
    """Whether this agent (on behalf of `user`) may use the tool's server at all, and ask for the tool for so long, for
    so many calls (None: any number), and with as free arguments as `mode` says.
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
        and _STRICTNESS.index(mode) >= _STRICTNESS.index(facts.arguments)
        for facts in map(requestable_facts, _decided_by(policy).filter(server=tool.server_id))
    )


def may_ask_for_role(*, agent: Agent, role: Role, seconds: int, policy: str = "") -> bool:
    """Whether the role's head says that this agent's team may ask for it, for so long."""
    try:
        request = parse_role(role.document).facts.request
    except Invalid:
        return False
    if request is None or seconds > request.max_seconds or policy not in ("", request.approval):
        return False
    return request.teams is None or agent.team.name in request.teams


def may_ask_for_privileges(
    *,
    agent: Agent,
    database: str,
    objects: Collection[str],
    privileges: Collection[str],
    seconds: int,
    policy: str = "",
) -> bool:
    """Whether one requestable allows all of this together."""
    rows = _decided_by(policy).filter(Q(team=None) | Q(team=agent.team_id), database=database)
    return any(
        seconds <= facts.max_seconds
        and set(privileges) <= facts.privileges
        and all(facts.objects.matches(name) for name in objects)
        for facts in map(requestable_facts, rows)
    )


def _decided_by(policy: str) -> QuerySet[Requestable]:
    """Those with the policy of this name; all for ""."""
    return Requestable.objects.filter(policy__name=policy) if policy else Requestable.objects.all()

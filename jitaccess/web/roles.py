"""What a role that is asked for would add now: the tools that the agent may not use without it, and may with it."""

from __future__ import annotations

from dataclasses import replace

from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.ids import uuid7
from jitaccess.policy.engine.decide import START_OF_TIME, Who, decide_all
from jitaccess.policy.engine.roles import parse_role
from jitaccess.policy.engine.rules import BindingFacts, Origin, RoleFacts, Subject
from jitaccess.policy.models import RoleVersion
from jitaccess.policy.snapshots import SnapshotStore
from requests_app.selectors import AccessRequest

STORE = SnapshotStore()


def tools_added(request: AccessRequest, version: RoleVersion) -> list[dict[str, str]] | None:
    """By the decision a call would get, for tools that some arguments would do for. None: that cannot be said."""
    try:
        role = parse_role(version.document).facts
    except JitAccessError:
        return None
    who = Who(request.agent_id, request.user_id)
    subject = Subject(agent=who.agent, user=who.user)
    snapshot, at = STORE.look(subject)
    held = (*snapshot.bindings.get(subject, ()), _as_granted(replace(role, id=version.role_id)))
    then = replace(snapshot, bindings={**snapshot.bindings, subject: held})
    found = []
    for server in sorted(snapshot.servers.values(), key=lambda one: one.slug):
        before = {
            tool.name for tool, verdict in decide_all(snapshot, who=who, server=server.id, at=at) if verdict.allowed
        }
        for tool, verdict in decide_all(then, who=who, server=server.id, at=at):
            if verdict.allowed and tool.name not in before:
                found.append({"server": server.slug, "name": tool.name, "access": tool.access})
    return found


def _as_granted(role: RoleFacts) -> BindingFacts:
    return BindingFacts(
        id=uuid7(),
        origin=Origin.GRANT,
        role=role,
        pinned=role,
        tools={},
        starts_at=START_OF_TIME,
        expires_at=None,
        ended_at=None,
    )

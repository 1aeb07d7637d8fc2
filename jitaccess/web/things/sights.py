"""Who may see what of the things behind the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from django.db.models import Q, QuerySet

from jitaccess.catalog.models import Server
from jitaccess.identity.models import User
from jitaccess.identity.services import agents_for
from jitaccess.policy.engine.decide import Visibility, Who
from jitaccess.policy.engine.listing import Listed, listed_tools
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.policy.models import ServerAccess

# Of so many agents of one person the tools are looked up; whoever has more sees what these may do.
_AGENTS = 20


def may(user: User, permission: str) -> bool:
    """Whether this person could do so in the admin."""
    return user.is_active and user.is_staff and user.has_perm(permission)


def may_look(user: User, kind: str) -> bool:
    """Whether the admin would show this person rows of `kind`, such as "jit_catalog.server"."""
    app, _, model = kind.partition(".")
    return may(user, f"{app}.view_{model}") or may(user, f"{app}.change_{model}")


def servers_seen_by(user: User) -> QuerySet[Server]:
    """All for staff whom the admin would show them; for others the enabled ones that a team of theirs, or of an agent
    of theirs, may use, or owns.
    """
    rows = Server.objects.all()
    if may_look(user, "jit_catalog.server"):
        return rows
    teams = user.teams.order_by().values("pk").union(agents_for(user).order_by().values("team"))
    open_to = ServerAccess.objects.filter(Q(every_team=True) | Q(teams__in=teams)).values("server")
    return rows.filter(Q(pk__in=open_to) | Q(owner_team__in=user.teams.all()), enabled=True)


def tools_for(user: User, snapshot: Snapshot, slug: str, at: datetime) -> list[Listed]:
    """The tools of a server that an agent of this person may know about, acting for them or, if it is theirs, alone."""
    server = snapshot.server_by_slug(slug)
    found: dict[str, Listed] = {}
    if server is None:
        return []
    for agent in agents_for(user).order_by("name")[:_AGENTS]:
        asked = [Who(agent.pk, user.pk), *([Who(agent.pk)] if agent.owner_id == user.pk else [])]
        for who in asked:
            for one in listed_tools(snapshot, who=who, server=server, at=at):
                _keep(found, one)
    return [found[name] for name in sorted(found)]


def _keep(found: dict[str, Listed], one: Listed) -> None:
    known: Mapping[str, Listed] = found
    if one.tool.name not in known or one.visibility is Visibility.VISIBLE:
        found[one.tool.name] = one

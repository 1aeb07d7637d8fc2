"""Break-glass rights: who has which, and the binding that using one brings about."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from django.db.models import Q, QuerySet

from jitaccess.identity.models import User
from jitaccess.policy.models import BreakGlass, Role, RoleBinding


def rights_of(user: User) -> QuerySet[BreakGlass]:
    """The rights that this person may use now, directly or by team."""
    rows = BreakGlass.objects.select_related("role", "reviewers").filter(enabled=True, role__head__gte=1)
    mine = Q(pk__in=BreakGlass.users.through.objects.filter(user=user).values("breakglass"))
    ours = Q(pk__in=BreakGlass.teams.through.objects.filter(team__in=user.teams.all()).values("breakglass"))
    return rows.filter(mine | ours) if user.is_active else rows.none()


def bind_break_glass(
    *, grant: UUID, agent: UUID, user: UUID, role: Role, starts_at: datetime, expires_at: datetime
) -> RoleBinding:
    """The binding of one use: the head of `role`, for this agent on behalf of this person.

    Called by the workflow inside its transaction; its entries are the record.
    """
    return RoleBinding.objects.create(
        agent_id=agent,
        user_id=user,
        role=role,
        role_version=role.head,
        origin=RoleBinding.Origin.BREAK_GLASS,
        origin_id=grant,
        starts_at=starts_at,
        expires_at=expires_at,
    )

"""Who may look at webhooks and who may change them."""

from __future__ import annotations

from uuid import UUID

from django.db.models import QuerySet

from jitaccess.identity.models import User
from jitaccess.kernel.errors import Forbidden, NotFound
from jitaccess.notify.webhooks.models import Endpoint


def may_manage(user: User) -> bool:
    """Who may change webhooks and may read the ledger anyway: a webhook carries it elsewhere."""
    return user.is_active and user.has_perms(["jit_webhooks.change_endpoint", "jit_audit.view_entry"])


def endpoints_for(user: User) -> QuerySet[Endpoint]:
    """All for whoever manages them; for others those of their teams, whose requests they may see anyway."""
    rows = Endpoint.objects.select_related("team", "created_by")
    if may_manage(user):
        return rows
    return rows.filter(team__in=user.teams.all()) if user.is_active else rows.none()


def endpoint_for(user: User, endpoint_id: UUID) -> Endpoint:
    """Raises NotFound: one they may not see answers like one that does not exist."""
    found = endpoints_for(user).filter(pk=endpoint_id).first()
    if found is None:
        raise NotFound("webhook.unknown", "There is no such webhook, or you may not see it.")
    return found


def insist_on_managing(user: User) -> None:
    """Raises Forbidden."""
    if not may_manage(user):
        raise Forbidden("webhook.forbidden", "You may look at webhooks of your teams, but not change them.")

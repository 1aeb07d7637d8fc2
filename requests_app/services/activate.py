"""The start of a scheduled grant is written down when it has come. Its bindings began by the clock alone."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.policy.models import GRANTED, RoleBinding
from jitaccess.store.clock import JitNow
from requests_app.models import Grant


def activate_grant(*, grant_id: UUID) -> bool:
    """Record that a grant has begun; returns whether this call did. Safe to run twice."""
    with transaction.atomic():
        due = Grant.objects.filter(pk=grant_id, activated_at=None, ended_at=None, starts_at__lte=JitNow())
        # Skipped while somebody else holds it: a frozen process must not stop the sweep.
        grant = due.select_for_update(no_key=True, skip_locked=True).first()
        if grant is None or due.update(activated_at=JitNow()) != 1:
            return False
        bindings = list(RoleBinding.objects.filter(origin__in=GRANTED, origin_id=grant_id).values_list("pk", flat=True))
        data = {"starts_at": grant.starts_at.isoformat(), "expires_at": grant.expires_at.isoformat()}
        facts = Facts(
            event=Event.GRANT_ACTIVATED,
            actor=Actor.system("schedule"),
            request=grant.request_id,
            grant=grant_id,
            bindings=bindings,
            data=data,
        )
        record(facts)
    return True

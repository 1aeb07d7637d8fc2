"""Grants for these tests: as they come from an approval, or about any items."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.store.clock import now
from requests_app.lifecycle import EndReason
from requests_app.models import Grant
from requests_app.provisioning.rows import Provision
from requests_app.provisioning.service import begin
from requests_app.services import end_grant
from tests.cast import Cast

COMMIT = [{"server": "git", "tools": [{"name": "git_commit"}]}]


def granted(
    cast: Cast, *, seconds: int = 600, starts_at: datetime | None = None, items: Any = COMMIT, **options: Any
) -> Grant:
    """A grant from now (or `starts_at`) on that gives `items` on targets. Each has a request of its own."""
    with transaction.atomic():
        # Other seconds each time, or the request would coalesce with the one before.
        request = cast.submit(seconds=600 + Grant.objects.count(), **options)
        begun = starts_at or now()
        grant = Grant.objects.create(
            request=request,
            agent_id=request.agent_id,
            user_id=request.user_id,
            starts_at=begun,
            expires_at=begun + timedelta(seconds=seconds),
        )
        begin(grant, items)
    return grant


def revoked(grant: Grant) -> None:
    """It ends now, as a person would end it."""
    end_grant(grant_id=grant.pk, reason=EndReason.REVOKED, actor=Actor.system("tests"), by="anna")


def the_provision() -> Provision:
    return Provision.objects.get()


def state() -> str:
    return the_provision().state


def told() -> list[str]:
    """What the ledger says of provisioning, in order."""
    rows = Entry.objects.filter(event__startswith="provision.").order_by("uid")
    return [event.removeprefix("provision.") for event in rows.values_list("event", flat=True)]

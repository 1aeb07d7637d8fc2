"""Ending a grant: given back, revoked by a person, expired, or its agent disabled. Early ends bind at once."""

from __future__ import annotations

from collections.abc import Collection
from uuid import UUID

from django.db import transaction
from django.db.models import F, QuerySet

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record, record_many
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Conflict, Forbidden, NotFound
from jitaccess.kernel.steps import step
from jitaccess.kernel.text import visible
from jitaccess.policy import services as policy
from jitaccess.store.clock import JitNow, now
from requests_app import selectors, standing
from requests_app.lifecycle import EndReason
from requests_app.models import Grant
from requests_app.provisioning.service import wind_up

_EVENTS = {
    EndReason.EXPIRED: Event.GRANT_EXPIRED,
    EndReason.RELEASED: Event.GRANT_RELEASED,
    EndReason.REVOKED: Event.GRANT_REVOKED,
    EndReason.USED_UP: Event.GRANT_USED_UP,
    EndReason.SUPERSEDED: Event.GRANT_SUPERSEDED,
    EndReason.SUBJECT_DISABLED: Event.GRANT_SUBJECT_DISABLED,
    EndReason.TARGET_REMOVED: Event.GRANT_TARGET_REMOVED,
}


def release_grant(*, grant_id: UUID, principal: Principal) -> Grant:
    """Given back by the principal that holds it. Raises NotFound for a foreign grant, Conflict for an ended one."""
    grant = Grant.objects.filter(pk=grant_id, agent=principal.agent, user=principal.user).first()
    if grant is None:
        raise NotFound("grant.unknown", f"You hold no grant {grant_id}.")
    return end_grant(grant_id=grant.pk, reason=EndReason.RELEASED, actor=principal.actor(), by=principal.label)


def give_back(*, grant_id: UUID, user: User, source: str = "") -> Grant:
    """Given back by a person who counts as its requester: what is not needed any more needs nobody's consent.

    Raises NotFound for a grant that is not theirs, Conflict for an ended one.
    """
    grant = Grant.objects.select_related("request__agent").filter(pk=grant_id).first()
    if grant is None or not user.is_active or user.pk not in standing.self_of(grant.request):
        raise NotFound("grant.unknown", f"You hold no grant {grant_id}.")
    actor = Principal.of_user(user, source=source).actor()
    return end_grant(grant_id=grant_id, reason=EndReason.RELEASED, actor=actor, by=user.username)


def revoke_grant(*, grant_id: UUID, user: User, note: str = "", source: str = "") -> Grant:
    """Taken away by a person: the agent's owner, an approver, or an admin. Less access needs no quorum."""
    grant = Grant.objects.select_related("request__agent").filter(pk=grant_id).first()
    if grant is None or not standing.standing_of(grant.request, user).may_see:
        raise NotFound("grant.unknown", f"There is no grant {grant_id}.")
    if not standing.standing_of(grant.request, user).may_revoke:
        raise Forbidden("grant.not_yours", "You may not revoke this grant.")
    actor = Principal.of_user(user, source=source).actor()
    return end_grant(grant_id=grant_id, reason=EndReason.REVOKED, actor=actor, by=user.username, note=note)


def end_grant(*, grant_id: UUID, reason: EndReason, actor: Actor, by: str, note: str = "") -> Grant:
    """End a grant and its bindings, with one entry. Core access ends here, whatever else has to be cleaned up later.

    Raises Conflict("grant.ended") when it is over already, also when only the clock has ended it; the sweep then
    writes down the expiry.
    """
    with transaction.atomic():
        grant = Grant.objects.select_for_update().get(pk=grant_id)
        step("end.locked")
        moment = now()
        over = grant.expires_at <= moment
        if grant.ended_at is not None or over is not (reason is EndReason.EXPIRED):
            raise Conflict("grant.ended", f"This grant {selectors.when_it_ended(grant, moment)}.")
        moved = Grant.objects.filter(pk=grant_id, ended_at=None).update(
            ended_at=grant.expires_at if over else moment,
            end_reason=reason,
            ended_by_name=visible(by, limit=150),
            end_note=visible(note.strip(), limit=2000, multiline=True),
        )
        if moved != 1:
            raise Conflict("grant.ended", "This grant has just ended.")
        policy.end_grant_bindings(grant_id)
        wind_up(grant)
        data = {"note": visible(note.strip(), limit=2000, multiline=True)} if note.strip() else {}
        record(Facts(event=_EVENTS[reason], actor=actor, request=grant.request_id, grant=grant_id, data=data))
        grant.refresh_from_db()
        step("end.written")
    step("end.committed")
    return grant


def expire_grants(grants: Collection[UUID], *, actor: Actor) -> int:
    """Write down the natural end of those that are over, an entry each, in one short transaction; returns how many.

    Left for the next time: what somebody holds, who may be a frozen process. Raises what the database raises for any.
    """
    with transaction.atomic():
        due = Grant.objects.filter(pk__in=grants, ended_at=None, expires_at__lte=JitNow())
        found = list(due.select_for_update(no_key=True, skip_locked=True).order_by("pk"))
        step("end.locked")
        ids = [grant.pk for grant in found]
        if due.filter(pk__in=ids).update(ended_at=F("expires_at"), end_reason=EndReason.EXPIRED) != len(ids):
            raise Conflict("grant.ended", "The clock was set back meanwhile.")
        policy.end_grant_bindings(*ids)
        wind_up(*found)
        event = _EVENTS[EndReason.EXPIRED]
        record_many(Facts(event=event, actor=actor, request=one.request_id, grant=one.pk) for one in found)
        step("end.written")
    step("end.committed")
    return len(ids)


def due_grants() -> QuerySet[Grant]:
    """Grants whose time is up and whose end is not written down yet, the oldest end first."""
    return Grant.objects.filter(ended_at=None, expires_at__lte=JitNow()).order_by("expires_at")

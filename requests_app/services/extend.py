"""More time for a live grant: a request of its own, decided like any other."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction

from jitaccess.identity.models import Agent, User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Conflict, Invalid, NotFound
from jitaccess.kernel.strictjson import Json
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.store.clock import now
from requests_app import selectors
from requests_app.asking import Ask, ensure_may_act, stored
from requests_app.granted import granted_items
from requests_app.lifecycle import RequestKind
from requests_app.models import Grant
from requests_app.planning import plan_for
from requests_app.services.filing import Draft, Submission, Terms, file
from requests_app.services.submit import ensure_may_file, ensure_readable


def extend_grant(
    *,
    grant_id: UUID,
    principal: Principal,
    seconds: int,
    reason: str,
    snapshot: Snapshot,
    ticket: str = "",
    dry_run: bool = False,
    filed_by: User | None = None,
) -> Submission:
    """Ask for `seconds` more of a live grant. What it holds stays as it is; approving moves its end in one step.

    Raises NotFound for a foreign grant, Conflict for an ended one or one whose life is over, Invalid for too much.
    """
    at = now()
    ensure_may_file(principal, filed_by)
    ensure_readable(reason, ticket)
    grant, left = _live(grant_id, principal, at)
    if not 60 <= seconds <= left:
        raise Invalid(
            "request.duration", f"Ask for between 1 min and {format_duration(left)} more.", max_minutes=left // 60
        )
    ensure_may_act(principal=principal, snapshot=snapshot, at=at)
    ask = Ask(reason=reason, ticket=ticket, seconds=seconds)
    with transaction.atomic():
        # As when anything is filed: the queue first, then the history.
        Agent.objects.select_for_update(no_key=True).get(pk=grant.agent_id)
        draft = replace(_draft(principal, grant, ask, snapshot, at, left), filed_by=filed_by)
        submission = file(draft)
        if dry_run:
            transaction.set_rollback(True)
    return submission


def _live(grant_id: UUID, principal: Principal, at: datetime) -> tuple[Grant, int]:
    """A live grant of the principal, and how many seconds of its whole life are left beyond its end."""
    grant = selectors.grants_of(principal).filter(pk=grant_id).first()
    if grant is None:
        raise NotFound("grant.unknown", f"You hold no grant {grant_id}.")
    if grant.ended_at is not None or grant.expires_at <= at:
        raise Conflict("grant.ended", f"This grant {selectors.when_it_ended(grant, at)}; file a new request.")
    left = int(((grant.latest or grant.expires_at) - grant.expires_at) / timedelta(seconds=1))
    if left < 60:
        raise Conflict("grant.life_over", "This grant has reached the longest life it may have; file a new request.")
    return grant, left


def _draft(principal: Principal, grant: Grant, ask: Ask, snapshot: Snapshot, at: datetime, left: int) -> Draft:
    asked, items, seconds = grant.request, granted_items(grant), ask.seconds or 0
    planned = plan_for(
        principal=principal,
        ask=ask,
        wanted=stored(items, policy=asked.policy_name, snapshot=snapshot),
        # All the time it would last: a rule for what is short must not prolong it again and again.
        seconds=int((grant.expires_at - grant.starts_at).total_seconds()) + seconds,
        max_uses=asked.max_uses,
        at=at,
        extension=True,
    )
    if planned.max_seconds is not None and seconds > planned.max_seconds:
        raise Invalid("request.duration", f"At most {format_duration(planned.max_seconds)} at a time.")
    terms = Terms(
        seconds=seconds,
        max_seconds=left,
        max_total_seconds=asked.max_total_seconds or asked.seconds,
        max_uses=asked.max_uses,
        uses_limit=asked.max_uses,
    )
    return Draft(
        principal=principal,
        ask=ask,
        items=list[Json](items),
        terms=terms,
        planned=planned,
        kind=RequestKind.EXTENSION,
        extends=grant,
    )

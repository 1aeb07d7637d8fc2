"""Filing a request: decide first (what, of whom, for how long), then write it, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction

from jitaccess.identity.models import Agent, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import may_use
from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Forbidden, Invalid
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.text import is_blank, visible
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.store.clock import now
from requests_app.asking import Ask, Wanted, as_items, look_up
from requests_app.planning import plan_for
from requests_app.services.filing import MAX_REASON, Draft, Submission, Terms, file

MAX_CONTEXT = 4000  # bytes of JSON
MAX_TICKET = 100
MAX_USES = 1_000_000
DEFAULT_SECONDS = 30 * 60


def submit_request(
    *,
    principal: Principal,
    ask: Ask,
    snapshot: Snapshot,
    dry_run: bool = False,
    filed_by: User | None = None,
    bundle: UUID | None = None,
) -> Submission:
    """File a request for `principal`. Raises Invalid, Forbidden or Conflict with what to change.

    An identical pending request is returned instead of a second one: agents repeat themselves. A dry run does all of it
    and then takes it back: what it returns is on no record, and counts towards nothing. `filed_by` is the signed-in
    person who asks for an agent of theirs; they count as the requester.
    """
    at = _ensure_may_ask(principal, ask, filed_by)
    found = look_up(principal=principal, ask=ask, snapshot=snapshot, at=at)
    if len({one.limits.policy for one in found}) > 1:
        raise Invalid(
            "request.several_policies",
            "These are decided by different people; file one request for each, or ask for all as one bundle.",
        )
    return _submit(principal, ask, found, at, dry_run=dry_run, filed_by=filed_by, bundle=bundle)


def submit_bundle(
    *, principal: Principal, ask: Ask, snapshot: Snapshot, dry_run: bool = False, filed_by: User | None = None
) -> list[Submission]:
    """File what different people decide as several requests with one bundle id: all of them or none.

    Raises as submit_request.
    """
    at = _ensure_may_ask(principal, ask, filed_by)
    found = look_up(principal=principal, ask=ask, snapshot=snapshot, at=at)
    parts: dict[UUID, list[Wanted]] = {}
    for one in found:
        parts.setdefault(one.limits.policy, []).append(one)
    bundle = uuid7() if len(parts) > 1 else None
    if bundle and ask.supersedes:
        raise Invalid(
            "request.supersedes", "What replaces a request has to be decided by the same people; file it alone."
        )
    with transaction.atomic():
        return [
            _submit(principal, ask, part, at, dry_run=dry_run, filed_by=filed_by, bundle=bundle)
            for part in parts.values()
        ]


def _ensure_may_ask(principal: Principal, ask: Ask, filed_by: User | None) -> datetime:
    if principal.agent is None:
        raise Forbidden("request.not_an_agent", "Only agents hold access; ask for one of yours.")
    ensure_may_file(principal, filed_by)
    ensure_readable(ask.reason, ask.ticket)
    if len(canonical(dict(ask.context))) > MAX_CONTEXT:
        raise Invalid("request.context", f"`context` may have {MAX_CONTEXT} bytes.")
    return now()


def ensure_may_file(principal: Principal, person: User | None) -> None:
    """Raise Forbidden unless `person` (None: the agent itself) may ask for this agent, alone or on their own behalf."""
    if person is None:
        return
    person.refresh_from_db(fields=["is_active"])
    agent = Agent.objects.filter(pk=principal.agent).first() if principal.agent else None
    theirs = agent is not None and person.is_active and may_use(user=person, agent=agent)
    if not theirs or principal.user not in (None, person.pk):
        raise Forbidden("request.not_your_agent", "You may not ask for this agent.")


def ensure_readable(reason: str, ticket: str) -> None:
    """Raise Invalid for a reason that nobody could decide on, or a ticket that is none."""
    if len(ticket) > MAX_TICKET or visible(ticket, limit=MAX_TICKET) != ticket:
        raise Invalid("request.ticket", f"The ticket is one line of at most {MAX_TICKET} printable characters.")
    if is_blank(reason):
        raise Invalid("request.reason", "Say why: `reason` is what the approver decides on.")
    # Measured as it will be shown: what an approver cannot read whole, nobody can approve.
    length = len(visible(reason.strip(), limit=MAX_REASON * 20, multiline=True))
    if length > MAX_REASON:
        raise Invalid("request.reason", f"The reason has {length} characters as shown; at most {MAX_REASON} are.")


def _submit(
    principal: Principal,
    ask: Ask,
    found: Sequence[Wanted],
    at: datetime,
    *,
    dry_run: bool,
    filed_by: User | None,
    bundle: UUID | None,
) -> Submission:
    assert principal.agent
    with transaction.atomic():
        # The queue of this agent's filings, before its history is looked at: two at once must see each other.
        Agent.objects.select_for_update(no_key=True).get(pk=principal.agent)
        submission = file(_draft(principal, ask, found, at, filed_by=filed_by, bundle=bundle))
        if dry_run:
            transaction.set_rollback(True)
    return submission


def _draft(
    principal: Principal, ask: Ask, found: Sequence[Wanted], at: datetime, *, filed_by: User | None, bundle: UUID | None
) -> Draft:
    terms = _terms(ask, found, at)
    planned = plan_for(
        principal=principal, ask=ask, wanted=found, seconds=terms.seconds, max_uses=terms.max_uses, at=at
    )
    if planned.max_seconds is not None and terms.seconds > planned.max_seconds:
        if ask.seconds is not None:
            raise _too_long(terms.seconds, planned.max_seconds)
        terms = replace(terms, seconds=planned.max_seconds)
    return Draft(
        principal=principal,
        ask=ask,
        items=as_items(found),
        terms=terms,
        planned=planned,
        filed_by=filed_by,
        bundle=bundle,
    )


def _terms(ask: Ask, found: Sequence[Wanted], at: datetime) -> Terms:
    limits = [one.limits for one in found]
    longest = min(one.max_seconds for one in limits)
    seconds = ask.seconds if ask.seconds is not None else min(DEFAULT_SECONDS, longest)
    if not 60 <= seconds <= longest:
        raise _too_long(seconds, longest)
    ahead = min(one.max_advance_seconds for one in limits)
    if ask.starts_at and not at < ask.starts_at <= at + timedelta(seconds=ahead):
        raise Invalid(
            "request.starts_at", f"A start must lie ahead, by {format_duration(ahead)} at most.", max_seconds=ahead
        )
    if ask.not_after and ask.not_after < (ask.starts_at or at) + timedelta(seconds=60):
        raise Invalid("request.not_after", "`not_after` must be at least a minute after the start.")
    uses_limit = min((one.max_uses for one in limits if one.max_uses is not None), default=None)
    total = min((one.max_total_seconds or one.max_seconds) for one in limits)
    return Terms(
        seconds=seconds,
        max_seconds=longest,
        max_total_seconds=max(total, seconds),
        max_uses=_uses(ask, found, uses_limit),
        uses_limit=uses_limit,
    )


def _too_long(seconds: int, limit: int) -> Invalid:
    return Invalid(
        "request.duration",
        f"Ask for between 1 min and {format_duration(limit)}, not {format_duration(max(seconds, 0))}.",
        max_minutes=limit // 60,
    )


def _uses(ask: Ask, found: Sequence[Wanted], limit: int | None) -> int | None:
    if ask.max_uses is None:
        # An exact call is good for once, unless more are asked for: also where a bundle parts it from other things.
        return 1 if all(one.item["kind"] == "call" for one in found) else limit
    if not 1 <= ask.max_uses <= (limit or MAX_USES):
        raise Invalid("request.uses", f"Ask for 1 to {limit or MAX_USES} calls, not {ask.max_uses}.", max_uses=limit)
    return ask.max_uses

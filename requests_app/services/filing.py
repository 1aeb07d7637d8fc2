"""Writing a request down, once, whatever kind it is: caps, the same one pending, the cool-down, somebody to decide."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity.models import Agent, User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.canonical import canonical, digest
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid
from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import visible
from jitaccess.policy.approval.document import MAX_DURATION, MAX_PENDING
from jitaccess.store.clock import now
from requests_app import approval, selectors, standing
from requests_app.asking import Ask
from requests_app.digests import request_digest
from requests_app.lifecycle import RequestKind, RequestStatus, ensure_pending
from requests_app.models import AccessRequest, Concern, Decision, Grant, about_server
from requests_app.obstacles import obstacle_to
from requests_app.planning import Planned
from requests_app.services.granting import approve_by_rule
from requests_app.services.lapse import lapse_request

MAX_PENDING_PER_AGENT = 10
MAX_FILINGS_PER_HOUR = 30
MAX_REASON = 2000


@dataclass(frozen=True, slots=True)
class Submission:
    """A filed request, or the pending one with the same content (`coalesced`).

    `max_seconds` and `max_uses` are the most that could have been asked for (None: any number of calls).
    """

    request: AccessRequest
    coalesced: bool
    max_seconds: int
    max_uses: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """For how long and how many calls, and the most of both."""

    seconds: int
    max_seconds: int
    max_total_seconds: int
    max_uses: int | None
    uses_limit: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A request to be: what every kind of filing hands to `file`."""

    principal: Principal
    ask: Ask
    items: list[Json]
    terms: Terms
    planned: Planned
    kind: RequestKind = RequestKind.ACCESS
    extends: Grant | None = None
    filed_by: User | None = None
    bundle: UUID | None = None


def file(draft: Draft) -> Submission:
    """Write a draft, inside a transaction: the caps, the same one pending, the cool-down, somebody who can decide."""
    principal, terms = draft.principal, draft.terms
    dedupe = _dedupe(draft)
    # The agent's row is the queue at which two identical filings at once wait for each other.
    # No key lock: an approval inserts a grant that refers to this row and must not deadlock with a filing.
    assert principal.agent
    agent = Agent.objects.select_for_update(no_key=True).get(pk=principal.agent)
    if not agent.enabled:
        raise Forbidden("agent.disabled", "This agent is disabled.")
    same = _same_pending(principal, dedupe)
    if same is not None and same.pk != draft.ask.supersedes:
        return Submission(same, coalesced=True, max_seconds=terms.max_seconds, max_uses=terms.uses_limit)
    moment = now()
    if draft.ask.supersedes:
        _supersede(draft.ask.supersedes, principal, moment)
    _ensure_not_too_many(agent, moment)
    request = _row(draft, dedupe, agent, moment)
    if len(set(request.tool_labels)) < len(request.tool_labels):
        raise Invalid("request.twice", "Two of these things have one name, so nobody could approve one of them alone.")
    if draft.extends or draft.planned.plan.auto_approve:
        # Nobody looks at it later, and what extends a grant was not looked up anew.
        obstacle = obstacle_to(request, moment)
        if obstacle:
            raise Conflict("request.obstacle", f"This cannot be granted now: {obstacle}")
    _ensure_cooled_down(request, draft.planned, moment)
    _ensure_decidable_by_somebody(request, draft.planned)
    request.digest = request_digest(request)
    request.save(force_insert=True)
    Concern.objects.bulk_create(
        Concern(request=request, subject=subject) for subject in sorted(_concerned(request, draft.planned))
    )
    record(
        Facts(
            event=Event.REQUEST_SUBMITTED,
            actor=_actor(draft),
            at=moment,
            request=request.pk,
            data=_about(request, draft),
        )
    )
    if draft.planned.plan.auto_approve:
        approve_by_rule(request, draft.planned.plan, moment)
    return Submission(request, coalesced=False, max_seconds=terms.max_seconds, max_uses=terms.uses_limit)


def _actor(draft: Draft) -> Actor:
    if draft.filed_by is None:
        return draft.principal.actor()
    return replace(draft.principal.actor(), user=draft.filed_by.pk, user_name=draft.filed_by.username)


def _about(request: AccessRequest, draft: Draft) -> dict[str, Json]:
    optional: dict[str, Json] = {
        "kind": request.kind if request.kind != RequestKind.ACCESS else None,
        "extends": str(request.extends_id) if request.extends_id else None,
        "supersedes": str(request.supersedes_id) if request.supersedes_id else None,
        "bundle": str(request.bundle) if request.bundle else None,
        "starts_at": request.starts_at.isoformat() if request.starts_at else None,
        "not_after": request.not_after.isoformat() if request.not_after else None,
        "ticket": request.ticket or None,
    }
    return {
        "items": draft.items,
        "seconds": request.seconds,
        "max_uses": request.max_uses,
        "reason": request.reason,
        "policy": request.policy_name,
        "rule": draft.planned.plan.rule,
        "risk": request.risk,
        "digest": request.digest,
        "pending_until": request.pending_until.isoformat(),
        **{name: value for name, value in optional.items() if value is not None},
    }


def _row(draft: Draft, dedupe: str, agent: Agent, moment: datetime) -> AccessRequest:
    principal, ask, terms, planned = draft.principal, draft.ask, draft.terms, draft.planned
    return AccessRequest(
        agent=agent,
        owner_id=agent.owner_id,
        user_id=principal.user,
        issued_by_id=principal.issued_by,
        filed_by=draft.filed_by,
        kind=draft.kind,
        extends=draft.extends,
        supersedes_id=ask.supersedes,
        bundle=draft.bundle,
        principal_key=principal.key,
        client=visible(principal.client, limit=200),
        items=canonical(draft.items).decode(),
        risk=planned.risk,
        reason=visible(ask.reason.strip(), limit=MAX_REASON, multiline=True),
        ticket=ask.ticket,
        context=canonical(dict(ask.context)).decode(),
        seconds=terms.seconds,
        max_uses=terms.max_uses,
        starts_at=ask.starts_at,
        not_after=ask.not_after,
        max_total_seconds=terms.max_total_seconds,
        plan=canonical(planned.pinned).decode(),
        policy_name=planned.plan.policy,
        dedupe_digest=dedupe,
        created_at=moment,
        pending_until=moment + timedelta(seconds=planned.pending_seconds),
    )


def _dedupe(draft: Draft) -> str:
    """Of what makes two requests the same ask: items, constraints, duration, start."""
    ask, terms = draft.ask, draft.terms
    value: dict[str, Json] = {"items": draft.items, "seconds": terms.seconds, "kind": str(draft.kind)}
    if terms.max_uses:
        value["max_uses"] = terms.max_uses
    if draft.extends:
        value["extends"] = str(draft.extends.pk)
    for name, moment in (("starts_at", ask.starts_at), ("not_after", ask.not_after)):
        if moment:
            value[name] = moment.isoformat()
    return digest(value, domain="jitaccess-ask-v1")


def _concerned(request: AccessRequest, planned: Planned) -> set[str]:
    people = (request.owner_id, request.user_id, request.issued_by_id, request.filed_by_id)
    servers = {about_server(item["server"]) for item in request.parsed_items if "server" in item}
    asked = {f"user:{person}" for person in people if person} | {f"team:{request.agent.team_id}"}
    return asked | servers | planned.plan.refs()


def _supersede(old: UUID, principal: Principal, moment: datetime) -> None:
    """A pending request of one's own makes room for the one that replaces it."""
    request = AccessRequest.objects.select_for_update().filter(pk=old, principal_key=principal.key).first()
    if request is None:
        raise Invalid("request.supersedes", f"You have no request {old} that could be replaced.")
    ensure_pending(request.status, said=selectors.how_it_ended(request))
    if request.pending_until <= moment:
        raise Conflict("request.already_decided", "That request has expired; file the new one without `supersedes`.")
    if request.changes_at is None and Decision.objects.filter(request=old, live=True, verdict="deny").exists():
        raise Conflict("request.denied_once", "Somebody has denied this; it can be withdrawn, but not replaced.")
    AccessRequest.objects.filter(pk=old, status=RequestStatus.PENDING).update(
        status=RequestStatus.SUPERSEDED,
        closed_at=moment,
        closed_by_name=visible(principal.label, limit=150),
        closing_note="Replaced by a new request.",
    )
    record(Facts(event=Event.REQUEST_SUPERSEDED, actor=principal.actor(), at=moment, request=old))


def _ensure_not_too_many(agent: Agent, moment: datetime) -> None:
    """Those that wait, and those of an hour: filed and withdrawn in a loop, they would bury the agent's history and its
    approvers.
    """
    # Those past their deadline do not count, whether or not the sweep came by.
    waiting = selectors.open_requests().filter(agent=agent).count()
    if waiting >= MAX_PENDING_PER_AGENT:
        detail = f"{waiting} requests are pending already; cancel some or wait for decisions."
        raise Conflict("request.too_many_pending", detail)
    filed = AccessRequest.objects.filter(agent=agent, created_at__gt=moment - timedelta(hours=1))
    latest = list(filed.order_by("-created_at").values_list("created_at", flat=True)[:MAX_FILINGS_PER_HOUR])
    if len(latest) == MAX_FILINGS_PER_HOUR:
        again = latest[-1] + timedelta(hours=1)
        seconds = math.ceil((again - moment).total_seconds())
        raise Conflict(
            "request.too_many_filings",
            f"You filed {MAX_FILINGS_PER_HOUR} requests within an hour; the next one is possible in "
            f"{format_duration(seconds)}, at {again:%H:%M:%S} UTC.",
            retry_after_seconds=seconds,
        )


def _ensure_cooled_down(request: AccessRequest, planned: Planned, moment: datetime) -> None:
    """What was denied just now is not asked for again at once: a no must not be worn down."""
    asked = set(request.tool_labels)
    denied = AccessRequest.objects.filter(
        agent=request.agent_id,
        status=RequestStatus.DENIED,
        closed_at__gt=moment - timedelta(seconds=MAX_DURATION),
        created_at__gt=moment - timedelta(seconds=MAX_DURATION + MAX_PENDING),
    ).filter(principal_key=request.principal_key)
    for old in denied.order_by("-closed_at")[:100]:
        assert old.closed_at
        # Of the rule that was denied by too: a shorter ask under a laxer rule is the same ask.
        before = standing.plan_of(old)
        pause = timedelta(seconds=max(planned.plan.cool_down, before.cool_down if before else 0))
        # The whole tool is no less than the one call that was denied.
        no = {label for name in old.tool_labels for label in (name, name.partition("#")[0])}
        again = asked & no
        if again and old.closed_at > moment - pause:
            seconds = math.ceil((old.closed_at + pause - moment).total_seconds())
            raise Conflict(
                "request.cool_down",
                f"{min(again)} was denied to you at {old.closed_at:%H:%M} UTC; it may be asked for again in "
                f"{format_duration(seconds)}.",
                retry_after_seconds=seconds,
            )


def _ensure_decidable_by_somebody(request: AccessRequest, planned: Planned) -> None:
    """A request that cannot be approved would only wait: better said now than after an hour."""
    if planned.plan.auto_approve:
        return
    lacking = approval.lacking(planned.plan, standing.people_of([request])[request.pk])
    if lacking:
        raise Conflict(
            "request.nobody_can_approve",
            f"Nobody can approve this now: {lacking.name} has too few people besides those who ask. Tell an admin.",
        )


def _same_pending(principal: Principal, dedupe: str) -> AccessRequest | None:
    same = selectors.pending_of(principal).filter(dedupe_digest=dedupe).select_related("agent").first()
    if same is not None and lapse_request(request_id=same.pk):
        return None  # past its deadline it has expired, whether or not the sweep came by
    return same

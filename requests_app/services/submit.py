"""Filing a request: decide first (what, of whom, for how long), then write it, once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Facts, record
from jitaccess.identity.models import Agent
from jitaccess.identity.principal import Principal
from jitaccess.kernel.canonical import canonical, digest
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid
from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import is_blank, visible
from jitaccess.policy.engine.decide import Code, Who, decide
from jitaccess.policy.engine.rules import RequestableFacts, ServerFacts, Snapshot, ToolFacts
from jitaccess.policy.models import ApprovalPolicy
from jitaccess.store.clock import now
from requests_app import selectors
from requests_app.models import AccessRequest
from requests_app.services.lapse import lapse_request

MAX_PENDING_PER_AGENT = 10
MAX_FILINGS_PER_HOUR = 30
MAX_TOOLS = 50
MAX_REASON = 2000
MAX_CONTEXT = 4000  # bytes of JSON
MAX_USES = 1_000_000
DEFAULT_SECONDS = 30 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked for: tools as (server slug, exact tool name), why, for how many seconds, and how many calls."""

    tools: Sequence[tuple[str, str]]
    reason: str
    seconds: int | None = None
    max_uses: int | None = None
    context: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Submission:
    """A filed request, or the pending one with the same content (`coalesced`).

    `max_seconds` and `max_uses` are the most that could have been asked for (None: any number of calls).
    """

    request: AccessRequest
    coalesced: bool
    max_seconds: int
    max_uses: int | None


@dataclass(frozen=True, slots=True)
class _Plan:
    items: list[Json]
    seconds: int
    max_uses: int | None
    max_seconds: int
    uses_limit: int | None
    policy: ApprovalPolicy
    groups: list[Json]


def submit_request(*, principal: Principal, ask: Ask, snapshot: Snapshot, dry_run: bool = False) -> Submission:
    """File a request for `principal`. Raises Invalid, Forbidden or Conflict with what to change.

    An identical pending request is returned instead of a second one: agents repeat themselves. A dry run does all of it
    and then takes it back: what it returns is on no record, and counts towards nothing.
    """
    if principal.agent is None:
        raise Forbidden("request.not_an_agent", "Only agents ask for tools.")
    plan = _plan(principal=principal, ask=ask, snapshot=snapshot)
    with transaction.atomic():
        submission = _file(principal, ask, plan)
        if dry_run:
            transaction.set_rollback(True)
    return submission


def _file(principal: Principal, ask: Ask, plan: _Plan) -> Submission:
    assert principal.agent
    uses = {"max_uses": plan.max_uses} if plan.max_uses else {}
    dedupe = digest({"items": plan.items, "seconds": plan.seconds, **uses}, domain="jitaccess-ask-v1")
    # The agent's row is the queue at which two identical filings at once wait for each other.
    # No key lock: an approval inserts a grant that refers to this row and must not deadlock with a filing.
    agent = Agent.objects.select_for_update(no_key=True).get(pk=principal.agent)
    if not agent.enabled:
        raise Forbidden("agent.disabled", "This agent is disabled.")
    same = _same_pending(principal, dedupe)
    if same is not None:
        return Submission(same, coalesced=True, max_seconds=plan.max_seconds, max_uses=plan.uses_limit)
    moment = now()
    # Those past their deadline do not count, whether or not the sweep came by.
    waiting = selectors.open_requests().filter(agent=agent).count()
    if waiting >= MAX_PENDING_PER_AGENT:
        raise Conflict(
            "request.too_many_pending",
            f"{waiting} requests are pending already; cancel some or wait for decisions.",
        )
    _ensure_not_too_many(agent, moment)
    request = _row(principal, ask, plan, dedupe, agent, moment)
    _ensure_decidable_by_somebody(request)
    request.digest = request_digest(request)
    request.save(force_insert=True)
    data: dict[str, Json] = {
        "items": plan.items,
        "seconds": plan.seconds,
        "max_uses": plan.max_uses,
        "reason": request.reason,
        "policy": plan.policy.name,
        "digest": request.digest,
        "pending_until": request.pending_until.isoformat(),
    }
    record(Facts(event=Event.REQUEST_SUBMITTED, actor=principal.actor(), at=moment, request=request.pk, data=data))
    return Submission(request, coalesced=False, max_seconds=plan.max_seconds, max_uses=plan.uses_limit)


def _row(principal: Principal, ask: Ask, plan: _Plan, dedupe: str, agent: Agent, moment: datetime) -> AccessRequest:
    return AccessRequest(
        agent=agent,
        owner_id=agent.owner_id,
        user_id=principal.user,
        issued_by_id=principal.issued_by,
        principal_key=principal.key,
        client=visible(principal.client, limit=200),
        items=canonical(plan.items).decode(),
        reason=visible(ask.reason.strip(), limit=MAX_REASON, multiline=True),
        context=canonical(dict(ask.context)).decode(),
        seconds=plan.seconds,
        max_uses=plan.max_uses,
        groups=canonical(plan.groups).decode(),
        policy_name=plan.policy.name,
        dedupe_digest=dedupe,
        created_at=moment,
        pending_until=moment + timedelta(minutes=plan.policy.pending_minutes),
    )


def _ensure_not_too_many(agent: Agent, moment: datetime) -> None:
    """Filed and withdrawn in a loop, requests would bury the agent's history and its approvers."""
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


def _ensure_decidable_by_somebody(request: AccessRequest) -> None:
    """A request that cannot be approved would only wait: better said now than after an hour."""
    groups = selectors.groups_of(request)
    members, self_ = selectors.members_of(groups), set(selectors.self_of(request))
    for group in groups:
        if len(set(members.get(group.id, ())) - self_) < group.quorum:
            raise Conflict(
                "request.nobody_can_approve",
                f"Nobody can approve this now: {group.name} has too few people besides those who ask. Tell an admin.",
            )


def request_digest(request: AccessRequest) -> str:
    """The digest over everything that was asked: decisions and grants carry it."""
    value: dict[str, Json] = {
        "id": str(request.pk),
        "agent": str(request.agent_id),
        "owner": str(request.owner_id),
        "user": str(request.user_id) if request.user_id else None,
        "issued_by": str(request.issued_by_id) if request.issued_by_id else None,
        "client": request.client,
        "items": request.items,
        "reason": request.reason,
        "context": request.context,
        "seconds": request.seconds,
        **({"max_uses": request.max_uses} if request.max_uses else {}),
        "groups": request.groups,
        "created_at": request.created_at.isoformat(),
        "pending_until": request.pending_until.isoformat(),
    }
    return digest(value, domain="jitaccess-request-v1")


def _same_pending(principal: Principal, dedupe: str) -> AccessRequest | None:
    same = selectors.pending_of(principal).filter(dedupe_digest=dedupe).select_related("agent").first()
    if same is not None and lapse_request(request_id=same.pk):
        return None  # past its deadline it has expired, whether or not the sweep came by
    return same


def _plan(*, principal: Principal, ask: Ask, snapshot: Snapshot) -> _Plan:
    if is_blank(ask.reason):
        raise Invalid("request.reason", "Say why: `reason` is what the approver decides on.")
    # Measured as it will be shown: what an approver cannot read whole, nobody can approve.
    length = len(visible(ask.reason.strip(), limit=MAX_REASON * 20, multiline=True))
    if length > MAX_REASON:
        raise Invalid("request.reason", f"The reason has {length} characters as shown; at most {MAX_REASON} are.")
    if len(canonical(dict(ask.context))) > MAX_CONTEXT:
        raise Invalid("request.context", f"`context` may have {MAX_CONTEXT} bytes.")
    if not 1 <= len(ask.tools) <= MAX_TOOLS:
        raise Invalid("request.tools", f"Ask for 1 to {MAX_TOOLS} tools by name.")
    at = now()
    found = [_find(principal, snapshot, slug, name, at) for slug, name in sorted(set(ask.tools))]
    policies = {requestable.policy for _, _, requestable in found}
    if len(policies) > 1:
        raise Invalid(
            "request.several_policies", "These tools are decided by different people; file one request for each."
        )
    limit = min(requestable.max_seconds for _, _, requestable in found)
    seconds = ask.seconds if ask.seconds is not None else min(DEFAULT_SECONDS, limit)
    if not 60 <= seconds <= limit:
        raise Invalid(
            "request.duration",
            f"Ask for between 1 min and {format_duration(limit)}, not {format_duration(max(seconds, 0))}.",
            max_minutes=limit // 60,
        )
    uses_limit = min((one.max_uses for _, _, one in found if one.max_uses is not None), default=None)
    policy = ApprovalPolicy.objects.get(pk=policies.pop())
    groups: list[Json] = [
        {"id": str(group.pk), "name": group.name, "quorum": group.quorum} for group in policy.groups.order_by("name")
    ]
    if not groups:
        raise Invalid("policy.no_groups", f"The approval policy {policy.name} has no approver groups; tell an admin.")
    return _Plan(
        items=_items(found),
        seconds=seconds,
        max_uses=_uses(ask, uses_limit),
        max_seconds=limit,
        uses_limit=uses_limit,
        policy=policy,
        groups=groups,
    )


def _uses(ask: Ask, limit: int | None) -> int | None:
    if ask.max_uses is None:
        return limit
    if not 1 <= ask.max_uses <= (limit or MAX_USES):
        raise Invalid("request.uses", f"Ask for 1 to {limit or MAX_USES} calls, not {ask.max_uses}.", max_uses=limit)
    return ask.max_uses


def _find(
    principal: Principal, snapshot: Snapshot, slug: str, name: str, at: datetime
) -> tuple[ServerFacts, ToolFacts, RequestableFacts]:
    """What one asked-for tool is. A tool the caller may not know about answers like one that does not exist."""
    assert principal.agent
    label = f"{visible(slug, limit=32)}/{visible(name, limit=128)}"
    server = snapshot.server_by_slug(slug)
    unknown = Invalid(
        "request.unknown_tool", f"{label} is not something you can ask for; see list_requestable.", tool=label
    )
    if server is None:
        raise unknown
    verdict = decide(snapshot, who=Who(principal.agent, principal.user), server=server.id, tool=name, at=at)
    if verdict.allowed:
        raise Conflict("request.already_allowed", f"{label} is allowed already; just call it.", tool=label)
    if verdict.code is Code.LOCKED_DOWN:
        raise Forbidden("agent.disabled", "This agent is disabled, or may no longer act for this user.")
    if verdict.code is Code.QUARANTINED:
        raise Conflict("tool.quarantined", f"{label} awaits review by an admin and cannot be granted.", tool=label)
    if verdict.requestable is None or verdict.tool is None:
        raise unknown
    return server, verdict.tool, verdict.requestable


def _items(found: Sequence[tuple[ServerFacts, ToolFacts, RequestableFacts]]) -> list[Json]:
    by_server: dict[UUID, dict[str, Json]] = {}
    for server, tool, _ in found:
        item = by_server.setdefault(server.id, {"server": server.slug, "server_id": str(server.id), "tools": []})
        tools = item["tools"]
        assert isinstance(tools, list)
        tools.append({"id": str(tool.id), "name": tool.name, "pin": tool.pin, "access": tool.access})
    return list(by_server.values())

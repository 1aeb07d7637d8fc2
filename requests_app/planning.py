"""Which rule of which approval policy applies to what is asked, and what of it is pinned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.identity.models import Agent, User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.labels import parse_labels
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import visible
from jitaccess.policy.approval.choose import HistoryFacts, RequestFacts, choose, ensure_well_said, explain, risk_of
from jitaccess.policy.approval.plan import Plan, plan_of, read_plan
from jitaccess.policy.models import ApprovalPolicy
from jitaccess.policy.people import resolver
from jitaccess.policy.policies import document_of
from requests_app.asking import Ask, Wanted
from requests_app.lifecycle import RequestStatus
from requests_app.models import AccessRequest

REMEMBERED = timedelta(days=30)
LATEST = 500
# Looked at one by one: a busy agent makes a million calls in a month.
LATEST_CALLS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """`pinned` is the plan as the request keeps it; `max_seconds` None: the rule has no cap of its own."""

    plan: Plan
    pinned: JsonObject
    risk: str
    pending_seconds: int
    max_seconds: int | None


def plan_for(
    *,
    principal: Principal,
    ask: Ask,
    wanted: Sequence[Wanted],
    seconds: int,
    max_uses: int | None,
    at: datetime,
    extension: bool = False,
) -> Planned:
    """The plan for a request. Raises Invalid for a reason, ticket or request that no rule takes."""
    row = ApprovalPolicy.objects.get(pk=wanted[0].limits.policy)
    document = document_of(row)
    facts = facts_of(
        principal=principal, ask=ask, wanted=wanted, seconds=seconds, max_uses=max_uses, at=at, extension=extension
    )
    unclear = next((one for one in explain(document, facts.context()) if one.error), None)
    if unclear:
        raise Invalid(
            "policy.unclear",
            f"Rule {unclear.rule} of the approval policy {row.name} cannot be evaluated for this request "
            f"({visible(unclear.error, limit=200)}); tell an admin, or ask for less at once.",
        )
    rule = choose(document, facts)
    if rule is None:
        raise Invalid(
            "policy.no_rule",
            f"The approval policy {row.name} has no rule for such a request; ask for less, or tell an admin.",
        )
    ensure_well_said(rule, reason=ask.reason, ticket=ask.ticket)
    assert principal.agent
    resolve = resolver(
        rule,
        servers={UUID(str(one.item["server_id"])) for one in wanted if "server_id" in one.item},
        roles={UUID(str(one.item["role_id"])) for one in wanted if "role_id" in one.item},
        owner=Agent.objects.values_list("owner", flat=True).get(pk=principal.agent),
    )
    pinned = plan_of(document, rule, resolve, facts)
    return Planned(
        plan=read_plan(pinned),
        pinned=pinned,
        risk=risk_of(facts.items),
        pending_seconds=rule.pending_seconds,
        max_seconds=rule.max_seconds,
    )


def facts_of(
    *,
    principal: Principal,
    ask: Ask,
    wanted: Sequence[Wanted],
    seconds: int,
    max_uses: int | None,
    at: datetime,
    extension: bool,
) -> RequestFacts:
    """What a policy may look at."""
    assert principal.agent
    agent = Agent.objects.select_related("team", "owner").get(pk=principal.agent)
    user = User.objects.filter(pk=principal.user).prefetch_related("teams").first() if principal.user else None
    items = tuple(facts for one in wanted for facts in one.facts)
    return RequestFacts(
        agent=agent.name,
        agent_labels=parse_labels(agent.labels),
        agent_team=agent.team.name,
        user=user.username if user else "",
        user_teams=tuple(sorted(team.name for team in user.teams.all())) if user else (),
        owner=agent.owner.username,
        seconds=seconds,
        max_uses=max_uses or 0,
        reason=ask.reason,
        ticket=ask.ticket,
        starts_in=ask.starts_at - at if ask.starts_at else timedelta(),
        extension=extension,
        items=items,
        history=history_of(principal, wanted, at),
        time=at,
    )


def history_of(principal: Principal, wanted: Sequence[Wanted], at: datetime) -> HistoryFacts:
    """How this agent's latest requests for any of this went in the last 30 days, and how often it called the tools, of
    its latest calls.
    """
    labels = [needle for one in wanted for needle in _needles(one.item)]
    rows = AccessRequest.objects.filter(agent=principal.agent, created_at__gt=at - REMEMBERED)
    statuses = [
        status
        for status, items in rows.order_by("-created_at").values_list("status", "items")[:LATEST]
        if any(label in items for label in labels)
    ]
    tools = [(str(one.item["server"]), str(tool["name"])) for one in wanted for tool in _tools(one.item)]
    used = 0
    if tools:
        calls = Entry.objects.filter(agent=principal.agent, event=Event.CALL_AUTHORIZED).order_by("-uid")
        called = calls.values_list("server_name", "tool", "at")[:LATEST_CALLS]
        used = sum((server, tool) in tools and when > at - REMEMBERED for server, tool, when in called)
    return HistoryFacts(
        asked=len(statuses),
        approved=statuses.count(RequestStatus.APPROVED),
        denied=statuses.count(RequestStatus.DENIED),
        used=used,
    )


def _tools(item: JsonObject) -> list[dict[str, Any]]:
    tools: Any = item.get("tools", [])
    return list(tools)


def _needles(item: JsonObject) -> list[str]:
    """Texts that the stored items of a request for the same things hold: they are our own canonical JSON."""
    tools = _tools(item)
    if tools:
        return [str(tool["id"]) for tool in tools]
    return [str(item["role_id"]) if "role_id" in item else f'"database":"{item["database"]}"']

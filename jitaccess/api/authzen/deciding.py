"""From a question to a Decision: the same `decide` that the gateway asks, told in the words of AuthZEN.

What a principal may not know about answers like what does not exist: the reason is "unknown", and nothing else is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from django.db import transaction

from jitaccess.api.authzen import binding
from jitaccess.api.authzen.approvals import Approval, presented
from jitaccess.api.authzen.asking import Asking, about
from jitaccess.api.authzen.entities import Question
from jitaccess.api.authzen.vocabulary import Target
from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Facts, record
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.compiler import head
from jitaccess.policy.engine.arguments import arguments_digest
from jitaccess.policy.engine.decide import (
    Code,
    Kind,
    Verdict,
    Visibility,
    Who,
    decide,
    look,
    visibility,
)
from jitaccess.policy.engine.rules import Subject
from jitaccess.policy.services import lock_uses, take_uses
from jitaccess.policy.snapshots import counted, with_spent

TRIES = 3
NEXT_ACTIONS = {
    "approval_expired": "request",
    "out_of_scope": "request",
    "grant_pending": "retry",
    "policy_denied": "none",
    "approval_unverifiable": "none",
}


def decision(asking: Asking, question: Question, who: Who | None) -> JsonObject:
    """The Decision entity. Never raises for what the question names."""
    evaluation = f"eval_{uuid7().hex}"
    if who is None:
        known = question.subject.type in ("agent", "user")
        return _denied(evaluation, asking, "unknown_subject" if known else "unknown_subject_type")
    if question.resource.type == "server":
        return _server(evaluation, asking, question, who)
    target = asking.target(question)
    if isinstance(target, str):
        return _denied(evaluation, asking, target)
    given = question.context.get("approval")
    approval = presented(who, given, asking.at) if given is not None else None
    if approval is not None and approval.grant is None:
        return _denied(evaluation, asking, "approval_unverifiable", {"next_action": "none"})
    verdict = judged(asking, who, target, approval)
    if verdict is None:
        reason = "approval_not_presented" if approval is None else "approval_expired"
        return _denied(evaluation, asking, reason, {"next_action": "none"})
    if verdict.allowed:
        return _allowed(verdict, approval)
    context: JsonObject = {}
    if asked := binding.asked_for(verdict, target):
        context["access_request"] = binding.requestable(asking, question, asked, evaluation)
    reason = shown_reason(verdict)
    if approval is not None:
        reason = approval.why_denied(asking.at, target, verdict.tool.pin if verdict.tool else "")
        context |= _next(asking, reason, approval, may_ask="access_request" in context)
    if context.get("next_action") in {"retry", "none"}:
        context.pop("access_request", None)
    return _denied(evaluation, asking, reason, context)


def verdict_of(asking: Asking, who: Who, target: Target, spent: Mapping[UUID, int]) -> Verdict:
    """What a call gets now, by the very function that the gateway asks.

    Arguments that nobody gave are none: with "any" in their place, one approved call would let through all others.
    """
    snapshot, at = with_spent(asking.snapshot, spent), asking.at
    server = snapshot.server_by_slug(target.server)
    kind = Kind(target.kind) if server else Kind.TOOL
    given = {} if kind is Kind.RESOURCE else target.arguments
    place = server.id if server else None
    return decide(snapshot, who=who, server=place, tool=target.name, at=at, arguments=given, kind=kind)


def judged(asking: Asking, who: Who, target: Target, approval: Approval | None) -> Verdict | None:
    """The verdict for this asker. What an agent asks about itself takes nothing: its call is counted by the gateway.

    For an enforcement point the question is the call: of a grant for a number of calls it shows the approval, and one
    is taken. None where it does not: or one approved call could be let through any number of times.
    """
    verdict = verdict_of(asking, who, target, {})
    if not (verdict.counted and asking.enforces):
        return verdict
    if approval is None or approval.grant is None or approval.stale:
        return None
    return enforced(asking, who, target, client=asking.caller.principal, only=approval.grant.pk)


def enforced(asking: Asking, who: Who, target: Target, *, client: Principal, only: UUID | None = None) -> Verdict:
    """The verdict for a call that is let through because of it: one use is taken, on record, where uses are counted.

    `only` is the grant whose uses may be taken. Raises Unavailable when rules change faster than they can be read.
    """
    for _ in range(TRIES):
        with transaction.atomic():
            if head().stamp == asking.snapshot.stamp:
                grants = _counted(asking, who)
                held = lock_uses(grants)
                if held is None:
                    break
                left = {one: 0 if only and grants[one] != only else held.get(one, 0) for one in grants}
                verdict = verdict_of(asking, who, target, left)
                if verdict.allowed and verdict.counted:
                    take_uses({verdict.counted: 1})
                    _record_use(asking, who, target, verdict, client)
                return verdict
        asking = about(asking, [who])
    raise Unavailable("policy_busy", "Access rules are changing very fast; try again in a moment.")


def _counted(asking: Asking, who: Who) -> dict[UUID, UUID | None]:
    """The live bindings of which uses are counted, each with its grant."""
    subject = Subject(agent=who.agent, user=who.user)
    ids = counted(asking.snapshot, [subject], asking.at)
    return {one.id: one.grant for one in asking.snapshot.bindings.get(subject, ()) if one.id in ids}


def _record_use(asking: Asking, who: Who, target: Target, verdict: Verdict, client: Principal) -> None:
    data: JsonObject = {
        "enforced_by": client.label,
        "args_digest": arguments_digest(target.arguments),
        "rule": verdict.rule,
    }
    record(
        Facts(
            event=Event.GRANT_USED,
            outcome=Outcome.ALLOWED,
            actor=asking.principal(who).actor(),
            grant=verdict.grant,
            server=verdict.server.id if verdict.server else None,
            server_name=target.server,
            tool=target.name,
            tool_pin=verdict.tool.pin if verdict.tool else "",
            bindings=verdict.bindings,
            policy_version=asking.snapshot.version,
            data=data,
        )
    )


def _server(evaluation: str, asking: Asking, question: Question, who: Who) -> JsonObject:
    """Whether a server can be reached at all: which of its tools may be called is asked of each."""
    if question.action.name != "connect":
        return _denied(evaluation, asking, "unknown_action")
    server = asking.snapshot.server_by_slug(question.resource.id)
    found = look(asking.snapshot, who=who, server=server.id if server else None, at=asking.at)
    if isinstance(found, Verdict):
        return _denied(evaluation, asking, shown_reason(found))
    return {"decision": True}


def _allowed(verdict: Verdict, approval: Approval | None) -> JsonObject:
    if approval is None or approval.grant is None or not approval.of(verdict.grant):
        return {"decision": True}
    until = approval.grant.expires_at.isoformat()
    return {"decision": True, "context": {"approval": {"id": approval.id, "approved_until": until}}}


def shown_reason(verdict: Verdict) -> str:
    """Why not, as far as this principal may know: what is hidden from it is as unknown as what is not there."""
    if verdict.code in {Code.QUARANTINED, Code.LOCKED_DOWN, Code.OTHER_ARGUMENTS}:
        return str(verdict.code)
    if visibility(verdict) is Visibility.HIDDEN:
        return "unknown"
    return "approval_required" if verdict.code is Code.NO_BINDING else str(verdict.code)


def _next(asking: Asking, reason: str, approval: Approval, *, may_ask: bool) -> JsonObject:
    """What to do about a denial in spite of an approval (Completion Semantics, `next_action`)."""
    action = NEXT_ACTIONS[reason]
    if action == "request" and not may_ask:
        action = "none"
    context: JsonObject = {"next_action": action}
    if action == "retry" and approval.grant is not None:
        wait = (approval.grant.starts_at - asking.at).total_seconds()
        context["retry_after"] = max(int(wait) + 1, 1)
    return context


def _denied(evaluation: str, asking: Asking, reason: str, more: Mapping[str, Json] | None = None) -> JsonObject:
    context: JsonObject = {"evaluation_id": evaluation, "evaluated_at": asking.at.isoformat(), "reason": reason}
    return {"decision": False, "context": context | dict(more or {})}

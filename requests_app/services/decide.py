"""Approving and denying, race-free: the order of the steps is the design.

Lock the request -> still pending, before its deadline -> requester enabled, tools as they were asked for -> this person
eligible now -> write the decision -> count distinct eligible people, every earlier one checked again -> close by
compare-and-swap -> grant and binding -> entries -> commit. Telling people happens later, from the ledger.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from jitaccess.kernel.steps import step
from jitaccess.kernel.text import visible
from jitaccess.policy import services as policy
from jitaccess.store.clock import now
from requests_app import selectors
from requests_app.lifecycle import DecisionVerdict, RequestStatus, approved, ensure_pending
from requests_app.models import AccessRequest, Decision, Grant
from requests_app.obstacles import obstacle_to
from requests_app.services.submit import request_digest

MAX_NOTE = 2000


def approve_request(
    *, request_id: UUID, approver: User, channel: str, digest: str, reason: str = "", source: str = ""
) -> AccessRequest:
    """Approve what `digest` names (the request as it was shown). The last approval needed creates the grant.

    Raises NotFound, Forbidden (not an approver, or self), Conflict (decided, expired, or what was asked for changed).
    """
    return _decide(DecisionVerdict.APPROVE, request_id, approver, channel, digest, reason, source)


def deny_request(
    *, request_id: UUID, approver: User, channel: str, digest: str, reason: str = "", source: str = ""
) -> AccessRequest:
    """Deny: one eligible person is enough. Raises as approve_request."""
    return _decide(DecisionVerdict.DENY, request_id, approver, channel, digest, reason, source)


def _decide(
    verdict: DecisionVerdict, request_id: UUID, approver: User, channel: str, digest: str, reason: str, source: str
) -> AccessRequest:
    if len(reason) > MAX_NOTE:
        raise Invalid("decision.reason", f"The reason has {len(reason)} characters; at most {MAX_NOTE} are kept.")
    with transaction.atomic():
        request = _lock(request_id)
        step("approve.locked")
        moment = now()
        _ensure_decidable(verdict, request, approver, digest, moment)
        obstacle = obstacle_to(request) if verdict is DecisionVerdict.APPROVE else ""
        if obstacle:
            _close(request, RequestStatus.INVALIDATED, moment, "system:workflow", obstacle)
            record(
                Facts(
                    event=Event.REQUEST_INVALIDATED,
                    actor=Actor.system("workflow"),
                    request=request.pk,
                    data={"why": obstacle},
                )
            )
        else:
            _carry_out(verdict, request, approver, channel, reason, source, moment)
        step("approve.written")
    step("approve.committed")
    if obstacle:
        # Raised after the commit: that the request is void must stay on record.
        raise Conflict("request.invalidated", f"This can no longer be approved: {obstacle}")
    request.refresh_from_db()
    return request


def _lock(request_id: UUID) -> AccessRequest:
    # No join: after waiting for the lock PostgreSQL reads this row anew, but a joined agent as it was before the wait.
    request = AccessRequest.objects.select_for_update().filter(pk=request_id).first()
    if request is None:
        raise NotFound("request.unknown", f"There is no request {request_id}.")
    return request


def _ensure_decidable(
    verdict: DecisionVerdict, request: AccessRequest, approver: User, digest: str, moment: datetime
) -> None:
    approver.refresh_from_db(fields=["is_active"])
    standing = selectors.standing_of(request, approver)
    if not standing.may_see:
        raise NotFound("request.unknown", f"There is no request {request.pk}.")
    ensure_pending(request.status, said=selectors.how_it_ended(request))
    if request.pending_until <= moment:
        raise Conflict("request.expired", f"This request expired at {request.pending_until:%H:%M} UTC, undecided.")
    if standing.self_because:
        raise Forbidden("decision.self", f"You cannot decide on this request: {standing.self_because}.")
    if not standing.eligible:
        raise Forbidden("decision.not_eligible", "You are not among the approvers of this request.")
    if digest != request.digest or request_digest(request) != request.digest:
        raise Conflict("request.digest", "What you looked at is not what is on record. Open the request again.")
    # Whoever approved may still deny while others are needed, but not approve twice.
    if Decision.objects.filter(request=request, user=approver, live=True, verdict=verdict).exists():
        raise Conflict("decision.already_yours", "You have decided so already; others are still needed.")


def _carry_out(
    verdict: DecisionVerdict,
    request: AccessRequest,
    approver: User,
    channel: str,
    reason: str,
    source: str,
    moment: datetime,
) -> None:
    actor = Principal.of_user(approver, source=source, client=channel).actor()
    note = visible(reason.strip(), limit=MAX_NOTE, multiline=True)
    Decision.objects.filter(request=request, user=approver, live=True).update(live=False)
    Decision.objects.create(
        request=request, user=approver, verdict=verdict, reason=note, digest=request.digest, channel=channel, at=moment
    )
    data = {"verdict": str(verdict), "reason": note, "digest": request.digest, "channel": channel}
    record(Facts(event=Event.DECISION_RECORDED, actor=actor, at=moment, request=request.pk, data=data))
    if verdict is DecisionVerdict.DENY:
        _close(request, RequestStatus.DENIED, moment, approver.username, note)
        record(
            Facts(
                event=Event.REQUEST_DENIED,
                actor=actor,
                outcome=Outcome.DENIED,
                at=moment,
                request=request.pk,
                data={"reason": note},
            )
        )
    elif approved(selectors.approval_progress(request)):
        _activate(request, approver, actor, moment)


def _activate(request: AccessRequest, approver: User, actor: Actor, moment: datetime) -> None:
    """The clock of a grant starts here, at approval, never at filing."""
    _close(request, RequestStatus.APPROVED, moment, approver.username, "")
    grant = Grant.objects.create(
        request=request,
        agent_id=request.agent_id,
        user_id=request.user_id,
        starts_at=moment,
        expires_at=moment + timedelta(seconds=request.seconds),
    )
    tools = {UUID(tool["id"]): str(tool["pin"]) for item in request.parsed_items for tool in item["tools"]}
    binding = policy.bind_grant(
        grant=grant.pk,
        agent=request.agent_id,
        user=request.user_id,
        tools=tools,
        starts_at=moment,
        seconds=request.seconds,
        max_uses=request.max_uses,
    )
    counted = {person for one in selectors.approval_progress(request) for person in one.approved_by}
    approvers = sorted(User.objects.filter(pk__in=counted).values_list("username", flat=True))
    about = {"digest": request.digest, "approved_by": approvers}
    record(
        Facts(
            event=Event.REQUEST_APPROVED,
            actor=actor,
            outcome=Outcome.ALLOWED,
            at=moment,
            request=request.pk,
            data=about,
        )
    )
    data = {
        "tools": list(request.tool_labels),
        "expires_at": grant.expires_at.isoformat(),
        "max_uses": request.max_uses,
        "digest": request.digest,
    }
    record(
        Facts(
            event=Event.GRANT_ACTIVATED,
            actor=actor,
            at=moment,
            request=request.pk,
            grant=grant.pk,
            bindings=[binding.pk],
            data=data,
        )
    )


def _close(request: AccessRequest, status: RequestStatus, moment: datetime, who: str, note: str) -> None:
    moved = AccessRequest.objects.filter(pk=request.pk, status=RequestStatus.PENDING).update(
        status=status, closed_at=moment, closed_by_name=who, closing_note=note
    )
    if moved != 1:
        raise Conflict("request.already_decided", "Somebody else decided at the same moment. Open the request again.")

"""Approving and denying, race-free: the order of the steps is the design.

Lock the request -> still pending, before its deadline -> requester enabled, items as they were asked for -> this person
eligible now, at the stage that is decided -> write the decision -> count distinct seats of eligible people, every
earlier one checked again -> close by compare-and-swap -> grant and bindings -> entries -> commit. Telling people
happens later, from the ledger.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.recorder import Facts, record
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import is_blank, visible
from jitaccess.store.clock import now
from requests_app import approval, selectors, standing
from requests_app.approval import Tally
from requests_app.digests import request_digest
from requests_app.lifecycle import DecisionVerdict, RequestStatus, ensure_pending
from requests_app.models import AccessRequest, Concern, Decision
from requests_app.obstacles import obstacle_to
from requests_app.services.granting import activate, close, names_of
from requests_app.services.invalidate import invalidate
from requests_app.terms import Terms, in_common, narrowed, read_terms

MAX_NOTE = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrow:
    """What an approver leaves of a request: shorter, fewer calls, fewer things (labels). None: as asked for."""

    seconds: int | None = None
    max_uses: int | None = None
    labels: Collection[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Deciding:
    """One decision to be. `recently` says whether the person has just proved who they are (step-up)."""

    verdict: DecisionVerdict
    approver: User
    channel: str
    digest: str
    reason: str
    source: str
    recently: bool = False
    narrow: Narrow = Narrow()


def approve_request(
    *,
    request_id: UUID,
    approver: User,
    channel: str,
    digest: str,
    reason: str = "",
    source: str = "",
    recently: bool = False,
    narrow: Narrow | None = None,
) -> AccessRequest:
    """Approve what `digest` names (the request as it was shown), or less. The last approval needed creates the grant.

    Raises NotFound, Invalid (terms that are wider), Forbidden (not an approver, self, not through this channel, step-up
    needed), Conflict (decided, expired, or what was asked for changed).
    """
    return _decide(
        request_id,
        _Deciding(
            verdict=DecisionVerdict.APPROVE,
            approver=approver,
            channel=channel,
            digest=digest,
            reason=reason,
            source=source,
            recently=recently,
            narrow=narrow or Narrow(),
        ),
    )


def deny_request(
    *, request_id: UUID, approver: User, channel: str, digest: str, reason: str = "", source: str = ""
) -> AccessRequest:
    """Deny, through any channel: as many eligible people as the policy's deny threshold end it. Raises as above."""
    return _decide(
        request_id,
        _Deciding(
            verdict=DecisionVerdict.DENY,
            approver=approver,
            channel=channel,
            digest=digest,
            reason=reason,
            source=source,
        ),
    )


def ask_for_changes(*, request_id: UUID, approver: User, channel: str, note: str, source: str = "") -> AccessRequest:
    """Tell the requester what to ask for instead: a new request that supersedes this one, which stays pending.

    Raises as approve_request, Invalid for an empty note.
    """
    if is_blank(note):
        raise Invalid("decision.changes", "Say what should be asked for instead.")
    kept = _note(note)
    with transaction.atomic():
        request, moment = _lock(request_id), now()
        _ensure_open(request, approver, moment)
        AccessRequest.objects.filter(pk=request.pk, status=RequestStatus.PENDING).update(
            changes_at=moment, changes_by_name=approver.username, changes_note=kept
        )
        actor = Principal.of_user(approver, source=source, client=channel).actor()
        record(
            Facts(event=Event.REQUEST_CHANGES_ASKED, actor=actor, at=moment, request=request.pk, data={"note": kept})
        )
    request.refresh_from_db()
    return request


def _decide(request_id: UUID, deciding: _Deciding) -> AccessRequest:
    _note(deciding.reason)
    with transaction.atomic():
        request = _lock(request_id)
        step("approve.locked")
        moment = now()
        _ensure_open(request, deciding.approver, moment)
        _ensure_as_shown(request, deciding)
        approving = deciding.verdict is DecisionVerdict.APPROVE
        if approving:
            _ensure_this_way(request, deciding)
        obstacle = obstacle_to(request, moment) if approving else ""
        if obstacle:
            invalidate(request, obstacle, moment)
        else:
            _carry_out(request, deciding, moment)
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


def _ensure_open(request: AccessRequest, approver: User, moment: datetime) -> None:
    """Pending, in time, and this person has a say in it now."""
    approver.refresh_from_db(fields=["is_active"])
    theirs = standing.standing_of(request, approver)
    if not theirs.may_see:
        raise NotFound("request.unknown", f"There is no request {request.pk}.")
    ensure_pending(request.status, said=selectors.how_it_ended(request))
    if request.pending_until <= moment:
        raise Conflict("request.expired", f"This request expired at {request.pending_until:%H:%M} UTC, undecided.")
    if theirs.self_because:
        raise Forbidden("decision.self", f"You cannot decide on this request: {theirs.self_because}.")
    # Whoever approved an earlier stage may still take that back.
    if not theirs.eligible and not Decision.objects.filter(request=request, user=approver, live=True).exists():
        raise Forbidden("decision.not_eligible", "You are not among those who decide on this request now.")


def _ensure_as_shown(request: AccessRequest, deciding: _Deciding) -> None:
    if deciding.digest != request.digest or request_digest(request) != request.digest:
        raise Conflict("request.digest", "What you looked at is not what is on record. Open the request again.")


def _ensure_this_way(request: AccessRequest, deciding: _Deciding) -> None:
    """What can do more harm may only be approved where it can be read whole, by who has just proved who they are."""
    plan = standing.plan_of(request)
    if plan is None:
        raise Conflict("request.no_plan", "This request was filed under an older release; ask for it again.")
    if deciding.channel not in plan.channels:
        ways = " or ".join(sorted(plan.channels))
        raise Forbidden("decision.channel", f"This may be approved by {ways} only.", channels=ways)
    if plan.step_up and not deciding.recently:
        raise Forbidden("decision.step_up", "Prove who you are once more to approve this: sign in again on the web.")


def _carry_out(request: AccessRequest, deciding: _Deciding, moment: datetime) -> None:
    actor = Principal.of_user(deciding.approver, source=deciding.source, client=deciding.channel).actor()
    decision = _write(request, deciding, moment)
    data: dict[str, Json] = {
        "verdict": str(decision.verdict),
        "reason": decision.reason,
        "digest": request.digest,
        "channel": deciding.channel,
        "stage": decision.stage,
    }
    if decision.on_behalf_of:
        data["on_behalf_of"] = decision.on_behalf_of.username
    if decision.terms_digest:
        data |= {"terms": decision.terms, "terms_digest": decision.terms_digest}
    record(Facts(event=Event.DECISION_RECORDED, actor=actor, at=moment, request=request.pk, data=data))
    tally = standing.tally_of(request, moment)
    assert tally
    if tally.denied:
        close(request, RequestStatus.DENIED, moment, deciding.approver.username, decision.reason)
        record(
            Facts(
                event=Event.REQUEST_DENIED,
                actor=actor,
                outcome=Outcome.DENIED,
                at=moment,
                request=request.pk,
                data={"reason": decision.reason},
            )
        )
    elif tally.approved:
        terms = _agreed(request, tally)
        about: dict[str, Json] = {"approved_by": list[Json](names_of(tally.counted)), "terms_digest": terms.digest()}
        activate(request, terms, actor, moment, who=deciding.approver.username, about=about)


def _write(request: AccessRequest, deciding: _Deciding, moment: datetime) -> Decision:
    """One live decision per person and stage; an earlier one is kept, and counts no more."""
    approver, verdict = deciding.approver, deciding.verdict
    plan, people = standing.plan_of(request), standing.people_of([request])[request.pk]
    assert plan
    votes = standing.votes_on([request])[request.pk]
    here = approval.tally(plan, votes, people, waited=standing.waited(request, moment))
    taken = {vote.seat for vote in votes if vote.stage == here.stage and vote.person != approver.pk}
    seat, stage = approval.seat_of(approver.pk, here.seats, people, taken), here.stage
    mine = Decision.objects.filter(request=request, user=approver, live=True)
    if seat is None:
        earlier = mine.order_by("-stage").first()
        if earlier is None or verdict is DecisionVerdict.APPROVE:
            raise Forbidden("decision.not_eligible", "You are not among those who decide on this stage.")
        stage, seat = earlier.stage, earlier.on_behalf_of_id or approver.pk
    narrow = deciding.narrow
    if request.extends_id and (narrow.labels is not None or narrow.max_uses is not None):
        raise Invalid("decision.terms", "A grant is extended as it is: only the time can be made shorter.")
    terms = narrowed(request, seconds=narrow.seconds, max_uses=narrow.max_uses, labels=narrow.labels)
    smaller = terms.text() if narrow != Narrow() else "{}"
    there = mine.filter(stage=stage)
    # Whoever approved may deny while others are needed, or approve less; but not the same twice.
    if there.filter(verdict=verdict, terms=smaller).exists():
        raise Conflict("decision.already_yours", "You have decided so already; others are still needed.")
    there.update(live=False)
    # Whoever decided may see it for ever, whatever team they leave.
    Concern.objects.bulk_create([Concern(request=request, subject=f"user:{approver.pk}")], ignore_conflicts=True)
    return Decision.objects.create(
        request=request,
        user=approver,
        on_behalf_of_id=seat if seat != approver.pk else None,
        stage=stage,
        verdict=verdict,
        reason=_note(deciding.reason),
        digest=request.digest,
        terms=smaller,
        terms_digest=terms.digest() if smaller != "{}" else "",
        channel=deciding.channel,
        at=moment,
    )


def _agreed(request: AccessRequest, tally: Tally) -> Terms:
    """What all counted approvals have in common."""
    rows = Decision.objects.filter(
        request=request, live=True, verdict=DecisionVerdict.APPROVE, digest=request.digest, user__in=tally.counted
    )
    return in_common(request, [read_terms(text, request) for text in rows.values_list("terms", flat=True)])


def _note(text: str) -> str:
    if len(text) > MAX_NOTE:
        raise Invalid("decision.reason", f"The reason has {len(text)} characters; at most {MAX_NOTE} are kept.")
    return visible(text.strip(), limit=MAX_NOTE, multiline=True)

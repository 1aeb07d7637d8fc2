"""Break-glass: access at once for a person with the right to it, without anybody's yes; told to others, and reviewed.

A lock stands above it: what was stopped in an emergency is not started again by another one.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID

from django.db import transaction

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Facts, record, record_many
from jitaccess.identity.models import Agent, User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import may_use
from jitaccess.kernel.canonical import canonical, digest
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import fits, is_blank, visible
from jitaccess.policy.break_glass import bind_break_glass, rights_of
from jitaccess.policy.locks import lock_on
from jitaccess.policy.models import BreakGlass
from jitaccess.store.clock import JitNow, now
from requests_app import reviews
from requests_app.digests import request_digest
from requests_app.lifecycle import EndReason, RequestKind, RequestStatus, Risk
from requests_app.models import AccessRequest, Concern, Grant, Review
from requests_app.services.end import end_grant

MAX_TEXT = 2000
MAX_LIVE = 3  # uses of one right by one person at a time
REVIEWED_WITHIN = timedelta(days=7)


def break_glass(
    *, user: User, agent: Agent, right: UUID, reason: str, seconds: int | None = None, source: str = ""
) -> Grant:
    """Give `agent` the role of a break-glass right on behalf of `user`, who is signed in, now.

    `seconds` at most what the right allows, which is also the default. Raises NotFound for a right that this person
    does not have, Forbidden, Invalid and Conflict with what to do instead.
    """
    text = _text(reason, "break_glass.reason", "Say why: everybody who is skipped now will read it.")
    with transaction.atomic():
        # The queue of one person's uses, for the cap; and is this person, and the agent, still active?
        person = User.objects.select_for_update(no_key=True).get(pk=user.pk)
        row = Agent.objects.select_for_update(no_key=True).get(pk=agent.pk)
        held = rights_of(person).filter(pk=right).first()
        if held is None:
            raise NotFound("break_glass.unknown", "There is no such break-glass right, or you do not have it.")
        _ensure_usable(person, row, held)
        limit = held.max_minutes * 60
        wanted = limit if seconds is None else seconds
        if not 60 <= wanted <= limit:
            said = f"between 1 min and {format_duration(limit)}"
            raise Invalid("break_glass.duration", f"{held.name} is for {said}.", max_minutes=held.max_minutes)
        moment = now()
        _ensure_not_too_often(person, held, moment)
        return _use(person, row, held, text, moment, wanted, source)


def stop_break_glass(*, grant_id: UUID, reviewer: User, note: str = "", source: str = "") -> Grant:
    """A reviewer ends a use that is live. Less access needs no quorum. Raises NotFound, Forbidden, Conflict."""
    review = _review(grant_id, reviewer)
    if not reviews.is_reviewer(review, reviewer):
        raise Forbidden("review.not_yours", "Only the reviewers, the agent's owner and superusers can revoke this.")
    actor = Principal.of_user(reviewer, source=source).actor()
    return end_grant(grant_id=grant_id, reason=EndReason.REVOKED, actor=actor, by=reviewer.username, note=note)


def finish_review(*, grant_id: UUID, reviewer: User, note: str, source: str = "") -> Review:
    """Write down that somebody has looked at one use of a right: a member of its reviewers' team, but not who used it.

    Raises NotFound, Forbidden, Conflict when somebody else was first.
    """
    text = _text(note, "review.note", "Say what you found: the note is kept with the use of the right.")
    with transaction.atomic():
        review = _review(grant_id, reviewer)
        if review.grant.user_id == reviewer.pk:
            raise Forbidden("review.self", "You used this right yourself, so somebody else has to review it.")
        if not reviews.is_reviewer(review, reviewer):
            raise Forbidden("review.not_yours", "Only members of the reviewers' team can finish this review.")
        done = Review.objects.filter(pk=review.pk, done_at=None)
        if done.update(done_at=JitNow(), done_by=reviewer, note=text) != 1:
            review.refresh_from_db()
            by = review.done_by.username if review.done_by else "somebody"
            raise Conflict("review.done", f"{by} has reviewed this already.")
        facts = Facts(
            event=Event.BREAK_GLASS_REVIEWED,
            actor=Principal.of_user(reviewer, source=source).actor(),
            request=review.grant.request_id,
            grant=review.grant_id,
            data={"right": review.right_name, "note": text},
        )
        record(facts)
        review.refresh_from_db()
    return review


def _review(grant_id: UUID, user: User) -> Review:
    user.refresh_from_db(fields=["is_active"])
    review = Review.objects.select_related("grant__agent", "done_by").filter(grant=grant_id).first()
    if review is None or not reviews.may_see(review, user):
        raise NotFound("review.unknown", "There is no such review, or you may not see it.")
    return review


def _text(value: str, code: str, missing: str) -> str:
    if is_blank(value):
        raise Invalid(code, missing)
    if not fits(value.strip(), limit=MAX_TEXT):
        raise Invalid(code, f"This is too long; at most {MAX_TEXT} characters as shown are kept.")
    return visible(value.strip(), limit=MAX_TEXT, multiline=True)


def _ensure_usable(user: User, agent: Agent, right: BreakGlass) -> None:
    if not may_use(user=user, agent=agent):
        raise NotFound("agent.unknown", "There is no such agent, or it may not act for you.")
    if not agent.enabled or not agent.owner.is_active:
        raise Forbidden("agent.disabled", f"The agent {agent.name} is disabled, or its owner is not active.")
    stop = lock_on(user.pk, agent.pk, right.role_id)
    if stop is not None:
        raise Forbidden(
            "lock.live",
            f"A lock on {stop} stands in the way; {stop.created_by_name} made it: {stop.reason}",
            lock_id=str(stop.pk),
        )


def _ensure_not_too_often(user: User, right: BreakGlass, moment: datetime) -> None:
    used = Review.objects.filter(right_name=right.name, grant__user=user)
    live = used.filter(grant__ended_at=None, grant__expires_at__gt=moment).count()
    if live >= MAX_LIVE:
        raise Conflict("break_glass.too_many", f"You use {right.name} {live} times already; release one of them first.")
    overdue = used.filter(done_at=None, grant__starts_at__lt=moment - REVIEWED_WITHIN).order_by("pk").first()
    if overdue is not None:
        raise Conflict(
            "break_glass.review_overdue",
            f"Your use of {right.name} has waited for its review for more than {REVIEWED_WITHIN.days} days. The right "
            f"can be used again when {right.reviewers.name} has reviewed it.",
            grant_id=str(overdue.grant_id),
        )


def _use(
    user: User, agent: Agent, right: BreakGlass, reason: str, moment: datetime, seconds: int, source: str
) -> Grant:
    principal, ends = Principal.of_user(user, source=source), moment + timedelta(seconds=seconds)
    request = _request(principal, user, agent, right, reason, moment, seconds)
    request.save(force_insert=True)
    concerned = sorted({f"user:{user.pk}", f"user:{agent.owner_id}", f"team:{agent.team_id}"})
    Concern.objects.bulk_create(Concern(request=request, subject=subject) for subject in concerned)
    grant = Grant.objects.create(
        request=request, agent=agent, user=user, starts_at=moment, expires_at=ends, latest=ends, activated_at=moment
    )
    binding = bind_break_glass(
        grant=grant.pk, agent=agent.pk, user=user.pk, role=right.role, starts_at=moment, expires_at=ends
    )
    Review.objects.create(grant=grant, right_name=right.name, team=right.reviewers_id)
    data: JsonObject = {
        "right": right.name,
        "for_agent": agent.name,
        "role": f"{right.role.name}@{right.role.head}",
        "seconds": seconds,
        "reason": reason,
        "digest": request.digest,
        "reviewers": right.reviewers.name,
    }
    used = Facts(
        event=Event.BREAK_GLASS_USED,
        actor=principal.actor(),
        at=moment,
        request=request.pk,
        grant=grant.pk,
        data=data,
    )
    began: JsonObject = {"expires_at": ends.isoformat(), "digest": request.digest}
    record_many([used, replace(used, event=Event.GRANT_ACTIVATED, bindings=[binding.pk], data=began)])
    return grant


def _request(
    principal: Principal, user: User, agent: Agent, right: BreakGlass, reason: str, moment: datetime, seconds: int
) -> AccessRequest:
    """What a use looks like among the requests: approved at once, by who used it."""
    role = right.role
    items = canonical([{"kind": "role", "role": role.name, "role_id": str(role.pk), "version": role.head}]).decode()
    pk = uuid7()
    request = AccessRequest(
        id=pk,
        agent=agent,
        owner_id=agent.owner_id,
        user=user,
        filed_by=user,
        kind=RequestKind.BREAK_GLASS,
        principal_key=f"{agent.pk}/{user.pk}",
        client=principal.client,
        items=items,
        risk=Risk.CRITICAL,
        reason=reason,
        seconds=seconds,
        max_total_seconds=seconds,
        policy_name=right.name,
        dedupe_digest=digest({"break_glass": str(pk)}, domain="jitaccess-ask-v1"),
        created_at=moment,
        pending_until=moment + timedelta(seconds=seconds),
        status=RequestStatus.APPROVED,
        closed_at=moment,
        closed_by_name=user.username,
        closing_note=f"By the break-glass right {right.name}.",
    )
    request.digest = request_digest(request)
    return request

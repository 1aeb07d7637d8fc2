"""The break-glass page: one's rights, with a form each; what one has to review; what one has used."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from jitaccess.identity.models import Agent, User
from jitaccess.identity.services import agents_for
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Invalid, JitAccessError, NotFound
from jitaccess.policy.break_glass import rights_of
from jitaccess.store.clock import now
from requests_app import reviews
from requests_app.pages import page, person_of, source_of, written
from requests_app.services.break_glass import break_glass, finish_review, stop_break_glass

SHOWN = 20


@page
@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    return _page(request)


@page(back="web:break_glass")
@require_POST
def use(request: HttpRequest, right_id: UUID) -> HttpResponse:
    user = person_of(request)
    try:
        grant = break_glass(
            user=user,
            agent=_agent(user, request.POST.get("agent", "")),
            right=right_id,
            reason=request.POST.get("reason", ""),
            seconds=_seconds(request.POST.get("minutes", "")),
            source=source_of(request),
        )
    except JitAccessError as error:
        return _page(request, refusal=error)
    long = format_duration(int((grant.expires_at - grant.starts_at).total_seconds()))
    messages.success(request, f"{grant.agent.name} has this access for you now, for {long}. The reviewers are told.")
    return redirect("web:break_glass")


@page(back="web:break_glass")
@require_POST
def review(request: HttpRequest, grant_id: UUID) -> HttpResponse:
    note, source = request.POST.get("note", ""), source_of(request)
    try:
        finish_review(grant_id=grant_id, reviewer=person_of(request), note=note, source=source)
    except JitAccessError as error:
        return _page(request, refusal=error)
    messages.success(request, "Reviewed. Your note is on record.")
    return redirect("web:break_glass")


@page(back="web:break_glass")
@require_POST
def stop(request: HttpRequest, grant_id: UUID) -> HttpResponse:
    try:
        stop_break_glass(grant_id=grant_id, reviewer=person_of(request), source=source_of(request))
    except JitAccessError as error:
        return _page(request, refusal=error)
    messages.success(request, "Revoked. The next call is refused. The review stays open.")
    return redirect("web:break_glass")


def _page(request: HttpRequest, *, refusal: JitAccessError | None = None) -> HttpResponse:
    user = person_of(request)
    context: dict[str, Any] = {
        "rights": rights_of(user),
        "agents": agents_for(user),
        "open": reviews.reviews_for(user)[:SHOWN],
        "used": reviews.reviews_of(user).order_by("-pk")[:SHOWN],
        "now": now(),
        "refusal": refusal,
    }
    if refusal and request.resolver_match:  # what they wrote stands where they wrote it
        context |= {"written": written(request), "about": next(iter(request.resolver_match.kwargs.values()), None)}
    return render(request, "web/break_glass.html", context, status=refusal.http_status if refusal else 200)


def _agent(user: User, text: str) -> Agent:
    try:
        found = agents_for(user).filter(pk=UUID(text)).first()
    except ValueError:
        found = None
    if found is None:
        raise NotFound("agent.unknown", "Choose an agent that may act for you.")
    return found


def _seconds(text: str) -> int | None:
    if not text.strip():
        return None
    if not text.strip().isascii() or not text.strip().isdecimal() or len(text.strip()) > 4:
        raise Invalid("break_glass.duration", "Say for how many minutes, as a whole number.")
    return int(text) * 60

"""The pages of requests: parse, call a service or selector, render. GET never decides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from jitaccess.identity.proof import recently_proved
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, JitAccessError, NotFound
from jitaccess.policy.break_glass import rights_of
from jitaccess.store.clock import now
from jitaccess.web.context import note_waiting
from jitaccess.web.desk.bulk import alike
from jitaccess.web.desk.deciding import CHANNEL, ensure_shown, narrow_of
from requests_app import reviews, selectors, standing
from requests_app.card.card import Card, card_of
from requests_app.card.rows import cards_of_rows
from requests_app.card.status import said_of
from requests_app.card.timeline import moments
from requests_app.pages import page, person_of, source_of, written
from requests_app.selectors import AccessRequest, State
from requests_app.services import (
    approve_request,
    ask_for_changes,
    comment_on_request,
    deny_request,
    revoke_grant,
)
from requests_app.standing import Seen

CALLS_SHOWN = 200
WAITING_SHOWN = 50


@page
@require_safe
def inbox(request: HttpRequest) -> HttpResponse:
    user = person_of(request)
    glass = {"reviews": reviews.reviews_for(user).count(), "may_break_glass": rights_of(user).exists()}
    return render(request, "web/desk/inbox.html", _inbox(request) | glass)


@page
@require_safe
def inbox_part(request: HttpRequest) -> HttpResponse:
    """The inside of the live region of the inbox."""
    return render(request, "web/desk/_inbox.html", _inbox(request))


def _inbox(request: HttpRequest) -> dict[str, Any]:
    user, at = person_of(request), now()
    try:
        after = UUID(request.GET["after"]) if request.GET.get("after") else None
    except ValueError:
        raise Invalid("inbox.part", "There is no such part of the inbox.") from None
    waiting, recent, more = selectors.desk_of(user, at=at, after=after, waiting=WAITING_SHOWN)
    if not after:
        note_waiting(user, len(waiting))
    groups = [{"first": group[0].pk, "count": len(group)} for group in alike(waiting)]
    return {
        "waiting": cards_of_rows(waiting, at), "recent": cards_of_rows(recent[:10], at), "alike": groups, "now": at,
        "after": after, "more": more,
    }  # fmt: skip


@page
@require_safe
def request_list(request: HttpRequest) -> HttpResponse:
    at = now()
    try:
        state = State(request.GET["state"]) if request.GET.get("state") else None
        before, after = (UUID(request.GET[name]) if request.GET.get(name) else None for name in ("before", "after"))
    except ValueError:
        raise Invalid("request_list.filter", "There is no such part of the list of requests.") from None
    part = selectors.page_of_requests(person_of(request), state=state, before=before, after=after)
    kept = {"state": str(state)} if state else {}
    tabs = [{"label": "All", "url": reverse("web:requests"), "here": state is None}]
    tabs += [{"label": one.capitalize(), "url": f"?state={one}", "here": one is state} for one in State]
    context = {
        "rows": cards_of_rows(part.rows, at),
        "newer": f"?{urlencode(kept | {'after': part.newer})}" if part.newer else "",
        "older": f"?{urlencode(kept | {'before': part.older})}" if part.older else "",
        "tabs": tabs,
        "filtered": bool(state or request.GET),
        "now": at,
    }
    return render(request, "web/desk/requests.html", context)


@page
@require_safe
def request_page(request: HttpRequest, request_id: UUID) -> HttpResponse:
    return _request_page(request, request_id)


@page
@require_safe
def request_part(request: HttpRequest, request_id: UUID, name: str) -> HttpResponse:
    """The inside of one of the live regions of a request's page. No part of it decides anything."""
    user = person_of(request)
    seen = standing.look_at(user, request_id)
    if name == "timeline":
        return render(request, "parts/timeline.html", _timeline(seen))
    if name not in {"status", "progress"}:
        raise NotFound("page.unknown", "There is no such part of this page.")
    card = card_of(seen, user, channel=CHANNEL, recently=recently_proved(request, user))
    shown = {"status": "web/desk/_status.html", "progress": "parts/card/progress.html"}[name]
    return render(request, shown, {"card": card, "was": request.GET.get("was", ""), "now": seen.at})


@page(back="web:request")
@require_POST
def approve(request: HttpRequest, request_id: UUID) -> HttpResponse:
    def carry_out(said: dict[str, Any]) -> AccessRequest:
        asked, _ = standing.seen_by(said["approver"], request_id)
        ensure_shown(asked)
        recently = recently_proved(request, said["approver"])
        return approve_request(**said, recently=recently, narrow=narrow_of(request.POST, asked))

    return _decide(request, request_id, carry_out, undecided="Your approval is on record; others are still needed.")


@page(back="web:request")
@require_POST
def deny(request: HttpRequest, request_id: UUID) -> HttpResponse:
    return _decide(
        request, request_id, lambda said: deny_request(**said), undecided="Your denial is on record; others decide too."
    )


@page(back="web:request")
@require_POST
def changes(request: HttpRequest, request_id: UUID) -> HttpResponse:
    note, user = request.POST.get("note", ""), person_of(request)
    try:
        ask_for_changes(request_id=request_id, approver=user, channel=CHANNEL, note=note, source=source_of(request))
    except JitAccessError as error:
        return _request_page(request, request_id, refusal=error)
    messages.success(request, "The agent is told what to ask for instead. This request stays open.")
    return redirect("web:request", request_id=request_id)


@page(back="web:request")
@require_POST
def comment(request: HttpRequest, request_id: UUID) -> HttpResponse:
    text, source = request.POST.get("text", ""), source_of(request)
    try:
        comment_on_request(request_id=request_id, author=person_of(request), text=text, channel="web", source=source)
    except Invalid as error:
        return _request_page(request, request_id, refusal=error)
    return redirect("web:request", request_id=request_id)


@page(back="web:grants")
@require_POST
def revoke(request: HttpRequest, grant_id: UUID) -> HttpResponse:
    user = person_of(request)
    try:
        grant = revoke_grant(
            grant_id=grant_id, user=user, note=request.POST.get("reason", ""), source=source_of(request)
        )
    except (Conflict, Forbidden) as error:
        asked = selectors.request_of_grant(grant_id)
        assert asked  # or it would have been NotFound
        return _request_page(request, asked, refusal=error)
    messages.success(request, "Revoked. The next call is refused.")
    return redirect("web:request", request_id=grant.request_id)


def _decide(
    request: HttpRequest, request_id: UUID, carry_out: Callable[[dict[str, Any]], AccessRequest], *, undecided: str
) -> HttpResponse:
    said = {
        "request_id": request_id,
        "approver": person_of(request),
        "channel": CHANNEL,
        "digest": request.POST.get("digest", ""),
        "reason": request.POST.get("reason", ""),
        "source": source_of(request),
    }
    try:
        decided = carry_out(said)
    except JitAccessError as error:
        return _request_page(request, request_id, refusal=error)
    note_waiting(person_of(request), None)
    messages.success(request, said_of(decided, now()) or undecided)
    return redirect("web:request", request_id=request_id)


def _request_page(request: HttpRequest, request_id: UUID, *, refusal: JitAccessError | None = None) -> HttpResponse:
    user = person_of(request)
    seen = standing.look_at(user, request_id)
    card = card_of(seen, user, channel=CHANNEL, recently=recently_proved(request, user))
    context: dict[str, Any] = {"card": card, "was": card.status.label, "refusal": refusal, **_timeline(seen)}
    context |= _kept(request, card) if refusal else {}
    context["may_cancel"] = card.pending and bool(seen.standing.self_because) and seen.request.pending_until > seen.at
    status = refusal.http_status if refusal else 200
    return render(request, "web/desk/request.html", context, status=status)


def _kept(request: HttpRequest, card: Card) -> dict[str, str]:
    """What somebody wrote into the form that was refused, and which form has it now: the one for comments, when theirs
    is not offered any more because another was quicker.
    """
    form = "less" if "less" in request.POST else getattr(request.resolver_match, "url_name", "")
    may = card.effects
    asks = may.approve is not None and not may.approve.step_up
    offered = {"approve": asks, "less": asks and may.less, "deny": may.deny, "changes": may.changes}
    return {"written": written(request), "form": form if offered.get(form) else "comment"}


def _timeline(seen: Seen) -> dict[str, Any]:
    entries = selectors.timeline_of(seen.request, calls=CALLS_SHOWN)
    calls = sum(entry.event.startswith("call.") for entry in entries)
    return {"timeline": moments(seen.request, entries), "calls_cut": calls == CALLS_SHOWN, "now": seen.at}

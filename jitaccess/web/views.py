"""The pages: parse, call a service or selector, render. GET never decides."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec
from uuid import UUID

from django.contrib import messages
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from jitaccess.identity.models import User
from jitaccess.identity.proof import recently_proved
from jitaccess.identity.services import link_owner, use_sign_in_link
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, JitAccessError
from jitaccess.policy.break_glass import rights_of
from jitaccess.store.clock import now
from jitaccess.web import present
from jitaccess.web.deciding import CHANNEL, ensure_shown, narrow_of
from jitaccess.web.timeline import moments
from requests_app import reviews, selectors, standing
from requests_app.selectors import AccessRequest, State
from requests_app.services import (
    approve_request,
    ask_for_changes,
    comment_on_request,
    deny_request,
    revoke_grant,
)

P = ParamSpec("P")
_TITLES = {
    400: "That did not make sense",
    403: "You may not do this",
    404: "Not found",
    409: "Not possible any more",
    503: "Busy right now",
}
CALLS_SHOWN = 200


def _refusals_are_pages(
    view: Callable[Concatenate[HttpRequest, P], HttpResponse],
) -> Callable[Concatenate[HttpRequest, P], HttpResponse]:
    @wraps(view)
    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except JitAccessError as error:
            status = error.http_status
            return render(
                request, "web/refusal.html", {"title": _TITLES[status], "detail": error.detail}, status=status
            )

    return guarded


@login_required
@require_safe
def inbox(request: HttpRequest) -> HttpResponse:
    user, at = _person(request), now()
    waiting, recent = selectors.desk_of(user, at=at)
    context = {"waiting": present.rows(waiting, at), "recent": present.rows(recent[:10], at), "now": at}
    glass = {"reviews": reviews.reviews_for(user).count(), "may_break_glass": rights_of(user).exists()}
    return render(request, "web/inbox.html", context | glass)


@login_required
@require_safe
@_refusals_are_pages
def request_list(request: HttpRequest) -> HttpResponse:
    at = now()
    try:
        state = State(request.GET["state"]) if request.GET.get("state") else None
        before, after = (UUID(request.GET[name]) if request.GET.get(name) else None for name in ("before", "after"))
    except ValueError:
        raise Invalid("request_list.filter", "There is no such part of the list of requests.") from None
    page = selectors.page_of_requests(_person(request), state=state, before=before, after=after)
    context = {"rows": present.rows(page.rows, at), "page": page, "state": state, "states": list(State), "now": at}
    return render(request, "web/request_list.html", context)


@login_required
@require_safe
@_refusals_are_pages
def request_page(request: HttpRequest, request_id: UUID) -> HttpResponse:
    return _request_page(request, request_id)


@login_required
@require_POST
@_refusals_are_pages
def approve(request: HttpRequest, request_id: UUID) -> HttpResponse:
    def carry_out(said: dict[str, Any]) -> AccessRequest:
        asked, _ = standing.seen_by(said["approver"], request_id)
        ensure_shown(asked)
        recently = recently_proved(request, said["approver"])
        return approve_request(**said, recently=recently, narrow=narrow_of(request.POST, asked))

    return _decide(request, request_id, carry_out, undecided="Your approval is on record; others are still needed.")


@login_required
@require_POST
@_refusals_are_pages
def deny(request: HttpRequest, request_id: UUID) -> HttpResponse:
    return _decide(
        request, request_id, lambda said: deny_request(**said), undecided="Your denial is on record; others decide too."
    )


@login_required
@require_POST
@_refusals_are_pages
def changes(request: HttpRequest, request_id: UUID) -> HttpResponse:
    note, user = request.POST.get("note", ""), _person(request)
    try:
        ask_for_changes(request_id=request_id, approver=user, channel=CHANNEL, note=note, source=_source(request))
    except JitAccessError as error:
        return _request_page(request, request_id, refusal=error)
    messages.success(request, "The agent is told what to ask for instead. This request stays open.")
    return redirect("web:request", request_id=request_id)


@login_required
@require_POST
@_refusals_are_pages
def comment(request: HttpRequest, request_id: UUID) -> HttpResponse:
    text, source = request.POST.get("text", ""), _source(request)
    try:
        comment_on_request(request_id=request_id, author=_person(request), text=text, channel="web", source=source)
    except Invalid as error:
        return _request_page(request, request_id, refusal=error)
    return redirect("web:request", request_id=request_id)


@login_required
@require_POST
@_refusals_are_pages
def revoke(request: HttpRequest, grant_id: UUID) -> HttpResponse:
    user = _person(request)
    try:
        grant = revoke_grant(grant_id=grant_id, user=user, note=request.POST.get("reason", ""), source=_source(request))
    except (Conflict, Forbidden) as error:
        asked = selectors.request_of_grant(grant_id)
        assert asked  # or it would have been NotFound
        return _request_page(request, asked, refusal=error)
    messages.success(request, "Revoked. The next call is refused.")
    return redirect("web:request", request_id=grant.request_id)


@require_http_methods(["GET", "HEAD", "POST"])
@_refusals_are_pages
def sign_in(request: HttpRequest, token: str) -> HttpResponse:
    """GET only asks: a link preview or a scanner that opens the address must not use the link up."""
    target = _local(request.POST.get("next") or request.GET.get("next") or "/")
    if request.method != "POST":
        return render(request, "web/sign_in.html", {"owner": link_owner(token), "next": target})
    user = use_sign_in_link(token, source=_source(request))
    login(request, user, backend="django.contrib.auth.backends.ModelBackend")
    return redirect(target)


@require_safe
def favicon(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - Django passes it
    """Browsers ask for it on pages that name no icon."""
    return redirect(static("jitaccess/mark.svg"))


@require_safe
def robots(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 - Django passes it
    return HttpResponse("User-agent: *\nDisallow: /\n", content_type="text/plain")


def _decide(
    request: HttpRequest, request_id: UUID, carry_out: Callable[[dict[str, Any]], AccessRequest], *, undecided: str
) -> HttpResponse:
    said = {
        "request_id": request_id,
        "approver": _person(request),
        "channel": CHANNEL,
        "digest": request.POST.get("digest", ""),
        "reason": request.POST.get("reason", ""),
        "source": _source(request),
    }
    try:
        decided = carry_out(said)
    except JitAccessError as error:
        return _request_page(request, request_id, refusal=error)
    messages.success(request, present.said_of(decided, now()) or undecided)
    return redirect("web:request", request_id=request_id)


def _request_page(request: HttpRequest, request_id: UUID, *, refusal: JitAccessError | None = None) -> HttpResponse:
    user = _person(request)
    seen = standing.look_at(user, request_id)
    entries = selectors.timeline_of(seen.request, calls=CALLS_SHOWN)
    context: dict[str, Any] = present.request_page(seen, user, recently=recently_proved(request, user))
    calls = sum(entry.event.startswith("call.") for entry in entries)
    context |= {"timeline": moments(seen.request, entries), "calls_cut": calls == CALLS_SHOWN}
    context |= {"now": seen.at, "refusal": refusal}
    return render(request, "web/request.html", context, status=refusal.http_status if refusal else 200)


def _person(request: HttpRequest) -> User:
    assert isinstance(request.user, User)  # login_required came first
    return request.user


def _source(request: HttpRequest) -> str:
    return str(request.META.get("REMOTE_ADDR", ""))


def _local(target: str) -> str:
    """`target` when it is a path on this site, else the inbox: a sign-in link must not send people elsewhere."""
    local = target.startswith("/") and url_has_allowed_host_and_scheme(target, allowed_hosts=None)
    return target if local else "/"

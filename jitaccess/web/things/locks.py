"""The page of locks: emergency stops that are in force, those that were, making one and lifting one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from jitaccess.audit.recorder import Actor
from jitaccess.identity.models import Agent, User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Forbidden, Invalid, JitAccessError, NotFound
from jitaccess.policy import locks as service
from jitaccess.policy.models import Lock
from jitaccess.store.clock import now
from jitaccess.store.paging import part_of
from jitaccess.web.things.sights import may
from requests_app.pages import page, person_of, source_of

# How long, in seconds; "" until somebody lifts it.
_LENGTHS = (
    ("", "until somebody lifts it"),
    ("3600", "1 h"),
    ("28800", "8 h"),
    ("86400", "1 day"),
    ("604800", "7 days"),
)
_OF_OWNERS = (Lock.Kind.AGENT, Lock.Kind.GRANT)
_HEAD = [
    {"label": "What"},
    {"label": "Why"},
    {"label": "By"},
    {"label": "Since"},
    {"label": "Until"},
    {"label": "", "kind": "fit"},
]


@page
@require_safe
def locks(request: HttpRequest) -> HttpResponse:
    return _page(request)


@page(back="web:locks")
@require_POST
def lock(request: HttpRequest) -> HttpResponse:
    user, form = person_of(request), request.POST
    try:
        kind, seconds = form.get("kind", ""), form.get("seconds", "")
        if seconds not in dict(_LENGTHS):
            raise Invalid("lock.expiry", "Choose how long it lasts.")
        made = service.lock(
            kind=kind,
            target=_target(user, kind, form.get("target", "")),
            reason=form.get("reason", ""),
            expires_at=now() + timedelta(seconds=int(seconds)) if seconds else None,
            operator=_operator(request, user),
        )
    except JitAccessError as error:
        return _page(request, refusal=error)
    messages.success(request, f"Locked: {made}. The next call is refused.")
    return redirect("web:locks")


@page(back="web:locks")
@require_POST
def unlock(request: HttpRequest, lock_id: UUID) -> HttpResponse:
    user = person_of(request)
    row = service.locks_seen_by(user).filter(pk=lock_id).first()
    if row is None:
        raise NotFound("lock.unknown", "There is no such lock, or you may not see it.")
    try:
        service.unlock(lock=row, operator=_operator(request, user))
    except JitAccessError as error:
        return _page(request, refusal=error)
    messages.success(request, f"Lifted: {row}.")
    return redirect("web:locks")


def _page(request: HttpRequest, *, refusal: JitAccessError | None = None) -> HttpResponse:
    user, at = person_of(request), now()
    over = request.GET.get("show") == "over"
    seen, live = service.locks_seen_by(user), service.live_locks().values("pk")
    try:
        key = UUID(request.GET["before"]) if request.GET.get("before") else None
    except ValueError:
        raise Invalid("locks.part", "There is no such part of the list of locks.") from None
    part = part_of(seen.exclude(pk__in=live) if over else seen.filter(pk__in=live), before=key)
    address = reverse("web:locks")
    count = seen.filter(pk__in=live).count()
    tabs = (("In force", address, not over, count), ("Over", f"{address}?show=over", over, None))
    anything, owns = may(user, "jit_policy.add_lock"), Agent.objects.filter(owner=user).exists()
    kinds = list(Lock.Kind) if anything else [*_OF_OWNERS] if owns else []
    lifts = may(user, "jit_policy.change_lock")
    here = f"{address}?show=over" if over else address
    joined = f"{here}{'&' if over else '?'}"
    context: dict[str, Any] = {
        "tabs": [dict(zip(("label", "url", "here", "count"), tab, strict=True)) for tab in tabs],
        "over": over,
        # Whether the others may lift one is for the service to say: here it is only offered.
        "rows": [(row, not over and (lifts or row.created_by_name == user.username)) for row in part.rows],
        "newer": here if key else "",
        "older": f"{joined}before={part.older}" if part.older else "",
        "head": _HEAD,
        "kinds": kinds,
        "lengths": _LENGTHS,
        "given": request.POST or request.GET,
        "refusal": refusal,
        "now": at,
    }
    return render(request, "web/things/locks.html", context, status=refusal.http_status if refusal else 200)


def _target(user: User, kind: str, text: str) -> UUID | None:
    """Whoever may not lock it learns no more than that: not whether there is such a thing."""
    try:
        return service.find_target(kind, text.replace("\0", ""))
    except NotFound:
        if may(user, "jit_policy.add_lock"):
            raise
        raise Forbidden("lock.not_yours", "You may lock agents that you own, and their grants.") from None


def _operator(request: HttpRequest, user: User) -> Actor:
    return Principal.of_user(user, source=source_of(request), client="web").actor()

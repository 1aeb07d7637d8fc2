"""The away page: handing one's approvals to somebody for a while, ending that, and whom one stands in for."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Invalid, JitAccessError, NotFound
from jitaccess.policy.delegations import concerning, delegate, end_delegation
from jitaccess.store.clock import now
from requests_app.pages import page, person_of, source_of


@page
@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    return _page(request)


@page(back="web:away")
@require_POST
def hand_over(request: HttpRequest) -> HttpResponse:
    user, form = person_of(request), request.POST
    try:
        first, last = _day(form.get("first", "")), _day(form.get("last", ""))
        if last is None:
            raise Invalid("delegation.window", "Say until which day, as in 2026-05-31.")
        made = delegate(
            person=user,
            to=_somebody(form.get("delegate", "")),
            starts_at=first,
            ends_at=last + timedelta(days=1),
            note=form.get("note", ""),
            operator=Principal.of_user(user, source=source_of(request), client="web").actor(),
        )
    except JitAccessError as error:
        return _page(request, refusal=error)
    messages.success(request, f"{made.delegate} decides in your place." if made.delegate else "You are away.")
    return redirect("web:away")


@page(back="web:away")
@require_POST
def end(request: HttpRequest, delegation_id: UUID) -> HttpResponse:
    user = person_of(request)
    row = concerning(user).filter(pk=delegation_id).first()
    if row is None:
        raise NotFound("delegation.unknown", "There is no such delegation, or it is not yours.")
    try:
        operator = Principal.of_user(user, source=source_of(request), client="web").actor()
        end_delegation(delegation=row, operator=operator)
    except JitAccessError as error:
        return _page(request, refusal=error)
    messages.success(request, "That is over now.")
    return redirect("web:away")


def _page(request: HttpRequest, *, refusal: JitAccessError | None = None) -> HttpResponse:
    user, at = person_of(request), now()
    live = list(concerning(user).filter(ended_at=None, ends_at__gt=at))
    context: dict[str, Any] = {
        "mine": [row for row in live if row.person_id == user.pk],
        "others": [row for row in live if row.delegate_id == user.pk],
        "teammates": User.objects.filter(teams__in=user.teams.all(), is_active=True)
        .exclude(pk=user.pk)
        .order_by("username")
        .distinct(),
        "given": request.POST,
        "now": at,
        "refusal": refusal,
    }
    return render(request, "web/away.html", context, status=refusal.http_status if refusal else 200)


def _somebody(name: str) -> User | None:
    """None for an empty field: away, and nobody decides in one's place."""
    name = name.strip()
    if not name:
        return None
    found = User.objects.filter(username=name, is_active=True).first() if "\0" not in name else None
    if found is None:
        raise Invalid("delegation.inactive", "There is no active person with this username.")
    return found


def _day(text: str) -> datetime | None:
    """Its first moment in UTC; None for an empty field."""
    if not text.strip():
        return None
    try:
        day = date.fromisoformat(text.strip())
    except ValueError:
        raise Invalid("delegation.window", "Write days as in 2026-05-31.") from None
    if not 2000 <= day.year <= 9000:
        raise Invalid("delegation.window", "Write days as in 2026-05-31.")
    return datetime(day.year, day.month, day.day, tzinfo=UTC)

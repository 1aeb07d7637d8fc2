"""The pages of webhooks: all of them, one, its deliveries, and what can be done to it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from jitaccess.audit.models import Entry
from jitaccess.audit.recorder import Actor
from jitaccess.egress.addresses import read_url
from jitaccess.identity.models import Team
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Invalid, JitAccessError, NotFound
from jitaccess.notify.webhooks import plain, services
from jitaccess.notify.webhooks.delivering import DEAD, OPEN
from jitaccess.notify.webhooks.keys import BOTH
from jitaccess.notify.webhooks.models import Endpoint, HookDelivery
from jitaccess.notify.webhooks.patterns import NOUNS, events_of
from jitaccess.notify.webhooks.seen import endpoint_for, endpoints_for, insist_on_managing, may_manage
from jitaccess.notify.webhooks.sending import body_of
from jitaccess.store.clock import now
from jitaccess.store.paging import part_of
from requests_app.card.shown import shown
from requests_app.pages import page, person_of, source_of

_STATES = {"waiting": "Waiting", "delivered": "Taken", "failed": "Given up"}


@page
@require_safe
def webhooks(request: HttpRequest) -> HttpResponse:
    user = person_of(request)
    rows = list(endpoints_for(user))
    context = {"rows": [_row(row) for row in rows], "now": now(), "may_manage": may_manage(user)}
    return render(request, "notify/webhooks.html", context)


@page(back="notify:webhooks")
@never_cache  # the answer to a form may hold a secret
@require_http_methods(["GET", "HEAD", "POST"])
def new(request: HttpRequest) -> HttpResponseBase:
    user, given = person_of(request), request.POST
    insist_on_managing(user)
    refused = None
    if request.method == "POST":
        try:
            row, secret = services.create_endpoint(
                name=given.get("name", ""),
                url=given.get("url", ""),
                events=given.get("events", ""),
                team=_team(given.get("team", "")),
                owner=user,
                operator=_operator(request),
            )
            return _told(request, row, secret, "The webhook is there.")
        except JitAccessError as error:
            refused = error
    return _form(request, given=given, refused=refused, teams=Team.objects.order_by("name"))


@page(back="notify:webhook")
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def change(request: HttpRequest, endpoint_id: UUID) -> HttpResponseBase:
    row, given, refused = _managed(request, endpoint_id), request.POST, None
    if request.method == "POST":
        try:
            row, secret = services.change_endpoint(
                endpoint_id=endpoint_id,
                name=given.get("name", ""),
                url=given.get("url", ""),
                events=given.get("events", ""),
                operator=_operator(request),
            )
        except JitAccessError as error:
            refused = error
        else:
            if secret:
                return _told(request, row, secret, "It leads to another host, so it has another secret.")
            messages.success(request, "Saved.")
            return redirect("notify:webhook", endpoint_id)
    kept: Any = given or {"name": row.name, "url": row.url, "events": row.events}
    return _form(request, given=kept, refused=refused, endpoint=row)


@page
@require_safe
def webhook(request: HttpRequest, endpoint_id: UUID) -> HttpResponse:
    user = person_of(request)
    row, at = endpoint_for(user, endpoint_id), now()
    context = _row(row) | {
        "may_manage": may_manage(user),
        "now": at,
        "both_until": row.rotated_at + BOTH if row.rotated_at and at < row.rotated_at + BOTH else None,
        "failing": f"It is tried again by itself. After {DEAD.days} days it is switched off, and its maker is told.",
        "on": [("to", "on")],
        "off": [("to", "off")],
        "latest": _listed(HookDelivery.objects.filter(endpoint=row).order_by("-pk")[:5]),
        "means": sorted(events_of(row.events)),
    }
    return render(request, "notify/webhook.html", context)


@page(back="notify:webhook")
@require_POST
def switch(request: HttpRequest, endpoint_id: UUID) -> HttpResponseBase:
    _managed(request, endpoint_id)
    on = request.POST.get("to") == "on"
    services.switch_endpoint(endpoint_id=endpoint_id, enabled=on, operator=_operator(request))
    messages.success(request, "It is on." if on else "It is off.")
    return redirect("notify:webhook", endpoint_id)


@page(back="notify:webhook")
@require_POST
def remove(request: HttpRequest, endpoint_id: UUID) -> HttpResponseBase:
    _managed(request, endpoint_id)
    services.remove_endpoint(endpoint_id=endpoint_id, operator=_operator(request))
    messages.success(request, "It is removed.")
    return redirect("notify:webhooks")


@page(back="notify:webhook")
@never_cache
@require_POST
def rotate(request: HttpRequest, endpoint_id: UUID) -> HttpResponseBase:
    row = _managed(request, endpoint_id)
    secret = services.rotate_secret(endpoint_id=endpoint_id, operator=_operator(request))
    hours = int(BOTH.total_seconds() // 3600)
    return _told(request, row, secret, f"For {hours} hours the old secret signs too, so that you can change over.")


@page(back="notify:webhook")
@require_POST
def test(request: HttpRequest, endpoint_id: UUID) -> HttpResponseBase:
    _managed(request, endpoint_id)
    made = services.send_test(endpoint_id=endpoint_id, operator=_operator(request))
    messages.success(request, "A test is on its way. What is answered to it stands here.")
    return redirect("notify:webhook_delivery", endpoint_id, made.pk)


@page(back="notify:webhook_deliveries")
@require_POST
def replay(request: HttpRequest, endpoint_id: UUID) -> HttpResponseBase:
    """One message, or what was not taken since a time."""
    _managed(request, endpoint_id)
    operator, one = _operator(request), request.POST.get("delivery")
    if one:
        made = services.replay(endpoint_id=endpoint_id, delivery_id=_uuid(one), operator=operator)
        messages.success(request, "It is sent again.")
        return redirect("notify:webhook_delivery", endpoint_id, made.pk)
    since = _moment(request.POST.get("since", ""))
    count = services.replay_since(endpoint_id=endpoint_id, since=since, operator=operator)
    more = " There may be more: do it again when these are sent." if count == services.MOST_AT_ONCE else ""
    messages.success(request, f"Messages that are sent again: {count}.{more}" if count else "Nothing was missed.")
    return redirect("notify:webhook_deliveries", endpoint_id)


@page
@require_safe
def deliveries(request: HttpRequest, endpoint_id: UUID) -> HttpResponse:
    user = person_of(request)
    row, given = endpoint_for(user, endpoint_id), request.GET
    state, event = given.get("state", ""), given.get("event", "").strip()[:64]
    rows = plain.deliveries(row, state=state if state in _STATES else "", event="" if "\0" in event else event)
    part = part_of(rows, before=_maybe(given.get("before")), after=_maybe(given.get("after")))
    here, kept = reverse("notify:webhook_deliveries", args=[row.pk]), {"state": state, "event": event}

    def url(**more: Any) -> str:
        return f"{here}?{urlencode({name: value for name, value in (kept | more).items() if value})}"

    states = [("", "Any state"), *_STATES.items()]
    context = _row(row) | {
        "now": now(),
        "rows": _listed(part.rows),
        "newer": url(after=part.newer) if part.newer else "",
        "older": url(before=part.older) if part.older else "",
        "filtered": bool(state or event),
        "may_manage": may_manage(user),
        "here": here,
        "fields": [
            {"name": "state", "label": "State", "kind": "select", "value": state, "choices": states},
            {"name": "event", "label": "Event", "kind": "search", "value": event, "hint": "grant.revoked"},
        ],
    }
    return render(request, "notify/deliveries.html", context)


@page
@require_safe
def delivery(request: HttpRequest, endpoint_id: UUID, delivery_id: UUID) -> HttpResponse:
    user = person_of(request)
    row = endpoint_for(user, endpoint_id)
    found = HookDelivery.objects.filter(endpoint=row, pk=delivery_id).first()
    entry = Entry.objects.filter(pk=found.entry).first() if found else None
    if found is None or entry is None:
        raise NotFound("webhook.unknown_delivery", "There is no such delivery.")
    waits = HookDelivery.objects.filter(OPEN, endpoint=row, entry=found.entry).exists()
    context = _row(row) | {
        "now": now(),
        "one": _listed([found])[0],
        "body": shown(json.loads(body_of(entry))),
        "may_replay": may_manage(user) and not waits,
    }
    return render(request, "notify/delivery.html", context)


def _row(row: Endpoint) -> dict[str, Any]:
    """What templates show of an endpoint: of its address the host, for the rest may be a secret."""
    tone, label = ("good", "On") if row.enabled else ("off", "Off")
    if row.enabled and row.failing_since:
        tone, label = "bad", "Failing"
    return {"endpoint": row, "host": read_url(row.url).origin.removesuffix(":443"), "tone": tone, "state": label}


def _listed(rows: list[HookDelivery] | QuerySet[HookDelivery]) -> list[dict[str, Any]]:
    return [{"row": row, "tone": tone, "state": state} for row in rows for tone, state in [_state(row)]]


def _state(row: HookDelivery) -> tuple[str, str]:
    if row.delivered_at:
        return "good", "Taken"
    if row.gave_up_at:
        return "bad", "Given up"
    return "wait", "To be sent" if not row.attempts else "To be tried again"


def _form(request: HttpRequest, *, given: Any, refused: JitAccessError | None, **more: Any) -> HttpResponse:
    context = {"given": given, "refused": refused, "nouns": [f"{noun}.*" for noun in NOUNS], **more}
    return render(request, "notify/webhook_form.html", context, status=refused.http_status if refused else 200)


def _told(request: HttpRequest, row: Endpoint, secret: str, text: str) -> HttpResponse:
    return render(request, "notify/webhook_secret.html", {"endpoint": row, "secret": secret, "text": text})


def _managed(request: HttpRequest, endpoint_id: UUID) -> Endpoint:
    row = endpoint_for(person_of(request), endpoint_id)
    insist_on_managing(person_of(request))
    return row


def _operator(request: HttpRequest) -> Actor:
    return Principal.of_user(person_of(request), source=source_of(request), client="web").actor()


def _team(text: str) -> Team | None:
    if not text:
        return None
    team = Team.objects.filter(pk=_uuid(text)).first()
    if team is None:
        raise Invalid("webhook.team", "There is no such team.")
    return team


def _uuid(text: str) -> UUID:
    found = _maybe(text)
    if found is None:
        raise Invalid("webhook.id", "That is no id.")
    return found


def _maybe(text: str | None) -> UUID | None:
    try:
        return UUID(text) if text else None
    except ValueError:
        return None


def _moment(text: str) -> datetime:
    """As a browser's field of date and time gives it, in UTC."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise Invalid("webhook.since", "Write the time as in 2026-05-31T14:00.") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)

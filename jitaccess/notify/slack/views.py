"""What Slack calls over HTTP, and the pages on which a person is linked to Slack."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.db.models import F
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from jitaccess.identity.models import User
from jitaccess.identity.pages import proof_first
from jitaccess.kernel.errors import Forbidden, Invalid, NotFound
from jitaccess.notify.slack import conf
from jitaccess.notify.slack.linking import claim, open_code, unlink
from jitaccess.notify.slack.models import SlackCard, SlackLink
from jitaccess.store.clock import now
from requests_app.pages import page, person_of, source_of

log = logging.getLogger("jitaccess.slack")

MAX_BODY = 256 << 10
Read = Callable[[bytes], tuple[str, Mapping[str, Any]]]


def _form(body: bytes) -> dict[str, str]:
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=100))


def _interaction(body: bytes) -> tuple[str, Mapping[str, Any]]:
    payload = json.loads(_form(body).get("payload", ""))
    if not isinstance(payload, dict):
        raise Invalid("slack.payload", "This is none of Slack's payloads.")
    return str(payload.get("type")), payload


def _command(body: bytes) -> tuple[str, Mapping[str, Any]]:
    return "command", _form(body)


def _endpoint(read: Read) -> Callable[[HttpRequest], HttpResponse]:
    """Answers 200 only for what is on record by then: anything else Slack tells the person who pressed."""

    @csrf_exempt
    @require_POST
    def called(request: HttpRequest) -> HttpResponse:
        if settings.SLACK_MODE != "http" or not conf.is_on():
            return HttpResponse(status=404)
        from jitaccess.notify.slack.incoming import ensure_signed, take_in  # with the SDK, which takes a moment to load

        try:
            if int(request.META.get("CONTENT_LENGTH") or 0) > MAX_BODY:
                return HttpResponse(status=413)
            body = request.body
            ensure_signed(
                body=body,
                timestamp=request.headers.get("X-Slack-Request-Timestamp", ""),
                signature=request.headers.get("X-Slack-Signature", ""),
            )
            answer = take_in(*read(body))
        except (Forbidden, ValueError, RecursionError, Invalid) as error:
            log.warning("refused what came as if from Slack: %s", type(error).__name__)
            return HttpResponse(status=401 if isinstance(error, Forbidden) else 400)
        return HttpResponse() if answer is None else JsonResponse(dict(answer))

    return called


interactive = _endpoint(_interaction)
commands = _endpoint(_command)


@page
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def slack_link(request: HttpRequest, code: str) -> HttpResponseBase:
    """Who one is about to become in Slack. A POST is answered with what to type there, which makes it so.

    It outlives the session, as a passkey does: whoever finds an open browser must not make their Slack account its.
    """
    user = person_of(request)
    found = open_code(code)
    if request.method == "POST" and (first := proof_first(request, user, back=request.path)):
        return first
    word = claim(value=code, user=user) if request.method == "POST" else ""
    before = SlackLink.objects.filter(user=user, team=found.team, ended_at=None).first()
    context = {"code": found, "value": code, "before": before, "word": word, "now": now()}
    return render(request, "slack/link.html", context)


@page
@never_cache
@require_safe
def slack_install(request: HttpRequest) -> HttpResponse:
    """One's own link; for staff what is missing, and what Slack refuses."""
    user = person_of(request)
    context: dict[str, Any] = {
        "on": conf.is_on(),
        "links": SlackLink.objects.filter(user=user, ended_at=None),
        "now": now(),
        "shown": user.is_staff,
    }
    if user.is_staff:
        wrong = SlackCard.objects.exclude(error="").order_by("-pk")
        context |= {
            "missing": conf.missing(),
            "mode": settings.SLACK_MODE,
            "channels": settings.SLACK_CHANNELS,
            "wrong": wrong[:50],
            "waiting": SlackCard.objects.filter(seen_seq__lt=F("wanted_seq"), dead=False).count(),
        }
    return render(request, "slack/install.html", context)


@page(back="slack:slack_install")
@require_POST
def slack_unlink(request: HttpRequest) -> HttpResponse:
    if unlink(user=person_of(request), source=source_of(request)):
        messages.success(request, "Unlinked. Nothing that is pressed in Slack counts as yours any more.")
    return redirect("slack:slack_install")


@page(back="slack:slack_install")
@require_POST
def slack_retry(request: HttpRequest, card_id: UUID) -> HttpResponse:
    """Try once more what Slack refused, after somebody has mended it."""
    _ensure_staff(person_of(request))
    if SlackCard.objects.filter(pk=card_id, dead=True).update(dead=False, attempts=0, due_at=now()):
        messages.success(request, "It is tried again now.")
    return redirect("slack:slack_install")


def _ensure_staff(user: User) -> None:
    if not user.is_staff:
        raise NotFound("page.unknown", "There is no such page.")

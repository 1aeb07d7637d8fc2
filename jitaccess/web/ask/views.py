"""Asking for an agent of one's own, and what one has."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST, require_safe

from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.identity.services import agents_for
from jitaccess.kernel.errors import Conflict, Invalid, JitAccessError
from jitaccess.store.clock import now
from jitaccess.web.ask.catalogue import call_fields, catalogue_of, look, outcome_of
from jitaccess.web.ask.form import (
    ARGUMENT,
    MAX_MINUTES,
    Form,
    agent_of,
    ask_of,
    form_of,
    mistakes_of,
    principal_of,
    settled,
    whole,
)
from jitaccess.web.people.holdings import Held, grant_of_theirs, held_rows, own, usable_by
from requests_app import selectors, standing
from requests_app.card.rows import cards_of_rows
from requests_app.inputs import NEEDED
from requests_app.pages import is_partial, page, partial, person_of, source_of
from requests_app.selectors import Q, State
from requests_app.services import Submission, cancel_request, extend_grant, give_back, submit_bundle

MOST = 200
_PARTS = {"catalogue": "web/ask/_catalogue.html", "arguments": "web/ask/_arguments.html"}


@page
@require_safe
def new(request: HttpRequest) -> HttpResponse:
    return _new_page(request, form_of(request.GET))


@page(back="web:new")
@require_POST
def dry_run(request: HttpRequest) -> HttpResponse:
    """What would come of it, as the page or as the part of it that htmx asks for. Nothing is written."""
    form = form_of(request.POST)
    if not is_partial(request):
        return _new_page(request, form)
    htmx: Any = request.htmx  # type: ignore[attr-defined]  # of django-htmx's middleware
    if htmx.target in _PARTS:
        return render(request, _PARTS[htmx.target], _catalogue(request, form))
    return render(request, "web/ask/_outcome.html", _outcome(request, form))


@page(back="web:new")
@require_POST
def file(request: HttpRequest) -> HttpResponse:
    form, user = form_of(request.POST), person_of(request)
    try:
        principal = _principal(request, form)
        snapshot, at = look(principal)
        ask = ask_of(form, call_fields(principal, snapshot, at, form.call_tool))
        filed = submit_bundle(principal=principal, ask=ask, snapshot=snapshot, filed_by=user)
    except JitAccessError as error:
        return _new_page(request, form, refusal=error)
    return _filed(request, user, filed)


@page
@require_safe
def mine(request: HttpRequest) -> HttpResponse:
    return _mine_page(request)


@page(back="web:request")
@require_POST
def cancel(request: HttpRequest, request_id: UUID) -> HttpResponse:
    person = Principal.of_user(person_of(request), source=source_of(request))
    try:
        cancel_request(request_id=request_id, principal=person)
    except Conflict as error:
        return _mine_page(request, refusal=error)
    messages.success(request, "Withdrawn. Nobody is asked any more.")
    return redirect("web:mine")


@page(back="web:mine")
@require_POST
def release(request: HttpRequest, grant_id: UUID) -> HttpResponse:
    try:
        give_back(grant_id=grant_id, user=person_of(request), source=source_of(request))
    except Conflict as error:
        return _mine_page(request, refusal=error)
    messages.success(request, "Given back. The next call is refused.")
    return redirect("web:mine")


@page(back="web:mine")
@require_POST
def extend(request: HttpRequest, grant_id: UUID) -> HttpResponse:
    user, sent = person_of(request), request.POST
    grant = grant_of_theirs(user, grant_id)
    agent = agent_of(user, grant.agent.name)
    principal = principal_of(user, agent, for_me=grant.user_id is not None, source=source_of(request))
    try:
        minutes = whole(sent.get("minutes", ""), "The time", most=MAX_MINUTES)
        if minutes is None:
            raise Invalid("request.number", "Say how many minutes more.")
        snapshot, _ = look(principal)
        filed = extend_grant(
            grant_id=grant_id,
            principal=principal,
            seconds=minutes * 60,
            reason=sent.get("reason", ""),
            snapshot=snapshot,
            filed_by=user,
        )
    except JitAccessError as error:
        typed = {"grant": grant_id, "minutes": sent.get("minutes", ""), "reason": sent.get("reason", "")}
        return _mine_page(request, refusal=error, typed=typed)
    return _filed(request, user, [filed])


def _filed(request: HttpRequest, user: User, filed: list[Submission]) -> HttpResponse:
    """To what was filed just now, or stands instead of it."""
    places = standing.standings_of([one.request for one in filed], user)
    if not all(place.may_see for place in places):
        raise Conflict("request.pending_already", "The agent has asked for this itself; it is pending.")
    if any(one.coalesced for one in filed):
        messages.info(request, "The same was asked for already and is pending: nothing was filed twice.")
    elif all(one.request.pending for one in filed):
        messages.success(request, "Asked. Those who decide are told.")
    else:
        messages.success(request, "Asked, and approved by rule.")
    if len(filed) > 1:
        return redirect("web:mine")
    return redirect("web:request", request_id=filed[0].request.pk)


def _new_page(request: HttpRequest, form: Form, *, refusal: JitAccessError | None = None) -> HttpResponse:
    agents = list(agents_for(person_of(request)).select_related("team").order_by("name"))
    context: dict[str, Any] = {"agents": agents, "form": form, "refusal": refusal, "now": now()}
    if agents:
        outcome = {} if refusal else _outcome(request, form)
        wrong = refusal or outcome.get("would_refuse")
        context |= outcome | _catalogue(request, form)
        mistakes = mistakes_of(wrong, form) if wrong else {}
        if not refusal:  # what is not typed yet is no mistake yet
            mistakes = {name: text for name, text in mistakes.items() if text != NEEDED}
        for one in context["inputs"]:
            one["wrong"] = mistakes.get(one["name"], "")
        context["wrong"] = mistakes
    return render(request, "web/ask/new.html", context, status=refusal.http_status if refusal else 200)


def _catalogue(request: HttpRequest, form: Form) -> dict[str, Any]:
    principal = _principal(request, form)
    snapshot, at = look(principal)
    found = catalogue_of(
        principal,
        snapshot,
        at,
        search=form.search,
        tools=form.tools,
        roles=form.roles,
        call=form.call_tool,
    )
    form = settled(form, found.fields)
    inputs = [
        {"field": one, "name": f"{ARGUMENT}{one.name}", "typed": form.arguments.get(one.name, "")}
        for one in found.fields or ()
        if form.shown == "form"
    ]
    names = sorted({one.name for one in found.databases})
    return {"form": form, "catalogue": found, "inputs": inputs, "names": names}


def _outcome(request: HttpRequest, form: Form) -> dict[str, Any]:
    """A refusal is an answer too: it is what filing it would say."""
    if not form.chosen:
        return {"form": form}
    try:
        principal = _principal(request, form)
        snapshot, at = look(principal)
        ask = ask_of(form, call_fields(principal, snapshot, at, form.call_tool), trying=True)
        outcome = outcome_of(person_of(request), principal, snapshot, ask)
    except JitAccessError as error:
        return {"form": form, "would_refuse": error}
    return {"form": form, "outcome": outcome, "now": now()}


def _principal(request: HttpRequest, form: Form) -> Principal:
    """Without a name in the form it is for the first of their agents."""
    user = person_of(request)
    first = agents_for(user).order_by("name").values_list("name", flat=True).first() if not form.agent else ""
    agent = agent_of(user, form.agent or first or "")
    return principal_of(user, agent, for_me=form.for_me, source=source_of(request))


def _mine_page(
    request: HttpRequest, *, refusal: JitAccessError | None = None, typed: dict[str, Any] | None = None
) -> HttpResponse:
    user, at = person_of(request), now()
    about = Q(agent__owner=user) | Q(user=user) | Q(filed_by=user)
    pending = selectors.page_of_requests(user, state=State.WAITING, where=about, size=MOST, theirs=True).rows
    held: list[Held] = held_rows(user, own(user), at, size=MOST, theirs=True)
    context = {"held": held, "pending": cards_of_rows(pending, at), "now": at, "refusal": refusal, "typed": typed}
    context |= {"has_agents": bool(usable_by(user))}
    status = refusal.http_status if refusal else 200
    return partial(request, "web/ask/mine.html", "web/ask/_mine.html", context, status=status)

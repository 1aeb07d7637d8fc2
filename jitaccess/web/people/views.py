"""Agents, and the access that is live in the installation."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Invalid, JitAccessError, NotFound
from jitaccess.policy import locks
from jitaccess.policy.models import Lock
from jitaccess.store.clock import now
from jitaccess.web.people.agents import (
    agent_seen_by,
    agents_seen_by,
    calls_of,
    clients,
    connect,
    is_theirs,
    live_counts,
    rights_of,
    sees_all,
    tokens_of,
)
from jitaccess.web.people.holdings import held_rows, rows_of, usable_by
from requests_app import selectors
from requests_app.card.rows import cards_of_rows
from requests_app.pages import page, partial, person_of, refusal, source_of
from requests_app.selectors import Q, State

PAGE = 40
_GRANTS = ("Who", ""), ("What", ""), ("Ends", ""), ("Calls left", "num"), ("", "fit")
_AGENTS = ("Agent", ""), ("Owner", ""), ("Team", ""), ("Live grants", "num"), ("State", "")


@page
@require_safe
def agents(request: HttpRequest) -> HttpResponse:
    user, search, after = person_of(request), _name(request, "q"), _name(request, "after")
    rows = agents_seen_by(user)
    rows = rows.filter(name__icontains=search) if search else rows
    found = list((rows.filter(name__gt=after) if after else rows)[: PAGE + 1])
    shown, teams = found[:PAGE], set(user.teams.values_list("pk", flat=True))
    counts = live_counts(shown)
    everything = sees_all(user)
    lines = [
        {
            "agent": one,
            "live": counts[one.pk] if everything or user.pk == one.owner_id or one.team_id in teams else None,
        }
        for one in shown
    ]
    older = f"?{urlencode({'q': search, 'after': shown[-1].name})}" if len(found) > PAGE else ""
    context = {"rows": lines, "head": _head(_AGENTS), "older": older, "search": search, "now": now()}
    context |= {"fields": [_field("q", "Name", "search", search)]}
    return render(request, "web/people/agents.html", context)


@page
@require_safe
def agent(request: HttpRequest, name: str) -> HttpResponse:
    user, at = person_of(request), now()
    found = agent_seen_by(user, name)
    theirs = is_theirs(user, found)
    all_of_it = theirs or sees_all(user)
    chosen = request.GET.get("client", "claude-code")
    how = connect(chosen, settings.PUBLIC_URL)
    if how is None:
        raise Invalid("agent.client", "There is no such client.")
    waiting = selectors.page_of_requests(user, state=State.WAITING, where=Q(agent=found), size=PAGE, theirs=theirs).rows
    stop = locks.live_locks().filter(Q(kind=Lock.Kind.AGENT, target=found.pk)).first()
    context: dict[str, Any] = {
        "agent": found,
        "all_of_it": all_of_it,
        "users": list(found.users.order_by("username")[:50]) if all_of_it else [],
        "rights": rights_of(found) if all_of_it else [],
        "tokens": tokens_of(user, found),
        "calls": calls_of(found, user=None if all_of_it else user.pk),
        "held": held_rows(user, Q(agent=found), at, size=PAGE, theirs=theirs),
        "waiting": cards_of_rows(waiting, at),
        "may_ask": found.pk in usable_by(user),
        "may_lock": stop is None and _may_lock(user, found.owner_id),
        "lock": stop,
        "how": how,
        "tabs": [
            {"label": label, "url": f"?{urlencode({'client': client})}#connect", "here": client == chosen}
            for client, label in clients()
        ],
        "now": at,
    }
    return render(request, "web/people/agent.html", context)


@page
@require_safe
def grants(request: HttpRequest) -> HttpResponse:
    return _grants_page(request)


@page(back="web:agent")
@require_POST
def lock_agent(request: HttpRequest, name: str) -> HttpResponse:
    found = agent_seen_by(person_of(request), name)
    try:
        _lock(request, Lock.Kind.AGENT, found.pk)
    except JitAccessError as error:
        return refusal(request, error)
    messages.success(request, f"Locked. {found.name} can do nothing until the lock is lifted.")
    return redirect("web:agent", name=name)


@page(back="web:grants")
@require_POST
def lock_grant(request: HttpRequest, grant_id: UUID) -> HttpResponse:
    user = person_of(request)
    rows = list(selectors.grants_seen_by(user).filter(pk=grant_id))
    if not selectors.seen_grants(user, rows):
        raise NotFound("grant.unknown", "There is no such grant, or you may not see it.")
    try:
        _lock(request, Lock.Kind.GRANT, grant_id)
    except JitAccessError as error:
        return _grants_page(request, error)
    messages.success(request, "Locked. It allows nothing until the lock is lifted; its time goes on.")
    return redirect("web:grants")


def _grants_page(request: HttpRequest, error: JitAccessError | None = None) -> HttpResponse:
    user, at, asked = person_of(request), now(), request.GET
    ended, name = asked.get("state") == "ended", _name(request, "agent")
    try:
        before, after = (UUID(asked[key]) if asked.get(key) else None for key in ("before", "after"))
    except ValueError:
        raise Invalid("grants.filter", "There is no such part of the list of grants.") from None
    where = Q(agent__name=name) if name else Q()
    part = selectors.page_of_grants(user, live=not ended, before=before, after=after, size=PAGE, where=where)
    kept = {"state": "ended"} if ended else {}
    link = kept | ({"agent": name} if name else {})
    context = {
        "rows": rows_of(user, part.rows, at),
        "head": _head(_GRANTS),
        "newer": f"?{urlencode(link | {'after': part.newer})}" if part.newer else "",
        "older": f"?{urlencode(link | {'before': part.older})}" if part.older else "",
        "fields": [_field("agent", "Agent", "text", name)],
        "kept": list(kept.items()),
        "chosen": [{"label": f"agent {name}", "url": f"?{urlencode(kept)}"}] if name else [],
        "clear": f"?{urlencode(kept)}",
        "tabs": [
            {"label": "Live", "url": reverse("web:grants"), "here": not ended},
            {"label": "Ended or to come", "url": "?state=ended", "here": ended},
        ],
        "ended": ended,
        "here": f"{reverse('web:grants')}?{asked.urlencode()}",
        "now": at,
        "refusal": error,
    }
    status = error.http_status if error else 200
    return partial(request, "web/people/grants.html", "web/people/_grants.html", context, status=status)


def _name(request: HttpRequest, field: str) -> str:
    """Of an agent, or a part of one; PostgreSQL takes no NUL."""
    return request.GET.get(field, "").replace("\0", "").strip()[:40]


def _lock(request: HttpRequest, kind: str, target: UUID) -> None:
    operator = Principal.of_user(person_of(request), source=source_of(request)).actor()
    locks.lock(kind=kind, target=target, reason=request.POST.get("reason", ""), operator=operator)


def _may_lock(user: User, owner: UUID) -> bool:
    return user.pk == owner or (user.is_staff and user.has_perm("jit_policy.add_lock"))


def _head(columns: tuple[tuple[str, str], ...]) -> list[dict[str, str]]:
    return [{"label": label, "kind": kind} for label, kind in columns]


def _field(name: str, label: str, kind: str, value: str) -> dict[str, str]:
    return {"name": name, "label": label, "kind": kind, "value": value}

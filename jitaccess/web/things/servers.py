"""The pages of servers: how they are, what they offer, and the queue of tools that wait for somebody to read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from jitaccess.catalog.flags import Neighbours
from jitaccess.catalog.models import AccessClass, Server, Tool
from jitaccess.catalog.options import MEANINGS
from jitaccess.catalog.review import STATES, Review, shown_whole, state_of, waiting
from jitaccess.catalog.services import classify_tool
from jitaccess.identity.models import User
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, JitAccessError, NotFound
from jitaccess.policy.locks import live_locks
from jitaccess.policy.models import Lock, ServerAccess
from jitaccess.store.clock import now
from jitaccess.web.things.sights import may, may_look, servers_seen_by, tools_for
from requests_app.card.card import SNAPSHOTS
from requests_app.pages import page, person_of, source_of

MOST = 500  # servers on one page
TOOLS = 100  # tools on one page
BULK = 20  # definitions on one page: each of them has to be read
_SHOW = (("", "any"), ("away", "not reachable"), ("waiting", "with tools to review"))
_TABS = (("waiting", "Waiting for review"), ("tools", "Tools"), ("about", "About"))
_TONES = {"reviewed": "good", "unreviewed": "wait", "changed": "bad", "gone": "off"}
_SAID = {"reviewed": "reviewed", "unreviewed": "not reviewed", "changed": "changed since review", "gone": "gone"}


@dataclass(frozen=True, slots=True)
class ServerRow:
    """`waits` and `tools` are None for who may not look at definitions. `tone` and `health` say how it is."""

    server: Server
    tone: str
    health: str
    users: str
    tools: int | None
    waits: int | None
    locked: bool
    url: str


@page
@require_safe
def servers(request: HttpRequest) -> HttpResponse:
    user, search = person_of(request), request.GET.get("q", "").strip()[:200].replace("\0", "")
    rows = servers_seen_by(user).select_related("health", "access").prefetch_related("access__teams")
    if search:
        rows = rows.filter(Q(slug__icontains=search) | Q(description__icontains=search))
    looks, show = may_look(user, "jit_catalog.tool"), request.GET.get("show", "")
    wanted = STATES["unreviewed"] | STATES["changed"]
    counts = dict[UUID, tuple[int, int]]()
    if looks:
        found = Tool.objects.filter(present=True).order_by().values("server")
        found = found.annotate(n=Count("pk"), waits=Count("pk", filter=wanted))
        counts = {one["server"]: (one["n"], one["waits"]) for one in found}
    locked = _locked()
    every = [_row(one, counts if looks else None, locked) for one in rows]
    every.sort(key=lambda row: (-(row.waits or 0), row.server.slug))
    shown = [row for row in every if _is_shown(row, show)]
    context = {
        "rows": shown[:MOST],
        "cut": len(shown) > MOST,
        "most": MOST,
        "filtered": bool(search or show),
        "looks": looks,
        "fields": [
            {"name": "q", "label": "Search", "kind": "search", "value": search, "hint": "name or description"},
            {"name": "show", "label": "State", "kind": "select", "value": show, "choices": _SHOW},
        ],
        "stats": _stats(every) if looks and not search else (),
        "head": _head(looks=looks),
        "may_add": may(user, "jit_catalog.add_server"),
        "now": now(),
    }
    return render(request, "web/things/servers.html", context)


@page
@require_safe
def server(request: HttpRequest, slug: str) -> HttpResponse:
    user = person_of(request)
    return _page(request, user, _found(user, slug))


@page(back="web:server")
@require_POST
def classify(request: HttpRequest, slug: str) -> HttpResponse:
    user = person_of(request)
    row = _found(user, slug)
    if not may(user, "jit_catalog.change_tool"):
        raise Forbidden(
            "not_permitted", "This needs the permission jit_catalog.change_tool, held by a member of staff."
        )
    access, chosen = request.POST.get("access", ""), request.POST.getlist("tool")
    if access not in AccessClass.values or access == AccessClass.UNCLASSIFIED:
        raise Invalid("tool.access", "Choose what these tools do: read, write or destructive.")
    if not chosen or len(chosen) > BULK:
        raise Invalid("tool.chosen", f"Tick the tools that you have looked at: at least one, and at most {BULK}.")
    operator = Principal.of_user(user, source=source_of(request), client="web").actor()
    done = list[str]()
    for key in chosen:
        try:
            tool = _tool(row, key)
            digest = request.POST.get(f"digest-{key}") or "?"  # "": it would be whatever is there now
            classify_tool(tool=tool, access=AccessClass(access), digest=digest, operator=operator)
        except JitAccessError as error:
            messages.error(request, f"Not classified: {error.detail}")
        else:
            done.append(tool.name)
    if done:
        messages.success(request, f"Classified as {access}: {', '.join(done)}.")
    return redirect("web:server", slug=row.slug)


def _tool(row: Server, key: str) -> Tool:
    try:
        tool = Tool.objects.select_related("server").filter(server=row, pk=UUID(key)).first()
    except ValueError:
        tool = None
    if tool is None:
        raise NotFound("tool.unknown", "There is no such tool on this server.")
    if not shown_whole(tool):
        raise Conflict("tool.too_long", f"{tool} is too long to be shown whole, so it cannot be classified here.")
    return tool


def _found(user: User, slug: str) -> Server:
    rows = servers_seen_by(user).select_related("health", "access", "owner_team")
    row = rows.filter(slug=slug).first()
    if row is None:
        raise NotFound("server.unknown", "There is no such server, or you may not see it.")
    return row


def _page(request: HttpRequest, user: User, row: Server) -> HttpResponse:
    looks, at = may_look(user, "jit_catalog.tool"), now()
    context: dict[str, Any] = {
        "server": _row(row, None, _locked()),
        "row": row,
        "staff": may_look(user, "jit_catalog.server"),
        "may_change": may(user, "jit_catalog.change_server"),
        "may_lock": may(user, "jit_policy.add_lock"),
        "now": at,
    }
    if not looks:
        snapshot, clock = SNAPSHOTS.look()
        context |= {"known": tools_for(user, snapshot, row.slug, clock), "head": _KNOWN}
        return render(request, "web/things/server.html", context)
    tools = Tool.objects.filter(server=row)
    queue = waiting().filter(server=row)
    count = queue.count()
    tab = request.GET.get("tab") or ("waiting" if count else "tools")
    if tab not in dict(_TABS) or any("\0" in value for _, value in request.GET.items()):
        raise Invalid("server.tab", "There is no such part of this page.")
    counts = {"waiting": count, "tools": tools.filter(present=True).count()}
    address = reverse("web:server", args=[row.slug])
    context |= {
        "tab": tab,
        "tabs": [
            {"label": label, "url": f"{address}?tab={name}", "here": name == tab, "count": counts.get(name)}
            for name, label in _TABS
        ],
        "may_classify": may(user, "jit_catalog.change_tool"),
        "classes": [one for one in AccessClass if one is not AccessClass.UNCLASSIFIED],
    }
    if tab == "waiting":
        context |= _reviews(queue, request.GET.get("tool", ""), count)
    elif tab == "tools":
        context |= _listed(tools, request, address)
    else:
        given = row.options.as_json().items()
        words = {True: "yes", False: "no"}
        context["options"] = [
            (name, words[one] if isinstance(one, bool) else one, MEANINGS[name]) for name, one in given
        ]
    return render(request, "web/things/server.html", context)


def _reviews(queue: QuerySet[Tool], name: str, count: int) -> dict[str, Any]:
    """Those that changed first: agents had them, and have lost them."""
    rows = queue.select_related("server").order_by("-pin", "name")
    if name:
        rows = rows.filter(name=name)
    neighbours = Neighbours.read()
    reviews = [Review.of(tool, neighbours) for tool in rows[:BULK]]
    return {"reviews": reviews, "rest": 0 if name else max(count - BULK, 0), "only": name}


def _listed(tools: QuerySet[Tool], request: HttpRequest, address: str) -> dict[str, Any]:
    search, state = request.GET.get("q", "").strip()[:128], request.GET.get("state", "")
    after = request.GET.get("after", "")
    rows = tools.defer("definition", "pinned_definition").order_by("name")
    if search:
        rows = rows.filter(name__icontains=search)
    rows = rows.filter(STATES[state]) if state in STATES else rows
    found = list(rows.filter(name__gt=after)[: TOOLS + 1])
    kept = {"tab": "tools", "q": search, "state": state}
    more = f"{address}?{urlencode(kept | {'after': found[TOOLS - 1].name})}" if len(found) > TOOLS else ""
    choices = [("", "any"), *((name, _SAID[name]) for name in STATES)]
    return {
        "rows": [(tool, _TONES[state_of(tool)], _SAID[state_of(tool)]) for tool in found[:TOOLS]],
        "head": _TOOLS,
        "newer": f"{address}?{urlencode(kept)}" if after else "",
        "older": more,
        "kept": [("tab", "tools")],
        "fields": [
            {"name": "q", "label": "Search", "kind": "search", "value": search},
            {"name": "state", "label": "State", "kind": "select", "value": state, "choices": choices},
        ],
        "filtered": bool(search or state),
    }


def _row(row: Server, counts: dict[UUID, tuple[int, int]] | None, locked: set[UUID]) -> ServerRow:
    tone, health = _health(row)
    access = getattr(row, "access", None)
    tools, waits = counts.get(row.pk, (0, 0)) if counts is not None else (None, None)
    address = reverse("web:server", args=[row.slug])
    return ServerRow(row, tone, health, _users(access), tools, waits, row.pk in locked, address)


def _is_shown(row: ServerRow, show: str) -> bool:
    return {"away": row.tone == "bad", "waiting": bool(row.waits)}.get(show, True)


def _health(row: Server) -> tuple[str, str]:
    health = getattr(row, "health", None)
    if not row.enabled:
        return "off", "Disabled"
    if health is None:
        return "wait", "Not asked yet"
    return ("good", "Reachable") if health.ok else ("bad", "Not reachable")


def _users(access: ServerAccess | None) -> str:
    if access is None:
        return "nobody"
    return "every team" if access.every_team else ", ".join(team.name for team in access.teams.all()) or "nobody"


def _locked() -> set[UUID]:
    locks = list(live_locks().filter(kind__in=[Lock.Kind.SERVER]).values_list("target", flat=True))
    return {target for target in locks if target}


def _stats(rows: list[ServerRow]) -> list[dict[str, Any]]:
    address = reverse("web:servers")
    return [
        {"label": "Servers", "value": len(rows), "url": address},
        {"label": "Not reachable", "value": sum(row.tone == "bad" for row in rows), "url": f"{address}?show=away"},
        {
            "label": "Tools waiting for review",
            "value": sum(row.waits or 0 for row in rows),
            "url": f"{address}?show=waiting",
        },
    ]


def _head(*, looks: bool) -> list[dict[str, str]]:
    counts = [{"label": "Tools", "kind": "num"}, {"label": "To review", "kind": "num"}] if looks else []
    return [{"label": "Server"}, {"label": "State"}, *counts, {"label": "For"}, {"label": "Last asked"}]


_TOOLS = [{"label": "Tool"}, {"label": "Class"}, {"label": "State"}, {"label": "", "kind": "fit"}]
_KNOWN = [{"label": "Tool"}, {"label": "Class"}, {"label": "For your agents"}]

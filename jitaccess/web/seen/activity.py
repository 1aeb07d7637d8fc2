"""The activity page: the ledger with filters, a request's whole life, one entry, and an export."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import reverse
from django.views.decorators.http import require_safe

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.models import Entry, Leaf
from jitaccess.audit.sequencer import plain
from jitaccess.kernel.text import visible
from jitaccess.store.clock import now
from jitaccess.web.seen.asked import Asked, asked_of
from jitaccess.web.seen.sight import Sight, sight_of
from requests_app import selectors
from requests_app.card.rows import cards_of_rows
from requests_app.card.timeline import moments
from requests_app.pages import page, partial, person_of
from requests_app.selectors import AccessRequest

CALLS_SHOWN = 500
EXPORTED = 10_000  # entries at most
_PART, _CHUNK = 1000, 64 * 1024  # entries, characters
_MOST_LOOKS = 40  # for what no index knows
_TONES: dict[str, str] = {Outcome.ALLOWED: "good", Outcome.DENIED: "bad", Outcome.ERROR: "warn"}
_HEAD = [
    {"label": "When", "kind": ""}, {"label": "What", "kind": ""}, {"label": "Who", "kind": ""},
    {"label": "On", "kind": ""}, {"label": "", "kind": "fit"},
]  # fmt: skip
# From within: how the fields of an entry are called, in the order in which one asks.
_FACTS = {
    "client": "Client", "source": "Address", "tool_pin": "Pin of the tool", "policy_version": "Policy version",
    "call": "Call", "grant": "Grant", "request": "Request", "instance": "Gateway instance",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """An entry in the list. All foreign text is inert."""

    uid: UUID
    entry: Entry
    what: str
    tone: str
    outcome: str
    agent: str
    user: str
    on: str
    request: UUID | None


@page
@require_safe
def activity(request: HttpRequest) -> HttpResponse:
    asked, sight, at = asked_of(request.GET), sight_of(person_of(request)), now()
    if asked.sought.request and asked.values.keys() == {"request"} and asked.latest:
        seen = sight.request(asked.sought.request)
        if seen:
            return _life(request, asked, seen)
    found = sight.find(asked.sought, before=asked.before, after=asked.after)
    context = {
        "asked": asked,
        "fields": asked.fields(),
        "kept": asked.kept(),
        "chosen": asked.chosen(),
        "head": _HEAD,
        "rows": _lines(found.part.rows),
        "newer": _place(asked, "after", found.part.newer),
        "older": _place(asked, "before", found.part.older),
        "looked_to": found.looked_to,
        "whole": sight.whole,
        "now": at,
    }
    return partial(request, "web/seen/activity.html", "web/seen/_entries.html", context)


@page
@require_safe
def export(request: HttpRequest) -> StreamingHttpResponse:
    """The entries that the filter finds, latest first, one JSON object a line, as `jitaccess audit export` writes
    them with bindings and data as JSON.
    """
    asked, sight = asked_of(request.GET), sight_of(person_of(request))
    answer = StreamingHttpResponse(_chunks(_all(sight, asked)), content_type="application/jsonl; charset=utf-8")
    answer["Content-Disposition"] = 'attachment; filename="activity.jsonl"'
    return answer


@page
@require_safe
def entry_page(request: HttpRequest, uid: UUID) -> HttpResponse:
    sight = sight_of(person_of(request))
    entry = sight.one(uid)
    leaf = Leaf.objects.filter(entry=entry).first()
    context = {
        "entry": entry,
        "line": _lines([entry])[0],
        "facts": _facts(entry),
        "leaf": leaf,
        "data": visible(_pretty(entry.data), limit=20_000, multiline=True),
        "around": _around(entry),
        "now": now(),
    }
    return partial(request, "web/seen/entry.html", "web/seen/entry.html", context)


def _life(request: HttpRequest, asked: Asked, seen: AccessRequest) -> HttpResponse:
    """A request from its asking to its end, with every call."""
    entries, at = selectors.timeline_of(seen, calls=CALLS_SHOWN), now()
    calls = sum(entry.event.startswith("call.") for entry in entries)
    context = {
        "asked": asked,
        "row": cards_of_rows([seen], at)[0],
        "timeline": moments(seen, entries),
        "calls_cut": calls >= CALLS_SHOWN,
        "now": at,
    }
    return partial(request, "web/seen/life.html", "parts/timeline.html", context)


def _lines(entries: Iterable[Entry]) -> list[Line]:
    return [
        Line(
            uid=entry.uid,
            entry=entry,
            what=entry.event.replace(".", " ").replace("_", " "),
            tone=_TONES.get(entry.outcome, "off"),
            outcome=_outcome(entry),
            agent=visible(entry.agent_name, limit=150),
            user=visible(entry.user_name, limit=150),
            on=visible("/".join(filter(None, (entry.server_name, entry.tool))), limit=300),
            request=entry.request,
        )
        for entry in entries
    ]


def _outcome(entry: Entry) -> str:
    """As people say it: calls are refused, requests are denied."""
    refused = entry.outcome == Outcome.DENIED and entry.event.startswith("call.")
    return "refused" if refused else visible(entry.outcome, limit=16)


def _place(asked: Asked, name: str, uid: UUID | None) -> str:
    return "?" + urlencode({**asked.values, name: str(uid)}) if uid else ""


def _facts(entry: Entry) -> list[tuple[str, str]]:
    values = ((label, getattr(entry, name)) for name, label in _FACTS.items())
    return [(label, visible(str(value), limit=300)) for label, value in values if value not in (None, "")]


def _around(entry: Entry) -> list[dict[str, str]]:
    """Where what it belongs to is to be seen."""
    base = reverse("web:activity")
    links = []
    if entry.request:
        links.append({"label": "The request's whole life", "url": f"{base}?request={entry.request}"})
    if entry.grant:
        links.append({"label": "All of this grant", "url": f"{base}?grant={entry.grant}"})
    if entry.call:
        links.append({"label": "All of this call", "url": f"{base}?call={entry.call}"})
    if entry.agent and entry.agent_name:
        links.append({"label": "All of this agent", "url": f"{base}?" + urlencode({"agent": entry.agent_name})})
    if entry.event in set(Event):
        links.append({"label": "All events of this kind", "url": f"{base}?" + urlencode({"what": entry.event})})
    return links


def _pretty(data: str) -> str:
    return json.dumps(json.loads(data), indent=2, ensure_ascii=False)


def _all(sight: Sight, asked: Asked) -> Iterator[Entry]:
    before, given = asked.before, 0
    for _ in range(_MOST_LOOKS):
        found = sight.find(asked.sought, before=before, size=min(_PART, EXPORTED - given))
        yield from found.part.rows
        before, given = found.part.older, given + len(found.part.rows)
        if before is None or given >= EXPORTED:
            return


def _chunks(entries: Iterable[Entry]) -> Iterator[bytes]:
    """Large ones: whoever carries them to the client queues a number of parts, whatever their size."""
    lines, size = list[str](), 0
    for entry in entries:
        value = {**plain(entry), "bindings": json.loads(entry.bindings), "data": json.loads(entry.data)}
        line = json.dumps(value) + "\n"
        lines.append(line)
        size += len(line)
        if size >= _CHUNK:
            yield "".join(lines).encode()
            lines, size = [], 0
    if lines:
        yield "".join(lines).encode()

"""What other options of a server would do, before they are saved: to the calls there were, and to its definitions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import F, QuerySet

from jitaccess.audit.events import Event
from jitaccess.audit.models import Entry
from jitaccess.audit.search import between
from jitaccess.catalog.models import Server, Tool
from jitaccess.catalog.options import MEANINGS
from jitaccess.store.clock import now

LATEST = 2000
BACK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Option:
    """One option that changes, in words; `then`: what that would have made of the calls, "" for nothing to say."""

    name: str
    meaning: str
    before: str
    after: str
    then: str


@dataclass(frozen=True, slots=True)
class OptionsImpact:
    """`looked_at`: so many completed calls of this server were measured, of the latest of all servers."""

    options: tuple[Option, ...]
    looked_at: int
    warnings: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()

    @property
    def stable(self) -> list[object]:
        """Calls go on meanwhile, so what they measure is no part of it."""
        return [[[one.name, one.before, one.after] for one in self.options], list(self.warnings)]


def of_options(server: Server, after: Mapping[str, Any]) -> OptionsImpact:
    """`after` are all options by name, `server` as it is now. Writes nothing."""
    changed = {name: value for name, value in after.items() if getattr(server, name) != value}
    calls = list(_calls(server.pk)) if {"call_seconds", "max_result_bytes"} & changed.keys() else []
    options = tuple(
        Option(name, MEANINGS[name], _said(getattr(server, name)), _said(value), _then(name, value, server, calls))
        for name, value in changed.items()
    )
    warnings = []
    if changed.get("accept_definitions"):
        warnings.append("Whatever it offers from now on is in force before anybody has looked at it.")
    return OptionsImpact(options, len(calls), tuple(warnings))


def _then(name: str, value: Any, server: Server, calls: list[tuple[int, int]]) -> str:
    match name:
        case "call_seconds":
            late = sum(1 for ms, _ in calls if ms > value * 1000)
            return f"{late} of {len(calls)} calls took longer" if calls else "No call to measure it by"
        case "max_result_bytes":
            large = sum(1 for _, size in calls if size > value)
            return f"{large} of {len(calls)} results were larger" if calls else "No call to measure it by"
        case "repeat_limit":
            flagged = _latest(Event.CALL_REPEATED).filter(server=server.pk).count()
            return f"{flagged} repeated calls were flagged in {BACK.days} days"
        case "accept_definitions":
            waiting = Tool.objects.filter(server=server, present=True).exclude(digest=F("pin")).count()
            return f"{waiting} of its tools wait for a review"
    return ""


def _calls(server: UUID) -> Iterator[tuple[int, int]]:
    """Milliseconds and bytes of this server's completed calls, among the latest of all."""
    rows = _latest(Event.CALL_COMPLETED).order_by("-uid").values_list("server", "data")[:LATEST]
    for whose, data in rows:
        told = json.loads(data) if whose == server else {}
        ms, size = told.get("ms"), told.get("bytes")
        if isinstance(ms, int) and isinstance(size, int):
            yield ms, size


def _latest(event: Event) -> QuerySet[Entry]:
    return Entry.objects.filter(between(now() - BACK, None), event=event)


def _said(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else f"{value:,}"

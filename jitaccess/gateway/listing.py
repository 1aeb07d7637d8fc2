"""What a principal sees of a server: the same decision that a call would get, for every tool."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.decide import Verdict, Visibility, Who, decide, next_edge, visibility
from jitaccess.policy.engine.rules import ServerFacts, Snapshot, ToolFacts

LOCKED_PREFIX = "[LOCKED: needs approval] "
MAX_TTL = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class Listed:
    tool: ToolFacts
    visibility: Visibility
    verdict: Verdict


def listed_tools(snapshot: Snapshot, *, who: Who, server: ServerFacts, at: datetime) -> list[Listed]:
    """The tools of `server` that this principal may know about, by name: visible ones and locked stubs."""
    found = []
    for name in sorted(server.tools):
        verdict = decide(snapshot, who=who, server=server.id, tool=name, at=at)
        seen = visibility(verdict)
        if seen is not Visibility.HIDDEN:
            found.append(Listed(server.tools[name], seen, verdict))
    return found


def definition(listed: Listed) -> JsonObject:
    """The definition to list: the server's own, unknown members and all; a locked one says so first."""
    value = dict(_parsed(listed.tool.definition))
    if listed.visibility is Visibility.LOCKED:
        value["description"] = LOCKED_PREFIX + str(value.get("description") or "")
    return value


def ttl_ms(snapshot: Snapshot, *, who: Who, at: datetime) -> int:
    """How long a list may be kept: never beyond the next start or end of a binding (2026-07-28, "Caching")."""
    left = min(next_edge(snapshot, who=who, at=at) - at, MAX_TTL)
    return max(int(left.total_seconds() * 1000), 0)


def signature(snapshot: Snapshot, *, who: Who, server: ServerFacts | None, at: datetime) -> int:
    """Changes when the list changes: what decides whether list_changed is due."""
    if server is None:
        return 0
    return hash(
        tuple(
            (one.tool.name, one.visibility, one.tool.pin)
            for one in listed_tools(snapshot, who=who, server=server, at=at)
        )
    )


@lru_cache(maxsize=10_000)
def _parsed(text: str) -> JsonObject:
    return strictjson.decode(text.encode())

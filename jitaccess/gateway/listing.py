"""Lists of tools as MCP clients get them."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache

from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.decide import Visibility, Who, next_edge
from jitaccess.policy.engine.listing import Listed, listed_tools
from jitaccess.policy.engine.rules import ServerFacts, Snapshot

LOCKED_PREFIX = "[LOCKED: needs approval] "
MAX_TTL = timedelta(seconds=30)


def definition(name: str, listed: Listed) -> JsonObject:
    """The definition to list: the server's own, unknown members and all, under `name`; a locked one says so first."""
    value = {**_parsed(listed.tool.definition), "name": name}
    if listed.visibility is Visibility.LOCKED:
        value["description"] = LOCKED_PREFIX + str(value.get("description") or "")
    return value


def ttl_ms(snapshot: Snapshot, *, who: Who, at: datetime) -> int:
    """How long a list may be kept: never beyond the next start or end of a binding (2026-07-28, "Caching")."""
    left = min(next_edge(snapshot, who=who, at=at) - at, MAX_TTL)
    return max(int(left.total_seconds() * 1000), 0)


def signature(snapshot: Snapshot, *, who: Who, server: ServerFacts, at: datetime) -> int:
    """Changes when the list changes: what decides whether list_changed is due."""
    return hash(
        tuple(
            (one.tool.name, one.visibility, one.tool.pin)
            for one in listed_tools(snapshot, who=who, server=server, at=at)
        )
    )


@lru_cache(maxsize=10_000)
def _parsed(text: str) -> JsonObject:
    return strictjson.decode(text.encode())

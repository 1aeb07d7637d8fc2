"""Lists of tools as MCP clients get them: each definition is written as JSON once, lists are put together of those."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

from jitaccess.kernel import strictjson
from jitaccess.policy.engine.decide import Who, next_edge
from jitaccess.policy.engine.listing import Seen, seen
from jitaccess.policy.engine.rules import ServerFacts, Snapshot

LOCKED_PREFIX = "[LOCKED: needs approval] "
MAX_TTL = timedelta(seconds=30)
MAX_SIGNATURES = 10_000


def tools_json(snapshot: Snapshot, *, who: Who, server: ServerFacts, at: datetime, prefix: str = "") -> list[bytes]:
    """The definitions that this principal may know about, by name, each under `prefix` and its name."""
    shown = seen(snapshot, who=who, server=server, at=at)
    if not shown.visible | shown.locked:
        return []
    definitions = _written(server, shown, shown.visible, prefix, locked=False)
    stubs = _written(server, shown, shown.locked, prefix, locked=True)
    visible, locked = _digits(shown)
    places = zip(definitions, stubs, visible, locked, strict=True)
    return [one if shows == "1" else stub for one, stub, shows, asks in places if shows == "1" or asks == "1"]


@lru_cache(maxsize=10_000)
def definition(text: str, name: str, *, locked: bool) -> bytes:
    """The definition to list: the server's own, unknown members and all, under `name`; a locked one says so first."""
    value = {**strictjson.decode(text.encode()), "name": name}
    if locked:
        value["description"] = LOCKED_PREFIX + str(value.get("description") or "")
    return strictjson.encode_read(value)


def ttl_ms(snapshot: Snapshot, *, who: Who, at: datetime) -> int:
    """How long a list may be kept: never beyond the next start or end of a binding (2026-07-28, "Caching")."""
    left = min(next_edge(snapshot, who=who, at=at) - at, MAX_TTL)
    return max(int(left.total_seconds() * 1000), 0)


def signature(snapshot: Snapshot, *, who: Who, server: ServerFacts, at: datetime) -> int:
    """Changes with the list, and with the grants that give any of it: what decides whether list_changed is due.

    Whoever waits for a grant is told of it, even if the one before ended so shortly before that nobody has seen it.
    """
    shown = seen(snapshot, who=who, server=server, at=at)
    known: dict[tuple[int, int], int] = server.memo.setdefault("signatures", {})
    key = (shown.visible, shown.locked)
    found = known.get(key)
    if found is None:
        if len(known) >= MAX_SIGNATURES:
            known.clear()
        found = known[key] = hash(
            tuple(
                (tool.name, visible, tool.pin)
                for tool, visible, locked in zip(shown.tools, *_digits(shown), strict=True)
                if visible == "1" or locked == "1"
            )
        )
    return hash((found, *shown.grants)) if shown.grants else found


@dataclass(slots=True)
class _Written:
    """The definitions of a server's tools, each in its place, as far as they were wanted: those in `done`."""

    pieces: list[bytes]
    done: int = 0


def _written(server: ServerFacts, shown: Seen, wanted: int, prefix: str, *, locked: bool) -> list[bytes]:
    known: _Written = server.memo.setdefault(("written", prefix, locked), _Written([b""] * len(shown.tools)))
    missing = wanted & ~known.done
    while missing:
        place = missing.bit_length() - 1
        tool = shown.tools[place]
        known.pieces[place] = definition(tool.definition, prefix + tool.name, locked=locked)
        missing ^= 1 << place
    known.done |= wanted
    return known.pieces


def _digits(shown: Seen) -> tuple[str, str]:
    """(visible, locked) with a "1" in the place of each such tool and a "0" for each other."""
    form = f"0{len(shown.tools)}b"
    return (format(shown.visible, form)[::-1], format(shown.locked, form)[::-1]) if shown.tools else ("", "")

"""How often the agent has used before what it asks for: by the figures that are counted from the ledger."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Max, Q

from jitaccess.audit.figures import CURSOR
from jitaccess.audit.models import Cursor, Leaf, ToolUse
from jitaccess.kernel.once import once, once_each
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.rules import Snapshot
from requests_app.card.adds import Adds
from requests_app.models import labels_of
from requests_app.selectors import AccessRequest

# Entries that may wait to be counted where "never" is said still: those of the last moments always do.
_BEHIND = 50_000
NOT_COUNTED = "How often it was used before is not counted yet."

# For each thing by its label: the tools that it is, as (server, name).
_Tools = Mapping[str, Sequence[tuple[UUID, str]]]


@dataclass(frozen=True, slots=True)
class Used:
    """Calls that the agent was let make of one thing, on behalf of anybody, until now; `tools`: of how many of its
    tools, which are more than one for a role alone.
    """

    label: str
    calls: int
    last: datetime | None
    tools: int
    of: int

    @property
    def said(self) -> str:
        """Such as "used 12 times before"; without when."""
        if not self.calls:
            return "never used before"
        return f"used {self.times} before" + (f" ({self.tools} of its {self.of} tools)" if self.of > 1 else "")

    @property
    def times(self) -> str:
        return "once" if self.calls == 1 else f"{self.calls:,} times"


def used_of(request: AccessRequest, adds: Adds, snapshot: Snapshot) -> tuple[Used, ...] | None:
    """For each tool and role asked for, in their order; None where the figures are not there to say "never". At most
    three queries, whatever is asked for.
    """
    asked = _tools_of(request, adds, snapshot)
    if not asked:
        return ()
    servers = {server for tools in asked.values() for server, _ in tools}
    uses = uses_of((request.agent_id, server) for server in servers)
    found = {(server, tool): use for (_, server), tools in uses.items() for tool, use in tools.items()}
    used = tuple(_used(label, tools, found) for label, tools in asked.items())
    return used if all(one.calls for one in used) or _are_counted() else None


@once_each
def uses_of(pairs: frozenset[tuple[UUID, UUID]]) -> dict[tuple[UUID, UUID], dict[str, tuple[int, datetime]]]:
    """By agent and server, how often each tool was used, and when last; one query."""
    found: dict[tuple[UUID, UUID], dict[str, tuple[int, datetime]]] = {pair: {} for pair in pairs}
    servers: dict[UUID, list[UUID]] = defaultdict(list)
    for agent, server in pairs:
        servers[agent].append(server)
    asked = Q(pk__in=())
    for agent, some in servers.items():
        asked |= Q(agent=agent, server__in=some)
    rows = ToolUse.objects.filter(asked).values_list("agent", "server", "tool", "n", "last")
    for agent, server, tool, n, last in rows:
        found[agent, server][tool] = (n, last)
    return found


def said_of_use(used: Sequence[Used] | None) -> str:
    """One sentence over all of it, without when; "" when nothing can be used by calls."""
    if used is None:
        return NOT_COUNTED
    before = sum(1 for one in used if one.calls)
    if not used:
        return ""
    if not before:
        return f"The agent has never used {'it' if len(used) == 1 else 'any of it'} before."
    if len(used) == 1:
        one = used[0]
        what = "it" if one.of == 1 else f"{one.tools} of its {one.of} tools"
        return f"The agent has used {what} {one.times} before."
    # No sum: a role and an exact call may be about the same tool.
    return f"The agent has used {'all' if before == len(used) else before} of these {len(used)} before."


def last_of(used: Iterable[Used]) -> datetime | None:
    """When any of it was used last."""
    return max((one.last for one in used if one.last), default=None)


def _used(
    label: str, tools: Sequence[tuple[UUID, str]], found: Mapping[tuple[UUID, str], tuple[int, datetime]]
) -> Used:
    # As the ledger writes names.
    known = ((server, visible(name, limit=200)) for server, name in tools)
    had = [found[tool] for tool in known if tool in found]
    last = max((moment for _, moment in had), default=None)
    return Used(label, sum(n for n, _ in had), last, len(had), len(tools))


def _tools_of(request: AccessRequest, adds: Adds, snapshot: Snapshot) -> _Tools:
    asked: dict[str, list[tuple[UUID, str]]] = {}
    for item in request.parsed_items:
        if item["kind"] == "role":
            [label] = labels_of(item)
            mine = adds.of(label)
            reaches = sorted({(one.server, one.tool) for one in (*mine.new, *mine.already, *mine.blocked)})
            servers = {slug: snapshot.server_by_slug(slug) for slug, _ in reaches}
            tools = [(server.id, name) for slug, name in reaches if (server := servers[slug])]
            if tools:
                asked[label] = tools
        elif item["kind"] in {"tools", "call"}:
            for label, tool in zip(labels_of(item), item["tools"], strict=True):
                asked[label] = [(UUID(item["server_id"]), tool["name"])]
    return asked


@once
def _are_counted() -> bool:
    """Whether the figures are about as far as the ledger: a worker that stands still must not make a "never"."""
    last = Leaf.objects.aggregate(last=Max("seq"))["last"] or 0
    done = Cursor.objects.filter(name=CURSOR).values_list("seq", flat=True).first()
    return last == 0 or (done is not None and last - done <= _BEHIND)

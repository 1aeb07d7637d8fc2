"""What a principal sees of a server: the same decision that a call would get, for every tool."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from jitaccess.policy.engine.decide import Verdict, Visibility, Who, decide_all, visibility
from jitaccess.policy.engine.rules import ServerFacts, Snapshot, ToolFacts


@dataclass(frozen=True, slots=True)
class Listed:
    tool: ToolFacts
    visibility: Visibility
    verdict: Verdict


def listed_tools(snapshot: Snapshot, *, who: Who, server: ServerFacts, at: datetime) -> list[Listed]:
    """The tools of `server` that this principal may know about, by name: visible ones and locked stubs."""
    found = []
    for tool, verdict in decide_all(snapshot, who=who, server=server.id, at=at):
        seen = visibility(verdict)
        if seen is not Visibility.HIDDEN:
            found.append(Listed(tool, seen, verdict))
    return found

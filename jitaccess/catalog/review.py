"""What is put before a reviewer of tools: which state each is in, and text that is whole and cannot act."""

from __future__ import annotations

import json
from dataclasses import dataclass

from django.db.models import F, Q, QuerySet

from jitaccess.catalog.diff import Difference, differences
from jitaccess.catalog.flags import Flag, Neighbours, flags_of
from jitaccess.catalog.models import Tool
from jitaccess.kernel.text import fits, has_hidden, visible

# Beyond this a definition cannot be shown whole, and what cannot be shown whole cannot be reviewed on a page.
SHOWN = 200_000
STATES = {
    "unreviewed": Q(present=True, pin=""),
    "changed": Q(present=True) & ~Q(pin="") & ~Q(pin=F("digest")),
    "reviewed": Q(present=True, pin=F("digest")),
    "gone": Q(present=False),
}
STATE_NAMES = {"changed": "changed since review"}


def state_of(tool: Tool) -> str:
    """One of STATES."""
    if not tool.present:
        return "gone"
    if not tool.pin:
        return "unreviewed"
    return "changed" if tool.quarantined else "reviewed"


def waiting() -> QuerySet[Tool]:
    """Tools that are offered and that nobody may call before somebody has looked at them."""
    return Tool.objects.filter(STATES["unreviewed"] | STATES["changed"])


def shown_whole(tool: Tool) -> bool:
    """Whether all of its definition fits on a page."""
    return fits(_pretty(tool.definition), limit=SHOWN)


@dataclass(frozen=True, slots=True)
class Review:
    """One tool as it is put before a reviewer: text that can neither hide nor act, and whether it is all of it.

    `changes` are those since its last review; None when there was none, or when it is not known what was reviewed.
    """

    tool: Tool
    state: str
    definition: str
    hidden: bool
    whole: bool
    changes: list[Difference] | None
    flags: list[Flag]

    @classmethod
    def of(cls, tool: Tool, neighbours: Neighbours) -> Review:
        text = _pretty(tool.definition)
        shown = visible(text, limit=SHOWN, multiline=True)
        whole = fits(text, limit=SHOWN)
        changes = None
        if whole and tool.pin and tool.quarantined and tool.pinned_definition:
            changes = differences(tool.pinned_definition, tool.definition)
        state = STATE_NAMES.get(state_of(tool), state_of(tool))
        return cls(tool, state, shown, has_hidden(text), whole, changes, flags_of(tool, neighbours) if whole else [])

    @property
    def description(self) -> str:
        """The server's own words about it, inert; "" for none."""
        try:
            said = json.loads(self.tool.definition).get("description", "")
        except (ValueError, RecursionError, AttributeError):
            return ""
        return visible(said, limit=2000, multiline=True) if isinstance(said, str) else ""


def _pretty(document: str) -> str:
    try:
        return json.dumps(json.loads(document), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return document

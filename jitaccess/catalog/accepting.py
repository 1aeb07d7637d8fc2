"""Pinning what a trusted server offers as it comes: on record with what changed, and never what a reviewer would be
warned about.
"""

from __future__ import annotations

from django.db.models import F

from jitaccess.audit.events import Event
from jitaccess.audit.recorder import Actor, Facts, record
from jitaccess.catalog.diff import Piece, differences
from jitaccess.catalog.flags import Flag, Neighbours, flags_of
from jitaccess.catalog.models import Server, Tool
from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import visible

# Of one entry in the ledger; the definitions themselves are in the catalogue.
_MEMBERS = 20
_TEXT = 300


def accept(server: Server, operator: Actor) -> int:
    """Pin every tool of this server that is new or changed and stands out in nothing; returns how many.

    Belongs into the transaction that imported them, with the server's row locked. Access classes stay as they are: a
    new tool is `unclassified`, so that rules by class do not cover it.
    """
    waiting = list(Tool.objects.filter(server=server, present=True).exclude(pin=F("digest")).select_related("server"))
    if not waiting:
        return 0
    neighbours = Neighbours.read()
    clean = [tool for tool in waiting if not _new_flags(tool, neighbours)]
    for tool in clean:
        Tool.objects.filter(pk=tool.pk).update(pin=tool.digest, pinned_definition=tool.definition)
        record(
            Facts(
                event=Event.TOOL_ACCEPTED,
                actor=operator,
                server=server.pk,
                server_name=server.slug,
                tool=visible(tool.name, limit=128),
                data={"pin": tool.digest, "before": tool.pin, "changes": _changes(tool)},
            )
        )
    return len(clean)


def _new_flags(tool: Tool, neighbours: Neighbours) -> list[Flag]:
    """What stands out in it, without what stood out as it was pinned before. Two servers with a tool of one name are
    nothing to wait for: agents see it under the name of its server.
    """
    found = [flag for flag in flags_of(tool, neighbours) if flag.code != "same_name"]
    if not found or not tool.pinned_definition:
        return found
    before = Tool(server=tool.server, name=tool.name, definition=tool.pinned_definition)
    known = flags_of(before, neighbours)
    return [flag for flag in found if flag not in known]


def _changes(tool: Tool) -> list[Json]:
    if not tool.pinned_definition:
        return []
    found = differences(tool.pinned_definition, tool.definition)
    said: list[Json] = [
        {"member": one.member, "before": _text(one.before), "after": _text(one.after)} for one in found[:_MEMBERS]
    ]
    return said + ([f"and {len(found) - _MEMBERS} more"] if len(found) > _MEMBERS else [])


def _text(pieces: tuple[Piece, ...]) -> str:
    return visible("".join(piece.text for piece in pieces), limit=_TEXT)

"""`jitaccess servers classify`: what a reviewer must see, and pinning exactly that."""

from __future__ import annotations

import argparse
import json

from jitaccess.catalog.diff import Piece, differences
from jitaccess.catalog.flags import Neighbours, flags_of
from jitaccess.catalog.models import AccessClass, Server, Tool
from jitaccess.catalog.pins import PINNED_MEMBERS
from jitaccess.catalog.services import classify_tool, server_by_slug
from jitaccess.kernel.canonical import digest
from jitaccess.kernel.errors import Conflict, Invalid, NotFound
from jitaccess.kernel.text import fits, visible

_CLASSES = tuple(choice.value for choice in AccessClass if choice != AccessClass.UNCLASSIFIED)
# As in a diff. What is longer would be cut off, and what was cut off nobody has reviewed.
_SHOWN = 20_000


def run(arguments: argparse.Namespace) -> int:
    """1 when something that was asked for was not pinned."""
    from jitaccess.runtime.cli import operator

    server = server_by_slug(arguments.name)
    tools = list(server.tools.filter(present=True).select_related("server").order_by("name"))
    neighbours = Neighbours.read()
    code = seen_code(tools)
    if not arguments.assignments and not arguments.all_as_suggested:
        _show(server, tools, neighbours, code)
        return 0
    if arguments.seen not in (None, code):
        raise Conflict(
            "tool.changed", f"The tools changed since you looked at them. Look again: servers classify {server.slug}."
        )
    wanted = _wanted(arguments.assignments, tools)
    left_out = _add_suggested(wanted, tools, neighbours) if arguments.all_as_suggested else []
    if not arguments.seen and (changed := [tool.name for tool in wanted if tool.pin and tool.quarantined]):
        raise Invalid(
            "tool.unseen",
            f"{', '.join(changed)} changed since the last review. Look at what changed with servers classify "
            f"{server.slug}, and add the --seen code that it prints.",
        )
    if long := [tool.name for tool in wanted if _too_long(tool)]:
        raise Invalid("tool.too_long", f"{', '.join(long)}: too long to be shown whole here. Review it in the admin.")
    who = operator()
    for tool, access in wanted.items():
        classify_tool(tool=tool, access=access, digest=tool.digest, operator=who)
        print(f"{tool.name}: {access}, pinned {tool.digest[7:19]}")
    for name in left_out:
        print(f"{name}: left for you: it has warnings, is too long, or the server does not say what it does")
    return 1 if left_out else 0


def seen_code(tools: list[Tool]) -> str:
    """A short code for the very definitions that were shown; what is said of them meanwhile does not change it."""
    # The id is random and nothing that a server can learn: one that could compute the code would find, within seconds,
    # a harmless and a harmful definition with the same one.
    shown = [[str(tool.pk), tool.name, tool.digest] for tool in tools]
    return digest(shown, domain="jitaccess-review-v1")[7:19]


def suggestion(tool: Tool) -> AccessClass | None:
    """What the server itself says (annotations of MCP), which is a claim and no more; None when it says nothing."""
    hints = tool.parsed.get("annotations")
    if not isinstance(hints, dict):
        return None
    if hints.get("readOnlyHint") is True:
        return AccessClass.READ
    if hints.get("destructiveHint") is False:
        return AccessClass.WRITE
    return AccessClass.DESTRUCTIVE if "destructiveHint" in hints or "readOnlyHint" in hints else None


def _add_suggested(wanted: dict[Tool, AccessClass], tools: list[Tool], neighbours: Neighbours) -> list[str]:
    """The unreviewed ones as the server suggests; returns the names of those that are left for a person."""
    left_out: list[str] = []
    for tool in tools:
        if tool.pin or tool in wanted:
            continue
        hint = suggestion(tool)
        if hint is None or _too_long(tool) or flags_of(tool, neighbours):
            left_out.append(tool.name)
        else:
            wanted[tool] = hint
    return left_out


def _too_long(tool: Tool) -> bool:
    return not fits(tool.definition, limit=_SHOWN)


def state_of(tool: Tool) -> str:
    if not tool.pin:
        return "new, not reviewed"
    return "CHANGED since its review: nobody can call it" if tool.quarantined else "reviewed"


def _wanted(assignments: list[str], tools: list[Tool]) -> dict[Tool, AccessClass]:
    by_name = {tool.name: tool for tool in tools}
    wanted: dict[Tool, AccessClass] = {}
    for word in assignments:
        name, _, access = word.rpartition("=")
        if access not in _CLASSES or not name:
            shown = visible(word, limit=80)
            raise Invalid("classify.usage", f'"{shown}" is not TOOL=CLASS, with a class of {", ".join(_CLASSES)}.')
        if name not in by_name:
            raise NotFound("tool.unknown", f'The server offers no tool "{visible(name, limit=80)}".')
        wanted[by_name[name]] = AccessClass(access)
    return wanted


def _show(server: Server, tools: list[Tool], neighbours: Neighbours, code: str) -> None:
    if not tools:
        print(f"{server.slug} has no tools yet: jitaccess servers refresh {server.slug}")
        return
    for tool in tools:
        hint = suggestion(tool)
        claim = f"; the server itself says {hint} (only a hint)" if hint else "; the server gives no hint"
        print(f"\n{tool.name}: {tool.access}, {state_of(tool)}{claim}")
        if tool.pin and tool.quarantined:
            _show_changes(tool)
        elif not tool.pin:
            _show_definition(tool)
        for flag in flags_of(tool, neighbours):
            print(f"    WARNING: {flag.text}")
    print(f"\nTo pin these definitions: jitaccess servers classify {server.slug} --seen {code} TOOL=CLASS …")
    if any(not tool.pin for tool in tools):
        print(
            "To believe the server about new tools without warnings: "
            f"jitaccess servers classify {server.slug} --seen {code} --all-as-suggested"
        )


def _show_definition(tool: Tool) -> None:
    """All that will be pinned: what steers a model can stand in a parameter as well as in the description."""
    definition = tool.parsed
    print(_indented(visible(str(definition.get("description", "")), limit=_SHOWN, multiline=True)))
    for member in PINNED_MEMBERS:
        if member in definition and member not in {"name", "description"}:
            text = json.dumps(definition[member], ensure_ascii=False)
            print(f"    {member}: {visible(text, limit=_SHOWN)}")


def _show_changes(tool: Tool) -> None:
    if not tool.pinned_definition:
        print("    What it said at its review is not known any more. It says now:")
        print(_indented(visible(tool.definition, limit=_SHOWN)))
        return
    for change in differences(tool.pinned_definition, tool.definition):
        print(f"    {change.kind} {change.member}")
        for sign, pieces in (("-", change.before), ("+", change.after)):
            if pieces:
                print(f"      {sign} {_marked(pieces)}".replace("\n", "\n        "))


def _marked(pieces: tuple[Piece, ...]) -> str:
    if len(pieces) == 1:
        return pieces[0].text
    return "".join(f"[{piece.text}]" if piece.changed and piece.text.strip() else piece.text for piece in pieces)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.split("\n"))

"""A plan for people, and as JSON."""

from __future__ import annotations

import difflib
import json
from typing import Any

from jitaccess.kernel.text import visible
from jitaccess.runtime.access_files.plan import Action, Change, Plan
from jitaccess.runtime.screen import Screen

_SIGNS = {
    Action.CREATE: ("+", "green"),
    Action.CHANGE: ("~", "yellow"),
    Action.DISABLE: ("-", "red"),
    Action.REMOVE: ("-", "red"),
}
_SAID = {Action.CREATE: "", Action.CHANGE: "", Action.DISABLE: "  is disabled", Action.REMOVE: "  goes"}
_LONGEST = 2000


def show(plan: Plan, screen: Screen) -> None:
    """Problems, or every change from old to new; then what is kept and what to know."""
    for problem in plan.problems:
        screen.line(f"{screen.style('!', 'red')} {problem}")
    if not plan.problems:
        for change in plan.changes:
            _show(change, screen)
        if not plan.changes:
            screen.line("Nothing to do.")
    for text in plan.kept:
        screen.line(f"= {visible(text, limit=_LONGEST)}")
    for text in plan.warnings:
        screen.line(f"{screen.style('Note', 'yellow')}: {visible(text, limit=_LONGEST)}")


def as_json(plan: Plan, *, applied: bool) -> dict[str, Any]:
    """The same, with whether it was done."""
    return {
        "applied": applied,
        "changes": [
            {
                "action": str(change.action),
                "kind": change.key.kind,
                "name": change.key.name,
                "fields": {path: {"from": before, "to": after} for path, before, after in change.fields()},
            }
            for change in plan.changes
        ],
        "kept": plan.kept,
        "warnings": plan.warnings,
        "problems": [{"file": one.file, "line": one.line or None, "text": one.text} for one in plan.problems],
    }


def _show(change: Change, screen: Screen) -> None:
    sign, colour = _SIGNS[change.action]
    screen.line(f"{screen.style(sign, colour)} {visible(str(change.key), limit=_LONGEST)}{_SAID[change.action]}")
    if change.action in {Action.REMOVE, Action.DISABLE}:
        return
    for path, before, after in change.fields():
        if path == "document":
            _show_text(before or "", after, screen)
        elif change.action is Action.CREATE:
            if after not in ("", [], {}):
                screen.line(f"    {visible(path, limit=_LONGEST)}: {_plain(after)}")
        elif isinstance(after, list) and isinstance(before, list):
            for words, items in (("no longer", [one for one in before if one not in after]),
                                 ("new", [one for one in after if one not in before])):  # fmt: skip
                for item in items:
                    screen.line(f"    {visible(path, limit=_LONGEST)}: {words} {_plain(item)}")
        else:
            to = screen.glyph("to")
            screen.line(f"    {visible(path, limit=_LONGEST)}: {_plain(before)} {to} {_plain(after)}")


def _show_text(before: str, after: str, screen: Screen) -> None:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2)
    for line in list(lines)[2:]:
        colour = {"+": "green", "-": "red"}.get(line[:1], "dim")
        screen.line("    " + screen.style(visible(line, limit=_LONGEST), colour))


def _plain(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return visible(text, limit=_LONGEST)

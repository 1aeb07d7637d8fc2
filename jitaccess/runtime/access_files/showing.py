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
# More than any value has: what is confirmed must have been shown whole.
_LONGEST = 100_000


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
        name = visible(path, limit=_LONGEST)
        if path == "document":
            _show_text(before or "", after, screen)
        elif isinstance(after, list):
            old = before if isinstance(before, list) else []
            for item in (one for one in old if one not in after):
                screen.line(f"    {name}: no longer {_plain(item)}")
            for item in (one for one in after if one not in old):
                screen.line(f"    {name}: {'new ' if change.before else ''}{_plain(item)}")
        elif change.action is not Action.CREATE:
            screen.line(f"    {name}: {_plain(before)} {screen.glyph('to')} {_plain(after)}")
        elif after not in ("", [], {}):
            screen.line(f"    {name}: {_plain(after)}")


def _show_text(before: str, after: str, screen: Screen) -> None:
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=2))
    for line in lines[2 if before else 3 :]:
        colour = {"+": "green", "-": "red"}.get(line[:1], "dim")
        screen.line("    " + screen.style(visible(line, limit=_LONGEST), colour))


def _plain(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "nothing"
    if isinstance(value, dict):  # what may be asked for
        value = {name: part for name, part in value.items() if part not in ("", [], {}, 0)}
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return visible(text, limit=_LONGEST)

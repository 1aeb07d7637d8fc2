"""What changed between two definitions of a tool, member by member, for a person who has to judge it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import visible

_Path: TypeAlias = tuple[str | int, ...]
# Comparing word by word costs the product of both lengths and more: beyond so many in one definition a text counts as
# changed as a whole.
_WORDS = 1000
_SHOWN = 20_000
_STEPS = 8  # of a long path, at either end
_WORD = re.compile(r"\s+|\w+|.", re.DOTALL)
_NOTHING: Any = object()
_PLAIN_NAME = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text in which nothing can hide or act; `changed` when the other side lacks it."""

    text: str
    changed: bool


@dataclass(frozen=True, slots=True)
class Difference:
    """One member. `before` is empty when it is new, `after` when it is gone."""

    member: str
    before: tuple[Piece, ...]
    after: tuple[Piece, ...]

    @property
    def kind(self) -> str:
        if not self.before:
            return "added"
        return "changed" if self.after else "removed"


def differences(pinned: str, offered: str) -> list[Difference]:
    """The members that differ between two definitions (JSON texts), in the order of the offered one.

    What cannot be read as JSON is compared as text.
    """
    before: dict[_Path, Json]
    after: dict[_Path, Json]
    try:
        before, after = (dict(_leaves(json.loads(text), ())) for text in (pinned, offered))
    except (ValueError, RecursionError):
        before, after = {(): pinned}, {(): offered}
    paths = [*after, *(path for path in before if path not in after)]
    found: list[Difference] = []
    left = _WORDS
    for path in paths:
        one, other = before.get(path, _NOTHING), after.get(path, _NOTHING)
        if not _same(one, other):
            difference, cost = _difference(_shown(path), one, other, left)
            found.append(difference)
            left -= cost
    return found


def _leaves(value: Json, path: _Path) -> Iterator[tuple[_Path, Json]]:
    """By their real path: two names that are shown alike are still two."""
    if isinstance(value, dict) and value:
        for name, member in value.items():
            yield from _leaves(member, (*path, name))
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, (*path, number))
    else:
        yield path, value


def _same(one: Any, other: Any) -> bool:
    # Compared as JSON: to Python 1 is true, and 1.0 is 1.
    if _NOTHING in (one, other):
        return one is other
    return json.dumps(one) == json.dumps(other)


def _shown(path: _Path) -> str:
    text = ""
    for place, step in enumerate(path):
        if _STEPS <= place < len(path) - _STEPS:
            text += "…" if place == _STEPS else ""
            continue
        if isinstance(step, int):
            text += f"[{step}]"
            continue
        name = visible(step, limit=100)
        # Quoted where it could be mistaken for a path of its own.
        name = name if _PLAIN_NAME.fullmatch(name) else json.dumps(name, ensure_ascii=False)
        text += f".{name}" if text else name
    return text


def _difference(member: str, one: Any, other: Any, budget: int) -> tuple[Difference, int]:
    """And how many words were compared for it, of at most `budget`."""
    both_text = isinstance(one, str) and isinstance(other, str)
    before, after = (
        None
        if value is _NOTHING
        else value
        if isinstance(value, str) and (both_text or _NOTHING in (one, other))
        else json.dumps(value, ensure_ascii=False)
        for value in (one, other)
    )
    if before is None or after is None:
        return Difference(member, _whole(before), _whole(after)), 0
    # Made visible first: words that differ only in what cannot be seen must look different.
    old, new = (_WORD.findall(visible(text, limit=_SHOWN, multiline=True)) for text in (before, after))
    cost = max(len(old), len(new))
    if cost > budget or old == new:
        return Difference(member, _whole(before), _whole(after)), 0
    left: list[Piece] = []
    right: list[Piece] = []
    for what, i, j, k, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        for side, words in ((left, old[i:j]), (right, new[k:end])):
            if words:
                side.append(Piece("".join(words), what != "equal"))
    return Difference(member, tuple(left) or _whole(""), tuple(right) or _whole("")), cost


def _whole(text: str | None) -> tuple[Piece, ...]:
    if text is None:
        return ()
    return (Piece(visible(text, limit=_SHOWN, multiline=True) or "(empty)", changed=True),)

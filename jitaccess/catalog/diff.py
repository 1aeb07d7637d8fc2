"""What changed between two definitions of a tool, member by member, for a person who has to judge it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from jitaccess.kernel.strictjson import Json
from jitaccess.kernel.text import visible

# Comparing word by word costs the product of both lengths: beyond this a text counts as changed as a whole.
_WORDS = 1000
_SHOWN = 20_000
_WORD = re.compile(r"\s+|\w+|.", re.DOTALL)
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
    try:
        before, after = (dict(_leaves(json.loads(text), "")) for text in (pinned, offered))
    except (ValueError, RecursionError):
        before, after = {"": pinned}, {"": offered}
    names = [*after, *(name for name in before if name not in after)]
    return [
        _difference(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)
    ]


def _leaves(value: Json, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for name, member in value.items():
            shown = visible(name, limit=100)
            # Quoted where it could be mistaken for a path of its own.
            step = shown if _PLAIN_NAME.fullmatch(shown) else f'"{shown}"'
            yield from _leaves(member, f"{path}.{step}" if path else step)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}[{number}]")
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _difference(member: str, before: str | None, after: str | None) -> Difference:
    if before is None or after is None:
        return Difference(member, _whole(before), _whole(after))
    # Made visible first: words that differ only in what cannot be seen must look different.
    old, new = (_WORD.findall(visible(text, limit=_SHOWN, multiline=True)) for text in (before, after))
    if max(len(old), len(new)) > _WORDS or old == new:
        return Difference(member, _whole(before), _whole(after))
    left: list[Piece] = []
    right: list[Piece] = []
    for what, i, j, k, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        for side, words in ((left, old[i:j]), (right, new[k:end])):
            if words:
                side.append(Piece("".join(words), what != "equal"))
    return Difference(member, tuple(left) or _whole(""), tuple(right) or _whole(""))


def _whole(text: str | None) -> tuple[Piece, ...]:
    if text is None:
        return ()
    return (Piece(visible(text, limit=_SHOWN, multiline=True) or "(empty)", changed=True),)

"""JSON as an approver reads it: every value of it, nothing hidden, and whether that is all of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unicodedata import bidirectional

from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.text import has_hidden, hidden_in, look_alikes

LONGEST = 60_000
_INDENT = "  "
_LITERAL = re.compile(r'("(?:[^"\\]|\\.)*")')
_FROM_RIGHT = frozenset({"R", "AL", "AN"})


@dataclass(frozen=True, slots=True)
class Shown:
    """`text` is valid JSON of the very value when it is `whole`; `hidden` names what is written as escapes there,
    because it cannot be seen or is drawn like something else.
    """

    text: str
    whole: bool
    hidden: tuple[str, ...] = ()

    @property
    def pieces(self) -> Iterator[tuple[str, bool]]:
        """The text in parts, and which have to be set apart: what is written from right to left would otherwise take
        its neighbours along, and a name and its value change places (Unicode Standard Annex 9).
        """
        if self.text.isascii():
            yield self.text, False
            return
        for piece in _LITERAL.split(self.text):
            yield piece, any(bidirectional(char) in _FROM_RIGHT for char in piece)

    @property
    def isolated(self) -> str:
        """The text for where there is no markup, with those parts between isolates."""
        return "".join(f"\u2068{piece}\u2069" if apart else piece for piece, apart in self.pieces)


def shown(value: Any) -> Shown:
    """`value` over several lines: members in their canonical order, numbers as they are digested (RFC 8785).

    What cannot be seen, or looks like something else, becomes an escape of JSON, so that the text still means the very
    same value.
    """
    try:
        text = "".join(_limited(_pieces(value, 0)))
    except RecursionError:
        return Shown("", whole=False)
    hidden = list(dict.fromkeys([*hidden_in(text), *look_alikes(text)]))
    points = [int(name.removeprefix("U+"), 16) for name in hidden]
    text = text.translate({point: _escape(chr(point)) for point in points})
    whole = len(text) <= LONGEST and not has_hidden(text)
    return Shown(text if whole else f"{text[:LONGEST]}…", whole=whole, hidden=tuple(hidden))


def _pieces(value: Any, depth: int) -> Iterator[str]:
    inner = f"\n{_INDENT * (depth + 1)}"
    if isinstance(value, dict) and value:
        for number, name in enumerate(sorted(value, key=_utf16)):
            yield f"{',' if number else '{'}{inner}{_scalar(name)}: "
            yield from _pieces(value[name], depth + 1)
        yield f"\n{_INDENT * depth}}}"
    elif isinstance(value, list) and value:
        for number, one in enumerate(value):
            yield f"{',' if number else '['}{inner}"
            yield from _pieces(one, depth + 1)
        yield f"\n{_INDENT * depth}]"
    else:
        yield _scalar(value)


def _utf16(name: str) -> bytes:
    """RFC 8785 sorts members by UTF-16 code units."""
    return name.encode("utf-16-be", "surrogatepass")


def _scalar(value: Any) -> str:
    return canonical(value).decode()


def _limited(pieces: Iterator[str]) -> Iterator[str]:
    """No more than says that it is too long: indenting a deep value would take megabytes."""
    size = 0
    for piece in pieces:
        yield piece
        size += len(piece)
        if size > LONGEST:
            return


def _escape(char: str) -> str:
    data = _utf16(char)
    return "".join(f"\\u{data[at]:02x}{data[at + 1]:02x}" for at in range(0, len(data), 2))

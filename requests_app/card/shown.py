"""JSON as an approver reads it: every value of it, nothing hidden, and whether that is all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from jitaccess.kernel.canonical import canonical
from jitaccess.kernel.text import has_hidden, hidden_in

LONGEST = 60_000
_INDENT = "  "


@dataclass(frozen=True, slots=True)
class Shown:
    """`text` is valid JSON of the very value when it is `whole`; `hidden` names what is written as escapes there."""

    text: str
    whole: bool
    hidden: tuple[str, ...] = ()


def shown(value: Any) -> Shown:
    """`value` over several lines: members in their canonical order, numbers as they are digested (RFC 8785).

    What cannot be seen becomes an escape of JSON, so that the text still means the very same value.
    """
    try:
        text = "".join(_limited(_pieces(value, 0)))
    except RecursionError:
        return Shown("", whole=False)
    hidden = hidden_in(text)
    for name in hidden:
        char = chr(int(name.removeprefix("U+"), 16))
        text = text.replace(char, _escape(char))
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

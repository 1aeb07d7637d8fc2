"""Tables and cards for people: as wide as the terminal, nothing in them can act on it."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from jitaccess.kernel.text import visible
from jitaccess.runtime.story.terminal import Terminal

NARROWEST, WIDEST = 60, 200
_TEXT_WIDTH = 100  # longer lines of prose are hard to read
_GAP = 2
_LONGEST_CELL = 300


@dataclass(frozen=True, slots=True)
class Column:
    """`least` is how narrow it may become (0: never cut), `spare` that it goes first when there is no room.

    `styles` by the first word of a cell.
    """

    title: str
    least: int = 0
    spare: bool = False
    styles: Mapping[str, str] = field(default_factory=dict)


class Screen(Terminal):
    """Writes to `out`; `width` is that of the terminal within 60 and 200 columns, 200 where there is none."""

    def __init__(self, out: TextIO | None = None, *, environ: Mapping[str, str] = os.environ) -> None:
        out = out or sys.stdout
        super().__init__(out, environ=environ)
        measured = out.isatty() or environ.get("COLUMNS")
        columns = shutil.get_terminal_size((80, 24)).columns if measured else WIDEST
        self.width = max(NARROWEST, min(columns, WIDEST))

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[str]], *, empty: str = "") -> None:
        """One line a row, cut where it has to be. `empty` is said when there are no rows."""
        cells = [[visible(cell, limit=_LONGEST_CELL) for cell in row] for row in rows]
        if not cells:
            if empty:
                self.line(empty)
            return
        natural = [max(len_of(row[at]) for row in [[c.title for c in columns], *cells]) for at in range(len(columns))]
        shown, widths = _fit(columns, natural, self.width)
        self.line(self._row([columns[at].title for at in shown], widths, ["dim"] * len(shown)))
        for row in cells:
            styles = [columns[at].styles.get(row[at].partition(" ")[0], "") for at in shown]
            self.line(self._row([row[at] for at in shown], widths, styles))

    def _row(self, cells: Sequence[str], widths: Sequence[int], styles: Sequence[str]) -> str:
        parts = []
        for cell, width, style in zip(cells, widths, styles, strict=True):
            text = cut(cell, width, more=self.glyph("more"))
            parts.append((self.style(text, style) if style else text) + " " * (width - len_of(text)))
        return (" " * _GAP).join(parts).rstrip()

    def fields(self, pairs: Iterable[tuple[str, Iterable[str]]], *, indent: int = 2) -> None:
        """A card: a name, and beside it its lines, wrapped and whole."""
        kept = [(name, [line for text in texts for line in visible(text, limit=1_000_000, multiline=True).split("\n")])
                for name, texts in pairs]  # fmt: skip
        wide = max((len_of(name) for name, _ in kept), default=0)
        room = min(self.width, _TEXT_WIDTH) - indent - wide - _GAP
        for name, lines in kept:
            head = self.style(name, "dim") + " " * (wide - len_of(name) + _GAP)
            for line in lines:
                for part in wrapped(line, room):
                    self.line(f"{' ' * indent}{head}{part}".rstrip())
                    head = " " * (wide + _GAP)

    def json(self, value: Any) -> None:
        """One document. ASCII only: nothing in it can act on a terminal, and every reader gets the same."""
        self.line(json.dumps(value, indent=2 if self.live else None))


def wrapped(line: str, room: int) -> list[str]:
    """`line` in pieces of at most `room` cells; its indentation is kept, nothing is lost. Addresses stay whole."""
    if len_of(line) <= room or (" " not in line and line.startswith(("http://", "https://", "sha256:"))):
        return [line]
    start = " " * min(len(line) - len(line.lstrip(" ")), room // 2)
    if line.isascii():
        return textwrap.wrap(
            line, room, subsequent_indent=start, break_on_hyphens=False, drop_whitespace=True, tabsize=4
        ) or [""]
    parts, held = [], ""
    for char in line:
        if len_of(held + char) > room:
            parts.append(held)
            held = start
        held += char
    return [*parts, held]


def len_of(text: str) -> int:
    """Cells of a terminal: East Asian wide ones take two, combining marks none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def cut(text: str, width: int, *, more: str = "…") -> str:
    """`text` in at most `width` cells; a cut one says so."""
    if len_of(text) <= width:
        return text
    kept = ""
    for char in text:
        if len_of(kept + char) > width - len(more):
            break
        kept += char
    return kept.rstrip() + more


def _fit(columns: Sequence[Column], natural: Sequence[int], room: int) -> tuple[list[int], list[int]]:
    """The columns that are shown, and how wide."""
    shown = list(range(len(columns)))
    while True:
        widths = {at: natural[at] for at in shown}
        over = sum(widths.values()) + _GAP * (len(shown) - 1) - room
        while over > 0:
            able = [at for at in shown if columns[at].least and widths[at] > columns[at].least]
            if not able:
                break
            widths[max(able, key=lambda at: widths[at])] -= 1
            over -= 1
        spare = [at for at in shown if columns[at].spare]
        if over <= 0 or not spare:
            return shown, [widths[at] for at in shown]
        shown.remove(spare[-1])

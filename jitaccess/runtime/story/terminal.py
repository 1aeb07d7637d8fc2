"""What the story is told with: wrapped lines; colours and a running clock on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping
from typing import TextIO

from jitaccess.kernel.text import visible

_STYLES = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "purple": "35",
    "cyan": "36",
}
_FINE = {"ok": "✓", "bad": "✗", "rule": "─", "bar": "│", "to": "→", "spin": "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "more": "…"}
_PLAIN = {"ok": "+", "bad": "x", "rule": "-", "bar": "|", "to": ">", "spin": "|/-\\", "more": "..."}
_WIDEST, _NARROWEST = 96, 40
_MARGIN = 2


class Terminal:
    """Writes to `out`. Everything said by others goes through `quote`, which makes it inert and short."""

    def __init__(self, out: TextIO = sys.stdout, *, environ: Mapping[str, str] = os.environ) -> None:
        self._out = out
        self.live = out.isatty() and environ.get("TERM") != "dumb"
        self._colours = self.live and not environ.get("NO_COLOR")
        self.width = max(_NARROWEST, min(shutil.get_terminal_size((80, 24)).columns, _WIDEST))
        self._glyphs = _FINE if (out.encoding or "").lower().replace("-", "") == "utf8" else _PLAIN

    def glyph(self, name: str) -> str:
        return self._glyphs[name]

    def style(self, text: str, *names: str) -> str:
        if not (self._colours and names and text):
            return text
        return f"\x1b[{';'.join(_STYLES[name] for name in names)}m{text}\x1b[0m"

    def line(self, text: str = "") -> None:
        with contextlib.suppress(UnicodeEncodeError):
            print(text, file=self._out, flush=True)
            return
        print(text.encode("ascii", "replace").decode(), file=self._out, flush=True)

    def say(self, text: str, *styles: str, mark: str = "", mark_style: str = "bold", indent: int = _MARGIN) -> None:
        """A paragraph, wrapped; `mark` stands before its first line, the others begin below what follows it."""
        room = max(20, self.width - indent - len(mark))
        for number, part in enumerate(textwrap.wrap(text, room, break_on_hyphens=False) or [""]):
            head = mark if number == 0 else " " * len(mark)
            self.line(" " * indent + self.style(head, mark_style) + self.style(part, *styles))

    def heading(self, number: int, title: str) -> None:
        start = f"{number}  {title} "
        rule = self.glyph("rule") * max(3, self.width - _MARGIN - len(start))
        self.line()
        self.line(f"  {self.style(start, 'bold', 'cyan')}{self.style(rule, 'dim')}")

    def ok(self, text: str) -> None:
        self.say(text, mark=f"{self.glyph('ok')} ", mark_style="green")

    def act(self, who: str, what: str, *styles: str) -> None:
        """Somebody does something: the name, an arrow, the words."""
        head = f"{who} {self.glyph('to')} "
        room = max(20, self.width - _MARGIN - len(head))
        first, *rest = textwrap.wrap(what, room, break_on_hyphens=False) or [""]
        self.line(f"  {self.style(who, 'bold', *styles)} {self.style(self.glyph('to'), 'dim')} {first}")
        for part in rest:
            self.line(" " * (_MARGIN + len(head)) + part)

    def quote(self, text: str, *styles: str, lines: int = 6, wrap: bool = True) -> None:
        """What somebody else said, word for word as far as it fits, behind a bar."""
        room = self.width - 6
        if not wrap:
            text = "\n".join(row[:room] for row in text.splitlines())
        told = visible(text.strip(), limit=2000, multiline=True).splitlines()
        cut = [part for row in told if row.strip() for part in textwrap.wrap(row, room, break_on_hyphens=False)]
        if len(cut) > lines:
            cut = [*cut[:lines], self.glyph("more")]
        for part in cut:
            self.line(f"    {self.style(self.glyph('bar'), 'dim')} {self.style(part, *styles)}")

    @contextlib.contextmanager
    def waiting(self, text: str, done_text: str) -> Iterator[None]:
        """Show that something takes its time, and in the end how long it took."""
        started, done = time.monotonic(), threading.Event()
        text = textwrap.shorten(text, self.width - 16, placeholder=self.glyph("more"))
        spinner = threading.Thread(target=self._spin, args=(text, started, done), daemon=True)
        if self.live:
            spinner.start()
        good = False
        try:
            yield
            good = True
        finally:
            done.set()
            if self.live:
                spinner.join()
                self._out.write("\r" + " " * (self.width - 1) + "\r")
            took = f"{time.monotonic() - started:.1f} s"
            mark, style = ("ok", "green") if good else ("bad", "red")
            told = done_text if good else text
            self.line(f"  {self.style(self.glyph(mark), style)} {told} {self.style(f'({took})', 'dim')}")

    def _spin(self, text: str, started: float, done: threading.Event) -> None:
        for frame in itertools.cycle(self.glyph("spin")):
            spent = f"{time.monotonic() - started:.1f} s"
            self._out.write(f"\r  {self.style(frame, 'yellow')} {text} {self.style(spent, 'dim')}")
            self._out.flush()
            if done.wait(0.1):
                return

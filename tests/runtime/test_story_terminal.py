"""What the demo is told with: escape codes on a terminal only, nothing wider than it, nothing hostile let through."""

from __future__ import annotations

import io
import re
import threading

import pytest

from jitaccess.runtime.story.terminal import Terminal

pytestmark = pytest.mark.pure
LONG = "an agent asks and a person decides " * 9


class Screen(io.TextIOWrapper):
    def __init__(self, *, tty: bool, encoding: str = "utf-8") -> None:
        self.bytes = io.BytesIO()
        super().__init__(self.bytes, encoding=encoding, write_through=True)
        self._tty = tty

    def isatty(self) -> bool:
        return self._tty

    @property
    def text(self) -> str:
        return self.bytes.getvalue().decode(self.encoding)


def everything(terminal: Terminal) -> None:
    terminal.heading(1, "Reading works")
    terminal.say(LONG, "dim")
    terminal.act("demo-agent", LONG, "blue")
    terminal.quote(LONG, "red", lines=2)
    terminal.ok(LONG)
    with terminal.waiting("waiting " + LONG, "done"):
        threading.Event().wait(0.05)


@pytest.mark.parametrize(
    ("tty", "environ", "coloured", "live"),
    [
        (True, {}, True, True),
        (True, {"NO_COLOR": "1"}, False, True),
        (True, {"TERM": "dumb"}, False, False),
        (False, {}, False, False),
    ],
)
def test_escape_codes_are_for_terminals_that_want_them(
    tty: bool, environ: dict[str, str], coloured: bool, live: bool
) -> None:
    screen = Screen(tty=tty)
    everything(Terminal(screen, environ=environ))
    assert ("\x1b[" in screen.text) is coloured
    assert ("\r" in screen.text) is live


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_nothing_is_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = Screen(tty=True)
    everything(Terminal(screen, environ={}))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", screen.text)
    assert max(map(len, re.split(r"[\r\n]", plain))) <= columns
    assert plain.count("…") >= 2, "what does not fit is cut, and says so"


def test_what_others_say_cannot_move_the_cursor_or_colour_the_screen() -> None:
    screen = Screen(tty=True)
    Terminal(screen, environ={"NO_COLOR": "1"}).quote("\x1b[2Jgone\rover\u202e", lines=3)
    assert "\x1b" not in screen.text
    assert "\r" not in screen.text
    assert "\u202e" not in screen.text
    assert "gone" in screen.text


def test_a_terminal_that_knows_only_ascii_gets_ascii() -> None:
    screen = Screen(tty=False, encoding="ascii")
    terminal = Terminal(screen, environ={})
    everything(terminal)
    terminal.quote("naïve")
    assert "na?ve" in screen.text


def test_a_wait_that_fails_is_not_told_as_done() -> None:
    screen = Screen(tty=False)
    terminal = Terminal(screen, environ={})
    with pytest.raises(RuntimeError), terminal.waiting("starting", "it runs"):
        raise RuntimeError
    assert "✗ starting" in screen.text
    assert "it runs" not in screen.text

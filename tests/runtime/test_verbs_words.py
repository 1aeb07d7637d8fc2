"""What is the same for all verbs: tables, ids, help, completion, progress, and the page that documents them."""

from __future__ import annotations

import argparse
import io
import re
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from jitaccess.runtime import exits, shown
from jitaccess.runtime.cli import _parser
from jitaccess.runtime.completion import Place, places, script
from jitaccess.runtime.progress import watched
from jitaccess.runtime.references import ensure_one, shortened, span
from jitaccess.runtime.screen import Column, Screen, cut, len_of, wrapped

pytestmark = pytest.mark.pure
PAGE = (Path(__file__).parents[2] / "docs/guides/command-line.md").read_text()
OURS = {"request", "cancel", "release", "extend", "requests", "grants", "revoke", "approve", "deny", "agents", "doctor",
        "lock", "unlock", "completion"}  # fmt: skip


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]  # as a terminal has it

    def isatty(self) -> bool:
        return True


def leaves() -> Iterator[Place]:
    return (place for place in places(_parser()) if place.path and not place.actions)


@pytest.mark.parametrize("width", [60, 72, 80, 200])
def test_a_table_fits_the_terminal(width: int) -> None:
    out = io.StringIO()
    screen = Screen(out, environ={"COLUMNS": str(width)})
    screen.width = width
    columns = (Column("ID"), Column("WHO", least=8), Column("WHAT", least=14), Column("FOR", spare=True))
    rows = [("01a20078-f08f", "agent-" * 9, "server/a_tool, " * 30, "30 min"), ("1", "名前" * 30, "x\x1b[2J\u202e", "")]
    screen.table(columns, rows)
    lines = out.getvalue().splitlines()
    assert len(lines) == 3
    assert max(map(len_of, lines)) <= width
    assert "01a20078-f08f" in lines[1], "what is needed elsewhere is never cut"
    assert "\\u{1b}[2J" in lines[2]
    assert "\x1b" not in out.getvalue()


def test_the_width_has_bounds_and_a_pipe_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    for columns in ("20", "100", "500", ""):
        monkeypatch.setenv("COLUMNS", columns)
        widths.append(Screen(io.StringIO()).width)
    assert widths == [60, 100, 200, 200]


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals_that_want_them(environ: dict[str, str], coloured: bool) -> None:
    out = Terminal()
    Screen(out, environ=environ).table([Column("STATE", styles={"denied": "red"})], [("denied",)])
    assert ("\x1b[31m" in out.getvalue()) is coloured
    assert "\x1b" not in _plain_table()


def _plain_table() -> str:
    out = io.StringIO()
    Screen(out, environ={}).table([Column("STATE", styles={"denied": "red"})], [("denied",)])
    return out.getvalue()


@pytest.mark.parametrize("text", ["a " * 60, "x" * 130, "名前 " * 40, "    " + "word " * 40, "e\u0301" * 90])
def test_nothing_is_lost_where_lines_are_wrapped(text: str) -> None:
    parts = wrapped(text, 40)
    assert max(map(len_of, parts)) <= 40
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")


def test_cutting_is_seen() -> None:
    assert [cut("abcdef", width) for width in (6, 5, 3)] == ["abcdef", "abcd…", "ab…"]
    assert len_of(cut("名前名前", 5)) <= 5


def test_ids_by_their_beginning() -> None:
    whole = "01a20078-f08f-722d-8f8b-ddcf1f416def"
    assert span(whole) == (uuid.UUID(whole), uuid.UUID(whole))
    low, high = span("01A2-0078")
    assert low < uuid.UUID(whole) < high
    for text in ("", "abc", "xyz1", whole + "0", "0199\u0660"):
        with pytest.raises(Invalid):
            span(text)
    with pytest.raises(NotFound):
        ensure_one([], "abcd", "grant")
    twins = [whole, "01a20078-f08f-722d-9f8b-ddcf1f416def", "01b20078-f08f-722d-8f8b-ddcf1f416def"]
    with pytest.raises(Invalid, match="Several grants"):
        ensure_one(twins, "01", "grant")
    short = shortened(twins)
    assert len(set(short.values())) == 3
    assert all(len(one) >= 13 and full.startswith(one) for full, one in short.items())
    assert short[twins[2]] == "01b20078-f08f"


def test_errors_have_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    kinds = (Invalid, Forbidden, NotFound, Conflict, Unavailable)
    assert [exits.refused(kind("a.b", "So."), "grants") for kind in kinds] == [2, 1, 3, 4, 5]
    assert [exits.refused(kind("a.b", "So."), "up") for kind in kinds] == [1] * 5
    assert exits.refused(OSError("x\x1b[2J"), "requests") == 1
    assert "\x1b" not in capsys.readouterr().err


def test_what_is_asked_is_shown_with_every_member() -> None:
    item = {
        "kind": "call", "server": "git", "server_id": "s", "tools": [{"id": "t", "name": "push", "pin": "p", "access": "write"}],
        "arguments": {"mode": "exact", "digest": "sha256:1", "value": {"remote": "origin\nevil", "n": 1.5}},
    }  # fmt: skip
    lines = shown.things([item, {"kind": "role", "role": "ops", "role_id": "r", "version": 3},
                          {"kind": "database", "database": "main", "objects": ["a", "b"], "privileges": ["select"]},
                          {"kind": "other", "moon": "full"}], {})  # fmt: skip
    text = "\n".join(lines)
    for words in ("git/push  write", '"remote": "origin\\nevil"', '"n": 1.5', "role ops, version 3",
                  "database main: select on a, b", "moon:", '"full"'):  # fmt: skip
        assert words in text, words


def test_names_cannot_look_like_more_lines_or_hide_others() -> None:
    evil = "push\ngit/log  read"
    assert shown.things([{"server": "git", "tools": [{"name": evil, "access": "write"}]}], {}) == [
        "git/push\\u{a}git/log  read  write"
    ]
    remote = {"tools": ["git/a", "git/ab", "role:ops"], "calls": [{"tool": "git/a", "arguments": {"x": "database "}}]}
    items = [{"server": "git", "tool": "ab", "access": "write", "pin": "sha256:1"}]
    assert shown.things(items, remote) == [
        "git/ab  write", "git/a", "role:ops", "  arguments of git/a:", "    {", '      "x": "database "', "    }",
    ]  # fmt: skip


def test_help_reads_well_in_80_columns_with_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for parser, path in _parsers(_parser()):
        if not path or path[0] not in OURS:
            continue
        text = parser.format_help()
        head, _, examples = text.partition("\nexample")
        assert max(map(len, head.splitlines())) <= 80, path
        if not any(isinstance(action, argparse._SubParsersAction) for action in parser._actions) and path != (
            "agents",
            "snippet",
        ):
            assert f"jitaccess {' '.join(path)}" in examples, path


def test_the_page_has_every_verb_and_exit_code() -> None:
    missing = [" ".join(place.path) for place in leaves() if f"jitaccess {' '.join(place.path)}" not in PAGE]
    assert not missing
    for code in exits.Exit:
        assert f"| {int(code)} |" in PAGE


def test_every_verb_of_the_desk_speaks_json() -> None:
    without = {place.path for place in leaves() if place.path[0] in OURS and "--json" not in place.options}
    assert without == {("completion",)}


def test_examples_are_possible() -> None:
    """Those of the page and of every help: the parser takes them."""
    parser = _parser()
    helped = [line.strip() for inner, _ in _parsers(parser) for line in (inner.epilog or "").splitlines()]
    for line in [*PAGE.splitlines(), *helped]:
        if line.startswith("jitaccess "):
            words = shlex.split(re.split(r" [<>|] ", line)[0], comments=True)
            try:
                parser.parse_args(words[1:])
            except SystemExit:
                pytest.fail(f"not possible: {line}")


def _parsers(
    parser: argparse.ArgumentParser, path: tuple[str, ...] = ()
) -> Iterator[tuple[argparse.ArgumentParser, tuple[str, ...]]]:
    yield parser, path
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from _parsers(inner, (*path, name))


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        (["req"], {"request", "requests"}),
        (["requests", "--st"], {"--state"}),
        (["requests", "--state", "w"], {"waiting"}),
        (["requests", "sh"], {"show"}),
        (["requests", "list", "--js"], {"--json"}),
        (["agents", "show", "demo"], {"demo-agent"}),
        (["agents", "disable", "--js"], {"--json"}),
        (["approve", "0199", "--as", "a"], {"anna"}),
        (["completion", ""], {"bash", "zsh", "fish", "--help"}),
        (["request", "--reason", "x"], set()),
    ],
)
def test_bash_completes(line: list[str], offered: set[str], tmp_path: Path) -> None:
    (tmp_path / "jitaccess").write_text('#!/bin/sh\n[ "$2" = agents ] && echo demo-agent || echo anna\n')
    (tmp_path / "jitaccess").chmod(0o755)
    words = " ".join(f"'{word}'" for word in ["jitaccess", *line])
    asked = f"COMP_WORDS=({words}); COMP_CWORD={len(line)}; _jitaccess; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(
        ["bash", "-u", "-c", f"{script('bash', _parser())}\n{asked}"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (set(done.stdout.split()), done.stderr) == (offered, "")


def test_other_shells_have_every_verb() -> None:
    zsh, fish = script("zsh", _parser()), script("fish", _parser())
    assert zsh.startswith("#compdef jitaccess\n")
    for place in leaves():
        assert re.search(rf"^complete -c jitaccess -n '[^']*' -a {re.escape(place.path[-1])} ", fish, re.MULTILINE), (
            place
        )
        assert f'"{" ".join(place.path)}")' in zsh
    assert all(line.count("'") % 2 == line.count("\\'") % 2 for line in fish.splitlines())


def test_progress_is_for_terminals() -> None:
    out, pipe = Terminal(), io.StringIO()
    assert list(watched(range(1000), "entries checked", 1000, out=out)) == list(range(1000))
    assert "256 of 1,000 entries checked" in out.getvalue()
    assert out.getvalue().endswith("\r\x1b[K")
    assert list(watched(range(1000), "entries checked", out=pipe)) == list(range(1000))
    assert pipe.getvalue() == ""

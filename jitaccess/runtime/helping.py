"""How verbs are registered: help that reads well in 80 columns, with an example, and `--json` on every one."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from typing import Any


def verb(
    commands: Any,
    name: str,
    run: Callable[[argparse.Namespace], int] | None,
    what: str,
    *,
    example: str = "",
    more: str = "",
    json: bool = True,
    **defaults: Any,
) -> argparse.ArgumentParser:
    """A subcommand: `what` in a line, `more` in a paragraph, examples one a line."""
    end = "" if what.endswith("?") else "."
    said = f"{what[0].upper()}{what[1:]}{end} {more}".rstrip()
    lines = example.splitlines()
    head = "examples" if len(lines) > 1 else "example"
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=what,
        description=textwrap.fill(said, 78, break_on_hyphens=False),
        epilog="\n  ".join([f"{head}:", *lines]) if example else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if json:
        parser.add_argument("--json", action="store_true", help="one JSON document, with the REST API's names")
    if run:
        parser.set_defaults(run=run, **defaults)
    return parser


def named(parser: argparse.ArgumentParser, name: str, kind: str, **options: Any) -> argparse.Action:
    """A positional argument that the shell completes with the names of `kind`: agents, servers, people, roles."""
    action = parser.add_argument(name, **options)
    action.completes = kind  # type: ignore[attr-defined]  # read by completion
    return action


def whole(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 10**9):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)

"""`jitaccess apply` and `jitaccess export`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitaccess.kernel.errors import Invalid
from jitaccess.runtime.exits import Exit, say
from jitaccess.runtime.helping import verb
from jitaccess.runtime.screen import Screen

if TYPE_CHECKING:
    from jitaccess.runtime.access_files.plan import Plan

DIFFERENT = 6  # of `apply --dry-run`: there is something to do


def add(commands: Any) -> None:
    """Register the verbs."""
    applying = verb(
        commands,
        "apply",
        _apply,
        "make access what YAML files say it should be",
        more="Everything is checked first, then shown, then done in one transaction. What no file mentions stays, "
        f"unless --prune. With --dry-run nothing is written, and the exit code is {DIFFERENT} if anything differs.",
        example="jitaccess apply -f access/ --dry-run\njitaccess apply -f access/ -f more.yaml --prune --yes",
    )
    applying.add_argument(
        "-f", "--file", dest="files", action="append", required=True, metavar="PATH", type=Path,
        help="a file, or a folder with *.yaml; may be given several times",
    )  # fmt: skip
    applying.add_argument("--dry-run", action="store_true", help="only show the difference")
    applying.add_argument(
        "--prune", action="store_true", help="remove or disable what is in no file, of the kinds that the files have"
    )
    applying.add_argument("--yes", action="store_true", help="without asking")
    exporting = verb(
        commands,
        "export",
        _export,
        "give access as YAML files that apply reads",
        more="Credentials, people and grants are not in them.",
        example="jitaccess export -o access/\njitaccess export > access.yaml",
    )
    exporting.add_argument(
        "-o", "--output", metavar="DIR", type=Path, help="a folder (default: all on standard output)"
    )


def _apply(arguments: argparse.Namespace) -> int:
    from jitaccess.runtime.access_files import applying
    from jitaccess.runtime.access_files.documents import read_files
    from jitaccess.runtime.access_files.showing import as_json, show
    from jitaccess.runtime.cli import operator

    reading = read_files(arguments.files)
    plan = applying.look(reading, prune=arguments.prune)
    screen = Screen()
    told = plan.changes and not plan.problems and not arguments.dry_run
    if not arguments.json:
        show(plan, screen)
    if told:
        if not arguments.yes:
            _confirm(plan, arguments)
        applying.carry_out(reading, plan, prune=arguments.prune, operator=operator())
    if arguments.json:
        screen.json(as_json(plan, applied=bool(told)))
    elif told:
        screen.line(f"Done: {len(plan.changes)} {'change' if len(plan.changes) == 1 else 'changes'}.")
    if plan.problems:
        count = len(plan.problems)
        say(f"{count} {'problem' if count == 1 else 'problems'}; nothing was changed.")
        return Exit.USAGE
    return DIFFERENT if plan.changes and arguments.dry_run else Exit.DONE


def _confirm(plan: Plan, arguments: argparse.Namespace) -> None:
    """Raises Invalid when the answer is no, or when nobody is there to give one."""
    if arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Invalid(
            "files.unconfirmed", "Nobody was asked, so nothing was done. Look with --dry-run, then say --yes."
        )
    if input(f"Do this ({len(plan.changes)})? Only `yes` will: ").strip() != "yes":
        raise Invalid("files.unconfirmed", "Nothing was done.")


def _export(arguments: argparse.Namespace) -> int:
    from jitaccess.runtime.access_files import exporting
    from jitaccess.runtime.access_files.state import read_now

    state = read_now().state
    if arguments.json:
        documents = [{"kind": key.kind, "name": key.name, "text": text} for key, text in exporting.documents(state)]
        print(json.dumps(documents))
    elif arguments.output:
        for path in exporting.write(state, arguments.output):
            print(path)
    else:
        sys.stdout.write(exporting.as_text(state))
    return Exit.DONE

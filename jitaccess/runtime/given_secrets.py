"""Secrets for commands: from a variable, a file or standard input, never from the command line."""

from __future__ import annotations

import getpass
import os
import re
import sys
from pathlib import Path

from jitaccess.kernel.errors import Invalid

# Of a header or a variable.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
NEVER = (
    "A secret on the command line ends up in the shell's history and the list of processes. Say where it is instead: "
    "--header-from NAME=VARIABLE, --header-from NAME=@FILE, or --header-from NAME to be asked for it."
)


def read_secrets(words: list[str]) -> dict[str, str]:
    """NAME=VARIABLE, NAME=@FILE, NAME=- or NAME, read. No error repeats anything but a name. Raises Invalid."""
    values: dict[str, str] = {}
    for word in words:
        name, given, source = word.partition("=")
        if not _NAME.fullmatch(name):  # as curl has it, perhaps: "Authorization: Bearer …"
            raise Invalid("servers.secret", f"One of these does not begin with a name. {NEVER}")
        if not given:
            values[name] = getpass.getpass(f"{name}: ") if sys.stdin.isatty() else _from_input(name)
        elif source == "-":
            values[name] = _from_input(name)
        elif source.startswith("@"):
            values[name] = _from_file(name, Path(source[1:]))
        elif _VARIABLE.fullmatch(source) and source in os.environ:
            values[name] = os.environ[source]
        else:
            raise Invalid(
                "servers.secret", f"What stands after {name}= is not the name of a variable that is set here. {NEVER}"
            )
        if not values[name]:
            raise Invalid("servers.secret", f"The value for {name} is empty.")
    if any(word.endswith("=-") or "=" not in word for word in words) and not sys.stdin.isatty():
        _ensure_all_was_read()
    return values


def _from_input(name: str) -> str:
    line = sys.stdin.readline().rstrip("\r\n")
    if not line:
        raise Invalid("servers.secret", f"There was no value for {name} on standard input.")
    return line


def _ensure_all_was_read() -> None:
    """Half of a secret is worse than none."""
    if sys.stdin.read().strip():
        raise Invalid("servers.secret", "There are more lines on standard input than values to read: one line each.")


def _from_file(name: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Invalid("servers.secret", f"The file for {name} cannot be read: {why}.") from None

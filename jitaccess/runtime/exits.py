"""Exit codes, the same for every verb, and how an error becomes one sentence on stderr."""

from __future__ import annotations

import sys
from enum import IntEnum

from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.text import visible


class Exit(IntEnum):
    """What scripts go by; docs/guides/command-line.md lists them."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130


_BY_STATUS = {
    400: Exit.USAGE,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    422: Exit.USAGE,
    429: Exit.UNAVAILABLE,
    502: Exit.UNAVAILABLE,
    503: Exit.UNAVAILABLE,
    504: Exit.UNAVAILABLE,
}
# They run or repair an installation: whoever starts them only needs to know that it did not work.
_PLAIN = frozenset(
    {
        "up",
        "demo",
        "web",
        "gateway",
        "worker",
        "beat",
        "migrate",
        "database",
        "audit",
        "clock",
        "keys",
        "check",
        "health",
    }
)


def code_of(status: int) -> Exit:
    """The exit code for what HTTP calls `status`."""
    return _BY_STATUS.get(status, Exit.REFUSED)


def refused(error: Exception, verb: str) -> int:
    """Say on stderr what went wrong; returns the exit code of `verb`, the command's first word."""
    detail = error.detail if isinstance(error, JitAccessError) else str(error)
    say(detail)
    if verb in _PLAIN or not isinstance(error, JitAccessError):
        return Exit.REFUSED
    return code_of(int(getattr(error, "status", 0)) or error.http_status)


def say(text: str) -> None:
    """One message of the command itself, on stderr: what is on stdout is for whoever reads it."""
    print(f"jitaccess: {visible(text, limit=4000, multiline=True)}", file=sys.stderr)

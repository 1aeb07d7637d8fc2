"""`jitaccess clock …`: what is known of jumps of this machine's clock, and accepting them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from jitaccess.runtime.screen import Screen

if TYPE_CHECKING:
    from jitaccess.store.models import ClockJump


def add(commands: Any) -> None:
    """Register the subcommands."""
    clock = commands.add_parser("clock", help="jumps of this machine's clock").add_subparsers(
        required=True, metavar="action"
    )
    status = clock.add_parser("status", help="whether calls are refused because the clock jumped (exit code 1)")
    status.set_defaults(run=_status)
    status.add_argument("--json", action="store_true", help="one JSON document")
    accept = clock.add_parser("accept", help="say that the clock is right now: calls are decided by it again")
    accept.set_defaults(run=_accept)


def _status(arguments: argparse.Namespace) -> int:
    from django.conf import settings

    from jitaccess.gateway.recording.clock_guard import open_jumps
    from jitaccess.store.clock import now

    if arguments.json:
        found = [{"noticed_at": jump.noticed_at.isoformat(), "seconds": jump.seconds} for jump in open_jumps()]
        Screen().json({"now": now().isoformat(), "open_jumps": found})
        return int(bool(found))
    print(f"The clock of {'the database' if settings.ON_POSTGRESQL else 'this machine'} decides: {now():%F %T} UTC.")
    jumps = open_jumps()
    _say(jumps)
    if jumps:
        print("Calls are refused. See that the clock is right, then run `jitaccess clock accept`.")
        return 1
    print("No jump is open.")
    return 0


def _accept(_: argparse.Namespace) -> int:
    from jitaccess.gateway.recording.clock_guard import accept_jumps
    from jitaccess.runtime.cli import operator
    from jitaccess.store.clock import now

    _say(accept_jumps(operator=operator()))
    print(f"Accepted. It is {now():%F %T} UTC, and calls are decided by that.")
    return 0


def _say(jumps: Iterable[ClockJump]) -> None:
    for jump in jumps:
        how_far = timedelta(seconds=round(abs(jump.seconds)))
        print(f"{jump.noticed_at:%F %T} UTC: the clock went {'forward' if jump.seconds > 0 else 'back'} by {how_far}.")

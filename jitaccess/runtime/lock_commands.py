"""`jitaccess lock`, `unlock` and `locks`: the emergency stop, by the operator of the installation."""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from jitaccess.runtime import references, shown
from jitaccess.runtime.exits import Exit
from jitaccess.runtime.helping import verb
from jitaccess.runtime.screen import Column, Screen

_KINDS = ("agent", "user", "server", "role", "grant", "everything")
_TARGET = "a name, or a grant's id; nothing with everything"
_COLUMNS = (
    Column("ID"),
    Column("WHAT", least=10),
    Column("LEFT"),
    Column("BY", least=8, spare=True),
    Column("REASON", least=14),
)


def add(commands: Any) -> None:
    """Register the verbs."""
    lock = verb(
        commands,
        "lock",
        _lock,
        "stop an agent, user, server, role, grant, or everything",
        more="At the next call, whatever was granted, until somebody unlocks it or the time is up.",
        example='jitaccess lock agent demo-agent --reason "It does odd things" --for 2h\n'
        'jitaccess lock everything --reason "A key leaked"',
    )
    lock.add_argument("kind", choices=_KINDS, metavar="KIND", help=", ".join(_KINDS))
    lock.add_argument("target", nargs="?", default="", metavar="TARGET", help=_TARGET)
    lock.add_argument("--reason", required=True, help="why; whoever is stopped reads it")
    lock.add_argument("--for", dest="long", metavar="TIME", help="how long, such as 2h (default: until it is unlocked)")
    unlock = verb(
        commands,
        "unlock",
        _unlock,
        "lift a lock",
        example="jitaccess unlock agent demo-agent\njitaccess unlock everything\njitaccess unlock 0199a0b1-c2d3",
    )
    unlock.add_argument("kind", metavar="KIND", help=f"{', '.join(_KINDS)}; or the id of a lock")
    unlock.add_argument("target", nargs="?", default="", metavar="TARGET", help=_TARGET)
    locks = verb(commands, "locks", _list, "what is locked", example="jitaccess locks --all --json")
    locks.add_argument("--all", action="store_true", help="also what was lifted or has ended")


def _lock(arguments: argparse.Namespace) -> int:
    from jitaccess.kernel.durations import parse_duration
    from jitaccess.policy.locks import lock
    from jitaccess.store.clock import now

    ends = now() + timedelta(seconds=parse_duration(arguments.long)) if arguments.long else None
    target = _target(arguments.kind, arguments.target)
    made = lock(kind=arguments.kind, target=target, reason=arguments.reason, operator=_operator(), expires_at=ends)
    screen = Screen()
    if arguments.json:
        screen.json(_data(made))
    else:
        screen.line(f"{_what(_data(made))} is locked{f' until {ends:%Y-%m-%d %H:%M} UTC' if ends else ''}.")
    return Exit.DONE


def _unlock(arguments: argparse.Namespace) -> int:
    from jitaccess.kernel.errors import NotFound
    from jitaccess.policy.locks import live_locks, unlock
    from jitaccess.policy.models import Lock

    if arguments.kind in _KINDS:
        target = _target(arguments.kind, arguments.target)
        found = live_locks().filter(kind=arguments.kind, target=target).first()
        if found is None:
            raise NotFound("lock.unknown", f"This is not locked: {arguments.kind} {arguments.target}".rstrip() + ".")
    else:
        found = references.row_of(Lock.objects.all(), arguments.kind, "lock")
    data, screen = _data(unlock(lock=found, operator=_operator())), Screen()
    if arguments.json:
        screen.json(data)
    else:
        screen.line(f"{_what(data)} is no longer locked.")
    return Exit.DONE


def _list(arguments: argparse.Namespace) -> int:
    from jitaccess.policy.locks import live_locks
    from jitaccess.policy.models import Lock
    from jitaccess.store.clock import now

    screen, at = Screen(), now()
    rows = [_data(row) for row in (Lock.objects.all() if arguments.all else live_locks()).order_by("-pk")]
    if arguments.json:
        screen.json({"items": rows})
        return Exit.DONE
    short = references.shortened(row["lock_id"] for row in rows)

    def left(row: dict[str, Any]) -> str:
        if row["lifted_at"]:
            return "lifted"
        return shown.until(row["expires_at"], at) if row["expires_at"] else "any"

    cells = [(short[row["lock_id"]], _what(row), left(row), row["created_by"], row["reason"]) for row in rows]
    screen.table(_COLUMNS, cells, empty="Nothing is locked.")
    return Exit.DONE


def _target(kind: str, text: str) -> UUID | None:
    """Raises Invalid, NotFound."""
    from jitaccess.policy.locks import find_target
    from requests_app.selectors import Grant

    if kind == "grant":
        return references.row_of(Grant.objects.all(), text, "grant").pk
    return find_target(kind, text)


def _operator() -> Any:
    """Who has the database may stop everything: not as the person of the same name, who perhaps may not."""
    from jitaccess.runtime.cli import operator

    return replace(operator(), user=None)


def _what(row: dict[str, Any]) -> str:
    return f"{row['kind']} {row['target_name']}".strip()


def _data(row: Any) -> dict[str, Any]:
    return {
        "lock_id": str(row.pk),
        "kind": str(row.kind),
        "target": str(row.target) if row.target else None,
        "target_name": row.target_name,
        "reason": row.reason,
        "created_at": row.created_at.isoformat(),
        "created_by": row.created_by_name,
        "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        "lifted_at": row.lifted_at.isoformat() if row.lifted_at else None,
        "lifted_by": row.lifted_by_name,
    }

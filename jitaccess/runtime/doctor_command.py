"""`jitaccess doctor`: what is wrong with this installation, part by part, and what to do about it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from jitaccess.runtime.helping import verb
from jitaccess.runtime.screen import Screen

_LATE = timedelta(minutes=10)


def add(commands: Any) -> None:
    """Register the verb."""
    verb(
        commands,
        "doctor",
        _run,
        "find out what is wrong with this installation",
        more="Looks at the settings, the ledger, the people and every server. Ends with 1 when there is trouble. "
        "jitaccess check --deploy looks closer at the settings, jitaccess audit verify at the ledger.",
        example="jitaccess doctor\njitaccess servers doctor git",
    )


def _run(arguments: argparse.Namespace) -> int:
    from jitaccess.runtime import doctor

    return doctor.told([*_parts(), *doctor.servers()], as_json=arguments.json, screen=Screen())


def _parts() -> Iterator[tuple[str, Any]]:
    yield "settings", _settings()
    yield "ledger", _ledger()
    yield "people", _people()


def _settings() -> Iterator[Any]:
    from jitaccess.runtime.checks import report
    from jitaccess.runtime.doctor import Finding, Mark

    found = report(deploy=False)
    for line in found.lines[:-1]:
        yield Finding(Mark.TROUBLE if line.startswith("ERROR") else Mark.NOTE, line)
    if len(found.lines) == 1:
        yield Finding(Mark.GOOD, "nothing to say")


def _ledger() -> Iterator[Any]:
    from jitaccess.audit import bundles
    from jitaccess.audit.models import Checkpoint, Entry, Leaf
    from jitaccess.runtime.doctor import Finding, Mark
    from jitaccess.store.clock import now

    last, places = Checkpoint.objects.order_by("-size").first(), Leaf.objects.count()
    (_, bundled), before = bundles.waiting(), now() - _LATE
    if (bundled and bundled < before) or Entry.objects.filter(leaf=None, at__lt=before).exists():
        yield Finding(
            Mark.TROUBLE,
            "entries wait for their place",
            "Start jitaccess up, web, or worker: one of them orders the ledger. If one runs, see its log.",
        )
    if last is None:
        yield Finding(Mark.NOTE, f"{places} entries, none of them signed yet", "Start jitaccess up, web or worker.")
    elif last.size < places and last.at < now() - _LATE:
        yield Finding(
            Mark.TROUBLE, f"nothing was signed since {last.at:%Y-%m-%d %H:%M} UTC", "Is a process that signs running?"
        )
    else:
        yield Finding(Mark.GOOD, f"{places} entries, the first {last.size} of them signed")


def _people() -> Iterator[Any]:
    from jitaccess.identity.models import Agent, User
    from jitaccess.runtime.doctor import Finding, Mark

    admins = User.objects.filter(is_active=True, is_staff=True, is_superuser=True).count()
    if admins:
        yield Finding(Mark.GOOD, f"{admins} active admin{'s' * (admins != 1)}")
    else:
        yield Finding(Mark.TROUBLE, "nobody may configure this installation", "jitaccess people admin NAME")
    for agent in Agent.objects.filter(enabled=True, owner__is_active=False).select_related("owner"):
        yield Finding(
            Mark.TROUBLE,
            f"the owner of {agent.name}, {agent.owner.username}, is no longer active: its calls are refused",
            f"Give it another owner in the admin, or: jitaccess agents disable {agent.name}",
        )

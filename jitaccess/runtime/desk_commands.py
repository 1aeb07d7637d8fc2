"""`jitaccess requests` and `grants`: by way of the API with an agent's token, else all of this installation.

`revoke` acts here, on the database, as its operator.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import datetime
from typing import Any

from jitaccess.runtime import references, remote, shown
from jitaccess.runtime.exits import Exit
from jitaccess.runtime.helping import verb, whole
from jitaccess.runtime.screen import Screen

_CALLS = 500
_WHERE = (
    "With JITACCESS_TOKEN set these are the agent's own, read over the API at JITACCESS_URL; without it, or with "
    "--local, all of this installation."
)
_STATES = ("waiting", "active", "ended", "denied", "undecided")


def add(commands: Any) -> None:
    """Register the verbs."""
    _reading(commands, "requests", _list_requests, _show_request, _STATES, "what was asked for")
    _reading(commands, "grants", _list_grants, _show_grant, ("live", "ended", "all"), "access that was approved")
    revoke = verb(
        commands,
        "revoke",
        _revoke,
        "take access away, now",
        more="On the machine of the installation, as its operator; the next call is refused.",
        example='jitaccess revoke 0199a0b1-c2d3 --reason "The release is out"',
    )
    revoke.add_argument("id", metavar="GRANT", help="its id, or the beginning of it as lists show it")
    revoke.add_argument("--reason", default="", help="why; kept on record")


def _reading(commands: Any, name: str, listing: Any, showing: Any, states: tuple[str, ...], what: str) -> None:
    one, listing, showing = name.removesuffix("s").upper(), _either(listing), _either(showing)
    parser = verb(
        commands,
        name,
        listing,
        f"{what}: list, show",
        more=f"Without an action it lists. {_WHERE}",
        example=f"jitaccess {name}\njitaccess {name} --state {states[0]} --json\njitaccess {name} show 0199a0b1-c2d3",
        offline=_remotely,
    )
    _filters(parser, states)
    actions = parser.add_subparsers(metavar="action")
    lister = verb(
        actions, "list", listing, f"{what}, latest first", more=_WHERE, json=False,
        example=f"jitaccess {name} list --agent demo-agent",
    )  # fmt: skip
    _filters(lister, states, again=True)
    shower = verb(
        actions, "show", showing, f"one of the {name}, with everything about it", more=_WHERE, json=False,
        example=f"jitaccess {name} show 0199a0b1-c2d3 --json",
    )  # fmt: skip
    shower.add_argument("id", metavar=one, help="its id, or the beginning of it as lists show it")
    _common(shower)


def _filters(parser: argparse.ArgumentParser, states: tuple[str, ...], *, again: bool = False) -> None:
    """The parent has the defaults; what is given again behind the action must not bring them back."""
    none: Any = argparse.SUPPRESS if again else None
    parser.add_argument("--state", choices=states, default=none, help="only those that stand so")
    agent = parser.add_argument("--agent", metavar="NAME", default=none, help="only of this agent")
    agent.completes = "agents"  # type: ignore[attr-defined]  # read by completion
    parser.add_argument("--limit", type=whole, default=argparse.SUPPRESS if again else 20, help="how many (default 20)")
    if again:
        _common(parser)
    else:
        parser.add_argument("--local", action="store_true", help="of this installation, whatever is set")


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="one JSON document")
    parser.add_argument("--local", action="store_true", default=argparse.SUPPRESS, help="of this installation")


def _either(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    return lambda arguments: remote.understood(run)(arguments) if _remotely(arguments) else run(arguments)


def _remotely(arguments: argparse.Namespace) -> bool:
    return remote.wanted() and not arguments.local


def _list_requests(arguments: argparse.Namespace) -> int:
    screen, limit = Screen(), arguments.limit
    if _remotely(arguments):
        api = remote.connect()
        rows, more = api.items("/requests", limit=limit, state=arguments.state, agent=arguments.agent)
        at = api.at
    else:
        from jitaccess.runtime import desk

        rows, more, at = desk.requests(state=arguments.state, agent=arguments.agent, limit=limit)
    return _listed(screen, arguments, rows, more, at, shown.requests)


def _list_grants(arguments: argparse.Namespace) -> int:
    """Live ones, unless told."""
    screen, limit = Screen(), arguments.limit
    state = None if arguments.state == "all" else arguments.state or "live"
    if _remotely(arguments):
        api = remote.connect()
        rows, more = api.items("/grants", limit=limit, state=state, agent=arguments.agent)
        at = api.at
    else:
        from jitaccess.runtime import desk

        rows, more, at = desk.grants(state=state, agent=arguments.agent, limit=limit)
    return _listed(screen, arguments, rows, more, at, shown.grants)


def _listed(
    screen: Screen, arguments: argparse.Namespace, rows: list[dict[str, Any]], more: bool, at: datetime, show: Any
) -> int:
    if arguments.json:
        screen.json({"items": rows, "more": more})
    else:
        show(screen, rows, at, more=more)
    return Exit.DONE


def _show_request(arguments: argparse.Namespace) -> int:
    screen = Screen()
    if _remotely(arguments):
        api = remote.connect()
        asked = api.id_of("/requests", "request_id", arguments.id, "request")
        data, life = api.get(f"/requests/{asked}"), api.get(f"/requests/{asked}/timeline")
        at = api.at
    else:
        from jitaccess.runtime import desk

        data, life, at = desk.request(arguments.id, calls=_CALLS)
    if arguments.json:
        screen.json(data | {"timeline": life["items"], "calls_cut": life["calls_cut"]})
        return Exit.DONE
    shown.request(screen, data, at)
    screen.line()
    shown.timeline(screen, life["items"], calls_cut=life["calls_cut"])
    return Exit.DONE


def _show_grant(arguments: argparse.Namespace) -> int:
    screen = Screen()
    if _remotely(arguments):
        api = remote.connect()
        data = api.get(f"/grants/{api.id_of('/grants', 'grant_id', arguments.id, 'grant')}")
        at = api.at
    else:
        from jitaccess.runtime import desk

        data, at = desk.grant(arguments.id)
    if arguments.json:
        screen.json(data)
    else:
        shown.grant(screen, data, at)
    return Exit.DONE


def _revoke(arguments: argparse.Namespace) -> int:
    from jitaccess.runtime import desk
    from jitaccess.runtime.cli import operator
    from requests_app.lifecycle import EndReason
    from requests_app.selectors import Grant
    from requests_app.services import end_grant

    held, who = references.row_of(Grant.objects.all(), arguments.id, "grant"), operator()
    end_grant(grant_id=held.pk, reason=EndReason.REVOKED, actor=who, by=who.user_name, note=arguments.reason)
    screen = Screen()
    if arguments.json:
        screen.json(desk.grant(str(held.pk))[0])
    else:
        screen.line(f"Grant {held.pk} is revoked: the next call is refused.")
    return Exit.DONE

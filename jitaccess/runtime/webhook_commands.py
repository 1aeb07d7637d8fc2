"""`jitaccess webhooks`: where events are told to other programs, by the operator of the installation."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from jitaccess.runtime import references, shown
from jitaccess.runtime.exits import Exit
from jitaccess.runtime.helping import verb, whole
from jitaccess.runtime.screen import Column, Screen

if TYPE_CHECKING:
    from jitaccess.notify.webhooks.models import Endpoint

_STATES = {"on": "green", "off": "dim", "failing": "red", "delivered": "green", "failed": "red", "waiting": "yellow"}
_COLUMNS = (
    Column("ID"),
    Column("NAME", least=8),
    Column("STATE", styles=_STATES),
    Column("LEADS TO", least=14),
    Column("EVENTS", least=10),
    Column("TEAM", spare=True),
)
_DELIVERIES = (
    Column("ID"),
    Column("STATE", styles=_STATES),
    Column("EVENT", least=12),
    Column("WHEN"),
    Column("TRIES"),
    Column("ANSWER", least=14, spare=True),
)
_WHICH = "its name, or its id"
_LONG_AGO = 10 * 365 * 86_400  # seconds


def add(commands: Any) -> None:
    """Register the verbs."""
    parser = commands.add_parser("webhooks", help="where events are told to other programs")
    several = parser.add_subparsers(required=True, metavar="action")
    verb(several, "list", _list, "all of them", example="jitaccess webhooks list --json")
    create = verb(
        several,
        "create",
        _create,
        "make one; its secret is shown this once",
        more="A URL that holds a secret does not belong on the command line: say where it is with --url-from.",
        example='jitaccess webhooks create siem https://siem.example/hook --events "request.* grant.*"\n'
        "jitaccess webhooks create chat --url-from CHAT_HOOK --events grant.revoked",
    )
    create.add_argument("name", metavar="NAME")
    create.add_argument("url", nargs="?", default="", metavar="URL")
    create.add_argument("--url-from", metavar="WHERE", help="VARIABLE, @FILE or - for standard input")
    create.add_argument("--events", required=True, help='such as "request.* grant.revoked"; "*" is all but calls')
    create.add_argument("--team", default="", metavar="NAME", help="only of this team's agents")
    _about(several, "show", _show, "one of them, with its latest deliveries")
    change = _about(several, "change", _change, "change its name, address or events", more="Absent: as it is.")
    change.add_argument("--name", dest="new_name", metavar="NAME")
    change.add_argument("--url-from", metavar="WHERE", help="VARIABLE, @FILE or -; another host gets another secret")
    change.add_argument("--events")
    _about(several, "rotate", _rotate, "a new secret, shown this once; the old one signs too for a day")
    _about(several, "pause", _switch, "stop sending", on=False)
    _about(several, "resume", _switch, "send again", on=True)
    _about(several, "remove", _remove, "remove it with its deliveries; the ledger keeps that it was there")
    _about(several, "test", _test, "send it one message of the event webhook.tested")
    told = _about(several, "deliveries", _deliveries, "what was and is owed to it, latest first")
    told.add_argument("--state", choices=("waiting", "delivered", "failed"), default="")
    told.add_argument("--event", default="", help="only this one, such as grant.revoked")
    told.add_argument("--limit", type=whole, default=20, metavar="N", help="so many (default: 20)")
    again = _about(
        several,
        "replay",
        _replay,
        "send again one delivery, or what was not taken for some time",
        example="jitaccess webhooks replay siem 0199a0b1-c2d3\njitaccess webhooks replay siem --since 2h",
    )
    again.add_argument("delivery", nargs="?", default="", metavar="DELIVERY", help="its id, as `deliveries` shows it")
    again.add_argument("--since", metavar="TIME", help="so long ago, such as 2h; at most 1,000 messages at once")


def _about(several: Any, name: str, run: Any, what: str, *, example: str = "", **more: Any) -> argparse.ArgumentParser:
    parser = verb(several, name, run, what, example=example or f"jitaccess webhooks {name} siem", **more)
    parser.add_argument("webhook", metavar="WEBHOOK", help=_WHICH)
    return parser


def _list(arguments: argparse.Namespace) -> int:
    from jitaccess.notify.webhooks.plain import endpoint_data

    screen, rows = Screen(), [endpoint_data(row) for row in _rows()]
    if arguments.json:
        screen.json({"items": rows})
        return Exit.DONE
    short = references.shortened(str(row["webhook_id"]) for row in rows)
    cells = [
        (
            short[str(row["webhook_id"])],
            str(row["name"]),
            _state(row),
            str(row["host"]),
            str(row["events"]),
            str(row["team"] or ""),
        )
        for row in rows
    ]
    screen.table(_COLUMNS, cells, empty="There are no webhooks.")
    return Exit.DONE


def _create(arguments: argparse.Namespace) -> int:
    from jitaccess.identity.models import User
    from jitaccess.kernel.errors import Invalid
    from jitaccess.notify.webhooks.services import create_endpoint

    if bool(arguments.url) == bool(arguments.url_from):
        raise Invalid("webhook.url", "Give the URL, or --url-from.")
    who = _operator()
    row, secret = create_endpoint(
        name=arguments.name,
        url=arguments.url or _url_from(arguments.url_from),
        events=arguments.events,
        team=_team(arguments.team),
        owner=User.objects.filter(pk=who.user).first() if who.user else None,
        operator=who,
    )
    return _secret(arguments, row, secret, f"The webhook {row.name} is there.")


def _show(arguments: argparse.Namespace) -> int:
    from jitaccess.notify.webhooks.plain import deliveries, delivery_data, endpoint_data
    from jitaccess.store.clock import now

    row, screen = _found(arguments), Screen()
    data = endpoint_data(row)
    latest = [delivery_data(one) for one in deliveries(row).order_by("-pk")[:5]]
    if arguments.json:
        screen.json({**data, "deliveries": latest})
        return Exit.DONE
    pairs = [("name", data["name"]), ("id", data["webhook_id"]), ("state", _state(data)), ("leads to", data["host"])]
    pairs += [("events", data["events"]), ("team", data["team"] or "everything"), ("why off", data["disabled_why"])]
    pairs.append(("failing", shown.stamp(data["failing_since"]) if data["failing_since"] else ""))
    screen.fields([(name, [str(value)]) for name, value in pairs if value])
    _table(screen, latest, now())
    return Exit.DONE


def _change(arguments: argparse.Namespace) -> int:
    from jitaccess.notify.webhooks.plain import change

    given = {"name": arguments.new_name, "events": arguments.events}
    url = _url_from(arguments.url_from) if arguments.url_from else None
    row, secret = change(_found(arguments).pk, _operator(), url=url, **given)
    said = "It leads to another host, so it has another secret." if secret else "Saved."
    return _secret(arguments, row, secret, said)


def _rotate(arguments: argparse.Namespace) -> int:
    from jitaccess.notify.webhooks.plain import rotate

    row, secret = rotate(_found(arguments).pk, _operator())
    return _secret(arguments, row, secret, "The old secret signs too for a day.")


def _switch(arguments: argparse.Namespace) -> int:
    from jitaccess.notify.webhooks.plain import endpoint_data, switch

    data, screen = endpoint_data(switch(_found(arguments).pk, _operator(), on=arguments.on)), Screen()
    if arguments.json:
        screen.json(data)
    else:
        screen.line(f"{data['name']} is {'on' if arguments.on else 'off'}.")
    return Exit.DONE


def _remove(arguments: argparse.Namespace) -> int:
    from jitaccess.notify.webhooks.plain import remove

    row, screen = _found(arguments), Screen()
    remove(row.pk, _operator())
    if arguments.json:
        screen.json({"webhook_id": str(row.pk), "removed": True})
    else:
        screen.line(f"{row.name} is removed.")
    return Exit.DONE


def _test(arguments: argparse.Namespace) -> int:
    from jitaccess.notify.webhooks.plain import delivery_data, test

    row, screen = _found(arguments), Screen()
    data = delivery_data(test(row.pk, _operator()))
    if arguments.json:
        screen.json(data)
    else:
        screen.line("A test is on its way. What is answered stands in:")
        screen.line(f"  jitaccess webhooks deliveries {row.name} --event webhook.tested")
    return Exit.DONE


def _deliveries(arguments: argparse.Namespace) -> int:
    from jitaccess.notify.webhooks.plain import deliveries, delivery_data
    from jitaccess.store.clock import now

    screen = Screen()
    found = deliveries(_found(arguments), state=arguments.state, event=arguments.event).order_by("-pk")
    rows = [delivery_data(one) for one in found[: arguments.limit]]
    if arguments.json:
        screen.json({"items": rows})
    else:
        _table(screen, rows, now())
    return Exit.DONE


def _replay(arguments: argparse.Namespace) -> int:
    from jitaccess.kernel.durations import parse_duration
    from jitaccess.kernel.errors import Invalid
    from jitaccess.notify.webhooks.models import HookDelivery
    from jitaccess.notify.webhooks.plain import delivery_data, replay, replay_since
    from jitaccess.store.clock import now

    row, screen = _found(arguments), Screen()
    if bool(arguments.delivery) == bool(arguments.since):
        raise Invalid("webhook.replay", "Say which delivery, or --since when.")
    if arguments.since:
        # No farther than moments go: it is refused below as too long ago.
        since = now() - timedelta(seconds=min(parse_duration(arguments.since), _LONG_AGO))
        data: dict[str, Any] = {"messages": replay_since(row.pk, since, _operator())}
        said = f"Messages that are sent again: {data['messages']}." if data["messages"] else "Nothing was missed."
    else:
        rows = HookDelivery.objects.filter(endpoint=row)
        one = references.row_of(rows, arguments.delivery, "delivery")
        data, said = delivery_data(replay(row.pk, one.pk, _operator())), "It is sent again."
    if arguments.json:
        screen.json(data)
    else:
        screen.line(said)
    return Exit.DONE


def _rows() -> Any:
    from jitaccess.notify.webhooks.models import Endpoint

    return Endpoint.objects.select_related("team", "created_by").order_by("name")


def _found(arguments: argparse.Namespace) -> Endpoint:
    """By name, else by id. Raises NotFound, Invalid."""
    rows = _rows()
    row: Endpoint = rows.filter(name=arguments.webhook).first() or references.row_of(rows, arguments.webhook, "webhook")
    return row


def _url_from(where: str) -> str:
    from jitaccess.runtime.given_secrets import read_secrets

    return read_secrets([f"url={where}"])["url"]


def _team(name: str) -> Any:
    from jitaccess.identity.models import Team
    from jitaccess.kernel.errors import NotFound

    team = Team.objects.filter(name=name).first() if name else None
    if name and team is None:
        raise NotFound("team.unknown", f"There is no team {name}.")
    return team


def _operator() -> Any:
    from jitaccess.runtime.cli import operator

    return operator()


def _secret(arguments: argparse.Namespace, row: Endpoint, secret: str, said: str) -> int:
    from jitaccess.notify.webhooks.plain import endpoint_data

    screen = Screen()
    if arguments.json:
        screen.json({**endpoint_data(row), "secret": secret or None})
        return Exit.DONE
    screen.line(said)
    if secret:
        screen.line("Its secret, shown this once:")
        screen.line(secret)
    return Exit.DONE


def _state(data: Any) -> str:
    if not data["enabled"]:
        return "off"
    return "failing" if data["failing_since"] else "on"


def _table(screen: Screen, rows: list[Any], at: Any) -> None:
    short = references.shortened(row["delivery_id"] for row in rows)
    cells = [
        (
            short[row["delivery_id"]],
            row["state"],
            row["event"],
            shown.ago(row["created_at"], at),
            str(row["attempts"]),
            row["error"] or (str(row["status"]) if row["status"] else ""),
        )
        for row in rows
    ]
    screen.table(_DELIVERIES, cells, empty="Nothing was owed to it yet.")

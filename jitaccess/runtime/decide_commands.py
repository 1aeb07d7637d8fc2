"""`jitaccess approve` and `deny`: a person decides in a terminal, with their password, on what is shown there whole."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any, TextIO
from urllib.parse import urlsplit

from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, Unavailable
from jitaccess.kernel.text import has_hidden, visible
from jitaccess.runtime import shown
from jitaccess.runtime.exits import Exit, say
from jitaccess.runtime.helping import named, verb, whole
from jitaccess.runtime.screen import Screen

CHANNEL = "cli"
_MORE = (
    "On the machine of the installation. You see the whole request first, and are asked; your password is read from "
    "the terminal without showing it, or with --password-stdin from one line of standard input. What cannot be shown "
    "completely here is decided in the browser."
)


def add(commands: Any) -> None:
    """Register the verbs."""
    for word, what in (("approve", "approve a request, as a person"), ("deny", "deny a request, as a person")):
        reason = "" if word == "approve" else ' --reason "Not during the freeze"'
        parser = verb(
            commands, word, _decide, what, more=_MORE, example=f"jitaccess {word} 0199a0b1-c2d3 --as anna{reason}"
        )
        parser.set_defaults(deciding=word)
        parser.add_argument("id", metavar="REQUEST", help="its id, or the beginning of it as lists show it")
        named(parser, "--as", "people", dest="person", metavar="NAME", required=True, help="the person who decides")
        parser.add_argument("--reason", default="", help="why; kept on record, and told when it is a no")
        if word == "approve":
            parser.add_argument("--minutes", type=whole, help="for less time than was asked for")
            parser.add_argument("--max-uses", type=whole, metavar="N", help="for fewer calls")
            parser.add_argument("--only", action="append", metavar="WHAT", help="of what was asked for, only this")
        parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
        parser.add_argument("--yes", action="store_true", help="do not ask; needed where nobody can be asked")


def _decide(arguments: argparse.Namespace) -> int:
    from jitaccess.identity.services import user_by_name
    from jitaccess.runtime import desk
    from jitaccess.store.clock import now
    from requests_app import services

    approving = arguments.deciding == "approve"
    asked, person, at = desk.request_row(arguments.id), user_by_name(arguments.person), now()
    if not (arguments.yes or sys.stdin.isatty()):
        raise Invalid("decision.unasked", "There is nobody to ask at this terminal: say --yes if you have looked.")
    out = sys.stderr if arguments.json else sys.stdout
    data = desk.request_data(asked, at)
    incomplete = _card(Screen(out), asked)
    if approving and incomplete:
        raise Conflict("decision.not_shown", f"{incomplete} Look at it in the browser: {asked.url}")
    if approving:
        _ensure_shown(data, asked, out)
    _ensure_may(asked, person, at, approving=approving)
    _authenticate(person.username, _password(arguments, person.username))
    if not arguments.yes and not _confirmed(arguments, data, out):
        say("nothing was decided.")
        return Exit.REFUSED
    # The digest of the row that was shown: whatever is on record meanwhile, only that is decided.
    said: dict[str, Any] = {
        "request_id": asked.pk,
        "approver": person,
        "channel": CHANNEL,
        "digest": asked.digest,
        "reason": arguments.reason,
        "source": desk.system_user(),
    }
    if approving:
        # The password was typed just now: more than a session that is recent, where a password counts.
        decided = services.approve_request(**said, recently=_password_proves(), narrow=_narrow(arguments))
    else:
        decided = services.deny_request(**said)
    screen = Screen()
    if arguments.json:
        screen.json(desk.request_data(desk.request_row(str(decided.pk)), now()))
    else:
        screen.line(_SAID.get(decided.status, "Your approval is on record; others are still needed."))
    return Exit.DONE


_SAID = {"approved": "Approved.", "denied": "Denied. The agent is told."}


def _card(screen: Screen, asked: Any) -> str:
    """The card of every channel: who, what exactly, what it adds, how long, how unusual, why. Why it is not all of it,
    or "".
    """
    from requests_app.card.card import card_of
    from requests_app.card.lines import card_lines
    from requests_app.standing import look

    card = card_of(look(asked.pk), None, channel=CHANNEL)
    screen.line(screen.style(f"Request {card.request}", "bold"))
    screen.fields([(name, text.split("\n")) for name, text in card_lines(card)])
    screen.line()
    return card.incomplete


def _narrow(arguments: argparse.Namespace) -> Any:
    """What is left of it, or None for all."""
    from requests_app.services import Narrow

    if not (arguments.minutes or arguments.max_uses or arguments.only):
        return None
    seconds = arguments.minutes * 60 if arguments.minutes else None
    return Narrow(seconds=seconds, max_uses=arguments.max_uses, labels=arguments.only)


def _ensure_shown(data: dict[str, Any], asked: Any, out: TextIO) -> None:
    """Raises Conflict for what a person at this terminal cannot have seen completely."""
    texts = list(_texts([asked.parsed_items, data.get("context"), data.get("reason"), asked.ticket, asked.client]))
    hidden = any(has_hidden(text) for text in texts)
    try:
        "".join(texts).encode(out.encoding or "ascii")
    except UnicodeEncodeError:
        hidden = True
    if hidden:
        raise Conflict(
            "decision.not_shown",
            "This request holds characters that a terminal cannot show, so it cannot be approved here. "
            f"Look at it in the browser: {data.get('url', '')}",
        )


def _texts(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        one = stack.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            stack += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            stack += one


def _ensure_may(asked: Any, person: Any, at: datetime, *, approving: bool) -> None:
    """Said before anybody types a password; the service has the last word."""
    from requests_app import selectors, standing
    from requests_app.lifecycle import ensure_pending

    ensure_pending(asked.status, said=selectors.how_it_ended(asked))
    if asked.pending_until <= at:
        raise Conflict("request.expired", f"This request expired at {asked.pending_until:%H:%M} UTC, undecided.")
    theirs = standing.standing_of(asked, person)
    if theirs.self_because:
        raise Forbidden("decision.self", f"{person.username} cannot decide on this request: {theirs.self_because}.")
    if not theirs.eligible and not asked.decisions.filter(user=person, live=True).exists():
        raise Forbidden(
            "decision.not_eligible", f"{person.username} is not among those who decide on this request now."
        )
    plan = standing.plan_of(asked)
    if approving and plan and CHANNEL not in plan.channels:
        raise Forbidden("decision.channel", f"This may be approved by {' or '.join(sorted(plan.channels))} only.")


def _password(arguments: argparse.Namespace, username: str) -> str:
    if arguments.password_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise Invalid("decision.password", "There is no terminal to ask for the password: use --password-stdin.")
    return getpass.getpass(f"Password of {username}: ")


def _authenticate(username: str, password: str) -> None:
    """By Django's backends, with allauth's limits. Raises Forbidden, Unavailable after too many tries."""
    from allauth.account.adapter import get_adapter
    from django.conf import settings
    from django.core.exceptions import ValidationError
    from django.http import HttpRequest

    from jitaccess.identity.proof import has_second_factor, is_required

    request = HttpRequest()
    address = urlsplit(settings.PUBLIC_URL)
    request.META |= {
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_NAME": address.hostname or "localhost",
        "SERVER_PORT": str(address.port or 443),
    }
    try:
        user = get_adapter(request).authenticate(request, username=username, password=password)
    except ValidationError as error:
        raise Unavailable("sign_in.too_many", " ".join(error.messages)) from None
    # allauth hands an inactive person back, to tell them so.
    if user is None or not user.is_active or user.get_username() != username:
        raise Forbidden(
            "sign_in.refused", f"Not the password of {username}, or they have none, or they are no longer active."
        )
    if is_required(user) or has_second_factor(user):
        raise Forbidden(
            "sign_in.second_factor", "A second factor is needed, which a terminal cannot ask for: use the web."
        )


def _password_proves() -> bool:
    from django.conf import settings

    return "password" in settings.STEP_UP_WITH


def _confirmed(arguments: argparse.Namespace, data: dict[str, Any], out: TextIO) -> bool:
    what = "Approve" if arguments.deciding == "approve" else "Deny"
    effect = _effect(arguments, data) if what == "Approve" else "no access"
    print(f"{what} this as {arguments.person} ({effect})? [y/N] ", end="", file=out, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _effect(arguments: argparse.Namespace, data: dict[str, Any]) -> str:
    """What the yes will mean."""
    long = f"access for {format_duration(arguments.minutes * 60) if arguments.minutes else shown.length(data)}"
    calls = f", {arguments.max_uses} calls" if arguments.max_uses else ""
    only = f", only {', '.join(arguments.only)}" if arguments.only else ""
    return visible(f"{long}{calls}{only}", limit=500)

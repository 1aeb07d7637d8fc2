"""Access for a while, for a reason, by somebody's yes: the gateway, its desk, and what agents ask with.

Exit codes: 0 done, 1 refused, denied or failed, 2 wrong usage, 3 not found, 4 conflict or already decided,
5 unreachable or unavailable, 130 interrupted. Messages go to stderr, `--json` prints one document.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import json
import os
import platform
import sys
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from jitaccess.kernel.errors import Conflict, JitAccessError, Unavailable
from jitaccess.runtime import (
    agent_commands,
    audit_commands,
    clock_commands,
    completion,
    decide_commands,
    desk_commands,
    doctor_command,
    key_commands,
    lock_commands,
    policy_commands,
    process_commands,
    request_commands,
    role_commands,
    server_commands,
    webhook_commands,
)
from jitaccess.runtime.access_files import command as access_commands
from jitaccess.runtime.exits import Exit, refused, say
from jitaccess.runtime.helping import named


def main(argv: list[str] | None = None) -> int:
    """Entry point; `argv` without the program's name."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "jitaccess.settings")
    try:
        return int(arguments.run(arguments)) if _offline(arguments) else _here(arguments)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read, has read enough
        return Exit.REFUSED
    except (JitAccessError, OSError, UnicodeDecodeError) as error:
        return refused(error, arguments.verb)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


def _offline(arguments: argparse.Namespace) -> bool:
    """Whether this needs no installation of one's own."""
    offline = getattr(arguments, "offline", False)
    return bool(offline(arguments) if callable(offline) else offline) or audit_commands.offline(arguments)


def _here(arguments: argparse.Namespace) -> int:
    """Run a command of this installation. Raises JitAccessError, OSError."""
    os.umask(0o077)  # what is written under var/ is for its owner
    try:
        process_commands.set_up(arguments)
    except (ImproperlyConfigured, OSError) as error:
        say(_configuration(error))
        return Exit.REFUSED
    from django.db import DatabaseError

    from jitaccess.runtime import preflight

    try:
        if arguments.run not in {_up, _migrate, _serve} and not getattr(arguments, "unprepared", False):
            try:
                preflight.ensure_current()
            except Conflict as error:
                say(error.detail)
                return Exit.REFUSED
        return int(arguments.run(arguments) or 0)
    except DatabaseError as error:
        raise Unavailable("database.unusable", preflight.unusable(error)) from error


def _configuration(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"Cannot use {error.filename}: {error.strerror}. var/ must be a directory that you may write to."
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jitaccess", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command", dest="verb")
    up = commands.add_parser("up", help="start everything in one process, with a demo on the first run")
    up.add_argument(
        "--no-worker", action="store_true", help="without Celery's worker and beat: nothing tidies up or tells"
    )
    up.add_argument("--no-demo", action="store_true", help="do not set up the demo on the first run")
    _listening(up)
    up.set_defaults(run=_up, role="up")
    story = commands.add_parser("demo", help="the whole loop, told in the terminal, on a throwaway installation")
    story.add_argument("--fast", action="store_true", help="without pauses for reading")
    story.set_defaults(run=_demo, offline=True)
    for role, what in (
        ("web", "pages for people; without Redis with worker, beat and sequencer"),
        ("gateway", "the MCP gateway"),
    ):
        process = commands.add_parser(role, help=f"serve {what}")
        _listening(process)
        process.set_defaults(run=_serve, role=role)
    migrate = commands.add_parser("migrate", help="bring the database to this version")
    migrate.set_defaults(run=_migrate)
    database = commands.add_parser("database", help="the database").add_subparsers(required=True, metavar="action")
    grant = database.add_parser(
        "grant", help="let a database role run jitaccess, without being able to change the ledger"
    )
    grant.add_argument("role")
    grant.set_defaults(run=_grant)
    request_commands.add(commands)
    policy_commands.add(commands)
    desk_commands.add(commands)
    decide_commands.add(commands)
    lock_commands.add(commands)
    agent_commands.add(commands)
    doctor_command.add(commands)
    completion.add(commands)
    access_commands.add(commands)
    role_commands.add(commands)
    audit_commands.add(commands)
    clock_commands.add(commands)
    server_commands.add(commands)
    webhook_commands.add(commands)
    key_commands.add(commands)
    process_commands.add(commands)
    people = commands.add_parser("people", help="people").add_subparsers(required=True, metavar="action")
    link = people.add_parser("link", help="a one-time sign-in link for a person")
    named(link, "username", "people", metavar="NAME")
    link.add_argument("--json", action="store_true", help="one JSON document")
    link.add_argument("--reset-second-factor", action="store_true", help="for who lost it: sign-ins ask for none then")
    link.set_defaults(run=_link)
    admin = people.add_parser("admin", help="make a person an admin, and a sign-in link for them")
    named(admin, "username", "people", metavar="NAME")
    admin.add_argument("--json", action="store_true", help="one JSON document")
    admin.set_defaults(run=_admin)
    return parser


def _listening(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)


def _up(arguments: argparse.Namespace) -> int:
    from jitaccess.runtime.up import up

    up(host=arguments.host, port=arguments.port, want_demo=not arguments.no_demo, celery=not arguments.no_worker)
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from jitaccess.runtime.story.play import play
    except ModuleNotFoundError as error:
        print(f"jitaccess: the demo needs the extra: pip install 'jitaccess[demo]' ({error})", file=sys.stderr)
        return 1
    return play(fast=arguments.fast)


def _serve(arguments: argparse.Namespace) -> int:
    from django.conf import settings

    from jitaccess.audit.heads import ensure_grown_from_newest
    from jitaccess.kernel.errors import Invalid
    from jitaccess.runtime.preflight import ensure_current
    from jitaccess.runtime.server import bind, serve

    if not settings.ON_POSTGRESQL:
        raise Invalid("database.sqlite", "Several processes need PostgreSQL: set DATABASE_URL, or run `jitaccess up`.")
    ensure_current()
    ensure_grown_from_newest()
    listener = bind(arguments.host, arguments.port)
    where = f"http://{arguments.host}:{listener.getsockname()[1]}"
    serve(
        role=arguments.role,
        listener=listener,
        gateway=arguments.role == "gateway",
        web=arguments.role == "web",
        on_ready=lambda: print(f"jitaccess {arguments.role} on {where}", flush=True),
    )
    return 0


def _migrate(_: argparse.Namespace) -> int:
    from django.conf import settings

    from jitaccess.runtime.preflight import lock_var, prepare_database

    with contextlib.nullcontext() if settings.ON_POSTGRESQL else lock_var(settings.VAR):
        print(prepare_database(repair=True) or "up to date")
    return 0


def _grant(arguments: argparse.Namespace) -> int:
    from jitaccess.audit.triggers import TABLES
    from jitaccess.store.roles import grant_running_role

    grant_running_role(arguments.role, append_only=TABLES)
    print(
        f"{arguments.role} can run jitaccess here, and can only add to the ledger. Say this again after each migration."
    )
    return 0


def _link(arguments: argparse.Namespace) -> int:
    from jitaccess.identity.services import user_by_name
    from jitaccess.runtime.links import sign_in_link

    person = user_by_name(arguments.username)
    if arguments.reset_second_factor:
        from jitaccess.identity.factors import reset_factors

        reset_factors(user=person, operator=operator())
    return _say_link(arguments, sign_in_link(person, operator=operator()))


def _admin(arguments: argparse.Namespace) -> int:
    from jitaccess.identity.services import make_admin
    from jitaccess.runtime.links import sign_in_link

    who = operator()
    return _say_link(arguments, sign_in_link(make_admin(username=arguments.username, operator=who), operator=who))


def _say_link(arguments: argparse.Namespace, url: str) -> int:
    print(json.dumps({"user": arguments.username, "url": url}) if arguments.json else url)
    return 0


def operator() -> Any:
    """Who runs the command, as the system knows them: recorded with what they do.

    A person of the same name is that person: who issues a token with a shell cannot approve what is asked with it.
    """
    from jitaccess.audit.recorder import Actor
    from jitaccess.identity.models import User

    name = getpass.getuser()
    person = User.objects.filter(username=name).first()
    return Actor(
        user=person.pk if person else None,
        user_name=f"operator:{name}@{platform.node()}",
        client="jitaccess command line",
    )

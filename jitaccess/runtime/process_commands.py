"""`jitaccess worker`, `beat`, `health`, `settings` and `check`: what an installation of several processes needs."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import sys
import urllib.error
import urllib.request
from dataclasses import asdict
from typing import Any

import django

from jitaccess import variables
from jitaccess.runtime.screen import Screen

log = logging.getLogger(__name__)

SEPARATE = frozenset({"web", "gateway", "worker", "beat"})


def add(commands: Any) -> None:
    """Register the subcommands. `offline` ones need no database, `unprepared` ones look at it themselves."""
    for role, what, run in (
        ("worker", "Celery's worker, the sequencer and the signer of the ledger", _worker),
        ("beat", "Celery's beat; of several, one is at work", _beat),
    ):
        process = commands.add_parser(role, help=f"{what}; needs DATABASE_URL and REDIS_URL")
        process.add_argument("--health-port", type=int, help="answer /healthz, /readyz and /metrics there")
        process.set_defaults(run=run, role=role, unprepared=True)
        if role == "worker":
            process.add_argument("--concurrency", type=int, default=4, help="tasks at once (default 4)")
    health = commands.add_parser("health", help="ask a process whether it is alive (exit code 0) or not (1)")
    health.add_argument("url", help="http://127.0.0.1:8000/readyz")
    health.set_defaults(run=_health, offline=True)
    listing = commands.add_parser("settings", help="every setting: name, type, default, meaning")
    listing.add_argument("--markdown", action="store_true", help="as docs/settings.md")
    listing.add_argument("--json", action="store_true", help="one JSON document")
    listing.set_defaults(run=_settings, offline=True)
    check = commands.add_parser("check", help="look for mistakes in the settings")
    check.add_argument("--deploy", action="store_true", help="for an installation that others can reach, too")
    check.add_argument("--json", action="store_true", help="one JSON document")
    check.set_defaults(run=_check, unprepared=True)


def set_up(arguments: argparse.Namespace) -> None:
    """Django, and the log: what runs apart is read by machines. Tells of variables that nobody reads."""
    role = getattr(arguments, "role", "")
    if role in SEPARATE and not sys.stderr.isatty():
        os.environ.setdefault("JITACCESS_LOG_FORMAT", "json")
    # What is imported is for ever: to look through it again and again, and once more at the end, is a quarter of all
    # that a short command costs.
    gc.disable()
    django.setup()
    gc.freeze()
    gc.enable()
    for sentence in variables.strangers(os.environ) if role else ():
        log.warning(sentence)


def _worker(arguments: argparse.Namespace) -> int:
    app = _prepared(arguments)
    from jitaccess.runtime import workers

    return workers.run_worker(
        app,
        concurrency=arguments.concurrency,
        health_port=(port := workers.health_port(arguments.health_port)),
        on_ready=lambda: _say("worker", port),
    )


def _beat(arguments: argparse.Namespace) -> int:
    app = _prepared(arguments)
    from jitaccess.runtime import workers

    workers.run_beat(
        app,
        health_port=(port := workers.health_port(arguments.health_port)),
        on_ready=lambda: _say("beat", port),
    )
    return 0


def _say(role: str, port: int) -> None:
    print(f"jitaccess {role}{f' on http://127.0.0.1:{port}' if port else ' is running'}", flush=True)


def _prepared(arguments: argparse.Namespace) -> Any:
    """The Celery application, when everything is there. Raises Invalid, Conflict, Unavailable."""
    from django.conf import settings

    from jitaccess.audit.heads import ensure_grown_from_newest
    from jitaccess.kernel.errors import Invalid
    from jitaccess.runtime.preflight import ensure_current

    if not settings.ON_POSTGRESQL:
        raise Invalid("database.sqlite", "Several processes need PostgreSQL: set DATABASE_URL, or run `jitaccess up`.")
    if not settings.REDIS_URL:
        raise Invalid(
            "redis.missing",
            f"`jitaccess {arguments.role}` needs Redis: set REDIS_URL. "
            "Without Redis leave worker and beat out: `jitaccess web` does their work.",
        )
    ensure_current()
    if arguments.role == "worker":
        ensure_grown_from_newest()
    from jitaccess.runtime.celery import app

    return app


def _health(arguments: argparse.Namespace) -> int:
    url = arguments.url
    if not url.startswith(("http://", "https://")):
        print("jitaccess: the URL must begin with http:// or https://", file=sys.stderr)
        return 2
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by way of somebody else
    try:
        with opener.open(url, timeout=3) as answer:
            return 0 if answer.status == 200 else 1
    except (urllib.error.URLError, OSError, ValueError) as error:
        print(f"jitaccess: {url}: {error}", file=sys.stderr)
        return 1


def _settings(arguments: argparse.Namespace) -> int:
    if arguments.markdown:
        print(variables.as_markdown(), end="")
    elif arguments.json:
        Screen().json({"items": [asdict(one) for one in variables.VARIABLES.values()]})
    else:
        for one in variables.VARIABLES.values():
            print(f"{one.name:<28} {one.meaning} (default: {one.default})")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from jitaccess.runtime.checks import report

    found = report(deploy=arguments.deploy)
    if arguments.json:
        Screen().json({"errors": found.errors, "lines": found.lines})
    else:
        for line in found.lines:
            print(line)
    return 1 if found.errors else 0

"""`jitaccess agents snippet`: the configuration of an MCP client."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from typing import Any

from jitaccess.catalog.snippets import CLIENTS, EVERY_SERVER, Snippet, snippet
from jitaccess.runtime.helping import named, verb


def add(agents: Any) -> None:
    """Register `agents snippet`."""
    parser = verb(
        agents,
        "snippet",
        _run,
        "print the configuration of an MCP client, with a token in it",
        example="jitaccess agents snippet demo-agent --client cursor --server git",
    )
    named(parser, "name", "agents", metavar="NAME")
    clients = ", ".join(sorted(CLIENTS))
    parser.add_argument(
        "--client",
        choices=sorted(CLIENTS),
        metavar="CLIENT",
        default="claude-code",
        help=f"{clients} (default: claude-code)",
    )
    parser.add_argument(
        "--server", default=EVERY_SERVER, metavar="SLUG", help="one server (default: all, tools as <slug>__<tool>)"
    )
    parser.add_argument("--for", dest="user", metavar="USER", help="on behalf of this person")
    parser.add_argument("--ttl", default="60m", help="how long the token is good, at most 60m (default 60m)")
    parser.add_argument("--no-token", action="store_true", help="a placeholder instead of a token")


def _run(arguments: argparse.Namespace) -> int:
    """The file's content goes to standard output, all else to standard error. Raises JitAccessError."""
    from django.conf import settings

    from jitaccess.catalog.services import server_by_slug
    from jitaccess.identity.services import agent_by_name, issue_token, user_by_name
    from jitaccess.kernel.durations import parse_duration
    from jitaccess.kernel.errors import Invalid
    from jitaccess.runtime.cli import operator

    agent = agent_by_name(arguments.name)
    user = user_by_name(arguments.user) if arguments.user else None
    if arguments.server != EVERY_SERVER and not server_by_slug(arguments.server).enabled:
        raise Invalid("server.disabled", f"{arguments.server} is disabled: jitaccess servers enable {arguments.server}")
    value = expires = None
    if not arguments.no_token:
        value, token = issue_token(agent=agent, user=user, ttl=parse_duration(arguments.ttl), operator=operator())
        expires = token.expires_at
    made = snippet(arguments.client, server=arguments.server, url=settings.PUBLIC_URL, token=value)
    if arguments.json:
        print(json.dumps(_as_data(arguments, made, value, expires)))
        return 0
    print(json.dumps(made.config, indent=2))
    for line in _explain(agent.name, made, expires):
        print(line, file=sys.stderr)
    return 0


def _as_data(arguments: argparse.Namespace, made: Snippet, value: str | None, expires: Any) -> dict[str, Any]:
    return {
        "client": arguments.client,
        "agent": arguments.name,
        "server": arguments.server,
        "config": made.config,
        "files": list(made.files),
        "commands": [shlex.join(command) for command in made.commands],
        "token": value,
        "expires_at": expires.isoformat() if expires else None,
    }


def _explain(agent: str, made: Snippet, expires: Any) -> list[str]:
    lines = ["", "This belongs into one of these files; what stands there already stays:"]
    lines += [f"  {file}" for file in made.files]
    if made.commands:
        lines += ["Then:", *(f"  {shlex.join(command)}" for command in made.commands)]
    lines += made.hints
    if expires:
        lines.append(
            f"The token acts as {agent}, is good until {expires:%Y-%m-%d %H:%M} UTC and is shown this once. "
            "Keep the file to yourself: chmod 600, and not into git."
        )
    else:
        lines.append(f"There is no token in it yet: jitaccess agents token {shlex.quote(agent)} --ttl 60m")
    return lines

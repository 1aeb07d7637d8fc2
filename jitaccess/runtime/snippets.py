"""`jitaccess agents snippet`: what to write where, so that an MCP client uses the gateway with a bearer token.

Formats: code.claude.com/docs/en/mcp, cursor.com/docs/mcp, code.visualstudio.com (MCP configuration reference),
github.com/geelen/mcp-remote, github.com/modelcontextprotocol/inspector (docs/mcp-server-configuration.md).
The token stands in files and variables, never in a command: other users of the machine can read those.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from jitaccess.runtime.helping import named, verb

PLACEHOLDER = "TOKEN"
EVERY_SERVER = "all"
_AGGREGATE = "jitaccess"
_INSPECTOR_FILE = "jitaccess.mcp.json"
_VARIABLE = "JITACCESS_AUTHORIZATION"
_INPUT = "jitaccess-token"


@dataclass(frozen=True, slots=True)
class Snippet:
    """The content of a client's file, the places where it may be, commands (argument by argument), and hints."""

    config: dict[str, Any]
    files: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...] = ()
    hints: tuple[str, ...] = ()


def _claude_code(name: str, url: str, token: str | None) -> Snippet:
    return Snippet(
        {"mcpServers": {name: {"type": "http", "url": url, "headers": _headers(token)}}},
        (".mcp.json in the project's folder",),
        (("claude", "mcp", "list"),),
        (
            "`claude mcp add --header` does the same, but shows the token in the list of processes.",
            "Start claude in that folder and agree to use the server; /mcp shows its state.",
        ),
    )


def _claude_desktop(name: str, url: str, token: str | None) -> Snippet:
    # Claude Desktop on Windows splits arguments at spaces: "Bearer …" goes through the environment.
    args = ["-y", "mcp-remote", url, "--transport", "http-only", "--header", f"Authorization:${{{_VARIABLE}}}"]
    address = urlsplit(url)
    if address.scheme == "http" and address.hostname not in {"localhost", "127.0.0.1"}:
        args.append("--allow-http")
    entry = {"command": "npx", "args": args, "env": {_VARIABLE: _headers(token)["Authorization"]}}
    return Snippet(
        {"mcpServers": {name: entry}},
        (
            "macOS: ~/Library/Application Support/Claude/claude_desktop_config.json",
            r"Windows: %APPDATA%\Claude\claude_desktop_config.json",
        ),
        hints=("Needs Node.js 18 or newer: npx fetches mcp-remote. Quit Claude Desktop and start it again.",),
    )


def _cursor(name: str, url: str, token: str | None) -> Snippet:
    return Snippet(
        {"mcpServers": {name: {"url": url, "headers": _headers(token)}}},
        ("~/.cursor/mcp.json for every project", ".cursor/mcp.json in a project's folder"),
    )


def _vscode(name: str, url: str, token: str | None) -> Snippet:
    config: dict[str, Any] = {"servers": {name: {"type": "http", "url": url, "headers": _headers(token)}}}
    if token is None:
        config["servers"][name]["headers"] = _headers(f"${{input:{_INPUT}}}")
        config["inputs"] = [
            {"type": "promptString", "id": _INPUT, "description": "Access token for jitaccess", "password": True}
        ]
    return Snippet(config, (".vscode/mcp.json in the workspace", "the file of `MCP: Open User Configuration`"))


def _inspector(name: str, url: str, token: str | None) -> Snippet:
    program = ("npx", "@modelcontextprotocol/inspector")
    chosen = ("--config", _INSPECTOR_FILE)
    return Snippet(
        {"mcpServers": {name: {"type": "http", "url": url, "headers": _headers(token)}}},
        (f"{_INSPECTOR_FILE}, anywhere",),
        (
            (*program, *chosen),
            (*program, "--cli", *chosen, "--server", name, "--method", "tools/list"),
        ),
        ("Needs Node.js 22.19 or newer. The first command opens the web page, the second one prints.",),
    )


CLIENTS = {
    "claude-code": _claude_code,
    "claude-desktop": _claude_desktop,
    "cursor": _cursor,
    "vscode": _vscode,
    "inspector": _inspector,
}


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token or PLACEHOLDER}"}


def snippet(client: str, *, server: str, url: str, token: str | None) -> Snippet:
    """For one of CLIENTS; `url` is the gateway's public one, `server` a slug or "all", no `token` a placeholder."""
    every = server == EVERY_SERVER
    return CLIENTS[client](_AGGREGATE if every else server, f"{url}/mcp" if every else f"{url}/mcp/{server}", token)


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

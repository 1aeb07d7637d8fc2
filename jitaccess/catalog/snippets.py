"""What to write where, so that an MCP client uses the gateway with a bearer token.

Formats: code.claude.com/docs/en/mcp, cursor.com/docs/mcp, code.visualstudio.com (MCP configuration reference),
github.com/geelen/mcp-remote, github.com/modelcontextprotocol/inspector (docs/mcp-server-configuration.md).
The token stands in files and variables, never in a command: other users of the machine can read those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

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

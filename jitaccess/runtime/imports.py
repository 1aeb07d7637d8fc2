"""Servers as other MCP clients describe them (`mcpServers`, or `servers` of VS Code), read into our terms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jitaccess.catalog.credentials import checked_header
from jitaccess.catalog.http_servers import checked_url
from jitaccess.gateway.upstream.config import parse_entry
from jitaccess.kernel.errors import Invalid, JitAccessError
from jitaccess.kernel.text import visible
from jitaccess.runtime.servers_file import read_json

# What other clients keep beside a server and what changes nothing here: every tool waits for its review anyway.
_DROPPED = frozenset(
    {
        "type", "description", "disabled", "alwaysAllow", "autoApprove", "timeout", "gallery", "version", "dev", "icon",
        "tools", "trust", "includeTools", "excludeTools", "disabledTools", "startup_timeout_sec", "transport", "name",
    }
)  # fmt: skip
_KEPT = frozenset(
    {"command", "args", "env", "cwd", "era", "shared", "limits", "url", "headers", "serverUrl", "httpUrl"}
)
_PLACEHOLDER = re.compile(r"\$\{[^}]*\}")


@dataclass(frozen=True, slots=True)
class Found:
    """One entry: `stdio` for the operator's file, or `url` with `headers` for a row, or why it is neither. `stdio` and
    `headers` hold secrets.
    """

    name: str
    slug: str
    stdio: Mapping[str, Any] | None = field(default=None, repr=False)
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    era: str = "auto"
    shared: bool = False
    problem: str = ""


def read_client_file(path: Path) -> list[Found]:
    """All entries of a client's file, in its order, each usable or with its problem. Raises Invalid for the file."""
    document = read_json(path)
    nested = document.get("mcp")
    for holder in (document, nested if isinstance(nested, dict) else {}):
        for key in ("mcpServers", "servers"):
            servers = holder.get(key)
            if isinstance(servers, dict):
                return _distinct([_found(name, entry) for name, entry in servers.items()])
    raise Invalid("import.unknown", f'{path} has neither "mcpServers" nor "servers", so it describes no MCP servers.')


def slugified(name: str) -> str:
    """A name as servers have it here, from any name; "" when nothing of it is left."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:32].strip("-")


def _distinct(found: list[Found]) -> list[Found]:
    seen: dict[str, str] = {}
    result = []
    for one in found:
        other = seen.setdefault(one.slug, one.name)
        if one.slug and other != one.name:
            clash = f'it would have the same name here as "{visible(other, limit=60)}"; rename one of them'
            one = Found(one.name, one.slug, problem=clash)  # noqa: PLW2901 - the same entry, refused
        result.append(one)
    return result


def _found(name: str, entry: Any) -> Found:
    slug = slugified(name)
    try:
        if not slug:
            raise Invalid("import.name", "its name has no letter or digit that a name here can have")
        return _read(name, slug, entry)
    except JitAccessError as error:
        said = error.detail.rstrip(".").removeprefix(f'this entry: server "{slug}": ')
        return Found(name, slug, problem=said)


def _read(name: str, slug: str, entry: Any) -> Found:
    if not isinstance(entry, dict):
        raise Invalid("import.entry", "it is no object")
    if entry.get("disabled") not in (None, False):
        raise Invalid("import.disabled", "it is disabled in that file")
    if unknown := sorted(entry.keys() - _DROPPED - _KEPT):
        raise Invalid("import.key", f'"{visible(unknown[0], limit=40)}" has no meaning here')
    url = entry.get("url") or entry.get("serverUrl") or entry.get("httpUrl")
    kind = entry.get("type") or entry.get("transport")
    if kind == "sse":
        raise Invalid("import.sse", "it uses the old HTTP+SSE transport; ask for its streamable HTTP address")
    _refuse_placeholders(entry)
    if url is None:
        wanted = {
            key: entry[key] for key in ("command", "args", "env", "cwd", "era", "shared", "limits") if key in entry
        }
        parse_entry(slug, wanted)
        return Found(name, slug, stdio=wanted)
    if "command" in entry:
        raise Invalid("import.both", "it has both a command and a URL")
    headers = entry.get("headers", {})
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        raise Invalid("import.headers", '"headers" must be an object of strings')
    parse_entry(slug, {"url": url, "headers": headers} | {key: entry[key] for key in ("era", "shared") if key in entry})
    return Found(
        name,
        slug,
        url=checked_url(url),
        headers={checked_header(header): value for header, value in headers.items()},
        era=entry.get("era", "auto"),
        shared=entry.get("shared", False),
    )


def _refuse_placeholders(value: Any) -> None:
    """What a client asks its user or its environment for would otherwise be passed on as it stands."""
    if isinstance(value, str) and (match := _PLACEHOLDER.search(value)):
        shown = visible(match.group(), limit=40)
        raise Invalid("import.placeholder", f"it needs a value for {shown}, which is not filled in here; write it out")
    for member in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_placeholders(member)

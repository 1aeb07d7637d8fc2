"""The operator's file of servers, in the `mcpServers` form that MCP clients already use."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn, TypeAlias, cast

from jitaccess.egress.addresses import read_url
from jitaccess.egress.errors import EgressRefused
from jitaccess.egress.headers import NAME, OURS, VALUE
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.text import visible

# `older` is never configured: a server of either era that is greeted for a client of the older one.
Era = Literal["auto", "modern", "legacy", "older"]

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ERAS = ("auto", "modern", "legacy")
# Written by other MCP clients; none of them changes what is started.
_IGNORED = frozenset({"type", "description", "disabled", "alwaysAllow", "autoApprove", "timeout"})
_STDIO_KEYS = frozenset({"command", "args", "env", "cwd", "era", "shared", "limits"})
_HTTP_KEYS = frozenset({"url", "headers", "era", "shared"})
_HTTP_TYPES = ("http", "streamable-http", "streamableHttp")
_MAX_FILE_BYTES = 1 << 20
# What a process may be limited to (getrlimit(2)), with the least that is not a mistake.
LIMITS: Mapping[str, int] = MappingProxyType({"memory_mb": 16, "cpu_seconds": 1, "open_files": 16})


@dataclass(frozen=True, slots=True)
class StdioServer:
    """How to start one server: an argv, never a shell line. `start_timeout` is in seconds, for start and handshake.

    `shared` says that the server keeps no state and no identity, so that every principal may use one process. `limits`
    are those of the process, by the names in LIMITS.
    """

    slug: str
    command: str
    # Programs are given their secrets in either.
    args: tuple[str, ...] = field(repr=False)
    env: Mapping[str, str] = field(repr=False)
    cwd: str | None
    era: Era = "auto"
    shared: bool = False
    start_timeout: float = 20
    limits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A server over streamable HTTP. `headers` are sent with each request: they hold its credential.

    `shared` says, for a server of the older era, that every principal may use one session.
    """

    slug: str
    url: str = field(repr=False)  # a query may hold a key
    headers: Mapping[str, str] = field(repr=False)
    era: Era = "auto"
    shared: bool = False
    start_timeout: float = 20


ServerConfig: TypeAlias = StdioServer | HttpServer


def load_servers_file(path: str | Path) -> dict[str, ServerConfig]:
    """Return the servers of `{"mcpServers": {slug: {...}}}` by slug.

    A server is {"command", "args", "env", "cwd", "era", "shared", "limits"} or {"url", "headers", "era", "shared"}.
    Whether a URL may be reached is asked when it is.

    Raises Invalid "servers_file.invalid" with one sentence that names file, server and key.
    """
    try:
        with Path(path).open("rb") as file:
            body = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror}")
    return servers_in(body, path)


def servers_in(body: bytes, path: str | Path) -> dict[str, ServerConfig]:
    """As load_servers_file, from what is, or shall be, the content of the file at `path`."""
    if len(body) > _MAX_FILE_BYTES:
        _refuse(path, f"is larger than {_MAX_FILE_BYTES} bytes")
    try:
        document = strictjson.decode(body)
    except Invalid as error:
        _refuse(path, f"is not strict JSON: {error.detail}")
    servers = document.get("mcpServers")
    if not isinstance(servers, dict):
        _refuse(path, 'must hold an object "mcpServers"')
    return {slug: _server(path, slug, entry) for slug, entry in servers.items()}


def parse_entry(slug: str, entry: object) -> ServerConfig:
    """One entry as it would stand in the file. Raises Invalid "servers_file.invalid"."""
    return _server("this entry", slug, entry)


def _server(path: str | Path, slug: str, entry: object) -> ServerConfig:
    def refuse(problem: str) -> NoReturn:
        _refuse(path, f'server "{visible(slug, limit=40)}": {problem}')

    if not _SLUG.fullmatch(slug):
        refuse("the name must be 1 to 32 of a-z, 0-9 and -, with no - at either end")
    if not isinstance(entry, dict):
        refuse("must be an object")
    over_http = "url" in entry
    _check_kind(entry, over_http, refuse)
    for key in entry.keys() - (_HTTP_KEYS if over_http else _STDIO_KEYS) - _IGNORED:
        refuse(f'the key "{visible(key, limit=40)}" is not known')
    for key, good, wanted in _HTTP_RULES if over_http else _STDIO_RULES:
        if (key in entry or key in ("url", "command")) and not good(entry.get(key)):
            refuse(f'"{key}" must be {wanted}')
    era, shared = cast(Era, entry.get("era", "auto")), entry.get("shared", False)
    if not over_http:
        env = MappingProxyType(dict(entry.get("env", {})))
        limits = MappingProxyType(dict(entry.get("limits", {})))
        return StdioServer(
            slug, entry["command"], tuple(entry.get("args", ())), env, entry.get("cwd"), era, shared, limits=limits
        )
    try:
        read_url(entry["url"])
        return HttpServer(slug, entry["url"], check_headers(entry.get("headers", {})), era, shared)
    except (EgressRefused, Invalid) as error:
        refuse(error.detail.rstrip("."))


def _check_kind(entry: dict[str, Any], over_http: bool, refuse: Callable[[str], NoReturn]) -> None:
    kind = entry.get("type")
    if entry.get("disabled") not in (None, False):
        refuse('"disabled" is not supported, remove the server from the file instead')
    if kind == "sse":
        refuse('"type": "sse" is the HTTP+SSE transport that MCP has replaced: use the server\'s streamable HTTP URL')
    if over_http and "command" in entry:
        refuse('has a "command" and a "url": it must be one or the other')
    if kind not in (None, *(_HTTP_TYPES if over_http else ("stdio",))):
        refuse('"type" must be "http" for a server with a "url", and "stdio" for one with a "command"')


def check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return the headers of a server, read-only. Raises Invalid "server.bad_header", which never shows a value."""
    for name, value in headers.items():
        shown = visible(name, limit=40)
        if not NAME.fullmatch(name):
            raise Invalid("server.bad_header", f'"{shown}" is no name of a header.')
        if OURS.fullmatch(name):
            raise Invalid("server.bad_header", f'The header "{shown}" is set by the gateway.')
        if not VALUE.fullmatch(value):
            raise Invalid(
                "server.bad_header", f'The value of "{shown}" must be visible ASCII, with spaces inside only.'
            )
    if len({name.lower() for name in headers}) < len(headers):
        raise Invalid("server.bad_header", "A header is given twice.")
    return MappingProxyType(dict(headers))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and "\0" not in item for item in value)


def _is_env(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _ENV_NAME.fullmatch(name) and isinstance(text, str) and "\0" not in text for name, text in value.items()
    )


def _is_limits(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name in LIMITS and type(number) is int and LIMITS[name] <= number <= 1 << 30 for name, number in value.items()
    )


def _is_headers(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


_BOTH_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("era", lambda value: value in _ERAS, "one of " + ", ".join(f'"{era}"' for era in _ERAS)),
    ("shared", lambda value: isinstance(value, bool), "true or false"),
)
_STDIO_RULES = (
    ("command", _is_text, "a non-empty string (the program alone; what follows goes into args)"),
    ("args", _is_texts, "an array of strings"),
    ("env", _is_env, "an object of variable names and string values"),
    ("cwd", lambda value: _is_text(value) and Path(value).is_absolute(), "an absolute path"),
    ("limits", _is_limits, "an object with whole numbers: " + ", ".join(f'"{name}"' for name in LIMITS)),
    *_BOTH_RULES,
)
_HTTP_RULES = (
    ("url", _is_text, "a non-empty string"),
    ("headers", _is_headers, "an object of header names and string values"),
    *_BOTH_RULES,
)


def _refuse(path: str | Path, problem: str) -> NoReturn:
    raise Invalid("servers_file.invalid", f"{path}: {problem}.", path=str(path))

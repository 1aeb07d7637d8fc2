"""The operator's file of stdio servers, in the `mcpServers` form that MCP clients already use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn, cast

from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.text import visible

Era = Literal["auto", "modern", "legacy"]

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ERAS = ("auto", "modern", "legacy")
# Written by other MCP clients; none of them changes what is started.
_IGNORED = frozenset({"type", "description", "disabled", "alwaysAllow", "autoApprove", "timeout"})
_KEYS = frozenset({"command", "args", "env", "cwd", "era", "shared"})
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class StdioServer:
    """How to start one server: an argv, never a shell line. `start_timeout` is in seconds, for start and handshake.

    `shared` says that the server keeps no state and no identity, so that every principal may use one process.
    """

    slug: str
    command: str
    args: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str | None
    era: Era = "auto"
    shared: bool = False
    start_timeout: float = 20


def load_servers_file(path: str | Path) -> dict[str, StdioServer]:
    """Return the servers of `{"mcpServers": {slug: {"command", "args", "env", "cwd", "era", "shared"}}}` by slug.

    Raises Invalid "servers_file.invalid" with one sentence that names file, server and key.
    """
    try:
        with Path(path).open("rb") as file:
            body = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        _refuse(path, f"cannot be read: {error.strerror}")
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


def _server(path: str | Path, slug: str, entry: object) -> StdioServer:
    def refuse(problem: str) -> NoReturn:
        _refuse(path, f'server "{visible(slug, limit=40)}": {problem}')

    if not _SLUG.fullmatch(slug):
        refuse("the name must be 1 to 32 of a-z, 0-9 and -, with no - at either end")
    if not isinstance(entry, dict):
        refuse("must be an object")
    if "url" in entry or entry.get("type") not in (None, "stdio"):
        refuse('"url" (a server over HTTP) is not supported yet, only servers with a "command"')
    if entry.get("disabled") not in (None, False):
        refuse('"disabled" is not supported, remove the server from the file instead')
    for key in entry.keys() - _KEYS - _IGNORED:
        refuse(f'the key "{visible(key, limit=40)}" is not known')
    for key, good, wanted in (
        ("command", _is_text, "a non-empty string (the program alone; what follows goes into args)"),
        ("args", _is_texts, "an array of strings"),
        ("env", _is_env, "an object of variable names and string values"),
        ("cwd", lambda value: _is_text(value) and Path(value).is_absolute(), "an absolute path"),
        ("era", lambda value: value in _ERAS, "one of " + ", ".join(f'"{era}"' for era in _ERAS)),
        ("shared", lambda value: isinstance(value, bool), "true or false"),
    ):
        if (key in entry or key == "command") and not good(entry.get(key)):
            refuse(f'"{key}" must be {wanted}')
    return StdioServer(
        slug=slug,
        command=entry["command"],
        args=tuple(entry.get("args", ())),
        env=MappingProxyType(dict(entry.get("env", {}))),
        cwd=entry.get("cwd"),
        era=cast(Era, entry.get("era", "auto")),
        shared=entry.get("shared", False),
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) and "\0" not in item for item in value)


def _is_env(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _ENV_NAME.fullmatch(name) and isinstance(text, str) and "\0" not in text for name, text in value.items()
    )


def _refuse(path: str | Path, problem: str) -> NoReturn:
    raise Invalid("servers_file.invalid", f"{path}: {problem}.", path=str(path))

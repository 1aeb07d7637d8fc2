"""Changing the operator's file of servers: read, change, check, replace as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.conf import settings

from jitaccess.gateway.upstream.config import servers_in
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.files import folder_locked, replace_file

MAX_BYTES = 1 << 20
Entries = dict[str, Any]


def entries() -> Entries:
    """The entries of the file by slug, as they stand there. Raises Invalid when it is not well-formed."""
    return _servers(_document())


def change_file(change: Callable[[Entries], None], *, commit: Callable[[], None] = lambda: None) -> None:
    """Let `change` edit the entries, check the result, and put it in place, for its owner only (mode 0600).

    `commit` runs once the new file is in place; when it fails the old one is put back. Raises Invalid: then nothing
    has happened.
    """
    path: Path = settings.SERVERS_FILE
    try:
        with folder_locked(path.resolve().parent):
            _change_locked(path, change, commit)
    except OSError as error:
        raise Invalid("servers_file.unwritable", f"{path} cannot be changed: {error.strerror}.") from error


def _change_locked(path: Path, change: Callable[[Entries], None], commit: Callable[[], None]) -> None:
    document = _document()
    before = path.read_bytes() if path.exists() else None
    had = json.dumps(document)
    change(_servers(document))
    if json.dumps(document) == had:
        commit()
        return
    content = json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
    servers_in(content, path)  # what would not load must not be written: the same reader says so
    replace_file(path, content)
    try:
        commit()
    except BaseException:
        if before is None:
            path.unlink(missing_ok=True)
        else:
            replace_file(path, before)
        raise


def _document() -> Entries:
    path: Path = settings.SERVERS_FILE
    if not path.exists():
        return {"mcpServers": {}}
    return read_json(path)


def read_json(path: Path) -> Entries:
    """A JSON object from a file of at most 1 MiB. Raises Invalid with the path."""
    try:
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Invalid("servers_file.invalid", f"{path} cannot be read: {error.strerror}.") from error
    if len(body) > MAX_BYTES:
        raise Invalid("servers_file.invalid", f"{path} is larger than {MAX_BYTES} bytes.")
    try:
        return dict(strictjson.decode(body.removeprefix(b"\xef\xbb\xbf")))
    except Invalid as error:
        raise Invalid("servers_file.invalid", f"{path} is not strict JSON (no comments): {error.detail}") from None


def _servers(document: Entries) -> Entries:
    servers = document.setdefault("mcpServers", {})
    if not isinstance(servers, dict):
        raise Invalid("servers_file.invalid", f'{settings.SERVERS_FILE}: "mcpServers" must be an object.')
    return servers

"""The headers in which a client repeats arguments of its call: they must say what the body says (2026-07-28, "Custom
Headers from Tool Parameters"), or whoever decides by headers and the server would see two different calls.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from jitaccess.gateway.core import Clock
from jitaccess.gateway.endpoint import Target
from jitaccess.gateway.upstream.headers import Mirror, mirror_of
from jitaccess.gateway.wire import HEADER_MISMATCH, RpcError, decode_header
from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.decide import Visibility, Who, decide, visibility
from jitaccess.policy.engine.rules import Snapshot

# What the specification lets mean the same number.
_WHOLE = re.compile(r"(-?[0-9]{1,20})(?:\.0{1,20})?")


def check(
    snapshot: Snapshot, who: Who, clock: Clock, target: Target, arguments: JsonObject, given: Mapping[str, str]
) -> None:
    """Compare the headers `given` (by names in lower case) with what the tool's definition wants repeated.

    Raises RpcError(-32020, HTTP 400). Says nothing about a tool that the caller may not know of.
    """
    server = snapshot.servers.get(target.server) if target.server is not None else None
    tool = server.tools.get(target.tool) if server is not None else None
    wanted = _wanted(tool.definition) if tool is not None else {}
    if not wanted:
        return
    verdict = decide(snapshot, who=who, server=target.server, tool=target.tool, at=clock.now())
    if visibility(verdict) is not Visibility.HIDDEN:
        for name, path in wanted.items():
            _compare(name, _at(arguments, path), given.get(name.lower()))


@lru_cache(maxsize=10_000)
def _wanted(definition: str) -> Mirror:
    """By the definition that was reviewed. Nothing of one that is invalid: no client sends headers for that."""
    if "x-mcp-header" not in definition:
        return {}
    try:
        return mirror_of(strictjson.decode(definition.encode()).get("inputSchema"))
    except ValueError:
        return {}


def _at(arguments: Json, path: tuple[str, ...]) -> Json:
    for step in path:
        arguments = arguments.get(step) if isinstance(arguments, dict) else None
    return arguments


def _compare(name: str, value: Json, given: str | None) -> None:
    said, text = decode_header(given), _text(value)
    whole = _WHOLE.fullmatch(said) if said and not isinstance(value, str | bool) else None
    if (whole[1] if whole else said) != text:
        raise RpcError(HEADER_MISMATCH, f"The header {name} and the argument that it repeats differ.", status=400)


def _text(value: Json) -> str | None:
    """How a header says it; None: absent, null, or of a type that no header says."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, str | int) else None

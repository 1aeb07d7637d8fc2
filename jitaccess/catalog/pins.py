"""Tool pins: the digest of what an admin reviewed, and which names and definitions are never trusted."""

from __future__ import annotations

import re2  # type: ignore[import-untyped]  # it ships no types

from jitaccess.kernel.canonical import digest
from jitaccess.kernel.strictjson import Json, JsonObject

PINNED_MEMBERS = ("name", "title", "description", "inputSchema", "outputSchema", "annotations", "execution", "icons")
# MCP 2026-07-28, server/tools, "Tool Names".
_NAME = re2.compile(r"[A-Za-z0-9_.-]{1,128}")
# The gateway's own tools: a server that offers one of these names is impersonating the request desk.
RESERVED_NAMES = frozenset(
    {
        "request_access",
        "check_request",
        "list_requestable",
        "my_access",
        "release_access",
        "cancel_request",
        "extend_access",
        "call_tool",
    }
)


def pin_of(definition: JsonObject) -> str:
    """SHA-256 over canonical JSON of everything in a definition that steers a model or a client."""
    value: dict[str, Json] = {name: definition[name] for name in PINNED_MEMBERS if name in definition}
    return digest(value, domain="jitaccess-tool-v1")


_KINDS: dict[str, type | tuple[type, ...]] = {
    "title": str,
    "description": str,
    "inputSchema": dict,
    "outputSchema": dict,
    "annotations": dict,
    "execution": dict,
    "icons": list,
    "_meta": dict,
}


def misshapen(definition: JsonObject) -> str:
    """The first member that is not what MCP says, "" when all are: one such tool would break a client's whole list."""
    for name, kind in _KINDS.items():
        if (name in definition or name == "inputSchema") and not isinstance(definition.get(name), kind):
            return name
    schema = definition["inputSchema"]
    return "" if isinstance(schema, dict) and schema.get("type") == "object" else "inputSchema.type"


def acceptable_name(name: object) -> bool:
    """Whether a tool of this name may be offered at all."""
    return isinstance(name, str) and bool(_NAME.fullmatch(name)) and name not in RESERVED_NAMES

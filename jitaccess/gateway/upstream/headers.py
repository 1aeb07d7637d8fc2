"""The headers that mirror a request of 2026-07-28 (basic/transports/streamable-http, "Request Metadata")."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import TypeAlias

from jitaccess.kernel.strictjson import MAX_SAFE_INTEGER, Json, JsonObject
from jitaccess.kernel.text import visible

from .handshake import MODERN
from .process import logger

# Header name and the path of the argument that it mirrors.
Mirror: TypeAlias = "dict[str, tuple[str, ...]]"

_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_ANNOTATION = "x-mcp-header"
# Their members are names of subschemas, or plain data: neither is an annotation.
_NAME_MAPS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_DATA = frozenset({"default", "examples", "const", "enum", "required"})


def standard(method: str, params: JsonObject) -> dict[str, str]:
    """The headers that every request has."""
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": method}
    name = params.get(_NAMED_BY.get(method, ""))
    if isinstance(name, str):
        headers["Mcp-Name"] = encode(name)
    return headers


def encode(value: str) -> str:
    """A header value, or its base64 sentinel where it would not survive as one ("Value Encoding")."""
    if _PLAIN.fullmatch(value) and not (value.startswith("=?base64?") and value.endswith("?=")):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


def mirror_of(schema: Json) -> Mirror:
    """What an inputSchema wants mirrored. Raises ValueError for annotations that make the tool invalid."""
    found: Mirror = {}
    for path, annotated in _reachable(schema, ()):
        name = annotated[_ANNOTATION]
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ValueError("x-mcp-header is no name of a header")
        if annotated.get("type") not in ("string", "integer", "boolean"):
            raise ValueError("x-mcp-header stands at a parameter that is no string, integer or boolean")
        if name.lower() in (other.lower().removeprefix("mcp-param-") for other in found):
            raise ValueError("two parameters have the same x-mcp-header")
        found[f"Mcp-Param-{name}"] = path
    if _count(schema) != len(found):
        raise ValueError("x-mcp-header stands where no plain path of properties leads")
    return found


def valid(slug: str, tools: list[JsonObject]) -> tuple[list[JsonObject], dict[str, Mirror]]:
    """The tools of a server whose annotations can be used, and by name what those want mirrored."""
    kept: list[JsonObject] = []
    mirrors: dict[str, Mirror] = {}
    for tool in tools:
        try:
            mirror = mirror_of(tool.get("inputSchema"))
        except ValueError as error:
            shown = visible(str(tool["name"]), limit=128)
            logger.warning('server %s: the tool "%s" is left out: %s', slug, shown, error)
            continue
        kept.append(tool)
        if mirror:
            mirrors[str(tool["name"])] = mirror
    return kept, mirrors


def mirrored(mirror: Mirror, arguments: Json) -> dict[str, str]:
    """The headers for these arguments; what is absent, null or of another type has none."""
    headers: dict[str, str] = {}
    for name, path in mirror.items():
        value = arguments
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool):
            headers[name] = "true" if value else "false"
        elif isinstance(value, str):
            headers[name] = encode(value)
        elif isinstance(value, int) and abs(value) <= MAX_SAFE_INTEGER:
            headers[name] = str(value)
    return headers


def _reachable(schema: Json, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], JsonObject]]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    for name, inner in properties.items() if isinstance(properties, dict) else ():
        if isinstance(inner, dict):
            if _ANNOTATION in inner:
                yield (*path, name), inner
            yield from _reachable(inner, (*path, name))


def _count(schema: Json) -> int:
    if isinstance(schema, list):
        return sum(map(_count, schema))
    if not isinstance(schema, dict):
        return 0
    total = int(_ANNOTATION in schema)
    for key, value in schema.items():
        if key in _NAME_MAPS and isinstance(value, dict):
            total += sum(map(_count, value.values()))
        elif key not in _DATA and key != _ANNOTATION:
            total += _count(value)
    return total

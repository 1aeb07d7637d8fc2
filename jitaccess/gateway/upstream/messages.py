"""What a connection does with JSON-RPC messages, whatever carries them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import Json, JsonObject

from .errors import RemoteError, UpstreamError
from .handshake import META, modern_meta

MAX_PENDING = 256  # calls in progress on one connection
MAX_TOOLS = 1000
MAX_TOOL_PAGES = 100
MAX_LIST_BYTES = 8 << 20  # of all pages: they are held together, and so is what is kept of them

JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
LOGGED = "notifications/message"
HEADER_MISMATCH = -32020
# What a server of the older era may ask of its client.
QUESTIONS = frozenset({"elicitation/create", "sampling/createMessage", "roots/list"})
# Per-request fields of the modern era: a legacy server gets its own in `initialize`.
_MODERN_ONLY = {META + name for name in ("protocolVersion", "clientInfo", "clientCapabilities", "logLevel")}
_PLAIN = modern_meta({})
_RESULT_TYPES: tuple[Json, ...] = ("complete", "input_required")
_METHOD_NOT_FOUND: JsonObject = {"code": -32601, "message": "Method not found"}

OnNotification = Callable[[str, JsonObject], None]
Permit = Callable[[], bool]


def request(call_id: int, method: str, params: JsonObject) -> JsonObject:
    return {"jsonrpc": "2.0", "id": call_id, "method": method, "params": params}


def notification(method: str, params: JsonObject | None = None) -> JsonObject:
    return {"jsonrpc": "2.0", "method": method} | ({} if params is None else {"params": params})


def with_meta(params: JsonObject, *, modern: bool, progress_token: int | None) -> JsonObject:
    """Return `params` with the `_meta` of the era: never the caller's progress token, version or client info."""
    given = params.get("_meta")
    if given is None and modern and progress_token is None:
        return {**params, "_meta": _PLAIN}
    meta = {key: value for key, value in given.items() if key != "progressToken"} if isinstance(given, dict) else {}
    if progress_token is not None:
        meta["progressToken"] = progress_token
    if modern:
        return {**params, "_meta": modern_meta(meta)}
    meta = {key: value for key, value in meta.items() if key not in _MODERN_ONLY}
    rest = {key: value for key, value in params.items() if key != "_meta"}
    return {**rest, "_meta": meta} if meta else rest


def read_answer(message: JsonObject, *, modern: bool) -> JsonObject | RemoteError | None:
    """Return the result or the server's own error; None when the message is neither."""
    result, error = message.get("result"), message.get("error")
    # 2026-07-28 basic/index: an unrecognised resultType MUST be considered invalid. Legacy has no such member.
    known = not modern or (isinstance(result, dict) and result.get("resultType", "complete") in _RESULT_TYPES)
    if "error" not in message and isinstance(result, dict) and known:
        return result
    # type(), not isinstance(): true is an int to Python
    if "result" not in message and isinstance(error, dict) and type(error.get("code")) is int:
        code, text = error["code"], error.get("message")
        assert isinstance(code, int)
        return RemoteError(code, text if isinstance(text, str) else "", error.get("data"))
    return None


def refusal(method: str, call_id: Json) -> JsonObject:
    """The answer to the server's own request, so that it does not wait for somebody who is not there."""
    answer: JsonObject = {"result": {}} if method == "ping" else {"error": _METHOD_NOT_FOUND}
    return {"jsonrpc": "2.0", "id": call_id, **answer}


def nonsense(slug: str, what: str) -> UpstreamError:
    return UpstreamError("upstream.invalid_response", f'The server "{slug}" is wrong: {what}.', sent=True, server=slug)


async def list_tools(slug: str, ask: Callable[..., Awaitable[JsonObject]], seconds: float) -> list[JsonObject]:
    """Return the tools of all pages as the server wrote them; `ask` is the connection's `request`.

    Beyond MAX_TOOLS, MAX_TOOL_PAGES or MAX_LIST_BYTES it raises upstream.invalid_response: half a list would hide the
    other half.
    """
    deadline = time.monotonic() + seconds
    tools: list[JsonObject] = []
    size = 0
    cursors: set[str] = set()
    params: JsonObject = {}
    for _ in range(MAX_TOOL_PAGES):
        page = await ask("tools/list", params, timeout=max(0.0, deadline - time.monotonic()))
        found: Any = page.get("tools")
        cursor = page.get("nextCursor")
        if not isinstance(found, list):
            raise nonsense(slug, 'the result of "tools/list" has no array "tools"')
        for tool in found:
            if not isinstance(tool, dict) or not isinstance(tool.get("name"), str):
                raise nonsense(slug, "a listed tool is not an object with a name")
            tools.append(tool)
            size += len(strictjson.encode(tool))
        if len(tools) > MAX_TOOLS:
            raise nonsense(slug, f"it lists more than {MAX_TOOLS} tools")
        if size > MAX_LIST_BYTES:
            raise nonsense(slug, f"its tool list is larger than {MAX_LIST_BYTES} bytes")
        if cursor is None:
            return tools
        if not isinstance(cursor, str) or cursor in cursors:
            raise nonsense(slug, "a cursor of its tool list is no string or comes twice")
        cursors.add(cursor)
        params = {"cursor": cursor}
    raise nonsense(slug, f"its tool list has more than {MAX_TOOL_PAGES} pages")

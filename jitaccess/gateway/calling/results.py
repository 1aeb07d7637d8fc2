"""What a server's answer must be before it is passed on: of the right shape and size, and not in the gateway's name."""

from __future__ import annotations

from jitaccess.gateway.calling.denials import NAMESPACE
from jitaccess.gateway.upstream.confidence import masked
from jitaccess.gateway.upstream.config import ServerConfig
from jitaccess.gateway.upstream.errors import RemoteError, UpstreamError
from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import visible

# Of an error: what it says, in characters, and what it adds, in bytes. A result has limits of its own.
MAX_MESSAGE = 2000
MAX_DATA = 64 * 1024

# The member of a result that holds a list of objects, by method (2026-07-28 and 2025-11-25, "Schema Reference").
_LISTS = {"tools/call": "content", "resources/read": "contents", "prompts/get": "messages"}
_DICT = frozenset({dict})
_CALLED = {
    "tools/call": "a tool result",
    "resources/read": "the content of a resource",
    "prompts/get": "a prompt",
    "completion/complete": "a completion",
}


def check(method: str, answer: JsonObject, *, limit: int) -> int:
    """The size of a usable result, in bytes. Raises UpstreamError for one that no client could use."""
    if answer.get("resultType", "complete") != "complete" or not _is_usable(method, answer):
        raise _invalid(f"The server's answer is not {_CALLED[method]}.")
    return check_size(answer, limit=limit)


def check_size(answer: JsonObject, *, limit: int) -> int:
    """The size in bytes. Raises UpstreamError beyond `limit`."""
    size = len(strictjson.encode_read(answer))
    if size > limit:
        raise _invalid(f"The result has {size} bytes; {limit} are passed on.")
    return size


def _is_usable(method: str, answer: JsonObject) -> bool:
    if method == "completion/complete":
        completion = answer.get("completion")
        values = completion.get("values") if isinstance(completion, dict) else None
        return isinstance(values, list) and all(isinstance(value, str) for value in values)
    parts = answer.get(_LISTS[method])
    objects = isinstance(parts, list) and _DICT.issuperset(map(type, parts))  # JSON has no other kind of dict
    return objects and isinstance(answer.get("isError", False), bool)


def _invalid(detail: str) -> UpstreamError:
    return UpstreamError("upstream.invalid_response", detail, sent=True)


def shown_error(error: RemoteError, config: ServerConfig) -> RemoteError:
    """A server's own error as it may be passed on: of bounded length, without credentials, and not in the gateway's
    name. What is too long to be passed on loses its end; data that is too large is left out.
    """
    message, data = str(masked(error.message, config)), masked(error.data, config)
    if len(message) > MAX_MESSAGE:
        message = visible(message, limit=MAX_MESSAGE, multiline=True)
    if isinstance(data, dict):
        data = cleared({"_meta": data})["_meta"]
    return RemoteError(error.rpc_code, message, data if len(strictjson.encode(data)) <= MAX_DATA else None)


def without_our_words(answer: JsonObject) -> JsonObject:
    """Only the gateway speaks as the gateway: a server could otherwise forge a refusal with its advice."""
    for member in _LISTS.values():
        parts = answer.get(member)
        if isinstance(parts, list):
            for part in parts:
                if isinstance(part, dict) and "_meta" in part:
                    answer = answer | {member: [cleared(part) if isinstance(part, dict) else part for part in parts]}
                    break
    return cleared(answer) if "_meta" in answer else answer


def cleared(value: JsonObject) -> JsonObject:
    """`value` without what its `_meta` says in the gateway's name."""
    meta = value.get("_meta")
    if not isinstance(meta, dict) or not any(name.lower().startswith(NAMESPACE) for name in meta):
        return value
    return value | {"_meta": {name: one for name, one in meta.items() if not name.lower().startswith(NAMESPACE)}}

"""JSON-RPC over HTTP as MCP speaks it: reading one message strictly, telling its era, writing answers.

Sources: MCP 2026-07-28 "Streamable HTTP" and "Versioning"; MCP 2025-11-25 "Transports". The body decides; headers
must agree with it (2026-07-28, "Server Validation"), or an intermediary and the gateway would see two different calls.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from jitaccess import __version__
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json, JsonObject

MODERN = "2026-07-28"
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26")
SUPPORTED = (MODERN, *LEGACY)
META_VERSION = "io.modelcontextprotocol/protocolVersion"
META_CLIENT = "io.modelcontextprotocol/clientInfo"
META_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
META_SERVER = "io.modelcontextprotocol/serverInfo"
META_LEVEL = "io.modelcontextprotocol/logLevel"
META_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"

SERVER_INFO: JsonObject = {"name": "jitaccess", "version": __version__}

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603
HEADER_MISMATCH, UNSUPPORTED_VERSION = -32020, -32022
_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_MIRRORED, _MIRRORED_NAME = b"mcp-param-", "mcp-param-"
_REQUEST = frozenset({"jsonrpc", "id", "method", "params"})
_NONE: Mapping[str, str] = {}
_ROUTING_HEADERS = frozenset(
    {b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"mcp-session-id", b"authorization", b"host", b"origin"}
)


class RpcError(Exception):
    """A JSON-RPC error answer and the HTTP status it travels with. `message` is shown to the client."""

    def __init__(
        self, code: int, message: str, *, status: int = 200, data: Json = None, request_id: Json = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.status, self.data, self.request_id = code, message, status, data, request_id


class Message(msgspec.Struct, frozen=True):
    """One request (id set) or notification (id None) of a client, in one era; or with `answer` the whole of what an
    older client answers to a question of the gateway.
    """

    method: str
    params: JsonObject
    id: str | int | None
    modern: bool
    version: str
    client: str
    answer: JsonObject | None = None
    # The headers in which a client repeats arguments of a call, by their names in lower case.
    mirrored: Mapping[str, str] = msgspec.field(default_factory=dict)
    # `_meta` of the parameters; of an answer there is none.
    meta: JsonObject = msgspec.field(default_factory=dict)


class Said:
    """Headers, read. `version`, `method` and `name` are those that repeat the body; `mirrored` those that repeat
    arguments, by their names in lower case; `is_json` whether a body of this content is taken.
    """

    __slots__ = ("accept", "found", "is_json", "method", "mirrored", "name", "version")

    def __init__(self, found: Mapping[str, str]) -> None:
        self.found = found
        self.accept = found.get("accept", "")
        self.version, self.method = found.get("mcp-protocol-version"), found.get("mcp-method")
        self.name = found.get("mcp-name")
        self.mirrored = {name: value for name, value in found.items() if name.startswith(_MIRRORED_NAME)}
        kind = found.get("content-type", "").partition(";")[0].strip().lower()
        self.is_json = kind == "application/json" and found.get("content-encoding", "identity") == "identity"


class Headers:
    """The headers of one request. A routing header given twice is refused: which one counts?"""

    __slots__ = ("_own", "said")

    def __init__(self, said: Said, own: Mapping[str, str] = _NONE) -> None:
        """`own` are those that are of this request alone, and stand before the others."""
        self.said, self._own = said, own

    @classmethod
    def read(cls, raw: Iterable[tuple[bytes, bytes]]) -> Headers:
        """Raises RpcError(400)."""
        found: dict[bytes, bytes] = {}
        for name, value in raw:
            if name not in found:
                found[name] = value
            elif name in _ROUTING_HEADERS or name.startswith(_MIRRORED):
                raise RpcError(HEADER_MISMATCH, f"The header {name.decode()} was given twice.", status=400)
        return cls(Said({name.decode("latin-1"): value.decode("latin-1").strip() for name, value in found.items()}))

    def get(self, name: str) -> str | None:
        """The value of a header, whose name is asked for in lower case, as ASGI gives them."""
        value = self._own.get(name)
        return value if value is not None else self.said.found.get(name)


def read_message(body: bytes, headers: Headers) -> Message:
    """The one message of a POST. Raises RpcError with the status and code that the specification gives."""
    try:
        value = strictjson.decode(body)
    except Invalid as error:
        shape = error.code in {"json.not_object", "json.batch"}
        raise RpcError(INVALID_REQUEST if shape else PARSE_ERROR, error.detail, status=400) from error
    request_id = value.get("id")
    if (
        isinstance(request_id, bool)
        or not isinstance(request_id, str | int | None)
        or ("id" in value and request_id is None)
    ):
        raise RpcError(INVALID_REQUEST, "`id` must be a text or an integer.", status=400)
    try:
        return _message(value, request_id, headers)
    except RpcError as error:
        error.request_id = request_id
        raise


def _message(value: JsonObject, request_id: str | int | None, headers: Headers) -> Message:
    if "method" not in value and ("result" in value) != ("error" in value):
        return _answer(value, request_id, headers)
    method, params = value.get("method"), value.get("params", {})
    if value.get("jsonrpc") != "2.0" or value.keys() - _REQUEST:
        raise RpcError(
            INVALID_REQUEST,
            "Not a JSON-RPC 2.0 request: exactly jsonrpc, method, and perhaps id and params.",
            status=400,
        )
    if not isinstance(method, str):
        raise RpcError(INVALID_REQUEST, "`method` must be a text; responses are not accepted here.", status=400)
    if not isinstance(params, dict):
        raise RpcError(INVALID_PARAMS, "`params` must be an object.", status=400)
    meta = params.get("_meta", {})
    if not isinstance(meta, dict):
        raise RpcError(INVALID_PARAMS, "`_meta` must be an object.", status=400)
    if META_VERSION in meta or (headers.said.version == MODERN and method != "initialize"):
        return _modern(method, params, meta, request_id, headers.said)
    return _legacy(method, params, meta, request_id, headers.said)


def _answer(value: JsonObject, request_id: str | int | None, headers: Headers) -> Message:
    """2025-11-25, "Sending Messages to the Server": a response to the server's own request. The newer era has none."""
    version = headers.said.version or LEGACY[-1]
    if version not in LEGACY:
        raise RpcError(INVALID_REQUEST, "Responses are not accepted here in this version.", status=400)
    if value.get("jsonrpc") != "2.0" or set(value) - {"jsonrpc", "id", "result", "error"} or request_id is None:
        raise RpcError(INVALID_REQUEST, "Not a JSON-RPC 2.0 response.", status=400)
    return Message("", {}, request_id, False, version, "", value)


def _modern(method: str, params: JsonObject, meta: JsonObject, request_id: str | int | None, said: Said) -> Message:
    version = meta.get(META_VERSION)
    if not isinstance(version, str) or not isinstance(meta.get(META_CAPABILITIES), dict):
        raise RpcError(INVALID_PARAMS, f"`_meta` must hold {META_VERSION} and {META_CAPABILITIES}.", status=400)
    if version != said.version:
        raise RpcError(HEADER_MISMATCH, "MCP-Protocol-Version and the version in `_meta` differ.", status=400)
    if version != MODERN:
        data: Json = {"supported": list(SUPPORTED), "requested": version}
        raise RpcError(UNSUPPORTED_VERSION, "Unsupported protocol version", status=400, data=data)
    if said.method != method and (said.method is not None or request_id is not None):
        raise RpcError(HEADER_MISMATCH, "Mcp-Method and the method in the body differ.", status=400)
    member = _NAMED_BY.get(method)
    if member and said.name is None and member in params:
        raise RpcError(HEADER_MISMATCH, f"The header Mcp-Name is missing: it repeats params.{member}.", status=400)
    if member and decode_header(said.name) != params.get(member):
        raise RpcError(HEADER_MISMATCH, f"Mcp-Name and params.{member} differ.", status=400)
    mirrored = said.mirrored if method == "tools/call" else _NONE
    return Message(method, params, request_id, True, version, client_name(meta.get(META_CLIENT)), None, mirrored, meta)


def _legacy(method: str, params: JsonObject, meta: JsonObject, request_id: str | int | None, said: Said) -> Message:
    version = said.version or LEGACY[-1]
    if method != "initialize" and version not in LEGACY:
        data: Json = {"supported": list(SUPPORTED), "requested": version}
        raise RpcError(UNSUPPORTED_VERSION, "Unsupported protocol version", status=400, data=data)
    # Clients of these revisions may send the newer headers; if they do, they must not say something else.
    if said.method not in (None, method):
        raise RpcError(HEADER_MISMATCH, "Mcp-Method and the method in the body differ.", status=400)
    member = _NAMED_BY.get(method)
    if member and said.name is not None and decode_header(said.name) != params.get(member):
        raise RpcError(HEADER_MISMATCH, f"Mcp-Name and params.{member} differ.", status=400)
    return Message(method, params, request_id, False, version, client_name(params.get("clientInfo")), None, _NONE, meta)


def decode_header(value: str | None) -> str | None:
    """A header value, or what its =?base64?...?= sentinel holds, decoded once (2026-07-28, "Value Encoding")."""
    if value is None or not (value.startswith("=?base64?") and value.endswith("?=") and len(value) >= 11):
        return value
    try:
        return base64.b64decode(value[9:-2], validate=True).decode()
    except ValueError:  # broken base64, characters beyond ASCII, or not UTF-8
        raise RpcError(HEADER_MISMATCH, "A header holds broken base64.", status=400) from None


def client_name(info: Json) -> str:
    """Say "name/version" as the client calls itself: for the record only, never for a decision."""
    if not isinstance(info, dict):
        return ""
    name, version = info.get("name"), info.get("version")
    if isinstance(name, str) and isinstance(version, str):
        return f"{name[:80]}/{version[:80]}"
    return next((said[:80] for said in (name, version) if isinstance(said, str)), "")


class Spliced(JsonObject):
    """A result with one member more, an array whose items are written as JSON already: encoded() puts it in."""

    def __init__(self, value: JsonObject, member: str, items: list[bytes]) -> None:
        super().__init__(value)
        self.member, self.items_json = member, items


def stamped(value: JsonObject) -> JsonObject:
    """A result in the words of 2026-07-28, and by whom it is."""
    meta = value.get("_meta")
    said: JsonObject = {META_SERVER: SERVER_INFO, **meta} if isinstance(meta, dict) else {META_SERVER: SERVER_INFO}
    return {"resultType": "complete", **value, "_meta": said}


def result(message_id: Json, value: JsonObject) -> JsonObject:
    return {"jsonrpc": "2.0", "id": message_id, "result": value}


def encoded(message: JsonObject) -> bytes:
    """The JSON of an answer."""
    value = message.get("result")
    body = strictjson.encode_read(message)
    if not isinstance(value, Spliced):
        return body
    # The result is the last member of its message, and the new one the last of the result.
    comma = b"," if value else b""
    return b"".join((body[:-2], comma, b'"', value.member.encode(), b'":[', b",".join(value.items_json), b"]}}"))


def error(code: int, text: str, *, message_id: Json = None, data: Json = None) -> JsonObject:
    body: JsonObject = {"code": code, "message": text}
    if data is not None:
        body["data"] = data
    return {"jsonrpc": "2.0", "id": message_id, "error": body}


def notification(method: str, params: dict[str, Any] | None = None) -> JsonObject:
    return {"jsonrpc": "2.0", "method": method, "params": params or {}}

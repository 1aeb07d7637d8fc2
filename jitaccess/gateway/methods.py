"""The methods the gateway answers, and nothing else: an unknown method is refused, never forwarded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from jitaccess import __version__
from jitaccess.gateway import tracing, wire
from jitaccess.gateway.builtin import access
from jitaccess.gateway.builtin.definitions import DEFINITIONS, INSTRUCTIONS, NAMES, CallTool
from jitaccess.gateway.calls import Call, call_tool
from jitaccess.gateway.core import Clock, Gateway
from jitaccess.gateway.endpoint import Endpoint
from jitaccess.gateway.listing import definition, ttl_ms
from jitaccess.gateway.sessions import open_session
from jitaccess.gateway.wire import Message, RpcError
from jitaccess.identity.principal import Principal
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.decide import Who
from jitaccess.policy.engine.rules import Snapshot

_SERVER_INFO: JsonObject = {"name": "jitaccess", "version": __version__}
_CAPABILITIES: JsonObject = {"tools": {"listChanged": True}}
_DISCOVERY_TTL_MS = 60_000
# Clients put them into every conversation.
MAX_INSTRUCTIONS = 8000


@dataclass(frozen=True, slots=True)
class Context:
    """One request on its way: who asks what where; policy and clock as they were read when it came."""

    gateway: Gateway
    principal: Principal
    endpoint: Endpoint
    message: Message
    snapshot: Snapshot
    clock: Clock

    @property
    def who(self) -> Who:
        assert self.principal.agent
        return Who(self.principal.agent, self.principal.user)


def initialize(context: Context) -> tuple[JsonObject, str]:
    """The handshake of the older revisions: (result, session id). Any other version gets the newest of them."""
    wanted = context.message.params.get("protocolVersion")
    version = wanted if isinstance(wanted, str) and wanted in wire.LEGACY else wire.LEGACY[0]
    session = open_session(
        context.principal, server=context.endpoint.slug, version=version, client=context.message.client
    )
    value: JsonObject = {
        "protocolVersion": version,
        "capabilities": _CAPABILITIES,
        "serverInfo": _SERVER_INFO,
        "instructions": _instructions(context),
    }
    return value, session.id


async def _discover(context: Context) -> JsonObject:
    value: JsonObject = {
        "supportedVersions": list(wire.SUPPORTED),
        "capabilities": _CAPABILITIES,
        "instructions": _instructions(context),
        "ttlMs": _DISCOVERY_TTL_MS,
        "cacheScope": "private",
    }
    return _complete(context, value)


async def _ping(_: Context) -> JsonObject:
    return {}


async def _list_tools(context: Context) -> JsonObject:
    """Visible tools and locked stubs by name, then the access tools; one page, so no cursor is ever valid."""
    if context.message.params.get("cursor") is not None:
        raise RpcError(wire.INVALID_PARAMS, "There is one page only; this cursor is not from here.", status=400)
    snapshot, clock = await context.gateway.look(context.principal)
    at = clock.now()
    listed = context.endpoint.tools(snapshot, context.who, at)
    value: JsonObject = {"tools": [*(definition(name, one) for name, one in listed), *DEFINITIONS]}
    if context.message.modern:
        value |= {"ttlMs": ttl_ms(snapshot, who=context.who, at=at), "cacheScope": "private"}
    return _complete(context, value)


async def _call_tool(context: Context) -> JsonObject:
    params = context.message.params
    name, arguments = params.get("name"), params.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise RpcError(wire.INVALID_PARAMS, "tools/call needs `name`, a text, and `arguments`, an object.", status=400)
    if "inputResponses" in params or "requestState" in params:
        raise RpcError(wire.INVALID_PARAMS, "This gateway does not carry on calls that ask for input.", status=400)
    if name == "call_tool":
        inner = _inner(arguments)
        name, arguments = inner.name, inner.arguments
        if name == "call_tool":
            raise RpcError(wire.INVALID_PARAMS, "call_tool does not call itself.")
    if name in NAMES:
        asked = access.Asked(context.gateway, context.principal, context.endpoint, arguments)
        return _complete(context, await access.use(name, asked))
    target = context.endpoint.target(context.snapshot, name)
    call = Call(context.principal, target, arguments, context.clock)
    with tracing.receive("tools/call"):
        return _complete(context, await call_tool(context.gateway, call))


def _inner(arguments: JsonObject) -> CallTool:
    try:
        return msgspec.convert(arguments, CallTool)
    except msgspec.ValidationError as error:
        raise RpcError(wire.INVALID_PARAMS, f"call_tool needs `name` and `arguments`: {error}") from error


def _complete(context: Context, value: JsonObject) -> JsonObject:
    """A result in the words of the client's era, whatever the era of the server it came from."""
    if not context.message.modern:
        return {key: member for key, member in value.items() if key not in {"resultType", "ttlMs", "cacheScope"}}
    meta = value.get("_meta")
    stamped = {wire.META_SERVER: _SERVER_INFO, **(meta if isinstance(meta, dict) else {})}
    return {"resultType": "complete", **value, "_meta": stamped}


def _instructions(context: Context) -> str:
    """How access works here, then what the operator wants said about each server."""
    servers = context.endpoint.servers(context.snapshot, context.who)
    if context.endpoint.server is not None:
        said = [server.instructions for server in servers]
    else:
        said = ["Servers here: " + (", ".join(server.slug for server in servers) or "none yet")] + [
            f"{server.slug}: {server.instructions}" for server in servers if server.instructions
        ]
    return "\n".join([INSTRUCTIONS, *said])[:MAX_INSTRUCTIONS].strip()


Method = Callable[[Context], Awaitable[JsonObject]]
_TOOLS: dict[str, Method] = {"tools/call": _call_tool, "tools/list": _list_tools}
# By whether the message is modern.
METHODS: dict[bool, dict[str, Method]] = {
    True: {"server/discover": _discover, **_TOOLS},
    False: {"ping": _ping, **_TOOLS},
}

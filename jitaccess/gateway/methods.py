"""The methods the gateway answers, and nothing else: an unknown method is refused, never forwarded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from jitaccess.gateway import tracing, wire
from jitaccess.gateway.builtin import access
from jitaccess.gateway.builtin.definitions import DEFINITIONS, INSTRUCTIONS, NAMES, CallTool
from jitaccess.gateway.calling import mirrored
from jitaccess.gateway.calling.calls import Call, forward_call
from jitaccess.gateway.context import Context, complete
from jitaccess.gateway.seeing import offering, offers
from jitaccess.gateway.seeing.listing import ttl_ms
from jitaccess.gateway.sessions import open_session
from jitaccess.gateway.talking.asking import carried
from jitaccess.gateway.talking.caller import level_of
from jitaccess.gateway.wire import RpcError, Spliced
from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.store.host_clock import steady

_DISCOVERY_TTL_MS = 60_000
_UNKNOWN_TTL_MS = 5_000  # while it is not known what the server can do
# Policy was read when the request came; if its body took its time, it is read again.
FRESH_SECONDS = 0.1
_ACCESS_TOOLS = [strictjson.encode(definition) for definition in DEFINITIONS]
# Clients put them into every conversation.
MAX_INSTRUCTIONS = 8000


async def initialize(context: Context) -> tuple[JsonObject, str]:
    """The handshake of the older revisions: (result, session id). Any other version gets the newest of them."""
    wanted = context.message.params.get("protocolVersion")
    version = wanted if isinstance(wanted, str) and wanted in wire.LEGACY else wire.LEGACY[0]
    session = open_session(
        context.principal,
        server=context.endpoint.slug,
        version=version,
        client=context.message.client,
        capabilities=carried(context.message.params.get("capabilities")),
    )
    value: JsonObject = {
        "protocolVersion": version,
        "capabilities": (await _capabilities(context))[0],
        "serverInfo": wire.SERVER_INFO,
        "instructions": _instructions(context),
    }
    return value, session.id


async def _capabilities(context: Context) -> tuple[JsonObject, bool]:
    """What can be had here, and whether that is known: of a server that does not tell in time, only tools are."""
    gateway, endpoint = context.gateway, context.endpoint
    if endpoint.server is not None:
        announced = await gateway.offers.announced(gateway, endpoint.slug)
        return offers.relayed(announced or {}), announced is not None
    servers = endpoint.servers(context.snapshot, context.who)
    announced = {"prompts": {}}
    if any("completions" in (gateway.offers.known(gateway.pool, server.slug) or {}) for server in servers):
        announced["completions"] = {}
    return offers.relayed(announced), True


async def _discover(context: Context) -> JsonObject:
    capabilities, known = await _capabilities(context)
    value: JsonObject = {
        "supportedVersions": list(wire.SUPPORTED),
        "capabilities": capabilities,
        "instructions": _instructions(context),
        "ttlMs": _DISCOVERY_TTL_MS if known else _UNKNOWN_TTL_MS,
        "cacheScope": "private",
    }
    return complete(context, value)


async def _ping(_: Context) -> JsonObject:
    return {}


async def _list_tools(context: Context) -> JsonObject:
    """Visible tools and locked stubs by name, then the access tools; one page, so no cursor is ever valid."""
    if context.message.params.get("cursor") is not None:
        raise RpcError(wire.INVALID_PARAMS, "There is one page only; this cursor is not from here.", status=400)
    snapshot, clock = context.snapshot, context.clock
    if steady() - clock.read > FRESH_SECONDS:
        snapshot, clock = await context.gateway.look(context.principal)
    at = clock.now()
    value: JsonObject = {}
    if context.message.modern:
        value |= {"ttlMs": ttl_ms(snapshot, who=context.who, at=at), "cacheScope": "private"}
    listed = context.endpoint.tools_json(snapshot, context.who, at)
    return Spliced(complete(context, value), "tools", [*listed, *_ACCESS_TOOLS])


async def _call_tool(context: Context) -> JsonObject:
    if context.begun is not None:
        known = context.begun.call
        call = Call(context.principal, known.target, known.arguments, context.clock, context.caller)
        return complete(context, await forward_call(context.gateway, call, context.begun))
    params = context.message.params
    name, arguments = params.get("name"), params.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise RpcError(wire.INVALID_PARAMS, "tools/call needs `name`, a text, and `arguments`, an object.", status=400)
    if name == "call_tool":
        inner = _inner(arguments)
        name, arguments = inner.name, inner.arguments
        if name == "call_tool":
            raise RpcError(wire.INVALID_PARAMS, "call_tool does not call itself.")
    if name in NAMES:
        progress = context.caller.progress if context.caller and context.caller.wants_progress else None
        asked = access.Asked(context.gateway, context.principal, context.endpoint, arguments, progress)
        return complete(context, await access.use(name, asked))
    target = context.endpoint.target(context.snapshot, name)
    if context.message.modern and name == params["name"]:  # nobody repeats what is inside of call_tool
        said = context.message.mirrored
        mirrored.check(context.snapshot, context.who, context.clock, target, arguments, said)
    call = Call(context.principal, target, arguments, context.clock, context.caller)
    with tracing.receive("tools/call"):
        return complete(context, await forward_call(context.gateway, call))


def _inner(arguments: JsonObject) -> CallTool:
    try:
        return msgspec.convert(arguments, CallTool)
    except msgspec.ValidationError as error:
        raise RpcError(wire.INVALID_PARAMS, f"call_tool needs `name` and `arguments`: {error}") from error


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


async def _set_level(context: Context) -> JsonObject:
    """2025-11-25, "Logging": for the session, whose id all processes know; servers hear of it with the next call."""
    if context.endpoint.server is None:
        raise offers.not_offered(modern=context.message.modern)
    await offers.require(context.gateway, context.endpoint.slug, "logging", modern=context.message.modern)
    assert context.caller is not None
    level = level_of(context.message.params.get("level"))
    context.gateway.levels.set(context.principal.key, context.caller.session, level)
    await context.gateway.elsewhere.tell_level(context.principal.key, context.caller.session, level)
    return {}


Method = Callable[[Context], Awaitable[JsonObject]]
_COMMON: dict[str, Method] = {
    "tools/call": _call_tool,
    "tools/list": _list_tools,
    **offering.METHODS,
}
# By whether the message is modern.
METHODS: dict[bool, dict[str, Method]] = {
    True: {"server/discover": _discover, **_COMMON},
    False: {"ping": _ping, "logging/setLevel": _set_level, **offering.LEGACY_METHODS, **_COMMON},
}

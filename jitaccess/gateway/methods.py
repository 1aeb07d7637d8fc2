"""The methods the gateway answers, and nothing else: an unknown method is refused, never forwarded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from jitaccess import __version__
from jitaccess.gateway import offers, tracing, wire
from jitaccess.gateway.builtin import access
from jitaccess.gateway.builtin.definitions import DEFINITIONS, INSTRUCTIONS, NAMES, CallTool
from jitaccess.gateway.calls import Call, call_tool
from jitaccess.gateway.core import Clock, Gateway
from jitaccess.gateway.endpoint import Endpoint
from jitaccess.gateway.listing import ttl_ms
from jitaccess.gateway.offers import Kept
from jitaccess.gateway.sessions import open_session
from jitaccess.gateway.wire import Message, RpcError, Spliced
from jitaccess.identity.principal import Principal
from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.decide import Who
from jitaccess.policy.engine.rules import Snapshot

_SERVER_INFO: JsonObject = {"name": "jitaccess", "version": __version__}
_DISCOVERY_TTL_MS = 60_000
_UNKNOWN_TTL_MS = 5_000  # while it is not known what the server can do
_ACCESS_TOOLS = [strictjson.encode(definition) for definition in DEFINITIONS]
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


async def initialize(context: Context) -> tuple[JsonObject, str]:
    """The handshake of the older revisions: (result, session id). Any other version gets the newest of them."""
    wanted = context.message.params.get("protocolVersion")
    version = wanted if isinstance(wanted, str) and wanted in wire.LEGACY else wire.LEGACY[0]
    session = open_session(
        context.principal, server=context.endpoint.slug, version=version, client=context.message.client
    )
    value: JsonObject = {
        "protocolVersion": version,
        "capabilities": (await _capabilities(context))[0],
        "serverInfo": _SERVER_INFO,
        "instructions": _instructions(context),
    }
    return value, session.id


async def _capabilities(context: Context) -> tuple[JsonObject, bool]:
    """What can be had here, and whether that is known: of a server that does not tell in time, only tools are."""
    gateway, endpoint = context.gateway, context.endpoint
    if endpoint.server is not None:
        announced = await gateway.offers.announced(gateway.pool, endpoint.slug)
        return offers.relayed(announced or {}), announced is not None
    servers = endpoint.servers(context.snapshot, context.who)
    announced = {"prompts": {}}
    if any("completions" in (gateway.pool.announced(server.slug) or {}) for server in servers):
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
    return _complete(context, value)


async def _ping(_: Context) -> JsonObject:
    return {}


async def _list_tools(context: Context) -> JsonObject:
    """Visible tools and locked stubs by name, then the access tools; one page, so no cursor is ever valid."""
    if context.message.params.get("cursor") is not None:
        raise RpcError(wire.INVALID_PARAMS, "There is one page only; this cursor is not from here.", status=400)
    snapshot, clock = await context.gateway.look(context.principal)
    at = clock.now()
    value: JsonObject = {}
    if context.message.modern:
        value |= {"ttlMs": ttl_ms(snapshot, who=context.who, at=at), "cacheScope": "private"}
    listed = context.endpoint.tools_json(snapshot, context.who, at)
    return Spliced(_complete(context, value), "tools", [*listed, *_ACCESS_TOOLS])


async def _list_resources(context: Context) -> JsonObject:
    return await _list(context, offers.RESOURCES)


async def _list_templates(context: Context) -> JsonObject:
    return await _list(context, offers.TEMPLATES)


async def _list_prompts(context: Context) -> JsonObject:
    return await _list(context, offers.PROMPTS)


async def _list(context: Context, kept: Kept) -> JsonObject:
    """The list as the server gives it, without what this principal may not read. Cursors are the server's, sealed."""
    gateway, endpoint, principal = context.gateway, context.endpoint, context.principal
    if endpoint.server is None:
        return await _list_all(context, kept)
    await offers.require(gateway, endpoint.slug, kept.capability)
    cursor = offers.open_cursor(context.message.params.get("cursor"), kept, slug=endpoint.slug, principal=principal.key)
    page = await gateway.offers.page(gateway.pool, endpoint.slug, kept, cursor)
    # Looked at now: reading may have taken a while.
    snapshot, clock = await gateway.look(principal)
    at = clock.now()
    entries = offers.entries_of(page, kept)
    shown = offers.shown(snapshot, context.who, endpoint.server, at, kept, entries)
    value: JsonObject = page | {kept.member: list[Json](shown)}
    if (after := page.get("nextCursor")) is not None:
        value["nextCursor"] = offers.seal_cursor(str(after), kept, slug=endpoint.slug, principal=principal.key)
    return _complete(context, value | _kept_for(page, ttl_ms(snapshot, who=context.who, at=at)))


async def _list_all(context: Context, kept: Kept) -> JsonObject:
    """The prompts of all servers, each under its own name; a server that does not answer in time is left out."""
    if kept is not offers.PROMPTS:
        raise offers.not_offered()
    if context.message.params.get("cursor") is not None:
        raise RpcError(wire.INVALID_PARAMS, "There is one page only; this cursor is not from here.", status=400)
    gateway, endpoint, who = context.gateway, context.endpoint, context.who
    servers = endpoint.servers(context.snapshot, who)
    lists = await asyncio.gather(*(gateway.offers.whole(gateway.pool, server.slug, kept) for server in servers))
    snapshot, clock = await gateway.look(context.principal)
    at = clock.now()
    found: list[Json] = [
        one | {"name": endpoint.public(server.slug, str(one["name"]))}
        for server, entries in zip(servers, lists, strict=True)
        for one in offers.shown(snapshot, who, server.id, at, kept, entries)
    ]
    return _complete(context, {kept.member: found, **_kept_for({}, ttl_ms(snapshot, who=who, at=at))})


def _kept_for(page: JsonObject, most: int) -> JsonObject:
    """How long an answer may be kept: as the server says, never beyond a change of access, and by this client only.
    Of a server of the older era nothing is known, so nothing is kept.
    """
    said = page.get("ttlMs")
    return {"ttlMs": min(said, most) if type(said) is int and said >= 0 else 0, "cacheScope": "private"}


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
_COMMON: dict[str, Method] = {
    "tools/call": _call_tool,
    "tools/list": _list_tools,
    "resources/list": _list_resources,
    "resources/templates/list": _list_templates,
    "prompts/list": _list_prompts,
}
# By whether the message is modern.
METHODS: dict[bool, dict[str, Method]] = {
    True: {"server/discover": _discover, **_COMMON},
    False: {"ping": _ping, **_COMMON},
}

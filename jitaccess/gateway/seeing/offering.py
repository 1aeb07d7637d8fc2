"""Resources, prompts and completions: the methods about what a server offers besides tools."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from msgspec.structs import replace

from jitaccess.gateway import tracing, wire
from jitaccess.gateway.calling.calls import Call, forward_call
from jitaccess.gateway.context import Context, complete
from jitaccess.gateway.endpoint import Target
from jitaccess.gateway.seeing import offers
from jitaccess.gateway.seeing.listing import ttl_ms
from jitaccess.gateway.seeing.offers import Kept
from jitaccess.gateway.seeing.subscribing import Subscriber
from jitaccess.gateway.wire import RpcError
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.decide import Kind

# Besides the list and its cursor: what else a server says could tell of what is not shown.
_OF_A_PAGE = ("_meta", "ttlMs", "cacheScope")


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
    await offers.require(gateway, endpoint.slug, kept.capability, modern=context.message.modern)
    cursor = offers.open_cursor(context.message.params.get("cursor"), kept, slug=endpoint.slug, principal=principal.key)
    page = await gateway.offers.page(gateway.pool, endpoint.slug, kept, cursor)
    # Looked at now: reading may have taken a while.
    snapshot, clock = await gateway.look(principal)
    at = clock.now()
    entries = offers.entries_of(page, kept)
    shown = offers.shown(snapshot, context.who, endpoint.server, at, kept, entries)
    value: JsonObject = {name: page[name] for name in _OF_A_PAGE if name in page}
    value[kept.member] = list[Json](shown)
    if (after := page.get("nextCursor")) is not None:
        value["nextCursor"] = offers.seal_cursor(str(after), kept, slug=endpoint.slug, principal=principal.key)
    return complete(context, value | _kept_for(page, ttl_ms(snapshot, who=context.who, at=at)))


async def _list_all(context: Context, kept: Kept) -> JsonObject:
    """The prompts of all servers, each under its own name; a server that does not answer in time is left out."""
    if kept is not offers.PROMPTS:
        raise offers.not_offered(modern=context.message.modern)
    if context.message.params.get("cursor") is not None:
        raise RpcError(wire.INVALID_PARAMS, "There is one page only; this cursor is not from here.", status=400)
    gateway, endpoint, who = context.gateway, context.endpoint, context.who
    servers = endpoint.servers(context.snapshot, who)
    lists = await asyncio.gather(*(gateway.offers.whole(gateway, server.slug, kept) for server in servers))
    snapshot, clock = await gateway.look(context.principal)
    at = clock.now()
    found: list[Json] = [
        one | {"name": endpoint.public(server.slug, str(one["name"]))}
        for server, entries in zip(servers, lists, strict=True)
        for one in offers.shown(snapshot, who, server.id, at, kept, entries)
    ]
    return complete(context, {kept.member: found, **_kept_for({}, ttl_ms(snapshot, who=who, at=at))})


def _kept_for(page: JsonObject, most: int) -> JsonObject:
    """How long an answer may be kept: as the server says, never beyond a change of access, and by this client only.
    Of a server of the older era nothing is known, so nothing is kept.
    """
    said = page.get("ttlMs")
    return {"ttlMs": min(said, most) if type(said) is int and said >= 0 else 0, "cacheScope": "private"}


async def _read_resource(context: Context) -> JsonObject:
    await _require(context, "resources")
    uri = context.message.params.get("uri")
    if not isinstance(uri, str):
        raise _invalid("resources/read needs `uri`, a text.")
    target = Target(context.endpoint.server, context.endpoint.slug, uri, uri, Kind.RESOURCE)
    value = await _forward(context, "resources/read", target, {}, {"uri": uri})
    if not context.message.modern or value.get("resultType", "complete") != "complete":
        return value
    return value | _kept_for(value, ttl_ms(context.snapshot, who=context.who, at=context.clock.now()))


async def _get_prompt(context: Context) -> JsonObject:
    await _require(context, "prompts")
    params = context.message.params
    name, arguments = params.get("name"), params.get("arguments", {})
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise _invalid("prompts/get needs `name`, a text, and `arguments`, an object, if any.")
    target = _prompt(context, name)
    sent: JsonObject = {"name": target.tool} | ({"arguments": arguments} if "arguments" in params else {})
    return await _forward(context, "prompts/get", target, arguments, sent)


async def _complete_argument(context: Context) -> JsonObject:
    """Decided as the prompt, or as the resource of this template, with the arguments that are known so far."""
    await _require(context, "completions")
    params = context.message.params
    ref, argument, more = params.get("ref"), params.get("argument"), params.get("context", {})
    if not isinstance(ref, dict) or not isinstance(argument, dict) or not isinstance(more, dict):
        raise _invalid("completion/complete needs `ref` and `argument`, objects.")
    known = more.get("arguments", {})
    name, value = argument.get("name"), argument.get("value")
    if not isinstance(name, str) or not isinstance(value, str) or not isinstance(known, dict):
        raise _invalid("`argument` needs `name` and `value`, texts; `context.arguments` is an object.")
    target, sent = _referred(context, ref)
    sent["argument"] = {"name": name, "value": value}
    if known:
        sent["context"] = {"arguments": known}
    return await _forward(context, "completion/complete", target, known | {name: value}, sent)


async def _subscribe(context: Context) -> JsonObject:
    """2025-11-25, "Resources", Subscriptions: for the session of the request."""
    uri = context.message.params.get("uri")
    if not isinstance(uri, str):
        raise _invalid("`uri` must be a text.")
    await _require_updates(context)
    await context.gateway.subscriptions.subscribe(_subscriber(context), uri)
    return {}


async def _unsubscribe(context: Context) -> JsonObject:
    uri = context.message.params.get("uri")
    if not isinstance(uri, str):
        raise _invalid("`uri` must be a text.")
    await _require_updates(context)
    await context.gateway.subscriptions.unsubscribe(_subscriber(context), uri)
    return {}


async def _require_updates(context: Context) -> None:
    offered = await context.gateway.subscriptions.offered(context.endpoint)
    if not offered:
        slug = context.endpoint.slug
        raise offers.unknown(slug) if offered is None else offers.not_offered(modern=context.message.modern)


def _subscriber(context: Context) -> Subscriber:
    assert context.caller
    capabilities, session = context.caller.capabilities, context.caller.session
    return Subscriber(context.principal, context.endpoint, capabilities, session=session)


def _referred(context: Context, ref: JsonObject) -> tuple[Target, JsonObject]:
    kind, endpoint = ref.get("type"), context.endpoint
    name, uri = ref.get("name"), ref.get("uri")
    if kind == "ref/prompt" and isinstance(name, str):
        target = _prompt(context, name)
        return target, {"ref": {"type": kind, "name": target.tool}}
    if kind == "ref/resource" and isinstance(uri, str) and endpoint.server is not None:
        return Target(endpoint.server, endpoint.slug, uri, uri, Kind.RESOURCE), {"ref": {"type": kind, "uri": uri}}
    raise _invalid("`ref` is of the type ref/prompt with a `name`, or on the endpoint of a server ref/resource, `uri`.")


def _prompt(context: Context, name: str) -> Target:
    return replace(context.endpoint.target(context.snapshot, name), kind=Kind.PROMPT)


async def _require(context: Context, capability: str) -> None:
    """Raises RpcError for what is not offered here."""
    if context.endpoint.server is not None:
        await offers.require(context.gateway, context.endpoint.slug, capability, modern=context.message.modern)
    elif capability == "resources":
        raise offers.not_offered(modern=context.message.modern)


async def _forward(
    context: Context, method: str, target: Target, arguments: JsonObject, params: JsonObject
) -> JsonObject:
    call = Call(context.principal, target, arguments, context.clock, context.caller, method, params)
    with tracing.receive(method):
        return complete(context, await forward_call(context.gateway, call))


def _invalid(text: str) -> RpcError:
    return RpcError(wire.INVALID_PARAMS, text, status=400)


Method = Callable[[Context], Awaitable[JsonObject]]
METHODS: dict[str, Method] = {
    "resources/list": _list_resources,
    "resources/templates/list": _list_templates,
    "resources/read": _read_resource,
    "prompts/list": _list_prompts,
    "prompts/get": _get_prompt,
    "completion/complete": _complete_argument,
}
LEGACY_METHODS: dict[str, Method] = {"resources/subscribe": _subscribe, "resources/unsubscribe": _unsubscribe}

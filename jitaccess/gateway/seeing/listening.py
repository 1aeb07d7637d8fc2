"""The streams that clients open to hear of changes: subscriptions/listen, and the GET of the older revisions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from jitaccess.gateway import wire
from jitaccess.gateway.core import Gateway
from jitaccess.gateway.endpoint import Endpoint
from jitaccess.gateway.http import EventStream, Receive, Send, disconnected
from jitaccess.gateway.seeing.offers import relayed
from jitaccess.gateway.seeing.streams import PROMPTS, RESOURCES, TOOLS, Frames, Stream
from jitaccess.gateway.talking.asking import carried
from jitaccess.gateway.upstream.listener import ACKNOWLEDGED, lists
from jitaccess.gateway.wire import Message, RpcError
from jitaccess.identity.principal import Principal
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.decide import bindings_of
from jitaccess.policy.engine.rules import Snapshot

_ASKED = {"toolsListChanged": TOOLS, "promptsListChanged": PROMPTS, "resourcesListChanged": RESOURCES}


async def listen_modern(
    gateway: Gateway, principal: Principal, endpoint: Endpoint, message: Message, receive: Receive, send: Send
) -> None:
    """2026-07-28, "Subscriptions": acknowledge what is honoured, then every change, then a result as the end."""
    asked = message.params.get("notifications")
    if not isinstance(asked, dict):
        raise RpcError(wire.INVALID_PARAMS, "`notifications` must be an object.", status=400)
    uris = asked.get("resourceSubscriptions", [])
    if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
        raise RpcError(wire.INVALID_PARAMS, "`resourceSubscriptions` must be an array of texts.", status=400)
    offered = await _lists(gateway, endpoint)
    honoured: JsonObject = {
        name: True for name, list_ in _ASKED.items() if asked.get(name) is True and list_ in offered
    }
    tagged: JsonObject = {wire.META_SUBSCRIPTION: message.id}

    def told(method: str, uri: str | None) -> JsonObject:
        return wire.notification(method, {"_meta": tagged} | ({"uri": uri} if uri is not None else {}))

    frames = Frames(told, wire.result(message.id, {"resultType": "complete", "_meta": tagged}))
    stream = Stream(principal, endpoint, frozenset(_ASKED[name] for name in honoured))
    async with _entered(gateway, stream):
        if uris and await gateway.subscriptions.offered(endpoint):
            watched = await gateway.subscriptions.listen(
                stream, [str(uri) for uri in uris], carried(message.meta.get(wire.META_CAPABILITIES))
            )
            honoured |= {"resourceSubscriptions": list[Json](watched)} if watched else {}
        params: JsonObject = {"_meta": tagged, "notifications": honoured}
        await stream.begin(EventStream(send), frames, wire.notification(ACKNOWLEDGED, params))
        await disconnected(receive)  # or this side has said its last word


async def listen_legacy(
    gateway: Gateway, principal: Principal, endpoint: Endpoint, session: str, receive: Receive, send: Send
) -> None:
    """The GET stream of the older revisions (2025-11-25, "Listening for Messages from the Server")."""

    def told(method: str, uri: str | None) -> JsonObject:
        return wire.notification(method, {"uri": uri} if uri is not None else None)

    stream = Stream(principal, endpoint, frozenset(await _lists(gateway, endpoint)), session)
    async with _entered(gateway, stream):
        await stream.begin(EventStream(send), Frames(told, None))
        await disconnected(receive)


async def _lists(gateway: Gateway, endpoint: Endpoint) -> set[str]:
    """Which list_changed notifications there are here."""
    if endpoint.server is None:
        return {TOOLS, PROMPTS}
    offered = relayed(await gateway.offers.announced(gateway, endpoint.slug) or {})
    named = (("tools", TOOLS), ("prompts", PROMPTS), ("resources", RESOURCES))
    return {list_ for name, list_ in named if name in offered}


@contextlib.asynccontextmanager
async def _entered(gateway: Gateway, stream: Stream) -> AsyncIterator[None]:
    """Entered before the client hears that it listens: a change between the two would be lost."""
    # As it was read to identify the client; with uses that may be used up, as it is now.
    snapshot, clock = gateway.store.current, gateway.clock
    if any(one.max_uses is not None for one in bindings_of(snapshot, stream.who)):
        snapshot, clock = await gateway.look(stream.principal)
    gateway.streams.enter(stream, snapshot, clock.now())
    followed = _tellers(gateway, stream, snapshot)
    del snapshot  # an open stream must not keep a Snapshot alive
    for slug in followed:
        gateway.watches.follow(slug)
    try:
        yield
    except asyncio.CancelledError:
        if stream.lost:
            raise ConnectionError("the client does not read") from None
        raise
    finally:
        for slug in followed:
            gateway.watches.unfollow(slug)
        gateway.subscriptions.leave(stream)
        gateway.streams.leave(stream)


def _tellers(gateway: Gateway, stream: Stream, snapshot: Snapshot) -> list[str]:
    """The servers to be followed for this stream: those that tell when a list changes that it wants to hear of."""
    wanted = {name for name, list_ in (("prompts", PROMPTS), ("resources", RESOURCES)) if list_ in stream.lists}
    servers = stream.endpoint.servers(snapshot, stream.who) if wanted else []
    announced = {server.slug: gateway.offers.known(gateway.pool, server.slug) or {} for server in servers}
    return [slug for slug, capabilities in announced.items() if wanted.intersection(lists(capabilities))]

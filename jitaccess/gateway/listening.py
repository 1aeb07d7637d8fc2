"""The streams that clients open to hear of changes: subscriptions/listen, and the GET of the older revisions."""

from __future__ import annotations

import asyncio

from jitaccess.gateway import wire
from jitaccess.gateway.core import Gateway
from jitaccess.gateway.endpoint import Endpoint
from jitaccess.gateway.http import EventStream, Receive, Send, disconnected
from jitaccess.gateway.offers import relayed
from jitaccess.gateway.streams import PROMPTS, RESOURCES, TOOLS, Frames, Stream
from jitaccess.gateway.wire import Message, RpcError
from jitaccess.identity.principal import Principal
from jitaccess.kernel.strictjson import JsonObject

_ASKED = {"toolsListChanged": TOOLS, "promptsListChanged": PROMPTS, "resourcesListChanged": RESOURCES}


async def listen_modern(
    gateway: Gateway, principal: Principal, endpoint: Endpoint, message: Message, receive: Receive, send: Send
) -> None:
    """2026-07-28, "Subscriptions": acknowledge what is honoured, then every change, then a result as the end."""
    asked = message.params.get("notifications")
    if not isinstance(asked, dict):
        raise RpcError(wire.INVALID_PARAMS, "`notifications` must be an object.", status=400)
    offered = await lists_of(gateway, endpoint)
    honoured: JsonObject = {
        name: True for name, list_ in _ASKED.items() if asked.get(name) is True and list_ in offered
    }
    lists = frozenset(_ASKED[name] for name in honoured)
    tagged: JsonObject = {wire.META_SUBSCRIPTION: message.id}

    def told(method: str, uri: str | None) -> JsonObject:
        return wire.notification(method, {"_meta": tagged} | ({"uri": uri} if uri is not None else {}))

    first = wire.notification("notifications/subscriptions/acknowledged", {"_meta": tagged, "notifications": honoured})
    frames = Frames(first, told, wire.result(message.id, {"resultType": "complete", "_meta": tagged}))
    await _serve(gateway, Stream(principal, endpoint, lists), frames, receive, send)


async def listen_legacy(
    gateway: Gateway, principal: Principal, endpoint: Endpoint, session: str, receive: Receive, send: Send
) -> None:
    """The GET stream of the older revisions (2025-11-25, "Listening for Messages from the Server")."""

    def told(method: str, uri: str | None) -> JsonObject:
        return wire.notification(method, {"uri": uri} if uri is not None else None)

    lists = frozenset(await lists_of(gateway, endpoint))
    await _serve(gateway, Stream(principal, endpoint, lists, session), Frames(None, told, None), receive, send)


async def lists_of(gateway: Gateway, endpoint: Endpoint) -> set[str]:
    """Which list_changed notifications there are here."""
    if endpoint.server is None:
        return {TOOLS, PROMPTS}
    offered = relayed(await gateway.offers.announced(gateway.pool, endpoint.slug) or {})
    return {
        list_ for name, list_ in (("tools", TOOLS), ("prompts", PROMPTS), ("resources", RESOURCES)) if name in offered
    }


async def _serve(gateway: Gateway, stream: Stream, frames: Frames, receive: Receive, send: Send) -> None:
    snapshot, clock = await gateway.look(stream.principal)
    # Entered before the client hears that it listens: a change between the two would be lost.
    gateway.streams.enter(stream, snapshot, clock.now())
    del snapshot  # an open stream must not keep a Snapshot alive
    try:
        await stream.begin(EventStream(send), frames)
        await disconnected(receive)  # or this side has said its last word
    except asyncio.CancelledError:
        if stream.lost:
            raise ConnectionError("the client does not read") from None
        raise
    finally:
        gateway.streams.leave(stream)

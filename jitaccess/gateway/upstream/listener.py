"""The open stream on which an HTTP server tells that its lists or resources changed."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import TYPE_CHECKING

from jitaccess.egress.errors import EgressFailed
from jitaccess.egress.response import Response
from jitaccess.kernel.strictjson import JsonObject

from .answers import Exchange, messages
from .errors import RemoteError, UpstreamError
from .process import logger

if TYPE_CHECKING:
    from .http import HttpConnection

WAIT_SECONDS = (1.0, 60.0)  # before the second stream, and at most
LONG_SECONDS = 30.0  # a stream that lasted so long was a good one

ACKNOWLEDGED = "notifications/subscriptions/acknowledged"

_EVENTS = {"Accept": "text/event-stream"}
_UNSUPPORTED = frozenset({400, 404, 405, 501})


def lists(capabilities: JsonObject) -> tuple[str, ...]:
    """Of which lists a server announces that it tells when they change: "tools", "prompts", "resources"."""
    said = {name: capabilities.get(name) for name in ("tools", "prompts", "resources")}
    return tuple(name for name, one in said.items() if isinstance(one, dict) and one.get("listChanged") is True)


def asked_for(capabilities: JsonObject) -> JsonObject:
    """The params of subscriptions/listen for all of them."""
    return {"notifications": {f"{name}ListChanged": True for name in lists(capabilities)}}


def tells(capabilities: JsonObject, *, modern: bool) -> bool:
    """Whether a server says anything without being asked for it each time: then it is worth a stream."""
    resources = capabilities.get("resources")
    updates = not modern and isinstance(resources, dict) and resources.get("subscribe") is True
    return updates or bool(lists(capabilities))


def concerns(method: str, params: JsonObject) -> bool:
    """Whether a notification says anything: of acknowledgements those that are about resources somebody waits for."""
    honoured = params.get("notifications")
    return method != ACKNOWLEDGED or (isinstance(honoured, dict) and "resourceSubscriptions" in honoured)


async def listen(connection: HttpConnection) -> None:
    """Keep a stream open until the connection ends or the server says that it has none. Raises nothing."""
    wait, most = WAIT_SECONDS
    loop, again = asyncio.get_running_loop(), False
    while connection.alive:
        began = loop.time()
        try:
            if not await _follow(connection, again=again):
                return
        except RemoteError:
            return  # asked in the way of its era, it says no
        except (EgressFailed, UpstreamError) as error:
            logger.debug("server %s: the stream of changes ended: %s", connection.server.slug, error)
        if loop.time() - began > LONG_SECONDS:
            wait = WAIT_SECONDS[0]
        await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 - so that not all come back at once
        wait, again = min(most, wait * 2), True


async def _follow(connection: HttpConnection, *, again: bool) -> bool:
    """One stream, to its end. Return False when there is none to be had.

    Raises RemoteError, UpstreamError, EgressFailed.
    """
    if connection.modern:
        wanted = asked_for(connection.capabilities)
        call_id, message, headers = connection.modern_request("subscriptions/listen", wanted)
        response = await connection.post(message, headers)
    else:
        call_id = 0  # never the id of a request: no answer belongs on this stream
        response = await connection.send("GET", connection.legacy_headers() | _EVENTS)
    try:
        if response.content_type != "text/event-stream" or response.status != 200:
            lost = response.status == 404 and connection.in_session  # the next call begins another
            return lost or not (response.status < 300 or response.status in _UNSUPPORTED)
        if again:
            # Nothing is replayed: what changed in between can only be seen by listing again.
            for name in lists(connection.capabilities):
                connection.hear(f"notifications/{name}/list_changed", {})
        await _read(response, Exchange(connection, call_id, None), connection.server.slug)
    finally:
        response.close()
    return True


async def _read(response: Response, exchange: Exchange, slug: str) -> None:
    async with contextlib.aclosing(messages(response, slug, limit=None)) as found:
        async for message in found:
            if exchange.take(message) is not None:
                return  # the server ends the subscription in good order

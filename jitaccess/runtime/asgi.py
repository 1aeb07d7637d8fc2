"""The ASGI switch: /mcp goes to the gateway, everything else to Django behind a thread pool."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from a2wsgi import WSGIMiddleware

from jitaccess.gateway.app import Application
from jitaccess.gateway.core import Gateway
from jitaccess.gateway.endpoint import serves
from jitaccess.gateway.http import Receive, Scope, Send, read_body, send_empty
from jitaccess.gateway.wire import RpcError
from jitaccess.runtime.background import Background
from jitaccess.runtime.gauges import Gauges, Values, of_gateway, of_installation
from jitaccess.runtime.live import PATH as LIVE
from jitaccess.runtime.live import Live
from jitaccess.runtime.vitals import PATHS, Vitals
from jitaccess.store.host_clock import steady

log = logging.getLogger(__name__)

MAX_FORM = 2_500_000  # as much as Django reads of a form


class Switch:
    """One process of an installation: with a gateway, with the web, or with both."""

    def __init__(self, *, role: str, gateway: Gateway | None, web: bool, background: Background | None) -> None:
        self._gateway = gateway
        self._mcp = Application(gateway) if gateway else None
        self.short = self._mcp.short if self._mcp else None
        self._background = background
        self._live = Live() if web else None
        self._vitals = Vitals(role, _checks(gateway, background), _gauges(gateway, self._live))
        self._web = None
        if web:
            from jitaccess.runtime.wsgi import application

            # The queue holds a whole page: a client that does not read must not keep a thread.
            self._web = WSGIMiddleware(application, workers=8, send_queue_size=10_000)  # type: ignore[arg-type]  # Django's own types differ

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1003})
        elif serves(scope["path"]):
            await (self._mcp or _nothing)(scope, receive, send)
        elif scope["path"] in PATHS:
            await self._vitals(scope, send)
        elif scope["path"] == LIVE:
            await (self._live or _nothing)(scope, receive, send)
        elif self._web is not None:
            await self._serve_web(self._web, scope, receive, send)
        else:
            await _nothing(scope, receive, send)

    async def _serve_web(self, web: WSGIMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a thread only when the whole request is here: a few slow bodies would otherwise take them all."""
        try:
            body = await read_body(receive, limit=MAX_FORM)
        except RpcError as error:
            await send_empty(send, error.status, {"connection": "close"})
            return
        except ConnectionError:
            return
        # A chunked form has no length; Django reads none without one.
        length = (b"content-length", str(len(body)).encode())
        scope["headers"] = [pair for pair in scope["headers"] if pair[0] != b"content-length"] + [length]
        whole = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Any:
            return next(whole, None) or await receive()

        await web(scope, replay, send)  # type: ignore[arg-type]  # a2wsgi spells the ASGI types out

    def drain(self) -> None:
        """Called with the first signal: from here on balancers are told to send nobody."""
        self._vitals.draining = True

    def begin_shutdown(self) -> None:
        """Called when the server stops listening, before it waits for open responses."""
        if self._live is not None:
            self._live.begin_shutdown()
        if self._gateway is not None:
            self._gateway.begin_shutdown()

    def cut(self) -> None:
        """Called when calls in flight have had their time."""
        if self._gateway is not None:
            self._gateway.cut()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            if self._gateway is not None:
                await self._gateway.start()
            if self._background is not None:
                self._background.start()
        except Exception as error:
            log.exception("cannot start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        # One that fails must not cut short what the others still owe: endings of calls, children, the lease.
        results = await asyncio.gather(
            asyncio.to_thread(self._background.stop) if self._background else asyncio.sleep(0),
            self._gateway.stop() if self._gateway else asyncio.sleep(0),
            self._live.stop() if self._live else asyncio.sleep(0),
            self._vitals.close(),
            return_exceptions=True,
        )
        for failed in results:
            if isinstance(failed, BaseException):
                log.error("a part of this process did not stop in good order", exc_info=failed)
        await send({"type": "lifespan.shutdown.complete"})


def _checks(gateway: Gateway | None, background: Background | None) -> dict[str, Callable[[], bool]]:
    """What /readyz asks beside the database."""
    checks: dict[str, Callable[[], bool]] = {}
    if gateway is not None:
        checks["policy"] = lambda: gateway.store.version is not None
        checks["lease"] = lambda: gateway.admission.lease_until > steady()
    if background is not None:
        checks["background"] = lambda: background.alive
    return checks


def _gauges(gateway: Gateway | None, live: Live | None) -> Gauges:
    def own() -> Values:
        pages = {"open_pages": float(live.open_pages)} if live is not None else {}
        if gateway is None:
            return pages
        return pages | {
            "open_streams": float(len(gateway.streams)),
            "upstream_children": float(gateway.pool.children),
            "calls_in_flight": float(len(gateway.in_flight) + len(gateway.short)),
        }

    reads = [*([of_installation] if live is not None else []), *([of_gateway(gateway)] if gateway else [])]
    return Gauges(reads, own)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await send_empty(send, 404)

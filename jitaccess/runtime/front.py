"""What every HTTP request passes first: who really sent it, a name for the log, one line when it is over."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from random import getrandbits

from jitaccess.gateway.calling.short import Client, ShortCall, ShortWay
from jitaccess.gateway.endpoint import PATH, PREFIX
from jitaccess.gateway.heads import Head
from jitaccess.gateway.http import Answering, ClientGone, Receive, Scope, Send
from jitaccess.gateway.tracing import trace_id
from jitaccess.kernel.discreet import begin_request, is_about

log = logging.getLogger("jitaccess.access")

Networks = Iterable[IPv4Network | IPv6Network]
_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+):[0-9]+")
# Asked every few seconds by machines; nobody wants to read it.
_UNTOLD = ("/healthz", "/readyz", "/metrics")


class Front:
    """Wraps an ASGI application. `proxies` are the peers whose forwarding headers are believed. What is asked of the
    gateway may go the short way, where that is given.
    """

    def __init__(
        self,
        app: Callable[[Scope, Receive, Send], Awaitable[None]],
        *,
        proxies: Networks,
        access_log: bool,
        short: ShortWay | None = None,
    ) -> None:
        self._app, self._proxies, self._access_log, self.short = app, tuple(proxies), access_log, short

    def take(self, client: Client, peer: tuple[str, int] | None, head: Head, body: bytes) -> ShortCall | None:
        """As `ShortWay.take`."""
        assert self.short is not None
        if self._proxies:
            scope: Scope = {"client": peer, "headers": head.forwarded}
            believe(scope, self._proxies)
            peer = scope["client"]
        return self.short.take(client, head, body, peer[0] if peer else "")

    def answered(self, status: int, call: ShortCall) -> bytes:
        """Tell of a call that went the short way; its name."""
        name = f"{getrandbits(128):032x}"
        if self._access_log and log.isEnabledFor(logging.INFO):
            Context().run(self._tell, name, status, call)
        return name.encode()

    def _tell(self, name: str, status: int, call: ShortCall) -> None:
        about = begin_request(name)
        if call.admitted is not None:
            is_about(call=call.admitted.recorded, grant=call.admitted.verdict.grant)
        path = f"{PREFIX}{call.head.slug}" if call.head.slug else PATH
        source = call.call.principal.source
        scope: Scope = {"method": "POST", "path": path, "client": (source, 0)}
        _tell(scope, status, round((time.monotonic() - call.since) * 1000), about)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._proxies:
            believe(scope, self._proxies)
        traceparent = _header(scope, b"traceparent")
        name = (trace_id(traceparent.decode("latin-1")) if traceparent else "") or f"{getrandbits(128):032x}"
        answering, started = Answering(send, name.encode()), time.monotonic()
        about = begin_request(name)  # the server gives each request a context of its own
        try:
            await self._app(scope, receive, answering)
        except ClientGone:
            pass
        finally:
            if self._access_log and log.isEnabledFor(logging.INFO) and scope["path"] not in _UNTOLD:
                _tell(scope, answering.status, round((time.monotonic() - started) * 1000), about)


def believe(scope: Scope, proxies: Networks) -> None:
    """Put the client's address and scheme in place of a trusted proxy's. From a stranger these headers mean nothing."""
    proxies = tuple(proxies)
    peer = _address((scope.get("client") or ("",))[0])
    if peer is None or not _within(peer, proxies):
        return
    # The proxy appends: what stands further left was said by whoever is further away, and may be made up.
    for part in reversed(_header(scope, b"x-forwarded-for").decode("latin-1").split(",")):
        address = _address(part)
        if address is None:
            break
        scope["client"] = (str(address), 0)
        if not _within(address, proxies):
            break
    scheme = _header(scope, b"x-forwarded-proto").decode("latin-1").rpartition(",")[2].strip().lower()
    if scheme in {"http", "https"}:
        scope["scheme"] = scheme


def _header(scope: Scope, name: bytes) -> bytes:
    return b",".join([value for key, value in scope["headers"] if key == name])


def _address(text: str) -> IPv4Address | IPv6Address | None:
    text = text.strip()
    if found := _PORT.fullmatch(text):
        text = found[1]
    try:
        # A scope (RFC 4007) may be any text, which would go on record.
        address = ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def _within(address: IPv4Address | IPv6Address, networks: Networks) -> bool:
    return any(address in network for network in networks)


def _tell(scope: Scope, status: int, ms: int, about: dict[str, object]) -> None:
    method, path = scope["method"], scope["path"]
    client = (scope.get("client") or ("",))[0]
    said = about | {"method": method, "path": path, "status": status, "ms": ms, "client": client}
    # %r of the path: it may hold line breaks.
    log.info("%s %r %s %d ms", method, path, status or "left", ms, extra=said)

"""The headers of a request before anything else is read: from where it may come, in what form, with whose token."""

from __future__ import annotations

import re

from django.conf import settings

from jitaccess.gateway import wire
from jitaccess.gateway.wire import Headers, RpcError, Said

# What a client says in each request anew. The rest of its headers is read once, if it is no more than this (bytes of
# all values, and how many), for so many clients.
_OF_ONE_REQUEST = {
    name.encode(): name
    for name in ("authorization", "content-length", "mcp-session-id", "traceparent", "tracestate", "x-request-id")
}
MAX_KNOWN, MAX_KNOWN_COUNT, MOST_KNOWN = 2048, 32, 1024
# Narrower than RFC 3986: no user, nothing that two parsers could read in two ways.
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:[0-9]{1,5})?")


class Heads:
    """Headers as they are read. Belongs to one event loop."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[bytes, bytes], ...], Said] = {}

    def read(self, raw: list[tuple[bytes, bytes]]) -> Headers:
        """Read, and from where they may come. A client says most of it in each of its requests, so that is kept.

        Raises RpcError.
        """
        own: dict[str, str] = {}
        same: list[tuple[bytes, bytes]] = []
        size = 0
        for pair in raw:
            name, value = pair
            mine = _OF_ONE_REQUEST.get(name)
            if mine is None:
                same.append(pair)
                size += len(name) + len(value)
            elif mine not in own:
                own[mine] = value.decode("latin-1").strip()
            else:
                return _from_where_it_may(Headers.read(raw))  # twice: it says what is wrong with that
        key = tuple(same)
        known = self._known.get(key)
        if known is not None:
            return Headers(known, own)
        said = _from_where_it_may(Headers.read(same)).said
        if size <= MAX_KNOWN and len(same) <= MAX_KNOWN_COUNT:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            self._known[key] = said
        return Headers(said, own)


def token_of(headers: Headers) -> str:
    """The access token (RFC 6750, 2.1). Raises RpcError(401)."""
    scheme, _, value = (headers.get("authorization") or "").partition(" ")
    if scheme.lower() != "bearer" or not value.strip():
        raise RpcError(wire.INVALID_REQUEST, "An access token is needed: Authorization: Bearer <token>.", status=401)
    return value.strip()


def _from_where_it_may(headers: Headers) -> Headers:
    """Refuse names and origins that are not ours: a page elsewhere must not reach a local gateway (DNS rebinding)."""
    host = _HOST.fullmatch((headers.get("host") or "").lower())
    if host is None or not {host[1], host[1].strip("[]")} & set(settings.ALLOWED_HOSTS):
        raise RpcError(wire.INVALID_REQUEST, "This Host is not served here.", status=421)
    origin = headers.get("origin")
    if origin is not None and origin not in settings.GATEWAY_ALLOWED_ORIGINS:
        raise RpcError(wire.INVALID_REQUEST, "This Origin is not allowed.", status=403)
    return headers


def check_content(headers: Headers) -> None:
    """Raises RpcError(415)."""
    if not headers.said.is_json:
        raise RpcError(wire.INVALID_REQUEST, "Send application/json without a content encoding.", status=415)

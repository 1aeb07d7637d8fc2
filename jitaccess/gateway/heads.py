"""The headers of a request before anything else is read: from where it may come, in what form, with whose token."""

from __future__ import annotations

import re

import msgspec
from django.conf import settings

from jitaccess.gateway import wire
from jitaccess.gateway.endpoint import PATH, PREFIX
from jitaccess.gateway.http import SHORT_BODY, Scope
from jitaccess.gateway.known import KnownTokens
from jitaccess.gateway.wire import Headers, RpcError, Said
from jitaccess.kernel.ids import token_hash

# What a client says in each request anew. The rest of its headers is read once, if it is no more than this (bytes of
# all values, and how many), for so many clients.
_OF_ONE_REQUEST = {
    name.encode(): name
    for name in ("authorization", "content-length", "mcp-session-id", "traceparent", "tracestate", "x-request-id")
}
MAX_KNOWN, MAX_KNOWN_COUNT, MOST_KNOWN = 2048, 32, 1024
MOST_HEADS = 4096
# What belongs to one request alone, and to no other with the same head.
_NEVER_SHORT = ("traceparent", "tracestate", "mcp-session-id")
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


class Head(msgspec.Struct, frozen=True):
    """The head of a request, as it was read once: whose token (hash) for which server, "" for that of all. A body of
    `length` bytes follows. `forwarded` are the headers by which a proxy says for whom it asks.
    """

    slug: str
    hashed: str
    headers: Headers
    length: int
    forwarded: list[tuple[bytes, bytes]]


class KnownHeads:
    """Heads of requests that may go the short way, by what tells their bytes apart. Belongs to one event loop."""

    def __init__(self, tokens: KnownTokens) -> None:
        self._tokens, self._heads = tokens, Heads()
        self._known: dict[bytes, Head] = {}

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: bytes) -> Head | None:
        return self._known.get(key)

    def learn(self, key: bytes, scope: Scope) -> None:
        """Remember the head of a request, if it is one that may come again. It holds a token, so `key` is a hash."""
        try:
            headers = self._heads.read(scope["headers"])
            check_content(headers)
            hashed = token_hash(token_of(headers))
        except RpcError:
            return
        length = headers.get("content-length") or ""
        usual = length.isdecimal() and int(length) <= SHORT_BODY and headers.said.version == wire.MODERN
        if not usual or hashed not in self._tokens or any(map(headers.get, _NEVER_SHORT)):
            return
        if len(self._known) >= MOST_HEADS:
            self._known.clear()
        slug = "" if scope["path"] == PATH else scope["path"].removeprefix(PREFIX)
        forwarded = [pair for pair in scope["headers"] if pair[0].startswith(b"x-forwarded-")]
        self._known[key] = Head(slug, hashed, Headers(headers.said), int(length), forwarded)


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

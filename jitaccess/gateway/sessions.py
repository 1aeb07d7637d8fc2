"""Sessions of the older protocol revisions, without a table: the id is the session, sealed.

Any process accepts it, none stores it. It belongs to the principal and never to a token's bytes: a refreshed token
keeps its session, and somebody else's id is answered as unknown.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

from jitaccess.gateway.wire import INVALID_REQUEST, LEGACY, RpcError
from jitaccess.identity.principal import Principal
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.secretbox import KeyRing
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.store.sealing import ring

_CONTEXT = "mcp-session-v1"
# Remembered by one process; beyond, the oldest are forgotten.
MAX_ENDED = 20_000
MAX_OPENED = 4096


@dataclass(frozen=True, slots=True)
class Session:
    """What initialize settled: the protocol version, how the client calls itself, and what it can be asked. `id` is the
    sealed form.
    """

    id: str
    version: str
    client: str
    capabilities: JsonObject


def open_session(
    principal: Principal, *, server: str, version: str, client: str, capabilities: JsonObject | None = None
) -> Session:
    """A session for `principal` on the endpoint of `server`."""
    kept = capabilities or {}
    content: JsonObject = {
        "principal": principal.key, "server": server, "version": version, "client": client[:100], "capabilities": kept,
    }  # fmt: skip
    sealed = ring().seal(strictjson.encode(content), context=_CONTEXT)
    return Session(sealed, version, client, kept)


def resume_session(session_id: str | None, principal: Principal, *, server: str) -> Session:
    """The session behind an id. Raises RpcError(404) for a broken or foreign one: the client then initializes again."""
    if session_id is None:
        raise RpcError(
            INVALID_REQUEST, "Send initialize first, then its Mcp-Session-Id with every request.", status=400
        )
    try:
        content = _opened(ring(), session_id)
    except Invalid:
        raise unknown_session() from None
    version = content.get("version")
    if content.get("principal") != principal.key or content.get("server") != server or version not in LEGACY:
        raise unknown_session()
    capabilities = content.get("capabilities")
    kept = capabilities if isinstance(capabilities, dict) else {}
    return Session(session_id, str(version), str(content.get("client", "")), kept)


@lru_cache(maxsize=MAX_OPENED)
def _opened(keys: KeyRing, session_id: str) -> JsonObject:
    """What is sealed in an id, by this very ring: every request of a session brings it. Raises Invalid."""
    return strictjson.decode(keys.open(session_id, context=_CONTEXT))


def unknown_session() -> RpcError:
    return RpcError(INVALID_REQUEST, "Unknown session; initialize again.", status=404)


class EndedSessions:
    """Sessions that their clients ended, in this process. Nothing depends on it: an id gives no right, so one that is
    forgotten here, or that a later process never heard of, is a new session of the same principal.
    """

    def __init__(self) -> None:
        self._ended: dict[str, None] = {}

    def __contains__(self, session_id: str) -> bool:
        return bool(self._ended) and _digest(session_id) in self._ended

    def add(self, session_id: str) -> None:
        self._ended[_digest(session_id)] = None
        if len(self._ended) > MAX_ENDED:
            del self._ended[next(iter(self._ended))]


def _digest(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()

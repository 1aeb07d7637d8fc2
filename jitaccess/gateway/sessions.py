"""Sessions of the older protocol revisions, without a table: the id is the session, sealed.

Any process accepts it, none stores it. It belongs to the principal and never to a token's bytes: a refreshed token
keeps its session, and somebody else's id is answered as unknown.
"""

from __future__ import annotations

from dataclasses import dataclass

from jitaccess.gateway.wire import INVALID_REQUEST, LEGACY, RpcError
from jitaccess.identity.principal import Principal
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.store.sealing import ring

_CONTEXT = "mcp-session-v1"


@dataclass(frozen=True, slots=True)
class Session:
    """What initialize settled: the protocol version and how the client calls itself. `id` is the sealed form."""

    id: str
    version: str
    client: str


def open_session(principal: Principal, *, server: str, version: str, client: str) -> Session:
    """A session for `principal` on the endpoint of `server`."""
    content = {"principal": principal.key, "server": server, "version": version, "client": client[:100]}
    sealed = ring().seal(strictjson.encode(content), context=_CONTEXT)
    return Session(sealed, version, client)


def resume_session(session_id: str | None, principal: Principal, *, server: str) -> Session:
    """The session behind an id. Raises RpcError(404) for a broken or foreign one: the client then initializes again."""
    if session_id is None:
        raise RpcError(
            INVALID_REQUEST, "Send initialize first, then its Mcp-Session-Id with every request.", status=400
        )
    unknown = RpcError(INVALID_REQUEST, "Unknown session; initialize again.", status=404)
    try:
        content = strictjson.decode(ring().open(session_id, context=_CONTEXT))
    except Invalid:
        raise unknown from None
    version = content.get("version")
    if content.get("principal") != principal.key or content.get("server") != server or version not in LEGACY:
        raise unknown
    return Session(session_id, str(version), str(content.get("client", "")))

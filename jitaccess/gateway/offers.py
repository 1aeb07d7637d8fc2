"""What servers offer besides tools: what they announce, and their lists, read in the gateway's own name and filtered.

Nothing of a principal goes along when a list is read: not even a cursor, unless it is one that we gave out ourselves.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from jitaccess.gateway.results import cleared
from jitaccess.gateway.upstream.confidence import inert, masked
from jitaccess.gateway.upstream.errors import RemoteError, UpstreamError
from jitaccess.gateway.wire import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.decide import Kind, Who
from jitaccess.policy.engine.offers import readable, useful_templates
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.store.sealing import ring

if TYPE_CHECKING:
    from jitaccess.gateway.core import Gateway
    from jitaccess.gateway.upstream.pool import Pool

# In whose name the pool opens the gateway's own connections: no principal has this key.
OWN = "gateway"
GREET_SECONDS = 2.0
LIST_SECONDS = 10.0
# On the endpoint of all servers, where one of them must not hold up the others.
EACH_SECONDS = 3.0
MAX_PAGES = 20
MAX_LIST = 4 * 1024 * 1024
_CURSOR = "mcp-cursor-v1"
_FLAGS: dict[str, tuple[str, ...]] = {
    "resources": ("subscribe", "listChanged"), "prompts": ("listChanged",), "completions": (), "logging": (),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kept:
    """One kind of list: its method, the capability that it needs, the member with its entries, and what names each."""

    method: str
    capability: str
    member: str
    name: str
    kind: Kind


RESOURCES = Kept("resources/list", "resources", "resources", "uri", Kind.RESOURCE)
TEMPLATES = Kept("resources/templates/list", "resources", "resourceTemplates", "uriTemplate", Kind.RESOURCE)
PROMPTS = Kept("prompts/list", "prompts", "prompts", "name", Kind.PROMPT)


def relayed(announced: JsonObject) -> JsonObject:
    """The capabilities to announce for a server that announces these: only what is carried here. What is readable also
    changes with access, so that lists that never change upstream may do so here.
    """
    found: JsonObject = {"tools": {"listChanged": True}}
    for name, flags in _FLAGS.items():
        said = announced.get(name)
        if isinstance(said, dict):
            found[name] = {flag: True for flag in flags if flag == "listChanged" or said.get(flag) is True}
    return found


@dataclass(slots=True)
class Offers:
    """Reads the servers of one process. One event loop's."""

    _reading: dict[tuple[str, str, str | None], asyncio.Task[JsonObject]] = field(default_factory=dict)

    async def announced(self, pool: Pool, slug: str, *, seconds: float = GREET_SECONDS) -> JsonObject | None:
        """The capabilities of a server, as it told this process last; None when it does not tell within `seconds`."""
        if (known := pool.announced(slug)) is None:
            with contextlib.suppress(UpstreamError, TimeoutError):
                async with asyncio.timeout(seconds):
                    await pool.connection(slug, OWN)
            known = pool.announced(slug)
        return known

    async def page(
        self, pool: Pool, slug: str, kept: Kept, cursor: str | None = None, *, seconds: float = LIST_SECONDS
    ) -> JsonObject:
        """One page of a list as the server writes it now, checked for its shape. Who asks for the same at the same
        moment gets the same answer.

        Raises RpcError: the server's own error, or that it cannot be asked.
        """
        key = (slug, kept.method, cursor)
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(_read(pool, slug, kept, cursor, seconds))
            task.add_done_callback(lambda task: self._forget(key, task))
        return await asyncio.shield(task)  # whoever leaves takes it from nobody else

    def _forget(self, key: tuple[str, str, str | None], task: asyncio.Task[JsonObject]) -> None:
        self._reading.pop(key, None)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it

    async def whole(self, pool: Pool, slug: str, kept: Kept) -> list[JsonObject]:
        """All pages, within three seconds; nothing of a server that cannot be read or announces no such list."""
        entries: list[JsonObject] = []
        with contextlib.suppress(RpcError, TimeoutError):
            async with asyncio.timeout(EACH_SECONDS):
                if kept.capability not in (await self.announced(pool, slug) or {}):
                    return []
                cursor: Json = None
                for _ in range(MAX_PAGES):
                    page = await self.page(pool, slug, kept, str(cursor) if cursor is not None else None)
                    entries += entries_of(page, kept)
                    cursor = page.get("nextCursor")
                    if cursor is None:
                        return entries
        return []  # half a list would say that there is no other half


async def _read(pool: Pool, slug: str, kept: Kept, cursor: str | None, seconds: float) -> JsonObject:
    try:
        async with asyncio.timeout(seconds):
            connection = await pool.connection(slug, OWN)
            asked: JsonObject = {} if cursor is None else {"cursor": cursor}
            page = await connection.request(kept.method, asked, timeout=seconds)
    except TimeoutError as error:
        raise _failed(f'The server "{slug}" did not answer within {seconds:g} seconds.') from error
    except UpstreamError as error:
        raise _failed(error.detail) from error
    except RemoteError as error:
        raise RpcError(error.rpc_code, inert(error.message, connection.server)) from error
    entries, after = page.get(kept.member), page.get("nextCursor")
    named = isinstance(entries, list) and all(
        isinstance(one, dict) and isinstance(one.get(kept.name), str) for one in entries
    )
    if not named or not isinstance(after, str | None):
        raise _failed(f'The server "{slug}" answers {kept.method} with something else.')
    if len(strictjson.encode(page)) > MAX_LIST:
        raise _failed(f'The server "{slug}" answers {kept.method} with more than {MAX_LIST} bytes.')
    # What the gateway gave to the server in confidence must not come back in a list.
    shown = masked(page, connection.server)
    assert isinstance(shown, dict)
    return cleared(shown)


def entries_of(page: JsonObject, kept: Kept) -> list[JsonObject]:
    entries = page[kept.member]
    assert isinstance(entries, list)
    return [one for one in entries if isinstance(one, dict)]


def shown(
    snapshot: Snapshot, who: Who, server: UUID, at: datetime, kept: Kept, entries: list[JsonObject]
) -> list[JsonObject]:
    """Those entries that this principal may read; of templates those of which something may be readable."""
    names = [str(one[kept.name]) for one in entries]
    if kept is TEMPLATES:
        visible = useful_templates(snapshot, who=who, server=server, at=at, templates=names)
    else:
        visible = readable(snapshot, who=who, server=server, at=at, kind=kept.kind, names=names)
    return [one for one, name in zip(entries, names, strict=True) if name in visible]


async def require(gateway: Gateway, slug: str, capability: str, *, modern: bool) -> None:
    """Raises RpcError for what the server is known not to offer, and when it does not say so in time."""
    announced = await gateway.offers.announced(gateway.pool, slug, seconds=LIST_SECONDS)
    if announced is None:
        raise _failed(f'The server "{slug}" cannot be asked what it offers; try again in a moment.')
    if not isinstance(announced.get(capability), dict):
        raise not_offered(modern=modern)


def not_offered(*, modern: bool) -> RpcError:
    """As a server says it that does not have the method."""
    return RpcError(METHOD_NOT_FOUND, "Method not found", status=404 if modern else 200)


def seal_cursor(cursor: str, kept: Kept, *, slug: str, principal: str) -> str:
    """A cursor of a server for one principal: nobody can have anything else sent as one."""
    content: JsonObject = {"cursor": cursor, "list": kept.method, "server": slug, "principal": principal}
    return ring().seal(strictjson.encode(content), context=_CURSOR)


def open_cursor(sealed: Json, kept: Kept, *, slug: str, principal: str) -> str | None:
    """The server's own cursor; None for none. Raises RpcError for one that was not given to this principal for this."""
    if sealed is None:
        return None
    try:
        content = strictjson.decode(ring().open(str(sealed), context=_CURSOR)) if isinstance(sealed, str) else {}
    except Invalid:
        content = {}
    if (content.get("list"), content.get("server"), content.get("principal")) != (kept.method, slug, principal):
        raise RpcError(INVALID_PARAMS, "This cursor is not from here.", status=400)
    return str(content["cursor"])


def _failed(detail: str) -> RpcError:
    return RpcError(INTERNAL_ERROR, detail)

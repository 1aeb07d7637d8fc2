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

from jitaccess.catalog.services import announced_by
from jitaccess.gateway.calling.results import cleared
from jitaccess.gateway.upstream.confidence import inert, masked
from jitaccess.gateway.upstream.errors import RemoteError, UpstreamError
from jitaccess.gateway.wire import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.decide import Kind, Who
from jitaccess.policy.engine.offers import readable, useful_templates
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.store.host_clock import steady
from jitaccess.store.sealing import ring

if TYPE_CHECKING:
    from jitaccess.gateway.core import Gateway
    from jitaccess.gateway.upstream.pool import Pool

# In whose name the pool opens the gateway's own connections: no principal has this key.
OWN = "gateway"
GREET_SECONDS = 3.0
REMEMBERED_SECONDS = 60.0
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


def noted(announced: JsonObject) -> JsonObject:
    """Of the capabilities that a server announces those that are carried here, tools aside."""
    found: JsonObject = {}
    for name, flags in _FLAGS.items():
        said = announced.get(name)
        if isinstance(said, dict):
            found[name] = {flag: True for flag in flags if said.get(flag) is True}
    return found


def relayed(announced: JsonObject) -> JsonObject:
    """The capabilities to announce for a server that announces these: only what is carried here. What is readable also
    changes with access, so that lists that never change upstream may do so here.
    """
    found: JsonObject = {"tools": {"listChanged": True}}
    for name, flags in noted(announced).items():
        assert isinstance(flags, dict)
        found[name] = flags | ({"listChanged": True} if "listChanged" in _FLAGS[name] else {})
    return found


@dataclass(slots=True)
class Offers:
    """Reads the servers of one process. One event loop's."""

    _reading: dict[tuple[str, str, str | None], asyncio.Task[JsonObject]] = field(default_factory=dict)
    _remembered: dict[str, tuple[float, JsonObject]] = field(default_factory=dict)

    def known(self, pool: Pool, slug: str) -> JsonObject | None:
        """The capabilities of a server, as it told this process last, or another not long ago."""
        if (announced := pool.announced(slug)) is not None:
            return announced
        since, remembered = self._remembered.get(slug, (0.0, None))
        return remembered if steady() - since < REMEMBERED_SECONDS else None

    async def announced(self, gateway: Gateway, slug: str, *, seconds: float = GREET_SECONDS) -> JsonObject | None:
        """The same, read or asked for if need be; None when the server never told, and does not within `seconds`."""
        if (known := self.known(gateway.pool, slug)) is not None:
            return known
        if (remembered := await gateway.db(announced_by, slug)) is not None:
            self._remembered[slug] = steady(), remembered
            return remembered
        with contextlib.suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(seconds):
                await gateway.pool.connection(slug, OWN)
        return gateway.pool.announced(slug)

    async def page(
        self, pool: Pool, slug: str, what: Kept, cursor: str | None = None, *, seconds: float = LIST_SECONDS
    ) -> JsonObject:
        """One page of a list as the server writes it now, checked for its shape. Who asks for the same at the same
        moment gets the same answer.

        Raises RpcError: the server's own error, or that it cannot be asked.
        """
        key = (slug, what.method, cursor)
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(_read(pool, slug, what, cursor, seconds))
            task.add_done_callback(lambda task: self._forget(key, task))
        return await asyncio.shield(task)  # whoever leaves takes it from nobody else

    def _forget(self, key: tuple[str, str, str | None], task: asyncio.Task[JsonObject]) -> None:
        self._reading.pop(key, None)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report it

    async def whole(self, gateway: Gateway, slug: str, what: Kept) -> list[JsonObject]:
        """All pages, within three seconds; nothing of a server that cannot be read or announces no such list."""
        entries: list[JsonObject] = []
        with contextlib.suppress(RpcError, TimeoutError):
            async with asyncio.timeout(EACH_SECONDS):
                if what.capability not in (await self.announced(gateway, slug) or {}):
                    return []
                cursor: Json = None
                for _ in range(MAX_PAGES):
                    page = await self.page(gateway.pool, slug, what, str(cursor) if cursor is not None else None)
                    entries += entries_of(page, what)
                    cursor = page.get("nextCursor")
                    if cursor is None:
                        return entries
        return []  # half a list would say that there is no other half


async def _read(pool: Pool, slug: str, what: Kept, cursor: str | None, seconds: float) -> JsonObject:
    try:
        async with asyncio.timeout(seconds):
            connection = await pool.connection(slug, OWN)
            asked: JsonObject = {} if cursor is None else {"cursor": cursor}
            page = await connection.request(what.method, asked, timeout=seconds)
    except TimeoutError as error:
        raise _failed(f'The server "{slug}" did not answer within {seconds:g} seconds.') from error
    except UpstreamError as error:
        raise _failed(error.detail) from error
    except RemoteError as error:
        raise RpcError(error.rpc_code, inert(error.message, connection.server)) from error
    entries, after = page.get(what.member), page.get("nextCursor")
    named = isinstance(entries, list) and all(
        isinstance(one, dict) and isinstance(one.get(what.name), str) for one in entries
    )
    if not named or not isinstance(after, str | None):
        raise _failed(f'The server "{slug}" answers {what.method} with something else.')
    if len(strictjson.encode(page)) > MAX_LIST:
        raise _failed(f'The server "{slug}" answers {what.method} with more than {MAX_LIST} bytes.')
    # What the gateway gave to the server in confidence must not come back in a list.
    shown = masked(page, connection.server)
    assert isinstance(shown, dict)
    return cleared(shown)


def entries_of(page: JsonObject, what: Kept) -> list[JsonObject]:
    entries = page[what.member]
    assert isinstance(entries, list)
    return [one for one in entries if isinstance(one, dict)]


def shown(
    snapshot: Snapshot, who: Who, server: UUID, at: datetime, what: Kept, entries: list[JsonObject]
) -> list[JsonObject]:
    """Those entries that this principal may read; of templates those of which something may be readable."""
    names = [str(one[what.name]) for one in entries]
    if what is TEMPLATES:
        visible = useful_templates(snapshot, who=who, server=server, at=at, templates=names)
    else:
        visible = readable(snapshot, who=who, server=server, at=at, kind=what.kind, names=names)
    return [one for one, name in zip(entries, names, strict=True) if name in visible]


async def require(gateway: Gateway, slug: str, capability: str, *, modern: bool) -> None:
    """Raises RpcError for what the server is known not to offer, and when it does not say so in time."""
    announced = await gateway.offers.announced(gateway, slug, seconds=LIST_SECONDS)
    if announced is None:
        raise unknown(slug)
    if not isinstance(announced.get(capability), dict):
        raise not_offered(modern=modern)


def unknown(slug: str) -> RpcError:
    return _failed(f'The server "{slug}" cannot be asked what it offers; try again in a moment.')


def not_offered(*, modern: bool) -> RpcError:
    """As a server says it that does not have the method."""
    return RpcError(METHOD_NOT_FOUND, "Method not found", status=404 if modern else 200)


def seal_cursor(cursor: str, what: Kept, *, slug: str, principal: str) -> str:
    """A cursor of a server for one principal: nobody can have anything else sent as one."""
    content: JsonObject = {"cursor": cursor, "list": what.method, "server": slug, "principal": principal}
    return ring().seal(strictjson.encode(content), context=_CURSOR)


def open_cursor(sealed: Json, what: Kept, *, slug: str, principal: str) -> str | None:
    """The server's own cursor; None for none. Raises RpcError for one that was not given to this principal for this."""
    if sealed is None:
        return None
    try:
        content = strictjson.decode(ring().open(str(sealed), context=_CURSOR)) if isinstance(sealed, str) else {}
    except Invalid:
        content = {}
    if (content.get("list"), content.get("server"), content.get("principal")) != (what.method, slug, principal):
        raise RpcError(INVALID_PARAMS, "This cursor is not from here.", status=400)
    return str(content["cursor"])


def _failed(detail: str) -> RpcError:
    return RpcError(INTERNAL_ERROR, detail)

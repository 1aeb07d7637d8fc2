"""A connection to one MCP server over streamable HTTP: each request is an exchange of its own.

Sources: MCP 2026-07-28 and 2025-11-25, "Streamable HTTP". Only the server's configured headers go out: nothing of what
a client of the gateway sent as a header comes here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from jitaccess.egress.client import Client, Prepared, Progress
from jitaccess.egress.errors import EgressFailed, EgressRefused
from jitaccess.egress.response import Response
from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import JsonObject

from . import atonce
from . import headers as mcp_headers
from .answers import Exchange, SessionLost
from .asked import NOBODY, Asked, Told
from .atonce import Underway
from .bounds import CLOSED, Bounds, late
from .config import Era, HttpServer
from .errors import TOO_LATE, RemoteError, UpstreamError
from .handshake import MODERN, Greeting, greet, unavailable
from .hearing import Hearing
from .identity import as_header
from .listener import listen, tells
from .messages import HEADER_MISMATCH, JSON, MAX_PENDING, OnNotification, Permit, list_tools, notification, with_meta
from .messages import request as request_message
from .process import logger

DELETE_SECONDS, TELL_SECONDS = 2.0, 10.0
LEARN_SECONDS = 5.0  # a call waits so long for the list that says which of its arguments are mirrored
MAX_SIDE_TASKS = 32  # answers to the server's own requests, cancellations, streams read to their end


class HttpConnection(Hearing):
    """One server. `era` is "2026-07-28" or the negotiated legacy version; the rest is the server's own claim.

    `pending` is the number of calls in progress, `last_used` the loop time of the last start or end of one. `alive`
    ends when the server cannot be reached: the next who wants to talk to it greets it anew.
    """

    era: str
    server_info: JsonObject
    capabilities: JsonObject
    instructions: str | None

    def __init__(
        self, server: HttpServer, client: Client, on_notification: OnNotification | None, announced: JsonObject
    ) -> None:
        self.server = server
        self._announced = announced
        self.alive = True
        # Who holds it though it is idle; requests that stay open on purpose; calls for which no task waits.
        self.held = self.lasting = self.at_once = 0
        self.modern = server.era == "modern"
        self.client = client
        self.own_client: Client | None = None  # closed with the connection
        self.loop = asyncio.get_running_loop()
        self.last_used = self.loop.time()
        self.level: str | None = None  # of the log messages that the server was told to send
        self.on_notification = on_notification
        self._last_id = self._greeted = 0
        self._session: str | None = None
        self._version: str | None = None
        self._renewing = asyncio.Lock()
        self.mirrors: dict[str, mcp_headers.Mirror] | None = None
        self.kinds: dict[tuple[str, str], Prepared] = {}  # of calls that went out at once, by method and name
        self._learning = asyncio.Lock()
        self.bounds = Bounds(self.loop)
        self._nobody = Asked(server.slug, NOBODY, self._answer_later)
        self._side: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(
        cls,
        server: HttpServer,
        *,
        client: Client,
        on_notification: OnNotification | None = None,
        capabilities: JsonObject | None = None,
    ) -> HttpConnection:
        """Settle the era; a server of the older era is told that its client has `capabilities`.

        Raises UpstreamError "upstream.unavailable" with sent=False; nothing is left behind.
        """
        self = cls(server, client, on_notification, capabilities or {})
        try:
            async with asyncio.timeout(server.start_timeout):
                await self._greet(server.era)
        except BaseException as error:
            self._down()
            if not isinstance(error, TimeoutError | RemoteError | UpstreamError):
                raise
            raise unavailable(self.server, error) from error
        changes = on_notification is not None and tells(self.capabilities, modern=self.modern)
        # Many servers of the older era ask on the stream of everything, whatever call it is about.
        if changes or (self._announced and not self.modern):
            self.aside(listen(self))
        return self

    @property
    def pending(self) -> int:
        return len(self.bounds.calls) + self.at_once

    async def request(
        self,
        method: str,
        params: JsonObject,
        *,
        timeout: float,  # noqa: ASYNC109 - a timeout is told to the server, asyncio.timeout cannot do that
        told: Told = NOBODY,
        permit: Permit | None = None,
        underway: Underway | None = None,
    ) -> JsonObject:
        """As StdioConnection.request. A timeout and the cancellation of the task cancel the call at the server. What is
        `underway` has gone out.
        """
        if not self.alive and underway is None:
            raise UpstreamError("upstream.unavailable", f'The connection to "{self.server.slug}" is not open.')
        if self.pending - self.lasting >= MAX_PENDING and underway is None:
            raise UpstreamError(
                "upstream.busy", f'The server "{self.server.slug}" has {MAX_PENDING} calls in progress.'
            )
        progress = Progress(sent=underway is not None, permit=permit)
        call_id = underway.call_id if underway is not None else self.next_id()
        if timeout <= 0:
            raise late(self.server.slug, method, timeout, sent=False)
        # Of whom nothing is asked, and who is told nothing, there is nothing to be kept.
        asked = self._nobody if told is NOBODY else Asked(self.server.slug, told, self._answer_later)
        bound = self.bounds.add(call_id, asked, timeout - (underway.age if underway is not None else 0.0))
        self.last_used = self.loop.time()
        try:
            if self.modern:
                return await self._call_modern(call_id, method, params, asked, told, progress, underway)
            return await self._call_legacy(call_id, method, params, asked, told, progress)
        except BaseException as error:
            why = bound.ended()
            if not isinstance(error, asyncio.CancelledError):
                raise
            if why == CLOSED:
                detail = f'The connection to "{self.server.slug}" was closed.'
                raise UpstreamError("upstream.cancelled", detail, sent=progress.sent, server=self.server.slug) from None
            self._abandon(call_id, progress, why or "the caller went away")
            if why:
                raise late(self.server.slug, method, timeout, sent=progress.sent) from None
            raise
        finally:
            self.bounds.remove(call_id)
            if asked is not self._nobody:
                asked.over()
            self.last_used = self.loop.time()

    async def list_tools(self, *, timeout: float = 30) -> list[JsonObject]:  # noqa: ASYNC109 - as request()
        """As StdioConnection.list_tools; without the tools whose x-mcp-header annotations are invalid."""
        if "tools" not in self.capabilities:
            return []
        tools = await list_tools(self.server.slug, self.request, timeout)
        if not self.modern:
            return tools
        kept, self.mirrors = mcp_headers.valid(self.server.slug, tools)
        return kept

    async def make_ready(self) -> None:
        """Ask something harmless, so that what is asked next need not wait for a connection or a list. Never raises."""
        with contextlib.suppress(UpstreamError, RemoteError):
            await self._mirrored("tools/call" if self.modern else "", {})
            await self.request("server/discover" if self.modern else "ping", {}, timeout=TELL_SECONDS)

    async def close(self) -> None:
        """End the session; what is still pending fails with upstream.cancelled. Idempotent."""
        session, self._session = self._session, None
        self._down()
        await self.bounds.close()
        await asyncio.gather(*self._side, return_exceptions=True)
        if session is not None:
            with contextlib.suppress(TimeoutError, EgressFailed, EgressRefused):
                async with asyncio.timeout(DELETE_SECONDS):
                    self._session = session
                    response = await self.client.send("DELETE", self.server.url, headers=self.legacy_headers())
                    response.close()
            self._session = None
        if self.own_client is not None:
            await self.own_client.close()

    # What follows is for the parts of a connection.

    @property
    def in_session(self) -> bool:
        return self._session is not None

    def post(
        self, message: JsonObject, extra: dict[str, str], progress: Progress | None = None
    ) -> Coroutine[Any, Any, Response]:
        """Send one message. Raises UpstreamError; a server that cannot be reached ends this connection."""
        return self.send("POST", {**JSON, **extra}, strictjson.encode_read(message), progress)

    async def send(
        self, verb: str, extra: dict[str, str], body: bytes | None = None, progress: Progress | None = None
    ) -> Response:
        headers = {**self.server.headers, **extra}
        lasting = verb == "GET" or extra.get("Mcp-Method") == "subscriptions/listen"
        try:
            return await self.client.send(
                verb, self.server.url, headers=headers, body=body, progress=progress, lasting=lasting
            )
        except EgressRefused as error:
            self._down()
            raise self._failed("upstream.unavailable", error.detail, sent=False, **error.params) from error
        except EgressFailed as error:
            if error.code in ("egress.unreachable", "egress.tls"):
                self._down()
            raise self.failed(error) from error

    def failed(self, error: EgressFailed) -> UpstreamError:
        codes = {"egress.broken": "upstream.died", "egress.busy": "upstream.busy", "egress.too_late": TOO_LATE}
        answered = "upstream.invalid_response" if error.sent else "upstream.unavailable"
        return self._failed(codes.get(error.code, answered), error.detail, sent=error.sent)

    def legacy_headers(self) -> dict[str, str]:
        found = {} if self._version is None else {"MCP-Protocol-Version": self._version}
        return found if self._session is None else {**found, "Mcp-Session-Id": self._session}

    def modern_request(self, method: str, params: JsonObject) -> tuple[int, JsonObject, dict[str, str]]:
        """The id, message and headers of a request of the gateway's own."""
        call_id, params = self.next_id(), with_meta(params, modern=True, progress_token=None)
        return call_id, request_message(call_id, method, params), mcp_headers.standard(method, params)

    def aside(self, work: Coroutine[Any, Any, None], *, after: Callable[[], None] = lambda: None) -> None:
        """Do something that nobody waits for, and call `after`, also when it is too much to be begun."""
        if not self.alive or len(self._side) >= MAX_SIDE_TASKS:
            work.close()
            after()
            return
        task = self.loop.create_task(work)
        self._side.add(task)
        task.add_done_callback(self._side.discard)
        task.add_done_callback(lambda _: after())

    def next_id(self) -> int:
        """Of the next request."""
        self._last_id += 1
        return self._last_id

    def _answer_later(self, message: JsonObject) -> None:
        self.aside(self.tell(message))

    def _down(self) -> None:
        self.alive = False
        for task in self._side:
            task.cancel()

    def _abandon(self, call_id: int, progress: Progress, reason: str) -> None:
        """Closing the stream cancels a call of the newer era; the older one wants to be told."""
        if not self.modern and progress.sent:
            self.aside(self.tell(notification("notifications/cancelled", {"requestId": call_id, "reason": reason})))

    async def _call_legacy(
        self, call_id: int, method: str, params: JsonObject, asked: Asked, told: Told, progress: Progress
    ) -> JsonObject:
        sent, who = as_header(with_meta(params, modern=False, progress_token=call_id if told.progress else None))
        message = request_message(call_id, method, sent)
        for last in (False, True):
            greeted, in_session = self._greeted, self.in_session
            try:
                response = await self.post(message, {**self.legacy_headers(), **who}, progress)
                return await Exchange(self, call_id, asked).answer(response, in_session=in_session)
            except SessionLost as lost:
                # It was not taken, so it may be sent again, in a new session; once.
                progress.sent = False
                if last:
                    self._down()
                    raise self._failed("upstream.unavailable", "it loses its sessions at once", sent=True) from lost
                await self._renew(greeted)
        raise AssertionError

    async def _call_modern(
        self,
        call_id: int,
        method: str,
        params: JsonObject,
        asked: Asked,
        told: Told,
        progress: Progress,
        underway: Underway | None,
    ) -> JsonObject:
        sent, who = as_header(with_meta(params, modern=True, progress_token=call_id if told.progress else None))
        message, standard = request_message(call_id, method, sent), mcp_headers.standard(method, sent)
        for last in (False, True):
            mirrored = await self._mirrored(method, sent) if self.mirrors is None else self.mirror(method, sent)
            try:
                if underway is not None:
                    response, underway = await atonce.answered(self, underway), None
                else:
                    response = await self.post(message, {**standard, **mirrored, **who}, progress)
                return await Exchange(self, call_id, asked).answer(response)
            except RemoteError as error:
                if last or error.rpc_code != HEADER_MISMATCH or method != "tools/call":
                    raise
                self.mirrors = None  # the tool's schema may have changed ("Client Behavior"); it was not called
                if await self._mirrored(method, sent) == mirrored:
                    raise
        raise AssertionError

    async def _mirrored(self, method: str, params: JsonObject) -> dict[str, str]:
        """The headers that repeat arguments; what is to be repeated is asked first, if it is not known."""
        if method == "tools/call" and self.mirrors is None:
            async with self._learning:
                await self._learn()
        return self.mirror(method, params)

    def mirror(self, method: str, params: JsonObject) -> dict[str, str]:
        """The headers that repeat arguments, by what is known."""
        mirror = self.mirrors.get(str(params.get("name"))) if self.mirrors and method == "tools/call" else None
        return mcp_headers.mirrored(mirror, params.get("arguments")) if mirror else {}

    async def _learn(self) -> None:
        if self.mirrors is None:
            try:
                await self.list_tools(timeout=LEARN_SECONDS)
            except (UpstreamError, RemoteError):
                self.mirrors = {}

    async def _renew(self, greeted: int) -> None:
        """Begin a new session, unless another call that lost the same one already did."""
        async with self._renewing:
            if self._greeted != greeted:
                return
            try:
                await self._greet("legacy")
            except (RemoteError, UpstreamError) as error:
                self._down()
                raise unavailable(self.server, error) from error

    async def _greet(self, era: Era) -> None:
        due: list[str] = []

        def post(method: str, params: JsonObject) -> asyncio.Future[JsonObject]:
            return self.loop.create_task(self._ask(method, params, era))

        self._adopt(await greet(post, due.append, era, self._announced))
        for method in due:
            await self._say(notification(method))
        self._greeted += 1
        self.level = None

    async def _ask(self, method: str, params: JsonObject, era: Era) -> JsonObject:
        """One request of the handshake."""
        call_id = self.next_id()
        probing = method == "server/discover"
        try:
            headers = mcp_headers.standard(method, params) if probing else {}
            response = await self.post(request_message(call_id, method, params), headers)
            result = await Exchange(self, call_id, None).answer(response)
        except UpstreamError as error:
            # No answer of the era that was asked, so perhaps a server of the other one, which is asked next.
            first = "auto" if probing else "older"
            if era == first and error.sent and error.params.get("status") != 401:
                raise RemoteError(-32600, error.detail) from error
            raise
        if not probing:
            self._session = self._checked(response.header("Mcp-Session-Id"))
        return result

    def _checked(self, session: str | None) -> str | None:
        if session is not None and not (len(session) <= 1024 and all("\x21" <= char <= "\x7e" for char in session)):
            raise self._failed("upstream.invalid_response", "its session id is not visible ASCII", sent=True)
        return session

    def _adopt(self, greeting: Greeting) -> None:
        self.era, self.server_info = greeting.era, greeting.server_info
        self.capabilities, self.instructions = greeting.capabilities, greeting.instructions
        self.modern = greeting.era == MODERN
        self._version = None if self.modern else greeting.era

    async def _say(self, message: JsonObject) -> None:
        """Send a message that has no answer. Raises UpstreamError."""
        response = await self.post(message, self.legacy_headers())
        response.close()
        if not 200 <= response.status < 300:
            detail = f"it does not take a notification (HTTP {response.status})"
            raise self._failed("upstream.unavailable", detail, sent=True)

    async def tell(self, message: JsonObject) -> None:
        """As `_say`, for messages nobody waits for: a server that does not take them harms itself alone."""
        try:
            async with asyncio.timeout(TELL_SECONDS):
                await self._say(message)
        except (TimeoutError, UpstreamError) as error:
            logger.debug("server %s: a message was not delivered: %s", self.server.slug, error)

    def _failed(self, code: str, detail: str, *, sent: bool, **params: object) -> UpstreamError:
        slug = self.server.slug
        said = f'The server "{slug}" failed: {detail.rstrip(".")}.'
        return UpstreamError(code, said, sent=sent, server=slug, **params)

"""A connection to one MCP server over stdio: requests in, results out, whatever the server does."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from dataclasses import dataclass

from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import JitAccessError
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible

from .answers import LARGE_ANSWER, readers
from .asked import NOBODY, Asked, Told, whose
from .bounds import late
from .config import Era, StdioServer
from .errors import TOO_LATE, RemoteError, UpstreamError
from .handshake import MODERN, Greeting, greet, modern_meta
from .listener import asked_for, concerns, lists
from .messages import (
    LOGGED,
    MAX_PENDING,
    QUESTIONS,
    OnNotification,
    Permit,
    list_tools,
    nonsense,
    notification,
    read_answer,
    refusal,
    with_meta,
)
from .messages import request as request_message
from .process import EDGE_BYTES, EXIT_SECONDS, LineProcess, logger

MAX_GARBAGE_LINES = 100

# The id of a line that cannot be read: first ({"jsonrpc", "id", ...) or last, as the common SDKs write it.
_FIRST_ID = re.compile(rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(\d{1,15})\s*,(?!\s*"method")')
_LAST_ID = re.compile(rb'"id"\s*:\s*(\d{1,15})\s*(?:,\s*"jsonrpc"\s*:\s*"2\.0"\s*)?\}\s*\Z')


@dataclass(frozen=True, slots=True)
class _Call:
    id: int
    future: asyncio.Future[JsonObject]
    asked: Asked
    background: bool


class StdioConnection:
    """One running server. `era` is "2026-07-28" or the negotiated legacy version; the rest is the server's own claim.

    `pending` is the number of calls in progress, `last_used` the loop time of the last start or end of one.
    """

    era: str
    server_info: JsonObject
    capabilities: JsonObject
    instructions: str | None

    def __init__(self, server: StdioServer, on_notification: OnNotification | None) -> None:
        self.server = server
        self.alive = True
        self.held = 0  # by how many it is not to be closed for being idle
        self.lasting = 0  # of its requests, those that stay open on purpose: they take no call's place
        self._loop = asyncio.get_running_loop()
        self.last_used = self._loop.time()
        self.level: str | None = None  # of the log messages that the server was told to send
        self._on_notification = on_notification
        self._process = LineProcess(server, on_line=self._receive, on_end=self._process_ended)
        self._ending: asyncio.Task[None] | None = None
        self._calls: dict[int, _Call] = {}
        self._last_id = 0
        self._garbage = 0
        # A large line that is being read, and those that came after it.
        self._lines: deque[bytes] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._over = False
        self._modern = server.era == "modern"

    @classmethod
    async def open(
        cls,
        server: StdioServer,
        *,
        on_notification: OnNotification | None = None,
        capabilities: JsonObject | None = None,
    ) -> StdioConnection:
        """Start the server and settle the era; a server of the older era is told that its client has `capabilities`.

        Raises UpstreamError "upstream.unavailable"; nothing is left behind.
        """
        announced = capabilities or {}
        try:
            async with asyncio.timeout(server.start_timeout):
                try:
                    return await cls._open(server, server.era, on_notification, announced)
                except (RemoteError, _Died):
                    if server.era not in ("auto", "older"):
                        raise
                    # Some servers end, or refuse all that follows, when the first request is not of their era.
                    other: Era = "legacy" if server.era == "auto" else "modern"
                    return await cls._open(server, other, on_notification, announced)
        except TimeoutError:
            reason = f"did not finish the handshake within {server.start_timeout:g} seconds"
        except RemoteError as error:
            reason = f"refused the handshake: {visible(str(error), limit=200)}"
        except OSError as error:
            reason = f"could not be started: {error.strerror}"
        except UpstreamError as error:
            reason = f"failed in the handshake: {error.detail}"
        detail = f'The server "{server.slug}" {reason.rstrip(".")}.'
        raise UpstreamError("upstream.unavailable", detail, server=server.slug)

    @classmethod
    async def _open(
        cls, server: StdioServer, era: Era, on_notification: OnNotification | None, announced: JsonObject
    ) -> StdioConnection:
        self = cls(server, on_notification)
        await self._process.start()
        try:
            self._adopt(await greet(self._post_raw, self._notify, era, announced))
        except BaseException as error:
            self._down("upstream.cancelled", "The handshake failed.", patience=0)
            await self.close()
            if isinstance(error, UpstreamError) and error.code == "upstream.died":
                raise _Died(error.code, error.detail) from error
            raise
        return self

    def _adopt(self, greeting: Greeting) -> None:
        self.era, self.server_info = greeting.era, greeting.server_info
        self.capabilities, self.instructions = greeting.capabilities, greeting.instructions
        self._modern = greeting.era == MODERN
        if self._modern and self._on_notification and lists(greeting.capabilities):
            # In the modern era nobody hears of a changed list without asking (basic/patterns/subscriptions).
            params = {"_meta": modern_meta({})} | asked_for(greeting.capabilities)
            call = self._post("subscriptions/listen", params, background=True)
            call.future.add_done_callback(lambda future: future.cancelled() or future.exception())

    @property
    def pending(self) -> int:
        return sum(not call.background for call in self._calls.values())

    @property
    def pid(self) -> int | None:
        """Process id of the keeper, whose session holds the server and its children."""
        return self._process.pid

    async def request(
        self,
        method: str,
        params: JsonObject,
        *,
        timeout: float,  # noqa: ASYNC109 - a timeout is told to the server, asyncio.timeout cannot do that
        told: Told = NOBODY,
        permit: Permit | None = None,
    ) -> JsonObject:
        """Ask and return the result object as the server wrote it (also resultType "input_required").

        `timeout` is in seconds. The per-request `_meta` of the era is added here; clientCapabilities inside
        params["_meta"] are kept, so what is announced is what the caller decided, or nothing. A progress token is
        ours as the id is, because two callers may choose the same: `told` says who hears what before the result.
        While the server waits for an answer itself, the time does not run. `permit` is asked just before the first
        byte. Raises UpstreamError, or RemoteError with the server's own error. A timeout and the cancellation of the
        task send notifications/cancelled.
        """
        if not self.alive:
            raise UpstreamError("upstream.unavailable", f'The server "{self.server.slug}" is not running.')
        if permit is not None and not permit():
            raise UpstreamError(TOO_LATE, f'It took too long until "{self.server.slug}" could be asked.')
        call = self._post(
            method,
            with_meta(params, modern=self._modern, progress_token=self._last_id + 1 if told.progress else None),
            told=told,
        )
        if method == "tools/call":
            step("forward.sent")
        try:
            await call.asked.until(call.future, timeout)
        except asyncio.CancelledError:
            self._abandon(call, "the caller went away")
            raise
        if not call.future.done():
            self._abandon(call, "timeout")
            raise late(self.server.slug, method, timeout, sent=True)
        return call.future.result()

    async def list_tools(self, *, timeout: float = 30) -> list[JsonObject]:  # noqa: ASYNC109 - as request()
        """Return the tools of all pages as the server wrote them; `timeout` is for all of them together, in seconds.

        Raises as `request`, and upstream.invalid_response for a list that does not end.
        """
        if "tools" not in self.capabilities:
            return []
        return await list_tools(self.server.slug, self.request, timeout)

    async def make_ready(self) -> None:
        """A running server is ready."""

    async def close(self) -> None:
        """End the server and all its children; what is still pending fails with upstream.cancelled. Idempotent."""
        self._down("upstream.cancelled", f'The connection to "{self.server.slug}" was closed.')
        assert self._ending is not None
        await asyncio.shield(self._ending)

    def _post_raw(self, method: str, params: JsonObject) -> asyncio.Future[JsonObject]:
        return self._post(method, params, background=True).future

    def _post(
        self,
        method: str,
        params: JsonObject,
        *,
        told: Told = NOBODY,
        background: bool = False,
    ) -> _Call:
        if len(self._calls) - self.lasting >= MAX_PENDING:
            raise UpstreamError(
                "upstream.busy", f'The server "{self.server.slug}" has {MAX_PENDING} calls in progress.'
            )
        self._write(request_message(self._last_id + 1, method, params))
        self._last_id += 1
        asked = Asked(self.server.slug, told, self._write_or_drop)
        call = _Call(self._last_id, self._loop.create_future(), asked, background)
        self._calls[call.id] = call
        call.future.add_done_callback(lambda _: self._forget(call))
        self._touch()
        return call

    def _forget(self, call: _Call) -> None:
        self._calls.pop(call.id, None)
        call.asked.over()
        self._touch()

    def _touch(self) -> None:
        self.last_used = self._loop.time()

    def _abandon(self, call: _Call, reason: str) -> None:
        if call.future.cancel():
            self._notify("notifications/cancelled", {"requestId": call.id, "reason": reason})
        elif not call.future.cancelled():
            call.future.exception()  # looked at, so that asyncio does not report it

    def _notify(self, method: str, params: JsonObject | None = None) -> None:
        self._write_or_drop(notification(method, params))

    def _write_or_drop(self, message: JsonObject) -> None:
        """For messages nobody waits for: a server that does not read them harms itself alone."""
        try:
            self._write(message)
        except JitAccessError as error:
            logger.debug("server %s: dropped a message: %s", self.server.slug, error.detail)

    def _write(self, message: JsonObject) -> None:
        self._process.write(strictjson.encode(message) + b"\n")

    def _receive(self, line: bytes) -> None:
        """Take one line of stdout; a large one, and what follows it, in its turn."""
        if not self.alive:
            return
        if not self._lines and len(line) <= LARGE_ANSWER:
            self._handle(line, _decoded(line))
            return
        self._lines.append(line)
        if self._reading is None:
            self._process.pause()
            self._reading = self._loop.create_task(self._read())

    async def _read(self) -> None:
        """A large one in a thread: megabytes take seconds, in which nobody else would be served."""
        while self._lines and self.alive:
            line = self._lines[0]
            large = len(line) > LARGE_ANSWER
            message = await self._loop.run_in_executor(readers, _decoded, line) if large else _decoded(line)
            self._lines.popleft()
            self._handle(line, message)
        self._lines.clear()
        self._reading = None
        self._process.resume()
        if self._over:
            self._process_ended()

    def _handle(self, line: bytes, message: JsonObject | JitAccessError) -> None:
        """Nothing may leave this method as an exception: it runs in the event loop."""
        if not self.alive:
            return
        try:
            if isinstance(message, JitAccessError):
                self._unreadable(line, message.detail)
            elif self._dispatch(message):
                self._garbage = 0
            else:
                self._unreadable(line, "not a JSON-RPC message")
        except Exception:  # noqa: BLE001 - a callback of ours may fail, the connection may not
            logger.exception("server %s: a line could not be handled", self.server.slug)

    def _dispatch(self, message: JsonObject) -> bool:
        """Return False when this is no JSON-RPC message that a server may send."""
        if message.get("jsonrpc") != "2.0":
            return False
        method, params, call_id = message.get("method"), message.get("params", {}), message.get("id")
        if "method" not in message:
            return self._answer(call_id, message) if "result" in message or "error" in message else False
        if not isinstance(method, str) or not isinstance(params, dict):
            return False
        if "id" in message:
            return self._question(method, params, call_id)
        self._notification(method, params)
        return True

    def _answer(self, call_id: Json, message: JsonObject) -> bool:
        # type(), not isinstance(): true is an int to Python, and 1.0 equals the key 1
        call = self._calls.get(call_id) if type(call_id) is int else None
        if call is None or call.future.done():
            logger.debug("server %s: an answer to no call of ours is ignored", self.server.slug)
            return True
        answer = read_answer(message, modern=self._modern)
        if isinstance(answer, dict):
            call.future.set_result(answer)
        else:
            what = "its answer is neither a JSON-RPC result nor an error"
            call.future.set_exception(answer or nonsense(self.server.slug, what))
        return True

    def _question(self, method: str, params: JsonObject, call_id: Json) -> bool:
        """Relay the server's own request, or refuse it, so that it does not wait for somebody who is not there."""
        if self._modern or not isinstance(call_id, int | str) or isinstance(call_id, bool):
            # 2026-07-28 stdio: servers MUST NOT send requests and clients MUST NOT write responses.
            return False
        asked = whose(call.asked for call in self._calls.values())
        if asked is not None and method in QUESTIONS:
            asked.ask(method, params, call_id)
        else:
            self._write_or_drop(refusal(method, call_id))
        return True

    def _notification(self, method: str, params: JsonObject) -> None:
        if method == "notifications/progress":
            token = params.get("progressToken")
            call = self._calls.get(token) if type(token) is int else None
            if call is not None:
                call.asked.progress(params)
        elif method == "notifications/cancelled":
            any(call.asked.withdrawn(params.get("requestId")) for call in list(self._calls.values()))
        elif method == LOGGED and (asked := self._listener()) is not None:
            asked.log(params)
        elif self._on_notification is not None and concerns(method, params):
            self._on_notification(method, params)

    def _listener(self) -> Asked | None:
        """Whose call a log message is about, as far as one can tell; of a shared server nobody's."""
        calls = () if self.server.shared else self._calls.values()
        return next((call.asked for call in calls if call.asked.listens), None)

    def _unreadable(self, line: bytes, reason: str) -> None:
        shown = visible(line[:EDGE_BYTES].decode(errors="replace"), limit=EDGE_BYTES)
        logger.debug("server %s: a line is ignored (%s): %s", self.server.slug, reason, shown)
        found = _FIRST_ID.match(line[:EDGE_BYTES]) or _LAST_ID.search(line[-EDGE_BYTES:])
        call = self._calls.get(int(found[1])) if found else None
        if call is not None and not call.future.done():
            call.future.set_exception(nonsense(self.server.slug, f"its answer cannot be read: {reason}"))
        self._garbage += 1
        if self._garbage >= MAX_GARBAGE_LINES:
            detail = f'The server "{self.server.slug}" wrote {MAX_GARBAGE_LINES} lines in a row that are not MCP.'
            self._down("upstream.died", detail)  # not "answered with nonsense": the pending calls were not answered

    def _process_ended(self) -> None:
        if self._reading is not None:
            self._over = True  # the last words are being read
            return
        status = self._process.exit_status
        how = "closed its output" if status is None else f"ended with exit status {status}"
        hint = " (its command could not be run)" if status == 127 else ""
        self._down("upstream.died", f'The server "{self.server.slug}" {how}{hint}.')

    def _down(self, code: str, detail: str, *, patience: float = EXIT_SECONDS) -> None:
        """End the connection once: nothing more is sent, every pending call fails with its own exception."""
        if self._ending is not None:
            return
        self.alive = False
        for call in list(self._calls.values()):
            if not call.future.done():
                call.future.set_exception(UpstreamError(code, detail, sent=True, server=self.server.slug))
        self._ending = self._loop.create_task(self._process.end(patience=patience))


def _decoded(line: bytes) -> JsonObject | JitAccessError:
    try:
        return strictjson.decode(line)
    except JitAccessError as error:
        return error


class _Died(UpstreamError):
    """The process ended in the handshake."""

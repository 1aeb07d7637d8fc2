"""The ASGI application of the gateway: /mcp/<server-slug> and /mcp (all servers), in both protocol eras.

The order of the pipeline is the design: Host and Origin, token, size, strict JSON, era and header agreement, session,
method allow-list, server and tool, decide, record, forward, check, answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging

from django.db import Error as DatabaseTrouble
from msgspec.structs import replace

from jitaccess.gateway import tracing, wire
from jitaccess.gateway.builtin.definitions import NAMES
from jitaccess.gateway.calling.calls import Call, forward_call, no_server, record_knock
from jitaccess.gateway.calling.short import ShortCall, ShortWay
from jitaccess.gateway.context import Context
from jitaccess.gateway.core import Clock, Gateway, Seen
from jitaccess.gateway.endpoint import PATH, PREFIX, Endpoint, Target
from jitaccess.gateway.heads import Heads, check_content, token_of
from jitaccess.gateway.http import (
    BEGUN,
    Answering,
    Receive,
    Scope,
    Send,
    check_length,
    read_body,
    send_empty,
    send_json,
)
from jitaccess.gateway.limits import MAX_IN_FLIGHT, MAX_READING, RETRY_AFTER, one_more
from jitaccess.gateway.methods import METHODS, Method, initialize
from jitaccess.gateway.presence import Presences
from jitaccess.gateway.seeing.listening import listen_legacy, listen_modern
from jitaccess.gateway.sessions import Session, resume_session, unknown_session
from jitaccess.gateway.talking.asking import asker, carried
from jitaccess.gateway.talking.caller import Caller, level_of
from jitaccess.gateway.talking.elsewhere import Elsewhere
from jitaccess.gateway.talking.relay import Reply
from jitaccess.gateway.wire import Headers, Message, RpcError, read_message
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Forbidden, Invalid
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.decide import Kind, Who, reachable

log = logging.getLogger(__name__)

# From here on reading and digesting a body would hold up the event loop for everybody.
LARGE_BODY = 64 * 1024
# What a request is about, by method: which member names it.
_ASKED_FOR = {
    "tools/call": ("name", Kind.TOOL), "prompts/get": ("name", Kind.PROMPT), "resources/read": ("uri", Kind.RESOURCE),
}  # fmt: skip


class Application:
    """Pure ASGI; never passes through Django's handler."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        gateway.elsewhere = Elsewhere(gateway, forward_call)
        self.short = gateway.short = ShortWay(gateway)
        self._presences = Presences()
        self._numbers = itertools.count()
        self._heads = Heads()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = send if isinstance(send, Answering) else Answering(send)
        try:
            begun: ShortCall | None = scope.get(BEGUN)
            await (self._serve(scope, receive, answering) if begun is None else self._go_on(begun, receive, answering))
        except RpcError as error:
            if not answering.status:
                await _send_error(answering, error)
        except ConnectionError:
            pass  # the client left before it had said everything
        except DatabaseTrouble as error:
            log.warning("refused, because the database cannot be used: %s", error)
            if not answering.status:
                await _send_error(
                    answering,
                    RpcError(wire.INTERNAL_ERROR, "The gateway cannot decide right now. Try again later.", status=503),
                )
        except Exception:
            log.exception("a request failed inside the gateway")
            if not answering.status:
                await _send_error(
                    answering, RpcError(wire.INTERNAL_ERROR, "The gateway failed; nothing more was sent.", status=500)
                )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = self._heads.read(scope["headers"])
        method = scope["method"]
        if method not in {"POST", "GET", "DELETE"}:
            await send_empty(send, 405, {"allow": "GET, POST, DELETE"})
            return
        if method == "POST":
            check_content(headers)
        token, source = token_of(headers), (scope.get("client") or ("",))[0]
        recognized = self.gateway.recognize(token, source=source) if method == "POST" else None
        principal, seen = recognized or await self._identify(token, source)
        self.gateway.limits.admit(principal.key)
        check_length(headers.get("content-length") or "")
        # Read after the token: a stranger must not make us hold megabytes.
        with one_more(self.gateway.limits.reading, principal.key, limit=MAX_READING):
            body = await read_body(receive) if method == "POST" else b""
            plain = _plain_call(body, headers, scope["path"], principal, seen) if recognized else None
            if recognized and plain is None:
                principal, seen = await self._identify(token, source)
            message, endpoint, is_open = plain or (None, *_endpoint(scope["path"], principal, seen))
            if not is_open:
                # Answered first, like a server that does not exist: the record must not show in the time it takes.
                await _send_error(send, no_server())
                await self._knocked(principal, endpoint, body, headers, seen[1])
                return
            if message is None and method == "POST":
                message = await self._message(body, headers)
        if method == "DELETE":
            session = self._session(principal, endpoint, headers)
            await self.gateway.elsewhere.end_session(session, principal=principal.key)
            await send_empty(send, 200)
            return
        if message is None:
            del seen, recognized, body  # an open stream must not keep a Snapshot alive
            await self._listen_legacy(principal, endpoint, headers, receive, send)
            return
        try:
            if message.method == "subscriptions/listen" and message.modern and message.id is not None:
                del seen, recognized, body
                await listen_modern(self.gateway, principal, endpoint, message, receive, send)
                return
            await self._answer(Context(self.gateway, principal, endpoint, message, *seen), headers, receive, send)
        except RpcError as error:
            error.request_id = message.id
            raise

    async def _go_on(self, begun: ShortCall, receive: Receive, send: Send) -> None:
        """With a call that went the short way so far."""
        begun.taken_over()
        seen = (self.gateway, begun.call.principal, begun.endpoint, begun.message, begun.snapshot, begun.call.clock)
        try:
            await self._answer(Context(*seen, begun=begun), begun.head.headers, receive, send)
        except RpcError as error:
            error.request_id = begun.message.id
            raise

    async def _listen_legacy(
        self, principal: Principal, endpoint: Endpoint, headers: Headers, receive: Receive, send: Send
    ) -> None:
        if "text/event-stream" not in headers.said.accept:
            await send_empty(send, 405, {"allow": "POST"})
            return
        session = self._session(principal, endpoint, headers)
        await listen_legacy(self.gateway, principal, endpoint, session.id, receive, send)

    def _session(self, principal: Principal, endpoint: Endpoint, headers: Headers) -> Session:
        """Raises RpcError(404) for one that is not this principal's, or that its client has ended."""
        session = resume_session(headers.get("mcp-session-id"), principal, server=endpoint.slug)
        if session.id in self.gateway.ended:
            raise unknown_session()
        return session

    async def _message(self, body: bytes, headers: Headers) -> Message:
        """Large bodies are read in a thread, one at a time: several at once would leave nobody else the interpreter."""
        if len(body) <= LARGE_BODY:
            return read_message(body, headers)
        async with self.gateway.large:
            return await asyncio.to_thread(read_message, body, headers)

    async def _identify(self, token: str, source: str) -> tuple[Principal, Seen]:
        try:
            return await self.gateway.identify(token, source=source)
        except Forbidden as error:
            raise RpcError(wire.INVALID_REQUEST, error.detail, status=401) from error

    async def _knocked(
        self, principal: Principal, endpoint: Endpoint, body: bytes, headers: Headers, clock: Clock
    ) -> None:
        """A closed server answers like none at all; that somebody tried to call it is on record."""
        with contextlib.suppress(RpcError, Invalid):
            message = read_message(body if len(body) <= LARGE_BODY else b"{}", headers)
            member, kind = _ASKED_FOR.get(message.method, ("", Kind.TOOL))
            name, arguments = message.params.get(member), message.params.get("arguments", {})
            if isinstance(name, str) and isinstance(arguments, dict):
                target = Target(endpoint.server, endpoint.slug, name, name, kind)
                await record_knock(self.gateway, Call(principal, target, arguments, clock, method=message.method))

    async def _answer(self, context: Context, headers: Headers, receive: Receive, send: Send) -> None:
        session_id, principal, message = "", context.principal, context.message
        tracing.carry(headers.get("traceparent"), message.meta)
        declared = message.meta.get(wire.META_CAPABILITIES)
        if not message.modern and message.method != "initialize":
            session = self._session(principal, context.endpoint, headers)
            session_id, declared = session.id, session.capabilities
            message = replace(message, client=session.client, version=session.version)
        if message.answer is not None:
            # Always taken: an answer that comes too late is nobody's fault, and which are open is nobody's business.
            await self._answered(message.answer, principal, session_id)
            await send_empty(send, 202)
            return
        principal = principal.through(message.client)
        seen = (self.gateway, principal, context.endpoint, message, context.snapshot, context.clock)
        if message.id is None:
            await self._notified(Context(*seen), session_id)
            await send_empty(send, 202)
            return
        if message.method == "initialize" and not message.modern:
            value, session_id = await initialize(Context(*seen))
            await send_json(send, 200, wire.result(message.id, value), {"mcp-session-id": session_id})
            return
        handler = METHODS[message.modern].get(message.method)
        if handler is None:
            raise RpcError(wire.METHOD_NOT_FOUND, "Method not found", status=404 if message.modern else 200)
        before, events, after = headers.said.accept.partition("text/event-stream")
        # What an older client names first it gets, as from a server that always answers so.
        preferred = not message.modern and "application/json" in after and "application/json" not in before
        level, asked_of = self._level(message, principal.key, session_id), carried(declared) if declared else {}
        reply = Reply(send, events=bool(events), preferred=preferred)
        try:
            caller = Caller(message, principal.key, session_id, reply, asked_of, level)
            begun = context.begun
            with begun.busy if begun else one_more(self.gateway.limits.busy, principal.key, limit=MAX_IN_FLIGHT):
                await self._work(Context(*seen, caller, begun), session_id, handler, reply, receive)
        finally:
            reply.close()
            if reply.streaming:
                await reply.drop()

    def _level(self, message: Message, principal: str, session_id: str) -> str | None:
        """Which log messages the client wants: told in each request, or by an older client once for its session."""
        if not message.modern:
            return self.gateway.levels.get(principal, session_id)
        level = message.meta.get(wire.META_LEVEL)
        return None if level is None else level_of(level)

    async def _work(self, context: Context, session_id: str, handler: Method, reply: Reply, receive: Receive) -> None:
        """Answer when the work is done. A modern client that leaves has cancelled; an older one only by saying so."""
        in_flight, message, task = self.gateway.in_flight, context.message, asyncio.current_task()
        assert task is not None
        # Without a session every request is one of its own.
        key = (context.principal.key, session_id or f"#{next(self._numbers)}", repr(message.id))
        if key in in_flight:
            raise RpcError(wire.INVALID_REQUEST, "A request with this id is in progress in this session.", status=400)
        in_flight[key] = task
        if self.gateway.over:  # a call that went the short way is in nobody's list
            task.cancel()
        with self._presences.of(task, receive) as client:
            # A wait that nobody waits for is over, in every era.
            if message.modern or _waits(message.params):
                client.watch()
                reply.on_lost = client.left
            try:
                status, answer = await _finished(handler, context, reply)
                await reply.end(status, answer)
            except asyncio.CancelledError:
                client.ending()
                in_flight.pop(key, None)
                while task.uncancel():  # whoever cancels it means the work, not the answer
                    pass
                if self.gateway.over:
                    said = "The gateway is being stopped; whether this was carried out is not known."
                    await _fail(reply, message, RpcError(wire.INTERNAL_ERROR, said, status=503))
                elif not client.gone:
                    await _fail(reply, message, RpcError(wire.INVALID_REQUEST, "Cancelled."))
            finally:
                in_flight.pop(key, None)

    async def _answered(self, message: JsonObject, principal: Principal, session_id: str) -> None:
        """An older client answers what it was asked by this process or another."""
        if self.gateway.questions.take(message, principal=principal.key, session=session_id):
            return
        holder = asker(message.get("id"))
        if holder is not None and holder != self.gateway.instance:
            await self.gateway.elsewhere.answer(holder, message, principal=principal.key, session=session_id)

    async def _notified(self, context: Context, session_id: str) -> None:
        """Notifications end here: none is forwarded. A cancellation reaches the caller's own calls only."""
        if context.message.method == "notifications/cancelled":
            key = (context.principal.key, session_id, repr(context.message.params.get("requestId")))
            if not self.gateway.cancel(key) and session_id:
                await self.gateway.elsewhere.cancel(key)


def _endpoint(path: str, principal: Principal, seen: Seen) -> tuple[Endpoint, bool]:
    """What this path speaks for, and whether it is open to this principal. Raises RpcError(404)."""
    assert principal.agent
    snapshot, _ = seen
    if path in {PATH, PREFIX}:
        return Endpoint(), True
    server = snapshot.server_by_slug(path.removeprefix(PREFIX))
    if server is None:
        raise no_server()
    return Endpoint(server.id, server.slug), reachable(
        snapshot, who=Who(principal.agent, principal.user), server=server
    )


def _plain_call(
    body: bytes, headers: Headers, path: str, principal: Principal, seen: Seen
) -> tuple[Message, Endpoint, bool] | None:
    """What it is, if it is a call of a server's tool: let through or refused by its batch and by nothing before it."""
    if len(body) > LARGE_BODY:
        return None
    try:
        message = read_message(body, headers)
        name = message.params.get("name")
        if message.method == "tools/call" and message.id is not None and isinstance(name, str) and name not in NAMES:
            endpoint, is_open = _endpoint(path, principal, seen)
            return (message, endpoint, True) if is_open else None
    except RpcError:
        pass  # said when it is known who asks
    return None


def _waits(params: JsonObject) -> bool:
    """Whether a call is one that waits for people, by itself or through call_tool."""
    arguments = params.get("arguments")
    inner = arguments.get("name") if params.get("name") == "call_tool" and isinstance(arguments, dict) else None
    return "check_request" in (params.get("name"), inner)


async def _finished(handler: Method, context: Context, reply: Reply) -> tuple[int, JsonObject]:
    """The status and the answer."""
    message = context.message
    try:
        return 200, wire.result(message.id, await handler(context))
    except RpcError as error:
        if error.status in {401, 404} and not reply.streaming:
            raise  # in every era: a client that may get a new token does so on this, or begins anew
        # 2026-07-28 gives some errors an HTTP status; the older revisions answer every request with 200.
        answer = wire.error(error.code, str(error), message_id=message.id, data=error.data)
        return error.status if message.modern else 200, answer


async def _fail(reply: Reply, message: Message, error: RpcError) -> None:
    """An error in whatever way the answer has begun."""
    if not reply.streaming:
        raise error
    await reply.end(error.status, wire.error(error.code, str(error), message_id=message.id, data=error.data))


async def _send_error(send: Send, error: RpcError) -> None:
    headers = {}
    if error.status == 401:
        headers["www-authenticate"] = 'Bearer realm="jitaccess", error="invalid_token"'
    if isinstance(error.data, dict) and RETRY_AFTER in error.data:
        headers["retry-after"] = str(error.data[RETRY_AFTER])
    await send_json(
        send, error.status, wire.error(error.code, str(error), message_id=error.request_id, data=error.data), headers
    )

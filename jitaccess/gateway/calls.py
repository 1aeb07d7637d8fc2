"""One tool call, from the client's words to its answer: decide and record, then forward, then record the end."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.redact import redact
from jitaccess.gateway import denials, tracing
from jitaccess.gateway.batch import TRIES, Admitted, Intent
from jitaccess.gateway.core import Clock, Gateway
from jitaccess.gateway.endpoint import Target
from jitaccess.gateway.repeating import REPEATED, too_often
from jitaccess.gateway.upstream.confidence import masked
from jitaccess.gateway.upstream.connection import Connection
from jitaccess.gateway.upstream.errors import TOO_LATE, RemoteError, UpstreamError
from jitaccess.gateway.upstream.handshake import MODERN
from jitaccess.gateway.wire import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, RpcError
from jitaccess.identity.principal import Principal
from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import digest
from jitaccess.kernel.discreet import is_about
from jitaccess.kernel.errors import Invalid, Unavailable
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.decide import Code, Who, decide
from jitaccess.store.clock import JitNow
from requests_app import selectors

MAX_RESULT = 4 * 1024 * 1024
# Arguments up to this many bytes are digested where they are: a thread costs more.
SMALL = 4096


class _TooLate(Exception):
    """Nothing was sent, and what was admitted is not good any more."""


@dataclass(frozen=True, slots=True)
class Call:
    """What a client wants called: exactly which tool, with which arguments.

    `clock` is the database's, as read when the request came.
    """

    principal: Principal
    target: Target
    arguments: JsonObject
    clock: Clock

    def intent(self, args_digest: str, shown: Json, *, barred: str = "") -> Intent:
        """`shown` is what the ledger shows of the arguments."""
        target = self.target
        return Intent(
            self.principal,
            target.server,
            target.server_name,
            target.tool,
            args_digest,
            shown,
            given=self.arguments,
            kind=target.kind,
            barred=barred,
        )


async def call_tool(gateway: Gateway, call: Call) -> JsonObject:
    """The tool's result, or a refusal or failure as a result. Raises RpcError for what the protocol calls an error."""
    try:
        args_digest, shown = await _kept(gateway, call.arguments)
    except Invalid as error:
        raise RpcError(INVALID_PARAMS, error.detail) from error
    barred = ""
    if _seems_allowed(gateway, call, args_digest) and too_often(gateway, call.principal, call.target, args_digest):
        barred = REPEATED
    for _ in range(TRIES):
        # A child is started only for a call that would be allowed, and before admission: a start may take longer
        # than an admission stays good.
        wanted = not barred and _seems_allowed(gateway, call, args_digest)
        connection = await _connect(gateway, call) if wanted else None
        intent = call.intent(args_digest, shown, barred=barred)
        try:
            with tracing.span("admit", server=call.target.server_name):
                admitted = await gateway.admission.admit(intent)
        except Unavailable:
            return _refusal(call, "unavailable", None, None)
        is_about(call=admitted.recorded, grant=admitted.verdict.grant)
        if not admitted.allowed:
            return await _refused(gateway, call, admitted)
        try:
            connection = connection or await _connect(gateway, call)  # allowed only since a moment ago
        except BaseException:
            gateway.admission.not_sent(admitted, "the client left, or the gateway failed")
            raise
        if isinstance(connection, UpstreamError):
            return _failed(gateway, call, admitted, connection)
        step("forward.starting")
        try:
            with tracing.span("forward", server=call.target.server_name):
                return await _forward(gateway, call, admitted, connection)
        except _TooLate:
            gateway.admission.not_sent(admitted, "could not start within a second")
            await connection.make_ready()
    return _refusal(call, "policy_busy", None, None)


async def record_knock(gateway: Gateway, call: Call) -> None:
    """Put a call of a closed server on record. It is never forwarded, whatever opens meanwhile."""
    args_digest, shown = await _kept(gateway, call.arguments)
    with contextlib.suppress(Unavailable):
        admitted = await gateway.admission.admit(call.intent(args_digest, shown))
        if admitted.allowed:
            gateway.admission.not_sent(admitted, "the server was closed when the call came")


async def _kept(gateway: Gateway, arguments: JsonObject) -> tuple[str, Json]:
    """What the ledger keeps of arguments: the digest of the whole, and a redacted view.

    Large ones in a thread, one at a time: they must hold up neither the event loop nor, several at once, everybody.
    """
    if len(strictjson.encode(arguments)) <= SMALL:
        return digest(arguments, domain="jitaccess-args-v1"), redact(arguments)
    async with gateway.large:
        whole = await asyncio.to_thread(digest, arguments, domain="jitaccess-args-v1")
    return whole, redact(arguments)


def _seems_allowed(gateway: Gateway, call: Call, args_digest: str) -> bool:
    """By policy as this process knows it: a guess about what the batch will say, which alone decides."""
    assert call.principal.agent
    who = Who(call.principal.agent, call.principal.user)
    snapshot, at = gateway.store.current, call.clock.now()
    target = call.target
    verdict = decide(
        snapshot,
        who=who,
        server=target.server,
        tool=target.tool,
        at=at,
        arguments=call.arguments,
        digest=args_digest,
        kind=target.kind,
    )
    return verdict.allowed


async def _connect(gateway: Gateway, call: Call) -> Connection | UpstreamError:
    """A connection, or why there is none."""
    try:
        return await gateway.pool.connection(call.target.server_name, call.principal.key)
    except UpstreamError as error:
        return error


async def _forward(gateway: Gateway, call: Call, admitted: Admitted, connection: Connection) -> JsonObject:
    started = time.monotonic()
    try:
        asked: JsonObject = {"name": call.target.tool, "arguments": call.arguments}
        asked |= tracing.onward(modern=connection.era == MODERN)
        answer = await connection.request("tools/call", asked, timeout=gateway.call_timeout, permit=admitted.may_start)
        step("forward.answered")
        size = _check(answer)
    except RemoteError as error:
        message, detail = str(masked(error.message, connection.server)), masked(error.data, connection.server)
        text = visible(message, limit=2000, multiline=True)
        small = len(strictjson.encode([message, detail])) <= MAX_RESULT
        gateway.admission.finish(
            admitted, Event.CALL_FAILED, Outcome.ERROR, {"rpc_code": error.rpc_code, "message": text}
        )
        raise RpcError(error.rpc_code, message if small else text, data=detail if small else None) from error
    except UpstreamError as error:
        if error.code == TOO_LATE:
            raise _TooLate from error
        return _failed(gateway, call, admitted, error)
    except asyncio.CancelledError:
        why = "the gateway was stopped" if gateway.over else "the client left or cancelled the call"
        gateway.admission.finish(admitted, Event.CALL_OUTCOME_UNKNOWN, Outcome.ERROR, {"why": why})
        raise
    except Exception:
        gateway.admission.finish(admitted, Event.CALL_OUTCOME_UNKNOWN, Outcome.ERROR, {"why": "the gateway failed"})
        raise
    data: dict[str, Json] = {
        "is_error": answer.get("isError") is True, "bytes": size, "ms": round((time.monotonic() - started) * 1000),
    }  # fmt: skip
    gateway.admission.finish(admitted, Event.CALL_COMPLETED, Outcome.ALLOWED, data)
    shown = masked(answer, connection.server)
    assert isinstance(shown, dict)
    return _without_our_words(shown)


def _without_our_words(answer: JsonObject) -> JsonObject:
    """Only the gateway speaks as the gateway: a server could otherwise forge a refusal with its advice."""
    content = answer.get("content")
    assert isinstance(content, list)
    cleaned: list[Json] = [_cleaned(block) for block in content if isinstance(block, dict)]
    return _cleaned(answer | {"content": cleaned}) if cleaned != content else _cleaned(answer)


def _cleaned(value: JsonObject) -> JsonObject:
    meta = value.get("_meta")
    if not isinstance(meta, dict) or not any(name.lower().startswith(denials.NAMESPACE) for name in meta):
        return value
    return value | {
        "_meta": {name: one for name, one in meta.items() if not name.lower().startswith(denials.NAMESPACE)}
    }


def _check(answer: JsonObject) -> int:
    """The size of a usable result. Raises UpstreamError for one that no client could use."""
    if answer.get("resultType", "complete") != "complete":
        detail = "The server asks for input in the middle of the call, which this gateway cannot carry yet."
        raise UpstreamError("upstream.invalid_response", detail, sent=True)
    content = answer.get("content")
    blocks = isinstance(content, list) and all(isinstance(block, dict) for block in content)
    if not blocks or not isinstance(answer.get("isError", False), bool):
        raise UpstreamError("upstream.invalid_response", "The server's answer is not a tool result.", sent=True)
    size = len(strictjson.encode(answer))
    if size > MAX_RESULT:
        raise UpstreamError(
            "upstream.invalid_response", f"The result has {size} bytes; {MAX_RESULT} are passed on.", sent=True
        )
    return size


def _failed(gateway: Gateway, call: Call, admitted: Admitted, error: UpstreamError) -> JsonObject:
    """`call.failed` when the server answered or nothing was sent; otherwise nobody knows what it did."""
    known = not error.sent or error.code == "upstream.invalid_response"
    event = Event.CALL_FAILED if known else Event.CALL_OUTCOME_UNKNOWN
    data: dict[str, Json] = {"error": error.code, "sent": error.sent, "detail": visible(error.detail, limit=500)}
    gateway.admission.finish(admitted, event, Outcome.ERROR, data)
    return denials.failed(tool=call.target.public, detail=error.detail, code=error.code, sent=error.sent)


async def _refused(gateway: Gateway, call: Call, admitted: Admitted) -> JsonObject:
    if admitted.code == "token_ended":
        gateway.known.forget(call.principal.token_hash)
        raise RpcError(INVALID_REQUEST, "The access token is unknown, expired or revoked.", status=401)
    target = call.target
    if (
        admitted.code == Code.UNKNOWN
        and admitted.verdict.server is None
        and target.server
        and target.public == target.tool
    ):
        raise no_server()  # closed since the call came
    # What a deny rule hides from the list is hidden here too; the ledger has the true reason.
    if admitted.code in {Code.UNKNOWN, Code.NOT_REQUESTABLE}:
        raise unknown_tool(call.target.public)
    if admitted.code != admitted.verdict.code:
        # Refused whatever policy says, and so for every name: to ask for access would not help.
        return _refusal(call, admitted.code, admitted, None, may_ask=False)
    pending = None
    if admitted.verdict.requestable is not None or admitted.verdict.roles:
        pending = await gateway.db(_pending_for, call, admitted)
    return _refusal(call, admitted.code, admitted, pending)


def _refusal(
    call: Call, code: str, admitted: Admitted | None, pending: tuple[str, str] | None, *, may_ask: bool = True
) -> JsonObject:
    return denials.denied(
        tool=call.target.public,
        code=code,
        requestable=admitted.verdict.requestable if admitted and may_ask else None,
        pending=pending,
        call=str(admitted.recorded) if admitted else "",
        roles=admitted.verdict.roles if admitted and may_ask else (),
    )


def _pending_for(call: Call, admitted: Admitted) -> tuple[str, str] | None:
    """A request that waits already for what would allow this very call."""
    wanted = (call.target.server_name, call.target.tool)
    for request in selectors.pending_of(call.principal).filter(pending_until__gt=JitNow()):
        for item in request.parsed_items:
            named = any((item.get("server"), tool["name"]) == wanted for tool in item.get("tools", ()))
            if item["kind"] == "call":
                named = named and item["arguments"]["digest"] == admitted.intent.digest
            if named or item.get("role") in admitted.verdict.roles:
                return str(request.pk), request.url
    return None


def no_server() -> RpcError:
    """One answer for a server that does not exist and one that is closed to the caller."""
    return RpcError(METHOD_NOT_FOUND, "There is no such server here.", status=404)


def unknown_tool(name: str) -> RpcError:
    """One answer for a tool that does not exist and one that the caller may not know about (2026-07-28, Tools)."""
    return RpcError(INVALID_PARAMS, f"Unknown tool: {visible(name, limit=128)}")

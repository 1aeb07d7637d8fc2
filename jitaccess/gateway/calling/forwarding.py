"""One admitted call on its way to the server and back: what goes along, who hears what meanwhile, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

from jitaccess.audit.events import Event, Outcome
from jitaccess.gateway import tracing
from jitaccess.gateway.calling import denials, identity
from jitaccess.gateway.calling.results import check, check_size, cleared, shown_error, without_our_words
from jitaccess.gateway.calling.running import still
from jitaccess.gateway.recording.facts import Admitted
from jitaccess.gateway.talking import rounds
from jitaccess.gateway.talking.caller import LEVELS
from jitaccess.gateway.talking.rounds import FIRST, Turn, Wanted
from jitaccess.gateway.upstream.asked import NOBODY, Ask, Told
from jitaccess.gateway.upstream.atonce import Underway
from jitaccess.gateway.upstream.confidence import masked
from jitaccess.gateway.upstream.connection import Connection
from jitaccess.gateway.upstream.errors import TOO_LATE, RemoteError, UpstreamError
from jitaccess.gateway.upstream.handshake import MODERN
from jitaccess.gateway.upstream.http import HttpConnection
from jitaccess.gateway.wire import INTERNAL_ERROR, INVALID_PARAMS, META_CAPABILITIES, META_LEVEL, RpcError
from jitaccess.kernel.canonical import digest
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible

if TYPE_CHECKING:
    from jitaccess.gateway.calling.call import Call
    from jitaccess.gateway.core import Gateway

LEVEL_SECONDS = 5.0
# 2026-07-28, "Streamable HTTP": errors with a status of their own.
_STATUS = dict.fromkeys((-32020, -32021, -32022), 400)
RESOURCE_NOT_FOUND, URL_REQUIRED, MISSING_CAPABILITY = -32002, -32042, -32021


class TooLate(Exception):
    """Nothing was sent, and what was admitted is not good any more."""


class Forwarding:
    """A call that was let through, and the connection on which it goes. One that waits for answers in the middle goes
    on as the call that brings them.

    `modern`: whether the server speaks 2026-07-28. `begun`: whether anything of it may have reached the server.
    `asked` are the server's questions in the middle, `answered` what they were answered.
    """

    __slots__ = ("admitted", "answered", "asked", "begun", "call", "connection", "gateway", "modern", "started", "turn")

    def __init__(
        self, gateway: Gateway, call: Call, admitted: Admitted, connection: Connection, turn: Turn, started: float
    ) -> None:
        self.gateway, self.call, self.admitted = gateway, call, admitted
        self.connection, self.turn, self.started = connection, turn, started
        self.modern = connection.era == MODERN
        self.begun = False
        self.asked: list[Json] = []
        self.answered: list[Json] = []

    @property
    def seconds(self) -> float:
        server = self.admitted.verdict.server
        return self.gateway.call_timeout or (server.options.call_seconds if server else 60.0)

    @property
    def limit(self) -> int:
        server = self.admitted.verdict.server
        assert server is not None
        return server.options.max_result_bytes

    async def send(self, ask: Ask | None, underway: Underway | None = None) -> JsonObject:
        """The server's result as it wrote it. Cut when the right to the call ends: TimeoutError. `underway`: it has
        gone out already, over HTTP.
        """
        if underway is not None:
            assert isinstance(self.connection, HttpConnection)
            return await self._answered(partial(self.connection.request, underway=underway), ask)
        if self.call.caller is not None and not self.modern:
            await self._set_level(self.call.caller.level)
        step("forward.starting")
        return await self._answered(self.connection.request, ask)

    async def _answered(self, request: Callable[..., Awaitable[JsonObject]], ask: Ask | None) -> JsonObject:
        answered: UpstreamError | None = None
        try:
            return await request(
                self.call.method,
                self.params(),
                timeout=self.seconds,
                told=self._told(ask),
                permit=self.may_start,
            )
        except UpstreamError as error:
            answered = error
            raise
        except asyncio.CancelledError:
            answered = UpstreamError("upstream.cancelled", "It says nothing about the server.")
            raise
        finally:
            self.gateway.pool.answered(self.connection, answered, self.call.principal.key)

    def may_start(self) -> bool:
        """Whether the first byte may still go out."""
        self.begun = self.admitted.may_start()
        return self.begun

    def params(self) -> JsonObject:
        """What goes to the server."""
        call, granted = self.call, self.admitted.verdict.grant is not None
        caller, params = call.caller, call.sent_by_grant if granted else call.sent
        meta: JsonObject = tracing.onward(modern=self.modern)
        server = self.admitted.verdict.server
        if server is not None and server.options.identity_header:
            meta[identity.META] = identity.assertion(self.admitted)
        if self.modern and caller is not None:
            meta |= {META_CAPABILITIES: caller.capabilities} if caller.capabilities else {}
            meta |= {META_LEVEL: caller.level} if caller.level is not None else {}
            if self.turn is not FIRST:
                params = params | ({"inputResponses": self.turn.responses} if self.turn.responses is not None else {})
                params |= {"requestState": self.turn.state} if self.turn.state is not None else {}
        return params | {"_meta": meta} if meta else params

    def _told(self, ask: Ask | None) -> Told:
        caller = self.call.caller
        if caller is None:
            return NOBODY
        progress = self._progress if caller.wants_progress else None
        log = self._log if caller.wants_logs else None
        return Told(progress, log, ask) if progress or log or ask else NOBODY

    def _progress(self, params: JsonObject) -> None:
        if self.call.caller is not None:
            self.call.caller.progress(self.shown(params))

    def _log(self, params: JsonObject) -> None:
        if self.call.caller is not None:
            self.call.caller.log(self.shown(params))

    def shown(self, value: JsonObject) -> JsonObject:
        """What a server says as it may be passed on: without credentials, and not in the gateway's name."""
        passed = masked(value, self.connection.server)
        assert isinstance(passed, dict)
        return cleared(passed)

    async def _set_level(self, level: str | None) -> None:
        """Tell a server of the older era what to log. A connection serves one principal: the least of its levels."""
        known = self.connection.level
        if level is None or self.connection.server.shared or "logging" not in self.connection.capabilities:
            return
        if known is None or LEVELS.index(level) < LEVELS.index(known):
            self.connection.level = level
            with contextlib.suppress(RemoteError, UpstreamError):
                await self.connection.request("logging/setLevel", {"level": level}, timeout=LEVEL_SECONDS)

    async def relay(self, method: str, ask: Callable[[], Awaitable[JsonObject]]) -> JsonObject:
        """The client's answer to a question, got by `ask`: not for a call that was approved word by word, nor after the
        right to it has ended meanwhile. Raises RemoteError.
        """
        self.asked.append(method)
        self._require_answers()
        answer = await ask()
        self._require_answers()
        self.answered.append(answer)
        return answer

    def _require_answers(self) -> None:
        if not self.may_answer():
            raise RemoteError(INTERNAL_ERROR, "This call was approved as it is: nothing can be added to it.")

    def may_answer(self) -> bool:
        """Whether the call may carry answers to the server's questions."""
        return still(self.gateway.store.current, self.admitted, self.call.clock.now(), answers=True).allowed

    def may_go_on(self) -> bool:
        """Whether it is still allowed, as this process knows policy."""
        return still(self.gateway.store.current, self.admitted, self.call.clock.now()).allowed

    # How it ends: each of these says it to the ledger.

    def outcome(self, result: Callable[[], JsonObject]) -> JsonObject | Wanted:
        """What comes of what `result` returns or raises. Raises as `failed`."""
        try:
            answer = result()
        except RemoteError as error:
            return self._url_required(error) or self.failed(error)
        except BaseException as error:  # noqa: BLE001 - each becomes what the client is told, or is raised again
            return self.failed(error)
        return self.came_back(answer)

    def came_back(self, answer: JsonObject) -> JsonObject | Wanted:
        """What comes of the server's result. Raises as `failed`."""
        try:
            return self.completed(answer)
        except BaseException as error:  # noqa: BLE001 - as above
            return self.failed(error)

    def _url_required(self, error: RemoteError) -> Wanted | None:
        """2025-11-25, "URL Elicitation Required Error": to a client of the newer era a question like any other."""
        data = error.data if isinstance(error.data, dict) else {}
        asked = data.get("elicitations")
        if not self.call.modern or error.rpc_code != URL_REQUIRED or not isinstance(asked, list) or not asked:
            return None
        requests: JsonObject = {
            f"question-{number}": {"method": "elicitation/create", "params": self.shown(one)}
            for number, one in enumerate(asked[: rounds.MAX_QUESTIONS], 1)
            if isinstance(one, dict)
        }
        return Wanted(requests) if requests else None

    def completed(self, answer: JsonObject) -> JsonObject | Wanted:
        """The result as the client gets it. A question is not an end yet: see `paused`. Raises UpstreamError."""
        if self.modern and answer.get("resultType") == "input_required" and self.call.method in rounds.METHODS:
            check_size(answer, limit=self.limit)
            return rounds.wanted(self.shown(answer))
        size = check(self.call.method, answer, limit=self.limit)
        data: dict[str, Json] = {
            "is_error": answer.get("isError") is True,
            "bytes": size,
            "ms": round((time.monotonic() - self.started) * 1000),
        }
        if self.turn is not FIRST or self.answered:
            data |= self.answers
        if self.asked:
            data["asked"] = self.asked
        self.gateway.admission.finish(self.admitted, Event.CALL_COMPLETED, Outcome.ALLOWED, data)
        shown = masked(answer, self.connection.server)
        assert isinstance(shown, dict)
        return without_our_words(shown)

    def failed(self, error: BaseException) -> JsonObject:
        """What the client gets instead of a result. Raises RpcError, TooLate, or `error` itself."""
        if isinstance(error, RemoteError):
            raise self._remote(error) from error
        if isinstance(error, UpstreamError):
            if error.code == TOO_LATE:
                raise TooLate from error
            return self.broken(error)
        if isinstance(error, TimeoutError) and not self.begun:
            raise TooLate from error
        if isinstance(error, TimeoutError):
            self.unknown("the access under which it ran has ended")
            detail = "The access under which it ran has ended, so it was cancelled."
            return failure(self.call, detail, code="access_ended", sent=True)
        if isinstance(error, asyncio.CancelledError):
            why = "the gateway was stopped" if self.gateway.over else "the client left or cancelled the call"
            if self.begun:
                self.unknown(why)
            else:
                self.gateway.admission.not_sent(self.admitted, why)
        else:
            self.unknown("the gateway failed")
        raise error

    @property
    def answers(self) -> dict[str, Json]:
        """What its ends say of the client's answers that went to the server: those brought with this round, by the
        server's own keys, or those given while it ran, in order.
        """
        given: Json = self.turn.responses if self.turn.responses is not None else list(self.answered)
        return {"answers_digest": digest(given, domain="jitaccess-answers-v1")} if given else {}

    def unknown(self, why: str) -> None:
        data: dict[str, Json] = {"why": why, **self.answers}
        self.gateway.admission.finish(self.admitted, Event.CALL_OUTCOME_UNKNOWN, Outcome.ERROR, data)

    def broken(self, error: UpstreamError) -> JsonObject:
        return broken(self.gateway, self.call, self.admitted, error)

    def lacking(self, missing: JsonObject) -> None:
        """The server asked for what the client did not declare."""
        data: dict[str, Json] = {"error": "capability_missing", "sent": True, "missing": list(missing)}
        self.gateway.admission.finish(self.admitted, Event.CALL_FAILED, Outcome.ERROR, data)

    def _remote(self, error: RemoteError) -> RpcError:
        shown = shown_error(error, self.connection.server)
        text = visible(shown.message, limit=2000, multiline=True)
        data: dict[str, Json] = {"rpc_code": error.rpc_code, "message": text, **self.answers}
        self.gateway.admission.finish(self.admitted, Event.CALL_FAILED, Outcome.ERROR, data)
        code = error.rpc_code
        if self.call.modern and code in (RESOURCE_NOT_FOUND, URL_REQUIRED):
            code = INVALID_PARAMS  # neither is left in 2026-07-28 ("Error Codes")
        return RpcError(code, shown.message, data=shown.data, status=_STATUS.get(code, 200))


def broken(gateway: Gateway, call: Call, admitted: Admitted, error: UpstreamError) -> JsonObject:
    """`call.failed` when the server answered or nothing was sent; otherwise nobody knows what it did."""
    known = not error.sent or error.code == "upstream.invalid_response"
    event = Event.CALL_FAILED if known else Event.CALL_OUTCOME_UNKNOWN
    data: dict[str, Json] = {"error": error.code, "sent": error.sent, "detail": visible(error.detail, limit=500)}
    gateway.admission.finish(admitted, event, Outcome.ERROR, data)
    return failure(call, error.detail, code=error.code, sent=error.sent)


def failure(call: Call, detail: str, *, code: str, sent: bool) -> JsonObject:
    """The server could not do it: of a tool a result, of anything else an error. Raises RpcError."""
    result = denials.failed(tool=call.target.public, detail=detail, code=code, sent=sent)
    if call.method == "tools/call":
        return result
    raise RpcError(INTERNAL_ERROR, denials.text_of(result), data=result["_meta"])

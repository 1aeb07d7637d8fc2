"""One call, from the client's words to its answer: decide and record, then forward, then record the end.

Tools, resources, prompts and completions all go this road. A call may take several rounds, when the server asks its
client something in the middle: each round is decided and recorded anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from jitaccess.audit.events import Event, Outcome
from jitaccess.audit.redact import redact
from jitaccess.gateway import rounds, tracing
from jitaccess.gateway.batch import TRIES, Admitted, Intent
from jitaccess.gateway.caller import Caller
from jitaccess.gateway.core import Clock, Gateway
from jitaccess.gateway.endpoint import Target
from jitaccess.gateway.forwarding import MISSING_CAPABILITY, Forwarding, TooLate, broken, failure
from jitaccess.gateway.parked import ParkedCall
from jitaccess.gateway.refusing import no_server, refusal, refused
from jitaccess.gateway.repeating import REPEATED, too_often
from jitaccess.gateway.rounds import Subject, Turn, Wanted
from jitaccess.gateway.upstream.connection import Connection
from jitaccess.gateway.upstream.errors import RemoteError, UpstreamError
from jitaccess.gateway.wire import INTERNAL_ERROR, INVALID_PARAMS, RpcError
from jitaccess.identity.principal import Principal
from jitaccess.kernel import strictjson
from jitaccess.kernel.canonical import digest
from jitaccess.kernel.discreet import is_about
from jitaccess.kernel.errors import Invalid, Unavailable
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.decide import Who, decide

# Arguments up to this many bytes are digested where they are: a thread costs more.
SMALL = 4096
# Before a server is asked again that has no question.
PAUSE_SECONDS = 0.1

__all__ = ["Call", "forward_call", "no_server", "record_knock"]


@dataclass(frozen=True, slots=True)
class Call:
    """What a client wants done: exactly which tool, resource or prompt, with which arguments.

    `arguments` are what is decided on and recorded; `params` what is sent, None: name and arguments. `clock` is the
    database's, as read when the request came. `caller` None: a client that can be told nothing before the result.
    `carried`: another process brought it here.
    """

    principal: Principal
    target: Target
    arguments: JsonObject
    clock: Clock
    caller: Caller | None = None
    method: str = "tools/call"
    params: JsonObject | None = None
    carried: bool = False

    @property
    def modern(self) -> bool:
        """Whether the client speaks 2026-07-28."""
        return self.caller is None or self.caller.modern

    @property
    def sent(self) -> JsonObject:
        return self.params if self.params is not None else {"name": self.target.tool, "arguments": self.arguments}

    @property
    def capabilities(self) -> JsonObject:
        return self.caller.capabilities if self.caller is not None else {}

    def subject(self, args_digest: str) -> Subject:
        target = self.target
        return Subject(self.principal.key, target.server, self.method, target.tool, args_digest)

    def intent(self, args_digest: str, shown: Json, turn: Turn | None = None, *, barred: str = "") -> Intent:
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
            continues=turn.continues if turn else None,
            answers=turn is not None and turn.responses is not None,
            barred=barred,
        )


@dataclass(frozen=True, slots=True)
class _Asking:
    """A call that cannot go on before its client has answered. `parked`: it waits at the server meanwhile."""

    want: Wanted
    forwarding: Forwarding
    parked: ParkedCall | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    """What is worked out once for all rounds of a call."""

    gateway: Gateway
    call: Call
    digest: str
    shown: Json

    @property
    def subject(self) -> Subject:
        return self.call.subject(self.digest)


async def forward_call(gateway: Gateway, call: Call) -> JsonObject:
    """The server's result. Of a tool also a refusal or failure is a result; of anything else it is an error.

    Raises RpcError for what the protocol calls an error.
    """
    try:
        args_digest, shown = await _kept(gateway, call.arguments)
    except Invalid as error:
        raise RpcError(INVALID_PARAMS, error.detail) from error
    known = _Known(gateway, call, args_digest, shown)
    given = call.caller.message.params if call.caller is not None and call.method in rounds.METHODS else {}
    turn = rounds.begin(given, known.subject, now=call.clock.now()) if given else Turn()
    if turn.parked is not None:
        outcome = await _resume(known, turn)
    else:
        outcome = await _round(known, turn)
    while isinstance(outcome, _Asking):
        refused = _unaskable(known, outcome)
        if refused is not None:
            return refused
        if call.modern:
            return await _hand_over(known, outcome)
        answered = await _ask(known, outcome)
        if not isinstance(answered, Turn):
            return answered
        outcome = await _round(known, answered)
    return outcome


async def _round(known: _Known, turn: Turn) -> JsonObject | _Asking:
    """Decide, record, forward: once, unless it took too long to be still good."""
    gateway, call = known.gateway, known.call
    barred = ""
    for attempt in range(TRIES):
        # A child is started only for a call that would be allowed, and before admission: a start may take longer
        # than an admission stays good.
        allowed, first = _seems_allowed(known), not attempt and not turn.number
        if allowed and first and too_often(gateway, call.principal, call.target, known.digest):
            barred = REPEATED
        connection = await _connect(gateway, call) if allowed and not barred else None
        admitted = await _admit(known, turn, barred)
        if isinstance(admitted, dict):
            return admitted
        try:
            connection = connection or await _connect(gateway, call)  # allowed only since a moment ago
        except BaseException:
            gateway.admission.not_sent(admitted, "the client left, or the gateway failed")
            raise
        if isinstance(connection, UpstreamError):
            return broken(gateway, call, admitted, connection)
        forwarding = Forwarding(gateway, call, admitted, connection, turn, time.monotonic())
        try:
            with tracing.span("forward", server=call.target.server_name):
                return await _forward(known, forwarding)
        except TooLate:
            gateway.admission.not_sent(admitted, "could not start within a second")
            await connection.make_ready()
    return refusal(call, "policy_busy", None, None)


async def _admit(known: _Known, turn: Turn, barred: str = "") -> Admitted | JsonObject:
    """Let through and on record, or what the client is told instead."""
    gateway, call = known.gateway, known.call
    try:
        with tracing.span("admit", server=call.target.server_name):
            admitted = await gateway.admission.admit(call.intent(known.digest, known.shown, turn, barred=barred))
    except Unavailable:
        return refusal(call, "unavailable", None, None)
    is_about(call=admitted.recorded, grant=admitted.verdict.grant)
    if not admitted.allowed:
        return await refused(gateway, call, admitted)
    if turn.bindings and set(turn.bindings) != set(admitted.verdict.bindings):
        # Sealed for the access that it began under, and not good for another.
        gateway.admission.not_sent(admitted, "it began under an access that has ended")
        raise RpcError(
            INVALID_PARAMS, "The access under which this call began has ended; begin the call again.", status=400
        )
    return admitted


async def _forward(known: _Known, forwarding: Forwarding) -> JsonObject | _Asking:
    connection, call = forwarding.connection, known.call
    asks = bool(call.capabilities) and not forwarding.modern and not connection.server.shared
    if asks and call.modern:
        parked = ParkedCall(known.gateway.parked, forwarding, known.subject)
        return _asking(await parked.next(), forwarding, parked)
    outcome = await _send(known, forwarding, asks=asks)
    return _asking(outcome, forwarding, None)


async def _send(known: _Known, forwarding: Forwarding, *, asks: bool) -> JsonObject | Wanted:
    gateway = known.gateway

    async def ask(method: str, params: JsonObject) -> JsonObject:
        assert known.call.caller is not None
        if not forwarding.may_answer():
            raise RemoteError(INTERNAL_ERROR, "This call was approved as it is: nothing can be added to it.")
        return await known.call.caller.ask(
            method, forwarding.shown(params), questions=gateway.questions, instance=gateway.instance
        )

    try:
        async with asyncio.timeout(None) as scope:
            with gateway.calls.one(forwarding.admitted, scope):
                answer = await forwarding.send(ask if asks else None)
                step("forward.answered")
    except RemoteError as error:
        return forwarding.outcome(_raising(error))
    except BaseException as error:  # noqa: BLE001 - each becomes what the client is told, or is raised again
        return forwarding.failed(error)
    return forwarding.outcome(lambda: answer)


def _asking(outcome: JsonObject | Wanted, forwarding: Forwarding, parked: ParkedCall | None) -> JsonObject | _Asking:
    if isinstance(outcome, Wanted):
        return _Asking(outcome, forwarding, parked if parked is not None and parked.under_way else None)
    return outcome


def _raising(error: Exception) -> Callable[[], JsonObject]:
    def result() -> JsonObject:
        raise error

    return result


def _unaskable(known: _Known, asking: _Asking) -> JsonObject | None:
    """What the client is told instead, when what the server asks cannot be asked of it. Raises RpcError."""
    call, forwarding = known.call, asking.forwarding
    detail = ""
    missing: JsonObject = {}
    try:
        missing = rounds.missing(asking.want, call.capabilities)
    except UpstreamError as error:
        detail = error.detail
    if missing and not call.modern:
        detail = "The server asks for what this client did not declare: " + ", ".join(missing)
    if forwarding.turn.number + 1 >= rounds.MAX_ROUNDS:
        detail = f"The server asked {rounds.MAX_ROUNDS} times and still wants more."
    if not detail and not missing:
        return None
    if asking.parked is not None:
        asking.parked.stop()
    if detail:
        return forwarding.broken(UpstreamError("upstream.invalid_response", detail, sent=True))
    forwarding.lacking(missing)
    raise RpcError(
        MISSING_CAPABILITY,
        "The server needs what this client did not declare.",
        status=400,
        data={"requiredCapabilities": missing},
    )


async def _hand_over(known: _Known, asking: _Asking) -> JsonObject:
    """Give the questions to a client of the newer era, with what it needs to go on."""
    gateway, forwarding, parked = known.gateway, asking.forwarding, asking.parked
    turn = Turn(forwarding.turn.number + 1, bindings=forwarding.admitted.verdict.bindings, state=asking.want.state)
    if parked is not None:
        parked.park(turn.number)
        turn = replace(turn, parked=parked.name, holder=gateway.instance)
    else:
        turn = replace(turn, continues=uuid7())
        assert turn.continues is not None
        try:
            await gateway.admission.pause(forwarding.admitted, _paused(asking), continuation=turn.continues)
        except Unavailable:
            return refusal(known.call, "unavailable", None, None)
    result: JsonObject = {
        "resultType": "input_required",
        "requestState": rounds.seal(known.subject, turn, now=known.call.clock.now()),
    }
    return result | ({"inputRequests": asking.want.requests} if asking.want.requests else {})


def _paused(asking: _Asking) -> dict[str, Json]:
    """What the ledger keeps of a round that ended with questions."""
    asked: list[Json] = [str(one["method"]) for one in asking.want.requests.values() if isinstance(one, dict)]
    return {"input_required": asked, "round": asking.forwarding.turn.number}


async def _ask(known: _Known, asking: _Asking) -> Turn | JsonObject:
    """Ask a client of the older era itself; the round to go on with, or the failure when it does not answer."""
    gateway, call, forwarding = known.gateway, known.call, asking.forwarding
    if asking.want.requests and not forwarding.may_answer():
        detail = "The server asks for more, but this call was approved as it is: nothing can be added to it."
        return forwarding.broken(UpstreamError("upstream.invalid_response", detail, sent=True))
    continues = uuid7()
    gateway.admission.finish(
        forwarding.admitted, Event.CALL_COMPLETED, Outcome.ALLOWED, _paused(asking), continuation=continues
    )
    if not asking.want.requests:
        await asyncio.sleep(PAUSE_SECONDS)  # the server only wants to be asked again
    questions = {key: asyncio.create_task(_question(known, one)) for key, one in asking.want.requests.items()}
    try:
        answers = await asyncio.gather(*questions.values())
    except RemoteError as error:
        said = visible(error.message, limit=300)
        return failure(call, f"The client did not answer what the server asked: {said}", code="unanswered", sent=True)
    finally:
        for question in questions.values():
            question.cancel()
    responses: JsonObject = dict(zip(questions, answers, strict=True))
    return Turn(
        forwarding.turn.number + 1,
        continues,
        forwarding.admitted.verdict.bindings,
        responses or None,
        asking.want.state,
    )


async def _question(known: _Known, one: Json) -> JsonObject:
    assert isinstance(one, dict)
    params = one.get("params", {})
    assert isinstance(params, dict)
    assert known.call.caller is not None
    gateway = known.gateway
    return await known.call.caller.ask(
        str(one["method"]), params, questions=gateway.questions, instance=gateway.instance
    )


async def _resume(known: _Known, turn: Turn) -> JsonObject | _Asking:
    """Go on with a call that waits at its server, if it is let through once more."""
    gateway, call = known.gateway, known.call
    assert turn.parked is not None
    away = turn.holder != gateway.instance and turn.parked not in gateway.parked
    if turn.holder is not None and away and not call.carried:
        return await gateway.elsewhere.carry(call, turn.holder)
    parked = gateway.parked.take(turn.parked, known.subject, turn.number)
    forwarding = parked.forwarding
    if not forwarding.may_go_on():
        parked.attached_end("the access under which it ran has ended")
        admitted = await _admit(known, Turn(responses=turn.responses))
        if isinstance(admitted, dict):
            return admitted
        gateway.admission.not_sent(admitted, "the call that it was to go on with is over")
        raise RpcError(INVALID_PARAMS, "What asked for this is over; begin the call again.", status=400)
    turn = replace(turn, continues=uuid7())
    try:
        gateway.admission.finish(
            forwarding.admitted,
            Event.CALL_COMPLETED,
            Outcome.ALLOWED,
            {"input_required": parked.asks, "round": turn.number - 1},
            continuation=turn.continues,
        )
        for _ in range(TRIES):
            admitted = await _admit(known, turn)
            if isinstance(admitted, dict):
                parked.stop()
                return admitted
            if admitted.may_start():
                parked.go_on(call, admitted, turn)
                break
            gateway.admission.not_sent(admitted, "could not start within a second")
        else:
            parked.stop()
            return refusal(call, "policy_busy", None, None)
    except BaseException:
        parked.stop()
        raise
    return _asking(await parked.next(), forwarding, parked)


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


def _seems_allowed(known: _Known) -> bool:
    """By policy as this process knows it: a guess about what the batch will say, which alone decides."""
    call = known.call
    assert call.principal.agent
    verdict = decide(
        known.gateway.store.current,
        who=Who(call.principal.agent, call.principal.user),
        server=call.target.server,
        tool=call.target.tool,
        at=call.clock.now(),
        arguments=call.arguments,
        digest=known.digest,
        kind=call.target.kind,
    )
    return verdict.allowed


async def _connect(gateway: Gateway, call: Call) -> Connection | UpstreamError:
    """A connection, or why there is none."""
    try:
        return await gateway.pool.connection(
            call.target.server_name, call.principal.key, capabilities=call.capabilities
        )
    except UpstreamError as error:
        return error

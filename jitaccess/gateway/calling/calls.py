"""One call, from the client's words to its answer: decide and record, then forward, then record the end.

Tools, resources, prompts and completions all go this road. A call may take several rounds, when the server asks its
client something in the middle: each round is decided and recorded anew.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from jitaccess.audit.events import Event, Outcome
from jitaccess.gateway import tracing
from jitaccess.gateway.calling.call import Asking, Call, Known, kept
from jitaccess.gateway.calling.forwarding import Forwarding, TooLate, broken
from jitaccess.gateway.calling.refusing import no_server, refusal, refused
from jitaccess.gateway.calling.repeating import REPEATED, too_often
from jitaccess.gateway.core import Gateway
from jitaccess.gateway.recording.batch import TRIES
from jitaccess.gateway.recording.facts import Admitted, Guess
from jitaccess.gateway.talking import rounds
from jitaccess.gateway.talking.between import ask, hand_over, unaskable
from jitaccess.gateway.talking.parked import ParkedCall
from jitaccess.gateway.talking.rounds import FIRST, Turn, Wanted
from jitaccess.gateway.upstream.atonce import Underway
from jitaccess.gateway.upstream.connection import Connection
from jitaccess.gateway.upstream.errors import RemoteError, UpstreamError
from jitaccess.gateway.wire import INVALID_PARAMS, RpcError
from jitaccess.kernel.discreet import is_about
from jitaccess.kernel.errors import Invalid, Unavailable
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.steps import step
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.decide import Who, decide

if TYPE_CHECKING:
    from jitaccess.gateway.calling.short import ShortCall

__all__ = ["Call", "forward_call", "no_server", "record_knock"]


async def forward_call(gateway: Gateway, call: Call, begun: ShortCall | None = None) -> JsonObject:
    """The server's result. Of a tool also a refusal or failure is a result; of anything else it is an error. `begun`:
    the same call, as far as it went the short way.

    Raises RpcError for what the protocol calls an error.
    """
    if begun is not None:
        known = Known(gateway, call, begun.digest, begun.shown)
        return await _to_its_end(known, await _round(known, FIRST, begun))
    try:
        args_digest, shown, plain = await kept(gateway, call.arguments)
    except Invalid as error:
        raise RpcError(INVALID_PARAMS, error.detail) from error
    if plain is not None:
        call = replace(call, plain=plain)
    known = Known(gateway, call, args_digest, shown)
    # The older eras know no such members: there a call that waits would be gone on with, and waited for by nobody.
    goes_on = call.modern and call.method in rounds.METHODS
    given = call.caller.message.params if call.caller is not None and goes_on else {}
    goes_on = not rounds.MEMBERS.isdisjoint(given)
    turn = rounds.begin(given, known.subject, now=call.clock.now()) if goes_on else FIRST
    if turn.parked is not None:
        return await _to_its_end(known, await _resume(known, turn))
    return await _to_its_end(known, await _round(known, turn))


async def _to_its_end(known: Known, outcome: JsonObject | Asking) -> JsonObject:
    """The result, when all is asked that the server wants to know."""
    while isinstance(outcome, Asking):
        refused = unaskable(known, outcome)
        if refused is not None:
            return refused
        if known.call.modern:
            return await hand_over(known, outcome)
        answered = await ask(known, outcome)
        if not isinstance(answered, Turn):
            return answered
        outcome = await _round(known, answered)
    return outcome


async def _round(known: Known, turn: Turn, begun: ShortCall | None = None) -> JsonObject | Asking:
    """Decide, record, forward: once, unless it took too long to be still good. What has `begun` goes on from there."""
    gateway, call = known.gateway, known.call
    for attempt in range(TRIES):
        underway = begun.underway if begun is not None else None
        started = begun.started if begun is not None else None
        if begun is not None:
            admitted, connection = await _taken_over(known, begun)
            begun = None
        else:
            admitted, connection = await _let_through(known, turn, first=not attempt and not turn.number)
        if isinstance(admitted, dict):
            return admitted
        try:
            connection = connection or await _connect(gateway, call)  # allowed only since a moment ago
        except BaseException:
            gateway.admission.not_sent(admitted, "the client left, or the gateway failed")
            raise
        if isinstance(connection, UpstreamError):
            return broken(gateway, call, admitted, connection)
        forwarding = Forwarding(gateway, call, admitted, connection, turn, started or time.monotonic())
        forwarding.begun = underway is not None
        try:
            with tracing.span("forward", server=call.target.server_name):
                return await _forward(known, forwarding, underway)
        except TooLate:
            gateway.admission.not_sent(admitted, "could not start within a second")
            await connection.make_ready()
    return refusal(call, "policy_busy", None, None)


async def _let_through(
    known: Known, turn: Turn, *, first: bool
) -> tuple[Admitted | JsonObject, Connection | UpstreamError | None]:
    """What its batch says, or what the client is told instead; and the connection, if there is one by then."""
    gateway, call = known.gateway, known.call
    guess, barred = _guess(known), ""
    allowed = guess.verdict.allowed
    if allowed and first and too_often(gateway, call.principal, call.target, guess.verdict.server, known.digest):
        barred = REPEATED
    # A child is started only for a call that would be allowed, and before admission: a start may take longer than an
    # admission stays good.
    connection = await _connect(gateway, call) if allowed and not barred else None
    return await _admit(known, turn, barred, guess), connection


async def _taken_over(
    known: Known, begun: ShortCall
) -> tuple[Admitted | JsonObject, Connection | UpstreamError | None]:
    """As `_let_through`, of a call that is with its batch already, or further."""
    assert begun.future is not None
    connection = begun.connection if begun.underway is not None or begun.connection.alive else None
    return await _heard(known, known.gateway.admission.heard(begun.future), FIRST), connection


async def _admit(known: Known, turn: Turn, barred: str = "", guess: Guess | None = None) -> Admitted | JsonObject:
    """Let through and on record, or what the client is told instead."""
    intent = known.call.intent(known.digest, known.shown, turn, barred=barred, guess=guess)
    return await _heard(known, known.gateway.admission.admit(intent), turn)


async def _heard(known: Known, answer: Awaitable[Admitted], turn: Turn) -> Admitted | JsonObject:
    gateway, call = known.gateway, known.call
    try:
        with tracing.span("admit", server=call.target.server_name):
            admitted = await answer
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


async def _forward(known: Known, forwarding: Forwarding, underway: Underway | None = None) -> JsonObject | Asking:
    connection, call = forwarding.connection, known.call
    asks = bool(call.capabilities) and not forwarding.modern and not connection.server.shared
    if asks and call.modern:
        parked = ParkedCall(known.gateway.parked, forwarding, known.subject)
        return _asking(await parked.next(), forwarding, parked)
    outcome = await _send(known, forwarding, underway, asks=asks)
    return _asking(outcome, forwarding, None)


async def _send(known: Known, forwarding: Forwarding, underway: Underway | None, *, asks: bool) -> JsonObject | Wanted:
    gateway = known.gateway

    async def relayed(method: str, params: JsonObject) -> JsonObject:
        caller = known.call.caller
        assert caller is not None
        shown = forwarding.shown(params)
        return await forwarding.relay(
            method, lambda: caller.ask(method, shown, questions=gateway.questions, instance=gateway.instance)
        )

    try:
        with gateway.calls.one(forwarding.admitted) as running:
            if underway is not None:
                gateway.calls.look(running)
            answer = await forwarding.send(relayed if asks else None, underway)
            step("forward.answered")
    except RemoteError as error:
        return forwarding.outcome(_raising(error))
    except BaseException as error:  # noqa: BLE001 - each becomes what the client is told, or is raised again
        return forwarding.failed(error)
    return forwarding.came_back(answer)


def _asking(outcome: JsonObject | Wanted, forwarding: Forwarding, parked: ParkedCall | None) -> JsonObject | Asking:
    if isinstance(outcome, Wanted):
        return Asking(outcome, forwarding, parked if parked is not None and parked.under_way else None)
    return outcome


def _raising(error: Exception) -> Callable[[], JsonObject]:
    def result() -> JsonObject:
        raise error

    return result


async def _resume(known: Known, turn: Turn) -> JsonObject | Asking:
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
            {"input_required": parked.asks, "round": turn.number - 1, **forwarding.answers},
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
    args_digest, shown, _ = await kept(gateway, call.arguments)
    with contextlib.suppress(Unavailable):
        admitted = await gateway.admission.admit(call.intent(args_digest, shown))
        if admitted.allowed:
            gateway.admission.not_sent(admitted, "the server was closed when the call came")


def _guess(known: Known) -> Guess:
    """By policy as this process knows it: a guess about what the batch will say, which alone decides."""
    call, snapshot, at = known.call, known.gateway.store.current, known.call.clock.now()
    assert call.principal.agent
    verdict = decide(
        snapshot,
        who=Who(call.principal.agent, call.principal.user),
        server=call.target.server,
        tool=call.target.tool,
        at=at,
        arguments=call.arguments,
        digest=known.digest,
        kind=call.target.kind,
    )
    return Guess(snapshot, verdict, at)


async def _connect(gateway: Gateway, call: Call) -> Connection | UpstreamError:
    """A connection, or why there is none."""
    ready = gateway.pool.ready(call.target.server_name, older=not call.modern)
    if ready is not None:
        return ready
    try:
        return await gateway.pool.connection(
            call.target.server_name, call.principal.key, capabilities=call.capabilities, older=not call.modern
        )
    except UpstreamError as error:
        return error

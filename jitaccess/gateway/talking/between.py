"""Between two rounds of a call: what the server asks is handed over to a newer client, or asked of an older one."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace

from jitaccess.audit.events import Event, Outcome
from jitaccess.gateway.calling.call import Asking, Known
from jitaccess.gateway.calling.forwarding import MISSING_CAPABILITY, failure
from jitaccess.gateway.calling.refusing import refusal
from jitaccess.gateway.talking import rounds
from jitaccess.gateway.talking.rounds import Turn
from jitaccess.gateway.upstream.errors import RemoteError, UpstreamError
from jitaccess.gateway.wire import RpcError
from jitaccess.kernel.errors import Unavailable
from jitaccess.kernel.ids import uuid7
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible

# Before a server is asked again that has no question.
PAUSE_SECONDS = 0.1


def unaskable(known: Known, asking: Asking) -> JsonObject | None:
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


async def hand_over(known: Known, asking: Asking) -> JsonObject:
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


def _paused(asking: Asking) -> dict[str, Json]:
    """What the ledger keeps of a round that ended with questions."""
    asked: list[Json] = [str(one["method"]) for one in asking.want.requests.values() if isinstance(one, dict)]
    return {"input_required": asked, "round": asking.forwarding.turn.number, **asking.forwarding.answers}


async def ask(known: Known, asking: Asking) -> Turn | JsonObject:
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


async def _question(known: Known, one: Json) -> JsonObject:
    assert isinstance(one, dict)
    params = one.get("params", {})
    assert isinstance(params, dict)
    assert known.call.caller is not None
    gateway = known.gateway
    return await known.call.caller.ask(
        str(one["method"]), params, questions=gateway.questions, instance=gateway.instance
    )

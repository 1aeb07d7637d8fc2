"""Calls of several rounds: the server asks, the client answers, the call goes on (2026-07-28, "Multi Round-Trip
Requests").

What a client carries from one round to the next is sealed: it can neither read nor change it, and it is good only for
the same principal, server, method, name, arguments and access. A server's own state travels inside.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import msgspec

from jitaccess.gateway.calling.results import cleared
from jitaccess.gateway.talking.asking import lacking
from jitaccess.gateway.upstream.errors import RemoteError, UpstreamError
from jitaccess.gateway.wire import INVALID_PARAMS, RpcError
from jitaccess.kernel import strictjson
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.store.sealing import ring

MAX_ROUNDS = 20
MAX_QUESTIONS = 16
MAX_STATE = 256 * 1024
ANSWER_WITHIN = timedelta(minutes=15)
# Who may be asked in the middle: no other methods have rounds.
METHODS = frozenset({"tools/call", "prompts/get", "resources/read"})
_CONTEXT = "mcp-request-state-v1"


class Subject(msgspec.Struct, frozen=True):
    """What a sealed state is good for: who calls what with which arguments."""

    principal: str
    server: UUID | None
    method: str
    name: str
    digest: str

    def as_json(self) -> JsonObject:
        return {
            "principal": self.principal,
            "server": str(self.server),
            "method": self.method,
            "name": self.name,
            "digest": self.digest,
        }


class Turn(msgspec.Struct, frozen=True):
    """One round. `continues` and `bindings` are those of the round before; `state` is the server's own. Of a call that
    waits in the middle, `parked` is its name and `holder` the process that has it.
    """

    number: int = 0
    continues: UUID | None = None
    bindings: tuple[UUID, ...] = ()
    responses: JsonObject | None = None
    state: str | None = None
    parked: UUID | None = None
    holder: UUID | None = None


FIRST = Turn()


class Wanted(msgspec.Struct, frozen=True):
    """What a server asks for before it goes on: questions by the server's own keys, and its state."""

    requests: JsonObject
    state: str | None = None


def wanted(answer: JsonObject) -> Wanted:
    """The questions of an `input_required` result. Raises UpstreamError for one that makes no sense."""
    requests, state = answer.get("inputRequests", {}), answer.get("requestState")
    shaped = isinstance(requests, dict) and all(
        isinstance(one, dict) and isinstance(one.get("method"), str) and isinstance(one.get("params", {}), dict)
        for one in requests.values()
    )
    if not shaped or not isinstance(state, str | None) or (not requests and state is None):
        raise UpstreamError("upstream.invalid_response", "The server asks for input, but not what.", sent=True)
    assert isinstance(requests, dict)
    if len(requests) > MAX_QUESTIONS or len(state or "") > MAX_STATE:
        raise UpstreamError("upstream.invalid_response", "The server asks for too much at once.", sent=True)
    cleaned: JsonObject = {}
    for key, one in requests.items():
        assert isinstance(one, dict)
        params = one.get("params")
        cleaned[key] = one | {"params": cleared(params)} if isinstance(params, dict) else one
    return Wanted(cleaned, state)


def missing(want: Wanted, capabilities: JsonObject) -> JsonObject:
    """The capabilities that these questions need and the client did not declare. Raises UpstreamError for questions
    that no client may be asked.
    """
    found: JsonObject = {}
    for one in want.requests.values():
        assert isinstance(one, dict)
        params = one.get("params", {})
        assert isinstance(params, dict)
        try:
            found |= lacking(str(one["method"]), params, capabilities)
        except RemoteError as error:
            detail = f"The server asks for what no client may be asked: {error.message}"
            raise UpstreamError("upstream.invalid_response", detail, sent=True) from error
    return found


def seal(subject: Subject, turn: Turn, *, now: datetime) -> str:
    """What the client gives back with its answers, to go on with `turn`."""
    content: JsonObject = {
        **subject.as_json(),
        "until": (now + ANSWER_WITHIN).timestamp(),
        "round": turn.number,
        "continues": str(turn.continues) if turn.continues else None,
        "bindings": [str(binding) for binding in turn.bindings],
        "state": turn.state,
        "parked": str(turn.parked) if turn.parked else None,
        "holder": str(turn.holder) if turn.holder else None,
    }
    return ring().seal(strictjson.encode(content), context=_CONTEXT)


# Of a request that may be a further round.
MEMBERS = frozenset({"inputResponses", "requestState"})


def begin(params: JsonObject, subject: Subject, *, now: datetime) -> Turn:
    """The round that a request asks for: the first, or with the state that it brings the next.

    Raises RpcError(-32602) for a state that is not from here, too old, or of another call.
    """
    responses, sealed = params.get("inputResponses"), params.get("requestState")
    if not isinstance(responses, dict | None) or not isinstance(sealed, str | None):
        detail = "`inputResponses` must be an object and `requestState` a text."
        raise RpcError(INVALID_PARAMS, detail, status=400)
    if sealed is None:
        # Answers may come with the first request (2026-07-28, "Multi Round-Trip Requests": what a server does not
        # look for it ignores). They are answers all the same: where the arguments were approved exactly, refused.
        return Turn(responses=responses)
    try:
        content = strictjson.decode(ring().open(sealed, context=_CONTEXT))
    except Invalid:
        raise _refused("This requestState is not from here, or was changed.") from None
    if any(content.get(name) != value for name, value in subject.as_json().items()):
        raise _refused("This requestState belongs to another call.")
    until = content["until"]
    assert isinstance(until, int | float)
    if now.timestamp() >= until:
        raise _refused("This requestState is too old; begin the call again.")
    return _turn(content, responses)


def _turn(content: JsonObject, responses: JsonObject | None) -> Turn:
    number, bindings, state = content["round"], content["bindings"], content["state"]
    assert isinstance(number, int)
    assert isinstance(bindings, list)
    assert isinstance(state, str | None)
    return Turn(
        number, _uuid(content["continues"]), tuple(UUID(str(one)) for one in bindings), responses, state,
        _uuid(content["parked"]), _uuid(content["holder"]),
    )  # fmt: skip


def _uuid(value: Json) -> UUID | None:
    return UUID(value) if isinstance(value, str) else None


def _refused(detail: str) -> RpcError:
    return RpcError(INVALID_PARAMS, detail, status=400)

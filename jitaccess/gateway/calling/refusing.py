"""What a client is told when its call was not let through: of a tool a result, of anything else an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitaccess.gateway.calling import denials
from jitaccess.gateway.calling.forwarding import RESOURCE_NOT_FOUND
from jitaccess.gateway.recording.facts import Admitted
from jitaccess.gateway.wire import INTERNAL_ERROR, INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, RpcError
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.decide import Code, Kind
from jitaccess.store.clock import JitNow
from requests_app import selectors

if TYPE_CHECKING:
    from jitaccess.gateway.calling.call import Call
    from jitaccess.gateway.core import Gateway

# Not about what was asked for: the same may be asked again.
_PASSING = ("unavailable", "policy_busy")


async def refused(gateway: Gateway, call: Call, admitted: Admitted) -> JsonObject:
    """The answer to a call that was recorded as denied. Raises RpcError."""
    if admitted.code == "token_ended":
        gateway.known.forget(call.principal.token_hash)
        raise RpcError(INVALID_REQUEST, "The access token is unknown, expired or revoked.", status=401)
    if admitted.code == "continuation_unknown":
        detail = "This requestState was used already, or is too old; begin the call again."
        raise RpcError(INVALID_PARAMS, detail, status=400)
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
        raise unknown(call)
    if admitted.code != admitted.verdict.code:
        # Refused whatever policy says, and so for every name: to ask for access would not help.
        return refusal(call, admitted.code, admitted, None, may_ask=False)
    pending = None
    if admitted.verdict.requestable is not None or admitted.verdict.roles:
        pending = await gateway.db(_pending_for, call, admitted)
    return refusal(call, admitted.code, admitted, pending)


def refusal(
    call: Call, code: str, admitted: Admitted | None, pending: tuple[str, str] | None, *, may_ask: bool = True
) -> JsonObject:
    """`pending` is (id, URL) of a request that asks for it. Raises RpcError for what is not a tool."""
    result = denials.denied(
        tool=call.target.public,
        code=code,
        requestable=admitted.verdict.requestable if admitted and may_ask else None,
        pending=pending,
        call=str(admitted.recorded) if admitted else "",
        roles=admitted.verdict.roles if admitted and may_ask else (),
    )
    if call.method == "tools/call":
        return result
    raise RpcError(
        INTERNAL_ERROR if code in _PASSING else _not_found(call), denials.text_of(result), data=result["_meta"]
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


def unknown(call: Call) -> RpcError:
    """One answer for what does not exist and what the caller may not know about (2026-07-28 "Tools", "Prompts" and
    "Resources", Error Handling; 2025-11-25 has a code of its own for resources).
    """
    name = call.target.public
    if call.target.kind is Kind.RESOURCE:
        return RpcError(_not_found(call), "Resource not found", data={"uri": name})
    what = "prompt" if call.target.kind is Kind.PROMPT else "tool"
    return RpcError(INVALID_PARAMS, f"Unknown {what}: {visible(name, limit=128)}")


def _not_found(call: Call) -> int:
    return RESOURCE_NOT_FOUND if call.target.kind is Kind.RESOURCE and not call.modern else INVALID_PARAMS

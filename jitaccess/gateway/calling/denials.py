"""Refusals the model can act on: a tool result with isError, text that says what to do, machine data in `_meta`.

Never `structuredContent`: clients that check it against the tool's outputSchema would throw the refusal away.
"""

from __future__ import annotations

from jitaccess.kernel import strictjson
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.policy.engine.rules import RequestableFacts

NAMESPACE = "io.jitaccess/"
META_DENY = f"{NAMESPACE}deny"
META_UPSTREAM_ERROR = f"{NAMESPACE}upstream_error"

_WHY = {
    "no_binding": "is not in your current access",
    "other_arguments": "is in your current access, but not with these arguments",
    "expired": "is not in your current access any more: the grant you had has expired",
    "revoked": "is not in your current access any more: the grant you had was ended early",
    "used_up": "is not in your current access any more: the grant you had was for a number of calls, all made by now",
    "quarantined": "is blocked: its definition awaits review by an admin, so it can be neither called nor requested",
    "locked_down": "is refused: a lock is in force, or this agent is disabled or may no longer act for its user",
    "policy_busy": "could not be decided, because access rules are changing very fast; try again in a moment",
    "clock_jumped": (
        "is refused: the clock of the gateway's machine has jumped, and calls are refused until an operator accepts it"
    ),
    "repeated": (
        "is refused: you have made exactly this call, with the same arguments, many times within a minute. Use the "
        "answers you have, change what you do, or wait a minute"
    ),
    "unavailable": "was not called: the gateway cannot record calls right now, so it refuses them; try again later",
}


def text_result(text: str, *, is_error: bool = False, meta: JsonObject | None = None) -> JsonObject:
    value: JsonObject = {"content": [{"type": "text", "text": text}], "isError": is_error}
    if meta:
        value["_meta"] = meta
    return value


def denied(
    *,
    tool: str,
    code: str,
    requestable: RequestableFacts | None,
    pending: tuple[str, str] | None,
    call: str,
    roles: tuple[str, ...] = (),
) -> JsonObject:
    """The refusal of a call. `pending` is (id, url) of a request that already asks for this tool; `roles` would do and
    may be asked for.
    """
    text = f"Access denied: '{tool}' {_WHY.get(code, 'is not allowed')}."
    data: JsonObject = {"error": "access_denied", "tool": tool, "reason_code": code, "call": call}
    data["requestable"] = requestable is not None or bool(roles)
    if pending:
        text += (
            f" You have already asked for it: request {pending[0]} is pending ({pending[1]})."
            f' Wait for a person with check_request {{"request_id": "{pending[0]}"}}.'
        )
        data["pending"] = {"request_id": pending[0], "url": pending[1]}
    elif requestable is not None or roles:
        arguments, minutes = _request(tool, requestable, roles)
        most = f" (at most {minutes} minutes)" if minutes else ""
        text += (
            f" You may ask for it: call request_access with {strictjson.encode(arguments).decode()}{most}."
            " Do not retry before it is approved."
        )
        data["request"] = {"tool": "request_access", "arguments": arguments}
    return text_result(text, is_error=True, meta={META_DENY: data})


def _request(tool: str, requestable: RequestableFacts | None, roles: tuple[str, ...]) -> tuple[JsonObject, int | None]:
    """What to ask for, and for how many minutes at most. The tool itself first: it is less than a role."""
    reason = "<why you need it>"
    if requestable is None:
        return {"roles": [roles[0]], "reason": reason}, None
    most = requestable.max_seconds // 60
    what: dict[str, Json] = {"tools": [tool]}
    if requestable.arguments != "any":
        what = {"calls": [{"tool": tool, "arguments": {"<name>": "<value, as in the call>"}}]}
    return {**what, "reason": reason, "minutes": min(30, most)}, most


def text_of(result: JsonObject) -> str:
    """The text of a result made here."""
    content = result["content"]
    assert isinstance(content, list)
    first = content[0]
    assert isinstance(first, dict)
    return str(first["text"])


def failed(*, tool: str, detail: str, code: str, sent: bool) -> JsonObject:
    """The server behind the gateway could not do it. `sent`: whether the call may have had an effect."""
    unknown = (
        " It may or may not have taken effect; check before you repeat it." if sent else " Nothing was sent to it."
    )
    return text_result(
        f"'{tool}' failed: {detail.rstrip('.')}.{unknown}",
        is_error=True,
        meta={META_UPSTREAM_ERROR: {"error": code, "sent": sent}},
    )

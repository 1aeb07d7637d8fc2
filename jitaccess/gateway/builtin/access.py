"""The access tools over the same services that people's pages use: parse, call the service, say it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import msgspec

from jitaccess.gateway import denials
from jitaccess.gateway.builtin import definitions as d
from jitaccess.gateway.core import Gateway
from jitaccess.gateway.endpoint import Endpoint
from jitaccess.identity.principal import Principal
from jitaccess.kernel import strictjson
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Invalid, JitAccessError, NotFound
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.decide import Visibility, Who
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.store.clock import JitNow, now
from requests_app import represent, selectors
from requests_app.lifecycle import RequestStatus
from requests_app.services import Ask, cancel_request, release_grant, submit_request

POLL_SECONDS = 0.4
# Of one principal in one process; one more is answered at once.
MAX_WAITS = 4
T = TypeVar("T", bound=d.Arguments)


@dataclass(frozen=True, slots=True)
class Asked:
    """One use of an access tool, on one endpoint."""

    gateway: Gateway
    principal: Principal
    endpoint: Endpoint
    arguments: JsonObject


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    data: JsonObject


async def use(name: str, asked: Asked) -> JsonObject:
    """The result of an access tool; a refusal by a service is a result with isError and what to change."""
    try:
        reply = await _TOOLS[name](asked)
    except JitAccessError as error:
        params = {key: value for key, value in error.params.items() if isinstance(value, str | int)}
        data: JsonObject = {"error": error.code, **params}
        return denials.text_result(error.detail, is_error=True, meta={denials.META_DENY: data})
    # Clients differ in what they show a model: the text carries everything.
    result = denials.text_result(f"{reply.text}\n{strictjson.encode(reply.data).decode()}")
    result["structuredContent"] = reply.data
    return result


async def _request_access(asked: Asked) -> Reply:
    arguments = _parse(d.RequestAccess, asked.arguments)
    seconds = arguments.minutes * 60 if arguments.minutes is not None else None
    snapshot, _ = await asked.gateway.look(asked.principal)
    ask = Ask(
        tools=[asked.endpoint.asked_for(snapshot, text) for text in arguments.tools],
        reason=arguments.reason,
        seconds=seconds,
        max_uses=arguments.max_uses,
        context=arguments.context,
    )
    submission = await asked.gateway.db(lambda: submit_request(principal=asked.principal, ask=ask, snapshot=snapshot))
    data = await asked.gateway.db(_state, asked.principal, submission.request.pk)
    again = (
        " You had asked for this already, and that request stands as it is, reason and all."
        if submission.coalesced
        else ""
    )
    text = (
        f"Pending: a person has to approve it.{again} Wait with check_request"
        f' {{"request_id": "{submission.request.pk}"}}; people decide at {submission.request.url}'
    )
    return Reply(text, data)


async def _check_request(asked: Asked) -> Reply:
    arguments = _parse(d.CheckRequest, asked.arguments)
    request_id = _uuid(arguments.request_id, "request")
    waits, key = asked.gateway.waits, asked.principal.key
    patience = arguments.wait_seconds if waits[key] < MAX_WAITS else 0
    waits[key] += 1
    try:
        await _until_decided(asked, request_id, patience)
    finally:
        waits[key] -= 1
    data = await asked.gateway.db(_state, asked.principal, request_id)
    return Reply(_sentence(data), data)


async def _until_decided(asked: Asked, request_id: UUID, patience: float) -> None:
    deadline = time.monotonic() + patience
    while (left := deadline - time.monotonic()) > 0 and asked.gateway.running:
        if not await asked.gateway.db(lambda: selectors.is_open(asked.principal, request_id)):
            return
        await asyncio.sleep(min(POLL_SECONDS, left))


async def _list_requestable(asked: Asked) -> Reply:
    arguments = _parse(d.ListRequestable, asked.arguments)
    snapshot, clock = await asked.gateway.look(asked.principal)
    data = await asked.gateway.db(_requestable, asked, snapshot, clock.now(), arguments.search.lower())
    found = data["tools"]
    assert isinstance(found, list)
    return Reply(f"{len(found)} tools may be asked for with request_access.", data)


async def _my_access(asked: Asked) -> Reply:
    _parse(d.MyAccess, asked.arguments)
    snapshot, clock = await asked.gateway.look(asked.principal)
    data = await asked.gateway.db(_access, asked, snapshot, clock.now())
    grants, pending = data["grants"], data["pending"]
    assert isinstance(grants, list)
    assert isinstance(pending, list)
    return Reply(f"{len(grants)} live grants, {len(pending)} pending requests.", data)


async def _release_access(asked: Asked) -> Reply:
    grant_id = _uuid(_parse(d.ReleaseAccess, asked.arguments).grant_id, "grant")
    grant = await asked.gateway.db(lambda: release_grant(grant_id=grant_id, principal=asked.principal))
    asked.gateway.streams.wake.set()
    return Reply(
        "Given back; it is over now.", {"grant_id": str(grant.pk), "state": "ended", "end_reason": grant.end_reason}
    )


async def _cancel_request(asked: Asked) -> Reply:
    request_id = _uuid(_parse(d.CancelRequest, asked.arguments).request_id, "request")
    await asked.gateway.db(lambda: cancel_request(request_id=request_id, principal=asked.principal))
    data = await asked.gateway.db(_state, asked.principal, request_id)
    return Reply("Withdrawn.", data)


def _state(principal: Principal, request_id: UUID) -> JsonObject:
    """A request as its filer sees it. Raises NotFound for a foreign one."""
    request = selectors.request_of(principal, request_id)
    if request is None:
        raise NotFound("request.unknown", f"You have no request {request_id}.")
    data = represent.request_data(request, now())
    if data["status"] == RequestStatus.PENDING:
        data |= represent.approval_data(request)
        data["poll"] = {"tool": "check_request", "after_seconds": 5}
    return data


def _sentence(data: JsonObject) -> str:
    grant = data.get("grant")
    if isinstance(grant, dict):
        if grant["state"] == "ended":
            return f"It was approved, but the grant has ended ({grant['end_reason']})."
        left = format_duration(int(str(grant["seconds_left"])))
        if "calls_left" in grant:
            left = f"{grant['calls_left']} calls and {left}"
        return f"Approved by {data['decided_by']}: call the tools now; {left} left."
    return {
        "pending": "Still pending: nobody has decided yet. This is not a denial; call check_request again.",
        "denied": f"Denied by {data.get('decided_by')}. Do not ask for the same again without a better reason.",
        "expired": "Expired: nobody decided in time. You may ask again.",
        "cancelled": "Cancelled.",
        "invalidated": f"Void: {data.get('note')} Ask again if you still need it.",
    }.get(str(data["status"]), str(data["status"]))


def _requestable(asked: Asked, snapshot: Snapshot, at: datetime, search: str) -> JsonObject:
    tools = represent.requestable_data(asked.endpoint.tools(snapshot, _who(asked.principal), at), search)
    return {**_where(asked, snapshot), "tools": tools[:50]}


def _access(asked: Asked, snapshot: Snapshot, at: datetime) -> JsonObject:
    tools = asked.endpoint.tools(snapshot, _who(asked.principal), at)
    grants: list[Json] = []
    for grant in selectors.live_grants_of(asked.principal):
        data = represent.grant_data(grant, at)
        grants.append({**data, "tools": list(grant.request.tool_labels)})
    pending = selectors.pending_of(asked.principal).filter(pending_until__gt=JitNow())
    return {
        "you": asked.principal.label,
        **_where(asked, snapshot),
        "allowed": [name for name, one in tools if one.visibility is Visibility.VISIBLE],
        "locked": [name for name, one in tools if one.visibility is Visibility.LOCKED],
        "grants": grants,
        "pending": [_state(asked.principal, request.pk) for request in pending],
    }


def _who(principal: Principal) -> Who:
    assert principal.agent
    return Who(principal.agent, principal.user)


def _where(asked: Asked, snapshot: Snapshot) -> JsonObject:
    if asked.endpoint.server is not None:
        return {"server": asked.endpoint.slug}
    return {"servers": [server.slug for server in asked.endpoint.servers(snapshot, _who(asked.principal))]}


def _parse(kind: type[T], arguments: JsonObject) -> T:
    try:
        return msgspec.convert(arguments, kind)
    except msgspec.ValidationError as error:
        raise Invalid("arguments.invalid", f"The arguments do not fit: {visible(str(error), limit=300)}.") from error


def _uuid(text: str, what: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"{what}.unknown", f"{visible(text, limit=60)!r} is no {what} id.") from None


_TOOLS: dict[str, Callable[[Asked], Awaitable[Reply]]] = {
    "cancel_request": _cancel_request,
    "check_request": _check_request,
    "list_requestable": _list_requestable,
    "my_access": _my_access,
    "release_access": _release_access,
    "request_access": _request_access,
}

"""The access tools over the same services that people's pages use: parse, call the service, say it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import msgspec

from jitaccess.gateway.builtin import definitions as d
from jitaccess.gateway.calling import denials
from jitaccess.gateway.core import Gateway
from jitaccess.gateway.endpoint import Endpoint
from jitaccess.identity.principal import Principal
from jitaccess.kernel import strictjson
from jitaccess.kernel.deadline import deadline
from jitaccess.kernel.durations import format_duration
from jitaccess.kernel.errors import Invalid, JitAccessError, NotFound
from jitaccess.kernel.strictjson import Json, JsonObject
from jitaccess.kernel.text import visible
from jitaccess.policy.engine.decide import Visibility, Who
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.store.clock import JitNow, now
from requests_app import represent, selectors
from requests_app.asking import requestable_roles
from requests_app.lifecycle import RequestStatus
from requests_app.selectors import AccessRequest
from requests_app.services import (
    Ask,
    ExactCall,
    Privileges,
    Submission,
    cancel_request,
    extend_grant,
    release_grant,
    submit_bundle,
)
from requests_app.services.submit import DEFAULT_SECONDS

PROGRESS_SECONDS = 5.0
T = TypeVar("T", bound=d.Arguments)


@dataclass(frozen=True, slots=True)
class Asked:
    """One use of an access tool, on one endpoint. `progress` tells the client of it, if it wants to hear."""

    gateway: Gateway
    principal: Principal
    endpoint: Endpoint
    arguments: JsonObject
    progress: Callable[[JsonObject], None] | None = None


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
    snapshot, _ = await asked.gateway.look(asked.principal)
    if arguments.extends is not None:
        grant_id = _uuid(arguments.extends, "grant")
        filed = await asked.gateway.db(lambda: [_extension(asked, arguments, grant_id, snapshot)])
    else:
        ask = _ask(asked, arguments, snapshot)
        filed = await asked.gateway.db(
            lambda: submit_bundle(principal=asked.principal, ask=ask, snapshot=snapshot, dry_run=arguments.dry_run)
        )
    if arguments.dry_run:
        plans: list[Json] = [await asked.gateway.db(_would_be, one.request) for one in filed]
        return Reply("Nothing was filed; this is what would be asked.", {"dry_run": True, "requests": plans})
    states = [await asked.gateway.db(_state, asked.principal, one.request.pk) for one in filed]
    if len(states) == 1:
        return Reply(_filed(filed[0], states[0]), states[0])
    text = f"{len(filed)} requests were filed, because different people decide. " + " ".join(
        _filed(one, state) for one, state in zip(filed, states, strict=True)
    )
    return Reply(text, {"bundle": states[0].get("bundle"), "requests": list[Json](states)})


def _ask(asked: Asked, arguments: d.RequestAccess, snapshot: Snapshot) -> Ask:
    return Ask(
        tools=[asked.endpoint.asked_for(snapshot, text) for text in arguments.tools],
        calls=[
            ExactCall(*asked.endpoint.asked_for(snapshot, call.tool), arguments=call.arguments)
            for call in arguments.calls
        ],
        roles=arguments.roles,
        privileges=[Privileges(one.database, one.objects, one.privileges) for one in arguments.privileges],
        schema=arguments.arguments_schema,
        reason=arguments.reason,
        seconds=_seconds(arguments),
        max_uses=arguments.max_uses,
        starts_at=_moment(arguments.start, "start"),
        not_after=_moment(arguments.not_after, "not_after"),
        ticket=arguments.ticket,
        supersedes=_uuid(arguments.supersedes, "request") if arguments.supersedes else None,
        context=arguments.context,
    )


def _extension(asked: Asked, arguments: d.RequestAccess, grant_id: UUID, snapshot: Snapshot) -> Submission:
    if arguments.tools or arguments.calls or arguments.roles or arguments.privileges:
        raise Invalid("request.extends", "An extension is of a grant as it is: leave tools, calls and roles out.")
    return extend_grant(
        grant_id=grant_id,
        principal=asked.principal,
        seconds=_seconds(arguments) or DEFAULT_SECONDS,
        reason=arguments.reason,
        ticket=arguments.ticket,
        snapshot=snapshot,
        dry_run=arguments.dry_run,
    )


def _seconds(arguments: d.RequestAccess) -> int | None:
    return arguments.minutes * 60 if arguments.minutes is not None else None


def _moment(value: datetime | None, name: str) -> datetime | None:
    if value is not None and value.tzinfo is None:
        raise Invalid("arguments.invalid", f"`{name}` needs a time zone, as in 2026-01-31T09:00:00Z.")
    return value


def _filed(submission: Submission, state: JsonObject) -> str:
    """What to do next, in words."""
    if state["status"] != RequestStatus.PENDING:
        return _sentence(state)
    again = (
        " You had asked for this already, and that request stands as it is, reason and all."
        if submission.coalesced
        else ""
    )
    return (
        f"Pending: a person has to approve it.{again} Wait with check_request"
        f' {{"request_id": "{submission.request.pk}"}}; people decide at {submission.request.url}'
    )


def _would_be(request: AccessRequest) -> JsonObject:
    """What a dry run found: nothing of it is on record."""
    data = represent.request_data(request, now(), left={})
    for name in ("request_id", "url", "grant"):
        data.pop(name, None)
    return data | represent.approval_data(request)


async def _check_request(asked: Asked) -> Reply:
    arguments = _parse(d.CheckRequest, asked.arguments)
    request_id = _uuid(arguments.request_id, "request")
    patience = arguments.wait_seconds if asked.gateway.waits.has_room(asked.principal.key) else 0
    await _until_decided(asked, request_id, patience)
    data = await asked.gateway.db(_state, asked.principal, request_id)
    return Reply(_sentence(data), data)


async def _until_decided(asked: Asked, request_id: UUID, patience: float) -> None:
    """Wait for a decision, with a sign of progress now and then for a client that wants it."""
    began = time.monotonic()
    with asked.gateway.waits.one(asked.principal.key, request_id) as decided:
        while (left := began + patience - time.monotonic()) > 0 and asked.gateway.running and not decided.is_set():
            # Also after the first time: a request of somebody else must not be waited for.
            if not await asked.gateway.db(lambda: selectors.is_open(asked.principal, request_id)):
                return
            if asked.progress is not None:
                waited: JsonObject = {"progress": round(time.monotonic() - began, 1), "total": patience}
                asked.progress(waited | {"message": "Still pending: nobody has decided yet."})
            with contextlib.suppress(TimeoutError), deadline(min(PROGRESS_SECONDS, left)):
                await decided.wait()


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
        if grant["state"] == "scheduled":
            return f"Approved by {data['decided_by']}; it starts at {data.get('starts_at')}."
        left = format_duration(int(str(grant["seconds_left"])))
        if "calls_left" in grant:
            left = f"{grant['calls_left']} calls and {left}"
        return f"Approved by {data['decided_by']}: call the tools now; {left} left."
    return {
        "pending": _pending(data),
        "denied": f"Denied by {data.get('decided_by')}. Do not ask for the same again without a better reason.",
        "expired": "Expired: nobody decided in time. You may ask again.",
        "cancelled": "Cancelled.",
        "superseded": "Replaced by your newer request; check that one.",
        "invalidated": f"Void: {data.get('note')} Ask again if you still need it.",
    }.get(str(data["status"]), str(data["status"]))


def _pending(data: JsonObject) -> str:
    changes = data.get("changes")
    if isinstance(changes, dict):
        return (
            f"Still pending, but {changes['asked_by']} asks for changes: {changes['note']} File a new request with"
            f' `"supersedes": "{data["request_id"]}"`.'
        )
    return "Still pending: nobody has decided yet. This is not a denial; call check_request again."


def _requestable(asked: Asked, snapshot: Snapshot, at: datetime, search: str) -> JsonObject:
    tools = represent.requestable_data(asked.endpoint.tools(snapshot, _who(asked.principal), at), search)
    assert asked.principal.agent
    roles = represent.requestable_roles_data(requestable_roles(snapshot, asked.principal.agent), search)
    return {**_where(asked, snapshot), "tools": tools[:50], **({"roles": roles[:50]} if roles else {})}


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

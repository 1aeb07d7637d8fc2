"""The Access Request Endpoint, and the tasks it answers with (Access Request and Approval Profile).

A task is a request of ours: superseded and void ones are `cancelled`; they stay where they are, for good.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from jitaccess.api.authzen import shapes, submissions
from jitaccess.api.authzen.approvals import reference
from jitaccess.api.authzen.asking import Asking, about, asking
from jitaccess.api.authzen.binding import url
from jitaccess.api.authzen.endpoint import AuthZen, posted
from jitaccess.api.authzen.entities import entity, required
from jitaccess.api.authzen.problems import InvalidBinding, InvalidTaskState, NotRequestable, UnknownTask
from jitaccess.api.endpoint import Caller, Request, Response, caller_of
from jitaccess.api.idempotency import once, only_once
from jitaccess.api.render import seen_request
from jitaccess.api.schema import documented
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Conflict, Forbidden, Invalid, NotFound
from jitaccess.kernel.strictjson import JsonObject
from jitaccess.policy.engine.decide import Who
from jitaccess.store.clock import now
from requests_app import represent, selectors
from requests_app.lifecycle import RequestStatus
from requests_app.selectors import AccessRequest
from requests_app.services import cancel_request, submit_request

PREFIX = "arq_"
# How often to come back while nobody has decided: seconds, by how long that has been so.
WAITS = ((60, 5), (600, 15), (3600, 30))
_LONGEST_WAIT = 60
_NOT_REQUESTABLE = {
    "request.unknown_tool",
    "request.unknown_role",
    "request.already_allowed",
    "request.exact_only",
    "request.schema_needed",
    "tool.quarantined",
}


class SubmissionView(AuthZen):
    asking: Asking
    who: Who
    given: submissions.Submission

    def prepare(self, request: Request) -> None:
        body, first = posted(request), asking(caller_of(request))
        who = first.who(required(body, "subject", entity))
        if who is None or (who != first.own and not first.enforces):
            raise Forbidden("authzen.not_an_agent", "Agents ask for themselves, enforcement points for their subjects.")
        self.given = submissions.read(body)
        submissions.ensure_actor(first, self.given.client, who)
        self.asking, self.who = about(first, [who]), who

    @documented(
        "authzen_request",
        "Ask for what was denied",
        "With the denial's `binding_token`. The same ask while one is pending gets its task. 201 when it is decided "
        "already.",
        tag="authzen",
        takes=shapes.AccessRequestSubmission,
        status=202,
        answer=shapes.TaskAnswer,
        also={201: shapes.TaskAnswer},
        keyed=True,
        gone=True,
    )
    @once
    def post(self, request: Request) -> Response:
        caller = caller_of(request)
        with transaction.atomic():
            asked = submissions.verified(self.asking, self.given, self.who)
            for token in asked.tokens:
                if not only_once("authzen-jti", token):
                    raise InvalidBinding("This binding_token was used already; evaluate again for a fresh one.")
            filed = self._file(asked)
        row = selectors.requests_by_id([filed.pk])[filed.pk]
        answer = task(caller, row, now())
        headers = {"Location": answer["task"]["status_endpoint"]} | _retry(row, now())
        return Response(answer, status=201 if "result" in answer else 202, headers=headers)

    def _file(self, asked: submissions.Verified) -> AccessRequest:
        principal = self.asking.principal(self.who)
        try:
            return submit_request(principal=principal, ask=asked.ask, snapshot=self.asking.snapshot).request
        except (Invalid, Conflict) as error:
            if error.code in _NOT_REQUESTABLE:
                raise NotRequestable(error.detail) from error
            raise


class TaskView(AuthZen):
    @documented(
        "authzen_task",
        "How a request stands",
        "For its principal, the people who may see it, and enforcement points. Come back after `Retry-After`.",
        tag="authzen",
        answer=shapes.TaskAnswer,
    )
    def get(self, request: Request, task_id: str) -> Response:
        caller, at = caller_of(request), now()
        row = _seen(caller, task_id)
        return Response(task(caller, row, at), headers=_retry(row, at))


class CancelView(AuthZen):
    @documented(
        "authzen_cancel",
        "Withdraw a pending request",
        "By the principal it is for, or by the enforcement point that filed it.",
        tag="authzen",
        takes=shapes.Cancellation,
        answer=shapes.TaskAnswer,
        keyed=True,
    )
    @once
    def post(self, request: Request, task_id: str) -> Response:
        return self._cancel(request, task_id)

    def _cancel(self, request: Request, task_id: str) -> Response:
        caller = caller_of(request)
        row = _seen(caller, task_id)
        if not _may_cancel(caller, row):
            raise Forbidden("authzen.not_yours", "Only who filed it, or whom it is for, can withdraw it.")
        try:
            cancel_request(request_id=row.pk, principal=Principal(**_whose(row, caller)))
        except Conflict as error:
            raise InvalidTaskState(error.detail) from error
        row = _seen(caller, task_id)
        answer = task(caller, row, now())
        if answer["task"]["status"] != RequestStatus.CANCELLED:
            raise InvalidTaskState("It had expired already.")
        return Response(answer)


def task(caller: Caller, row: AccessRequest, at: datetime) -> dict[str, Any]:
    """The Task Handle, with the result of an approved one."""
    status = status_of(row, at)
    bound = _bound(row)
    handle: dict[str, Any] = {"id": name_of(row), "status": status, "status_endpoint": url(f"requests/{name_of(row)}")}
    links = {"ticket": row.url}
    if status == "pending":
        handle["expires_at"] = row.pending_until.isoformat()
        if _may_cancel(caller, row):
            links["cancel"] = url(f"requests/{name_of(row)}/cancel")
    handle["links"] = links
    grant = getattr(row, "grant", None)
    result: JsonObject | None = None
    if status == "approved" and grant is not None:
        result = {"mode": "reevaluate", "approval": reference(row, grant, at)}
    if "items" in bound:
        one = {"status": status} | ({"result": result} if result else {})
        handle["items"] = [item | one for item in bound["items"]]
    return {"task": handle} | ({"result": result} if result else {})


def status_of(row: AccessRequest, at: datetime) -> str:
    """In the profile's words, by the clock: void and superseded requests were cancelled by the system."""
    status = represent.status_at(row, at)
    known = {"pending", "approved", "denied", "cancelled", "expired"}
    return status if status in known else "cancelled"


def name_of(row: AccessRequest) -> str:
    return f"{PREFIX}{row.pk.hex}"


def _seen(caller: Caller, name: str) -> AccessRequest:
    """Raises UnknownTask for what is foreign as for what is not there."""
    unknown = UnknownTask("There is no such task, or you may not see it.")
    try:
        pk = UUID(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None
    except ValueError:
        pk = None
    if pk is None:
        raise unknown
    if asking(caller).enforces:
        found = selectors.requests_by_id([pk]).get(pk)
        if found is not None and _bound(found):
            return found
    try:
        return seen_request(caller, pk)[0]
    except NotFound:
        raise unknown from None


def _may_cancel(caller: Caller, row: AccessRequest) -> bool:
    own = caller.principal.key
    return caller.person is None and own in (row.principal_key, _bound(row).get("filed_by"))


def _whose(row: AccessRequest, caller: Caller) -> dict[str, Any]:
    """The principal that cancels: the row's own, through whoever calls."""
    own = caller.principal
    return {
        "agent": row.agent_id,
        "agent_name": row.agent.name,
        "user": row.user_id,
        "user_name": row.user.username if row.user else "",
        "client": own.client if own.key == row.principal_key else f"authzen by {own.label}",
        "source": own.source,
    }


def _bound(row: AccessRequest) -> dict[str, Any]:
    """What an AuthZEN submission was bound to; empty for a request that came another way."""
    found = json.loads(row.context).get("authzen")
    return found if isinstance(found, dict) else {}


def _retry(row: AccessRequest, at: datetime) -> dict[str, str]:
    if status_of(row, at) != "pending":
        return {}
    age = (at - row.created_at).total_seconds()
    return {"Retry-After": str(next((wait for until, wait in WAITS if age < until), _LONGEST_WAIT))}

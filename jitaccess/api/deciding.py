"""Deciding on requests, and talking about them: for people only."""

from __future__ import annotations

from typing import ClassVar, Protocol
from uuid import UUID

from drf_spectacular.utils import OpenApiExample

from jitaccess.api import shapes
from jitaccess.api.endpoint import Endpoint, Request, Response, caller_of
from jitaccess.api.idempotency import once
from jitaccess.api.parsing import Input, Text, body
from jitaccess.api.render import full_request, seen_request
from jitaccess.api.schema import documented
from jitaccess.identity.models import User
from jitaccess.store.clock import now
from requests_app.selectors import AccessRequest
from requests_app.services import approve_request, comment_on_request, deny_request

CHANNEL = "api"
_EXAMPLE = OpenApiExample(
    "What was looked at",
    value={"digest": "sha256:" + "0" * 64, "reason": "As discussed."},
    request_only=True,
)


class NewDecision(Input):
    digest = Text(max_length=80, help_text="The `digest` of the request as you saw it.")
    reason = Text(required=False, allow_blank=True, max_length=2000)


class NewComment(Input):
    text = Text(max_length=2000)


class Decide(Protocol):
    def __call__(
        self, *, request_id: UUID, approver: User, channel: str, digest: str, reason: str, source: str
    ) -> AccessRequest: ...


class ForPeople(Endpoint):
    people_only: ClassVar[frozenset[str]] = frozenset({"POST"})

    def decide(self, request: Request, request_id: UUID, service: Decide) -> Response:
        asked, caller = body(request, NewDecision), caller_of(request)
        service(
            request_id=request_id,
            approver=caller.decider(),
            channel=CHANNEL,
            digest=asked["digest"],
            reason=asked.get("reason", ""),
            source=caller.principal.source,
        )
        return Response(full_request(caller, *seen_request(caller, request_id), now()))


class RequestApprove(ForPeople):
    @documented(
        "requests_approve",
        "Approve a request",
        "The last approval that is needed begins the access. `digest` names what you saw: if that is not what is on "
        "record, nothing is approved. Who comes second gets 409 with who was first.",
        tag="requests",
        takes=NewDecision,
        answer=shapes.FullRequest,
        keyed=True,
        examples=[_EXAMPLE],
    )
    @once
    def post(self, request: Request, request_id: UUID) -> Response:
        return self.decide(request, request_id, approve_request)


class RequestDeny(ForPeople):
    @documented(
        "requests_deny",
        "Deny a request",
        "One eligible person is enough, and it is final. The agent can read the reason.",
        tag="requests",
        takes=NewDecision,
        answer=shapes.FullRequest,
        keyed=True,
        examples=[_EXAMPLE],
    )
    @once
    def post(self, request: Request, request_id: UUID) -> Response:
        return self.decide(request, request_id, deny_request)


class RequestComment(ForPeople):
    @documented(
        "requests_comment",
        "Comment on a request",
        "By anybody who may see it; decides nothing. On record for good, shown to people only.",
        tag="requests",
        takes=NewComment,
        answer=shapes.Comment,
        status=201,
        keyed=True,
    )
    @once
    def post(self, request: Request, request_id: UUID) -> Response:
        asked, caller = body(request, NewComment), caller_of(request)
        uid = comment_on_request(
            request_id=request_id,
            author=caller.decider(),
            text=asked["text"],
            channel=CHANNEL,
            source=caller.principal.source,
        )
        return Response({"uid": str(uid)}, status=201)

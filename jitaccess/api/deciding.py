"""Deciding on requests, and talking about them: for people only."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from jitaccess.api import shapes
from jitaccess.api.asking import MAX_MINUTES
from jitaccess.api.endpoint import Request, Response, caller_of
from jitaccess.api.idempotency import once
from jitaccess.api.parsing import Input, Text, Whole, body
from jitaccess.api.render import full_request, seen_request
from jitaccess.api.requests import OfRequest
from jitaccess.api.schema import documented
from jitaccess.identity.proof import recently_proved
from jitaccess.store.clock import now
from requests_app.services import Narrow, approve_request, ask_for_changes, comment_on_request, deny_request

CHANNEL = "api"
_EXAMPLE = OpenApiExample(
    "What was looked at",
    value={"digest": "sha256:" + "0" * 64, "reason": "As discussed."},
    request_only=True,
)


_LESS = OpenApiExample(
    "Less than was asked for",
    value={
        "digest": "sha256:" + "0" * 64,
        "narrow": {"minutes": 10, "max_uses": 1, "labels": ["git/git_commit"]},
    },
    request_only=True,
)


class Less(Input):
    minutes = Whole(required=False, min_value=1, max_value=MAX_MINUTES)
    max_uses = Whole(required=False, min_value=1, max_value=1_000_000)
    labels = serializers.ListField(
        required=False,
        child=Text(max_length=400),
        min_length=1,
        max_length=2500,
        help_text="Those of the request's `tools` that are left.",
    )


class NewApproval(Input):
    digest = Text(max_length=80, help_text="The `digest` of the request as you saw it.")
    reason = Text(required=False, allow_blank=True, max_length=2000)
    narrow = Less(required=False, help_text="Approve less than was asked for; never more.")


class NewDecision(Input):
    digest = Text(max_length=80, help_text="The `digest` of the request as you saw it.")
    reason = Text(required=False, allow_blank=True, max_length=2000)


class NewComment(Input):
    text = Text(max_length=2000)


class WantedChanges(Input):
    note = Text(max_length=2000, help_text="What should be asked for instead; the agent reads it.")


class ForPeople(OfRequest):
    people_only: ClassVar[frozenset[str]] = frozenset({"POST"})

    def said(self, request: Request) -> dict[str, Any]:
        """Who decides, on what, and where."""
        caller = caller_of(request)
        return {
            "request_id": self.kwargs["request_id"],
            "approver": caller.decider(),
            "channel": CHANNEL,
            "source": caller.principal.source,
        }

    def shown(self, request: Request) -> Response:
        caller = caller_of(request)
        return Response(full_request(caller, *seen_request(caller, self.kwargs["request_id"]), now()))


class RequestApprove(ForPeople):
    @documented(
        "requests_approve",
        "Approve a request",
        "The last approval that is needed begins the access. `digest` names what you saw: if that is not what is on "
        "record, nothing is approved. With `narrow` you approve less; the access is what all approvals have in "
        "common. Some policies want it approved elsewhere (`decision.channel`), or want a session in which you proved "
        "again just now who you are (`decision.step_up`). Who comes second gets 409 with who was first.",
        tag="requests",
        takes=NewApproval,
        answer=shapes.FullRequest,
        keyed=True,
        examples=[_EXAMPLE, _LESS],
    )
    @once
    def post(self, request: Request, request_id: UUID) -> Response:  # noqa: ARG002 - see `said`
        asked, said = body(request, NewApproval), self.said(request)
        approve_request(
            **said,
            digest=asked["digest"],
            reason=asked.get("reason", ""),
            # The session is that of the framework's request, and so is whose it is.
            recently=recently_proved(request._request, said["approver"]),  # noqa: SLF001 - it has no other name
            narrow=_narrow(asked.get("narrow")),
        )
        return self.shown(request)


class RequestDeny(ForPeople):
    @documented(
        "requests_deny",
        "Deny a request",
        "One eligible person is enough unless the policy says otherwise, and it is final. The agent can read the "
        "reason.",
        tag="requests",
        takes=NewDecision,
        answer=shapes.FullRequest,
        keyed=True,
        examples=[_EXAMPLE],
    )
    @once
    def post(self, request: Request, request_id: UUID) -> Response:  # noqa: ARG002 - see `said`
        asked = body(request, NewDecision)
        deny_request(**self.said(request), digest=asked["digest"], reason=asked.get("reason", ""))
        return self.shown(request)


class RequestChanges(ForPeople):
    @documented(
        "requests_ask_for_changes",
        "Ask for another request instead",
        "By those who decide. The request stays pending; the agent reads the note and can file one that `supersedes` "
        "it.",
        tag="requests",
        takes=WantedChanges,
        answer=shapes.FullRequest,
        keyed=True,
    )
    @once
    def post(self, request: Request, request_id: UUID) -> Response:  # noqa: ARG002 - see `said`
        ask_for_changes(**self.said(request), note=body(request, WantedChanges)["note"])
        return self.shown(request)


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


def _narrow(less: dict[str, Any] | None) -> Narrow | None:
    """Raises nothing: what is wider, the service refuses."""
    if not less:
        return None
    minutes = less.get("minutes")
    return Narrow(
        seconds=None if minutes is None else minutes * 60, max_uses=less.get("max_uses"), labels=less.get("labels")
    )

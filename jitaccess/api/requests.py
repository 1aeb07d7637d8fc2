"""Asking for access."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from jitaccess.api import shapes
from jitaccess.api.endpoint import Endpoint, Request, Response, caller_of
from jitaccess.api.idempotency import once
from jitaccess.api.paging import Paged, page, place
from jitaccess.api.parsing import Input, Nothing, Switch, Text, Whole, body, query
from jitaccess.api.policy_now import look
from jitaccess.api.render import full_request, listed_request, moment, seen_request
from jitaccess.api.schema import documented, listing
from jitaccess.kernel.errors import Invalid
from jitaccess.kernel.text import is_slug
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.policy.services import uses_left_of
from jitaccess.store.clock import now
from requests_app import represent, selectors
from requests_app.selectors import Q, State
from requests_app.services import MAX_CONTEXT, Ask, Submission, cancel_request, submit_request

CALLS_SHOWN = 500
_EXAMPLE = {
    "tools": ["git/git_commit", "git_add"],
    "server": "git",
    "reason": "Commit the release notes of 2.4 that were reviewed in the pull request.",
    "minutes": 30,
}


class RequestQuery(Paged):
    state = serializers.ChoiceField(choices=[state.value for state in State], required=False)
    agent = serializers.CharField(required=False, max_length=40, help_text="An agent's name.")
    server = serializers.CharField(required=False, max_length=32, help_text="A server's slug.")
    requester = serializers.CharField(required=False, max_length=150, help_text="On whose behalf; a username.")
    created_after = serializers.DateTimeField(required=False)
    created_before = serializers.DateTimeField(required=False)


class NewRequest(Input):
    tools = serializers.ListField(
        child=Text(max_length=200),
        min_length=1,
        max_length=50,
        help_text="Exact names, as server/tool, or as tool alone where `server` is given.",
    )
    server = Text(required=False, max_length=32, help_text="The server of tools that name none.")
    reason = Text(max_length=4000, help_text="What the approver decides on.")
    minutes = Whole(required=False, min_value=1, max_value=525_600)
    max_uses = Whole(required=False, min_value=1, max_value=1_000_000)
    context = serializers.DictField(  # type: ignore[assignment]  # the metaclass takes it out of the class
        required=False, help_text=f"Anything, in at most {MAX_CONTEXT} bytes."
    )
    dry_run = Switch(required=False, help_text="Say what would come of it, and write nothing.")


class RequestList(Endpoint):
    snapshot: Snapshot

    @documented(
        "requests_list",
        "Requests that you may see, latest first",
        "People see what concerns them; an agent sees what exactly its own principal asked.",
        tag="requests",
        query=RequestQuery,
        answer=listing(shapes.AccessRequest),
    )
    def get(self, request: Request) -> Response:
        asked, caller = query(request, RequestQuery), caller_of(request)
        state = State(asked["state"]) if "state" in asked else None
        options: dict[str, Any] = {**place(asked), "state": state, "where": _where(asked)}
        if caller.person:
            part = selectors.page_of_requests(caller.person, **options)
        else:
            part = selectors.page_of_own_requests(caller.principal, **options)
        grants = [grant.pk for row in part.rows if (grant := getattr(row, "grant", None))]
        at, left = now(), uses_left_of(grants)
        return page(request, part, [listed_request(row, at, left) for row in part.rows])

    def prepare(self, request: Request) -> None:
        self.snapshot, _ = look(caller_of(request).principal)

    @documented(
        "requests_submit",
        "Ask for access to tools",
        "For agents. The same ask while one is pending gets that one (`coalesced`). With `dry_run` everything is "
        "decided in the same way, answered with 200, and nothing is written.",
        tag="requests",
        takes=NewRequest,
        status=201,
        answer=shapes.Submitted,
        also={200: shapes.DryRun},
        keyed=True,
        examples=[
            OpenApiExample("Two tools for half an hour", value=_EXAMPLE, request_only=True),
            OpenApiExample("A dry run", value={**_EXAMPLE, "dry_run": True}, request_only=True),
        ],
    )
    @once
    def post(self, request: Request) -> Response:
        asked, caller = body(request, NewRequest), caller_of(request)
        dry = asked.get("dry_run", False)
        submission = submit_request(principal=caller.principal, ask=_ask(asked), snapshot=self.snapshot, dry_run=dry)
        if dry:
            return Response(_dry_run(submission))
        filed = seen_request(caller, submission.request.pk)
        data = full_request(caller, *filed, now()) | {"coalesced": submission.coalesced}
        return Response(data, status=201)


class RequestShow(Endpoint):
    @documented(
        "requests_show",
        "One request",
        "With its decisions, how far approval is, who can approve, and its grant.",
        tag="requests",
        answer=shapes.FullRequest,
    )
    def get(self, request: Request, request_id: UUID) -> Response:
        caller = caller_of(request)
        return Response(full_request(caller, *seen_request(caller, request_id), now()))


class RequestCancel(Endpoint):
    @documented(
        "requests_cancel",
        "Withdraw a pending request",
        "By the principal that filed it.",
        tag="requests",
        takes=Nothing,
        answer=shapes.FullRequest,
        keyed=True,
    )
    @once
    def post(self, request: Request, request_id: UUID) -> Response:
        body(request, Nothing)
        caller = caller_of(request)
        cancel_request(request_id=request_id, principal=caller.principal)
        return Response(full_request(caller, *seen_request(caller, request_id), now()))


class RequestTimeline(Endpoint):
    @documented(
        "requests_timeline",
        "What happened, in order",
        "From the ledger. People see what everybody said; an agent sees that something happened, and its own words.",
        tag="requests",
        answer=shapes.Timeline,
    )
    def get(self, request: Request, request_id: UUID) -> Response:
        caller = caller_of(request)
        asked, _ = seen_request(caller, request_id)
        entries = selectors.timeline_of(asked, calls=CALLS_SHOWN)
        calls = sum(entry.event.startswith("call.") for entry in entries)
        items = [told for entry in entries if (told := moment(caller, entry))]
        return Response({"items": items, "calls_cut": calls == CALLS_SHOWN})


def _where(asked: dict[str, Any]) -> Q:
    where = Q()
    if "agent" in asked:
        where &= Q(agent__name=asked["agent"])
    if "requester" in asked:
        where &= Q(user__username=asked["requester"])
    if "created_after" in asked:
        where &= Q(created_at__gt=asked["created_after"])
    if "created_before" in asked:
        where &= Q(created_at__lt=asked["created_before"])
    if "server" in asked:
        where &= selectors.asks_of_server(asked["server"]) if is_slug(asked["server"], limit=32) else Q(pk__in=[])
    return where


def _ask(asked: dict[str, Any]) -> Ask:
    minutes = asked.get("minutes")
    return Ask(
        tools=[_tool(name, asked.get("server")) for name in asked["tools"]],
        reason=asked["reason"],
        seconds=None if minutes is None else minutes * 60,
        max_uses=asked.get("max_uses"),
        context=asked.get("context", {}),
    )


def _tool(name: str, server: str | None) -> tuple[str, str]:
    """Names of tools may hold a slash, slugs of servers hold none: with `server`, "<server>/" may be left out."""
    slug, slash, tool = name.partition("/")
    if slash and (server is None or slug == server):
        return slug, tool
    if server is None:
        raise Invalid("request.tools", "Name tools as server/tool, or give `server`.")
    return server, name


def _dry_run(submission: Submission) -> dict[str, Any]:
    asked = submission.request
    return {
        "dry_run": True,
        "coalesced": submission.coalesced,
        "tools": asked.tool_labels,
        "minutes": asked.seconds // 60,
        "max_uses": asked.max_uses,
        "policy": asked.policy_name,
        **represent.approval_data(asked),
        "limits": {"max_minutes": submission.max_seconds // 60, "max_uses": submission.max_uses},
    }

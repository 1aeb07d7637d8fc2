"""Asking for access."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import transaction
from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from jitaccess.api import shapes
from jitaccess.api.acting import asking_for
from jitaccess.api.asking import NewRequest, ask_of, would_be
from jitaccess.api.endpoint import Caller, Endpoint, Request, Response, caller_of
from jitaccess.api.idempotency import once
from jitaccess.api.paging import Paged, page, place
from jitaccess.api.parsing import Nothing, body, query
from jitaccess.api.policy_now import look
from jitaccess.api.render import full_request, listed_request, moment, seen_request
from jitaccess.api.schema import documented, listing, one_or_many
from jitaccess.identity.principal import Principal
from jitaccess.kernel.errors import Conflict, NotFound
from jitaccess.kernel.text import is_slug
from jitaccess.policy.engine.rules import Snapshot
from jitaccess.policy.services import uses_left_of
from jitaccess.store.clock import now
from requests_app import selectors
from requests_app.card.card import card_of
from requests_app.card.data import card_data
from requests_app.selectors import Q, State
from requests_app.services import Submission, cancel_request, submit_bundle
from requests_app.standing import look_at

CALLS_SHOWN = 500
_EXAMPLE = {
    "tools": ["git/git_commit", "git_add"],
    "server": "git",
    "reason": "Commit the release notes of 2.4 that were reviewed in the pull request.",
    "minutes": 30,
}
_CALL = {
    "calls": [{"tool": "git/git_commit", "arguments": {"repo_path": ".", "message": "Release 2.4"}}],
    "reason": "Commit the release notes of 2.4 that were reviewed in the pull request.",
    "ticket": "OPS-7",
}


class RequestQuery(Paged):
    state = serializers.ChoiceField(choices=[state.value for state in State], required=False)
    agent = serializers.CharField(required=False, max_length=40, help_text="An agent's name.")
    server = serializers.CharField(required=False, max_length=32, help_text="A server's slug.")
    requester = serializers.CharField(required=False, max_length=150, help_text="On whose behalf; a username.")
    created_after = serializers.DateTimeField(required=False)
    created_before = serializers.DateTimeField(required=False)


class OfRequest(Endpoint):
    """An address about one request: what was answered there is for whoever may see that request."""

    def still_theirs(self, caller: Caller, answer: Any) -> None:  # noqa: ARG002 - all of it is about that request
        seen_request(caller, self.kwargs["request_id"])


class RequestList(Endpoint):
    asked: dict[str, Any]
    principal: Principal
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
        self.asked, caller = body(request, NewRequest), caller_of(request)
        self.principal = asking_for(caller, self.asked.get("agent"), for_me=self.asked.get("for_me", False))
        if caller.person and "supersedes" in self.asked:
            seen_request(caller, self.asked["supersedes"])  # nobody replaces what they may not see
        self.snapshot, _ = look(self.principal)

    def still_theirs(self, caller: Caller, answer: Any) -> None:
        for one in answer.get("requests", [answer]):
            if "request_id" in one:
                seen_request(caller, UUID(one["request_id"]))

    @documented(
        "requests_submit",
        "Ask for access",
        "For tools, exact calls, roles and privileges, by an agent's token, or by a person for an agent of theirs "
        "(`agent`, `for_me`), who counts as the requester then. The same ask while one is pending gets that one "
        "(`coalesced`). What different people decide becomes several requests with one `bundle` id, all of them or "
        "none. With `dry_run` everything is decided in the same way, answered with 200, and nothing is written.",
        tag="requests",
        takes=NewRequest,
        status=201,
        answer=one_or_many(shapes.Submitted, shapes.SubmittedBundle),
        also={200: one_or_many(shapes.DryRun, shapes.DryRunBundle)},
        keyed=True,
        examples=[
            OpenApiExample("Two tools for half an hour", value=_EXAMPLE, request_only=True),
            OpenApiExample("One call with these very arguments", value=_CALL, request_only=True),
            OpenApiExample("A dry run", value={**_EXAMPLE, "dry_run": True}, request_only=True),
        ],
    )
    @once
    def post(self, request: Request) -> Response:
        caller, dry = caller_of(request), self.asked.get("dry_run", False)
        with transaction.atomic():
            filed = submit_bundle(
                principal=self.principal,
                ask=ask_of(self.asked),
                snapshot=self.snapshot,
                dry_run=dry,
                filed_by=caller.person,
            )
            many = [would_be(one) if dry else submitted(caller, one) for one in filed]
        if len(many) == 1:
            return Response(many[0], status=200 if dry else 201)
        if dry:
            return Response({"dry_run": True, "requests": many})
        # One that was pending already keeps the bundle it came in.
        bundle = next((one.request.bundle for one in filed if not one.coalesced), None)
        return Response({"bundle": str(bundle) if bundle else None, "requests": many}, status=201)


class RequestShow(Endpoint):
    @documented(
        "requests_show",
        "One request",
        "With its decisions, how far approval is, who can approve, its grant and, for people, the card they decide by.",
        tag="requests",
        answer=shapes.FullRequest,
    )
    def get(self, request: Request, request_id: UUID) -> Response:
        caller = caller_of(request)
        data = full_request(caller, *seen_request(caller, request_id), now())
        if caller.person:
            seen = look_at(caller.person, request_id)
            data["card"] = card_data(card_of(seen, caller.person, channel="api"))
        return Response(data)


class RequestCancel(OfRequest):
    @documented(
        "requests_cancel",
        "Withdraw a pending request",
        "By the principal that filed it, or a person who counts as the requester.",
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


def submitted(caller: Caller, submission: Submission) -> dict[str, Any]:
    """A request that was filed just now, or the pending one that stands instead."""
    try:
        seen = seen_request(caller, submission.request.pk)
    except NotFound:
        # The agent asked by itself, and whoever asks for it now is nobody to that request.
        raise Conflict("request.pending_already", "The agent has asked for this itself; it is pending.") from None
    return full_request(caller, *seen, now()) | {"coalesced": submission.coalesced}


def _where(asked: dict[str, Any]) -> Q:
    where = Q()
    if "agent" in asked:
        where &= Q(agent__name=asked["agent"])
    if "requester" in asked:
        where &= Q(user__username=asked["requester"])
    where &= selectors.filed_between(asked.get("created_after"), asked.get("created_before"))
    if "server" in asked:
        where &= selectors.asks_of_server(asked["server"]) if is_slug(asked["server"], limit=32) else Q(pk__in=[])
    return where
